"""``using()``: models in another database for a block, in this context only.

What may be given for a database and for models, and when a block begins and ends: for a ``with``, a function, each step
of a generator. How a model then comes to live there is ``switching.py``'s. Knows nothing of connections.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Generator, Iterable
from typing import Any, TypeVar

from peewee import Database, Model, MySQLDatabase, PostgresqlDatabase, Proxy, SqliteDatabase

from .adopt import adopt
from .registry import DEFAULT
from .scope import current_scope
from .scoped import ScopedDatabase
from .switching import Block, entered, make_switching, own_database

F = TypeVar("F", bound=Callable[..., Any])

FAMILIES = ((SqliteDatabase, "SQLite"), (PostgresqlDatabase, "PostgreSQL"), (MySQLDatabase, "MySQL"))


def using(database: Any, models: Iterable[type[Model]], *, bind_refs: bool = True, bind_backrefs: bool = True) -> Using:
    """Have *models* live in *database* for a block: ``with using(tenant, [User, Tweet]):``. A tenant's, an archive's.

    It holds in this context only: other threads, tasks and requests go on with the models' own database (Peewee's
    ``bind_ctx`` switches them all). Tasks that are started in the block, and ``asyncio.to_thread``, take it along; a
    plain ``threading.Thread`` does not.

    *database* is a Peewee database (any class: it is adopted), a proxy of one, or the name of one in the current
    scope; it is looked up when the block is entered, which gives it: ``with using("reports", [Sale]) as database``.
    Models that these refer to, or that refer to these, switch along, as in Peewee, unless *bind_refs* or
    *bind_backrefs* is false. Subclasses do not.

    Use ``with`` or ``async with``, or decorate a function, a coroutine function or a generator function with it (of
    which each step runs in the block, and what the consumer does between them does not). It may be entered again and
    within itself, by any number of threads and tasks. In nested blocks the inner one wins, for its models. A query
    belongs to the database of the moment it was built. ``bind()`` in a block holds until its end, for the context.

    Raises `TypeError` or `ValueError` for what is no database or no model, at once; when the block is entered, for a
    name or a proxy that leads to no database, and for a model of another kind (SQLite, PostgreSQL, MySQL).
    """
    return Using(database, models, bind_refs, bind_backrefs)


class Using:
    """What ``using()`` returns. All that changes is in the context, so it may be shared."""

    def __init__(self, database: Any, models: Iterable[type[Model]], bind_refs: bool, bind_backrefs: bool) -> None:
        if isinstance(database, str) and "://" in database:
            raise ValueError("using() takes no URL: connect it once with peewee_web.connect(), and give that database")
        if not isinstance(database, (str, Database, Proxy)):
            raise TypeError(
                f"{_described(database)} is not a Peewee database: give using() one, a proxy of one, or the name of "
                "one in the current scope"
            )
        if isinstance(models, (type, str)) or not isinstance(models, Iterable):
            raise TypeError(f"using() takes a list of model classes, such as [User, Tweet], not {_described(models)}")
        self._database, self._models = database, tuple(models)
        self._bind_refs, self._bind_backrefs = bind_refs, bind_backrefs
        if not self._models:
            raise ValueError("using() was given no models: list those that are to switch, such as [User, Tweet]")
        for model in self._models:
            if not (isinstance(model, type) and issubclass(model, Model) and hasattr(model, "_meta")):
                raise TypeError(f"{_described(model)} is no model class: list classes derived from peewee.Model")

    def __enter__(self) -> Any:
        database, switched = self.resolve()
        entered.set((*entered.get(), Block(self, switched)))
        return database

    def __exit__(self, *exc_info: object) -> None:
        # Not Token.reset: a framework may run the two halves in different contexts, and a coroutine that was dropped
        # is closed amid the work of another, which may not be in this block.
        blocks = entered.get()
        for place in reversed(range(len(blocks))):
            if blocks[place].holder is self:
                entered.set(blocks[:place] + blocks[place + 1 :])
                break

    async def __aenter__(self) -> Any:
        return self.__enter__()

    async def __aexit__(self, *exc_info: object) -> None:
        self.__exit__(*exc_info)

    def resolve(self) -> tuple[Any, dict[Any, Any]]:
        """The database, and where each model that is to switch will live: there."""
        database = _named(self._database) if isinstance(self._database, str) else self._database
        at_hand = _at_hand(database)
        family = _family(at_hand)
        switched: dict[Any, Any] = {}
        related: list[Any] = list(self._models)
        while related:
            model = related.pop()
            if model not in switched:
                _check(model, family)
                make_switching(model, at_hand)
                switched[model] = database
                related += model._meta.refs.values() if self._bind_refs else ()
                related += model._meta.backrefs.values() if self._bind_backrefs else ()
        return database, switched

    def __call__(self, function: F) -> F:
        """Run each call of *function* in the block; of a generator each step."""
        if inspect.isasyncgenfunction(function):

            @functools.wraps(function)
            async def stream_async(*args: Any, **kwargs: Any) -> Any:
                step, generator = _Step(self), function(*args, **kwargs)
                advance = generator.__anext__()
                try:
                    while True:
                        with step:
                            value = await advance
                        try:
                            advance = generator.asend((yield value))
                        except GeneratorExit:
                            with step:
                                await generator.aclose()
                            raise
                        except BaseException as error:
                            advance = generator.athrow(error)
                except StopAsyncIteration:
                    return

            return stream_async  # type: ignore[return-value]  # wraps() keeps the shape, which F can't express
        if inspect.isgeneratorfunction(function):

            @functools.wraps(function)
            def stream(*args: Any, **kwargs: Any) -> Any:
                return (yield from _Steps(function(*args, **kwargs), _Step(self)))

            return stream  # type: ignore[return-value]  # wraps() keeps the shape, which F can't express
        if inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def call_async(*args: Any, **kwargs: Any) -> Any:
                with self:
                    return await function(*args, **kwargs)

            return call_async  # type: ignore[return-value]  # wraps() keeps the shape, which F can't express

        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            with self:
                return function(*args, **kwargs)

        return call  # type: ignore[return-value]  # wraps() keeps the shape, which F can't express


class _Step:
    """Around each step of a generator: it goes on in its block, and in those within which it has yielded."""

    def __init__(self, using: Using) -> None:
        self._blocks: tuple[Block, ...] = (Block(self, using.resolve()[1]),)

    def __enter__(self) -> None:
        entered.set(entered.get() + self._blocks)

    def __exit__(self, *exc_info: object) -> None:
        blocks = entered.get()
        for place, block in enumerate(blocks):
            if block.holder is self:  # or as in Using.__exit__
                self._blocks = blocks[place:]
                entered.set(blocks[:place])
                break


class _Steps(Generator[Any, Any, Any]):
    def __init__(self, generator: Generator[Any, Any, Any], step: _Step) -> None:
        self._generator, self._step = generator, step

    def send(self, value: Any) -> Any:
        with self._step:
            return self._generator.send(value)

    def throw(self, *exception: Any) -> Any:
        with self._step:
            return self._generator.throw(*exception)


def _named(name: str) -> Any:
    scope = current_scope()
    databases = None if scope is None else scope.databases
    if databases is None:
        raise ValueError(
            "using() was given a name, which is that of a database of the current scope: enter the block in a request, "
            "or inside `with databases.scope():`"
        )
    if name == DEFAULT and len(databases) == 1:
        return databases.default
    if name not in tuple(databases):  # which is not repeated: it may come from a client, or hold a password
        raise ValueError(f"using() was given a name that is not known: give one of {', '.join(map(repr, databases))}")
    return databases[name]


def _at_hand(database: Any) -> Any:
    """*database*, adopted; or what the proxy stands for at this moment."""
    while isinstance(database, Proxy):
        database = database.obj
    if database is None:
        raise ValueError(
            "the proxy given to using() has no database yet: call its initialize() first, or for a ScopedDatabase "
            "enter the block in a request, or inside `with databases.scope():`"
        )
    return adopt(database)


def _check(model: Any, family: str | None) -> None:
    own = own_database(model)
    # What a ScopedDatabase stands for may be of any kind; and asking for it might choose a request's database.
    while isinstance(own, Proxy) and not isinstance(own, ScopedDatabase):
        own = own.obj
    if _family(own) not in (None, family) and family is not None:
        raise TypeError(
            f"{model.__name__} lives in {_family(own)} and using() was given {family}: give a database of the same "
            f"kind, or declare {model.__name__} without one, and it goes with any"
        )


def _family(database: Any) -> str | None:
    return next((name for kind, name in FAMILIES if isinstance(database, kind)), None)


def _described(given: Any) -> str:
    """Without its repr, which may hold a password."""
    return given.__name__ if isinstance(given, type) else f"an object of {type(given).__name__}"
