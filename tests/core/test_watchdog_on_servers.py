"""The watchdog on real connections whose peer went silent, in each driver."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any

import pytest

from peewee_web.core.watchdog import Watchdog
from tests.core import raw
from tests.core.working import PATIENCE
from tests.servers.proxy import TcpProxy

SOON = 0.1  # seconds


@pytest.fixture(params=["plain", "tls"])
def tls(request: pytest.FixtureRequest) -> bool:
    return bool(request.param == "tls")


@pytest.fixture
def proxied(server: Any) -> Iterator[TcpProxy]:
    with TcpProxy(server.host, server.port) as proxy:
        yield proxy


def ends_soon(driver: str, connection: Any) -> None:
    begun = time.monotonic()
    with Watchdog(raw.fileno(driver, connection), SOON) as watchdog, pytest.raises(Exception) as raised:  # noqa: PT011
        raw.run(connection, "SELECT 1")
    assert watchdog.fired
    assert SOON <= time.monotonic() - begun < PATIENCE
    assert isinstance(raised.value, raw.module_of(driver).Error)


def test_a_query_to_a_frozen_server_ends(driver: str, server: Any, tls: bool) -> None:
    with contextlib.closing(raw.connect(driver, server, tls=tls)) as connection:
        assert raw.is_encrypted(driver, connection) is tls
        server.freeze()
        ends_soon(driver, connection)


def test_a_query_on_a_silent_link_ends(driver: str, proxied: TcpProxy, server: Any, tls: bool) -> None:
    with contextlib.closing(raw.connect(driver, server, port=proxied.port, tls=tls)) as connection:
        proxied.freeze()
        ends_soon(driver, connection)


def test_closing_a_connection_after_the_watchdog_does_not_wait_for_the_peer(
    driver: str, proxied: TcpProxy, server: Any, tls: bool
) -> None:
    connection = raw.connect(driver, server, port=proxied.port, tls=tls)
    proxied.freeze()
    ends_soon(driver, connection)
    begun = time.monotonic()
    connection.close()
    assert time.monotonic() - begun < PATIENCE / 10


def test_a_query_that_is_answered_in_time_leaves_a_good_connection(driver: str, server: Any, tls: bool) -> None:
    with contextlib.closing(raw.connect(driver, server, tls=tls)) as connection:
        with Watchdog(raw.fileno(driver, connection), PATIENCE) as watchdog:
            raw.run(connection, "SELECT 1")
        assert not watchdog.fired
        assert raw.run(connection, "SELECT 1")[0] == 1
