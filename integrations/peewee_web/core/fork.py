"""What a forked child must not do with what it inherits: use or close a connection that is its parent's.

The child's copy of a socket leads to the same server session. A driver that closes it, or is collected, says good-bye
in the parent's name (libpq's Terminate, MySQL's COM_QUIT), and the parent's session is gone.
"""

from __future__ import annotations

import os
import weakref
from contextlib import suppress
from typing import Any, Protocol


class Forgetful(Protocol):
    def forget(self) -> None: ...


_watched: weakref.WeakSet[Forgetful] = weakref.WeakSet()


def forget_in_child(thing: Forgetful) -> None:
    """Call ``thing.forget()`` in every child that ``os.fork`` makes from now on.

    (uWSGI forks without telling Python: a pool looks at the process id as well.)
    """
    _watched.add(thing)


def _in_child() -> None:
    for thing in list(_watched):
        thing.forget()


os.register_at_fork(after_in_child=_in_child)


def disown(connection: Any, fileno: int | None) -> None:
    """Make *connection*, inherited from the parent, harmless here: nothing that is done with it reaches the server.

    The socket's number is made to lead to the null device; the parent's socket is not touched. A connection without
    a socket (SQLite) is kept for ever instead: closing it here would drop the locks that this process holds on the
    same file (sqlite.org, "How To Corrupt An SQLite Database File", 2.6).
    """
    if fileno is None:
        _keep_for_ever(connection)
        return
    with suppress(OSError):
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        try:
            os.dup2(null, fileno, inheritable=False)
        finally:
            os.close(null)


def _keep_for_ever(thing: Any) -> None:
    # No list would do: the interpreter empties its modules at exit.
    with suppress(ImportError):
        import ctypes

        ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))
