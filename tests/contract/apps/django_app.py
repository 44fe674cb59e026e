"""The contract app in Django: plain views, as under WSGI, and coroutines, as under ASGI."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

import django
from asgiref.sync import iscoroutinefunction
from django.conf import settings
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse, StreamingHttpResponse
from django.test import Client
from django.urls import path
from django.utils.decorators import sync_and_async_middleware

from peewee_web import Databases
from peewee_web.django import databases
from tests.contract.cases import SYNC, Call, Reply, before_view, stats

urlpatterns: list[Any] = []


def configure(of_contract: Databases, **settings_of_kind: Any) -> None:
    settings.configure(
        PEEWEE={"DATABASES": of_contract},
        INSTALLED_APPS=["peewee_web.django"],
        MIDDLEWARE=["peewee_web.django.PeeweeMiddleware", "tests.contract.apps.django_app.early"],
        ALLOWED_HOSTS=["*"],
        SECRET_KEY="none",
        LOGGING_CONFIG=None,
        **settings_of_kind,
    )
    django.setup()


def build(of_contract: Databases) -> Any:
    from django.core.wsgi import get_wsgi_application

    configure(of_contract, ROOT_URLCONF=__name__)
    urlpatterns[:] = [path("stats", show_stats), path("case/<name>", run)]
    return get_wsgi_application()


@sync_and_async_middleware
def early(get_response: Callable[[HttpRequest], Any]) -> Callable[[HttpRequest], Any]:
    def middleware(request: HttpRequest) -> Any:
        before_view(request.GET)
        return get_response(request)

    async def async_middleware(request: HttpRequest) -> Any:
        before_view(request.GET)
        return await get_response(request)

    return async_middleware if iscoroutinefunction(get_response) else middleware


def show_stats(request: HttpRequest) -> JsonResponse:
    return JsonResponse(stats(databases.default))


def run(request: HttpRequest, name: str) -> HttpResponse:
    if name not in SYNC:
        raise Http404
    return answer(SYNC[name](Call(lambda: databases.default, request.GET.dict(), nested)))


def answer(reply: Reply) -> HttpResponse:
    kind = HttpResponse if isinstance(reply.body, str) else StreamingHttpResponse
    return kind(reply.body, status=reply.status, headers=reply.headers, content_type="text/plain")


def nested(target: str, host: str = "inner") -> str:
    response = Client(raise_request_exception=False).get(target, headers={"host": host})
    return response.content.decode()


def host_of(request: HttpRequest) -> str:
    host: str = request.get_host()
    return host


def refuse() -> NoReturn:
    raise Http404
