"""``ScopedDatabase``: the proxy that models bind to when the real database depends on the app that is being served."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from peewee import Model, Proxy

from .errors import ScopeError
from .fields import follow
from .proxies import StandIn
from .registry import DEFAULT, Databases
from .scope import current_scope

T = TypeVar("T")


class NotConfigured(ScopeError, AttributeError):
    """A model was used before any app said which database it lives in."""


class ScopedDatabase(StandIn):
    """Stands for the database called *name* of the app whose scope this code runs in.

    Outside a scope it asks *fallback*, which an adapter gives (Flask's current app, Django's settings), or without one
    stands for what it was initialized with. Models of two apps in one process never meet. Raises `NotConfigured` (an
    `AttributeError`) where nothing leads to a database.
    """

    __slots__ = ("_fallback", "_initial", "name")

    def __init__(self, name: str = DEFAULT, fallback: Callable[[], Databases | None] | None = None) -> None:
        for slot, value in (("name", name), ("_fallback", fallback), ("_initial", None), ("_callbacks", [])):
            object.__setattr__(self, slot, value)

    def __repr__(self) -> str:
        return f"<ScopedDatabase {self.name!r}>"

    def find(self) -> Any:
        scope = current_scope()
        databases = None if scope is None else scope.databases
        if databases is None:
            if self._fallback is None:
                return self._initial
            try:
                databases = self._fallback()
            except AttributeError as error:  # which Python would take for a missing attribute of ours
                raise ScopeError(f"where {self!r} leads to here can't be told: {error}") from error
            if databases is None:
                return None
        return databases.default if self.name == DEFAULT else databases[self.name]

    @property
    def obj(self) -> Any:
        """The database, or ``None`` before any is configured (Peewee asks for it when a model is declared).

        Of a `ReplicatedDatabase` it is the primary's: migrations and introspection take nothing else.
        """
        database = self.find()
        while isinstance(database, Proxy):
            database = database.obj
        return database

    def initialize(self, obj: Any) -> None:
        """As Peewee's, but *obj* is only met where no app says which database to use, in scripts and tests.

        Also tells the fields of the bound models what kind of database they will meet (``attach_callback``).
        """
        if self._fallback is None:
            object.__setattr__(self, "_initial", obj)
        for callback in self._callbacks:
            callback(obj)

    def attach_callback(self, callback: Callable[[Any], T]) -> Callable[[Any], T]:
        follow(callback)
        self._callbacks.append(callback)
        return callback

    def bind(self, models: Iterable[type[Model]], bind_refs: bool = True, bind_backrefs: bool = True) -> None:
        """As Peewee's: have *models* live here."""
        models = list(models)
        super().bind(models, bind_refs, bind_backrefs)
        _follow_fields_of(models, bind_refs, bind_backrefs)

    def bind_ctx(self, models: Iterable[type[Model]], bind_refs: bool = True, bind_backrefs: bool = True) -> Any:
        """As Peewee's, for every thread at once. `peewee_web.using` is for one context."""
        models = list(models)
        _follow_fields_of(models, bind_refs, bind_backrefs)
        return super().bind_ctx(models, bind_refs, bind_backrefs)

    def __getattr__(self, attribute: str) -> Any:
        database = self.find()
        if database is None:
            raise NotConfigured(
                f"no database is configured for {self.name!r} here: run inside an app's request or app context, "
                "or inside `with databases.scope():`"
            )
        return getattr(database, attribute)


def _follow_fields_of(models: list[Any], refs: bool, backrefs: bool) -> None:
    for model in models:
        related = model._meta.model_graph(refs, backrefs) if refs or backrefs else [(None, model, None)]
        for _, each, _ in related:
            for hook in each._meta._db_hooks:
                follow(hook)
