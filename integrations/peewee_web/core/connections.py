"""What a Peewee database does differently once its connections belong to scopes.

All that is Peewee's own stays Peewee's: what is overridden here only decides which connection is meant, who may use it
now, and where it goes afterwards.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from peewee import Database, InterfaceError, OperationalError, SqliteDatabase
from playhouse.pool import MaxConnectionsExceeded
from playhouse.pool import PooledDatabase as PlayhousePool

from .drivers import in_transaction, is_lost, is_outage, mid_statement, transaction_failed
from .errors import DatabaseUnavailable, PoolTimeout, ScopeClosed, ScopeError
from .scope import CurrentState, current_scope, on_event_loop
from .sqlite import is_bound_elsewhere, prepare
from .state import OPENED_BY_SCOPE, ConnectionState, Orphan, ScopedState, ThreadStates
from .transactions import ScopedSavepoint, has_open_transaction, place_of_caller, warn_of_open_transaction

if TYPE_CHECKING:

    class PeeweeDatabase(Database):
        """The names of Peewee's ``Database`` that its type stubs leave out and this file stands on (4.5)."""

        _state: Any
        _lock: Any

        def begin(self, *args: Any, **options: Any) -> None: ...
        def connection(self) -> Any: ...
        def cursor(self, named_cursor: Any = None) -> Any: ...
        def pop_transaction(self) -> Any: ...
        def _connect(self) -> Any: ...
        def _is_closed(self, conn: Any) -> bool: ...
        def _close(self, conn: Any) -> None: ...
        def _execute_cursor(self, sql: str, params: Any, **options: Any) -> Any: ...

else:
    PeeweeDatabase = object

logger = logging.getLogger("peewee_web")

# A first pause that is shorter than a statement usually takes, and a longest that nobody notices in a web page.
_ASYNC_PAUSES = (0.001, 0.05)


class ScopedConnections(PeeweeDatabase):
    """Mixin over a Peewee ``Database``: its connections belong to scopes. Thread-safe, and safe across coroutines."""

    orphans: deque[Orphan]

    def join_scopes(self) -> None:
        """Replace the state and the lock that Peewee's constructor made. Called once, before the database is shared."""
        self.orphans = deque()
        if self.thread_safe:
            states = ThreadStates(self.orphans, before=self._state)
            find = states.find
        else:
            shared = ConnectionState()
            shared.take_over(self._state)
            find = lambda: shared  # noqa: E731  # one state for all threads: what `thread_safe=False` asks for
        self._state = CurrentState(self, find)
        # Peewee holds this one over network calls; the turn of the scope's state takes its place.
        self._lock = ConnectionState()

    # What Peewee calls to find, open and use a connection.

    def connect(self, reuse_if_open: bool = False) -> bool:
        """As Peewee's. Raises `PoolTimeout`, `DatabaseUnavailable`, or `ScopeClosed` when the scope has ended."""
        state: ConnectionState = self._state.find()
        with state:
            if state.ended:
                raise ScopeClosed
            if not state.closed:
                return super().connect(reuse_if_open)
            # Whoever could end the wait of an event loop's thread is a coroutine of the same loop.
            self._establish(state, waiting=not on_event_loop())
        return True

    def _establish(self, state: ConnectionState, *, waiting: bool) -> None:
        try:
            self._dial(waiting)
            scope = current_scope()
            if isinstance(state, ScopedState) and scope is not None and scope.is_atomic_for(self):
                self.begin_request_transaction(state)
        except BaseException:
            if state.conn is not None:  # the first use of the connection failed: it is not fit for a second
                self._discard(state)
            raise

    def _dial(self, waiting: bool) -> None:
        try:
            if waiting or not isinstance(self, PlayhousePool):
                super().connect()
            else:
                Database.connect(self)  # past the pool's own method, which is where it waits
        except MaxConnectionsExceeded as error:
            raise PoolTimeout(self._describe_exhaustion(waiting)) from error
        except (OperationalError, InterfaceError, OSError) as error:
            if not is_outage(error):
                raise
            raise DatabaseUnavailable(f"no connection to the database: {_first_line(error)}") from error

    def _describe_exhaustion(self, waited: bool) -> str:
        assert isinstance(self, PlayhousePool)
        if not self._wait_timeout:
            when = "at once, and with timeout=None the pool waits for none"
        elif waited:
            when = f"in {self._wait_timeout:.1f} s"
        else:
            when = "at once, and an event loop must not wait for one"
        return f"no connection became free {when} ({len(self._in_use)} of {self._max_connections} in use)"

    def close(self) -> bool:
        with self._state.find():
            return super().close()

    def cursor(self, named_cursor: Any = None) -> Any:
        self.ensure_open()
        return super().cursor(named_cursor)

    def connection(self) -> Any:
        self.ensure_open()
        return super().connection()

    def ensure_open(self) -> None:
        """Within a scope connecting is the scope's business, also with ``autoconnect=False``; outside, do nothing."""
        state: ConnectionState = self._state.find()
        if state.closed and state.scoped:
            self._open_for_scope(state, waiting=not on_event_loop())

    def _open_for_scope(self, state: ConnectionState, *, waiting: bool) -> None:
        with state:
            if state.ended:
                raise ScopeClosed
            if state.closed:
                self._establish(state, waiting=waiting)
                if OPENED_BY_SCOPE not in state.ctx:
                    state.ctx.append(OPENED_BY_SCOPE)

    def _execute_cursor(self, sql: str, params: Any, **options: Any) -> Any:
        with self._state.find():
            return super()._execute_cursor(sql, params, **options)

    def begin(self, *args: Any, **options: Any) -> None:
        state: ConnectionState = self._state.find()
        with state:
            super().begin(*args, **options)
            state.transaction_place = place_of_caller()

    def commit(self) -> None:
        state: ConnectionState = self._state.find()
        with state:
            super().commit()
            state.transaction_place = None

    def rollback(self) -> None:
        """As Peewee's, but without an error where the connection is lost: then the server rolls back by itself.

        (An error here would hide the first one, which says what happened.)
        """
        state: ConnectionState = self._state.find()
        with state:
            try:
                super().rollback()
            except (InterfaceError, OperationalError):
                if not self.is_connection_lost():
                    raise
            state.transaction_place = None

    def savepoint(self) -> Any:
        return ScopedSavepoint(self)

    def is_connection_lost(self) -> bool:
        return is_lost(self._state.conn)

    def pop_transaction(self) -> Any:
        if self._state.find().ended:  # rolled back with its scope: it must not seem to be committed now
            raise ScopeClosed
        return super().pop_transaction()

    def _connect(self) -> Any:
        self.take_back_orphans()
        if isinstance(self, SqliteDatabase):
            prepare(self)
        return super()._connect()

    def _is_closed(self, conn: Any) -> bool:
        """What a pool asks at checkout. One opened before the database was adopted may be bound to its thread."""
        return (isinstance(self, SqliteDatabase) and is_bound_elsewhere(conn)) or super()._is_closed(conn)

    # What a scope calls (`scope.ScopeAware`).

    async def ensure_open_async(self) -> None:
        """Open the current scope's connection without blocking the event loop, within the pool's ``timeout``.

        The dial runs in a worker thread; while every connection is in use nothing is occupied by waiting.
        """
        connect_now = functools.partial(self._open_for_scope, self._state.find(), waiting=False)
        timeout = (self._wait_timeout or 0.0) if isinstance(self, PlayhousePool) else 0.0
        deadline = time.monotonic() + timeout
        pause, longest = _ASYNC_PAUSES
        while True:
            try:
                return await asyncio.to_thread(connect_now)
            except PoolTimeout as error:
                if time.monotonic() + pause > deadline:
                    raise PoolTimeout(self._describe_exhaustion(waited=True)) from error.__cause__
            await asyncio.sleep(pause)
            pause = min(2 * pause, longest)

    def is_busy(self, state: ConnectionState) -> bool:
        return has_open_transaction(state) or mid_statement(state.conn)

    def give_back(self, state: ConnectionState) -> None:
        """Return the connection of *state*, rolled back and whatever happens. Never raises."""
        conn, place = state.conn, state.transaction_place
        left_open = has_open_transaction(state)
        request_transaction = getattr(state, "request_transaction", None)
        expected = request_transaction is not None and state.transactions == [request_transaction]
        if isinstance(state, ScopedState):
            state.request_transaction = None
        state.reset()
        if left_open and not expected:
            warn_of_open_transaction(place)
        self._return(conn, roll_back=left_open)

    def _return(self, conn: Any, roll_back: bool) -> None:
        try:
            if roll_back:
                # psycopg2's rollback() does nothing in autocommit mode, which is Peewee's: send the statement.
                conn.cursor().execute("ROLLBACK")
        except Exception:
            logger.debug("rolling back failed, the connection is closed", exc_info=True)
            self._drop(conn)
            return
        if isinstance(self, PlayhousePool) and mid_statement(conn):
            logger.debug("a result was left half read, the connection is closed")
            self._drop(conn)
            return
        try:
            self._close(conn)
        except Exception:
            logger.debug("closing a connection failed", exc_info=True)

    def _discard(self, state: ConnectionState) -> None:
        conn = state.conn
        state.reset()
        self._drop(conn)

    def _drop(self, conn: Any) -> None:
        """Close *conn* for good, past any pool."""
        with suppress(Exception):
            if isinstance(self, PlayhousePool):
                self._close(conn, close_conn=True)
            else:
                self._close(conn)

    def take_back_orphans(self) -> None:
        """Return the connections of dead threads and of scopes that were collected without having been ended."""
        while True:
            try:
                orphan = self.orphans.popleft()
            except IndexError:
                return
            if orphan.by_mistake:
                logger.error("a scope was never ended; its connection is taken back")
            open_ = in_transaction(orphan.conn)
            if open_ or (open_ is None and orphan.transaction_place is not None):
                warn_of_open_transaction(orphan.transaction_place)
            self._return(orphan.conn, roll_back=open_ is not False)

    def begin_request_transaction(self, state: ScopedState) -> None:
        with state:
            if not has_open_transaction(state):  # else it is the app's own, or was begun already
                transaction = self.transaction()
                transaction.__enter__()
                state.request_transaction = transaction
                if OPENED_BY_SCOPE not in state.ctx:
                    state.ctx.insert(0, OPENED_BY_SCOPE)  # no `with db:` block may close it under the transaction

    def finish_request_transaction(self, state: ScopedState, commit: bool) -> None:
        """Commit or roll back the transaction that an atomic scope began, if it has not been ended already.

        Raises what the commit raises, when it has been rolled back.
        """
        with state:
            transaction, state.request_transaction = state.request_transaction, None
            if transaction is None or transaction not in state.transactions:
                return
            place, left_open = state.transaction_place, state.transactions[-1] is not transaction
            state.transactions.clear()
            callbacks, state.commit_callbacks = state.commit_callbacks, []
            if not commit:
                self._roll_back(state)
                return
            try:
                if left_open:
                    raise ScopeError(
                        "a transaction inside the request's own was left open, so the whole is rolled back "
                        f"(the request's began at {place})"
                    )
                if transaction_failed(state.conn):
                    raise ScopeError(
                        "a statement of the request's transaction failed, and the app went on; PostgreSQL has undone "
                        "the whole. Wrap what may fail in `with db.atomic():`"
                    )
                self.commit()
            except BaseException:
                self._roll_back(state)
                raise
        for callback in callbacks:  # after the turn: they may wait for others who use the connection
            callback()

    def _roll_back(self, state: ConnectionState) -> None:
        with suppress(Exception):
            self.rollback()
            if not is_lost(state.conn):
                return
        self._discard(state)


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
