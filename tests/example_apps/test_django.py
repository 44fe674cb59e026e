"""What only the Django app has: commands, and a second way to be served."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from .running import RunningApp, environment
from .test_apps import titles
from .test_outages import BODY, EXPORT, is_resting, needs_no_database, wait_until, works


class UnderAsgi(RunningApp):
    """The Django app under uvicorn, on the database of an app that has set it up."""

    stops_with = -signal.SIGTERM  # uvicorn stops in order, and then as if it had not caught the signal

    def command(self) -> list[str]:
        application = "example_apps.django_notes.asgi:application"
        # Django's own view for static files has only an iterator to give, and warns that ASGI makes it read all of it.
        static = ["-W", "ignore:StreamingHttpResponse must consume:Warning"]
        return [*static, "-m", "uvicorn", application, "--port", str(self.port), "--lifespan", "off", "--no-access-log"]


@pytest.fixture
def asgi(tmp_path: Path) -> Iterator[RunningApp]:
    url = f"sqlite:///{tmp_path}/notes.db?max_connections=1&timeout=0.5"
    with RunningApp("django", url, tmp_path / "wsgi.log"):
        pass  # makes the tables
    with UnderAsgi("django", url, tmp_path / "log", expects_tracebacks=True) as running:
        yield running


def test_it_is_the_same_under_asgi(asgi: RunningApp) -> None:
    assert works(asgi)
    assert titles(asgi.http.get("/", params={"q": "lentils"})) == ["Lentil soup"]
    assert asgi.http.post("/notes", data={"title": "Asynchronous"}).status_code == 303
    export = asgi.http.get("/export.csv")
    assert "Asynchronous" in export.text
    assert "Content-Length" not in export.headers
    assert asgi.http.head("/export.csv").content == b""
    needs_no_database(asgi)


def test_an_export_under_asgi_is_sent_as_it_is_read(asgi: RunningApp, tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "notes.db", timeout=30)) as database, database:
        database.executemany(
            "INSERT INTO note (title, body, created_at, updated_at) VALUES (?, ?, ?, ?)",
            [(f"Long {n}", "x" * BODY, "2020-01-01 00:00:00", "2020-01-01 00:00:00") for n in range(EXPORT // BODY)],
        )
    with httpx.stream("GET", f"{asgi.url}/export.csv", timeout=30) as export:
        lines = export.iter_raw(1000)
        next(lines)
        is_resting(asgi)  # it has the only connection
        assert sum(map(len, lines)) > EXPORT
    wait_until(lambda: works(asgi))
    with httpx.stream("GET", f"{asgi.url}/export.csv", timeout=30) as export:
        next(export.iter_raw(1000))
    wait_until(lambda: works(asgi))  # nor does a reader who left keep it


@pytest.mark.parametrize("command", ["check", "diffsettings"])
def test_its_commands_run(tmp_path: Path, command: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-W", "error", "-m", "example_apps.django_notes.manage", command],
        env=environment(),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr == ""
