"""``Databases``: the named databases of one app and how its requests use them. What every adapter is given."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from fnmatch import fnmatchcase
from typing import Any

from peewee import Database, Proxy

from .adopt import adopt
from .databases import connect
from .pooled import Pooling
from .scope import Scope

DEFAULT = "default"


def commit_below_400(status: int) -> bool:
    """The default of ``commit_when``: commit what was answered with success or a redirect."""
    return status < 400


class Databases(Mapping[str, Any]):
    """A mapping of names to adopted Peewee databases, with the options of the scopes that use them.

    *databases* is a Peewee database (any class; an initialised `peewee.Proxy` counts as what it stands for), a URL,
    or a mapping of names to either; a single one is named ``"default"``. Options:

    - ``lazy`` (True): the first query takes the connection. False takes one of every database when the scope begins.
    - ``atomic`` (False): one transaction per scope and database.
    - ``commit_when`` (status below 400): whether an atomic request with this HTTP status commits.
    - ``exclude`` (none): paths (or names of routes, where a framework has them) without a scope; ``*`` matches any
      rest, as in ``"/static/*"``.

    Raises `TypeError` or `ValueError` for what can't be a database. Opens no connection. Immutable and thread-safe.
    """

    def __init__(
        self,
        databases: Any,
        *,
        lazy: bool = True,
        atomic: bool = False,
        commit_when: Callable[[int], bool] | None = None,
        exclude: Iterable[str] = (),
    ) -> None:
        if commit_when is not None and not callable(commit_when):
            raise TypeError(f"commit_when takes a function of the HTTP status, not {commit_when!r}")
        named = databases if isinstance(databases, Mapping) else {DEFAULT: databases}
        if not named:
            raise ValueError("no database given: pass a peewee.Database, a URL, or a mapping of names to either")
        self.lazy = lazy
        self.atomic = atomic
        self.commit_when = commit_when or commit_below_400
        self.exclude = (exclude,) if isinstance(exclude, str) else tuple(exclude)
        self._databases = {name: _resolve(name, database) for name, database in named.items()}
        self.adopted: tuple[Pooling, ...] = tuple(dict.fromkeys(self._databases.values()))

    @classmethod
    def of(cls, databases: Any, **options: Any) -> Databases:
        """*databases* itself if it is a ``Databases``, else a new one: what an adapter makes of its argument."""
        if not isinstance(databases, Databases):
            return cls(databases, **options)
        if options:
            raise TypeError(f"give {', '.join(sorted(options))} to Databases(...), which already holds the options")
        return databases

    def __getitem__(self, name: str) -> Any:
        try:
            return self._databases[name]
        except KeyError:
            raise KeyError(f"no database is named {name!r}: there is {', '.join(map(repr, self._databases))}") from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._databases)

    def __len__(self) -> int:
        return len(self._databases)

    def __repr__(self) -> str:
        return f"<Databases {', '.join(self._databases)}>"

    def __hash__(self) -> int:
        return id(self)

    def __eq__(self, other: object) -> bool:
        return self is other

    @property
    def default(self) -> Any:
        """The database named ``"default"``, or the only one."""
        if DEFAULT not in self._databases and len(self._databases) == 1:
            return next(iter(self._databases.values()))
        return self[DEFAULT]

    def scope(self, *, lazy: bool | None = None, atomic: bool | None = None) -> Scope:
        """A new scope on these databases, with their options unless given here. See `Scope` for its use."""
        return Scope(
            self,
            lazy=self.lazy if lazy is None else lazy,
            atomic=self.atomic if atomic is None else atomic,
        )

    def excludes(self, *routes: str | None) -> bool:
        """Whether a request to any of *routes* (its path, the name of its route) goes without a scope."""
        return bool(self.exclude) and any(
            fnmatchcase(route, pattern) for pattern in self.exclude for route in routes if route is not None
        )

    def close(self, timeout: float = 0.0) -> int:
        """Close the pools, and the calling thread's own connections: for the end of the process.

        Connections in use are given *timeout* seconds in all to come back. Returns how many were still out then; they
        are closed at their check-in. Work that goes on may open new ones.
        """
        deadline = time.monotonic() + timeout
        for database in self.adopted:
            with suppress(Exception):
                database.close()
        return sum(database.close_pool(max(0.0, deadline - time.monotonic())) for database in self.adopted)


def _resolve(name: object, database: Any) -> Pooling:
    if not isinstance(name, str):
        raise TypeError(f"a database's name is a string, not {name!r}")
    if isinstance(database, str):
        database = connect(database)
    while isinstance(database, Proxy):
        if database.obj is None:
            raise ValueError(f"the proxy given as database {name!r} has no database yet: call its initialize() first")
        database = database.obj
    adopted: Database = adopt(database)
    assert isinstance(adopted, Pooling)
    return adopted
