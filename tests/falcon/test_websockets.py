"""A websocket has a scope of its own for as long as it lives, and between messages no connection."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

import falcon
import falcon.asgi
import pytest
from falcon import testing

from peewee_web.core.scope import current_scope
from peewee_web.falcon import PeeweeMiddleware, install
from tests.falcon.conftest import LIMIT, Note, exhausted, run, saved, session


def app_of(on_websocket: Any, db: Any, **options: Any) -> Any:
    class Resource:
        async def on_websocket(self, req: Any, ws: Any) -> None:
            await on_websocket(ws)

    app = falcon.asgi.App()
    install(app, db, **options)
    app.add_route("/", Resource())
    return app


def talk(app: Any, conversation: Any) -> None:
    """Run *conversation(ws)* as the client, then see to it that nothing is left."""

    async def main() -> None:
        async with testing.ASGIConductor(app) as conductor, conductor.simulate_ws("/") as ws:
            await conversation(ws)

    run(main())


@pytest.mark.parametrize("queue", [4, 0], ids=["buffered", "unbuffered"])
def test_a_websocket_keeps_no_connection_while_it_waits_for_its_client(db: Any, queue: int) -> None:
    scopes: list[Any] = []

    async def serve(ws: Any) -> None:
        await ws.accept()
        while True:
            Note.create(text=await ws.receive_text())
            scopes.append(current_scope())
            assert db.pool_stats().in_use == 1
            await ws.send_text(str(Note.select().count()))

    async def conversation(ws: Any) -> None:
        for count in range(1, 2 * LIMIT):
            await ws.send_text("note")
            assert await ws.receive_text() == str(count)
            assert db.pool_stats().in_use == 0

    app = app_of(serve, db)
    app.ws_options.max_receive_queue = queue
    talk(app, conversation)
    assert len(set(scopes)) == 1


@pytest.mark.parametrize("queue", [4, 0], ids=["buffered", "unbuffered"])
def test_a_websocket_that_only_receives_keeps_no_connection_either(db: Any, queue: int) -> None:
    waits = asyncio.Event()

    async def serve(ws: Any) -> None:
        await ws.accept()
        while True:
            text = await ws.receive_text()
            Note.create(text=text)
            asyncio.get_running_loop().call_soon(waits.set)

    async def conversation(ws: Any) -> None:
        for _ in range(2):
            waits.clear()
            await ws.send_text("note")
            await waits.wait()
            assert db.pool_stats().in_use == 0

    app = app_of(serve, db)
    app.ws_options.max_receive_queue = queue
    talk(app, conversation)
    assert saved() == ["note", "note"]


def test_a_websocket_that_only_sends_keeps_no_connection_either(db: Any) -> None:
    async def serve(ws: Any) -> None:
        await ws.accept()
        for _ in range(3):
            await ws.send_text(str(Note.select().count()))
            await asyncio.sleep(0.01)
        await ws.receive_text()

    async def conversation(ws: Any) -> None:
        for _ in range(3):
            assert await ws.receive_text() == "0"
            assert db.pool_stats().in_use == 0
        await ws.send_text("bye")

    talk(app_of(serve, db), conversation)


def test_a_transaction_across_messages_keeps_its_connection(db: Any) -> None:
    async def serve(ws: Any) -> None:
        await ws.accept()
        with db.atomic():
            mine = session(db)
            Note.create(text=await ws.receive_text())
            Note.create(text=await ws.receive_text())
            assert session(db) == mine
        await ws.send_text("done")
        await ws.receive_text()

    async def conversation(ws: Any) -> None:
        await ws.send_text("a")
        await ws.send_text("b")
        assert await ws.receive_text() == "done"
        await ws.send_text("bye")

    talk(app_of(serve, db), conversation)
    assert saved() == ["a", "b"]


def test_an_atomic_app_has_no_transaction_around_a_websocket(db: Any) -> None:
    async def serve(ws: Any) -> None:
        await ws.accept()
        Note.create(text="a")
        with db.atomic():
            assert not current_scope().atomic  # type: ignore[union-attr]
        assert saved() == ["a"]
        await ws.send_text("done")
        await ws.receive_text()

    async def conversation(ws: Any) -> None:
        assert await ws.receive_text() == "done"
        await ws.send_text("bye")

    talk(app_of(serve, db, atomic=True), conversation)


@pytest.mark.parametrize("error", [ZeroDivisionError, falcon.HTTPForbidden, asyncio.CancelledError])
def test_a_websocket_that_fails_is_rolled_back(db: Any, error: type[BaseException]) -> None:
    async def serve(ws: Any) -> None:
        await ws.accept()
        db.session_start()
        Note.create(text="lost")
        await ws.send_text("x")
        await ws.receive_text()
        raise error

    async def main() -> None:
        app = app_of(serve, db)
        async with testing.ASGIConductor(app) as conductor:
            for _ in range(LIMIT + 1):
                with suppress(error):
                    async with conductor.simulate_ws("/") as ws:
                        assert await ws.receive_text() == "x"
                        await ws.send_text("fail")
                await asyncio.sleep(0)
                assert db.pool_stats().in_use == 0

    run(main())
    assert saved() == []


def test_a_client_that_leaves_in_a_transaction_gives_the_connection_back(db: Any) -> None:
    async def serve(ws: Any) -> None:
        await ws.accept()
        with db.atomic():
            Note.create(text="lost")
            await ws.send_text("x")
            await ws.receive_text()

    async def main() -> None:
        async with testing.ASGIConductor(app_of(serve, db)) as conductor:
            for _ in range(LIMIT + 1):
                async with conductor.simulate_ws("/") as ws:
                    await ws.receive_text()
                    assert db.pool_stats().in_use == 1
                await asyncio.sleep(0)
                assert db.pool_stats().in_use == 0

    run(main())
    assert saved() == []


def test_websockets_side_by_side_have_their_own_connections(db: Any) -> None:
    async def serve(ws: Any) -> None:
        await ws.accept()
        with db.atomic("DEFERRED"):
            mine = session(db)
            await ws.send_text(str(mine))
            await ws.receive_text()
            assert session(db) == mine

    async def main() -> None:
        conductor = testing.ASGIConductor(app_of(serve, db))
        async with conductor, conductor.simulate_ws("/") as one, conductor.simulate_ws("/") as two:
            assert await one.receive_text() != await two.receive_text()
            await one.send_text("x")
            await two.send_text("x")

    run(main())


@pytest.mark.parametrize("lazy", [True, False])
def test_no_connection_closes_it_with_the_code_of_a_503(db: Any, lazy: bool) -> None:
    async def serve(ws: Any) -> None:
        await ws.accept()
        Note.select().count()

    async def main() -> None:
        async with testing.ASGIConductor(app_of(serve, db, lazy=lazy)) as conductor:
            with pytest.raises(falcon.WebSocketDisconnected) as caught:
                async with conductor.simulate_ws("/") as ws:
                    await ws.receive_text()
            assert caught.value.code == 3503

    with exhausted(db):
        run(main())


def test_an_eager_websocket_has_a_connection_before_its_responder(db: Any) -> None:
    async def serve(ws: Any) -> None:
        assert db.pool_stats().in_use == 1
        await ws.accept()
        await ws.send_text("x")
        await ws.receive_text()

    async def conversation(ws: Any) -> None:
        assert await ws.receive_text() == "x"
        await ws.send_text("bye")

    talk(app_of(serve, db, lazy=False), conversation)


@pytest.mark.parametrize("pattern", ["/notes/7", "/notes/{number}"])
def test_an_excluded_websocket_has_no_scope(db: Any, pattern: str) -> None:
    class Resource:
        async def on_websocket(self, req: Any, ws: Any, number: str) -> None:
            await ws.accept()
            await ws.send_text(str(current_scope()))
            await ws.receive_text()

    app = falcon.asgi.App()
    install(app, db, lazy=False, exclude=pattern)
    app.add_route("/notes/{number}", Resource())

    async def main() -> None:
        async with testing.ASGIConductor(app) as conductor, conductor.simulate_ws("/notes/7") as ws:
            assert await ws.receive_text() == "None"
            await ws.send_text("bye")

    run(main())


def test_a_websocket_nobody_serves_is_refused_and_keeps_nothing(db: Any) -> None:
    app = falcon.asgi.App(middleware=[PeeweeMiddleware(db)])

    async def main() -> None:
        async with testing.ASGIConductor(app) as conductor:
            with pytest.raises(falcon.WebSocketDisconnected):
                async with conductor.simulate_ws("/nowhere"):
                    pass

    run(main())
