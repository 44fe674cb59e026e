"""``Databases``: the named databases of one app and how its requests use them. What every adapter is given."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from fnmatch import fnmatchcase
from typing import Any, TypeVar, overload

from peewee import Database, Proxy

from .adopt import adopt
from .bookmarks import Bookmark
from .databases import connect
from .pooled import Pooling
from .proxies import StandIn
from .replicas import ReplicatedDatabase
from .scope import History, Scope, current_scope

DEFAULT = "default"
# RFC 9110, 9.2.1. (TRACE is answered by servers.)
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})

S = TypeVar("S", bound=Scope)


def commit_below_400(status: int) -> bool:
    """The default of ``commit_when``: commit what was answered with success or a redirect."""
    return status < 400


class Databases(Mapping[str, Any]):
    """A mapping of names to adopted Peewee databases, with the options of the scopes that use them.

    *databases* is a Peewee database (any class; an initialised `peewee.Proxy` counts as what it stands for), a
    `ReplicatedDatabase`, a URL, or a mapping of names to any of them; a single one is named ``"default"``. Options:

    - ``lazy`` (True): the first query takes the connection. False takes one of every database when the scope begins.
    - ``atomic`` (False): one transaction per scope and database. Names, as in ``["default"]``, mean only these.
    - ``commit_when`` (status below 400): whether an atomic request with this HTTP status commits.
    - ``exclude`` (none): paths (or names of routes, where a framework has them) without a scope; ``*`` matches any
      rest, as in ``"/static/*"``.
    - ``choose`` (none): which database a request has for its default: a function of the framework's request that
      returns a name of *databases* or a Peewee database. It is called when the default database is first asked for, in
      the request, so that what it raises is answered as if a view had raised it.
    - ``read_only`` (False): requests with a safe method (GET, HEAD, OPTIONS) only read: a statement that would write
      raises `ScopeError`, and a `ReplicatedDatabase` reads from replicas although requests are atomic.

    Raises `TypeError` or `ValueError` for what can't be a database. Opens no connection. Immutable and thread-safe.
    """

    def __init__(
        self,
        databases: Any,
        *,
        lazy: bool = True,
        atomic: bool | Iterable[str] = False,
        commit_when: Callable[[int], bool] | None = None,
        exclude: Iterable[str] = (),
        choose: Callable[[Any], Any] | None = None,
        read_only: bool = False,
    ) -> None:
        if choose is not None and (not callable(choose) or _is_coroutine_function(choose)):
            raise TypeError(f"choose takes a plain function of the request, not {choose!r}")
        if commit_when is not None and not callable(commit_when):
            raise TypeError(f"commit_when takes a function of the HTTP status, not {commit_when!r}")
        named = databases if isinstance(databases, Mapping) else {DEFAULT: databases}
        if not named:
            raise ValueError("no database given: pass a peewee.Database, a URL, or a mapping of names to either")
        self.lazy = lazy
        self.read_only = read_only
        self.choose = choose
        self.commit_when = commit_when or commit_below_400
        self.exclude = (exclude,) if isinstance(exclude, str) else tuple(exclude)
        self._databases = {name: resolve(name, database) for name, database in named.items()}
        #: Whether scopes are atomic; and if not for all databases, for which.
        self.atomic, self.atomic_names = _read_atomic(atomic, self._databases)
        #: Whether requests differ in nothing but their connections.
        self.is_plain = choose is None and not read_only and not self.replicated

    @property
    def origin(self) -> Databases:
        """What the app was configured with, of which this may be what one request sees."""
        return self

    @property
    def adopted(self) -> tuple[Pooling, ...]:
        """The databases, each once; of replicated ones the primaries of now."""
        return _unreplicated(self._databases.values())

    @property
    def transactional(self) -> tuple[Pooling, ...]:
        """Those that an atomic scope covers."""
        if self.atomic_names is None:
            return self.adopted
        return _unreplicated(self._databases[name] for name in self.atomic_names)

    @property
    def replicated(self) -> dict[str, ReplicatedDatabase]:
        """Those that have replicas, by name."""
        return {name: database for name, database in self._databases.items() if _is_replicated(database)}

    @property
    def pools(self) -> tuple[Pooling, ...]:
        """All that has connections: the databases, each once, and their replicas."""
        replicas = [member for database in self.replicated.values() for member in database.members]
        return tuple(dict.fromkeys((*self.adopted, *replicas)))

    def settled(self) -> Databases:
        """This, with a default database that is known by now. Raises what ``choose`` raises."""
        return self

    def name_of(self, database: object) -> str | None:
        """The name by which *database*, or a replica's primary, is known here."""
        for name, named in self._databases.items():
            if named is database or (_is_replicated(named) and database in named.members):
                return name
        return None

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

    def __contains__(self, name: object) -> bool:  # Mapping's would have the default one chosen
        return name in self._databases

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
        return self[self._default_name]

    @property
    def _default_name(self) -> str:
        if DEFAULT not in self._databases and len(self._databases) == 1:
            return str(next(iter(self._databases)))
        return DEFAULT

    def scope(
        self, *, lazy: bool | None = None, atomic: bool | None = None, read_only: bool = False, **databases: Any
    ) -> Scope:
        """A new scope on these databases, with their options unless given here. See `Scope` for its use.

        *databases* stand in it for those of their names: ``scope(default=tenant_db)``. Each is a Peewee database or the
        name of another one. In a *read_only* scope a statement that would write raises `ScopeError`.
        """
        outer = current_scope()
        return Scope(
            self._selection(databases) if databases else self,
            history=None if outer is None else outer.history,
            lazy=self.lazy if lazy is None else lazy,
            atomic=self.atomic if atomic is None else atomic,
            read_only=read_only,
        )

    @overload
    def scope_for(
        self, method: str, header: Callable[[str], str | None], request: Callable[[], Any], **options: Any
    ) -> Scope: ...
    @overload
    def scope_for(
        self,
        method: str,
        header: Callable[[str], str | None],
        request: Callable[[], Any],
        kind: type[S],
        **options: Any,
    ) -> S: ...
    def scope_for(
        self,
        method: str,
        header: Callable[[str], str | None],
        request: Callable[[], Any],
        kind: type[Scope] = Scope,
        **options: Any,
    ) -> Scope:
        """The scope of a request, of class *kind*: what an adapter begins.

        *method* is the request's, *header* gives a header of it by name, *request* the framework's own object, when
        ``choose`` has to have it. *options* (``lazy``, ``atomic``) go before those of the databases.
        """
        options = {"lazy": self.lazy, "atomic": self.atomic, **options}
        if self.is_plain:
            return kind(self, **options)
        choose = self.choose
        history = History()

        def remember(name: str, database: Any) -> None:
            if _is_replicated(database) and database not in history.positions:
                database.remember_from(header, self._bookmark_name(name, database), history)

        for name, database in self.replicated.items():
            remember(name, database)
        seen = self if choose is None else self._selection({}, lambda: choose(request()), remember)
        read_only = self.read_only and method in SAFE_METHODS
        return kind(seen, read_only=read_only, history=history, **options)

    def _selection(self, replaced: Mapping[str, Any], *choice: Any) -> Databases:
        from .selection import Selection  # which is one of these

        return Selection(self, replaced, *choice)

    def bookmarks_after(self, scope: Scope) -> list[Bookmark]:
        """What the response of *scope* tells the client, so that its next request sees what this one has written.

        To be asked when the transaction has ended, before the headers go. Never raises.
        """
        databases = scope.databases
        if databases is None or databases.is_plain:
            return []
        with scope.activate():
            names = {database: self._bookmark_name(name, database) for name, database in databases.replicated.items()}
            bookmarks = [database.bookmark_after(name, scope.history) for database, name in names.items()]
        return [bookmark for bookmark in bookmarks if bookmark is not None]

    def _bookmark_name(self, name: str, database: ReplicatedDatabase) -> str:
        """What *database*, which stands for *name*, is called in bookmarks: one name, whichever request it is for."""
        return self.origin.name_of(database) or f"{name} {database.identity}"

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
        for database in self.pools:
            with suppress(Exception):
                database.close()
        return sum(database.close_pool(max(0.0, deadline - time.monotonic())) for database in self.pools)


def _is_coroutine_function(function: Any) -> bool:
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__)


def _read_atomic(atomic: Any, databases: Mapping[str, Any]) -> tuple[bool, tuple[str, ...] | None]:
    if isinstance(atomic, bool):
        return atomic, None
    names = (atomic,) if isinstance(atomic, str) else tuple(atomic)
    unknown = [name for name in names if name not in databases]
    if unknown:
        raise ValueError(f"atomic names {unknown[0]!r}, but there is {', '.join(map(repr, databases))}")
    return bool(names), names


def _is_replicated(database: object) -> bool:
    return isinstance(database, ReplicatedDatabase)


def _unreplicated(databases: Iterable[Any]) -> tuple[Pooling, ...]:
    return tuple(dict.fromkeys(database.obj if _is_replicated(database) else database for database in databases))


def resolve(name: object, database: Any) -> Any:
    if not isinstance(name, str):
        raise TypeError(f"a database's name is a string, not {name!r}")
    if isinstance(database, str):
        database = connect(database)
    while isinstance(database, Proxy) and not _is_replicated(database):
        database = database.find() if isinstance(database, StandIn) else database.obj
        if database is None:
            raise ValueError(f"the proxy given as database {name!r} has no database yet: call its initialize() first")
    if _is_replicated(database):
        return database
    adopted: Database = adopt(database)
    assert isinstance(adopted, Pooling)
    return adopted
