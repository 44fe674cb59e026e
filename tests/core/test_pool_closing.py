"""The end of a pool, of some of its connections, or of the options that they were opened with."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from peewee_web import DatabaseUnavailable, PoolTimeout
from tests.core.simulated import Connection, Simulation, in_background
from tests.core.working import PATIENCE, Working
from tests.servers.waiting import until

# All of them, in an orderly way.


def test_close_closes_what_is_idle() -> None:
    with Simulation() as sim:
        sim.fill(3)
        assert sim.pool.close() == 0
        assert (sim.server.alive, sim.pool.stats().size) == ([], 0)


def test_close_does_not_cut_off_what_is_in_use_and_tells_how_many_that_are() -> None:
    with Simulation() as sim:
        leases = sim.lend(2)
        assert sim.pool.close() == 2
        assert len(sim.server.alive) == 2
        for lease in leases:
            sim.pool.checkin(lease)
        assert (sim.server.alive, sim.pool.stats().size) == ([], 0)


def test_close_waits_for_what_is_in_use() -> None:
    with Simulation() as sim:
        one, two = sim.lend(2)
        sim.clock.run()
        closing = Working(None, lambda: sim.pool.close(PATIENCE))
        until(lambda: sim.pool.ledger.outdated() == 2)
        sim.pool.checkin(one)
        assert sim.pool.ledger.outdated() == 1
        sim.pool.checkin(two)
        assert closing.result() == 0
        assert sim.server.alive == []


def test_close_waits_no_longer_than_it_may() -> None:
    with Simulation() as sim:
        sim.lend(1)
        sim.clock.run()
        begun = time.monotonic()
        assert sim.pool.close(0.05) == 1
        assert 0.05 <= time.monotonic() - begun < PATIENCE / 2


def test_two_that_close_at_once_both_end_with_the_last_connection() -> None:
    with Simulation() as sim:
        (lease,) = sim.lend(1)
        sim.clock.run()
        first = Working(None, lambda: sim.pool.close(PATIENCE * 2))
        until(lambda: sim.pool.ledger.outdated() == 1)
        second = Working(None, lambda: sim.pool.close(PATIENCE * 2))
        until(lambda: sim.pool.ledger.epoch == 2)
        sim.pool.checkin(lease)
        assert (first.result(), second.result()) == (0, 0)


def test_close_takes_back_what_is_left_behind_while_it_waits() -> None:
    left: list[Callable[[], object]] = []

    def reclaim() -> None:
        while left:
            left.pop()()

    with Simulation(more={"reclaim": reclaim}) as sim:
        (lease,) = sim.lend(1)
        sim.clock.run()
        closing = Working(None, lambda: sim.pool.close(PATIENCE * 2))
        until(lambda: sim.pool.ledger.outdated() == 1)
        left.append(lambda: sim.pool.checkin(lease))  # as the finalizer of a dead thread does
        assert closing.result() == 0


def test_a_pool_that_was_closed_opens_new_connections() -> None:
    with Simulation() as sim:
        (old,) = sim.fill(1)
        sim.pool.close()
        lease = sim.pool.checkout()
        assert lease.connection is not old
        sim.pool.checkin(lease)
        assert sim.pool.checkout().connection is lease.connection


def test_what_was_being_opened_when_the_pool_was_closed_is_replaced() -> None:
    with Simulation(start=in_background) as sim:
        sim.server.accepting.clear()
        waiting = sim.waiting()
        until(lambda: sim.server.connecting == 1)
        sim.pool.close()
        sim.server.accepting.set()
        assert waiting.result().connection is sim.server.connections[1]
        until(lambda: sim.server.connections[0].closed)


def test_what_was_being_opened_for_nobody_when_the_pool_was_closed_is_not_kept() -> None:
    with Simulation(start=in_background, timeout=0.01) as sim:
        sim.clock.run()
        sim.server.accepting.clear()
        with pytest.raises(DatabaseUnavailable):
            sim.pool.checkout()
        sim.pool.close()
        sim.server.accepting.set()
        until(lambda: sim.pool.stats().created == 1 and sim.pool.stats().size == 0)
        assert sim.server.alive == []


def test_who_waits_while_the_pool_is_closed_gets_a_new_connection() -> None:
    with Simulation(max_connections=1) as sim:
        (lease,) = sim.lend(1)
        waiting = sim.waiting()
        sim.pool.close()
        sim.pool.checkin(lease)
        assert waiting.result().connection is sim.server.connections[1]


def test_what_is_given_back_at_the_moment_of_the_end_is_not_lent_again() -> None:
    with Simulation() as sim:
        (late,) = sim.fill(1)
        sim.pool.ledger.outdate()  # as close() does, which has looked for idle ones before this came back
        assert sim.pool.checkout().connection is not late
        assert late.closed


# Some of them.


def test_close_idle_leaves_what_is_in_use() -> None:
    with Simulation() as sim:
        idle, used = sim.lend(2)
        sim.pool.checkin(idle)
        assert sim.pool.close_idle() == 1
        assert sim.server.alive == [used.connection]
        sim.pool.checkin(used)
        assert sim.pool.stats().idle == 1


def test_what_was_being_opened_for_nobody_when_the_idle_were_closed_is_not_kept() -> None:
    with Simulation(start=in_background) as sim:
        (lease,) = sim.lend(1)
        sim.server.accepting.clear()
        waiting = sim.waiting()
        until(lambda: sim.server.connecting == 1)
        sim.pool.checkin(lease)  # serves who waits, while another is being opened
        assert waiting.result().connection is lease.connection
        sim.pool.close_idle()
        sim.server.accepting.set()
        until(lambda: sim.pool.stats().size == 1)
        assert (sim.server.alive, sim.pool.stats().idle) == ([lease.connection], 0)


def test_what_was_being_opened_for_somebody_when_the_idle_were_closed_serves() -> None:
    with Simulation(start=in_background) as sim:
        sim.server.accepting.clear()
        waiting = sim.waiting()
        until(lambda: sim.server.connecting == 1)
        sim.pool.close_idle()
        sim.server.accepting.set()
        assert waiting.result().connection is sim.server.connections[0]


def test_evict_closes_what_has_been_out_for_so_long_under_its_users_hands() -> None:
    with Simulation() as sim:
        (old,) = sim.lend(1)
        sim.clock.advance(60)
        (new,) = sim.lend(1)
        assert sim.pool.evict(60) == 1
        assert (old.connection.closed, new.connection.closed) == (True, False)
        assert (sim.pool.stats().in_use, sim.pool.stats().size) == (1, 1)


def test_what_was_evicted_does_not_come_back() -> None:
    with Simulation() as sim:
        (lease,) = sim.lend(1)
        sim.pool.evict()
        sim.pool.checkin(lease)
        sim.pool.discard(lease)
        assert (sim.pool.stats().idle, sim.pool.stats().size, sim.pool.stats().closed) == (0, 0, 1)


def test_eviction_makes_room_for_who_waits() -> None:
    with Simulation(max_connections=1) as sim:
        sim.lend(1)
        waiting = sim.waiting()
        sim.pool.evict()
        assert waiting.result().connection is sim.server.connections[1]


def test_a_pool_that_forgets_closes_nothing_and_starts_anew() -> None:
    with Simulation() as sim:
        idle, used = sim.lend(2)
        sim.pool.checkin(idle)
        sim.pool.forget()
        assert (len(sim.server.alive), sim.pool.stats().size, sim.pool.stats().checkouts) == (2, 0, 0)
        sim.pool.checkin(used)
        assert sim.pool.stats().idle == 0


def test_a_connection_that_was_being_opened_when_the_pool_forgot_is_closed() -> None:
    opening, go_on = threading.Event(), threading.Event()

    with Simulation(start=in_background, timeout=0.5) as sim:
        connect = sim.server.connect

        def slow_connect() -> Connection:
            opening.set()
            assert go_on.wait(PATIENCE)
            return connect()

        sim.pool.connector._open = slow_connect
        waiting = sim.waiting()
        assert opening.wait(PATIENCE)
        sim.pool.forget()
        go_on.set()
        until(lambda: [connection.closed for connection in sim.server.connections] == [True])
        sim.pass_time(1)
        with pytest.raises(DatabaseUnavailable):
            waiting.result()


# Other options.


def test_other_options_hold_from_now_on() -> None:
    with Simulation(max_connections=1, timeout=None) as sim:
        sim.pool.configure(sim.pool.options.but(max_connections=2, max_idle=0))
        sim.fill(2)
        assert (sim.pool.stats().limit, sim.pool.stats().size) == (2, 0)


def test_connections_of_before_do_not_survive_other_options() -> None:
    with Simulation() as sim:
        idle, used = sim.lend(2)
        sim.pool.checkin(idle)
        sim.pool.configure(sim.pool.options.but(probe_after=1))
        assert (idle.connection.closed, used.connection.closed) == (True, False)
        sim.pool.checkin(used)
        assert used.connection.closed


def test_more_connections_are_opened_at_once_for_those_who_wait() -> None:
    with Simulation(max_connections=1) as sim:
        sim.lend(1)
        waiting = sim.waiting()
        sim.pool.configure(sim.pool.options.but(max_connections=2))
        assert waiting.result().connection is sim.server.connections[1]


def test_fewer_connections_are_kept_to_as_soon_as_those_in_use_come_back() -> None:
    with Simulation(max_connections=3, timeout=None) as sim:
        leases = sim.lend(3)
        sim.pool.configure(sim.pool.options.but(max_connections=1))
        sim.pool.checkin(leases[0])
        with pytest.raises(PoolTimeout):
            sim.pool.checkout()
        sim.pool.checkin(leases[1])
        sim.pool.checkin(leases[2])
        sim.lend(1)
        with pytest.raises(PoolTimeout):
            sim.pool.checkout()
