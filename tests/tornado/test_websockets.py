"""A websocket has a scope for its handshake and one for each callback, and holds no connection in between (C5)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
from tornado import gen
from tornado.ioloop import PeriodicCallback
from tornado.web import HTTPError
from tornado.websocket import WebSocketHandler
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

import peewee_web
from peewee_web import Databases
from peewee_web.core.scope import current_scope
from peewee_web.tornado import (
    PeeweeMixin,
    PeeweeRequestHandler,
    PeeweeWebSocketHandler,
    atomic_requests,
    non_atomic_requests,
)
from tests.tornado.conftest import MAX_CONNECTIONS, Row, Serve, Site, in_use, names, reset, session, wait_for

HANDSHAKE = (
    "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


@contextmanager
def connected(site: Site, path: str = "/", **options: Any) -> Iterator[ClientConnection]:
    with connect(site.url.replace("http", "ws") + path, **options) as socket:
        yield socket


@contextmanager
def connections(site: Site, count: int, path: str = "/") -> Iterator[list[ClientConnection]]:
    with ExitStack() as stack:
        yield [stack.enter_context(connected(site, path)) for _ in range(count)]


def ask(socket: ClientConnection, message: str) -> str | bytes:
    socket.send(message)
    return socket.recv(10)


def closed_with(socket: ClientConnection) -> int | None:
    """Wait until the server closes: its close code, or ``None`` when it just hung up."""
    with pytest.raises(ConnectionClosed) as closed:
        socket.recv(10)
    return None if closed.value.rcvd is None else closed.value.rcvd.code


def refusal(site: Site, **options: Any) -> Any:
    with pytest.raises(InvalidStatus) as refused, connected(site, **options):
        pass
    return refused.value.response


class Echo(PeeweeWebSocketHandler):
    def on_message(self, message: str | bytes) -> None:
        self.write_message(f"{message!s} {Row.select().count()}")


class AsyncEcho(PeeweeWebSocketHandler):
    async def on_message(self, message: str | bytes) -> None:  # type: ignore[override]
        first = session()
        await asyncio.sleep(0.002)
        assert session() == first
        assert await asyncio.to_thread(session) == first
        await self.write_message(f"{message!s} {Row.select().count()}")


class GeneratorEcho(PeeweeWebSocketHandler):
    @gen.coroutine
    def on_message(self, message: str | bytes) -> Any:
        first = session()
        yield gen.sleep(0.002)
        assert session() == first
        yield self.write_message(f"{message!s} {Row.select().count()}")


class IndirectEcho(AsyncEcho):
    def on_message(self, message: str | bytes) -> Any:  # type: ignore[override]  # returns a coroutine, is none
        return super().on_message(message)


class MixedInLast(WebSocketHandler, PeeweeMixin):
    def on_message(self, message: str | bytes) -> None:
        self.write_message(f"{message!s} {Row.select().count()}")


@pytest.mark.parametrize("handler", [Echo, AsyncEcho, GeneratorEcho, IndirectEcho, MixedInLast])
@pytest.mark.parametrize("lazy", [True, False])
def test_between_messages_a_socket_holds_no_connection(serve: Serve, db: Any, handler: Any, lazy: bool) -> None:
    site = serve(handler, Databases(db, lazy=lazy))

    with connections(site, 2 * MAX_CONNECTIONS) as sockets:
        for message in "abc":
            for socket in sockets:
                assert ask(socket, message) == f"{message} 0"
                wait_for(lambda: in_use(db) == 0)


def test_every_callback_runs_in_a_scope_of_its_own(serve: Serve, db: Any) -> None:
    scopes: dict[str, Any] = {}

    def note(name: str) -> None:
        Row.select().count()
        assert name not in scopes
        scopes[name] = current_scope()

    class Callbacks(PeeweeWebSocketHandler):
        def prepare(self) -> None:
            note("prepare")

        def select_subprotocol(self, subprotocols: list[str]) -> None:
            assert current_scope() is scopes["prepare"]

        async def open(self, *args: str, **kwargs: str) -> None:
            note("open")

        def on_message(self, message: str | bytes) -> None:
            note("on_message")
            self.ping(b"x")

        def on_ping(self, data: bytes) -> None:
            note("on_ping")

        def on_pong(self, data: bytes) -> None:
            note("on_pong")

        def on_close(self) -> None:
            note("on_close")

    site = serve(Callbacks, db)

    with connected(site) as socket:
        socket.ping("y")
        socket.send("hello")
        wait_for(lambda: "on_pong" in scopes)
    wait_for(lambda: "on_close" in scopes)
    assert list(scopes) == ["prepare", "open", "on_ping", "on_message", "on_pong", "on_close"]
    assert len(set(map(id, scopes.values()))) == 6
    wait_for(lambda: all(scope.ended for scope in scopes.values()))


def test_a_callback_called_by_another_shares_its_scope(serve: Serve, db: Any) -> None:
    scopes: list[Any] = []

    class Calls(PeeweeWebSocketHandler):
        async def open(self, *args: str, **kwargs: str) -> None:
            Row.create(name="open")
            scopes.append(current_scope())
            await self.on_message("from open")

        async def on_message(self, message: str | bytes) -> None:  # type: ignore[override]
            scopes.append(current_scope())
            Row.create(name=message)
            raise ValueError("a bug")

    site = serve(Calls, Databases(db, atomic=True))

    with connected(site) as socket:
        assert closed_with(socket) is None
    wait_for(lambda: in_use(db) == 0)
    assert names() == []
    assert scopes[0] is scopes[1]


def test_two_sockets_interleave_on_connections_of_their_own(serve: Serve, db: Any) -> None:
    class Slow(PeeweeWebSocketHandler):
        async def on_message(self, message: str | bytes) -> None:  # type: ignore[override]
            first = session()
            await asyncio.sleep(0.02)
            await self.write_message(f"{session() == first} {first}")

    site = serve(Slow, db)

    with connections(site, MAX_CONNECTIONS) as sockets:
        for socket in sockets:
            socket.send("a")
        answers = [str(socket.recv(10)) for socket in sockets]
    assert all(answer.startswith("True") for answer in answers)
    assert len(set(answers)) == MAX_CONNECTIONS


# However it ends.


def test_a_message_that_raises_is_rolled_back_and_closes_the_socket(
    serve: Serve, db: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)

    class Raises(PeeweeWebSocketHandler):
        def on_message(self, message: str | bytes) -> Any:
            db.session_start()
            Row.create(name="lost")
            if message == "sync":
                raise ValueError("a bug")
            return self.later()

        async def later(self) -> None:
            await asyncio.sleep(0.001)
            raise ValueError("a bug")

    site = serve(Raises, db)

    for message in ["sync", "async"] * MAX_CONNECTIONS:
        with connected(site) as socket:
            socket.send(message)
            assert closed_with(socket) is None
        wait_for(lambda: in_use(db) == 0)
    assert names() == []


@pytest.mark.parametrize("rst", [False, True], ids=["fin", "rst"])
def test_a_client_that_goes_away_leaves_nothing_behind(serve: Serve, db: Any, rst: bool) -> None:
    closed: list[int] = []

    class Closes(PeeweeWebSocketHandler):
        async def open(self, *args: str, **kwargs: str) -> None:
            Row.select().count()

        def on_close(self) -> None:
            closed.append(Row.select().count())

    site = serve(Closes, db)
    for count in range(1, MAX_CONNECTIONS + 3):
        with site.raw(body=HANDSHAKE) as sock:
            assert sock.recv(12) == b"HTTP/1.1 101"
            if rst:
                reset(sock)
        wait_for(lambda count=count: len(closed) == count)
        wait_for(lambda: in_use(db) == 0)


def test_on_close_runs_at_once_and_without_a_connection(serve: Serve, db: Any) -> None:
    seen: list[int] = []

    class Closes(PeeweeWebSocketHandler):
        def on_close(self) -> None:
            seen.append(in_use(db))

        def on_connection_close(self) -> None:
            super().on_connection_close()
            seen.append(-1)

    with connected(serve(Closes, Databases(db, lazy=False))):
        pass
    wait_for(lambda: len(seen) == 2)
    assert seen == [0, -1]


def test_on_close_may_be_a_coroutine(serve: Serve, db: Any) -> None:
    class Closes(PeeweeWebSocketHandler):
        async def on_close(self) -> None:  # type: ignore[override]
            first = session()
            await asyncio.sleep(0.01)
            Row.create(name=f"closed {session() == first}")

    site = serve(Closes, Databases(db, lazy=False, atomic=True))

    with connected(site):
        pass
    wait_for(lambda: names() == ["closed True"])


@pytest.mark.parametrize("how", ["raise", "finish", "not a websocket"])
def test_a_refused_handshake_gives_its_connection_back(serve: Serve, db: Any, how: str) -> None:
    class Refuses(PeeweeWebSocketHandler):
        def prepare(self) -> None:
            Row.create(name="seen")
            if how == "raise":
                raise HTTPError(403)
            if how == "finish":
                self.set_status(403)
                self.finish("no")

    site = serve(Refuses, Databases(db, atomic=True))

    if how == "not a websocket":
        assert site.get().status_code == 400
    else:
        assert refusal(site).status_code == 403
    wait_for(lambda: in_use(db) == 0)
    assert names() == []


def test_a_handshake_commits_what_it_wrote(serve: Serve, db: Any) -> None:
    class Writes(Echo):
        def prepare(self) -> None:
            Row.create(name="handshake")

    site = serve(Writes, Databases(db, atomic=True))

    with connected(site) as socket:
        assert ask(socket, "a") == "a 1"


def test_a_transaction_left_open_by_the_handshake_ends_with_it(
    serve: Serve, db: Any, caplog: pytest.LogCaptureFixture
) -> None:
    class LeavesOpen(Echo):
        def prepare(self) -> None:
            db.session_start()
            Row.create(name="lost")

    with connected(serve(LeavesOpen, db)) as socket:
        assert ask(socket, "a") == "a 0"
        wait_for(lambda: in_use(db) == 0)
    assert "was left open" in caplog.text


def test_work_started_in_a_callback_opens_a_scope_of_its_own(serve: Serve, db: Any) -> None:
    met: list[str] = []

    def tick() -> None:
        try:
            Row.select().count()
        except peewee_web.ScopeClosed:
            with peewee_web.scope():
                met.append(f"closed, then {Row.select().count()}")

    class Ticks(PeeweeWebSocketHandler):
        async def open(self, *args: str, **kwargs: str) -> None:
            self.ticks = PeriodicCallback(tick, 5)
            self.ticks.start()

        def on_close(self) -> None:
            self.ticks.stop()

    site = serve(Ticks, db)

    with connected(site):
        wait_for(lambda: len(met) > 1)
    assert set(met) == {"closed, then 0"}


def test_a_request_may_write_to_the_sockets_of_others(serve: Serve, db: Any) -> None:
    room: set[PeeweeWebSocketHandler] = set()

    class Room(PeeweeWebSocketHandler):
        def open(self, *args: str, **kwargs: str) -> None:
            room.add(self)

        def on_close(self) -> None:
            room.discard(self)

    class Announce(PeeweeRequestHandler):
        def post(self) -> None:
            Row.create(name="announcement")
            for member in room:
                member.write_message(f"announcement {Row.select().count()}")

    site = serve([(r"/", Announce), (r"/room", Room)], db)

    with connections(site, 3, "/room") as sockets:
        wait_for(lambda: len(room) == 3)
        site.client.post("/")
        assert [socket.recv(10) for socket in sockets] == ["announcement 1"] * 3


# Transactions.


class Saves(PeeweeWebSocketHandler):
    def on_message(self, message: str | bytes) -> Any:
        Row.create(name=message)
        return self.later(str(message)) if "async" in str(message) else self.answer(str(message))

    async def later(self, message: str) -> None:
        await asyncio.sleep(0.001)
        self.answer(message)

    def answer(self, message: str) -> None:
        if "fail" in message:
            raise ValueError("a bug")
        db = Row._meta.database  # type: ignore[attr-defined]
        self.write_message(f"{db.in_transaction()}")


class OptsIn(Saves):
    on_message = atomic_requests(Saves.on_message)


class OptsOut(Saves):
    on_message = non_atomic_requests(Saves.on_message)


@pytest.mark.parametrize(
    ("handler", "option", "atomic"),
    [(Saves, False, False), (Saves, True, True), (OptsIn, False, True), (OptsOut, True, False)],
)
def test_a_message_is_atomic_if_the_databases_or_its_handler_say_so(
    serve: Serve, db: Any, handler: Any, option: bool, atomic: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    site = serve(handler, Databases(db, atomic=option))

    for fail in ("fail", "fail async"):
        with connected(site) as socket:
            assert [ask(socket, message) for message in ("sync", "async")] == [f"{atomic}"] * 2
            socket.send(fail)
            assert closed_with(socket) is None
    wait_for(lambda: in_use(db) == 0)
    lost = [] if atomic else ["fail", "fail async"]
    assert names() == ["sync", "async", *lost[:1], "sync", "async", *lost[1:]]


@pytest.mark.parametrize("message", ["sync", "async"])
def test_a_commit_that_fails_closes_the_socket(
    serve: Serve, db: Any, message: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    site = serve(Saves, Databases(db, atomic=True))

    def refuse() -> None:
        raise ValueError("refused")

    monkeypatch.setattr(db, "commit", refuse)

    with connected(site) as socket:
        assert ask(socket, message) == "True"
        assert closed_with(socket) is None
    wait_for(lambda: in_use(db) == 0)
    monkeypatch.undo()
    assert "refused" in caplog.text
    assert names() == []


# No connection.


@pytest.mark.parametrize("message", ["sync", "async"])
def test_a_message_that_gets_no_connection_closes_the_socket_with_try_again_later(
    serve: Serve, unreachable: Any, message: str, caplog: pytest.LogCaptureFixture
) -> None:
    class Queries(PeeweeWebSocketHandler):
        def on_message(self, message: str | bytes) -> Any:
            if message == "ping":
                self.write_message("pong")
            else:
                return self.query() if message == "async" else unreachable.execute_sql("SELECT 1")

        async def query(self) -> None:
            unreachable.execute_sql("SELECT 1")

    site = serve(Queries, unreachable)

    with connected(site) as socket:
        assert ask(socket, "ping") == "pong"
        socket.send(message)
        assert closed_with(socket) == 1013
        assert socket.close_reason == "the database is not available"
    assert "Traceback" not in caplog.text
    assert "no connection to the database" in caplog.text


def test_an_eager_socket_is_refused_with_503(serve: Serve, unreachable: Any) -> None:
    answer = refusal(serve(Echo, Databases(unreachable, lazy=False)))
    assert answer.status_code == 503
    assert int(answer.headers["Retry-After"]) >= 1


def test_an_eager_message_waits_its_turn(serve: Serve, db: Any) -> None:
    site = serve(AsyncEcho, Databases(db, lazy=False))

    with connections(site, 3 * MAX_CONNECTIONS) as sockets:
        for socket in sockets:
            socket.send("a")
        assert [socket.recv(10) for socket in sockets] == ["a 0"] * 3 * MAX_CONNECTIONS


def test_an_excluded_socket_has_no_scope(serve: Serve, db: Any) -> None:
    class Scopeless(PeeweeWebSocketHandler):
        def on_message(self, message: str | bytes) -> None:
            self.write_message(f"{current_scope()}")

    site = serve(Scopeless, Databases(db, exclude="/", lazy=False))

    with connected(site) as socket:
        assert ask(socket, "a") == "None"


def test_a_handshake_of_another_origin_is_refused_as_ever(serve: Serve, db: Any) -> None:
    assert refusal(serve(Echo, db), origin="http://elsewhere.example").status_code == 403
