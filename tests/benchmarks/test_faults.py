"""The fault benchmark counts right, and one short run of it reaches its end. What it measures is not asserted."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from benchmarks import faults, faults_bars
from benchmarks.faults_accounts import (
    NO_ANSWER,
    PAGE,
    READ,
    WRITE,
    Answer,
    Course,
    Figures,
    Strike,
    Table,
    account,
    compare,
    timeline,
)

COURSE = Course(calm=100.0, begin=105.0, end=107.0, strikes=[Strike(105.0, 105.1)])
LIMITS = faults_bars.Limits(timeout=5.0, max_connecting=2)


def answer(kind: str, due: float, took: float = 0.01, status: int = 200, key: str = "", **more: bool) -> Answer:
    return Answer(kind, due, due, due + took, status, key=key, **more)


def figures_of(*answers: Answer, table: Table | None = None, course: Course = COURSE) -> Figures:
    return account(answers, course, table or Table(), give_up_after=1.0)


# Rows.


def test_a_write_is_lost_when_it_was_acknowledged_and_is_not_in_the_table() -> None:
    answers = [answer(WRITE, 1, status=201, key="a"), answer(WRITE, 2, status=201, key="b")]
    assert compare(answers, Counter(a=1)) == (1, 0, 0)


def test_a_write_that_failed_and_is_missing_is_not_lost() -> None:
    assert compare([answer(WRITE, 1, status=503, key="a")], Counter()) == (0, 0, 0)


def test_a_write_is_doubled_when_the_table_has_it_twice_acknowledged_or_not() -> None:
    answers = [answer(WRITE, 1, status=201, key="a"), answer(WRITE, 2, status=503, key="b")]
    assert compare(answers, Counter(a=2, b=3)) == (0, 2, 1)


def test_a_failed_write_that_is_there_is_counted_apart() -> None:
    assert compare([answer(WRITE, 1, status=NO_ANSWER, key="a")], Counter(a=1)) == (0, 0, 1)


# Who was in flight.


@pytest.mark.parametrize(
    ("due", "took", "hit"),
    [
        (104.0, 0.5, False),
        (104.0, 1.0, True),
        (104.9, 3.0, True),
        (105.05, 0.01, True),
        (105.2, 1.0, False),
    ],
    ids=["ended before", "ended as it began", "outlasted it", "sent while it struck", "sent later"],
)
def test_a_request_was_in_flight_when_it_was_outstanding_as_something_was_taken_down(
    due: float, took: float, hit: bool
) -> None:
    assert COURSE.in_flight(answer(WRITE, due, took)) is hit


def test_each_of_several_strikes_counts() -> None:
    course = Course(100.0, 105.0, 107.0, [Strike(105.0, 105.1), Strike(106.0, 106.1)])
    assert [course.in_flight(answer(WRITE, due, 0.01)) for due in (105.05, 105.5, 106.05)] == [True, False, True]


def test_what_waited_to_be_sent_was_not_in_flight() -> None:
    late = Answer(WRITE, due=104.0, sent=105.5, done=106.0, status=503)
    assert not COURSE.in_flight(late)
    assert late.waited == 2.0


def test_failed_writes_are_told_apart() -> None:
    figures = figures_of(
        answer(WRITE, 104.9, 1.0, 503, "in flight"),
        answer(WRITE, 104.9, 1.0, 500, "in flight, but with the wrong status"),
        answer(WRITE, 106.0, 1.0, 503, "not in flight"),
        answer(WRITE, 106.0, 1.0, 201, "not failed"),
        answer(READ, 106.0, 1.0, 500),
    )
    assert figures.writes_failed == {"500": 1, "503": 2}
    assert figures.reads_failed == {"500": 1}
    assert (figures.writes_not_in_flight, figures.writes_in_flight_not_503) == (1, 1)


@pytest.mark.parametrize(
    ("sent", "status", "half"),
    [(105.05, NO_ANSWER, 1), (105.05, 201, 0), (105.2, NO_ANSWER, 0), (104.9, NO_ANSWER, 0)],
    ids=["held until its process died", "answered by the next process", "came later", "may have committed before"],
)
def test_a_write_is_half_written_when_it_is_there_though_it_was_held_before_its_commit(
    sent: float, status: int, half: int
) -> None:
    course = Course(100.0, 105.0, 106.0, held=Strike(105.0, 105.1))
    there = Table(Counter(key=1))
    assert figures_of(answer(WRITE, sent, 1.0, status, "key"), table=there, course=course).half_written == half
    assert figures_of(answer(WRITE, sent, 1.0, status, "other"), table=there, course=course).half_written == 0


# Times.


def test_what_was_due_before_the_calm_only_counts_for_the_rows() -> None:
    figures = figures_of(answer(WRITE, 99.0, 4.0, 500), answer(WRITE, 99.0, 0.1, 201, "warm"))
    assert (figures.requests, figures.longest, figures.lost) == (0, 0.0, 1)


def test_a_wait_counts_from_when_the_request_was_due() -> None:
    assert figures_of(Answer(READ, due=105.0, sent=108.0, done=108.5, status=200)).longest == 3.5


def test_recovery_is_the_first_success_after_the_end_of_what_needs_the_database() -> None:
    figures = figures_of(
        answer(READ, 105.5, 1.0),
        answer(PAGE, 107.0, 0.1),
        answer(READ, 107.0, 0.2, 503),
        answer(READ, 105.5, 2.0),
        answer(READ, 107.4, 0.2),
    )
    assert figures.recovery == pytest.approx(0.5)
    assert figures.last_failure == pytest.approx(0.2)


def test_without_a_success_after_the_end_there_is_no_recovery() -> None:
    assert figures_of(answer(READ, 104.0), answer(READ, 108.0, 0.1, 500)).recovery is None


def test_pages_are_measured_apart_in_the_calm_and_in_the_fault() -> None:
    figures = figures_of(
        *(answer(PAGE, 101.0, 0.01 * number) for number in range(1, 4)),
        answer(PAGE, 106.0, 2.0),
        answer(PAGE, 108.0, 9.0),
        answer(PAGE, 106.0, 0.1, 500),
    )
    assert figures.page_calm_p99 == pytest.approx(0.03)
    assert figures.page_fault_p99 == 2.0
    assert (figures.pages_failed, figures.longest) == ({"500": 1}, 0.0)


def test_a_failure_is_a_503_with_retry_after_or_it_is_counted() -> None:
    figures = figures_of(
        answer(READ, 105.5, status=503, retry_after=True),
        answer(READ, 105.5, status=503),
        answer(READ, 105.5, status=500),
        answer(READ, 105.5, status=NO_ANSWER),
    )
    assert figures.without_retry_after == 3
    assert figures.reads_failed == {"500": 1, "503": 2, "no answer": 1}


def test_who_comes_after_the_pool_gave_up_is_measured_apart() -> None:
    # Half a second into the fault an app has noticed it, and gives up one second after that.
    figures = figures_of(answer(READ, 106.4, 1.0, 503), answer(READ, 106.6, 0.2, 503), answer(READ, 107.5, 3.0, 503))
    assert figures.longest_after_giving_up == pytest.approx(0.2)
    assert figures.longest_failed == pytest.approx(3.0)


def test_a_timeline_tells_of_each_moment_how_many_ended_and_how() -> None:
    drawn = timeline(
        [
            answer(READ, 100.0, 0.1),
            answer(READ, 100.0, 0.2),
            answer(WRITE, 100.0, 0.7, 503),
            answer(WRITE, 100.0, 1.2, NO_ANSWER),
            answer(READ, 101.1, 0.1, 500),
            answer(PAGE, 101.0, 0.1),
            answer(READ, 99.0, 0.1),
        ],
        COURSE,
        width=0.5,
    )
    assert drawn == {
        "since": [0.0, 0.5, 1.0],
        "answered": [4.0, 0.0, 0.0],
        "503": [0.0, 2.0, 0.0],
        "other error": [0.0, 0.0, 2.0],
        "no answer": [0.0, 0.0, 2.0],
    }


# Bars.

GOOD = Figures(
    requests=1000,
    longest=0.1,
    recovery=0.1,
    logins_at_once=2,
    page_calm_p99=0.012,
    page_fault_p99=0.02,
    writes_failed={"503": 3},
)


def missed(bars: faults_bars.Bars, **changes: object) -> list[str]:
    figures = Figures(**{**GOOD.data(), **changes})
    return [bar.what for bar in bars(figures, LIMITS) if not bar.met]


@pytest.mark.parametrize(
    "bars",
    [
        faults_bars.of_a_restart,
        faults_bars.of_backends,
        faults_bars.of_a_link,
        faults_bars.of_an_outage,
        faults_bars.of_a_crash,
    ],
)
def test_good_figures_meet_every_bar_and_a_lost_or_doubled_row_never_does(bars: faults_bars.Bars) -> None:
    assert missed(bars) == []
    assert missed(bars, lost=1, doubled=1) == ["acknowledged and missing", "applied twice"]


@pytest.mark.parametrize(
    ("bars", "changes"),
    [
        (faults_bars.of_a_restart, {"reads_failed": {"503": 1}}),
        (faults_bars.of_a_restart, {"writes_not_in_flight": 1}),
        (faults_bars.of_a_restart, {"writes_in_flight_not_503": 1}),
        (faults_bars.of_backends, {"reads_failed": {"500": 1}}),
        (faults_bars.of_a_link, {"longest": 6.1}),
        (faults_bars.of_a_link, {"page_fault_p99": 0.11}),
        (faults_bars.of_a_link, {"page_calm_p99": 0.06, "page_fault_p99": 0.13}),
        (faults_bars.of_a_link, {"page_fault_p99": None}),
        (faults_bars.of_a_link, {"pages_failed": {"500": 1}}),
        (faults_bars.of_an_outage, {"without_retry_after": 1}),
        (faults_bars.of_an_outage, {"longest_failed": 5.6, "longest_after_giving_up": 0.1}),
        (faults_bars.of_an_outage, {"longest_failed": 1.0, "longest_after_giving_up": 0.4}),
        (faults_bars.of_an_outage, {"recovery": 1.1}),
        (faults_bars.of_an_outage, {"recovery": None}),
        (faults_bars.of_an_outage, {"logins_at_once": 3}),
        (faults_bars.of_an_outage, {"logins_at_once": None}),
        (faults_bars.of_a_crash, {"half_written": 1}),
        (faults_bars.of_a_crash, {"open_transactions": 1}),
    ],
)
def test_each_bar_can_be_missed_alone(bars: faults_bars.Bars, changes: dict[str, object]) -> None:
    assert len(missed(bars, **changes)) == 1


# A run.


def test_a_short_run_of_one_fault_writes_table_json_and_plot(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--app", "flask", "--database", "postgres", "--fault", "backends", "--variant", "ours"]
    faults.main([*arguments, "--rate", "20", "--calm", "0.5", "--after", "0.5", "--results", str(tmp_path)])
    printed = capsys.readouterr().out
    assert "every backend killed" in printed
    (run,) = json.loads((tmp_path / "faults.json").read_text())["runs"]
    assert (run["app"], run["database"], run["variant"], run["fault"]) == ("flask", "postgres", "ours", "backends")
    assert run["figures"]["requests"] > 40
    assert len(run["strikes"]) == 5
    assert run["bars"]
    assert run["timeline"]["since"]
    assert (tmp_path / "faults_backends.png").read_bytes().startswith(b"\x89PNG")
