"""No connection is 503 with Retry-After, by way of the app's own ``write_error``; and only where one was needed."""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import peewee
import pytest
from tornado.web import stream_request_body

from peewee_web import Databases
from peewee_web.tornado import PeeweeRequestHandler
from tests.tornado.conftest import MAX_CONNECTIONS, Row, Serve, in_use, session, wait_for


class Query(PeeweeRequestHandler):
    def get(self) -> None:
        self.settings["db"].execute_sql("SELECT 1")


class Ping(PeeweeRequestHandler):
    def get(self) -> None:
        self.write("pong")


class Styled(Query):
    def set_default_headers(self) -> None:
        self.set_header("X-App", "mine")

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        self.finish({"status": status_code, "again": self._headers.get("Retry-After")})


ROUTES = [(r"/", Query), (r"/styled", Styled), (r"/ping", Ping)]


def test_an_unreachable_server_is_503_only_where_a_query_was_needed(serve: Serve, unreachable: Any) -> None:
    site = serve(ROUTES, unreachable, db=unreachable)
    answer = site.get()
    assert answer.status_code == 503
    assert int(answer.headers["Retry-After"]) >= 1
    assert "Service Unavailable" in answer.text
    assert "127.0.0.1" not in answer.text
    assert "someone" not in answer.text
    assert site.get("/ping").text == "pong"
    assert site.get("/missing").status_code == 404


def test_the_app_styles_it_in_write_error(serve: Serve, unreachable: Any) -> None:
    answer = serve(ROUTES, unreachable, db=unreachable).get("/styled")
    assert answer.status_code == 503
    assert answer.headers["X-App"] == "mine"
    assert answer.json() == {"status": 503, "again": answer.headers["Retry-After"]}


def test_an_error_page_that_queries_does_not_hide_it(
    serve: Serve, unreachable: Any, caplog: pytest.LogCaptureFixture
) -> None:
    class Queries(Query):
        def write_error(self, status_code: int, **kwargs: Any) -> None:
            unreachable.execute_sql("SELECT 1")

    answer = serve(Queries, unreachable, db=unreachable).get()
    assert answer.status_code == 503
    assert int(answer.headers["Retry-After"]) >= 1


def test_it_is_logged_in_one_line(serve: Serve, unreachable: Any, caplog: pytest.LogCaptureFixture) -> None:
    serve(ROUTES, unreachable, db=unreachable).get("/?x=1")
    (record,) = [record for record in caplog.records if record.name == "tornado.general"]
    assert record.levelno == logging.WARNING
    assert record.exc_info is None
    assert record.getMessage().startswith("503 GET /?x=1 (127.0.0.1): no connection to the database: ")
    assert "secret" not in caplog.text


@pytest.mark.parametrize("hook", ["prepare", "get_current_user"])
def test_it_does_not_matter_where_the_query_was(serve: Serve, unreachable: Any, hook: str) -> None:
    def query(self: PeeweeRequestHandler) -> None:
        unreachable.execute_sql("SELECT 1")

    def get(self: PeeweeRequestHandler) -> None:
        self.write(repr(self.current_user))

    handler = type("Queries", (PeeweeRequestHandler,), {"get": get, hook: query})
    assert serve(handler, unreachable).get().status_code == 503


def test_other_database_errors_stay_what_they_were(serve: Serve, db: Any, caplog: pytest.LogCaptureFixture) -> None:
    class Wrong(PeeweeRequestHandler):
        def get(self) -> None:
            db.execute_sql("SELECT nonsense")

        def write_error(self, status_code: int, **kwargs: Any) -> None:
            error = kwargs["exc_info"][1]
            self.finish(type(error).__name__)

    answer = serve(Wrong, db).get()
    assert (answer.status_code, answer.text) == (500, peewee.OperationalError.__name__)
    assert "Retry-After" not in answer.headers
    assert "Uncaught exception" in caplog.text


def test_one_that_comes_after_the_headers_cuts_the_response_short(
    serve: Serve, unreachable: Any, caplog: pytest.LogCaptureFixture
) -> None:
    class TooLate(PeeweeRequestHandler):
        async def get(self) -> None:
            self.set_header("Content-Length", "100")
            self.write("part")
            await self.flush()
            unreachable.execute_sql("SELECT 1")

    with serve(TooLate, unreachable).raw() as sock:
        received = b""
        while chunk := sock.recv(1000):
            received += chunk
    assert received.startswith(b"HTTP/1.1 200")
    assert received.endswith(b"part")


# lazy=False.


class Hooks(PeeweeRequestHandler):
    called: list[str]

    def prepare(self) -> None:
        self.settings["called"].append("prepare")

    def get(self) -> None:
        self.settings["called"].append("get")
        self.write(str(in_use(Row._meta.database)))  # type: ignore[attr-defined]


class AsyncHooks(Hooks):
    async def prepare(self) -> None:  # type: ignore[override]
        await asyncio.sleep(0)
        self.settings["called"].append("prepare")


@pytest.mark.parametrize("handler", [Hooks, AsyncHooks])
def test_eager_requests_connect_before_any_of_the_apps_hooks(serve: Serve, db: Any, handler: Any) -> None:
    called: list[str] = []
    site = serve(handler, Databases(db, lazy=False), called=called)
    assert site.get().text == "1"
    assert called == ["prepare", "get"]
    assert in_use(db) == 0


@pytest.mark.parametrize("handler", [Hooks, AsyncHooks])
def test_eager_requests_are_503_before_any_of_the_apps_hooks(serve: Serve, unreachable: Any, handler: Any) -> None:
    called: list[str] = []
    answer = serve(handler, Databases(unreachable, lazy=False), called=called).get()
    assert answer.status_code == 503
    assert int(answer.headers["Retry-After"]) >= 1
    assert called == []


def test_eager_requests_wait_their_turn_without_blocking_the_loop(serve: Serve, db: Any) -> None:
    class Hold(PeeweeRequestHandler):
        async def get(self) -> None:
            first = session()
            await asyncio.sleep(0.05)
            self.write(f"{first == session()}")

    site = serve(Hold, Databases(db, lazy=False))
    with ThreadPoolExecutor(3 * MAX_CONNECTIONS) as threads:
        answers = list(threads.map(lambda _: site.get(), range(3 * MAX_CONNECTIONS)))
    assert [(answer.status_code, answer.text) for answer in answers] == [(200, "True")] * 3 * MAX_CONNECTIONS


@pytest.mark.parametrize("lazy", [True, False])
def test_an_exhausted_pool_is_503_and_harms_nobody_else(serve: Serve, db: Any, lazy: bool) -> None:
    release = asyncio.Event()

    class Hold(PeeweeRequestHandler):
        async def get(self) -> None:
            session()
            await release.wait()

    site = serve([(r"/", Query), (r"/hold", Hold)], Databases(db, lazy=lazy), db=db)
    with ThreadPoolExecutor(MAX_CONNECTIONS) as threads:
        holders = [threads.submit(site.get, "/hold") for _ in range(MAX_CONNECTIONS)]
        wait_for(lambda: in_use(db) == MAX_CONNECTIONS)
        answer = site.get()
        assert answer.status_code == 503
        assert int(answer.headers["Retry-After"]) >= 1
        assert site.get("/missing").status_code == 404
        site.call(release.set)
        assert [holder.result().status_code for holder in holders] == [200] * MAX_CONNECTIONS
    assert site.get().status_code == 200


def test_an_eager_upload_that_gets_no_connection_is_answered(serve: Serve, unreachable: Any) -> None:
    @stream_request_body
    class Upload(PeeweeRequestHandler):
        def data_received(self, chunk: bytes) -> None:
            raise AssertionError("never called")

        def post(self) -> None:
            raise AssertionError("never called")

    site = serve(Upload, Databases(unreachable, lazy=False))
    assert site.client.post("/", content=b"x" * 1000).status_code == 503
