"""Fields that depend on the kind of database (``JSONField``, ``BlobField``), for models that move between databases.

Peewee calls the hook of such a field when its model is bound, and the hook sets attributes to suit that database. A
field that was made to `follow` looks at each use for the database its model lives in at that moment. All that this file
knows of it is the model's metadata: no scopes, no blocks.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from peewee import FieldAlias, FieldDatabaseHook, Proxy


def follow(hook: Callable[[Any], Any], database: Any = None) -> None:
    """Have what *hook* sets in its field depend on the database that the field's model lives in at the moment of use.

    *hook* is one of those that Peewee calls with a database: a model's (``_db_hooks``) or a proxy's; one that is no
    field's is left alone. Its attributes are those that it sets for *database*; if there are none, nothing changes.
    May be called by several threads at once, and again.
    """
    field: Any = getattr(hook, "__self__", None)
    plain: Any = type(field)
    if isinstance(field, FieldDatabaseHook) and not hasattr(plain, "_follows"):
        names = _names_set(plain, field, database)
        if names:
            field.__class__ = _following(plain, names)


@functools.cache
def _following(plain: type, names: frozenset[str]) -> type:
    namespace: dict[str, Any] = {name: getattr(plain, name) for name in ("__module__", "__qualname__", "__doc__")}
    namespace |= {"_follows": True, **{name: _Followed(name) for name in names}}
    return type(plain.__name__, (plain,), namespace)


class _Followed:
    """An attribute that the hook sets: its value for the database of now, without one the field's own."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __get__(self, field: Any, owner: type) -> Any:
        if field is None:
            return self
        if isinstance(field, FieldAlias):  # which then asks the field itself
            raise AttributeError(self._name)
        values = _set_now(field)
        if self._name not in values:
            values = vars(field)
        try:
            return values[self._name]
        except KeyError:
            raise AttributeError(f"{owner.__name__!r} object has no attribute {self._name!r}") from None

    def __set__(self, field: Any, value: Any) -> None:
        vars(field)[self._name] = value


def _set_now(field: Any) -> dict[str, Any]:
    own = vars(field)
    database = own["model"]._meta.database if "model" in own else None
    while isinstance(database, Proxy):
        database = database.obj
    if database is None:
        return {}
    driver = getattr(database, "_adapter", None)  # PostgreSQL has two, between which the database's init() chooses
    last: tuple[Any, Any, dict[str, Any]] | None = own.get("_set_last")
    if last is None or last[0] is not database or last[1] is not driver:
        # Of one database only, and in one step: other threads may be in another.
        last = own["_set_last"] = (database, driver, _told(type(field).__base__, field, database))
    return last[2]


def _names_set(plain: type, field: Any, database: Any) -> frozenset[str]:
    names = set()

    def note(copied: Any, name: str, value: Any) -> None:
        names.add(name)
        vars(copied)[name] = value

    _told(type(plain.__name__, (plain,), {"__setattr__": note}), field, database)
    return frozenset(names)


def _told(kind: Any, field: Any, database: Any) -> dict[str, Any]:
    """The attributes of a copy of *field*, of class *kind*, whose hook was called with *database*."""
    copied: Any = object.__new__(kind)
    attributes: dict[str, Any] = vars(copied)
    attributes.update(vars(field))
    attributes.pop("_set_last", None)  # else a hook that keeps the copy keeps each database of before
    copied._db_hook(database)
    return attributes
