"""One transaction per request, that ends before the response starts."""

from __future__ import annotations

from typing import Any

import pytest
from django.core.exceptions import PermissionDenied
from django.core.handlers.wsgi import WSGIHandler
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.template import engines
from django.template.response import TemplateResponse
from django.test import Client, override_settings
from django.urls import path
from django.utils.decorators import method_decorator
from django.views import View

from peewee_web.core.scope import current_scope
from peewee_web.django import atomic_requests, non_atomic_requests
from tests.django import asgi
from tests.django.conftest import Note, Project, add, client, environ, saved

TEMPLATES = [{"BACKEND": "django.template.backends.django.DjangoTemplates"}]


def writes(status: int = 200) -> Any:
    def view(request: HttpRequest) -> HttpResponse:
        add("written")
        return HttpResponse(status=status)

    return view


def only_server_errors(status: int) -> bool:
    return status < 500


@pytest.mark.parametrize(("status", "kept"), [(200, True), (302, True), (404, False), (500, False)])
def test_the_status_decides(project: Project, status: int, kept: bool) -> None:
    project(writes(status), ATOMIC=True)
    assert client().get("/").status_code == status
    assert saved() == ["written"] * kept


@pytest.mark.parametrize("commit_when", [only_server_errors, "tests.django.test_atomic.only_server_errors"])
def test_commit_when_decides_otherwise(project: Project, commit_when: Any) -> None:
    project(writes(404), ATOMIC=True, COMMIT_WHEN=commit_when)
    client().get("/")
    assert saved() == ["written"]


@pytest.mark.parametrize("error", [LookupError, PermissionDenied])
def test_an_exception_rolls_back(project: Project, error: type[Exception]) -> None:
    def view(request: HttpRequest) -> HttpResponse:
        add("written")
        raise error

    project(view, ATOMIC=True)
    assert client().get("/").status_code >= 400
    assert saved() == []


class Audit:
    """Middleware that writes before and after the view."""

    def __init__(self, get_response: Any) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        add("before")
        response = self.get_response(request)
        add("after")
        return response


def test_what_other_middleware_writes_is_part_of_it(project: Project) -> None:
    project(writes(), path("bad", writes(400)), ATOMIC=True, middleware=["tests.django.test_atomic.Audit"])
    Client().get("/bad")
    assert saved() == []
    Client().get("/")
    assert saved() == ["before", "written", "after"]


def test_a_template_that_is_rendered_after_the_view_is_part_of_it(project: Project) -> None:
    def late() -> str:
        add("while rendering")
        scope = current_scope()
        return str(scope is not None and scope.atomic)

    def view(request: HttpRequest) -> HttpResponse:
        add("in the view")
        return TemplateResponse(request, engines["django"].from_string("{{ late }}"), {"late": late})

    project(view, ATOMIC=True)
    with override_settings(TEMPLATES=TEMPLATES):
        assert Client().get("/").content == b"True"
    assert saved() == ["in the view", "while rendering"]


def fail_to_commit(db: Any) -> None:
    """A foreign key that SQLite checks when it commits."""
    db.execute_sql("CREATE TABLE IF NOT EXISTS child (id REFERENCES note(id) DEFERRABLE INITIALLY DEFERRED)")
    db.execute_sql("INSERT INTO child VALUES (99)")


def test_a_failed_commit_is_a_failed_response_of_handler500(db: Any, project: Project) -> None:
    def view(request: HttpRequest) -> HttpResponse:
        fail_to_commit(db)
        return HttpResponse("all is well")

    def server_error(request: HttpRequest) -> HttpResponse:
        return HttpResponse(f"sorry, {Note.select().count()} notes", status=500)

    project(view, ATOMIC=True, handlers={"handler500": server_error})
    for _ in range(6):
        response = client().get("/")
        assert (response.status_code, response.content) == (500, b"sorry, 0 notes")
        assert db.pool_stats().in_use == 0


def test_a_failed_commit_fails_before_the_first_header(db: Any, project: Project) -> None:
    def view(request: HttpRequest) -> StreamingHttpResponse:
        fail_to_commit(db)
        return StreamingHttpResponse(iter([b"all is well"]))

    project(view, ATOMIC=True)
    statuses: list[str] = []
    response = WSGIHandler()(environ(), lambda status, headers: statuses.append(status))
    assert statuses == ["500 Internal Server Error"]
    response.close()


def test_a_failed_rollback_leaves_the_answer_as_it_was(db: Any, project: Project) -> None:
    def view(request: HttpRequest) -> HttpResponse:
        add("lost")
        db.connection().close()
        return HttpResponse("no such thing", status=404)

    project(view, ATOMIC=True)
    response = client().get("/")
    assert (response.status_code, response.content) == (404, b"no such thing")
    assert saved() == []


def test_a_streamed_body_goes_on_after_the_commit(db: Any, project: Project) -> None:
    def view(request: HttpRequest) -> StreamingHttpResponse:
        add("before")

        def body() -> Any:
            yield ",".join(saved())
            add("in the body")
            yield ""

        return StreamingHttpResponse(body())

    project(view, ATOMIC=True)
    assert Client().get("/").getvalue() == b"before"
    assert saved() == ["before", "in the body"]


# Views that choose for themselves.


@non_atomic_requests
def opted_out(request: HttpRequest) -> HttpResponse:
    add("written")
    return HttpResponse(status=400)


@atomic_requests
def opted_in(request: HttpRequest) -> HttpResponse:
    add("written")
    return HttpResponse(status=400)


@method_decorator(non_atomic_requests, name="dispatch")
class OptedOut(View):
    def get(self, request: HttpRequest) -> HttpResponse:
        add("written")
        return HttpResponse(status=400)


class OptedInMethod(View):
    @atomic_requests
    def get(self, request: HttpRequest) -> HttpResponse:
        add("written")
        return HttpResponse(status=400)


@atomic_requests
async def opted_in_async(request: HttpRequest) -> HttpResponse:
    add("written")
    return HttpResponse(status=400)


@non_atomic_requests
async def opted_out_async(request: HttpRequest) -> HttpResponse:
    add("written")
    return HttpResponse(status=400)


@pytest.mark.parametrize("view", [opted_out, OptedOut.as_view(), opted_out_async])
def test_a_view_may_opt_out(project: Project, view: Any) -> None:
    project(view, ATOMIC=True)
    assert Client().get("/").status_code == 400
    assert saved() == ["written"]
    assert asgi.get().status == 400
    assert saved() == ["written"] * 2


@pytest.mark.parametrize("view", [opted_in, OptedInMethod.as_view(), opted_in_async])
def test_a_view_may_opt_in(project: Project, view: Any) -> None:
    project(view)
    assert Client().get("/").status_code == 400
    assert asgi.get().status == 400
    assert saved() == []


# Under ASGI.


def test_async_views_are_atomic_too(project: Project) -> None:
    def view(status: int) -> Any:
        async def run(request: HttpRequest) -> HttpResponse:
            add(str(status))
            return HttpResponse(status=status)

        return run

    project(view(200), path("bad", view(400)), ATOMIC=True)
    assert asgi.get().status == 200
    assert asgi.get("/bad").status == 400
    assert saved() == ["200"]


def test_a_failed_commit_is_a_failed_response_under_asgi_too(db: Any, project: Project) -> None:
    async def view(request: HttpRequest) -> HttpResponse:
        fail_to_commit(db)
        return HttpResponse("all is well")

    def server_error(request: HttpRequest) -> HttpResponse:
        return HttpResponse(f"sorry, {Note.select().count()} notes", status=500)

    project(view, ATOMIC=True, handlers={"handler500": server_error})
    for _ in range(6):
        exchange = asgi.get()
        assert (exchange.status, exchange.body) == (500, b"sorry, 0 notes")
        assert db.pool_stats().in_use == 0
