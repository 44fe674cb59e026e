"""What a forked child must not do with what it inherits: use or close a connection that is its parent's.

The child's copy of a socket leads to the same server session. A driver that closes it, or is collected, says good-bye
in the parent's name (libpq's Terminate, MySQL's COM_QUIT), and the parent's session is gone.
"""

from __future__ import annotations

import logging
import mmap
import os
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, Protocol

from .drivers import Status
from .lease import Lease, PooledConnection

logger = logging.getLogger("peewee_web")

#: How many forks lie between this process and the one that imported us. (Those that Python knows of.)
count = 0
#: Whose turn it is to find out that this is a child.
lock = threading.Lock()


# madvise(2), Linux 4.14; `mmap` has no name for it.
_MADV_WIPEONFORK = 18


class Mark(Protocol):
    """``mark[0]`` is true in the process that set it, and false in a child of it, whoever forked that."""

    def __getitem__(self, index: int) -> int: ...
    def __setitem__(self, index: int, value: int) -> None: ...


class _ProcessId:
    """A `Mark` that asks the system each time."""

    def __getitem__(self, index: int) -> int:
        return os.getpid() == self._pid

    def __setitem__(self, index: int, value: int) -> None:
        self._pid = os.getpid()


def mark() -> Mark:
    """A new `Mark`, which is set here. Where the system can, it is memory that it clears in a child."""
    try:
        made: Mark = mmap.mmap(-1, mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        made.madvise(_MADV_WIPEONFORK)  # type: ignore[attr-defined]  # an mmap's
    except (OSError, AttributeError):
        made = _ProcessId()
    made[0] = 1
    return made


class Forkable(Protocol):
    def notice_fork(self) -> None: ...


_watched: weakref.WeakSet[Forkable] = weakref.WeakSet()
_inherited: deque[Callable[[], object]] = deque()


def tell_children(thing: Forkable) -> None:
    """Call ``thing.notice_fork()`` in every child that ``os.fork`` makes from now on.

    (uWSGI forks without telling Python: a pool looks at a `mark` as well.)
    """
    _watched.add(thing)


def _in_child() -> None:
    global count, lock
    count += 1
    lock = threading.Lock()  # a thread that is not here may have held it
    for thing in list(_watched):
        try:
            thing.notice_fork()
        except Exception:  # the others are still to be told
            logger.exception("%r could not be made ready for a forked process", thing)


os.register_at_fork(after_in_child=_in_child)


def leave_to_parent(idle: Iterable[PooledConnection], leases: Iterable[Lease], close: Callable[[Any], object]) -> None:
    """Have no part any more in what was *idle* at the fork, nor in what was out under *leases*: all is the parent's.

    *close* is for what can be closed without a word to a server.
    """
    for pooled in idle:
        _leave(pooled, close, quiet=True)
    for lease in leases:
        holder = None if lease.holder is None else lease.holder()
        # Of a thread that is not here it can't be told what it was about.
        _leave(lease.pooled, close, quiet=holder is not None and holder.lose_to_parent())


def _leave(pooled: PooledConnection, close: Callable[[Any], object], quiet: bool) -> None:
    connection, fileno = pooled.connection, pooled.fileno
    if quiet and not pooled.driver.network:
        _close_before_the_next(pooled, close)
    # The number may be another file's by now, if the app closed the connection itself.
    elif fileno is None or pooled.driver.fileno(connection) == fileno:
        _disown(connection, fileno)


def _disown(connection: Any, fileno: int | None) -> None:
    """Make *connection*, inherited from the parent, harmless here: nothing that is done with it reaches the server.

    The socket's number is made to lead to the null device; the parent's socket is not touched. The object is kept for
    ever: a thread that is not here may have been amid changing what the driver's finalizer would free.
    """
    _keep_for_ever(connection)
    if fileno is None:
        return
    with suppress(OSError):
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        try:
            os.dup2(null, fileno, inheritable=False)
        finally:
            os.close(null)


def _close_before_the_next(pooled: PooledConnection, close: Callable[[Any], object]) -> None:
    """Have *pooled*, of a database without a server, closed before this process opens one of its own.

    SQLite keeps books of the locks that its process holds on a file, and a child inherits them without the locks: as
    long as they count an inherited connection, the child's own take no lock for being there, and the parent deletes
    the write-ahead log under them when it closes its last (os_unix.c, `unixInodeInfo`; seen as "disk I/O error").
    And not earlier: a child that has no use for SQLite need not touch it, and so
    won't meet a mutex that a thread of its parent held at the fork.
    """

    def close_if_idle() -> None:
        # To roll back would be to change the parent's files. (What the child writes then finds the database locked.)
        if pooled.driver.status(pooled.connection) in (Status.IDLE, Status.BUSY):
            close(pooled.connection)

    _keep_for_ever(pooled.connection)
    _inherited.append(close_if_idle)


def close_inherited() -> None:
    """Close what `leave_to_parent` was told of."""
    while _inherited:
        with suppress(Exception):  # another thread was faster, or it is bound to the thread that opened it
            _inherited.popleft()()


def _keep_for_ever(thing: Any) -> None:
    # No list would do: the interpreter empties its modules at exit.
    with suppress(ImportError):
        import ctypes

        ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))
