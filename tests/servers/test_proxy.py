"""The proxy, in front of a server that sends back what it gets."""

from __future__ import annotations

import os
import select
import socket
import socketserver
import threading
import time
from collections.abc import Iterator

import pytest

from tests.servers.ports import free_port
from tests.servers.proxy import TcpProxy
from tests.servers.waiting import until

_SOON = 5.0
"""Seconds: longer than anything here takes, shorter than a test's patience."""
_NEVER = 0.2
"""Seconds to wait for what must not come."""


class _Echo(socketserver.ThreadingTCPServer):
    """Sends back what it gets, and remembers how each connection ended."""

    daemon_threads = False
    allow_reuse_address = True

    def __init__(self) -> None:
        self.endings: list[str] = []
        self.ended = threading.Semaphore(0)
        super().__init__(("127.0.0.1", 0), _Repeat)

    def ending(self) -> str:
        """How the next connection ended: "end of file" or "reset"."""
        assert self.ended.acquire(timeout=_SOON), "the server's side of the link is still open"
        return self.endings.pop(0)


class _Repeat(socketserver.BaseRequestHandler):
    server: _Echo

    def handle(self) -> None:
        ending = "end of file"
        try:
            while data := self.request.recv(65536):
                self.request.sendall(data)
                if data == b"farewell":
                    return
        except ConnectionError:
            ending = "reset"
        finally:
            self.server.endings.append(ending)
            self.server.ended.release()


@pytest.fixture
def echo() -> Iterator[_Echo]:
    with _Echo() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def proxy(echo: _Echo) -> Iterator[TcpProxy]:
    """In front of the echo; stands in for the fixture of that name, which is in front of PostgreSQL."""
    with TcpProxy("127.0.0.1", echo.server_address[1]) as proxy:
        yield proxy


def dial(proxy: TcpProxy) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", proxy.port), timeout=_SOON)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


@pytest.fixture
def client(proxy: TcpProxy) -> Iterator[socket.socket]:
    """A connection through the proxy that has been used."""
    with dial(proxy) as connection:
        assert ask(connection, b"hello") == b"hello"
        yield connection


def ask(connection: socket.socket, data: bytes) -> bytes:
    connection.sendall(data)
    return receive(connection, len(data))


def receive(connection: socket.socket, size: int) -> bytes:
    got = b""
    while len(got) < size and (data := connection.recv(size - len(got))):
        got += data
    return got


def silent(connection: socket.socket) -> bool:
    """Whether nothing comes: no byte, no end, no error."""
    return not select.select([connection], [], [], _NEVER)[0]


def test_bytes_go_through_and_are_counted_in_both_directions(proxy: TcpProxy, client: socket.socket) -> None:
    before = proxy.bytes_forwarded
    assert ask(client, b"x" * 1000) == b"x" * 1000
    assert proxy.bytes_forwarded - before == 2000


def test_a_lot_of_bytes_arrive_in_order(proxy: TcpProxy, client: socket.socket) -> None:
    sent = os.urandom(4_000_000)
    sender = threading.Thread(target=client.sendall, args=(sent,))
    sender.start()
    assert receive(client, len(sent)) == sent
    sender.join()
    assert proxy.bytes_forwarded == 2 * len(sent) + len("hellohello")


def test_bytes_of_closed_links_still_count(proxy: TcpProxy, client: socket.socket) -> None:
    proxy.cut()
    assert proxy.bytes_forwarded == len("hellohello")


def test_links_are_counted_from_connect_to_close(proxy: TcpProxy, echo: _Echo) -> None:
    assert proxy.links == 0
    with dial(proxy) as first, dial(proxy):
        assert proxy.links == 2
        ask(first, b"x")
        first.close()
        assert echo.ending() == "end of file"
        until(lambda: proxy.links == 1)


def test_what_the_server_says_last_still_arrives_and_then_the_end(client: socket.socket) -> None:
    assert ask(client, b"farewell") == b"farewell"
    assert client.recv(1) == b""


def test_a_half_closed_client_still_gets_its_answer(client: socket.socket) -> None:
    client.sendall(b"last words")
    client.shutdown(socket.SHUT_WR)
    assert receive(client, 100) == b"last words"


def test_a_client_that_resets_resets_the_server(proxy: TcpProxy, client: socket.socket, echo: _Echo) -> None:
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
    client.close()
    assert echo.ending() == "reset"


def test_a_server_that_is_down_resets_the_link() -> None:
    with TcpProxy("127.0.0.1", free_port()) as proxy:
        with pytest.raises(ConnectionResetError), dial(proxy) as client:  # dial() may be late enough to see it
            client.recv(1)
        until(lambda: proxy.links == 0)


# New connections.


def test_refuse_refuses_new_connections_and_keeps_those_that_are(proxy: TcpProxy, client: socket.socket) -> None:
    proxy.refuse()
    with pytest.raises(ConnectionRefusedError):
        dial(proxy)
    assert ask(client, b"still here") == b"still here"


def test_forward_takes_connections_again_on_the_same_port(proxy: TcpProxy, client: socket.socket) -> None:
    port = proxy.port
    for _ in range(20):
        proxy.refuse()
        proxy.refuse()
        proxy.forward()
        proxy.forward()
        with dial(proxy) as other:
            assert ask(other, b"again") == b"again"
    assert proxy.port == port


def test_a_black_hole_accepts_and_never_answers(proxy: TcpProxy, client: socket.socket, echo: _Echo) -> None:
    before = proxy.bytes_forwarded
    proxy.black_hole()
    with dial(proxy) as lost:
        lost.sendall(b"anybody there?")
        assert silent(lost)
        assert proxy.links == 2
        assert proxy.bytes_forwarded == before
        assert ask(client, b"still here") == b"still here"
        proxy.forward()
        with dial(proxy) as found:
            assert ask(found, b"back") == b"back"
        assert silent(lost)


def test_a_client_that_gives_up_on_a_black_hole_is_no_link_any_more(proxy: TcpProxy) -> None:
    proxy.black_hole()
    with dial(proxy) as lost:
        lost.sendall(b"anybody there?")
        assert proxy.links == 1
    until(lambda: proxy.links == 0)


def test_a_black_hole_can_follow_a_refusal(proxy: TcpProxy) -> None:
    proxy.refuse()
    proxy.black_hole()
    with dial(proxy) as lost:
        lost.sendall(b"anybody there?")
        assert silent(lost)


# Links.


def test_a_delay_counts_once_in_each_direction(proxy: TcpProxy, client: socket.socket) -> None:
    proxy.delay(0.2)
    started = time.monotonic()
    assert ask(client, b"slow") == b"slow"
    assert 0.4 <= time.monotonic() - started < 0.8
    proxy.delay(0)
    started = time.monotonic()
    assert ask(client, b"fast") == b"fast"
    assert time.monotonic() - started < 0.2


def test_a_delay_is_of_time_not_of_throughput(proxy: TcpProxy, client: socket.socket) -> None:
    proxy.delay(0.2)
    started = time.monotonic()
    for number in range(10):
        client.sendall(b"%d" % number)
        time.sleep(0.02)  # so that they are ten pieces
    assert receive(client, 10) == b"0123456789"
    assert 0.4 <= time.monotonic() - started < 1.2


def test_a_frozen_link_stays_open_and_carries_nothing_until_the_thaw(proxy: TcpProxy, client: socket.socket) -> None:
    proxy.freeze()
    before = proxy.bytes_forwarded
    client.sendall(b"later")
    assert silent(client)
    assert (proxy.links, proxy.bytes_forwarded) == (1, before)
    proxy.thaw()
    assert receive(client, 5) == b"later"


def test_a_frozen_link_does_not_tell_that_the_other_side_is_gone(
    proxy: TcpProxy, client: socket.socket, echo: _Echo
) -> None:
    proxy.freeze()
    client.shutdown(socket.SHUT_WR)
    assert not echo.ended.acquire(timeout=_NEVER)
    proxy.thaw()
    assert echo.ending() == "end of file"
    assert client.recv(1) == b""


def test_a_link_made_during_a_freeze_is_not_frozen(proxy: TcpProxy, client: socket.socket) -> None:
    proxy.freeze()
    client.sendall(b"later")
    with dial(proxy) as other:
        assert ask(other, b"now") == b"now"
    assert silent(client)


def test_cut_ends_every_link_with_an_end_of_file_on_both_sides(
    proxy: TcpProxy, client: socket.socket, echo: _Echo
) -> None:
    proxy.cut()
    assert client.recv(1) == b""
    assert echo.ending() == "end of file"
    assert proxy.links == 0
    with dial(proxy) as other:
        assert ask(other, b"again") == b"again"


def test_reset_ends_every_link_with_a_reset_on_both_sides(proxy: TcpProxy, client: socket.socket, echo: _Echo) -> None:
    proxy.reset()
    with pytest.raises(ConnectionResetError):
        client.recv(1)
    assert echo.ending() == "reset"
    assert proxy.links == 0
    with dial(proxy) as other:
        assert ask(other, b"again") == b"again"


@pytest.mark.parametrize("mode", ["forward", "black_hole"])
def test_reset_is_about_connections_made_the_moment_before(proxy: TcpProxy, mode: str) -> None:
    getattr(proxy, mode)()
    for _ in range(20):
        with dial(proxy) as client:
            proxy.reset()
            with pytest.raises(ConnectionResetError):
                client.recv(1)


@pytest.mark.parametrize("end", ["cut", "reset"])
def test_a_frozen_link_can_be_ended(proxy: TcpProxy, client: socket.socket, end: str) -> None:
    proxy.freeze()
    client.sendall(b"never")
    getattr(proxy, end)()
    if end == "reset":
        with pytest.raises(ConnectionResetError):
            client.recv(1)
    else:
        assert client.recv(1) == b""


# Its end.


@pytest.mark.parametrize("state", ["forward", "refuse", "black_hole", "freeze", "slow"])
def test_close_joins_its_threads_at_once_whatever_the_state(echo: _Echo, state: str) -> None:
    before = set(threading.enumerate())
    proxy = TcpProxy("127.0.0.1", echo.server_address[1])
    with dial(proxy) as client:
        ask(client, b"hello")
        if state == "slow":
            proxy.delay(30)
        else:
            getattr(proxy, state)()
        client.sendall(b"on its way")
        started = time.monotonic()
        proxy.close()
        assert time.monotonic() - started < 2
        assert receive(client, 100) in (b"", b"on its way")
    assert echo.ending()
    assert {thread for thread in set(threading.enumerate()) - before if "TcpProxy" in thread.name} == set()
    with pytest.raises(ConnectionRefusedError):
        dial(proxy)
    proxy.close()
    assert (proxy.links, proxy.bytes_forwarded >= len("hellohello")) == (0, True)
    with pytest.raises(RuntimeError, match="closed"):
        proxy.forward()


def test_its_repr_tells_what_it_does(proxy: TcpProxy, client: socket.socket) -> None:
    assert repr(proxy).startswith(f"<TcpProxy 127.0.0.1:{proxy.port} forward")
    assert "1 link" in repr(proxy)
    proxy.refuse()
    assert "refuse" in repr(proxy)
