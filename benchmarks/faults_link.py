"""What stands between an app and its server when the fault is one of the link, or when logins are counted."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from typing import Any

from tests.servers.ports import free_port
from tests.servers.proxy import TcpProxy


class StallingProxy(TcpProxy):
    """A proxy whose link can go silent for a while: for connections that are open and those made meanwhile.

    `freeze` is about the links that are open, and what `black_hole` swallows it keeps for ever; on a real link the
    kernel sends a connection's first packet again, so that it comes about when the link is back.
    """

    _stalled = False

    def stall(self) -> None:
        self._command(lambda: self._set_stalled(True))

    def resume(self) -> None:
        self._command(lambda: self._set_stalled(False))

    def _set_stalled(self, stalled: bool) -> None:
        self._stalled = stalled
        self._set_frozen(stalled)

    def _accept(self) -> None:
        super()._accept()
        if self._stalled:
            self._set_frozen(True)


class LoginCounter:
    """A relay that knows how many of its connections have not finished their login, at each moment. Thread-safe.

    `refuse` closes its port, as that of a server that is down is closed.
    """

    def __init__(self, host: str, port_of_server: int, dialect: str) -> None:
        self.port = free_port()
        self.most = 0
        """The most at once since `refuse` was last called."""
        self.logins = 0
        """How many connections came since then."""
        self._target = (host, port_of_server)
        self._login = _MySQLLogin if dialect == "mysql" else _PostgresLogin
        self._under_way: set[object] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._listener: asyncio.Server | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=f"LoginCounter:{self.port}", daemon=True)
        self._thread.start()
        self.forward()

    def __enter__(self) -> LoginCounter:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def forward(self) -> None:
        self._do(self._listen())

    def refuse(self) -> None:
        self._do(self._stop_listening())
        self.most = self.logins = 0

    def close(self) -> None:
        self._do(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        done: Future[None] = asyncio.run_coroutine_threadsafe(work, self._loop)
        done.result(10)

    # All that follows runs on the loop's thread.

    async def _listen(self) -> None:
        self._listener = await asyncio.start_server(self._serve, "127.0.0.1", self.port, backlog=256)

    async def _stop_listening(self) -> None:
        if self._listener is not None:
            self._listener.close()  # its wait_closed() waits for open connections too, from Python 3.12
            self._listener = None

    async def _stop(self) -> None:
        await self._stop_listening()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._under_way.add(task)
        self.logins += 1
        self.most = max(self.most, len(self._under_way))
        try:
            await self._relay(task, client, to_client)
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            self._under_way.discard(task)
            self._tasks.discard(task)
            to_client.transport.abort()

    async def _relay(self, task: object, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        server, to_server = await asyncio.open_connection(*self._target)
        sending = asyncio.ensure_future(_pump(client, to_server))
        try:
            login = self._login()
            while data := await server.read(65536):
                to_client.write(data)
                if task in self._under_way and login.ends_with(data):
                    self._under_way.discard(task)
            to_client.write_eof()
            await to_client.drain()
        finally:
            sending.cancel()
            to_server.transport.abort()


async def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await source.read(65536):
            sink.write(data)
        sink.write_eof()


class _PostgresLogin:
    """Reads what a PostgreSQL server says until it is ready for a query.

    https://www.postgresql.org/docs/current/protocol-message-formats.html
    """

    def __init__(self) -> None:
        self._data = b""
        self._first = True

    def ends_with(self, data: bytes) -> bool:
        self._data += data
        if self._first and self._data[:1] == b"N":  # no TLS: one byte, which is no message
            self._data = self._data[1:]
        self._first = False
        while len(self._data) >= 5:
            length = 1 + int.from_bytes(self._data[1:5], "big")
            if len(self._data) < length:
                return False
            kind, self._data = self._data[:1], self._data[length:]
            if kind in b"ZE":  # ready, or an error, after which the server hangs up
                return True
        return False


class _MySQLLogin:
    """Reads what a MySQL or MariaDB server says until it accepts the login, or does not.

    https://mariadb.com/kb/en/connection/: the greeting is packet 0, the client's answer 1.
    """

    def __init__(self) -> None:
        self._data = b""

    def ends_with(self, data: bytes) -> bool:
        self._data += data
        while len(self._data) >= 5:
            length = 4 + int.from_bytes(self._data[:3], "little")
            if len(self._data) < length:
                return False
            number, kind, self._data = self._data[3], self._data[4], self._data[length:]
            if (number >= 2 and kind == 0x00) or kind == 0xFF:
                return True
        return False
