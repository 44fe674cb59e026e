"""An app under its server as a child process: start it, find its worker, kill that, end it all."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

from tests.servers import processes
from tests.servers.ports import free_port

_ROOT = Path(__file__).parents[1]
_ENDS = re.compile(r"^(?:\w+\.)*\w+(?:Error|Exceeded|Exception|Timeout|Unavailable|Closed)\b.*", re.MULTILINE)


class AppDidNotStart(RuntimeError):
    """The app exited or did not answer; the message ends with what it wrote."""


class App:
    """One app (`faults_serve`) on a port of its own, answering once it is entered. A context manager."""

    def __init__(self, name: str, variant: str, url: str, threads: int, log: Path) -> None:
        self.port = free_port()
        self._log = log
        arguments = [name, variant, str(self.port), str(threads)]
        paths = os.pathsep.join([str(_ROOT), str(_ROOT / "integrations")])
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.faults_serve", *arguments],
                cwd=_ROOT,
                env={**os.environ, "PYTHONPATH": paths, "DATABASE_URL": url},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # so that one signal ends the workers too; Tornado's parent does not
            )

    def __enter__(self) -> App:
        try:
            self.wait_until_it_answers()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self._end()

    def wait_until_it_answers(self, timeout: float = 30.0) -> None:
        deadline = time.monotonic() + timeout
        while True:
            with contextlib.suppress(URLError, ConnectionError, TimeoutError):
                with urlopen(f"http://127.0.0.1:{self.port}/api/notes/1", timeout=5) as answer:
                    answer.read()
                return
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise AppDidNotStart(f"the app did not start:\n{self.written()}")
            time.sleep(0.05)

    def written(self, characters: int | None = 3000) -> str:
        """The end of what the app and its server wrote; ``None``: all."""
        return self._log.read_text(errors="replace")[-characters if characters else 0 :]

    def errors(self, most: int = 12) -> dict[str, int]:
        """What the app's tracebacks end with, and how often."""
        counts = Counter(re.sub(r"\d+(\.\d+)?", "#", end)[:200] for end in _ENDS.findall(self.written(None)))
        return dict(counts.most_common(most))

    def worker(self) -> int:
        """The pid of the process that serves."""
        (pid,) = map(int, Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split())
        return pid

    def kill_worker(self) -> None:
        """SIGKILL the process that serves, as the out-of-memory killer does; returns once it is gone."""
        pid = self.worker()
        os.kill(pid, signal.SIGKILL)
        processes.wait_for_exit(pid, 5.0)

    def _end(self) -> None:
        """End the server and its worker; they may well be stuck in what the fault left, so not for long."""
        for what, patience in ((signal.SIGTERM, 3.0), (signal.SIGKILL, 10.0)):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, what)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(patience)
                break
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)  # a worker that outlived its parent
        self._process.wait()
