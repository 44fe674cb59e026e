"""Django's side of the benchmark: it has one configuration for the process, so the variants differ in middleware."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import django
from django.conf import settings
from django.core.handlers.wsgi import WSGIHandler
from django.http import HttpRequest, HttpResponse
from django.test.utils import override_settings
from django.urls import path

_databases: dict[str, Any] = {}


def configure(ours: Any, theirs: Any) -> None:
    settings.configure(
        ROOT_URLCONF=__name__,
        ALLOWED_HOSTS=["*"],
        INSTALLED_APPS=["peewee_web.django"],
        MIDDLEWARE=["peewee_web.django.PeeweeMiddleware"],
        PEEWEE={"DATABASES": {"default": ours}},
        LOGGING_CONFIG=None,
    )
    django.setup()
    _databases.update(ours=ours, theirs=theirs)


def application(middleware: list[str]) -> Any:
    """A handler whose middleware is *middleware*."""
    with override_settings(MIDDLEWARE=middleware):
        handler = WSGIHandler()
    handler.database = _databases["theirs" if "documented_hooks" in str(middleware) else "ours"]

    def app(environ: Any, start_response: Any) -> Any:
        environ["bench.database"] = handler.database
        return handler(environ, start_response)

    return app


def documented_hooks(get_response: Callable[[HttpRequest], HttpResponse]) -> Callable[[HttpRequest], HttpResponse]:
    def middleware(request: HttpRequest) -> HttpResponse:
        database = _databases["theirs"]
        database.connect()
        try:
            return get_response(request)
        finally:
            if not database.is_closed():
                database.close()

    return middleware


def ping(request: HttpRequest) -> HttpResponse:
    return HttpResponse(b"pong")


def one(request: HttpRequest) -> HttpResponse:
    database = request.environ["bench.database"]
    return HttpResponse(b"%d" % database.execute_sql("SELECT 1").fetchone()[0])


urlpatterns = [path("ping", ping), path("one", one)]
