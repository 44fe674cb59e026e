"""Pooled databases ready for scopes, and ``connect(url)``.

They take the place of those in ``playhouse.pool``: the names, arguments and methods are the same.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any
from urllib.parse import urlsplit

import peewee
import playhouse.pool
from peewee import Database, ImproperlyConfigured, MySQLDatabase, PostgresqlDatabase, SqliteDatabase
from playhouse import db_url

from . import sqlite
from .adopt import adopt
from .options import PoolOptions
from .pooled import Pooling
from .retry import NEVER, READS_ONCE, StatementRetry


class PooledDatabase(Pooling):
    """Mixin over any Peewee ``Database``: a bounded pool whose connections belong to scopes. Thread-safe.

    Takes the place of ``playhouse.pool.PooledDatabase``: the same arguments and methods. ``stale_timeout`` is
    ``max_lifetime``; all other options of the pool are explained in `PoolOptions`. ``retry_reads=False`` does without
    the second run of a read, outside a transaction, whose connection was lost. Raises `ValueError` for options that
    make no sense.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if issubclass(cls, playhouse.pool.PooledDatabase):
            raise TypeError(
                f"{cls.__name__} has two pools: derive it from peewee_web.PooledDatabase and an unpooled class, such "
                "as peewee.PostgresqlDatabase"
            )

    def __init__(
        self,
        database: str | None,
        max_connections: int | None = 20,
        stale_timeout: float | None = PoolOptions.max_lifetime,
        timeout: float | None = PoolOptions.timeout,
        **options: Any,
    ) -> None:
        pooling = _take_pooling(options, max_connections=max_connections, max_lifetime=stale_timeout, timeout=timeout)
        super().__init__(database, **options)
        self.join_scopes(PoolOptions(**pooling))

    def init(
        self,
        database: str | None,
        max_connections: int | None = None,
        stale_timeout: float | None = None,
        timeout: float | None = None,
        **options: Any,
    ) -> None:
        """Go on with another database, or other options. Connections of before are closed, at their check-in if used.

        Pool options that are not given (or None) stay as they are.
        """
        pooling = _take_pooling(options, max_connections=max_connections, max_lifetime=stale_timeout, timeout=timeout)
        retry_reads = options.pop("retry_reads", None)
        if retry_reads is not None:
            self.statement_retry = READS_ONCE if retry_reads else NEVER
        super().init(database, **options)
        if hasattr(self, "pool"):  # else it is the constructor's call
            self.pool.configure(self.pool.options.but(**{k: v for k, v in pooling.items() if v is not None}))

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.pool.ledger!r}>"


class PooledPostgresqlDatabase(PooledDatabase, PostgresqlDatabase):  # type: ignore[misc]  # init()'s arguments
    """PostgreSQL through psycopg2, or through psycopg 3 where it is the only one or ``prefer_psycopg3=True``."""


class PooledMySQLDatabase(PooledDatabase, MySQLDatabase):  # type: ignore[misc]  # init()'s arguments
    """MySQL and MariaDB through PyMySQL or mysqlclient."""


class PooledSqliteDatabase(PooledDatabase, SqliteDatabase):  # type: ignore[misc]  # init()'s arguments
    """SQLite. ``:memory:`` is one database for all connections of the object."""


class RetryOperationalError(PooledDatabase):
    """Mixin: statements outside transactions are run again as in ``db.retry_db_errors()``, everywhere.

    ``class AppDatabase(RetryOperationalError, PooledPostgresqlDatabase)``, or over any unpooled Peewee class. Writes
    are not run again when their connection was lost; set ``statement_retry = StatementRetry(retry_writes=True)`` for a
    database all of whose writes may run twice.
    """

    statement_retry = StatementRetry()


_POOLING = frozenset(field.name for field in dataclasses.fields(PoolOptions))


def _take_pooling(options: dict[str, Any], **named: Any) -> dict[str, Any]:
    """Take what concerns the pool out of *options*, and put it beside *named*."""
    given = {name: options.pop(name) for name in list(options) if name in _POOLING}
    return {**named, **given}


# Seconds of silence after which the kernel asks whether the peer of a connection is still there. Load balancers and
# firewalls forget a silent link after minutes; Linux by itself asks after two hours.
KEEPALIVE = 30.0

_READY: dict[str, type[Database]] = {
    "sqlite": PooledSqliteDatabase,
    "postgres": PooledPostgresqlDatabase,
    "postgresql": PooledPostgresqlDatabase,
    "mysql": PooledMySQLDatabase,
    "mariadb": PooledMySQLDatabase,
}
_DRIVER_HINTS = {
    PooledPostgresqlDatabase: ("psycopg2", "psycopg", "peewee-web[postgres]"),
    PooledMySQLDatabase: ("mysql", "mysql", "peewee-web[mysql]"),
}


def connect(url: str, **options: Any) -> Any:
    """A pooled database for *url*: ``sqlite:///app.db``, ``postgresql://user@host/name``, ``mysql://user@host/name``.

    Any other scheme that ``playhouse.db_url`` knows works as well, and PostgreSQL's list of hosts, as in
    ``postgresql://one:5432,two:5432/name?target_session_attrs=read-write``. Options of the pool and of the driver come
    from the query string or from *options*, which win. No connection is made. Unless told otherwise, TCP keepalive is
    on (``keepalive=30`` seconds), so that a query on a link that has gone silent ends; SQLite gets WAL, foreign keys, a
    busy timeout of 5 s, ``synchronous=normal`` and immediate transactions.

    Raises `ValueError` for a URL that names no known scheme or no database, and `peewee.ImproperlyConfigured` when the
    driver is not installed. No message repeats the URL, which may hold a password.
    """
    if not isinstance(url, str):
        raise TypeError(f"connect() takes a URL, not {type(url).__name__}")
    scheme, parsed = _parse(url)
    database_class = _class_for(scheme)
    _check_driver(database_class, scheme)
    if issubclass(database_class, SqliteDatabase) and "host" in parsed:
        raise ValueError(
            f"a {scheme} URL has three slashes before its file, {scheme}:///app.db, four before a full path"
        )
    arguments = {**parsed, **options}
    name = arguments.pop("database", None)
    if not name:
        raise ValueError(
            f"the {scheme} URL names no database: write {scheme}://user@host/NAME, or {scheme}:///NAME for a local one"
        )
    if not issubclass(database_class, (SqliteDatabase, playhouse.pool.PooledDatabase)):
        arguments.setdefault("keepalive", KEEPALIVE)
    if scheme == "mariadb" and issubclass(database_class, MySQLDatabase):
        arguments.setdefault("mariadb", True)  # Peewee writes JSON otherwise there
    if issubclass(database_class, SqliteDatabase):
        arguments.setdefault("lock_type", sqlite.LOCK_TYPE)
        arguments["pragmas"] = {**sqlite.PRAGMAS, **dict(arguments.get("pragmas") or {})}
    return adopt(database_class(name, **arguments))


def _parse(url: str) -> tuple[str, dict[str, Any]]:
    """The scheme and the arguments in *url*."""
    try:
        scheme = urlsplit(url).scheme.removesuffix("+pool")
        url, hosts = _take_hosts(url)
        parsed: dict[str, Any] = db_url.parse(url, unquote_password=True, unquote_user=True)
        parsed.update(hosts)
    except ValueError:  # urllib's message may repeat a part of the password, which it took for the port
        raise ValueError(
            "the database URL can't be read: its port must be a number, and special characters in the password "
            "must be percent-encoded, such as %2F for a slash"
        ) from None
    if "passwd" in parsed:  # db_url keeps to the old name, which drivers are dropping
        parsed["password"] = parsed.pop("passwd")
    return scheme, parsed


def _take_hosts(url: str) -> tuple[str, dict[str, str]]:
    """A list of hosts out of *url*, as libpq takes it: lists of as many hosts and ports."""
    parts = urlsplit(url)
    user, at, hosts = parts.netloc.rpartition("@")
    if "," not in hosts or not parts.scheme.startswith("postgres"):
        return url, {}
    each = [urlsplit(f"//{host}") for host in hosts.split(",")]
    lists = {
        "host": ",".join(part.hostname or "" for part in each),
        "port": ",".join("" if part.port is None else str(part.port) for part in each),
    }
    return parts._replace(netloc=f"{user}{at}{each[0].netloc}").geturl(), lists


def _class_for(scheme: str) -> type[Database]:
    ready = _READY.get(scheme)
    if ready is not None:
        return ready
    foreign = db_url.schemes.get(scheme) or db_url.schemes.get(f"{scheme}+pool")
    if foreign is None:
        known = ", ".join(sorted({name.removesuffix("+pool") for name in (*_READY, *db_url.schemes)}))
        what = f"unknown database URL scheme {scheme!r}" if scheme else "the database URL has no scheme"
        raise ValueError(f"{what}: use one of {known}, as in 'postgresql://user@host/name'")
    # One that has a pool of playhouse's gets ours when it is adopted.
    return foreign if issubclass(foreign, playhouse.pool.PooledDatabase) else _pooled_class(foreign)


@functools.cache
def _pooled_class(foreign: type[Database]) -> type[Database]:
    return type(foreign.__name__, (PooledDatabase, foreign), {"__doc__": foreign.__doc__})


def _check_driver(database_class: type[Database], scheme: str) -> None:
    for ready, (first, second, extra) in _DRIVER_HINTS.items():
        missing = getattr(peewee, first, None) is None and getattr(peewee, second, None) is None
        if database_class is ready and missing:
            raise ImproperlyConfigured(f"{scheme} URLs need a driver that is not installed: pip install '{extra}'")
