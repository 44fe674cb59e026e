"""The generic middleware under Starlette, which hops threads and wraps middleware around middleware."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

import peewee_web
from peewee_web.asgi import PeeweeMiddleware

LATER: list[object] = []


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Any]:
    database = peewee_web.connect(f"sqlite:///{tmp_path}/starlette.db", max_connections=4)
    yield database
    in_use = database.pool_stats().in_use
    database.close_all()
    assert in_use == 0


class TouchesTheDatabase(BaseHTTPMiddleware):
    """A middleware that queries before the endpoint, in a task of its own (as BaseHTTPMiddleware runs the app)."""

    async def dispatch(self, request: Request, call_next: Callable[[Request], Any]) -> Response:
        request.state.connection = id(request.app.state.database.connection())
        response: Response = await call_next(request)
        return response


def app_of(database: Any) -> Starlette:
    def in_worker_thread(request: Request) -> Response:
        return PlainTextResponse(str(id(database.connection()) == request.state.connection))

    async def in_coroutine(request: Request) -> Response:
        there = await asyncio.to_thread(lambda: id(database.connection()))
        return PlainTextResponse(str(there == id(database.connection()) == request.state.connection))

    def streamed(request: Request) -> Response:
        def body() -> Iterator[str]:
            for _ in range(5):
                yield str(id(database.connection()) == request.state.connection)

        return StreamingResponse(body())

    def with_task_afterwards(request: Request) -> Response:
        def later() -> None:
            LATER.append(database.execute_sql("SELECT 7").fetchone()[0])

        return PlainTextResponse("soon", background=BackgroundTask(later))

    routes = [
        Route("/thread", in_worker_thread),
        Route("/coroutine", in_coroutine),
        Route("/stream", streamed),
        Route("/task", with_task_afterwards),
    ]
    middleware = [Middleware(PeeweeMiddleware, db=database), Middleware(TouchesTheDatabase)]
    app = Starlette(routes=routes, middleware=middleware)
    app.state.database = database
    return app


def get_many(app: Starlette, path: str, count: int) -> list[str]:
    async def run() -> list[str]:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
            return [(await client.get(path)).text for _ in range(count)]

    return asyncio.run(run())


@pytest.mark.parametrize("path", ["/thread", "/coroutine"])
def test_an_endpoint_uses_the_connection_that_a_middleware_took_before_it(database: Any, path: str) -> None:
    assert get_many(app_of(database), path, 10) == ["True"] * 10


def test_a_body_iterated_in_worker_threads_keeps_the_connection(database: Any) -> None:
    assert get_many(app_of(database), "/stream", 10) == ["True" * 5] * 10


def test_a_background_task_may_query_after_the_response(database: Any) -> None:
    LATER.clear()
    assert get_many(app_of(database), "/task", 3) == ["soon"] * 3
    assert LATER == [7, 7, 7]
