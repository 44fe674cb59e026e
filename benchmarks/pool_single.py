"""One thread: what a checkout and its check-in cost, PostgreSQL on loopback."""

from __future__ import annotations

import time

from benchmarks.pool_contenders import CONTENDERS, OursAlone, Target
from benchmarks.pool_figures import Bar, Noise, Part, Series, progress
from benchmarks.pool_threads import open_all

_SIZE = 8


def measure(target: Target, noise: Noise, quick: bool) -> Part:
    rounds, seconds = (20, 0.004) if quick else (400, 0.004)  # short turns: a busy machine spoils few
    pools = {kind.name: kind(target, _SIZE, timeout=10.0) for kind in (OursAlone, *CONTENDERS)}
    taken = {name: Series() for name in pools}
    try:
        times = {}
        for name, pool in pools.items():
            open_all(pool, _SIZE)
            pool.spin(200)
            begun = time.perf_counter()
            pool.spin(200)
            times[name] = max(20, int(seconds / (time.perf_counter() - begun) * 200))
        for number in range(rounds):
            if number % 20 == 0:
                progress(f"one thread: round {number + 1} of {rounds}")
                noise.tick()
            for name, pool in pools.items():
                begun = time.perf_counter()
                pool.spin(times[name])
                taken[name].add((time.perf_counter() - begun) / times[name] * 1e6)
    finally:
        for pool in pools.values():
            pool.close()
    ours = taken["peewee-web"]
    part = Part(
        f"One thread, PostgreSQL on loopback, {_SIZE} idle connections: us for a checkout and its check-in",
        ("", "us", "x ours"),
        [(name, series.text(), series.over(ours).text(2)) for name, series in taken.items()],
        data={name: series.data() for name, series in taken.items()},
    )
    part.bars = [
        Bar.at_least("one thread: times faster than playhouse", taken["playhouse.pool"].over(ours).median, 20, 1),
        Bar.at_most("one thread: cost as a multiple of psycopg_pool's", ours.over(taken["psycopg_pool"]).median, 1.3),
    ]
    return part
