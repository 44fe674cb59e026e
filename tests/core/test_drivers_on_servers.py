"""Every driver on its real server: what it tells without asking, and what its probe, rollback and reset do."""

from __future__ import annotations

import contextlib
import importlib
import os
import select
import stat
import threading
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from peewee_web.core import drivers
from peewee_web.core.drivers import Driver, Status, driver_for
from tests.servers.waiting import until

Open = Callable[[Any, str, bool], Any]


@dataclass(frozen=True)
class Kind:
    """One driver, how it connects, and how much of each state it can tell."""

    name: str
    module: str
    package: str
    driver: type[Driver]
    server: str
    open: Open
    idle: Status = Status.IDLE
    in_transaction: Status = Status.IN_TRANSACTION
    failed: Status = Status.IN_TRANSACTION
    lost: Status = Status.LOST
    shows_socket: bool = True


def _psycopg(server: Any, name: str, autocommit: bool) -> Any:
    return importlib.import_module("psycopg").connect(server.url(name), autocommit=autocommit)


def _psycopg2(server: Any, name: str, autocommit: bool) -> Any:
    connection = importlib.import_module("psycopg2").connect(server.url(name))
    connection.autocommit = autocommit
    return connection


def _mysql(module: str, **options: Any) -> Open:
    def connect(server: Any, name: str, autocommit: bool) -> Any:
        return importlib.import_module(module).connect(
            host=server.host, port=server.port, user=server.user, database=name, autocommit=autocommit, **options
        )

    return connect


POSTGRES = [
    Kind("psycopg", "psycopg", "psycopg", drivers.Psycopg, "postgres", _psycopg, failed=Status.FAILED),
    Kind("psycopg2", "psycopg2", "psycopg2-binary", drivers.Psycopg2, "postgres", _psycopg2, failed=Status.FAILED),
]
MYSQL = [
    Kind("PyMySQL", "pymysql", "pymysql", drivers.PyMySQL, "mariadb", _mysql("pymysql")),
    Kind(
        "mysqlclient",
        "MySQLdb",
        "mysqlclient",
        drivers.MySQLClient,
        "mariadb",
        _mysql("MySQLdb"),
        idle=Status.UNKNOWN,
        in_transaction=Status.UNKNOWN,
        failed=Status.UNKNOWN,
    ),
    Kind("mariadb", "mariadb", "mariadb", drivers.MariaDBConnector, "mariadb", _mysql("mariadb")),
    Kind(
        "mysql-connector",
        "mysql.connector",
        "mysql-connector-python",
        drivers.MySQLConnector,
        "mariadb",
        _mysql("mysql.connector", use_pure=True),
        lost=Status.IDLE,  # it keeps no note of the error
    ),
    Kind(
        "mysql-connector-c",
        "mysql.connector.connection_cext",
        "mysql-connector-python with its C extension",
        drivers.MySQLConnectorC,
        "mariadb",
        _mysql("mysql.connector", use_pure=False),
        lost=Status.IDLE,
        shows_socket=False,
    ),
]
KINDS = {kind.name: kind for kind in POSTGRES + MYSQL}


def only(*names: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("kind", names, indirect=True)


on_postgres = only(*(kind.name for kind in POSTGRES))
on_mysql = only(*(kind.name for kind in MYSQL))


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> Kind:
    kind = KINDS[request.param]
    try:
        importlib.import_module(kind.module)
    except ImportError as error:
        pytest.skip(f"no {kind.package} ({error}): tests/servers/install builds what PyPI has no wheels of")
    return kind


@pytest.fixture(scope="module")
def databases(request: pytest.FixtureRequest) -> Iterator[Callable[[str], tuple[Any, str]]]:
    """A server by its fixture's name, with a database of this module's own in it."""
    made: dict[str, tuple[Any, str]] = {}

    def find(fixture: str) -> tuple[Any, str]:
        if fixture not in made:
            server, name = request.getfixturevalue(fixture), f"drivers_{uuid.uuid4().hex[:12]}"
            server.create_database(name)
            made[fixture] = server, name
            server.execute("CREATE TABLE note (id INT PRIMARY KEY)", database=name)
            server.execute("INSERT INTO note VALUES (1)", database=name)
            if fixture == "postgres":
                server.execute("GRANT ALL ON note TO app", database=name)
            else:
                server.execute("CREATE PROCEDURE answers() BEGIN SELECT 1; END", database=name)
                server.execute(
                    "CREATE PROCEDURE begins_and_fails() BEGIN START TRANSACTION;"
                    " INSERT INTO note VALUES (2); INSERT INTO note VALUES (1); COMMIT; END",
                    database=name,
                )
        return made[fixture]

    yield find
    for server, name in made.values():
        server.drop_database(name)


@dataclass
class Session:
    """A connection, its driver, and the server's view of it."""

    kind: Kind
    server: Any
    database: str
    connection: Any
    driver: Driver

    @property
    def status(self) -> Status:
        return self.driver.status(self.connection)

    @property
    def fileno(self) -> int | None:
        return self.driver.fileno(self.connection)

    def run(self, sql: str) -> list[Any]:
        """What a statement of the app's gives."""
        with contextlib.closing(self.connection.cursor()) as cursor:
            cursor.execute(sql)
            return list(cursor.fetchall()) if cursor.description else []

    def fail(self, sql: str = "INSERT INTO note VALUES (1)") -> None:
        """Run a statement that fails, and leave it at that: closing the cursor may be one more command."""
        cursor = self.connection.cursor()
        with pytest.raises(Exception, match=r"(?i)duplicate|nonsense"):
            cursor.execute(sql)

    def seen(self) -> list[str]:
        """The states of all sessions in this database, as the server sees them."""
        return [session.state for session in self.server.sessions(self.database)]

    def kill(self) -> None:
        assert self.server.kill_sessions(self.database) == 1


@pytest.fixture
def opened(kind: Kind, databases: Any) -> Iterator[Callable[..., Session]]:
    server, name = databases(kind.server)
    with contextlib.ExitStack() as stack:

        def open_(autocommit: bool = True, connect: Open = kind.open) -> Session:
            connection = connect(server, name, autocommit)
            stack.callback(close, connection)
            return Session(kind, server, name, connection, driver_for(connection))

        yield open_
    until(lambda: server.sessions(name) == [])


def close(connection: Any) -> None:
    with contextlib.suppress(Exception):
        connection.close()


@pytest.fixture
def session(opened: Callable[..., Session]) -> Session:
    """A connection that is used as Peewee does: with autocommit on."""
    return opened()


def readable(fileno: int | None, within: float) -> bool:
    assert fileno is not None
    poll = select.poll()
    poll.register(fileno, select.POLLIN)
    return bool(poll.poll(within * 1000))


# What it is.


def test_a_connection_is_of_its_driver(session: Session) -> None:
    assert type(session.driver) is session.kind.driver
    assert session.driver.network


def test_the_file_descriptor_is_the_socket(session: Session) -> None:
    if not session.kind.shows_socket:
        assert session.fileno is None
        return
    assert session.fileno is not None
    assert stat.S_ISSOCK(os.fstat(session.fileno).st_mode)
    assert not readable(session.fileno, within=0)


def test_the_socket_goes_readable_when_the_server_ends_the_session(session: Session) -> None:
    if session.kind.shows_socket:
        session.kill()
        assert readable(session.fileno, within=10)


def test_a_closed_connection_is_lost_and_has_no_file_descriptor(session: Session) -> None:
    session.connection.close()
    assert session.status is Status.LOST
    assert session.fileno is None


# What it tells.


def test_a_connection_between_two_statements_is_idle(session: Session) -> None:
    session.run("SELECT 1")
    assert session.status is session.kind.idle


def test_an_open_transaction_is_seen(session: Session) -> None:
    session.run("BEGIN")
    assert session.status is session.kind.in_transaction
    session.run("COMMIT")
    assert session.status is session.kind.idle


def test_a_failed_transaction_is_seen(session: Session) -> None:
    session.run("BEGIN")
    session.fail()
    assert session.status is session.kind.failed


def test_a_failed_statement_leaves_no_transaction_that_a_rollback_does_not_end(session: Session) -> None:
    session.fail()
    assert session.status in (session.kind.idle, Status.UNKNOWN)
    session.driver.rollback(session.connection)
    assert session.status is session.kind.idle


def test_a_lost_connection_is_seen_after_the_error(session: Session) -> None:
    session.kill()
    assert session.status is not Status.LOST  # it asks nobody
    with pytest.raises(Exception):  # noqa: B017, PT011  # each driver's own
        session.driver.probe(session.connection)
    assert session.status is session.kind.lost


@contextlib.contextmanager
def half_read(session: Session) -> Iterator[None]:
    """Within the block a result of three rows has given one."""
    cursor: Any
    rows = "SELECT 1 UNION ALL SELECT 2 UNION ALL SELECT 3"
    if session.kind.name == "psycopg":
        cursor = session.connection.cursor()
        with contextlib.closing(cursor), contextlib.closing(cursor.stream(rows)) as stream:
            next(stream)
            yield
        return
    if session.kind.name in ("PyMySQL", "mysqlclient"):
        cursors = importlib.import_module(f"{session.kind.module}.cursors")
        cursor = session.connection.cursor(cursors.SSCursor)
    else:
        cursor = session.connection.cursor(buffered=False)
    with contextlib.closing(cursor):
        cursor.execute(rows)
        cursor.fetchone()
        yield
        cursor.fetchall()


@only("psycopg", "PyMySQL", "mysql-connector", "mysql-connector-c")
def test_a_half_read_result_is_seen(session: Session) -> None:
    with half_read(session):
        assert session.status is Status.BUSY
    assert session.status in (Status.IDLE, Status.UNKNOWN)


@only("mysqlclient")
def test_what_is_half_read_and_not_seen_fails_the_rollback(session: Session) -> None:
    with pytest.raises(Exception, match="out of sync"), half_read(session):
        session.driver.rollback(session.connection)


@only("psycopg")
def test_an_unfinished_copy_is_seen(session: Session) -> None:
    with session.connection.cursor() as cursor:
        with cursor.copy("COPY note TO STDOUT") as copy:
            assert session.status is Status.BUSY
            assert list(copy)
        assert session.status is Status.IDLE


@on_postgres
def test_a_statement_under_way_is_seen_from_another_thread(session: Session) -> None:
    def wait() -> None:
        with contextlib.suppress(Exception):  # it is cancelled
            session.run("SELECT pg_sleep(60)")

    thread = threading.Thread(target=wait)
    thread.start()
    until(lambda: session.seen() == ["active"])
    assert session.status is Status.BUSY
    session.connection.cancel()
    thread.join(10)
    assert session.status is Status.IDLE


@on_mysql
def test_the_unread_end_of_a_procedure_is_not_taken_for_idle(session: Session) -> None:
    cursor = session.connection.cursor()
    cursor.execute("CALL answers()")
    assert list(cursor.fetchall()) == [(1,)]
    assert session.status in (Status.BUSY, Status.UNKNOWN)
    if session.status is Status.UNKNOWN:  # then a rollback is what the pool tries
        session.driver.rollback(session.connection)
        assert session.status is session.kind.idle
    cursor.close()


@only("PyMySQL", "mysqlclient")
def test_a_transaction_that_a_failed_procedure_left_open_is_not_taken_for_idle(session: Session) -> None:
    session.fail("CALL begins_and_fails()")
    assert session.seen() == ["idle in transaction"]
    assert session.status is Status.UNKNOWN
    session.driver.rollback(session.connection)
    assert session.seen() == ["idle"]


@on_mysql
def test_with_autocommit_off_no_mysql_driver_is_sure_to_be_idle(opened: Callable[..., Session]) -> None:
    session = opened(autocommit=False)
    session.fail()
    assert session.seen() == ["idle in transaction"]
    assert session.status is Status.UNKNOWN
    session.driver.rollback(session.connection)
    assert session.seen() == ["idle"]


# What it does.


@pytest.mark.parametrize("autocommit", [True, False])
def test_the_probe_of_a_healthy_connection_passes_and_begins_nothing(
    opened: Callable[..., Session], autocommit: bool
) -> None:
    session = opened(autocommit)
    session.driver.probe(session.connection)
    assert session.status in (session.kind.idle, Status.UNKNOWN)
    assert session.seen() == ["idle"]
    assert session.run("SELECT 1")


@pytest.mark.parametrize("autocommit", [True, False])
def test_the_probe_of_a_killed_session_raises_and_opens_no_other(
    opened: Callable[..., Session], autocommit: bool
) -> None:
    session = opened(autocommit)
    session.kill()
    with pytest.raises(Exception):  # noqa: B017, PT011  # each driver's own
        session.driver.probe(session.connection)
    assert session.seen() == []


def _mariadb_reconnecting(server: Any, name: str, autocommit: bool) -> Any:
    return _mysql("mariadb", reconnect=True)(server, name, autocommit)


@only("mariadb")
def test_a_driver_that_reconnects_by_itself_fails_the_probe(opened: Callable[..., Session]) -> None:
    session = opened(connect=_mariadb_reconnecting)
    session.driver.probe(session.connection)
    session.kill()
    with pytest.raises(ConnectionResetError, match="by itself"):
        session.driver.probe(session.connection)


@pytest.mark.parametrize("autocommit", [True, False])
def test_a_rollback_ends_the_transaction_on_the_server_and_the_next_can_begin(
    opened: Callable[..., Session], autocommit: bool
) -> None:
    session = opened(autocommit)
    for _ in range(2):
        if autocommit:
            session.run("BEGIN")
        session.run("INSERT INTO note VALUES (3)")
        assert session.seen() == ["idle in transaction"]
        session.driver.rollback(session.connection)
        assert session.seen() == ["idle"]
    assert session.server.execute("SELECT id FROM note", database=session.database) == [(1,)]


def test_a_rollback_without_a_transaction_is_no_error(session: Session) -> None:
    session.driver.rollback(session.connection)
    assert session.run("SELECT 1")


def test_a_failed_transaction_is_rolled_back(session: Session) -> None:
    session.run("BEGIN")
    session.fail("SELECT nonsense")
    session.driver.rollback(session.connection)
    assert session.status is session.kind.idle
    assert session.seen() == ["idle"]


def test_an_executed_rollback_ends_the_transaction_on_the_server(session: Session) -> None:
    session.run("BEGIN")
    session.run("INSERT INTO note VALUES (3)")
    session.driver.execute(session.connection, "ROLLBACK")
    assert session.seen() == ["idle"]


def test_the_result_of_an_executed_statement_is_read_away(session: Session) -> None:
    session.driver.execute(session.connection, "SELECT 1 UNION ALL SELECT 2")
    assert session.status is session.kind.idle
    assert session.run("SELECT 3") == [(3,)]


@on_postgres
@pytest.mark.parametrize("autocommit", [True, False])
def test_discard_all_resets_the_session(opened: Callable[..., Session], autocommit: bool) -> None:
    session = opened(autocommit)
    session.driver.execute(session.connection, "SET statement_timeout = '17s'")
    assert session.run("SHOW statement_timeout") == [("17s",)]
    session.driver.rollback(session.connection)
    session.driver.execute(session.connection, "DISCARD ALL")
    assert session.run("SHOW statement_timeout") == [("0",)]


@only("psycopg")
def test_discard_all_does_not_break_a_statement_that_psycopg_has_prepared(session: Session) -> None:
    def use() -> None:
        assert session.connection.execute("SELECT %s::int", (1,), prepare=True).fetchall() == [(1,)]

    use()
    assert session.run("SELECT count(*) FROM pg_prepared_statements") == [(1,)]
    session.driver.execute(session.connection, "DISCARD ALL")
    use()


@only("psycopg")
def test_probes_leave_no_prepared_statement_behind(session: Session) -> None:
    for _ in range(2 * session.connection.prepare_threshold):
        session.driver.probe(session.connection)
    assert session.run("SELECT count(*) FROM pg_prepared_statements") == [(0,)]


@on_postgres
def test_a_notification_makes_the_socket_readable_and_the_probe_passes(session: Session) -> None:
    session.run("LISTEN news")
    session.server.execute("NOTIFY news", database=session.database)
    assert readable(session.fileno, within=10)
    session.driver.probe(session.connection)
    assert not readable(session.fileno, within=0)
    assert session.run("SELECT 1") == [(1,)]
