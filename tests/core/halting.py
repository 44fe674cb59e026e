"""A way to a server on which the answers end, or trickle, after so many bytes: silence at any stage of a login.

`TcpProxy` freezes a link when it is told to, which nobody can do at a given byte of a handshake.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
from typing import Any

from tests.core.working import PATIENCE, Working


class HaltingWay:
    """Forwards `host`:`port` to *server*, but only the first *after* bytes of what the server says.

    The rest never comes, or with *pause* one byte every *pause* seconds. `forwarded` counts the server's bytes. The
    client's own arrive. A context manager; one connection at a time, a new one from the start.
    """

    def __init__(
        self, server: Any, after: float = float("inf"), pause: float | None = None, host: str = "127.0.0.1"
    ) -> None:
        self.host = host
        self._target = (server.host, server.port)
        self._after = after
        self._pause = pause
        self.forwarded = 0

    def __enter__(self) -> HaltingWay:
        self._listener = socket.create_server((self.host, 0))
        self.port = int(self._listener.getsockname()[1])
        self._ended, self._end = socket.socketpair()
        self._working = Working(None, self._serve)
        return self

    def __exit__(self, *exc: object) -> None:
        self._end.close()
        self._working.result()
        self._listener.close()
        self._ended.close()

    def _serve(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._ended, selectors.EVENT_READ)
            selector.register(self._listener, selectors.EVENT_READ)
            while not any(key.fileobj is self._ended for key, _ in selector.select()):
                client = self._listener.accept()[0]
                with client, socket.create_connection(self._target, PATIENCE) as server, contextlib.suppress(OSError):
                    self._carry(client, server)

    def _carry(self, client: socket.socket, server: socket.socket) -> None:
        self.forwarded = 0
        late = b""
        with selectors.DefaultSelector() as selector:
            for end in (client, server, self._ended):
                selector.register(end, selectors.EVENT_READ)
            while True:
                ready = [key.fileobj for key, _ in selector.select(self._pause)]
                if self._ended in ready:
                    return
                if client in ready:
                    data = client.recv(65536)
                    if not data:
                        return
                    server.sendall(data)
                if server in ready:
                    late += server.recv(65536)
                now, late = self._split(late, trickle=not ready)
                client.sendall(now)
                self.forwarded += len(now)

    def _split(self, data: bytes, trickle: bool) -> tuple[bytes, bytes]:
        """What of *data* to send now, and what not."""
        size = max(0, min(len(data), self._after - self.forwarded))
        size = int(size) or int(trickle and self._pause is not None)
        return data[:size], data[size:]
