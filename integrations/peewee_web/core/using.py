"""``using()``: models on another database for a block, in this context only.

The first block that a model is in changes the classes of what Peewee keeps for it (metadata, schema manager, table,
and fields that depend on the kind of database) to subclasses that look for the block they are used in. A model that
was never in one is not touched. Knows nothing of connections.
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

# What SQL is built for a model depends on these, and so do the values of some fields.
FAMILIES = ((SqliteDatabase, "SQLite"), (PostgresqlDatabase, "PostgreSQL"), (MySQLDatabase, "MySQL"))


class _Block:
    """One entry into a block: who has made it, and where models live in it."""

    __slots__ = ("databases", "fields", "holder")

    def __init__(self, holder: object, databases: dict[Any, Any]) -> None:
        self.holder = holder
        self.databases = databases
        #: What fields have been told of their database, by the field's identity. (Fields compare as SQL does.)
        self.fields: dict[int, dict[str, Any]] = {}

    def attributes_of(self, field: Any) -> dict[str, Any]:
        """Those of *field* as they are if its model lives in the block's database."""
        if id(field) not in self.fields:
            self.fields[id(field)] = vars(_told(type(field).__base__, field, self.databases[field.model]))
        return self.fields[id(field)]


# Those that this context is in, the innermost last.
_blocks: ContextVar[tuple[_Block, ...]] = ContextVar("peewee_web.using", default=())


def _block_of(model: Any) -> _Block | None:
    for block in reversed(_blocks.get()):
        if model in block.databases:
            return block
    return None


class _SwitchingMetadata(Metadata):
    @property
    def database(self) -> Any:
        block = _block_of(self.model)
        # Its own stays where Peewee looks for what a subclass, declared wherever, inherits.
        return vars(self)["database"] if block is None else block.databases[self.model]

    @database.setter
    def database(self, database: Any) -> None:
        """As in Peewee's ``bind_ctx``, a model that is bound in the block is so until its end. (``bind_ctx`` binds.)"""
        bound = _block_of(self.model)
        if bound is None:
            vars(self)["database"] = database
        else:
            changed = _Block(bound.holder, {**bound.databases, self.model: database})
            _blocks.set(tuple(changed if block is bound else block for block in _blocks.get()))

    def set_database(self, database: Any) -> None:
        if _block_of(self.model) is None:
            super().set_database(database)  # type: ignore[no-untyped-call]
        else:
            self.database = database

    @property
    def table(self) -> Table:
        table = super().table
        if type(table) is Table:  # a new one, perhaps made in a block
            table._database = vars(self)["database"]
            table.__class__ = _SwitchingTable
        return table

    @table.deleter
    def table(self) -> None:
        self._table = None


class _SwitchingSchemaManager(SchemaManager):
    @property
    def database(self) -> Any:
        block = _block_of(self.model)
        return super().database if block is None else block.databases[self.model]

    @database.setter
    def database(self, database: Any) -> None:
        self._database = database


class _SwitchingTable(Table):
    @property
    def _database(self) -> Any:
        block = _block_of(self._model)
        return vars(self)["_database"] if block is None else block.databases[self._model]

    @_database.setter
    def _database(self, database: Any) -> None:
        vars(self)["_database"] = database


class _Told:
    """An attribute that a field's hook sets, as that of ``BlobField`` and ``JSONField``, to suit the database."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __get__(self, field: Any, owner: type) -> Any:
        block = _block_of(field.model)
        try:
            return (vars(field) if block is None else block.attributes_of(field))[self._name]
        except KeyError:  # an alias asks the field itself then
            raise AttributeError(self._name) from None

    def __set__(self, field: Any, value: Any) -> None:
        vars(field)[self._name] = value


def _told(kind: type, field: Any, database: Any) -> Any:
    """A copy of *field*, of the class *kind*, that was told that it lives in *database*."""
    copied: Any = object.__new__(kind)
    vars(copied).update(vars(field))
    copied._db_hook(database)
    return copied


@functools.cache
def _subclass(plain: type, *first: type, told: frozenset[str] | None = None) -> type:
    namespace: dict[str, Any] = {name: _Told(name) for name in told or ()}
    namespace |= {"__module__": plain.__module__, "__qualname__": plain.__qualname__, "__doc__": plain.__doc__}
    if told is not None:
        namespace["_told"] = told
    return type(plain.__name__, (*first, plain), namespace)


def _make_switching(model: Any, database: Any) -> None:
    """Also by several threads at once: each makes the same changes, unless it finds them made."""
    for switching, each in ((_SwitchingMetadata, model._meta), (_SwitchingSchemaManager, model._schema)):
        plain = type(each)
        if not issubclass(plain, switching):
            each.__class__ = _subclass(plain, switching)
    for hook in model._meta._db_hooks:
        field = getattr(hook, "__self__", None)
        plain = type(field)
        if isinstance(field, FieldDatabaseHook) and not hasattr(plain, "_told"):
            field.__class__ = _subclass(plain, told=_names_told(plain, field, database))


def _names_told(plain: type, field: Any, database: Any) -> frozenset[str]:
    names = set()

    def note(copied: Any, name: str, value: Any) -> None:
        names.add(name)
        vars(copied)[name] = value

    _told(type(plain.__name__, (plain,), {"__setattr__": note}), field, database)
    return frozenset(names)


class Using:
    """What ``using()`` returns. It may be entered any number of times, also at once and within itself."""

    def __init__(self, database: Any, models: Iterable[type[Model]], bind_refs: bool, bind_backrefs: bool) -> None:
        if isinstance(database, str):
            if "://" in database:
                raise ValueError(
                    "using() takes no URL: connect it once with peewee_web.connect(), and give the database that returns"
                )
        elif not isinstance(database, (Database, Proxy)):
            raise TypeError(
                f"{_described(database)} is not a Peewee database: give using() one, a proxy of one, or the name of "
                "one in the current scope"
            )
        if isinstance(models, (type, str)) or not isinstance(models, Iterable):
            raise TypeError(f"using() takes a list of model classes, such as [User, Tweet], not {_described(models)}")
        self._database = database
        self._models = tuple(models)
        self._refs, self._backrefs = bind_refs, bind_backrefs
        if not self._models:
            raise ValueError("using() was given no models: list those that are to switch, such as [User, Tweet]")
        for model in self._models:
            if not (isinstance(model, type) and issubclass(model, Model) and hasattr(model, "_meta")):
                raise TypeError(f"{_described(model)} is no model class: list classes derived from peewee.Model")

    def __enter__(self) -> Any:
        database = self._database_at_hand()
        _blocks.set((*_blocks.get(), _Block(self, self._switched_to(database))))
        return database

    def __exit__(self, *exc_info: object) -> None:
        # Not Token.reset: the two halves may run in different contexts, and a coroutine that was dropped is closed
        # amid the work of another. That one has not entered this block.
        blocks = _blocks.get()
        for place in reversed(range(len(blocks))):
            if blocks[place].holder is self:
                _blocks.set(blocks[:place] + blocks[place + 1 :])
                break

    async def __aenter__(self) -> Any:
        return self.__enter__()

    async def __aexit__(self, *exc_info: object) -> None:
        self.__exit__(*exc_info)

    def _database_at_hand(self) -> Any:
        database = self._database
        if isinstance(database, str):
            return _named(database)
        while isinstance(database, Proxy):
            database = database.obj
        if database is None:
            raise ValueError(
                "the proxy given to using() has no database yet: call its initialize() first, or for a ScopedDatabase "
                "enter the block in a request, or inside `with databases.scope():`"
            )
        adopt(database)
        return self._database

    def _switched_to(self, database: Any) -> dict[Any, Any]:
        family = _family(database.obj if isinstance(database, ScopedDatabase) else database)
        switched: dict[Any, Any] = {}
        related: list[Any] = list(self._models)
        while related:
            model = related.pop()
            if model in switched:
                continue
            meta = model._meta
            if hasattr(type(meta), "database") and not isinstance(meta, _SwitchingMetadata):
                raise TypeError(
                    f"the {type(meta).__name__} of {model.__name__} switches databases itself: leave it out "
                    "(model_metadata_class), using() does without"
                )
            lives_in = _family(vars(meta)["database"])
            if None not in (family, lives_in) and family != lives_in:
                raise TypeError(
                    f"{model.__name__} lives in {lives_in} and using() was given {family}: give a {lives_in} database, "
                    f"or declare {model.__name__} without a database to use it with any kind"
                )
            _make_switching(model, database)
            switched[model] = database
            for field in list(meta.manytomany.values()):
                field.get_through_model()  # made when asked for, for the database of then: not in the block, therefore
            related += meta.refs.values() if self._refs else ()
            related += meta.backrefs.values() if self._backrefs else ()
        return switched

    def __call__(self, function: F) -> F:
        """Run each call of *function* in the block; of a generator function each step, until it ends."""
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
                            raise
                        except BaseException as error:
                            advance = generator.athrow(error)
                except StopAsyncIteration:
                    pass
                finally:
                    with step:
                        await generator.aclose()

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
