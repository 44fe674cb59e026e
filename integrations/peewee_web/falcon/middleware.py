"""The Falcon middleware, one class for WSGI and ASGI.

Hooks of Falcon's own do all: where the scope begins, when an early connection is taken, when the transaction ends,
what becomes of the body. ``held.py`` sees to it that the scope ends also when Falcon calls no further hook.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import falcon

from ..core.errors import NoConnection
from ..core.registry import Databases
from ..core.scope import Scope
from .bodies import keep_for_async_body, keep_for_body
from .held import RequestScope, end_left_over, has_scope, scope_of, take_back_orphans
from .unavailable import Unavailable

if TYPE_CHECKING:
    import falcon.asgi


class PeeweeMiddleware:
    """One healthy connection per request for Falcon apps: ``falcon.App(middleware=[PeeweeMiddleware(db)])``.

    The same class serves `falcon.asgi.App`. *db* is a Peewee database, a URL, a mapping of names to either, or a
    `Databases`; *options* are those of `Databases`, whose ``exclude`` takes paths and URI templates. Name it first:
    what stands before it runs outside the request's scope. `install` does that, and makes "no connection" a 503.
    With ``lazy=False`` the connection is taken once a route was found. One object may serve several apps.
    """

    def __init__(self, db: Any, **options: Any) -> None:
        self.databases = Databases.of(db, **options)

    def _begin(self, req: falcon.Request, method: str, **options: bool) -> RequestScope | None:
        end_left_over()
        take_back_orphans(self.databases)
        if self.databases.excludes(req.path):
            return None
        if has_scope(req):
            raise RuntimeError("two PeeweeMiddleware serve this Falcon app: give a mapping of databases to one")
        scope = self.databases.scope_for(method, req.get_header, lambda: req, RequestScope, **options)
        scope.enter(req)
        return scope

    def _with_route(self, req: falcon.Request) -> RequestScope | None:
        """The scope of *req* now that its route is known, which may be excluded."""
        scope = scope_of(req)
        if scope is not None and self.databases.excludes(req.uri_template):
            scope.set_atomic(False)
            scope.leave()
            scope.end()
            return None
        return scope

    def _settle(self, scope: Scope, resp: falcon.Response) -> None:
        """End the transaction of an atomic request by its status. Raises what the commit raises."""
        if scope.atomic:
            scope.complete(self.databases.commit_when(resp.status_code))
        for name, value, max_age in self.databases.bookmarks_after(scope):
            if max_age is None:
                resp.set_header(name, value)
            else:
                resp.set_cookie(name, value, max_age=max_age, path="/", secure=False, same_site="Lax")

    # WSGI

    def process_request(self, req: falcon.Request, resp: falcon.Response) -> None:
        scope = self._begin(req, req.method)
        if scope is not None:
            scope.end_with_call(sys._getframe(1))

    def process_resource(self, req: falcon.Request, resp: falcon.Response, resource: object, params: Any) -> None:
        scope = self._with_route(req)
        if scope is not None and not scope.lazy:
            try:
                scope.connect()
            except NoConnection as error:
                raise Unavailable(error) from error

    def process_response(
        self, req: falcon.Request, resp: falcon.Response, resource: object, req_succeeded: bool
    ) -> None:
        scope = scope_of(req)
        if scope is None:
            return
        streams = False
        try:
            if resp.media is not None:
                resp.render_body()  # Falcon would do it after this hook; what is queried for it is the request's
            self._settle(scope, resp)
            streams = keep_for_body(scope, req, resp)
        except BaseException:
            resp.stream = None  # or it would be sent with the status of the error
            raise
        finally:
            scope.leave()
            if not streams:
                scope.end()

    # ASGI

    async def process_request_async(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        scope = self._begin(req, req.method)
        if scope is not None:
            scope.end_with_task()

    async def process_resource_async(
        self, req: falcon.asgi.Request, resp: falcon.asgi.Response, resource: object, params: Any
    ) -> None:
        await self._prepare_async(req)

    async def _prepare_async(self, req: falcon.asgi.Request) -> None:
        scope = self._with_route(req)
        if scope is not None and not scope.lazy:
            try:
                await scope.connect_async()
            except NoConnection as error:
                raise Unavailable(error) from error

    async def process_response_async(
        self, req: falcon.asgi.Request, resp: falcon.asgi.Response, resource: object, req_succeeded: bool
    ) -> None:
        scope = scope_of(req)
        if scope is None:
            return
        streams = False
        try:
            if resp.media is not None:
                await resp.render_body()
            self._settle(scope, resp)
            _keep_in_scope(scope, resp)
            streams = keep_for_async_body(scope, req, resp)
        except BaseException:
            resp.stream = resp.sse = None
            raise
        finally:
            scope.leave()
            if not streams:
                scope.end()

    # WebSockets live long: between messages they keep no connection.

    async def process_request_ws(self, req: falcon.asgi.Request, ws: falcon.asgi.WebSocket) -> None:
        scope = self._begin(req, "", atomic=False)
        if scope is not None:
            scope.end_with_task()
            # No public way leads between a responder and its messages (Falcon 4.0 to 4.4 have these two names).
            ws._asgi_receive = _releasing(scope, ws._asgi_receive)
            ws._asgi_send = _releasing(scope, ws._asgi_send)

    async def process_resource_ws(
        self, req: falcon.asgi.Request, ws: falcon.asgi.WebSocket, resource: object, params: Any
    ) -> None:
        await self._prepare_async(req)


def _releasing(scope: Scope, exchange: Callable[..., Any]) -> Callable[..., Any]:
    async def exchange_quietly(*message: Any) -> Any:
        scope.release()
        return await exchange(*message)

    return exchange_quietly


def _keep_in_scope(scope: Scope, resp: falcon.asgi.Response) -> None:
    """What was given to ``resp.schedule()`` runs after the request, and is told so when it queries (`ScopeClosed`)."""

    def bind(callback: Callable[[], Any], is_async: bool) -> Callable[[], Any]:
        def run() -> None:
            with scope.activate():
                callback()

        async def run_async() -> None:
            with scope.activate():
                await callback()

        return run_async if is_async else run

    callbacks: Any = resp._registered_callbacks  # no public way leads there (Falcon 4.0 to 4.4)
    if callbacks:
        resp._registered_callbacks = [(bind(callback, is_async), is_async) for callback, is_async in callbacks]
