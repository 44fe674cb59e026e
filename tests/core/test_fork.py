"""A forked child and its parent: each on connections of its own, whatever was under way when they parted."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import multiprocessing
import os
import signal
import threading
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import peewee_web
from peewee_web import Databases, PooledPostgresqlDatabase
from peewee_web.core import fork as forking
from peewee_web.core import fork as forks
from tests.core.forking import UNTOLD, Child, fork, fork_untold, in_child
from tests.core.raw import module_of
from tests.core.working import PATIENCE, Served, Working, in_thread, in_use, query, save, saved
from tests.servers.postgres import PostgresServer
from tests.servers.proxy import TcpProxy
from tests.servers.waiting import until

FORKS = [fork, UNTOLD]
#: Of a test in which the driver has no part.
one_driver = pytest.mark.parametrize("place", ["psycopg3"], indirect=True)


@pytest.fixture(scope="module", params=["psycopg3", "psycopg2", "pymysql", "MySQLdb"])
def place(request: pytest.FixtureRequest) -> Iterator[tuple[str, Any, str]]:
    """A driver, a server for it, and the name of a database there with the table ``note (text)``."""
    driver: str = request.param
    server = request.getfixturevalue("postgres" if driver in ("psycopg3", "psycopg2") else "mariadb")
    name = f"fork_{uuid.uuid4().hex[:12]}"
    server.create_database(name)
    server.execute("CREATE TABLE note (text VARCHAR(99))", database=name)
    yield driver, server, name
    server.drop_database(name)


@pytest.fixture
def served(place: tuple[str, Any, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    """A pool with nothing open on a database of a real server, through each driver."""
    driver, server, name = place
    if server.scheme == "mysql":
        monkeypatch.setattr("peewee.mysql", module_of(driver))
    suffix = "?prefer_psycopg3=true" if driver == "psycopg3" else ""
    database = peewee_web.connect(server.url(name) + suffix, max_connections=4)
    with database.connection_context():
        database.execute_sql("DELETE FROM note")
    database.close_idle()
    served = Served(driver, server, name, database)
    until(lambda: not sessions(served))
    yield served
    left = in_use(database)
    database.close_all()
    assert left == 0


def session(database: Any) -> int:
    """The number of the server's session that this code is served by."""
    function = "pg_backend_pid()" if isinstance(database, PooledPostgresqlDatabase) else "connection_id()"
    number: int = database.execute_sql(f"SELECT {function}").fetchone()[0]
    return number


def sessions(served: Served) -> set[int]:
    """The sessions that the server has of the database."""
    if served.server.scheme == "postgresql":
        return {session.pid for session in served.server.sessions(served.name)}
    # The server's own list takes long, as it also knows of transactions.
    rows = served.server.execute("SELECT ID FROM information_schema.PROCESSLIST WHERE DB = %s", (served.name,), "mysql")
    return {number for (number,) in rows}


def are_as_before(served: Served, parents: set[int]) -> bool:
    """Whether the connections of `idle_and_open` are still the *parents'* sessions, and the server has no others.

    Both are asked: if a child has said good-bye on their sockets, the server has read that before.
    """
    with peewee_web.scope():
        asked = {session(served.database)}
    asked.add(session(served.database))
    until(lambda: len(sessions(served)) <= len(parents))  # the child's own may take a moment to go
    return asked == parents == sessions(served)


@contextlib.contextmanager
def idle_and_open(served: Served) -> Iterator[set[int]]:
    """One connection idle in the pool and one left open by ``db.connect()`` in this thread; their sessions."""
    database = served.database
    with peewee_web.scope():
        idle = session(database)
        with peewee_web.scope():
            database.connect()
            opened = session(database)
            database.close()
    database.connect()
    assert session(database) in (idle, opened)
    assert database.pool_stats().idle == 1
    yield {idle, opened}
    database.close()


# The parent's sessions and the child's.


@pytest.mark.parametrize("fork", FORKS)
def test_a_childs_query_has_a_session_of_its_own(served: Served, fork: Callable[[], int]) -> None:
    with idle_and_open(served) as parents:
        assert in_child(lambda: session(served.database), fork) not in parents


@pytest.mark.parametrize("fork", FORKS)
def test_a_childs_scope_has_a_session_of_its_own(served: Served, fork: Callable[[], int]) -> None:
    def work() -> int:
        with peewee_web.scope():
            return session(served.database)

    with idle_and_open(served) as parents:
        assert in_child(work, fork) not in parents


@one_driver
@pytest.mark.parametrize("fork", FORKS)
def test_a_child_in_a_scope_of_its_parents_has_a_session_of_its_own(served: Served, fork: Callable[[], int]) -> None:
    with peewee_web.scope():
        mine = session(served.database)
        assert in_child(lambda: session(served.database), fork) != mine


def close_and_collect(served: Served) -> None:
    served.database.close()
    served.database.close_all()
    served.database.close_pool()
    gc.collect()


def close_idle(served: Served) -> None:
    served.database.close_idle()


def close_stale(served: Served) -> None:
    served.database.close_stale(0)


def manual_close(served: Served) -> None:
    served.database.manual_close()


def dispose(served: Served) -> None:
    served.database.dispose()
    gc.collect()


def query_and_close(served: Served) -> None:
    query(served.database)
    close_and_collect(served)


def drop_the_database_object(served: Served) -> None:
    served.database.__dict__.clear()
    gc.collect()


def crash(served: Served) -> None:
    query(served.database)
    os.kill(os.getpid(), signal.SIGKILL)


ENDS = [close_and_collect, close_idle, close_stale, manual_close, dispose, query_and_close]


@pytest.mark.parametrize(
    ("end", "fork"),
    [
        *((end, fork) for end in ENDS),
        *(pytest.param(end, fork_untold, marks=pytest.mark.alone) for end in (close_and_collect, query_and_close)),
    ],
    ids=lambda function: function.__name__,
)
def test_nothing_that_a_child_does_ends_a_session_of_its_parent(
    served: Served, end: Callable[[Served], None], fork: Callable[[], int]
) -> None:
    with idle_and_open(served) as parents:
        in_child(lambda: end(served), fork)
        assert are_as_before(served, parents)


def test_a_child_that_uses_a_connection_of_its_parents_reaches_nobody(served: Served) -> None:
    """As an app may that keeps the driver's own object."""

    def work() -> bool:
        with contextlib.closing(connection), pytest.raises(Exception), connection.cursor() as cursor:  # noqa: B017, PT011
            cursor.execute("SELECT 1")
        return True

    with idle_and_open(served) as parents:
        connection = served.database.connection()
        assert in_child(work)
        assert are_as_before(served, parents)


@one_driver
@pytest.mark.parametrize("fork", FORKS)
def test_what_a_dead_thread_left_is_the_parents_to_take_back(
    served: Served, caplog: pytest.LogCaptureFixture, fork: Callable[[], int]
) -> None:
    database = served.database

    def leave() -> int:
        database.begin()
        save(database)
        return session(database)

    left = in_thread(leave)
    assert in_child(lambda: (query(database), len(database.orphans), caplog.text), fork) == (1, 0, "")
    query(database)
    until(lambda: "was left open" in caplog.text)
    assert left in sessions(served)  # rolled back, to be lent again
    assert saved(database) == []


@one_driver
def test_a_child_may_drop_the_database_object(served: Served) -> None:
    with idle_and_open(served) as parents:
        in_child(lambda: drop_the_database_object(served))
        assert are_as_before(served, parents)


def test_a_child_that_crashes_ends_no_session_of_its_parent(served: Served) -> None:
    with idle_and_open(served) as parents:
        with pytest.raises(AssertionError, match="the child died"):
            in_child(lambda: crash(served))
        assert are_as_before(served, parents)


def test_parent_and_child_query_at_the_same_time(served: Served) -> None:
    def ask(first: int) -> list[int]:
        return [served.database.execute_sql("SELECT %s", (n,)).fetchone()[0] for n in range(first, first + 200)]

    with idle_and_open(served):
        children = [Child(lambda n=n: ask(n)) for n in (1000, 2000)]
        assert ask(0) == list(range(200))
        assert [child.result()[0] for child in children] == [1000, 2000]


@one_driver
def test_a_grandchild_has_a_session_of_its_own(served: Served) -> None:
    def child() -> tuple[int, int, int]:
        before = session(served.database)
        grandchild = in_child(lambda: session(served.database))
        return before, grandchild, session(served.database)

    with idle_and_open(served) as parents:
        before, grandchild, after = in_child(child)
        assert before == after
        assert len({before, grandchild, *parents}) == 4


@one_driver
def test_the_statistics_of_a_child_start_at_zero(served: Served) -> None:
    with idle_and_open(served):
        stats = in_child(served.database.pool_stats)
    counted = (stats.size, stats.idle, stats.in_use, stats.checkouts, stats.created, stats.waits, stats.generation)
    assert counted == (0,) * 7


@one_driver
def test_a_child_leaves_nothing_for_the_finalizers(served: Served) -> None:
    ready, go_on = threading.Event(), threading.Event()

    def hold() -> None:
        query(served.database)
        ready.set()
        go_on.wait(PATIENCE)

    def work() -> tuple[int, int]:
        gc.collect()
        query(served.database)
        return len(served.database.orphans), in_use(served.database)

    threads = [Working(None, hold) for _ in range(2)]
    assert ready.wait(PATIENCE)
    try:
        assert in_child(work) == (0, 1)
    finally:
        go_on.set()
        for thread in threads:
            thread.result()
    query(served.database)
    served.database.close()


# Work under way.


def test_a_transaction_goes_on_in_the_parent_and_not_in_the_child(served: Served) -> None:
    database = served.database

    def work() -> tuple[list[str], int]:
        seen = [text for (text,) in database.execute_sql("SELECT text FROM note").fetchall()]
        save(database, "child")
        return seen, database.transaction_depth()

    with peewee_web.scope(), database.atomic():
        save(database, "parent")
        assert in_child(work) == ([], 0)
        save(database, "parent again")
    assert saved(database) == ["child", "parent", "parent again"]


@pytest.mark.parametrize("outcome", ["leaves", "exits"])
def test_a_child_may_leave_the_blocks_that_its_parent_entered(served: Served, outcome: str) -> None:
    database = served.database
    before = os.getpid()
    child = None
    reader, writer = os.pipe()
    try:
        with peewee_web.scope(), database.atomic(), database, database.atomic():
            save(database, "parent")
            child = fork()
            if child == 0:
                query(database)
                if outcome == "exits":
                    raise SystemExit(7)
    except BaseException as error:
        if os.getpid() != before:
            os.write(writer, repr(error).encode())
        else:
            raise
    finally:
        if os.getpid() != before:
            os.close(writer)
            os._exit(0)
    os.close(writer)
    with open(reader) as pipe:
        said = pipe.read()
    os.waitpid(child, 0)
    assert said == ("SystemExit(7)" if outcome == "exits" else "")
    assert saved(database) == ["parent"]


@one_driver
def test_a_child_in_an_atomic_scope_has_a_transaction_of_its_own(served: Served) -> None:
    database = served.database

    def work() -> bool:
        save(database, "child")
        return bool(database.in_transaction())

    with Databases(database, atomic=True).scope():
        save(database, "parent")
        assert in_child(work)
    assert saved(database) == ["parent"]


def test_a_result_that_the_parent_reads_is_not_read_by_the_child(served: Served) -> None:
    with peewee_web.scope():
        cursor = served.database.execute_sql("SELECT 1 UNION SELECT 2 ORDER BY 1")
        assert cursor.fetchone() == (1,)
        assert in_child(lambda: query(served.database)) == 1
        assert cursor.fetchone() == (2,)


@contextlib.contextmanager
def another_thread(work: Callable[[threading.Event, threading.Event], None]) -> Iterator[None]:
    """The block runs between *work*'s setting of the first event and its being let go on by the second."""
    ready, go_on = threading.Event(), threading.Event()
    thread = Working(None, lambda: work(ready, go_on))
    assert ready.wait(PATIENCE)
    try:
        yield
    finally:
        go_on.set()
        thread.result()


@one_driver
def test_a_fork_while_another_thread_holds_the_pools_lock(served: Served) -> None:
    def hold(ready: threading.Event, go_on: threading.Event) -> None:
        with served.database.pool.ledger._lock:
            ready.set()
            go_on.wait(PATIENCE)

    with another_thread(hold):
        assert in_child(lambda: query(served.database)) == 1


@one_driver
def test_a_fork_while_another_thread_starts_the_pool_anew(served: Served) -> None:
    def hold(ready: threading.Event, go_on: threading.Event) -> None:
        with forking.lock:
            ready.set()
            go_on.wait(PATIENCE)

    with another_thread(hold):
        assert in_child(lambda: query(served.database)) == 1


@one_driver
def test_a_fork_while_another_thread_of_the_scope_uses_its_connection(served: Served) -> None:
    database = served.database
    sleep = "SELECT pg_sleep(5)" if served.driver.startswith("psycopg") else "SELECT sleep(5)"

    def run() -> None:
        with contextlib.suppress(peewee_web.NoConnection, Exception):
            database.execute_sql(sleep)

    with peewee_web.scope():
        mine = session(database)
        thread = Working(None, run)
        until(lambda: any(s.state == "active" for s in served.server.sessions(served.name)))
        assert in_child(lambda: session(database)) != mine
        served.server.kill_sessions(served.name)
        thread.result()


@one_driver
def test_a_fork_while_another_thread_of_the_scope_connects(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    database, parent = served.database, os.getpid()
    opening, go_on = threading.Event(), threading.Event()
    plain = database._connect

    def connect() -> Any:
        if os.getpid() == parent:
            opening.set()
            assert go_on.wait(PATIENCE)
        return plain()

    monkeypatch.setattr(database, "_connect", connect)
    with peewee_web.scope():
        thread = Working(None, lambda: query(database))
        assert opening.wait(PATIENCE)
        try:
            assert in_child(lambda: query(database)) == 1
        finally:
            go_on.set()
        thread.result()


@one_driver
def test_a_fork_while_another_thread_waits_in_the_queue(served: Served) -> None:
    database = served.database
    scopes = [peewee_web.scope() for _ in range(4)]
    for scope in scopes:
        with scope.activate():
            query(database)
    thread = Working(None, lambda: in_a_scope(database))
    until(lambda: database.pool_stats().waiting == 1)
    assert in_child(lambda: (query(database), database.pool_stats().waiting)) == (1, 0)
    for scope in scopes:
        scope.end()
    assert thread.result() == 1


def in_a_scope(database: Any) -> int:
    with peewee_web.scope():
        return query(database)


def test_a_fork_while_another_thread_dials(postgres: PostgresServer) -> None:
    with TcpProxy(postgres.host, postgres.port) as proxy:
        database = peewee_web.connect(postgres.url(port=proxy.port), max_connections=2)
        proxy.delay(0.2)  # dialling takes several round trips
        thread = Working(None, lambda: in_a_scope(database))
        until(lambda: proxy.links == 1)
        child = Child(lambda: in_a_scope(database))
        assert database.pool_stats().created == 0
        assert child.result() == 1
        assert thread.result() == 1
        database.close_all()


@one_driver
def test_a_fork_of_a_running_event_loop(served: Served) -> None:
    async def serve() -> tuple[int, int]:
        async with peewee_web.scope():
            mine = session(served.database)
            return mine, in_child(lambda: session(served.database))

    mine, childs = asyncio.run(serve())
    assert mine != childs


def _ask(url: str, pipe: Any) -> None:
    database = peewee_web.connect(url)
    pipe.send(query(database))
    database.close_all()


def _ask_inherited(database: Any, pipe: Any) -> None:
    with peewee_web.scope():
        pipe.send(session(database))


@one_driver
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")  # Python 3.12+
def test_a_multiprocessing_child_has_a_session_of_its_own(served: Served) -> None:
    with idle_and_open(served) as parents:
        ours, theirs = multiprocessing.Pipe()
        process = multiprocessing.get_context("fork").Process(target=_ask_inherited, args=(served.database, theirs))
        process.start()
        assert ours.recv() not in parents
        process.join(PATIENCE)
        assert process.exitcode == 0
        assert are_as_before(served, parents)
        for end in (ours, theirs):
            end.close()
        process.close()


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_a_multiprocessing_child_of_another_kind_opens_its_own(postgres: PostgresServer, method: str) -> None:
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context(method).Process(target=_ask, args=(postgres.url(), theirs))
    process.start()
    theirs.close()
    assert ours.recv() == 1
    process.join(PATIENCE)
    assert process.exitcode == 0
    ours.close()
    process.close()


@pytest.mark.parametrize("fork", FORKS)
@pytest.mark.parametrize("kernel_clears_memory", [True, False])
def test_a_mark_is_gone_in_a_child_until_it_is_set_there(
    kernel_clears_memory: bool, fork: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    if not kernel_clears_memory:
        monkeypatch.setattr(forks, "_MADV_WIPEONFORK", -1)
    mark = forks.mark()

    def seen() -> tuple[bool, bool]:
        before = bool(mark[0])
        mark[0] = 1
        return before, bool(mark[0])

    assert in_child(seen, fork) == (False, True)
    assert mark[0]
