"""A scope around each WSGI request, until the last byte of its body.

``ScopeMiddleware`` begins and ends the scope and nothing else; the adapters of WSGI frameworks stand on it and do the
rest in their framework's own hooks. ``PeeweeMiddleware`` does the rest for any WSGI app.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, islice
from types import TracebackType
from typing import TYPE_CHECKING, Any

from ..core.bodies import ScopedBody
from ..core.errors import NoConnection
from ..core.registry import Databases
from ..core.scope import Activation, Scope
from ..core.unavailable import REASON, STATUS, body_of, plain_headers

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

    ExcInfo = tuple[type[BaseException], BaseException, TracebackType] | tuple[None, None, None]


# Set in environ by an adapter that knows the body to be complete although the framework wraps it in an iterator.
COMPLETE = "peewee_web.complete"


class ScopeMiddleware:
    """Runs *app* in a scope of *databases*, which ends when the response does. Thread-safe.

    *request_of* makes of the environ what the databases' ``choose`` is given.
    """

    def __init__(
        self,
        app: WSGIApplication,
        databases: Databases,
        request_of: Callable[[WSGIEnvironment], Any] = lambda environ: environ,
    ) -> None:
        self.app = app
        self.databases = databases
        self._request_of = request_of

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if self.databases.exclude and self.databases.excludes(path_of(environ)):
            with Activation(None):  # nor is a scope that this request may be made in its own
                return self.app(environ, start_response)
        scope = self.databases.scope_for(
            environ.get("REQUEST_METHOD", ""), _headers_of(environ), lambda: self._request_of(environ)
        )
        if not self.databases.is_plain:
            start_response = _telling(start_response, scope)
        try:
            with scope.activate():
                body = self.respond(scope, environ, start_response)
        except BaseException:
            scope.end()
            raise
        return _scoped(body, scope, environ)

    def respond(self, scope: Scope, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        return self.app(environ, start_response)


def _headers_of(environ: WSGIEnvironment) -> Callable[[str], str | None]:
    return lambda name: environ.get(f"HTTP_{name.upper().replace('-', '_')}")


def _telling(start_response: StartResponse, scope: Scope) -> StartResponse:
    """Have the response say where the next request finds what this one has written."""

    def start(status: str, headers: list[tuple[str, str]], exc_info: ExcInfo | None = None, /) -> Any:
        assert scope.databases is not None
        told = [*headers, *(bookmark.header() for bookmark in scope.databases.bookmarks_after(scope))]
        return start_response(status, told) if exc_info is None else start_response(status, told, exc_info)

    return start


def path_of(environ: WSGIEnvironment) -> str:
    """The request's path, which PEP 3333 hands over as bytes disguised as Latin-1."""
    path: str = environ.get("PATH_INFO", "")
    return path.encode("latin-1").decode("utf-8", "replace")


def _scoped(body: Iterable[bytes], scope: Scope, environ: WSGIEnvironment) -> Iterable[bytes]:
    """A complete body ends the scope before it is sent; a streamed one keeps it."""
    if _needs_no_scope(body, environ):
        scope.end()
        return body
    if environ.get(COMPLETE):
        scope.release(force=True)
    return ScopedBody(body, scope)


def _needs_no_scope(body: Iterable[bytes], environ: WSGIEnvironment) -> bool:
    """Whether *body* is complete, or a file. Wrapped, the server would not know a file and could not use sendfile()."""
    file_wrapper = environ.get("wsgi.file_wrapper")
    return isinstance(body, (list, tuple)) or (isinstance(file_wrapper, type) and isinstance(body, file_wrapper))


class PeeweeMiddleware(ScopeMiddleware):
    """One healthy connection per request for any WSGI app: ``app = PeeweeMiddleware(app, db)``.

    *db* is a Peewee database, a URL, a mapping of names to either, or a `Databases`; *options* are those of
    `Databases`. `PoolTimeout` and `DatabaseUnavailable` answer 503 with ``Retry-After``. An atomic request commits
    before the first header is sent, so a failed commit is a failed response; what a streamed body writes later is no
    part of that transaction. Thread-safe.
    """

    def __init__(self, app: WSGIApplication, db: Any, **options: Any) -> None:
        if isinstance(app, PeeweeMiddleware):
            raise TypeError("this app is wrapped in PeeweeMiddleware already: pass a mapping of databases to the one")
        super().__init__(app, Databases.of(db, **options))

    def respond(self, scope: Scope, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        response = _Response(scope, self.databases.commit_when, start_response)
        body: Iterable[bytes] = ()
        try:
            if not scope.lazy:
                scope.connect()
            body = self.app(environ, response.start)
            if response.started and _needs_no_scope(body, environ):
                response.settle()
                return body
            return _Body(body, response)
        except BaseException as error:
            _close(body)
            if isinstance(error, NoConnection):
                return _unavailable(error, start_response)
            raise


class _Response:
    """Stands between the app's ``start_response`` and the server's, which waits for an atomic scope's commit."""

    def __init__(self, scope: Scope, commit_when: Callable[[int], bool], start_response: StartResponse) -> None:
        self.start_response = start_response
        self._status = ""
        self._scope = scope
        self._commit_when = commit_when
        self._held: tuple[Any, ...] | None = None
        self._write_to_server: Callable[[bytes], object] | None = None

    @property
    def started(self) -> bool:
        return bool(self._status)

    def start(self, status: str, headers: list[tuple[str, str]], exc_info: ExcInfo | None = None, /) -> Any:
        self._status = status
        arguments = (status, headers) if exc_info is None else (status, headers, exc_info)
        if not self._scope.atomic:
            return self.start_response(*arguments)
        self._held = arguments
        return self._write

    def _write(self, data: bytes) -> object:
        """PEP 3333's ``write()``, for apps that send before they return."""
        self.settle()
        assert self._write_to_server is not None
        return self._write_to_server(data)

    def settle(self) -> None:
        """Commit or roll back by the status, then let the headers go."""
        if self._held is not None:
            self._scope.complete(self._commit_when(int(self._status[:3])))
            arguments, self._held = self._held, None
            self._write_to_server = self.start_response(*arguments)


class _Body:
    """The body of a response that may still turn out to find no connection, or not to have begun."""

    def __init__(self, body: Iterable[bytes], response: _Response) -> None:
        self._body = body
        self._start_response = response.start_response
        self._chunks = iter(body)
        if not response.started:
            # A generator calls start_response with its first step, and only then is the outcome known.
            self._chunks = chain(list(islice(self._chunks, 1)), self._chunks)
        response.settle()

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        try:
            return next(self._chunks)
        except NoConnection as error:
            self._chunks = iter(_unavailable(error, self._start_response))
            return next(self._chunks)

    def close(self) -> None:
        _close(self._body)


def _close(body: Iterable[bytes]) -> None:
    close = getattr(body, "close", None)
    if close is not None:
        close()


def _unavailable(error: NoConnection, start_response: StartResponse) -> list[bytes]:
    # With exc_info the server raises the error instead if headers are out, else it sends these (PEP 3333).
    start_response(f"{STATUS} {REASON}", plain_headers(error), sys.exc_info())
    return [body_of(error).encode("ascii")]
