"""How a model follows the context: its database is that of the block that this code is in, for other code its own.

A model that a block is to switch has the classes of what Peewee keeps for it (metadata, schema manager, table) changed
to subclasses whose attributes look for the block; others are not touched. How blocks are entered and left, and what
may be given for a database, is left to ``using.py``. Knows nothing of scopes and connections.
"""

from __future__ import annotations

import functools
from contextvars import ContextVar
from typing import Any

from peewee import Metadata, SchemaManager, Table

from .fields import follow


class Block:
    """One entry into a block: who has made it, and where models live in it. Contexts share it: it does not change."""

    __slots__ = ("databases", "holder")

    def __init__(self, holder: object, databases: dict[Any, Any]) -> None:
        self.holder = holder
        self.databases = databases


# The blocks that this context is in, the innermost last.
entered: ContextVar[tuple[Block, ...]] = ContextVar("peewee_web.using", default=())


def make_switching(model: Any, database: Any) -> None:
    """Have *model* live where the block says that its user is in. *database*, one of those, tells what its fields need.

    Also by several threads at once: each makes the same changes, unless it finds them made.
    """
    for switching, each in ((_SwitchingMetadata, model._meta), (_SwitchingSchemaManager, model._schema)):
        plain: Any = type(each)
        if not issubclass(plain, switching):
            each.__class__ = _subclass(plain, switching)
    for hook in model._meta._db_hooks:
        follow(hook, database)


def own_database(model: Any) -> Any:
    """Where *model* lives outside any block. Raises `TypeError` if its metadata switches databases by itself."""
    meta = model._meta
    if hasattr(type(meta), "database") and not isinstance(meta, _SwitchingMetadata):
        raise TypeError(
            f"the {type(meta).__name__} of {model.__name__} switches databases itself: leave it out of "
            "model_metadata_class, using() does without"
        )
    return vars(meta)["database"]


@functools.cache
def _subclass(plain: Any, switching: type) -> Any:
    namespace = {name: getattr(plain, name) for name in ("__module__", "__qualname__", "__doc__")}
    return type(plain.__name__, (switching, plain), namespace)


def _block_of(model: Any) -> Block | None:
    for block in reversed(entered.get()):
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
            changed = Block(bound.holder, {**bound.databases, model: database})
            entered.set(tuple(changed if block is bound else block for block in entered.get()))


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
