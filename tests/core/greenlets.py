"""A monkey-patched process with greenlets on a small pool: ``python -m tests.core.greenlets CASE URL DRIVER WHEN``.

WHEN says whether gevent patches ``first`` or ``last``, after the database object was made. The case prints what it
found as JSON.
"""

from __future__ import annotations

import json
import sys
import time
from importlib import import_module
from typing import Any

import gevent
from gevent import monkey

CASE, URL, DRIVER, WHEN = sys.argv[1:5]
CONNECTIONS = 8
POSTGRES = DRIVER.startswith("psycopg")
SLEEP = "pg_sleep" if POSTGRES else "sleep"
SESSION = "pg_backend_pid()" if POSTGRES else "connection_id()"


def connect() -> Any:
    import peewee

    import peewee_web

    if not POSTGRES:
        peewee.mysql = import_module(DRIVER)
    options: dict[str, Any] = {"prefer_psycopg3": True} if DRIVER == "psycopg" else {}
    return peewee_web.connect(URL, max_connections=CONNECTIONS, timeout=30.0, max_connecting=4, **options)


if WHEN == "first":
    monkey.patch_all()
    database = connect()
else:
    database = connect()
    monkey.patch_all()

import peewee_web  # noqa: E402


def ask(token: int, seconds: float = 0.005) -> bool:
    """Whether the answer is one's own."""
    row = database.execute_sql(f"SELECT %s, {SLEEP}(%s)", (token, seconds)).fetchone()
    return bool(row[0] == token)


def in_a_scope(token: int, seconds: float = 0.005) -> bool:
    with peewee_web.scope():
        return ask(token, seconds)


def outside_of_any(token: int) -> bool:
    with database.connection_context():
        return ask(token)


def whole() -> dict[str, Any]:
    stats = database.pool_stats()
    return {"in_use": stats.in_use, "waiting": stats.waiting, "size": stats.size, "limit": stats.limit}


def all_are_served() -> dict[str, Any]:
    """More greenlets than connections, half of them outside of a scope."""
    greenlets = [gevent.spawn((in_a_scope, outside_of_any)[n % 2], n) for n in range(200)]
    gevent.joinall(greenlets, timeout=60)
    return {"right": sum(greenlet.value is True for greenlet in greenlets), **whole()}


def in_turn() -> dict[str, Any]:
    """Greenlets that come again and again: how far the most served was ever ahead of the least served."""
    turns = [0] * 40
    ahead = 0
    until = time.monotonic() + 1.5

    def serve(number: int) -> None:
        nonlocal ahead
        while time.monotonic() < until:
            in_a_scope(number, 0.002)
            turns[number] += 1
            ahead = max(ahead, max(turns) - min(turns))

    gevent.joinall([gevent.spawn(serve, n) for n in range(len(turns))], raise_error=True)
    return {"ahead": ahead, "least": min(turns), **whole()}


def ticking() -> dict[str, Any]:
    """A greenlet that ticks while others wait for a connection, connect and query."""
    ticks = 0

    def tick() -> None:
        nonlocal ticks
        while True:
            ticks += 1
            gevent.sleep(0.001)

    ticker = gevent.spawn(tick)
    gevent.joinall([gevent.spawn(in_a_scope, n, 0.2) for n in range(2 * CONNECTIONS)], raise_error=True)
    ticker.kill()
    return {"ticks": ticks, **whole()}


def killed() -> dict[str, Any]:
    """Greenlets that are killed, or timed out, while they connect, query or wait; then everybody asks once more."""

    def timed_out(number: int, seconds: float) -> None:
        with gevent.Timeout(seconds, False):
            in_a_scope(number, 0.05)

    for _ in range(3):
        database.close_idle()
        victims = [gevent.spawn(in_a_scope, n, 0.05) for n in range(4 * CONNECTIONS)]
        victims += [gevent.spawn(timed_out, n, 0.001 * n) for n in range(1, 60)]
        for moment in range(20):
            gevent.sleep(0.004)
            for victim in victims[moment :: 2 * CONNECTIONS]:
                victim.kill(block=False)
        gevent.joinall(victims, timeout=30)
    greenlets = [gevent.spawn(in_a_scope, n) for n in range(100)]
    gevent.joinall(greenlets, timeout=30)
    return {"right": sum(greenlet.value is True for greenlet in greenlets), **whole()}


if __name__ == "__main__":
    answer = {"all": all_are_served, "turns": in_turn, "ticking": ticking, "killed": killed}[CASE]()
    database.close_all()
    print(json.dumps(answer))
