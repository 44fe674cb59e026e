"""The servers that have the same data: which one is written to, and which of the others a read may be sent to.

Looking at a server is a query on a connection of its own. It rides on reads: a replica is looked at before its first
read, and in the background when the last look is long ago.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Sequence
from typing import Any

from .errors import DatabaseUnavailable, PoolTimeout
from .failover import Failover, Turn
from .faults import first_line
from .member import FIRST_PAUSE, Choose, Member
from .replication import Standing
from .scope import Activation, Scope
from .state import ConnectionState
from .waiting import may_block_for

logger = logging.getLogger("peewee_web")


class Members:
    """A primary and its replicas. Thread-safe: what changes is replaced as a whole."""

    def __init__(
        self,
        primary: Member,
        replicas: Sequence[Member],
        choose: Choose,
        *,
        fallback: bool,
        max_lag: float | None,
        max_lag_bytes: int | None,
        look_every: float,
    ) -> None:
        self.primary = primary
        self.replicas: tuple[Member, ...] = ()
        #: Databases that were the primary's before. Blocks that began there end there.
        self.former: tuple[Any, ...] = ()
        self._choose = choose
        self._fallback = fallback
        self._max_lag = max_lag
        self._max_lag_bytes = max_lag_bytes
        self._look_every = look_every
        self._next_round = -math.inf
        self._looking = Turn()
        self._changes = threading.Lock()
        self.failover = Failover(self)
        for replica in replicas:
            self.add(replica)

    @property
    def all(self) -> tuple[Member, ...]:
        return (self.primary, *self.replicas)

    # Who they are.

    def add(self, member: Member) -> None:
        # Another server can serve in its place: nobody need wait for this one to come back. And what it refuses to
        # write says nothing of its connections.
        pool = member.database.pool
        pool.renews = False
        pool.configure(pool.options.but(fail_fast_after=0.0))
        with self._changes:
            self.replicas = (*self.replicas, member)

    def remove(self, database: Any) -> None:
        """Raises ValueError if *database* is none of the replicas."""
        with self._changes:
            member = next((member for member in self.replicas if member.database is database), None)
            if member is None:
                raise ValueError(f"{database!r} is none of the replicas")
            member.reason = "it was removed"
            self.replicas = tuple(other for other in self.replicas if other is not member)
            self.former = tuple(other for other in self.former if other is not database)
        database.close_pool()  # what is in use is closed when it comes back

    def promote(self, member: Member) -> None:
        """*member*, a replica, is the primary from now on, and the primary a replica."""
        before = self.primary
        with self._changes:
            former = (*(other for other in self.former if other is not before.database), before.database)
            self.former = tuple(other for other in former if other is not member.database)
            self.primary = member
            self.replicas = (*(other for other in self.replicas if other is not member), before)
        self.failover.took_place(member, before)
        for replica in self.replicas:  # they may follow the old one still
            replica.forget()
        member.reason, member.was_standby, before.was_standby = None, False, False
        before.note("it was the primary", time.monotonic(), self._look_every)

    # Reading.

    def reader(self, state: ConnectionState) -> Member | None:
        """The replica that reads of *state*, the primary's, go to. None: to the primary.

        It is the same one as long as it is well: who has seen something sees it again. Raises `DatabaseUnavailable`
        when there is none and the primary is not to serve reads.
        """
        now = time.monotonic()
        if now >= self._next_round:
            self._next_round = now + FIRST_PAUSE
            if any(member.was_looked_at and member.is_due(now) for member in self.replicas):
                self._look_in_background()
        member: Member | None = state.reader
        if member is None or member.reason is not None:
            member = state.reader = self._chosen()
        return member

    def _chosen(self) -> Member | None:
        candidates = [member for member in self.replicas if member.reason is None]
        while candidates:
            member = self._choose(candidates)
            if member.was_looked_at or self._look_first(member):
                return member
            candidates.remove(member)
        late = [member for member in self.replicas if member.is_late]
        if late and self._primary_is_away():
            return min(late, key=lambda member: member.standing.lag or 0.0)
        if not self._fallback and self.replicas:
            raise DatabaseUnavailable(f"no replica can be read from ({', '.join(map(repr, self.replicas))})")
        return None

    def _look_first(self, member: Member) -> bool:
        """Look at a replica that nobody has looked at. An event loop, or who meets another's look, uses another."""
        if self.primary.replication.network and may_block_for() < math.inf:
            self._look_in_background()
            return False
        with self._looking.take() as taken:
            return taken and self.look(member)

    def has_reached(self, member: Member, position: str) -> bool:
        """Whether *member* has all that is up to *position*. Asks it, unless that is known."""
        known = member.standing.position
        if known is not None and member.replication.has_reached(known, position):
            return True
        try:
            known = member.observe_here().position
        except PoolTimeout:
            return False
        except Exception as error:
            self.leave_out(member, error)
            return False
        if known is not None and member.replication.has_reached(known, position):
            return True
        member.database.close()  # it is not read from
        return False

    def leave_out(self, member: Member, error: BaseException) -> None:
        """A read that was sent to *member* has failed with *error*."""
        member.note(first_line(error), time.monotonic(), self._look_every)

    # Looking at the replicas.

    def look(self, member: Member) -> bool:
        """Look at one replica. Returns whether reads may go there."""
        try:
            standing = member.observe()
        except PoolTimeout:  # it is busy, which is no fault
            member.put_off(time.monotonic() + self._look_every)
            return member.reason is None
        except Exception as error:
            self.leave_out(member, error)
            return False
        self.failover.learn(standing)
        reason = self._objection(standing)
        late = None if reason is not None else self._lateness(member, standing)
        member.note(reason or late, time.monotonic(), self._look_every, is_late=late is not None)
        return member.reason is None

    def _look_in_background(self) -> None:
        if self.primary.replication.network:
            self.primary.database.pool.connector.start(self._look_at_those_due)
        else:
            self._look_at_those_due()

    def _look_at_those_due(self) -> None:
        with self._looking.take() as taken:
            if taken:
                for member in self.replicas:
                    if member.is_due(time.monotonic()):
                        self.look(member)

    def look_at_all(self) -> None:
        for member in self.replicas:
            self.look(member)

    def _objection(self, standing: Standing) -> str | None:
        """Why no read is to go to a replica that stands so, however late it may be."""
        if standing.is_standby is False:
            return "it is not a standby"
        timeline = self.failover.timeline
        if timeline is not None and standing.timeline is not None and standing.timeline < timeline:
            return "it does not follow the new primary yet"
        return None

    def _lateness(self, member: Member, standing: Standing) -> str | None:
        if self._max_lag is not None and standing.lag is not None and standing.lag > self._max_lag:
            return f"it is {standing.lag:.1f} s late" if math.isfinite(standing.lag) else "it receives nothing"
        if self._max_lag_bytes is None or standing.position is None or self._primary_is_away():
            return None
        written = self.position_of_primary()
        late = None if written is None else member.replication.bytes_between(standing.position, written)
        return None if late is None or late <= self._max_lag_bytes else f"it is {late} bytes late"

    def _primary_is_away(self) -> bool:
        return self.primary.database.pool.ledger.outage is not None

    def position_of_primary(self) -> str | None:
        """Up to where the primary has written; None if it can't tell, or can't be reached."""
        with Activation(None), Scope():
            return self.position_here()

    def position_here(self) -> str | None:
        """The same on the connection of the current scope."""
        member = self.primary
        try:
            return member.replication.written(member.database)
        except Exception as error:
            logger.debug("the primary does not tell its position: %s", error)
            return None
