"""The snippets of docs/tornado.md, run one after the other as they stand; only their databases are SQLite files."""

from __future__ import annotations

import re
import unittest
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from websockets.sync.client import connect

import peewee_web
from tests.tornado.conftest import Serve, in_use, wait_for

PAGE = Path(__file__).parents[2] / "docs" / "tornado.md"


@pytest.fixture
def page(tmp_path: Path) -> Iterator[dict[str, Any]]:
    snippets = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    code = re.sub(r"postgresql://notes@localhost/(\w+)", rf"sqlite:///{tmp_path}/\1.db", "\n".join(snippets))
    names: dict[str, Any] = {"__name__": "page"}
    exec(compile(code, PAGE.name, "exec"), names)
    with peewee_web.scope():
        names["Note"].create_table()
    yield names
    wait_for(lambda: in_use(names["db"]) == 0)
    names["databases"].close()


def test_the_first_app_works(serve: Serve, page: dict[str, Any]) -> None:
    site = serve(page["make_app"]())
    assert site.client.post("/notes", data={"text": "milk"}).json() == {"id": 1}
    assert site.get("/notes").json() == {"notes": ["milk"]}


def test_the_options_work(serve: Serve, page: dict[str, Any]) -> None:
    site = serve(page["app"])
    assert site.client.post("/notes", data={"text": "milk"}).status_code == 201
    assert site.get("/notes").json() == {"notes": ["milk"]}


def test_the_streams_work(serve: Serve, page: dict[str, Any]) -> None:
    with peewee_web.scope():
        page["Note"].insert_many([{"text": f"note {number}"} for number in range(250)]).execute()
    site = serve([(r"/export", page["Export"]), (r"/latest", page["Latest"])], page["db"])
    assert site.get("/export").text.splitlines() == [f"note {number}" for number in range(250)]
    with site.client.stream("GET", "/latest") as stream:
        assert next(stream.iter_lines()) == "data: note 249"
        assert in_use(page["db"]) == 0


def test_the_chat_works(serve: Serve, page: dict[str, Any]) -> None:
    site = serve([(r"/", page["Chat"])], page["db"])
    with connect(site.url.replace("http", "ws")) as socket:
        socket.send("hello")
        assert socket.recv(10) == '{"id": 1}'


def test_the_styled_503_works(serve: Serve, page: dict[str, Any], unreachable: Any) -> None:
    def get(self: Any) -> None:
        unreachable.execute_sql("SELECT 1")

    answer = serve(type("Styled", (page["Base"],), {"get": get}), unreachable).get()
    assert answer.status_code == 503
    assert answer.json() == {"error": "back in a moment"}
    assert answer.headers["Retry-After"]


def test_the_test_case_works(page: dict[str, Any]) -> None:
    result = unittest.TestResult()
    page["NotesTest"]("test_a_note_is_kept").run(result)
    assert (result.errors, result.failures, result.testsRun) == ([], [], 1)
    page["Note"].bind(page["db"])
