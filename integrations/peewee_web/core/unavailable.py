"""What an adapter answers when there was no connection. It says nothing of hosts, users or the cause."""

from __future__ import annotations

import math
import re

from .errors import NoConnection

STATUS = 503
REASON = "Service Unavailable"
BODY = "The database is not available at the moment. Please try again shortly."
# A name that is told: one that some code has made up may be anything.
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,63}")


def body_of(error: NoConnection) -> str:
    """The text of the answer, in ASCII: ``BODY``, with the name of the database where an app has several."""
    if error.database is None or not _NAME.fullmatch(error.database):
        return BODY
    return BODY.replace("The database", f"The database {error.database!r}")


def retry_after(error: NoConnection) -> int:
    """Seconds for the ``Retry-After`` header (RFC 9110, 10.2.3), at least one."""
    return max(1, math.ceil(error.retry_after))


def plain_headers(error: NoConnection) -> list[tuple[str, str]]:
    """The headers of the default answer, whose body is `body_of` *error*."""
    return [
        ("Content-Type", "text/plain; charset=utf-8"),
        ("Content-Length", str(len(body_of(error)))),
        ("Retry-After", str(retry_after(error))),
    ]
