"""The errors that this package raises, each with one cause.

Peewee's exception wrapper replaces a *direct* subclass of one of its own errors by the plain class when it passes
through a query; a subclass of a subclass passes unchanged. That is why ``NoConnection`` and ``ScopeError`` stand
between Peewee's errors and the ones that are raised.
"""

from __future__ import annotations

from peewee import InterfaceError, OperationalError
from playhouse.pool import MaxConnectionsExceeded


class NoConnection(OperationalError):
    """No database connection could be had. Never raised itself: catch it to catch both of its subclasses.

    ``retry_after`` is the number of seconds after which a client may usefully try again; adapters put it in the
    ``Retry-After`` header of the 503 they answer. ``database`` is the name of the database that was asked for, where
    an app has several: the message and the 503 say it as well.
    """

    retry_after: float = 1.0
    database: str | None = None


class PoolTimeout(NoConnection, MaxConnectionsExceeded):
    """Every connection of the pool was in use, and none came back in time."""


class DatabaseUnavailable(NoConnection):
    """The server could not be reached, or refuses connections for now. ``__cause__`` is the driver's error."""


class ConnectionLost(DatabaseUnavailable):
    """The connection broke while a statement was under way. ``__cause__`` is the driver's error.

    Whether the server has carried the statement out is unknown, unless it was in a transaction that was not being
    committed: that is rolled back.
    """


class ScopeError(InterfaceError):
    """A scope was used in a way that it cannot serve."""


class ReadOnlyScope(ScopeError):
    """A statement would have written, in a scope that was begun for reading only. It was not sent."""

    def __init__(self, statement: str) -> None:
        super().__init__(
            f"{statement} in a scope that only reads (read_only=True: requests with a safe method, such as GET). What "
            "has to write in one opens its own: `with peewee_web.scope(): ...`"
        )


class ScopeClosed(ScopeError):
    """The scope (the request) that this code ran in has ended; code that outlives it must open its own."""

    def __init__(self) -> None:
        super().__init__(
            "the scope (request) that this code was started in has ended. Code that outlives its request opens its "
            "own: `with peewee_web.scope(): ...`"
        )
