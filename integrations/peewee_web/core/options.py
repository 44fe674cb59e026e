"""The arguments of a pool: what they mean, their defaults, and which values make no sense."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

# Seconds that one connection attempt may take where the pool's own `timeout` gives no bound, and the least it gets:
# a caller may be in a greater hurry than a TLS handshake.
CONNECT_TIMEOUT = 10.0
LEAST_CONNECT_TIMEOUT = 1.0


@dataclass(frozen=True, kw_only=True)
class PoolOptions:
    """How a pool behaves. All times are in seconds; ``None`` means "without" unless it says otherwise.

    - ``max_connections`` (20): bound on physical connections, those being opened included. ``None`` or 0: no bound.
    - ``timeout`` (10): what a whole checkout may take: waiting, probing, connecting. ``None`` waits for no busy
      connection, 0 waits without limit (as in ``playhouse.pool``); both bound a single connection attempt by 10.
    - ``max_waiting``: a checkout that finds so many others waiting for a busy connection is refused at once.
    - ``max_lifetime`` (3600): an older connection is replaced. Up to 5 % less, so that not all go at once. ``None`` or
      0: however old (as in ``playhouse.pool``).
    - ``max_idle`` (600): a connection idle for longer is closed, down to ``min_connections``. 0 keeps none.
    - ``min_connections`` (0): what ``warm()`` opens.
    - ``probe_after`` (15): a connection idle for longer costs one round trip before its next use.
    - ``max_connecting`` (2): attempts under way at once, so that a server that comes back is not stampeded.
    - ``fail_fast_after`` (5): once the server could not be reached for so long, a checkout is refused at once instead
      of waiting for it to come back. ``None``: never.
    - ``reset``: a statement such as ``"DISCARD ALL"``, or a function of the connection, run at every check-in.
    - ``leak_after``: a connection held for longer is reported, with the line that took it.
    - ``keepalive``: seconds of silence after which the kernel asks whether the peer is still there.

    Raises `ValueError` for a value that makes no sense.
    """

    max_connections: int | None = 20
    timeout: float | None = 10.0
    max_waiting: int | None = None
    max_lifetime: float | None = 3600.0
    max_idle: float | None = 600.0
    min_connections: int = 0
    probe_after: float | None = 15.0
    max_connecting: int = 2
    fail_fast_after: float | None = 5.0
    reset: str | Callable[[Any], object] | None = None
    leak_after: float | None = None
    keepalive: float | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            if field.name != "reset":
                object.__setattr__(self, field.name, _number(field.name, getattr(self, field.name)))
        if not (self.reset is None or isinstance(self.reset, str) or callable(self.reset)):
            raise ValueError(f"reset takes a statement or a function of the connection, not {self.reset!r}")
        if self.max_connecting < 1:
            raise ValueError(f"max_connecting must be at least 1, not {self.max_connecting}")
        if self.min_connections > self.limit:
            raise ValueError(
                f"min_connections ({self.min_connections}) is more than max_connections ({self.max_connections})"
            )

    def but(self, **changes: Any) -> PoolOptions:
        """The same with *changes*."""
        return replace(self, **changes)

    @property
    def limit(self) -> float:
        """``max_connections``, infinite where there is none."""
        return self.max_connections or math.inf

    @property
    def lifetime(self) -> float:
        """``max_lifetime``, infinite where there is none."""
        return self.max_lifetime or math.inf

    @property
    def max_idle_seconds(self) -> float:
        """``max_idle``, infinite where there is none."""
        return math.inf if self.max_idle is None else self.max_idle

    @property
    def patience(self) -> float:
        """Seconds that a checkout may take which waits for nothing but a connection attempt."""
        return CONNECT_TIMEOUT if self.timeout is None else self.timeout or math.inf

    @property
    def connect_timeout(self) -> float:
        """Seconds that one connection attempt may take."""
        if self.timeout is None or math.isinf(self.patience):
            return CONNECT_TIMEOUT
        return max(self.timeout, LEAST_CONNECT_TIMEOUT)


_NEVER_NONE = frozenset({"min_connections", "max_connecting"})
_WHOLE = frozenset({"max_connections", "max_waiting"}) | _NEVER_NONE


def _number(name: str, value: Any) -> float | None:
    """*value* as the option *name* takes it; a URL or an environment variable may have given it as text."""
    if value is None and name not in _NEVER_NONE:
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise ValueError(f"{name} takes a number, not {value!r}") from None
    if not number >= 0:
        raise ValueError(f"{name} can't be negative: {value!r}")
    if name not in _WHOLE:
        return number
    if math.isinf(number) and name not in _NEVER_NONE:
        return None
    if not number.is_integer():  # rounded down to 0 it would be no bound at all
        raise ValueError(f"{name} takes a whole number, not {value!r}")
    return int(number)
