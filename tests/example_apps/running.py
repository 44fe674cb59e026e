"""An example app as its users meet it: a process that serves HTTP."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx

from tests.servers.ports import free_port

ROOT = Path(__file__).parents[2]
APPS = ("flask", "django", "falcon", "bottle", "tornado")


def environment(**variables: str) -> dict[str, str]:
    """A clean environment for a child: no APP or PORT of the person who runs the tests; both source roots."""
    ours = ("APP", "HOST", "PORT", "DATABASE_URL", "REPLICA_URLS")
    kept = {name: value for name, value in os.environ.items() if name not in ours}
    return kept | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "integrations")])} | variables


class RunningApp:
    """`python -m example_apps NAME` on a free port, ready for requests. Use as a context manager.

    Warnings are errors in it too. Leaving fails if it wrote a traceback or did not stop cleanly; set
    `expects_tracebacks` where a test provokes one on purpose.
    """

    stops_with = 0

    def __init__(
        self, name: str, database_url: str, log: Path, *, expects_tracebacks: bool = False, replica_urls: str = ""
    ) -> None:
        self.name = name
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = log
        self.expects_tracebacks = expects_tracebacks
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-W", "error", *self.command()],
                env=environment(DATABASE_URL=database_url, REPLICA_URLS=replica_urls),
                cwd=log.parent,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        self.http = httpx.Client(base_url=self.url, timeout=30)

    def command(self) -> list[str]:
        return ["-m", "example_apps", self.name, "--port", str(self.port)]

    def __enter__(self) -> RunningApp:
        deadline = time.monotonic() + 30
        while True:
            try:
                self.http.get("/health")
                return self
            except httpx.TransportError:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    self.kill()
                    raise AssertionError(f"{self.name} did not start:\n{self.output()}") from None
                time.sleep(0.02)

    def __exit__(self, *exc_info: Any) -> None:
        self.process.send_signal(signal.SIGTERM)
        try:
            status = self.process.wait(15)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"{self.name} did not stop on SIGTERM:\n{self.output()}") from None
        finally:
            self.http.close()  # after it: a server that stops must close what clients keep open
        assert status == self.stops_with, f"{self.name} ended with {status}:\n{self.output()}"
        if not self.expects_tracebacks:
            assert "Traceback" not in self.output(), self.output()

    def kill(self) -> None:
        self.http.close()
        self.process.kill()
        self.process.wait()

    def output(self) -> str:
        return self.log.read_text(errors="replace")
