"""What the middleware answers itself: the outcome of an atomic request, and 503 where there was no connection."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import peewee
import pytest

import peewee_web
from peewee_web import PooledSqliteDatabase, PoolTimeout
from peewee_web.asgi import PeeweeMiddleware, atomic_requests, non_atomic_requests
from tests.asgi.server import START, Server, chunk, serve
from tests.core.test_transactions import break_commit, strict
from tests.core.working import in_use, query, save, saved

__all__ = ["strict"]


def writing(database: Any, status: int, act: Any = save) -> Any:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        act(database)
        await send({**START, "status": status})
        await send(chunk(b"o"))
        await send(chunk(b"k", more=False))

    return app


@pytest.mark.parametrize(("status", "expected"), [(200, ["x"]), (302, ["x"]), (400, []), (500, [])])
def test_an_atomic_request_commits_by_its_status(
    database: PooledSqliteDatabase, status: int, expected: list[str]
) -> None:
    assert serve(PeeweeMiddleware(writing(database, status), database, atomic=True)).body == b"ok"
    assert saved(database) == expected


def test_an_atomic_request_is_committed_before_its_start_is_sent(database: PooledSqliteDatabase) -> None:
    seen: list[list[str]] = []
    app = PeeweeMiddleware(writing(database, 200), database, atomic=True)
    serve(app, on_send=lambda message: seen.append(saved(database)))
    assert seen[0] == ["x"]


def test_a_failed_commit_is_an_error_and_no_response(strict: PooledSqliteDatabase) -> None:
    sent: list[Any] = []
    app = PeeweeMiddleware(writing(strict, 200, break_commit), strict, atomic=True)
    with pytest.raises(peewee.IntegrityError):
        serve(app, on_send=sent.append)
    assert (sent, saved(strict)) == ([], [])


def test_an_app_may_answer_a_failed_commit_itself(strict: PooledSqliteDatabase) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        break_commit(strict)
        try:
            await send(START)
        except peewee.IntegrityError:
            await send({**START, "status": 409})
            await send(chunk(b"", more=False))

    assert serve(PeeweeMiddleware(app, strict, atomic=True)).status == 409


@pytest.mark.parametrize("answers", [True, False])
def test_an_app_that_raises_rolls_back_without_a_warning(
    database: PooledSqliteDatabase, caplog: pytest.LogCaptureFixture, answers: bool
) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        save(database)
        if not answers:
            raise ZeroDivisionError

    if answers:  # it returns, but sends nothing
        serve(PeeweeMiddleware(app, database, atomic=True))
    else:
        with pytest.raises(ZeroDivisionError):
            serve(PeeweeMiddleware(app, database, atomic=True))
    assert saved(database) == []
    assert [record for record in caplog.records if record.name == "peewee_web"] == []


@pytest.mark.parametrize(("decorate", "atomic"), [(atomic_requests, False), (non_atomic_requests, True)])
def test_a_view_may_opt_in_and_out(database: PooledSqliteDatabase, decorate: Any, atomic: bool) -> None:
    serve(PeeweeMiddleware(decorate(writing(database, 500)), database, atomic=atomic))
    assert saved(database) == (["x"] if atomic else [])


# 503


@pytest.fixture
def full(tmp_path: Path) -> Iterator[PooledSqliteDatabase]:
    """A pool whose only connection is out, for which an eager request waits 0.05 s."""
    full = PooledSqliteDatabase(str(tmp_path / "full.db"), max_connections=1, timeout=0.05)
    scope = peewee_web.scope()
    with scope.activate():
        query(full)
    yield full
    scope.end()
    left = in_use(full)
    full.close_all()
    assert left == 0


def querying(database: Any) -> Any:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        query(database)

    return app


@pytest.mark.parametrize("lazy", [True, False])
def test_no_connection_answers_503(full: PooledSqliteDatabase, lazy: bool) -> None:
    server = serve(PeeweeMiddleware(querying(full), full, lazy=lazy))
    assert (server.status, server.headers[b"retry-after"]) == (503, b"1")
    assert server.headers[b"content-length"] == str(len(server.body)).encode()
    assert b"full.db" not in server.body


def test_an_eager_request_without_a_connection_does_not_reach_the_app(full: PooledSqliteDatabase) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        pytest.fail("the app was called")

    assert serve(PeeweeMiddleware(app, full, lazy=False)).status == 503


def test_an_eager_request_waits_for_a_connection_without_blocking_the_loop(tmp_path: Path) -> None:
    one = PooledSqliteDatabase(str(tmp_path / "one.db"), max_connections=1, timeout=5)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        for _ in range(3):
            query(one)
            await asyncio.sleep(0.001)
        await send(START)
        await send(chunk(b"ok", more=False))

    async def main() -> list[Server]:
        wrapped = PeeweeMiddleware(app, one, lazy=False)
        return await asyncio.gather(*(Server(wrapped).serve() for _ in range(4)))

    assert [server.status for server in asyncio.run(main())] == [200] * 4
    one.close_all()


def test_after_the_start_the_error_reaches_the_server(full: PooledSqliteDatabase) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        query(full)

    with pytest.raises(PoolTimeout):
        serve(PeeweeMiddleware(app, full))


def test_another_database_error_stays_what_it_was(database: PooledSqliteDatabase) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        database.execute_sql("SELECT nonsense")

    with pytest.raises(peewee.OperationalError, match="no such column"):
        serve(PeeweeMiddleware(app, database))


def test_a_client_that_is_gone_needs_no_503(full: PooledSqliteDatabase) -> None:
    async def send(message: Any) -> None:
        raise OSError("gone")

    async def main() -> None:
        server = Server(PeeweeMiddleware(querying(full), full))
        server.send = send  # type: ignore[method-assign]
        await server.serve()

    asyncio.run(main())
