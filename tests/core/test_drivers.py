"""What is known of each driver, asked of the real ones."""

from __future__ import annotations

import contextlib
import socket
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import peewee
import psycopg2
import psycopg2.extensions
import pytest

import peewee_web
from peewee_web import DatabaseUnavailable, PoolTimeout
from peewee_web.core.drivers import (
    Apsw,
    CySqlite,
    Driver,
    Psycopg2,
    Sqlite,
    Status,
    driver_for,
)
from peewee_web.core.errors import ScopeError
from peewee_web.core.faults import is_outage
from tests.core.working import Served, in_thread, in_use, query, save, saved
from tests.servers.ports import free_port
from tests.servers.postgres import PostgresServer

# The drivers of SQLite.


@dataclass(frozen=True)
class File:
    """A database file with a table ``note`` of three rows, and a connection to it."""

    connection: Any
    driver: Driver

    @property
    def status(self) -> Status:
        return self.driver.status(self.connection)

    def cursor(self, sql: str) -> Any:
        """A cursor of which nothing has been read."""
        cursor = self.connection.cursor()
        cursor.execute(sql)
        return cursor

    def run(self, sql: str) -> list[Any]:
        return list(self.cursor(sql).fetchall())


SQLITE: dict[str, tuple[type[Driver], Callable[[Any, str], Any]]] = {
    "sqlite3": (Sqlite, lambda module, path: module.connect(path, isolation_level=None, check_same_thread=False)),
    "apsw": (Apsw, lambda module, path: module.Connection(path)),
    "cysqlite": (CySqlite, lambda module, path: module.connect(path)),
}


@pytest.fixture(params=SQLITE)
def file(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[File]:
    kind, connect = SQLITE[request.param]
    connection = connect(pytest.importorskip(request.param), str(tmp_path / "notes.db"))
    file = File(connection, driver_for(connection))
    assert type(file.driver) is kind
    file.run("CREATE TABLE note (text)")
    file.run("INSERT INTO note VALUES ('a'), ('b'), ('c')")
    yield file
    connection.close()


def test_sqlite_has_no_socket(file: File) -> None:
    assert not file.driver.network
    assert file.driver.fileno(file.connection) is None


def test_sqlite_is_idle_between_two_statements(file: File) -> None:
    assert file.run("SELECT text FROM note") == [("a",), ("b",), ("c",)]
    assert file.status is Status.IDLE


def test_an_open_transaction_is_seen_in_sqlite(file: File) -> None:
    file.run("BEGIN")
    assert file.status is Status.IN_TRANSACTION
    file.run("COMMIT")
    assert file.status is Status.IDLE


@pytest.mark.parametrize("statement", ["SELECT text FROM note", "INSERT INTO note VALUES ('d') RETURNING text"])
def test_a_result_of_sqlite_is_unfinished_until_it_is_read(file: File, statement: str) -> None:
    cursor = file.cursor(statement)
    assert file.status is Status.BUSY
    cursor.fetchall()
    assert file.status is Status.IDLE


def test_a_half_read_result_of_sqlite_is_seen_until_its_cursor_is_closed(file: File) -> None:
    cursor = file.cursor("SELECT text FROM note")
    cursor.fetchone()
    assert file.status is Status.BUSY
    cursor.close()
    assert file.status is Status.IDLE


def test_a_result_that_outlives_its_transaction_is_seen(file: File) -> None:
    file.run("BEGIN")
    cursor = file.cursor("SELECT text FROM note")
    cursor.fetchone()
    file.driver.rollback(file.connection)
    assert file.status is Status.BUSY
    cursor.close()


def test_the_probe_of_sqlite_leaves_nothing_open(file: File) -> None:
    file.driver.probe(file.connection)
    assert file.status is Status.IDLE


def test_a_rollback_ends_the_transaction_of_sqlite(file: File) -> None:
    file.run("BEGIN")
    file.run("DELETE FROM note")
    file.driver.rollback(file.connection)
    assert file.status is Status.IDLE
    assert file.run("SELECT count(*) FROM note") == [(3,)]


def test_a_rollback_of_sqlite_without_a_transaction_is_no_error(file: File) -> None:
    file.driver.rollback(file.connection)
    assert file.status is Status.IDLE


@pytest.mark.parametrize("statement", ["SELECT text FROM note", "UPDATE note SET text = 'x'"])
def test_a_statement_that_the_driver_executes_in_sqlite_is_finished(file: File, statement: str) -> None:
    file.driver.execute(file.connection, statement)
    assert file.status is Status.IDLE


def test_a_statement_that_sqlite_executes_row_by_row_is_run_to_its_end() -> None:
    visited: list[int] = []
    with contextlib.closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        connection.create_function("visit", 1, visited.append)
        driver_for(connection).execute(connection, "SELECT visit(column1) FROM (VALUES (1), (2), (3))")
    assert visited == [1, 2, 3]


def test_a_closed_connection_of_sqlite_is_lost(file: File) -> None:
    file.connection.close()
    assert file.status is Status.LOST
    with pytest.raises(Exception, match="closed"):
        file.driver.probe(file.connection)


def test_a_connection_of_another_thread_is_not_taken_for_idle() -> None:
    connection = in_thread(lambda: sqlite3.connect(":memory:", isolation_level=None, check_same_thread=True))
    assert driver_for(connection).status(connection) is Status.UNKNOWN
    del connection


# A driver that nothing is known of.


class Plain:
    """A connection as PEP 249 has it, and no more: it keeps a transaction open from the first statement on."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.description: Any = None

    def cursor(self) -> Plain:
        return self

    def execute(self, sql: str) -> None:
        self.calls.append(sql)
        self.description = ("column",) if sql.startswith("SELECT") else None

    def fetchall(self) -> None:
        self.calls.append("fetchall")

    def close(self) -> None:
        self.calls.append("close")

    def rollback(self) -> None:
        self.calls.append("rollback")

    def fileno(self) -> int:
        return 0  # of what, nobody knows


def test_of_an_unknown_driver_nothing_is_claimed() -> None:
    connection = Plain()
    driver = driver_for(connection)
    assert type(driver) is Driver
    assert driver.status(connection) is Status.UNKNOWN
    assert driver.fileno(connection) is None


@pytest.mark.parametrize("thing", [1, object(), None])
def test_what_is_no_connection_is_asked_for_nothing(thing: object) -> None:
    """An app's own tests may connect with numbers, as Peewee's do."""
    driver = driver_for(thing)
    driver.probe(thing)
    assert (driver.status(thing), driver.fileno(thing), driver.network) == (Status.IDLE, None, False)


def test_the_probe_through_an_unknown_driver_leaves_no_transaction_open() -> None:
    connection = Plain()
    driver_for(connection).probe(connection)
    assert connection.calls == ["SELECT 1", "fetchall", "close", "rollback"]


def test_an_unknown_driver_is_asked_for_no_rows_where_there_are_none() -> None:
    connection = Plain()
    driver_for(connection).execute(connection, "DISCARD ALL")
    assert connection.calls == ["DISCARD ALL", "close"]


def test_a_driver_is_recognised_by_name_where_it_is_not_even_installed() -> None:
    cls = type("Connection", (), {"__module__": "sqlcipher3.dbapi2"})
    assert type(driver_for(cls())) is Sqlite


# What the drivers tell of Peewee's transactions.


def status(database: Any) -> Status:
    connection = database.connection()
    return driver_for(connection).status(connection)


@pytest.mark.parametrize("begin", ["begin", "session_start", "sql"])
def test_an_open_transaction_is_seen(served: Served, begin: str) -> None:
    database = served.database
    with peewee_web.scope():
        query(database)
        assert status(database) is Status.IDLE
        database.execute_sql("BEGIN") if begin == "sql" else getattr(database, begin)()
        assert status(database) is Status.IN_TRANSACTION


def test_a_finished_transaction_is_seen(served: Served) -> None:
    with peewee_web.scope():
        with served.database.atomic():
            save(served.database)
        assert status(served.database) is Status.IDLE


def test_a_failed_transaction_is_an_open_one(served: Served) -> None:
    with peewee_web.scope():
        served.database.begin()
        with pytest.raises(peewee.DatabaseError):
            served.database.execute_sql("SELECT nonsense")
        assert status(served.database) in (Status.IN_TRANSACTION, Status.FAILED)


def test_a_connection_that_the_app_closed_is_lost(served: Served) -> None:
    with peewee_web.scope():
        connection = served.database.connection()
        connection.close()
        assert driver_for(connection).status(connection) is Status.LOST


class AppConnection(psycopg2.extensions.connection):
    """What an app gives as ``connection_factory``."""


def test_the_driver_is_recognised_behind_an_apps_own_connection_class(postgres: PostgresServer) -> None:
    database: Any = peewee_web.connect(postgres.url(), connection_factory=AppConnection)
    with peewee_web.scope():
        database.begin()
        assert isinstance(database.connection(), AppConnection)
        assert type(driver_for(database.connection())) is Psycopg2
        assert status(database) is Status.IN_TRANSACTION
    database.close_all()


# A transaction left open, on real servers.


@pytest.mark.parametrize("begin", ["begin", "session_start", "sql"])
def test_a_transaction_left_open_is_rolled_back_on_the_server(served: Served, begin: str) -> None:
    with peewee_web.scope():
        served.database.execute_sql("BEGIN") if begin == "sql" else getattr(served.database, begin)()
        save(served.database)
    assert [session.state for session in served.server.sessions(served.name)] == ["idle"]
    assert saved(served.database) == []


@pytest.mark.parametrize("begin", ["begin", "sql"])
def test_closing_rolls_back_what_was_begun_without_a_block(served: Served, begin: str) -> None:
    with peewee_web.scope():
        served.database.execute_sql("BEGIN") if begin == "sql" else served.database.begin()
        save(served.database)
        served.database.close()
        with peewee_web.scope():
            query(served.database)
            assert status(served.database) is Status.IDLE
    assert saved(served.database) == []


def test_a_failed_transaction_is_rolled_back_and_its_connection_kept(served: Served) -> None:
    with peewee_web.scope():
        connection = served.database.connection()
        served.database.begin()
        with pytest.raises(peewee.DatabaseError):
            served.database.execute_sql("SELECT nonsense")
    with peewee_web.scope():
        assert served.database.connection() is connection
        assert query(served.database) == 1


# A server that goes away.


def test_a_killed_session_is_seen_as_lost_after_the_error(served: Served) -> None:
    with peewee_web.scope():
        served.database.begin()  # else it would be replaced
        assert status(served.database) is not Status.LOST
        served.server.kill_sessions(served.name)
        with pytest.raises(DatabaseUnavailable):
            query(served.database)
        assert status(served.database) is Status.LOST


@pytest.mark.parametrize("depth", [1, 2])
def test_the_first_error_surfaces_when_the_session_is_killed_inside_atomic(served: Served, depth: int) -> None:
    database = served.database
    first: list[BaseException] = []

    def work(depth: int) -> None:
        with database.atomic():
            if depth > 1:
                return work(depth - 1)
            save(database)
            served.server.kill_sessions(served.name)
            try:
                query(database)
            except BaseException as error:
                first.append(error)
                raise

    with peewee_web.scope(), pytest.raises((peewee.OperationalError, peewee.InterfaceError)) as raised:
        work(depth)
    assert raised.value is first[0]


def test_the_connection_of_a_killed_session_is_not_used_again(served: Served) -> None:
    with peewee_web.scope():
        served.database.begin()
        served.server.kill_sessions(served.name)
    with peewee_web.scope():
        assert query(served.database) == 1


def test_an_atomic_scope_whose_session_was_killed_rolls_back_without_an_error(served: Served) -> None:
    scope = peewee_web.Databases(served.database).scope(atomic=True)
    with scope.activate():
        save(served.database)
        served.server.kill_sessions(served.name)
        scope.complete(commit=False)
        assert query(served.database) == 1
    scope.end()
    assert saved(served.database) == []


def test_an_atomic_scope_whose_session_was_killed_can_not_commit(served: Served) -> None:
    scope = peewee_web.Databases(served.database).scope(atomic=True)
    with scope.activate():
        save(served.database)
        served.server.kill_sessions(served.name)
        with pytest.raises((peewee.OperationalError, peewee.InterfaceError)):
            scope.complete(commit=True)
    scope.end()
    assert saved(served.database) == []


@pytest.mark.parametrize("served", ["psycopg3", "psycopg2"], indirect=True)
def test_postgresql_would_undo_a_failed_transaction_so_its_commit_is_refused(served: Served) -> None:

    @peewee_web.Databases(served.database).scope(atomic=True)
    def work() -> None:
        save(served.database)
        with pytest.raises(peewee.DatabaseError):
            served.database.execute_sql("SELECT nonsense")
        assert status(served.database) is Status.FAILED

    with pytest.raises(ScopeError, match=r"with db\.atomic"):
        work()


# What a failed connection attempt means.


def attempt(url: str, driver: str, **options: Any) -> BaseException:
    """What a connection attempt raises."""
    if driver == "psycopg3":
        options["prefer_psycopg3"] = True
    database: Any = peewee_web.connect(url, **{"timeout": None, **options})
    with peewee_web.scope(), pytest.raises(peewee.DatabaseError) as raised:
        query(database)
    assert in_use(database) == 0
    return raised.value


def test_a_refused_connection_is_an_outage(served: Served) -> None:
    error = attempt(served.server.url(served.name, port=free_port()), served.driver)
    assert isinstance(error, DatabaseUnavailable)


def test_an_outage_names_its_cause_on_one_line(served: Served) -> None:
    error = attempt(served.server.url(served.name, port=free_port()), served.driver)
    assert is_outage(error.__cause__ or error)
    assert "\n" not in str(error)


def test_an_unknown_database_is_no_outage(served: Served) -> None:
    error = attempt(served.server.url("no_such_database"), served.driver)
    assert not isinstance(error, DatabaseUnavailable)
    assert "no_such_database" in str(error)


def test_an_unknown_user_is_no_outage(served: Served) -> None:
    error = attempt(served.server.url(served.name), served.driver, user="nobody_we_know", password="s3cret")
    assert not isinstance(error, DatabaseUnavailable)
    assert "s3cret" not in str(error)


def test_a_wrong_password_is_no_outage_on_mariadb(mariadb: Any) -> None:
    mariadb.execute("CREATE OR REPLACE USER locked@'%' IDENTIFIED BY 'right'")
    error = attempt(mariadb.url(), "pymysql", user="locked", password="wrong")
    assert not isinstance(error, DatabaseUnavailable)
    assert "wrong" not in str(error)


@pytest.fixture(scope="module")
def strict_postgres() -> Any:
    """A server that asks for passwords, and has three places for those who know theirs."""
    with PostgresServer(settings={"max_connections": 5, "superuser_reserved_connections": 2}) as server:
        server.execute("ALTER ROLE app PASSWORD 'right'")
        rules = server.data / "pg_hba.conf"
        rules.write_text("host all app 127.0.0.1/32 scram-sha-256\n" + rules.read_text())
        server.execute("SELECT pg_reload_conf()")
        yield server


@pytest.mark.parametrize("driver", ["psycopg3", "psycopg2"])
def test_a_wrong_password_is_no_outage_on_postgresql(strict_postgres: PostgresServer, driver: str) -> None:
    error = attempt(strict_postgres.url(), driver, password="wrong")
    assert not isinstance(error, DatabaseUnavailable)
    assert "authentication failed" in str(error)


@pytest.mark.parametrize("driver", ["psycopg3", "psycopg2"])
def test_a_missing_password_is_no_outage_on_postgresql(strict_postgres: PostgresServer, driver: str) -> None:
    assert not isinstance(attempt(strict_postgres.url(), driver), DatabaseUnavailable)


@pytest.mark.parametrize("driver", ["psycopg3", "psycopg2"])
def test_too_many_clients_are_an_outage_on_postgresql(strict_postgres: PostgresServer, driver: str) -> None:
    full = [psycopg2.connect(strict_postgres.url(), password="right") for _ in range(3)]
    try:
        error = attempt(strict_postgres.url(), driver, password="right")
    finally:
        for connection in full:
            connection.close()
    assert isinstance(error, DatabaseUnavailable)


def test_too_many_clients_are_an_outage_on_mariadb(mariadb: Any) -> None:
    [[limit]] = mariadb.execute("SELECT @@max_connections")
    mariadb.execute("SET GLOBAL max_connections = 10")
    full = peewee_web.connect(mariadb.url(), max_connections=12, timeout=None)
    scopes = [peewee_web.scope() for _ in range(12)]  # one more than the limit is let in with root's rights

    def fill() -> None:
        for scope in scopes:
            with scope.activate():
                query(full)

    try:
        with pytest.raises(DatabaseUnavailable):
            fill()
    finally:
        for scope in scopes:
            scope.end()
        full.close_all()
        mariadb.execute(f"SET GLOBAL max_connections = {limit}")


@pytest.mark.parametrize("driver", ["psycopg2", "psycopg"])
@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("FATAL:  the database system is starting up", True),
        ("FATAL:  the database system is shutting down", True),
        ("FATAL:  the database system is in recovery mode", True),
        ("FATAL:  sorry, too many clients already", True),
        ("connection timeout expired", True),
        ('FATAL:  password authentication failed for user "app"', False),
        ('FATAL:  role "app" does not exist', False),
    ],
)
def test_what_libpq_says_tells_an_outage(driver: str, message: str, expected: bool) -> None:
    module = pytest.importorskip(driver)
    assert is_outage(module.OperationalError(message)) is expected


def test_sqlite_has_no_outages(tmp_path: Any) -> None:
    database = peewee_web.connect(f"sqlite:///{tmp_path}/none/x.db")
    with peewee_web.scope(), pytest.raises(peewee.OperationalError, match="unable to open") as raised:
        query(database)
    assert not isinstance(raised.value, DatabaseUnavailable)


def test_a_full_pool_is_no_outage(tmp_path: Any) -> None:
    database = peewee_web.connect(f"sqlite:///{tmp_path}/x.db", max_connections=1, timeout=None)
    with peewee_web.scope():
        query(database)
        with peewee_web.scope(), pytest.raises(PoolTimeout, match=r"\(1 of 1 in use"):
            query(database)
    database.close_all()


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ConnectionRefusedError(111, "refused"), True),
        (TimeoutError("timed out"), True),
        (socket.gaierror(-2, "name or service not known"), True),
        (FileNotFoundError(2, "no such certificate"), False),
        (PermissionError(13, "unreadable key"), False),
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_error_of_the_socket_is_an_outage_and_one_of_a_file_is_not(error: OSError, expected: bool) -> None:
    assert is_outage(error) is expected
