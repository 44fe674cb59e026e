"""A scope around each ASGI request, websocket and lifespan, until its last message is sent.

A websocket lives long and queries now and then: whenever its code turns to the client, its connection is given back if
nothing is under way on it, and the next query takes another.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from typing import Any

from ..core.errors import NoConnection
from ..core.registry import Databases
from ..core.scope import Activation
from ..core.unavailable import STATUS, body_of, plain_headers
from .exchange import Exchange, Message, Receive, Send, is_hang_up

ASGIApp = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

# The WebSocket close code for "try again later" (IANA's registry, WebSocket Close Code Number).
TRY_AGAIN_LATER = 1013

logger = logging.getLogger("peewee_web")


class PeeweeMiddleware:
    """One healthy connection per request for any ASGI app: ``app = PeeweeMiddleware(app, db)``.

    *db* is a Peewee database, a URL, a mapping of names to either, or a `Databases`; *options* are those of
    `Databases`. With ``lazy=False`` the connection is awaited before the app is called. `PoolTimeout` and
    `DatabaseUnavailable` that leave the app before its response starts answer 503 with ``Retry-After``; a websocket
    that is open by then is closed with code 1013, "try again later". An atomic request commits before the response
    starts, so a failed commit is a failed response.
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
        elif kind == "websocket":
            await self._websocket(scope, receive, send)
        else:
            await self._lifespan(scope, receive, send)

    async def _http(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        work = self.databases.scope_for(scope["method"], _headers_of(scope), lambda: scope)
        exchange = Exchange(work, self.databases.commit_when, receive, send)
        try:
            with work.activate():
                if not work.lazy:
                    await work.connect_async()
                await self.app(scope, exchange.receive, exchange.send)
        except NoConnection as error:
            if exchange.started:
                raise
            await _unavailable(error, send, "http")
        except GeneratorExit:  # a task that is destroyed half-way, by the garbage collector, which must take no lock
            work.abandon(by_mistake=False)
            raise
        except Exception as error:
            if not is_hang_up(error):  # raised by exchange.send, to stop a body that nobody receives
                raise
        finally:
            work.end()
            exchange.close()

    async def _websocket(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        work = self.databases.scope_for("", _headers_of(scope), lambda: scope, atomic=False)
        said = ["websocket.connect"]  # the last word before, and after, the handshake

        async def receive_between() -> Message:
            work.release()
            return await receive()

        async def send_between(message: Message) -> None:
            work.release()
            said[0] = message["type"]
            await send(message)

        try:
            async with work:
                await self.app(scope, receive_between, send_between)
        except NoConnection as error:
            if said[0] in ("websocket.accept", "websocket.send"):
                logger.warning("a websocket is closed for want of a connection: %s", error)
                await send({"type": "websocket.close", "code": TRY_AGAIN_LATER, "reason": "database not available"})
            elif said[0] == "websocket.connect" and "websocket.http.response" in (scope.get("extensions") or ()):
                await _unavailable(error, send, "websocket.http")
            else:
                raise

    async def _lifespan(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        async def receive_between() -> Message:
            work.release()
            return await receive()

        async with self.databases.scope(lazy=True, atomic=False) as work:
            await self.app(scope, receive_between, send)


def _headers_of(scope: MutableMapping[str, Any]) -> Callable[[str], str | None]:
    def header(name: str) -> str | None:
        wanted = name.lower().encode("latin-1")
        found = [value.decode("latin-1") for key, value in scope.get("headers") or () if key == wanted]
        return "; ".join(found) or None  # HTTP/2 sends a Cookie in several

    return header


async def _unavailable(error: NoConnection, send: Send, kind: str) -> None:
    headers = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in plain_headers(error)]
    with suppress(OSError):  # the client may be gone
        await send({"type": f"{kind}.response.start", "status": STATUS, "headers": headers})
        await send({"type": f"{kind}.response.body", "body": body_of(error).encode("ascii")})
