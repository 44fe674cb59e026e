"""What stands between an app and its server, and forgets a connection that nobody has used for a while."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

import peewee_web
from tests.core.working import in_use, query
from tests.servers.proxy import TcpProxy

TIMEOUT = 2.0
# Seconds that a request may take which need not wait, on a machine that others use as well.
A_MOMENT = 0.8


@dataclass(frozen=True)
class Behind:
    """A pool whose connections lead through *proxy*."""

    proxy: TcpProxy
    url: str

    def pool(self, **options: Any) -> Any:
        return peewee_web.connect(self.url, timeout=TIMEOUT, **options)


@pytest.fixture(params=["psycopg3", "psycopg2", "pymysql"])
def behind(request: pytest.FixtureRequest) -> Iterator[Behind]:
    server = request.getfixturevalue("mariadb" if request.param == "pymysql" else "postgres")
    query = {"prefer_psycopg3": True} if request.param == "psycopg3" else {}
    with TcpProxy(server.host, server.port) as proxy:
        yield Behind(proxy, server.url(port=proxy.port, **query))


def use(database: Any) -> float:
    """A request; the seconds that it took."""
    begun = time.monotonic()
    with peewee_web.scope():
        query(database)
    return time.monotonic() - begun


def close(database: Any) -> None:
    assert in_use(database) == 0
    database.close_all()


@pytest.mark.parametrize("end", ["cut", "reset"])
def test_what_hangs_up_on_an_idle_connection_is_noticed_before_its_use(behind: Behind, end: str) -> None:
    database = behind.pool()
    use(database)
    getattr(behind.proxy, end)()
    assert use(database) < A_MOMENT
    close(database)


def test_what_forgets_an_idle_connection_costs_a_request_half_its_timeout(behind: Behind) -> None:
    database = behind.pool(probe_after=0)
    use(database)
    behind.proxy.freeze()
    assert TIMEOUT / 2 <= use(database) < TIMEOUT / 2 + A_MOMENT
    assert use(database) < A_MOMENT
    close(database)


def test_a_connection_that_others_keep_in_use_while_it_is_idle_is_closed_after_max_idle(behind: Behind) -> None:
    database = behind.pool(max_idle=0.1)
    busy, idle = peewee_web.scope(), peewee_web.scope()
    for scope in (busy, idle):
        with scope.activate():
            query(database)
    idle.end()
    time.sleep(0.2)  # of idleness, which nothing announces
    database.pool.tend(time.monotonic() + 1)  # as the next check-in does that is a second later
    assert database.pool_stats().idle == 0
    busy.end()
    close(database)


def test_no_request_uses_a_connection_that_was_idle_for_longer_than_max_idle(behind: Behind) -> None:
    database = behind.pool(max_idle=0.1, probe_after=0.1)
    try:
        use(database)
        time.sleep(0.2)  # of idleness, which nothing announces
        behind.proxy.freeze()
        assert use(database) < A_MOMENT
    finally:
        behind.proxy.cut()
        close(database)
