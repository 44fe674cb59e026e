"""Find, stop and kill every process that lives in a server's directory.

A database server changes into its data directory and all it forks inherits that, so the working directory
names a server's processes even after their parent died and init adopted them, when the parent's pid no
longer does. Linux only: reads /proc.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from collections.abc import Iterable
from pathlib import Path


def inhabitants(directory: Path) -> list[int]:
    """The pids of all live processes whose working directory is `directory` or below it.

    Zombies have no working directory any more and are not listed.
    """
    home = os.path.realpath(directory)
    found = []
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            cwd = os.readlink(f"/proc/{entry}/cwd")
        except OSError:  # gone, a zombie, or somebody else's
            continue
        if cwd == home or cwd.startswith((home + "/", home + " (deleted)")):
            found.append(int(entry))
    return found


def send(pids: Iterable[int], what: signal.Signals) -> None:
    """Send a signal to each pid; one that is gone already is no error."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, what)


def is_stopped(pid: int) -> bool:
    """Whether SIGSTOP has taken effect, or the process is gone."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return True
    # proc(5): the state letter follows the command's name, which may itself hold spaces and brackets.
    return stat.rpartition(")")[2].split()[0] in "TtZX"


def freeze(pids: Iterable[int], timeout: float = 5.0) -> None:
    """SIGSTOP each pid and return once all of them stand still; `TimeoutError` after `timeout` seconds."""
    pids = list(pids)
    send(pids, signal.SIGSTOP)
    deadline = time.monotonic() + timeout
    # The kernel tells only a parent that a process stopped, and we are the backends' grandparent: look.
    while moving := [pid for pid in pids if not is_stopped(pid)]:
        if time.monotonic() > deadline:
            raise TimeoutError(f"still running {timeout} s after SIGSTOP: {moving}")
        time.sleep(0.001)


def kill_inhabitants(directory: Path, timeout: float = 10.0) -> None:
    """SIGKILL everything that lives in `directory`, until nothing does.

    Raises `TimeoutError` after `timeout` seconds.
    """
    deadline = time.monotonic() + timeout
    while pids := inhabitants(directory):
        send(pids, signal.SIGKILL)
        for pid in pids:
            wait_for_exit(pid, deadline - time.monotonic())


def wait_for_exit(pid: int, timeout: float) -> None:
    """Return once `pid`, which need not be a child of ours, has exited; `TimeoutError` after `timeout` seconds."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        if not select.select([handle], [], [], max(0.0, timeout))[0]:
            raise TimeoutError(f"process {pid} has not exited")
    finally:
        os.close(handle)
