"""What the contract apps do with their database, free of any framework.

A case is a function ``(call) -> Reply`` on the database and the query string of one request. A sync framework runs
``SYNC``; an async one runs ``SYNC`` from a coroutine and ``ASYNC``, whose cases are coroutine functions, as well.
Every reply carries the request's own token, so that another request's data shows.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from types import FunctionType
from typing import Any
from urllib.parse import parse_qsl

import peewee
from playhouse.pool import PooledDatabase

import peewee_web
from peewee_web.core.atomic import atomic_requests, non_atomic_requests

MAX_CONNECTIONS = 8
TIMEOUT = 2.0  # seconds

TABLE = "contract_row"


class Row(peewee.Model):
    """Bound to no database: every query names its own, as apps of several databases do."""

    token = peewee.CharField(index=True)

    class Meta:
        table_name = TABLE


class AppError(Exception):
    """What a case raises to stand for a bug in the app."""


@dataclass
class Call:
    """One request: its database, its query string, and a way to make another request to the same app in-process.

    The database may be given as a function that finds it. ``?database=name`` makes it the one of that name in the
    request's own scope, through a proxy.

    ``nested`` (sync apps) and ``nested_async`` take a path with its query string, and maybe a host, and return the
    text of the answer.
    """

    database: Any
    query: dict[str, str]
    nested: Callable[..., str] | None = None
    nested_async: Callable[..., Awaitable[str]] | None = None

    def __post_init__(self) -> None:
        if "database" in self.query:
            self.database = peewee_web.ScopedDatabase(self.query["database"])
        elif isinstance(self.database, FunctionType):
            self.database = self.database()

    @property
    def token(self) -> str:
        return self.query.get("token", "")

    @property
    def count(self) -> int:
        return int(self.query.get("n", "5"))


@dataclass
class Reply:
    """*body* is text, or an iterator of text (async in ``ASYNC``) for a streamed body."""

    body: str | Iterator[str] | AsyncIterator[str] = ""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)


Sync = Callable[[Call], Reply]
Async = Callable[[Call], Awaitable[Reply]]
SYNC: dict[str, Sync] = {}
ASYNC: dict[str, Async] = {}
# What code that outlived its request met, by the token of the request.
AFTERMATH: dict[str, str] = {}
_LEAKED_THREADS: list[threading.Thread] = []


def sync_case(function: Sync) -> Sync:
    SYNC[function.__name__.replace("_", "-").strip("-")] = function
    return function


def async_case(function: Async) -> Async:
    ASYNC[function.__name__.replace("_", "-").strip("-")] = function
    return function


def echo(call: Call) -> str:
    """The token, by way of the database."""
    value: str = call.database.execute_sql(f"SELECT {call.database.param}", (call.token,)).fetchone()[0]
    return value


def session(database: Any) -> str:
    """Which session of the server this is; for SQLite, which connection."""
    if isinstance(database, peewee.PostgresqlDatabase):
        return str(database.execute_sql("SELECT pg_backend_pid()").fetchone()[0])
    if isinstance(database, peewee.MySQLDatabase):
        return str(database.execute_sql("SELECT CONNECTION_ID()").fetchone()[0])
    return str(id(database.connection()))


def save(call: Call) -> None:
    call.database.execute(Row.insert(token=call.token))


def stats(database: PooledDatabase) -> dict[str, int]:
    stats = database.pool_stats()
    return {"in_use": stats.in_use, "idle": stats.idle, "waiting": stats.waiting}


def before_view(query: Mapping[str, str]) -> None:
    """What a hook before the view does: with ``?early``, it is the first to query."""
    if "early" in query:
        peewee_web.ScopedDatabase().execute_sql("SELECT 1")


def answer_message(database: Any, message: str) -> str:
    """A websocket's message names a case, with its query string; what answers it is the body."""
    name, _, query = message.partition("?")
    body = SYNC[name](Call(database, dict(parse_qsl(query)))).body
    assert isinstance(body, str)
    return body


# Plain requests.


@sync_case
def close_idle(call: Call) -> Reply:
    call.database.close_idle()
    return Reply(call.token)


@sync_case
def ping(call: Call) -> Reply:
    return Reply(f"pong {call.token}")


@sync_case
def in_use(call: Call) -> Reply:
    """How many connections are out while this handler runs, which takes none itself."""
    return Reply(str(stats(call.database)["in_use"]))


@sync_case
def one(call: Call) -> Reply:
    return Reply(echo(call))


@sync_case
def write(call: Call) -> Reply:
    save(call)
    return Reply(echo(call))


@sync_case
def saved(call: Call) -> Reply:
    """How many rows of this token are committed."""
    return Reply(str(Row.select().where(Row.token == call.token).count(call.database)))


@sync_case
def hold(call: Call) -> Reply:
    """Keep a connection for a while."""
    echo(call)
    time.sleep(float(call.query.get("seconds", "0.5")))
    return Reply(echo(call))


@sync_case
def same_session(call: Call) -> Reply:
    first = session(call.database)
    time.sleep(0.01)
    return Reply(f"{call.token} {first == session(call.database)} {echo(call)}")


# Bodies.


@sync_case
def stream(call: Call) -> Reply:
    def body() -> Iterator[str]:
        for _ in range(call.count):
            yield echo(call) + "\n"

    return Reply(body())


@sync_case
def iterate(call: Call) -> Reply:
    """Rows straight from an open cursor while they are sent."""
    rows = Row.select().where(Row.token == call.token).iterator(call.database)
    return Reply(row.token + "\n" for row in rows)


@sync_case
def endless(call: Call) -> Reply:
    def body() -> Iterator[str]:
        while True:
            yield echo(call) + "\n" + " " * 4096
            time.sleep(0.005)

    return Reply(body())


@sync_case
def stream_fails(call: Call) -> Reply:
    def body() -> Iterator[str]:
        with call.database.atomic():
            save(call)
            yield echo(call) + "\n"
            raise AppError("half-way")

    return Reply(body())


@sync_case
def stream_unread(call: Call) -> Reply:
    """Queried before the body, and the body never gets a step (HEAD)."""
    first = echo(call)

    def body() -> Iterator[str]:
        yield first
        yield echo(call)

    return Reply(body())


# Transactions.


@sync_case
def session_start(call: Call) -> Reply:
    call.database.session_start()
    save(call)
    return Reply(call.token)


@sync_case
def unexited_atomic(call: Call) -> Reply:
    call.database.atomic().__enter__()
    save(call)
    return Reply(call.token)


@sync_case
def begin(call: Call) -> Reply:
    call.database.begin()
    save(call)
    return Reply(call.token)


@sync_case
def raw_begin(call: Call) -> Reply:
    call.database.execute_sql("BEGIN")
    save(call)
    return Reply(call.token)


@sync_case
def raise_in_atomic(call: Call) -> Reply:
    with call.database.atomic():
        save(call)
        raise AppError("inside atomic()")


@sync_case
def raise_with_open_transaction(call: Call) -> Reply:
    call.database.session_start()
    save(call)
    raise AppError("with an open transaction")


@sync_case
def commit(call: Call) -> Reply:
    with call.database.atomic():
        save(call)
        with call.database.atomic() as savepoint:
            save(call)
            savepoint.rollback()
    return Reply(call.token)


@sync_case
def bad_request(call: Call) -> Reply:
    save(call)
    return Reply(call.token, status=400)


@sync_case
def failed_commit(call: Call) -> Reply:
    """A deferred constraint, which PostgreSQL checks when it commits."""
    save(call)
    name = f"twice_{call.token}"
    call.database.execute_sql(
        f"CREATE TEMPORARY TABLE {name} (x INT UNIQUE DEFERRABLE INITIALLY DEFERRED) ON COMMIT DROP"
    )
    call.database.execute_sql(f"INSERT INTO {name} VALUES (1), (1)")
    return Reply(call.token)


@sync_case
@atomic_requests
def opted_in(call: Call) -> Reply:
    return bad_request(call)


@sync_case
@non_atomic_requests
def opted_out(call: Call) -> Reply:
    return bad_request(call)


@sync_case
def stream_atomic(call: Call) -> Reply:
    """Written by the handler and by the body: the transaction ends where the response starts."""
    save(call)

    def body() -> Iterator[str]:
        save(call)
        yield echo(call)

    return Reply(body())


# The app's own calls.


@sync_case
def close_then_query(call: Call) -> Reply:
    first = echo(call)
    call.database.close()
    return Reply(f"{first} {echo(call)}")


@sync_case
def connect_then_query(call: Call) -> Reply:
    call.database.connect()
    return Reply(echo(call))


@sync_case
def with_database(call: Call) -> Reply:
    with call.database:
        first = session(call.database)
        save(call)
    return Reply(f"{call.token} {echo(call)} {bool(first)}")


@sync_case
def connection_context(call: Call) -> Reply:
    """A block inside a request that has its connection in a transaction."""
    with call.database.atomic():
        save(call)
        before = session(call.database)
        with call.database.connection_context():
            inside = session(call.database)
        after = session(call.database)
    return Reply(f"{echo(call)} {before == inside == after}")


@sync_case
def nested_in_atomic(call: Call) -> Reply:
    """A request inside a request, which holds a transaction; the inner one fails, the outer's rows stay."""
    assert call.nested is not None
    with call.database.atomic():
        save(call)
        outer = session(call.database)
        inner = call.nested(f"/case/same-session?token=inner-{call.token}")
        if _can_write_twice(call):
            call.nested(f"/case/session-start?token=lost-{call.token}")
        unchanged = outer == session(call.database)
    return Reply(f"{echo(call)} {unchanged} {inner.split()[1]}")


def _can_write_twice(call: Call) -> bool:
    """SQLite has one writer: an inner request that writes would wait for the outer one."""
    return not isinstance(call.database, peewee.SqliteDatabase)


# Threads.


@sync_case
def worker_thread(call: Call) -> Reply:
    """Work handed to a thread with the request's context, as asyncio.to_thread, anyio and asgiref do it."""
    outer = session(call.database)
    inner = in_thread(contextvars.copy_context().run, session, call.database)
    return Reply(f"{echo(call)} {outer == inner}")


@sync_case
def two_threads(call: Call) -> Reply:
    """Two threads of one request use its connection at the same time."""
    failures: list[BaseException] = []

    def work() -> None:
        try:
            for _ in range(20):
                assert echo(call) == call.token
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=contextvars.copy_context().run, args=(work,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return Reply(f"{echo(call)} {failures}")


@sync_case
def thread_dies(call: Call) -> Reply:
    """A thread of the app's own, outside any scope, takes a connection and dies with it."""
    in_thread(echo, call)
    return Reply(call.token)


@sync_case
def outlive_thread(call: Call) -> Reply:
    """A thread with the request's context goes on after the request."""
    echo(call)
    go_on = threading.Event()

    def work() -> None:
        go_on.wait(10)
        record_aftermath(call)

    thread = threading.Thread(target=contextvars.copy_context().run, args=(work,), daemon=True)
    thread.start()
    timer = threading.Timer(0.3, go_on.set)
    timer.daemon = True
    timer.start()
    return Reply(call.token)


@sync_case
def aftermath(call: Call) -> Reply:
    return Reply(AFTERMATH.get(call.token, ""))


@sync_case
def own_scope(call: Call) -> Reply:
    """A second connection inside a request."""
    outer = session(call.database)
    with peewee_web.scope():
        inner = session(call.database)
    return Reply(f"{echo(call)} {outer != inner} {outer == session(call.database)}")


def record_aftermath(call: Call) -> None:
    try:
        AFTERMATH[call.token] = echo(call)
    except Exception as error:
        AFTERMATH[call.token] = type(error).__name__


def in_thread(function: Callable[..., Any], *arguments: Any) -> Any:
    result: list[Any] = []
    thread = threading.Thread(target=lambda: result.append(function(*arguments)))
    thread.start()
    thread.join()
    return result[0]


# First use fails (D8): the database's own initialisation is broken for as long as one request asks for it.


def lose_connection(database: Any) -> None:
    """Have the server end this request's session, and wait until that is known on this side of the proxy."""
    kill = "SELECT pg_terminate_backend({})" if isinstance(database, peewee.PostgresqlDatabase) else "KILL {}"
    number = session(database)
    with peewee_web.scope():
        database.execute_sql(kill.format(number))
    while not database._state.find().lease.pooled.has_news():
        time.sleep(0.01)


@sync_case
def killed_between_statements(call: Call) -> Reply:
    lose_connection(call.database)
    save(call)
    lose_connection(call.database)
    return Reply(echo(call))


@sync_case
def killed_in_atomic(call: Call) -> Reply:
    with call.database.atomic():
        save(call)
        lose_connection(call.database)
        return Reply(echo(call))


@sync_case
def killed_in_atomic_then_on(call: Call) -> Reply:
    try:
        killed_in_atomic(call)
    except peewee_web.DatabaseUnavailable as error:
        return Reply(f"{type(error.__cause__).__name__}; then {echo(call)}")
    return Reply("nothing happened")


@sync_case
def first_use_fails(call: Call) -> Reply:
    database = call.database

    def broken(_: Any) -> None:
        raise AppError("first use")

    database._initialize_connection = broken
    try:
        echo(call)
    except AppError as error:
        failed = str(error)
    finally:
        del database._initialize_connection
    return Reply(f"{failed}; then {echo(call)}")


# Coroutines.


@async_case
async def async_one(call: Call) -> Reply:
    return Reply(echo(call))


@async_case
async def async_interleave(call: Call) -> Reply:
    """Two queries with a pause in which other requests run on the same thread."""
    first = session(call.database)
    await asyncio.sleep(0.05)
    return Reply(f"{call.token} {first == session(call.database)} {echo(call)}")


@async_case
async def async_transaction(call: Call) -> Reply:
    """A transaction that is open while other requests run; every second one is rolled back."""
    with call.database.atomic() as transaction:
        save(call)
        await asyncio.sleep(0.02)
        if call.query.get("fail"):
            transaction.rollback()
    return Reply(call.token)


@async_case
async def async_to_thread(call: Call) -> Reply:
    outer = session(call.database)
    inner = await asyncio.to_thread(session, call.database)
    return Reply(f"{echo(call)} {outer == inner}")


@async_case
async def async_gather(call: Call) -> Reply:
    """Threads and coroutines of one request share its connection."""

    async def work() -> bool:
        await asyncio.sleep(0)
        return await asyncio.to_thread(echo, call) == call.token

    answers = await asyncio.gather(*(work() for _ in range(6)))
    return Reply(f"{echo(call)} {all(answers)}")


@async_case
async def async_nested_in_atomic(call: Call) -> Reply:
    assert call.nested_async is not None
    with call.database.atomic():
        outer = session(call.database)
        inner = await call.nested_async(f"/case/same-session?token=inner-{call.token}")
        unchanged = outer == session(call.database)
    return Reply(f"{echo(call)} {unchanged} {inner.split()[1]}")


@async_case
async def async_stream(call: Call) -> Reply:
    async def body() -> AsyncIterator[str]:
        for _ in range(call.count):
            yield echo(call) + "\n"
            await asyncio.sleep(0.001)

    return Reply(body())


@async_case
async def async_endless(call: Call) -> Reply:
    async def body() -> AsyncIterator[str]:
        while True:
            yield echo(call) + "\n" + " " * 4096
            await asyncio.sleep(0.005)

    return Reply(body())


@async_case
async def async_stream_fails(call: Call) -> Reply:
    async def body() -> AsyncIterator[str]:
        with call.database.atomic():
            save(call)
            yield echo(call) + "\n"
            raise AppError("half-way")

    return Reply(body())


@async_case
async def async_raise(call: Call) -> Reply:
    call.database.session_start()
    save(call)
    raise AppError("with an open transaction")


_BACKGROUND: set[asyncio.Task[None]] = set()


@async_case
async def async_outlive(call: Call) -> Reply:
    """A task fired and forgotten."""
    echo(call)

    async def work() -> None:
        await asyncio.sleep(0.3)
        record_aftermath(call)

    task = asyncio.get_running_loop().create_task(work())
    _BACKGROUND.add(task)
    task.add_done_callback(_BACKGROUND.discard)
    return Reply(call.token)
