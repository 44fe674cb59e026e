"""Connection attempts that end by themselves: every driver, silence at every stage of the login."""

from __future__ import annotations

import contextlib
import gc
import os
import socket
import threading
import time
from typing import Any

import peewee
import pytest

from peewee_web.core import dialling
from peewee_web.core.dialling import open_connection
from peewee_web.core.faults import is_outage
from tests.core import raw
from tests.core.halting import HaltingWay
from tests.core.working import PATIENCE, Working
from tests.servers.ports import free_port
from tests.servers.waiting import until

TIMEOUT = 1.0
# What libpq needs at least, and some time for a busy machine.
LATEST = 2.0 + 2.0


@pytest.fixture(params=["plain", "tls"])
def tls(request: pytest.FixtureRequest) -> bool:
    return bool(request.param == "tls")


only = pytest.mark.parametrize


def dial(database: Any, timeout: float = TIMEOUT, keepalive: float | None = None) -> Any:
    """As Peewee's `connect` does, with its translation of exceptions."""
    with peewee.__exception_wrapper__:
        return open_connection(database, database._connect, timeout, keepalive)


def sockets() -> set[tuple[int, int]]:
    return set(dialling._sockets())


class Attempt:
    """An attempt under way, and when it ended how."""

    def __init__(self, database: Any) -> None:
        self._database = database
        self.seconds = 0.0
        self.error: Exception | None = None
        self._working = Working(None, self._run)

    def _run(self) -> None:
        begun = time.monotonic()
        try:
            dial(self._database).close()
        except Exception as error:
            self.error = error
        self.seconds = time.monotonic() - begun

    def end(self) -> None:
        self._working.result()


def assert_ended_in_time(attempt: Attempt) -> None:
    attempt.end()
    assert isinstance(attempt.error, (peewee.OperationalError, peewee.InterfaceError)), repr(attempt.error)
    assert is_outage(attempt.error), repr(attempt.error)
    assert 0.9 * TIMEOUT <= attempt.seconds < LATEST, repr(attempt.error)


# Silence.


@pytest.mark.parametrize("pause", [None, TIMEOUT / 2], ids=["silent", "a byte now and then"])
def test_an_attempt_ends_wherever_in_the_login_the_peer_falls_silent(
    driver: str, server: Any, tls: bool, pause: float | None
) -> None:
    before = sockets()
    with HaltingWay(server) as way:
        dial(raw.database_of(driver, server, tls=tls, port=way.port)).close()
        whole = way.forwarded
    # In the first packet, in the TLS handshake or the authentication, and in what follows.
    stages = [0, 3, *(int(whole * share) for share in (0.25, 0.5, 0.75))]
    if pause is None:
        stages += [int(whole * 0.9), whole - 2]  # of which a slow byte now and then would be in time
    with contextlib.ExitStack() as stack:
        ways = [stack.enter_context(HaltingWay(server, after, pause)) for after in stages]
        attempts = [Attempt(raw.database_of(driver, server, tls=tls, port=way.port)) for way in ways]
        for attempt in attempts:
            assert_ended_in_time(attempt)
    del attempt, attempts  # psycopg closes its socket when nobody holds the exception any more
    gc.collect()
    assert sockets() == before


def test_an_attempt_at_a_frozen_server_ends(driver: str, server: Any) -> None:
    server.freeze()
    assert_ended_in_time(Attempt(raw.database_of(driver, server)))


def test_attempts_at_one_frozen_server_end_side_by_side(driver: str, server: Any) -> None:
    server.freeze()
    attempts = [Attempt(raw.database_of(driver, server)) for _ in range(3)]
    for attempt in attempts:
        assert_ended_in_time(attempt)


def test_a_silent_attempt_harms_no_other_connection(driver: str, server: Any) -> None:
    with HaltingWay(server, after=3) as silent, contextlib.closing(dial(raw.database_of(driver, server))) as earlier:
        attempt = Attempt(raw.database_of(driver, server, port=silent.port))
        with contextlib.closing(dial(raw.database_of(driver, server))) as later:
            attempt.end()
            assert raw.run(earlier, "SELECT 1")[0] == 1
            assert raw.run(later, "SELECT 1")[0] == 1


@only("driver", raw.MYSQL, indirect=True)
def test_the_error_says_what_happened(driver: str, server: Any) -> None:
    with HaltingWay(server, after=3, pause=TIMEOUT / 2) as way:
        attempt = Attempt(raw.database_of(driver, server, port=way.port, password="s3cret"))
        attempt.end()
    assert str(attempt.error) == "the server did not answer within 1.0 s"
    assert attempt.error.__cause__ is not None or attempt.error.__context__ is not None


@only("driver", ["pymysql"], indirect=True)
def test_an_answer_at_the_last_moment_gives_an_error_and_no_broken_connection(
    driver: str, server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Late(dialling.Watchdog):
        def __exit__(self, *exc: object) -> None:
            until(lambda: self.fired)
            super().__exit__(*exc)

    before = sockets()
    monkeypatch.setattr(dialling, "Watchdog", Late)
    with pytest.raises(peewee.OperationalError, match="did not answer"):
        dial(raw.database_of(driver, server), timeout=0.3)
    until(lambda: sockets() == before)  # the watchdog's thread closes its twin when it has fired


@only("driver", ["MySQLdb", "mariadb", "mysql.connector"], indirect=True)
def test_a_blind_answer_at_the_last_moment_gives_an_error_and_no_broken_connection(driver: str, server: Any) -> None:
    before, database = sockets(), raw.database_of(driver, server)

    def open_late() -> Any:
        connection = database._connect()
        end = socket.fromfd(raw.fileno(driver, connection), socket.AF_INET, socket.SOCK_STREAM)
        with end:
            assert end.recv(1, socket.MSG_PEEK) == b""  # returns when it has been shut down
        return connection

    with pytest.raises(peewee.OperationalError, match="did not answer"):
        open_connection(database, open_late, 0.3, None)
    until(lambda: sockets() == before)


# Success.


def test_a_good_connection_works_and_is_in_autocommit_mode(driver: str, server: Any, tls: bool) -> None:
    with contextlib.closing(dial(raw.database_of(driver, server, tls=tls))) as connection:
        assert raw.is_encrypted(driver, connection) is tls
        raw.do(connection, "CREATE TABLE IF NOT EXISTS seen (id INTEGER)")
        raw.do(connection, "INSERT INTO seen VALUES (1)")
        with contextlib.closing(raw.connect(driver, server)) as other:
            assert raw.run(other, "SELECT COUNT(*) FROM seen")[0] >= 1


def test_a_query_may_take_longer_than_the_attempt(driver: str, server: Any) -> None:
    with contextlib.closing(dial(raw.database_of(driver, server), timeout=1)) as connection:
        assert raw.run(connection, f"SELECT {'pg_sleep' if driver in raw.POSTGRES else 'SLEEP'}(2.5)") is not None


def test_a_peewee_database_is_as_usable_as_before(driver: str, server: Any) -> None:
    database = raw.database_of(driver, server)
    plain = database._connect
    database._connect = lambda: open_connection(database, plain, TIMEOUT, None)
    with database.connection_context():
        assert database.execute_sql("SELECT 1").fetchone()[0] == 1


def test_no_time_limit_is_possible(driver: str, server: Any) -> None:
    for timeout in (0, float("inf")):
        dial(raw.database_of(driver, server), timeout=timeout).close()


def test_a_refusal_comes_at_once_and_unchanged(driver: str, server: Any) -> None:
    with pytest.raises(peewee.DatabaseError) as raised:
        dial(raw.database_of(driver, server, name="nowhere"), timeout=PATIENCE)
    assert not is_outage(raised.value)
    assert "nowhere" in str(raised.value)


def test_a_refused_connection_is_an_outage(driver: str, server: Any) -> None:
    with pytest.raises(peewee.PeeweeException) as raised:
        dial(raw.database_of(driver, server, port=free_port()))
    assert is_outage(raised.value)


def test_sqlite_is_opened_as_it_is(tmp_path: Any) -> None:
    database = peewee.SqliteDatabase(str(tmp_path / "x.db"))
    connection = open_connection(database, database._connect, TIMEOUT, 30.0)
    assert connection.execute("SELECT 1").fetchone() == (1,)
    connection.close()


@only("driver", ["pymysql", "MySQLdb"], indirect=True)
def test_a_class_of_the_apps_own_may_use_its_connection_at_once(driver: str, server: Any) -> None:
    class Own(peewee.MySQLDatabase):
        def _connect(self) -> Any:
            connection = super()._connect()
            raw.do(connection, "SET SESSION sql_mode = 'ANSI'")
            return connection

    database = Own(server.default_database, host=server.host, port=server.port, user=server.user)
    with contextlib.closing(dial(database)) as connection:
        assert "ANSI" in raw.run(connection, "SELECT @@sql_mode")[0]
    with HaltingWay(server, after=3) as way:
        attempt = Attempt(Own(server.default_database, host=way.host, port=way.port, user=server.user))
        assert_ended_in_time(attempt)


# What the app has set.


@only("driver", raw.POSTGRES, indirect=True)
def test_what_the_app_has_set_for_libpq_stays(driver: str, server: Any) -> None:
    database = raw.database_of(driver, server, connect_timeout=7, keepalives_idle=77, tcp_user_timeout=0)
    dial(database, keepalive=9).close()
    assert database.connect_params["connect_timeout"] == 7
    assert database.connect_params["keepalives_idle"] == 77
    assert database.connect_params["tcp_user_timeout"] == 0
    assert database.connect_params["keepalives_interval"] == 3


@only("driver", raw.POSTGRES, indirect=True)
def test_what_the_app_has_set_in_a_connection_string_stays(driver: str, server: Any) -> None:
    string = f"{server.url()}?connect_timeout=7&keepalives_idle=77"
    database = raw.class_of(driver)(string)
    with contextlib.closing(dial(database, keepalive=9)) as connection:
        assert option(driver, connection, "TCP_KEEPIDLE") == 77
        assert option(driver, connection, "TCP_KEEPINTVL") == 3
    assert "connect_timeout" not in database.connect_params


@only("driver", raw.POSTGRES, indirect=True)
def test_libpqs_own_variable_stays(driver: str, server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGCONNECT_TIMEOUT", "7")
    database = raw.database_of(driver, server)
    dial(database).close()
    assert "connect_timeout" not in database.connect_params


@only("driver", raw.MYSQL, indirect=True)
def test_the_apps_own_time_limit_is_the_one_that_counts(driver: str, server: Any) -> None:
    name = "connection_timeout" if driver.startswith("mysql.connector") else "connect_timeout"
    begun = time.monotonic()
    with HaltingWay(server, after=3, pause=TIMEOUT / 2) as way, pytest.raises(peewee.OperationalError):
        dial(raw.database_of(driver, server, port=way.port, **{name: 1}), timeout=PATIENCE)
    assert time.monotonic() - begun < LATEST


def test_the_time_limit_of_one_attempt_does_not_count_for_the_next(driver: str, server: Any) -> None:
    with HaltingWay(server, after=3) as way:
        database = raw.database_of(driver, server, port=way.port)
        with pytest.raises(peewee.OperationalError):
            dial(database, timeout=2.5)
        begun = time.monotonic()
        with pytest.raises(peewee.OperationalError):
            dial(database, timeout=0.2)
    assert time.monotonic() - begun < 2.4


@only("driver", raw.MYSQL, indirect=True)
def test_an_attempt_leaves_no_trace_in_the_apps_parameters_but_the_time_limit(driver: str, server: Any) -> None:
    database = raw.database_of(driver, server)
    before = dict(database.connect_params)
    dial(database, keepalive=9).close()
    assert len(before.items() ^ database.connect_params.items()) <= 1 + 3  # Peewee's own takes three from MariaDB's
    assert not {"defer_connect", "read_timeout"} & set(database.connect_params)


# Turns.


@only("driver", ["MySQLdb"], indirect=True)
def test_a_driver_that_hides_its_socket_dials_one_at_a_time_per_address(driver: str, server: Any) -> None:
    database, elsewhere = raw.database_of(driver, server), raw.database_of(driver, server, host="127.0.0.2")
    dialling_now, go_on = threading.Event(), threading.Event()

    def hold() -> Any:
        dialling_now.set()
        assert go_on.wait(PATIENCE)
        return database._connect()

    first = Working(None, lambda: open_connection(database, hold, PATIENCE, None))
    assert dialling_now.wait(PATIENCE)
    with pytest.raises(peewee.OperationalError, match="did not answer"):
        dial(database, timeout=0.1)
    with pytest.raises(peewee.DatabaseError) as raised:  # it had its turn: nobody listens there
        dial(elsewhere)
    assert "did not answer" not in str(raised.value)
    go_on.set()
    first.result().close()
    dial(database).close()


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
@only("driver", ["MySQLdb"], indirect=True)
def test_a_forked_child_waits_for_nobodys_turn(driver: str, server: Any) -> None:
    database = raw.database_of(driver, server)
    children: list[int] = []

    def fork_while_it_is_our_turn() -> Any:
        child = os.fork()
        if not child:
            try:
                dial(database).close()
            except BaseException:
                os._exit(1)
            os._exit(0)
        children.append(child)
        return database._connect()

    open_connection(database, fork_while_it_is_our_turn, PATIENCE, None).close()
    assert os.waitstatus_to_exitcode(os.waitpid(children[0], 0)[1]) == 0


# Keepalive.


def option(driver: str, connection: Any, name: str) -> int:
    """A TCP option of the connection's socket, as the kernel has it."""
    with socket.fromfd(raw.fileno(driver, connection), socket.AF_INET, socket.SOCK_STREAM) as twin:
        if name == "SO_KEEPALIVE":
            return twin.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        return twin.getsockopt(socket.IPPROTO_TCP, getattr(socket, name))


def test_keepalive_arrives_at_the_socket(driver: str, server: Any, tls: bool) -> None:
    with contextlib.closing(dial(raw.database_of(driver, server, tls=tls), keepalive=30)) as connection:
        names = ("SO_KEEPALIVE", "TCP_KEEPIDLE", "TCP_KEEPINTVL", "TCP_KEEPCNT", "TCP_USER_TIMEOUT")
        assert [option(driver, connection, name) for name in names] == [1, 30, 10, 3, 60000]


def test_without_keepalive_the_systems_settings_are_left_alone(driver: str, server: Any) -> None:
    with (
        HaltingWay(server) as one,  # two ports, so that the two can be told apart
        HaltingWay(server) as other,
        contextlib.closing(raw.connect(driver, server, port=one.port)) as plain,
        contextlib.closing(dial(raw.database_of(driver, server, port=other.port))) as connection,
    ):
        for name in ("SO_KEEPALIVE", "TCP_KEEPIDLE", "TCP_USER_TIMEOUT"):
            assert option(driver, connection, name) == option(driver, plain, name)
