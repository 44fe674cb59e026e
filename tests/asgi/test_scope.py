"""A scope per request: when its connection is taken, shared and given back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import JSONResponse, StreamingResponse
from starlette.routing import Route

import peewee_web
from peewee_web import Databases, PooledSqliteDatabase, ScopeClosed
from peewee_web.asgi import PeeweeMiddleware
from peewee_web.core.scope import current_scope
from tests.asgi.server import START, Server, chunk, serve
from tests.core.working import in_use, query


def answering(work: Any) -> Any:
    """An app whose answer is what *work* returns."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        answer = str(work()).encode()
        await send(START)
        await send(chunk(answer, more=False))

    return app


def streaming(database: Any, steps: int | None = 3) -> Any:
    """An app that queries before each chunk; an endless one if *steps* is None."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        step = 0
        while step != steps:
            await send(chunk(str(query(database)).encode()))
            step += 1
        await send(chunk(b"", more=False))

    return app


def test_a_request_that_queries_has_one_connection_and_gives_it_back(database: PooledSqliteDatabase) -> None:
    def work() -> int:
        query(database)
        query(database)
        return in_use(database)

    assert serve(PeeweeMiddleware(answering(work), database)).body == b"1"
    assert in_use(database) == 0


def test_a_request_without_a_query_takes_no_connection(database: PooledSqliteDatabase) -> None:
    assert serve(PeeweeMiddleware(answering(lambda: in_use(database)), database)).body == b"0"


def test_an_exception_gives_the_connection_back_and_propagates(database: PooledSqliteDatabase) -> None:
    with pytest.raises(ZeroDivisionError):
        serve(PeeweeMiddleware(answering(lambda: query(database) / 0), database))
    assert (in_use(database), current_scope()) == (0, None)


def test_an_exception_after_the_start_gives_the_connection_back_and_propagates(database: PooledSqliteDatabase) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        await send(chunk(str(query(database)).encode()))
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        serve(PeeweeMiddleware(app, database))
    assert in_use(database) == 0


def test_a_streamed_response_keeps_its_connection(database: PooledSqliteDatabase) -> None:
    seen: set[int] = set()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        for _ in range(3):
            seen.add(id(database.connection()))
            await send(chunk(b"x"))
        await send(chunk(b"", more=False))

    assert serve(PeeweeMiddleware(app, database)).body == b"xxx"
    assert (len(seen), in_use(database)) == (1, 0)


def test_a_complete_response_holds_no_connection_while_it_is_sent(database: PooledSqliteDatabase) -> None:
    seen: list[tuple[str, int]] = []
    app = PeeweeMiddleware(answering(lambda: query(database)), database)
    serve(app, on_send=lambda message: seen.append((message["type"], in_use(database))))
    assert seen == [("http.response.start", 1), ("http.response.body", 0)]


def test_work_after_the_response_has_a_connection_and_gives_it_back(database: PooledSqliteDatabase) -> None:
    seen: list[int] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        query(database)
        await send(START)
        await send(chunk(b"ok", more=False))
        seen.append(in_use(database))
        query(database)
        seen.append(in_use(database))

    serve(PeeweeMiddleware(app, database))
    assert (seen, in_use(database)) == ([0, 1], 0)


def test_work_in_a_worker_thread_shares_the_requests_connection(database: PooledSqliteDatabase) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        mine = database.connection()
        theirs = await asyncio.to_thread(database.connection)
        await send(START)
        await send(chunk(str(mine is theirs).encode(), more=False))

    assert serve(PeeweeMiddleware(app, database)).body == b"True"


def test_requests_that_take_turns_have_a_connection_each(database: PooledSqliteDatabase) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        mine = database.connection()
        for _ in range(5):
            await asyncio.sleep(0)
            assert database.connection() is mine
        await send(START)
        await send(chunk(str(id(mine)).encode(), more=False))

    async def main() -> set[bytes]:
        servers = await asyncio.gather(*(Server(PeeweeMiddleware(app, database)).serve() for _ in range(3)))
        return {server.body for server in servers}

    assert len(asyncio.run(main())) == 3
    assert in_use(database) == 0


def test_a_task_that_outlives_its_request_is_told(database: PooledSqliteDatabase) -> None:
    tasks: list[asyncio.Task[int]] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        async def late() -> int:
            await asyncio.sleep(0.01)
            return query(database)

        tasks.append(asyncio.create_task(late()))
        await send(START)
        await send(chunk(b"", more=False))

    async def main() -> None:
        await Server(PeeweeMiddleware(app, database)).serve()
        with pytest.raises(ScopeClosed):
            await tasks[0]

    asyncio.run(main())


def test_a_request_made_inside_a_request_leaves_the_outer_one_alone(database: PooledSqliteDatabase) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        mine = database.connection()
        inner = b""
        if scope["path"] != "/inner":
            with database.atomic():
                inner = (await Server(whole, path="/inner").serve()).body
                assert database.connection() is mine
        await send(START)
        await send(chunk(inner + f" {id(mine)}".encode(), more=False))

    whole = PeeweeMiddleware(app, database)
    inner, outer = serve(whole).body.split()
    assert inner != outer


def test_an_excluded_path_has_no_scope(database: PooledSqliteDatabase) -> None:
    app = PeeweeMiddleware(answering(lambda: current_scope() is None), Databases(database, exclude="/static/*"))
    assert serve(app, path="/static/app.css").body == b"True"
    assert serve(app, path="/").body == b"False"


def test_an_app_can_not_be_wrapped_twice(database: PooledSqliteDatabase) -> None:
    with pytest.raises(TypeError, match="wrapped in PeeweeMiddleware already"):
        PeeweeMiddleware(PeeweeMiddleware(answering(int), database), database)


# A client that goes away


def test_an_endless_response_ends_when_the_client_goes_away(database: PooledSqliteDatabase) -> None:
    server = serve(PeeweeMiddleware(streaming(database, steps=None), database), gone_after=5)
    assert len(server.sent) == 5
    assert in_use(database) == 0


def test_the_apps_cleanup_may_query_when_the_client_goes_away(database: PooledSqliteDatabase) -> None:
    seen: list[int] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        try:
            while True:
                await send(chunk(str(query(database)).encode()))
        finally:
            seen.append(query(database))

    serve(PeeweeMiddleware(app, database), gone_after=3)
    assert (seen, in_use(database)) == ([1], 0)


def test_a_cancelled_request_gives_its_connection_back(database: PooledSqliteDatabase) -> None:
    async def main() -> None:
        queried = asyncio.Event()

        async def app(scope: Any, receive: Any, send: Any) -> None:
            query(database)
            queried.set()
            await asyncio.Event().wait()

        task = asyncio.create_task(Server(PeeweeMiddleware(app, database)).serve())
        await queried.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert in_use(database) == 0


BODY_IN_PARTS = tuple({"type": "http.request", "body": part, "more_body": part != b"c"} for part in (b"a", b"b", b"c"))


def test_the_request_body_is_readable_while_the_response_is_streamed(database: PooledSqliteDatabase) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        await send(chunk(b"echo:"))  # from here on somebody watches for the client to go
        for _ in range(3):
            await asyncio.sleep(0.001)
            message = await receive()
            await send(chunk(message["body"]))
        await send(chunk(b"", more=False))

    assert serve(PeeweeMiddleware(app, database), incoming=BODY_IN_PARTS).body == b"echo:abc"


def test_what_the_client_uploads_meanwhile_is_not_piled_up_in_memory(database: PooledSqliteDatabase) -> None:
    endless = tuple({"type": "http.request", "body": b"x" * 1000, "more_body": True} for _ in range(1000))

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        for _ in range(200):
            await send(chunk(b"x"))
        await send(chunk(b"", more=False))

    assert serve(PeeweeMiddleware(app, database), incoming=endless).received < 10


def test_an_app_that_waits_for_the_client_to_go_is_told_and_told_again(database: PooledSqliteDatabase) -> None:
    seen: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        await send(chunk(b"x"))
        for _ in range(3):
            seen.append((await receive())["type"])

    serve(PeeweeMiddleware(app, database), gone_after=2)
    assert seen == ["http.request", "http.disconnect", "http.disconnect"]


def test_an_app_that_waits_for_the_client_itself_goes_on_doing_so(database: PooledSqliteDatabase) -> None:
    seen: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send(START)
        waiting = asyncio.create_task(receive())
        await asyncio.sleep(0.001)
        await send(chunk(b"x"))
        seen.append((await waiting)["type"])

    server = serve(PeeweeMiddleware(app, database), gone_after=2)
    assert (seen, server.received) == (["http.disconnect"], 2)


def test_an_error_of_the_servers_receive_reaches_the_app_that_waits(database: PooledSqliteDatabase) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        await send(chunk(b"x"))
        await receive()
        await receive()

    with pytest.raises(ConnectionResetError):
        serve(PeeweeMiddleware(app, database), receive_fails=True)


def test_an_error_of_the_servers_receive_ends_a_stream(database: PooledSqliteDatabase) -> None:
    app = PeeweeMiddleware(streaming(database, steps=None), database)
    serve(app, receive_fails=True)
    assert in_use(database) == 0


# Starlette


def test_starlette_streams_and_its_background_task_queries(database: PooledSqliteDatabase) -> None:
    seen: list[int] = []

    async def body() -> AsyncIterator[str]:
        for _ in range(3):
            yield str(query(database))

    def after() -> None:
        seen.append(query(database))

    async def endpoint(request: Request) -> StreamingResponse:
        return StreamingResponse(body(), background=BackgroundTask(after))

    app = PeeweeMiddleware(Starlette(routes=[Route("/", endpoint)]), database)
    assert serve(app).body == b"111"
    assert (seen, in_use(database)) == ([1], 0)


@pytest.mark.parametrize("version", ["2.3", "2.4"])
def test_starlettes_stream_ends_quietly_when_the_client_goes_away(database: PooledSqliteDatabase, version: str) -> None:
    async def body() -> AsyncIterator[str]:
        while True:
            yield str(query(database))
            await asyncio.sleep(0)

    async def endpoint(request: Request) -> StreamingResponse:
        return StreamingResponse(body())

    async def main() -> None:
        server = Server(PeeweeMiddleware(Starlette(routes=[Route("/", endpoint)]), database), gone_after=4)
        server.scope["asgi"]["spec_version"] = version
        await server.serve()

    asyncio.run(main())
    assert in_use(database) == 0


def test_starlettes_threads_share_the_requests_connection(database: PooledSqliteDatabase) -> None:
    def endpoint(request: Request) -> JSONResponse:  # Starlette runs it in a thread
        return JSONResponse([query(database), in_use(database)])

    app = PeeweeMiddleware(Starlette(routes=[Route("/", endpoint)]), Databases(database, lazy=False))
    assert serve(app).body == b"[1,1]"
    assert in_use(database) == 0


# Lifespan


def lifespan(work: Any) -> Any:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        while True:
            message = await receive()
            work()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return

    return app


STARTUP, SHUTDOWN = {"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}


def test_startup_and_shutdown_may_query_and_hold_nothing_between(database: PooledSqliteDatabase) -> None:
    seen: list[int] = []

    async def main() -> None:
        server = Server(PeeweeMiddleware(lifespan(lambda: query(database)), database), kind="lifespan", incoming=())
        messages = [STARTUP, SHUTDOWN]

        async def receive() -> Any:
            await asyncio.sleep(0)
            seen.append(in_use(database))
            return messages.pop(0)

        server.receive = receive  # type: ignore[method-assign]
        await server.serve()
        assert [message["type"] for message in server.sent] == [
            "lifespan.startup.complete",
            "lifespan.shutdown.complete",
        ]

    asyncio.run(main())
    assert (seen, in_use(database)) == ([0, 0], 0)


def test_an_app_starts_also_while_an_eager_database_is_away(tmp_path: Any) -> None:
    away = PooledSqliteDatabase(str(tmp_path / "none" / "x.db"))
    app = PeeweeMiddleware(lifespan(int), away, lazy=False)
    assert len(serve(app, kind="lifespan", incoming=(STARTUP, SHUTDOWN)).sent) == 2


def test_the_scope_of_the_caller_is_current_again(database: PooledSqliteDatabase) -> None:
    async def main() -> None:
        async with peewee_web.scope() as outer:
            await Server(PeeweeMiddleware(answering(lambda: query(database)), database)).serve()
            assert current_scope() is outer

    asyncio.run(main())
