"""What a fault costs the users of an app, beside today's hooks: ``python -m benchmarks.faults``.

(``make bench BENCH=faults``.) The Flask, Django and Tornado notes apps under real servers, on a private PostgreSQL and
a private MariaDB, under an open load of 200 requests a second, meet each fault once with the adapter and once with
the hooks that Peewee documents. Prints a table and its bars for each fault; writes ``faults.json`` and a timeline of
each fault, ``faults_<fault>.png``, into ``benchmarks/results/``.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks import faults_plot, faults_table
from benchmarks.faults_acts import FAULTS
from benchmarks.faults_run import Case, Run, Settings, run
from benchmarks.faults_serve import APPS
from benchmarks.pool_figures import progress
from tests.servers.child import ServerProcess
from tests.servers.mariadb import MariaDBServer
from tests.servers.postgres import PostgresServer

RESULTS = Path(__file__).parent / "results"
SERVERS: dict[str, type[ServerProcess]] = {"postgres": PostgresServer, "mariadb": MariaDBServer}
VARIANTS = ("ours", "hooks")
_QUICK_FAULTS = ("restart", "backends", "freeze", "down", "crash")
_COMPARED = ("peewee-web", "peewee", "flask", "django", "tornado", "gunicorn", "psycopg", "pymysql")


def cases(options: argparse.Namespace) -> list[Case]:
    """What to run, the variants of a kind one after the other: what slows the machine then slows both."""
    faults = options.fault or (_QUICK_FAULTS if options.quick else list(FAULTS))
    apps = options.app or (["flask"] if options.quick else list(APPS))
    databases = options.database or (["postgres"] if options.quick else list(SERVERS))
    variants = options.variant or VARIANTS
    return [Case(*each) for each in _product(faults, apps, databases, variants)]


def _product(*choices: Any) -> Iterator[tuple[str, str, str, str]]:
    for fault in choices[0]:
        for database in choices[2]:
            for app in choices[1]:
                for variant in choices[3]:
                    yield fault, app, database, variant


def settings_of(options: argparse.Namespace) -> Settings:
    given = {name: getattr(options, name) for name in ("rate", "threads", "calm", "after") if getattr(options, name)}
    quick = {"calm": 2.0, "after": 3.0, "outage": 8.0} if options.quick else {}
    return Settings(**{**quick, **given})


def main(arguments: list[str] | None = None) -> None:
    options = _parser().parse_args(arguments)
    results = options.results
    settings, plan = settings_of(options), cases(options)
    begun = time.monotonic()
    runs: list[Run] = []
    broken: list[str] = []
    with contextlib.ExitStack() as stack:
        servers = {name: stack.enter_context(SERVERS[name]()) for name in dict.fromkeys(each.database for each in plan)}
        for number, case in enumerate(plan, 1):
            try:
                runs.append(run(case, servers[case.database], settings))
                line = faults_table.line(runs[-1])
            except Exception as error:  # half an hour of other runs shall not be lost
                line = f"{case}: COULD NOT BE MADE: {error!r}"
                broken.append(line)
            progress(f"{number} of {len(plan)}, {(time.monotonic() - begun) / 60:.1f} min: {line}")
    by_fault = {name: [each for each in runs if each.case.fault == name] for name in FAULTS}
    by_fault = {name: ran for name, ran in by_fault.items() if ran}
    for name, ran in by_fault.items():
        print(f"\n{faults_table.of_fault(name, ran)}")
    print("\n(! misses its bar; a page is one without a query; a wait counts from when the request was due)")
    if options.quick:
        print("(--quick: few requests, and an outage of 8 s instead of 30)")
    results.mkdir(parents=True, exist_ok=True)
    (results / "faults.json").write_text(json.dumps(as_json(runs, settings, options.quick), indent=1) + "\n")
    for name, ran in by_fault.items():
        faults_plot.draw(FAULTS[name].text, [each.data() for each in ran], results / f"faults_{name}.png")
    print(f"written to {results / 'faults.json'} and {results}/faults_*.png")
    if broken:
        sys.exit("\n".join(broken))


def as_json(runs: list[Run], settings: Settings, quick: bool) -> dict[str, Any]:
    return {
        "quick": quick,
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "load average": os.getloadavg()[0],
        "versions": {name: version(name) for name in _COMPARED},
        "settings": asdict(settings),
        "runs": [each.data() for each in runs],
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--app", action="append", choices=list(APPS), help="may be repeated; default: all")
    parser.add_argument("--database", action="append", choices=list(SERVERS), help="may be repeated; default: both")
    parser.add_argument("--fault", action="append", choices=list(FAULTS), help="may be repeated; default: all")
    parser.add_argument("--variant", action="append", choices=VARIANTS, help="may be repeated; default: both")
    parser.add_argument("--rate", type=float, help=f"requests a second; default: {Settings.rate:g}")
    parser.add_argument("--threads", type=int, help=f"of each app's server; default: {Settings.threads}")
    parser.add_argument("--calm", type=float, help="seconds before the fault")
    parser.add_argument("--after", type=float, help="seconds after the fault")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where to write; default: benchmarks/results")
    parser.add_argument("--quick", action="store_true", help="one app, one database, five faults; under 3 minutes")
    return parser


if __name__ == "__main__":
    main()
