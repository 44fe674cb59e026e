"""What only the PostgreSQL server has: modes of stopping, forked backends, reserved connections."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest

from tests.servers import processes
from tests.servers.child import ServerDidNotStop, ServerProcess, Session
from tests.servers.fixtures import _run
from tests.servers.postgres import PostgresServer, postgres_installations
from tests.servers.shared_memory import exists, segment_of
from tests.servers.waiting import until


@pytest.fixture(scope="module")
def its_server() -> Iterator[ServerProcess]:
    yield from _run(PostgresServer)


@pytest.fixture
def server(its_server: PostgresServer) -> Iterator[PostgresServer]:
    yield its_server
    its_server.ensure_running()
    its_server.kill_sessions()


@pytest.mark.parametrize("installation", postgres_installations(), ids=lambda path: path.parent.name)
def test_every_installation_on_this_machine_works(installation: Path) -> None:
    with PostgresServer(installation=installation) as server:
        assert server.execute("SELECT 1") == [(1,)]


def test_a_smart_stop_waits_for_clients_and_a_fast_one_does_not(server: PostgresServer) -> None:
    with contextlib.closing(psycopg.connect(server.url())) as client:
        client.execute("SELECT 1")
        with pytest.raises(ServerDidNotStop, match="smart"):
            server.stop("smart", timeout=0.3)
        assert server.running
        server.stop("fast")
        assert not server.running
        with pytest.raises(psycopg.OperationalError):
            client.execute("SELECT 1")


def test_an_immediate_stop_leaves_no_process_and_loses_nothing(server: PostgresServer) -> None:
    server.execute("CREATE TABLE immediately AS SELECT 7 AS id")
    server.stop("immediate")
    assert server.processes() == []
    server.start()
    assert server.execute("SELECT id FROM immediately") == [(7,)]


def test_a_mode_that_is_none_is_an_error(server: PostgresServer) -> None:
    with pytest.raises(KeyError):
        server.stop("gently")
    assert server.running


def test_a_backend_that_outlives_its_postmaster_does_not_hinder_the_next_start(server: PostgresServer) -> None:
    with contextlib.closing(psycopg.connect(server.url())) as client, ThreadPoolExecutor(1) as thread:
        backend = client.info.backend_pid
        # Counting is no waiting: this backend does not look whether its postmaster lives.
        answer = thread.submit(client.execute, "SELECT count(*) FROM generate_series(1, 1e12)")
        until(lambda: [session.state for session in server.sessions()] == ["active"])
        postmaster = server.pid
        assert postmaster is not None
        os.kill(postmaster, signal.SIGKILL)
        processes.wait_for_exit(postmaster, 10)
        assert not server.running
        assert backend in server.processes()
        server.start()
        assert backend not in server.processes()
        assert isinstance(answer.exception(10), psycopg.OperationalError)
    assert server.execute("SELECT 1") == [(1,)]


def test_a_kill_takes_busy_backends_too(server: PostgresServer) -> None:
    with contextlib.closing(psycopg.connect(server.url())) as client, ThreadPoolExecutor(1) as thread:
        answer = thread.submit(client.execute, "SELECT count(*) FROM generate_series(1, 1e12)")
        until(lambda: [session.state for session in server.sessions()] == ["active"])
        server.kill()
        assert server.processes() == []
        assert isinstance(answer.exception(10), psycopg.OperationalError)


def test_sessions_carry_the_application_name_and_see_a_bare_begin(server: PostgresServer) -> None:
    with contextlib.closing(psycopg.connect(server.url(application_name="shop"), autocommit=True)) as client:
        client.execute("BEGIN")
        expected = Session(client.info.backend_pid, "idle in transaction", "BEGIN", "shop")
        assert server.sessions() == [expected]


def test_clients_are_no_superusers(server: PostgresServer) -> None:
    with contextlib.closing(psycopg.connect(server.url(), autocommit=True)) as client:
        assert client.execute("SELECT current_setting('is_superuser')").fetchone() == ("off",)


def test_the_administrator_gets_in_when_clients_took_every_connection() -> None:
    with PostgresServer(settings={"max_connections": 6}) as server, contextlib.ExitStack() as clients:
        for _ in range(3):  # the other three are reserved for superusers
            clients.enter_context(contextlib.closing(psycopg.connect(server.url())))
        with pytest.raises(psycopg.OperationalError, match="remaining connection slots are reserved"):
            psycopg.connect(server.url())
        assert len(server.sessions()) == 3
        assert server.kill_sessions() == 3


def test_a_server_closed_after_a_kill_leaves_no_shared_memory() -> None:
    server = PostgresServer()
    try:
        server.start()
        segment = segment_of(server.data)
        assert segment is not None
        server.kill()
        assert exists(segment)
    finally:
        server.close()
    assert not exists(segment)
