"""A websocket lives long: its connection goes back to the pool while it waits for its client."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

import peewee_web
from peewee_web import PooledSqliteDatabase, PoolTimeout
from peewee_web.asgi import PeeweeMiddleware
from tests.asgi.server import Server, serve
from tests.core.working import in_use, query, save, saved

CONNECT, HELLO = {"type": "websocket.connect"}, {"type": "websocket.receive", "text": "hello"}
ACCEPT, CLOSE = {"type": "websocket.accept"}, {"type": "websocket.close"}


def conversing(work: Any) -> Any:
    """An app that accepts, and does *work* for each message until the client goes."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send(ACCEPT)
        while (await receive())["type"] == "websocket.receive":
            await send({"type": "websocket.send", "text": str(work())})

    return app


def converse(app: Any, messages: int = 3, **options: Any) -> Server:
    """Say hello *messages* times and hang up when all are answered."""
    incoming = (CONNECT, *[HELLO] * messages)
    return serve(app, kind="websocket", incoming=incoming, gone_after=messages + 1, **options)


def test_each_message_may_query(database: PooledSqliteDatabase) -> None:
    server = converse(PeeweeMiddleware(conversing(lambda: query(database)), database))
    assert [message["type"] for message in server.sent] == ["websocket.accept", *["websocket.send"] * 3]
    assert in_use(database) == 0


def test_no_connection_is_held_while_the_client_is_waited_for(database: PooledSqliteDatabase) -> None:
    seen: list[int] = []

    async def main() -> None:
        server = Server(
            PeeweeMiddleware(conversing(lambda: query(database)), database),
            kind="websocket",
            incoming=(CONNECT, HELLO, HELLO),
            gone_after=3,
        )
        plain = server.receive

        async def receive() -> Any:
            seen.append(in_use(database))
            return await plain()

        server.receive = receive  # type: ignore[method-assign]
        await server.serve()

    asyncio.run(main())
    assert seen == [0, 0, 0, 0]


def test_no_connection_is_held_while_a_message_is_sent(database: PooledSqliteDatabase) -> None:
    """A feed that never listens, and sleeps between its messages."""
    seen: list[int] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(ACCEPT)
        for _ in range(3):
            await send({"type": "websocket.send", "text": str(query(database))})
            seen.append(in_use(database))

    serve(PeeweeMiddleware(app, database), kind="websocket", on_send=lambda _: seen.append(in_use(database)))
    assert set(seen) == {0}


def test_a_transaction_over_several_messages_keeps_its_connection(database: PooledSqliteDatabase) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(ACCEPT)
        with database.atomic():
            for _ in range(3):
                await receive()
                save(database)
                await send({"type": "websocket.send", "text": "saved"})

    converse(PeeweeMiddleware(app, database), messages=2)
    assert saved(database) == ["x", "x", "x"]


def test_messages_of_an_atomic_app_run_in_autocommit(database: PooledSqliteDatabase) -> None:
    seen: list[bool] = []

    def work() -> None:
        save(database)
        seen.append(database.in_transaction())

    converse(PeeweeMiddleware(conversing(work), database, atomic=True), messages=1)
    assert (seen, saved(database)) == ([False], ["x"])


def test_an_exception_gives_the_connection_back(database: PooledSqliteDatabase) -> None:
    with pytest.raises(ZeroDivisionError):
        converse(PeeweeMiddleware(conversing(lambda: query(database) / 0), database))
    assert in_use(database) == 0


def test_an_eager_websocket_has_its_connection_at_the_start(database: PooledSqliteDatabase) -> None:
    seen: list[int] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(in_use(database))
        await send(CLOSE)

    serve(PeeweeMiddleware(app, database, lazy=False), kind="websocket", incoming=(CONNECT,))
    assert seen == [1]


# No connection


@pytest.fixture
def full(tmp_path: Path) -> Any:
    """A pool whose only connection is out."""
    full = PooledSqliteDatabase(str(tmp_path / "full.db"), max_connections=1, timeout=None)
    scope = peewee_web.scope()
    with scope.activate():
        query(full)
    yield full
    scope.end()
    full.close_all()


@pytest.mark.parametrize("lazy", [True, False])
def test_a_handshake_without_a_connection_is_answered_503(full: PooledSqliteDatabase, lazy: bool) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        query(full)

    options: dict[str, Any] = {"kind": "websocket", "incoming": (CONNECT,)}
    server = serve(PeeweeMiddleware(app, full, lazy=lazy), extensions={"websocket.http.response": {}}, **options)
    assert [message["type"] for message in server.sent] == [
        "websocket.http.response.start",
        "websocket.http.response.body",
    ]
    assert (server.status, server.headers[b"retry-after"]) == (503, b"1")


def test_a_server_that_can_not_answer_a_handshake_sees_the_error(full: PooledSqliteDatabase) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        query(full)

    with pytest.raises(PoolTimeout):
        serve(PeeweeMiddleware(app, full), kind="websocket", incoming=(CONNECT,))


def test_an_open_websocket_is_asked_to_come_again_later(full: PooledSqliteDatabase) -> None:
    server = serve(PeeweeMiddleware(conversing(lambda: query(full)), full), kind="websocket", incoming=(CONNECT, HELLO))
    assert [(message["type"], message.get("code")) for message in server.sent] == [
        ("websocket.accept", None),
        ("websocket.close", 1013),
    ]
