"""The scope around each request of an app, and what happens outside its routes, where no plugin reaches.

Hooks and error pages query too, and a streamed body goes on after its route; so ``app.wsgi`` and ``app.trigger_hook``
are replaced on the one app (as attributes of the object; Bottle itself is not touched) while a plugin is installed.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from bottle import BaseRequest, WSGIFileWrapper, request

from ..core.errors import NoConnection
from ..core.registry import DEFAULT, Databases
from ..core.scope import Scope, current_scope
from ..core.unavailable import REASON, STATUS, body_of, plain_headers
from ..wsgi import COMPLETE, ScopeMiddleware
from .responses import unavailable

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

    from .plugin import PeeweePlugin

# In environ: the scope of this very request, not of one that it was made inside of.
SCOPE = "peewee_web.scope"

OPTIONS = ("lazy", "atomic", "atomic_names", "commit_when", "exclude", "choose", "read_only")


class InstalledApp(ScopeMiddleware):
    """An app with plugins of ours."""

    def __init__(self, app: Any, databases: Databases) -> None:
        # Not bottle.request: that is another one after a request that was made inside this, and none in other threads.
        super().__init__(app.wsgi, databases, BaseRequest)
        self._bottle = app
        self._plugins: list[PeeweePlugin] = []
        self._trigger_hook = app.trigger_hook
        # Not setattr(): Bottle's refuses to set an attribute twice, which installing once more may do.
        vars(app).update(wsgi=self, trigger_hook=self.trigger_hook)
        app.add_hook("app_reset", self.put_first)

    def add(self, plugin: PeeweePlugin) -> None:
        self._plugins.append(plugin)
        self.databases = _combined(self._plugins)

    def remove(self, plugin: PeeweePlugin) -> None:
        self._plugins.remove(plugin)
        if self._plugins:
            self.databases = _combined(self._plugins)
            return
        self._bottle.remove_hook("app_reset", self.put_first)
        attributes = vars(self._bottle)
        for name, ours, original in (
            ("wsgi", self, self.app),
            ("trigger_hook", self.trigger_hook, self._trigger_hook),
        ):
            if attributes.get(name) == ours:  # else somebody wrapped it, and it stays in between without effect
                attributes[name] = original

    def put_first(self) -> None:
        """Be the outermost of the plugins: JSON, templates and other plugins query around the callback."""
        plugins = self._bottle.plugins
        ordered = sorted(plugins, key=lambda plugin: plugin not in self._plugins)
        if plugins != ordered:
            plugins[:] = ordered
            for route in self._bottle.routes:
                route.reset()

    def trigger_hook(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return self._trigger_hook(*args, **kwargs)
        except NoConnection as error:
            if not self._plugins:
                raise
            raise unavailable(error) from error

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if not self._plugins:
            return self.app(environ, start_response)
        return super().__call__(environ, start_response)

    def respond(self, scope: Scope, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        lost: NoConnection | None = None

        def start(status: str, headers: list[tuple[str, str]], exc_info: Any = None, /) -> Any:
            nonlocal lost
            if exc_info and isinstance(exc_info[1], NoConnection):  # in an error page or a skipped route
                lost = exc_info[1]
                status, headers = f"{STATUS} {REASON}", plain_headers(lost)
            # A route has done so already; not so a hook that answered in its place.
            scope.complete(self.databases.commit_when(int(status[:3])))
            return start_response(status, headers, exc_info)

        environ[SCOPE] = scope
        body = self.app(environ, start)
        if lost is not None:
            if hasattr(body, "close"):
                body.close()
            return [] if environ["REQUEST_METHOD"] == "HEAD" else [body_of(lost).encode("ascii")]
        if isinstance(body, WSGIFileWrapper):
            environ[COMPLETE] = True
        return body


def scope_of_request(databases: Databases) -> Scope | None:
    """The scope that the request at hand has for *databases*. None where the app that is asked has no plugin."""
    scope: Scope | None = request.environ.get(SCOPE)
    if scope is None or scope is not current_scope() or scope.databases is None:
        return None
    begun_with = scope.databases.origin
    if begun_with is databases:
        return scope
    alike = (begun_with.choose, begun_with.read_only) == (databases.choose, databases.read_only)
    return scope if alike and set(databases.adopted) <= set(begun_with.adopted) else None


def _combined(plugins: list[PeeweePlugin]) -> Databases:
    """The databases of all *plugins* of an app, for a request has one scope. What shares a name goes by its keyword."""
    if len(plugins) == 1:
        return plugins[0].databases
    named: dict[str, Any] = {}
    for plugin in plugins:
        for name, database in plugin.databases.items():
            other_name = plugin.keyword if name == DEFAULT else f"{plugin.keyword}.{name}"
            named[other_name if name in named else name] = database
    options = {option: getattr(plugins[0].databases, option) for option in OPTIONS}
    names = options.pop("atomic_names")
    return Databases(named, **options if names is None else {**options, "atomic": names})
