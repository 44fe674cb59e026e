"""``ScopedDatabase``: the proxy that models bind to when the real database depends on the app that is being served."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .errors import ScopeError
from .proxies import StandIn
from .registry import DEFAULT, Databases
from .scope import current_scope


class NotConfigured(ScopeError, AttributeError):
    """A model was used before any app said which database it lives in."""


class ScopedDatabase(StandIn):
    """Stands for the database called *name* of the app whose scope this code runs in.

    Outside a scope it asks *fallback*, which an adapter gives (Flask's current app, Django's settings). Models of two
    apps in one process never meet. Raises `NotConfigured` (an `AttributeError`) where neither leads to a database.
    """

    __slots__ = ("_fallback", "name")

    def __init__(self, name: str = DEFAULT, fallback: Callable[[], Databases | None] | None = None) -> None:
        for slot, value in (("name", name), ("_fallback", fallback), ("_callbacks", [])):
            object.__setattr__(self, slot, value)

    def __repr__(self) -> str:
        return f"<ScopedDatabase {self.name!r}>"

    @property
    def obj(self) -> Any:
        """The database, or ``None`` before any is configured (Peewee asks for it when a model is declared)."""
        scope = current_scope()
        databases = None if scope is None else scope.databases
        if databases is None and self._fallback is not None:
            databases = self._fallback()
        if databases is None:
            return None
        return databases.default if self.name == DEFAULT else databases[self.name]

    def initialize(self, obj: Any) -> None:
        """Tell the fields of the bound models what kind of database they will meet (Peewee's ``attach_callback``)."""
        for callback in self._callbacks:
            callback(obj)

    def __getattr__(self, attribute: str) -> Any:
        database = self.obj
        if database is None:
            raise NotConfigured(
                f"no database is configured for {self.name!r} here: run inside an app's request or app context, "
                "or inside `with databases.scope():`"
            )
        return getattr(database, attribute)
