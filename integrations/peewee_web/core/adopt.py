"""Adoption: a Peewee database that exists already keeps its connections per scope instead of per thread.

``adopt(database)`` gives it the methods of ``Pooling``; the ready pooled classes (``databases.py``) have them
from the start.
"""

from __future__ import annotations

import functools
import math
import sys
from typing import Any, TypeVar

from peewee import Database, SqliteDatabase
from playhouse.pool import PooledDatabase as PlayhousePool

from .options import PoolOptions
from .pooled import Pooling
from .sqlite import close_thread_bound, share_memory

D = TypeVar("D", bound=Database)


class _AdoptedPlayhousePool(Pooling):
    def init(self, *args: Any, **options: Any) -> None:
        """As playhouse's: pool options that are given hold for our pool. Connections of before are closed."""
        super().init(*args, **options)
        self.pool.configure(_options_of_playhouse(self, self.pool.options.max_connections))


@functools.cache
def _scoped_class(plain: type[Database]) -> type[Database]:
    namespace = {"__module__": plain.__module__, "__qualname__": plain.__qualname__, "__doc__": plain.__doc__}
    pooling = _AdoptedPlayhousePool if issubclass(plain, PlayhousePool) else Pooling
    return type(plain.__name__, (_same_layout(plain), pooling, plain), namespace)


def _same_layout(plain: type) -> type:
    """An empty class, laid out in memory as *plain* is.

    Python lets an object change its class for one of the same layout only, and reads that off the class that first has
    a ``__dict__`` and what that derives from: Peewee's ``Database`` has a base with empty ``__slots__`` (4.5), its
    pooled ones derive first from a class that has none.
    """
    owner: Any = plain
    while owner.__base__.__dictoffset__:
        owner = owner.__base__
    return type("_SameLayout", (owner.__base__,), {})


def adopt(database: D) -> D:
    """Make *database* keep its connections per scope. Returns the same object; adopting twice changes nothing.

    A connection that a thread has open stays that thread's, with the transaction that is under way on it. The
    object's class becomes a subclass of its own class, so ``isinstance`` holds. Raises `TypeError` for what is not a
    synchronous Peewee database.
    """
    if isinstance(database, Pooling):
        return database
    if not isinstance(database, Database):
        raise TypeError(
            f"{type(database).__name__} is not a Peewee database: give a peewee.Database, a URL such as "
            "'postgresql://user@host/name', or a mapping of names to either"
        )
    if any(cls.__module__ == "playhouse.pwasyncio" for cls in type(database).__mro__):
        raise TypeError(
            f"{type(database).__name__} is an asyncio database, which peewee-web does not adopt yet: "
            "use the synchronous class"
        )
    if isinstance(database, SqliteDatabase):
        share_memory(database)
        close_thread_bound(database)
    options = _options_of(database)
    database.__class__ = _scoped_class(type(database))  # type: ignore[assignment, arg-type]  # still a D
    assert isinstance(database, Pooling)
    database.join_scopes(options)
    return database


def _options_of(database: Database) -> PoolOptions:
    if not isinstance(database, PlayhousePool):
        # As in Peewee: no bound, and each connection is closed after its use.
        return PoolOptions(max_connections=None, max_idle=0, max_connecting=sys.maxsize)
    # Ours takes the place of its pool, which connects under a lock and probes without a limit in time.
    database.close_idle()
    return _options_of_playhouse(database, None)


def _options_of_playhouse(database: Any, max_connections: int | None) -> PoolOptions:
    """What *database* was given, and *max_connections* unless it was given that. Its own pool has no bound any more."""
    given, database._max_connections = database._max_connections, None
    return PoolOptions(
        max_connections=max_connections if given is None else given,
        max_lifetime=database._stale_timeout,
        timeout=0 if database._wait_timeout == math.inf else database._wait_timeout,
    )
