"""No connection: 503, styled as Django styles its errors; every other error stays what it was."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import peewee
import pytest
from django.http import Http404, HttpRequest, HttpResponse
from django.template import engines
from django.template.response import TemplateResponse
from django.test import Client, override_settings
from django.urls import path

import peewee_web
from peewee_web.core.unavailable import BODY
from tests.django import asgi
from tests.django.conftest import Note, Project, client, exhausted, session
from tests.servers.ports import free_port


def query(request: HttpRequest) -> HttpResponse:
    return HttpResponse(str(Note.select().count()))


async def query_async(request: HttpRequest) -> HttpResponse:
    return HttpResponse(str(Note.select().count()))


def unavailable(request: HttpRequest, exception: Exception) -> HttpResponse:
    return HttpResponse(f"{type(exception).__name__} on {request.path}", status=503)


@pytest.fixture
def templates(tmp_path: Path) -> Iterator[Path]:
    directory = tmp_path / "templates"
    directory.mkdir()
    backend = {"BACKEND": "django.template.backends.django.DjangoTemplates", "DIRS": [directory]}
    with override_settings(TEMPLATES=[backend]):
        yield directory


@pytest.mark.parametrize("view", [query, query_async])
def test_it_is_a_503_with_a_time_to_come_back(db: Any, project: Project, view: Any) -> None:
    project(view)
    with exhausted(db):
        response = Client().get("/")  # as the test client sees it, which would raise what is a 500
        assert (response.status_code, response.content) == (503, BODY.encode())
        assert int(response["Retry-After"]) >= 1
        exchange = asgi.get()
        assert (exchange.status, exchange.body) == (503, BODY.encode())
        assert int(exchange.headers["Retry-After"]) >= 1
    assert Client().get("/").content == b"0"


def test_a_server_that_is_down_is_not_described(project: Project, caplog: pytest.LogCaptureFixture) -> None:
    down = peewee_web.connect(f"postgresql://someone:secret@127.0.0.1:{free_port()}/nothing", timeout=None)
    project(query)
    with override_settings(PEEWEE={"DATABASES": down}), caplog.at_level(logging.WARNING, "peewee_web"):
        response = client().get("/")
    assert (response.status_code, response.content) == (503, BODY.encode())
    assert "503 /: no connection to the database" in caplog.text
    assert "secret" not in caplog.text


def test_the_project_styles_it_with_a_template(db: Any, project: Project, templates: Path) -> None:
    (templates / "503.html").write_text("<h1>Back in {{ retry_after }} s</h1>")
    project(query)
    with exhausted(db):
        response = Client().get("/")
    assert (response.status_code, response.content) == (503, b"<h1>Back in 1 s</h1>")
    assert response["Content-Type"].startswith("text/html")
    assert response["Retry-After"] == "1"


@pytest.mark.parametrize("handler", [unavailable, "tests.django.test_unavailable.unavailable"])
def test_the_project_styles_it_with_a_view(db: Any, project: Project, handler: Any) -> None:
    project(query, handlers={"handler503": handler})
    with exhausted(db):
        response = Client().get("/")
        assert (response.status_code, response.content) == (503, b"PoolTimeout on /")
        assert response["Retry-After"] == "1"
        assert asgi.get().body == b"PoolTimeout on /"


def test_a_view_for_it_may_return_a_template_response(db: Any, project: Project, templates: Path) -> None:
    def handler(request: HttpRequest, exception: Exception) -> TemplateResponse:
        response = TemplateResponse(request, engines["django"].from_string("later"), status=503)
        response["Retry-After"] = "60"
        return response

    project(query, handlers={"handler503": handler}, LAZY=False)
    with exhausted(db):
        response = Client().get("/")
    assert (response.content, response["Retry-After"]) == (b"later", "60")


def test_a_view_for_it_that_queries_itself_ends_in_the_plain_answer(db: Any, project: Project) -> None:
    project(query, handlers={"handler503": lambda request, exception: query(request)})
    with exhausted(db):
        response = Client().get("/")
    assert (response.status_code, response.content) == (503, BODY.encode())


class Queries:
    def __init__(self, get_response: Any) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        session()
        return self.get_response(request)


def test_also_where_other_middleware_found_no_connection(db: Any, project: Project) -> None:
    project(lambda request: HttpResponse("well"), middleware=["tests.django.test_unavailable.Queries"])
    with exhausted(db):
        assert client().get("/").status_code == 503
        assert asgi.get().status == 503
    assert client().get("/").status_code == 200


def test_also_where_a_template_is_rendered(db: Any, project: Project, templates: Path) -> None:
    def view(request: HttpRequest) -> HttpResponse:
        return TemplateResponse(request, engines["django"].from_string("{{ n }}"), {"n": lambda: session()})

    project(view)
    with exhausted(db):
        assert Client().get("/").status_code == 503
        assert asgi.get().status == 503


@pytest.mark.parametrize("status", [404, 500])
def test_also_where_an_error_page_queries(db: Any, project: Project, status: int) -> None:
    def view(request: HttpRequest) -> HttpResponse:
        raise Http404 if status == 404 else LookupError

    def page(request: HttpRequest, exception: Exception | None = None) -> HttpResponse:
        return HttpResponse(str(session()), status=status)

    project(view, handlers={"handler404": page, "handler500": page})
    with exhausted(db):
        assert client().get("/").status_code == 503
        assert asgi.get().status == 503
    assert client().get("/").status_code == status


class Own:
    def __init__(self, get_response: Any) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        return self.get_response(request)

    def process_exception(self, request: HttpRequest, exception: Exception) -> HttpResponse | None:
        return HttpResponse("mine", status=200) if isinstance(exception, peewee_web.NoConnection) else None


def test_an_app_that_answers_the_exception_itself_is_asked_first(db: Any, project: Project) -> None:
    project(query, middleware=["tests.django.test_unavailable.Own"])
    with exhausted(db):
        assert Client().get("/").content == b"mine"


def test_a_view_that_does_without_is_left_alone(db: Any, project: Project) -> None:
    def view(request: HttpRequest) -> HttpResponse:
        try:
            session()
        except peewee_web.NoConnection:
            return HttpResponse("from yesterday", status=500)
        raise AssertionError

    project(view)
    with exhausted(db):
        assert Client().get("/").content == b"from yesterday"


@pytest.mark.parametrize("debug", [False, True])
def test_debug_makes_no_difference(db: Any, project: Project, debug: bool) -> None:
    project(query)
    with override_settings(DEBUG=debug), exhausted(db):
        assert client().get("/").status_code == 503


def test_other_database_errors_are_500(project: Project) -> None:
    def view(request: HttpRequest) -> HttpResponse:
        raise peewee.OperationalError("no such table")

    project(view)
    assert client().get("/").status_code == 500
    with pytest.raises(peewee.OperationalError):
        Client().get("/")


# lazy=False


def test_an_eager_request_is_503_before_its_view(db: Any, project: Project) -> None:
    called = []

    def view(request: HttpRequest) -> HttpResponse:
        called.append(db.pool_stats().in_use)
        return HttpResponse()

    project(view, LAZY=False, handlers={"handler503": unavailable})
    with exhausted(db):
        for answer in (Client().get("/"), asgi.get()):
            body = answer.body if isinstance(answer, asgi.Exchange) else answer.content
            assert body == b"PoolTimeout on /"
        assert client().get("/nothing").status_code == 404
    assert called == []
    Client().get("/")
    assert asgi.get().status == 200
    assert called == [1, 1]


def test_a_503_in_an_atomic_request_rolls_the_rest_back(db: Any, project: Project, new_database: Any) -> None:
    other = new_database("other")

    def view(request: HttpRequest) -> HttpResponse:
        other.execute(Note.insert(text="lost"))
        session()
        raise AssertionError

    project(view, path("ok", query), DATABASES={"default": db, "other": other}, ATOMIC=True)
    with exhausted(db):
        assert Client().get("/").status_code == 503
    with peewee_web.scope():
        assert Note.select().count(other) == 0
