"""Work in a forked child of the test's own process, and what came of it."""

from __future__ import annotations

import ctypes
import faulthandler
import os
import pickle
import select
import signal
import sys
import traceback
import warnings
from collections.abc import Callable
from typing import Any

import pytest

from tests.core.working import PATIENCE
from tests.servers.waiting import until


def fork() -> int:
    """``os.fork()``. The warning of Python 3.12+, that the process has threads, is what these tests are about."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*multi-threaded.*fork", category=DeprecationWarning)
        return os.fork()


def fork_untold() -> int:
    """Fork as a server written in C does (uWSGI): no hook of Python's runs. The GIL is held meanwhile, as there."""
    # Nor are Python's own locks made anew, which a thread of before (a connection attempt's) may hold at its end.
    until(lambda: len(os.listdir("/proc/self/task")) == 1)
    return int(ctypes.PyDLL(None).fork())


#: The same as a parameter of a test, which must have its process to itself then: see `tests/suite`.
UNTOLD = pytest.param(fork_untold, marks=pytest.mark.alone, id="fork_untold")


class Child:
    """*work* under way in a child that *fork* makes. It ends without a word to anybody: no finalizer, no `atexit`."""

    def __init__(self, work: Callable[[], Any], fork: Callable[[], int] = fork) -> None:
        self._reader, writer = os.pipe()
        #: Where every thread of a child stood that took long.
        self._stacks = os.memfd_create("stacks")
        self.pid = fork()
        if self.pid == 0:
            try:
                # Not `dump_traceback_later`: its thread's lock would never be free in a child of this child.
                faulthandler.register(signal.SIGALRM, file=self._stacks)
                signal.setitimer(signal.ITIMER_REAL, PATIENCE / 2)
                _report(work, writer)
            finally:
                os._exit(0)
        os.close(writer)

    def result(self) -> Any:
        """What *work* returned; what it raised, or left for nobody to see, fails the test."""
        answer = b""
        while select.select([self._reader], [], [], PATIENCE)[0]:
            if not (piece := os.read(self._reader, 65536)):
                break
            answer += piece
        else:
            os.kill(self.pid, signal.SIGKILL)
            raise AssertionError(f"the child is stuck:\n{self._reap()}")
        stacks = self._reap()
        assert answer, "the child died"
        problem, outcome = pickle.loads(answer)
        assert problem is None, f"in the child:\n{problem}\n{stacks}"
        return outcome

    def _reap(self) -> str:
        os.close(self._reader)
        os.waitpid(self.pid, 0)
        stacks = os.pread(self._stacks, 1_000_000, 0)
        os.close(self._stacks)
        return stacks.decode()


def _report(work: Callable[[], Any], writer: int) -> None:
    unraisable: list[str] = []
    sys.unraisablehook = lambda args: unraisable.append(f"{args.err_msg} {args.object!r}: {args.exc_value!r}")
    outcome = problem = None
    try:
        outcome = work()
    except BaseException:
        problem = traceback.format_exc()
    with open(writer, "wb") as pipe:
        pipe.write(pickle.dumps((problem or "\n".join(unraisable) or None, outcome)))


def in_child(work: Callable[[], Any], fork: Callable[[], int] = fork) -> Any:
    """What *work* returns in a forked child."""
    return Child(work, fork).result()
