"""The contract apps with more than one database: which they have, and what is done with those.

What a query of an app goes through here is ``ScopedDatabase``, so where its rows are says which database a request had.
"""

from __future__ import annotations

import asyncio
import contextvars
import time
from collections.abc import AsyncIterator, Callable, Iterator
from types import ModuleType
from typing import Any

import peewee_web
from peewee_web import ReplicatedDatabase, ScopedDatabase
from peewee_web.core.replication import Replication
from tests.contract.cases import (
    MAX_CONNECTIONS,
    TABLE,
    AppError,
    Call,
    Reply,
    Row,
    async_case,
    echo,
    in_thread,
    save,
    sync_case,
)

# Seconds that a request waits for a connection of a database that the tests exhaust.
SHORT = 0.2

# By name, with the one that `Databases` is not told of, and the replicas.
DATABASES: dict[str, Any] = {}
# The host of each request for which a database was chosen.
CHOICES: list[str] = []
# Requests to these have no scope: they answer, whatever else is exhausted.
OUTSIDE = ("/case/exhaust", "/case/give-back", "/case/left-over")
_EXHAUSTING: list[peewee_web.Scope] = []


class TenantRow(Row):
    """Lives in the default database of the request at hand."""

    class Meta:
        database = ScopedDatabase()
        table_name = TABLE


# Which databases there are.


def beside(url: str, name: str, **options: Any) -> Any:
    """A SQLite database of that name in the directory of the one at *url*, with its table."""
    database = peewee_web.connect(f"{url.rpartition('/')[0]}/{name}.db", **options)
    with Row.bind_ctx(database):
        Row.create_table()
    database.close()
    DATABASES[name] = database
    return database


def tenants(default: Any, url: str) -> dict[str, Any]:
    """Tenant "a" is known by its name, and "b" is not."""
    DATABASES["default"] = default
    a, _ = (beside(url, name, max_connections=MAX_CONNECTIONS, timeout=SHORT) for name in ("a", "b"))
    return {"default": default, "a": a}


def choosing(app: ModuleType) -> Callable[[Any], Any]:
    """A ``choose`` that goes by the first word of the host, in the terms of the framework of *app*."""

    def choose(request: Any) -> Any:
        host = app.host_of(request).partition(".")[0]
        CHOICES.append(host)
        if host == "fails":
            raise AppError("no tenant")
        if host == "refused":
            app.refuse()
        return {"a": "a", "b": DATABASES["b"], "none": None, "unknown": "unknown"}.get(host, "default")

    return choose


def named(default: Any, url: str) -> dict[str, Any]:
    """One with a single connection, and two that are replicated, whose clients have a cookie or a header."""
    DATABASES["default"] = default
    return {
        "default": default,
        "reports": beside(url, "reports", max_connections=1, timeout=SHORT),
        "shop": _replicated(url, "shop", sticky_by="cookie"),
        "log": _replicated(url, "log", sticky_by="header"),
    }


def _replicated(url: str, name: str, **options: Any) -> ReplicatedDatabase:
    """Two files, in which nothing is replicated, so that a row says where it was read."""
    servers = {role: beside(url, f"{name}-{role}") for role in ("primary", "replica")}
    for role, database in servers.items():
        Row.insert(token=role).execute(database)
        database.close()
    replicated = ReplicatedDatabase(servers["primary"], [servers["replica"]], **options)
    for member in replicated._members.all:
        member.replication = _Positioned()
    return replicated


class _Positioned(Replication):
    """Tells a position of PostgreSQL's, as SQLite has none, which nobody has reached."""

    def written(self, database: Any) -> str | None:
        return "0/16B3748"


# Whose data is where.


@sync_case
def found_in(call: Call) -> Reply:
    """The databases that have a row with this token. Asks none that is chosen."""
    here = Row.token == call.token
    return Reply(" ".join(name for name, database in DATABASES.items() if Row.select().where(here).exists(database)))


@sync_case
def read_from(call: Call) -> Reply:
    """Which server of a replicated database a read was sent to."""
    known = Row.token << ["primary", "replica"]
    return Reply(" ".join(row.token for row in Row.select().where(known).execute(call.database)))


@sync_case
def tenants_met(call: Call) -> Reply:
    """Write a row, give other requests the time to do so, and say whose rows are to be seen."""
    TenantRow.create(token=f"{call.query['tenant']} {call.token}")
    time.sleep(0.005)
    return Reply(_tenants_seen())


@async_case
async def async_tenants_met(call: Call) -> Reply:
    TenantRow.create(token=f"{call.query['tenant']} {call.token}")
    await asyncio.sleep(0.005)
    return Reply(_tenants_seen())


def _tenants_seen() -> str:
    seen = TenantRow.select().where(TenantRow.token.contains(" "))
    return " ".join(sorted({row.token.partition(" ")[0] for row in seen}))


@sync_case
def choices(call: Call) -> Reply:
    """How often a database was chosen so far."""
    return Reply(str(len(CHOICES)))


@sync_case
def write_from_thread(call: Call) -> Reply:
    in_thread(contextvars.copy_context().run, save, call)
    return Reply(call.token)


@sync_case
def write_after_nested(call: Call) -> Reply:
    """A request inside a request, for another host, before the outer one has chosen."""
    assert call.nested is not None
    call.nested(f"/case/write?database=default&token=inner-{call.token}", call.query["host"])
    save(call)
    return Reply(call.token)


@async_case
async def async_write_after_nested(call: Call) -> Reply:
    assert call.nested_async is not None
    await call.nested_async(f"/case/write?database=default&token=inner-{call.token}", call.query["host"])
    save(call)
    return Reply(call.token)


@sync_case
def stream_writes(call: Call) -> Reply:
    """Nothing is asked of the database before the body is."""

    def body() -> Iterator[str]:
        for _ in range(call.count):
            save(call)
            yield echo(call) + "\n"

    return Reply(body())


@async_case
async def async_stream_writes(call: Call) -> Reply:
    async def body() -> AsyncIterator[str]:
        for _ in range(call.count):
            save(call)
            yield echo(call) + "\n"
            await asyncio.sleep(0.001)

    return Reply(body())


@sync_case
def write_two(call: Call) -> Reply:
    """Into an atomic database and one that is not."""
    for name in ("default", "reports"):
        Row.insert(token=call.token).execute(ScopedDatabase(name))
    return Reply(call.token, status=400)


# What a response tells.


@sync_case
def write_beside_cookie(call: Call) -> Reply:
    save(call)
    return Reply(call.token, headers={"Set-Cookie": "mine=1"})


@sync_case
def write_then_fail(call: Call) -> Reply:
    save(call)
    raise AppError("after a write")


# Exhaustion.


@sync_case
def exhaust(call: Call) -> Reply:
    """Take all connections of the database called *name*, until ``give-back``."""
    database = DATABASES[call.query["name"]]
    for _ in range(database.pool_stats().limit):
        scope = peewee_web.Scope()
        with scope.activate():
            database.execute_sql("SELECT 1")
        _EXHAUSTING.append(scope)
    return Reply()


@sync_case
def give_back(call: Call) -> Reply:
    while _EXHAUSTING:
        _EXHAUSTING.pop().end()
    return Reply()


@sync_case
def held(call: Call) -> Reply:
    """How many connections of any database are out while this handler runs, which takes none itself."""
    return Reply(" ".join(f"{name}={database.pool_stats().in_use}" for name, database in DATABASES.items()))


@sync_case
def left_over(call: Call) -> Reply:
    """The databases of which connections are out when no request has a scope."""
    return Reply(" ".join(name for name, database in DATABASES.items() if database.pool_stats().in_use))
