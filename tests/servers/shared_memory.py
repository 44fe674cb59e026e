"""The one thing that a killed PostgreSQL leaves outside of its directory: a System V segment.

Its successor recognises orphans by it. Standard library only, because the undertaker has nothing else.
"""

from __future__ import annotations

import contextlib
import ctypes
from pathlib import Path

_IPC_RMID, _IPC_STAT = 0, 2  # <sys/ipc.h>


def segment_of(data: Path) -> int | None:
    """The id of the segment of the server with the data directory `data`; None after an orderly stop."""
    # The second number of the seventh line of postmaster.pid (miscadmin.h, LOCK_FILE_LINE_SHMEM_KEY).
    try:
        return int((data / "postmaster.pid").read_text().splitlines()[6].split()[1])
    except (OSError, IndexError, ValueError):
        return None


def remove_segment_of(data: Path) -> None:
    """Remove the segment of a killed server that will not start again. No error if there is none."""
    segment = segment_of(data)
    if segment is not None:
        with contextlib.suppress(OSError, AttributeError):  # a system without System V shared memory
            ctypes.CDLL(None).shmctl(segment, _IPC_RMID, None)


def exists(segment: int) -> bool:
    """Whether there is a segment of that id."""
    room = ctypes.create_string_buffer(256)  # more than a struct shmid_ds
    return bool(ctypes.CDLL(None).shmctl(segment, _IPC_STAT, room) != -1)
