"""What routing costs: a query through a ``ReplicatedDatabase`` beside the same through the pooled database itself.

``python -m benchmarks.replicas`` (``make bench BENCH=replicas``). SQLite in memory, one row by its key, so that little
but the library is measured; short interleaved rounds in one process, so that what slows the machine slows all. Prints a
table and writes ``replicas.json`` into ``benchmarks/results/``.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import peewee

import peewee_web
from benchmarks.pool_figures import Bar, Noise, Series, progress, table
from peewee_web import Databases, ReplicatedDatabase

RESULTS = Path(__file__).parent / "results"
_PLAIN = "pooled database"
_ROUTED = "ReplicatedDatabase, from a replica"
_BAR = 2.0  # microseconds


def _open() -> Any:
    database = peewee_web.connect("sqlite:///:memory:")
    with database.connection_context():
        database.execute_sql("CREATE TABLE note (id INTEGER PRIMARY KEY, text TEXT)")
        database.execute_sql("INSERT INTO note (text) VALUES ('one')")
    return database


def _model(database: Any) -> Any:
    class Note(peewee.Model):
        text = peewee.TextField()

        class Meta:
            pass

    Note._meta.set_database(database)
    return Note


def contenders() -> dict[str, tuple[Databases, Callable[[], Any]]]:
    """Databases, and a query on them, by what is measured."""
    plain, proxied = _open(), peewee.DatabaseProxy()
    proxied.initialize(plain)
    replicated = ReplicatedDatabase(_open(), [_open(), _open()])
    return {
        _PLAIN: (Databases(plain), _query(plain)),
        "peewee.DatabaseProxy of it": (Databases(plain), _query(proxied)),
        _ROUTED: (Databases(replicated), _query(replicated)),
    }


def _query(database: Any) -> Callable[[], Any]:
    Note = _model(database)
    query = Note.select().where(Note.id == 1).tuples()
    return lambda: next(iter(query.clone()))


def measure(rounds: int, queries: int, noise: Noise) -> dict[str, dict[str, Series]]:
    """Microseconds a query within a scope, and for a scope with a single one."""
    measured = contenders()
    taken = {name: {"query": Series(), "scope": Series()} for name in measured}
    for number in range(rounds):
        if number % 400 == 0:
            progress(f"round {number + 1} of {rounds}")
            noise.tick()
        for name, (databases, query) in measured.items():
            with databases.scope():
                query()
                begun = time.perf_counter()
                for _ in range(queries):
                    query()
                taken[name]["query"].add((time.perf_counter() - begun) / queries * 1e6)
            begun = time.perf_counter()
            for _ in range(queries // 4):
                with databases.scope():
                    query()
            taken[name]["scope"].add((time.perf_counter() - begun) / (queries // 4) * 1e6)
    return taken


def main(arguments: list[str] | None = None, results: Path = RESULTS) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="a second, to see that it runs")
    options = parser.parse_args(arguments)
    noise = Noise()
    taken = measure(20 if options.quick else 4000, 20, noise)
    plain = taken[_PLAIN]

    def more(name: str, what: str) -> float:
        pairs = zip(taken[name][what].values, plain[what].values, strict=True)
        differences = Series()
        differences.values = [mine - its for mine, its in pairs]
        return differences.median

    rows = [
        (
            name,
            series["query"].text(),
            f"{more(name, 'query'):+.1f}",
            series["scope"].text(),
            f"{more(name, 'scope'):+.1f}",
        )
        for name, series in taken.items()
    ]
    print(f"peewee-web {version('peewee-web')}, peewee {version('peewee')}; microseconds, medians (quartiles)\n")
    print(table(("", "a query", "more", "a scope with one", "more"), rows))
    cost = more(_ROUTED, "query")
    bar = Bar.at_most("routing a query, us over the pooled database", cost, _BAR)
    print(f"\n{bar.what}: {bar.figure} {bar.bar} {'met' if bar.met else 'NOT MET'}\n{noise.text()}")
    results.mkdir(exist_ok=True)
    data = {name: {what: each.data() for what, each in series.items()} for name, series in taken.items()}
    (results / "replicas.json").write_text(
        json.dumps({"quick": options.quick, "figures": data, "bars": [vars(bar)]}, indent=2)
    )
    print(f"written to {results / 'replicas.json'}")


if __name__ == "__main__":
    main()
