"""Pooled databases ready for scopes, and ``connect(url)``.

Pooling stands on ``playhouse.pool`` here; the names and arguments are the same.
"""

from __future__ import annotations

import functools
from typing import Any
from urllib.parse import urlsplit

import peewee
from peewee import Database, ImproperlyConfigured, SqliteDatabase
from playhouse import db_url, pool

from . import sqlite
from .connections import ScopedConnections

# Seconds that a checkout may wait for a connection, and the age in seconds at which one is replaced.
TIMEOUT = 10.0
STALE_TIMEOUT = 3600


class PooledDatabase(ScopedConnections, pool.PooledDatabase):
    """Mixin over any Peewee ``Database``: a bounded pool whose connections belong to scopes.

    ``max_connections`` (20), ``stale_timeout`` (3600 s) and ``timeout`` (10 s; ``None`` does not wait, ``0`` waits
    without limit) mean what they mean in ``playhouse.pool``. Thread-safe.
    """

    def __init__(
        self,
        database: str | None,
        max_connections: int = 20,
        stale_timeout: float | None = STALE_TIMEOUT,
        timeout: float | None = TIMEOUT,
        **options: Any,
    ) -> None:
        super().__init__(
            database, max_connections=max_connections, stale_timeout=stale_timeout, timeout=timeout, **options
        )
        self.join_scopes()

    def __repr__(self) -> str:
        used, idle = len(self._in_use), len(self._connections)
        return f"<{type(self).__name__} {used}/{self._max_connections} in use, {idle} idle>"


class PooledPostgresqlDatabase(PooledDatabase, pool.PooledPostgresqlDatabase):
    """PostgreSQL through psycopg2, or through psycopg 3 where it is the only one or ``prefer_psycopg3=True``."""


class PooledMySQLDatabase(PooledDatabase, pool.PooledMySQLDatabase):
    """MySQL and MariaDB through PyMySQL or mysqlclient."""


class PooledSqliteDatabase(PooledDatabase, pool.PooledSqliteDatabase):
    """SQLite. ``:memory:`` is one database for all connections of the object."""


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

    Any other scheme that ``playhouse.db_url`` knows works as well. Options of the pool and of the driver come from
    the query string or from *options*, which win. No connection is made. SQLite gets WAL, foreign keys, a busy
    timeout of 5 s, ``synchronous=normal`` and immediate transactions unless told otherwise.

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
    if issubclass(database_class, SqliteDatabase):
        arguments.setdefault("lock_type", sqlite.LOCK_TYPE)
        arguments["pragmas"] = {**sqlite.PRAGMAS, **dict(arguments.get("pragmas") or {})}
    return database_class(name, **arguments)


def _parse(url: str) -> tuple[str, dict[str, Any]]:
    """The scheme and the arguments in *url*."""
    try:
        scheme = urlsplit(url).scheme.removesuffix("+pool")
        parsed: dict[str, Any] = db_url.parse(url, unquote_password=True, unquote_user=True)
    except ValueError:  # urllib's message may repeat a part of the password, which it took for the port
        raise ValueError(
            "the database URL can't be read: its port must be a number, and special characters in the password "
            "must be percent-encoded, such as %2F for a slash"
        ) from None
    if "passwd" in parsed:  # db_url keeps to the old name, which drivers are dropping
        parsed["password"] = parsed.pop("passwd")
    return scheme, parsed


def _class_for(scheme: str) -> type[Database]:
    ready = _READY.get(scheme)
    if ready is not None:
        return ready
    foreign = db_url.schemes.get(f"{scheme}+pool") or db_url.schemes.get(scheme)
    if foreign is None:
        known = ", ".join(sorted({name.removesuffix("+pool") for name in (*_READY, *db_url.schemes)}))
        what = f"unknown database URL scheme {scheme!r}" if scheme else "the database URL has no scheme"
        raise ValueError(f"{what}: use one of {known}, as in 'postgresql://user@host/name'")
    return _pooled_class(foreign)


@functools.cache
def _pooled_class(foreign: type[Database]) -> type[Database]:
    return type(foreign.__name__, (PooledDatabase, foreign), {"__doc__": foreign.__doc__})


def _check_driver(database_class: type[Database], scheme: str) -> None:
    for ready, (first, second, extra) in _DRIVER_HINTS.items():
        missing = getattr(peewee, first, None) is None and getattr(peewee, second, None) is None
        if database_class is ready and missing:
            raise ImproperlyConfigured(f"{scheme} URLs need a driver that is not installed: pip install '{extra}'")
