"""One server of several that have the same data: how it is asked how it stands, and what is known of it."""

from __future__ import annotations

import itertools
import logging
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from peewee import SqliteDatabase

from .backoff import pause
from .replication import UNKNOWN, Standing, replication_of
from .scope import Activation, Scope
from .watchdog import Watchdog

logger = logging.getLogger("peewee_web")

# Seconds until a server that failed is looked at again, the first time and at most.
FIRST_PAUSE = 0.5
_LONGEST_PAUSE = 15.0
# Seconds that a server may take to say how it stands.
_PATIENCE = 2.0


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
        #: Whether it is left out for being late, and for nothing else.
        self.is_late = False
        self.standing = UNKNOWN
        self.was_looked_at = False
        #: Whether it was seen as a standby since it last was the primary.
        self.was_standby = False
        self._failures = 0
        self._next_look = -math.inf

    def __repr__(self) -> str:
        return f"<{self.name}{'' if self.reason is None else f', left out: {self.reason}'}>"

    @property
    def name(self) -> str:
        parameters = self.database.connect_params
        host = parameters.get("host") or parameters.get("unix_socket")
        if host:
            return f"{host}:{parameters['port']}" if parameters.get("port") else str(host)
        name = str(self.database.database)
        # A whole connection string may stand there, with a password.
        is_file = isinstance(self.database, SqliteDatabase)
        return name if is_file or not ("=" in name or "://" in name) else f"a {self.replication.name} server"

    def is_due(self, now: float) -> bool:
        return now >= self._next_look

    def put_off(self, until: float) -> None:
        self._next_look = until

    def observe(self) -> Standing:
        """Ask the server how it stands, on a connection of its own. Raises what the query raises."""
        with Activation(None), Scope():
            self.database.ensure_open()
            lease = self.database._state.find().lease
            with Watchdog(lease.pooled.socket(), _PATIENCE):
                return self.observe_here()

    def observe_here(self) -> Standing:
        """The same on the connection of the current scope, which may have it already: it must not wait for another."""
        self.standing = standing = self.replication.standing(self.database)
        self.was_standby = self.was_standby or standing.is_standby is True
        return standing

    def note(self, reason: str | None, now: float, look_every: float, *, is_late: bool = False) -> None:
        """Remember whether it is left out, and why."""
        before, self.reason, first, self.was_looked_at = self.reason, reason, not self.was_looked_at, True
        self.is_late = is_late
        if reason is None:
            self._failures = 0
            self._next_look = now + look_every
            if before is not None:
                logger.warning("reads go to %s again", self.name)
        else:
            self._failures += 1
            self._next_look = now + pause(FIRST_PAUSE, _LONGEST_PAUSE, self._failures)
            if before is None or first:
                logger.warning("no reads go to %s: %s", self.name, reason)

    def forget(self) -> None:
        """What was known of it as a member of another primary's."""
        self.standing, self.was_looked_at, self._next_look = UNKNOWN, False, -math.inf

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
