"""``ReplicatedDatabase``: reads go to replicas, all else to the primary, and who has written sees what he wrote.

Which server a query goes to is decided in ``routing.py``; how servers are looked after is in ``members.py``, what a
client is told to bring along in ``bookmarks.py``.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, TypeVar

from peewee import Database, PeeweeException, Proxy

from .adopt import adopt
from .bookmarks import Bookmark, Bookmarks
from .databases import connect
from .member import CHOICES, Member, MemberStatus
from .members import Members
from .pooled import Pooling
from .routing import Routing
from .scope import History
from .state import ConnectionState

T = TypeVar("T")


class ReplicatedDatabase(Routing):
    """A primary and replicas of it, for models: ``ReplicatedDatabase(primary, [replica, ...])``.

    Each is a Peewee database or a URL; a replica may be given with its weight, as ``(replica, 2)``. A `Select` outside
    transactions is sent to a replica, the same for all of a scope, chosen by *choose*: ``"round_robin"``, ``"random"``
    or ``"least_used"``. All else goes to the primary: writes, raw SQL, ``FOR UPDATE``, a CTE that writes, functions
    that write or lock; reads in a transaction; and all reads of a scope after a write in it.

    - *sticky_for* (10): for so many seconds after a request that wrote, the requests of its client read from a replica
      only if that has replayed the write, else from the primary. *sticky_by*: the client brings along a ``"cookie"``,
      or the ``"header"`` ``Peewee-Position-<name>`` of the response. 0: each request for itself.
    - *max_lag* (30) seconds and *max_lag_bytes* (none): how late a replica may be.
    - *fallback* (True): with no replica left the primary reads; else `DatabaseUnavailable` is raised.
    - *look_every* (5): seconds between two looks at a replica that is well. One that fails, lags or is no standby any
      more is left out, and looked at again with growing pauses.

    When the primary has become a standby, or can't be reached, and a replica has become the primary, that is gone on
    with. Thread-safe, and safe across coroutines. Raises `TypeError` or `ValueError` for what can't be such a database.
    """

    __slots__ = ("_bookmarks", "_members", "identity")

    _bookmarks: Bookmarks
    #: What tells it from others that have no name, whichever server is its primary.
    identity: str

    def __init__(
        self,
        primary: Any,
        replicas: Iterable[Any] = (),
        *,
        choose: Literal["round_robin", "random", "least_used"] = "round_robin",
        fallback: bool = True,
        max_lag: float | None = 30.0,
        max_lag_bytes: int | None = None,
        look_every: float = 5.0,
        sticky_for: float = 10.0,
        sticky_by: Literal["cookie", "header"] = "cookie",
    ) -> None:
        if choose not in CHOICES:
            raise ValueError(f"choose is one of {', '.join(map(repr, CHOICES))}, not {choose!r}")
        if isinstance(replicas, (str, Database, Proxy)):
            raise TypeError("replicas is a list: ReplicatedDatabase(primary, [replica, ...])")
        first = Member(_database(primary))
        members = Members(
            first,
            [_replica(replica, first) for replica in replicas],
            CHOICES[choose](),
            fallback=fallback,
            max_lag=max_lag,
            max_lag_bytes=max_lag_bytes,
            look_every=look_every,
        )
        bookmarks = Bookmarks(sticky_for, sticky_by)
        identity = f"{zlib.crc32(f'{first.name}/{first.database.database}'.encode()):08x}"
        slots = {"_members": members, "_bookmarks": bookmarks, "_callbacks": [], "identity": identity}
        for slot, value in slots.items():
            object.__setattr__(self, slot, value)

    def __repr__(self) -> str:
        members = self._members
        used = sum(member.reason is None for member in members.replicas)
        return f"<ReplicatedDatabase {members.primary.name}, {used} of {len(members.replicas)} replicas in use>"

    def initialize(self, obj: Any) -> None:
        raise TypeError("a ReplicatedDatabase has its databases from the start")

    def attach_callback(self, callback: Callable[[Any], T]) -> Callable[[Any], T]:
        callback(self)  # Peewee has it called once there is a database
        return callback

    # The servers.

    @property
    def members(self) -> Sequence[Pooling]:
        """The databases of all servers, the primary first."""
        return [member.database for member in self._members.all]

    def get_write(self) -> Any:
        """The primary's database. Looks for another one if it is known to be away."""
        self._members.failover.look_if_away()
        return self.obj

    def get_read(self) -> Any:
        """The database that a read would be sent to here: a replica's, or the primary's."""
        primary = self.obj
        member = self._reader(primary)
        return primary if member is None else member.database

    @property
    def replicas_known(self) -> list[MemberStatus]:
        """What is known of the replicas. Asks nobody."""
        return [member.status("replica") for member in self._members.replicas]

    def check_connections(self) -> list[MemberStatus]:
        """Look at each server now, the primary first, and return how they stand. Blocks for as long as that takes."""
        members = self._members
        members.look_at_all()
        primary = members.primary
        reason = None
        try:
            primary.observe()
        except PeeweeException as error:
            reason = str(error)
        found = primary.status("primary")
        first = MemberStatus(found.name, found.role, reason is None, reason, None, members.position_of_primary())
        return [first, *self.replicas_known]

    def add_replica(self, replica: Any, weight: int = 1) -> Any:
        """Read from *replica* (a database or a URL) as well, from now on. Returns its database."""
        member = _replica((replica, weight), self._members.primary)
        self._members.add(member)
        return member.database

    def remove_replica(self, replica: Any) -> None:
        """Read no more from *replica*, a database of ``members``. Requests that are reading from it go on."""
        self._members.remove(replica)

    # What a client brings along (`Databases.scope_for`).

    def remember_from(self, header: Callable[[str], str | None], name: str, history: History) -> None:
        """Note in *history* what the client of a request with these headers has to see."""
        position = self._bookmarks.read(header, name)
        if position is not None:
            history.positions[self] = position

    def bookmark_after(self, name: str, history: History) -> Bookmark | None:
        """What the response tells the client, if its request has written. Never raises."""
        if not self._bookmarks.seconds or history.written.isdisjoint(self.members):
            return None
        # On the connection that the request has in hand: if all were to wait for another, none would get one.
        state: ConnectionState = self.obj._state.find()
        in_hand = not (state.closed or state.transactions or state.open_transaction is not None)
        return self._bookmarks.make(name, (self._members.position_here() if in_hand else None) or "")

    # Pools and connections: all of them.

    def close(self) -> bool:
        """As Peewee's; closes the replicas' connections of the scope or thread as well."""
        for member in self._members.replicas:
            member.database.close()
        closed: bool = self.obj.close()
        return closed

    def close_idle(self) -> int:
        return sum(database.close_idle() for database in self.members)

    def close_stale(self, age: float = 600) -> int:
        return sum(database.close_stale(age) for database in self.members)

    def close_all(self) -> None:
        for database in self.members:
            database.close_all()

    def close_pool(self, timeout: float = 0.0) -> int:
        """As a pooled database's, of all servers."""
        deadline = time.monotonic() + timeout
        return sum(database.close_pool(max(0.0, deadline - time.monotonic())) for database in self.members)

    def warm(self) -> int:
        return sum(database.warm() for database in self.members)

    def dispose(self) -> None:
        for database in self.members:
            database.dispose()


def _replica(replica: Any, primary: Member) -> Member:
    database, weight = replica if isinstance(replica, (tuple, list)) else (replica, 1)
    if not isinstance(weight, int) or weight < 1:
        raise ValueError(f"a replica's weight is a whole number from 1, not {weight!r}")
    member = Member(_database(database), weight)
    if member.replication is not primary.replication:
        raise TypeError(
            f"a replica is of the primary's kind: {member.name} is {member.replication.name}, and the primary "
            f"{primary.replication.name}"
        )
    if member.database is primary.database:
        raise ValueError("the primary is no replica of its own: give a database, or a URL, for each server")
    return member


def _database(database: Any) -> Any:
    if isinstance(database, str):
        return connect(database)
    if isinstance(database, ReplicatedDatabase):
        raise TypeError("a ReplicatedDatabase has replicas already: use its add_replica()")
    while isinstance(database, Proxy):
        if database.obj is None:
            raise ValueError("the proxy has no database yet: call its initialize() first")
        database = database.obj
    return adopt(database)
