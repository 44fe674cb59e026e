"""What only PgBouncer has: modes, a console, and a server behind it that may be down."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from tests.servers.child import ServerDidNotStop, ServerNotInstalled
from tests.servers.pgbouncer import PgBouncerServer
from tests.servers.postgres import PostgresServer
from tests.servers.proxy import TcpProxy
from tests.servers.waiting import until

Start = Callable[..., PgBouncerServer]


def connect(server: PgBouncerServer) -> contextlib.closing[psycopg.Connection]:
    return contextlib.closing(psycopg.connect(server.url(), autocommit=True, prepare_threshold=None))


def test_it_leads_to_the_databases_of_its_backend(pgbouncer: Start, postgres: PostgresServer) -> None:
    server = pgbouncer()
    with contextlib.closing(psycopg.connect(server.url())) as client:
        query = "SELECT current_user, current_database(), inet_server_port()"
        assert client.execute(query).fetchone() == ("app", "postgres", postgres.port)


def test_it_is_a_child_of_ours_without_roots_rights(pgbouncer: Start) -> None:
    server = pgbouncer()
    assert server.processes() == [server.pid]
    if os.geteuid() == 0:
        user = Path(f"/proc/{server.pid}").stat().st_uid
        assert pwd.getpwuid(user).pw_name in PgBouncerServer.accounts
    assert server.directory.stat().st_mode & 0o077 == 0


def test_in_transaction_mode_clients_take_turns_at_one_session(pgbouncer: Start) -> None:
    server = pgbouncer(settings={"default_pool_size": 1})
    with connect(server) as first, connect(server) as second:
        sessions = {client.execute("SELECT pg_backend_pid()").fetchone() for client in (first, second)}
    assert len(sessions) == 1


def test_in_session_mode_each_client_has_its_own(pgbouncer: Start) -> None:
    server = pgbouncer(pool_mode="session", settings={"default_pool_size": 2})
    with connect(server) as first, connect(server) as second:
        sessions = {client.execute("SELECT pg_backend_pid()").fetchone() for client in (first, second)}
    assert len(sessions) == 2


def test_in_statement_mode_there_are_no_transactions(pgbouncer: Start) -> None:
    server = pgbouncer(pool_mode="statement")
    with connect(server) as client, pytest.raises(psycopg.OperationalError, match="not allowed in statement pooling"):
        client.execute("BEGIN")


def test_the_console_knows_the_clients(pgbouncer: Start) -> None:
    server = pgbouncer()
    assert server.sessions() == []
    with contextlib.closing(psycopg.connect(server.url(application_name="shop"))) as client:
        client.execute("SELECT 1")
        (session,) = server.sessions()
        assert (session.application_name, server.client_ports()) == ("shop", [session.pid])
        assert server.sessions("another") == []
        (pool,) = (pool for pool in server.show("POOLS") if pool["database"] == "postgres")
        assert (pool["pool_mode"], pool["cl_active"], pool["sv_active"]) == ("transaction", 1, 1)
    until(lambda: server.sessions() == [])


def test_all_clients_can_be_thrown_out(pgbouncer: Start) -> None:
    server = pgbouncer()
    with connect(server) as client:
        client.execute("SELECT 1")
        assert server.kill_sessions() == 1
        with pytest.raises(psycopg.OperationalError):
            client.execute("SELECT 1")
    with connect(server) as client:
        assert client.execute("SELECT 1").fetchone() == (1,)
    with pytest.raises(NotImplementedError):
        server.kill_session(1)


def test_a_fast_stop_waits_for_nobody_and_a_safe_one_for_transactions(pgbouncer: Start) -> None:
    server = pgbouncer()
    with connect(server) as client:
        client.execute("BEGIN")
        with pytest.raises(ServerDidNotStop):
            server.stop("safe", timeout=0.3)
        server.stop("fast")
        assert not server.running
        with pytest.raises(psycopg.OperationalError):
            client.execute("SELECT 1")


def test_a_restart_keeps_the_port_and_takes_new_settings(pgbouncer: Start) -> None:
    server = pgbouncer()
    port = server.port
    server.settings["default_pool_size"] = 7
    server.pool_mode = "session"
    server.restart()
    settings = {row["key"]: row["value"] for row in server.show("CONFIG")}
    assert (settings["default_pool_size"], settings["pool_mode"], settings["listen_port"]) == (
        "7",
        "session",
        str(port),
    )


def test_a_setting_that_is_none_is_told_from_the_log(pgbouncer: Start) -> None:
    with pytest.raises(RuntimeError, match="nonsense"):
        pgbouncer(settings={"pool_mode": "nonsense"})


def test_it_answers_while_its_backend_is_down(pgbouncer: Start, postgres: PostgresServer) -> None:
    with TcpProxy(postgres.host, postgres.port) as proxy:
        proxy.refuse()
        server = pgbouncer(backend_port=proxy.port)
        assert server.execute("SHOW VERSION")[0][0].startswith("PgBouncer 1.")


def test_a_killed_one_leaves_no_process(pgbouncer: Start) -> None:
    server = pgbouncer()
    pid = server.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    until(lambda: not server.running)
    assert server.processes() == []
    server.start()
    assert server.running


def test_without_the_program_it_names_the_package(postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name, path=None: None)
    with pytest.raises(ServerNotInstalled, match="apt-get install pgbouncer"):
        PgBouncerServer(postgres)
