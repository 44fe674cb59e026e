"""Threads that check out and in side by side: for how long, how often each, and at what cost."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from benchmarks.pool_contenders import Contender

_STACK = 256 * 1024  # bytes: a thousand threads are not to be a thousand times 8 MB


@dataclass(frozen=True)
class Served:
    """What each thread got done in *seconds*."""

    seconds: float
    counts: list[int]
    errors: list[str]

    @property
    def rate(self) -> float:
        """Of all together, a second."""
        return sum(self.counts) / self.seconds

    @property
    def fairness(self) -> float:
        """The least-served thread's count, as a share of the most-served one's."""
        return min(self.counts) / max(1, max(self.counts))


def side_by_side(
    threads: int, seconds: float, settle: float, step: Callable[[int], object], *, patience: float = 0.0
) -> Served:
    """Call ``step(number of the thread)`` in so many threads for *seconds*, after *settle* that don't count.

    With *patience* it begins later, by so many seconds at most, where some thread has not had its first turn by then.
    """
    counts, errors = [0] * threads, []
    had_a_turn: set[int] = set()
    begin = end = math.inf

    def work(number: int) -> None:
        try:
            step(number)
            had_a_turn.add(number)
            while True:
                step(number)
                now = time.perf_counter()
                if now >= end:
                    return
                if now >= begin:
                    counts[number] += 1
        except Exception as error:
            errors.append(f"{type(error).__name__}: {error}")

    before = threading.stack_size(_STACK)
    try:
        crowd = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
        for thread in crowd:
            thread.start()
    finally:
        threading.stack_size(before)
    time.sleep(settle)
    latest = time.perf_counter() + patience
    while len(had_a_turn) + len(errors) < threads and time.perf_counter() < latest:
        time.sleep(0.01)
    begin = time.perf_counter() + 0.01
    end = begin + seconds
    for thread in crowd:
        thread.join()
    return Served(seconds, counts, errors)


def open_all(contender: Contender, size: int) -> None:
    """Have *size* connections open and idle: Peewee's pools give a thread only one, so it takes as many threads."""
    all_out = threading.Barrier(size)
    errors: list[BaseException] = []

    def hold() -> None:
        try:
            taken = contender.take()
        except BaseException as error:
            errors.append(error)
            all_out.abort()
            return
        with suppress(threading.BrokenBarrierError):
            all_out.wait()
        contender.give(taken)

    crowd = [threading.Thread(target=hold) for _ in range(size)]
    for thread in crowd:
        thread.start()
    for thread in crowd:
        thread.join()
    if errors:
        raise errors[0]
