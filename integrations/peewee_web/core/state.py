"""The state of one connection: in a scope, or of a thread outside any.

Knows who may use the connection now and when it is to be given back. Opening it and giving it back is the business of
the adopted database (``connections.py``).
"""

from __future__ import annotations

import functools
import threading
import weakref
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from . import fork
from .lease import Lease
from .places import Place, caller

if TYPE_CHECKING:
    from .retry import Journal
    from .scope import Scope

# Stands in `ConnectionState.ctx` for a connection that the scope opened, not a `with db:` block: Peewee closes the
# connection when the last block leaves `ctx`, and the scope never leaves it.
OPENED_BY_SCOPE = object()


class _ParentsBlock:
    """Stands in a forked child's ``ctx`` for a ``with db:`` block that its parent entered: it has nothing to end."""

    def __exit__(self, *exc_info: object) -> None:
        pass


_PARENTS_BLOCK = _ParentsBlock()


class OpenTransaction:
    """A transaction on a connection, from its BEGIN to its end."""

    __slots__ = ("journal", "place", "wrote")

    def __init__(self, place: Place, journal: Journal | None) -> None:
        self.place = place
        #: That of the function in which it began which may be run again, if it began in one.
        self.journal = journal
        #: Whether it has written something.
        self.wrote = False


class Inside:
    """True for the thread that has entered it, in its turn, and for no other."""

    __slots__ = ("_depth", "_thread")

    def __init__(self) -> None:
        self._depth = self._thread = 0

    def __bool__(self) -> bool:
        return self._depth > 0 and self._thread == threading.get_ident()

    def __enter__(self) -> None:
        self._thread = threading.get_ident()
        self._depth += 1

    def __exit__(self, *exc_info: object) -> None:
        self._depth -= 1


class ConnectionState:
    """What Peewee keeps of one connection: the attributes and methods of its own ``_ConnectionState``.

    Entered as a context manager for each statement; this one, for a single thread, has nothing to do then.
    """

    scoped = False
    ended = False
    #: Whether a statement that would write is not to be sent.
    read_only = False

    __slots__ = (
        "__weakref__",
        "closed",
        "commit_callbacks",
        "conn",
        "ctx",
        "inside",
        "is_beginning",
        "lease",
        "lost",
        "open_transaction",
        "reader",
        "transactions",
        "written",
    )

    conn: Any
    closed: bool
    #: Under which the pool has lent the connection. (None for one that somebody has put here by hand.)
    lease: Lease | None
    ctx: list[Any]
    transactions: list[Any]
    commit_callbacks: list[Callable[[], Any]]
    #: The one that Peewee has begun. (What began in SQL, the driver knows.)
    open_transaction: OpenTransaction | None
    #: Whether the connection was lost and could not be replaced yet.
    lost: bool
    #: Entered while a statement or a transaction's end is under way.
    inside: Inside
    #: Whether a connection is being made ready for its use here.
    is_beginning: bool

    #: The replica that reads are sent to in place of this database, once one is chosen.
    reader: Any
    #: Whether something was written, outside a scope, since the connection was opened.
    written: bool

    def __init__(self) -> None:
        self.reader = None
        self.open_transaction = None
        self.inside = Inside()
        self.is_beginning = False
        self.reset()

    def reset(self) -> None:
        self.part()
        self.lost = self.written = False
        if not self.scoped:
            self.reader = None
        self.ctx, self.transactions, self.commit_callbacks = [], [], []

    def hold(self, lease: Lease) -> None:
        """Go on with the connection of *lease*."""
        self.conn, self.closed, self.lease, self.lost = lease.connection, False, lease, False
        lease.holder = weakref.ref(self)

    def part(self) -> None:
        """Go on without a connection, in the blocks that are under way."""
        self.end_transaction()
        self.conn = self.lease = None
        self.closed = self.lost = True

    @property
    def transaction_place(self) -> Place | None:
        """Where the open transaction began."""
        return None if self.open_transaction is None else self.open_transaction.place

    def note_write(self) -> None:
        """From now on reads have to see what has been written here."""
        self.written = True

    def begin_transaction(self, place: Place, journal: Journal | None) -> None:
        self.end_transaction()
        self.open_transaction = OpenTransaction(place, journal)
        if journal is not None:
            journal.open_transactions += 1

    def end_transaction(self) -> None:
        ended, self.open_transaction = self.open_transaction, None
        if ended is not None and ended.journal is not None:
            ended.journal.open_transactions -= 1

    def set_connection(self, conn: Any) -> None:
        self.reset()
        self.conn, self.closed = conn, conn is None

    def take_over(self, other: Any, admit: Callable[[Any], Lease]) -> None:
        """Go on with the connection that *other*, Peewee's own state, has open, and what is under way on it."""
        if not other.closed:
            self.hold(admit(other.conn))
            self.ctx, self.transactions, self.commit_callbacks = other.ctx, other.transactions, other.commit_callbacks
            if self.transactions:
                self.begin_transaction(caller(), None)  # nobody knows where it began
            other.reset()

    def keep_open(self) -> None:
        """Let the scope be what keeps the connection, below any `with db:` block."""
        if OPENED_BY_SCOPE not in self.ctx:
            self.ctx.insert(0, OPENED_BY_SCOPE)

    def lose_to_parent(self) -> bool:
        """As `lease.Holder`. The blocks that the child is in are still to be left."""
        blocks = [block if block is OPENED_BY_SCOPE else _PARENTS_BLOCK for block in self.ctx]
        self.reset()
        self.ctx = blocks
        return True

    def __enter__(self) -> None:
        pass

    def __exit__(self, *exc_info: object) -> None:
        pass

    def take_turn_if_free(self) -> bool:
        """Enter it, unless another thread has; returns whether so."""
        return True


class Orphan(NamedTuple):
    """A connection whose thread died, or whose scope went without an end. The next checkout takes it back."""

    lease: Lease
    transaction_place: Place | None
    by_mistake: bool


class ThreadState(ConnectionState):
    """The connection of a thread outside any scope. When the thread dies, it is left in *orphans* for the pool."""

    __slots__ = ("_orphans",)

    def __init__(self, orphans: deque[Orphan]) -> None:
        super().__init__()
        self._orphans = orphans

    def __del__(self) -> None:  # a finalizer takes no lock: it may run while this thread holds it
        if self.lease is not None:
            self._orphans.append(Orphan(self.lease, self.transaction_place, by_mistake=False))


class HasState(Protocol):
    """Where the state of code outside any scope is found."""

    @property
    def state(self) -> ConnectionState: ...


def thread_states(orphans: deque[Orphan], before: Any, admit: Callable[[Any], Lease]) -> HasState:
    """One ``ThreadState`` for each thread, or greenlet, that asks. It goes on with what Peewee's own had open there."""

    class ThreadStates(threading.local):  # as it is now: gevent puts its own in place, also after we were imported
        def __init__(self) -> None:
            self.state: ConnectionState = ThreadState(orphans)
            self.state.take_over(before, admit)

    return ThreadStates()


class SharedState:
    """One state for all threads: what Peewee's ``thread_safe=False`` asks for."""

    def __init__(self, before: Any, admit: Callable[[Any], Lease]) -> None:
        self.state = ConnectionState()
        self.state.take_over(before, admit)


class ScopedState(ConnectionState):
    """The connection of one database in one scope, shared by the threads and tasks of that scope.

    Entering it takes the turn to use the connection: statements of one scope are serialised. When the scope ends
    while another thread has the turn, the connection is given back when that turn is over, and not before.
    """

    scoped = True

    __slots__ = (
        "_depth",
        "_forks",
        "_turn",
        "database",
        "ended",
        "ending",
        "history",
        "read_only",
        "request_transaction",
    )

    def __init__(self, database: ScopeAware, scope: Scope) -> None:
        super().__init__()
        self.database = database
        self.history = scope.history  # and not the scope itself, which refers to this
        self.read_only = scope.read_only
        self.ended = self.ending = False
        self.request_transaction: Any = None
        self._turn = threading.RLock()
        self._depth = 0
        self._forks = fork.count

    def note_write(self) -> None:
        self.history.written.add(self.database)

    def __enter__(self) -> None:
        if not self._turn.acquire(blocking=False):
            self._await_turn()
        self._depth += 1

    def take_turn_if_free(self) -> bool:
        free = self._turn.acquire(blocking=False)
        self._depth += free
        return free

    def _await_turn(self) -> None:
        if self._forks != fork.count:
            with fork.lock:
                if self._forks != fork.count:  # who has the turn is a thread of the parent's, and never gives it up
                    self._turn, self._depth, self._forks = threading.RLock(), 0, fork.count
        self._turn.acquire()

    def __exit__(self, *exc_info: object) -> None:
        self._depth -= 1
        self._turn.release()
        self._end_if_asked()

    def lose_to_parent(self) -> bool:
        super().lose_to_parent()
        self.request_transaction = None
        if not self._turn.acquire(blocking=False):
            return False
        self._turn.release()
        return True

    def end(self) -> None:
        """Give the connection back, now or when the turn under way is over. Does not block and does not raise."""
        self._end(self._give_back)

    def abandon(self, by_mistake: bool) -> None:
        """The same for a finalizer, which takes no lock: leave the connection for the next checkout to take back."""
        self._end(functools.partial(self._leave_orphan, by_mistake))

    def _end(self, let_go: Callable[[], None]) -> None:
        self.ending = True  # before the attempt: whoever has the turn looks at it after giving the turn up
        if self._turn.acquire(blocking=False):
            try:
                if self._depth == 0:
                    self.ended = True
                    let_go()
            finally:
                self._turn.release()

    def release(self, force: bool) -> None:
        """Give the connection back; the next query takes another. Unless forced, only if nothing is under way on it."""
        if self._turn.acquire(blocking=False):
            try:
                if self._depth == 0 and (force or self.is_quiet()):
                    self._give_back()
            finally:
                self._turn.release()
            self._end_if_asked()

    def _end_if_asked(self) -> None:
        """Called after each turn: an ``end()`` that came meanwhile could not have it."""
        if self.ending and not self.ended:
            self.end()

    def is_quiet(self) -> bool:
        """No transaction is open, no result half read, and no ``with db:`` block under way."""
        blocks = any(block is not OPENED_BY_SCOPE for block in self.ctx)
        return not (self.closed or blocks or self.database.is_busy(self))

    def _give_back(self) -> None:
        if self.conn is not None:
            self.database.give_back(self)

    def _leave_orphan(self, by_mistake: bool) -> None:
        if self.lease is not None:
            self.database.orphans.append(Orphan(self.lease, self.transaction_place, by_mistake))
            self.reset()


class ScopeAware(Protocol):
    """What a scope asks of a database: implemented by ``connections.ScopedConnections``."""

    @property
    def orphans(self) -> deque[Orphan]: ...

    def ensure_open(self) -> None: ...
    async def ensure_open_async(self) -> None: ...
    def is_busy(self, state: ConnectionState) -> bool: ...
    def give_back(self, state: ConnectionState) -> None: ...
    def begin_request_transaction(self, state: ScopedState) -> None: ...
    def finish_request_transaction(self, state: ScopedState, commit: bool) -> None: ...
