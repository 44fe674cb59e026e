"""What a pool lends and keeps: how many connections, for how long, which one first, and what it tells of itself."""

from __future__ import annotations

import logging
import threading
from typing import Any

import pytest

from peewee_web import PoolTimeout
from peewee_web.core.pool import Pool
from tests.core.simulated import Connection, HeldAttempts, Simulation, in_background
from tests.core.working import PATIENCE, Working
from tests.servers.waiting import until

# How many, and which.


def test_a_connection_given_back_is_lent_again() -> None:
    with Simulation() as sim:
        first = sim.pool.checkout()
        sim.pool.checkin(first)
        assert sim.pool.checkout().connection is first.connection


def test_a_second_lease_has_another_connection() -> None:
    with Simulation() as sim:
        one, two = sim.lend(2)
        assert one.connection is not two.connection


def test_the_newest_idle_connection_is_lent_first() -> None:
    with Simulation() as sim:
        idle = sim.fill(3)
        assert [lease.connection for lease in sim.lend(3)] == idle[::-1]


def test_max_connections_is_a_bound() -> None:
    with Simulation(max_connections=2, timeout=None) as sim:
        sim.lend(2)
        with pytest.raises(PoolTimeout):
            sim.pool.checkout()
        assert len(sim.server.connections) == 2


def test_connections_being_opened_count_against_the_bound() -> None:
    attempts = HeldAttempts()
    with Simulation(max_connections=2, max_connecting=9, start=attempts) as sim:
        waiting = [sim.waiting() for _ in range(3)]
        attempts.run(0)
        attempts.run(1)
        assert (len(attempts.begun), sim.pool.stats().size, sim.pool.stats().waiting) == (2, 2, 1)
        sim.pool.checkin(waiting[0].result())
        assert waiting[2].result() is not waiting[1].result()


def test_connections_being_closed_count_against_the_bound() -> None:
    closing, go_on = threading.Event(), threading.Event()

    def slow_close(connection: Connection) -> None:
        closing.set()
        assert go_on.wait(PATIENCE)
        connection.close()

    with Simulation(max_connections=1, more={"close_connection": slow_close}) as sim:
        lease = sim.pool.checkout()
        discarding = Working(None, lambda: sim.pool.discard(lease))
        assert closing.wait(PATIENCE)
        waiting = sim.waiting()
        assert (len(sim.server.connections), sim.server.connecting) == (1, 0)
        go_on.set()
        discarding.result()
        assert waiting.result().connection is sim.server.connections[1]


@pytest.mark.parametrize("unbounded", [None, 0])
def test_there_may_be_no_bound(unbounded: int | None) -> None:
    with Simulation(max_connections=unbounded, timeout=None) as sim:
        sim.lend(50)
        assert (sim.pool.stats().limit, sim.pool.stats().in_use) == (None, 50)


def test_no_more_connections_are_opened_at_once_than_max_connecting() -> None:
    with Simulation(max_connecting=2, start=in_background) as sim:
        sim.server.accepting.clear()
        waiting = [sim.waiting() for _ in range(4)]
        until(lambda: sim.server.connecting == 2)
        assert sim.pool.stats().size == 2
        sim.server.accepting.set()
        assert len({thread.result().connection for thread in waiting}) == 4


def test_a_connection_opened_elsewhere_counts_also_past_the_bound() -> None:
    with Simulation(max_connections=1, timeout=None) as sim:
        sim.lend(1)
        lease = sim.pool.admit(sim.server.connect(), keep=True)
        assert (sim.pool.stats().size, sim.pool.has_lent(lease)) == (2, True)
        sim.pool.checkin(lease)
        assert sim.pool.checkout().connection is lease.connection


def test_a_connection_opened_elsewhere_is_closed_after_its_use_if_it_is_not_to_be_kept() -> None:
    with Simulation() as sim:
        lease = sim.pool.admit(sim.server.connect(), keep=False)
        sim.pool.checkin(lease)
        assert (lease.connection.closed, sim.pool.stats().size) == (True, 0)


# How old.


def test_a_connection_past_its_life_is_closed_at_checkin() -> None:
    with Simulation(max_lifetime=100) as sim:
        lease = sim.pool.checkout()
        sim.clock.advance(100)
        sim.pool.checkin(lease)
        assert (lease.connection.closed, sim.pool.stats().size) == (True, 0)


def test_a_connection_past_its_life_is_replaced_at_checkout() -> None:
    with Simulation(max_lifetime=100, max_idle=None) as sim:
        (old,) = sim.fill(1)
        sim.clock.advance(100)
        assert sim.pool.checkout().connection is sim.server.connections[1]
        assert (old.closed, old.received) == (True, [])


def test_a_connection_within_its_life_is_kept() -> None:
    with Simulation(max_lifetime=100, max_idle=None, probe_after=None) as sim:
        (connection,) = sim.fill(1)
        sim.clock.advance(94)
        lease = sim.pool.checkout()
        assert lease.connection is connection
        sim.pool.checkin(lease)
        assert not connection.closed


def test_lives_differ_by_up_to_a_twentieth() -> None:
    with Simulation(max_connections=None, max_lifetime=100) as sim:
        lives = [lease.pooled.expires - sim.clock() for lease in sim.lend(50)]
        assert 95 <= min(lives) < 96.5 < 98.5 < max(lives) <= 100


@pytest.mark.parametrize("endless", [None, 0])
def test_a_life_may_have_no_end(endless: float | None) -> None:
    with Simulation(max_lifetime=endless, max_idle=None, probe_after=None) as sim:
        (connection,) = sim.fill(1)
        sim.clock.advance(1e9)
        assert sim.pool.checkout().connection is connection


def test_a_connection_serves_once_however_short_its_life() -> None:
    class Hurrying:
        """Time enough passes between any two looks at the clock."""

        def __init__(self) -> None:
            self.now = 0.0

        def __call__(self) -> float:
            self.now += 0.01
            return self.now

    with Simulation(max_lifetime=0.001, timeout=60) as sim:
        sim.pool.clock = sim.pool.connector._clock = Hurrying()
        lease = sim.pool.checkout()
        assert (lease.connection, lease.connection.received) == (sim.server.connections[0], [])
        sim.pool.checkin(lease)
        assert lease.connection.closed


# How long idle.


def test_what_is_idle_for_too_long_is_closed() -> None:
    with Simulation(max_idle=100) as sim:
        old, kept = sim.fill(2)
        sim.clock.advance(60)
        sim.pool.checkin(sim.pool.checkout())  # of the newer one
        sim.clock.advance(60)
        sim.pool.checkin(sim.pool.checkout())
        assert (old.closed, kept.closed) == (True, False)


def test_what_is_idle_is_kept_down_to_min_connections() -> None:
    with Simulation(max_idle=100, min_connections=2) as sim:
        idle = sim.fill(4)
        sim.clock.advance(101)
        sim.pool.checkin(sim.pool.checkout())
        assert [connection.closed for connection in idle] == [True, True, False, False]


def test_nothing_is_closed_for_being_idle_without_max_idle() -> None:
    with Simulation(max_idle=None, max_lifetime=None) as sim:
        idle = sim.fill(3)
        sim.clock.advance(1e9)
        sim.pool.checkin(sim.pool.checkout())
        assert [connection.closed for connection in idle] == [False, False, False]


def test_no_connection_is_kept_with_a_max_idle_of_zero() -> None:
    with Simulation(max_idle=0) as sim:
        (connection,) = sim.fill(1)
        assert (connection.closed, sim.pool.stats().size) == (True, 0)


def test_who_waits_is_served_also_with_a_max_idle_of_zero() -> None:
    with Simulation(max_connections=1, max_idle=0) as sim:
        (lease,) = sim.lend(1)
        waiting = sim.waiting()
        sim.pool.checkin(lease)
        assert waiting.result().connection is lease.connection
        assert sim.pool.stats().created == 1


def test_what_has_grown_old_while_idle_is_closed_when_the_pool_is_used() -> None:
    with Simulation(max_lifetime=100, max_idle=None, probe_after=None) as sim:
        (old,) = sim.lend(1)
        sim.clock.advance(60)
        (newer,) = sim.lend(1)
        sim.pool.checkin(old)
        sim.pool.checkin(newer)
        sim.clock.advance(40)
        sim.pool.checkin(sim.pool.checkout())
        assert (old.connection.closed, newer.connection.closed) == (True, False)


def test_the_pool_looks_for_what_is_idle_once_a_second_at_most() -> None:
    with Simulation(max_idle=0.5) as sim:
        older, _ = sim.fill(2)
        (lease,) = sim.lend(1)
        sim.clock.advance(0.9)
        sim.pool.checkin(lease)
        assert not older.closed
        (lease,) = sim.lend(1)
        sim.clock.advance(0.2)
        sim.pool.checkin(lease)
        assert older.closed


def test_what_was_idle_for_longer_than_max_idle_is_not_lent_again() -> None:
    with Simulation(max_idle=5) as sim:
        (connection,) = sim.fill(1)
        sim.clock.advance(5.1)
        assert sim.pool.checkout().connection is not connection
        assert (connection.closed, connection.received) == (True, [])


def test_unless_it_is_one_of_min_connections() -> None:
    with Simulation(max_idle=5, min_connections=1) as sim:
        (connection,) = sim.fill(1)
        sim.clock.advance(5.1)
        assert sim.pool.checkout().connection is connection
        assert connection.received == ["probe"]


# Before the first request.


def test_warm_opens_min_connections() -> None:
    with Simulation(min_connections=3) as sim:
        assert sim.pool.warm() == 3
        assert (len(sim.server.alive), sim.pool.stats().idle) == (3, 3)


def test_warm_adds_to_what_is_there() -> None:
    with Simulation(min_connections=3) as sim:
        sim.fill(1)
        sim.lend(1)
        assert sim.pool.warm() == 3
        assert len(sim.server.connections) == 3


def test_warm_without_min_connections_opens_nothing() -> None:
    with Simulation() as sim:
        assert (sim.pool.warm(), sim.server.connections) == (0, [])


def test_warm_raises_what_the_server_refuses_with() -> None:
    with Simulation(min_connections=2) as sim:
        sim.server.refusal = PermissionError("no")
        with pytest.raises(PermissionError):
            sim.pool.warm()
        assert sim.pool.stats().size == 0


# What nobody must wait for.


def test_others_go_on_while_a_connection_is_opened() -> None:
    with Simulation(start=in_background) as sim:
        sim.fill(1)
        out = sim.pool.checkout()
        sim.server.accepting.clear()
        waiting = sim.waiting()
        sim.pool.checkin(out)  # goes to whoever waits
        sim.pool.checkin(waiting.result())
        assert sim.pool.checkout().connection is out.connection
        assert sim.server.connecting == 1
        sim.server.accepting.set()
        until(lambda: sim.pool.stats().idle == 1)


def test_others_go_on_while_a_connection_is_closed() -> None:
    closing, go_on = threading.Event(), threading.Event()

    def slow_close(connection: Connection) -> None:
        closing.set()
        assert go_on.wait(PATIENCE)
        connection.close()

    with Simulation(more={"close_connection": slow_close}) as sim:
        doomed, other = sim.lend(2)
        discarding = Working(None, lambda: sim.pool.discard(doomed))
        assert closing.wait(PATIENCE)
        sim.pool.checkin(other)
        assert sim.pool.checkout().connection is other.connection
        go_on.set()
        discarding.result()


# What a pool tells.


def test_its_repr_tells_its_state() -> None:
    with Simulation(max_connections=8) as sim:
        sim.pool.checkin(sim.lend(4)[0])
        assert repr(sim.pool) == "<Pool 3/8 in use, 1 idle, 0 waiting>"


def test_its_repr_names_no_bound_where_there_is_none() -> None:
    with Simulation(max_connections=None) as sim:
        sim.lend(1)
        assert repr(sim.pool) == "<Pool 1 in use, 0 idle, 0 waiting>"


def test_a_lease_says_where_it_was_taken() -> None:
    with Simulation() as sim:
        lease = sim.pool.checkout()
        sim.pool.note_lost(lease)
        line = test_a_lease_says_where_it_was_taken.__code__.co_firstlineno + 2
        assert repr(lease) == f"<Lease taken at {__file__}:{line}, broken>"


def changed(pool: Pool, before: Any) -> dict[str, Any]:
    """The figures of *pool* that are not as they were."""
    now = pool.stats()
    return {name: getattr(now, name) for name in vars(now) if getattr(now, name) != getattr(before, name)}


def test_figures_of_a_first_checkout() -> None:
    with Simulation(max_connections=5) as sim:
        before = sim.pool.stats()
        sim.pool.checkout()
        assert before.limit == 5
        assert changed(sim.pool, before) == {"size": 1, "in_use": 1, "checkouts": 1, "created": 1, "waits": 1}


def test_figures_of_a_later_checkout_and_its_checkin() -> None:
    with Simulation() as sim:
        sim.fill(1)
        before = sim.pool.stats()
        lease = sim.pool.checkout()
        assert changed(sim.pool, before) == {"in_use": 1, "idle": 0, "checkouts": 2}
        sim.pool.checkin(lease)
        assert changed(sim.pool, before) == {"checkouts": 2}


def test_figures_of_a_wait() -> None:
    with Simulation(max_connections=1) as sim:
        (lease,) = sim.lend(1)
        before = sim.pool.stats()
        waiting = sim.waiting()
        assert changed(sim.pool, before) == {"waiting": 1}
        sim.clock.advance(3)
        sim.pool.checkin(lease)
        waiting.result()
        assert changed(sim.pool, before) == {"checkouts": 2, "waits": 2, "wait_seconds": 3.0}


def test_figures_of_a_wait_in_vain() -> None:
    with Simulation(max_connections=1, timeout=5) as sim:
        sim.lend(1)
        before = sim.pool.stats()
        waiting = sim.waiting()
        sim.clock.advance(5)
        with pytest.raises(PoolTimeout):
            waiting.result()
        assert changed(sim.pool, before) == {"timeouts": 1, "waits": 2, "wait_seconds": 5.0}


def test_figures_of_a_refused_attempt() -> None:
    with Simulation() as sim:
        before = sim.pool.stats()
        sim.server.refusal = PermissionError("no")
        with pytest.raises(PermissionError):
            sim.pool.checkout()
        assert changed(sim.pool, before) == {"connect_errors": 1, "waits": 1}


def test_figures_of_a_connection_that_broke_in_use() -> None:
    with Simulation() as sim:
        (lease,) = sim.lend(1)
        before = sim.pool.stats()
        sim.pool.note_lost(lease)
        sim.pool.note_lost(lease)
        sim.pool.checkin(lease)
        assert changed(sim.pool, before) == {"size": 0, "in_use": 0, "lost": 1, "generation": 1, "closed": 1}


def test_figures_of_a_probe() -> None:
    with Simulation(probe_after=10) as sim:
        sim.fill(1)
        before = sim.pool.stats()
        sim.clock.advance(11)
        sim.pool.checkout()
        assert changed(sim.pool, before) == {"idle": 0, "in_use": 1, "checkouts": 2, "probes": 1}


def test_figures_of_a_failed_probe() -> None:
    with Simulation() as sim:
        (connection,) = sim.fill(1)
        before = sim.pool.stats()
        connection.hang_up()
        sim.pool.checkout()
        figures = changed(sim.pool, before)
        assert {name: figures[name] for name in ("probes", "probe_failures", "lost", "generation", "closed")} == {
            "probes": 1,
            "probe_failures": 1,
            "lost": 1,
            "generation": 1,
            "closed": 1,
        }


# What is out for too long.


def test_a_lease_that_is_out_for_too_long_is_reported_with_its_place(caplog: pytest.LogCaptureFixture) -> None:
    with Simulation(leak_after=30) as sim:
        sim.pool.checkout()
        line = test_a_lease_that_is_out_for_too_long_is_reported_with_its_place.__code__.co_firstlineno + 2
        sim.clock.advance(30.5)
        sim.pool.checkin(sim.pool.checkout())
        (record,) = caplog.records
        assert (record.levelno, record.getMessage()) == (
            logging.WARNING,
            f"a connection has been out for 30.5 s, which is more than leak_after; it was taken at {__file__}:{line}",
        )


def test_a_leak_is_reported_once(caplog: pytest.LogCaptureFixture) -> None:
    with Simulation(leak_after=30) as sim:
        sim.lend(1)
        for _ in range(3):
            sim.clock.advance(31)
            sim.pool.checkin(sim.pool.checkout())
        assert len(caplog.records) == 1


def test_a_leak_is_reported_when_another_begins_to_wait(caplog: pytest.LogCaptureFixture) -> None:
    with Simulation(max_connections=1, leak_after=30) as sim:
        (leak,) = sim.lend(1)
        sim.clock.advance(31)
        waiting = sim.waiting()
        until(lambda: caplog.records)
        sim.pool.checkin(leak)
        waiting.result()


def test_a_leak_is_reported_while_another_waits(caplog: pytest.LogCaptureFixture) -> None:
    with Simulation(max_connections=1, timeout=0, leak_after=30) as sim:
        (leak,) = sim.lend(1)
        waiting = sim.waiting()
        sim.clock.advance(31)
        until(lambda: caplog.records)
        sim.pool.checkin(leak)
        waiting.result()


def test_nothing_is_reported_without_leak_after(caplog: pytest.LogCaptureFixture) -> None:
    with Simulation() as sim:
        _, other = sim.lend(2)
        sim.clock.advance(1e6)
        sim.pool.checkin(other)
        assert not caplog.records
