"""The contract app in Django under ASGI: synchronous views in threads, coroutines on the loop."""

from __future__ import annotations

import warnings
from typing import Any

import httpx
from django.http import HttpRequest, HttpResponse
from django.urls import path

from peewee_web import Databases
from peewee_web.django import databases
from tests.contract.apps import django_app
from tests.contract.apps.asgi_app import as_async
from tests.contract.apps.django_app import answer, configure, host_of, refuse, show_stats
from tests.contract.cases import ASYNC, SYNC, Call, Reply

__all__ = ["build", "host_of", "refuse"]

urlpatterns: list[Any] = []
app: Any = None


def build(of_contract: Databases) -> Any:
    from django.core.asgi import get_asgi_application

    global app
    # Django 5.2 forgets the file that it reads request bodies into when a streamed response fails.
    warnings.filterwarnings("ignore", "Unclosed file <tempfile.SpooledTemporaryFile", ResourceWarning)
    configure(of_contract, ROOT_URLCONF=__name__)
    urlpatterns[:] = [path("stats", show_stats)]
    urlpatterns.extend(path(f"case/{name}", run_async, {"name": name}) for name in ASYNC)
    urlpatterns.append(path("case/<name>", run))
    app = get_asgi_application()
    return app


def run(request: HttpRequest, name: str) -> HttpResponse:
    if name not in SYNC:
        return django_app.run(request, name)
    return answer(streamed_async(SYNC[name](Call(lambda: databases.default, request.GET.dict()))))


async def run_async(request: HttpRequest, name: str) -> HttpResponse:
    return answer(await ASYNC[name](Call(lambda: databases.default, request.GET.dict(), nested_async=nested)))


def streamed_async(reply: Reply) -> Reply:
    """Under ASGI, Django reads a synchronous body to its end before it sends the first byte."""
    if not isinstance(reply.body, str):
        reply.body = as_async(reply.body)
    return reply


async def nested(target: str, host: str = "inner") -> str:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=f"http://{host}") as client:
        return (await client.get(target)).text
