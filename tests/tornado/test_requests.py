"""The scope of a request: whichever hooks the app overrides, whatever kind of handler it is, however it ends."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import os
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest
from tornado import gen, testing
from tornado.httpclient import AsyncHTTPClient
from tornado.ioloop import IOLoop
from tornado.iostream import StreamClosedError
from tornado.web import Application, Finish, HTTPError, RequestHandler, StaticFileHandler, UIModule, stream_request_body

import peewee_web
from peewee_web.core.scope import current_scope
from peewee_web.tornado import PeeweeMixin, PeeweeRequestHandler
from tests.tornado.conftest import MAX_CONNECTIONS, Row, Serve, in_use, names, reset, session, wait_for


class Sync(PeeweeRequestHandler):
    def get(self) -> None:
        self.write(str(Row.select().count()))


class Async(PeeweeRequestHandler):
    async def get(self) -> None:
        first = session()
        await asyncio.sleep(0.005)
        assert session() == first
        self.write(str(Row.select().count()))


class Generator(PeeweeRequestHandler):
    @gen.coroutine
    def get(self) -> Any:
        first = session()
        yield gen.sleep(0.005)
        assert session() == first
        self.write(str(Row.select().count()))


class AfterItsOtherBases(RequestHandler):
    def prepare(self) -> None:
        pass


class MixedInLast(AfterItsOtherBases, PeeweeMixin):
    def get(self) -> None:
        self.write(str(Row.select().count()))


class MixedInFirst(PeeweeMixin, AfterItsOtherBases):
    def get(self) -> None:
        self.write(str(Row.select().count()))


@pytest.mark.parametrize("handler", [Sync, Async, Generator, MixedInFirst, MixedInLast])
def test_a_handler_of_any_kind_gives_its_connection_back(serve: Serve, db: Any, handler: Any) -> None:
    site = serve(handler, db)
    for _ in range(MAX_CONNECTIONS + 2):
        assert site.get().text == "0"
        assert in_use(db) == 0
    assert db.pool_stats().idle == 1


def test_a_request_without_a_query_takes_no_connection(serve: Serve, db: Any) -> None:
    class Ping(PeeweeRequestHandler):
        def get(self) -> None:
            self.write("pong")

    db.close_all()
    site = serve(Ping, db)
    assert site.get().text == "pong"
    assert site.get("/missing").status_code == 404
    assert db.pool_stats().idle == 0


def test_all_hooks_of_a_request_run_on_one_connection(serve: Serve, db: Any) -> None:
    seen: list[tuple[str, int]] = []

    class Hooks(PeeweeRequestHandler):
        def initialize(self) -> None:
            seen.append(("initialize", session()))

        def prepare(self) -> None:
            seen.append(("prepare", session()))

        def get_current_user(self) -> str:
            seen.append(("current_user", session()))
            return "me"

        async def get(self) -> None:
            assert self.current_user == "me"
            seen.append(("get", session()))
            seen.append(("thread", await asyncio.to_thread(session)))

        def on_finish(self) -> None:
            seen.append(("on_finish", session()))

    site = serve(Hooks, db)
    site.get()
    wait_for(lambda: len(seen) == 6)
    assert [name for name, _ in seen] == ["initialize", "prepare", "current_user", "get", "thread", "on_finish"]
    assert len({connection for _, connection in seen}) == 1


def test_no_scope_is_left_current_on_the_servers_loop(serve: Serve, db: Any) -> None:
    site = serve(Sync, db)
    site.get()
    found: list[Any] = []
    site.call(lambda: found.append(current_scope()))
    wait_for(lambda: bool(found))
    assert found == [None]


def test_interleaved_coroutines_have_their_own_connections(serve: Serve, db: Any) -> None:
    class Interleave(PeeweeRequestHandler):
        async def get(self) -> None:
            first = session()
            await asyncio.sleep(0.02)
            self.write(f"{first == session()}")

    site = serve(Interleave, db)
    with ThreadPoolExecutor(MAX_CONNECTIONS) as threads:
        assert [answer.text for answer in threads.map(lambda _: site.get(), range(20))] == ["True"] * 20


def test_a_request_inside_a_request_leaves_the_outer_one_alone(serve: Serve, db: Any) -> None:
    class Outer(PeeweeRequestHandler):
        async def get(self) -> None:
            outer = session()
            with db.atomic():
                Row.create(name="outer")
                inner = await AsyncHTTPClient().fetch(f"http://{self.request.host}/inner")
                assert session() == outer
            self.write(f"{int(inner.body) != outer}")

    class Inner(PeeweeRequestHandler):
        def get(self) -> None:
            self.write(str(session()))

    assert serve([(r"/", Outer), (r"/inner", Inner)], db).get().text == "True"
    assert names() == ["outer"]


# However it ends.


def _raises(_: Any) -> None:
    Row.select().count()
    raise ValueError("a bug")


def _leaves_a_transaction_open(_: Any) -> None:
    db = Row._meta.database  # type: ignore[attr-defined]
    db.session_start()
    Row.create(name="lost")


def _both(handler: Any) -> None:
    _leaves_a_transaction_open(handler)
    raise ValueError("a bug")


@pytest.mark.parametrize("hook", ["prepare", "get", "on_finish", "set_default_headers"])
@pytest.mark.parametrize("what", [_raises, _leaves_a_transaction_open, _both])
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_hook_that_misbehaves_harms_nobody_else(
    serve: Serve, db: Any, hook: str, what: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    misbehaving = type("Misbehaving", (PeeweeRequestHandler,), {"get": lambda self: None, hook: what})
    site = serve([(r"/", misbehaving), (r"/sync", Sync)], db)
    for _ in range(MAX_CONNECTIONS + 2):
        with site.raw() as sock:
            sock.recv(100)
        wait_for(lambda: in_use(db) == 0)
        assert site.get("/sync").text == "0"


def test_an_initialize_that_raises_leaks_nothing(serve: Serve, db: Any, caplog: pytest.LogCaptureFixture) -> None:
    class Broken(PeeweeRequestHandler):
        def initialize(self) -> None:
            _both(self)

    site = serve([(r"/", Broken), (r"/sync", Sync)], db)
    for _ in range(MAX_CONNECTIONS + 2):
        with site.raw() as sock:
            assert sock.recv(100) == b""  # what Tornado does
        assert in_use(db) == 0
    assert "transaction opened at" in caplog.text
    assert site.get("/sync").text == "0"


def test_a_transaction_left_open_is_warned_about_with_its_place(
    serve: Serve, db: Any, caplog: pytest.LogCaptureFixture
) -> None:
    class LeftOpen(PeeweeRequestHandler):
        get = _leaves_a_transaction_open

    assert serve(LeftOpen, db).get().status_code == 200
    wait_for(lambda: "was left open" in caplog.text)
    assert f"{__file__}:" in caplog.text
    assert names() == []


@pytest.mark.parametrize("how", ["redirect", "HTTPError", "Finish", "send_error", "finish in prepare", "405", "xsrf"])
def test_a_request_that_ends_early_gives_its_connection_back(serve: Serve, db: Any, how: str) -> None:
    class Early(PeeweeRequestHandler):
        def prepare(self) -> None:
            Row.select().count()
            if how == "finish in prepare":
                self.finish("early")

        def get(self) -> None:
            if how == "redirect":
                self.redirect("/elsewhere")
            elif how == "HTTPError":
                raise HTTPError(409)
            elif how == "Finish":
                raise Finish("early")
            else:
                self.send_error(410)

        def write_error(self, status_code: int, **kwargs: Any) -> None:
            self.finish(f"{status_code} {Row.select().count()}")

    site = serve(Early, db, xsrf_cookies=True)
    method = {"405": "PURGE", "xsrf": "POST"}.get(how, "GET")
    answer = site.client.request(method, "/")
    expected = {
        "redirect": (302, ""),
        "HTTPError": (409, "409 0"),
        "Finish": (200, "early"),
        "send_error": (410, "410 0"),
        "finish in prepare": (200, "early"),
        "405": (405, "405 0"),
        "xsrf": (403, "403 0"),
    }
    assert (answer.status_code, answer.text) == expected[how]
    assert in_use(db) == 0


def test_head_and_not_modified_give_the_connection_back(serve: Serve, db: Any) -> None:
    class Page(PeeweeRequestHandler):
        def get(self) -> None:
            self.write(f"page {Row.select().count()}")

        head = get

    site = serve(Page, db)
    etag = site.get().headers["Etag"]
    assert site.get(headers={"If-None-Match": etag}).status_code == 304
    assert site.client.head("/").content == b""
    assert in_use(db) == 0


def test_ui_modules_and_templates_query_on_the_connection_of_the_request(serve: Serve, db: Any, tmp_path: Any) -> None:
    class Count(UIModule):
        def render(self) -> str:
            return f"{Row.select().count()} {session() == self.handler.session}"

    class Page(PeeweeRequestHandler):
        def get(self) -> None:
            self.session = session()
            self.render("page.html", rows=Row.select())

    (tmp_path / "page.html").write_text("{% for row in rows %}{{ row.name }} {% end %}{% module Count() %}")
    Row.create(name="one")
    db.close()
    site = serve(Page, db, template_path=str(tmp_path), ui_modules={"Count": Count})
    assert site.get().text == "one 1 True"
    assert in_use(db) == 0


def test_code_that_outlives_its_request_is_told_so(serve: Serve, db: Any) -> None:
    met: list[type[BaseException]] = []

    async def later() -> None:
        await asyncio.sleep(0.05)
        try:
            Row.select().count()
        except peewee_web.ScopeClosed as error:
            met.append(type(error))
        with peewee_web.scope():
            Row.create(name="in a scope of its own")

    class FireAndForget(PeeweeRequestHandler):
        def get(self) -> None:
            Row.select().count()
            IOLoop.current().spawn_callback(later)

    assert serve(FireAndForget, db).get().status_code == 200
    wait_for(lambda: bool(met))
    wait_for(lambda: names() == ["in a scope of its own"])


def test_an_executor_is_given_the_context_by_hand(serve: Serve, db: Any) -> None:
    class Executor(PeeweeRequestHandler):
        async def get(self) -> None:
            own = session()
            run = contextvars.copy_context().run
            self.write(f"{own == await IOLoop.current().run_in_executor(None, run, session)}")

    assert serve(Executor, db).get().text == "True"


# Slow clients, and those that go away.

LARGE = "x" * 20_000_000  # more than the buffers of two sockets hold


@pytest.mark.parametrize("how", ["write", "finish", "await finish"])
def test_a_slow_client_holds_no_connection(serve: Serve, db: Any, how: str) -> None:
    finished: list[bool] = []

    class Large(PeeweeRequestHandler):
        async def get(self) -> None:
            Row.select().count()
            if how == "write":
                self.write(LARGE)
            elif how == "finish":
                self.finish(LARGE)
            else:
                await self.finish(LARGE)
                finished.append(True)

        def on_finish(self) -> None:
            Row.select().count()

    site = serve([(r"/", Large), (r"/sync", Sync)], db)
    with site.raw(receive_buffer=4096) as sock:
        assert sock.recv(12) == b"HTTP/1.1 200"
        assert site.get("/sync").text == "0"
        assert in_use(db) == 0
        assert not finished


def test_code_after_the_response_may_query(serve: Serve, db: Any) -> None:
    class After(PeeweeRequestHandler):
        async def get(self) -> None:
            await self.finish("sent")
            Row.create(name="after")

    assert serve(After, db).get().text == "sent"
    wait_for(lambda: names() == ["after"])


def test_finishing_inside_a_transaction_does_not_break_it(serve: Serve, db: Any) -> None:
    class Inside(PeeweeRequestHandler):
        async def get(self) -> None:
            with db.atomic():
                Row.create(name="before")
                await self.finish("sent")
                Row.create(name="after")

    assert serve(Inside, db).get().text == "sent"
    wait_for(lambda: names() == ["before", "after"])


def test_a_streamed_response_keeps_its_connection(serve: Serve, db: Any) -> None:
    class Stream(PeeweeRequestHandler):
        async def get(self) -> None:
            first = session()
            for _ in range(3):
                self.write(f"{session() == first} ")
                await self.flush()
                await asyncio.sleep(0.002)

    site = serve(Stream, db)
    for _ in range(MAX_CONNECTIONS + 2):
        assert site.get().text == "True True True "
        assert in_use(db) == 0


@pytest.mark.parametrize("rst", [False, True], ids=["fin", "rst"])
def test_a_client_that_goes_away_mid_body_gives_the_connection_back(serve: Serve, db: Any, rst: bool) -> None:
    ended: list[type[BaseException]] = []

    class Endless(PeeweeRequestHandler):
        async def get(self) -> None:
            try:
                while True:
                    self.write(f"{Row.select().count()}" * 1000)
                    await self.flush()
                    await asyncio.sleep(0.001)
            except StreamClosedError as error:
                ended.append(type(error))
                raise

        def on_connection_close(self) -> None:
            pass

    site = serve(Endless, db)
    for count in range(1, MAX_CONNECTIONS + 3):
        with site.raw() as sock:
            sock.recv(10_000)
            if rst:
                reset(sock)
        wait_for(lambda count=count: len(ended) == count)
        wait_for(lambda: in_use(db) == 0)


@pytest.mark.parametrize("rst", [False, True], ids=["fin", "rst"])
def test_a_long_poll_whose_client_went_away_holds_no_connection(serve: Serve, db: Any, rst: bool) -> None:
    waiting: list[bool] = []
    closed: list[int] = []

    class LongPoll(PeeweeRequestHandler):
        async def get(self) -> None:
            Row.select().count()
            waiting.append(True)
            await asyncio.Event().wait()  # for ever

        def on_connection_close(self) -> None:
            closed.append(Row.select().count())

    site = serve(LongPoll, db)
    for count in range(1, MAX_CONNECTIONS + 3):
        with site.raw() as sock:
            wait_for(lambda count=count: len(waiting) == count)
            assert in_use(db) == 1
            if rst:
                reset(sock)
        wait_for(lambda: in_use(db) == 0)
        assert len(closed) == count


def test_a_client_that_goes_away_does_not_end_the_handlers_transaction(serve: Serve, db: Any) -> None:
    closed: list[bool] = []
    go_on = asyncio.Event()

    class Careful(PeeweeRequestHandler):
        async def get(self) -> None:
            with db.atomic():
                Row.create(name="one")
                await go_on.wait()
                Row.create(name="two")

        def on_connection_close(self) -> None:
            closed.append(True)

    site = serve(Careful, db)
    with site.raw():
        wait_for(lambda: in_use(db) == 1)
    wait_for(lambda: bool(closed))
    site.call(go_on.set)
    wait_for(lambda: names() == ["one", "two"])


# Streamed request bodies: Tornado calls data_received() from the connection's task.


@stream_request_body
class Upload(PeeweeRequestHandler):
    sessions: list[int]
    ends: list[str] = []  # noqa: RUF012

    def prepare(self) -> None:
        self.sessions = [session()]

    def data_received(self, chunk: bytes) -> None:
        self.sessions.append(session())

    def post(self) -> None:
        self.sessions.append(session())
        self.write(f"{len(self.sessions) > 3} {len(set(self.sessions))}")

    def on_connection_close(self) -> None:  # without super(), which would end the wait for the body
        self.ends.append(f"{session() == self.sessions[0]}")


class AsyncUpload(Upload):
    async def data_received(self, chunk: bytes) -> None:  # type: ignore[override]
        before = session()
        await asyncio.sleep(0.001)
        assert session() == before
        self.sessions.append(before)


class FailingUpload(Upload):
    def data_received(self, chunk: bytes) -> None:
        Row.select().count()
        raise ValueError("a bug")


@pytest.mark.parametrize("handler", [Upload, AsyncUpload])
def test_a_streamed_upload_is_received_on_the_connection_of_its_request(serve: Serve, db: Any, handler: Any) -> None:
    site = serve(handler, db)
    assert site.client.post("/", content=b"x" * 300_000).text == "True 1"
    assert in_use(db) == 0


@pytest.mark.parametrize("handler", [Upload, AsyncUpload])
def test_a_client_that_goes_away_mid_upload_gives_the_connection_back(serve: Serve, db: Any, handler: Any) -> None:
    Upload.ends.clear()
    site = serve(handler, peewee_web.Databases(db, atomic=True))
    for count in range(1, MAX_CONNECTIONS + 3):
        with site.raw("POST / HTTP/1.1", "Content-Length: 100000\r\n\r\nsome"):
            wait_for(lambda: in_use(db) == 1)
        wait_for(lambda: in_use(db) == 0)
        wait_for(lambda count=count: len(Upload.ends) == count)
    assert Upload.ends == ["True"] * (MAX_CONNECTIONS + 2)


def test_an_upload_that_fails_gives_the_connection_back(serve: Serve, db: Any) -> None:
    site = serve(FailingUpload, peewee_web.Databases(db, atomic=True))
    for _ in range(MAX_CONNECTIONS + 2):
        with site.raw("POST / HTTP/1.1", "Content-Length: 4\r\n\r\nsome") as sock:
            assert sock.recv(100) == b""  # what Tornado does
        wait_for(lambda: in_use(db) == 0)


def test_a_detached_stream_gives_the_connection_back_when_its_handler_ends(serve: Serve, db: Any) -> None:
    class Detached(PeeweeRequestHandler):
        async def get(self) -> None:
            count = Row.select().count()
            stream = self.detach()
            await stream.write(f"raw {count} {Row.select().count()}".encode())
            stream.close()

    site = serve(Detached, db)
    for _ in range(MAX_CONNECTIONS + 2):
        with site.raw() as sock:
            assert sock.recv(100) == b"raw 0 0"
            wait_for(lambda: in_use(db) == 0)


def test_a_file_may_be_served_after_a_look_into_the_database(serve: Serve, db: Any, tmp_path: Any) -> None:
    class Guarded(PeeweeMixin, StaticFileHandler):
        def prepare(self) -> None:
            if not Row.select().where(Row.name == "allowed").exists():
                raise HTTPError(403)

    (tmp_path / "file.txt").write_text("secret")
    site = serve([(r"/files/(.*)", Guarded, {"path": os.fspath(tmp_path)})], db)
    assert site.get("/files/file.txt").status_code == 403
    with peewee_web.scope():
        Row.create(name="allowed")
    assert site.get("/files/file.txt").text == "secret"
    wait_for(lambda: in_use(db) == 0)  # the file is out before the response is finished


def test_a_cancelled_handler_gives_the_connection_back(serve: Serve, db: Any) -> None:
    tasks: list[asyncio.Task[Any]] = []

    class Cancelled(PeeweeRequestHandler):
        async def get(self) -> None:
            db.session_start()
            Row.create(name="lost")
            task = asyncio.current_task()
            assert task is not None
            tasks.append(task)
            await asyncio.sleep(60)

    site = serve(Cancelled, db)
    with site.raw():
        wait_for(lambda: bool(tasks))
        site.call(tasks[0].cancel)
        wait_for(lambda: in_use(db) == 0)
    assert names() == []


def test_a_handler_is_freed_as_soon_as_its_request_is_over(serve: Serve, db: Any) -> None:
    """The scope makes no reference cycle, so nothing waits for the garbage collector."""
    freed: list[bool] = []

    class Freed(PeeweeRequestHandler):
        def get(self) -> None:
            self.write(str(Row.select().count()))

        def __del__(self) -> None:
            freed.append(True)

    import gc

    site = serve(Freed, peewee_web.Databases(db, lazy=False))
    gc.disable()
    try:
        site.get()
        site.get()  # Tornado keeps the last one until the connection's next request
        wait_for(lambda: bool(freed))
    finally:
        gc.enable()


# Under Tornado's own test case.


def test_it_works_in_tornados_own_test_case(db: Any) -> None:
    class Case(testing.AsyncHTTPTestCase):
        def get_app(self) -> Application:
            return Application([(r"/", Async)], peewee=db)

        def test(self) -> None:
            Row.create(name="arranged by the test, on its thread's own connection")
            assert self.fetch("/").body == b"1"
            db.close()

    result = Case("test").run()
    assert result is not None
    assert (result.errors, result.failures, result.testsRun) == ([], [], 1)


def test_a_blocked_handler_is_what_it_was(serve: Serve, db: Any) -> None:
    """A sync handler keeps the loop to itself; the requests that waited for it find its connection idle."""

    class Blocking(PeeweeRequestHandler):
        def get(self) -> None:
            first = session()
            time.sleep(0.02)
            self.write(str(first == session()))

    site = serve(Blocking, db)
    with ThreadPoolExecutor(2 * MAX_CONNECTIONS) as threads:
        answers = list(threads.map(partial(site.get), ["/"] * 4 * MAX_CONNECTIONS))
    assert [answer.text for answer in answers] == ["True"] * 4 * MAX_CONNECTIONS
    assert db.pool_stats().idle == 1
