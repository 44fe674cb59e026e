"""What the client of a request that wrote brings along, so that its next request sees that write.

It is the primary's position and when that was, in a cookie or a header. Whoever forges it has his own reads served by
the primary, and can do no more.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable
from typing import NamedTuple

_COOKIE = "peewee_position"
_HEADER = "Peewee-Position"
# Milliseconds since 1970, and a position. Commas no cookie may have (RFC 6265, 4.1.1), and for slashes Python's are
# quoted.
_VALUE = re.compile(r"(\d{1,15})\.([0-9A-Za-z:_-]{0,200})")
_TO_COOKIE = str.maketrans(",/", "_:")
_FROM_COOKIE = str.maketrans("_:", ",/")
_NOT_IN_NAMES = re.compile(r"[^a-z0-9]")


class Bookmark(NamedTuple):
    """What a response tells its client."""

    name: str
    value: str
    max_age: int | None
    """Seconds, of a cookie. None: it is a header."""

    def header(self) -> tuple[str, str]:
        if self.max_age is None:
            return self.name, self.value
        return "Set-Cookie", f"{self.name}={self.value}; Max-Age={self.max_age}; Path=/; HttpOnly; SameSite=Lax"


class Bookmarks:
    """Written into a response, and read from the next request, for *seconds*. 0: none are."""

    def __init__(self, seconds: float, by: str) -> None:
        if seconds < 0:
            raise ValueError(f"sticky_for is a number of seconds, not {seconds!r}")
        if by not in ("cookie", "header"):
            raise ValueError(f"sticky_by is 'cookie' or 'header', not {by!r}")
        self.seconds = seconds
        self._by_cookie = by == "cookie"

    def read(self, header: Callable[[str], str | None], name: str) -> str | None:
        """The position in a request's headers, for the database called *name*: None if there is none that counts."""
        if not self.seconds:
            return None
        if self._by_cookie:
            text = _cookie(header("Cookie"), _named(_COOKIE, name, "_"))
        else:
            text = header(_named(_HEADER, name))
        match = None if text is None else _VALUE.fullmatch(text)
        if match is None or abs(time.time() - int(match[1]) / 1000) > self.seconds:
            return None
        return match[2].translate(_FROM_COOKIE)

    def make(self, name: str, position: str) -> Bookmark:
        value = f"{int(time.time() * 1000)}.{position.translate(_TO_COOKIE)}"
        if self._by_cookie:
            return Bookmark(_named(_COOKIE, name, "_"), value, math.ceil(self.seconds))
        return Bookmark(_named(_HEADER, name), value, None)


def _named(what: str, name: str, separator: str = "-") -> str:
    """Of two names of databases no one makes the same: what a cookie, or a header, can't have in its is escaped."""

    def escaped(match: re.Match[str]) -> str:
        return "".join(f"{separator}{byte:02x}" for byte in match[0].encode())

    return f"{what}{separator}{_NOT_IN_NAMES.sub(escaped, name)}"


def _cookie(cookies: str | None, name: str) -> str | None:
    for cookie in (cookies or "").split(";"):
        key, _, value = cookie.strip().partition("=")
        if key == name:
            return value
    return None
