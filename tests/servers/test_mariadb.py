"""What only the MariaDB server has: a stale view of transactions, a port for the administrator."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pymysql
import pytest

from tests.servers.child import ServerProcess
from tests.servers.fixtures import _run
from tests.servers.mariadb import MariaDBServer


@pytest.fixture(scope="module")
def its_server() -> Iterator[ServerProcess]:
    yield from _run(MariaDBServer)


@pytest.fixture
def server(its_server: MariaDBServer) -> Iterator[MariaDBServer]:
    yield its_server
    its_server.ensure_running()
    its_server.kill_sessions()


@pytest.fixture
def small_server() -> Iterator[Any]:
    settings = {"max_connections": 10}  # the least it takes
    yield from _run(lambda: MariaDBServer(settings=settings))  # type: ignore[arg-type]


def connect(server: MariaDBServer) -> Any:
    connection = pymysql.connect(host=server.host, port=server.port, user=server.user, database="test")
    return contextlib.closing(connection)


def test_sessions_asked_for_in_a_row_do_not_see_an_old_transaction_for_ever(server: MariaDBServer) -> None:
    server.execute("CREATE OR REPLACE TABLE note (text varchar(20))")
    with connect(server) as client, client.cursor() as cursor:
        for _ in range(3):
            assert [session.state for session in server.sessions()] == ["idle"]
            cursor.execute("INSERT INTO note VALUES ('x')")
            assert [session.state for session in server.sessions()] == ["idle in transaction"]
            client.rollback()


def test_a_bare_begin_is_no_transaction_yet(server: MariaDBServer) -> None:
    with connect(server) as client:
        client.begin()
        assert [session.state for session in server.sessions()] == ["idle"]


def test_sessions_know_no_application_name(server: MariaDBServer) -> None:
    with connect(server):
        (session,) = server.sessions()
    assert session.application_name == ""


def test_the_administrator_gets_in_when_clients_took_every_connection(small_server: MariaDBServer) -> None:
    with contextlib.ExitStack() as clients:
        for _ in range(11):  # root, who has CONNECTION ADMIN, is let in once more than max_connections
            clients.enter_context(connect(small_server))
        with pytest.raises(pymysql.err.OperationalError, match="1040"):
            connect(small_server)
        assert len(small_server.sessions()) == 11
        assert small_server.kill_sessions() == 11


def test_text_is_utf8mb4_from_the_start(server: MariaDBServer) -> None:
    server.execute("CREATE OR REPLACE TABLE note (text varchar(20))")
    server.execute("INSERT INTO note VALUES (%s)", ("naïve 🐘",))
    assert server.execute("SELECT text FROM note") == [("naïve 🐘",)]
