"""``check(db)``: what a readiness route wants to know of a database."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, overload

from peewee import MySQLDatabase, PostgresqlDatabase, SqliteDatabase

from .member import MemberStatus
from .registry import DEFAULT, Databases
from .replicas import ReplicatedDatabase
from .scope import Scope
from .stats import PoolStats

# One row each: the server's version, and whether it refuses to write.
_QUESTIONS: dict[type, str] = {
    PostgresqlDatabase: (
        "SELECT current_setting('server_version'), "
        "pg_is_in_recovery() OR current_setting('default_transaction_read_only')::boolean"
    ),
    MySQLDatabase: "SELECT VERSION(), @@global.read_only",
    SqliteDatabase: "SELECT sqlite_version(), (SELECT query_only FROM pragma_query_only)",
}


@dataclass(frozen=True)
class Health:
    """A database that answers. ``dataclasses.asdict()`` makes JSON of it."""

    round_trip: float
    """Seconds for one query, on a connection that was there."""
    server_version: str
    """In the server's own words. Empty where it is of a kind that Peewee doesn't come with."""
    read_only: bool
    """Whether it refuses to write: a standby, or one that was set so."""
    pool: PoolStats
    """The figures of the pool, this check's own connection included."""
    replicas: tuple[MemberStatus, ...] = ()
    """The replicas, as they were found a moment ago; of one that was never asked for a read nothing is known."""


@overload
def check(database: Mapping[str, Any]) -> dict[str, Health]: ...
@overload
def check(database: Any) -> Health: ...
def check(database: Any) -> Any:
    """The `Health` of *database*; of a `Databases` or a mapping, that of each by its name.

    It takes a connection of its own from the pool and runs one query. Raises what a request would see: `PoolTimeout` or
    `DatabaseUnavailable` within the pool's ``timeout``, and at once while the pool fails fast; `peewee.PeeweeException`
    for what the server refuses. It blocks: under asyncio call it with ``asyncio.to_thread``.
    """
    if any(isinstance(one, str) for one in (database.values() if isinstance(database, Mapping) else [database])):
        raise TypeError("check() takes the database that the app uses: a URL would be a pool of its own")
    databases = Databases.of(database)
    with Scope(databases):
        healths = {name: _check(databases[name]) for name in databases}
    return healths if isinstance(database, Mapping) else healths[DEFAULT]


def _check(database: Any) -> Health:
    replicas = tuple(database.replicas_known) if isinstance(database, ReplicatedDatabase) else ()
    if isinstance(database, ReplicatedDatabase):
        database = database.obj
    question = next((sql for kind, sql in _QUESTIONS.items() if isinstance(database, kind)), "SELECT '', 0")
    database.ensure_open()
    begun = time.perf_counter()
    version, read_only = database.execute_sql(question).fetchone()
    round_trip = time.perf_counter() - begun
    return Health(round_trip, str(version), bool(read_only), database.pool_stats(), replicas)
