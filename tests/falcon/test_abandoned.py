"""Requests that Falcon drops without calling ``process_response``: their connections come back all the same.

Falcon lets everything through that is no ``Exception``, and whatever an error handler raises itself.
"""

from __future__ import annotations

import asyncio
import contextvars
import gc
import inspect
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from falcon import testing

import peewee_web
from peewee_web.core.scope import current_scope
from peewee_web.falcon import PeeweeMiddleware, install
from tests.falcon.conftest import LIMIT, Kind, Note, run, saved, session

WSGI = Kind(is_async=False)
ASGI = Kind(is_async=True)


class Timeout(BaseException):
    """As gevent.Timeout."""


ERRORS = [Timeout, SystemExit, KeyboardInterrupt, GeneratorExit]

Client = Any


def client_of(kind: Kind, db: Any, error: type[BaseException], *, installed: bool = False, **options: Any) -> Client:
    """Serves /fail, which leaves a transaction open and raises *error*, and /ok, which runs no query."""

    def fail(req: Any, resp: Any) -> None:
        db.session_start()
        Note.create(text="lost")
        raise error

    app = kind.app(middleware=[] if installed else [PeeweeMiddleware(db)], **options)
    if installed:
        install(app, db)
    app.add_route("/fail", kind.resource(fail))
    app.add_route("/ok", kind.resource(lambda req, resp: resp.set_header("ok", str(current_scope() is not None))))
    return testing.TestClient(app)


@pytest.fixture
def no_garbage_collection() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def raises_again(client: Client, error: type[Exception], kind: Kind) -> None:
    """Let the app's error handler do that, which makes a reference cycle of error and request."""

    def reraise(req: Any, resp: Any, error: Any, params: Any) -> None:
        raise error

    client.app.add_error_handler(error, kind.handler(reraise))


def in_thread(function: Callable[[], Any]) -> None:
    failures: list[BaseException] = []

    def call() -> None:
        try:
            function()
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    thread.join(10)
    assert failures == []


# WSGI, the middleware alone: the next request finds what was left.


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("independent", [True, False])
def test_the_next_request_gives_the_connection_back(db: Any, error: type[BaseException], independent: bool) -> None:
    client = client_of(WSGI, db, error, independent_middleware=independent)
    for _ in range(LIMIT + 1):
        with pytest.raises(error):
            client.simulate_get("/fail")
        assert current_scope() is None
        assert client.simulate_get("/ok").headers["ok"] == "True"
        assert db.pool_stats().in_use == 0
        assert current_scope() is None
    assert saved() == []


def test_the_next_checkout_gives_it_back_as_well(db: Any) -> None:
    client = client_of(WSGI, db, Timeout)
    for _ in range(LIMIT + 1):
        with pytest.raises(Timeout):
            client.simulate_get("/fail")
        assert saved() == []
        assert db.pool_stats().in_use == 0


def test_its_open_transaction_is_warned_about_and_nothing_called_a_mistake(
    db: Any, caplog: pytest.LogCaptureFixture
) -> None:
    client = client_of(WSGI, db, Timeout)
    with pytest.raises(Timeout):
        client.simulate_get("/fail")
    client.simulate_get("/ok")
    assert "was left open" in caplog.text
    assert "test_abandoned.py:" in caplog.text
    assert "never ended" not in caplog.text


@pytest.mark.usefixtures("no_garbage_collection")
def test_an_error_handler_that_raises_does_not_harm_the_next_request(db: Any) -> None:
    client = client_of(WSGI, db, ZeroDivisionError)
    raises_again(client, ZeroDivisionError, WSGI)
    for _ in range(LIMIT + 1):
        with pytest.raises(ZeroDivisionError):
            client.simulate_get("/fail")
        assert client.simulate_get("/ok").headers["ok"] == "True"
        assert db.pool_stats().in_use == 0
        assert current_scope() is None
    assert saved() == []


def client_of_reraising(db: Any) -> Client:
    client = client_of(WSGI, db, ZeroDivisionError)
    raises_again(client, ZeroDivisionError, WSGI)
    return client


@pytest.mark.usefixtures("no_garbage_collection")
def test_an_excluded_path_does_not_run_in_what_was_left(db: Any) -> None:
    seen: list[Any] = []
    client = WSGI.serve(lambda req, resp: seen.append(current_scope()), middleware=[PeeweeMiddleware(db, exclude="/")])
    with pytest.raises(ZeroDivisionError):
        client_of_reraising(db).simulate_get("/fail")
    assert client.simulate_get("/").status_code == 200
    assert seen == [None]


@pytest.mark.usefixtures("no_garbage_collection")
def test_a_request_collected_on_another_thread_is_cleared_from_its_own(db: Any) -> None:
    client = client_of_reraising(db)

    def serve() -> None:
        with pytest.raises(ZeroDivisionError):
            client.simulate_get("/fail")
        assert current_scope() is not None
        in_thread(gc.collect)
        in_thread(saved)  # a checkout
        assert db.pool_stats().in_use == 0
        client.simulate_get("/ok")
        assert current_scope() is None

    in_thread(serve)


def test_a_request_inside_another_that_is_dropped_leaves_the_outer_one_alone(db: Any) -> None:
    client = client_of(WSGI, db, Timeout)

    def outer(req: Any, resp: Any) -> None:
        scope, mine = current_scope(), session(db)
        with pytest.raises(Timeout):
            client.simulate_get("/fail")
        assert current_scope() is scope
        assert session(db) == mine
        resp.text = "fine"

    client.app.add_route("/outer", WSGI.resource(outer))
    assert client.simulate_get("/outer").text == "fine"
    client.simulate_get("/ok")
    assert db.pool_stats().in_use == 0


def test_a_request_made_by_a_thread_of_a_request_does_not_end_it(db: Any) -> None:
    client = client_of(WSGI, db, Timeout)

    def outer(req: Any, resp: Any) -> None:
        mine = session(db)
        in_context = contextvars.copy_context()
        in_thread(lambda: in_context.run(client.simulate_get, "/ok"))
        assert not current_scope().ended  # type: ignore[union-attr]
        assert session(db) == mine
        resp.text = "fine"

    client.app.add_route("/outer", WSGI.resource(outer))
    assert client.simulate_get("/outer").text == "fine"


def test_a_request_made_by_a_body_does_not_end_it(db: Any) -> None:
    client = client_of(WSGI, db, Timeout)

    def respond(req: Any, resp: Any) -> None:
        def body() -> Iterator[bytes]:
            mine = session(db)
            client.simulate_get("/ok")
            yield str(session(db) == mine).encode()

        resp.stream = body()

    client.app.add_route("/body", WSGI.resource(respond))
    assert client.simulate_get("/body").text == "True"


# WSGI and ASGI, installed: at once.


@pytest.mark.usefixtures("no_garbage_collection")
@pytest.mark.parametrize("error", [Timeout, SystemExit, ZeroDivisionError])
def test_an_installed_app_gives_the_connection_back_at_once(db: Any, kind: Kind, error: type[BaseException]) -> None:
    client = client_of(kind, db, error, installed=True)
    if error is ZeroDivisionError:
        raises_again(client, error, kind)

    async def call_async() -> None:
        async def receive() -> Any:
            return {"type": "http.request"}

        async def send(message: Any) -> None:
            pass

        outer = current_scope()
        with pytest.raises(error):
            await client.app(testing.create_scope(path="/fail"), receive, send)
        assert current_scope() is outer
        assert db.pool_stats().in_use == 0

    def call() -> None:
        with pytest.raises(error):
            client.simulate_get("/fail")
        assert current_scope() is None
        assert db.pool_stats().in_use == 0

    for _ in range(LIMIT + 1):
        run(call_async()) if kind.is_async else call()
    assert saved() == []


@pytest.mark.usefixtures("no_garbage_collection")
def test_a_request_inside_another_of_an_installed_app_leaves_the_outer_one_alone(db: Any, kind: Kind) -> None:
    client = client_of(kind, db, ZeroDivisionError, installed=True)
    raises_again(client, ZeroDivisionError, kind)

    async def receive() -> Any:
        return {"type": "http.request"}

    async def send(message: Any) -> None:
        pass

    def outer(req: Any, resp: Any) -> None:
        scope = current_scope()
        with pytest.raises(ZeroDivisionError):
            client.simulate_get("/fail")
        assert current_scope() is scope
        resp.text = "fine"

    async def outer_async(req: Any, resp: Any) -> None:
        scope = current_scope()
        with pytest.raises(ZeroDivisionError):
            await client.app(testing.create_scope(path="/fail"), receive, send)
        assert current_scope() is scope
        resp.text = "fine"

    client.app.add_route("/outer", kind.resource(outer_async if kind.is_async else outer))
    assert client.simulate_get("/outer").text == "fine"
    assert db.pool_stats().in_use == 0


def test_an_installed_app_is_still_what_it_was(db: Any, kind: Kind) -> None:
    class Mine(type(kind.app())):  # type: ignore[misc]
        """An app's own class."""

    app = Mine()
    install(app, db)
    assert isinstance(app, Mine)
    assert type(app).__name__ == "Mine"
    assert inspect.iscoroutinefunction(type(app).__call__) is kind.is_async  # servers look at this
    other = Mine()
    assert type(other) is Mine


def test_an_async_request_dropped_half_way_does_not_end_the_one_it_interrupts(db: Any) -> None:
    """The garbage collector closes it wherever it runs."""

    async def wait(req: Any, resp: Any) -> None:
        session(db)
        await asyncio.sleep(0)

    app = ASGI.app()
    install(app, db)
    app.add_route("/", ASGI.resource(wait))

    async def receive() -> Any:
        return {"type": "http.request"}

    async def send(message: Any) -> None:
        pass

    async def main() -> None:
        dropped = app(testing.create_scope(), receive, send)
        contextvars.copy_context().run(dropped.send, None)
        assert db.pool_stats().in_use == 1
        req = testing.create_asgi_req()
        outer = PeeweeMiddleware(db)._begin(req, "GET", atomic=False)
        assert outer is not None
        dropped.close()
        assert current_scope() is outer
        assert not outer.ended
        outer.leave()
        outer.end()

    run(main())
    assert saved() == []  # a checkout takes back what it had
    assert db.pool_stats().in_use == 0


# ASGI, the middleware alone: the end of the request's task ends its scope.


def served(app: Any, path: str) -> asyncio.Task[Any]:
    async def receive() -> Any:
        return {"type": "http.request"}

    async def send(message: Any) -> None:
        pass

    return asyncio.get_running_loop().create_task(app(testing.create_scope(path=path), receive, send))


@pytest.mark.usefixtures("no_garbage_collection")
@pytest.mark.parametrize("error", [Timeout, asyncio.CancelledError, ZeroDivisionError])
def test_the_end_of_its_task_gives_the_connection_of_a_request_back(db: Any, error: type[BaseException]) -> None:
    client = client_of(ASGI, db, error)
    if error is ZeroDivisionError:
        raises_again(client, error, ASGI)

    async def main() -> None:
        for _ in range(LIMIT + 1):
            with pytest.raises(error):
                await served(client.app, "/fail")
            await asyncio.sleep(0)
            assert db.pool_stats().in_use == 0
            assert current_scope() is None

    run(main())
    assert saved() == []


def test_a_cancelled_request_gives_the_connection_back(db: Any) -> None:
    async def main() -> None:
        begun = asyncio.Event()

        async def respond(req: Any, resp: Any) -> None:
            db.session_start()
            Note.create(text="lost")
            begun.set()
            await asyncio.Event().wait()

        app = ASGI.serve(respond, middleware=[PeeweeMiddleware(db)]).app
        for _ in range(LIMIT + 1):
            task = served(app, "/")
            await begun.wait()
            begun.clear()
            assert db.pool_stats().in_use == 1
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await asyncio.sleep(0)
            assert db.pool_stats().in_use == 0

    run(main())
    assert saved() == []


def test_an_async_request_inside_another_that_is_dropped_leaves_the_outer_one_alone(db: Any) -> None:
    client = client_of(ASGI, db, asyncio.CancelledError)

    async def receive() -> Any:
        return {"type": "http.request"}

    async def send(message: Any) -> None:
        pass

    async def outer(req: Any, resp: Any) -> None:
        scope, mine = current_scope(), session(db)
        with pytest.raises(asyncio.CancelledError):
            await client.app(testing.create_scope(path="/fail"), receive, send)
        assert current_scope() is scope
        assert session(db) == mine
        with peewee_web.scope():
            session(db)  # a checkout
        assert db.pool_stats().in_use == 1
        resp.text = "fine"

    client.app.add_route("/outer", ASGI.resource(outer))
    assert client.simulate_get("/outer").text == "fine"
    assert db.pool_stats().in_use == 0


def test_a_request_made_by_a_task_of_a_request_does_not_end_it(db: Any) -> None:
    client = client_of(ASGI, db, Timeout)

    async def outer(req: Any, resp: Any) -> None:
        mine = session(db)
        await asyncio.gather(served(client.app, "/ok"), served(client.app, "/ok"))
        assert session(db) == mine
        resp.text = "fine"

    client.app.add_route("/outer", ASGI.resource(outer))
    assert client.simulate_get("/outer").text == "fine"


def test_requests_of_one_long_task_leave_nothing_on_it(db: Any) -> None:
    app = client_of(ASGI, db, Timeout).app
    scopes: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request"}

    async def send(message: Any) -> None:
        pass

    app.add_route("/", ASGI.resource(lambda req, resp: scopes.append(weakref.ref(current_scope()))))  # type: ignore[arg-type]

    async def main() -> None:
        for _ in range(3):
            await app(testing.create_scope(), receive, send)
        assert [scope() for scope in scopes] == [None] * 3

    run(main())


@pytest.mark.usefixtures("no_garbage_collection")
def test_scopes_are_freed_without_the_garbage_collector(db: Any, kind: Kind) -> None:
    scopes: list[Any] = []
    client = kind.serve(
        lambda req, resp: scopes.append(weakref.ref(current_scope())),  # type: ignore[arg-type]
        middleware=[PeeweeMiddleware(db)],
    )
    for _ in range(3):
        client.simulate_get("/")
    assert [scope() for scope in scopes] == [None] * 3
