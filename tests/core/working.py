"""What the tests of the core say often: a query, a row, a connection, work in a thread."""

from __future__ import annotations

import contextvars
import sys
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T")

# Seconds after which a test that waits for another thread gives up.
PATIENCE = 10.0


@dataclass(frozen=True)
class Served:
    """A database of a real server, and how it is reached."""

    driver: str
    server: Any
    name: str
    database: Any


def query(database: Any) -> int:
    """Run a statement, as a request does."""
    value: int = database.execute_sql("SELECT 1").fetchone()[0]
    return value


def save(database: Any, text: str = "x") -> None:
    database.execute_sql(f"INSERT INTO note VALUES ({database.param})", (text,))


def saved(database: Any) -> list[str]:
    """What is committed, seen from a connection of its own."""
    with database.connection_context():
        return [text for (text,) in database.execute_sql("SELECT text FROM note ORDER BY text").fetchall()]


def in_use(database: Any) -> int:
    return database.pool_stats().in_use


def in_thread(work: Callable[[], T]) -> T:
    """The result of *work*, or what it raised, from a thread that knows nothing of this context and then dies."""
    return Working(contextvars.Context(), work).result()


class Working:
    """*work* under way in a thread that runs in *context*, by default a copy of the caller's."""

    def __init__(self, context: contextvars.Context | None, work: Callable[[], Any]) -> None:
        self._work = work
        self._outcome: Any = None
        self._error: BaseException | None = None
        context = contextvars.copy_context() if context is None else context
        self._thread = threading.Thread(target=context.run, args=(self._run,), daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._outcome = self._work()
        except BaseException as error:
            self._error = error

    def is_in(self, function: str) -> bool:
        """Whether the thread is in a function of that name, or in one that it has called."""
        frame = sys._current_frames().get(self._thread.ident or 0)
        return any(each.f_code.co_name == function for each, _ in traceback.walk_stack(frame))

    def result(self) -> Any:
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive(), "the thread is stuck"
        if self._error is not None:
            raise self._error
        return self._outcome
