"""What came of the requests of one run: who failed, who was in flight, what the table holds, when it was over.

Knows no server and no framework: answers, moments (``time.monotonic``) and rows in, figures out.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

from benchmarks.pool_figures import percentile

READ, WRITE, PAGE = "read", "write", "page"
NO_ANSWER = 0
"""The status of a request whose connection broke, or whose client lost patience."""
OUTCOMES = ("answered", "503", "other error", "no answer")

_NOTICED = 0.4


class Answer(NamedTuple):
    """One request. *page* is a page without a query; *key* is the unique id that a write carries."""

    kind: str
    due: float
    sent: float
    done: float
    status: int
    retry_after: bool = False
    key: str = ""

    @property
    def succeeded(self) -> bool:
        return 200 <= self.status < 300

    @property
    def waited(self) -> float:
        """Seconds since it was due, not since it was sent: a load that stands still with its server hides its waits."""
        return self.done - self.due

    @property
    def outcome(self) -> str:
        if self.succeeded:
            return "answered"
        return {503: "503", NO_ANSWER: "no answer"}.get(self.status, "other error")


class Strike(NamedTuple):
    """The moments in which something was taken down: whoever was under way in them may have been hit."""

    begin: float
    end: float

    def hits(self, answer: Answer) -> bool:
        return answer.sent <= self.end and answer.done >= self.begin


@dataclass
class Course:
    """When what happened. From `begin` to `end` the fault was there; before, since `calm`, nothing was wrong."""

    calm: float
    begin: float = math.inf
    end: float = math.inf
    strikes: list[Strike] = field(default_factory=list)
    held: Strike | None = None
    """When no write could come to its commit; whoever was under way then and was not answered, wrote nothing."""

    @property
    def noticed(self) -> float:
        """When an app under load has met the fault: once whatever was struck is gone, and a request has been there."""
        return (self.strikes[0].end if self.strikes else self.begin) + _NOTICED

    def during(self, answer: Answer) -> bool:
        return self.begin <= answer.due < self.end

    def before(self, answer: Answer) -> bool:
        return self.calm <= answer.due and answer.done < self.begin

    def in_flight(self, answer: Answer) -> bool:
        return any(strike.hits(answer) for strike in self.strikes)


@dataclass
class Table:
    """What the server's own tables say afterwards; *rows* counts each write's id."""

    rows: Counter[str] = field(default_factory=Counter)
    open_transactions: int = 0


@dataclass
class Figures:
    """One run in numbers; seconds, unless the name says otherwise. ``None``: it never came, or was not asked."""

    requests: int = 0
    reads_failed: dict[str, int] = field(default_factory=dict)
    writes_failed: dict[str, int] = field(default_factory=dict)
    pages_failed: dict[str, int] = field(default_factory=dict)
    writes_not_in_flight: int = 0
    writes_in_flight_not_503: int = 0
    without_retry_after: int = 0
    longest: float = 0.0
    longest_failed: float = 0.0
    longest_after_giving_up: float | None = None
    recovery: float | None = None
    last_failure: float | None = None
    lost: int = 0
    doubled: int = 0
    unacknowledged: int = 0
    half_written: int = 0
    open_transactions: int = 0
    logins_at_once: int | None = None
    calm_p99: float | None = None
    page_calm_p99: float | None = None
    page_fault_p99: float | None = None

    def data(self) -> dict[str, Any]:
        return asdict(self)


def account(answers: Sequence[Answer], course: Course, table: Table, give_up_after: float) -> Figures:
    """The figures of a run whose pools are to give up at once *give_up_after* seconds into an outage."""
    seen = [answer for answer in answers if answer.due >= course.calm]
    asked = [answer for answer in seen if answer.kind != PAGE]
    pages = [answer for answer in seen if answer.kind == PAGE]
    failed = [answer for answer in asked if not answer.succeeded]
    writes = [answer for answer in failed if answer.kind == WRITE]
    in_flight = [answer for answer in writes if course.in_flight(answer)]
    given_up = [answer for answer in failed if course.noticed + give_up_after <= answer.due < course.end]
    figures = Figures(
        requests=len(seen),
        reads_failed=by_status(answer for answer in failed if answer.kind == READ),
        writes_failed=by_status(writes),
        pages_failed=by_status(page for page in pages if not page.succeeded),
        writes_not_in_flight=len(writes) - len(in_flight),
        writes_in_flight_not_503=sum(answer.status != 503 for answer in in_flight),
        without_retry_after=sum(not (answer.status == 503 and answer.retry_after) for answer in failed),
        longest=max((answer.waited for answer in asked), default=0.0),
        longest_failed=max((answer.waited for answer in failed), default=0.0),
        longest_after_giving_up=max((answer.waited for answer in given_up), default=None),
        recovery=recovery(asked, course),
        last_failure=max((answer.done - course.end for answer in failed if answer.done > course.end), default=None),
        half_written=half_written(answers, course, table.rows),
        open_transactions=table.open_transactions,
        calm_p99=_p99(answer for answer in asked if course.before(answer)),
        page_calm_p99=_p99(page for page in pages if course.before(page)),
        page_fault_p99=_p99(page for page in pages if course.during(page)),
    )
    figures.lost, figures.doubled, figures.unacknowledged = compare(answers, table.rows)
    return figures


def by_status(failed: Iterable[Answer]) -> dict[str, int]:
    counts = Counter("no answer" if answer.status == NO_ANSWER else str(answer.status) for answer in failed)
    return dict(sorted(counts.items()))


def recovery(asked: Iterable[Answer], course: Course) -> float | None:
    """Seconds from the end of the fault to the first success of a request that needs the database."""
    return min((each.done - course.end for each in asked if each.succeeded and each.done >= course.end), default=None)


def compare(answers: Iterable[Answer], rows: Counter[str]) -> tuple[int, int, int]:
    """How many writes were acknowledged and are missing, are there twice, and are there though they failed.

    The last is no fault: a client that got no answer, or a 503, from a commit under way can't know either.
    """
    writes = [answer for answer in answers if answer.kind == WRITE]
    acknowledged = {answer.key for answer in writes if answer.succeeded}
    others = {answer.key for answer in writes} - acknowledged
    doubled = sum(1 for count in rows.values() if count > 1)
    return len(acknowledged - rows.keys()), doubled, len(others & rows.keys())


def half_written(answers: Iterable[Answer], course: Course, rows: Counter[str]) -> int:
    """How many writes are there though they were held before their commit until their process was dead."""
    held = course.held
    if held is None:
        return 0
    writes = (each for each in answers if each.kind == WRITE and held.begin <= each.sent <= held.end)
    return sum(1 for each in writes if each.status == NO_ANSWER and each.key in rows)


def timeline(answers: Iterable[Answer], course: Course, width: float = 0.5) -> dict[str, list[float]]:
    """Requests that ended, a second, by outcome, in bins of *width* seconds since the course's `calm`.

    ``"since"`` is each bin's left edge. Pages without a query are left out.
    """
    ended = [(int((each.done - course.calm) // width), each.outcome) for each in answers if each.kind != PAGE]
    bins = max((number for number, _ in ended), default=-1) + 1
    counts = Counter(ended)
    series = {outcome: [counts[number, outcome] / width for number in range(bins)] for outcome in OUTCOMES}
    return {"since": [number * width for number in range(bins)], **series}


def _p99(answers: Iterable[Answer]) -> float | None:
    values = [answer.waited for answer in answers]
    return percentile(values, 0.99) if values else None
