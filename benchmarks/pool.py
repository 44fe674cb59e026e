"""What the pool costs, and what it does under load and faults, beside other pools: ``python -m benchmarks.pool``.

(``make bench BENCH=pool``.) All run in one process on a private PostgreSQL, in interleaved rounds; each part is a file
beside this one and says what it asks. Prints tables and a table of bars, and writes ``pool.json`` and ``pool.png``
into ``benchmarks/results/``.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks import pool_faults, pool_greenlets, pool_latency, pool_plot, pool_scaling, pool_single
from benchmarks.pool_contenders import Target
from benchmarks.pool_figures import Bar, Noise, Part, progress, table
from tests.servers.postgres import PostgresServer

RESULTS = Path(__file__).parent / "results"
PARTS: dict[str, Callable[[Target, Noise, bool], Part]] = {
    "single": pool_single.measure,
    "latency": pool_latency.measure,
    "faults": pool_faults.measure,
    "waiting": pool_scaling.measure_waiting,
    "connections": pool_scaling.measure_connections,
    "greenlets": pool_greenlets.measure,
}
_COMPARED = ("peewee-web", "peewee", "SQLAlchemy", "psycopg-pool", "psycopg", "gevent")


def run(names: list[str], quick: bool, noise: Noise) -> dict[str, Part]:
    """Measure the parts of those *names*, and print each when it is done."""
    parts = {}
    with PostgresServer(settings={"max_connections": 400}) as server:
        target = Target(server.host, server.port)
        for name in names:
            progress(f"{name}, {time.strftime('%H:%M:%S')}")
            parts[name] = PARTS[name](target, noise, quick)
            print(f"\n{parts[name].text()}", flush=True)
    return parts


def bars_of(parts: dict[str, Part]) -> list[Bar]:
    return [bar for part in parts.values() for bar in part.bars]


def as_json(parts: dict[str, Part], noise: Noise, quick: bool) -> dict[str, Any]:
    return {
        "quick": quick,
        "python": platform.python_version(),
        "versions": {name: version(name) for name in _COMPARED},
        "noise": noise.data(),
        "parts": {name: part.data for name, part in parts.items()},
        "bars": [vars(bar) for bar in bars_of(parts)],
    }


def main(arguments: list[str] | None = None, results: Path = RESULTS) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("parts", nargs="*", metavar="part", help=f"of {', '.join(PARTS)}; default: all")
    parser.add_argument("--quick", action="store_true", help="a few seconds each, to see that it runs")
    options = parser.parse_args(arguments)
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"no part is called {', '.join(sorted(unknown))}")
    noise = Noise()
    print("medians over rounds (quartiles); versions:", ", ".join(f"{each} {version(each)}" for each in _COMPARED))
    parts = run(options.parts or list(PARTS), options.quick, noise)
    if options.quick:
        print("\n(--quick: too little was measured for the figures to mean anything)")
    rows = [(bar.what, bar.figure, bar.bar, "met" if bar.met else "NOT MET") for bar in bars_of(parts)]
    print(f"\n{table(('what must be', 'figure', 'bar', ''), rows)}\n\n{noise.text()}")
    results.mkdir(exist_ok=True)
    (results / "pool.json").write_text(json.dumps(as_json(parts, noise, options.quick), indent=2) + "\n")
    pool_plot.draw({name: part.data for name, part in parts.items()}, results / "pool.png")
    print(f"written to {results / 'pool.json'} and {results / 'pool.png'}")


if __name__ == "__main__":
    main()
