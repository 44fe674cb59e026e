"""The primary is killed under load, and a standby promoted: what becomes of the writes that were acknowledged.

``python -m tests.replicas.failover`` prints it with and without a synchronous standby.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field

import peewee

from tests.replicas.served import Served
from tests.servers.replication import PostgresCluster
from tests.servers.waiting import until

_WRITERS = 4


@dataclass
class Outcome:
    acknowledged: set[str] = field(default_factory=set)
    failed: int = 0
    lost: set[str] = field(default_factory=set)
    """Acknowledged, and not on the new primary."""
    lost_by_replication: set[str] = field(default_factory=set)
    """On the old primary, and not on the new one."""
    doubled: int = 0
    recovery: float = 0.0
    """Seconds from the end of the promotion to the first write that was acknowledged after it."""
    outage: float = 0.0
    """Seconds from the kill to that write."""

    def __str__(self) -> str:
        return (
            f"{len(self.acknowledged)} writes acknowledged, {self.failed} failed; lost {len(self.lost)}, of which "
            f"replication had not sent {len(self.lost & self.lost_by_replication)}; doubled {self.doubled}; first "
            f"write {self.recovery:.2f} s after the promotion, {self.outage:.2f} s after the kill"
        )


def fail_over(served: Served, cluster: PostgresCluster, *, synchronous: bool, writes: int = 100) -> Outcome:
    """Write before, during and after a failover to the first standby, *writes* times at least before and after."""
    outcome = Outcome()
    before, after = cluster.primary, cluster.standbys[0]
    cluster.set_synchronous(1 if synchronous else 0)
    acknowledged: list[tuple[float, str]] = []
    done = threading.Event()

    def write(writer: int) -> None:
        number = 0
        while not done.is_set():
            number += 1
            text = f"{writer}-{number}"
            try:
                served.databases.scope()(served.Note.create)(text=text)
            except peewee.PeeweeException:
                outcome.failed += 1
                time.sleep(0.01)  # as a client that tries again
            else:
                acknowledged.append((time.monotonic(), text))

    writers = [threading.Thread(target=write, args=(number,)) for number in range(_WRITERS)]
    for thread in writers:
        thread.start()
    try:
        until(lambda: len(acknowledged) >= writes, 20)
        killed = time.monotonic()
        before.kill()
        cluster.promote(after)
        promoted = time.monotonic()
        until(lambda: bool(acknowledged) and acknowledged[-1][0] > promoted, 20)
        goal = len(acknowledged) + writes
        until(lambda: len(acknowledged) >= goal, 20)
    finally:
        done.set()
        for thread in writers:
            thread.join()
    first = min(when for when, _ in acknowledged if when > promoted)
    outcome.recovery, outcome.outage = first - promoted, first - killed
    outcome.acknowledged = {text for _, text in acknowledged}
    present = [text for (text,) in after.execute("SELECT text FROM note", database=served.name)]
    before.start()  # alone, as it was: to see what it had
    had = {text for (text,) in before.execute("SELECT text FROM note", database=served.name)}
    before.kill()
    outcome.doubled = len(present) - len(set(present))
    outcome.lost = outcome.acknowledged - set(present)
    outcome.lost_by_replication = had - set(present)
    return outcome


def main() -> None:
    for synchronous in (False, True):
        with PostgresCluster() as cluster:
            served = Served(cluster.primary, cluster.standbys, {"look_every": 0.5})
            served.create()
            cluster.wait_until_caught_up()
            outcome = fail_over(served, cluster, synchronous=synchronous, writes=2000)
            print(f"{'a synchronous' if synchronous else 'asynchronous'} standby: {outcome}")
            served.server = cluster.primary
            served.close()


if __name__ == "__main__":
    main()
