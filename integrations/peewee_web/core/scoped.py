"""``ScopedDatabase``: the proxy that models bind to when the real database depends on the app that is being served."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from peewee import DatabaseProxy, Model

from .errors import ScopeError
from .registry import DEFAULT, Databases
from .scope import current_scope
from .transactions import ScopedSavepoint

if TYPE_CHECKING:
    from typing_extensions import Self


class NotConfigured(ScopeError, AttributeError):
    """A model was used before any app said which database it lives in."""


class ScopedDatabase(DatabaseProxy):
    """Stands for the database called *name* of the app whose scope this code runs in.

    Outside a scope it asks *fallback*, which an adapter gives (Flask's current app, Django's settings). Models of two
    apps in one process never meet. Raises `NotConfigured` (an `AttributeError`) where neither leads to a database.
    """

    __slots__ = ("_fallback", "name")

    def __init__(self, name: str = DEFAULT, fallback: Callable[[], Databases | None] | None = None) -> None:
        for slot, value in (("name", name), ("_fallback", fallback), ("_callbacks", [])):
            object.__setattr__(self, slot, value)

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: object) -> Self:  # as Peewee's Database: what is copied along with a model shares it
        return self

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

    @property
    def Model(self) -> type[Model]:
        """The base class of models that live here. (Peewee's would ask the database at hand for its own.)"""
        try:
            base: type[Model] = object.__getattribute__(self, "_Model")
        except AttributeError:
            base = type("BaseModel", (Model,), {"Meta": type("Meta", (), {"database": self})})
            object.__setattr__(self, "_Model", base)
        return base

    def savepoint(self) -> Any:
        return ScopedSavepoint(self)

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

    def __enter__(self) -> Any:
        return self.__getattr__("__enter__")()

    def __exit__(self, *exc_info: Any) -> Any:
        return self.__getattr__("__exit__")(*exc_info)
