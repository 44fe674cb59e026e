"""What stands for a database that depends on the moment: the app that is served, the primary of now."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, overload

from peewee import DatabaseProxy, _BoundModelsContext
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
