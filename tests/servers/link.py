"""One client's way through the proxy: two sockets, and in each direction a queue of what is on its way.

Non-blocking throughout and without a thread of its own; `TcpProxy` calls `advance` whenever something may
have changed, and the link tells the proxy's selector what it waits for.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import struct
import time
from collections import deque

_CHUNK = 65536
_MOST_QUEUED = 4 * 1024 * 1024  # bytes in one direction, before we stop reading and TCP slows the sender
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER on, 0 s: close() sends RST


class Link:
    """A client's socket and, unless it fell into a black hole, one to the server (`target`)."""

    def __init__(self, selector: selectors.BaseSelector, client: socket.socket, target: tuple[str, int] | None) -> None:
        self._selector = selector
        self._client = client
        self._server = None if target is None else socket.socket()
        self._connected = False
        self._flows: tuple[_Flow, ...] = ()
        self.frozen = False
        self.open = True
        for end in self._ends():
            end.setblocking(False)
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._server is not None and target is not None:
            self._server.connect_ex(target)  # under way now; `_has_connected` sees how it went
            self._flows = (_Flow(client, self._server), _Flow(self._server, client))

    @property
    def bytes_forwarded(self) -> int:
        return sum(flow.bytes_forwarded for flow in self._flows)

    def route(self) -> tuple[int, int] | None:
        """The port that the server sees it come from, and the client's own; None if one side is not there any more."""
        try:
            if self._server is None:
                return None
            return self._server.getsockname()[1], self._client.getpeername()[1]
        except OSError:
            return None

    def next_delivery(self) -> float | None:
        """When (`time.monotonic`) something that is held back will be due; None if nothing is."""
        if self.frozen:
            return None
        return min((flow.queue[0][0] for flow in self._flows if flow.queue and not flow.blocked), default=None)

    def advance(self, delay: float) -> None:
        """Move what can be moved now; what arrives is due after `delay` seconds."""
        if self.frozen or not self.open:
            return
        try:
            if self._server is None:
                self._swallow()
            elif self._has_connected(self._server):
                for flow in self._flows:
                    flow.receive(delay)
                    flow.deliver()
        except OSError:  # one side reset or refused; so shall the other be
            self.reset()
            return
        if self._flows and all(flow.finished for flow in self._flows):
            self.cut()

    def watch(self) -> None:
        """Tell the selector what `advance` waits for. Frozen: for nothing, not even for errors."""
        if not self.open:
            return
        for end in self._ends():
            wanted = 0 if self.frozen else self._wanted(end)
            registered = self._selector.get_map().get(end)
            if registered is None:
                if wanted:
                    self._selector.register(end, wanted)
            elif not wanted:
                self._selector.unregister(end)
            elif registered.events != wanted:
                self._selector.modify(end, wanted)

    def cut(self) -> None:
        """Close both sides with FIN."""
        self._unwatch()
        for end in self._ends():
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_WR)
            # A close() with unread bytes in the buffer would send RST after the FIN.
            with contextlib.suppress(OSError):
                while end.recv(_CHUNK):
                    pass
            end.close()

    def reset(self) -> None:
        """Close both sides with RST."""
        self._unwatch()
        for end in self._ends():
            end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            end.close()

    def _ends(self) -> list[socket.socket]:
        return [self._client] if self._server is None else [self._client, self._server]

    def _unwatch(self) -> None:
        self.open = False
        for end in self._ends():
            with contextlib.suppress(KeyError):
                self._selector.unregister(end)

    def _wanted(self, end: socket.socket) -> int:
        if self._server is None:
            return selectors.EVENT_READ
        if not self._connected:
            return selectors.EVENT_WRITE if end is self._server else 0
        wanted = 0
        for flow in self._flows:
            if flow.source is end and flow.has_room:
                wanted |= selectors.EVENT_READ
            if flow.sink is end and flow.blocked:
                wanted |= selectors.EVENT_WRITE
        return wanted

    def _has_connected(self, server: socket.socket) -> bool:
        """Whether the server accepted by now; `OSError` if it refused."""
        if not self._connected:
            if error := server.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                raise OSError(error, "the server could not be reached")
            with contextlib.suppress(OSError):
                server.getpeername()
                self._connected = True
        return self._connected

    def _swallow(self) -> None:
        """Read and forget, only to see when the client leaves."""
        with contextlib.suppress(BlockingIOError):
            while self._client.recv(_CHUNK):
                pass
            self.cut()


class _Flow:
    """One direction: what came from `source`, each piece with the moment it is due at `sink`.

    An empty piece is the end, which waits its turn like any other.
    """

    def __init__(self, source: socket.socket, sink: socket.socket) -> None:
        self.source = source
        self.sink = sink
        self.queue: deque[tuple[float, bytes]] = deque()
        self.blocked = False
        self.finished = False
        self.bytes_forwarded = 0
        self._queued = 0
        self._ended = False

    @property
    def has_room(self) -> bool:
        return not self._ended and self._queued < _MOST_QUEUED

    def receive(self, delay: float) -> None:
        if not self.has_room:
            return
        try:
            data = self.source.recv(_CHUNK)
        except BlockingIOError:
            return
        self._ended = not data
        self._queued += len(data)
        self.queue.append((time.monotonic() + delay, data))

    def deliver(self) -> None:
        self.blocked = False
        while self.queue and self.queue[0][0] <= time.monotonic():
            due, data = self.queue.popleft()
            if not data:
                self.finished = True
                self.sink.shutdown(socket.SHUT_WR)
                return
            try:
                sent = self.sink.send(data)
            except BlockingIOError:
                sent = 0
            self._queued -= sent
            self.bytes_forwarded += sent
            if sent < len(data):
                self.queue.appendleft((due, data[sent:]))
                self.blocked = True
                return
