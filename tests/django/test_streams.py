"""Streamed bodies keep the connection of their request until Django closes the response, however that comes about."""

from __future__ import annotations

import asyncio
import gc
import io
import sys
import weakref
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from wsgiref.util import FileWrapper

import pytest
from django.core.handlers.wsgi import WSGIHandler
from django.core.signals import request_finished
from django.http import FileResponse, HttpRequest, StreamingHttpResponse
from django.test import AsyncClient, Client, override_settings

import peewee_web
from peewee_web.core.scope import current_scope
from tests.django import asgi
from tests.django.conftest import OURS, Note, Project, add, environ, exhausted, hears_of_leaving, saved, session


def stream(body: Any) -> Any:
    """A view that queries, and then streams what the generator function *body* yields."""

    def view(request: HttpRequest) -> StreamingHttpResponse:
        return StreamingHttpResponse(body(session()))

    return view


def same(before: int) -> Iterator[str]:
    for _ in range(3):
        yield f"{session() == before} "


async def same_async(before: int) -> AsyncIterator[str]:
    for _ in range(3):
        yield f"{session() == before} "


def answer(**changes: Any) -> Any:
    return WSGIHandler()(environ(**changes), lambda status, headers: None)


def test_the_body_queries_on_the_connection_of_its_request(db: Any, project: Project) -> None:
    project(stream(same))
    for _ in range(6):
        response = answer()
        assert db.pool_stats().in_use == 1
        assert b"".join(response) == b"True True True "
        assert db.pool_stats().in_use == 0  # also before the server closes it
        response.close()
    assert current_scope() is None


def test_between_its_steps_no_scope_is_current(db: Any, project: Project) -> None:
    project(stream(same))
    response = answer()
    for _ in response:
        assert current_scope() is None
    response.close()


def test_streams_side_by_side_have_their_own(db: Any, project: Project) -> None:
    project(stream(same))
    one, other = answer(), answer()
    assert [*zip(one, other, strict=True)] == [(b"True ", b"True ")] * 3
    one.close()
    other.close()


def test_a_body_that_is_left_half_read_ends_inside_its_scope(db: Any, project: Project) -> None:
    ended = []

    def body(before: int) -> Iterator[str]:
        try:
            with db.atomic():
                add("lost")
                yield "half"
                yield "whole"
        finally:
            ended.append(session() == before)

    project(stream(body))
    for _ in range(6):
        response = answer()
        assert next(iter(response)) == b"half"
        response.close()
        assert db.pool_stats().in_use == 0
    assert ended == [True] * 6
    assert saved() == []


def test_a_body_that_is_never_read_gives_the_connection_back(db: Any, project: Project) -> None:
    project(stream(same))
    for _ in range(6):
        answer(REQUEST_METHOD="HEAD").close()
        assert db.pool_stats().in_use == 0


def test_a_body_that_fails_is_rolled_back(db: Any, project: Project) -> None:
    def body(before: int) -> Iterator[str]:
        with db.atomic():
            add("lost")
            yield "half"
            raise LookupError("a bug")

    project(stream(body))
    for _ in range(6):
        response = answer()
        with pytest.raises(LookupError):
            b"".join(response)
        assert db.pool_stats().in_use == 0
        response.close()
    assert saved() == []


def test_closing_twice_is_closing_once(db: Any, project: Project) -> None:
    project(stream(same))
    response = answer()
    response.close()
    response.close()


@pytest.mark.skipif(
    sys.version_info < (3, 11), reason="on Python 3.10 bare Django leaves them to the collector as well"
)
def test_a_closed_response_is_freed_at_once(db: Any, project: Project) -> None:
    project(stream(same))
    response = answer()
    response.close()
    freed = weakref.ref(response)
    gc.disable()
    try:
        del response
        assert freed() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("body", [same, lambda before: ["all ", "at ", "once"]])
def test_what_django_tells_at_the_end_may_query(db: Any, project: Project, body: Any) -> None:
    heard = []

    def listen(**_: Any) -> None:
        heard.append(Note.select().count())

    project(stream(body))
    request_finished.connect(listen)
    try:
        response = answer()
        b"".join(response)
        response.close()
        answer().close()
    finally:
        request_finished.disconnect(listen)
    assert heard == [0, 0]
    assert db.pool_stats().in_use == 0


class Rows:
    """An iterable whose ``close`` is not its iterator's."""

    def __init__(self, database: Any) -> None:
        self.transaction = database.atomic()
        self.transaction.__enter__()
        add("kept")

    def __iter__(self) -> Iterator[str]:
        return iter(["a", "b"])

    def close(self) -> None:
        self.transaction.__exit__(None, None, None)


def test_the_close_of_an_iterable_runs_inside_the_scope(db: Any, project: Project) -> None:
    project(lambda request: StreamingHttpResponse(Rows(db)))
    response = answer()
    assert next(iter(response)) == b"a"
    response.close()
    assert saved() == ["kept"]


def test_compression_around_the_middleware_is_fine(db: Any, project: Project) -> None:
    project(stream(same))
    with override_settings(MIDDLEWARE=["django.middleware.gzip.GZipMiddleware", OURS]):
        for _ in range(6):
            assert Client().get("/", headers={"accept-encoding": "gzip"}).getvalue()[:2] == b"\x1f\x8b"
            assert db.pool_stats().in_use == 0


# Files.


def test_a_file_is_the_servers_to_send_and_holds_no_connection(db: Any, project: Project, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"contents")

    def view(request: HttpRequest) -> FileResponse:
        session()
        return FileResponse((tmp_path / "file").open("rb"))

    project(view)
    response = answer(**{"wsgi.file_wrapper": FileWrapper})
    assert isinstance(response, FileWrapper)
    assert db.pool_stats().in_use == 0
    assert b"".join(response) == b"contents"
    response.close()
    assert Client().get("/").getvalue() == b"contents"


def test_a_file_in_memory_holds_no_connection(db: Any, project: Project) -> None:
    def view(request: HttpRequest) -> FileResponse:
        session()
        return FileResponse(io.BytesIO(b"contents"))

    project(view)
    response = answer()
    assert db.pool_stats().in_use == 0
    assert b"".join(response) == b"contents"
    response.close()


class FileInDatabase(io.RawIOBase):
    """Reads its contents by queries."""

    def __init__(self, before: int) -> None:
        self.parts = [before, before]

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        return f"{session() == self.parts.pop()} ".encode() if self.parts else b""


def test_a_file_that_queries_does_so_on_the_connection_of_its_request(db: Any, project: Project) -> None:
    project(lambda request: FileResponse(FileInDatabase(session())))
    response = answer(**{"wsgi.file_wrapper": FileWrapper})
    assert b"".join(response) == b"True True "
    response.close()


# Django's test client.


def test_the_test_client_gives_the_connection_back_when_the_body_is_read(db: Any, project: Project) -> None:
    project(stream(same))
    assert Client().get("/").getvalue() == b"True True True "
    assert db.pool_stats().in_use == 0


def test_the_test_client_gives_it_back_when_the_response_is_closed(db: Any, project: Project) -> None:
    project(stream(same))
    response = Client().get("/")
    response.close()
    assert db.pool_stats().in_use == 0


def test_the_next_checkout_takes_it_back_when_a_half_read_response_is_dropped(db: Any, project: Project) -> None:
    project(stream(same))
    next(iter(Client().get("/")))
    gc.collect()
    saved()
    assert db.pool_stats().in_use == 0


def test_head_by_the_test_client(db: Any, project: Project) -> None:
    project(stream(same))
    response = Client().head("/")
    assert response.getvalue() == b""
    assert db.pool_stats().in_use == 0


# ASGI.


def test_an_async_body_queries_on_the_connection_of_its_request(db: Any, project: Project) -> None:
    project(stream(same_async))
    for _ in range(6):
        assert asgi.get().body == b"True True True "
        assert db.pool_stats().in_use == 0


@hears_of_leaving
def test_an_async_body_whose_client_goes_away_ends_inside_its_scope(db: Any, project: Project) -> None:
    ended = []

    async def body(before: int) -> AsyncIterator[str]:
        try:
            with db.atomic():
                add("lost")
                while True:
                    yield f"{session() == before} "
                    await asyncio.sleep(0.001)
        finally:
            ended.append(session() == before)

    project(stream(body))

    async def leave_half_way() -> None:
        exchange = asgi.Exchange()
        task = asyncio.create_task(exchange.run())
        await exchange.answering.wait()
        exchange.leave()
        await task
        assert exchange.body.startswith(b"True ")

    for _ in range(6):
        asyncio.run(leave_half_way())
        assert db.pool_stats().in_use == 0
    assert ended == [True] * 6
    assert saved() == []


@hears_of_leaving
def test_a_body_that_never_waits_hears_of_its_client_going_away(db: Any, project: Project) -> None:
    async def body(before: int) -> AsyncIterator[str]:
        while True:
            yield f"{session()} "

    project(stream(body))

    async def leave_half_way() -> None:
        exchange = asgi.Exchange()
        task = asyncio.create_task(exchange.run())
        await exchange.answering.wait()
        exchange.leave()
        await asyncio.wait_for(task, 5)

    asyncio.run(leave_half_way())
    assert db.pool_stats().in_use == 0


@pytest.mark.filterwarnings("ignore:Unclosed file")  # Django 5.2 forgets the request's body when a stream fails
def test_an_async_body_that_fails_is_rolled_back(db: Any, project: Project) -> None:
    async def body(before: int) -> AsyncIterator[str]:
        with db.atomic():
            add("lost")
            yield "half"
            raise LookupError("a bug")

    project(stream(body))
    for _ in range(3):
        with pytest.raises(LookupError):
            asgi.get()
        assert db.pool_stats().in_use == 0
    assert saved() == []
    gc.collect()


@pytest.mark.filterwarnings("ignore:StreamingHttpResponse must consume")
def test_a_body_of_the_other_kind_works_as_well_as_django_lets_it(db: Any, project: Project) -> None:
    project(stream(same))
    assert asgi.get().body == b"True True True "
    project(stream(same_async))
    assert b"".join(answer()) == b"True True True "
    assert db.pool_stats().in_use == 0


@pytest.mark.filterwarnings("ignore:StreamingHttpResponse must consume")
def test_an_async_body_that_is_never_read_under_wsgi(db: Any, project: Project) -> None:
    project(stream(same_async))
    for _ in range(6):
        answer().close()
        assert db.pool_stats().in_use == 0


def test_the_async_test_client_gives_the_connection_back(db: Any, project: Project) -> None:
    project(stream(same_async))

    async def read() -> bytes:
        response = await AsyncClient().get("/")
        return b"".join([chunk async for chunk in response])

    assert asyncio.run(read()) == b"True True True "
    assert db.pool_stats().in_use == 0


def test_the_async_test_client_may_leave_a_body_half_read(db: Any, project: Project) -> None:
    ended = []

    async def body(before: int) -> AsyncIterator[str]:
        try:
            yield "half"
            yield "whole"
        finally:
            ended.append(session() == before)

    project(stream(body))

    async def read_half() -> None:
        response = await AsyncClient().get("/")
        assert await anext(response.streaming_content) == b"half"
        response.close()

    asyncio.run(read_half())
    assert ended == [True]
    assert db.pool_stats().in_use == 0


def test_a_body_that_finds_no_connection_any_more_fails_like_any_other(db: Any, project: Project) -> None:
    def body(before: int) -> Iterator[str]:
        yield "half"
        db.close()
        with exhausted(db):
            session()

    project(stream(body))
    response = answer()
    with pytest.raises(peewee_web.PoolTimeout):
        b"".join(response)
    response.close()
