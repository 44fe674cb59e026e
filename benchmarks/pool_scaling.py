"""What a checkout costs with many threads waiting, and with many connections in the pool: it should be the same."""

from __future__ import annotations

import math
import threading
import time
from collections import deque

from benchmarks.pool_contenders import CONTENDERS, Contender, Ours, OursAlone, Target
from benchmarks.pool_figures import Bar, Noise, Part, Series, progress
from benchmarks.pool_threads import Served, open_all, side_by_side

_FLAT = 1.25
_TURN = 1000  # hand-overs, some milliseconds
_SIZES = (1, 8)
_CONTROL = "control: bare locks"
_QUEUE = "peewee-web, Pool alone, one thread"
_KINDS: tuple[type[Contender], ...] = (OursAlone, *CONTENDERS)


def measure_waiting(target: Target, noise: Noise, quick: bool) -> Part:
    """A queue of so many: each check-in hands the connection to the first, and its giver joins the end."""
    rounds, seconds, settle = (1, 0.05, 0.05) if quick else (5, 0.5, 0.15)
    crowds = (1, 10) if quick else (1, 10, 100, 1000)
    cost = {_QUEUE: _without_threads(target, crowds, 20 if quick else 400)}
    fairness: dict[str, Series] = {_QUEUE: Series()}

    def note(name: str, crowd: int, served: Served) -> None:
        cost.setdefault(name, {}).setdefault(crowd, Series()).add(1e6 / max(served.rate, 1e-9))
        if crowd == crowds[-1]:
            fairness.setdefault(name, Series()).add(served.fairness)

    for number in range(rounds):
        progress(f"waiting threads: round {number + 1} of {rounds}")
        noise.tick()
        for crowd in crowds:
            note(_CONTROL, crowd, _ring(crowd + 1, seconds, settle))
        for kind in _KINDS:
            for size in _SIZES if issubclass(kind, Ours) else _SIZES[-1:]:
                for crowd in crowds:
                    note(_named(kind, size), crowd, _queue_up(kind, target, size, crowd, seconds, settle))
    last = crowds[-1]
    growth = {name: {crowd: by[crowd].over(by[1]) for crowd in crowds} for name, by in cost.items()}
    return Part(
        "Waiting threads, no query: us for a checkout and its check-in, of all threads together",
        ("", *(f"{crowd:,} waiting" for crowd in crowds), f"{last:,} / 1", f"least / most, {last:,}"),
        [
            (name, *(each.text() for each in by.values()), growth[name][last].text(2), fairness[name].text(2))
            for name, by in cost.items()
        ],
        [
            "  one thread: as long a queue, but nobody in it who has to be woken: what the pool itself does",
            "  bare locks: as many threads pass a turn round, each with its own lock: what the system takes for that",
        ],
        [
            _flat(f"a queue of 1 to {last:,}: growth of the pool's own cost", growth[_QUEUE]),
            *(
                _flat(
                    f"1 to {last:,} threads waiting for {size}: growth beside bare locks'",
                    {crowd: each.over(growth[_CONTROL][crowd]) for crowd, each in growth[_named(Ours, size)].items()},
                )
                for size in _SIZES
            ),
        ],
        {name: {str(crowd): each.data() for crowd, each in by.items()} for name, by in cost.items()},
    )


def _named(kind: type[Contender], size: int) -> str:
    return f"{kind.name}, {size} connection{'s' if size > 1 else ''}"


def _flat(what: str, growth: dict[int, Series]) -> Bar:
    return Bar.at_most(what, max(each.median for each in growth.values()), _FLAT)


def _queue_up(kind: type[Contender], target: Target, size: int, crowd: int, seconds: float, settle: float) -> Served:
    pool = kind(target, size, timeout=60.0)
    try:
        open_all(pool, size)
        return side_by_side(crowd + size, seconds, settle, lambda _: pool.give(pool.take()), patience=1.0)
    finally:
        pool.close()


class _Place:
    """A place in the pool's queue that nobody sits in."""

    lease = error = None

    def wake(self) -> None: ...


class _Queue:
    """A pool of one connection and *crowd* such places in its queue, all in one thread."""

    def __init__(self, target: Target, crowd: int) -> None:
        from peewee_web.core.places import caller

        self._contender = OursAlone(target, 1, timeout=60.0)
        self._pool = self._contender.db.pool
        self._caller = caller()
        self._lease = self._pool.checkout()
        self._places: deque[_Place] = deque()
        for _ in range(crowd):
            self._join()

    def _join(self) -> None:
        place = _Place()
        self._places.append(place)
        self._pool.enqueue(place, self._caller, first=False, spare=math.inf)

    def hand_over(self, times: int) -> None:
        for _ in range(times):
            self._pool.checkin(self._lease)
            first = self._places.popleft()
            self._lease = first.lease
            self._pool.ledger.leave(first, 0.0)
            self._join()

    def close(self) -> None:
        for place in self._places:
            self._pool.ledger.leave(place, 0.0)
        self._pool.checkin(self._lease)
        self._contender.close()


def _without_threads(target: Target, crowds: tuple[int, ...], rounds: int) -> dict[int, Series]:
    """us for a hand-over in a queue of each of *crowds*, in short turns."""
    queues = {crowd: _Queue(target, crowd) for crowd in crowds}
    cost = {crowd: Series() for crowd in crowds}
    try:
        for _ in range(rounds):
            for crowd, queue in queues.items():
                begun = time.perf_counter()
                queue.hand_over(_TURN)
                cost[crowd].add((time.perf_counter() - begun) / _TURN * 1e6)
    finally:
        for queue in queues.values():
            queue.close()
    return cost


def _ring(threads: int, seconds: float, settle: float) -> Served:
    """Each thread waits for its lock, and then releases the next one's."""
    locks = [threading.Lock() for _ in range(threads)]
    for lock in locks[1:]:
        lock.acquire()

    def step(number: int) -> None:
        locks[number].acquire()
        locks[(number + 1) % threads].release()

    return side_by_side(threads, seconds, settle, step)


def measure_connections(target: Target, noise: Noise, quick: bool) -> Part:
    """One thread, and so many idle connections."""
    rounds, seconds = (5, 0.004) if quick else (150, 0.004)
    sizes = (1, 10) if quick else (1, 10, 50, 200)
    cost: dict[str, dict[int, Series]] = {}
    for kind in _KINDS:
        progress(f"idle connections: {kind.name}")
        noise.tick()
        cost[kind.name] = _of_sizes(kind, target, sizes, rounds, seconds)
    last = sizes[-1]
    growth = {size: each.over(cost[Ours.name][1]) for size, each in cost[Ours.name].items()}
    return Part(
        "Idle connections, one thread: us for a checkout and its check-in",
        ("", *(f"{size} idle" for size in sizes), f"{last} / 1"),
        [(name, *(each.text() for each in by.values()), by[last].over(by[1]).text(2)) for name, by in cost.items()],
        bars=[_flat(f"1 to {last} connections: growth of the cost", growth)],
        data={name: {str(size): each.data() for size, each in by.items()} for name, by in cost.items()},
    )


def _of_sizes(
    kind: type[Contender], target: Target, sizes: tuple[int, ...], rounds: int, seconds: float
) -> dict[int, Series]:
    pools: dict[int, Contender] = {}
    taken = {size: Series() for size in sizes}
    try:
        for size in sizes:
            pools[size] = kind(target, size, timeout=60.0)
            open_all(pools[size], size)
        pools[1].spin(100)
        begun = time.perf_counter()
        pools[1].spin(100)
        times = max(20, int(seconds / (time.perf_counter() - begun) * 100))
        for _ in range(rounds):
            for size, pool in pools.items():
                begun = time.perf_counter()
                pool.spin(times)
                taken[size].add((time.perf_counter() - begun) / times * 1e6)
    finally:
        for pool in pools.values():
            pool.close()
    return taken
