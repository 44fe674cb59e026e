"""16 threads on 8 connections at a round trip of 5 ms: how near a pool comes to what the link allows, how fairly."""

from __future__ import annotations

import statistics
import time
from typing import Any

import psycopg

from benchmarks.pool_contenders import CONTENDERS, Contender, Playhouse, Target
from benchmarks.pool_figures import Bar, Noise, Part, Series, progress
from benchmarks.pool_link import Link
from benchmarks.pool_threads import Served, side_by_side

_THREADS = 16
_SIZE = 8
_ROUND_TRIP = 0.005
_CONTROL = "control: no pool, 8 threads"


def measure(target: Target, noise: Noise, quick: bool) -> Part:
    rounds, seconds, settle = (1, 0.3, 0.3) if quick else (10, 1.5, 0.5)
    rate = {name: Series() for name in (_CONTROL, *(kind.name for kind in CONTENDERS))}
    fairness = {name: Series() for name in rate}
    errors: dict[str, list[str]] = {name: [] for name in rate}
    delays, round_trips = Series(), Series()

    def note(name: str, served: Served) -> None:
        rate[name].add(served.rate)
        fairness[name].add(served.fairness)
        errors[name] += served.errors

    with Link("relay", target.host, target.port) as link:
        behind = Target(target.host, link.port, target.user, target.dbname)
        for number in range(rounds):
            noise.tick()
            delay, round_trip = _tune(link, behind)  # each time: the machine's own share varies
            delays.add(delay * 1e3)
            round_trips.add(round_trip * 1e3)
            progress(f"5 ms round trip: round {number + 1} of {rounds}")
            note(_CONTROL, _without_a_pool(behind, seconds, settle))
            for kind in CONTENDERS:
                pool = kind(behind, _SIZE, timeout=30.0)
                try:
                    note(kind.name, side_by_side(_THREADS, seconds, settle, lambda _, pool=pool: _query(pool)))
                finally:
                    pool.close()
    return _report(rate, fairness, errors, delays, round_trips)


def _query(pool: Contender) -> None:
    taken = pool.take()
    try:
        pool.connection(taken).execute("SELECT 1").fetchone()
    finally:
        pool.give(taken)


def _without_a_pool(target: Target, seconds: float, settle: float) -> Served:
    """What the link, the server, the driver and this machine allow: as many threads as connections, one each."""
    connections = [target.connect() for _ in range(_SIZE)]
    try:
        return side_by_side(_SIZE, seconds, settle, lambda number: connections[number].execute("SELECT 1").fetchone())
    finally:
        for connection in connections:
            connection.close()


def _tune(link: Link, target: Target) -> tuple[float, float]:
    """Set the delay with which a query of one client takes 5 ms in all. That delay, and what it takes then."""
    delay = _ROUND_TRIP / 2
    link.ask("delay", delay)
    with target.connect() as connection:
        for _ in range(4):
            taken = _time_queries(connection)
            delay += _ROUND_TRIP - taken
            link.ask("delay", delay)
        return delay, _time_queries(connection)


def _time_queries(connection: psycopg.Connection[Any]) -> float:
    taken = []
    for _ in range(60):
        begun = time.perf_counter()
        connection.execute("SELECT 1").fetchone()
        taken.append(time.perf_counter() - begun)
    return statistics.median(taken)


def _report(
    rate: dict[str, Series],
    fairness: dict[str, Series],
    errors: dict[str, list[str]],
    delays: Series,
    round_trips: Series,
) -> Part:
    limit = _SIZE / _ROUND_TRIP
    measured = rate[_CONTROL]
    part = Part(
        f"{_THREADS} threads on {_SIZE} connections, one query each time, at a round trip of {round_trips.text(2)} ms",
        ("", "operations/s", f"of {limit:,.0f}/s", "of the limit measured", "least / most served"),
        [
            (
                name,
                series.text(0),
                f"{series.median / limit:.3f}",
                series.over(measured).text(3),
                fairness[name].text(2),
            )
            for name, series in rate.items()
        ],
        [f"  the relay holds each answer back for {delays.text(2)} ms; the limit measured is the control's figure"],
        data={
            "round trip ms": round_trips.data(),
            "limit": limit,
            "operations a second": {name: series.data() for name, series in rate.items()},
            "least / most served": {name: series.data() for name, series in fairness.items()},
            "errors": errors,
        },
    )
    part.notes += [f"  {name}: {len(which)} threads ended by {which[0]}" for name, which in errors.items() if which]
    ours = rate["peewee-web"]
    part.bars = [
        Bar.at_least("5 ms round trip: share of the limit, 1,600/s", ours.median / limit, 0.88, 3),
        Bar.at_least("5 ms round trip: share of the limit measured", ours.over(measured).median, 0.88, 3),
        Bar.at_least("5 ms round trip: times playhouse", ours.over(rate[Playhouse.name]).median, 8, 1),
        Bar.at_least("5 ms round trip: least-served / most-served thread", fairness["peewee-web"].median, 0.95),
    ]
    return part
