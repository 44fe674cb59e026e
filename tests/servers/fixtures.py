"""The private servers as pytest fixtures: started when first asked for, once for the whole run."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import pytest

from tests.servers.child import ServerNotInstalled, ServerProcess
from tests.servers.mariadb import MariaDBServer
from tests.servers.pgbouncer import PgBouncerServer
from tests.servers.postgres import PostgresServer
from tests.servers.proxy import TcpProxy


def _run(kind: type[ServerProcess]) -> Iterator[ServerProcess]:
    try:
        server = kind()
    except ServerNotInstalled as error:
        pytest.skip(str(error))
    with server:
        yield server


@pytest.fixture(scope="session")
def _postgres() -> Iterator[ServerProcess]:
    yield from _run(PostgresServer)


@pytest.fixture(scope="session")
def _mariadb() -> Iterator[ServerProcess]:
    yield from _run(MariaDBServer)


@pytest.fixture(scope="session")
def postgres(_postgres: PostgresServer) -> PostgresServer:
    """A PostgreSQL server of the tests' own."""
    return _postgres


@pytest.fixture(scope="session")
def mariadb(_mariadb: MariaDBServer) -> MariaDBServer:
    """A MariaDB server of the tests' own."""
    return _mariadb


@pytest.fixture
def proxy(postgres: PostgresServer) -> Iterator[TcpProxy]:
    """A proxy in front of the PostgreSQL server."""
    with TcpProxy(postgres.host, postgres.port) as proxy:
        yield proxy


@pytest.fixture
def pgbouncer(postgres: PostgresServer) -> Iterator[Callable[..., PgBouncerServer]]:
    """Starts a PgBouncer in front of the PostgreSQL server, with the arguments of the class; it ends with the test."""
    with contextlib.ExitStack() as stack:

        def start(**arguments: object) -> PgBouncerServer:
            try:
                server = PgBouncerServer(arguments.pop("backend", postgres), **arguments)
            except ServerNotInstalled as error:
                pytest.skip(str(error))
            return stack.enter_context(server)

        yield start
