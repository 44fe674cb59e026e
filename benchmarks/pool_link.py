"""What stands between a pool and its server, in a process of its own: it takes no time from the threads measured.

Two kinds: `Relay`, which does nothing but add latency, precisely; and the tests' `TcpProxy`, which misbehaves.
"""

from __future__ import annotations

import multiprocessing
import select
import socket
import time
from collections import deque
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

from tests.servers.proxy import TcpProxy


class Link:
    """A relay or proxy to *host*:*port* that runs in a child process. ``link.ask("delay", 0.005)`` calls its method."""

    def __init__(self, kind: str, host: str, port: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, child_end = context.Pipe()
        self._process = context.Process(target=_serve, args=(child_end, kind, host, port), daemon=True)
        self._process.start()
        child_end.close()
        self.port: int = self._pipe.recv()

    def ask(self, name: str, *arguments: Any) -> Any:
        self._pipe.send((name, arguments))
        answer = self._pipe.recv()
        if isinstance(answer, Exception):
            raise answer
        return answer

    def __enter__(self) -> Link:
        return self

    def __exit__(self, *exc: object) -> None:
        self._pipe.close()
        self._process.join(10)
        self._process.close()


def _serve(pipe: Connection, kind: str, host: str, port: int) -> None:
    if kind == "relay":
        Relay(pipe, host, port).run()
        return
    with TcpProxy(host, port) as proxy:
        pipe.send(proxy.port)
        while True:
            try:
                name, arguments = pipe.recv()
            except EOFError:
                return
            try:
                attribute = getattr(proxy, name)
                pipe.send(attribute(*arguments) if callable(attribute) else attribute)
            except Exception as error:
                pipe.send(error)


class Relay:
    """Carries bytes; what the server says arrives later by the delay.

    The tests' proxy delays as well, but its clock is epoll's, of whole milliseconds. (A round trip is as long whichever
    way it is delayed, and one way is half the work.)
    """

    def __init__(self, pipe: Connection, host: str, port: int) -> None:
        self._pipe = pipe
        self._target = (host, port)
        self._delay = 0.0
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self._peers: dict[socket.socket, socket.socket] = {}
        self._servers: set[socket.socket] = set()
        self._under_way: deque[tuple[float, socket.socket, bytes]] = deque()
        pipe.send(self._listener.getsockname()[1])

    def run(self) -> None:
        """Until the other end of the pipe is closed."""
        while True:
            left = self._under_way[0][0] - time.perf_counter() if self._under_way else None
            timeout = None if left is None else max(0.0, left)
            ready, _, _ = select.select([self._pipe, self._listener, *self._peers], [], [], timeout)
            if self._pipe in ready:
                try:
                    _, (self._delay,) = self._pipe.recv()
                except EOFError:
                    return
                self._pipe.send(None)
            if self._listener in ready:
                self._accept()
            for end in ready:
                if end in self._peers:
                    self._receive(end)
            while self._under_way and self._under_way[0][0] <= time.perf_counter():
                _, end, data = self._under_way.popleft()
                self._send(end, data)

    def _accept(self) -> None:
        client, _ = self._listener.accept()
        server = socket.create_connection(self._target)
        for end in (client, server):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._peers[client], self._peers[server] = server, client
        self._servers.add(server)

    def _receive(self, end: socket.socket) -> None:
        peer = self._peers[end]
        try:
            data = end.recv(65536)
        except OSError:
            data = b""
        if not data:
            for each in (end, peer):
                del self._peers[each]
                self._servers.discard(each)
                each.close()
        elif end in self._servers and self._delay:
            self._under_way.append((time.perf_counter() + self._delay, peer, data))
        else:
            self._send(peer, data)

    def _send(self, end: socket.socket, data: bytes) -> None:
        with suppress(OSError):  # closed meanwhile
            end.sendall(data)
