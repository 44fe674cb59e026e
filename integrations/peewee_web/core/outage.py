"""What a pool knows of a time in which no connection can be opened, and when it is worth the next attempt.

Pure bookkeeping: it reads no clock, opens nothing and waits for nothing.
"""

from __future__ import annotations

import random

# Seconds from a failed attempt to the next: at random up to the first, which doubles with each failure up to the last
# ("full jitter", so that the processes of an app that lost their server together don't come back together). The last
# is less than a second, so that a server that is back is in use within one.
_FIRST_DELAY = 0.05
_LAST_DELAY = 0.75


class Outage:
    """From the first connection attempt that failed to the next that succeeds. Times are monotonic seconds."""

    __slots__ = ("attempts", "error", "next_attempt", "since")

    def __init__(self, now: float) -> None:
        self.since = now
        self.attempts = 0
        #: What the latest attempt failed with.
        self.error: BaseException | None = None
        #: When the next may begin, and not earlier.
        self.next_attempt = now

    def note_failure(self, error: BaseException, now: float) -> None:
        self.error = error
        self.next_attempt = now + random.uniform(0, min(_LAST_DELAY, _FIRST_DELAY * 2.0 ** min(self.attempts, 20)))
        self.attempts += 1
