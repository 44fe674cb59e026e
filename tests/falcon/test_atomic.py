"""An atomic request is one transaction, which ends by the status of its answer."""

from __future__ import annotations

import sqlite3
from typing import Any

import falcon
import peewee
import pytest
from falcon import testing

from peewee_web.falcon import PeeweeMiddleware, atomic_requests, non_atomic_requests
from tests.falcon.conftest import Kind, Note, saved


def writes(status: Any = None, error: Exception | None = None) -> Any:
    def respond(req: Any, resp: Any) -> None:
        Note.create(text="a")
        if status is not None:
            resp.status = status
        if error is not None:
            raise error

    return respond


@pytest.mark.parametrize("status", [None, falcon.HTTP_201, 399, "299 Mine", falcon.HTTP_304])
def test_a_status_below_400_commits(kind: Kind, db: Any, status: Any) -> None:
    client = kind.serve(writes(status), middleware=[PeeweeMiddleware(db, atomic=True)])
    client.simulate_get("/")
    assert saved() == ["a"]
    assert db.pool_stats().in_use == 0


@pytest.mark.parametrize("status", [falcon.HTTP_400, 404, "599 Mine"])
def test_a_status_of_400_and_more_rolls_back(
    kind: Kind, db: Any, status: Any, caplog: pytest.LogCaptureFixture
) -> None:
    client = kind.serve(writes(status), middleware=[PeeweeMiddleware(db, atomic=True)])
    client.simulate_get("/")
    assert saved() == []
    assert "left open" not in caplog.text


def test_a_redirect_that_is_raised_commits(kind: Kind, db: Any) -> None:
    client = kind.serve(writes(error=falcon.HTTPSeeOther("/")), middleware=[PeeweeMiddleware(db, atomic=True)])
    assert client.simulate_get("/").status_code == 303
    assert saved() == ["a"]


@pytest.mark.parametrize("error", [falcon.HTTPConflict(), falcon.HTTPStatus(409), ZeroDivisionError()])
def test_an_error_that_is_raised_rolls_back(kind: Kind, db: Any, error: Exception) -> None:
    client = kind.serve(writes(error=error), middleware=[PeeweeMiddleware(db, atomic=True)])
    assert client.simulate_get("/").status_code in (409, 500)
    assert saved() == []


def test_an_error_that_a_handler_answers_with_success_commits(kind: Kind, db: Any) -> None:
    """The status decides, as everywhere."""
    client = kind.serve(writes(error=ZeroDivisionError()), middleware=[PeeweeMiddleware(db, atomic=True)])

    def handle(req: Any, resp: Any, error: Any, params: Any) -> None:
        resp.status = 200

    client.app.add_error_handler(ZeroDivisionError, kind.handler(handle))
    assert client.simulate_get("/").status_code == 200
    assert saved() == ["a"]


def test_commit_when_decides(kind: Kind, db: Any) -> None:
    middleware = PeeweeMiddleware(db, atomic=True, commit_when=lambda status: status == 409)
    client = kind.serve(writes(error=falcon.HTTPConflict()), middleware=[middleware])
    client.simulate_get("/")
    assert saved() == ["a"]


def test_what_other_middleware_writes_is_in_the_same_transaction(kind: Kind, db: Any) -> None:
    class Writes:
        def process_request(self, req: Any, resp: Any) -> None:
            Note.create(text="before")

        def process_response(self, req: Any, resp: Any, resource: Any, succeeded: bool) -> None:
            Note.create(text="after")

        async def process_request_async(self, req: Any, resp: Any) -> None:
            Note.create(text="before")

        async def process_response_async(self, req: Any, resp: Any, resource: Any, succeeded: bool) -> None:
            Note.create(text="after")

    for status, expected in ((400, []), (200, ["before", "a", "after"])):
        client = kind.serve(writes(status), middleware=[PeeweeMiddleware(db, atomic=True), Writes()])
        client.simulate_get("/")
        assert saved() == expected


@pytest.mark.parametrize("accept", ["*/*", "image/png"])  # for the latter Falcon's errors have no body
@pytest.mark.parametrize("body", ["nothing", "text", "media", "stream", "sse"])
def test_a_commit_that_fails_is_a_failed_response(
    kind: Kind, db: Any, body: str, accept: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def respond(req: Any, resp: Any) -> None:
        Note.create(text="a")
        if body == "stream" or (body == "sse" and not kind.is_async):
            resp.stream = kind.stream(iter([b"never"]))
        elif body == "sse":
            resp.sse = kind.stream(iter([b"never"]))
        elif body != "nothing":
            setattr(resp, body, "never")
        monkeypatch.setattr(type(db), "commit", fail)

    def fail(database: Any) -> None:
        raise peewee.OperationalError("disk I/O error")

    client = kind.serve(respond, middleware=[PeeweeMiddleware(db, atomic=True)])
    answer = client.simulate_get("/", headers={"Accept": accept})
    assert answer.status_code == 500
    assert "never" not in answer.text
    monkeypatch.undo()
    assert saved() == []
    assert db.pool_stats().in_use == 0


def test_a_failed_commit_can_be_handled_by_the_app(kind: Kind, db: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def respond(req: Any, resp: Any) -> None:
        Note.create(text="a")

        def fail(database: Any) -> None:
            raise peewee.IntegrityError("deferred constraint")

        monkeypatch.setattr(type(db), "commit", fail)

    def conflict(req: Any, resp: Any, error: Any, params: Any) -> None:
        raise falcon.HTTPConflict

    client = kind.serve(respond, middleware=[PeeweeMiddleware(db, atomic=True)])
    client.app.add_error_handler(peewee.IntegrityError, kind.handler(conflict))
    assert client.simulate_get("/").status_code == 409
    monkeypatch.undo()
    assert saved() == []


def test_a_rollback_that_fails_does_not_hide_why(kind: Kind, db: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def respond(req: Any, resp: Any) -> None:
        Note.create(text="a")

        def fail(database: Any) -> None:
            raise peewee.InterfaceError("connection already closed")

        monkeypatch.setattr(type(db), "rollback", fail)
        raise falcon.HTTPConflict

    client = kind.serve(respond, middleware=[PeeweeMiddleware(db, atomic=True)])
    assert client.simulate_get("/").status_code == 409
    monkeypatch.undo()
    assert saved() == []


def test_a_streamed_body_is_no_part_of_the_transaction(kind: Kind, db: Any) -> None:
    def respond(req: Any, resp: Any) -> None:
        Note.create(text="request")

        def chunks() -> Any:
            yield str(saved()).encode()
            Note.create(text="body")

        resp.stream = kind.stream(chunks())

    client = kind.serve(respond, middleware=[PeeweeMiddleware(db, atomic=True)])
    assert client.simulate_get("/").text == "['request']"
    assert saved() == ["request", "body"]


def test_rendering_is_part_of_the_transaction(kind: Kind, db: Any) -> None:
    def respond(req: Any, resp: Any) -> None:
        Note.create(text="a")
        resp.media = object()  # not JSON

    client = kind.serve(respond, middleware=[PeeweeMiddleware(db, atomic=True)])
    assert client.simulate_get("/").status_code == 500
    assert saved() == []


def test_a_responder_opts_out_of_the_transaction(kind: Kind, db: Any) -> None:
    class Resource:
        @non_atomic_requests
        def on_get(self, req: Any, resp: Any) -> None:
            writes(400)(req, resp)

    class AsyncResource:
        @non_atomic_requests
        async def on_get(self, req: Any, resp: Any) -> None:
            writes(400)(req, resp)

    app = kind.app(middleware=[PeeweeMiddleware(db, atomic=True)])
    app.add_route("/", AsyncResource() if kind.is_async else Resource())
    assert testing.TestClient(app).simulate_get("/").status_code == 400
    assert saved() == ["a"]


@pytest.mark.parametrize("lazy", [True, False])
def test_a_responder_opts_in_to_one(kind: Kind, db: Any, lazy: bool) -> None:
    class Resource:
        @atomic_requests
        def on_get(self, req: Any, resp: Any) -> None:
            writes(400)(req, resp)

    class AsyncResource:
        @atomic_requests
        async def on_get(self, req: Any, resp: Any) -> None:
            writes(400)(req, resp)

    app = kind.app(middleware=[PeeweeMiddleware(db, lazy=lazy)])
    app.add_route("/", AsyncResource() if kind.is_async else Resource())
    assert testing.TestClient(app).simulate_get("/").status_code == 400
    assert saved() == []


def test_a_transaction_of_its_own_left_open_rolls_the_whole_back(kind: Kind, db: Any) -> None:
    def respond(req: Any, resp: Any) -> None:
        Note.create(text="a")
        db.session_start()
        Note.create(text="b")

    client = kind.serve(respond, middleware=[PeeweeMiddleware(db, atomic=True)])
    assert client.simulate_get("/").status_code == 500
    assert saved() == []


def test_the_driver_is_out_of_the_transaction_when_the_answer_is_there(kind: Kind, db: Any) -> None:
    client = kind.serve(writes(), middleware=[PeeweeMiddleware(db, atomic=True)])
    client.simulate_get("/")
    lease = db.pool.checkout()
    try:
        assert isinstance(lease.connection, sqlite3.Connection)
        assert not lease.connection.in_transaction
    finally:
        db.pool.checkin(lease)
