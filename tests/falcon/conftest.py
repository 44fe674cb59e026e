"""A database of one table, apps of both kinds, and what must hold after each test."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import falcon
import falcon.asgi
import peewee
import pytest
from falcon import testing

import peewee_web
from peewee_web.core.scope import current_scope
from tests.pools import exhausted as exhausted

LIMIT = 4


class Note(peewee.Model):
    """Bound to the database of the test at hand."""

    text = peewee.CharField()


def saved() -> list[str]:
    """What is committed, seen from another connection."""
    with peewee_web.scope():
        return [note.text for note in Note.select().order_by(Note.id)]


def session(db: Any) -> int:
    """Which connection this is."""
    return id(db.connection())


@pytest.fixture
def db(tmp_path: Path) -> Iterator[Any]:
    database = peewee_web.connect(f"sqlite:///{tmp_path}/x.db", max_connections=LIMIT, timeout=0.1)
    with Note.bind_ctx(database), peewee_web.scope():
        Note.create_table()
    with Note.bind_ctx(database):
        yield database
    assert current_scope() is None
    assert database.pool_stats().in_use == 0
    database.close_all()


@pytest.fixture(autouse=True)
def loop_of_the_test_client() -> Iterator[None]:
    """Falcon's test client takes this thread's event loop, and ``asyncio.run()`` of any test leaves none behind."""
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    yield
    loop.close()
    asyncio.set_event_loop(None)


@pytest.fixture
def unreachable() -> Iterator[Any]:
    """A server that refuses connections."""
    database = peewee_web.connect("postgresql://someone:secret@127.0.0.1:1/x", timeout=0.1)
    yield database
    assert database.pool_stats().in_use == 0


def run(coroutine: Coroutine[Any, Any, Any]) -> None:
    """Falcon's test client keeps an event loop in this thread, so this one has a thread of its own."""
    failures: list[BaseException] = []

    def call() -> None:
        try:
            asyncio.run(coroutine)
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=call, daemon=True)  # whose end nobody waits for if it has none
    thread.start()
    thread.join(10)
    assert not thread.is_alive(), "the event loop is still running"
    for failure in failures:
        raise failure


Respond = Callable[[Any, Any], Any]


def on_get(respond: Respond) -> Any:
    """A resource whose GET and HEAD call *respond*."""

    class Resource:
        def on_get(self, req: Any, resp: Any) -> None:
            respond(req, resp)

        on_head = on_post = on_get

    return Resource()


def on_get_async(respond: Callable[[Any, Any], Any]) -> Any:
    """The same under ASGI; *respond* may be a coroutine function."""

    class Resource:
        async def on_get(self, req: Any, resp: Any) -> None:
            result = respond(req, resp)
            if isinstance(result, Awaitable):
                await result

        on_head = on_post = on_get

    return Resource()


class Kind:
    """WSGI or ASGI: what they have in common is tested on both."""

    def __init__(self, is_async: bool) -> None:
        self.is_async = is_async

    def app(self, **options: Any) -> Any:
        return (falcon.asgi.App if self.is_async else falcon.App)(**options)

    def resource(self, respond: Respond) -> Any:
        return (on_get_async if self.is_async else on_get)(respond)

    def serve(self, respond: Respond, *, middleware: Any = None, path: str = "/", **options: Any) -> Any:
        """A test client of an app with one route."""
        app = self.app(middleware=middleware, **options)
        app.add_route(path, self.resource(respond))
        return testing.TestClient(app)

    def handler(self, handle: Callable[..., Any]) -> Any:
        """An error handler of this kind."""
        if not self.is_async:
            return handle

        async def handle_async(req: Any, resp: Any, error: Any, params: Any) -> None:
            handle(req, resp, error, params)

        return handle_async

    def stream(self, chunks: Iterator[bytes]) -> Any:
        """*chunks* as a body of this kind."""

        async def stream_async() -> Any:
            for chunk in chunks:
                yield chunk

        return stream_async() if self.is_async else chunks


@pytest.fixture(params=[False, True], ids=["wsgi", "asgi"])
def kind(request: pytest.FixtureRequest) -> Kind:
    return Kind(request.param)
