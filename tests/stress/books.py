"""What was promised and what was seen during a run: rows, errors, times, and whatever must not be."""

from __future__ import annotations

import enum
import itertools
import math
import threading
import time
import traceback
from collections import Counter

from peewee_web import NoConnection
from peewee_web.core.faults import is_lost_connection

# More of them say nothing new.
_MOST_VIOLATIONS = 40
# Seconds for which a heartbeat may be late before the machine, not the pool, is taken to be what is slow.
_HICCUP = 0.2


class Fate(enum.Enum):
    """What must be in the table at the end."""

    COMMITTED = enum.auto()
    ABSENT = enum.auto()
    EITHER = enum.auto()


class Planned(Exception):
    """An error of the app's own."""


class Books:
    """One run's. Thread-safe."""

    def __init__(self) -> None:
        self.begun = time.monotonic()
        self.violations: list[str] = []
        self.requests: Counter[str] = Counter()
        self.errors: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()
        self.slowest: dict[str, float] = {}
        #: The most connections at one moment, by who counted.
        self.peaks: Counter[str] = Counter()
        self.rows: dict[int, Fate] = {}
        self.happening = "calm"
        #: When connections were last closed under their users' hands. A driver whose connection another thread closes
        #: in the middle of a statement may raise anything (seen: PyMySQL an AttributeError, psycopg "out of memory").
        self.evicted_at = -math.inf
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()

    def violate(self, text: str) -> None:
        with self._lock:
            if len(self.violations) < _MOST_VIOLATIONS:
                when = time.monotonic() - self.begun
                self.violations.append(f"{when:.1f} s, {self.happening}: {text}")

    # Rows and tokens.

    def number(self) -> int:
        """One that nobody else has."""
        return next(self._numbers)

    def new_row(self, fate: Fate = Fate.EITHER) -> int:
        row = self.number()
        self.rows[row] = fate
        return row

    def compare_rows(self, found: set[int]) -> None:
        promised = {fate: {row for row, its in self.rows.items() if its is fate} for fate in Fate}
        for what, rows in (
            ("acknowledged commits are missing", promised[Fate.COMMITTED] - found),
            ("rows of rolled-back transactions are present", promised[Fate.ABSENT] & found),
            ("rows are present that nobody wrote", found - self.rows.keys()),
        ):
            if rows:
                self.violate(f"{len(rows)} {what}: {sorted(rows)[:10]}")

    # Errors and times.

    def note_error(self, request: str, error: BaseException, begun: float) -> None:
        """An error of a request that began at *begun*."""
        evicted = begun <= self.evicted_at and not is_expected(error)
        with self._lock:
            self.errors[f"evicted: {kind_of(error)}" if evicted else kind_of(error)] += 1
        if not (evicted or is_expected(error)):
            text = "".join(traceback.format_exception(error))
            self.violate(f"{request} got an unexpected error\n{text}")

    def took(self, what: str, seconds: float, limit: float) -> None:
        with self._lock:
            self.slowest[what] = max(seconds, self.slowest.get(what, 0.0))
        if seconds > limit:
            self.violate(f"{what} took {seconds:.2f} s, more than {limit:.2f} s")

    def counted(self, by: str, connections: int, limit: int) -> None:
        with self._lock:
            self.peaks[by] = max(connections, self.peaks[by])
        if connections > limit:
            self.violate(f"{connections} connections of at most {limit}, as counted by {by}")


def is_expected(error: BaseException) -> bool:
    return isinstance(error, (Planned, NoConnection)) or is_lost_connection(error)


def kind_of(error: BaseException) -> str:
    return type(error).__name__


class Heartbeat:
    """Tells for how long the machine, the interpreter or an event loop kept everyone waiting."""

    def __init__(self) -> None:
        self._late = 0.0
        self._latest = time.monotonic()

    def beat(self) -> None:
        """To be called every few hundredths of a second by whoever must not be kept waiting."""
        self._late, self._latest = self.late(), time.monotonic()

    def late(self) -> float:
        """Seconds of waiting since the start."""
        gap = time.monotonic() - self._latest
        return self._late + (gap if gap > _HICCUP else 0.0)


class Timer:
    """``with Timer(...)``: the block must not take longer than *limit* seconds, the hiccups of *hearts* aside."""

    def __init__(self, books: Books, what: str, limit: float, *hearts: Heartbeat) -> None:
        self._books, self._what, self._limit, self._hearts = books, what, limit, hearts

    def __enter__(self) -> None:
        self._late = self._lateness()
        self._begun = time.monotonic()

    def __exit__(self, *exc: object) -> None:
        seconds = time.monotonic() - self._begun
        self._books.took(self._what, seconds, self._limit + self._lateness() - self._late)

    def _lateness(self) -> float:
        return sum(heart.late() for heart in self._hearts)
