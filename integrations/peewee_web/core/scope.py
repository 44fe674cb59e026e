"""One unit of work, and how it is found.

Peewee keeps a connection per thread. A ``Scope`` holds one per database for one request, message or job instead, and
is found through a context variable, which follows the work across coroutines, worker threads and greenlets.

This file knows what a connection *state* is (``state.py``) and nothing of Peewee.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable
from contextvars import ContextVar
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from .bodies import ScopedAsyncGenerator, ScopedGenerator
from .errors import ScopeClosed, ScopeError
from .state import ConnectionState, HasState, ScopeAware, ScopedState

if TYPE_CHECKING:
    from typing_extensions import Self

    from .registry import Databases

F = TypeVar("F", bound=Callable[..., Any])

_active: ContextVar[Scope | None] = ContextVar("peewee_web.scope", default=None)


class CurrentState:
    """Stands where Peewee keeps its connection state, and leads to the state of the current scope.

    Outside a scope it leads to ``outside.state``: the thread's own, as in Peewee.
    """

    __slots__ = ("_database", "_outside")

    def __init__(self, database: ScopeAware, outside: HasState) -> None:
        self._database = database
        self._outside = outside

    def replace_outside(self, outside: HasState) -> None:
        self._outside = outside

    def find(self) -> ConnectionState:
        scope = _active.get()
        if scope is None:
            return self._outside.state
        return scope.states.get(self._database) or scope.state_of(self._database)

    @property
    def closed(self) -> bool:
        return self.find().closed

    @property
    def conn(self) -> Any:
        return self.find().conn

    @property
    def ctx(self) -> list[Any]:
        state = self.find()
        if state.ended:  # asked for at both ends of a `with db:` block, which may have outlived its scope
            raise ScopeClosed
        return state.ctx

    @property
    def transactions(self) -> list[Any]:
        return self.find().transactions

    @property
    def commit_callbacks(self) -> list[Callable[[], Any]]:
        return self.find().commit_callbacks

    def reset(self) -> None:
        self.find().reset()

    def set_connection(self, conn: Any) -> None:
        self.find().set_connection(conn)


class History:
    """What a unit of work has written, and what it must see at least. Shared by the scopes that are begun in it."""

    __slots__ = ("positions", "written")

    def __init__(self) -> None:
        #: The databases that have been written to.
        self.written: set[object] = set()
        #: How far a replica of a database must have got, by database.
        self.positions: dict[object, str] = {}


class Activation:
    """Makes a scope (or none) the current one for the length of a ``with`` block, and then what was current before."""

    __slots__ = ("_outer", "_scope")

    def __init__(self, scope: Scope | None) -> None:
        self._scope = scope

    def __enter__(self) -> None:
        self._outer = _active.get()
        _active.set(self._scope)

    def __exit__(self, exc_type: type[BaseException] | None = None, *exc_info: object) -> None:
        # A coroutine that was dropped half-way is closed wherever the garbage collector runs, amid the work of another.
        if exc_type is GeneratorExit and _active.get() is not self._scope:
            return
        # Not Token.reset: a framework may run the two halves of a hook in different contexts.
        _active.set(self._outer)


class Scope:
    """One unit of work: a request, a websocket message, a job.

    Use ``scope()`` or ``Databases.scope()`` to make one, and use it once: as a context manager (``with`` or
    ``async with``) or as a decorator of a function, a coroutine function or a generator function. An adapter drives
    the same steps itself: ``activate()`` around each piece of the request's code, ``complete()`` when the outcome is
    known, ``end()`` when the last byte is out.

    A database takes part when it first connects; threads and tasks of one scope share its connection, and their
    statements are serialised. All methods may be called from any thread.
    """

    _ended = True  # what the finalizer sees of a scope whose constructor was called wrongly

    def __init__(
        self,
        databases: Databases | None = None,
        *,
        lazy: bool = True,
        atomic: bool = False,
        read_only: bool = False,
        history: History | None = None,
    ) -> None:
        self.databases = databases
        self.lazy = lazy
        #: Whether a statement that would write raises `ReadOnlyScope`.
        self.read_only = read_only
        self.history = History() if history is None else history
        self._atomic = atomic
        #: The connection state of each database that took part, by database.
        self.states: dict[ScopeAware, ScopedState] = {}
        self._activation: Activation | None = None
        self._ended = False

    def __repr__(self) -> str:
        what = "ended" if self._ended else "atomic" if self._atomic else "open"
        held = sum(state.conn is not None for state in self.states.values())
        return f"<Scope {what}, {held} connection{'' if held == 1 else 's'} held>"

    # What the code of the unit of work sees.

    @property
    def ended(self) -> bool:
        return self._ended

    @property
    def atomic(self) -> bool:
        """Whether the databases of this scope run in one transaction each, which ``complete()`` ends."""
        return self._atomic

    def state_of(self, database: ScopeAware) -> ScopedState:
        """The connection state of *database* in this scope, made when it is first asked for."""
        state = self.states.get(database)
        if state is None:
            state = self.states.setdefault(database, ScopedState(database, self))
            if self._ended:  # asked after the entry was made: end() has either seen the entry, or is seen here
                state.end()
        return state

    def is_atomic_for(self, database: ScopeAware) -> bool:
        return self._atomic and (self.databases is None or database in self.databases.transactional)

    def set_atomic(self, atomic: bool) -> None:
        """Opt this unit of work in or out, whatever the adapter was set to.

        Opting in begins the transaction on connections that are open already; opting out commits what was begun.
        """
        self._atomic = atomic
        with self.activate():
            for database, state in list(self.states.items()):
                if not atomic:
                    database.finish_request_transaction(state, commit=True)
                elif not state.closed and self.is_atomic_for(database):
                    database.begin_request_transaction(state)

    # What drives it.

    def activate(self) -> Activation:
        """A context manager in which this scope is the current one."""
        return Activation(self)

    def connect(self) -> None:
        """Take a connection of every database now, so that "no database" is known before any work is done.

        Raises `PoolTimeout` or `DatabaseUnavailable`.
        """
        with self.activate():
            for database in self._registered():
                database.ensure_open()

    async def connect_async(self) -> None:
        """The same without blocking the event loop."""
        with self.activate():
            for database in self._registered():
                await database.ensure_open_async()

    def complete(self, commit: bool) -> None:
        """End the transactions of an atomic scope. Raises what a commit raises; the rest is then rolled back.

        A rollback does not raise: where the connection is lost, the server has rolled back already.
        """
        if not self._atomic:
            return
        self._atomic = False  # what runs after the outcome is known (a streamed body) runs in autocommit
        pending = list(self.states.items())
        with self.activate():
            try:
                while commit and pending:
                    database, state = pending.pop(0)
                    database.finish_request_transaction(state, commit=True)
            finally:
                for database, state in pending:
                    database.finish_request_transaction(state, commit=False)

    def release(self, force: bool = False) -> None:
        """Give connections back early; a later query takes another.

        Connections in a transaction or a ``with db:`` block stay, unless *force* is true: then a transaction is rolled
        back and warned about, as at the end. Never raises and never blocks.
        """
        for state in list(self.states.values()):
            state.release(force)

    def end(self) -> None:
        """Roll back what is open, give every connection back. Never raises; ending twice is ending once."""
        self._ended = True
        for state in list(self.states.values()):
            state.end()

    def __del__(self) -> None:
        if not self._ended:
            self.abandon(by_mistake=True)

    def abandon(self, by_mistake: bool) -> None:
        """``end()`` for a finalizer, which takes no lock. *by_mistake* makes the next checkout log an error."""
        self._ended = True
        for state in list(self.states.values()):
            state.abandon(by_mistake)

    def _registered(self) -> Iterable[ScopeAware]:
        return () if self.databases is None else self.databases.settled().adopted

    # As a context manager.

    def __enter__(self) -> Self:
        self._begin()
        if not self.lazy:
            try:
                self.connect()
            except BaseException:
                self._finish()
                raise
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self.complete(commit=exc_type is None)
        finally:
            self._finish(exc_type)

    async def __aenter__(self) -> Self:
        self._begin()
        if not self.lazy:
            try:
                await self.connect_async()
            except BaseException as error:
                self._finish(type(error))
                raise
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.__exit__(exc_type, exc, traceback)

    def _begin(self) -> None:
        if self._ended or self._activation is not None:
            raise ScopeError("this scope was used before; a scope is one unit of work: make a new one with scope()")
        self._activation = self.activate()
        self._activation.__enter__()

    def _finish(self, exc_type: type[BaseException] | None = None) -> None:
        activation, self._activation = self._activation, None  # it refers to us
        assert activation is not None
        activation.__exit__(exc_type)
        self.end()

    # As a decorator.

    def __call__(self, function: F) -> F:
        """Run each call of *function* in a new scope with the options of this one."""
        options: dict[str, Any] = {"lazy": self.lazy, "atomic": self._atomic, "read_only": self.read_only}

        def fresh() -> Scope:
            return _within(_active.get(), **options) if self.databases is None else Scope(self.databases, **options)

        if inspect.isasyncgenfunction(function):

            @functools.wraps(function)
            def stream_async(*args: Any, **kwargs: Any) -> Any:
                return ScopedAsyncGenerator(function(*args, **kwargs), fresh())

            return stream_async  # type: ignore[return-value]  # wraps() keeps the shape, which F can't express
        if inspect.isgeneratorfunction(function):

            @functools.wraps(function)
            def stream(*args: Any, **kwargs: Any) -> Any:
                return ScopedGenerator(function(*args, **kwargs), fresh())

            return stream  # type: ignore[return-value]  # wraps() keeps the shape, which F can't express
        if inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def call_async(*args: Any, **kwargs: Any) -> Any:
                async with fresh():
                    return await function(*args, **kwargs)

            return call_async  # type: ignore[return-value]  # wraps() keeps the shape, which F can't express

        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            with fresh():
                return function(*args, **kwargs)

        return call  # type: ignore[return-value]  # wraps() keeps the shape, which F can't express


def scope() -> Scope:
    """A new unit of work, with connections of its own: ``with scope():``, ``async with scope():`` or ``@scope()``.

    Inside another scope (a request) it gives parallel or separate work a connection of its own, on the same named
    databases. Code that outlives its request must open one.
    """
    return _within(_active.get())


def _within(outer: Scope | None, **options: Any) -> Scope:
    if outer is None:
        return Scope(**options)
    return Scope(outer.databases, history=outer.history, **options)


def current_scope() -> Scope | None:
    """The scope that this code runs in, or ``None``."""
    return _active.get()
