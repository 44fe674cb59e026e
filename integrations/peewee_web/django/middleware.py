"""The Django middleware: a scope per request, one transaction if asked for, 503 where there is no connection.

Django turns an exception into a response at every layer of its middleware, so ours gets responses only: it learns
from ``process_exception`` and from a signal which of them stand for a missing connection.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Callable
from typing import Any

from asgiref.sync import iscoroutinefunction, markcoroutinefunction, sync_to_async
from django.core.exceptions import ImproperlyConfigured
from django.core.handlers.exception import convert_exception_to_response  # not documented; the same in 4.2 to 5.2
from django.core.signals import got_request_exception
from django.http import HttpRequest, HttpResponse

from ..core.errors import NoConnection
from ..core.scope import Scope
from .databases import databases
from .order import positions
from .streams import hand_over
from .unavailable import unavailable

logger = logging.getLogger("peewee_web")

_SCOPE = "_peewee_scope"  # attributes of a request
_LOST = "_peewee_lost"


class PeeweeMiddleware:
    """One healthy connection per request, under WSGI and ASGI. First in ``settings.MIDDLEWARE``.

    Configured by ``settings.PEEWEE``. An atomic request commits when all other middleware is done and before the
    response starts, so a failed commit is a failed response.
    """

    sync_capable = True
    async_capable = True

    def __init__(self, get_response: Callable[[HttpRequest], Any]) -> None:
        databases.current  # noqa: B018  # what is wrong with the setting is told when the server starts
        if len(positions()) > 1:
            raise ImproperlyConfigured("PeeweeMiddleware is in MIDDLEWARE more than once: leave the first one")
        got_request_exception.connect(_remember, dispatch_uid="peewee_web.django")
        self.get_response = get_response
        self._is_async = iscoroutinefunction(get_response)
        if self._is_async:
            markcoroutinefunction(self)
        # Around everything that may fail, so that handler500 runs in the scope as well.
        self._respond = convert_exception_to_response(self._run_async if self._is_async else self._run)
        self.process_view = self._process_view_async if self._is_async else self._process_view

    def __call__(self, request: HttpRequest) -> Any:
        current = databases.current
        if current.excludes(request.path_info):
            return self.get_response(request)
        scope = current.scope_for(request.method or "", request.headers.get, lambda: request)
        setattr(request, _SCOPE, scope)
        return self._serve_async(request, scope) if self._is_async else self._serve(request, scope)

    def _serve(self, request: HttpRequest, scope: Scope) -> HttpResponse:
        try:
            with scope.activate():
                response = self._respond(request)
        except BaseException:
            scope.end()
            raise
        return hand_over(response, scope)

    async def _serve_async(self, request: HttpRequest, scope: Scope) -> HttpResponse:
        try:
            with scope.activate():
                response = await self._respond(request)
        except asyncio.CancelledError:
            # The client went away. A synchronous view goes on in the request's thread; this waits its turn there.
            try:
                await sync_to_async(scope.end, thread_sensitive=True)()
            finally:
                scope.end()
            raise
        except BaseException:
            scope.end()
            raise
        return hand_over(response, scope)

    def _run(self, request: HttpRequest) -> HttpResponse:
        try:
            response = self.get_response(request)
        except NoConnection as error:  # of handler500 itself
            response = unavailable(request, error)
        return _settle(request, response)

    async def _run_async(self, request: HttpRequest) -> HttpResponse:
        try:
            response = await self.get_response(request)
        except NoConnection as error:
            response = await sync_to_async(unavailable, thread_sensitive=True)(request, error)
        scope: Scope = getattr(request, _SCOPE)
        assert scope.databases is not None
        if scope.atomic or not scope.databases.is_plain or _LOST in vars(request):
            return await sync_to_async(_settle, thread_sensitive=True)(request, response)
        return response

    def _process_view(self, request: HttpRequest, *view: Any) -> HttpResponse | None:
        scope: Scope | None = getattr(request, _SCOPE, None)
        try:
            if scope is not None and _wants_connection(request, scope):
                scope.connect()
        except NoConnection as error:
            return unavailable(request, error)
        return None

    async def _process_view_async(self, request: HttpRequest, *view: Any) -> HttpResponse | None:
        scope: Scope | None = getattr(request, _SCOPE, None)
        try:
            if scope is not None and _wants_connection(request, scope):
                await scope.connect_async()
        except NoConnection as error:
            return await sync_to_async(unavailable, thread_sensitive=True)(request, error)
        return None

    def process_exception(self, request: HttpRequest, exception: Exception) -> HttpResponse | None:
        """Of views and templates only. Ours is the last that Django asks, so an app's own may answer before."""
        return unavailable(request, exception) if isinstance(exception, NoConnection) else None


def _wants_connection(request: HttpRequest, scope: Scope) -> bool:
    """Whether to connect before the view. Only now the name of its route is known, and whether there is one."""
    assert scope.databases is not None
    if scope.databases.excludes(request.resolver_match.view_name):
        scope.set_atomic(False)
        return False
    return not scope.lazy


def _remember(sender: Any, request: Any = None, **_: Any) -> None:
    """Called before Django makes a 500 of an exception, wherever in the middleware that is."""
    error = sys.exc_info()[1]
    if isinstance(error, NoConnection) and hasattr(request, _SCOPE):
        setattr(request, _LOST, error)


def _settle(request: HttpRequest, response: HttpResponse) -> HttpResponse:
    """The response to send, the transaction ended by its status. Raises what the commit raises."""
    lost: NoConnection | None = vars(request).pop(_LOST, None)
    if lost is not None and response.status_code == 500:
        response = unavailable(request, lost)
    scope: Scope = getattr(request, _SCOPE)
    assert scope.databases is not None
    if scope.atomic:
        commit = scope.databases.commit_when(response.status_code)
        try:
            scope.complete(commit)
        except Exception:
            if commit:
                raise
            logger.warning("the rollback of a failed request failed as well", exc_info=True)
    for name, value, max_age in scope.databases.bookmarks_after(scope):
        if max_age is None:
            response[name] = value
        else:
            response.set_cookie(name, value, max_age=max_age, httponly=True, samesite="Lax")
    return response
