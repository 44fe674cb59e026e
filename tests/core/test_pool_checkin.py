"""What a check-in does to a connection before its next user gets it: nothing, a roll-back, a reset, or an end."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from peewee_web.core.drivers import Status
from tests.core.simulated import Connection, Simulation, in_background
from tests.core.working import PATIENCE, Working


def test_a_quiet_connection_costs_no_round_trip() -> None:
    with Simulation() as sim:
        (lease,) = sim.lend(1)
        assert sim.pool.checkin(lease) is Status.IDLE
        assert (lease.connection.received, sim.pool.stats().idle) == ([], 1)


@pytest.mark.parametrize("status", [Status.IN_TRANSACTION, Status.FAILED, Status.UNKNOWN])
def test_what_may_be_in_a_transaction_is_rolled_back_and_kept(status: Status) -> None:
    with Simulation() as sim:
        (lease,) = sim.lend(1)
        lease.connection.status = status
        assert sim.pool.checkin(lease) is status
        assert lease.connection.received == ["ROLLBACK"]
        assert sim.pool.checkout().connection is lease.connection


@pytest.mark.parametrize("status", [Status.BUSY, Status.LOST])
def test_what_is_mid_statement_or_lost_is_closed_without_a_word(status: Status) -> None:
    with Simulation() as sim:
        (lease,) = sim.lend(1)
        lease.connection.status = status
        sim.pool.checkin(lease)
        assert (lease.connection.received, lease.connection.closed, sim.pool.stats().size) == ([], True, 0)


def test_a_lost_connection_is_counted_and_makes_the_others_suspect() -> None:
    with Simulation() as sim:
        lost, other = sim.lend(2)
        sim.pool.checkin(other)
        lost.connection.status = Status.LOST
        sim.pool.checkin(lost)
        assert sim.pool.stats().lost == 1
        sim.pool.checkout()
        assert other.connection.received == ["probe"]


def test_one_in_the_middle_of_a_statement_makes_no_other_suspect() -> None:
    with Simulation() as sim:
        (busy,) = sim.lend(1)
        busy.connection.status = Status.BUSY
        sim.pool.checkin(busy)
        assert (sim.pool.stats().generation, sim.pool.stats().lost) == (0, 0)


def test_a_connection_that_somebody_called_broken_is_closed() -> None:
    with Simulation() as sim:
        (lease,) = sim.lend(1)
        lease.broken = True
        sim.pool.checkin(lease)
        assert (lease.connection.closed, lease.connection.received) == (True, [])


def test_a_roll_back_that_fails_closes_the_connection() -> None:
    with Simulation() as sim:
        (lease,) = sim.lend(1)
        lease.connection.status = Status.IN_TRANSACTION
        lease.connection.hang_up()
        sim.pool.checkin(lease)
        assert (lease.connection.closed, sim.pool.stats().size) == (True, 0)


def test_a_roll_back_that_leaves_a_transaction_open_closes_the_connection() -> None:
    with Simulation(reset=lambda connection: setattr(connection, "status", Status.IN_TRANSACTION)) as sim:
        (lease,) = sim.lend(1)
        sim.pool.checkin(lease)
        assert (lease.connection.closed, sim.pool.stats().idle) == (True, 0)


def test_a_reset_statement_runs_at_every_checkin() -> None:
    with Simulation(reset="DISCARD ALL") as sim:
        (connection,) = sim.fill(1)
        sim.pool.checkin(sim.pool.checkout())
        assert connection.received == ["DISCARD ALL", "DISCARD ALL"]


def test_a_reset_comes_after_the_roll_back() -> None:
    with Simulation(reset="DISCARD ALL") as sim:
        (lease,) = sim.lend(1)
        lease.connection.status = Status.IN_TRANSACTION
        sim.pool.checkin(lease)
        assert lease.connection.received == ["ROLLBACK", "DISCARD ALL"]


def test_a_reset_may_be_a_function_of_the_connection() -> None:
    cleaned: list[Connection] = []
    with Simulation(reset=cleaned.append) as sim:
        assert sim.fill(2) == cleaned


@pytest.mark.parametrize("reset", ["nonsense", lambda connection: connection.send("nonsense")])
def test_a_connection_whose_reset_fails_is_closed(reset: Any) -> None:
    with Simulation(reset=reset) as sim:
        (lease,) = sim.lend(1)
        lease.connection.hang_up()
        sim.pool.checkin(lease)
        assert (lease.connection.closed, sim.pool.stats().size, sim.pool.stats().idle) == (True, 0, 0)


def test_what_is_idle_already_is_reset_from_its_next_checkin_on() -> None:
    with Simulation() as sim:
        (lease,) = sim.lend(1)
        sim.pool.configure(sim.pool.options.but(reset="DISCARD ALL"))
        sim.pool.checkin(lease)
        (connection,) = sim.fill(1)
        assert connection.received == ["DISCARD ALL"]


@pytest.mark.parametrize("options", [{}, {"reset": "DISCARD ALL"}])
def test_a_roll_back_and_a_reset_are_bounded(options: dict[str, Any]) -> None:
    with Simulation(timeout=1, **options) as sim:
        (lease,) = sim.lend(1)
        lease.connection.status = Status.IN_TRANSACTION
        lease.connection.frozen = True
        begun = time.monotonic()
        sim.pool.checkin(lease)
        assert time.monotonic() - begun < PATIENCE / 2
        assert lease.connection.closed


def test_an_interruption_in_a_reset_closes_the_connection_and_goes_on() -> None:
    def interrupt(connection: Any) -> None:
        raise KeyboardInterrupt

    with Simulation(reset=interrupt) as sim:
        (lease,) = sim.lend(1)
        with pytest.raises(KeyboardInterrupt):
            sim.pool.checkin(lease)
        assert (lease.connection.closed, sim.pool.stats().in_use, sim.pool.stats().size) == (True, 0, 0)


def test_a_second_checkin_does_nothing() -> None:
    with Simulation() as sim:
        (lease,) = sim.lend(1)
        sim.pool.checkin(lease)
        (again,) = sim.lend(1)
        sim.pool.checkin(lease)
        lease.connection.status = Status.IN_TRANSACTION
        sim.pool.checkin(lease)
        sim.pool.discard(lease)
        assert (sim.pool.has_lent(again), lease.connection.received, lease.connection.closed) == (True, [], False)


def test_two_check_ins_at_once_reset_once() -> None:
    resetting, go_on = threading.Event(), threading.Event()

    def reset(connection: Connection) -> None:
        connection.send("reset")
        resetting.set()
        assert go_on.wait(PATIENCE)

    with Simulation(reset=reset) as sim:
        (lease,) = sim.lend(1)
        first = Working(None, lambda: sim.pool.checkin(lease))
        assert resetting.wait(PATIENCE)
        sim.pool.checkin(lease)
        go_on.set()
        first.result()
        assert (lease.connection.received, sim.pool.stats().idle) == (["reset"], 1)


def test_a_check_in_during_anothers_roll_back_does_nothing() -> None:
    with Simulation() as sim:
        (lease,) = sim.lend(1)
        connection, idle_meanwhile = lease.connection, []

        def answer(what: str) -> None:
            connection.status = Status.IDLE  # so the answer says; the driver is not done with it
            sim.pool.checkin(lease)
            idle_meanwhile.append(sim.pool.stats().idle)

        connection.status = Status.IN_TRANSACTION
        connection.send = answer
        sim.pool.checkin(lease)
        assert (idle_meanwhile, sim.pool.stats().idle) == ([0], 1)


def test_others_go_on_while_a_connection_is_reset() -> None:
    resetting, go_on = threading.Event(), threading.Event()

    def reset(connection: Connection) -> None:
        if connection.number == 0:
            resetting.set()
            assert go_on.wait(PATIENCE)

    with Simulation(reset=reset) as sim:
        slow, other = sim.lend(2)
        thread = Working(None, lambda: sim.pool.checkin(slow))
        assert resetting.wait(PATIENCE)
        sim.pool.checkin(other)
        assert sim.pool.checkout().connection is other.connection
        assert sim.pool.stats().in_use == 2  # the one that is being reset is still lent
        go_on.set()
        thread.result()


def test_who_waits_gets_the_connection_after_its_reset() -> None:
    with Simulation(max_connections=1, reset="DISCARD ALL") as sim:
        (lease,) = sim.lend(1)
        waiting = sim.waiting()
        sim.pool.checkin(lease)
        assert waiting.result().connection.received == ["DISCARD ALL"]


def test_a_connection_that_can_not_be_closed_is_out_of_the_pool_all_the_same() -> None:
    def refuse(connection: Connection) -> None:
        connection.close()
        raise RuntimeError("it can't be closed")

    with Simulation(more={"close_connection": refuse}) as sim:
        (lease,) = sim.lend(1)
        sim.pool.discard(lease)
        assert (sim.pool.stats().size, sim.pool.stats().closed) == (0, 1)


def test_a_broken_connection_is_closed_without_waiting_for_its_peer() -> None:
    """A driver that says good-bye in its `close`, to a peer that is silent."""
    farewells: list[Callable[[], None]] = []

    def close(connection: Connection) -> None:
        try:
            connection.send("good-bye")
        except OSError:
            farewells.append(connection.close)
            connection.close()

    with Simulation(start=in_background, more={"close_connection": close}) as sim:
        (lease,) = sim.lend(1)
        lease.connection.frozen = True
        sim.pool.note_lost(lease)
        begun = time.monotonic()
        sim.pool.checkin(lease)
        assert (len(farewells), time.monotonic() - begun < PATIENCE / 2) == (1, True)
