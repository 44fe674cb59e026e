"""How long to wait before the next try."""

from __future__ import annotations

import random


def pause(first: float, longest: float, failures: int) -> float:
    """Seconds after so many *failures*: at random up to *first*, which doubles with each failure up to *longest*.

    ("Full jitter", so that those who failed together don't come back together.)
    """
    return random.uniform(0, min(longest, first * 2.0 ** min(failures - 1, 30)))
