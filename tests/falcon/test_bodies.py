"""A streamed body has the connection of its request until it ends, whoever ends it."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import falcon
import pytest
from falcon import testing

from peewee_web.core.scope import current_scope
from peewee_web.falcon import PeeweeMiddleware
from tests.falcon.conftest import LIMIT, Kind, Note, saved, session

WSGI = Kind(is_async=False)


def test_a_streamed_body_queries_on_the_connection_of_its_request(kind: Kind, db: Any) -> None:
    def respond(req: Any, resp: Any) -> None:
        mine = session(db)

        def chunks() -> Iterator[bytes]:
            for _ in range(3):
                yield str(session(db) == mine).encode()

        resp.stream = kind.stream(chunks())

    client = kind.serve(respond, middleware=[PeeweeMiddleware(db)])
    for _ in range(2 * LIMIT):
        assert client.simulate_get("/").text == "TrueTrueTrue"
        assert db.pool_stats().in_use == 0


def test_a_body_may_read_rows_while_it_is_sent(kind: Kind, db: Any) -> None:
    Note.insert_many([{"text": "x"}] * 250).execute()
    db.close()

    def respond(req: Any, resp: Any) -> None:
        resp.stream = kind.stream(note.text.encode() for note in Note.select().iterator())

    client = kind.serve(respond, middleware=[PeeweeMiddleware(db)])
    assert client.simulate_get("/").text == "x" * 250


@pytest.mark.parametrize("begun", [True, False])
def test_head_of_a_streamed_body_gives_the_connection_back(kind: Kind, db: Any, begun: bool) -> None:
    def respond(req: Any, resp: Any) -> None:
        if begun:
            Note.select().count()
        resp.stream = kind.stream(iter([b"never"]))

    client = kind.serve(respond, middleware=[PeeweeMiddleware(db)])
    for _ in range(LIMIT + 1):
        assert client.simulate_head("/").content == b""
        assert db.pool_stats().in_use == 0


@pytest.mark.parametrize("status", [204, falcon.HTTP_304])
def test_a_status_without_a_body_gives_the_connection_back(kind: Kind, db: Any, status: Any) -> None:
    def respond(req: Any, resp: Any) -> None:
        Note.select().count()
        resp.status, resp.stream = status, kind.stream(iter([b"never"]))

    client = kind.serve(respond, middleware=[PeeweeMiddleware(db)])
    for _ in range(LIMIT + 1):
        client.simulate_get("/")
        assert db.pool_stats().in_use == 0


def test_a_stream_beside_a_complete_body_is_not_sent_and_keeps_nothing(kind: Kind, db: Any) -> None:
    def respond(req: Any, resp: Any) -> None:
        Note.select().count()
        resp.stream, resp.text = kind.stream(iter([b"never"])), "text"

    client = kind.serve(respond, middleware=[PeeweeMiddleware(db)])
    for _ in range(LIMIT + 1):
        assert client.simulate_get("/").text == "text"
        assert db.pool_stats().in_use == 0


def test_an_error_after_a_stream_was_set_gives_the_connection_back(kind: Kind, db: Any) -> None:
    def respond(req: Any, resp: Any) -> None:
        Note.select().count()
        resp.stream = kind.stream(iter([b"never"]))
        raise falcon.HTTPConflict

    client = kind.serve(respond, middleware=[PeeweeMiddleware(db)])
    for _ in range(LIMIT + 1):
        assert client.simulate_get("/").status_code == 409
        assert db.pool_stats().in_use == 0


def test_a_body_that_fails_half_way_is_rolled_back(kind: Kind, db: Any) -> None:
    def respond(req: Any, resp: Any) -> None:
        def chunks() -> Iterator[bytes]:
            with db.atomic():
                Note.create(text="lost")
                yield b"x"
                raise ZeroDivisionError

        resp.stream = kind.stream(chunks())

    client = kind.serve(respond, middleware=[PeeweeMiddleware(db)])
    for _ in range(LIMIT + 1):
        with pytest.raises(ZeroDivisionError):
            client.simulate_get("/")
        assert db.pool_stats().in_use == 0
    assert saved() == []
    assert current_scope() is None


# WSGI: the server calls `close()`.


def open_body(app: Any, **environ: Any) -> Any:
    return app({**testing.create_environ(), **environ}, testing.StartResponseMock())


def test_a_client_that_goes_away_ends_the_body(db: Any) -> None:
    closed: list[Any] = []

    def respond(req: Any, resp: Any) -> None:
        def endless() -> Iterator[bytes]:
            try:
                while True:
                    yield str(session(db)).encode()
            finally:
                closed.append(current_scope())

        resp.stream = endless()

    app = WSGI.serve(respond, middleware=[PeeweeMiddleware(db)]).app
    for count in range(1, LIMIT + 2):
        body = open_body(app)
        next(iter(body))
        assert db.pool_stats().in_use == 1
        assert current_scope() is None
        body.close()
        assert db.pool_stats().in_use == 0
        assert len(closed) == count
        assert closed[-1] is not None


def test_a_body_that_is_never_begun_gives_the_connection_back(db: Any) -> None:
    def respond(req: Any, resp: Any) -> None:
        Note.select().count()
        resp.stream = iter([b"x"])

    app = WSGI.serve(respond, middleware=[PeeweeMiddleware(db)]).app
    body = open_body(app)
    assert db.pool_stats().in_use == 1
    body.close()
    assert db.pool_stats().in_use == 0


def test_a_file_like_body_may_query(kind: Kind, db: Any) -> None:
    closed: list[Any] = []

    class Rows:
        def __init__(self) -> None:
            self.left = 3

        def read(self, size: int = -1) -> bytes:
            self.left -= 1
            return str(Note.select().count()).encode() if self.left >= 0 else b""

        def close(self) -> None:
            closed.append(Note.select().count())

    class AsyncRows(Rows):
        async def read(self, size: int = -1) -> bytes:  # type: ignore[override]
            return super().read(size)

        async def close(self) -> None:  # type: ignore[override]
            super().close()

    client = kind.serve(
        lambda req, resp: setattr(resp, "stream", AsyncRows() if kind.is_async else Rows()),
        middleware=[PeeweeMiddleware(db)],
    )
    for _ in range(LIMIT + 1):
        assert client.simulate_get("/").text == "000"
        assert db.pool_stats().in_use == 0
    assert closed == [0] * (LIMIT + 1)


def test_a_file_is_sent_without_a_connection(db: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")

    def respond(req: Any, resp: Any) -> None:
        Note.select().count()
        resp.stream = (tmp_path / "file").open("rb")

    app = WSGI.serve(respond, middleware=[PeeweeMiddleware(db)]).app
    body = open_body(app)
    assert db.pool_stats().in_use == 0
    assert b"".join(body) == b"content"
    body.close()


def test_a_server_finds_the_descriptor_of_a_file(db: Any) -> None:
    """For sendfile(): the server's own wrapper is given what it knows how to send."""

    class FileWrapper:
        def __init__(self, filelike: Any, blksize: int) -> None:
            self.filelike = filelike
            self.close = filelike.close

    def respond(req: Any, resp: Any) -> None:
        resp.stream = tempfile.TemporaryFile()  # noqa: SIM115  # Falcon closes it

    app = WSGI.serve(respond, middleware=[PeeweeMiddleware(db)]).app
    body = open_body(app, **{"wsgi.file_wrapper": FileWrapper})
    assert isinstance(body, FileWrapper)
    assert body.filelike.fileno() > 0
    assert body.filelike.seekable()
    assert body.filelike.tell() == 0
    body.close()
    assert body.filelike.closed


def test_a_file_that_can_not_be_closed_is_no_problem(db: Any) -> None:
    class Reader:
        def __init__(self) -> None:
            self.read = io.BytesIO(b"content").read

    client = WSGI.serve(lambda req, resp: setattr(resp, "stream", Reader()), middleware=[PeeweeMiddleware(db)])
    assert client.simulate_get("/").text == "content"


def test_an_open_transaction_keeps_the_connection_for_a_file_and_is_then_rolled_back(db: Any) -> None:
    def respond(req: Any, resp: Any) -> None:
        db.session_start()
        Note.create(text="lost")
        resp.stream = io.BytesIO(b"content")

    app = WSGI.serve(respond, middleware=[PeeweeMiddleware(db)]).app
    body = open_body(app)
    assert db.pool_stats().in_use == 1
    body.close()
    assert db.pool_stats().in_use == 0
    assert saved() == []
