"""1,000 greenlets on 8 connections under gevent: nobody is forgotten, nobody waits for longer than the others.

Each pool runs in a child process whose modules are gevent's from the first line on:
``python -m benchmarks.pool_greenlets NAME PORT GREENLETS CHECKOUTS SECONDS`` prints what it saw as JSON.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from typing import Any

from benchmarks.pool_figures import Bar, Noise, Part, Series, progress

_SIZE = 8
_WORK = "SELECT pg_sleep(0.001)"


def measure(target: Any, noise: Noise, quick: bool) -> Part:
    from benchmarks.pool_contenders import CONTENDERS, Ours

    rounds, greenlets, checkouts, limit = (1, 100, 3, 20) if quick else (3, 1000, 10, 60)
    seen: dict[str, list[dict[str, Any]]] = {kind.name: [] for kind in CONTENDERS}
    for number in range(rounds):
        noise.tick()
        for name, results in seen.items():
            progress(f"greenlets: round {number + 1} of {rounds}, {name}")
            results.append(_in_a_child(name, target.port, greenlets, checkouts, limit))
    part = Part(
        f"gevent: {greenlets:,} greenlets on {_SIZE} connections, {checkouts} checkouts each, with a query of 1 ms",
        ("", "done", "seconds", "least-most served half-way", "median wait, ms", "longest wait, ms"),
        data=dict(seen),
    )
    for name, results in seen.items():
        part.rows.append(_row(name, results, greenlets * checkouts))
        part.notes += [f"  {name}: {each['problem']}" for each in results if each["problem"]]
    ours = seen[Ours.name]
    longest = _series(ours, "longest wait ms").over(_series(ours, "median wait ms"))
    part.bars = [
        Bar.at_least("gevent: checkouts done", min(each["done"] for each in ours), greenlets * checkouts, 0),
        # In strict order it is 1; those under way may overtake each other by a place or two in each of five laps.
        Bar.at_most("gevent: most - least served half-way", max(each["most"] - each["least"] for each in ours), 2, 0),
        Bar.at_most("gevent: longest / median wait", longest.median, 2),
    ]
    return part


def _row(name: str, results: list[dict[str, Any]], expected: int) -> tuple[str, ...]:
    done = min(each["done"] for each in results)
    return (
        name,
        f"{done:,} of {expected:,}",
        _series(results, "seconds").text(),
        ", ".join(f"{each['least']}-{each['most']}" for each in results),
        _series(results, "median wait ms").text(0),
        _series(results, "longest wait ms").text(0),
    )


def _series(results: list[dict[str, Any]], figure: str) -> Series:
    series = Series()
    for each in results:
        if each[figure] is not None:
            series.add(each[figure])
    return series


def _in_a_child(name: str, port: int, greenlets: int, checkouts: int, limit: int) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.pool_greenlets", name]
    command += [str(each) for each in (port, greenlets, checkouts, limit)]
    try:
        # It ends by itself at its limit, unless its event loop has come to a standstill.
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit + 30, check=False)
    except subprocess.TimeoutExpired:
        return _nothing(f"stood still: killed after {limit + 30} s")
    if done.returncode or not done.stdout:
        lines = done.stderr.strip().splitlines() or [f"ended with status {done.returncode}"]
        return _nothing(lines[-1])
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def _nothing(problem: str) -> dict[str, Any]:
    figures = ("seconds", "median wait ms", "longest wait ms")
    return {"done": 0, "least": 0, "most": 0, **dict.fromkeys(figures), "problem": problem}


def main() -> None:
    from gevent import monkey

    monkey.patch_all()
    name, *numbers = sys.argv[1:]
    print(json.dumps(crowd(name, *map(int, numbers))))


def crowd(name: str, port: int, greenlets: int, checkouts: int, limit: int) -> dict[str, Any]:
    """Run *greenlets* greenlets of *checkouts* checkouts each on the pool of that *name*, *limit* seconds at most."""
    import gevent

    from benchmarks.pool_contenders import CONTENDERS, Target

    kind = next(kind for kind in CONTENDERS if kind.name == name)
    pool = kind(Target("127.0.0.1", port), _SIZE, timeout=float(limit))
    served = [0] * greenlets
    waits: list[float] = []
    half_way: list[int] = []
    problems: list[str] = []

    def work(number: int) -> None:
        for _ in range(checkouts):
            begun = time.perf_counter()
            try:
                taken = pool.take()
            except Exception as error:
                problems.append(f"{type(error).__name__}: {error}")
                return
            waits.append(time.perf_counter() - begun)
            try:
                pool.connection(taken).execute(_WORK).fetchone()
            finally:
                pool.give(taken)
            served[number] += 1
            if not half_way and len(waits) >= greenlets * checkouts // 2:
                half_way.extend(served)

    begun = time.perf_counter()
    all_of_them = [gevent.spawn(work, number) for number in range(greenlets)]
    gevent.joinall(all_of_them, timeout=limit)
    seconds = time.perf_counter() - begun
    left = sum(not each.dead for each in all_of_them)
    if left:
        problems.insert(0, f"{left} greenlets were not done after {limit} s")
    gevent.killall(all_of_them)
    state = half_way or served
    return {
        "done": sum(served),
        "seconds": seconds,
        "least": min(state),
        "most": max(state),
        "median wait ms": statistics.median(waits) * 1e3 if waits else None,
        "longest wait ms": max(waits) * 1e3 if waits else None,
        "problem": f"{len(problems)} problems, the first: {problems[0]}" if problems else "",
    }


if __name__ == "__main__":
    main()
