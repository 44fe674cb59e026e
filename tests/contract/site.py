"""A contract app as a running site: its process, its database and a client that may misbehave."""

from __future__ import annotations

import json
import socket
import struct
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from websockets.sync.client import ClientConnection, connect

from tests.servers.child import Session
from tests.servers.ports import free_port
from tests.servers.proxy import TcpProxy
from tests.servers.waiting import until


@dataclass(frozen=True)
class Target:
    """What a site is made of: an app, a server that carries it, and a database."""

    app: str
    server: str
    database: str

    def __str__(self) -> str:
        return f"{self.app}-{self.server}-{self.database}"


class Site:
    """Runs *target* as a child process on *url*. *sessions* lists its sessions at the database server."""

    def __init__(
        self,
        target: Target,
        url: str,
        log: Path,
        *,
        sessions: Callable[[], list[Session]] | None = None,
        proxy: TcpProxy | None = None,
        flags: Iterable[str] = (),
    ) -> None:
        self.target = target
        self.proxy = proxy
        self.sessions = sessions or list
        self.port = free_port()
        self.log = log
        self._log_file = log.open("wb")
        command = [sys.executable, "-W", "default::ResourceWarning", "-m", "tests.contract.serve"]
        self._process = subprocess.Popen(
            [*command, target.app, target.server, url, str(self.port), *flags],
            stdout=self._log_file,
            stderr=subprocess.STDOUT,
        )
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=30)
        self._wait_until_up()

    def _wait_until_up(self) -> None:
        def answers() -> bool:
            if self._process.poll() is not None:
                raise AssertionError(f"{self.target} ended with {self._process.returncode}:\n{self.log.read_text()}")
            try:
                return self.client.get("/stats").status_code == 200
            except httpx.TransportError:
                return False

        try:
            wait_for(answers, 30)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self.client.close()
        self._process.terminate()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:  # a body without an end keeps a server from stopping gracefully
            self._process.kill()
            self._process.wait()
        self._log_file.close()

    # Requests.

    def get(
        self, case: str, method: str = "GET", *, headers: Mapping[str, str | bytes] | None = None, **query: Any
    ) -> httpx.Response:
        return self.client.request(method, f"/case/{case}", params=query, headers=headers)

    def another_client(self) -> httpx.Client:
        """One with cookies of its own, and no others."""
        return httpx.Client(base_url=self.client.base_url, timeout=30)

    def open_socket(self, host: str) -> AbstractContextManager[ClientConnection]:
        """A websocket to the site, which it takes to be *host*."""
        sock = socket.create_connection(("127.0.0.1", self.port), timeout=10)
        return connect(f"ws://{host}/socket", sock=sock, proxy=None)

    def get_many(self, case: str, tokens: Iterable[str], at_once: int, **query: Any) -> list[httpx.Response]:
        with ThreadPoolExecutor(at_once) as threads:
            return list(threads.map(lambda token: self.get(case, token=token, **query), tokens))

    def abort(self, path: str, after: int = 200, reset: bool = False) -> bytes:
        """Request *path*, read at least *after* bytes of the answer and hang up: by FIN, or by RST."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=10) as sock:
            sock.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
            received = b""
            while len(received) < after:
                chunk = sock.recv(4096)
                if not chunk:
                    break
                received += chunk
            if reset:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        return received

    # What must hold.

    def stats(self) -> dict[str, int]:
        counts: dict[str, int] = json.loads(self.client.get("/stats").text)
        return counts

    def assert_settled(self, within: float = 5.0) -> None:
        """No connection is in use, and the server has no session but the idle ones of the pool."""
        wait_for(lambda: self.stats()["in_use"] == 0, within, lambda: f"{self.stats()}\n{self.tail()}")
        if self.target.database != "sqlite":
            wait_for(self._sessions_are_idle, within, lambda: f"{self.stats()} but {self.sessions()}\n{self.tail()}")

    def _sessions_are_idle(self) -> bool:
        sessions = self.sessions()
        return len(sessions) == self.stats()["idle"] and all(session.state == "idle" for session in sessions)

    def tail(self, characters: int = 3000) -> str:
        self._log_file.flush()
        return self.log.read_text(errors="replace")[-characters:]


def wait_for(condition: Callable[[], bool], within: float, describe: Callable[[], str] = lambda: "") -> None:
    """Ask until *condition* holds; fail after *within* seconds with what *describe* says."""
    try:
        until(condition, within)
    except TimeoutError as error:
        raise AssertionError(f"{error}: {describe()}") from None


def new_token() -> str:
    return uuid.uuid4().hex[:12]


def new_tokens(count: int) -> list[str]:
    return [new_token() for _ in range(count)]
