"""A connection attempt that failed leaves nothing open."""

from __future__ import annotations

import gc

import pytest

import peewee_web
from peewee_web import NoConnection
from tests.servers.postgres import PostgresServer
from tests.servers.proxy import TcpProxy
from tests.servers.waiting import until


@pytest.mark.parametrize("driver", [{"prefer_psycopg3": "true"}, {}], ids=["psycopg3", "psycopg2"])
def test_an_attempt_that_timed_out_closes_its_socket_at_once(
    driver: dict[str, str], postgres: PostgresServer, proxy: TcpProxy
) -> None:
    database = peewee_web.connect(postgres.url(port=proxy.port, **driver), timeout=2)
    proxy.black_hole()
    gc.disable()  # it may be long until it runs
    try:
        with pytest.raises(NoConnection):
            database.connect()
        until(lambda: proxy.links == 0, 3.0)
    finally:
        gc.enable()
