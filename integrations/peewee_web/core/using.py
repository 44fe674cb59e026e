"""``using()``: models in another database for a block, in this context only.

The first block that a model is in changes the classes of what Peewee keeps for it (metadata, schema manager, table,
fields that depend on the kind of database) to subclasses whose attributes look for the block they are used in. A model
that was never in one is not touched. Knows nothing of connections.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Generator, Iterable
from contextvars import ContextVar
from typing import Any, TypeVar

from peewee import (
    Database,
    FieldDatabaseHook,
    Metadata,
    Model,
    MySQLDatabase,
    PostgresqlDatabase,
    Proxy,
    SchemaManager,
    SqliteDatabase,
    Table,
)

from .adopt import adopt
from .registry import DEFAULT
from .scope import current_scope
from .scoped import ScopedDatabase

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
        _blocks.set((*_blocks.get(), _Block(self, switched)))
        return database

    def __exit__(self, *exc_info: object) -> None:
        # Not Token.reset: a framework may run the two halves in different contexts, and a coroutine that was dropped
        # is closed amid the work of another, which may not be in this block.
        blocks = _blocks.get()
        for place in reversed(range(len(blocks))):
            if blocks[place].holder is self:
                _blocks.set(blocks[:place] + blocks[place + 1 :])
                break

    async def __aenter__(self) -> Any:
        return self.__enter__()

    async def __aexit__(self, *exc_info: object) -> None:
        self.__exit__(*exc_info)

    def resolve(self) -> tuple[Any, dict[Any, Any]]:
        """The database, and where each model that is to switch will live: there."""
        database = _named(self._database) if isinstance(self._database, str) else self._database
        family = _family(_at_hand(database))
        switched: dict[Any, Any] = {}
        related: list[Any] = list(self._models)
        while related:
            model = related.pop()
            if model not in switched:
                _check(model, family)
                _make_switching(model, database)
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
        self._blocks: tuple[_Block, ...] = (_Block(self, using.resolve()[1]),)

    def __enter__(self) -> None:
        _blocks.set(_blocks.get() + self._blocks)

    def __exit__(self, *exc_info: object) -> None:
        blocks = _blocks.get()
        for place, block in enumerate(blocks):
            if block.holder is self:  # or as in Using.__exit__
                self._blocks = blocks[place:]
                _blocks.set(blocks[:place])
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
    meta = model._meta
    if hasattr(type(meta), "database") and not isinstance(meta, _SwitchingMetadata):
        raise TypeError(
            f"the {type(meta).__name__} of {model.__name__} switches databases itself: leave it out of "
            "model_metadata_class, using() does without"
        )
    own = vars(meta)["database"]
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


# How a model follows.


class _Block:
    """One entry into a block: who has made it, and where models live in it. Contexts share it: it does not change."""

    __slots__ = ("_attributes", "databases", "holder")

    def __init__(self, holder: object, databases: dict[Any, Any]) -> None:
        self.holder = holder
        self.databases = databases
        self._attributes: dict[tuple[Any, str], dict[str, Any]] = {}

    def attributes_of(self, field: Any) -> dict[str, Any]:
        """Those that *field* has in this block's database."""
        key = field.model, field.name  # fields themselves compare as in SQL
        if key not in self._attributes:
            self._attributes[key] = vars(_told(type(field).__base__, field, self.databases[field.model]))
        return self._attributes[key]


# Those that this context is in, the innermost last.
_blocks: ContextVar[tuple[_Block, ...]] = ContextVar("peewee_web.using", default=())


def _block_of(model: Any) -> _Block | None:
    for block in reversed(_blocks.get()):
        if model in block.databases:
            return block
    return None


class _Switching:
    """An attribute that holds the database of a model: in a block that block's, else its own."""

    def __init__(self, name: str, model: str = "model") -> None:
        self._name, self._model = name, model

    def __get__(self, each: Any, owner: type) -> Any:
        model = getattr(each, self._model)
        block = _block_of(model)
        # Its own is in __dict__, where Peewee looks for what a subclass inherits, wherever that is declared.
        return vars(each)[self._name] if block is None else block.databases[model]

    def __set__(self, each: Any, database: Any) -> None:
        """In a block for the rest of it, in this context: Peewee's ``bind_ctx`` sets back what it got here."""
        model = getattr(each, self._model)
        bound = _block_of(model)
        if bound is None:
            vars(each)[self._name] = database
        else:
            changed = _Block(bound.holder, {**bound.databases, model: database})
            _blocks.set(tuple(changed if block is bound else block for block in _blocks.get()))


class _SwitchingMetadata(Metadata):
    database = _Switching("database")

    def set_database(self, database: Any) -> None:
        if _block_of(self.model) is None:
            super().set_database(database)
        else:
            self.database = database

    @property
    def table(self) -> Table:
        table = super().table
        if type(table) is Table:  # a new one, which may have been made in a block
            vars(table)["_database"] = vars(self)["database"]
            table.__class__ = _SwitchingTable
        return table

    @table.deleter
    def table(self) -> None:
        self._table = None


class _SwitchingSchemaManager(SchemaManager):
    _database = _Switching("_database")


class _SwitchingTable(Table):
    _database = _Switching("_database", model="_model")


class _Told:
    """An attribute that the hook of a field sets to suit the database (Peewee's ``FieldDatabaseHook``)."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __get__(self, field: Any, owner: type) -> Any:
        block = _block_of(field.model)
        try:
            return (vars(field) if block is None else block.attributes_of(field))[self._name]
        except KeyError:  # an alias then asks the field itself
            raise AttributeError(self._name) from None

    def __set__(self, field: Any, value: Any) -> None:
        vars(field)[self._name] = value


def _told(kind: Any, field: Any, database: Any) -> Any:
    """A copy of *field*, of class *kind*, that was told that its model lives in *database*."""
    copied = object.__new__(kind)
    vars(copied).update(vars(field))
    copied._db_hook(database)
    return copied


def _names_told(plain: type, field: Any, database: Any) -> frozenset[str]:
    names = set()

    def note(copied: Any, name: str, value: Any) -> None:
        names.add(name)
        vars(copied)[name] = value

    _told(type(plain.__name__, (plain,), {"__setattr__": note}), field, database)
    return frozenset(names)


@functools.cache
def _subclass(plain: Any, *first: type, told: frozenset[str] | None = None) -> Any:
    namespace = {name: getattr(plain, name) for name in ("__module__", "__qualname__", "__doc__")}
    if told is not None:
        namespace |= {"_told": told, **{name: _Told(name) for name in told}}
    return type(plain.__name__, (*first, plain), namespace)


def _make_switching(model: Any, database: Any) -> None:
    """Also by several threads at once: each makes the same changes, unless it finds them made."""
    for switching, each in ((_SwitchingMetadata, model._meta), (_SwitchingSchemaManager, model._schema)):
        plain: Any = type(each)
        if not issubclass(plain, switching):
            each.__class__ = _subclass(plain, switching)
    for hook in model._meta._db_hooks:
        field: Any = getattr(hook, "__self__", None)
        if isinstance(field, FieldDatabaseHook) and not hasattr(plain := type(field), "_told"):
            field.__class__ = _subclass(plain, told=_names_told(plain, field, database))
