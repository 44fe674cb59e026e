"""10,000 mixed requests on each adapter, a third of them aborted by the client: ``python -m tests.soak [APP ...]``.

Each app runs under its first server on PostgreSQL with 8 connections. At the end no connection may be in use, the
server may have no session but the pool's idle ones, and no answer may have held another request's token.
"""

from __future__ import annotations

import argparse
import random
import re
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx

from tests.contract.apps import APPS, SERVERS
from tests.contract.cases import MAX_CONNECTIONS
from tests.contract.conftest import create_table
from tests.contract.site import Site, Target, new_token
from tests.servers.postgres import PostgresServer

TOKEN = re.compile(r"\b[0-9a-f]{12}\b")
COMPLETE = [
    *["one", "write", "same-session", "stream", "iterate", "commit", "ping"],
    *["session-start", "unexited-atomic", "begin", "raw-begin", "raise-in-atomic", "raise-with-open-transaction"],
    *["close-then-query", "connect-then-query", "with-database", "connection-context", "worker-thread", "bad-request"],
]
COMPLETE_ASYNC = [
    *["async-one", "async-interleave", "async-transaction", "async-to-thread", "async-stream", "async-raise"],
]
ABORTED = ["endless", "stream&n=300", "hold&seconds=0.02", "one", "stream-fails", "session-start"]
ABORTED_ASYNC = ["async-endless", "async-interleave", "async-stream&n=300"]


def soak(app: str, requests: int, seed: int, server: PostgresServer, directory: Path) -> str:
    kind = APPS[app][1]
    is_async = kind != "wsgi"
    complete = COMPLETE + COMPLETE_ASYNC * is_async
    aborted = ABORTED + ABORTED_ASYNC * is_async
    name = f"soak_{new_token()}"
    server.create_database(name)
    url = server.url(name, prefer_psycopg3="true")
    create_table(url)
    target = Target(app, SERVERS[kind][0], "psycopg3")
    site = Site(target, url, directory / f"{app}.log", sessions=lambda: server.sessions(name))
    outcomes: Counter[str] = Counter()
    mixed_up: list[str] = []
    dice = random.Random(seed)
    plan = [(hangs_up, dice.choice(aborted if hangs_up else complete)) for hangs_up in _thirds(dice, requests)]

    def run(step: tuple[bool, str]) -> None:
        token = new_token()
        hangs_up, case = step
        case, _, more = case.partition("&")
        path = f"/case/{case}?token={token}&{more}"
        if hangs_up:
            received = site.abort(path, after=random.choice((0, 1, 500, 20_000)), reset=random.random() < 0.5)
            text = received.decode("latin-1")
            outcomes["aborted"] += 1
        else:
            try:
                answer = site.client.get(path)
            except httpx.RemoteProtocolError:  # a body that failed half-way
                outcomes["cut"] += 1
                return
            text = answer.text
            outcomes[str(answer.status_code)] += 1
        mixed_up.extend(other for other in TOKEN.findall(text.partition("\r\n\r\n")[2] or text) if other != token)

    begun = time.monotonic()
    try:
        # An event loop never waits for a connection: more coroutines at once than connections would be refused.
        with ThreadPoolExecutor(MAX_CONNECTIONS if is_async else 2 * MAX_CONNECTIONS) as threads:
            for done, _ in enumerate(threads.map(run, plan), 1):
                if sys.stderr.isatty() and done % 250 == 0:
                    print(f"\r{app}: {done}/{requests}", end="", file=sys.stderr, flush=True)
        site.assert_settled(within=15)
        counts, sessions = site.stats(), len(server.sessions(name))
    finally:
        site.close()
    server.drop_database(name)
    if mixed_up:
        raise AssertionError(f"{app}: answers with another request's data: {mixed_up[:5]}")
    statuses = ", ".join(f"{status}: {count}" for status, count in sorted(outcomes.items()))
    seconds = time.monotonic() - begun
    figures = f"{requests:>7} {counts['in_use']:>7} {counts['idle']:>5} {sessions:>9} {seconds:>6.0f} s"
    return f"{app:<14} {figures}  {statuses}"


def _thirds(dice: random.Random, count: int) -> list[bool]:
    return [dice.random() < 1 / 3 for _ in range(count)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("apps", nargs="*", default=list(APPS), help="of " + ", ".join(APPS))
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    options = parser.parse_args()
    print(f"{options.requests} requests on each adapter, {MAX_CONNECTIONS} connections, seed {options.seed}")
    print(f"{'adapter':<14} {'asked':>7} {'in use':>7} {'idle':>5} {'sessions':>9} {'took':>8}  outcomes")
    with PostgresServer() as server, tempfile.TemporaryDirectory() as directory:
        for app in options.apps:
            print(soak(app, options.requests, options.seed, server, Path(directory)), flush=True)


if __name__ == "__main__":
    main()
