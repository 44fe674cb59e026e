"""What has to be known of each DB-API driver beyond PEP 249: a `Driver` each, and nothing of pools or Peewee.

Drivers are told apart by the modules that their classes come from, so none has to be imported, or installed. What
a driver doesn't make public is read from its attributes all the same where only that tells; an attribute that a later
version has no more makes a status `UNKNOWN` or `LOST`, never `IDLE`.
"""

from __future__ import annotations

import functools
from typing import Any

from .libpq import Psycopg, Psycopg2
from .mysql import MariaDBConnector, MySQLClient, MySQLConnector, MySQLConnectorC, PyMySQL
from .port import IDLE, Driver, Status
from .sqlite import Apsw, CySqlite, Sqlite

__all__ = ["IDLE", "Driver", "Status", "driver_for"]


class NoDriver(Driver):
    """What is no DB-API connection, such as the numbers that an app's own tests connect with: nothing can be asked."""

    network = False

    def status(self, connection: Any) -> Status:
        return IDLE

    def probe(self, connection: Any) -> None:
        pass


_UNKNOWN_DRIVER = Driver()
_NO_DRIVER = NoDriver()
_DRIVERS: dict[str, Driver] = {
    "psycopg": Psycopg(),
    "psycopg2": Psycopg2(),
    "pymysql": PyMySQL(),
    "MySQLdb": MySQLClient(),
    "mariadb": MariaDBConnector(),
    "mysql.connector.connection_cext": MySQLConnectorC(),
    "mysql": MySQLConnector(),
    "sqlite3": Sqlite(),
    "pysqlite3": Sqlite(),
    "sqlcipher3": Sqlite(),
    "apsw": Apsw(),
    "cysqlite": CySqlite(),
}


def driver_for(connection: object) -> Driver:
    """The driver that *connection* comes from; a plain `Driver` for an unknown one, a `NoDriver` for no connection.

    An app may have put a class of its own over the driver's (psycopg2's ``connection_factory``).
    """
    driver = _driver_for_class(type(connection))  # type: ignore[arg-type]  # mypy looks for __hash__ on the wrong class
    return driver if driver is not _UNKNOWN_DRIVER or hasattr(connection, "rollback") else _NO_DRIVER


@functools.lru_cache(maxsize=256)
def _driver_for_class(cls: type) -> Driver:
    modules = [base.__module__ for base in cls.__mro__]
    names = (name for module in modules for name in (module, module.partition(".")[0]))
    return next((_DRIVERS[name] for name in names if name in _DRIVERS), _UNKNOWN_DRIVER)
