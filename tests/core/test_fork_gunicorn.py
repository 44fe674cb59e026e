"""P1 of CASES.md: an app that connects when it is imported, under ``gunicorn --preload``."""

from __future__ import annotations

import http.client
import itertools
import json
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.core.raw import module_of
from tests.servers.ports import free_port
from tests.servers.waiting import until

_ROOT = Path(__file__).parents[2]
CLIENTS = 12
SLOW_START = 30.0  # seconds

# Every driver and every kind of worker, and in `make soak` all pairs.
PAIRS = [
    ("sync", "psycopg2"),
    ("gthread", "MySQLdb"),
    ("gevent", "psycopg"),
    ("gevent", "pymysql"),
]
DRIVERS, WORKERS = ("psycopg", "psycopg2", "pymysql", "MySQLdb"), ("sync", "gthread", "gevent")
OTHER_PAIRS = [pair for pair in itertools.product(WORKERS, DRIVERS) if pair not in PAIRS]


class Preforked:
    """A server that has loaded ``tests.fork.app`` and then forked, and what its workers answered."""

    def __init__(
        self, command: Callable[[int], list[str]], server: Any, driver: str, directory: Path, pool: str = "ours"
    ) -> None:
        self.server, self.name = server, f"fork_{uuid.uuid4().hex[:12]}"
        server.create_database(self.name)
        self.port = free_port()
        self.master_log, self._log = directory / "master.log", directory / "server.log"
        self.master_log.touch()
        environ = {
            **os.environ,
            "APP_DATABASE": server.url(self.name),
            "APP_DRIVER": driver,
            "APP_POOL": pool,
            "APP_MASTER_LOG": str(self.master_log),
            "PYTHONPATH": os.pathsep.join([str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]),
        }
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                command(self.port), cwd=directory, env=environ, stdout=log, stderr=subprocess.STDOUT
            )
        try:
            until(self._is_up, timeout=SLOW_START)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Preforked:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _is_up(self) -> bool:
        assert self.process.poll() is None, self.tail()
        try:
            return bool(self.get("/parents"))
        except OSError:
            return False

    def get(self, path: str, timeout: float = 20.0) -> dict[str, Any]:
        """The answer to one request; an error of the app's or of the transport's is raised."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            body = response.read()
            assert response.status == 200, f"{response.status}: {self.tail()}"
            answer: dict[str, Any] = json.loads(body)
            return answer
        finally:
            connection.close()

    def ask(self, count: int, paths: tuple[str, ...] = ("/",)) -> list[dict[str, Any]]:
        """The answers to *count* requests, `CLIENTS` at a time. A worker that retires may drop one: it is repeated."""

        def one(number: int) -> dict[str, Any]:
            token = f"token-{number}"
            path = f"{paths[number % len(paths)]}?token={token}"
            for _ in range(5):
                try:
                    answer = self.get(path)
                except (OSError, http.client.HTTPException):
                    continue
                return {"asked": token, **answer}
            raise AssertionError(f"five times no answer: {self.tail()}")

        with ThreadPoolExecutor(CLIENTS) as clients:
            return list(clients.map(one, range(count)))

    def sessions(self) -> set[int]:
        return {session.pid for session in self.server.sessions(self.name)}

    def tail(self) -> str:
        return self._log.read_text(errors="replace")[-3000:]

    def stop(self) -> None:
        """Stop the workers, and then the master, which may take its time."""
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(SLOW_START)

    def close(self) -> None:
        try:
            if self.process.poll() is None:
                self.stop()
        finally:
            self.process.kill()
            self.process.wait()
            self.server.drop_database(self.name)


def gunicorn(worker: str, *options: str) -> Callable[[int], list[str]]:
    def command(port: int) -> list[str]:
        return [
            *(sys.executable, "-m", "gunicorn", "tests.fork.app:app", "--preload", "--log-level=warning"),
            *(f"--bind=127.0.0.1:{port}", "--workers=3", f"--worker-class={worker}", "--graceful-timeout=2"),
            *(["--threads=4"] if worker == "gthread" else []),
            *(f"--config={_ROOT / 'tests/fork/gunicorn_conf.py'}", *options),
        ]

    return command


@pytest.fixture
def preforked(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[..., Preforked]]:
    """Starts the server of a command on a driver, and stops it when the test is over."""
    running: list[Preforked] = []

    def start(command: Callable[[int], list[str]], driver: str, pool: str = "ours") -> Preforked:
        module_of(driver)
        server = request.getfixturevalue("postgres" if driver.startswith("psycopg") else "mariadb")
        running.append(Preforked(command, server, driver, tmp_path, pool))
        return running[-1]

    yield start
    for server in running:
        server.close()


def strangers(answers: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The answers that were meant for somebody else."""
    return [answer for answer in answers if answer["token"] != answer["asked"]]


def shared(answers: list[dict[str, Any]]) -> set[int]:
    """The sessions that more than one process used."""
    users: dict[int, set[int]] = {}
    for answer in answers:
        users.setdefault(answer["session"], set()).add(answer["process"])
    return {session for session, processes in users.items() if len(processes) > 1}


def assert_apart(server: Preforked, requests: int) -> None:
    parents = set(server.get("/parents")["sessions"])
    assert len(parents) == 3
    answers = [{"asked": "one", **server.get("/inherited?token=one")}, *server.ask(requests, ("/", "/", "/outside"))]
    assert strangers(answers) == []
    assert shared(answers) == set()
    assert {answer["session"] for answer in answers} & parents == set()
    assert len({answer["process"] for answer in answers}) > 1
    assert parents <= server.sessions()


def check_gunicorn(preforked: Callable[..., Preforked], worker: str, driver: str, requests: int) -> None:
    server = preforked(gunicorn(worker, f"--max-requests={requests // 6}"), driver)
    assert_apart(server, requests)
    parents = set(server.get("/parents")["sessions"])
    written = until(server.master_log.read_text, timeout=SLOW_START)  # when a worker has retired
    asked = [{*map(int, line.split())} for line in written.splitlines(keepends=True) if line.endswith("\n")]
    assert all(sessions <= parents for sessions in asked), "the master lost a session"
    assert parents <= server.sessions()


@pytest.mark.parametrize(("worker", "driver"), PAIRS)
def test_preloaded_workers_and_their_master_are_apart(
    preforked: Callable[..., Preforked], worker: str, driver: str
) -> None:
    check_gunicorn(preforked, worker, driver, requests=300)


@pytest.mark.soak
@pytest.mark.parametrize(("worker", "driver"), OTHER_PAIRS)
def test_preloaded_workers_of_other_kinds_and_their_master_are_apart(
    preforked: Callable[..., Preforked], worker: str, driver: str
) -> None:
    check_gunicorn(preforked, worker, driver, requests=1200)


def test_with_playhouses_pool_workers_share_a_session(preforked: Callable[..., Preforked]) -> None:
    """The control: the same app under the same server shows what the tests above look for."""
    server = preforked(gunicorn("sync", "--graceful-timeout=1"), "psycopg2", pool="playhouse")
    (parents,) = server.get("/parents")["sessions"]
    answers = []
    with suppress(OSError, AssertionError):  # once two have used it at once, nothing can be relied upon
        while len({answer["process"] for answer in answers}) < 2:
            answers.append(server.get("/?token=control", timeout=3.0))
    processes = {answer["process"] for answer in answers}
    assert shared(answers) == {parents} or parents not in server.sessions(), f"{processes} were apart"
