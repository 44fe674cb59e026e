"""What a route answers, and what that means for the request: its transaction, its connection, a 503."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Any

from bottle import HTTPError, HTTPResponse, response

from ..core.bodies import ScopedBody
from ..core.errors import NoConnection
from ..core.registry import Databases
from ..core.scope import Scope
from ..core.unavailable import STATUS, body_of, retry_after

_END = object()


def answer(run: Callable[[], Any], scope: Scope, databases: Databases, *, atomic: bool, keep: bool) -> Any:
    """What the route returns, its transaction ended by its status. A streamed body keeps *scope*, if it is to."""

    def connect_and_run() -> Any:
        if scope.databases is not None and atomic != scope.databases.atomic:
            scope.set_atomic(atomic)
        if not databases.lazy:
            scope.connect()
        return run()

    out = _attempt(connect_and_run, scope)
    body = stream_of(out)
    if body is None:
        scope.complete(databases.commit_when(_status(out)))
        return out
    stream = _Stream(ScopedBody(body, scope) if keep else body, scope, databases)
    if not isinstance(out, HTTPResponse):
        return stream
    out.body = stream
    return out


class _Stream:
    """A streamed body, whose first step still decides on the response: Bottle takes it before it sends the headers."""

    def __init__(self, body: Iterable[Any], scope: Scope, databases: Databases) -> None:
        self._body = body
        self._scope = scope
        self._databases = databases
        self._chunks: Iterator[Any] | None = None

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        if self._chunks is not None:
            return next(self._chunks)
        chunks = self._chunks = iter(self._body)
        first = _attempt(lambda: next(chunks, _END), self._scope)
        self._scope.complete(self._databases.commit_when(_status(first)))
        if first is _END:
            raise StopIteration
        return first

    def close(self) -> None:
        if hasattr(self._body, "close"):
            self._body.close()


def _attempt(step: Callable[[], Any], scope: Scope) -> Any:
    """What *step* returns, or the response that it raises. Another exception rolls the transaction back."""
    try:
        return step()
    except HTTPResponse as raised:
        return raised
    except BaseException as error:
        with suppress(Exception):  # the first error is the cause
            scope.complete(commit=False)
        if isinstance(error, NoConnection):
            return unavailable(error)
        raise


def unavailable(error: NoConnection) -> Any:
    """503 through Bottle's own error handling: an app's ``@app.error(503)`` styles it."""
    return HTTPError(STATUS, body_of(error), exception=error, Retry_After=str(retry_after(error)))


def stream_of(out: Any) -> Any:
    """The body of *out*, as a callback returns it, if Bottle is going to iterate over it; else ``None``."""
    if isinstance(out, HTTPError):  # its body is for the error page
        return None
    body = out.body if isinstance(out, HTTPResponse) else out
    complete = isinstance(body, (str, bytes, list, tuple, dict, HTTPResponse)) or hasattr(body, "read")
    return None if complete or not hasattr(body, "__iter__") else body


def _status(out: Any) -> int:
    status: int = out.status_code if isinstance(out, HTTPResponse) else response.status_code
    return status
