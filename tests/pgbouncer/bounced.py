"""A database behind a PgBouncer of the test's own, as both drivers reach it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import peewee
import pytest

import peewee_web
from peewee_web.core.faults import is_lost_connection
from tests.core.working import query
from tests.servers.pgbouncer import PgBouncerServer
from tests.servers.postgres import PostgresServer

# How many sessions with PostgreSQL a PgBouncer has to lend.
SESSIONS = 2
# Seconds after which one that looks every third of a second has done what its time limit says.
PROMPT = 3.0
# What a test that isn't about a time limit may take before PgBouncer gives up on it.
PATIENT = {"query_wait_timeout": 20}


@dataclass
class Bounced:
    """A database, and how to get PgBouncers and pools before it."""

    driver: str
    postgres: PostgresServer
    name: str
    launch: Callable[..., PgBouncerServer]
    pools: list[Any] = field(default_factory=list)

    def start(self, pool_mode: str = "transaction", *, port: int | None = None, **settings: object) -> PgBouncerServer:
        """A PgBouncer in front of the database, or of a proxy at *port*."""
        settings = {"default_pool_size": SESSIONS, **PATIENT, **settings}
        return self.launch(pool_mode=pool_mode, backend_port=port, settings=settings)

    def pool(self, server: PgBouncerServer, **options: Any) -> Any:
        """A pool as the documentation recommends it in transaction mode. *options* win over its URL."""
        chosen = {"prefer_psycopg3": "true", "prepare_threshold": "none"} if self.driver == "psycopg3" else {}
        database = peewee_web.connect(server.url(self.name, **chosen), **{"timeout": 5, **options})
        self.pools.append(database)
        return database

    def sessions(self) -> int:
        """How many PostgreSQL counts."""
        return len(self.postgres.sessions(self.name))

    def notes(self) -> list[str]:
        """What is committed, past PgBouncer."""
        return [text for (text,) in self.postgres.execute("SELECT text FROM note ORDER BY text", database=self.name)]


def use(database: Any) -> None:
    """A request with one query."""
    with peewee_web.scope():
        query(database)


def loses(work: Callable[[], object]) -> peewee.PeeweeException:
    """What *work* raises when its connection is lost."""
    with pytest.raises(peewee.PeeweeException) as caught:
        work()
    assert is_lost_connection(caught.value.__cause__ or caught.value), repr(caught.value)
    return caught.value


def value(database: Any, sql: str, *parameters: object) -> Any:
    """The first column of the first row."""
    return database.execute_sql(sql, parameters or None).fetchone()[0]


@contextlib.contextmanager
def occupying(database: Any, count: int = 1) -> Iterator[list[Any]]:
    """Other requests with open transactions, each of which keeps one of PgBouncer's sessions; their scopes."""
    scopes = [peewee_web.scope() for _ in range(count)]
    try:
        for scope in scopes:
            with scope.activate():
                database.connect()
                database.begin()
                query(database)
        yield scopes
    finally:
        for scope in scopes:
            with scope.activate():
                database.rollback()
            scope.end()


def seconds(work: Callable[[], Any]) -> float:
    begun = time.monotonic()
    work()
    return time.monotonic() - begun
