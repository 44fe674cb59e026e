"""`python -m example_apps`: says where it is, and in one line what is wrong."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.servers.ports import free_port

from .running import RunningApp, environment


def run(*arguments: str, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "example_apps", *arguments],
        env=environment(**variables),
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def complaint(*arguments: str, cwd: Path, **variables: str) -> str:
    """The line that it ends with. Before that, at most the log says that it waits for the database."""
    ended = run(*arguments, cwd=cwd, **variables)
    assert ended.returncode == 1, ended
    assert ended.stdout == ""
    *waiting, line = ended.stderr.splitlines()
    assert all("trying again until it is back" in said for said in waiting)
    return line


def test_it_says_where_it_is(app: RunningApp) -> None:
    first, _ = app.output().splitlines()[:2]
    assert first == f"Notes on {app.name.capitalize()} with SQLite:  http://127.0.0.1:{app.port}/"


def test_app_and_port_come_from_the_environment_too(tmp_path: Path) -> None:
    port = free_port()
    child = subprocess.Popen(
        [sys.executable, "-m", "example_apps"],
        env=environment(APP="flask", PORT=str(port)),
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        text=True,
    )
    with child:
        try:
            assert child.stdout is not None
            assert f"Flask with SQLite:  http://127.0.0.1:{port}/" in child.stdout.readline()
            child.stdout.readline()
            assert httpx.get(f"http://127.0.0.1:{port}/health").status_code == 200
        finally:
            child.terminate()
    assert (tmp_path / "notes.db").exists()  # sqlite:///notes.db, where it was started


def test_an_unknown_app(tmp_path: Path) -> None:
    line = complaint("rails", cwd=tmp_path)
    assert line == "example_apps: no app is called 'rails': choose flask, django, falcon, bottle, tornado"


def test_a_port_in_use(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        line = complaint("flask", "--port", str(port), cwd=tmp_path)
    assert line == f"example_apps: can't listen on 127.0.0.1 port {port}: Address already in use"


@pytest.mark.parametrize("port", ["http", "-1", "65536", "٣"])
def test_a_port_that_is_none(tmp_path: Path, port: str) -> None:
    assert "is not a port" in complaint("flask", f"--port={port}", cwd=tmp_path)


@pytest.mark.parametrize("name", ["flask", "django", "falcon", "bottle", "tornado"])
def test_a_database_that_cannot_be_reached(tmp_path: Path, name: str) -> None:
    url = f"postgresql://app:s3cret@127.0.0.1:{free_port()}/notes?timeout=1"
    line = complaint(name, "--port", "0", cwd=tmp_path, DATABASE_URL=url)
    assert line.startswith("example_apps: the database can't be reached: ")
    assert "s3cret" not in line


def test_a_database_that_is_not_there(tmp_path: Path, postgres: Any) -> None:
    line = complaint("flask", "--port", "0", cwd=tmp_path, DATABASE_URL=postgres.url(database="no_such"))
    assert "no_such" in line


def test_a_directory_that_is_not_there(tmp_path: Path) -> None:
    line = complaint("flask", "--port", "0", cwd=tmp_path, DATABASE_URL="sqlite:///nowhere/notes.db")
    assert line.startswith("example_apps: the database can't be reached: ")


@pytest.mark.parametrize("url", ["oracle://x/y", "notes.db", "postgresql://host:port/name"])
@pytest.mark.parametrize("name", ["flask", "django", "falcon", "bottle", "tornado"])
def test_a_database_url_that_is_none(tmp_path: Path, name: str, url: str) -> None:
    line = complaint(name, "--port", "0", cwd=tmp_path, DATABASE_URL=url)
    assert line.startswith("example_apps: DATABASE_URL can't be used: ")


@pytest.mark.parametrize(
    ("missing", "url", "extra"),
    [
        (["psycopg", "psycopg2"], "postgresql://127.0.0.1/notes", "peewee-web[postgres]"),
        (["pymysql", "MySQLdb"], "mysql://127.0.0.1/notes", "peewee-web[mysql]"),
        (["flask"], "sqlite:///notes.db", "peewee-web[examples]"),
    ],
)
def test_something_that_is_not_installed(tmp_path: Path, missing: list[str], url: str, extra: str) -> None:
    # A None in sys.modules is how Python marks a module that can't be imported.
    hidden = "".join(f"sys.modules[{name!r}] = None\n" for name in missing)
    (tmp_path / "sitecustomize.py").write_text(f"import sys\n{hidden}")
    path = f"{tmp_path}:{environment()['PYTHONPATH']}"
    line = complaint("flask", "--port", "0", cwd=tmp_path, DATABASE_URL=url, PYTHONPATH=path)
    assert extra in line
