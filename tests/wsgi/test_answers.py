"""What the middleware answers itself: the outcome of an atomic request, and 503 where there was no connection."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import peewee
import pytest

import peewee_web
from peewee_web import Databases, PooledSqliteDatabase, PoolTimeout
from peewee_web.wsgi import PeeweeMiddleware, atomic_requests, non_atomic_requests
from tests.core.test_transactions import break_commit, strict
from tests.core.working import in_use, query, save, saved
from tests.wsgi.server import Answer, validated

__all__ = ["strict"]

TEXT = [("Content-Type", "text/plain")]
KINDS = ["list", "generator", "late", "write"]


def writing(database: Any, status: str, kind: str, act: Callable[[Any], object] = save) -> Any:
    """An app that writes to the database and answers *status*, in one of the ways that PEP 3333 allows."""

    def plain(environ: Any, start_response: Any) -> Any:
        act(database)
        write = start_response(status, TEXT)
        if kind == "write":
            write(b"o")
            write(b"k")
            return []
        return [b"ok"] if kind == "list" else iter([b"o", b"k"])

    def late(environ: Any, start_response: Any) -> Iterator[bytes]:
        act(database)
        start_response(status, TEXT)
        yield b"o"
        yield b"k"

    return late if kind == "late" else plain


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("status", "expected"), [("200 OK", ["x"]), ("302 Found", ["x"]), ("400 Bad", []), ("500 E", [])]
)
def test_an_atomic_request_commits_by_its_status(
    database: PooledSqliteDatabase, kind: str, status: str, expected: list[str]
) -> None:
    answer = validated(PeeweeMiddleware(writing(database, status, kind), database, atomic=True))
    assert (answer.body, saved(database)) == (b"ok", expected)


@pytest.mark.parametrize("kind", KINDS)
def test_an_atomic_request_is_committed_before_its_headers_are_out(database: PooledSqliteDatabase, kind: str) -> None:
    seen: list[list[str]] = []

    class Watching(Answer):
        def _start_response(self, *arguments: Any) -> Any:
            seen.append(saved(database))
            return super()._start_response(*arguments)

    Watching(PeeweeMiddleware(writing(database, "200 OK", kind), database, atomic=True))
    assert seen == [["x"]]


@pytest.mark.parametrize("kind", KINDS)
def test_a_failed_commit_is_an_error_and_no_headers(strict: PooledSqliteDatabase, kind: str) -> None:
    starts: list[Any] = []

    class Watching(Answer):
        def _start_response(self, *arguments: Any) -> Any:
            starts.append(arguments)
            return super()._start_response(*arguments)

    with pytest.raises(peewee.IntegrityError):
        Watching(PeeweeMiddleware(writing(strict, "200 OK", kind, break_commit), strict, atomic=True))
    assert (starts, saved(strict)) == ([], [])


def test_a_failed_commit_closes_the_body_that_is_not_sent(strict: PooledSqliteDatabase) -> None:
    closed = []

    class Body:
        def __iter__(self) -> Iterator[bytes]:
            return iter([b"x"])

        def close(self) -> None:
            closed.append(True)

    def app(environ: Any, start_response: Any) -> Any:
        break_commit(strict)
        start_response("200 OK", TEXT)
        return Body()

    with pytest.raises(peewee.IntegrityError):
        Answer(PeeweeMiddleware(app, strict, atomic=True))
    assert closed == [True]


def test_an_app_that_raises_rolls_back(database: PooledSqliteDatabase, caplog: pytest.LogCaptureFixture) -> None:
    def app(environ: Any, start_response: Any) -> Any:
        save(database)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        Answer(PeeweeMiddleware(app, database, atomic=True))
    assert (saved(database), caplog.text) == ([], "")


def test_what_a_streamed_body_writes_is_no_part_of_the_transaction(database: PooledSqliteDatabase) -> None:
    def app(environ: Any, start_response: Any) -> Any:
        save(database, "view")
        start_response("200 OK", TEXT)

        def body() -> Iterator[bytes]:
            save(database, "body")
            yield b"x"
            raise ZeroDivisionError

        return body()

    with pytest.raises(ZeroDivisionError):
        Answer(PeeweeMiddleware(app, database, atomic=True))
    assert saved(database) == ["body", "view"]


def test_an_answer_replaced_before_its_headers_decides(database: PooledSqliteDatabase) -> None:
    import sys

    def app(environ: Any, start_response: Any) -> list[bytes]:
        save(database)
        start_response("200 OK", TEXT)
        try:
            raise ZeroDivisionError
        except ZeroDivisionError:
            start_response("500 Oops", TEXT, sys.exc_info())
        return [b"oops"]

    answer = validated(PeeweeMiddleware(app, database, atomic=True))
    assert (answer.status, saved(database)) == (500, [])


def test_what_commits_may_be_chosen(database: PooledSqliteDatabase) -> None:
    app = writing(database, "404 Not Found", "list")
    Answer(PeeweeMiddleware(app, database, atomic=True, commit_when=lambda status: status == 404))
    assert saved(database) == ["x"]


@pytest.mark.parametrize(("decorate", "atomic"), [(atomic_requests, False), (non_atomic_requests, True)])
def test_a_view_may_opt_in_and_out(database: PooledSqliteDatabase, decorate: Any, atomic: bool) -> None:
    app = decorate(writing(database, "500 E", "list"))
    Answer(PeeweeMiddleware(app, database, atomic=atomic))
    assert saved(database) == (["x"] if atomic else [])


# 503


@pytest.fixture
def full(tmp_path: Path) -> Iterator[PooledSqliteDatabase]:
    """A pool whose only connection is out."""
    full = PooledSqliteDatabase(str(tmp_path / "full.db"), max_connections=1, timeout=None)
    scope = peewee_web.scope()
    with scope.activate():
        query(full)
    yield full
    scope.end()
    left = in_use(full)
    full.close_all()
    assert left == 0


def querying(database: Any, kind: str) -> Any:
    """An app that needs its connection in the call, in the first step of its body, or before or after its headers."""

    def call(environ: Any, start_response: Any) -> list[bytes]:
        query(database)
        start_response("200 OK", TEXT)
        return [b"ok"]

    def started(environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", TEXT)
        query(database)
        return [b"ok"]

    def late(environ: Any, start_response: Any) -> Iterator[bytes]:
        query(database)
        start_response("200 OK", TEXT)
        yield b"ok"

    def step(environ: Any, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", TEXT)
        return (str(query(database)).encode() for _ in range(2))

    def empty_step(environ: Any, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", TEXT)
        yield b""
        query(database)
        yield b"ok"

    apps: dict[str, Any] = {
        "call": call,
        "started": started,
        "late": late,
        "step": step,
        "empty-step": empty_step,
    }
    return apps[kind]


@pytest.mark.parametrize("options", [{}, {"atomic": True}], ids=["plain", "atomic"])
@pytest.mark.parametrize("kind", ["call", "started", "late", "step", "empty-step"])
def test_no_connection_answers_503_while_no_header_is_out(
    full: PooledSqliteDatabase, kind: str, options: dict[str, bool]
) -> None:
    answer = validated(PeeweeMiddleware(querying(full, kind), full, **options))
    assert (answer.status, answer.headers["Retry-After"]) == (503, "1")
    assert answer.headers["Content-Length"] == str(len(answer.body))
    assert b"database is not available" in answer.body


def test_the_503_says_nothing_of_the_database(full: PooledSqliteDatabase) -> None:
    answer = Answer(PeeweeMiddleware(querying(full, "call"), full))
    assert b"full.db" not in answer.body
    assert b"1 of 1" not in answer.body


def test_an_eager_request_answers_503_before_the_app_is_called(full: PooledSqliteDatabase) -> None:
    def app(environ: Any, start_response: Any) -> Any:
        pytest.fail("the app was called")

    assert Answer(PeeweeMiddleware(app, full, lazy=False)).status == 503


def test_an_eager_request_without_a_query_has_its_connection(database: PooledSqliteDatabase) -> None:
    def app(environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", TEXT)
        return [str(in_use(database)).encode()]

    assert Answer(PeeweeMiddleware(app, database, lazy=False)).body == b"1"
    assert in_use(database) == 0


def test_after_the_headers_are_out_the_error_reaches_the_server(full: PooledSqliteDatabase) -> None:
    def app(environ: Any, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", TEXT)
        yield b"first"
        query(full)

    with pytest.raises(PoolTimeout):
        Answer(PeeweeMiddleware(app, full))


def test_a_503_closes_the_body_that_it_replaces(full: PooledSqliteDatabase) -> None:
    closed = []

    class Body:
        def __init__(self, start_response: Any) -> None:
            self.start_response = start_response

        def __iter__(self) -> Body:
            return self

        def __next__(self) -> bytes:
            query(full)
            self.start_response("200 OK", TEXT)
            return b"ok"

        def close(self) -> None:
            closed.append(True)

    answer = Answer(PeeweeMiddleware(lambda environ, start_response: Body(start_response), full))
    assert (answer.status, closed) == (503, [True])


def test_another_database_error_stays_what_it_was(database: PooledSqliteDatabase) -> None:
    def app(environ: Any, start_response: Any) -> Any:
        database.execute_sql("SELECT nonsense")

    with pytest.raises(peewee.OperationalError, match="no such column"):
        Answer(PeeweeMiddleware(app, database))


def test_an_app_that_answers_the_outage_itself_is_left_to_it(full: PooledSqliteDatabase) -> None:
    def app(environ: Any, start_response: Any) -> list[bytes]:
        try:
            query(full)
        except PoolTimeout:
            start_response("200 OK", TEXT)
        return [b"from the cache"]

    assert Answer(PeeweeMiddleware(app, full)).body == b"from the cache"


def test_several_databases_are_served_and_given_back(
    database: PooledSqliteDatabase, strict: PooledSqliteDatabase
) -> None:
    def app(environ: Any, start_response: Any) -> list[bytes]:
        save(database)
        save(strict)
        start_response("200 OK", TEXT)
        return [b"ok"]

    Answer(PeeweeMiddleware(app, Databases({"a": database, "b": strict}, atomic=True)))
    assert (saved(database), saved(strict)) == (["x"], ["x"])
