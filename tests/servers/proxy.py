"""A TCP proxy on a loopback port that can be told to misbehave while connections run through it.

Knows bytes and connections, no protocol. One thread does all the I/O and runs every command, so a command
has taken effect when it returns and a test needs no sleep after it. (A thread for each direction could not
reset a link: a socket that another thread reads from is not released, and sends no RST, when it is closed.)
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

from tests.servers.link import Link
from tests.servers.ports import free_port

_BACKLOG = 256
_PATIENCE = 10.0  # seconds that a command may take, before we say that the proxy's thread is stuck
_Result = TypeVar("_Result")


class TcpProxy:
    """Forwards 127.0.0.1:`port` to *host*:*port_of_server* until told otherwise. A context manager; thread-safe.

    What happens to new connections is one of `forward` (at the start), `refuse` and `black_hole`; what
    happens on the links that exist is up to `delay`, `freeze`, `cut` and `reset`. The two are independent:
    a pulled cable is `freeze` and `black_hole`. Once closed it knows only its counts; the rest raises
    `RuntimeError`.
    """

    def __init__(self, host: str, port_of_server: int) -> None:
        self.target = (host, port_of_server)
        self.port = free_port()
        self._mode = "forward"
        self._delay = 0.0
        self._links: set[Link] = set()
        self._bytes_of_closed_links = 0
        self._selector = selectors.DefaultSelector()
        self._wakened, self._waker = socket.socketpair()
        self._wakened.setblocking(False)
        self._selector.register(self._wakened, selectors.EVENT_READ)
        self._commands: deque[Callable[[], None]] = deque()
        self._lock = threading.Lock()
        self._closed = False
        self._listener: socket.socket | None = None
        self._listen()
        self._thread = threading.Thread(target=self._serve, name=f"TcpProxy:{self.port}", daemon=True)
        self._thread.start()

    def __repr__(self) -> str:
        return f"<TcpProxy 127.0.0.1:{self.port} {self._mode}, {len(self._links)} links>"

    def __enter__(self) -> TcpProxy:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    @property
    def links(self) -> int:
        """How many connections are open through the proxy, those in a black hole and the frozen ones included."""
        return self._command(lambda: len(self._links), even_closed=True)

    @property
    def bytes_forwarded(self) -> int:
        """How many bytes were delivered so far, both directions together."""
        return self._command(
            lambda: self._bytes_of_closed_links + sum(link.bytes_forwarded for link in self._links),
            even_closed=True,
        )

    def routes(self) -> dict[int, int]:
        """Of each link, by the port that the server sees it come from: the client's own port."""
        return self._command(lambda: dict(filter(None, (link.route() for link in self._links))))

    def forward(self) -> None:
        """Carry bytes for new connections, from now on. What a black hole has swallowed it keeps."""
        self._command(lambda: self._set_mode("forward"))

    def refuse(self) -> None:
        """New connections are refused (ECONNREFUSED); those that are open stay."""
        self._command(lambda: self._set_mode("refuse"))

    def black_hole(self) -> None:
        """New connections are accepted and never answered; those that are open stay."""
        self._command(lambda: self._set_mode("black_hole"))

    def delay(self, seconds: float) -> None:
        """What arrives from now on is delivered *seconds* later, in each direction; 0 ends it.

        Latency, not throughput: pieces wait side by side.
        """
        self._command(lambda: setattr(self, "_delay", seconds))

    def freeze(self) -> None:
        """The links that are open now stop carrying bytes, and ends; their sockets stay open."""
        self._command(lambda: self._set_frozen(True))

    def thaw(self) -> None:
        """Frozen links go on, beginning with what was sent meanwhile."""
        self._command(lambda: self._set_frozen(False))

    def cut(self) -> None:
        """Close every link in the orderly way (FIN), on both sides."""
        self._command(lambda: self._end_all(Link.cut))

    def reset(self) -> None:
        """Break every link (RST), on both sides."""
        self._command(lambda: self._end_all(Link.reset))

    def close(self) -> None:
        """Cut every link, close the port and wait for the thread. A second call does nothing."""
        with self._lock:
            first, self._closed = not self._closed, True
        if first:
            self._waker.send(b"!")
        self._thread.join()
        if first:
            self._wakened.close()
            self._waker.close()

    def _command(self, command: Callable[[], _Result], even_closed: bool = False) -> _Result:
        """Have the thread run `command`; its result."""
        future: Future[_Result] = Future()

        def run() -> None:
            try:
                future.set_result(command())
            except Exception as error:
                future.set_exception(error)

        with self._lock:
            if not self._closed:
                self._commands.append(run)
                self._waker.send(b"!")
            elif not even_closed:
                raise RuntimeError(f"{self!r} is closed")
        if self._closed and even_closed:
            self._thread.join()
            return command()
        return future.result(_PATIENCE)

    # All that follows runs on the proxy's thread.

    def _serve(self) -> None:
        try:
            while not self._closed:
                self._selector.select(self._time_to_next_delivery())
                self._run_commands()
                self._accept()
                for link in list(self._links):
                    link.advance(self._delay)
                    link.watch()
                    self._forget_if_closed(link)
        finally:
            self._run_commands()
            self._stop_listening()
            self._end_all(Link.cut)
            self._selector.close()

    def _time_to_next_delivery(self) -> float | None:
        due = [moment for link in self._links if (moment := link.next_delivery()) is not None]
        return max(0.0, min(due) - time.monotonic()) if due else None

    def _run_commands(self) -> None:
        with contextlib.suppress(BlockingIOError):
            self._wakened.recv(4096)
        while self._commands:
            self._accept()  # a connection made before a command was given is one that it is about
            self._commands.popleft()()

    def _accept(self) -> None:
        while self._listener is not None:
            try:
                client, _ = self._listener.accept()
            except BlockingIOError:
                return
            except ConnectionError:  # it left while it waited
                continue
            self._links.add(Link(self._selector, client, None if self._mode == "black_hole" else self.target))

    def _set_mode(self, mode: str) -> None:
        self._mode = mode
        if mode == "refuse":
            self._stop_listening()
        elif self._listener is None:
            self._listen()

    def _listen(self) -> None:
        listener = socket.socket()
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(("127.0.0.1", self.port))
            listener.listen(_BACKLOG)
            listener.setblocking(False)
            self._selector.register(listener, selectors.EVENT_READ)
        except BaseException:
            listener.close()
            raise
        self._listener = listener

    def _stop_listening(self) -> None:
        if self._listener is not None:
            self._selector.unregister(self._listener)
            self._listener.close()
            self._listener = None

    def _set_frozen(self, frozen: bool) -> None:
        for link in self._links:
            link.frozen = frozen

    def _end_all(self, end: Callable[[Link], None]) -> None:
        for link in list(self._links):
            end(link)
            self._forget_if_closed(link)

    def _forget_if_closed(self, link: Link) -> None:
        if not link.open:
            self._links.discard(link)
            self._bytes_of_closed_links += link.bytes_forwarded
