"""Falcon's kinds of streamed bodies, each of which keeps its scope until Falcon or the server closes it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from ..core.bodies import ScopedAsyncBody, ScopedBody
from .held import RequestScope

if TYPE_CHECKING:
    import falcon.asgi

# For these and for HEAD Falcon drops the body, without closing it (4.4).
_BODILESS = (100, 101, 204, 304)

_closing: set[asyncio.Task[None]] = set()  # the event loop itself keeps weak references only


def keep_for_body(scope: RequestScope, req: falcon.Request, resp: falcon.Response) -> bool:
    """Let a streamed body run in *scope*, which it ends. False if the body is complete, or none will be sent."""
    body: Any = resp.stream
    if body is None or isinstance(body, (list, tuple)) or not _sends_stream(req, resp):
        return False
    resp.stream = ScopedFile(body, scope) if hasattr(body, "read") else ScopedBody(body, scope)
    return True


def keep_for_async_body(scope: RequestScope, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> bool:
    """The same under ASGI. What can't be a body there is left for Falcon to refuse."""
    if resp.sse and req.method != "HEAD" and resp.status_code not in _BODILESS:  # sent whatever else is set
        emitter: Any = resp.sse
        if not hasattr(emitter, "__aiter__"):
            return False
        resp.sse = EventStream(emitter, scope)
        return True
    body: Any = resp.stream
    if not body or not _sends_stream(req, resp):
        return False
    kept: Any
    if hasattr(body, "read"):
        kept = AsyncFile(body, scope, Client(req))
    elif hasattr(body, "__aiter__"):
        kept = AsyncStream(body, scope, Client(req))
    else:
        return False
    resp.stream = kept
    return True


def _sends_stream(req: falcon.Request, resp: falcon.Response) -> bool:
    complete = resp.text is not None or resp.data is not None or resp.media is not None
    return not complete and req.method != "HEAD" and resp.status_code not in _BODILESS


class ScopedFile:
    """A file-like body. It gives its connection back before it is sent; if reading it queries, it takes another.

    Everything but ``read`` and ``close`` is the file's own, so that servers find what they need for ``sendfile()``.
    """

    def __init__(self, file: Any, scope: RequestScope) -> None:
        self._file = file
        self._scope = scope
        scope.release()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def read(self, size: int = -1) -> Any:
        with self._scope.activate():
            return self._file.read(size)

    def close(self) -> None:
        try:
            close = getattr(self._file, "close", None)
            if close is not None:
                with self._scope.activate():
                    close()
        finally:
            self._scope.end()


class Client:
    """Whether the client of *request* is still there.

    Servers drop what is sent to a client that went away, so an endless body would never end by itself.
    """

    def __init__(self, request: falcon.asgi.Request) -> None:
        self._request = request
        self._watch: asyncio.Task[None] | None = None
        self._left = False

    async def has_left(self) -> bool:
        if self._watch is None:
            if not _is_received(self._request) or _is_test_client(self._request):
                return False
            self._watch = asyncio.create_task(self._wait())
        if not self._left:
            await asyncio.sleep(0)  # neither the app nor the server need ever wait; the watch must have its turn
        return self._left

    async def _wait(self) -> None:
        with suppress(Exception):  # a server that can't tell
            # There is no public way to the `receive` of an ASGI request (Falcon 4.0 to 4.4 call it `_receive`).
            while (await self._request._receive())["type"] != "http.disconnect":
                pass
            self._left = True

    def forget(self) -> None:
        if self._watch is not None:
            self._watch.cancel()


def _is_received(request: falcon.asgi.Request) -> bool:
    """Nothing is left of the request's body that a watch could take away from the app."""
    stream, length = request.stream, request.content_length
    return stream.eof or (length is not None and stream.tell() >= length)


def _is_test_client(request: falcon.asgi.Request) -> bool:
    """Falcon's own hangs up as soon as it has asked (falcon.testing 4.4), and still wants to see all of the body."""
    receive = request._receive
    return type(getattr(receive, "__self__", receive)).__module__.startswith("falcon.testing")


class AsyncBody:
    """What Falcon closes with ``close()``, when it has sent it, when it failed, and when the request is cancelled."""

    def __init__(self, body: Any, scope: RequestScope, client: Client) -> None:
        self._body = body
        self._scope = scope
        self._client = client

    async def close(self) -> None:
        self._client.forget()
        try:
            # Falcon knows the first name, and so leaves generators to the garbage collector (4.4).
            close = getattr(self._body, "close", None) or getattr(self._body, "aclose", None)
            if close is not None:
                with self._scope.activate():
                    await close()
        finally:
            self._scope.end()


class AsyncFile(AsyncBody):
    """A file-like body under ASGI, which gives its connection back before it is sent as well."""

    def __init__(self, file: Any, scope: RequestScope, client: Client) -> None:
        super().__init__(file, scope, client)
        scope.release()

    async def read(self, size: int = -1) -> Any:
        if await self._client.has_left():
            return b""
        with self._scope.activate():
            return await self._body.read(size)


class AsyncStream(AsyncBody):
    """An asynchronous iterable, which ends when its client has left."""

    _iterator: AsyncIterator[bytes] | None = None

    def __aiter__(self) -> AsyncStream:
        return self

    async def __anext__(self) -> bytes:
        if await self._client.has_left():
            raise StopAsyncIteration
        with self._scope.activate():
            if self._iterator is None:
                self._iterator = self._body.__aiter__()
            return await self._iterator.__anext__()


class EventStream(ScopedAsyncBody[Any]):
    """Server-sent events. They may come for hours, so the connection is given back between them if it is quiet.

    Falcon watches the client itself, and drops the emitter without closing it (4.4): the end of the task closes it.
    """

    def __init__(self, emitter: AsyncIterable[Any], scope: RequestScope) -> None:
        super().__init__(emitter, scope)
        scope.end_with_task(self._close_soon)

    async def __anext__(self) -> Any:
        event = await super().__anext__()
        self._scope.release()
        return event

    def _close_soon(self, request_task: asyncio.Task[Any]) -> None:
        task = request_task.get_loop().create_task(self._close())
        _closing.add(task)
        task.add_done_callback(_closing.discard)

    async def _close(self) -> None:
        with suppress(Exception):  # the response is over; nobody is left to tell
            await self.aclose()
