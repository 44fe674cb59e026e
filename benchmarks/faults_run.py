"""One run: one app with one integration on one database, under load, meets one fault."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.faults_accounts import Answer, Course, Figures, Table, account, timeline
from benchmarks.faults_acts import FAULTS, Fault, Scene, old_transactions
from benchmarks.faults_apps import App
from benchmarks.faults_bars import Limits
from benchmarks.faults_link import LoginCounter, StallingProxy
from benchmarks.faults_load import TITLE, Load, Sender
from benchmarks.pool_figures import Bar
from peewee_web.core.options import PoolOptions
from tests.servers.child import ServerProcess

_WARM_UP = 1.5


@dataclass(frozen=True)
class Settings:
    """How every run is made; the same for both variants. Seconds.

    There is a thread for each request that may have to wait for the database at once. With fewer, requests wait in
    front of the app, pages without a query among them, where no integration can answer them.
    """

    rate: float = 200.0
    connections: int = 8
    threads: int = 1200
    timeout: float = 5.0
    fail_fast_after: float = 5.0
    max_connecting: int = PoolOptions.max_connecting
    calm: float = 5.0
    after: float | None = None
    outage: float = 30.0

    def query(self, variant: str, scheme: str) -> dict[str, object]:
        """What the database's URL ends with."""
        query: dict[str, object] = {"max_connections": self.connections, "timeout": f"{self.timeout:g}"}
        if scheme == "postgresql":
            query["prefer_psycopg3"] = "true"
        if variant == "ours" and "fail_fast_after" in {option.name for option in dataclasses.fields(PoolOptions)}:
            query["fail_fast_after"] = f"{self.fail_fast_after:g}"
        return query


@dataclass(frozen=True)
class Case:
    """Which run."""

    fault: str
    app: str
    database: str
    variant: str

    def __str__(self) -> str:
        return f"{self.fault}: {self.app} on {self.database}, {self.variant}"


@dataclass
class Run:
    """What a run came to."""

    case: Case
    course: Course
    figures: Figures
    bars: list[Bar]
    timeline: dict[str, list[float]]
    notes: dict[str, Any]

    def data(self) -> dict[str, Any]:
        """For JSON; moments are seconds since the calm began."""
        calm = self.course.calm
        return {
            **dataclasses.asdict(self.case),
            "begin": self.course.begin - calm,
            "end": self.course.end - calm,
            "strikes": [[strike.begin - calm, strike.end - calm] for strike in self.course.strikes],
            "figures": self.figures.data(),
            "bars": [vars(bar) for bar in self.bars],
            "timeline": self.timeline,
            "notes": self.notes,
        }


def run(case: Case, server: ServerProcess, settings: Settings) -> Run:
    """Make one run, on a database of its own, and leave the server running and without it."""
    fault = FAULTS[case.fault]
    server.ensure_running()
    name = "faults"
    server.drop_database(name)
    server.create_database(name)
    course = Course(calm=time.monotonic())
    after = fault.after if settings.after is None else settings.after
    with (
        tempfile.TemporaryDirectory(prefix="faults-") as directory,
        _way(fault, server) as link,
        App(
            case.app,
            case.variant,
            server.url(name, port=link.port if link else None, **settings.query(case.variant, server.scheme)),
            settings.threads,
            Path(directory) / "log",
        ) as app,
    ):
        scene = Scene(server, name, app, link, course, settings.outage)
        answers = _under_load(scene, fault, settings, after)
        table = _look(server, name, scene)
        scene.notes |= {"errors": app.errors(), "load average": os.getloadavg()[0]}
    server.drop_database(name)
    figures = account(answers, course, table, settings.fail_fast_after)
    if isinstance(link, LoginCounter):
        figures.logins_at_once = link.most
        scene.notes["logins"] = link.logins
    bars = fault.bars(figures, Limits(settings.timeout, settings.max_connecting))
    return Run(case, course, figures, bars, timeline(answers, course), scene.notes)


@contextlib.contextmanager
def _way(fault: Fault, server: ServerProcess) -> Iterator[StallingProxy | LoginCounter | None]:
    if fault.way == "direct":
        yield None
    elif fault.way == "proxy":
        with StallingProxy(server.host, server.port) as proxy:
            yield proxy
    else:
        with LoginCounter(server.host, server.port, server.scheme) as counter:
            yield counter


def _under_load(scene: Scene, fault: Fault, settings: Settings, after: float) -> list[Answer]:
    """The answers of a load that goes on until *after* seconds past the fault's end."""
    with Sender(Load(scene.app.port, settings.rate)) as sender:
        begun = sender.begin()
        scene.course.calm = begun + _WARM_UP
        time.sleep(max(0.0, scene.course.calm + settings.calm - time.monotonic()))
        fault.act(scene)
        time.sleep(max(0.0, scene.course.end + after - time.monotonic()))
        return sender.end()


def _look(server: ServerProcess, name: str, scene: Scene) -> Table:
    """What the tables say, after the last answer."""
    rows = server.execute("SELECT title FROM note WHERE title LIKE %s", (f"{TITLE}%",), database=name)
    left = scene.notes.pop("open_transactions", 0) + old_transactions(server, name)
    return Table(Counter(title.removeprefix(TITLE) for (title,) in rows), left)
