"""Databases of any class, as apps bring them."""

from __future__ import annotations

import contextvars
import gc
import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import peewee
import pytest
from playhouse.pool import PooledPostgresqlDatabase as PlayhousePostgresqlPool
from playhouse.pool import PooledSqliteDatabase as PlayhouseSqlitePool
from playhouse.postgres_ext import PostgresqlExtDatabase, Psycopg3Database, ServerSide
from playhouse.sqliteq import SqliteQueueDatabase

import peewee_web
from peewee_web import Databases, DatabaseUnavailable, ScopeClosed
from peewee_web.core.adopt import adopt
from peewee_web.core.connections import ScopedConnections
from tests.core.working import PATIENCE, Working, in_thread, in_use, query, save, saved
from tests.servers.mariadb import MariaDBServer
from tests.servers.ports import free_port
from tests.servers.postgres import PostgresServer


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "adopted.db")


# SQLite


def with_notes(database: Any) -> Any:
    adopt(database)
    with database.connection_context():
        database.execute_sql("CREATE TABLE note (text TEXT)")
    return database


def test_adopting_returns_the_same_object_and_adopting_twice_changes_nothing(path: str) -> None:
    database = peewee.SqliteDatabase(path)
    assert adopt(database) is database
    state = database._state  # type: ignore[attr-defined]
    assert adopt(database) is database
    assert database._state is state  # type: ignore[attr-defined]


def test_a_plain_database_has_a_connection_for_each_scope(path: str) -> None:
    database = with_notes(peewee.SqliteDatabase(path))
    with peewee_web.scope():
        outer = database.connection()
        with peewee_web.scope():
            assert database.connection() is not outer


def test_a_plain_databases_connection_is_closed_at_the_end(path: str) -> None:
    database = with_notes(peewee.SqliteDatabase(path))
    with peewee_web.scope():
        connection = database.connection()
    with pytest.raises(sqlite3.ProgrammingError):
        connection.execute("SELECT 1")


def test_a_connection_that_was_open_stays_the_threads(path: str) -> None:
    database = peewee.SqliteDatabase(path)
    database.connect()
    connection = database.connection()
    adopt(database)
    assert database.connection() is connection
    database.close()


def test_a_connection_that_another_thread_has_open_stays_that_threads(path: str) -> None:
    database = PlayhouseSqlitePool(path, check_same_thread=False)
    adopted = threading.Event()
    connected = threading.Event()

    def work() -> bool:
        before = database.connection()
        connected.set()
        assert adopted.wait(PATIENCE)
        try:
            return database.connection() is before
        finally:
            database.close()

    thread = Working(contextvars.Context(), work)
    assert connected.wait(PATIENCE)
    adopt(database)
    adopted.set()
    assert thread.result()
    assert in_use(database) == 0
    database.close_all()


def test_a_transaction_that_was_open_goes_on(path: str) -> None:
    database = peewee.SqliteDatabase(path)
    database.execute_sql("CREATE TABLE note (text TEXT)")
    with database.atomic():
        save(database)
        adopt(database)
        assert database.in_transaction()
    database.close()
    assert saved(database) == ["x"]


def test_a_block_that_was_open_goes_on(path: str) -> None:
    database = peewee.SqliteDatabase(path)
    with database:
        database.execute_sql("CREATE TABLE note (text TEXT)")
        adopt(database)
        save(database)
    assert database.is_closed()
    assert saved(database) == ["x"]


def test_a_database_of_an_old_pool_is_bounded_as_before(path: str) -> None:
    database = with_notes(PlayhouseSqlitePool(path, max_connections=1))
    with peewee_web.scope():
        query(database)
        with peewee_web.scope(), pytest.raises(peewee_web.PoolTimeout):
            query(database)
    database.close_all()


def test_a_connection_of_a_sqlite_pool_may_change_threads(path: str) -> None:
    database = with_notes(PlayhouseSqlitePool(path))
    with peewee_web.scope():
        query(database)
        assert Working(None, lambda: query(database)).result() == 1
    database.close_all()


def test_idle_connections_of_an_adopted_sqlite_pool_may_change_threads(path: str) -> None:
    database = PlayhouseSqlitePool(path)
    query(database)
    database.close()
    adopt(database)

    @peewee_web.scope()
    def work() -> int:
        return query(database)

    assert in_thread(work) == 1
    database.close_all()


@pytest.mark.filterwarnings("ignore:.*sqlite3.Connection:pytest.PytestUnraisableExceptionWarning")
def test_a_connection_that_was_open_when_its_pool_was_adopted_is_not_given_to_another_thread(path: str) -> None:
    database = PlayhouseSqlitePool(path)
    query(database)
    adopt(database)
    database.close()
    assert in_thread(lambda: query(database)) == 1
    query(database)
    database.close()
    database.close_all()
    gc.collect()  # closed by its finalizer, which Python 3.13 warns about: only its own thread could have closed it


def test_functions_and_pragmas_of_the_database_stay(path: str) -> None:
    database: Any = peewee.SqliteDatabase(path, pragmas={"cache_size": -1234})
    database.register_function(lambda: 42, "answer", 0)
    adopt(database)
    with peewee_web.scope():
        assert database.execute_sql("SELECT answer()").fetchone() == (42,)
        assert database.cache_size == -1234


def test_isinstance_and_the_name_of_the_class_hold(path: str) -> None:
    database = adopt(PlayhouseSqlitePool(path))
    assert isinstance(database, PlayhouseSqlitePool)
    assert isinstance(database, ScopedConnections)
    assert type(database).__name__ == "PooledSqliteDatabase"


def test_models_of_an_adopted_database_go_on(path: str) -> None:
    database = peewee.SqliteDatabase(path)

    class Note(database.Model):  # type: ignore[name-defined, misc]
        text = peewee.TextField()

    adopt(database)
    with peewee_web.scope():
        Note.create_table()
        Note.create(text="x")
        assert [note.text for note in Note.select()] == ["x"]


def test_a_queue_database_reads_in_the_scope_and_writes_in_its_own_thread(path: str) -> None:
    database: Any = SqliteQueueDatabase(path)
    database.execute_sql("CREATE TABLE note (text TEXT)").fetchall()
    adopt(database)
    try:
        with peewee_web.scope():
            database.execute_sql("INSERT INTO note VALUES ('x')").fetchall()
            assert database.execute_sql("SELECT text FROM note").fetchall() == [("x",)]
    finally:
        database.stop()


@pytest.mark.parametrize("autoconnect", [True, False])
def test_within_a_scope_connecting_is_the_scopes_business(path: str, autoconnect: bool) -> None:
    database = adopt(peewee.SqliteDatabase(path, autoconnect=autoconnect))
    with peewee_web.scope():
        assert query(database) == 1
        with database.atomic():
            assert query(database) == 1


def test_outside_any_scope_autoconnect_keeps_its_meaning(path: str) -> None:
    database = adopt(peewee.SqliteDatabase(path, autoconnect=False))
    with pytest.raises(peewee.InterfaceError, match="not opened"):
        query(database)


def test_a_deferred_database_may_be_initialised_after_it_was_adopted(path: str) -> None:
    database: Any = adopt(PlayhouseSqlitePool(None))
    with peewee_web.scope(), pytest.raises(peewee.InterfaceError, match="must be initialized"):
        query(database)
    database.init(path)
    with peewee_web.scope():
        assert query(database) == 1
    database.close_all()


def test_a_pool_of_ours_may_be_deferred_as_well(path: str) -> None:
    database = peewee_web.PooledSqliteDatabase(None)
    database.init(path)
    with peewee_web.scope():
        assert query(database) == 1
    database.close_all()


def test_what_a_proxy_stands_for_is_adopted(path: str) -> None:
    proxy = peewee.DatabaseProxy()
    proxy.initialize(peewee.SqliteDatabase(path))
    databases = Databases(proxy)
    assert databases.default is proxy.obj
    with databases.scope():
        assert query(proxy) == 1


def test_a_proxy_without_a_database_says_so() -> None:
    with pytest.raises(ValueError, match=r"initialize\(\)"):
        Databases(peewee.DatabaseProxy())


@pytest.mark.parametrize("thing", [None, 7, object(), b"postgresql://u:s3cret@h/d", ["sqlite://"]])
def test_what_is_no_database_is_refused_by_what_it_is(thing: object) -> None:
    with pytest.raises(TypeError, match="is not a Peewee database") as raised:
        adopt(thing)  # type: ignore[type-var]
    assert "s3cret" not in str(raised.value)


def test_an_asyncio_database_is_refused(path: str) -> None:
    pwasyncio = pytest.importorskip("playhouse.pwasyncio")
    with pytest.raises(TypeError, match="asyncio"):
        adopt(pwasyncio.AsyncSqliteDatabase(path))


def test_a_connection_whose_first_statement_fails_is_closed(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    database = PlayhouseSqlitePool(path, max_connections=1)
    adopt(database)

    def fail(connection: Any) -> None:
        raise peewee.OperationalError("the first statement")

    monkeypatch.setattr(database, "_initialize_connection", fail)
    with peewee_web.scope():
        with pytest.raises(peewee.OperationalError, match="the first statement"):
            query(database)
        assert (in_use(database), database.pool_stats().idle) == (0, 0)
        monkeypatch.undo()
        assert query(database) == 1
    database.close_all()


def test_a_connection_whose_transaction_can_not_begin_is_closed(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    database = PlayhouseSqlitePool(path, max_connections=1)
    scope = Databases(database).scope(atomic=True)

    def fail(*args: Any) -> None:
        raise peewee.OperationalError("database is locked")

    with scope.activate():
        monkeypatch.setattr(PlayhouseSqlitePool, "begin", fail)
        with pytest.raises(peewee.OperationalError, match="locked"):
            query(database)
        assert (in_use(database), database.pool_stats().idle) == (0, 0)
        monkeypatch.undo()
        query(database)
        assert database.in_transaction()
    scope.end()
    database.close_all()


# Peewee's own ways to open and close, within a scope.


def test_connecting_twice_is_an_error_as_in_peewee(path: str) -> None:
    database = adopt(peewee.SqliteDatabase(path))
    with peewee_web.scope():
        assert database.connect() is True
        assert database.connect(reuse_if_open=True) is False
        with pytest.raises(peewee.OperationalError, match="already opened"):
            database.connect()


def test_closing_says_whether_there_was_something_to_close(path: str) -> None:
    database = adopt(peewee.SqliteDatabase(path))
    with peewee_web.scope():
        query(database)
        assert database.close() is True
        assert database.close() is False


def test_closing_inside_a_transaction_is_an_error_as_in_peewee(path: str) -> None:
    database = adopt(peewee.SqliteDatabase(path))
    with peewee_web.scope(), database.atomic(), pytest.raises(peewee.OperationalError, match="transaction is open"):
        database.close()


def test_a_query_after_closing_takes_another_connection(path: str) -> None:
    database = with_notes(PlayhouseSqlitePool(path))
    with peewee_web.scope():
        query(database)
        database.close()
        assert in_use(database) == 0
        query(database)
        assert in_use(database) == 1
    assert in_use(database) == 0
    database.close_all()


BLOCKS: dict[str, Callable[[Any], Any]] = {
    "itself": lambda database: database,
    "connection_context": lambda database: database.connection_context(),
}


@pytest.mark.parametrize("block", BLOCKS)
def test_a_block_opens_and_closes_as_in_peewee_when_nothing_was_open(path: str, block: str) -> None:
    database = adopt(PlayhouseSqlitePool(path))
    with peewee_web.scope():
        with BLOCKS[block](database):
            query(database)
        assert database.is_closed()
        assert in_use(database) == 0
    database.close_all()


@pytest.mark.parametrize("block", BLOCKS)
def test_a_block_leaves_the_scopes_own_connection_open(path: str, block: str) -> None:
    database = adopt(PlayhouseSqlitePool(path))
    with peewee_web.scope():
        before = database.connection()
        with BLOCKS[block](database), BLOCKS[block](database):
            assert database.connection() is before
        assert database.connection() is before
    database.close_all()


@pytest.mark.parametrize("block", BLOCKS)
def test_a_block_that_fails_leaves_the_scopes_own_connection_open(path: str, block: str) -> None:
    database = adopt(PlayhouseSqlitePool(path))
    with peewee_web.scope():
        before = database.connection()
        with pytest.raises(ZeroDivisionError), BLOCKS[block](database):
            raise ZeroDivisionError
        assert database.connection() is before
    database.close_all()


@pytest.mark.parametrize("block", BLOCKS)
def test_nested_blocks_close_with_the_outermost(path: str, block: str) -> None:
    database = adopt(PlayhouseSqlitePool(path))
    with peewee_web.scope():
        with BLOCKS[block](database):
            with BLOCKS[block](database):
                query(database)
            assert not database.is_closed()
        assert database.is_closed()
    database.close_all()


def test_an_explicit_connection_is_closed_by_a_block_as_in_peewee(path: str) -> None:
    plain, adopted = peewee.SqliteDatabase(path), adopt(peewee.SqliteDatabase(path))
    with peewee_web.scope():
        for database in (plain, adopted):
            database.connect()
            with database:
                pass
        assert plain.is_closed() == adopted.is_closed()


def test_a_block_that_waits_for_an_ended_scope_is_told(path: str) -> None:
    database = adopt(peewee.SqliteDatabase(path))
    with peewee_web.scope():
        context = contextvars.copy_context()

    def work() -> None:
        with database:
            pass

    with pytest.raises(ScopeClosed):
        context.run(work)


def test_manual_close_and_close_stale_and_close_all_leave_nothing(path: str) -> None:
    database = adopt(PlayhouseSqlitePool(path))
    with peewee_web.scope():
        query(database)
        database.manual_close()
        query(database)
        database.close_stale(age=-1)
    with peewee_web.scope():
        query(database)
        database.close_all()
        assert query(database) == 1
    assert in_use(database) == 0
    database.close_all()


# Real servers


@pytest.fixture(params=["plain", "pool", "ext", "psycopg3", "plain-psycopg3"])
def foreign_postgres(request: pytest.FixtureRequest, postgres: PostgresServer) -> Iterator[Any]:
    options: dict[str, Any] = {"host": postgres.host, "port": postgres.port, "user": postgres.user}
    kinds: dict[str, Callable[[], Any]] = {
        "plain": lambda: peewee.PostgresqlDatabase("postgres", **options),
        "pool": lambda: PlayhousePostgresqlPool("postgres", max_connections=2, **options),
        "ext": lambda: PostgresqlExtDatabase("postgres", server_side_cursors=True, **options),
        "psycopg3": lambda: Psycopg3Database("postgres", **options),
        "plain-psycopg3": lambda: peewee.PostgresqlDatabase("postgres", prefer_psycopg3=True, **options),
    }
    database = kinds[request.param]()
    yield adopt(database)
    if isinstance(database, PlayhousePostgresqlPool):
        database.close_all()


def test_a_foreign_postgresql_database_serves_scopes(foreign_postgres: Any, postgres: PostgresServer) -> None:
    with peewee_web.scope():
        outer = foreign_postgres.execute_sql("SELECT pg_backend_pid()").fetchone()
        with peewee_web.scope():
            assert foreign_postgres.execute_sql("SELECT pg_backend_pid()").fetchone() != outer
        with foreign_postgres.atomic():
            query(foreign_postgres)
        assert foreign_postgres.execute_sql("SELECT pg_backend_pid()").fetchone() == outer


def test_a_foreign_postgresql_database_leaves_no_transaction(foreign_postgres: Any, postgres: PostgresServer) -> None:
    with peewee_web.scope():
        foreign_postgres.begin()
    assert all(session.state == "idle" for session in postgres.sessions())


def test_a_server_side_cursor_of_a_scope_works_and_goes_with_it(postgres: PostgresServer) -> None:
    options: dict[str, Any] = {"host": postgres.host, "port": postgres.port, "user": postgres.user}

    class Number(peewee.Model):
        n = peewee.IntegerField()

        class Meta:
            database = adopt(PostgresqlExtDatabase("postgres", **options))
            temporary = True

    with peewee_web.scope():
        Number.create_table()
        Number.insert_many([(n,) for n in range(100)], [Number.n]).execute()
        numbers = ServerSide(Number.select(), array_size=10)
        assert next(numbers).n == 0
        with Number._meta.database.atomic():
            assert sum(1 for _ in ServerSide(Number.select())) == 100


def test_a_foreign_mysql_database_serves_scopes(mariadb: MariaDBServer) -> None:
    database = adopt(peewee.MySQLDatabase("test", host=mariadb.host, port=mariadb.port, user=mariadb.user))
    with peewee_web.scope(), database.atomic():
        assert query(database) == 1
    assert database.is_closed()


def test_an_outage_is_named_on_a_foreign_database_as_well() -> None:
    database = adopt(peewee.PostgresqlDatabase("x", host="127.0.0.1", port=free_port()))
    database.pool.configure(database.pool.options.but(timeout=None))
    with peewee_web.scope(), pytest.raises(DatabaseUnavailable):
        query(database)
