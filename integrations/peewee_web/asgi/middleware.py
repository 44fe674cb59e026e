"""A scope around each ASGI request, websocket and lifespan, until its last message is sent.

A websocket (and a long poll, an event stream) lives long and queries now and then: whenever its code waits for the
client, its connection is given back if nothing is under way on it, and the next query takes another.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from typing import Any

from ..core.errors import NoConnection
from ..core.registry import Databases
from ..core.scope import Activation, Scope
from ..core.unavailable import BODY, STATUS, plain_headers

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

DISCONNECT = ("http.disconnect", "websocket.disconnect")


class ClientDisconnected(OSError):
    """The client went away while a response was streamed to it (ASGI 2.4 asks for an ``OSError`` from ``send``)."""


class PeeweeMiddleware:
    """One healthy connection per request for any ASGI app: ``app = PeeweeMiddleware(app, db)``.

    *db* is a Peewee database, a URL, a mapping of names to either, or a `Databases`; *options* are those of
    `Databases`. With ``lazy=False`` the connection is awaited before the app is called. `PoolTimeout` and
    `DatabaseUnavailable` that leave the app before its response starts answer 503 with ``Retry-After``. An atomic
    request commits before the response starts, so a failed commit is a failed response.
    """

    def __init__(self, app: ASGIApp, db: Any, **options: Any) -> None:
        if isinstance(app, PeeweeMiddleware):
            raise TypeError("this app is wrapped in PeeweeMiddleware already: pass a mapping of databases to the one")
        self.app = app
        self.databases = Databases.of(db, **options)

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        kind = scope["type"]
        if self.databases.exclude and self.databases.excludes(scope.get("path")):
            with Activation(None):  # nor is a scope that this request may be made in its own
                await self.app(scope, receive, send)
        elif kind == "http":
            await self._http(scope, receive, send)
        else:
            await self._conversation(scope, receive, send, lazy=kind == "lifespan" or self.databases.lazy)

    async def _http(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        work = self.databases.scope()
        exchange = _Exchange(work, self.databases.commit_when, receive, send)
        try:
            with work.activate():
                if not work.lazy:
                    await work.connect_async()
                await self.app(scope, exchange.receive, exchange.send)
        except ClientDisconnected:
            pass  # raised by exchange.send, to stop a body that nobody receives
        except NoConnection as error:
            if exchange.started:
                raise
            await _unavailable(error, send)
        finally:
            work.end()
            exchange.close()

    async def _conversation(self, scope: MutableMapping[str, Any], receive: Receive, send: Send, *, lazy: bool) -> None:
        async def receive_between() -> Message:
            work.release()
            return await receive()

        work = self.databases.scope(lazy=lazy, atomic=False)
        async with work:
            await self.app(scope, receive_between, send)


class _Exchange:
    """One HTTP request and its response: commits when the outcome is known, and notices a client that went away."""

    def __init__(self, work: Scope, commit_when: Callable[[int], bool], receive: Receive, send: Send) -> None:
        self.started = False
        self._work = work
        self._commit_when = commit_when
        self._receive = receive
        self._send = send
        self._receiving = 0
        self._watch: asyncio.Task[None] | None = None
        self._disconnected = False
        self._unread: asyncio.Queue[Message] | None = None

    async def send(self, message: Message) -> None:
        if self._disconnected:
            raise ClientDisconnected("the client went away")
        if message["type"] == "http.response.start":
            if self._work.atomic:
                self._work.complete(self._commit_when(message["status"]))
            self.started = True
        elif message["type"] == "http.response.body":
            if not message.get("more_body", False):
                self._work.release()  # a slow client need not hold it; a task after the response may take another
            elif self._watch is None and not self._receiving:
                self._unread = asyncio.Queue()
                self._watch = asyncio.create_task(self._watch_client(self._unread))
        await self._send(message)
        if self._watch is not None:
            await asyncio.sleep(0)  # neither the app nor the server need ever wait; the watch must have its turn

    async def receive(self) -> Message:
        if self._unread is not None:
            message = await self._unread.get()
            if message["type"] in DISCONNECT:
                self._unread.put_nowait(message)  # there is no end of it: whoever asks again is told again
            return message
        self._receiving += 1
        try:
            return await self._receive()
        finally:
            self._receiving -= 1

    async def _watch_client(self, unread: asyncio.Queue[Message]) -> None:
        """Servers drop what is sent to a client that went away, so an endless body would never end by itself."""
        while not self._disconnected:
            message = await self._receive()
            self._disconnected = message["type"] in DISCONNECT
            unread.put_nowait(message)

    def close(self) -> None:
        if self._watch is not None:
            self._watch.cancel()


async def _unavailable(error: NoConnection, send: Send) -> None:
    headers = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in plain_headers(error)]
    with suppress(OSError):  # the client may be gone
        await send({"type": "http.response.start", "status": STATUS, "headers": headers})
        await send({"type": "http.response.body", "body": BODY.encode("ascii")})
