"""One HTTP request and its response, as the middleware stands between the app and the server."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from ..core.scope import Scope

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

DISCONNECT = "http.disconnect"


class ClientDisconnected(OSError):
    """The client went away while a response was streamed to it (ASGI 2.4 asks for an ``OSError`` from ``send``)."""


class Exchange:
    """Commits when the outcome is known, and notices a client that went away."""

    def __init__(self, work: Scope, commit_when: Callable[[int], bool], receive: Receive, send: Send) -> None:
        self.started = False
        self._work = work
        self._commit_when = commit_when
        self._receive = receive
        self._send = send
        self._receiving = 0
        self._watch: asyncio.Task[None] | None = None
        self._disconnected = False
        self._unread: asyncio.Queue[Message | Exception] | None = None

    async def send(self, message: Message) -> None:
        if self._disconnected:
            raise ClientDisconnected("the client went away")
        if message["type"] == "http.response.start":
            if self._work.atomic:
                self._work.complete(self._commit_when(message["status"]))
            self._tell(message)
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

    def _tell(self, message: Message) -> None:
        """Have the response say where the next request finds what this one has written."""
        databases = self._work.databases
        assert databases is not None
        for bookmark in databases.bookmarks_after(self._work):
            name, value = bookmark.header()
            message["headers"] = [*message.get("headers", ()), (name.lower().encode(), value.encode())]

    async def receive(self) -> Message:
        if self._unread is not None:
            message = await self._unread.get()
            self._unread.task_done()
            if isinstance(message, Exception) or message["type"] == DISCONNECT:
                self._unread.put_nowait(message)  # there is no end of it: whoever asks again is told again
            if isinstance(message, Exception):
                raise message
            return message
        self._receiving += 1
        try:
            return await self._receive()
        finally:
            self._receiving -= 1

    async def _watch_client(self, unread: asyncio.Queue[Message | Exception]) -> None:
        """Servers drop what is sent to a client that went away, so an endless body would never end by itself."""
        while not self._disconnected:
            try:
                message = await self._receive()
            except Exception as error:
                self._disconnected = True
                unread.put_nowait(error)
                return
            self._disconnected = message["type"] == DISCONNECT
            unread.put_nowait(message)
            if message.get("more_body", False):
                await unread.join()  # at the app's pace: an upload must not pile up here

    def close(self) -> None:
        if self._watch is not None:
            self._watch.cancel()


def is_hang_up(error: BaseException) -> bool:
    """Whether *error* is our `ClientDisconnected`, or the one that Starlette (0.38 and later) raises in its place."""
    if isinstance(error, ClientDisconnected):
        return True
    return type(error).__name__ == "ClientDisconnect" and isinstance(error.__context__, ClientDisconnected)
