"""One run: the workload on one driver while the chaos goes on, then the calm after it, then the accounts."""

from __future__ import annotations

import asyncio
import gc
import os
import random
import sys
import threading
import time
import traceback
import uuid
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import peewee_web
from tests.servers.child import ServerProcess
from tests.servers.proxy import TcpProxy
from tests.servers.waiting import until
from tests.stress.books import Books, Heartbeat
from tests.stress.census import Census
from tests.stress.chaos import Chaos
from tests.stress.coroutines import Coroutines, loop_thread
from tests.stress.lending import Lending
from tests.stress.workload import Workload

MAX_CONNECTIONS = 8
TIMEOUT = 2.0
# Seconds by which a checkout or a check-in may pass the pool's `timeout`.
SLACK = 1.0
# Seconds after the chaos within which everyone must be served again: an attempt that fell into a black hole at the last
# moment takes the pool's `timeout` to fail.
RECOVERY = TIMEOUT + SLACK
# In the calm, how many requests each thread must do in a row.
_CALM_REQUESTS = 10
# Seconds that a thread may take to end when it is told to.
_PATIENCE = 30.0

DRIVERS = {"psycopg3": {"prefer_psycopg3": "true"}, "psycopg2": {}, "pymysql": {}}


@dataclass(frozen=True)
class Plan:
    """What a run is to be: its length and longest fault in seconds, its threads, the coroutines on each loop."""

    driver: str
    seconds: float
    seed: int
    threads: int = 24
    awaiting: int = 4
    blocking: int = 2
    longest_fault: float = 3.0
    only_faults: tuple[str, ...] = ()
    progress_every: float | None = None


@dataclass
class Outcome:
    """What came of it."""

    plan: Plan
    books: Books
    recovery: float = 0.0
    in_use: int = -1
    idle: int = -1
    sessions: int = -1
    sessions_at_the_end: int = -1
    descriptors: int = 0


def stress(plan: Plan, server: ServerProcess) -> Outcome:
    """Run *plan* on *server*. What must not be is in the outcome's ``books.violations``."""
    return _Run(plan, server).run()


class _Run:
    def __init__(self, plan: Plan, server: ServerProcess) -> None:
        self._plan = plan
        self._server = server
        self._books = Books()
        self._outcome = Outcome(plan, self._books)
        self._heart, self._loop_heart, self._blocked_heart = Heartbeat(), Heartbeat(), Heartbeat()
        self._dice = random.Random(plan.seed)
        self._calm_since: float | None = None

    def run(self) -> Outcome:
        name = f"stress_{uuid.uuid4().hex[:12]}"
        self._server.create_database(name)
        with _complaints(self._books):
            descriptors = _descriptors()
            with TcpProxy(self._server.host, self._server.port) as proxy:
                self._on_a_database(name, proxy)
            del proxy
            self._outcome.descriptors = len(_descriptors()) - len(descriptors)
            if self._outcome.descriptors > 0:
                self._books.violate(f"file descriptors left: {_descriptors() - descriptors}")
        self._server.drop_database(name)
        return self._outcome

    def _on_a_database(self, name: str, proxy: TcpProxy) -> None:
        url = self._server.url(name, port=proxy.port, **DRIVERS[self._plan.driver])
        database = peewee_web.connect(url, max_connections=MAX_CONNECTIONS, timeout=TIMEOUT)
        workload = Workload(database, self._plan.driver, self._books, SLACK, self._heart)
        with database.connection_context():
            workload.create_table()
        self._lending = Lending(database.pool, self._books, SLACK, self._heart, self._loop_heart)
        self._database = database
        chaos = Chaos(self._server, name, proxy, database, self._books, self._new_dice(), self._plan.only_faults)
        with Census(self._server, name, proxy, database, self._books, self._heart), self._progress():
            threads = self._threads(workload, chaos)
            for thread in threads:
                thread.start()
            chaos.run(self._plan.seconds, self._plan.longest_fault)
            self._books.happening = "the calm"
            self._calm_since = time.monotonic()
            self._join(threads)
        self._settle(name)
        found = {row for (row,) in self._server.execute("SELECT id FROM stress", database=name)}
        self._books.compare_rows(found)

    # Who works.

    def _threads(self, workload: Workload, chaos: Chaos) -> list[threading.Thread]:
        plan, coroutines = self._plan, Coroutines(workload)
        threads = [
            threading.Thread(
                target=self._work, args=(n, workload, chaos, self._new_dice()), name=f"stress-{n}", daemon=True
            )
            for n in range(plan.threads)
        ]
        awaiting = [self._work_async(coroutines.awaiting, coroutines.read, True) for _ in range(plan.awaiting)]
        # Refused while the threads take all there is, these are no measure of how soon all is well again.
        blocking = [self._work_async(coroutines.blocking, coroutines.read_at_once, False) for _ in range(plan.blocking)]
        threads.append(loop_thread("stress-awaiting", awaiting, self._loop_heart))
        threads.append(loop_thread("stress-blocking", blocking, self._blocked_heart))
        return threads

    def _new_dice(self) -> random.Random:
        return random.Random(self._dice.random())

    def _work(self, number: int, workload: Workload, chaos: Chaos, dice: random.Random) -> None:
        calm = _Calm(self._books)
        while not calm.over:
            while number >= chaos.crowd:
                time.sleep(0.02)
            calm.begin(self._calm_since)
            if calm.since is None:
                (request,) = dice.choices(list(workload.requests), list(workload.requests.values()))
            else:
                request = dice.choice([workload.read, workload.write, workload.write_plainly])
            if calm.note(request.__name__, _error_of(request, dice)):
                time.sleep(0.01)
            if not workload.database.is_closed():
                self._books.violate(f"{request.__name__} has left its thread with a connection")
                workload.database.manual_close()
        self._recovered(calm)

    async def _work_async(self, requests: dict[Any, int], calm_request: Any, waits: bool) -> None:
        dice, calm = self._new_dice(), _Calm(self._books, waits)
        while not calm.over:
            calm.begin(self._calm_since)
            request = calm_request
            if calm.since is None:
                (request,) = dice.choices(list(requests), list(requests.values()))
            error = None
            try:
                await request(dice)
            except Exception as raised:
                error = raised
            if calm.note(request.__name__, error):
                await asyncio.sleep(0.05)  # a loop is refused at once, where a thread waits
        if waits:
            self._recovered(calm)

    def _recovered(self, calm: _Calm) -> None:
        self._outcome.recovery = max(self._outcome.recovery, calm.recovery)

    def _join(self, threads: list[threading.Thread]) -> None:
        deadline = time.monotonic() + _PATIENCE
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
            if thread.is_alive() and thread.ident is not None:
                stack = "".join(traceback.format_stack(sys._current_frames()[thread.ident]))
                self._books.violate(f"{thread.name} does not come to an end\n{stack}")

    # What is left at the end.

    def _settle(self, name: str) -> None:
        books, outcome, database = self._books, self._outcome, self._database
        books.happening = "the end"
        self._lending.forget()
        gc.collect()
        with suppress(TimeoutError):  # an attempt that is in a black hole still would fail in the middle of the roll
            until(lambda: not self._attempts(), RECOVERY)
        self._call_the_roll()
        with suppress(TimeoutError):
            until(lambda: not self._attempts(), RECOVERY)
        outcome.sessions = self._sessions(name, lambda: database.pool_stats().idle)
        stats = database.pool_stats()
        outcome.in_use, outcome.idle = stats.in_use, stats.idle
        if stats.in_use or stats.waiting or stats.size != stats.idle:
            books.violate(f"not all has come to rest: {stats}")
        if outcome.sessions != stats.idle:
            books.violate(f"the server has {outcome.sessions} sessions, the pool {stats.idle}")
        if left := database.close_pool(1):
            books.violate(f"close_pool(1) has left {left} connections")
        outcome.sessions_at_the_end = self._sessions(name, lambda: 0)
        if outcome.sessions_at_the_end:
            books.violate(f"the server has {outcome.sessions_at_the_end} sessions after close_pool(1)")
        for thread in self._attempts():
            books.violate(f"{thread.name} lives on")

    def _attempts(self) -> list[threading.Thread]:
        return [thread for thread in threading.enumerate() if thread.name.startswith("peewee_web")]

    def _call_the_roll(self) -> None:
        """Have every connection checked out once: one that died while it was idle is noticed then, and no sooner."""
        with ExitStack() as stack:
            for _ in range(MAX_CONNECTIONS):
                scope = peewee_web.scope()
                stack.callback(scope.end)
                try:
                    with scope.activate():
                        self._database.connect()
                except peewee_web.NoConnection as error:
                    self._books.violate(f"not all connections can be had at once: {error}")
                    return

    def _sessions(self, name: str, expected: Callable[[], int]) -> int:
        """How many the server has, which may see a moment later than we that one is gone."""
        with suppress(TimeoutError):
            until(lambda: len(self._server.sessions(name)) == expected(), 5.0)
        return len(self._server.sessions(name))

    @contextmanager
    def _progress(self) -> Iterator[None]:
        every = self._plan.progress_every
        if every is None:
            yield
            return
        over = threading.Event()

        def tell() -> None:
            books = self._books
            while not over.wait(every):
                seconds = time.monotonic() - books.begun
                figures = f"{books.requests.total():>7} requests, {books.errors.total():>6} errors"
                print(
                    f"{self._plan.driver:<9} {seconds:>5.0f} s {figures}, {len(books.violations)} violations,"
                    f" {self._database.pool!r}, {books.happening}",
                    file=sys.stderr,
                    flush=True,
                )

        thread = threading.Thread(target=tell, name="stress-progress")
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()


class _Calm:
    """One worker's way through the run, and how soon it was served once the chaos was over (at *since*)."""

    def __init__(self, books: Books, waits: bool = True) -> None:
        self.since: float | None = None
        self.recovery = 0.0
        self.over = False
        self._books = books
        #: Whether its requests wait for a connection. If not, they are refused for as long as others do.
        self._waits = waits
        self._in_a_row = 0
        self._begun = time.monotonic()

    def begin(self, since: float | None) -> None:
        """A request begins, after the end of the chaos or (None) before."""
        self.since = since
        self._begun = time.monotonic()

    def note(self, request: str, error: BaseException | None) -> bool:
        """How the request went. Returns whether it failed."""
        self._books.requests[request] += 1
        if error is not None:
            self._books.note_error(request, error, self._begun)
        if self.since is None:
            return error is not None
        passed = time.monotonic() - self.since
        if error is None:
            self._in_a_row += 1
            if self._in_a_row == 1:
                self.recovery = passed
            self.over = (self._in_a_row == _CALM_REQUESTS and passed < RECOVERY) or passed > RECOVERY + 1
        else:
            self._in_a_row = 0
            if passed > RECOVERY and self._waits:
                self._books.violate(f"{request} failed {passed:.1f} s after the end of the chaos: {error!r}")
                self.over = passed > 2 * RECOVERY
        return error is not None


def _error_of(request: Callable[[random.Random], None], dice: random.Random) -> Exception | None:
    try:
        request(dice)
    except Exception as error:
        return error.with_traceback(error.__traceback__)
    return None


@contextmanager
def _complaints(books: Books) -> Iterator[None]:
    """Resource warnings, and what is raised where nobody can catch it, are violations."""

    def complain(what: Any) -> None:
        books.violate(f"{what.err_msg or 'raised in'} {what.object!r}: {what.exc_value!r}")

    before, sys.unraisablehook = sys.unraisablehook, complain
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", ResourceWarning)
            yield
            gc.collect()
    finally:
        sys.unraisablehook = before


def _descriptors() -> set[str]:
    gc.collect()
    found = set()
    for number in os.listdir("/proc/self/fd"):
        try:
            found.add(f"{number} {os.readlink(f'/proc/self/fd/{number}')}")
        except OSError:  # the directory's own
            continue
    return found
