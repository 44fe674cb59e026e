"""Under ASGI: coroutines on the loop, synchronous views in threads, clients that go away."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest
from asgiref.sync import async_to_sync, iscoroutinefunction, sync_to_async
from django.http import HttpRequest, HttpResponse
from django.test import AsyncClient
from django.urls import path
from django.utils.decorators import sync_and_async_middleware, sync_only_middleware

import peewee_web
from peewee_web.core.scope import current_scope
from peewee_web.django import PeeweeMiddleware
from tests.django import asgi
from tests.django.conftest import LIMIT, Project, add, exhausted, hears_of_leaving, saved, session


def run(*exchanges: asgi.Exchange) -> None:
    async def together() -> None:
        await asyncio.gather(*(exchange.run() for exchange in exchanges))

    asyncio.run(together())


def test_the_middleware_is_of_the_kind_of_what_it_wraps(project: Project) -> None:
    async def coroutine(request: HttpRequest) -> HttpResponse:
        return HttpResponse()

    project(lambda request: HttpResponse())
    assert iscoroutinefunction(PeeweeMiddleware(coroutine))
    assert not iscoroutinefunction(PeeweeMiddleware(lambda request: HttpResponse()))


def test_async_views_side_by_side_have_their_own_connections(db: Any, project: Project) -> None:
    async def view(request: HttpRequest) -> HttpResponse:
        before = session()
        await asyncio.sleep(0.01)
        return HttpResponse(f"{before} {session()}")

    project(view)
    exchanges = [asgi.Exchange() for _ in range(LIMIT)]
    run(*exchanges)
    pairs = [exchange.body.split() for exchange in exchanges]
    assert all(before == after for before, after in pairs)
    assert len({before for before, _ in pairs}) == LIMIT
    assert db.pool_stats().in_use == 0


def test_the_rollback_of_one_async_view_does_not_touch_the_rows_of_another(db: Any, project: Project) -> None:
    began = asyncio.Event()

    async def rolls_back(request: HttpRequest) -> HttpResponse:
        with db.transaction("DEFERRED") as transaction:
            session()
            began.set()
            await asyncio.sleep(0.02)
            transaction.rollback()
        return HttpResponse()

    async def saves(request: HttpRequest) -> HttpResponse:
        await began.wait()
        add("kept")
        return HttpResponse("saved")

    project(rolls_back, path("save", saves))
    run(asgi.Exchange(), saving := asgi.Exchange("/save"))
    assert saving.body == b"saved"
    assert saved() == ["kept"]


def test_a_thread_of_an_async_view_shares_its_connection(db: Any, project: Project) -> None:
    async def view(request: HttpRequest) -> HttpResponse:
        own = session()
        sensitive = await sync_to_async(session)()
        free = await sync_to_async(session, thread_sensitive=False)()
        plain = await asyncio.to_thread(session)
        return HttpResponse(str({sensitive, free, plain} == {own}))

    project(view)
    assert asgi.get().body == b"True"
    assert db.pool_stats().in_use == 0


def test_a_synchronous_view_and_a_coroutine_in_it_share_its_connection(db: Any, project: Project) -> None:
    async def inner() -> int:
        return session()

    def view(request: HttpRequest) -> HttpResponse:
        assert threading.current_thread() is not threading.main_thread()
        return HttpResponse(str(session() == async_to_sync(inner)()))

    project(view)
    for _ in range(6):
        assert asgi.get().body == b"True"
        assert db.pool_stats().in_use == 0


@sync_only_middleware
def only_sync(get_response: Any) -> Any:
    def middleware(request: HttpRequest) -> HttpResponse:
        before = session()
        response = get_response(request)
        response["Same-Session"] = str(before == session())
        return response

    return middleware


@sync_and_async_middleware
def either(get_response: Any) -> Any:
    if not iscoroutinefunction(get_response):
        return only_sync(get_response)

    async def middleware(request: HttpRequest) -> HttpResponse:
        before = session()
        response = await get_response(request)
        response["Same-Session"] = str(before == session())
        return response

    return middleware


@pytest.mark.parametrize("middleware", [["only_sync"], ["either"], ["either", "only_sync", "either"]])
def test_other_middleware_shares_the_connection_whatever_its_kind(
    db: Any, project: Project, middleware: list[str]
) -> None:
    async def view(request: HttpRequest) -> HttpResponse:
        return HttpResponse(str(session()))

    paths = [f"tests.django.test_async.{name}" for name in middleware]
    project(view, path("sync", lambda request: HttpResponse(str(session()))), middleware=paths)
    for route in ("/", "/sync"):
        exchange = asgi.get(route)
        assert exchange.status == 200
        assert exchange.headers["Same-Session"] == "True"
        assert db.pool_stats().in_use == 0


def test_the_async_test_client(db: Any, project: Project) -> None:
    async def view(request: HttpRequest) -> HttpResponse:
        return HttpResponse(str(session() == session()))

    project(view)

    async def get() -> bytes:
        content: bytes = (await AsyncClient().get("/")).content
        assert current_scope() is None
        return content

    assert asyncio.run(get()) == b"True"


def test_an_async_request_inside_another_has_a_connection_of_its_own(db: Any, project: Project) -> None:
    async def outer(request: HttpRequest) -> HttpResponse:
        with db.transaction("DEFERRED"):
            before = session()
            inner = (await AsyncClient().get("/inner")).content
            return HttpResponse(f"{before == session()} {inner != str(before).encode()}")

    async def inner(request: HttpRequest) -> HttpResponse:
        return HttpResponse(str(session()))

    project(outer, path("inner", inner))
    assert asgi.get().body == b"True True"


def test_an_eager_request_waits_for_a_connection_without_blocking_the_loop(project: Project, new_database: Any) -> None:
    patient = new_database("patient", max_connections=1, timeout=5)

    async def view(request: HttpRequest) -> HttpResponse:
        before = session()
        await asyncio.sleep(0.01)
        return HttpResponse(str(before == session()))

    project(view, DATABASES=patient, LAZY=False)
    exchanges = [asgi.Exchange() for _ in range(8)]
    run(*exchanges)
    assert [exchange.body for exchange in exchanges] == [b"True"] * 8


def test_a_lazy_request_never_makes_the_loop_wait(project: Project, new_database: Any) -> None:
    patient = new_database("patient", max_connections=1, timeout=5)

    async def view(request: HttpRequest) -> HttpResponse:
        session()
        await asyncio.sleep(0.02)
        return HttpResponse()

    project(view, DATABASES=patient)
    exchanges = [asgi.Exchange() for _ in range(3)]
    run(*exchanges)
    assert sorted(exchange.status for exchange in exchanges) == [200, 503, 503]


def test_an_eager_503_does_not_depend_on_the_kind_of_the_view(db: Any, project: Project) -> None:
    project(lambda request: HttpResponse(), LAZY=False, middleware=["tests.django.test_async.only_sync"])
    with exhausted(db):
        assert asgi.get().status == 503


# Clients that go away before the answer.


async def left_when(event: threading.Event) -> None:
    exchange = asgi.Exchange()
    task = asyncio.create_task(exchange.run())
    assert await asyncio.to_thread(event.wait, 5)
    exchange.leave()
    await asyncio.wait_for(task, 10)
    assert exchange.status == 0


@hears_of_leaving
def test_an_async_view_is_cancelled_and_its_transaction_rolled_back(db: Any, project: Project) -> None:
    began = threading.Event()

    async def view(request: HttpRequest) -> HttpResponse:
        with db.atomic():
            add("lost")
            began.set()
            await asyncio.sleep(60)
        return HttpResponse()

    project(view)
    asyncio.run(left_when(began))
    assert db.pool_stats().in_use == 0
    assert saved() == []


@hears_of_leaving
def test_a_synchronous_view_goes_on_to_its_end(db: Any, project: Project) -> None:
    """As under WSGI and with Django's own ORM: who posts and does not wait gets all of it done."""
    began, go_on = threading.Event(), threading.Event()
    failures: list[BaseException] = []

    def view(request: HttpRequest) -> HttpResponse:
        add("first")
        began.set()
        go_on.wait(5)
        try:
            add("second")
        except BaseException as error:
            failures.append(error)
            raise
        return HttpResponse()

    project(view)

    async def leave() -> None:
        asyncio.get_running_loop().call_later(0.2, go_on.set)
        await left_when(began)

    asyncio.run(leave())
    assert failures == []
    assert saved() == ["first", "second"]
    assert db.pool_stats().in_use == 0


@hears_of_leaving
def test_a_request_that_is_cancelled_while_it_waits_for_a_connection_leaves_nothing(db: Any, project: Project) -> None:
    called = []
    project(lambda request: called.append(request), middleware=["tests.django.test_async.announcing"], LAZY=False)
    announced.clear()
    db.init(db.database, timeout=5)
    with exhausted(db):
        asyncio.run(left_when(announced))
    assert called == []
    assert db.pool_stats().in_use == 0


announced = threading.Event()


@sync_and_async_middleware
def announcing(get_response: Any) -> Any:
    async def middleware(request: HttpRequest) -> HttpResponse:
        announced.set()
        return await get_response(request)

    return middleware


def test_a_task_that_outlives_its_request_is_told_so(db: Any, project: Project) -> None:
    met: list[str] = []
    tasks = []

    async def later() -> None:
        await asyncio.sleep(0.05)
        try:
            session()
        except peewee_web.ScopeClosed as error:
            met.append(str(error))

    async def view(request: HttpRequest) -> HttpResponse:
        session()
        tasks.append(asyncio.create_task(later()))
        return HttpResponse()

    project(view)

    async def outlive() -> None:
        await asgi.Exchange().run()
        await tasks[0]

    asyncio.run(outlive())
    assert "peewee_web.scope()" in met[0]
