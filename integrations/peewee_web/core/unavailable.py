"""What an adapter answers when there was no connection. It says nothing of hosts, users or the cause."""

from __future__ import annotations

import math

from .errors import NoConnection

STATUS = 503
REASON = "Service Unavailable"
BODY = "The database is not available at the moment. Please try again shortly."


def retry_after(error: NoConnection) -> int:
    """Seconds for the ``Retry-After`` header (RFC 9110, 10.2.3), at least one."""
    return max(1, math.ceil(error.retry_after))


def plain_headers(error: NoConnection) -> list[tuple[str, str]]:
    """The headers of the default answer, whose body is ``BODY`` in ASCII."""
    return [
        ("Content-Type", "text/plain; charset=utf-8"),
        ("Content-Length", str(len(BODY))),
        ("Retry-After", str(retry_after(error))),
    ]
