"""A Tornado application on its own server, in a thread with an event loop of its own, reached over real HTTP."""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import peewee
import pytest
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.web import Application

import peewee_web
from tests.servers.ports import free_port

MAX_CONNECTIONS = 4


class Site:
    """Serves *app* until closed. ``get`` is an ordinary client's request, ``raw`` is for clients that misbehave."""

    def __init__(self, app: Application) -> None:
        self.app = app
        self._serving = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))
        self._thread.start()
        assert self._serving.wait(10)
        self.client = httpx.Client(base_url=self.url, timeout=10)

    async def _serve(self) -> None:
        self.loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        server = HTTPServer(self.app)
        sockets = bind_sockets(0, "127.0.0.1")
        server.add_sockets(sockets)
        self.port = sockets[0].getsockname()[1]
        self._serving.set()
        await self._stop.wait()
        server.stop()
        await server.close_all_connections()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def get(self, path: str = "/", **options: Any) -> httpx.Response:
        return self.client.get(path, **options)

    @contextmanager
    def raw(self, request: str = "GET / HTTP/1.1", body: str = "", receive_buffer: int = 0) -> Iterator[socket.socket]:
        """A connection on which *request* was sent and nothing read."""
        with socket.socket() as sock:
            if receive_buffer:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
            sock.settimeout(10)
            sock.connect(("127.0.0.1", self.port))
            sock.sendall(f"{request}\r\nHost: x\r\n{body or chr(13) + chr(10)}".encode())
            yield sock

    def call(self, function: Callable[[], Any]) -> None:
        """Run *function* on the server's loop."""
        self.loop.call_soon_threadsafe(function)

    def close(self) -> None:
        self.client.close()
        self.call(self._stop.set)
        self._thread.join(10)
        assert not self._thread.is_alive()


Serve = Callable[..., Site]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """``serve(Handler)``, ``serve([routes], db)`` or ``serve(app)``: a running `Site`."""
    sites: list[Site] = []

    def run(routes: Any, database: Any = None, **settings: Any) -> Site:
        if not isinstance(routes, Application):
            if not isinstance(routes, list):
                routes = [(r"/", routes)]
            if database is not None:
                settings["peewee"] = database
            routes = Application(routes, **settings)
        sites.append(Site(routes))
        return sites[-1]

    yield run
    for site in sites:
        site.close()


@pytest.fixture
def db(tmp_path: Path) -> Iterator[Any]:
    """A pooled SQLite file with a table; every connection has to be back at the end."""
    database = peewee_web.connect(f"sqlite:///{tmp_path}/test.db", max_connections=MAX_CONNECTIONS, timeout=1)
    with database:
        Row.bind(database)
        Row.create_table()
    yield database
    wait_for(lambda: in_use(database) == 0)
    database.close_all()


@pytest.fixture
def unreachable() -> Any:
    """A database whose server is down."""
    return peewee_web.connect(f"postgresql://someone:secret@127.0.0.1:{free_port()}/nothing", timeout=1)


class Row(peewee.Model):
    name = peewee.CharField()


def names() -> list[str]:
    """What is committed, seen by a connection that is nobody else's."""
    with peewee_web.scope() as scope:
        rows = [row.name for row in Row.select().order_by(Row.id)]
    assert scope.ended
    return rows


def in_use(database: Any) -> int:
    return database.pool_stats().in_use


def session() -> int:
    """Which connection this code is on."""
    database = Row._meta.database  # type: ignore[attr-defined]
    database.execute_sql("SELECT 1")
    return id(database.connection())


def reset(sock: socket.socket) -> None:
    """Hang up by RST."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def wait_for(condition: Callable[[], bool], within: float = 5) -> None:
    deadline = time.monotonic() + within
    while not condition():
        assert time.monotonic() < deadline, f"not so after {within} s"
        time.sleep(0.005)
