"""What users of playhouse.pool rely on, as Peewee's own tests of it show (coleifer/peewee, tests/pool.py).

Each test runs on a class of ours and on an adopted one of playhouse's.
"""

from __future__ import annotations

import contextvars
import inspect
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import peewee
import playhouse.pool
import pytest

import peewee_web
from peewee_web import PooledDatabase, PooledMySQLDatabase, PooledPostgresqlDatabase, PooledSqliteDatabase
from peewee_web.core.adopt import adopt
from peewee_web.core.pool import Pool
from tests.core.working import PATIENCE, Working, in_thread
from tests.servers.waiting import until


class Numbers(peewee.SqliteDatabase):
    """An app's own class: its connections are numbers."""

    def __init__(self, *args: Any, **options: Any) -> None:
        self.opened = 0
        self.closed: list[int] = []
        super().__init__(*args, **options)

    def _connect(self) -> Any:
        self.opened += 1
        return self.opened

    def _close(self, conn: Any) -> None:
        self.closed.append(conn)


class OurNumbers(PooledDatabase, Numbers):
    pass


class TheirNumbers(playhouse.pool.PooledDatabase, Numbers):  # type: ignore[misc]
    pass


Make = Callable[..., Any]


@pytest.fixture(params=[OurNumbers, TheirNumbers])
def make(request: pytest.FixtureRequest) -> Make:
    """A pooled database whose connections are numbers, of our class or adopted."""
    return lambda *args, **options: adopt(request.param("numbers", *args, **options))


@contextmanager
def connected(database: Any, count: int) -> Iterator[list[Any]]:
    """So many threads have a connection each."""
    close = threading.Event()
    connections: list[Any] = []

    def work() -> None:
        database.connect()
        connections.append(database.connection())
        assert close.wait(PATIENCE)
        database.close()

    threads = [Working(contextvars.Context(), work) for _ in range(count)]
    try:
        until(lambda: len(connections) == count)
        yield connections
    finally:
        close.set()
        for thread in threads:
            thread.result()


# Connecting.


def test_a_thread_keeps_its_connection(make: Make) -> None:
    database = make()
    assert (database.connection(), database.connection()) == (1, 1)


def test_a_closed_connection_is_used_again(make: Make) -> None:
    database = make()
    database.connect()
    assert database.close() is True
    assert database.is_closed()
    assert database.close() is False
    database.connect()
    assert (database.connection(), database.closed) == (1, [])


def test_connecting_twice_is_an_error_unless_reuse_is_allowed(make: Make) -> None:
    database = make()
    assert database.connect() is True
    with pytest.raises(peewee.OperationalError, match="already opened"):
        database.connect()
    assert database.connect(reuse_if_open=True) is False
    assert database.connection() == 1


def test_threads_have_connections_of_their_own_and_leave_them_for_others(make: Make) -> None:
    database = make()
    with connected(database, 5) as connections:
        assert sorted(connections) == [1, 2, 3, 4, 5]
    stats = database.pool_stats()
    assert (stats.idle, stats.in_use) == (5, 0)


@pytest.mark.parametrize("error", [ValueError, playhouse.pool.MaxConnectionsExceeded, peewee.OperationalError])
def test_more_than_max_connections_is_an_error_at_once_without_a_timeout(make: Make, error: type[Exception]) -> None:
    database = make(max_connections=3, timeout=None)
    with connected(database, 3), pytest.raises(error):
        database.connect()
    assert database.connect()


def test_a_thread_waits_for_as_long_as_timeout_says(make: Make) -> None:
    database = make(max_connections=1, timeout=PATIENCE)
    with connected(database, 1):
        waiting = Working(contextvars.Context(), lambda: (database.connect(), database.connection()))
        until(lambda: database.pool_stats().waiting == 1)
    assert waiting.result() == (True, 1)


# Old connections.


def test_a_stale_connection_is_not_returned_to_the_pool(make: Make) -> None:
    database = make(stale_timeout=0.001)
    assert database.connection() == 1
    begun = database.pool.clock()
    until(lambda: database.pool.clock() > begun + 0.001)
    database.close()
    assert (database.closed, database.pool_stats().size) == ([1], 0)
    assert database.connection() == 2


def test_a_stale_connection_is_not_taken_from_the_pool(make: Make) -> None:
    database = make(stale_timeout=0.2)
    database.connect()
    database.close()
    assert database.closed == []
    begun = database.pool.clock()
    until(lambda: database.pool.clock() > begun + 0.2)
    assert (database.connection(), database.closed) == (2, [1])


def test_without_a_stale_timeout_playhouses_pools_keep_what_is_old() -> None:
    for stale_timeout in (None, 0):
        assert adopt(TheirNumbers("numbers", stale_timeout=stale_timeout)).pool.options.lifetime == float("inf")


# Closing for good.


def test_manual_close_closes_for_good(make: Make) -> None:
    database = make()
    assert database.connection() == 1
    database.manual_close()
    assert (database.closed, database.is_closed()) == ([1], True)
    assert database.connection() == 2
    database.close()
    assert database.connection() == 2


def test_manual_close_without_a_connection_does_nothing(make: Make) -> None:
    database = make()
    assert database.manual_close() is False
    assert database.opened == 0


def test_close_idle_leaves_those_in_use(make: Make) -> None:
    database = make()
    with connected(database, 2):
        in_thread(lambda: (database.connect(), database.close()))
        database.close_idle()
        assert database.closed == [3]
    assert database.pool_stats().idle == 2


def test_close_idle_closes_what_a_dead_thread_has_left(make: Make) -> None:
    database = make()
    in_thread(database.connect)
    database.close_idle()
    assert (database.closed, database.pool_stats().size) == ([1], 0)


def test_close_stale_closes_what_has_been_in_use_for_long(make: Make) -> None:
    database = make()
    with connected(database, 2):
        assert database.close_stale(3600) == 0
        assert database.close_stale(0) == 2
        assert sorted(database.closed) == [1, 2]
    assert (database.pool_stats().size, sorted(database.closed)) == (0, [1, 2])


def test_close_all_closes_those_in_use_as_well(make: Make) -> None:
    database = make()
    with connected(database, 2):
        database.connect()
        in_thread(lambda: (database.connect(), database.close()))
        database.close_all()
        assert (sorted(database.closed), database.is_closed()) == ([1, 2, 3, 4], True)
    assert database.connection() == 5


def test_dispose_forgets_without_closing(make: Make) -> None:
    database = make()
    database.connect()
    database.dispose()
    assert (database.is_closed(), database.closed) == (True, [])
    assert database.connection() == 2


# Blocks.


@pytest.mark.parametrize("block", ["with database", "connection_context"])
def test_a_block_gives_its_connection_back(block: str, tmp_path: Path) -> None:
    database = PooledSqliteDatabase(str(tmp_path / "blocks.db"))
    with database if block == "with database" else database.connection_context():
        connection = database.connection()
        assert database.pool_stats().in_use == 1
    assert (database.is_closed(), database.pool_stats().idle) == (True, 1)
    with database:
        assert database.connection() is connection
    database.close_all()


def test_a_block_is_a_transaction(tmp_path: Path) -> None:
    database = PooledSqliteDatabase(str(tmp_path / "blocks.db"))
    with database:
        database.execute_sql("CREATE TABLE t (n INTEGER)")
        with database.atomic() as inner:
            assert isinstance(inner, peewee._savepoint)  # type: ignore[attr-defined]
            database.execute_sql("INSERT INTO t VALUES (1)")
            inner.rollback()
        database.execute_sql("INSERT INTO t VALUES (2)")
    with pytest.raises(peewee.OperationalError), database:
        database.execute_sql("INSERT INTO t VALUES (3), ('too', 'many')")
    assert database.execute_sql("SELECT n FROM t").fetchall() == [(2,)]
    database.close_all()


def test_blocks_of_threads_have_connections_of_their_own(tmp_path: Path) -> None:
    database = PooledSqliteDatabase(str(tmp_path / "blocks.db"))
    entered = threading.Barrier(5)

    def work() -> Any:
        with database:
            entered.wait(PATIENCE)
            return database.connection()

    threads = [Working(contextvars.Context(), work) for _ in range(5)]
    assert len({thread.result() for thread in threads}) == 5
    assert (database.pool_stats().idle, database.pool_stats().in_use) == (5, 0)
    database.close_all()


def test_a_failed_statement_leaves_a_usable_connection(tmp_path: Path) -> None:
    database = PooledSqliteDatabase(str(tmp_path / "failed.db"))
    database.connect()
    with pytest.raises(peewee.OperationalError):
        database.execute_sql("SELECT nonsense FROM nowhere")
    database.close()
    assert database.connect()
    assert database.execute_sql("SELECT 1").fetchone() == (1,)
    database.close_all()


# Classes and arguments.


def test_arguments_may_be_positional(make: Make) -> None:
    options = make(5, 60, 2.5).pool.options
    assert (options.max_connections, options.max_lifetime, options.timeout) == (5, 60, 2.5)


@pytest.mark.parametrize("ours", [PooledSqliteDatabase, PooledPostgresqlDatabase, PooledMySQLDatabase])
@pytest.mark.parametrize("method", ["__init__", "init"])
def test_arguments_have_the_names_and_order_of_playhouses(ours: type, method: str) -> None:
    theirs = getattr(playhouse.pool, ours.__name__)
    names = list(inspect.signature(getattr(theirs, method)).parameters)[:5]
    assert list(inspect.signature(getattr(ours, method)).parameters)[:5] == names


@pytest.mark.parametrize("ours", [PooledSqliteDatabase, PooledPostgresqlDatabase, PooledMySQLDatabase])
def test_every_public_method_of_playhouses_is_there(ours: type) -> None:
    theirs = getattr(playhouse.pool, ours.__name__)
    assert {name for name in dir(theirs) if not name.startswith("_")} <= set(dir(ours))


def test_a_pool_of_ours_is_one_over_any_database_class(tmp_path: Path) -> None:
    class Plain(peewee.SqliteDatabase):
        def _connect(self) -> Any:
            self.seen = True
            return super()._connect()  # type: ignore[misc]

    class Extended(PooledDatabase, Plain):
        pass

    database = Extended(str(tmp_path / "extended.db"), max_connections=2, stale_timeout=60, pragmas={"cache_size": 77})
    with database:
        assert database.execute_sql("PRAGMA cache_size").fetchone() == (77,)
    assert (database.pool_stats().limit, database.pool_stats().idle, database.seen) == (2, 1, True)
    database.close_all()


def test_init_changes_what_it_is_given_and_closes_connections_of_before(tmp_path: Path) -> None:
    database = PooledSqliteDatabase(str(tmp_path / "one.db"), max_connections=3, timeout=7)
    with database:
        database.execute_sql("CREATE TABLE one (n INTEGER)")
    database.init(str(tmp_path / "two.db"), max_connections=5, stale_timeout=60)
    options = database.pool.options
    assert (options.max_connections, options.timeout, options.max_lifetime) == (5, 7, 60)
    assert database.pool_stats().size == 0
    with database:
        assert database.get_tables() == []
    database.close_all()


def test_a_deferred_pool_is_set_up_by_init(tmp_path: Path) -> None:
    database = PooledSqliteDatabase(None, max_connections=3)
    with pytest.raises(peewee.InterfaceError):
        database.connect()
    database.init(str(tmp_path / "late.db"), timeout=1)
    with database:
        assert (database.pool.options.max_connections, database.pool.options.timeout) == (3, 1)
    database.close_all()


def test_a_class_with_both_pools_is_refused_with_what_to_do() -> None:
    with pytest.raises(TypeError, match=r"^Both has two pools: derive it from peewee_web.PooledDatabase and an unpool"):

        class Both(PooledDatabase, playhouse.pool.PooledSqliteDatabase):  # type: ignore[misc]
            pass


# Pools of playhouse's that are adopted.


def test_an_adopted_pool_stays_one_of_its_class_and_has_ours() -> None:
    database = TheirNumbers("numbers", max_connections=4, stale_timeout=60, timeout=3)
    adopted = adopt(database)
    assert adopted is database
    assert isinstance(database, (TheirNumbers, playhouse.pool.PooledDatabase))
    options = database.pool.options
    assert isinstance(database.pool, Pool)
    assert (options.max_connections, options.max_lifetime, options.timeout) == (4, 60, 3)


@pytest.mark.parametrize(("theirs", "ours"), [(None, None), (0, 0), (5, 5)])
def test_an_adopted_pool_waits_as_it_did(theirs: float | None, ours: float | None) -> None:
    assert adopt(TheirNumbers("numbers", timeout=theirs)).pool.options.timeout == ours


@pytest.mark.parametrize("unbounded", [None, 0])
def test_an_adopted_pool_without_a_bound_has_none(unbounded: int | None) -> None:
    assert adopt(TheirNumbers("numbers", max_connections=unbounded)).pool_stats().limit is None


def test_what_was_idle_in_an_adopted_pool_is_closed() -> None:
    database = TheirNumbers("numbers")
    database.connect()
    database.close()
    adopt(database)
    assert database.closed == [1]


def test_an_adopted_pool_may_be_set_up_by_init(tmp_path: Path) -> None:
    database = playhouse.pool.PooledSqliteDatabase(None)
    adopt(database)
    database.init(str(tmp_path / "late.db"), max_connections=2)
    with peewee_web.scope():
        assert database.execute_sql("SELECT 1").fetchone() == (1,)
    assert database.pool_stats().limit == 2
    database.close_all()


# What the owner sees.


def test_a_database_tells_its_figures_and_its_state(tmp_path: Path) -> None:
    database = PooledSqliteDatabase(str(tmp_path / "figures.db"), max_connections=3)
    with database:
        assert database.pool_stats() == database.pool.stats()
        assert isinstance(database.pool_stats(), peewee_web.PoolStats)
        assert repr(database) == "<PooledSqliteDatabase 1/3 in use, 0 idle, 0 waiting>"
    database.close_all()


def test_figures_can_not_be_changed(tmp_path: Path) -> None:
    with pytest.raises(AttributeError):
        PooledSqliteDatabase(str(tmp_path / "figures.db")).pool_stats().size = 5  # type: ignore[misc]


def test_warm_opens_min_connections(tmp_path: Path) -> None:
    database = PooledSqliteDatabase(str(tmp_path / "warm.db"), min_connections=2)
    assert (database.warm(), database.pool_stats().idle) == (2, 2)
    database.close_all()


def test_close_pool_leaves_those_in_use_to_be_closed_as_they_come_back(make: Make) -> None:
    database = make()
    with connected(database, 1):
        in_thread(lambda: (database.connect(), database.close()))
        assert database.close_pool() == 1
        assert database.closed == [2]
    assert database.closed == [2, 1]
