"""A TCP proxy on a loopback port that can be told to misbehave while connections run through it.

Two threads pump each link, one for each direction. What it knows of the protocol inside: nothing.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from typing import Any

from tests.servers.ports import free_port

_CHUNK = 65536
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER on, 0 s: close() sends RST


class TcpProxy:
    """Forwards 127.0.0.1:`port` to *host*:*port_of_server* until told otherwise. A context manager; thread-safe."""

    def __init__(self, host: str, port_of_server: int) -> None:
        self.target = (host, port_of_server)
        self.port = free_port()
        self.bytes_forwarded = 0
        self._delay = 0.0
        self._mode = "forward"
        self._flowing = threading.Event()
        self._flowing.set()
        self._lock = threading.Lock()
        self._links: set[_Link] = set()
        self._threads: list[threading.Thread] = []
        self._closed = False
        self._listener: socket.socket | None = None
        self._listen()

    def __repr__(self) -> str:
        return f"<TcpProxy 127.0.0.1:{self.port} {self._mode}, {self.links} links>"

    def __enter__(self) -> TcpProxy:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    @property
    def links(self) -> int:
        """How many connections are open through the proxy."""
        with self._lock:
            return len(self._links)

    def forward(self) -> None:
        """Carry bytes for new connections, from now on."""
        self._mode = "forward"
        if self._listener is None:
            self._listen()

    def refuse(self) -> None:
        """New connections are refused; those that are open stay."""
        self._mode = "refuse"
        listener, self._listener = self._listener, None
        if listener is not None:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)  # wakes accept()
            listener.close()

    def black_hole(self) -> None:
        """New connections are accepted and never answered."""
        self.forward()
        self._mode = "black_hole"

    def delay(self, seconds: float) -> None:
        """Each piece of data waits *seconds* in each direction; 0 ends it."""
        self._delay = seconds

    def freeze(self) -> None:
        """Open links stop carrying bytes; their sockets stay open."""
        self._flowing.clear()

    def thaw(self) -> None:
        self._flowing.set()

    def cut(self) -> None:
        """Close every link in the orderly way (FIN)."""
        for link in self._snapshot():
            link.close()

    def reset(self) -> None:
        """Break every link (RST)."""
        for link in self._snapshot():
            link.close(reset=True)

    def close(self) -> None:
        """Close every link and the port, and wait for the threads."""
        self._closed = True
        self.refuse()
        self.thaw()
        self.cut()
        for thread in list(self._threads):
            thread.join(10)

    def _snapshot(self) -> list[_Link]:
        with self._lock:
            return list(self._links)

    def _listen(self) -> None:
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", self.port))
        listener.listen(128)
        self._listener = listener
        self._start(self._accept, listener)

    def _start(self, target: Any, *arguments: Any) -> None:
        thread = threading.Thread(target=target, args=arguments, name=f"{self!r}", daemon=True)
        self._threads = [known for known in self._threads if known.is_alive()]
        self._threads.append(thread)
        thread.start()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:  # refuse() or close()
                return
            self._start(self._serve, client)

    def _serve(self, client: socket.socket) -> None:
        if self._mode == "black_hole":
            link = _Link(client, None)
            self._add(link)
            while not link.closed and self._receive(client):
                pass
            self._drop(link)
            return
        try:
            server = socket.create_connection(self.target, timeout=10)
        except OSError:
            client.close()
            return
        server.settimeout(None)
        for end in (client, server):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        link = _Link(client, server)
        self._add(link)
        self._start(self._pump, link, server, client)
        self._pump(link, client, server)

    def _pump(self, link: _Link, source: socket.socket, sink: socket.socket) -> None:
        while True:
            data = self._receive(source)
            if not data:
                break
            if self._delay:
                time.sleep(self._delay)
            self._flowing.wait()
            try:
                sink.sendall(data)
            except OSError:
                break
            self.bytes_forwarded += len(data)
        self._drop(link)

    def _receive(self, source: socket.socket) -> bytes:
        try:
            return source.recv(_CHUNK)
        except OSError:
            return b""

    def _add(self, link: _Link) -> None:
        with self._lock:
            self._links.add(link)
        if self._closed:
            link.close()

    def _drop(self, link: _Link) -> None:
        link.close()
        with self._lock:
            self._links.discard(link)


class _Link:
    """A client's socket and the one to the server; closing either way wakes whoever reads from it."""

    def __init__(self, client: socket.socket, server: socket.socket | None) -> None:
        self._ends = [end for end in (client, server) if end is not None]
        self._lock = threading.Lock()
        self.closed = False

    def close(self, reset: bool = False) -> None:
        with self._lock:
            if self.closed:
                return
            self.closed = True
        for end in self._ends:
            if reset:
                with contextlib.suppress(OSError):
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            else:
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
            end.close()
