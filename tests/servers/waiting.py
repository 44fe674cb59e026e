"""Wait for what a server's own view shows, of which nobody is told."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

_Value = TypeVar("_Value")


def until(condition: Callable[[], _Value], timeout: float = 10.0) -> _Value:
    """The first true value of `condition`, asked again and again; `TimeoutError` after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"still {value!r} after {timeout} s")
        time.sleep(0.002)  # leaves the processor to what is waited for
    return value
