"""What real servers make each driver raise, and whether that says the truth about the connection."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from collections.abc import Callable, Iterator
from typing import Any

import peewee
import pytest

from peewee_web.core.faults import is_lost_connection, is_outage
from tests.core import raw
from tests.core.working import Working
from tests.servers.certificate import make_certificate
from tests.servers.ports import free_port
from tests.servers.postgres import PostgresServer, postgres_installations
from tests.servers.proxy import TcpProxy
from tests.servers.waiting import until

LONG = {"postgresql": "SELECT pg_sleep(30)", "mysql": "SELECT SLEEP(30)"}


@pytest.fixture
def proxied(server: Any) -> Iterator[TcpProxy]:
    with TcpProxy(server.host, server.port) as proxy:
        yield proxy


@pytest.fixture(params=["plain", "tls"])
def tls(request: pytest.FixtureRequest) -> bool:
    return bool(request.param == "tls")


class HangingUp:
    """A port whose peer accepts and leaves."""

    def __enter__(self) -> int:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._working = Working(None, self._serve)
        return int(self._listener.getsockname()[1])

    def _serve(self) -> None:
        with contextlib.suppress(OSError):  # which is what ends it
            while True:
                self._listener.accept()[0].close()

    def __exit__(self, *exc: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._working.result()


@contextlib.contextmanager
def connected(driver: str, server: Any, **options: Any) -> Iterator[Any]:
    connection = raw.connect(driver, server, **options)
    try:
        yield connection
    finally:
        with contextlib.suppress(Exception):  # some drivers refuse to close what is lost
            connection.close()


def error_of(work: Callable[[], Any]) -> Exception:
    with pytest.raises(Exception) as raised:  # noqa: PT011
        work()
    return raised.value


def as_peewee(error: Exception) -> Exception:
    return error_of(lambda: _raise_wrapped(error))


def _raise_wrapped(error: Exception) -> None:
    with peewee.__exception_wrapper__:
        raise error


def assert_lost(connection: Any, error: Exception) -> None:
    """That *error* is known for what it is, and so is what every later statement raises."""
    assert is_lost_connection(error), repr(error)
    assert is_lost_connection(as_peewee(error))
    later = error_of(lambda: raw.run(connection, "SELECT 1"))
    assert is_lost_connection(later), repr(later)


def assert_kept(connection: Any, error: Exception) -> None:
    assert not is_lost_connection(error), repr(error)
    assert not is_lost_connection(as_peewee(error))
    raw.do(connection, "ROLLBACK")
    assert raw.run(connection, "SELECT 1")[0] == 1


def while_busy(server: Any, connection: Any, act: Callable[[], Any]) -> Exception:
    """What a statement raises when *act* is done while it runs."""
    working = Working(None, lambda: raw.run(connection, LONG[server.scheme]))
    until(lambda: any(session.state == "active" for session in server.sessions()))
    act()
    return error_of(working.result)


# Lost.


def test_an_idle_session_that_was_killed(driver: str, server: Any, tls: bool) -> None:
    with connected(driver, server, tls=tls) as connection:
        server.kill_sessions()
        assert_lost(connection, error_of(lambda: raw.run(connection, "SELECT 1")))


def test_a_session_that_was_killed_in_a_statement(driver: str, server: Any, tls: bool) -> None:
    with connected(driver, server, tls=tls) as connection:
        assert_lost(connection, while_busy(server, connection, server.kill_sessions))


@pytest.mark.parametrize("how", ["cut", "reset"])
def test_a_link_that_broke_while_idle(driver: str, server: Any, proxied: TcpProxy, tls: bool, how: str) -> None:
    with connected(driver, server, port=proxied.port, tls=tls) as connection:
        getattr(proxied, how)()
        assert_lost(connection, error_of(lambda: raw.run(connection, "SELECT 1")))


@pytest.mark.parametrize("how", ["cut", "reset"])
def test_a_link_that_broke_in_a_statement(driver: str, server: Any, proxied: TcpProxy, tls: bool, how: str) -> None:
    with connected(driver, server, port=proxied.port, tls=tls) as connection:
        assert_lost(connection, while_busy(server, connection, getattr(proxied, how)))


@pytest.mark.parametrize("how", ["stop", "kill"])
def test_a_server_that_went_away_while_idle(driver: str, server: Any, how: str) -> None:
    with connected(driver, server) as connection:
        getattr(server, how)()
        assert_lost(connection, error_of(lambda: raw.run(connection, "SELECT 1")))


@pytest.mark.parametrize("how", ["stop", "kill"])
def test_a_server_that_went_away_in_a_statement(driver: str, server: Any, how: str) -> None:
    with connected(driver, server) as connection:
        assert_lost(connection, while_busy(server, connection, getattr(server, how)))


@pytest.mark.parametrize("driver", raw.POSTGRES, indirect=True)
def test_a_backend_that_crashed_takes_the_others_along(driver: str, server: Any) -> None:
    with connected(driver, server) as connection, connected(driver, server) as other:
        [pid] = raw.run(other, "SELECT pg_backend_pid()")
        os.kill(pid, signal.SIGKILL)
        assert_lost(other, error_of(lambda: raw.run(other, "SELECT 1")))
        assert_lost(connection, error_of(lambda: [raw.run(connection, "SELECT pg_sleep(0.01)") for _ in range(1000)]))
    until(lambda: server._try_to_connect())


@pytest.mark.parametrize("driver", raw.POSTGRES, indirect=True)
@pytest.mark.parametrize("setting", ["idle_session_timeout", "idle_in_transaction_session_timeout"])
def test_a_postgresql_session_that_was_idle_too_long(driver: str, server: Any, setting: str) -> None:
    with connected(driver, server) as connection:
        raw.do(connection, f"SET {setting} = 50")
        if "transaction" in setting:
            raw.do(connection, "BEGIN")
        until(lambda: not server.sessions())
        assert_lost(connection, error_of(lambda: raw.run(connection, "SELECT 1")))


@pytest.mark.parametrize("driver", raw.MYSQL, indirect=True)
def test_a_mariadb_session_that_was_idle_too_long(driver: str, server: Any) -> None:
    with connected(driver, server) as connection:
        raw.do(connection, "SET wait_timeout = 1")
        until(lambda: not server.sessions())
        assert_lost(connection, error_of(lambda: raw.run(connection, "SELECT 1")))


@pytest.mark.parametrize("driver", raw.MYSQL, indirect=True)
def test_a_packet_too_large_after_which_the_server_hangs_up(driver: str, server: Any) -> None:
    with connected(driver, server) as connection:
        assert_lost(connection, error_of(lambda: raw.run(connection, "SELECT LENGTH('" + 20_000_000 * "x" + "')")))


@pytest.mark.parametrize("driver", [name for name in raw.MYSQL if name in ("pymysql", raw.PURE)], indirect=True)
def test_an_answer_that_the_driver_did_not_wait_for(driver: str, server: Any) -> None:
    with connected(driver, server, read_timeout=1) as connection:
        assert_lost(connection, error_of(lambda: raw.run(connection, "SELECT SLEEP(5)")))


def test_a_connection_that_was_closed(driver: str, server: Any) -> None:
    with connected(driver, server) as connection:
        connection.close()
        assert_lost(connection, error_of(lambda: raw.run(connection, "SELECT 1")))


# Kept.


@pytest.fixture
def connection(driver: str, server: Any) -> Iterator[Any]:
    with connected(driver, server) as connection:
        raw.do(connection, "CREATE TABLE IF NOT EXISTS held (id INTEGER PRIMARY KEY, text VARCHAR(9) NOT NULL)")
        raw.do(connection, "DELETE FROM held")
        raw.do(connection, "INSERT INTO held VALUES (1, 'a'), (2, 'b')")
        yield connection


@pytest.mark.parametrize(
    "sql",
    [
        "nonsense",
        "SELECT nonsense",
        "SELECT * FROM nowhere",
        "INSERT INTO held VALUES (1, 'again')",
        "INSERT INTO held VALUES (3, NULL)",
        "CREATE DATABASE nope.nope",
    ],
)
def test_a_statement_that_is_wrong(connection: Any, sql: str) -> None:
    assert_kept(connection, error_of(lambda: raw.do(connection, sql)))


def test_a_deadlock(driver: str, server: Any, connection: Any) -> None:
    with connected(driver, server) as other:
        for session, row in ((connection, 1), (other, 2)):
            raw.do(session, "BEGIN")
            raw.do(session, f"UPDATE held SET text = 'c' WHERE id = {row}")
        working = Working(None, lambda: raw.do(other, "UPDATE held SET text = 'd' WHERE id = 1"))
        victims = []
        for session, work in (
            (connection, lambda: raw.do(connection, "UPDATE held SET text = 'd' WHERE id = 2")),
            (other, working.result),
        ):
            try:
                work()
            except Exception as error:
                victims.append((session, error))
            raw.do(session, "ROLLBACK")
        [(session, error)] = victims
        assert_kept(session, error)


def test_a_lock_that_was_not_to_be_had(driver: str, server: Any, connection: Any) -> None:
    with connected(driver, server) as other:
        raw.do(other, "BEGIN")
        raw.do(other, "UPDATE held SET text = 'c' WHERE id = 1")
        raw.do(connection, "SET lock_timeout = 50" if driver in raw.POSTGRES else "SET innodb_lock_wait_timeout = 1")
        assert_kept(connection, error_of(lambda: raw.do(connection, "UPDATE held SET text = 'd' WHERE id = 1")))


def test_a_statement_that_took_too_long(driver: str, server: Any, connection: Any) -> None:
    raw.do(connection, "SET statement_timeout = 50" if driver in raw.POSTGRES else "SET max_statement_time = 0.05")
    assert_kept(connection, error_of(lambda: raw.run(connection, LONG[server.scheme])))


def test_a_statement_that_was_cancelled(driver: str, server: Any, connection: Any) -> None:
    def cancel() -> None:
        [busy] = [session.pid for session in server.sessions() if session.state == "active"]
        server.execute(f"SELECT pg_cancel_backend({busy})" if driver in raw.POSTGRES else f"KILL QUERY {busy}")

    assert_kept(connection, while_busy(server, connection, cancel))


def test_a_cursor_that_was_closed(connection: Any) -> None:
    cursor = connection.cursor()
    cursor.close()
    assert_kept(connection, error_of(lambda: cursor.execute("SELECT 1")))


@pytest.mark.parametrize("driver", raw.POSTGRES, indirect=True)
@pytest.mark.parametrize("sqlstate", ["08001", "08006", "08P01", "57P01", "57P03"])
def test_an_error_with_the_code_of_somebody_elses_lost_connection(connection: Any, sqlstate: str) -> None:
    assert_kept(
        connection,
        error_of(
            lambda: raw.do(connection, f"DO $$BEGIN RAISE 'a foreign server' USING ERRCODE = '{sqlstate}'; END$$")
        ),
    )


# Connection attempts.


@pytest.fixture(scope="module")
def strict(servers: dict[str, Any]) -> dict[str, Any]:
    """The same servers, with users who may not all come in."""
    postgres, mariadb = servers["psycopg2"], servers["pymysql"]
    for statement in (
        "ALTER ROLE app PASSWORD 'right'",
        "CREATE ROLE nologin NOLOGIN",
        "CREATE ROLE limited LOGIN CONNECTION LIMIT 0",
        "CREATE ROLE rejected LOGIN",
        "CREATE ROLE stranger LOGIN",
        "CREATE DATABASE closed ALLOW_CONNECTIONS false",
        "CREATE DATABASE private",
        "REVOKE CONNECT ON DATABASE private FROM public",
    ):
        postgres.execute(statement)
    rules = postgres.data / "pg_hba.conf"
    rules.write_text("host all app all scram-sha-256\nhost all rejected all reject\n" + rules.read_text())
    postgres.execute("SELECT pg_reload_conf()")
    for statement in (
        "CREATE USER app@'%' IDENTIFIED BY 'right'",
        "GRANT ALL ON test.* TO app@'%'",
        "CREATE USER locked@'%' ACCOUNT LOCK",
        "CREATE USER secure@'%' REQUIRE SSL",
        "CREATE USER limited@'%' WITH MAX_CONNECTIONS_PER_HOUR 1",
        "CREATE USER elsewhere@'10.1.1.1'",
    ):
        mariadb.execute(statement)
    return servers


def attempt(driver: str, server: Any, **options: Any) -> Exception:
    """What a connection attempt raises; as `app` with the right password unless told otherwise."""
    options = {"user": "app", "password": "right", **options}
    if driver in raw.POSTGRES and "database" in options:
        options["dbname"] = options.pop("database")
    return error_of(lambda: raw.connect(driver, server, **options).close())


def assert_outage(error: Exception) -> None:
    assert is_outage(error), repr(error)
    assert is_outage(as_peewee(error))


def assert_refused(error: Exception) -> None:
    assert not is_outage(error), repr(error)
    assert not is_outage(as_peewee(error))


@pytest.mark.parametrize("tls", [None, True, False])
def test_a_wrong_password_is_no_outage(driver: str, server: Any, strict: object, tls: bool | None) -> None:
    assert_refused(attempt(driver, server, password="wrong", tls=tls))


def test_no_password_is_no_outage(driver: str, server: Any, strict: object) -> None:
    assert_refused(attempt(driver, server, password=""))


def test_an_unknown_database_is_no_outage(driver: str, server: Any, strict: object) -> None:
    assert_refused(attempt(driver, server, database="nowhere"))


@pytest.mark.parametrize("user", ["unknown", "nologin", "rejected"])
@pytest.mark.parametrize("driver", raw.POSTGRES, indirect=True)
def test_a_user_who_may_not_come_in_is_no_outage_on_postgresql(
    driver: str, server: Any, strict: object, user: str
) -> None:
    assert_refused(attempt(driver, server, user=user))


@pytest.mark.parametrize("user", ["unknown", "locked", "elsewhere"])
@pytest.mark.parametrize("driver", raw.MYSQL, indirect=True)
def test_a_user_who_may_not_come_in_is_no_outage_on_mariadb(
    driver: str, server: Any, strict: object, user: str
) -> None:
    assert_refused(attempt(driver, server, user=user, password=""))


@pytest.mark.parametrize("driver", raw.POSTGRES, indirect=True)
def test_a_database_that_the_user_may_not_use_is_no_outage_on_postgresql(
    driver: str, server: Any, strict: object
) -> None:
    assert_refused(attempt(driver, server, user="stranger", database="private"))


@pytest.mark.parametrize("driver", raw.MYSQL, indirect=True)
def test_a_database_that_the_user_may_not_use_is_no_outage_on_mariadb(driver: str, server: Any, strict: object) -> None:
    assert_refused(attempt(driver, server, database="mysql"))


@pytest.mark.parametrize("driver", raw.MYSQL, indirect=True)
def test_a_user_who_must_come_in_tls_is_no_outage(driver: str, server: Any, strict: object) -> None:
    assert_refused(attempt(driver, server, user="secure", password="", tls=False))


def test_a_certificate_that_is_not_trusted_is_no_outage(
    driver: str, server: Any, strict: object, tmp_path: Any
) -> None:
    authority, _ = make_certificate(tmp_path)
    options: dict[str, Any] = {"ssl_ca": str(authority), "ssl_verify_cert": True}
    if driver in raw.POSTGRES:
        options = {"sslmode": "verify-full", "sslrootcert": str(authority)}
    elif driver == "MySQLdb":
        options = {"ssl_mode": "VERIFY_CA", "ssl": {"ca": str(authority)}}
    assert_refused(attempt(driver, server, **options))


@pytest.mark.parametrize("driver", raw.POSTGRES, indirect=True)
def test_an_option_that_libpq_does_not_know_is_no_outage(driver: str, server: Any, strict: object) -> None:
    assert_refused(attempt(driver, server, nonsense=1))
    assert_refused(attempt(driver, server, sslmode="nonsense"))


def test_a_refused_connection_is_an_outage(driver: str, server: Any) -> None:
    assert_outage(attempt(driver, server, port=free_port()))


def test_an_unknown_host_is_an_outage(driver: str, server: Any) -> None:
    assert_outage(attempt(driver, server, host="no-such-host.invalid"))


@pytest.mark.parametrize("tls", [True, False])
def test_a_peer_that_hangs_up_is_an_outage(driver: str, server: Any, tls: bool) -> None:
    with HangingUp() as port:
        assert_outage(attempt(driver, server, port=port, tls=tls))


def test_a_user_limit_is_an_outage(driver: str, server: Any, strict: object) -> None:
    if driver in raw.POSTGRES:
        assert_outage(attempt(driver, server, user="limited"))
        return
    server.execute("FLUSH USER_RESOURCES")
    raw.connect(driver, server, user="limited", database="information_schema").close()
    assert_outage(attempt(driver, server, user="limited", password="", database="information_schema"))


def crowd(driver: str, server: Any, **options: Any) -> None:
    """Take more connections than the server has."""
    with contextlib.ExitStack() as full:
        for _ in range(12):
            full.enter_context(connected(driver, server, **options))


def test_a_full_server_is_an_outage(driver: str, server: Any, strict: object) -> None:
    limit = "max_connections" if driver in raw.POSTGRES else "max-connections"
    server.settings[limit] = 10
    server.restart()
    error = error_of(lambda: crowd(driver, server, user="app", password="right"))
    server.settings[limit] = 200
    server.restart()
    assert_outage(error)


@pytest.mark.parametrize("driver", raw.POSTGRES, indirect=True)
def test_a_server_that_waits_for_its_clients_to_shut_down_is_an_outage(
    driver: str, server: Any, strict: object
) -> None:
    with connected(driver, server, user="app", password="right"):
        os.kill(server.pid, server.stop_signals["smart"])
        until(lambda: "received smart shutdown request" in server.log_tail())
        error = until(lambda: _shutting_down(driver, server))
    assert_outage(error)
    until(lambda: not server.running)


def _shutting_down(driver: str, server: Any) -> Exception | None:
    try:
        raw.connect(driver, server, user="app", password="right").close()
    except Exception as error:
        return error
    return None


# A server in another language.


@pytest.fixture(scope="module")
def german() -> Iterator[PostgresServer]:
    """A PostgreSQL server that answers in German: Debian's, the wheel's has no translations."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LANGUAGE", "de")  # GNU gettext takes it for any locale but C
        for installation in postgres_installations():
            with PostgresServer(installation=installation, settings={"lc_messages": "C.UTF-8"}) as server:
                if "existiert nicht" in str(attempt("psycopg2", server, user="niemand")):
                    yield server
                    return
    pytest.skip("no PostgreSQL server with translations found: apt-get install postgresql")


@pytest.mark.parametrize("driver", raw.POSTGRES)
def test_a_refusal_in_german_is_no_outage(driver: str, german: PostgresServer) -> None:
    assert_refused(attempt(driver, german, user="niemand"))
    assert_refused(attempt(driver, german, database="nirgends"))


@pytest.mark.parametrize("driver", raw.POSTGRES)
def test_a_full_server_is_an_outage_in_german_too(driver: str, german: PostgresServer) -> None:
    german.settings["max_connections"] = 5
    german.restart()
    error = error_of(lambda: crowd(driver, german))
    assert "FATAL" in str(error)
    assert "connection" not in str(error).partition("FATAL")[2]
    assert_outage(error)


def test_a_wrong_password_is_no_outage_for_a_mariadb_in_german(servers: dict[str, Any], strict: object) -> None:
    server = servers["pymysql"]
    server.settings["lc-messages"] = "de_DE"
    server.restart()
    error = attempt("pymysql", server, password="wrong")
    assert "Zugriffsberechtigung" in str(error)
    assert_refused(error)
    del server.settings["lc-messages"]
    server.restart()
