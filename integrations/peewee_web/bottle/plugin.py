"""The Bottle plugin: the database as a keyword argument, one transaction if asked for, 503 without a connection.

A plugin wraps routes and nothing else; what is around them is in ``app.py``. Routes of a mounted or merged app are
called by its parent: where that has no scope for them, the plugin begins one for the route.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

from bottle import BaseRequest, HTTPResponse, PluginError, request, response

from ..core.registry import DEFAULT, Databases
from ..core.scoped import ScopedDatabase
from .app import OPTIONS, SCOPE, InstalledApp, scope_of_request
from .responses import answer, stream_of


class PeeweePlugin:
    """One healthy connection per request for Bottle apps: ``app.install(PeeweePlugin(db))``.

    *db* is a Peewee database, a URL, a mapping of names to either, or a `Databases`; *options* are those of
    `Databases`, whose ``exclude`` takes paths and names of routes. A callback that takes an argument named *keyword*
    is given the default database, and one that takes an argument named like another database is given that.
    A route decides for itself with ``peewee={"keyword": "pdb", "atomic": True}`` or ``skip=["peewee"]``. One plugin
    may be installed on several apps, and several, with different keywords and the same options, on one.
    """

    api = 2

    def __init__(self, db: Any, keyword: str = "db", **options: Any) -> None:
        if not (isinstance(keyword, str) and keyword.isidentifier()):
            raise ValueError(f"keyword is the name of an argument of your callbacks, such as 'db', not {keyword!r}")
        self.name = "peewee"
        self.keyword = keyword
        self.databases = Databases.of(db, **options)
        self._apps: dict[Any, InstalledApp] = {}

    def setup(self, app: Any) -> None:
        """Called by ``app.install``. Raises `bottle.PluginError` when it can't go with a plugin that is there."""
        others = [other for other in app.plugins if isinstance(other, PeeweePlugin)]
        for other in others:
            self._check_beside(other)
        if others:
            self._apps[app] = others[0]._apps[app]
        else:
            self._apps[app] = InstalledApp(app, self.databases)
        self._apps[app].add(self)

    def _check_beside(self, other: PeeweePlugin) -> None:
        if other.keyword == self.keyword:
            raise PluginError(
                f"a PeeweePlugin with keyword {self.keyword!r} is installed on this app already: "
                "give this one another keyword, or give a mapping of databases to the one"
            )
        for option in OPTIONS:
            if getattr(other.databases, option) != getattr(self.databases, option):
                raise PluginError(f"the PeeweePlugins of one app share its requests: give them the same {option}")
        if other.name == self.name:  # Bottle applies one plugin of a name
            self.name += f"_{self.keyword}"

    def close(self) -> None:
        """Called by ``app.uninstall`` and ``app.close``: closes idle connections."""
        for app, installed in list(self._apps.items()):
            if self not in app.plugins:
                installed.remove(self)
                del self._apps[app]
        self.databases.close()

    def apply(self, callback: Callable[..., Any], route: Any) -> Callable[..., Any]:
        """Called by Bottle for each route."""
        installed = self._apps.get(route.app)
        databases = self.databases if installed is None else installed.databases
        atomic = route.config.get(f"{self.name}.atomic", databases.atomic)
        arguments = self._arguments(route, self._chooses(databases))

        def call(*args: Any, **kwargs: Any) -> Any:
            scope = scope_of_request(databases)
            if databases.exclude and databases.excludes(request.path, route.name):
                if scope is not None:
                    scope.set_atomic(False)
                return callback(*args, **{**self._arguments(route, False), **kwargs})
            run = functools.partial(callback, *args, **{**arguments, **kwargs})
            if scope is not None:
                return answer(run, scope, databases, atomic=atomic, keep=False)
            scope = request.environ[SCOPE] = databases.scope_for(
                request.method,
                request.headers.raw,  # get_header() fails for what is no UTF-8
                functools.partial(BaseRequest, request.environ),
            )
            out = None
            try:
                with scope.activate():
                    out = answer(run, scope, databases, atomic=atomic, keep=True)
                    for bookmark in databases.bookmarks_after(scope):
                        (out if isinstance(out, HTTPResponse) else response).add_header(*bookmark.header())
            finally:
                if stream_of(out) is None:
                    scope.end()
            return out

        return call

    def _chooses(self, databases: Databases) -> bool:
        """Whether requests of *databases* choose what our default database is."""
        if databases.choose is None:
            return False
        return databases is self.databases or databases.get(DEFAULT) is self.databases.get(DEFAULT, self)

    def _arguments(self, route: Any, chooses: bool) -> dict[str, Any]:
        """The databases that the callback of *route* asks for by the names of its arguments."""
        others = {name: database for name, database in self.databases.items() if name != DEFAULT}
        arguments = {name: database for name, database in others.items() if _takes(route, name)}
        keyword = route.config.get(f"{self.name}.keyword", self.keyword)
        if _takes(route, keyword):
            arguments[keyword] = ScopedDatabase() if chooses else self.databases.default
        return arguments


def _takes(route: Any, name: str) -> bool:
    """Whether the callback of *route* takes an argument called *name*, below decorators that let it through.

    Not by Bottle's ``get_undecorated_callback()``, which does not return for some closures (seen in 0.13.4).
    """
    try:
        outermost = inspect.signature(route.callback, follow_wrapped=False).parameters
        undecorated = inspect.signature(route.callback).parameters
    except ValueError:  # a builtin without a signature
        return False
    lets_through = any(parameter.kind is parameter.VAR_KEYWORD for parameter in outermost.values())
    return name in outermost or (lets_through and name in undecorated)
