"""The contract app in Django: plain views, as under WSGI, and coroutines, as under ASGI."""

from __future__ import annotations

from typing import Any

import django
from django.conf import settings
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse, StreamingHttpResponse
from django.test import Client
from django.urls import path

from peewee_web import Databases
from peewee_web.django import databases
from tests.contract.cases import SYNC, Call, Reply, stats

urlpatterns: list[Any] = []


def configure(of_contract: Databases, **settings_of_kind: Any) -> None:
    settings.configure(
        PEEWEE={"DATABASES": of_contract},
        INSTALLED_APPS=["peewee_web.django"],
        MIDDLEWARE=["peewee_web.django.PeeweeMiddleware"],
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


def show_stats(request: HttpRequest) -> JsonResponse:
    return JsonResponse(stats(databases.default))


def run(request: HttpRequest, name: str) -> HttpResponse:
    if name not in SYNC:
        raise Http404
    return answer(SYNC[name](Call(databases.default, request.GET.dict(), nested)))


def answer(reply: Reply) -> HttpResponse:
    kind = HttpResponse if isinstance(reply.body, str) else StreamingHttpResponse
    return kind(reply.body, status=reply.status, headers=reply.headers, content_type="text/plain")


def nested(target: str) -> str:
    response = Client(raise_request_exception=False).get(target)
    return response.content.decode()
