"""Bury a server whose test run died without a chance to: `python -m tests.servers.undertaker DIRECTORY`.

Waits for the end of its standard input, a pipe that the test run holds and the kernel closes however the
run ends (SIGKILL and `os._exit`, which skip `atexit`, included). Then kills all that lives in DIRECTORY and
removes it.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from tests.servers.processes import kill_inhabitants
from tests.servers.shared_memory import remove_segment_of


def main() -> None:
    directory = Path(sys.argv[1])
    sys.stdin.buffer.read()
    kill_inhabitants(directory)
    remove_segment_of(directory / "data")
    shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    main()
