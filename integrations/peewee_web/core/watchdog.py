"""A bound in time for a call that a driver may block in for ever, in Python or in C.

Knows sockets and threads; no driver, no pool, no Peewee.
"""

from __future__ import annotations

import _socket
import _thread
import os
import sys
from contextlib import suppress
from typing import Any


class Watchdog:
    """``with Watchdog(fileno, seconds) as watchdog: conn.ping()``: ends the block's network calls when its time is up.

    After *seconds* the socket behind *fileno* is shut down in both directions, so whoever reads from it or polls it
    sees the end of the stream at once and fails in the driver's own way. ``fired`` then says whose doing that was;
    the connection is of no further use. *fileno* ``None`` guards nothing.

    One block only, in any thread. The block runs unguarded where no thread can be started (the interpreter ends), no
    file descriptor is left, or *fileno* is closed already. Under gevent a driver that blocks in C, and with it the
    hub, is ended as well.
    """

    def __init__(self, fileno: int | None, seconds: float) -> None:
        self.fired = False
        self._fileno = fileno
        self._seconds = min(max(0.0, seconds), _thread.TIMEOUT_MAX)

    def __repr__(self) -> str:
        return f"<Watchdog {self._seconds:g} s{', fired' if self.fired else ''}>"

    def __enter__(self) -> Watchdog:
        self._guarding = False
        if self._fileno is None:
            return self
        try:
            # A descriptor of our own: the driver may close its own meanwhile, and the number be given to a stranger.
            self._twin = os.dup(self._fileno)
        except OSError:
            return self
        # Not `threading`: its `Thread.start` waits for the thread to come up, which is most of what it costs, and a
        # greenlet in its place (gevent) would not run while the driver blocks in C.
        start, lock = _original("start_new_thread"), _original("allocate_lock")
        self._over, self._decision = lock(), lock()
        self._over.acquire()
        try:
            start(self._watch, ())
        except RuntimeError:
            os.close(self._twin)
        else:
            self._guarding = True
        return self

    def __exit__(self, *exc: object) -> None:
        if not self._guarding:
            return
        # Who comes first decides whether it has fired, and closes the twin.
        if self._decision.acquire(False):
            os.close(self._twin)
        else:
            self.fired = True
        self._over.release()

    def _watch(self) -> None:
        # Nothing here may be what gevent patches (`socket.socket`, `threading`): it would make a hub for this thread.
        if self._over.acquire(True, self._seconds) or not self._decision.acquire(False):
            return
        self.fired = True
        _end(self._twin)


def shut_down(fileno: int | None) -> None:
    """End the connection behind *fileno* now, in both directions, for whoever uses it. The descriptor stays open.

    Never raises, also where *fileno* is ``None`` or closed.
    """
    if fileno is not None:
        with suppress(OSError):
            _end(os.dup(fileno))


def _end(descriptor: int) -> None:
    """Shut down the socket behind *descriptor*, and close that."""
    try:
        twin = _socket.socket(fileno=descriptor)
    except OSError:  # not a socket
        os.close(descriptor)
        return
    with suppress(OSError):  # the peer may have hung up meanwhile
        twin.shutdown(_socket.SHUT_RDWR)
    twin.close()


def _original(name: str) -> Any:
    """The function of `_thread` of that *name*, past gevent's monkey-patching, which may come late."""
    patches = sys.modules.get("gevent.monkey")
    return patches.get_original("_thread", name) if patches else getattr(_thread, name)
