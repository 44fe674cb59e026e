"""Random interleavings of all that can happen to a pool keep DESIGN §8, one statement of the pool's code at a time.

``make soak`` shows that each of a list of faults put into the pool is found; ``SOAK=1`` runs tens of thousands of
examples.
"""

from __future__ import annotations

import ast
import gc
import math
import os
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from peewee_web import DatabaseUnavailable, PoolTimeout, core
from peewee_web.core.drivers import Status
from peewee_web.core.options import PoolOptions
from tests.core.interleaving import Actor, Stage, load, mutated
from tests.core.unreliable import Connection, Mode, Refused, Server, SimulatedDriver

SOAK = bool(os.environ.get("SOAK"))
pytestmark = [pytest.mark.timeout(0)] if SOAK else []

OPTIONS = st.fixed_dictionaries(
    {
        "max_connections": st.integers(1, 5),
        "timeout": st.sampled_from([5.0, 5.0, 1.0, 0.0, None]),
        "max_waiting": st.sampled_from([None, None, 0, 1, 3]),
        "max_lifetime": st.sampled_from([3600.0, 30.0, None]),
        "max_idle": st.sampled_from([600.0, 10.0, 0.0, None]),
        "probe_after": st.sampled_from([15.0, 2.0, 0.0, None]),
        "max_connecting": st.integers(1, 3),
        "reset": st.sampled_from([None, None, "DISCARD ALL"]),
        "leak_after": st.sampled_from([None, 3.0]),
        "fail_fast_after": st.sampled_from([5.0, 1.0, 0.0, None]),
    }
)

# How far an actor gets before others go on: all the way, to its next network call, or so many statements.
HOW_FAR = st.one_of(st.just(math.inf), st.just("io"), st.integers(0, 70))
WHICH = st.integers(0, 9)

# What a request may leave behind, as the driver tells it.
LEFT = st.sampled_from(
    [Status.IDLE, Status.IDLE, Status.IN_TRANSACTION, Status.FAILED, Status.BUSY, Status.LOST, Status.UNKNOWN]
)

OPERATIONS = st.one_of(
    st.just("warm"),
    st.just("close_idle"),
    st.tuples(st.just("close"), st.sampled_from([0.0, 2.0, 100.0])),
    st.tuples(st.just("evict"), st.sampled_from([0.0, 5.0])),
    st.tuples(st.just("configure"), OPTIONS),
)


class Interleavings(RuleBasedStateMachine):
    """Threads, coroutines and background attempts on one pool, each stopped and let go on anywhere."""

    mutation: tuple[str, str, str] | None = None

    @initialize(
        options=OPTIONS,
        least=st.integers(0, 2),
        inline=st.sampled_from([False, False, False, True]),
        drivers_close=st.booleans(),
    )
    def begin(self, options: dict[str, Any], least: int, inline: bool, drivers_close: bool) -> None:
        self.stage = Stage()
        self.server = Server(self.stage, drivers_close=drivers_close)
        self.server.is_locked = lambda: self.is_locked() and self.pool.ledger._lock.owner is self.stage.playing
        self.inline = inline
        self.queue: list[Any] = []
        self.opening_before = 0
        #: Leases that code of the app has, leases that are being given back, and those that were given back.
        self.held: list[Any] = []
        self.returning: list[Any] = []
        self.returned: deque[Any] = deque(maxlen=4)
        self.querying: set[Any] = set()
        self.orphans: deque[Any] = deque()
        self.cancels: list[Callable[[], None]] = []
        self.clients: dict[Actor, float] = {}
        self.warming = 0
        self.reclaiming = 0
        #: Connection attempts that wait for a while before they begin.
        self.put_off = 0
        self.ended = False
        mutations = () if self.mutation is None else (self.mutation,)
        self.pool = load(self.books_are_right, self.disown, *mutations).Pool(
            self.server.connect,
            PoolOptions(min_connections=min(least, options["max_connections"]), **options),
            close_connection=self.server.close,
            reclaim=self.reclaim,
            inline=inline,
            find_driver=lambda connection: SimulatedDriver(network=not inline),
            clock=self.stage.clock,
            start=self.start,
        )
        self.limits_changed()

    # What the actors do.

    def start(self, work: Callable[[], None], delay: float) -> None:
        def run() -> None:
            self.put_off += 1
            self.stage.wait(lambda: False, self.stage.now + delay)
            self.put_off -= 1
            work()

        self.stage.spawn("attempt", run if delay else work)

    def act(self, name: str, work: Callable[[], object], how_far: Any) -> Actor:
        actor = self.stage.spawn(name, work)
        self.go(actor, how_far)
        return actor

    def go(self, actor: Actor, how_far: Any) -> None:
        if how_far == "io":
            actor.go_on(to_io=True)
        else:
            actor.go_on(how_far)

    def take(self) -> None:
        with self.refusals_allowed():
            self.received(self.pool.checkout())

    async def take_async(self) -> None:
        with self.refusals_allowed():
            self.received(await self.pool.checkout_async())

    def refusals_allowed(self) -> Any:
        return suppress(PoolTimeout, DatabaseUnavailable, Refused)

    def received(self, lease: Any) -> None:
        """What a lease begins with."""
        check, connection = self.server.check, lease.connection
        check(connection not in self.server.held, f"{connection} is lent twice (invariant 2)")
        check(connection.pid == self.stage.pid, f"{connection} is the parent's (invariant 5)")
        if not connection.evicted and not any(actor.name == "evict" for actor in self.stage.actors):
            check(not connection.closed, f"{connection} is closed")
            check(lease in self.pool.ledger._leases, f"{lease} has ended already")
        if connection.status is not Status.LOST:
            check(connection.status is Status.IDLE, f"{connection} is {connection.status} (invariant 5)")
        if self.pool.options.reset is not None and not self.reconfigured:
            check(not connection.used, f"{connection} has another request's session state (invariant 5)")
        check(
            not connection.died < lease.taken or self.inline,
            f"{connection} had hung up, for all to see, before it was lent",
        )
        self.held.append(lease)
        self.server.held.add(connection)

    def use(self, lease: Any) -> None:
        """A statement, as a database makes it: what breaks the connection is told the pool."""
        connection: Connection = lease.connection
        connection.used = True
        try:
            if not connection.closed and not connection.socket_closed:
                connection.talk("SELECT")
        except OSError:
            self.pool.note_lost(lease)
        finally:
            self.querying.discard(lease)

    def give_back(self, lease: Any) -> None:
        self.returning.append(lease)
        try:
            self.pool.checkin(lease)
        finally:
            self.returning.remove(lease)
            self.returned.append(lease)

    def disown(self, connection: Connection) -> None:
        connection.disowned = True

    def reclaim(self) -> None:
        # Rolling back for others may take longer than a checkout has time, and it may be served meanwhile.
        if self.orphans and self.stage.playing is not None:
            self.clients.pop(self.stage.playing, None)
        self.reclaiming += 1
        try:
            while self.orphans:
                self.give_back(self.orphans.popleft())
        finally:
            self.reclaiming -= 1

    def forward(self, index: int, leases: Any) -> Any:
        return leases[index % len(leases)]

    @property
    def at_rest(self) -> list[Any]:
        """Leases on which no statement runs."""
        return [lease for lease in self.held if lease not in self.querying]

    def let_go(self, index: int) -> Any:
        """Whoever had the lease has it no more."""
        lease = self.forward(index, self.at_rest)
        self.held.remove(lease)
        self.server.held.discard(lease.connection)
        return lease

    # Rules: the app.

    @rule(how_far=HOW_FAR)
    def check_out(self, how_far: Any) -> None:
        def check_out() -> None:
            assert self.stage.playing is not None
            self.clients[self.stage.playing] = self.stage.now + self.pool.options.patience
            self.take()

        self.act("checkout", check_out, how_far)

    @rule(how_far=HOW_FAR)
    def check_out_in_a_coroutine(self, how_far: Any) -> None:
        self.cancels.append(self.stage.submit(self.take_async))
        self.go(next(actor for actor in self.stage.actors if actor.name == "event loop"), how_far)

    @rule(how_far=HOW_FAR)
    def check_out_on_the_event_loop(self, how_far: Any) -> None:
        """Lazily, as a query in a coroutine does: the loop stands still meanwhile."""

        async def query() -> None:
            self.take()

        self.cancels.append(self.stage.submit(query))
        self.go(next(actor for actor in self.stage.actors if actor.name == "event loop"), how_far)

    @precondition(lambda self: self.cancels)
    @rule(which=WHICH)
    def cancel_a_coroutine(self, which: int) -> None:
        self.cancels.pop(which % len(self.cancels))()

    @precondition(lambda self: self.at_rest)
    @rule(
        which=WHICH,
        left=LEFT,
        twice=st.sampled_from([False] * 3 + [True]),
        how_far=HOW_FAR,
    )
    def check_in(self, which: int, left: Status, twice: bool, how_far: Any) -> None:
        lease = self.let_go(which)
        connection: Connection = lease.connection
        if connection.status is Status.IDLE:
            connection.status = left
            if left is Status.LOST:
                connection.hang_up()
        self.act("checkin", lambda: self.give_back(lease), how_far)
        if twice:
            self.act("second checkin", lambda: self.give_back(lease), how_far)

    @precondition(lambda self: self.returned)
    @rule(which=WHICH)
    def check_in_again(self, which: int) -> None:
        lease = self.forward(which, self.returned)
        self.act("late checkin", lambda: self.pool.checkin(lease), math.inf)

    @precondition(lambda self: self.at_rest)
    @rule(which=WHICH, how_far=HOW_FAR)
    def query(self, which: int, how_far: Any) -> None:
        lease = self.forward(which, self.at_rest)
        self.querying.add(lease)
        self.act("query", lambda: self.use(lease), how_far)

    @precondition(lambda self: self.at_rest)
    @rule(which=WHICH)
    def forget_a_lease(self, which: int) -> None:
        """A finalizer notices, and may only leave a note."""
        self.orphans.append(self.let_go(which))

    @precondition(lambda self: self.at_rest and not self.inline)
    @rule(which=WHICH)
    def close_the_drivers_connection(self, which: int) -> None:
        connection = self.forward(which, self.at_rest).connection
        if not connection.talking and not connection.closed:
            connection.close_socket()

    # Rules: the order of things.

    @precondition(lambda self: self.stage.actors)
    @rule(which=WHICH, how_far=HOW_FAR)
    def go_on(self, which: int, how_far: Any) -> None:
        ready = [actor for actor in self.stage.actors if actor.can_go_on]
        if ready:
            self.go(self.forward(which, ready), how_far)

    @rule()
    def settle(self) -> None:
        self.stage.settle()

    @rule(seconds=st.sampled_from([0.1, 1.0, 1.0, 3.0, 6.0, 20.0, 700.0]))
    def pass_time(self, seconds: float) -> None:
        for actor in self.clients:
            if actor.can_go_on:
                self.clients[actor] += seconds  # it is no fault of the pool's that nobody let it go on
        self.stage.now += seconds

    @precondition(lambda self: any(actor.interruptible for actor in self.stage.actors))
    @rule(which=WHICH)
    def interrupt(self, which: int) -> None:
        who = [a for a in self.stage.actors if a.interruptible and a.name not in ("attempt", "worker", "event loop")]
        if who:
            actor = self.forward(which, who)
            self.clients.pop(actor, None)  # it gives back what it got meanwhile, which may take longer
            actor.interrupt()

    # Rules: the server.

    @rule(mode=st.sampled_from([Mode.UP, Mode.UP, *Mode]))
    def server_changes(self, mode: Mode) -> None:
        self.server.mode = Mode.UP if self.inline else mode

    @precondition(lambda self: not self.inline)
    @rule()
    def server_restarts(self) -> None:
        self.server.restart()

    @precondition(lambda self: not self.inline and self.server.open)
    @rule(which=WHICH, what=st.sampled_from(["kill", "silence", "silence all", "notify"]))
    def server_does(self, which: int, what: str) -> None:
        connection = self.forward(which, self.server.open)
        if what == "kill":
            connection.hang_up()
        elif what == "notify":
            connection.notify()
        else:
            for each in [connection] if what == "silence" else self.server.open:
                each.silent = each.silent or each.died == math.inf

    # Rules: the pool as a whole.

    @rule(what=OPERATIONS, how_far=HOW_FAR)
    def operate(self, what: Any, how_far: Any) -> None:
        name, argument = what if isinstance(what, tuple) else (what, None)
        self.act(name, lambda: getattr(self, f"operate_{name}")(argument), how_far)

    def operate_warm(self, _: None) -> None:
        self.warming += 1
        try:
            with self.refusals_allowed():
                self.pool.warm()
        finally:
            self.warming -= 1

    def operate_close_idle(self, _: None) -> None:
        self.pool.close_idle()

    def operate_close(self, timeout: float) -> None:
        self.pool.close(timeout)

    def operate_evict(self, held_for: float) -> None:
        self.pool.evict(held_for)

    def operate_configure(self, options: dict[str, Any]) -> None:
        changed = PoolOptions(**options)
        self.server.bound = max(self.server.bound, changed.limit)
        self.connecting_bound = max(self.connecting_bound, changed.max_connecting)
        self.reconfigured = True
        self.clients.clear()  # one that has just begun may go by either timeout
        self.pool.configure(changed)

    @precondition(lambda self: not self.is_locked())
    @rule(hook=st.booleans())
    def fork(self, hook: bool) -> None:
        """Go on as the child, whose pool is told at once (``os.fork``) or finds out (uWSGI)."""
        inherited = [*self.held, *self.returning]
        self.stage.fork()
        self.server.fork()
        self.held.clear()
        self.returning.clear()
        self.returned.clear()
        self.orphans.clear()
        self.querying.clear()
        self.cancels.clear()
        self.clients.clear()
        self.warming = 0
        self.queue.clear()
        self.opening_before = 0
        self.reclaiming = self.put_off = 0
        if hook:
            self.pool.notice_fork()
            self.returned.extend(inherited)
        else:
            with self.refusals_allowed():
                self.act("first checkout", self.take, math.inf)
                self.stage.settle()
        self.limits_changed()

    # Invariants.

    def is_locked(self) -> bool:
        return bool(self.pool.ledger._lock.held)

    def limits_changed(self) -> None:
        self.server.bound = self.pool.options.limit
        self.connecting_bound = self.pool.options.max_connecting
        self.reconfigured = False

    def books_are_right(self, ledger: Any) -> None:
        """Whenever the lock has been let go. What is wrong is kept, as the pool may swallow exceptions."""
        if getattr(self, "pool", None) is None or ledger is not self.pool.ledger:
            return
        try:
            self._check_books(ledger)
        except AssertionError as error:
            self.stage.faults.append(error)

    def _check_books(self, ledger: Any) -> None:
        idle = [pooled.connection for pooled in ledger._idle]
        lent = [lease.connection for lease in ledger._leases]
        size, opening, waiters = ledger._size, ledger._opening, list(ledger._waiters)
        # 1. Connections open and being opened are never more than max_connections.
        assert size <= self.server.bound, f"{size} connections of {self.server.bound}"
        assert 0 <= opening <= self.connecting_bound
        # 2. A connection is in at most one lease, and not idle then.
        assert len({*idle, *lent}) == len(idle) + len(lent), f"twice: {idle} {lent}"
        # The size is what is idle, in use, being opened and being closed.
        assert size >= len(idle) + len(lent) + opening, f"{size} < {len(idle)} + {len(lent)} + {opening}"
        # No connection in the books was closed.
        assert not any(connection.closed for connection in idle), f"closed: {idle}"
        # 4. No waiter waits while a connection is idle.
        assert not (waiters and idle), f"{len(waiters)} wait while {idle} are idle"
        # Nobody waits while there may be another connection, and none is being opened for him.
        limits = ledger.options
        at_once = limits.max_connecting if ledger.outage is None else 1
        wanted = min(len(waiters) - opening, at_once - opening, limits.limit - size)
        assert wanted <= 0, f"{len(waiters)} wait, {opening} are being opened, {size} of {limits.limit} exist"
        # 4. Waiters leave in the order they came.
        assert all(waiter.lease is None and waiter.error is None for waiter in waiters), "served, and in the queue"
        self._check_order(waiters, ledger.first)
        # While the server is away, no attempt is begun beside another.
        assert ledger.outage is None or opening <= max(self.opening_before, 1), f"{opening} try in an outage"
        # A connection is opened for somebody who waits, and no other.
        assert opening <= max(self.opening_before, len(waiters)), f"{opening} are being opened for {len(waiters)}"
        self.opening_before = opening

    def _check_order(self, waiters: list[Any], first: set[Any]) -> None:
        before, self.queue = self.queue, waiters
        staying = [waiter for waiter in before if waiter in waiters]
        came = [waiter for waiter in waiters if waiter not in before]
        assert [waiter for waiter in waiters if waiter in before] == staying, "the queue was shuffled"
        # Who comes back from a dead connection had his turn before all others.
        assert came in ([], waiters[:1] if first.issuperset(came) else waiters[-1:]), "one came, into another's place"
        for place, waiter in enumerate(before):
            if (
                waiter not in waiters and waiter.lease is not None
            ):  # of an outage, all are told who don't wait for its end
                assert not [other for other in before[:place] if other in waiters], "served before his turn"

    @invariant()
    def nothing_went_wrong(self) -> None:
        if hasattr(self, "stage") and self.stage.faults:
            self.ended = True
            raise self.stage.faults[0]

    @invariant()
    def when_all_wait_the_accounts_agree(self) -> None:
        ended, self.ended = getattr(self, "ended", False), True
        self.check_accounts()
        self.ended = ended

    def check_accounts(self) -> None:
        if not hasattr(self, "pool") or not self.stage.is_settled or not self.pool._own[0]:
            return
        assert not self.is_locked(), "a lock was not released"
        server, stats = self.server, self.pool.stats()
        talking = {connection for connection in server.open if connection.talking}
        lent = {lease.connection for lease in self.pool.ledger._leases}
        idle = {pooled.connection for pooled in self.pool.ledger._idle}
        held = {lease.connection for lease in (*self.held, *self.orphans) if self.pool.has_lent(lease)}
        # No connection is lost track of: each is idle, or lent to somebody who will give it back.
        assert set(server.open) == idle | lent, f"open {server.open}, idle {idle}, lent {lent}"
        assert held <= lent
        loop = self.stage.loop
        others = (
            self.warming or self.reclaiming or (loop is not None and loop.stands_still)
        )  # who has more than is known here
        assert others or lent <= held | talking, f"lent {lent}, held {held}, talking {talking}"
        # The size is what is idle, in use and being opened.
        assert stats.size == len(idle) + len(lent) + server.opening + self.put_off
        assert (stats.idle, stats.in_use) == (len(idle), len(lent))
        assert (stats.created, stats.connect_errors) == (server.opened, server.failed)
        assert stats.closed == server.closed
        assert stats.probes <= server.probes
        # A checkout ends within its time, whatever the peer does.
        late = [actor for actor, deadline in self.clients.items() if not actor.done and self.stage.now > deadline]
        assert not late, f"late: {late}"
        self.clients = {actor: deadline for actor, deadline in self.clients.items() if not actor.done}
        options, reconfiguring = self.pool.options, any(actor.name == "configure" for actor in self.stage.actors)
        if stats.size <= options.limit and server.opening <= options.max_connecting and not reconfiguring:
            reconfigured = self.reconfigured and bool(server.open)
            self.limits_changed()
            self.reconfigured = reconfigured

    # The end.

    def teardown(self) -> None:
        if not hasattr(self, "stage"):
            return
        try:
            if not self.ended:
                self.finish()
        finally:
            self.stage.end()
            self.server.end()
            del self.pool
            gc.collect(0)

    def finish(self) -> None:
        """After everything has ended, nothing is in use, and nobody holds a connection (invariant 3)."""
        stage, server = self.stage, self.server
        server.mode = Mode.UP
        for _ in range(100):
            stage.settle()
            self.nothing_went_wrong()
            while self.at_rest:
                lease = self.let_go(0)
                stage.spawn("checkin", lambda lease=lease: self.give_back(lease))
            for connection in server.connections:
                if connection.talking == "SELECT":
                    connection.silent = False  # a query has no bound of its own
            stage.spawn("reclaim", self.reclaim)
            stage.settle()
            self.nothing_went_wrong()
            if stage.has_ended and not self.held:
                break
            stage.now += 30.0
        else:
            raise AssertionError(f"they never end: {stage.actors}")
        if self.pool._own[0]:
            self.when_all_wait_the_accounts_agree()
            stats = self.pool.stats()
            assert (stats.in_use, stats.waiting) == (0, 0)
        stage.spawn("close", self.pool.close)
        stage.settle()
        self.nothing_went_wrong()
        if self.pool._own[0]:
            assert self.pool.stats().size == 0
            assert server.open == []


SMALL = {"stateful_step_count": 40, "deadline": None, "suppress_health_check": list(HealthCheck)}

TestInterleavings = Interleavings.TestCase
TestInterleavings.settings = settings(max_examples=30_000 if SOAK else 400, **SMALL)

# What it has found, for good.


def begun(**options: Any) -> Interleavings:
    """A machine to be led by hand; its `teardown` looks whether all is well."""
    machine = Interleavings()
    changes = {"reset": None, "timeout": 5.0, **options}
    machine.begin(options=changes, least=0, inline=False, drivers_close=False)
    return machine


def test_an_interrupted_close_gives_its_place_back() -> None:
    machine = begun(max_connections=2)
    for _ in range(2):
        machine.check_out(how_far=math.inf)
    machine.settle()
    machine.operate(("evict", 0.0), how_far="io")
    machine.interrupt(0)
    machine.settle()
    machine.nothing_went_wrong()
    assert machine.server.closed == 2
    machine.when_all_wait_the_accounts_agree()
    machine.teardown()


def test_an_interrupted_probe_gives_its_place_back() -> None:
    machine = begun(max_connections=1, probe_after=2.0)
    machine.check_out(how_far=math.inf)
    machine.settle()
    machine.check_in(0, Status.IDLE, twice=False, how_far=math.inf)
    machine.pass_time(20.0)
    machine.check_out(how_far="io")
    machine.interrupt(0)
    machine.settle()
    assert machine.server.probes == 1
    machine.when_all_wait_the_accounts_agree()
    assert machine.pool.stats().in_use == 0
    machine.teardown()


def test_what_is_as_silent_as_a_probed_connection_is_closed_with_it() -> None:
    machine = begun(max_connections=2, probe_after=2.0)
    for _ in range(2):
        machine.check_out(how_far=math.inf)
    machine.settle()
    for _ in range(2):
        machine.check_in(0, Status.IDLE, twice=False, how_far=math.inf)
    for connection in machine.server.open:
        connection.silent = True
    machine.pass_time(20.0)
    machine.check_out(how_far=math.inf)
    machine.pass_time(3.0)
    machine.settle()
    assert machine.server.closed == 2
    machine.when_all_wait_the_accounts_agree()
    machine.teardown()


def test_a_second_check_in_does_nothing_whatever_has_changed_since_the_first_began() -> None:
    for points in range(60):
        machine = begun(max_connections=1, reset="DISCARD ALL")
        machine.check_out(how_far=math.inf)
        machine.settle()
        lease = machine.let_go(0)
        machine.act("checkin", partial(machine.give_back, lease), how_far=points)
        machine.operate(("configure", {"reset": None, "max_idle": 0.0}), how_far=math.inf)
        machine.act("second checkin", partial(machine.give_back, lease), how_far=math.inf)
        machine.settle()
        machine.nothing_went_wrong()
        machine.teardown()


def test_a_late_second_check_in_vouches_for_nothing() -> None:
    machine = begun(max_connections=1, probe_after=15.0)
    machine.check_out(how_far=math.inf)
    machine.settle()
    machine.check_in(0, Status.IDLE, twice=False, how_far=math.inf)
    machine.pass_time(20.0)
    machine.check_in_again(0)
    machine.check_out(how_far=math.inf)
    assert machine.server.probes == 1
    machine.teardown()


@pytest.mark.parametrize("options", [{"probe_after": None}, {"max_connections": 3}], ids=["no probes", "more room"])
def test_options_may_change_at_any_moment_of_an_attempt(options: dict[str, Any]) -> None:
    for points in range(100):
        machine = begun(max_connections=2, max_connecting=1)
        for _ in range(3):
            machine.check_out(how_far=math.inf)
        attempt = next(actor for actor in machine.stage.actors if actor.name == "attempt")
        attempt.go_on(points)
        machine.operate(("configure", options), how_far=math.inf)
        machine.settle()
        machine.nothing_went_wrong()
        machine.when_all_wait_the_accounts_agree()
        machine.teardown()


# Faults that have to be found: a module, what stands there, and what is put in its place.
FAULTS = {
    "who comes back is last in the queue": ("ledger", "self._waiters.move_to_end(waiter, last=False)", "pass"),
    "the last who came is served first": (
        "ledger",
        "waiter, place = self._waiters.popitem(last=False)",
        "waiter, place = self._waiters.popitem()",
    ),
    "who gets a connection stays in the queue": (
        "ledger",
        "waiter, place = self._waiters.popitem(last=False)",
        "waiter, place = next(iter(self._waiters.items()))",
    ),
    "who was served is not woken at check-in": (
        "pool",
        "        if waiter is not None:\n            waiter.wake()\n",
        "        if waiter is not None:\n            pass\n",
    ),
    "who was served is not woken after connecting": (
        "connector",
        "        for waiter in next_.waiters:\n            waiter.wake()\n",
        "",
    ),
    "a failed attempt keeps its place": (
        "ledger",
        "        self._opening -= 1\n        self._size -= 1\n",
        "        self._opening -= 1\n",
    ),
    "a closed connection keeps its place": ("ledger", "            self._size -= count\n", ""),
    "an attempt is begun for every waiter": (
        "ledger",
        "min(len(self._waiters) - self._opening, free)",
        "min(len(self._waiters), free)",
    ),
    "attempts are not counted against the limit": (
        "ledger",
        "            self._opening += wanted\n            self._size += wanted\n".replace("            ", "        "),
        "        self._opening += wanted\n        self._size += min(wanted, 1)\n",
    ),
    "as many attempts at once as there is room for": (
        "ledger",
        "free = min(at_once - self._opening, options.limit - self._size)",
        "free = options.limit - self._size",
    ),
    "nothing is opened in place of what was closed": (
        "ledger",
        "                self._drained.set()\n            return self._next(now)",
        "                self._drained.set()\n            return Next((), 0, 0.0)",
    ),
    "nothing is opened for the next when an attempt has failed": (
        "ledger",
        "return self._next(now, self._tell(list(self._waiters)[:1], error))",
        "return Next(self._tell(list(self._waiters)[:1], error), 0, 0.0)",
    ),
    "what comes back or was opened becomes idle though others wait": (
        "ledger",
        "        if not self._waiters:\n            self._idle.append",
        "        if True:\n            self._idle.append",
    ),
    "a lease is given back twice": (
        "ledger",
        "            if lease not in self._leases or lease.ending is not claimed:\n                return None\n"
        "            self._leases.remove(lease)\n            pooled",
        "            self._leases.discard(lease)\n            pooled",
    ),
    "two end one lease": ("holdings", "            lease.ending = True\n", ""),
    "several attempts at once while the server is away": (
        "ledger",
        "at_once, delay = 1, max(",
        "at_once, delay = options.max_connecting, max(",
    ),
    "nobody tries again while the server is away": (
        "ledger",
        "return self._next(now, self._tell([waiter for waiter in self._waiters if not waiter.patient], error))",
        "return Next(self._tell([waiter for waiter in self._waiters if not waiter.patient], error), 0, 0.0)",
    ),
    "an attempt for nobody keeps its place": (
        "ledger",
        "            if not self._waiters:\n                self._call_off()\n",
        "            if not self._waiters:\n",
    ),
    "a connection is closed twice": (
        "pool",
        "        if self.ledger.strike(lease):\n            self.connector.close((lease.pooled,)",
        "        self.ledger.strike(lease)\n        if True:\n            self.connector.close((lease.pooled,)",
    ),
    "what is handed over is not looked at": (
        "checkout",
        "if self._may_use(lease) or (self._may_probe(lease) and self._probe(lease)):",
        "if self._was_first or self._may_use(lease) or (self._may_probe(lease) and self._probe(lease)) or True:",
    ),
    "the socket is not looked at": ("pool", "            and not pooled.has_news()\n", ""),
    "what was served in vain is kept": (
        "checkout",
        "            if waiter.lease is not None:\n                pool.give(waiter.lease)\n",
        "",
    ),
    "who gives up stays in the queue": ("ledger", "            self._waiters.pop(waiter, None)\n", ""),
    "who is served as his time is up goes without": (
        "checkout",
        "        if waiter.lease is not None:\n            return waiter.lease\n        if waiter.error is not None:",
        "        if waiter.lease is not None and self._time_left() > 0:\n            return waiter.lease\n"
        "        if waiter.error is not None:",
    ),
    "a transaction is left open": (
        "resetting",
        "                driver.rollback(connection)\n",
        "                pass\n",
    ),
    "the session's state is left": (
        "resetting",
        "                driver.execute(connection, reset)\n",
        "                pass\n",
    ),
    "a probe has no bound": ("pool", "min(seconds, self.options.connect_timeout))\n", "math.inf)\n"),
    "a failed probe is passed": (
        "pool",
        "            return False\n        except BaseException:\n",
        "            return True\n        except BaseException:\n",
    ),
    "a reset that was interrupted keeps the lease": (
        "pool",
        "            self.discard(lease)\n            raise\n\n    def discard",
        "            raise\n\n    def discard",
    ),
    "an interrupted close is not counted": (
        "connector",
        "                interruption = error\n",
        "                raise\n",
    ),
    "evicted leases stay": ("holdings", "            self._leases.difference_update(evicted)\n", ""),
    "a raised limit serves nobody": (
        "ledger",
        "            self._outdate()\n            return self._next(now)",
        "            self._outdate()\n            return Next((), 0, 0.0)",
    ),
    "a child goes on with its parent's connections": (
        "pool",
        "            idle, leases = self.ledger.everything()\n            self._begin(self.options)\n",
        "            idle, leases = self.ledger.everything()\n",
    ),
    "the pool closes under its lock": (
        "holdings",
        "            idle = list(self._idle)\n            self._idle.clear()\n",
        "            idle = list(self._idle)\n            self._idle.clear()\n"
        "            for pooled in idle:\n                pooled.driver.probe(pooled.connection)\n",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_the_code_still_has_the_place_of_a_fault(fault: str) -> None:
    module, old, new = FAULTS[fault]
    ast.parse(mutated(Path(core.__path__[0]) / f"{module}.py", ((old, new),)))


@pytest.mark.soak
@pytest.mark.timeout(0)
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_in_the_pool_is_found(fault: str) -> None:
    class Faulty(Interleavings):
        mutation = FAULTS[fault]

    with pytest.raises((AssertionError, KeyError, RuntimeError)):
        run_state_machine_as_test(
            Faulty, settings=settings(max_examples=3_000, phases=[Phase.generate], database=None, **SMALL)
        )
