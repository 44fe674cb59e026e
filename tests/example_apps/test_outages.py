"""What people see when there is no connection to be had: a styled 503 where one is needed, everything else as ever."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest

from .running import APPS, RunningApp
from .test_apps import titles

# More than what waitress (16 MiB) and the sockets between take off the app's hands, so that it waits for the reader.
EXPORT = 32 * 2**20
BODY = 50_000


@pytest.fixture(params=APPS)
def one_connection(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RunningApp]:
    """An app with one connection in its pool, half a second's patience and a long export."""
    url = f"sqlite:///{tmp_path}/notes.db?max_connections=1&timeout=0.5"
    # What was cut off in the middle of a response may be told to the log.
    with RunningApp(request.param, url, tmp_path / "log", expects_tracebacks=True) as running:
        with closing(sqlite3.connect(tmp_path / "notes.db", timeout=30)) as database, database:
            database.executemany(
                "INSERT INTO note (title, body, created_at, updated_at) VALUES (?, ?, ?, ?)",
                [
                    (f"Long {n}", "x" * BODY, "2020-01-01 00:00:00", "2020-01-01 00:00:00")
                    for n in range(EXPORT // BODY)
                ],
            )
        yield running


def is_resting(app: RunningApp) -> None:
    """The database is needed and not there: a page for people, JSON for programs, with when to come back."""
    page = app.http.get("/")
    assert page.status_code == 503
    assert int(page.headers["Retry-After"]) >= 1
    assert page.headers["Content-Type"].startswith("text/html")
    assert "The database is resting" in page.text
    assert f"Try again in {page.headers['Retry-After']} second" in page.text
    assert "/static/notes.css" in page.text
    answer = app.http.get("/api/notes")
    assert answer.status_code == 503
    assert int(answer.headers["Retry-After"]) >= 1
    assert answer.json() == {"error": "The database is resting", "status": 503}
    assert app.http.get("/export.csv").status_code == 503
    ready = app.http.get("/ready")
    assert (ready.status_code, ready.json()["status"]) == (503, 503)
    assert app.http.post("/notes", data={"title": "x"}).status_code == 503


def needs_no_database(app: RunningApp) -> None:
    for path, status in (("/health", 200), ("/notes/new", 200), ("/static/notes.css", 200), ("/nothing", 404)):
        assert app.http.get(path).status_code == status
    assert app.http.post("/notes", data={"title": ""}).status_code == 422


def works(app: RunningApp) -> bool:
    return app.http.get("/").status_code == 200 and app.http.get("/api/notes").status_code == 200


def wait_until(true: Any, timeout: float = 15) -> None:
    deadline = time.monotonic() + timeout
    while not true():
        assert time.monotonic() < deadline, f"still not so after {timeout} s"
        time.sleep(0.05)


def test_while_a_slow_reader_has_the_only_connection_the_rest_works(one_connection: RunningApp) -> None:
    with httpx.stream("GET", f"{one_connection.url}/export.csv", timeout=30) as export:
        lines = export.iter_raw(1000)
        next(lines)
        is_resting(one_connection)
        needs_no_database(one_connection)
        rest = sum(map(len, lines))
    assert rest > EXPORT  # and its export is whole
    wait_until(lambda: works(one_connection))


def test_a_reader_who_leaves_gives_the_connection_back(one_connection: RunningApp) -> None:
    for _ in range(3):
        with httpx.stream("GET", f"{one_connection.url}/export.csv", timeout=30) as export:
            assert export.status_code == 200
            next(export.iter_raw(1000))
        wait_until(lambda: works(one_connection))


def test_head_of_the_export_gives_the_connection_back(one_connection: RunningApp) -> None:
    for _ in range(3):
        assert one_connection.http.head("/export.csv").status_code == 200
        assert works(one_connection)


@pytest.mark.parametrize("name", APPS)
def test_a_server_that_goes_and_comes_back_costs_a_few_503s(name: str, postgres: Any, tmp_path: Path) -> None:
    postgres.create_database(f"example_{name}")
    url = postgres.url(database=f"example_{name}", timeout=1)
    try:
        with RunningApp(name, url, tmp_path / "log", expects_tracebacks=True) as app:
            assert works(app)
            assert "PostgreSQL" in app.http.get("/").text
            postgres.stop()
            is_resting(app)
            needs_no_database(app)
            postgres.start()
            wait_until(lambda: works(app))
            assert app.http.post("/notes", data={"title": "After the rest"}).status_code == 303
            assert "After the rest" in app.http.get("/export.csv").text
    finally:
        postgres.ensure_running()
        postgres.drop_database(f"example_{name}")


@pytest.mark.parametrize("name", APPS)
def test_the_apps_run_on_mariadb_too(name: str, mariadb: Any, tmp_path: Path) -> None:
    mariadb.create_database(f"example_{name}")
    try:
        with RunningApp(name, mariadb.url(database=f"example_{name}"), tmp_path / "log") as app:
            assert "MariaDB" in app.http.get("/").text
            assert app.http.post("/notes", data={"title": "Ölfilm 🐦", "tags": "new"}).status_code == 303
            assert titles(app.http.get("/", params={"q": "Ölfilm", "tag": "new"})) == ["Ölfilm 🐦"]
            assert "Ölfilm 🐦" in app.http.get("/export.csv").text
    finally:
        mariadb.drop_database(f"example_{name}")


def test_notes_with_a_tag_in_common_are_written_at_the_same_time(mariadb: Any, tmp_path: Path) -> None:
    mariadb.create_database("example_common_tag")
    try:
        with RunningApp("flask", mariadb.url(database="example_common_tag"), tmp_path / "log") as app:

            def write(number: int) -> int:
                return httpx.post(f"{app.url}/notes", data={"title": f"{number}", "tags": "common"}).status_code

            with ThreadPoolExecutor(8) as threads:
                assert set(threads.map(write, range(80))) == {303}
    finally:
        mariadb.drop_database("example_common_tag")
