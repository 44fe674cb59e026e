"""A request has its own connection, and it is back before the answer is sent, whatever the app does meanwhile."""

from __future__ import annotations

import asyncio
import json
import threading
from typing import Any

import falcon
import falcon.asgi
import falcon.media
import pytest
from falcon import testing

import peewee_web
from peewee_web.core.scope import current_scope
from peewee_web.falcon import PeeweeMiddleware, install
from tests.falcon.conftest import LIMIT, Kind, Note, run, saved, session


def test_a_request_without_a_query_takes_no_connection(kind: Kind, db: Any) -> None:
    def respond(req: Any, resp: Any) -> None:
        assert current_scope() is not None
        resp.text = str(db.pool_stats().in_use)

    assert kind.serve(respond, middleware=[PeeweeMiddleware(db)]).simulate_get("/").text == "0"
    assert db.pool_stats().in_use == 0


def test_an_eager_request_has_a_connection_before_its_responder(kind: Kind, db: Any) -> None:
    client = kind.serve(
        lambda req, resp: resp.set_header("in-use", str(db.pool_stats().in_use)),
        middleware=[PeeweeMiddleware(db, lazy=False)],
    )
    assert client.simulate_get("/").headers["in-use"] == "1"
    assert client.simulate_get("/missing").status_code == 404


def test_many_requests_in_a_row_use_one_connection(kind: Kind, db: Any) -> None:
    client = kind.serve(lambda req, resp: resp.set_header("s", str(session(db))), middleware=[PeeweeMiddleware(db)])
    assert len({client.simulate_get("/").headers["s"] for _ in range(3 * LIMIT)}) == 1


@pytest.mark.parametrize("body", ["text", "data", "media", "nothing", "list"])
def test_a_complete_body_has_given_the_connection_back_before_it_is_sent(kind: Kind, db: Any, body: str) -> None:
    in_use: list[int] = []

    def respond(req: Any, resp: Any) -> None:
        Note.create(text="a")
        if body == "text":
            resp.text = "x"
        elif body == "data":
            resp.data = b"x"
        elif body == "media":
            resp.media = "x"
        elif body == "list":
            resp.stream = None if kind.is_async else [b"x"]

    class Last:
        """Listed first, so its hook is the last one before Falcon sends."""

        def process_response(self, *arguments: Any) -> None:
            in_use.append(db.pool_stats().in_use)

        async def process_response_async(self, *arguments: Any) -> None:
            in_use.append(db.pool_stats().in_use)

    client = kind.serve(respond, middleware=[Last(), PeeweeMiddleware(db)])
    assert client.simulate_get("/").status_code == 200
    assert in_use == [0]


@pytest.mark.parametrize(
    "error",
    [falcon.HTTPNotFound(), falcon.HTTPStatus(falcon.HTTP_204), ZeroDivisionError()],
    ids=["http-error", "http-status", "bug"],
)
@pytest.mark.parametrize("independent", [True, False])
def test_what_a_responder_raises_gives_the_connection_back(
    kind: Kind, db: Any, error: Exception, independent: bool
) -> None:
    def respond(req: Any, resp: Any) -> None:
        db.session_start()
        Note.create(text="lost")
        raise error

    client = kind.serve(respond, middleware=[PeeweeMiddleware(db)], independent_middleware=independent)
    for _ in range(LIMIT + 1):
        assert client.simulate_get("/").status_code in (204, 404, 500)
        assert db.pool_stats().in_use == 0
        assert current_scope() is None
    assert saved() == []


@pytest.mark.parametrize("hook", ["process_request", "process_resource", "process_response"])
@pytest.mark.parametrize("independent", [True, False])
@pytest.mark.parametrize("first", [True, False])
def test_another_middleware_that_raises_loses_nothing(
    kind: Kind, db: Any, hook: str, independent: bool, first: bool
) -> None:
    def fail(self: Any, *arguments: Any) -> None:
        if not first or hook == "process_resource":
            Note.select().count()
        raise ZeroDivisionError

    async def fail_async(self: Any, *arguments: Any) -> None:
        fail(self)

    failing = type("Failing", (), {hook: fail, f"{hook}_async": fail_async})()
    ours = PeeweeMiddleware(db)
    if first and hook == "process_resource":
        first = False  # it runs in the scope wherever it stands
    client = kind.serve(
        lambda req, resp: Note.create(text="a"),
        middleware=[failing, ours] if first else [ours, failing],
        independent_middleware=independent,
    )
    for _ in range(LIMIT + 1):
        assert client.simulate_get("/").status_code == 500
        assert db.pool_stats().in_use == 0
        assert current_scope() is None


def test_a_middleware_that_completes_the_response_early_loses_nothing(kind: Kind, db: Any) -> None:
    class Early:
        def process_request(self, req: Any, resp: Any) -> None:
            resp.text = str(Note.select().count())
            resp.complete = True

        async def process_request_async(self, req: Any, resp: Any) -> None:
            self.process_request(req, resp)

    client = kind.serve(lambda req, resp: None, middleware=[PeeweeMiddleware(db), Early()])
    for _ in range(LIMIT + 1):
        assert client.simulate_get("/").text == "0"
        assert db.pool_stats().in_use == 0


def test_an_error_handler_runs_in_the_scope_of_its_request(kind: Kind, db: Any) -> None:
    sessions: list[int] = []

    def respond(req: Any, resp: Any) -> None:
        sessions.append(session(db))
        raise ZeroDivisionError

    def handle(req: Any, resp: Any, error: Exception, params: Any) -> None:
        sessions.append(session(db))
        resp.status = falcon.HTTP_418

    client = kind.serve(respond, middleware=[PeeweeMiddleware(db)])
    client.app.add_error_handler(ZeroDivisionError, kind.handler(handle))
    assert client.simulate_get("/").status_code == 418
    assert len(set(sessions)) == 1


def test_a_media_handler_may_query(kind: Kind, db: Any) -> None:
    """A lazy query as media: it runs when Falcon makes JSON of it."""
    Note.create(text="lazy")
    db.close()
    seen: list[Any] = []

    def default(query: Any) -> Any:
        seen.append(current_scope())
        return list(query)

    client = kind.serve(
        lambda req, resp: setattr(resp, "media", Note.select(Note.text).dicts()), middleware=[PeeweeMiddleware(db)]
    )
    handler = falcon.media.JSONHandler(dumps=lambda media: json.dumps(media, default=default))
    client.app.resp_options.media_handlers[falcon.MEDIA_JSON] = handler
    assert client.simulate_get("/").json == [{"text": "lazy"}]
    assert len(seen) == 1
    assert seen[0] is not None


def test_media_that_can_not_be_rendered_is_a_500_and_loses_nothing(kind: Kind, db: Any) -> None:
    def respond(req: Any, resp: Any) -> None:
        resp.media = Note.create(text="a")

    client = kind.serve(respond, middleware=[PeeweeMiddleware(db)])
    assert client.simulate_get("/").status_code == 500


def test_a_transaction_left_open_is_rolled_back_and_warned_about(
    kind: Kind, db: Any, caplog: pytest.LogCaptureFixture
) -> None:
    def respond(req: Any, resp: Any) -> None:
        db.session_start()
        Note.create(text="lost")

    client = kind.serve(respond, middleware=[PeeweeMiddleware(db)])
    assert client.simulate_get("/").status_code == 200
    assert saved() == []
    assert "was left open" in caplog.text
    assert "test_requests.py" in caplog.text


def test_a_responder_may_close_and_connect_as_it_likes(kind: Kind, db: Any) -> None:
    def respond(req: Any, resp: Any) -> None:
        Note.create(text="a")
        db.close()
        Note.create(text="b")
        db.close()
        db.connect()
        with db.connection_context():
            Note.create(text="c")

    client = kind.serve(respond, middleware=[PeeweeMiddleware(db)])
    for _ in range(LIMIT + 1):
        assert client.simulate_get("/").status_code == 200
        assert db.pool_stats().in_use == 0


def test_a_request_inside_a_request_has_a_scope_of_its_own(db: Any) -> None:
    app = falcon.App()
    install(app, db)
    client = testing.TestClient(app)

    def outer(req: Any, resp: Any) -> None:
        with db.atomic():
            mine = session(db)
            inner = client.simulate_get("/inner").text
            assert session(db) == mine
            resp.text = str(inner != str(mine))
        Note.create(text="outer")

    app.add_route("/outer", Kind(False).resource(outer))
    app.add_route("/inner", Kind(False).resource(lambda req, resp: setattr(resp, "text", str(session(db)))))
    assert client.simulate_get("/outer").text == "True"
    assert saved() == ["outer"]


def test_a_request_inside_an_async_request_has_a_scope_of_its_own(db: Any) -> None:
    app = falcon.asgi.App()
    install(app, db)

    async def call(path: str) -> str:
        """In the same task, as a forwarding app or httpx does it."""
        sent: list[Any] = []

        async def receive() -> Any:
            return {"type": "http.request"}

        async def send(message: Any) -> None:
            sent.append(message)

        await app(testing.create_scope(path=path), receive, send)
        return str(sent[1]["body"].decode())

    async def outer(req: Any, resp: Any) -> None:
        mine, scope = session(db), current_scope()
        inner = await call("/inner")
        assert current_scope() is scope
        resp.text = str(inner != str(mine) and session(db) == mine)

    app.add_route("/outer", Kind(True).resource(outer))
    app.add_route("/inner", Kind(True).resource(lambda req, resp: setattr(resp, "text", str(session(db)))))
    assert testing.TestClient(app).simulate_get("/outer").text == "True"


def test_interleaved_async_requests_have_their_own_connections(db: Any) -> None:
    app = falcon.asgi.App()
    install(app, db)
    both = asyncio.Barrier(2) if hasattr(asyncio, "Barrier") else None

    async def respond(req: Any, resp: Any) -> None:
        mine = session(db)
        if both is not None:
            await both.wait()
        else:
            await asyncio.sleep(0.05)
        assert session(db) == mine
        resp.text = str(mine)

    app.add_route("/", Kind(True).resource(respond))

    async def main() -> None:
        async with testing.ASGIConductor(app) as conductor:
            answers = await asyncio.gather(conductor.simulate_get("/"), conductor.simulate_get("/"))
        assert len({answer.text for answer in answers}) == 2
        assert [answer.status_code for answer in answers] == [200, 200]

    run(main())


def test_work_in_a_thread_of_an_async_request_uses_its_connection(db: Any) -> None:
    async def respond(req: Any, resp: Any) -> None:
        mine = session(db)
        resp.text = str(mine == await asyncio.to_thread(session, db))

    assert Kind(True).serve(respond, middleware=[PeeweeMiddleware(db)]).simulate_get("/").text == "True"


def test_code_that_outlives_its_request_is_told_so(db: Any) -> None:
    outcome: list[Any] = []

    async def later() -> None:
        await asyncio.sleep(0.02)
        try:
            Note.select().count()
        except Exception as error:
            outcome.append(error)

    tasks: list[Any] = []

    def respond(req: Any, resp: Any) -> None:
        tasks.append(asyncio.get_running_loop().create_task(later()))

    app = Kind(True).serve(respond, middleware=[PeeweeMiddleware(db)]).app

    async def main() -> None:
        async with testing.ASGIConductor(app) as conductor:
            await conductor.simulate_get("/")
            await asyncio.gather(*tasks)

    run(main())
    assert isinstance(outcome[0], peewee_web.ScopeClosed)


@pytest.mark.parametrize("is_sync", [False, True])
def test_a_scheduled_callback_is_told_to_open_a_scope_of_its_own(db: Any, is_sync: bool) -> None:
    outcome: list[Any] = []
    done = threading.Event()

    def background() -> None:
        try:
            Note.create(text="no")
        except Exception as error:
            outcome.append(error)
        with peewee_web.scope():
            Note.create(text="yes")
        done.set()

    async def background_async() -> None:
        background()

    def respond(req: Any, resp: Any) -> None:
        Note.create(text="request")
        if is_sync:
            resp.schedule_sync(background)
        else:
            resp.schedule(background_async)

    app = Kind(True).serve(respond, middleware=[PeeweeMiddleware(db)]).app

    async def main() -> None:
        async with testing.ASGIConductor(app) as conductor:
            await conductor.simulate_get("/")
            assert await asyncio.to_thread(done.wait, 5)

    run(main())
    assert isinstance(outcome[0], peewee_web.ScopeClosed)
    assert "opens its own" in str(outcome[0])
    assert saved() == ["request", "yes"]


def test_a_sink_and_a_static_route_are_served_as_well(kind: Kind, db: Any, tmp_path: Any) -> None:
    (tmp_path / "file.txt").write_text("static")
    app = kind.app()
    install(app, db, lazy=False)

    def sink(req: Any, resp: Any, **params: Any) -> None:
        resp.text = str(Note.select().count())

    async def sink_async(req: Any, resp: Any, **params: Any) -> None:
        sink(req, resp)

    app.add_static_route("/static", str(tmp_path))
    app.add_sink(sink_async if kind.is_async else sink, "/sink")
    client = testing.TestClient(app)
    assert client.simulate_get("/sink/x").text == "0"
    assert client.simulate_get("/static/file.txt").text == "static"
    assert client.simulate_get("/static/file.txt", headers={"Range": "bytes=2-"}).text == "atic"
    assert db.pool_stats().in_use == 0
