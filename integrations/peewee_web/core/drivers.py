"""What has to be known of each DB-API driver beyond PEP 249.

Drivers are told apart by the module that their classes come from, so none has to be imported, or installed.
"""

from __future__ import annotations

import functools
import socket
from typing import Any

# libpq's PGTransactionStatusType (PQtransactionStatus): 1 ACTIVE, 2 INTRANS, 3 INERROR.
_LIBPQ_IN_TRANSACTION = (1, 2, 3)
_LIBPQ_FAILED = 3
# MySQL client/server protocol, status flag SERVER_STATUS_IN_TRANS.
_MYSQL_IN_TRANSACTION = 0x0001

# Answers to a connection attempt that waiting cannot mend: the server is well and says no to *this* client.
# MySQL error numbers: 1044 no access to the database, 1045 wrong password, 1049 unknown database,
# 1698 wrong authentication plugin.
_MYSQL_REFUSALS = frozenset({1044, 1045, 1049, 1698})
# libpq gives no SQLSTATE for a failed connection, only the server's text. A server that speaks another language is not
# recognised, and its refusal then counts as an outage: still an error, with the server's text as its cause.
_LIBPQ_REFUSALS = (
    "password authentication failed",
    "authentication failed",
    "no password supplied",
    "no pg_hba.conf entry",
    "does not exist",
    "permission denied for database",
    "is not permitted to log in",
    "invalid connection option",
    "invalid dsn",
    "invalid port number",
)


_DRIVERS = frozenset({"MySQLdb", "mariadb", "mysql", "psycopg", "psycopg2", "pymysql", "sqlite3"})


def driver_of(thing: object) -> str:
    """The driver that a connection or an exception comes from, by its top-level module; ``""`` for an unknown one.

    An app may have put a class of its own over the driver's (psycopg2's ``connection_factory``).
    """
    return _driver_of_class(type(thing))  # type: ignore[arg-type]  # mypy looks for __hash__ on the wrong class


@functools.lru_cache(maxsize=256)
def _driver_of_class(cls: type) -> str:
    modules = (base.__module__.partition(".")[0] for base in cls.__mro__)
    return next((name for name in modules if name in _DRIVERS), "")


def in_transaction(connection: Any) -> bool | None:
    """Whether a transaction is open on *connection*, without a round trip; ``None`` where the driver can't tell.

    Never raises: of a connection that was closed, most drivers can't tell.
    """
    driver = driver_of(connection)
    try:
        if driver == "psycopg":
            return connection.pgconn.transaction_status in _LIBPQ_IN_TRANSACTION
        if driver == "psycopg2":
            return connection.get_transaction_status() in _LIBPQ_IN_TRANSACTION
        if driver == "pymysql":
            return bool(connection.server_status & _MYSQL_IN_TRANSACTION)
        open_ = connection.in_transaction  # sqlite3, mysql.connector
    except Exception:
        return None
    return open_ if isinstance(open_, bool) else None


def transaction_failed(connection: Any) -> bool:
    """Whether the open transaction can only be rolled back. PostgreSQL answers its COMMIT without an error."""
    driver = driver_of(connection)
    if driver == "psycopg":
        return bool(connection.pgconn.transaction_status == _LIBPQ_FAILED)
    return driver == "psycopg2" and connection.get_transaction_status() == _LIBPQ_FAILED


def is_lost(connection: Any) -> bool:
    """Whether the driver has noticed that *connection* is gone. Asks nobody."""
    driver = driver_of(connection)
    if driver in ("psycopg", "psycopg2"):
        return bool(connection.closed)
    return driver == "pymysql" and not connection.open


def mid_statement(connection: Any) -> bool:
    """Whether a result of *connection* is half read. The next user of a SQLite connection would read old data.

    (A statement that was stepped and not reset keeps the read snapshot that it began with.) Never raises.
    """
    try:
        driver = driver_of(connection)
        if driver == "pymysql":
            return connection._result is not None and bool(connection._result.unbuffered_active)
        if driver == "sqlite3":
            # The one statement that tells and does nothing else: it fails in either case, for an active statement
            # first (vacuum.c, sqlite3RunVacuum), else for the file name, which is no text.
            connection.execute("VACUUM INTO 0")
    except Exception as error:
        return "statements in progress" in str(error)
    return False


def is_outage(error: BaseException) -> bool:
    """Whether *error*, raised by a connection attempt, says "not now" rather than "not you" or "no such database".

    *error* is Peewee's exception or the driver's own. SQLite has no server, so its errors are never an outage.
    """
    error = getattr(error, "orig", error)
    driver = driver_of(error)
    if driver in ("psycopg", "psycopg2"):
        text = str(error).lower()
        return not any(refusal in text for refusal in _LIBPQ_REFUSALS)
    if driver in ("pymysql", "MySQLdb", "mysql", "mariadb"):
        number = getattr(error, "errno", None) or (error.args[0] if error.args else None)
        return number not in _MYSQL_REFUSALS
    # Not any OSError: a certificate that is no file stays missing.
    return isinstance(error, (ConnectionError, TimeoutError, socket.gaierror))
