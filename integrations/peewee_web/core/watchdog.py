"""A bound in time for a call that a driver may block in for ever, in Python or in C.

Knows sockets and threads; no driver, no pool, no Peewee.
"""

from __future__ import annotations

import _socket
import _thread
import os
import sys
from abc import ABC, abstractmethod
from contextlib import suppress
from typing import Any


class Alarm(ABC):
    """``with Alarm(seconds)`` calls `ring`, from a thread of its own, when the block is not done after *seconds*.

    One block only, in any thread. ``fired`` tells whether it rang. Where no thread can be started (the interpreter
    ends), the block runs without. The thread is a real one under gevent too: a greenlet would not run while a driver
    blocks in C. So `ring` may use nothing that gevent patches, such as `socket.socket` or `threading`, which would
    make a hub for that thread.
    """

    def __init__(self, seconds: float) -> None:
        self.fired = False
        self.seconds = min(max(0.0, seconds), _thread.TIMEOUT_MAX)
        self._set = False

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.seconds:g} s{', fired' if self.fired else ''}>"

    def __enter__(self) -> Alarm:
        # Not `threading`: its `Thread.start` waits for the thread to come up, which doubles the cost.
        start, lock = _original("start_new_thread"), _original("allocate_lock")
        self.over, self._decision, self._rung = lock(), lock(), lock()
        self.over.acquire()
        self._rung.acquire()
        with suppress(RuntimeError):
            start(self._watch, ())
            self._set = True
        return self

    def __exit__(self, *exc: object) -> None:
        if self._set:
            # Who comes first decides whether it has fired.
            self.fired = not self._decision.acquire(False)
            self.over.release()

    def _watch(self) -> None:
        if self.over.acquire(True, self.seconds) or not self._decision.acquire(False):
            return
        self.fired = True
        try:
            self.ring()
        finally:
            self._rung.release()

    def wait_until_rung(self, seconds: float) -> None:
        """After a block in which it fired: until `ring` has returned, or *seconds* have passed."""
        if self._rung.acquire(True, seconds):
            self._rung.release()

    @abstractmethod
    def ring(self) -> None:
        """What to do when time is up. ``over`` is a lock that is free as soon as the block has ended after all."""


class Watchdog(Alarm):
    """``with Watchdog(fileno, seconds) as watchdog: conn.ping()``: ends the block's network calls when its time is up.

    After *seconds* the socket behind *fileno* is shut down in both directions, so whoever reads from it or polls it
    sees the end of the stream at once and fails in the driver's own way. ``fired`` then says whose doing that was;
    the connection is of no further use. *fileno* ``None`` guards nothing.

    One block only, in any thread. The block runs unguarded where no thread can be started (the interpreter ends), no
    file descriptor is left, or *fileno* is closed already. Under gevent a driver that blocks in C, and with it the
    hub, is ended as well.
    """

    def __init__(self, fileno: int | None, seconds: float) -> None:
        super().__init__(seconds)
        self._fileno = fileno

    def __enter__(self) -> Watchdog:
        if self._fileno is not None:
            with suppress(OSError):
                # One of our own: the driver may close its own meanwhile, and the number be given to a stranger.
                self._twin = os.dup(self._fileno)
                super().__enter__()
                if not self._set:
                    os.close(self._twin)
        return self

    def __exit__(self, *exc: object) -> None:
        super().__exit__(*exc)
        if self._set and not self.fired:
            os.close(self._twin)

    def ring(self) -> None:
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
