"""Two faults under way, and what the threads notice that have nothing to do with them.

- a *black-holed connect*: one thread needs a new connection, and the server accepts it and never answers;
- a *frozen peer*: one thread is given an idle connection whose peer has gone silent, and finds out by asking it.

Four other threads give their connection back and take one again, every millisecond. What is measured is how long that
takes them, in the same seconds with the fault and, alternating, without it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from benchmarks.pool_contenders import CONTENDERS, Contender, Ours, Target
from benchmarks.pool_figures import Bar, Noise, Part, Series, percentile, progress
from benchmarks.pool_link import Link

_OTHERS = 4
_SIZE = 8
_PAUSE = 0.001
_CONNECT_TIMEOUT = 10
_TIMEOUT = 4.0  # of a checkout; ours gives a probe half of it, which is to be longer than we look
# Ours asks a connection only after it was idle for so long (default: 15 s); the others ask at every checkout.
_PROBE_AFTER = 0.5


class Others:
    """Threads that hold a connection each, and then give it back and take one, again and again."""

    def __init__(self, pool: Contender) -> None:
        self._pool = pool
        self.taken: list[float] = []
        self._begun: dict[int, float] = {}
        self._finished: set[int] = set()
        self._holding = threading.Barrier(_OTHERS + 1)
        self._go = threading.Event()
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._work, args=(number,)) for number in range(_OTHERS)]

    def hold(self) -> None:
        """Start them; returns when each has a connection."""
        for thread in self._threads:
            thread.start()
        self._holding.wait(_CONNECT_TIMEOUT)

    def cycle(self, seconds: float) -> list[float]:
        """Have them give and take for *seconds*. How long each time took; one that stands still counts as it stands."""
        self._go.set()
        time.sleep(seconds)
        self._stop.set()
        time.sleep(20 * _PAUSE)
        stood_still = [time.perf_counter() - self._begun[each] for each in range(_OTHERS) if each not in self._finished]
        return self.taken + stood_still

    def join(self) -> None:
        self._go.set()
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _work(self, number: int) -> None:
        pool = self._pool
        mine = pool.take()
        self._holding.wait()
        self._go.wait()
        try:
            while not self._stop.is_set():
                begun = self._begun[number] = time.perf_counter()
                pool.give(mine)
                mine = pool.take()
                self.taken.append(time.perf_counter() - begun)
                time.sleep(_PAUSE)
            self._finished.add(number)
            pool.give(mine)
        except Exception:  # the fault was ended under its hands, by breaking all links
            return


class Victim:
    """The thread that meets the fault: it takes a connection and gives it back at once."""

    def __init__(self, pool: Contender) -> None:
        self._pool = pool
        self.took: float | None = None
        self._thread = threading.Thread(target=self._work)

    def start(self) -> None:
        self._begun = time.perf_counter()
        self._thread.start()

    def waited(self) -> float:
        return time.perf_counter() - self._begun if self.took is None else self.took

    def join(self) -> None:
        self._thread.join()

    def _work(self) -> None:
        try:
            taken = self._pool.take()
            self.took = time.perf_counter() - self._begun
            self._pool.give(taken)
        except Exception:
            self.took = self.took or time.perf_counter() - self._begun


def black_holed_connect(pool: Contender, link: Link, seconds: float, fault: bool) -> tuple[list[float], float]:
    others, victim = Others(pool), Victim(pool)
    others.hold()
    if fault:
        links = link.ask("links")
        link.ask("black_hole")
        victim.start()
        _until(lambda: link.ask("links") > links)
    taken = others.cycle(seconds)
    waited = victim.waited() if fault else 0.0
    _end(link, others, victim if fault else None)
    return taken, waited


def frozen_peer(pool: Contender, link: Link, seconds: float, fault: bool) -> tuple[list[float], float]:
    others, victim = Others(pool), Victim(pool)
    first = pool.take()
    if fault:
        link.ask("freeze")  # this link alone: those that are made later are not frozen
    others.hold()
    pool.give(first)
    time.sleep(1.2 * _PROBE_AFTER)  # idle for that long, it is not trusted any more
    if fault:
        victim.start()
        time.sleep(0.1)  # it asks now; nobody can see that from outside
    taken = others.cycle(seconds)
    waited = victim.waited() if fault else 0.0
    _end(link, others, victim if fault else None)
    return taken, waited


def _end(link: Link, others: Others, victim: Victim | None) -> None:
    """End the fault, and with it whatever still waits for the peer."""
    link.ask("forward")
    link.ask("reset")
    others.join()
    if victim is not None:
        victim.join()
    link.ask("reset")


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _CONNECT_TIMEOUT / 2
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError("the fault did not come about")
        time.sleep(0.002)


FAULTS: dict[str, Callable[[Contender, Link, float, bool], tuple[list[float], float]]] = {
    "black-holed connect": black_holed_connect,
    "frozen peer": frozen_peer,
}


@dataclass
class Seen:
    """Milliseconds: of the other threads' give and take, without and with the fault, and of the thread that met it."""

    without: Series = field(default_factory=Series)
    with_fault: Series = field(default_factory=Series)
    worst: Series = field(default_factory=Series)
    victim: Series = field(default_factory=Series)

    def data(self) -> dict[str, Any]:
        return {name: series.data() for name, series in vars(self).items()}


def measure(target: Target, noise: Noise, quick: bool) -> Part:
    rounds, seconds = (1, 0.2) if quick else (5, 1.5)
    seen = {fault: {kind.name: Seen() for kind in CONTENDERS if _meets(kind, fault)} for fault in FAULTS}
    logging.getLogger("psycopg.pool").setLevel(logging.CRITICAL)  # it tells of each connection that the fault took
    with Link("proxy", target.host, target.port) as link:
        behind = Target(target.host, link.port, target.user, target.dbname, _CONNECT_TIMEOUT)
        for number in range(rounds):
            for fault, meet in FAULTS.items():
                noise.tick()
                progress(f"{fault}: round {number + 1} of {rounds}")
                for kind in CONTENDERS:
                    if not _meets(kind, fault):
                        continue
                    results = seen[fault][kind.name]
                    for happens in (False, True) if number % 2 else (True, False):
                        taken, waited = _one(kind, behind, link, meet, seconds, happens)
                        (results.with_fault if happens else results.without).add(percentile(taken, 0.99) * 1e3)
                        if happens:
                            results.worst.add(max(taken) * 1e3)
                            results.victim.add(waited * 1e3)
    return _report(seen, seconds)


def _meets(kind: type[Contender], fault: str) -> bool:
    """A pool that never asks does not stall on a frozen peer: it hands it out."""
    return kind.checks or fault != "frozen peer"


def _one(
    kind: type[Contender],
    target: Target,
    link: Link,
    meet: Callable[[Contender, Link, float, bool], tuple[list[float], float]],
    seconds: float,
    fault: bool,
) -> tuple[list[float], float]:
    options = {"probe_after": _PROBE_AFTER} if kind is Ours else {}
    pool = kind(target, _SIZE, timeout=_TIMEOUT, **options)
    try:
        return meet(pool, link, seconds, fault)
    finally:
        pool.close()


def _report(seen: dict[str, dict[str, Seen]], seconds: float) -> Part:
    part = Part(
        f"A fault under way for {seconds:g} s: ms that 4 other threads took to give a connection back and take one",
        ("", "p99 without", "p99 with", "longest with", "the thread that met it"),
        notes=[
            "  a figure near the length of the fault means: they stood still until it was over",
            "  (a pool that asks at every checkout pays for a round trip through the proxy in both columns)",
        ],
        data={fault: {name: each.data() for name, each in pools.items()} for fault, pools in seen.items()},
    )
    for fault, pools in seen.items():
        for name, each in pools.items():
            part.rows.append(
                (
                    f"{fault}: {name}",
                    each.without.text(3),
                    each.with_fault.text(3),
                    each.worst.text(2),
                    each.victim.text(0),
                )
            )
        ours = pools[Ours.name]
        # Noise is what the same figure does from round to round without any fault, and a quarter is never a stall.
        bar = max(*ours.without.values, 1.25 * ours.without.median)
        part.bars.append(Bar.at_most(f"{fault}: p99 of other threads, ms", ours.with_fault.median, round(bar, 4), 3))
    return part
