"""Another primary: how it is found among the known servers, and what changes then."""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING

from . import fork
from .errors import DatabaseUnavailable
from .faults import is_answer
from .member import Member
from .replication import Standing
from .waiting import may_block_for

if TYPE_CHECKING:
    from .members import Members

logger = logging.getLogger("peewee_web")

# Seconds for which a statement that was refused waits while somebody else looks for the primary.
_PATIENCE = 5.0


class Turn:
    """For one thread at a time."""

    def __init__(self) -> None:
        self._lock, self._forks = threading.Lock(), fork.count

    def take(self, patience: float = 0.0) -> Taken:
        """A context manager that says whether the turn was free within *patience* seconds."""
        if self._forks != fork.count:  # who has it may be a thread of the parent's
            self._lock, self._forks = threading.Lock(), fork.count
        return Taken(self._lock, patience)


class Taken:
    def __init__(self, lock: threading.Lock, patience: float) -> None:
        self._lock = lock
        self._patience = patience

    def __enter__(self) -> bool:
        self._is_taken = self._lock.acquire(timeout=self._patience) if self._patience else self._lock.acquire(False)
        return self._is_taken

    def __exit__(self, *exc_info: object) -> None:
        if self._is_taken:
            self._lock.release()


class Failover:
    """Follows whoever promotes standbys (Patroni, repmgr, a cloud), and promotes none itself. Thread-safe."""

    def __init__(self, members: Members) -> None:
        self._members = members
        self._turn = Turn()
        self._options_of_primary = members.primary.database.pool.options
        #: The cluster that the servers are of, once one has told.
        self._system: str | None = None
        #: How many promotions the data of the primary of now has seen, if it is not the first one.
        self.timeline: int | None = None
        self._watch(members.primary)

    def _watch(self, primary: Member) -> None:
        primary.database.pool.on_unreachable = self._primary_is_unreachable

    def _primary_is_unreachable(self, error: BaseException) -> None:
        if not is_answer(error):  # one that has too many connections, or is starting, is still the primary
            self.look()

    def look_if_away(self) -> None:
        """`look` if the primary could not be reached when it was last tried."""
        outage = self._members.primary.database.pool.ledger.outage
        if outage is not None and outage.error is not None:
            self._primary_is_unreachable(outage.error)

    def learn(self, standing: Standing) -> None:
        """From a standby, of what cluster all are."""
        if standing.is_standby:
            self._system = self._system or standing.system

    def look(self, patience: float = 0.0) -> None:
        """Go on with a replica that has become the primary, if one has. The one of now is not asked.

        (Whoever calls this may hold all of its connections.) Another thread's look is waited for *patience* seconds.
        """
        before = self._members.primary
        with self._turn.take(min(patience, _PATIENCE, may_block_for())) as taken:
            if not taken or self._members.primary is not before:
                return
            now = time.monotonic()
            # Those that are known to fail last, and not each time.
            known_good = [member for member in self._members.replicas if member.reason is None or member.is_late]
            others = [member for member in self._members.replicas if member not in known_good and member.is_due(now)]
            for member in (*known_good, *others):
                if self._is_primary(member, now):
                    self._members.promote(member)
                    return

    def _is_primary(self, member: Member, now: float) -> bool:
        """Whether *member* is what the primary's data goes on as: not just any server that accepts writes."""
        try:
            standing = member.observe()
        except Exception:
            member.put_off(now + 1.0)
            return False
        if standing.is_standby is not False:
            self.learn(standing)
            return False
        if standing.system is None:  # of MariaDB nothing tells but that it was a replica before
            return member.was_standby
        if self._system is not None and standing.system != self._system:
            return False
        return self.timeline is None or standing.timeline is None or standing.timeline > self.timeline

    def took_place(self, member: Member, before: Member) -> None:
        """*member* is the primary now, and *before* no longer."""
        logger.warning("%s is the primary now, in place of %s", member.name, before.name)
        self.timeline = member.standing.timeline
        self._system = self._system or member.standing.system
        pool, pool_before = member.database.pool, before.database.pool
        pool_before.on_unreachable, pool_before.renews = None, False
        pool.renews = True
        pool.configure(pool.options.but(fail_fast_after=self._options_of_primary.fail_fast_after))
        self._watch(member)
        pool_before.turn_away(lambda: DatabaseUnavailable(f"{before.name} is no longer the primary"))
        pool_before.configure(pool_before.options.but(fail_fast_after=0.0))
