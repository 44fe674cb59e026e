"""Handlers whose code runs in a scope: that of the request, or of the websocket's message.

``prepare``, ``on_finish`` and ``on_connection_close`` are the app's to override, with or without ``super()``. So the
scope is kept around ``_execute``, which is all of a request's code in a task of its own, and where Tornado calls the
handler from outside that task, the instance has an attribute that comes before the app's method.
"""

from __future__ import annotations

from asyncio import Future
from collections.abc import Awaitable
from functools import partial
from types import TracebackType
from typing import Any, NoReturn

import tornado
from tornado.httputil import HTTPServerRequest
from tornado.iostream import IOStream
from tornado.log import gen_log
from tornado.web import Application, OutputTransform, RequestHandler
from tornado.websocket import WebSocketHandler

from ..core.errors import NoConnection
from ..core.scope import Scope
from ..core.unavailable import STATUS, body_of, retry_after
from .messages import Messages
from .settings import databases_of

if not hasattr(RequestHandler, "_execute"):  # there in 6.4 to 6.6; without it no request would have a scope
    raise ImportError(f"peewee_web.tornado does not know this Tornado yet ({tornado.version}): RequestHandler changed")


class PeeweeMixin(RequestHandler):
    """One healthy connection per request for any Tornado handler, before or after its other base classes.

    The database is that of the handler's application, ``Application(routes, peewee=db)``: a Peewee database, a URL, a
    mapping of names to either, or a `Databases` with options. `PoolTimeout` and `DatabaseUnavailable` answer 503 with
    ``Retry-After`` by way of ``write_error``. An atomic request commits before the first header is sent, so a failed
    commit is a failed response. A websocket has a scope for its handshake, and then one for each of its callbacks.
    """

    _peewee_scope: Scope | None = None
    _peewee_no_connection: NoConnection | None = None
    _peewee_untold: Exception | None = None  # why the commit failed, until `write_error` has been told

    def __init__(self, application: Application, request: HTTPServerRequest, **kwargs: Any) -> None:
        try:
            databases = databases_of(application)
        except Exception as error:
            # Raised from where Tornado answers it: an error in a constructor just closes the connection.
            self.prepare = partial(_raise, error)  # type: ignore[method-assign]
            super().__init__(application, request, **kwargs)
            return
        if databases.excludes(request.path):
            super().__init__(application, request, **kwargs)
            return
        # A websocket's handshake is a GET as well, which says nothing of what it is for.
        method = "" if isinstance(self, WebSocketHandler) else request.method or ""
        self._peewee_scope = scope = databases.scope_for(method, request.headers.get, lambda: request)
        self._peewee_databases = databases
        self.on_connection_close = partial(self._peewee_on_connection_close, scope)  # type: ignore[method-assign]
        self.data_received = partial(self._peewee_data_received, scope)  # type: ignore[method-assign]
        if not scope.lazy:
            self.prepare = partial(self._peewee_prepare, scope)  # type: ignore[method-assign]
        if isinstance(self, WebSocketHandler):
            Messages(self, databases)
        try:
            with scope.activate():
                super().__init__(application, request, **kwargs)
        except BaseException:
            scope.end()
            raise

    async def _execute(self, transforms: list[OutputTransform], *args: bytes, **kwargs: bytes) -> None:
        scope = self._peewee_scope
        if scope is None:
            await super()._execute(transforms, *args, **kwargs)
            return
        try:
            with scope.activate():
                await super()._execute(transforms, *args, **kwargs)
                error = self._peewee_untold
                if error is not None:  # raised while Tornado answered another exception (`Finish`): that ends there
                    self.send_error(500, exc_info=(type(error), error, error.__traceback__))
        finally:
            scope.end()
            del self.on_connection_close, self.data_received  # they refer to the handler itself

    # Called in place of the app's methods of these names.

    async def _peewee_prepare(self, scope: Scope) -> None:
        del self.prepare
        await scope.connect_async()
        pending = self.prepare()
        if pending is not None:
            await pending

    def _peewee_data_received(self, scope: Scope, chunk: bytes) -> Awaitable[None] | None:
        with scope.activate():
            pending = type(self).data_received(self, chunk)
        return None if pending is None else _await_in(scope, pending)

    def _peewee_on_connection_close(self, scope: Scope) -> None:
        try:
            with scope.activate():
                type(self).on_connection_close(self)
        finally:
            RequestHandler.on_connection_close(self)  # without it, a handler waits forever for the rest of an upload
            scope.release()

    # Where the response is on its way.

    def flush(self, include_footers: bool = False) -> Future[None]:
        if self._peewee_scope is not None:
            self._peewee_settle(self._peewee_scope)
            if not self._headers_written:
                for bookmark in self._peewee_databases.bookmarks_after(self._peewee_scope):
                    self.add_header(*bookmark.header())
            if include_footers:  # the body is complete: who waits for it to be sent needs no connection for that
                self._peewee_scope.release()
        return super().flush(include_footers)

    def finish(self, chunk: str | bytes | dict[str, Any] | None = None) -> Future[None]:
        sent = super().finish(chunk)
        if self._peewee_scope is not None:
            self._peewee_scope.release()  # on_finish() may have taken another
        return sent

    def detach(self) -> IOStream:
        if self._peewee_scope is not None:
            self._peewee_settle(self._peewee_scope)
            if isinstance(self, WebSocketHandler):
                self._peewee_scope.end()
        return super().detach()

    def _peewee_settle(self, scope: Scope) -> None:
        """End the transaction of an atomic request by its status. No answer but an error's goes out if that fails."""
        if self._peewee_untold is not None:
            raise self._peewee_untold  # Tornado swallows what `write_error` raises, and finishes after it
        if not scope.atomic:
            return
        try:
            scope.complete(self._peewee_databases.commit_when(self.get_status()))
        except Exception as error:
            self._peewee_untold = error
            scope.complete(commit=False)  # if it was commit_when that failed
            raise

    # Where there is no connection.

    def send_error(self, status_code: int = 500, **kwargs: Any) -> None:
        _, error, _ = kwargs.get("exc_info") or (None, None, None)
        if error is self._peewee_untold:
            self._peewee_untold = None
        if status_code == 500 and isinstance(error, NoConnection):
            status_code = STATUS
            self._peewee_no_connection = error
            if error.database is not None:  # Tornado's own page shows the reason, and nothing else of it
                kwargs.setdefault("reason", body_of(error))
        super().send_error(status_code, **kwargs)

    def clear(self) -> None:
        super().clear()
        if self._peewee_no_connection is not None:
            self.set_header("Retry-After", str(retry_after(self._peewee_no_connection)))

    def log_exception(
        self, typ: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None
    ) -> None:
        if isinstance(value, NoConnection):  # one line, as Tornado logs an HTTPError
            request = self.request
            gen_log.warning("%d %s %s (%s): %s", STATUS, request.method, request.uri, request.remote_ip, value)
        else:
            super().log_exception(typ, value, tb)


class PeeweeRequestHandler(PeeweeMixin):
    """A `tornado.web.RequestHandler` with `PeeweeMixin`."""


class PeeweeWebSocketHandler(PeeweeMixin, WebSocketHandler):
    """A `tornado.websocket.WebSocketHandler` with `PeeweeMixin`."""


def _raise(error: Exception) -> NoReturn:
    raise error


async def _await_in(scope: Scope, pending: Awaitable[None]) -> None:
    with scope.activate():
        await pending
