"""Running again what has failed for a reason that passes: a function as a whole, or a single statement.

Nothing is run again that has had a lasting effect, or may have had: a `Journal` goes with each function that may be.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import logging
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, overload

from peewee import Proxy

from .backoff import pause
from .errors import ConnectionLost, NoConnection, ScopeError
from .faults import first_line, is_conflict
from .scope import current_scope
from .state import ConnectionState
from .statements import Effects
from .transactions import is_in_transaction
from .waiting import may_block_for

logger = logging.getLogger("peewee_web")

F = TypeVar("F", bound=Callable[..., Any])
#: Called with the error, the number of the retry that comes (from 1), and the seconds until then.
OnRetry = Callable[[Exception, int, float], object]

# The longest pause before a retry, in seconds: who waits is a request, or a job with a lock.
_LONGEST_PAUSE = 30.0


class RetryingDatabase(Protocol):
    """What is asked of a database here (`executing.Executing`)."""

    statement_retry: StatementRetry

    def in_transaction(self) -> bool: ...


# Functions.


class Journal:
    """What one run of a function has done that another run would do again."""

    __slots__ = ("_outer", "open_transactions", "written")

    def __init__(self, outer: Journal | None) -> None:
        self._outer = outer
        #: The first thing of lasting effect, or one that may have had it.
        self.written: str | None = None
        #: How many transactions began in it and are open still.
        self.open_transactions = 0

    def check(self, state: ConnectionState, database: object) -> None:
        """Raise `ScopeError` if the transaction of *state* began outside the function."""
        if state.open_transaction is not None and state.open_transaction.journal is not self:
            raise _refusal(database)

    def note_statement(self, state: ConnectionState, sql: Any, commits: bool) -> None:
        """A statement that writes was carried out, or may have been. *commits*: also in a transaction it lasts."""
        # Within `manual_commit()`, and after a `commit()` inside a block, there is none open.
        if state.open_transaction is not None and not commits:
            state.open_transaction.wrote = True
        else:
            # No more of it: what follows may be a password.
            self.note(" ".join(str(sql).split()[:2]))

    def note(self, what: str) -> None:
        """*what* was done, or may have been, that lasts."""
        self.written = self.written or what
        if self._outer is not None:
            self._outer.note(what)


_journal: ContextVar[Journal | None] = ContextVar("peewee_web.journal", default=None)
current_journal = _journal.get


@contextmanager
def _journal_of_a_run() -> Iterator[Journal]:
    outer = _journal.get()
    journal = Journal(outer)
    _journal.set(journal)
    try:
        yield journal
    finally:
        _journal.set(outer)  # not Token.reset: a coroutine may be closed in another context


@overload
def retry(function: F, /) -> F: ...
@overload
def retry(
    *, max_retries: int = 3, backoff: float = 1.0, retry_writes: bool = False, on_retry: OnRetry | None = None
) -> Callable[[F], F]: ...
def retry(
    function: Any = None,
    /,
    *,
    max_retries: int = 3,
    backoff: float = 1.0,
    retry_writes: bool = False,
    on_retry: OnRetry | None = None,
) -> Any:
    """Decorate a function, or a coroutine function, so that it is run again when the database fails it for a while.

    That is: after a lost connection, on a fresh one; after a deadlock, a serialization failure, a lock waited for in
    vain, or SQLite's "database is locked". Up to *max_retries* times, each after a random pause of up to *backoff*
    seconds, which double each time, up to 30. Before each, *on_retry* is called with the error, the number of the retry
    and the seconds of the pause. When no connection is to be had (`NoConnection`) that is raised: the pool has waited.

    A transaction that the function begins is rolled back and run again with it. What has written outside a
    transaction, or committed, is not run again, nor what may have: a statement or a COMMIT whose connection was lost
    before the answer came. *retry_writes* allows that, for functions that may run twice. Within a transaction that
    began outside the function it raises `ScopeError`: the whole transaction would have to be run again.

    Used as ``@retry`` or ``@retry(max_retries=5)``.
    """
    return FunctionRetry(max_retries, backoff, retry_writes, on_retry).decorate(function)


@dataclass(frozen=True)
class FunctionRetry:
    """When a function is run again, and how it is decorated for that: `retry`, of one *database* or of all."""

    max_retries: int = 3
    backoff: float = 1.0
    retry_writes: bool = False
    on_retry: OnRetry | None = None
    database: Any = None

    def __post_init__(self) -> None:
        _check_numbers(self)

    def decorate(self, function: Any) -> Any:
        """*function* decorated, or the decorator where it is None."""
        if function is None:
            return self.decorate
        if not callable(function):
            raise TypeError(
                f"retry decorates functions, not {type(function).__name__}: @retry or @retry(max_retries=3)"
            )
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise TypeError(f"{function.__qualname__} is a generator function: what it has yielded can't be taken back")
        if inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__):
            return _retried_async(function, self)
        return _retried(function, self)

    def check(self) -> None:
        """Raise `ScopeError` inside an outer transaction, as far as it is known here; a `Journal` knows all."""
        scope = current_scope()
        if self.database is not None:
            in_transaction = self.database.in_transaction()
            # Of a proxy it is the database of now that has transactions.
            database = self.database.obj if isinstance(self.database, Proxy) else self.database
            if in_transaction or (scope is not None and scope.is_atomic_for(database)):
                raise _refusal(database)
        elif scope is not None:
            for database, state in list(scope.states.items()):
                if is_in_transaction(state) or scope.is_atomic_for(database):
                    raise _refusal(database)

    def announce(self, error: Exception, failures: int, journal: Journal) -> float | None:
        """Tell of the next run, after so many that have failed, the last with *error*. None: there is none.

        Returns the seconds until then.
        """
        if failures > self.max_retries or not (isinstance(error, ConnectionLost) or is_conflict(error)):
            return None
        if journal.written is not None and not self.retry_writes:
            logger.warning("not run again after %r, which may have been carried out: %s", journal.written, error)
            return None
        if journal.open_transactions:
            logger.warning("not run again, as it has left a transaction open: %s", error)
            return None
        seconds = pause(self.backoff, _LONGEST_PAUSE, failures)
        logger.warning(
            "run again in %.2f s (retry %d of %d): %s", seconds, failures, self.max_retries, first_line(error)
        )
        if self.on_retry is not None:
            self.on_retry(error, failures, seconds)
        return seconds


def _refusal(database: object) -> ScopeError:
    return ScopeError(
        f"retry inside a transaction of {database!r} that began outside the function: after a deadlock or a lost "
        "connection the server has rolled all of it back, so all of it has to be run again. Decorate what begins it"
    )


def _retried(function: Callable[..., Any], policy: FunctionRetry) -> Callable[..., Any]:
    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        policy.check()
        failures = 0
        while True:
            try:
                with _journal_of_a_run() as journal:
                    return function(*args, **kwargs)
            except Exception as error:
                failures += 1
                seconds = policy.announce(error, failures, journal)
                if seconds is None:
                    raise
            time.sleep(min(seconds, may_block_for()))

    return run


def _retried_async(function: Callable[..., Any], policy: FunctionRetry) -> Callable[..., Any]:
    @functools.wraps(function)
    async def run(*args: Any, **kwargs: Any) -> Any:
        policy.check()
        failures = 0
        while True:
            try:
                with _journal_of_a_run() as journal:
                    return await function(*args, **kwargs)
            except Exception as error:
                failures += 1
                seconds = policy.announce(error, failures, journal)
                if seconds is None:
                    raise
            await asyncio.sleep(seconds)

    return run


# Statements.


@dataclass(frozen=True)
class StatementRetry:
    """When a single statement, outside a transaction, is run again. *backoff* is in seconds."""

    max_retries: int = 3
    backoff: float = 0.1
    retry_writes: bool = False
    #: Only when its connection was lost, and neither after a conflict nor when no connection was to be had.
    only_lost: bool = False
    #: Only if it was under way for no longer than so many seconds.
    longest: float = math.inf

    def __post_init__(self) -> None:
        _check_numbers(self)

    def pause(
        self, failure: Exception, failures: int, effects: Effects, *, bound: bool, seconds: float
    ) -> float | None:
        """Seconds until the next run, after so many that have failed, the last with *failure*; None: there is none.

        *bound*: the session that was used had something in it that the statement may rely on. *seconds* is for how long
        it was under way.
        """
        if failures > self.max_retries or seconds > self.longest or bound:
            return None
        if isinstance(failure, ConnectionLost):
            harmless = effects.is_repeatable or (self.retry_writes and not effects.leaves_state)
            return 0.0 if harmless else None  # the pool sees to the pauses
        if self.only_lost or not (isinstance(failure, NoConnection) or is_conflict(failure)):
            return None
        # A conflict undoes one statement. What may be several, as a procedure, may have committed some.
        return None if effects.commits else pause(self.backoff, _LONGEST_PAUSE, failures)

    @contextmanager
    def over(self, database: RetryingDatabase) -> Iterator[None]:
        """Have it hold for the statements of *database* in the block."""
        outer = _statements.get()
        _statements.set((database, self, outer))
        try:
            yield
        finally:
            _statements.set(outer)


def _check_numbers(policy: FunctionRetry | StatementRetry) -> None:
    if policy.max_retries < 0 or policy.backoff < 0:
        raise ValueError("max_retries and backoff can't be negative")


NEVER = StatementRetry(max_retries=0)
# One that took longer than a second may have met a time limit that ends connections, as PgBouncer's do and those of
# drivers: it would meet that again, when there is least time for it.
READS_ONCE = StatementRetry(max_retries=1, only_lost=True, longest=1.0)

_statements: ContextVar[Any] = ContextVar("peewee_web.statement_retry", default=None)


def retrying_statements(database: RetryingDatabase) -> StatementRetry:
    """What holds for the statements of *database* here."""
    block = _statements.get()
    while block is not None:
        of, policy, block = block
        if of is database:
            return policy  # type: ignore[no-any-return]  # put there by `over`
    return database.statement_retry
