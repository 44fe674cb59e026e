"""What happens to a connection between two users."""

from __future__ import annotations

import logging

from .drivers import IDLE, Status
from .lease import PooledConnection
from .options import PoolOptions
from .waiting import may_block_for
from .watchdog import Watchdog

logger = logging.getLogger("peewee_web")


def clean(pooled: PooledConnection, status: Status, options: PoolOptions) -> bool:
    """Make a connection that was left in *status* fit for its next user; False if it is to be closed instead.

    Rolling back and ``reset`` take at most the pool's ``timeout``, and a second where an event loop stands still
    meanwhile. Raises nothing but interruptions, after which the connection is in no state to be used.
    """
    driver, connection, reset = pooled.driver, pooled.connection, options.reset
    if status is Status.BUSY:
        return False
    try:
        with Watchdog(pooled.socket(), min(options.connect_timeout, may_block_for())):
            if status is not IDLE:
                driver.rollback(connection)
            if isinstance(reset, str):
                driver.execute(connection, reset)
            elif reset is not None:
                reset(connection)
    except Exception:
        logger.debug("resetting a connection failed, it is closed", exc_info=True)
        return False
    return driver.status(connection) in (IDLE, Status.UNKNOWN)
