"""Checkouts that can't be served at once: who is served first, for how long they wait, and what they are told."""

from __future__ import annotations

import contextvars
import gc
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from peewee_web import DatabaseUnavailable, PooledSqliteDatabase, PoolTimeout
from peewee_web.core.checkout import Checkout
from peewee_web.core.waiting import ThreadWaiter
from tests.core.simulated import Connection, HeldAttempts, SimulatedDriver, Simulation, in_background
from tests.core.working import PATIENCE, Working, in_thread
from tests.servers.waiting import until

# Who is served.


def test_waiters_are_served_in_the_order_they_came() -> None:
    served: list[int] = []
    with Simulation(max_connections=1) as sim:

        def take(number: int) -> None:
            lease = sim.pool.checkout()
            served.append(number)
            sim.pool.checkin(lease)

        (lease,) = sim.lend(1)
        waiting = [sim.waiting(lambda n=number: take(n)) for number in range(5)]
        sim.pool.checkin(lease)
        for thread in waiting:
            thread.result()
    assert served == [0, 1, 2, 3, 4]


def test_a_connection_goes_from_hand_to_hand_past_later_comers() -> None:
    with Simulation(max_connections=1, timeout=None) as sim:
        (lease,) = sim.lend(1)
        waiter = ThreadWaiter()
        assert sim.pool.enqueue(waiter, lease.place, first=False, spare=1) is None
        sim.pool.checkin(lease)
        with pytest.raises(PoolTimeout):
            sim.pool.checkout()
        assert waiter.lease is not None
        assert waiter.lease.connection is lease.connection


def test_a_connection_that_is_opened_goes_to_whoever_waits_for_longest() -> None:
    attempts = HeldAttempts()
    with Simulation(start=attempts, max_connections=1) as sim:
        first = sim.waiting()
        second = sim.waiting()
        attempts.run(0)
        lease = first.result()
        assert sim.pool.stats().waiting == 1
        sim.pool.checkin(lease)
        second.result()


def test_who_was_served_by_a_checkin_leaves_the_attempt_to_the_next() -> None:
    attempts = HeldAttempts()
    with Simulation(start=attempts, max_connections=2) as sim:
        attempt_of_mine = sim.waiting()
        attempts.run(0)
        lease = attempt_of_mine.result()
        first = sim.waiting()
        sim.pool.checkin(lease)
        assert first.result().connection is lease.connection
        second = sim.waiting()
        attempts.run(1)
        assert second.result().connection is sim.server.connections[1]
        assert len(attempts.begun) == 2


def test_an_attempt_whose_waiter_has_gone_leaves_an_idle_connection() -> None:
    attempts = HeldAttempts()
    with Simulation(start=attempts, timeout=0.01) as sim:
        waiting = sim.waiting()
        sim.clock.advance(1)
        with pytest.raises(DatabaseUnavailable):
            waiting.result()
        attempts.run(0)
        assert sim.pool.stats().idle == 1


def test_a_connection_closed_at_checkin_makes_room_for_the_next() -> None:
    with Simulation(max_connections=1) as sim:
        (lease,) = sim.lend(1)
        waiting = sim.waiting()
        lease.broken = True
        sim.pool.checkin(lease)
        assert waiting.result().connection is sim.server.connections[1]


def test_who_got_a_dead_connection_keeps_his_turn() -> None:
    served: list[str] = []
    probing, go_on = threading.Event(), threading.Event()
    with Simulation(max_connections=1, start=in_background) as sim:

        def take(name: str) -> None:
            lease = sim.pool.checkout()
            served.append(name)
            sim.pool.checkin(lease)

        def fail(what: str) -> None:
            probing.set()
            assert go_on.wait(PATIENCE)
            raise ConnectionResetError

        (connection,) = sim.fill(1)
        connection.hang_up()
        connection.send = fail  # type: ignore[method-assign]
        sim.server.accepting.clear()
        early = Working(None, lambda: take("early"))
        assert probing.wait(PATIENCE)
        late = sim.waiting(lambda: take("late"))
        go_on.set()
        until(lambda: sim.pool.stats().waiting == 2)
        sim.server.accepting.set()
        early.result()
        late.result()
    assert served == ["early", "late"]


def test_who_got_a_dead_connection_is_not_refused_for_those_who_came_since() -> None:
    closing, go_on = threading.Event(), threading.Event()

    def slow_close(connection: Connection) -> None:
        closing.set()
        assert go_on.wait(PATIENCE)
        connection.close()

    with Simulation(max_connections=1, max_waiting=1, more={"close_connection": slow_close}) as sim:

        def take() -> None:
            sim.pool.checkin(sim.pool.checkout())

        (connection,) = sim.fill(1)
        connection.hang_up()
        early = Working(None, take)
        assert closing.wait(PATIENCE)
        others = [sim.waiting(take), sim.waiting(take)]  # as many as there may be
        go_on.set()
        for thread in (early, *others):
            thread.result()


# For how long.


def test_timeout_is_what_a_wait_may_take() -> None:
    with Simulation(max_connections=1, timeout=5) as sim:
        sim.lend(1)
        waiting = sim.waiting()
        sim.clock.advance(4.99)
        sim.pool.checkin(sim.pool.admit(sim.server.connect(), keep=True))
        assert waiting.result()
        waiting = sim.waiting()
        sim.clock.advance(5)
        with pytest.raises(PoolTimeout):
            waiting.result()


def test_waiting_and_connecting_together_take_no_longer_than_timeout() -> None:
    attempts = HeldAttempts()
    with Simulation(max_connections=1, timeout=5, start=attempts) as sim:
        waiting = sim.waiting()
        attempts.run(0)
        lease = waiting.result()
        waiting = sim.waiting()
        sim.clock.advance(4)
        sim.pool.discard(lease)  # now it waits for the attempt that is begun in its place
        assert len(attempts.begun) == 2
        sim.clock.advance(1)
        with pytest.raises(DatabaseUnavailable, match=r"could be opened in 5\.0 s"):
            waiting.result()
        attempts.run(1)


def test_without_timeout_a_checkout_waits_for_nobody() -> None:
    with Simulation(max_connections=1, timeout=None) as sim:
        sim.lend(1)
        with pytest.raises(PoolTimeout, match="with timeout=None the pool waits for none"):
            sim.pool.checkout()
        assert sim.pool.stats().waiting == 0


def test_without_timeout_a_checkout_waits_for_a_connection_to_be_opened() -> None:
    with Simulation(max_connections=2, timeout=None, start=in_background) as sim:
        sim.server.accepting.clear()
        waiting = sim.waiting()
        sim.clock.advance(9.9)
        sim.server.accepting.set()
        assert waiting.result()


def test_without_timeout_an_attempt_is_waited_for_ten_seconds() -> None:
    with Simulation(timeout=None, start=in_background) as sim:
        sim.server.accepting.clear()
        waiting = sim.waiting()
        sim.clock.advance(10)
        with pytest.raises(DatabaseUnavailable):
            waiting.result()
        sim.server.accepting.set()
        until(lambda: sim.pool.stats().idle == 1)


def test_a_timeout_of_zero_is_no_limit() -> None:
    with Simulation(max_connections=1, timeout=0, max_lifetime=None) as sim:
        (lease,) = sim.lend(1)
        waiting = sim.waiting()
        sim.clock.advance(1e9)
        sim.pool.checkin(lease)
        assert waiting.result().connection is lease.connection


def test_more_than_max_waiting_are_refused_at_once() -> None:
    with Simulation(max_connections=1, max_waiting=2) as sim:
        (lease,) = sim.lend(1)
        waiting = [sim.waiting(), sim.waiting()]
        before = sim.pool.stats()
        with pytest.raises(PoolTimeout, match="max_waiting=2 are waiting already"):
            sim.pool.checkout()
        assert sim.pool.stats() == before
        for thread in waiting:
            sim.pool.checkin(lease)
            lease = thread.result()


def test_with_a_max_waiting_of_zero_nobody_waits_for_a_busy_connection() -> None:
    with Simulation(max_connections=1, max_waiting=0) as sim:
        sim.lend(1)
        with pytest.raises(PoolTimeout, match="max_waiting=0 are waiting already"):
            sim.pool.checkout()


def test_who_waits_for_a_connection_to_be_opened_does_not_count_as_waiting() -> None:
    with Simulation(max_connections=3, max_waiting=0, max_connecting=1, start=in_background) as sim:
        sim.server.accepting.clear()
        waiting = [sim.waiting() for _ in range(3)]
        with pytest.raises(PoolTimeout):
            sim.pool.checkout()
        sim.server.accepting.set()
        assert len({thread.result().connection for thread in waiting}) == 3


# What they are told.


def test_a_wait_in_vain_tells_the_figures_and_who_has_been_out_for_longest() -> None:
    with Simulation(max_connections=2, timeout=5) as sim:
        sim.pool.checkout()
        line = test_a_wait_in_vain_tells_the_figures_and_who_has_been_out_for_longest.__code__.co_firstlineno + 2
        sim.clock.advance(31.2)
        sim.lend(1)
        waiting = sim.waiting()
        sim.clock.advance(1)
        other = sim.waiting()
        sim.clock.advance(4)
        with pytest.raises(PoolTimeout) as caught:
            waiting.result()
        assert str(caught.value) == (
            "no connection became free in 5.0 s (2 of 2 in use, 0 idle, 1 waiting; "
            f"the oldest has been out 36.2 s, taken at {__file__}:{line})"
        )
        assert caught.value.__cause__ is None
        sim.clock.advance(1)
        with pytest.raises(PoolTimeout):
            other.result()


def test_a_wait_in_vain_names_the_latest_connect_error_as_its_cause() -> None:
    attempts = HeldAttempts()
    with Simulation(max_connections=1, timeout=5, start=attempts) as sim:
        sim.server.refusal = PermissionError("not you")
        first, second = sim.waiting(), sim.waiting()
        attempts.run(0)
        with pytest.raises(PermissionError):
            first.result()
        sim.clock.advance(5)  # the attempt that was begun for the second is not answered
        with pytest.raises(DatabaseUnavailable, match="no connection could be opened") as caught:
            second.result()
        assert caught.value.__cause__ is sim.server.refusal
        attempts.run(1)


def test_who_waits_for_a_connection_that_is_being_closed_is_told_of_no_outage() -> None:
    closing, go_on = threading.Event(), threading.Event()

    def slow_close(connection: Connection) -> None:
        closing.set()
        assert go_on.wait(PATIENCE)
        connection.close()

    with Simulation(max_connections=1, timeout=5, more={"close_connection": slow_close}) as sim:
        (lease,) = sim.lend(1)
        discarding = Working(None, lambda: sim.pool.discard(lease))
        assert closing.wait(PATIENCE)
        waiting = sim.waiting()
        sim.clock.advance(5)
        with pytest.raises(PoolTimeout):
            waiting.result()
        go_on.set()
        discarding.result()


def test_an_earlier_connect_error_is_no_cause_once_a_connection_was_opened() -> None:
    with Simulation(max_connections=1, timeout=None) as sim:
        sim.server.refusal = ConnectionRefusedError("nobody there")
        with pytest.raises(DatabaseUnavailable):
            sim.pool.checkout()
        sim.server.refusal = None
        sim.pass_time(1)
        sim.lend(1)
        with pytest.raises(PoolTimeout) as caught:
            sim.pool.checkout()
        assert caught.value.__cause__ is None


def test_an_outage_is_told_with_the_drivers_words_and_error() -> None:
    with Simulation(timeout=None) as sim:
        sim.server.refusal = ConnectionRefusedError("nobody there\nis the server running?")
        with pytest.raises(DatabaseUnavailable) as caught:
            sim.pool.checkout()
        assert str(caught.value).startswith("no connection to the database: nobody there (for 0.0 s now, ")
        assert caught.value.__cause__ is sim.server.refusal


def test_what_is_no_outage_is_raised_as_it_is() -> None:
    with Simulation() as sim:
        sim.server.refusal = KeyError("a mistake in the app's own _connect")
        with pytest.raises(KeyError) as caught:
            sim.pool.checkout()
        assert caught.value is sim.server.refusal


def test_each_waiter_has_an_attempt_of_its_own_that_fails() -> None:
    with Simulation(start=in_background) as sim:
        sim.server.accepting.clear()
        sim.server.refusal = PermissionError("no")
        waiting = [sim.waiting() for _ in range(5)]
        sim.server.accepting.set()
        for thread in waiting:
            with pytest.raises(PermissionError):
                thread.result()
        assert (sim.pool.stats().connect_errors, sim.pool.stats().size) == (5, 0)


# What must not be used as it is.


def test_what_was_idle_for_long_is_probed_once() -> None:
    with Simulation(probe_after=10) as sim:
        (connection,) = sim.fill(1)
        sim.clock.advance(10.1)
        lease = sim.pool.checkout()
        assert (lease.connection, connection.received) == (connection, ["probe"])
        sim.pool.checkin(lease)
        sim.pool.checkin(sim.pool.checkout())
        assert connection.received == ["probe"]


def test_what_was_not_idle_is_not_probed_however_short_probe_after() -> None:
    with Simulation(max_connections=1, probe_after=0) as sim:
        (lease,) = sim.lend(1)
        waiting = sim.waiting()
        sim.clock.advance(1)
        sim.pool.checkin(lease)
        waiting.result()
        assert lease.connection.received == []


def test_what_was_idle_for_a_moment_is_not_probed() -> None:
    with Simulation(probe_after=10) as sim:
        (connection,) = sim.fill(1)
        sim.clock.advance(9.9)
        assert sim.pool.checkout().connection is connection
        assert connection.received == []


def test_nothing_is_probed_for_its_idle_time_without_probe_after() -> None:
    with Simulation(probe_after=None, max_idle=None, max_lifetime=None) as sim:
        (connection,) = sim.fill(1)
        sim.clock.advance(1e9)
        assert sim.pool.checkout().connection is connection
        assert connection.received == []


def test_what_has_no_server_is_not_probed_for_its_idle_time() -> None:
    with Simulation(network=False, probe_after=10) as sim:
        (connection,) = sim.fill(1)
        sim.clock.advance(300)
        assert sim.pool.checkout().connection is connection
        assert connection.received == []


def test_a_connection_on_which_the_server_said_something_is_probed_and_kept() -> None:
    with Simulation() as sim:
        (connection,) = sim.fill(1)
        connection.notify()
        assert sim.pool.checkout().connection is connection
        assert connection.received == ["probe"]


def test_a_connection_on_which_the_server_hung_up_is_replaced() -> None:
    with Simulation() as sim:
        (connection,) = sim.fill(1)
        connection.hang_up()
        assert sim.pool.checkout().connection is sim.server.connections[1]
        assert connection.closed


def test_one_that_was_found_dead_makes_the_others_be_probed_once() -> None:
    with Simulation() as sim:
        old, dead = sim.fill(2)
        dead.hang_up()
        kept = sim.pool.checkout()
        assert kept.connection is old
        assert old.received == ["probe"]
        sim.pool.checkin(kept)
        sim.pool.checkout()
        assert old.received == ["probe"]


def test_one_that_broke_in_use_makes_the_older_ones_be_probed() -> None:
    with Simulation() as sim:
        idle, broken = sim.lend(2)
        sim.pool.checkin(idle)
        sim.pool.note_lost(broken)
        assert sim.pool.checkout().connection is idle.connection
        assert idle.connection.received == ["probe"]


def test_one_that_broke_in_use_does_not_make_newer_ones_be_probed() -> None:
    with Simulation() as sim:
        (broken,) = sim.lend(1)
        sim.pool.note_lost(broken)
        (newer,) = sim.fill(1)
        assert sim.pool.checkout().connection is newer
        assert newer.received == []


def test_a_later_loss_among_those_that_are_suspect_already_makes_no_newer_one_so() -> None:
    with Simulation() as sim:
        first, second = sim.lend(2)
        sim.pool.note_lost(first)
        (newer,) = sim.fill(1)
        sim.pool.note_lost(second)
        assert sim.pool.stats().generation == 1
        sim.pool.checkout()
        assert newer.received == []


def test_a_probe_is_bounded_and_leaves_time_for_a_new_connection() -> None:
    with Simulation(timeout=2) as sim:
        (connection,) = sim.fill(1)
        sim.clock.run()
        connection.frozen = True
        sim.pool.ledger.generation += 1
        begun = time.monotonic()
        assert sim.pool.checkout().connection is sim.server.connections[1]
        assert time.monotonic() - begun < 2
        assert connection.closed


def test_with_a_silent_connection_go_those_that_were_idle_for_longer() -> None:
    with Simulation(timeout=2) as sim:
        idle = sim.fill(3)
        sim.clock.run()
        for connection in idle:
            connection.frozen = True
        sim.pool.ledger.generation += 1
        assert sim.pool.checkout().connection is sim.server.connections[3]
        assert [connection.received for connection in idle] == [[], [], ["probe"]]
        assert all(connection.closed for connection in idle)


def test_a_probe_that_could_not_be_ended_in_time_is_not_begun() -> None:
    with Simulation(probe_after=10) as sim:
        (lease,) = sim.lend(1)
        lease.pooled.fileno = None
        sim.pool.checkin(lease)
        sim.clock.advance(10.1)
        assert sim.pool.checkout().connection is sim.server.connections[1]
        assert (lease.connection.received, lease.connection.closed) == ([], True)


# What goes wrong meanwhile.


class Interruption(BaseException):
    """Like KeyboardInterrupt or gevent.Timeout: raised in the middle of a wait."""


@pytest.fixture
def interrupted(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], None]], None]:
    """Have the next wait do something, and then be interrupted."""

    def install(first: Callable[[], None]) -> None:
        def sleep(self: ThreadWaiter, seconds: float) -> bool:
            monkeypatch.undo()
            first()
            raise Interruption

        monkeypatch.setattr(ThreadWaiter, "sleep", sleep)

    return install


def test_who_is_interrupted_in_the_queue_leaves_it(interrupted: Any) -> None:
    with Simulation(max_connections=1) as sim:
        (lease,) = sim.lend(1)
        interrupted(lambda: None)
        with pytest.raises(Interruption):
            sim.pool.checkout()
        assert sim.pool.stats().waiting == 0
        sim.pool.checkin(lease)
        assert sim.pool.stats().idle == 1


def test_a_key_that_interrupts_a_wait_is_heard() -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    with Simulation(max_connections=1, timeout=PATIENCE) as sim:
        sim.clock.run()
        sim.lend(1)

        def press() -> None:
            until(lambda: sim.pool.stats().waiting == 1)
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

        pressing = Working(None, press)
        begun = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            sim.pool.checkout()
        pressing.result()
        assert time.monotonic() - begun < PATIENCE / 2
        assert sim.pool.stats().waiting == 0
    signal.signal(signal.SIGINT, before)


def test_who_is_interrupted_when_served_gives_the_connection_back(interrupted: Any) -> None:
    with Simulation(max_connections=1) as sim:
        (lease,) = sim.lend(1)
        interrupted(lambda: sim.pool.checkin(lease))
        with pytest.raises(Interruption):
            sim.pool.checkout()
        assert (sim.pool.stats().in_use, sim.pool.stats().idle) == (0, 1)


def test_what_nobody_has_used_is_given_back_without_a_round_trip(interrupted: Any) -> None:
    with Simulation(max_connections=1, reset="DISCARD ALL") as sim:
        (lease,) = sim.lend(1)
        interrupted(lambda: sim.pool.checkin(lease))
        with pytest.raises(Interruption):
            sim.pool.checkout()
        assert lease.connection.received == ["DISCARD ALL"]
        assert sim.pool.stats().idle == 1


def test_who_is_interrupted_while_an_attempt_is_begun_leaves_the_queue() -> None:
    def start(attempt: Callable[[], None]) -> None:
        begun.append(attempt)
        raise Interruption

    begun: list[Callable[[], None]] = []
    with Simulation(start=start) as sim:
        with pytest.raises(Interruption):
            sim.pool.checkout()
        assert sim.pool.stats().waiting == 0
        begun[0]()
        assert (sim.pool.stats().in_use, sim.pool.stats().idle) == (0, 1)


def test_who_is_interrupted_in_a_probe_closes_the_connection() -> None:
    def interrupt(what: str) -> None:
        raise Interruption

    with Simulation(probe_after=10) as sim:
        (connection,) = sim.fill(1)
        sim.clock.advance(10.1)
        connection.send = interrupt  # type: ignore[method-assign]
        with pytest.raises(Interruption):
            sim.pool.checkout()
        assert (connection.closed, sim.pool.stats().in_use, sim.pool.stats().size) == (True, 0, 0)


def test_an_interruption_hits_the_thread_that_opens_its_connection_itself() -> None:
    """And no other, though that be first in the queue."""
    opening, go_on = threading.Event(), threading.Event()

    with Simulation(max_connecting=1, start=in_background, more={"inline": True}) as sim:

        def interrupted_connect() -> None:
            opening.set()
            assert go_on.wait(PATIENCE)
            raise Interruption

        sim.pool.connector._open = interrupted_connect
        unlucky = sim.waiting()
        assert opening.wait(PATIENCE)
        sim.pool.connector._open = sim.server.connect
        waiter = ThreadWaiter()  # it has had its turn before, so it stands first
        assert sim.pool.enqueue(waiter, (Checkout.run.__code__, 0), first=True, spare=1) is None
        go_on.set()
        with pytest.raises(Interruption):
            unlucky.result()
        assert waiter.sleep(PATIENCE)
        assert waiter.error is None
        assert waiter.lease is not None


def test_a_pool_connects_also_where_no_thread_can_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    from peewee_web.core.pool import Pool

    with Simulation() as sim:
        pool = Pool(sim.server.connect, find_driver=lambda connection: SimulatedDriver())
        monkeypatch.setattr(threading.Thread, "start", refuse)
        assert pool.checkout().connection is sim.server.connections[0]


def test_a_waiting_thread_gets_the_connection_of_a_dead_one(tmp_path: Path) -> None:
    database = PooledSqliteDatabase(str(tmp_path / "one.db"), max_connections=1, timeout=PATIENCE)
    connected, die = threading.Event(), threading.Event()

    def hold() -> None:
        database.connect()
        connected.set()
        assert die.wait(PATIENCE)

    holder = Working(contextvars.Context(), hold)
    assert connected.wait(PATIENCE)
    waiting = Working(contextvars.Context(), lambda: (database.connect(), database.close()))
    until(lambda: database.pool_stats().waiting == 1)
    died = time.monotonic()
    die.set()
    holder.result()
    waiting.result()
    assert time.monotonic() - died < PATIENCE / 2  # it looks once a second
    gc.collect()
    database.close_all()


def test_a_thread_that_dies_before_anybody_waits_is_noticed_at_once(tmp_path: Path) -> None:
    database = PooledSqliteDatabase(str(tmp_path / "one.db"), max_connections=1, timeout=None)
    in_thread(database.connect)
    assert database.connect()
    database.close_all()
