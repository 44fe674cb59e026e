"""Random interleavings of scopes on a small pool keep DESIGN §8: invariants 2, 3 and 5, as far as scopes go."""

from __future__ import annotations

import contextlib
import gc
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule

import peewee_web
from peewee_web import Databases, PooledSqliteDatabase, PoolTimeout, Scope, ScopeClosed
from peewee_web.core.errors import ScopeError
from tests.core.working import in_thread

LIMIT = 3


class Scopes(RuleBasedStateMachine):
    """Any number of scopes on three connections, each doing anything at any time."""

    scopes: Bundle[int] = Bundle("scopes")

    @initialize()
    def open_database(self) -> None:
        self.directory = tempfile.TemporaryDirectory()
        # Transactions are deferred, so that several scopes may have one at a time.
        self.database: Any = PooledSqliteDatabase(
            str(Path(self.directory.name) / "x.db"), max_connections=LIMIT, timeout=None
        )
        self.databases = Databases(self.database)
        self.live: dict[int, Scope] = {}  # Hypothesis keeps what it was given; it must not keep a forgotten scope
        self.count = 0

    def connection_of(self, scope: Scope) -> Any:
        state = scope.states.get(self.database)
        return None if state is None else state.conn

    def holders(self) -> list[Scope]:
        return [scope for scope in self.live.values() if self.connection_of(scope) is not None]

    def use(self, scope: Scope, work: Any) -> None:
        """Run *work* in *scope*, and allow it what a full pool, an ended scope and Peewee's own rules may answer."""
        before, connection = len(self.holders()), self.connection_of(scope)
        try:
            with scope.activate():
                if connection is None and not scope.ended and before < LIMIT:
                    self.lease_begins_clean(scope)
                work()
        except PoolTimeout:
            assert before == LIMIT
            assert connection is None
        except ScopeClosed:
            assert scope.ended

    def lease_begins_clean(self, scope: Scope) -> None:
        """Invariant 5."""
        connection = self.database.connection()
        assert connection.in_transaction == scope.atomic
        assert self.database.transaction_depth() == int(scope.atomic)

    @rule(target=scopes, atomic=st.booleans())
    def begin(self, atomic: bool) -> int:
        return self.number(self.databases.scope(atomic=atomic))

    def number(self, scope: Scope) -> int:
        self.count += 1
        self.live[self.count] = scope
        return self.count

    @rule(target=scopes, number=scopes)
    def begin_inside(self, number: int) -> int:
        with self.live[number].activate():
            return self.number(peewee_web.scope())

    @rule(number=scopes, times=st.integers(1, 3))
    def query(self, number: int, times: int) -> None:
        for _ in range(times):
            self.use(self.live[number], lambda: self.database.execute_sql("SELECT 1").fetchone())

    @rule(number=scopes)
    def query_in_a_thread(self, number: int) -> None:
        def work() -> None:
            with self.live[number].activate():
                self.database.execute_sql("SELECT 1").fetchone()

        self.use(self.live[number], lambda: in_thread(work))

    @rule(number=scopes)
    def leave_a_result_half_read(self, number: int) -> None:
        self.use(self.live[number], lambda: self.database.execute_sql("SELECT 1 UNION SELECT 2").fetchone())

    @rule(number=scopes, sql=st.booleans())
    def begin_a_transaction(self, number: int, sql: bool) -> None:
        def work() -> None:
            if not self.database.connection().in_transaction:
                self.database.execute_sql("BEGIN") if sql else self.database.session_start()

        self.use(self.live[number], work)

    @rule(number=scopes)
    def end_the_transaction(self, number: int) -> None:
        self.use(self.live[number], self.database.session_commit)

    @rule(number=scopes)
    def use_a_block(self, number: int) -> None:
        def work() -> None:
            with self.database.connection_context():
                self.database.execute_sql("SELECT 1").fetchone()

        self.use(self.live[number], work)

    @rule(number=scopes)
    def close(self, number: int) -> None:
        def work() -> None:
            if not self.database.in_transaction():
                self.database.close()

        self.use(self.live[number], work)

    @rule(number=scopes, atomic=st.booleans())
    def change_your_mind(self, number: int, atomic: bool) -> None:
        with contextlib.suppress(ScopeError):  # a transaction inside the request's own was left open
            self.live[number].set_atomic(atomic)

    @rule(number=scopes, force=st.booleans())
    def release(self, number: int, force: bool) -> None:
        self.live[number].release(force)
        assert not force or self.connection_of(self.live[number]) is None

    @rule(number=scopes, commit=st.booleans())
    def complete(self, number: int, commit: bool) -> None:
        with contextlib.suppress(ScopeError):
            self.live[number].complete(commit)

    @rule(number=scopes)
    def end(self, number: int) -> None:
        self.live[number].end()
        assert self.connection_of(self.live[number]) is None

    @rule(number=consumes(scopes))
    def forget(self, number: int) -> None:
        del self.live[number]

    @invariant()
    def a_connection_is_in_at_most_one_scope(self) -> None:
        """Invariant 2."""
        held = [id(self.connection_of(scope)) for scope in self.holders()]
        assert len(held) == len(set(held))

    @invariant()
    def scopes_hold_what_is_out_of_the_pool(self) -> None:
        """What is in use beyond theirs is a forgotten scope's, until the next checkout takes it back."""
        held = {id(self.connection_of(scope)) for scope in self.holders()}
        _, leases = self.database.pool.ledger.everything()
        assert held <= {id(lease.connection) for lease in leases}

    def teardown(self) -> None:
        """Invariant 3: after every scope has ended, nothing is in use and nobody holds a connection."""
        for scope in self.live.values():
            scope.end()
        self.live.clear()
        gc.collect()
        self.database.take_back_orphans()
        idle, leases = self.database.pool.ledger.everything()
        clean = [not pooled.connection.in_transaction for pooled in idle]
        self.database.close_all()
        self.directory.cleanup()
        assert leases == []
        assert all(clean)


TestScopes = Scopes.TestCase
TestScopes.settings = settings(max_examples=50, stateful_step_count=25, deadline=None)
