"""A scope per request, until the last byte of its body."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any
from wsgiref.util import FileWrapper

import pytest

from peewee_web import Databases, PooledSqliteDatabase
from peewee_web.core.scope import current_scope
from peewee_web.wsgi import COMPLETE, PeeweeMiddleware, ScopeMiddleware
from tests.core.working import in_use, query
from tests.wsgi.server import Answer, validated

MIDDLEWARE = [PeeweeMiddleware, lambda app, db: ScopeMiddleware(app, Databases.of(db))]
both = pytest.mark.parametrize("wrap", MIDDLEWARE, ids=["peewee", "scope"])


class Body:
    """A body of a class of its own, as frameworks have them: an iterator with ``close()``."""

    def __init__(self, database: Any, steps: int = 3, fails_at: int | None = None) -> None:
        self.database = database
        self.left = steps
        self.fails_at = fails_at
        self.closed = 0
        self.scopes: list[Any] = []

    def __iter__(self) -> Body:
        return self

    def __next__(self) -> bytes:
        self.scopes.append(current_scope())
        query(self.database)
        if self.left == self.fails_at:
            raise ZeroDivisionError
        if self.left == 0:
            raise StopIteration
        self.left -= 1
        return b"x"

    def close(self) -> None:
        self.closed += 1
        self.scopes.append(current_scope())
        query(self.database)


def streaming(body: Any) -> Any:
    def app(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [("Content-Type", "text/plain")])
        return body

    return app


@both
def test_a_request_that_queries_has_one_connection_and_gives_it_back(wrap: Any, database: PooledSqliteDatabase) -> None:
    def app(environ: Any, start_response: Any) -> list[bytes]:
        query(database)
        query(database)
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [str(in_use(database)).encode()]

    assert validated(wrap(app, database)).body == b"1"
    assert in_use(database) == 0


@both
def test_a_request_without_a_query_takes_no_connection(wrap: Any, database: PooledSqliteDatabase) -> None:
    def app(environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [str(in_use(database)).encode()]

    assert validated(wrap(app, database)).body == b"0"


@both
@pytest.mark.parametrize("kind", [list, tuple])
def test_a_complete_body_ends_the_scope_before_it_is_sent(wrap: Any, database: PooledSqliteDatabase, kind: Any) -> None:
    def app(environ: Any, start_response: Any) -> Any:
        query(database)
        start_response("200 OK", [("Content-Type", "text/plain")])
        return kind([b"a", b"b"])

    seen: list[Any] = []
    answer = Answer(wrap(app, database), before_body=lambda body: seen.extend([type(body), in_use(database)]))
    assert (seen, answer.body) == ([kind, 0], b"ab")


@both
def test_a_streamed_body_keeps_the_requests_connection(wrap: Any, database: PooledSqliteDatabase) -> None:
    seen: set[int] = set()

    def app(environ: Any, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        seen.add(id(database.connection()))
        return body()

    def body() -> Iterator[bytes]:
        for _ in range(3):
            seen.add(id(database.connection()))
            yield b"x"

    answer = validated(wrap(app, database))
    assert (answer.body, len(seen), in_use(database)) == (b"xxx", 1, 0)


@both
def test_the_scope_is_current_in_each_step_and_in_close_and_not_between(
    wrap: Any, database: PooledSqliteDatabase
) -> None:
    body = Body(database)
    between: list[Any] = []
    answer = validated(wrap(streaming(body), database), before_body=lambda _: between.append(current_scope()))
    assert (answer.body, between, current_scope()) == (b"xxx", [None], None)
    assert len(set(body.scopes)) == 1
    assert body.scopes[0] is not None


@both
@pytest.mark.parametrize("chunks", [1, None])
def test_the_body_is_closed_exactly_once(wrap: Any, database: PooledSqliteDatabase, chunks: int | None) -> None:
    body = Body(database)
    validated(wrap(streaming(body), database), chunks=chunks)
    assert (body.closed, in_use(database)) == (1, 0)


@both
def test_a_body_that_fails_is_closed_exactly_once(wrap: Any, database: PooledSqliteDatabase) -> None:
    body = Body(database, fails_at=2)
    with pytest.raises(ZeroDivisionError):
        Answer(wrap(streaming(body), database))
    assert body.closed == 1
    assert in_use(database) == 0


@both
def test_the_body_of_a_head_request_is_closed_and_never_begun(wrap: Any, database: PooledSqliteDatabase) -> None:
    body = Body(database)
    Answer(wrap(streaming(body), database), method="HEAD")
    assert (body.closed, body.left, in_use(database)) == (1, 3, 0)


@both
def test_an_exception_in_the_app_ends_the_scope(wrap: Any, database: PooledSqliteDatabase) -> None:
    def app(environ: Any, start_response: Any) -> Any:
        query(database)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        Answer(wrap(app, database))
    assert (in_use(database), current_scope()) == (0, None)


@both
def test_an_exception_in_close_ends_the_scope(wrap: Any, database: PooledSqliteDatabase) -> None:
    class Failing(Body):
        def close(self) -> None:
            super().close()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        Answer(wrap(streaming(Failing(database)), database))
    assert (in_use(database), current_scope()) == (0, None)


@both
def test_a_client_that_hangs_up_lets_the_generators_finally_query(wrap: Any, database: PooledSqliteDatabase) -> None:
    seen = []

    def body() -> Iterator[bytes]:
        try:
            yield b"x"
            yield b"y"
        finally:
            seen.append(query(database))

    assert validated(wrap(streaming(body()), database), chunks=1).body == b"x"
    assert (seen, in_use(database)) == ([1], 0)


@both
def test_a_file_reaches_the_server_as_it_is(wrap: Any, database: PooledSqliteDatabase) -> None:
    def app(environ: Any, start_response: Any) -> Any:
        query(database)
        start_response("200 OK", [("Content-Type", "text/plain")])
        return environ["wsgi.file_wrapper"](io.BytesIO(b"file"))

    seen: list[Any] = []
    answer = Answer(
        wrap(app, database),
        before_body=lambda body: seen.extend([type(body), in_use(database)]),
        **{"wsgi.file_wrapper": FileWrapper},
    )
    assert (seen, answer.body) == ([FileWrapper, 0], b"file")


@both
def test_a_body_known_to_be_complete_holds_no_connection_while_it_is_sent(
    wrap: Any, database: PooledSqliteDatabase
) -> None:
    def app(environ: Any, start_response: Any) -> Any:
        query(database)
        start_response("200 OK", [("Content-Type", "text/plain")])
        environ[COMPLETE] = True
        return iter([b"a", b"b"])

    seen: list[int] = []
    Answer(wrap(app, database), before_body=lambda _: seen.append(in_use(database)))
    assert seen == [0]


@both
def test_an_app_that_calls_start_response_with_its_first_step_works(wrap: Any, database: PooledSqliteDatabase) -> None:
    def app(environ: Any, start_response: Any) -> Iterator[bytes]:
        start_response("201 Created", [("Content-Type", "text/plain")])
        yield str(query(database)).encode()
        yield b"2"

    answer = validated(wrap(app, database))
    assert (answer.status, answer.body, in_use(database)) == (201, b"12", 0)


@both
def test_an_app_may_write_before_it_returns(wrap: Any, database: PooledSqliteDatabase) -> None:
    def app(environ: Any, start_response: Any) -> list[bytes]:
        write = start_response("200 OK", [("Content-Type", "text/plain")])
        write(b"a")
        query(database)
        write(b"b")
        return [b"c"]

    assert validated(wrap(app, database)).body == b"abc"
    assert in_use(database) == 0


@both
def test_an_app_may_replace_its_answer_while_no_header_is_out(wrap: Any, database: PooledSqliteDatabase) -> None:
    import sys

    def app(environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        try:
            query(database)
            raise ZeroDivisionError
        except ZeroDivisionError:
            start_response("500 Oops", [("Content-Type", "text/plain")], sys.exc_info())
        return [b"oops"]

    answer = validated(wrap(app, database))
    assert (answer.status, answer.body) == (500, b"oops")


@both
def test_a_request_made_inside_a_request_leaves_the_outer_one_alone(wrap: Any, database: PooledSqliteDatabase) -> None:
    def app(environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        if environ["PATH_INFO"] == "/inner":
            return [str(id(database.connection())).encode()]
        with database.atomic():
            mine = database.connection()
            inner = Answer(whole, "/inner").body
            assert database.connection() is mine
        return [inner, b" ", str(id(mine)).encode()]

    whole = wrap(app, database)
    inner, outer = Answer(whole).body.split()
    assert inner != outer


def test_two_requests_that_are_streamed_in_turns_keep_their_connections(database: PooledSqliteDatabase) -> None:
    def app(environ: Any, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        for _ in range(2):
            yield str(id(database.connection())).encode()

    wrapped = PeeweeMiddleware(app, database)
    bodies = [wrapped({"PATH_INFO": "/"}, lambda *a: None) for _ in range(2)]
    iterators = [iter(body) for body in bodies]
    first, second = ([next(iterator) for iterator in iterators] for _ in range(2))
    assert first == second
    assert first[0] != first[1]
    for body in bodies:
        body.close()  # type: ignore[attr-defined]
    assert in_use(database) == 0


@both
def test_an_excluded_path_has_no_scope(wrap: Any, database: PooledSqliteDatabase) -> None:
    def app(environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [str(current_scope() is None).encode()]

    wrapped = wrap(app, Databases(database, exclude=["/static/*", "/gr\u00fc\u00df"]))
    assert Answer(wrapped, "/static/app.css").body == b"True"
    assert Answer(wrapped, "/gr\u00fc\u00df".encode().decode("latin-1")).body == b"True"
    assert Answer(wrapped, "/notes").body == b"False"


def test_an_app_can_not_be_wrapped_twice(database: PooledSqliteDatabase) -> None:
    with pytest.raises(TypeError, match="wrapped in PeeweeMiddleware already"):
        PeeweeMiddleware(PeeweeMiddleware(streaming([]), database), database)


def test_what_is_no_database_is_refused_at_once() -> None:
    with pytest.raises(TypeError, match="is not a Peewee database"):
        PeeweeMiddleware(streaming([]), object())
