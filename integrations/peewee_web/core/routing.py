"""Where a query goes, of a database that has replicas: decided for each, by what it is and what came before it.

Peewee asks a database several things for one call, and each may be the first that a failover is noticed by: what is
under way on a server stays there, and what was never carried out goes to the primary of now.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import Any, TypeVar

from peewee import Database, PeeweeException, SelectBase

from .drivers import Status
from .errors import ConnectionLost, DatabaseUnavailable, NoConnection, PoolTimeout, ScopeError
from .faults import first_line, is_conflict, is_read_only
from .member import Member
from .members import Members
from .proxies import StandIn
from .scope import History, Scope, current_scope
from .state import ConnectionState
from .statements import effects_of
from .transactions import status_of

logger = logging.getLogger("peewee_web")

T = TypeVar("T")


class Routing(StandIn):
    """Stands for the primary of *_members*, but sends what only reads to one of the others."""

    __slots__ = ()

    _members: Members

    @property
    def obj(self) -> Any:
        """The primary; amid what began on an earlier one, and only that can go on with, that one."""
        members = self._members
        primary = members.primary.database  # before the former ones, of which it may be one by the next line
        for database in members.former:
            if _is_engaged(database._state.find()):
                return database
        return primary

    def execute(self, query: Any, **options: Any) -> Any:
        """As Peewee's."""
        if not isinstance(query, SelectBase):
            return self._on_primary(lambda database: database.execute(query, **options))
        primary = self.obj
        sql, params = primary.get_sql_context(**options).sql(query).query()
        member = self._reader(primary) if effects_of(sql).is_repeatable else None
        if type(primary).execute is Database.execute:
            return self._read(member, lambda database: database.execute_sql(sql, params))
        return self._read(member, lambda database: database.execute(query, **options))  # such as server-side cursors

    def execute_sql(self, sql: Any, params: Any = None, **options: Any) -> Any:
        """As Peewee's, on the primary."""
        return self._on_primary(lambda database: database.execute_sql(sql, params, **options))

    def begin(self, *args: Any, **options: Any) -> None:
        """As Peewee's, on the primary."""
        self._on_primary(lambda database: database.begin(*args, **options))

    # These open the connection of an atomic scope.

    def transaction_depth(self) -> int:
        return self._on_primary(lambda database: int(database.transaction_depth()))

    def top_transaction(self) -> Any:
        return self._on_primary(lambda database: database.top_transaction())

    def connect(self, reuse_if_open: bool = False) -> bool:
        return self._on_primary(lambda database: bool(database.connect(reuse_if_open=reuse_if_open)))

    def _on_primary(self, run: Callable[[Any], T]) -> T:
        """What *run* returns, given the primary: another one, if it turns out that this was never carried out."""
        primary = self.obj
        try:
            return run(primary)
        except PeeweeException as error:
            other = self._primary_instead_of(primary, error)
            if other is None:
                raise
        logger.warning("a statement goes to the new primary")
        return run(other)

    def _primary_instead_of(self, primary: Any, error: PeeweeException) -> Any:
        """Where what has failed with *error* on *primary* can be run, as it had no effect; or None."""
        members = self._members
        engaged = _is_engaged(primary._state.find())
        if is_read_only(error):
            members.failover.look(patience=math.inf)
        elif not isinstance(error, DatabaseUnavailable) or isinstance(error, ConnectionLost):
            return None
        if members.primary.database is primary:
            return None
        if not engaged:
            return members.primary.database
        if is_read_only(error):
            raise DatabaseUnavailable(f"the primary has become a standby: {first_line(error)}") from error
        return None

    def _reader(self, primary: Any) -> Member | None:
        """The replica that a read of the current scope, or thread, is to be sent to. None: the primary."""
        state: ConnectionState = primary._state.find()
        if _is_engaged(state):
            return None
        scope = current_scope()
        if scope is None:
            member = None if state.written else self._members.reader(state)
        else:
            member = self._reader_in(scope, primary, state)
        if member is None or state.lease is None:
            return member
        # Who holds a connection waits for no other: whoever has that may wait for this one.
        full = member.database.pool.ledger.is_full() and member.database.is_closed()
        return None if full else member

    def _reader_in(self, scope: Scope, primary: Any, state: ConnectionState) -> Member | None:
        history = scope.history
        member: Member | None = state.reader
        if not (history.written or history.positions or scope.atomic) and member is not None and member.reason is None:
            return member  # as nearly always: nothing has come before but reads
        if history.written and not history.written.isdisjoint((primary, *self._members.former)):
            return None
        if scope.atomic and not scope.read_only and scope.is_atomic_for(primary):
            return None
        if self in history.positions:
            return self._reader_that_has(history, state)
        return self._members.reader(state)

    def _reader_that_has(self, history: History, state: ConnectionState) -> Member | None:
        """A replica that has what the client has written before."""
        position = history.positions[self]
        member = self._members.reader(state) if self._members.primary.replication.is_position(position) else None
        if member is not None and self._members.has_reached(member, position):
            return member
        history.positions[self] = ""  # what is read from the primary once is read from there by the rest of the scope
        return None

    def _read(self, member: Member | None, run: Callable[[Any], T]) -> T:
        """What *run* returns, given the replica *member*, another in place of one that fails, or the primary."""
        while member is not None:
            try:
                if not member.database._state.find().closed or self._has_connection(member):
                    return run(member.database)
            except PeeweeException as error:
                # What a standby replays may cancel what it reads (PostgreSQL's manual, 26.4.2); and it refuses a
                # function that writes. The primary does neither.
                if is_conflict(error) or is_read_only(error):
                    break
                # One that is only busy stays. A read whose connection was lost has been run again, if it may be.
                if not isinstance(error, NoConnection) or isinstance(error, (PoolTimeout, ConnectionLost)):
                    raise
                self._members.leave_out(member, error)
            failed, member = member, self._reader(self.obj)
            if member is failed:
                break
        return self._on_primary(run)

    def _has_connection(self, member: Member) -> bool:
        """Have a connection to *member*, if it is to be had. Of one that refuses this client others know more."""
        database = member.database
        state: ConnectionState = database._state.find()
        if state.ended or not (state.scoped or database.autoconnect or not self.obj.is_closed()):
            return True  # the statement says why not
        try:
            if state.scoped:
                database.ensure_open()
            else:
                database.connect(reuse_if_open=True)
        except (NoConnection, ScopeError):
            raise
        except PeeweeException as error:
            self._members.leave_out(member, error)
            return False
        return True


def _is_engaged(state: ConnectionState) -> bool:
    """Whether something is under way in *state* that only its own connection can go on with."""
    if state.transactions or state.open_transaction is not None or state.commit_callbacks:
        return True
    lease = state.lease
    return lease is not None and (lease.has_state or status_of(state) is not Status.IDLE)
