"""A scope around each request, under WSGI and with Django's own test client."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from django.core.cache import cache
from django.core.exceptions import ImproperlyConfigured
from django.core.handlers.wsgi import WSGIHandler
from django.http import Http404, HttpRequest, HttpResponse
from django.test import Client, override_settings
from django.urls import path

import peewee_web
from peewee_web.core.scope import current_scope
from tests.django.conftest import OURS, Note, Project, add, client, environ, exhausted, saved, session


def count(request: HttpRequest) -> HttpResponse:
    return HttpResponse(str(Note.select().count()))


def test_a_view_has_the_connection_of_its_request(db: Any, project: Project) -> None:
    def view(request: HttpRequest) -> HttpResponse:
        assert current_scope() is not None
        return HttpResponse(str(session() == session()))

    project(view)
    for _ in range(6):
        assert Client().get("/").content == b"True"
        assert db.pool_stats().in_use == 0
    assert current_scope() is None


def test_a_request_without_a_query_takes_no_connection(db: Any, project: Project) -> None:
    db.close_idle()
    project(lambda request: HttpResponse(f"{db.pool_stats().in_use} {db.pool_stats().idle}"))
    assert Client().get("/").content == b"0 0"
    assert Client().get("/nothing").status_code == 404
    assert (db.pool_stats().in_use, db.pool_stats().idle) == (0, 0)


def test_a_page_that_needs_no_database_works_without_one(db: Any, project: Project) -> None:
    project(lambda request: HttpResponse("well"))
    with exhausted(db):
        assert client().get("/").content == b"well"
        assert client().get("/nothing").status_code == 404


def test_a_complete_response_gives_its_connection_back_before_it_is_sent(db: Any, project: Project) -> None:
    project(count)
    response = WSGIHandler()(environ(), lambda status, headers: None)
    assert db.pool_stats().in_use == 0
    assert b"".join(response) == b"0"
    response.close()


class Around:
    """Middleware of the app's own that queries before and after the view."""

    def __init__(self, get_response: Any) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        before = session()
        response = self.get_response(request)
        response["Same-Session"] = str(before == session())
        return response


def test_other_middleware_shares_the_connection(db: Any, project: Project) -> None:
    project(count, middleware=["tests.django.test_requests.Around"])
    assert Client().get("/")["Same-Session"] == "True"


class Stop(BaseException):
    """As gevent.Timeout, SystemExit and KeyboardInterrupt: Django makes no response of it."""


def test_what_is_no_exception_gives_the_connection_back_too(db: Any, project: Project) -> None:
    def view(request: HttpRequest) -> HttpResponse:
        db.begin()
        add("lost")
        raise Stop

    project(view)
    for _ in range(6):
        with pytest.raises(Stop):
            Client().get("/")
        assert db.pool_stats().in_use == 0
    assert current_scope() is None
    assert saved() == []


def test_a_view_that_raises_is_rolled_back_and_gives_its_connection_back(db: Any, project: Project) -> None:
    def view(request: HttpRequest) -> HttpResponse:
        with db.atomic():
            add("lost")
            raise LookupError("a bug")

    project(view)
    for _ in range(6):
        assert client().get("/").status_code == 500
        assert db.pool_stats().in_use == 0
    assert saved() == []


def test_the_error_page_may_query(db: Any, project: Project) -> None:
    def view(request: HttpRequest) -> HttpResponse:
        raise Http404

    def not_found(request: HttpRequest, exception: Exception) -> HttpResponse:
        return HttpResponse(f"none of {Note.select().count()}", status=404)

    project(view, handlers={"handler404": not_found})
    for _ in range(6):
        assert client().get("/").content == b"none of 0"


def test_a_transaction_left_open_is_rolled_back_with_a_warning(
    db: Any, project: Project, caplog: pytest.LogCaptureFixture
) -> None:
    def view(request: HttpRequest) -> HttpResponse:
        db.session_start()
        add("lost")
        return HttpResponse("done")

    project(view)
    with caplog.at_level(logging.WARNING, "peewee_web"):
        assert Client().get("/").content == b"done"
    assert "test_requests.py" in caplog.text
    assert "left open" in caplog.text
    assert saved() == []


def test_a_request_inside_a_request_has_a_connection_of_its_own(db: Any, project: Project) -> None:
    def outer(request: HttpRequest) -> HttpResponse:
        with db.atomic():
            before = session()
            inner = int(Client().get("/inner").content)
            return HttpResponse(f"{before == session()} {before != inner}")

    project(outer, path("inner", lambda request: HttpResponse(str(session()))))
    assert Client().get("/").content == b"True True"


def test_a_request_made_in_a_scope_of_the_test_leaves_that_alone(db: Any, project: Project) -> None:
    project(count)
    with peewee_web.scope() as outer:
        before = session()
        Client().get("/")
        assert current_scope() is outer
        assert session() == before


def test_excluded_paths_and_routes_have_no_scope_or_no_transaction(db: Any, project: Project) -> None:
    def view(request: HttpRequest) -> HttpResponse:
        scope = current_scope()
        return HttpResponse("none" if scope is None else str(scope.atomic))

    options = {"EXCLUDE": ["/static/*", "health"], "ATOMIC": True, "LAZY": False}
    project(view, path("static/a.css", view), path("health", view, name="health"), **options)
    assert Client().get("/").content == b"True"
    assert Client().get("/static/a.css").content == b"none"
    assert Client().get("/health").content == b"False"
    with exhausted(db):
        assert client().get("/").status_code == 503
        assert Client().get("/static/a.css").content == b"none"
        assert Client().get("/health").content == b"False"


def test_an_excluded_request_inside_another_leaves_its_scope_alone(db: Any, project: Project) -> None:
    def outer(request: HttpRequest) -> HttpResponse:
        Client().get("/static/a.css")
        scope = current_scope()
        return HttpResponse(str(scope is not None and scope.atomic))

    project(outer, path("static/a.css", count), EXCLUDE="/static/*", ATOMIC=True)
    assert Client().get("/").content == b"True"


def test_a_cache_around_the_middleware_can_keep_its_responses(db: Any, project: Project) -> None:
    project(count)
    before, after = "django.middleware.cache.UpdateCacheMiddleware", "django.middleware.cache.FetchFromCacheMiddleware"
    cache.clear()
    with override_settings(MIDDLEWARE=[before, OURS, after]):
        assert Client().get("/").content == b"0"
        with peewee_web.scope():
            add("new")
        assert Client().get("/").content == b"0"
    cache.clear()


def test_an_async_view_under_wsgi_is_in_the_scope_of_its_request(db: Any, project: Project) -> None:
    async def view(request: HttpRequest) -> HttpResponse:
        return HttpResponse(str(session()))

    project(view, middleware=["tests.django.test_requests.Around"])
    response = Client().get("/")
    assert response["Same-Session"] == "True"
    assert db.pool_stats().in_use == 0


def test_the_middleware_is_refused_the_second_time(db: Any, project: Project) -> None:
    project(count, middleware=[OURS])
    with pytest.raises(ImproperlyConfigured, match="more than once: leave the first one"):
        WSGIHandler()


def test_a_setting_that_can_not_be_used_stops_the_server_at_its_start(project: Project) -> None:
    project(count)
    with override_settings(PEEWEE={"DATABASE": "oracle://x"}), pytest.raises(ImproperlyConfigured, match="oracle"):
        WSGIHandler()
