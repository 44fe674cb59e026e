"""A scope for each callback of a websocket: ``open``, each message, ping and pong, and ``on_close``.

A socket lives for hours and queries now and then, so it has no scope of its own: only what is under way has.
"""

from __future__ import annotations

import asyncio
import functools
import sys
from collections.abc import Awaitable, Callable
from typing import Any
from weakref import WeakSet

from tornado.websocket import WebSocketHandler

from ..core.errors import NoConnection
from ..core.registry import Databases
from ..core.scope import Scope, current_scope

CALLBACKS = ("open", "on_message", "on_ping", "on_pong")
# "Try Again Later" in IANA's registry of close codes: what 503 is to a request.
TRY_AGAIN_LATER = 1013

Callback = Callable[..., Awaitable[None] | None]


class Messages:
    """Puts itself between Tornado and the callbacks of *handler*, whichever class they come from.

    The scope of a callback is atomic if the databases say so: committed when it returns, rolled back when it raises.
    A callback that finds no connection closes the socket with code 1013; any other error aborts it, as in Tornado.
    """

    def __init__(self, handler: WebSocketHandler, databases: Databases) -> None:
        self._handler = handler
        self._databases = databases
        self._scopes: WeakSet[Scope] = WeakSet()  # of the callbacks under way
        for name in CALLBACKS:
            setattr(handler, name, functools.partial(self._run, databases.lazy, getattr(handler, name)))
        # Always lazy: it has to run, and at once, whether there is a connection or not.
        setattr(handler, "on_close", functools.partial(self._run, True, handler.on_close))  # noqa: B010  # as above

    def _run(self, lazy: bool, callback: Callback, *args: Any, **kwargs: Any) -> Awaitable[None] | None:
        call = functools.partial(callback, *args, **kwargs)
        if current_scope() in self._scopes:
            return call()  # the app's own code calls it, from another callback
        request = self._handler.request
        scope = self._databases.scope_for("", request.headers.get, lambda: request, lazy=lazy)
        self._scopes.add(scope)
        return self._begin(scope, call) if lazy else asyncio.ensure_future(self._await(scope, call))

    def _begin(self, scope: Scope, call: Callback) -> Awaitable[None] | None:
        """Call it at once: only then it shows whether it is a coroutine, of which kind, or done."""
        pending = None
        try:
            with scope.activate():
                pending = call()
            if pending is None:
                scope.complete(commit=True)
        except NoConnection:
            self._refuse()
        finally:
            if pending is None:
                scope.end()
        return None if pending is None else asyncio.ensure_future(self._await(scope, lambda: pending))

    async def _await(self, scope: Scope, call: Callback) -> None:
        try:
            async with scope:
                pending = call()
                if pending is not None:
                    await pending
        except NoConnection:
            self._refuse()

    def _refuse(self) -> None:
        self._handler.log_exception(*sys.exc_info())
        self._handler.close(TRY_AGAIN_LATER, "the database is not available")
