"""What a pool knows of a time in which no connection can be opened, and when it is worth the next attempt.

Pure bookkeeping: it reads no clock, opens nothing and waits for nothing.
"""

from __future__ import annotations

from .backoff import pause

# Seconds from a failed attempt to the next. The longest is less than one, so that a server that is back is in use by
# then.
_FIRST_PAUSE = 0.05
_LONGEST_PAUSE = 0.75
# Seconds after which the failure of an attempt says little.
_RECENT = 2.0


class Outage:
    """From the first connection attempt that failed to the next that succeeds. Times are monotonic seconds."""

    __slots__ = ("attempts", "error", "last_failure", "next_attempt", "since")

    def __init__(self, now: float) -> None:
        self.since = now
        self.attempts = 0
        #: What the latest attempt failed with.
        self.error: BaseException | None = None
        #: When that was.
        self.last_failure = now
        #: When the next may begin, and not earlier.
        self.next_attempt = now

    def is_recent(self, now: float) -> bool:
        """Whether attempts were made until now. Else nobody knows how things stand: the app had no requests."""
        return now - self.last_failure <= _RECENT

    def note_failure(self, error: BaseException, now: float) -> None:
        self.error = error
        self.last_failure = now
        self.attempts += 1
        self.next_attempt = now + pause(_FIRST_PAUSE, _LONGEST_PAUSE, self.attempts)
