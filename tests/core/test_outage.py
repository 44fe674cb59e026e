"""A server that is away for a while: who waits for it, who tries again and when, and who is told at once."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from peewee_web import DatabaseUnavailable, PoolTimeout
from peewee_web.core import backoff
from tests.core.simulated import HeldAttempts, Simulation, in_background
from tests.core.working import Working
from tests.servers.waiting import until

AWAY = ConnectionRefusedError("nobody there")


@pytest.fixture(autouse=True)
def longest_delays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backoff.random, "uniform", lambda _, longest: longest)


def goes_away(sim: Simulation) -> None:
    sim.server.refusal = AWAY


def comes_back(sim: Simulation) -> None:
    sim.server.refusal = None


def attempts(sim: Simulation) -> int:
    return sim.pool.stats().connect_errors + sim.pool.stats().created


def has_been_away(sim: Simulation, seconds: float) -> None:
    """Have the server be away for so long, while somebody waits for it who gives up then."""
    goes_away(sim)
    waiting = sim.waiting()
    sim.pass_time(seconds)
    with pytest.raises(DatabaseUnavailable):
        waiting.result()
    assert sim.pool.stats().waiting == 0


# Who waits.


def test_who_waits_is_served_when_the_server_is_back() -> None:
    with Simulation() as sim:
        goes_away(sim)
        waiting = sim.waiting()
        sim.pass_time(2)
        comes_back(sim)
        sim.pass_time(1)
        assert waiting.result().connection is sim.server.connections[0]


def test_each_waits_for_its_own_timeout() -> None:
    with Simulation(timeout=5) as sim:
        goes_away(sim)
        first = sim.waiting()
        sim.pass_time(3)
        second = sim.waiting()
        sim.pass_time(2.1)
        with pytest.raises(DatabaseUnavailable):
            first.result()
        comes_back(sim)
        sim.pass_time(1)
        assert sim.pool.has_lent(second.result())


def test_they_are_served_in_the_order_they_came() -> None:
    with Simulation(max_connections=1) as sim:
        goes_away(sim)
        first, second = sim.waiting(), sim.waiting()
        comes_back(sim)
        sim.pass_time(1)
        lease = first.result()
        assert sim.pool.stats().waiting == 1
        sim.pool.checkin(lease)
        second.result()


def test_who_waits_in_vain_is_told_what_happened_and_when_it_is_tried_again() -> None:
    with Simulation(timeout=1) as sim:
        goes_away(sim)
        waiting = sim.waiting()
        sim.pass_time(1)  # attempts at 0, 0.05, 0.15, 0.35, 0.75; the next at 1.5
        with pytest.raises(DatabaseUnavailable) as caught:
            waiting.result()
        assert str(caught.value) == (
            "no connection could be opened in 1.0 s: nobody there (for 1.0 s now, in which 5 attempts failed; "
            "the next may begin in 0.5 s)"
        )
        assert caught.value.__cause__ is AWAY
        assert caught.value.retry_after == pytest.approx(0.5)


def test_a_coroutine_waits_as_well() -> None:
    async def work(sim: Simulation) -> Any:
        checkout = asyncio.ensure_future(sim.pool.checkout_async())
        await asyncio.sleep(0)
        assert sim.pool.stats().waiting == 1
        comes_back(sim)
        sim.pass_time(1)
        return await checkout

    with Simulation() as sim:
        goes_away(sim)
        assert sim.pool.has_lent(asyncio.run(work(sim)))


def test_who_wants_to_wait_for_nothing_is_told_at_once() -> None:
    with Simulation(timeout=None) as sim:
        goes_away(sim)
        with pytest.raises(DatabaseUnavailable, match="nobody there"):
            sim.pool.checkout()
        with pytest.raises(DatabaseUnavailable, match=r"1 attempt failed; the next may begin in 0\.[01] s"):
            sim.pool.checkout()
        assert attempts(sim) == 1
        sim.pass_time(0.05)
        comes_back(sim)
        assert sim.pool.has_lent(sim.pool.checkout())


def test_an_event_loops_thread_does_not_wait_for_a_server() -> None:
    async def work(sim: Simulation) -> None:
        for _ in range(2):
            with pytest.raises(DatabaseUnavailable, match="nobody there"):
                sim.pool.checkout()

    with Simulation() as sim:
        goes_away(sim)
        asyncio.run(work(sim))
        assert attempts(sim) == 1


def test_a_waiter_is_served_also_by_what_comes_back_from_another() -> None:
    """As when the server takes no more connections, but serves those that it has."""
    with Simulation() as sim:
        (lease,) = sim.lend(1)
        goes_away(sim)
        waiting = sim.waiting()
        sim.pool.checkin(lease)
        assert waiting.result().connection is lease.connection


@pytest.mark.parametrize("amid", [False, True])
def test_a_refusal_is_told_at_once(amid: bool) -> None:
    refusal = PermissionError("not you")
    with Simulation() as sim:
        if amid:
            goes_away(sim)
            waiting = sim.waiting()
            sim.server.refusal = refusal
            sim.pass_time(1)
        else:
            sim.server.refusal = refusal
            waiting = Working(None, sim.pool.checkout)
        with pytest.raises(PermissionError):
            waiting.result()
        assert "away" not in repr(sim.pool)


# Who tries again, and when.


def test_the_pauses_between_attempts_double_up_to_three_quarters_of_a_second() -> None:
    with Simulation(timeout=60, fail_fast_after=None) as sim:
        goes_away(sim)
        sim.waiting()
        begun = []
        for _ in range(8):
            ((due, _),) = sim.put_off
            begun.append(due - sim.clock.now)
            sim.pass_time(due - sim.clock.now)
        assert begun == pytest.approx([0.05, 0.1, 0.2, 0.4, 0.75, 0.75, 0.75, 0.75])
        comes_back(sim)
        sim.pass_time(1)


def test_the_pauses_are_random(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[tuple[float, float]] = []
    monkeypatch.setattr(backoff.random, "uniform", lambda *bounds: drawn.append(bounds) or 0.01)
    with Simulation() as sim:
        goes_away(sim)
        sim.waiting()
        assert (0, 0.05) in drawn  # others may draw as well: the generator is everybody's
        assert sim.put_off[0][0] - sim.clock.now == pytest.approx(0.01)
        comes_back(sim)
        sim.pass_time(1)


def test_one_attempt_at_a_time_is_made_while_the_server_is_away() -> None:
    with Simulation(max_connecting=3) as sim:
        goes_away(sim)
        waiting = [sim.waiting() for _ in range(5)]
        for _ in range(5):
            assert len(sim.put_off) == 1
            sim.pass_time(sim.put_off[0][0] - sim.clock.now)
        assert attempts(sim) == 6
        comes_back(sim)
        sim.pass_time(1)
        for thread in waiting:
            thread.result()


def test_no_more_than_max_connecting_at_once_are_made_when_it_is_back() -> None:
    held = HeldAttempts()
    with Simulation(max_connecting=2) as sim:
        goes_away(sim)
        waiting = [sim.waiting() for _ in range(5)]
        comes_back(sim)
        sim.start = held
        sim.pass_time(1)
        assert len(held.begun) == 1
        held.run(0)
        assert len(held.begun) == 3
        for number in (1, 2, 3, 4):
            held.run(number)
        for thread in waiting:
            thread.result()


def test_no_attempt_is_made_for_nobody() -> None:
    with Simulation(timeout=1) as sim:
        has_been_away(sim, 1)
        before = attempts(sim)
        sim.pass_time(10)
        assert (attempts(sim), sim.pool.stats().size) == (before, 0)


def test_what_was_open_before_is_probed_after() -> None:
    with Simulation() as sim:
        (idle,) = sim.fill(1)
        (lease,) = sim.lend(1)
        goes_away(sim)
        waiting = sim.waiting()
        comes_back(sim)
        sim.pass_time(1)
        sim.pool.checkin(lease)
        assert sim.pool.checkout().connection is idle
        assert idle.received == ["probe"]
        waiting.result()


# Who is refused at once.


def test_after_fail_fast_after_a_new_caller_is_refused_at_once() -> None:
    with Simulation(timeout=4, fail_fast_after=4) as sim:
        has_been_away(sim, 4)
        before = attempts(sim)
        with pytest.raises(DatabaseUnavailable) as caught:
            sim.pool.checkout()
        assert str(caught.value).startswith("no connection to the database: nobody there (for 4.0 s now, ")
        assert sim.pool.ledger.outage is not None
        assert caught.value.retry_after == pytest.approx(sim.pool.ledger.outage.next_attempt - sim.clock.now)
        assert caught.value.__cause__ is AWAY
        assert attempts(sim) == before


def test_before_that_it_waits() -> None:
    with Simulation(timeout=4, fail_fast_after=4.1) as sim:
        has_been_away(sim, 4)
        waiting = sim.waiting()
        comes_back(sim)
        sim.pass_time(1)
        waiting.result()


def test_who_waits_already_waits_on() -> None:
    with Simulation(timeout=10, fail_fast_after=2) as sim:
        goes_away(sim)
        waiting = sim.waiting()
        sim.pass_time(3)
        with pytest.raises(DatabaseUnavailable):
            sim.pool.checkout()
        comes_back(sim)
        sim.pass_time(1)
        waiting.result()


def test_who_comes_when_an_attempt_is_due_makes_it_and_is_served() -> None:
    with Simulation(timeout=4, fail_fast_after=4) as sim:
        has_been_away(sim, 4)
        sim.pass_time(1)
        comes_back(sim)
        assert sim.pool.has_lent(sim.pool.checkout())
        assert sim.pool.ledger.outage is None


def test_who_comes_when_an_attempt_is_due_is_told_at_once_that_it_failed() -> None:
    with Simulation(timeout=4, fail_fast_after=4) as sim:
        has_been_away(sim, 4)
        sim.pass_time(1)
        before = attempts(sim)
        with pytest.raises(DatabaseUnavailable):
            sim.pool.checkout()
        assert (attempts(sim), sim.put_off) == (before + 1, [])


def test_nobody_else_waits_for_that_attempt() -> None:
    with Simulation(timeout=4, fail_fast_after=4) as sim:
        has_been_away(sim, 4)
        sim.pass_time(1)
        sim.start = in_background
        sim.server.accepting.clear()
        unlucky = sim.waiting()
        until(lambda: sim.server.connecting == 1)
        with pytest.raises(DatabaseUnavailable):
            sim.pool.checkout()
        comes_back(sim)
        sim.server.accepting.set()
        unlucky.result()


def test_an_attempt_for_a_pool_that_fails_fast_serves_the_next_if_its_own_caller_has_gone() -> None:
    with Simulation(timeout=4, fail_fast_after=4) as sim:
        has_been_away(sim, 4)
        sim.pass_time(1)
        sim.start = in_background
        sim.server.accepting.clear()
        unlucky = sim.waiting()
        sim.pass_time(4)
        with pytest.raises(DatabaseUnavailable):
            unlucky.result()
        comes_back(sim)
        sim.server.accepting.set()
        until(lambda: sim.pool.stats().idle == 1)
        sim.pool.checkout()


def test_nobody_is_refused_while_connections_come_back() -> None:
    """The server takes no more connections, say: those that there are go from hand to hand."""
    with Simulation(max_connections=3, timeout=3, fail_fast_after=4) as sim:
        (lease,) = sim.lend(1)
        has_been_away(sim, 3)
        sim.pool.checkin(lease)
        (lease,) = sim.lend(1)
        sim.pass_time(3)
        waiting = sim.waiting()
        sim.pool.checkin(lease)
        assert waiting.result().connection is lease.connection


def test_what_is_idle_is_lent_also_then() -> None:
    with Simulation(max_connections=3, timeout=4, fail_fast_after=4) as sim:
        (lease,) = sim.lend(1)
        has_been_away(sim, 4)
        sim.pool.checkin(lease)
        assert sim.pool.checkout().connection is lease.connection


def test_nobody_is_refused_at_once_without_fail_fast_after() -> None:
    with Simulation(timeout=60, fail_fast_after=None) as sim:
        goes_away(sim)
        waiting = sim.waiting()
        sim.pass_time(59)
        other = sim.waiting()
        comes_back(sim)
        sim.pass_time(1)
        waiting.result()
        other.result()


def test_too_many_are_refused_as_such_also_while_the_server_is_away() -> None:
    with Simulation(max_connections=1, max_waiting=0) as sim:
        goes_away(sim)
        waiting = sim.waiting()
        with pytest.raises(PoolTimeout, match="max_waiting=0"):
            sim.pool.checkout()
        comes_back(sim)
        sim.pass_time(1)
        waiting.result()


def test_other_options_may_mean_another_server() -> None:
    with Simulation(timeout=4, fail_fast_after=4) as sim:
        has_been_away(sim, 4)
        comes_back(sim)
        sim.pool.configure(sim.pool.options.but(max_connections=7))
        waiting = sim.waiting()
        sim.pass_time(1)  # the attempt that was put off already
        waiting.result()


def test_after_a_night_without_requests_the_first_ones_wait_for_one_attempt() -> None:
    held = HeldAttempts()
    with Simulation(timeout=4, fail_fast_after=4) as sim:
        has_been_away(sim, 4)
        comes_back(sim)
        sim.pass_time(18_000)
        sim.start = held
        waiting = [sim.waiting() for _ in range(6)]
        for number in range(6):
            held.run(number)
        for thread in waiting:
            thread.result()


# What goes wrong meanwhile.


def test_an_attempt_for_which_there_was_no_thread_is_made_later() -> None:
    def no_thread(work: Any, delay: float) -> None:
        raise RuntimeError("can't start new thread")

    with Simulation() as sim:
        goes_away(sim)
        before, sim.pool.connector._start = sim.pool.connector._start, no_thread
        waiting = sim.waiting()
        assert (sim.pool.stats().size, sim.put_off) == (0, [])
        comes_back(sim)
        sim.pool.connector._start = before
        until(lambda: sim.put_off != [])
        sim.pass_time(1)
        waiting.result()


def test_an_attempt_that_was_put_off_is_not_made_for_a_pool_that_has_begun_anew() -> None:
    with Simulation(timeout=1) as sim:
        goes_away(sim)
        waiting = sim.waiting()
        sim.pool.forget()
        comes_back(sim)
        sim.pass_time(1)
        assert sim.pool.stats().size == 0
        with pytest.raises(DatabaseUnavailable):
            waiting.result()


# What is said of it.


def test_its_beginning_and_its_end_are_logged_once_each(caplog: pytest.LogCaptureFixture) -> None:
    with Simulation() as sim, caplog.at_level(logging.INFO, logger="peewee_web"):
        goes_away(sim)
        waiting = sim.waiting()
        sim.pass_time(2)
        assert "1 waiting, the server is away" in repr(sim.pool)
        comes_back(sim)
        sim.pass_time(1)
        waiting.result()
        assert "away" not in repr(sim.pool)
    assert [record.getMessage() for record in caplog.records] == [
        "no connection to the database (nobody there); trying again until it is back",
        "the database is back after 2.2 s",
    ]
