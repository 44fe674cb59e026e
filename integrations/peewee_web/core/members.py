"""The servers that have the same data: which one is written to, and which of the others a read may be sent to.

Looking at a server is a query on a connection of its own. It rides on reads: the first one that is sent to a replica
looks at it, later ones have all replicas looked at in the background.
"""

from __future__ import annotations

import itertools
import logging
import math
import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from . import fork
from .backoff import pause
from .errors import DatabaseUnavailable
from .faults import first_line
from .replication import Standing, replication_of
from .scope import Activation, Scope
from .state import ConnectionState

logger = logging.getLogger("peewee_web")

# Seconds until a server that failed is looked at again, the first time and at most.
_FIRST_PAUSE = 0.5
_LONGEST_PAUSE = 15.0


@dataclass(frozen=True)
class MemberStatus:
    """One server, as `ReplicatedDatabase.check_connections` found it."""

    name: str
    """Its host and port, or its file."""
    role: str
    """What it is used as: ``"primary"`` or ``"replica"``."""
    is_used: bool
    reason: str | None
    """Why it is not used."""
    lag: float | None
    """Seconds by which it is late, as far as it knows; infinite while it receives nothing."""
    position: str | None
    """Up to where it has replayed, in the server's own notation."""


class Member:
    """One server, through its pool, and what is known of it. Times are monotonic seconds."""

    def __init__(self, database: Any, weight: int = 1) -> None:
        self.database = database
        self.weight = weight
        self.replication = replication_of(database)
        #: Why it is left out; None if it isn't.
        self.reason: str | None = None
        self.standing = Standing(None, None, None)
        self.was_looked_at = False
        #: No longer one of the servers. Who uses it now may go on.
        self.is_removed = False
        self._failures = 0
        self._next_look = -math.inf

    def __repr__(self) -> str:
        return f"<{self.name}{'' if self.reason is None else f', left out: {self.reason}'}>"

    @property
    def name(self) -> str:
        parameters = self.database.connect_params
        host = parameters.get("host") or parameters.get("unix_socket")
        if not host:
            return str(self.database.database).rpartition("@")[2]  # a URL may stand there, with a password
        return f"{host}:{parameters['port']}" if parameters.get("port") else str(host)

    def is_due(self, now: float) -> bool:
        return now >= self._next_look

    def observe(self) -> Standing:
        """Ask the server how it stands, on a connection of its own. Raises what the query raises."""
        with Activation(None), Scope():
            return self.observe_here()

    def observe_here(self) -> Standing:
        """The same on the connection of the current scope, which may have it already: it must not wait for another."""
        self.standing = self.replication.standing(self.database)
        return self.standing

    def note(self, reason: str | None, now: float, look_every: float) -> None:
        """Remember whether it is left out, and why."""
        before, self.reason, first, self.was_looked_at = self.reason, reason, not self.was_looked_at, True
        if reason is None:
            self._failures = 0
            self._next_look = now + look_every
            if before is not None:
                logger.warning("reads go to %s again", self.name)
        else:
            self._failures += 1
            self._next_look = now + pause(_FIRST_PAUSE, _LONGEST_PAUSE, self._failures)
            if before is None or first:
                logger.warning("no reads go to %s: %s", self.name, reason)

    def status(self, role: str) -> MemberStatus:
        return MemberStatus(
            self.name, role, self.reason is None, self.reason, self.standing.lag, self.standing.position
        )


# How one of several members is chosen.

Choose = Callable[[Sequence[Member]], Member]


def _round_robin() -> Choose:
    turns = itertools.count()

    def choose(members: Sequence[Member]) -> Member:
        cycle = _cycle(tuple(members))
        return cycle[next(turns) % len(cycle)]

    return choose


@lru_cache(maxsize=64)
def _cycle(members: tuple[Member, ...]) -> tuple[Member, ...]:
    """Each of *members* as often as its weight, spread as evenly as can be."""
    places = [((turn + 0.5) / member.weight, n) for n, member in enumerate(members) for turn in range(member.weight)]
    return tuple(members[n] for _, n in sorted(places))


def _random() -> Choose:
    return lambda members: random.choices(members, [member.weight for member in members])[0]


def _least_used() -> Choose:
    turns = itertools.count()

    def choose(members: Sequence[Member]) -> Member:
        first = next(turns) % len(members)  # whose turn it is among equals
        return min(
            (*members[first:], *members[:first]),
            key=lambda member: float(member.database.pool.ledger.in_use / member.weight),
        )

    return choose


CHOICES: dict[str, Callable[[], Choose]] = {
    "round_robin": _round_robin,
    "random": _random,
    "least_used": _least_used,
}


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
        self._looking = _Turn()
        self._changes = threading.Lock()
        self._options_of_primary = primary.database.pool.options
        self._watch_primary()
        for replica in replicas:
            self.add(replica)

    @property
    def all(self) -> tuple[Member, ...]:
        return (self.primary, *self.replicas)

    # Who they are.

    def add(self, member: Member) -> None:
        # Another server can serve in its place: nobody need wait for this one to come back.
        pool = member.database.pool
        pool.configure(pool.options.but(fail_fast_after=0.0))
        with self._changes:
            self.replicas = (*self.replicas, member)

    def remove(self, database: Any) -> None:
        """Raises ValueError if *database* is none of the replicas."""
        with self._changes:
            member = next((member for member in self.replicas if member.database is database), None)
            if member is None:
                raise ValueError(f"{database!r} is none of the replicas")
            member.is_removed = True
            self.replicas = tuple(other for other in self.replicas if other is not member)
        database.close_pool()  # what is in use is closed when it comes back

    # Reading.

    def reader(self, state: ConnectionState) -> Member | None:
        """The replica that reads of *state*, the primary's, go to. None: to the primary.

        It is the same one as long as it is well: who has seen something sees it again. Raises `DatabaseUnavailable`
        when there is none and the primary is not to serve reads.
        """
        member: Member | None = state.reader
        if member is not None and member.reason is None and not member.is_removed:
            return member
        now = time.monotonic()
        if now >= self._next_round:
            self._next_round = now + _FIRST_PAUSE
            if any(member.was_looked_at and member.is_due(now) for member in self.replicas):
                self._begin_round()
        state.reader = chosen = self._chosen(now)
        return chosen

    def _begin_round(self) -> None:
        if self.primary.replication.network:
            threading.Thread(target=self._look_at_those_due, name="peewee_web-replicas", daemon=True).start()
        else:
            self._look_at_those_due()

    def _chosen(self, now: float) -> Member | None:
        candidates = [member for member in self.replicas if member.reason is None]
        while candidates:
            member = self._choose(candidates)
            if member.was_looked_at or self.look(member, now):
                return member
            candidates.remove(member)
        if not self._fallback and self.replicas:
            error = DatabaseUnavailable(f"no replica can be read from ({', '.join(map(repr, self.replicas))})")
            raise error
        return None

    def has_reached(self, member: Member, position: str) -> bool:
        """Whether *member* has all that is up to *position*. Asks it, unless that is known."""
        known = member.standing.position
        if known is not None and member.replication.has_reached(known, position):
            return True
        try:
            known = member.observe_here().position
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

    def look(self, member: Member, now: float) -> bool:
        """Look at one replica. Returns whether reads may go there."""
        reason: str | None
        try:
            reason = self._objection(member, member.observe())
        except Exception as error:
            reason = first_line(error)
        member.note(reason, now, self._look_every)
        return reason is None

    def _look_at_those_due(self) -> None:
        with self._looking.take() as taken:
            if taken:
                for member in self.replicas:
                    now = time.monotonic()
                    if member.is_due(now):
                        self.look(member, now)

    def look_at_all(self) -> None:
        now = time.monotonic()
        for member in self.replicas:
            self.look(member, now)

    def _objection(self, member: Member, standing: Standing) -> str | None:
        """Why no read is to go to *member*, which stands so."""
        if standing.is_standby is False:
            return "it is not a standby"
        if self._max_lag is not None and standing.lag is not None and standing.lag > self._max_lag:
            return f"it is {standing.lag:.1f} s late" if math.isfinite(standing.lag) else "it receives nothing"
        if self._max_lag_bytes is not None:
            return self._objection_in_bytes(member, standing, self._max_lag_bytes)
        return None

    def _objection_in_bytes(self, member: Member, standing: Standing, most: int) -> str | None:
        written = self.position_of_primary()
        if written is None or standing.position is None:
            return None  # a primary that can't be asked writes nothing either
        late = member.replication.bytes_between(standing.position, written)
        return None if late is None or late <= most else f"it is {late} bytes late"

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

    # Another primary.

    def _watch_primary(self) -> None:
        self.primary.database.pool.connector.on_unreachable = lambda: self.look_for_primary(is_reachable=False)

    def look_for_primary(self, *, is_reachable: bool) -> None:
        """Go on with the replica that has become the primary, if one has. *is_reachable*: the one of now answers."""
        with self._looking.take() as taken:
            if not taken:
                return
            primary = self.primary
            if is_reachable and not self._is_standby_now(primary):
                return
            for member in self.replicas:
                if self._is_primary_now(member):
                    self._promote(member, primary)
                    return

    def _is_standby_now(self, member: Member) -> bool:
        try:
            return member.observe().is_standby is True
        except Exception:
            return True  # it can't be written to

    def _is_primary_now(self, member: Member) -> bool:
        try:
            return member.observe().is_standby is False
        except Exception:
            return False

    def _promote(self, member: Member, before: Member) -> None:
        with self._changes:
            others = tuple(other for other in self.replicas if other is not member)
            former = (*self.former, before.database)
            self.former = tuple(database for database in former if database is not member.database)
            self.primary, self.replicas = member, (*others, before)
        logger.warning("%s is the primary now, in place of %s", member.name, before.name)
        member.reason = None
        before.note("it was the primary", time.monotonic(), self._look_every)
        pool, pool_before = member.database.pool, before.database.pool
        pool_before.connector.on_unreachable = None
        pool.configure(pool.options.but(fail_fast_after=self._options_of_primary.fail_fast_after))
        self._watch_primary()
        pool_before.turn_away(DatabaseUnavailable(f"{before.name} is no longer the primary"))
        pool_before.configure(pool_before.options.but(fail_fast_after=0.0))


class _Turn:
    """For one thread at a time, and the others need not wait: what they would do is being done."""

    def __init__(self) -> None:
        self._lock, self._forks = threading.Lock(), fork.count

    def take(self) -> _Taken:
        if self._forks != fork.count:  # who has it may be a thread of the parent's
            self._lock, self._forks = threading.Lock(), fork.count
        return _Taken(self._lock)


class _Taken:
    def __init__(self, lock: threading.Lock) -> None:
        self._lock = lock

    def __enter__(self) -> bool:
        self._is_taken = self._lock.acquire(blocking=False)
        return self._is_taken

    def __exit__(self, *exc_info: object) -> None:
        if self._is_taken:
            self._lock.release()
