"""``atomic=True``: the transaction ends with the status, before the first header is sent."""

from __future__ import annotations

import logging
from typing import Any

import peewee
import pytest
from tornado.web import Finish, HTTPError, stream_request_body

from peewee_web import Databases
from peewee_web.tornado import PeeweeRequestHandler, atomic_requests, non_atomic_requests
from tests.tornado.conftest import Row, Serve, in_use, names, wait_for


class Child(peewee.Model):
    """Its foreign key is checked at COMMIT."""

    parent = peewee.ForeignKeyField(Row, deferrable="INITIALLY DEFERRED")


@pytest.fixture
def child(db: Any) -> None:
    with db, Child.bind_ctx(db):
        Child.create_table()
    Child.bind(db)


class Save(PeeweeRequestHandler):
    """Saves a row, then answers as the query string says."""

    def get(self) -> None:
        Row.create(name="saved")
        how = self.get_query_argument("how", "")
        if how == "redirect":
            self.redirect("/elsewhere")
        elif how == "raise":
            raise ValueError("a bug")
        elif how == "HTTPError":
            raise HTTPError(404)
        elif how == "Finish":
            raise Finish("done")
        elif how == "send_error":
            self.send_error(409)
        else:
            self.set_status(int(how))


@pytest.mark.parametrize(
    ("how", "status", "committed"),
    [
        ("200", 200, True),
        ("201", 201, True),
        ("204", 204, True),
        ("redirect", 302, True),
        ("Finish", 200, True),
        ("400", 400, False),
        ("HTTPError", 404, False),
        ("send_error", 409, False),
        ("raise", 500, False),
        ("503", 503, False),
    ],
)
def test_the_status_decides(serve: Serve, db: Any, how: str, status: int, committed: bool) -> None:
    site = serve(Save, Databases(db, atomic=True))
    assert site.get(f"/?how={how}").status_code == status
    assert in_use(db) == 0
    assert names() == ["saved"] * committed


def test_a_get_that_turns_out_not_modified_commits(serve: Serve, db: Any) -> None:
    class Page(PeeweeRequestHandler):
        def get(self) -> None:
            Row.create(name="seen")
            self.write("the same")

    site = serve(Page, Databases(db, atomic=True))
    etag = site.get().headers["Etag"]
    assert site.get(headers={"If-None-Match": etag}).status_code == 304
    assert names() == ["seen", "seen"]


def test_commit_when_decides_otherwise(serve: Serve, db: Any) -> None:
    site = serve(Save, Databases(db, atomic=True, commit_when=lambda status: status == 409))
    site.get("/?how=200")
    site.get("/?how=send_error")
    assert len(names()) == 1


def test_a_commit_when_that_fails_is_a_failed_response(serve: Serve, db: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)

    def broken(status: int) -> bool:
        raise ValueError("a bug")

    site = serve(Save, Databases(db, atomic=True, commit_when=broken))
    for how in ("200", "Finish", "send_error", "raise"):
        assert site.get(f"/?how={how}").status_code == 500
        assert in_use(db) == 0
    assert names() == []


def test_a_rollback_that_fails_leaves_the_answer_as_it_was(
    serve: Serve, db: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> None:
        raise peewee.InterfaceError("the server is gone")

    monkeypatch.setattr(db, "rollback", refuse)
    site = serve(Save, Databases(db, atomic=True))
    for how, status in (("400", 400), ("HTTPError", 404), ("send_error", 409), ("raise", 500)):
        assert site.get(f"/?how={how}").status_code == status
        wait_for(lambda: in_use(db) == 0)
    assert names() == []


class Orphan(PeeweeRequestHandler):
    """Writes what can't be committed, then answers as the query string says."""

    async def get(self) -> None:
        Child.create(parent=4711)
        how = self.get_query_argument("how")
        if how == "finish":
            self.finish("done")
        elif how == "await finish":
            await self.finish("done")
        elif how == "flush":
            self.write("part")
            await self.flush()
        elif how == "Finish":
            raise Finish("done")
        elif how == "redirect":
            self.redirect("/elsewhere")
        elif how == "styled away":
            raise HTTPError(404)
        else:
            self.write("done")

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        if status_code == 404:
            self.set_status(200)
        self.finish(f"styled {self.get_status()}")


@pytest.mark.usefixtures("child")
@pytest.mark.parametrize("how", ["", "finish", "await finish", "flush", "Finish", "redirect", "styled away"])
def test_a_failed_commit_is_a_failed_response(
    serve: Serve, db: Any, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    site = serve(Orphan, Databases(db, atomic=True))
    for _ in range(2):
        answer = site.get(f"/?how={how}")
        assert (answer.status_code, answer.text) == (500, "styled 500")
        assert in_use(db) == 0


def test_a_transaction_ends_when_a_streamed_response_starts(serve: Serve, db: Any) -> None:
    seen: list[bool] = []

    class Stream(PeeweeRequestHandler):
        async def get(self) -> None:
            Row.create(name="before")
            seen.append(db.in_transaction())
            self.write("part")
            await self.flush()
            seen.append(db.in_transaction())
            Row.create(name="while sending")
            raise ValueError("half-way")

    site = serve(Stream, Databases(db, atomic=True))
    with site.raw() as sock:
        sock.recv(10_000)
    wait_for(lambda: in_use(db) == 0)
    assert seen == [True, False]
    assert names() == ["before", "while sending"]


def test_what_initialize_and_prepare_wrote_is_part_of_it(serve: Serve, db: Any) -> None:
    class Early(PeeweeRequestHandler):
        def initialize(self) -> None:
            Row.create(name="initialize")

        def prepare(self) -> None:
            Row.create(name="prepare")

        def get(self) -> None:
            self.set_status(int(self.get_query_argument("status")))

    site = serve(Early, Databases(db, atomic=True))
    site.get("/?status=400")
    assert names() == []
    site.get("/?status=200")
    assert names() == ["initialize", "prepare"]


@pytest.mark.parametrize("atomic", [True, False])
def test_a_handler_method_opts_in_or_out(serve: Serve, db: Any, atomic: bool) -> None:
    class Methods(PeeweeRequestHandler):
        def write_and_fail(self) -> None:
            Row.create(name=self.request.method or "")
            self.set_status(400)

        async def write_and_fail_async(self) -> None:
            self.write_and_fail()

        get = write_and_fail
        post = atomic_requests(write_and_fail)
        put = atomic_requests(write_and_fail_async)
        patch = non_atomic_requests(write_and_fail)
        delete = non_atomic_requests(write_and_fail_async)

    site = serve(Methods, Databases(db, atomic=atomic))
    for method in ("GET", "POST", "PUT", "PATCH", "DELETE"):
        assert site.client.request(method, "/").status_code == 400
        assert in_use(db) == 0
    assert names() == ([] if atomic else ["GET"]) + ["PATCH", "DELETE"]


def test_a_transaction_left_open_inside_fails_the_whole_request(
    serve: Serve, db: Any, caplog: pytest.LogCaptureFixture
) -> None:
    class LeftOpen(PeeweeRequestHandler):
        def get(self) -> None:
            Row.create(name="outer")
            db.transaction().__enter__()
            Row.create(name="inner")

    assert serve(LeftOpen, Databases(db, atomic=True)).get().status_code == 500
    assert "was left open" in caplog.text
    assert names() == []


def test_a_detached_stream_commits_what_came_before(serve: Serve, db: Any) -> None:
    class Detached(PeeweeRequestHandler):
        async def get(self) -> None:
            Row.create(name="before")
            stream = self.detach()
            await stream.write(b"raw")
            stream.close()

    with serve(Detached, Databases(db, atomic=True)).raw() as sock:
        assert sock.recv(100) == b"raw"
    assert names() == ["before"]


def test_an_upload_that_stops_half_way_is_rolled_back(serve: Serve, db: Any) -> None:
    @stream_request_body
    class Upload(PeeweeRequestHandler):
        def data_received(self, chunk: bytes) -> None:
            Row.create(name="part")

        def post(self) -> None:
            self.write("done")

    site = serve(Upload, Databases(db, atomic=True))
    with site.raw("POST / HTTP/1.1", "Content-Length: 100000\r\n\r\nsome"):
        wait_for(lambda: in_use(db) == 1)
    wait_for(lambda: in_use(db) == 0)
    assert names() == []
    assert site.client.post("/", content=b"all").text == "done"
    assert names() == ["part"]
