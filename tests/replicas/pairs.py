"""Pairs of requests, a write and then a read of it by the same client, while standbys stop replaying at random.

``python -m tests.replicas.pairs [PAIRS]`` runs 10,000 on a cluster of its own.
"""

from __future__ import annotations

import random
import sys
import threading
import time
import uuid
from collections import Counter

from tests.replicas.served import Client, Served
from tests.servers.replication import PostgresCluster


def write_and_read(served: Served, cluster: PostgresCluster, *, pairs: int, threads: int) -> int:
    """How many of the reads missed their client's write. Prints which server served how many of them."""
    asked: Counter[int] = Counter()
    missed: list[str] = []
    errors: list[BaseException] = []
    done = threading.Event()

    def requests(count: int) -> None:
        client = Client(served)
        try:
            for _ in range(count):
                text = uuid.uuid4().hex
                client.write(text)
                try:
                    asked[client.read(text)] += 1
                except AssertionError:
                    missed.append(text)
        except BaseException as error:
            errors.append(error)

    def pause() -> None:
        dice = random.Random(7)
        while not done.wait(dice.uniform(0.005, 0.05)):
            standby = dice.choice(cluster.standbys)
            cluster.pause_replay(standby)
            done.wait(dice.uniform(0.005, 0.1))
            cluster.resume_replay(standby)

    clients = [threading.Thread(target=requests, args=(pairs // threads,)) for _ in range(threads)]
    pauses = threading.Thread(target=pause)
    for thread in (*clients, pauses):
        thread.start()
    for thread in clients:
        thread.join()
    done.set()
    pauses.join()
    if errors:
        raise errors[0]
    assert sum(asked.values()) + len(missed) == pairs // threads * threads
    standbys = sum(asked[standby.port] for standby in cluster.standbys)
    print(f"{pairs} pairs: {standbys} reads from standbys, {asked[cluster.primary.port]} from the primary")
    assert 0 < standbys < pairs  # else nothing was shown
    return len(missed)


def main(pairs: int) -> None:
    with PostgresCluster() as cluster:
        served = Served(cluster.primary, cluster.standbys, {"look_every": 0.2})
        served.create()
        cluster.wait_until_caught_up()
        begun = time.monotonic()
        missed = write_and_read(served, cluster, pairs=pairs, threads=4)
        print(f"{missed} of {pairs} reads missed their own write, in {time.monotonic() - begun:.0f} s")
        served.close()
    sys.exit(missed > 0)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 10_000)
