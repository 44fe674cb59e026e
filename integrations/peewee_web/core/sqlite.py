"""What SQLite needs to serve a web app: connections that may change threads, and one memory database for them all."""

from __future__ import annotations

import itertools
import os
import sqlite3
import weakref
from typing import Any

from peewee import SqliteDatabase

MEMORY = ":memory:"

# Readers go on while one writes (WAL); `normal` loses no consistency under WAL, only, with the power, the last commits.
# A writer waits 5,000 ms for another one.
PRAGMAS: dict[str, Any] = {"busy_timeout": 5000, "journal_mode": "wal", "synchronous": "normal", "foreign_keys": 1}
# A deferred transaction that reads and then writes fails at once when another one wrote meanwhile, whatever the
# busy timeout (SQLITE_BUSY_SNAPSHOT); an immediate one waits for its turn before it reads.
LOCK_TYPE = "IMMEDIATE"

# The `memdb` VFS shares a database between the connections of a process since SQLite 3.36.
_HAS_SHARED_MEMDB = sqlite3.sqlite_version_info >= (3, 36)
_numbers = itertools.count(1)


def memory_uri(shared_memdb: bool = _HAS_SHARED_MEMDB) -> str:
    """The URI of a new memory database that every connection of this process can open."""
    name = f"peewee-web-{os.getpid()}-{next(_numbers)}"
    return f"file:/{name}?vfs=memdb" if shared_memdb else f"file:{name}?mode=memory&cache=shared"


def uses_stdlib_driver(database: SqliteDatabase) -> bool:
    foreign = ("playhouse.apsw_ext", "playhouse.cysqlite_ext")
    return not any(cls.__module__ in foreign for cls in type(database).__mro__)


def prepare(database: SqliteDatabase) -> None:
    """Called before each new connection: let it change threads, and let ``:memory:`` mean one database for all."""
    if database.database != MEMORY and {"check_same_thread", "cached_statements"} <= database.connect_params.keys():
        return
    if uses_stdlib_driver(database):
        # A scope hands its connection from thread to thread and serialises its statements.
        database.connect_params.setdefault("check_same_thread", False)
        # Two threads that run the same SQL would share a cached statement, and one may reset it while the other reads
        # its row (seen on Python 3.13: sqlite3 asks whether it is busy without knowing whose it is).
        database.connect_params.setdefault("cached_statements", 0)
        if database.database == MEMORY:
            _redirect(database)


def close_thread_bound(database: SqliteDatabase) -> None:
    """Close a pool's idle connections that may not leave the thread which opened them."""
    bound = uses_stdlib_driver(database) and database.connect_params.get("check_same_thread", True)
    if bound and hasattr(database, "close_idle"):
        database.close_idle()


def share_memory(database: SqliteDatabase) -> None:
    """Turn a private memory database into one that all connections of *database* share, with what is in it.

    It lives as long as the *database* object does.
    """
    if database.database != MEMORY or not uses_stdlib_driver(database):
        return
    was_open = not database.is_closed()
    if not was_open and getattr(database, "_connections", None):
        database.connect()  # the data of a pool is in its idle connection
    keeper = _redirect(database)
    if not database.is_closed():
        connection: sqlite3.Connection = database.connection()  # type: ignore[no-untyped-call]  # Peewee's stubs
        connection.backup(keeper)
        database.close()
    if hasattr(database, "close_idle"):
        database.close_idle()  # where a pool has put the private one
    if was_open:
        database.connect()


def _redirect(database: SqliteDatabase) -> sqlite3.Connection:
    uri = memory_uri()
    keeper = sqlite3.connect(uri, uri=True, check_same_thread=False)
    weakref.finalize(database, keeper.close)
    database.database = uri
    database.connect_params.update(uri=True, check_same_thread=False, cached_statements=0)
    return keeper
