"""What a Peewee database does differently once its connections belong to scopes, and come from a pool.

All that is Peewee's own stays Peewee's: what is overridden here only decides which connection is meant, who may use it
now, and where it comes from and goes to.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import threading
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from peewee import Database, InterfaceError, OperationalError, SqliteDatabase

from . import fork, request_transaction
from .drivers import Status
from .errors import NoConnection, ScopeClosed
from .options import PoolOptions
from .physical import PhysicalConnections, in_peewees_terms
from .places import described
from .pool import Pool
from .scope import CurrentState, current_scope
from .state import ConnectionState, Orphan, ScopedState, SharedState, thread_states
from .transactions import (
    commits_by_itself,
    is_in_transaction,
    status_of,
    warn_of_open_transaction,
    was_in_transaction,
)

if TYPE_CHECKING:
    from .lease import Lease

logger = logging.getLogger("peewee_web")


class ScopedConnections(PhysicalConnections):
    """Mixin over a Peewee ``Database``: its connections belong to scopes. Thread-safe, and safe across coroutines."""

    #: The leases that finalizers have left to be checked in.
    orphans: deque[Orphan]

    def join_scopes(self, options: PoolOptions) -> None:
        """Replace the state and the lock that Peewee's constructor made. Called once, before the database is shared."""
        self.orphans = deque()
        self.pool = Pool(
            self.open_physical,
            options,
            close_connection=self.close_physical,
            reclaim=self.take_back_orphans,
            inline=isinstance(self, SqliteDatabase),
        )
        # A SQLite connection of before may be bound to its thread.
        admit = functools.partial(self.pool.admit, keep=not isinstance(self, SqliteDatabase))
        before = self._state
        self._local = threading.local if self.thread_safe else None
        outside = thread_states(self.orphans, before, admit) if self.thread_safe else SharedState(before, admit)
        self._state = CurrentState(self, outside)
        # Peewee holds this one over network calls; the turn of the scope's state takes its place.
        self._lock = ConnectionState()

    def _follow_patch(self) -> None:
        """From now on greenlets have states of their own: gevent has patched late (as under ``gunicorn --preload``)."""
        if self._local is not None:
            self._local = threading.local
            admit = functools.partial(self.pool.admit, keep=True)  # never called: there was nothing before
            self._state.replace_outside(thread_states(self.orphans, ConnectionState(), admit))

    # What Peewee calls to find, open, use and close a connection.

    def connect(self, reuse_if_open: bool = False) -> bool:
        """As Peewee's. Raises `PoolTimeout`, `DatabaseUnavailable`, or `ScopeClosed` when the scope has ended."""
        if threading.local is not self._local:
            self._follow_patch()
        state: ConnectionState = self._state.find()
        if not state.scoped:
            return self._connect_in(state, reuse_if_open)
        with state:
            return self._connect_in(state, reuse_if_open)

    def _connect_in(self, state: ConnectionState, reuse_if_open: bool) -> bool:
        if state.ended:
            raise ScopeClosed
        if not state.closed:
            if reuse_if_open:
                return False
            raise OperationalError("Connection already opened.")
        self._establish(state)
        return True

    def _establish(self, state: ConnectionState) -> None:
        self._require_init()
        if self.orphans:
            self.take_back_orphans()
        try:
            lease = self.pool.checkout()
        except NoConnection as error:
            self._say_which(error)
            raise
        state.hold(lease)
        self._begin_use(state)

    def _say_which(self, error: NoConnection) -> None:
        """Have *error* name this database, where the app has others."""
        scope = current_scope()
        databases = None if scope is None else scope.databases
        if databases is not None and len(databases) > 1 and error.database is None:
            error.database = databases.name_of(self)
            if error.database is not None:
                error.args = (f"database {error.database!r}: {error}",)

    def _require_init(self) -> None:
        if self.deferred:
            raise InterfaceError("this database must be initialized before it is used: call its init() with a name")

    def _begin_use(self, state: ConnectionState) -> None:
        state.is_beginning = True
        try:
            self._initialize_connection(state.conn)
            if state.lease is not None:
                # What is set here, each connection has; but without autocommit any statement begins a transaction.
                state.lease.has_state = self._prepares_connections() and not commits_by_itself(state.conn)
            if isinstance(state, ScopedState) and self._is_atomic(state):
                self.begin_request_transaction(state)
        except BaseException:
            self.discard(state)  # its first use failed: it is not fit for a second
            with in_peewees_terms:
                raise
        finally:
            state.is_beginning = False

    def _is_atomic(self, state: ConnectionState) -> bool:
        scope = current_scope()
        return state.scoped and scope is not None and scope.is_atomic_for(self)

    def close(self) -> bool:
        """As Peewee's: give the connection back. Returns whether there was one."""
        state: ConnectionState = self._state.find()
        if not state.scoped:
            return self._close_in(state)
        with state:
            return self._close_in(state)

    def _close_in(self, state: ConnectionState) -> bool:
        self._require_init()
        if state.transactions:
            raise OperationalError("Attempting to close database while transaction is open.")
        was_open = not state.closed
        self._let_go(state)
        return was_open

    def cursor(self, named_cursor: Any = None) -> Any:
        self.ensure_open()
        return super().cursor(named_cursor)

    def connection(self) -> Any:
        self.ensure_open()
        return super().connection()

    def ensure_open(self) -> None:
        """Have a connection that is worth a statement. One that is lost is replaced, outside a transaction.

        Within a scope connecting is the scope's business, also with ``autoconnect=False``; outside it is Peewee's.
        """
        if threading.local is not self._local:
            self._follow_patch()
        state: ConnectionState = self._state.find()
        if not state.closed:
            self.pool.notice_fork()  # else a child that Python was not told of would go on with its parent's
            if state.take_turn_if_free():  # else another thread is using the connection at this moment
                try:
                    self._renew(state)
                finally:
                    state.__exit__()
        if state.closed and (state.scoped or state.lost):
            with state:
                if state.ended:
                    raise ScopeClosed
                if state.closed:
                    self._establish(state)
                    if state.scoped:
                        state.keep_open()

    def _renew(self, state: ConnectionState) -> None:
        """Take another connection in place of one that is lost, with which nothing is lost any more."""
        lease = state.lease
        if lease is None or not (lease.broken or lease.pooled.has_news()):
            return
        if is_in_transaction(state) or state.is_beginning:
            return
        if not lease.broken and (self._is_bound_to(state, lease) or self.pool.is_alive(lease)):
            return
        state.part()
        self.pool.discard(lease)
        logger.debug("a connection was lost between two statements, and is replaced")
        self._establish(state)

    def _is_bound_to(self, state: ConnectionState, lease: Lease) -> bool:
        """Whether another connection would not do, and the app has not been told yet that this one is lost."""
        if lease.has_state:
            return True
        # The news may be a half-read result. Of drivers that can't tell (UNKNOWN) it is none: the app has no cursor.
        return status_of(state) not in (Status.IDLE, Status.UNKNOWN)

    def is_connection_lost(self) -> bool:
        """Whether the connection of the current scope is known to be gone. Asks nobody."""
        state: ConnectionState = self._state.find()
        return state.lease is not None and (state.lease.broken or status_of(state) is Status.LOST)

    # Peewee asks for these to know what a block is to begin: within the request's own transaction, a savepoint.

    def transaction_depth(self) -> int:
        self._begin_what_is_due()
        return super().transaction_depth()

    def top_transaction(self) -> Any:
        self._begin_what_is_due()
        return super().top_transaction()

    def _begin_what_is_due(self) -> None:
        """Open the connection of an atomic scope, whose transaction begins with it."""
        state: ConnectionState = self._state.find()
        if state.closed and not state.ended and not state.transactions and self._is_atomic(state):
            self.ensure_open()

    def pop_transaction(self) -> Any:
        if self._state.find().ended:  # rolled back with its scope: it must not seem to be committed now
            raise ScopeClosed
        if fork.count and not self._state.transactions:  # the block was entered by the parent, whose transaction it is
            return None
        return super().pop_transaction()

    # What a scope calls (`scope.ScopeAware`).

    async def ensure_open_async(self) -> None:
        """Open the current scope's connection without blocking the event loop, within the pool's ``timeout``."""
        state: ConnectionState = self._state.find()
        if not state.closed:
            return
        self._require_init()
        if self.orphans:
            self.take_back_orphans()
        try:
            lease = await self.pool.checkout_async()
        except NoConnection as error:
            self._say_which(error)
            raise
        with state:
            if state.ended or not state.closed:
                self.pool.checkin(lease)
                if state.ended:
                    raise ScopeClosed
                return
            state.hold(lease)
            state.keep_open()
        if self._has_first_use(state):
            await asyncio.to_thread(self._begin_use_later, state, lease)

    def _has_first_use(self, state: ConnectionState) -> bool:
        """Whether a connection's first use in *state* is a network call, such as a BEGIN."""
        return self._prepares_connections() or self._is_atomic(state)

    def _prepares_connections(self) -> bool:
        """Whether the app, or Peewee's class, does something with a connection before its first use."""
        return getattr(self._initialize_connection, "__func__", None) is not Database._initialize_connection  # type: ignore[attr-defined]

    def _begin_use_later(self, state: ConnectionState, lease: Lease) -> None:
        with state:
            if state.lease is lease:  # else the coroutine was cancelled, and the scope has ended
                self._begin_use(state)

    def is_busy(self, state: ConnectionState) -> bool:
        status = status_of(state)
        return status is Status.BUSY or was_in_transaction(status, state.transactions, state.transaction_place)

    def give_back(self, state: ConnectionState) -> None:
        """Return the connection of *state*, rolled back and whatever happens. Never raises."""
        place, transactions, expected = state.transaction_place, state.transactions, False
        if isinstance(state, ScopedState) and state.request_transaction is not None:
            expected = transactions == [state.request_transaction]
            state.request_transaction = None
        status = self._let_go(state)
        if status is not Status.IDLE and not expected and was_in_transaction(status, transactions, place):
            warn_of_open_transaction(place)

    def _let_go(self, state: ConnectionState) -> Status:
        """Part *state* from its connection, if it has one, and give that back. Returns what state it was in."""
        lease, conn = state.lease, state.conn
        state.reset()
        if lease is not None:
            return self.pool.checkin(lease)
        if conn is not None:
            with suppress(Exception):
                self.close_physical(conn)
        return Status.IDLE

    def discard(self, state: ConnectionState) -> None:
        """Close the connection of *state* for good."""
        lease = state.lease
        state.reset()
        if lease is not None:
            self.pool.discard(lease)

    def take_back_orphans(self, in_background: bool = True) -> None:
        """Return the connections of dead threads and of scopes that were collected without having been ended.

        *in_background* is where one goes that needs a round trip: for who is about to have a connection of his own,
        and has nothing to do with it.
        """
        while self.orphans:
            try:
                orphan = self.orphans.popleft()
            except IndexError:  # another thread was faster
                return
            if not self.pool.has_lent(orphan.lease):  # before this process was forked
                continue
            pooled = orphan.lease.pooled
            if in_background and pooled.driver.network and pooled.driver.status(pooled.connection) is not Status.IDLE:
                self.pool.connector.start(functools.partial(self._take_back, orphan))
            else:
                self._take_back(orphan)

    def _take_back(self, orphan: Orphan) -> None:
        lease, place, by_mistake = orphan
        if by_mistake:
            logger.error("a scope was never ended; its connection, taken at %s, is taken back", described(lease.place))
        if was_in_transaction(self.pool.checkin(lease), [], place):
            warn_of_open_transaction(place)

    def begin_request_transaction(self, state: ScopedState) -> None:
        request_transaction.begin(self, state)

    def finish_request_transaction(self, state: ScopedState, commit: bool) -> None:
        request_transaction.finish(self, state, commit)
