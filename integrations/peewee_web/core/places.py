"""Where in the app something was begun: noted at every checkout for next to nothing, put into words only when asked."""

from __future__ import annotations

import sys
from types import CodeType
from typing import TypeAlias

# Between the app's line and ours there are only these: Peewee runs the query, contextlib enters the block.
_BETWEEN = frozenset({"peewee", "playhouse", "peewee_web", "contextlib", "threading", "asyncio", "concurrent"})

# A code object and how far it had got. It keeps no frame, and so none of the app's variables, alive.
Place: TypeAlias = "tuple[CodeType, int]"


class _Between(dict[str, bool]):
    """Whether the module of a name is between the app and us."""

    def __missing__(self, name: str) -> bool:
        between = self[name] = str(name).partition(".")[0] in _BETWEEN
        return between


_between = _Between()


def caller() -> Place:
    """The place in the app that led here: in the nearest frame that is neither Peewee's nor ours."""
    frame = sys._getframe(1)
    while (outer := frame.f_back) is not None:
        frame = outer
        if not _between[frame.f_globals.get("__name__", "")]:
            break
    return frame.f_code, frame.f_lasti  # `f_lineno` has to be computed, which takes longer than all the rest


def described(place: Place) -> str:
    """``file:line``."""
    code, instruction = place
    lines = (line for start, end, line in code.co_lines() if start <= instruction < end and line is not None)
    return f"{code.co_filename}:{next(lines, code.co_firstlineno)}"
