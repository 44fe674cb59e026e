"""What only ASGI has: clients whose leaving must be watched for, and server-sent events."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import falcon.asgi
import pytest
from falcon import testing

from peewee_web.core.scope import current_scope
from peewee_web.falcon import PeeweeMiddleware, install
from tests.falcon.conftest import LIMIT, Kind, Note, run, saved, session

ASGI = Kind(is_async=True)


class Exchange:
    """One request as a server makes it: ``send`` never fails, and a client that left shows in ``receive`` only."""

    def __init__(self, app: Any, *, body: list[dict[str, Any]] | None = None, **scope: Any) -> None:
        self.sent: list[dict[str, Any]] = []
        self.left = asyncio.Event()
        self._messages = body or [{"type": "http.request", "body": b"", "more_body": False}]
        self._something = asyncio.Event()
        self.task = asyncio.get_running_loop().create_task(
            app(testing.create_scope(**scope), self._receive, self._send)
        )

    async def _receive(self) -> dict[str, Any]:
        if self._messages:
            return self._messages.pop(0)
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: dict[str, Any]) -> None:
        self.sent.append(message)
        self._something.set()

    async def has_sent(self, count: int) -> None:
        while len(self.sent) < count:
            self._something.clear()
            await self._something.wait()


def app_of(respond: Callable[[Any, Any], Any], db: Any, **options: Any) -> Any:
    app = falcon.asgi.App()
    install(app, db, **options)
    app.add_route("/", ASGI.resource(respond))
    return app


def endless(closed: list[Any], db: Any, pause: float | None = 0.001) -> AsyncIterator[bytes]:
    async def body() -> AsyncIterator[bytes]:
        try:
            while True:
                yield str(session(db)).encode()
                if pause is not None:
                    await asyncio.sleep(pause)
        finally:
            closed.append(Note.select().count())

    return body()


@pytest.mark.parametrize("pause", [0.001, None], ids=["waits", "never-waits"])
@pytest.mark.parametrize(
    "request_body",
    [None, [{"type": "http.request", "body": b"unread", "more_body": False}]],
    ids=["no-request-body", "unread-request-body"],
)
def test_an_endless_body_ends_when_its_client_leaves(db: Any, pause: float | None, request_body: Any) -> None:
    closed: list[Any] = []
    app = app_of(lambda req, resp: setattr(resp, "stream", endless(closed, db, pause)), db)

    async def main() -> None:
        for count in range(1, LIMIT + 2):
            exchange = Exchange(
                app, body=request_body and list(request_body), content_length=6 if request_body else None
            )
            await exchange.has_sent(5)
            assert db.pool_stats().in_use == 1
            exchange.left.set()
            await exchange.task
            assert db.pool_stats().in_use == 0
            assert len(closed) == count

    run(main())


def test_a_body_that_reads_its_request_meanwhile_misses_nothing(db: Any) -> None:
    async def respond(req: Any, resp: Any) -> None:
        async def echo() -> AsyncIterator[bytes]:
            async for chunk in req.stream:
                Note.create(text=chunk.decode())
                yield chunk

        resp.stream = echo()

    async def main() -> None:
        messages = [{"type": "http.request", "body": part, "more_body": part != b"c"} for part in (b"a", b"b", b"c")]
        exchange = Exchange(app_of(respond, db), body=messages)
        await exchange.task
        assert b"".join(message.get("body", b"") for message in exchange.sent) == b"abc"

    run(main())
    assert saved() == ["a", "b", "c"]


def test_falcons_test_client_sees_all_of_a_body_although_it_hangs_up_first(db: Any) -> None:
    async def respond(req: Any, resp: Any) -> None:
        await req.get_media(None)

        async def body() -> AsyncIterator[bytes]:
            for _ in range(20):
                await asyncio.sleep(0.001)
                yield str(Note.select().count()).encode()

        resp.stream = body()

    client = testing.TestClient(app_of(respond, db))
    assert client.simulate_get("/").text == "0" * 20
    assert client.simulate_post("/", json={}).text == "0" * 20


def test_a_body_ends_at_once_for_a_client_that_left_before_the_first_byte(db: Any) -> None:
    async def main() -> None:
        exchange = Exchange(app_of(lambda req, resp: setattr(resp, "stream", endless([], db)), db))
        exchange.left.set()
        await asyncio.wait_for(exchange.task, 5)
        assert not b"".join(message.get("body", b"") for message in exchange.sent)

    run(main())
    assert db.pool_stats().in_use == 0


def test_a_cancelled_body_gives_the_connection_back(db: Any) -> None:
    closed: list[Any] = []

    async def main() -> None:
        exchange = Exchange(app_of(lambda req, resp: setattr(resp, "stream", endless(closed, db)), db))
        await exchange.has_sent(3)
        exchange.task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await exchange.task
        await asyncio.sleep(0)
        assert db.pool_stats().in_use == 0

    run(main())
    assert len(closed) == 1


def test_a_server_that_refuses_to_send_ends_the_body(db: Any) -> None:
    """ASGI 2.4: `send` raises `OSError` once the client is gone."""
    closed: list[Any] = []

    async def main() -> None:
        app = app_of(lambda req, resp: setattr(resp, "stream", endless(closed, db)), db)
        sent = 0

        async def receive() -> Any:
            if not sent:
                return {"type": "http.request"}
            await asyncio.Event().wait()

        async def send(message: Any) -> None:
            nonlocal sent
            sent += 1
            if sent > 3:
                raise OSError("gone")

        with pytest.raises(OSError, match="gone"):
            await app(testing.create_scope(), receive, send)
        assert db.pool_stats().in_use == 0

    run(main())
    assert len(closed) == 1


def test_a_body_is_closed_as_falcon_has_it(db: Any) -> None:
    """By a coroutine method `close`, which generators do not have."""
    closed: list[Any] = []

    class Body:
        left = 3

        def __aiter__(self) -> Body:
            return self

        async def __anext__(self) -> bytes:
            self.left -= 1
            if self.left < 0:
                raise StopAsyncIteration
            return str(Note.select().count()).encode()

        async def close(self) -> None:
            closed.append(Note.select().count())

    client = testing.TestClient(app_of(lambda req, resp: setattr(resp, "stream", Body()), db))
    for _ in range(LIMIT + 1):
        assert client.simulate_get("/").text == "000"
        assert db.pool_stats().in_use == 0
    assert closed == [0] * (LIMIT + 1)


def test_what_can_not_be_streamed_is_refused_by_falcon_as_ever(db: Any) -> None:
    def respond(req: Any, resp: Any) -> None:
        Note.select().count()
        resp.stream = iter([b"sync"])

    with pytest.raises(TypeError, match="must be a generator or implement an __aiter__ method"):
        testing.TestClient(app_of(respond, db)).simulate_get("/")
    assert db.pool_stats().in_use == 0


# Server-sent events.


def events(closed: list[Any], db: Any, count: int | None = None, keep: bool = False) -> AsyncIterator[Any]:
    async def emitter() -> AsyncIterator[Any]:
        sent = 0
        try:
            while count is None or sent < count:
                if keep:
                    with db.atomic():
                        Note.create(text="event")
                        yield falcon.asgi.SSEvent(text="kept")
                else:
                    yield falcon.asgi.SSEvent(text=str(Note.select().count()))
                await asyncio.sleep(0.001)
                sent += 1
        finally:
            closed.append((current_scope() is not None, Note.select().count()))

    return emitter()


def test_an_event_stream_keeps_no_connection_between_events(db: Any) -> None:
    closed: list[Any] = []

    async def main() -> None:
        exchange = Exchange(app_of(lambda req, resp: setattr(resp, "sse", events(closed, db)), db))
        for count in range(2, 6):
            await exchange.has_sent(count)
            assert db.pool_stats().in_use == 0
        exchange.left.set()
        await exchange.task

    run(main())


def test_an_event_stream_in_a_transaction_keeps_its_connection(db: Any) -> None:
    closed: list[Any] = []

    async def main() -> None:
        exchange = Exchange(app_of(lambda req, resp: setattr(resp, "sse", events(closed, db, 2, keep=True)), db))
        await exchange.has_sent(2)
        assert db.pool_stats().in_use == 1
        await exchange.task
        assert db.pool_stats().in_use == 0

    run(main())
    assert saved() == ["event", "event"]


def test_an_event_stream_that_ends_closes_its_emitter_in_the_scope(db: Any) -> None:
    closed: list[Any] = []
    app = app_of(lambda req, resp: setattr(resp, "sse", events(closed, db, 3)), db)

    async def main() -> None:
        exchange = Exchange(app)
        await exchange.task
        assert len(exchange.sent) == 1 + 3 + 1
        assert closed == [(True, 0)]
        assert db.pool_stats().in_use == 0

    run(main())


def test_an_emitter_that_falcon_drops_is_closed_in_the_scope(db: Any) -> None:
    closed: list[Any] = []

    async def main() -> None:
        exchange = Exchange(app_of(lambda req, resp: setattr(resp, "sse", events(closed, db, keep=True)), db))
        await exchange.has_sent(3)
        exchange.left.set()
        await exchange.task
        await asyncio.sleep(0.01)

    run(main())
    assert closed[0][0]
    assert db.pool_stats().in_use == 0


def test_a_cancelled_event_stream_gives_the_connection_back(db: Any) -> None:
    closed: list[Any] = []

    async def main() -> None:
        exchange = Exchange(app_of(lambda req, resp: setattr(resp, "sse", events(closed, db, keep=True)), db))
        await exchange.has_sent(3)
        exchange.task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await exchange.task
        for _ in range(5):
            await asyncio.sleep(0)
        assert db.pool_stats().in_use == 0

    run(main())
    assert closed[0][0]


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_falcons_test_client_may_ask_for_events(db: Any, method: str) -> None:
    closed: list[Any] = []
    client = ASGI.serve(lambda req, resp: setattr(resp, "sse", events(closed, db)), middleware=[PeeweeMiddleware(db)])
    assert client.simulate_request(method, "/").status_code == 200
    assert db.pool_stats().in_use == 0


def test_an_async_generator_function_as_events_is_refused_by_falcon_as_ever(db: Any) -> None:
    async def emitter() -> AsyncIterator[Any]:
        yield None

    with pytest.raises(TypeError, match=r"Response.sse must be an async iterable"):
        testing.TestClient(app_of(lambda req, resp: setattr(resp, "sse", emitter), db)).simulate_get("/")
    assert db.pool_stats().in_use == 0
