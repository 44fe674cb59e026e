"""What each fault may do at most, as bars over the figures of a run.

A figure that never came about (no success after the fault, no page measured) meets no bar.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.faults_accounts import Figures
from benchmarks.pool_figures import Bar

# A 503 of a pool that refuses at once takes a few milliseconds on a calm machine; this is what two busy cores add.
AT_ONCE = 0.25
# What HTTP and the queue in front of the app may add to a wait that the pool bounds by its `timeout`.
AROUND = 0.5
# Twice a p99 of a few milliseconds is less than what two cores, shared by app, server and load, jitter by themselves:
# the p99 of a calm of five seconds is anything from 3 to 90 ms. A page that waits for the fault waits for seconds.
PAGE_FLOOR = 0.1


@dataclass(frozen=True)
class Limits:
    """The settings that bars refer to; seconds."""

    timeout: float
    max_connecting: int


def none(what: str, count: int) -> Bar:
    return Bar(what, str(count), "0", count == 0)


def at_most(what: str, figure: float | None, bar: float) -> Bar:
    if figure is None:
        return Bar(what, "never", f"<= {bar:.2f} s", False)
    return Bar(what, f"{figure:.2f} s", f"<= {bar:.2f} s", figure <= bar)


def rows(figures: Figures) -> list[Bar]:
    return [none("acknowledged and missing", figures.lost), none("applied twice", figures.doubled)]


def reads(figures: Figures) -> list[Bar]:
    return [none("reads failed", sum(figures.reads_failed.values()))]


def of_backends(figures: Figures, limits: Limits) -> list[Bar]:
    return [*reads(figures), *rows(figures)]


def of_a_restart(figures: Figures, limits: Limits) -> list[Bar]:
    return [
        *reads(figures),
        none("writes failed that were not in flight", figures.writes_not_in_flight),
        none("writes in flight that failed with another status than 503", figures.writes_in_flight_not_503),
        *rows(figures),
    ]


def of_a_link(figures: Figures, limits: Limits) -> list[Bar]:
    calm = figures.page_calm_p99
    page = max(PAGE_FLOOR, math.inf if calm is None else 2 * calm)
    return [
        at_most("longest request", figures.longest, limits.timeout + 1),
        at_most("p99 of pages without a query", figures.page_fault_p99, page),
        none("pages without a query failed", sum(figures.pages_failed.values())),
        *rows(figures),
    ]


def of_an_outage(figures: Figures, limits: Limits) -> list[Bar]:
    # Nothing having failed at all, there was nobody to turn away.
    given_up = figures.longest_after_giving_up if figures.longest_failed else 0.0
    return [
        none("failures that were not a 503 with Retry-After", figures.without_retry_after),
        at_most("longest failure", figures.longest_failed, limits.timeout + AROUND),
        at_most("longest failure once the pool gives up at once", given_up, AT_ONCE),
        at_most("first success after its return", figures.recovery, 1.0),
        _at_once(figures.logins_at_once, limits.max_connecting),
        *rows(figures),
    ]


def of_a_crash(figures: Figures, limits: Limits) -> list[Bar]:
    return [
        none("half-written notes", figures.half_written),
        none("transactions left open", figures.open_transactions),
        *rows(figures),
    ]


def _at_once(logins: int | None, bar: int) -> Bar:
    what = "logins under way at once"
    if logins is None:
        return Bar(what, "not seen", f"<= {bar}", False)
    return Bar(what, str(logins), f"<= {bar}", logins <= bar)


Bars = Callable[[Figures, Limits], list[Bar]]
