"""What tests of adapters do to a pool."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import peewee_web


@contextmanager
def exhausted(database: Any, but: int = 0) -> Iterator[None]:
    """Every connection of *database* (but so many) is in use, each by a scope that is not the current one."""
    with ExitStack() as stack:
        for _ in range(database.pool.options.max_connections - but):
            scope = peewee_web.scope()
            stack.callback(scope.end)
            with scope.activate():
                database.connect()
        yield
