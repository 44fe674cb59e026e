"""``python -m tests.stress [DRIVER ...]``: a long run on each driver, and a table of what came of it."""

from __future__ import annotations

import argparse
import logging
import random
import sys

from tests.servers.child import ServerNotInstalled, ServerProcess
from tests.servers.mariadb import MariaDBServer
from tests.servers.postgres import PostgresServer
from tests.stress.run import DRIVERS, MAX_CONNECTIONS, TIMEOUT, Outcome, Plan, stress

SERVERS: dict[str, type[ServerProcess]] = {
    "psycopg3": PostgresServer,
    "psycopg2": PostgresServer,
    "pymysql": MariaDBServer,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("drivers", nargs="*", default=list(DRIVERS), help="of " + ", ".join(DRIVERS))
    parser.add_argument("--server", choices=["postgres", "mariadb"], help="only the drivers of this one")
    parser.add_argument("--seconds", type=float, default=60.0, help="of chaos, on each driver (%(default)s)")
    parser.add_argument("--threads", type=int, default=24)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--fault", action="append", default=[], help="only this one, of chaos.py; may be repeated")
    parser.add_argument("--verbose", action="store_true", help="with the pool's log")
    options = parser.parse_args()
    logging.basicConfig(level=logging.DEBUG if options.verbose else logging.CRITICAL)
    print(
        f"{options.threads} threads and 6 coroutines, {MAX_CONNECTIONS} connections, timeout {TIMEOUT} s,"
        f" {options.seconds:.0f} s of chaos, seed {options.seed}"
    )
    outcomes = []
    for driver in options.drivers:
        kind = SERVERS[driver]
        if options.server and not kind.__name__.lower().startswith(options.server):
            continue
        plan = Plan(
            driver,
            options.seconds,
            options.seed,
            options.threads,
            only_faults=tuple(options.fault),
            progress_every=3.0,
        )
        try:
            server = kind()
        except ServerNotInstalled as error:
            print(f"{driver}: {error}", file=sys.stderr)
            continue
        with server:
            outcomes.append(stress(plan, server))
    for outcome in outcomes:
        _tell(outcome)
    _print_table(outcomes)
    return 1 if any(outcome.books.violations for outcome in outcomes) else 0


def _tell(outcome: Outcome) -> None:
    books = outcome.books
    print(f"\n{outcome.plan.driver}")
    for title, counts in (("faults", books.faults), ("errors", books.errors), ("most at once", books.peaks)):
        print(f"  {title}: " + ", ".join(f"{name} {count}" for name, count in counts.most_common()))
    print("  slowest: " + ", ".join(f"{what} {seconds:.2f} s" for what, seconds in sorted(books.slowest.items())))
    for violation in books.violations:
        print(f"  NOT SO: {violation}")


def _print_table(outcomes: list[Outcome]) -> None:
    columns = ("requests", "errors", "faults", "rows", "recovery", "in use", "idle", "sessions", "closed", "not so")
    print("\n" + f"{'driver':<10}" + "".join(f"{column:>10}" for column in columns))
    for outcome in outcomes:
        books = outcome.books
        cells = (
            books.requests.total(),
            books.errors.total(),
            books.faults.total(),
            len(books.rows),
            f"{outcome.recovery:.2f} s",
            outcome.in_use,
            outcome.idle,
            outcome.sessions,
            outcome.sessions_at_the_end,
            len(books.violations),
        )
        print(f"{outcome.plan.driver:<10}" + "".join(f"{cell:>10}" for cell in cells))


if __name__ == "__main__":
    sys.exit(main())
