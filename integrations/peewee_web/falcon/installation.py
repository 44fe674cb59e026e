"""``install(app, db)``: the middleware where it belongs, the 503, and an end to what an exception leaves behind."""

from __future__ import annotations

import functools
from typing import Any

import falcon

from ..core.errors import NoConnection
from ..core.scope import current_scope
from .held import end_until
from .middleware import PeeweeMiddleware
from .unavailable import answer_unavailable, answer_unavailable_async


def install(app: falcon.App[Any, Any], db: Any, **options: Any) -> None:
    """Serve *app* (WSGI or ASGI): a `PeeweeMiddleware` before all others, and 503 where there is no connection.

    The 503 is a `falcon.HTTPServiceUnavailable` with ``Retry-After``, which the app's error serializer or its handler
    for that class styles. The app's class becomes a subclass of its own class, so that a request which an exception
    ends gives its connections back then and there, although Falcon calls no hook. Raises `RuntimeError` when *app* has
    a `PeeweeMiddleware` already.
    """
    if not isinstance(app, falcon.App):
        raise TypeError(f"install(app, db): app is a falcon.App or a falcon.asgi.App, not {app!r}")
    # There is no public way to name a middleware before those that are there (Falcon 4.0 to 4.4).
    middleware = app._unprepared_middleware
    if any(isinstance(component, PeeweeMiddleware) for component in middleware):
        raise RuntimeError("this Falcon app has a PeeweeMiddleware already: give a mapping of databases to the one")
    middleware.insert(0, PeeweeMiddleware(db, **options))
    app.add_middleware([])
    from falcon.asgi import App as AsyncApp  # not before somebody installs: importing this module stays cheap

    is_async = isinstance(app, AsyncApp)
    handler: Any = answer_unavailable_async if is_async else answer_unavailable
    app.add_error_handler(NoConnection, handler)
    plain: Any = type(app)
    app.__class__ = _ending_class(plain, is_async)


@functools.cache
def _ending_class(plain: type[Any], is_async: bool) -> Any:
    def call(self: Any, environ: Any, start_response: Any) -> Any:
        outer = current_scope()
        try:
            return plain.__call__(self, environ, start_response)
        except BaseException:
            end_until(outer)
            raise

    async def call_async(self: Any, scope: Any, receive: Any, send: Any) -> None:
        outer = current_scope()
        try:
            await plain.__call__(self, scope, receive, send)
        except GeneratorExit:  # the task was dropped half-way: this runs amid the work of whoever is interrupted
            raise
        except BaseException:
            end_until(outer)
            raise

    names = {name: getattr(plain, name) for name in ("__module__", "__qualname__", "__doc__")}
    return type(plain.__name__, (plain,), {**names, "__slots__": (), "__call__": call_async if is_async else call})
