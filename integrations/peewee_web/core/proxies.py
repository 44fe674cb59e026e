"""What stands for a database that depends on the moment: the app that is served, the primary of now."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, overload

from peewee import DatabaseProxy, FieldDatabaseHook, Proxy, _BoundModelsContext
from peewee import Model as PlainModel

from .retry import F, FunctionRetry, OnRetry
from .transactions import ScopedSavepoint

if TYPE_CHECKING:
    from typing_extensions import Self


class StandIn(DatabaseProxy):
    """A ``DatabaseProxy`` whose ``obj`` is looked up at each use.

    What Peewee's proxy leaves to the database at hand, and would bind to that for good, is bound to the proxy here.
    """

    __slots__ = ()

    def find(self) -> Any:
        """What it stands for at this moment: a database, or another stand-in for one. None: nothing yet."""
        return self.obj

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: object) -> Self:  # as Peewee's Database: what is copied along with a model shares it
        return self

    @property
    def Model(self) -> type[PlainModel]:
        """The base class of models that live here."""
        try:
            base: type[PlainModel] = object.__getattribute__(self, "_Model")
        except AttributeError:
            base = type("BaseModel", (PlainModel,), {"Meta": type("Meta", (), {"database": self})})
            object.__setattr__(self, "_Model", base)
        return base

    def bind(self, models: Iterable[type[PlainModel]], bind_refs: bool = True, bind_backrefs: bool = True) -> None:
        """As Peewee's: have *models* live here."""
        for model in models:
            model.bind(self, bind_refs=bind_refs, bind_backrefs=bind_backrefs)

    def bind_ctx(self, models: Iterable[type[PlainModel]], bind_refs: bool = True, bind_backrefs: bool = True) -> Any:
        """As Peewee's, for every thread at once. `peewee_web.using` is for one context."""
        return _BoundModelsContext(models, self, bind_refs, bind_backrefs)

    def savepoint(self) -> Any:
        return ScopedSavepoint(self)

    @overload
    def retry(self, function: F, /) -> F: ...
    @overload
    def retry(
        self,
        /,
        *,
        max_retries: int = 3,
        backoff: float = 1.0,
        retry_writes: bool = False,
        on_retry: OnRetry | None = None,
    ) -> Callable[[F], F]: ...
    def retry(self, function: Any = None, /, **options: Any) -> Any:
        """`peewee_web.retry`, which refuses at once inside a transaction of the database of that moment."""
        return FunctionRetry(database=self, **options).decorate(function)

    def __enter__(self) -> Any:
        return self.__getattr__("__enter__")()

    def __exit__(self, *exc_info: Any) -> Any:
        return self.__getattr__("__exit__")(*exc_info)


# Fields that depend on the kind of database.


class _Followed:
    """An attribute that a field's hook sets, as that of ``BlobField`` and ``JSONField``, for the database of now."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __get__(self, field: Any, owner: type) -> Any:
        if field is None:
            return self
        own = vars(field)
        if self._name not in own:  # an alias asks the field itself then
            raise AttributeError(self._name)
        database = own["model"]._meta.database if "model" in own else None
        while isinstance(database, Proxy):
            database = database.obj
        if database is None:
            return own[self._name]
        last = own.get("_set_last")
        if last is None or last[0] is not database:
            last = own["_set_last"] = (database, _set_for(database, field))
        return last[1].get(self._name, own[self._name])

    def __set__(self, field: Any, value: Any) -> None:
        vars(field)[self._name] = value


def _set_for(database: Any, field: Any) -> dict[str, Any]:
    """What the hook of *field* sets where the database is *database*."""
    kind: Any = type(field)
    copied: Any = object.__new__(kind.__base__)
    vars(copied).update(vars(field))
    copied._db_hook(database)
    return {name: value for name, value in vars(copied).items() if name in kind._followed}


def follow(field: Any) -> None:
    """Have what the hook of *field* sets depend on the database that its model lives in at the moment of its use.

    (Peewee has hooks called once, when a proxy is initialized.)
    """
    plain: Any = type(field)
    if isinstance(field, FieldDatabaseHook) and not hasattr(plain, "_followed"):
        field.__class__ = _following(plain, _names_set(plain, field))


@functools.cache
def _following(plain: type, names: frozenset[str]) -> type:
    # `using()` leaves a field alone that has `_told`: this one knows of its blocks from the model.
    namespace: dict[str, Any] = {"_followed": names, "_told": names, **{name: _Followed(name) for name in names}}
    namespace |= {"__module__": plain.__module__, "__qualname__": plain.__qualname__, "__doc__": plain.__doc__}
    return type(plain.__name__, (plain,), namespace)


def _names_set(plain: type, field: Any) -> frozenset[str]:
    """The names of the attributes that the hook sets."""
    names = set()

    def note(copied: Any, name: str, value: Any) -> None:
        names.add(name)
        vars(copied)[name] = value

    copied: Any = object.__new__(type(plain.__name__, (plain,), {"__setattr__": note}))
    vars(copied).update(vars(field))
    copied._db_hook(None)
    return frozenset(names)
