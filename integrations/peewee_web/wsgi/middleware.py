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
from ..core.unavailable import BODY, REASON, STATUS, plain_headers

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

    ExcInfo = tuple[type[BaseException], BaseException, TracebackType] | tuple[None, None, None]


# Set in environ by an adapter that knows the body to be complete although the framework wraps it in an iterator.
COMPLETE = "peewee_web.complete"


class ScopeMiddleware:
    """Runs *app* in a scope of *databases*, which ends when the response does. Thread-safe."""

    def __init__(self, app: WSGIApplication, databases: Databases) -> None:
        self.app = app
        self.databases = databases

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if self.databases.exclude and self.databases.excludes(path_of(environ)):
            with Activation(None):  # nor is a scope that this request may be made in its own
                return self.app(environ, start_response)
        scope = self.databases.scope()
        try:
            with scope.activate():
                body = self.respond(scope, environ, start_response)
        except BaseException:
            scope.end()
            raise
        return _scoped(body, scope, environ)

    def respond(self, scope: Scope, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        return self.app(environ, start_response)


def path_of(environ: WSGIEnvironment) -> str:
    """The request's path, which PEP 3333 hands over as bytes disguised as Latin-1."""
    path: str = environ.get("PATH_INFO", "")
    return path.encode("latin-1").decode("utf-8", "replace")


def _scoped(body: Iterable[bytes], scope: Scope, environ: WSGIEnvironment) -> Iterable[bytes]:
    """A complete body ends the scope before it is sent; a streamed one keeps it."""
    if isinstance(body, (list, tuple)):
        scope.end()
        return body
    file_wrapper = environ.get("wsgi.file_wrapper")
    if isinstance(file_wrapper, type) and isinstance(body, file_wrapper):
        scope.end()  # a file; wrapped once more, the server would not know it and could not use sendfile()
        return body
    if environ.get(COMPLETE):
        scope.release(force=True)
    return ScopedBody(body, scope)


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
        try:
            if not scope.lazy:
                scope.connect()
            body = self.app(environ, response.start)
            if response.started and isinstance(body, (list, tuple)):
                response.settle()
                return body
            return _Body(body, response)
        except NoConnection as error:
            return _unavailable(error, start_response)


class _Response:
    """Stands between the app's ``start_response`` and the server's, which waits for an atomic scope's commit."""

    def __init__(self, scope: Scope, commit_when: Callable[[int], bool], start_response: StartResponse) -> None:
        self.start_response = start_response
        self._status = ""
        self._scope = scope
        self._commit_when = commit_when
        self._held: tuple[Any, ...] | None = None

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
        write = self.settle()
        return None if write is None else write(data)

    def settle(self) -> Callable[[bytes], object] | None:
        """Commit or roll back by the status, then let the headers go."""
        if self._held is None:
            return None
        self._scope.complete(self._commit_when(int(self._status[:3])))
        arguments, self._held = self._held, None
        return self.start_response(*arguments)


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
        try:
            yield from self._chunks
        except NoConnection as error:
            # With exc_info the server raises the error instead if headers are out, else it sends these (PEP 3333).
            yield from _unavailable(error, self._start_response, sys.exc_info())

    def close(self) -> None:
        close = getattr(self._body, "close", None)
        if close is not None:
            close()


def _unavailable(error: NoConnection, start_response: StartResponse, exc_info: Any = None) -> list[bytes]:
    arguments = (f"{STATUS} {REASON}", plain_headers(error))
    start_response(*arguments, exc_info) if exc_info else start_response(*arguments)
    return [BODY.encode("ascii")]
