"""What happens in a request: bodies, transactions, no connection, hooks and error pages that query, and failures."""

from __future__ import annotations

import gc
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from wsgiref.util import FileWrapper

import bottle
import peewee
import pytest

import peewee_web
from peewee_web.bottle import PeeweePlugin, atomic_requests, non_atomic_requests
from peewee_web.core.scope import current_scope
from peewee_web.core.unavailable import BODY
from tests.bottle.client import Client
from tests.bottle.conftest import Note, add, exhausted, saved


def build(db: Any, **options: Any) -> Any:
    app = bottle.Bottle()
    app.install(PeeweePlugin(db, **options))
    return app


def count() -> str:
    return str(Note.select().count())


# Bodies.


def stream(app: Any, path: str = "/") -> None:
    @app.get(path)
    def body() -> Iterator[str]:
        Note.select().count()
        for _ in range(3):
            yield f"{count()} "


def test_a_streamed_body_queries_on_the_connection_of_its_request(db: Any) -> None:
    app = build(db)
    stream(app)
    with Client(app).open("/") as (_, chunks):
        connections = []
        for chunk in chunks:
            assert chunk == b"0 "
            connections.append(db.pool_stats().in_use)
            assert current_scope() is None
        assert connections == [1, 1, 1]
        assert db.pool_stats().in_use == 0


def test_a_client_that_goes_away_mid_body_gives_the_connection_back(db: Any) -> None:
    app = build(db)
    stream(app)
    for _ in range(6):
        with Client(app).open("/") as (_, chunks):
            next(chunks)
        assert db.pool_stats().in_use == 0


@pytest.mark.parametrize("path", ["/stream", "/text", "/wrapped"])
def test_head_gives_the_connection_back(db: Any, path: str) -> None:
    app = build(db)
    stream(app, "/stream")
    app.get("/text", callback=count)
    app.get("/wrapped", callback=lambda: bottle.HTTPResponse((count() for _ in range(3)), X="y"))
    for _ in range(6):
        answer = Client(app).get(path, "HEAD")
        assert (answer.status, answer.body) == (200, b"")
        assert db.pool_stats().in_use == 0


def test_the_body_of_a_response_object_may_be_streamed(db: Any) -> None:
    app = build(db)
    app.get("/returned", callback=lambda: bottle.HTTPResponse((count() for _ in range(3)), 201))

    @app.get("/raised")
    def raised() -> None:
        raise bottle.HTTPResponse((count() for _ in range(3)), 201)

    for path in ("/returned", "/raised"):
        answer = Client(app).get(path)
        assert (answer.status, answer.text) == (201, "000")


def test_a_body_that_fails_half_way_is_rolled_back(db: Any) -> None:
    app = build(db)

    @app.get("/")
    def body() -> Iterator[str]:
        with db.atomic():
            add("lost")
            yield "begun"
            raise ZeroDivisionError

    with Client(app).open("/") as (_, chunks), pytest.raises(ZeroDivisionError):
        list(chunks)
    assert saved() == []


def test_other_bodies_are_answered_as_ever(db: Any) -> None:
    app = build(db)
    bodies: dict[str, Any] = {
        "none": None,
        "text": "x",
        "bytes": b"x",
        "list": ["x", "y"],
        "json": {"a": 1},
        "set": {"x"},
    }
    app.get("/<kind>", callback=lambda kind: bodies[kind])
    app.get("/empty", callback=lambda: iter(()))
    app.get("/bytes-stream", callback=lambda: iter([b"x", b"y"]))
    app.get("/late-start", callback=lambda: iter(["", "", "x"]))

    @app.get("/response-first")
    def response_first() -> Iterator[Any]:
        yield bottle.HTTPResponse("first", 202)

    @app.get("/redirect-first")
    def redirect_first() -> Iterator[Any]:
        bottle.redirect("/elsewhere")
        yield ""

    texts = [Client(app).get(f"/{kind}").text for kind in bodies]
    assert texts == ["", "x", "x", "xy", '{"a": 1}', "x"]
    assert [Client(app).get(path).text for path in ("/empty", "/bytes-stream", "/late-start")] == ["", "xy", "x"]
    answer = Client(app).get("/response-first")
    assert (answer.status, answer.text) == (202, "first")
    assert Client(app).get("/redirect-first").status == 302


def test_an_iterable_is_closed_once(db: Any) -> None:
    class Chunks:
        closed = 0

        def __iter__(self) -> Iterator[str]:
            yield from ("a", "b")

        def close(self) -> None:
            self.closed += 1

    app = build(db)
    bodies = [Chunks(), Chunks()]
    app.get("/<index:int>", callback=lambda index: bodies[index])
    assert Client(app).get("/0").text == "ab"
    with Client(app).open("/1") as (_, chunks):
        next(chunks)
    gc.collect()
    assert [body.closed for body in bodies] == [1, 1]


def test_a_file_is_left_to_the_server_and_holds_no_connection(db: Any, tmp_path: Path) -> None:
    (tmp_path / "file.txt").write_text("content")
    app = build(db)

    @app.get("/")
    def download() -> Any:
        Note.select().count()
        return bottle.static_file("file.txt", str(tmp_path))

    environ = {"REQUEST_METHOD": "GET", "PATH_INFO": "/", "wsgi.file_wrapper": FileWrapper}
    body = app(environ, lambda *_: None)
    assert type(body) is FileWrapper
    assert db.pool_stats().in_use == 0
    body.close()

    with Client(app).open("/") as (_, chunks):
        assert db.pool_stats().in_use == 0
        assert next(chunks) == b"content"

    with Client(app).open("/", HTTP_RANGE="bytes=3-4") as (answer, chunks):
        assert (answer.status, b"".join(chunks)) == (206, b"te")


# Transactions.


@pytest.mark.parametrize(
    ("status", "expected"), [(200, ["x"]), (303, ["x"]), (400, []), (500, [])], ids=["200", "303", "400", "500"]
)
@pytest.mark.parametrize("how", ["set", "returned", "raised", "streamed"])
def test_an_atomic_request_commits_by_its_status(db: Any, how: str, status: int, expected: list[str]) -> None:
    app = build(db, atomic=True)

    @app.post("/")
    def create() -> Any:
        add("x")
        assert db.in_transaction()
        if how == "set":
            bottle.response.status = status
            return "text"
        answer = bottle.HTTPResponse("text", status)
        if how == "raised":
            raise answer
        return answer

    def create_streamed() -> Iterator[str]:
        add("x")
        bottle.response.status = status
        yield "text"

    if how == "streamed":
        app.post("/", callback=create_streamed)
    assert Client(app).get("/", "POST").status == status
    assert saved() == expected


def test_an_error_or_an_abort_rolls_an_atomic_request_back(db: Any) -> None:
    app = build(db, atomic=True)

    @app.post("/<how>")
    def create(how: str) -> Any:
        add(how)
        if how == "abort":
            bottle.abort(409, "conflict")
        raise ZeroDivisionError

    @app.post("/stream")
    def create_in_stream() -> Iterator[str]:
        add("stream")
        yield str(1 / 0)

    app.error(500, callback=lambda error: f"styled, {saved()}, {db.in_transaction()}")
    assert Client(app).get("/abort", "POST").status == 409
    for path in ("/error", "/stream"):
        answer = Client(app).get(path, "POST")
        assert (answer.status, answer.text) == (500, "styled, [], False")
    assert saved() == []


def test_what_a_stream_writes_later_is_no_part_of_the_transaction(db: Any) -> None:
    app = build(db, atomic=True)

    @app.post("/")
    def create() -> Iterator[str]:
        add("first")
        yield "a"
        assert not db.in_transaction()
        add("second")
        yield "b"
        raise ZeroDivisionError

    with Client(app).open("/", "POST") as (_, chunks), pytest.raises(ZeroDivisionError):
        list(chunks)
    assert saved() == ["first", "second"]


def test_commit_when_decides(db: Any) -> None:
    app = build(db, atomic=True, commit_when=lambda status: status == 409)

    @app.post("/<status:int>")
    def create(status: int) -> None:
        add(str(status))
        bottle.response.status = status

    Client(app).get("/200", "POST")
    Client(app).get("/409", "POST")
    assert saved() == ["409"]


@pytest.mark.parametrize("how", ["text", "stream"])
def test_a_failed_commit_is_a_failed_response(db: Any, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    app = build(db, atomic=True)
    app.error(500, callback=lambda error: f"styled {error.exception}")

    def create() -> str:
        add("lost")
        monkeypatch.setattr(db, "commit", fail, raising=True)
        return "never"

    def create_in_stream() -> Iterator[str]:
        yield create()

    def fail() -> None:
        monkeypatch.undo()
        raise peewee.IntegrityError("deferred constraint")

    app.post("/text", callback=create)
    app.post("/stream", callback=create_in_stream)

    answer = Client(app).get(f"/{how}", "POST")
    assert (answer.status, answer.text) == (500, "styled deferred constraint")
    assert saved() == []


@pytest.mark.parametrize("how", ["config", "decorator"])
def test_a_route_opts_out_of_the_transaction(db: Any, how: str) -> None:
    app = build(db, atomic=True)

    def create() -> None:
        add(str(db.in_transaction()))
        bottle.response.status = 500

    if how == "config":
        app.post("/", callback=create, peewee={"atomic": False})
    else:
        app.post("/", callback=non_atomic_requests(create))
    assert Client(app).get("/", "POST").status == 500
    assert saved() == ["False"]


@pytest.mark.parametrize("how", ["config", "decorator"])
def test_a_route_opts_in_to_a_transaction(db: Any, how: str) -> None:
    app = build(db)

    def create(status: int) -> None:
        add(str(status))
        assert db.in_transaction()
        bottle.response.status = status

    if how == "config":
        app.post("/<status:int>", callback=create, peewee={"atomic": True})
    else:
        app.post("/<status:int>", callback=atomic_requests(create))
    app.get("/autocommit", callback=lambda: f"{count()} {db.in_transaction()}")

    Client(app).get("/200", "POST")
    Client(app).get("/400", "POST")
    assert saved() == ["200"]
    assert Client(app).get("/autocommit").text == "1 False"


def test_a_transaction_left_open_is_rolled_back_and_warned_about(db: Any, caplog: pytest.LogCaptureFixture) -> None:
    app = build(db)

    @app.post("/")
    def create() -> str:
        db.session_start()
        add("lost")
        return "ok"

    with caplog.at_level(logging.WARNING, "peewee_web"):
        assert Client(app).get("/", "POST").text == "ok"
    assert f"a transaction opened at {__file__}" in caplog.text
    assert saved() == []


# No connection.


@pytest.mark.parametrize("lazy", [True, False], ids=["lazy", "eager"])
@pytest.mark.parametrize("how", ["text", "stream", "template"])
def test_no_connection_is_503(db: Any, how: str, lazy: bool) -> None:
    app = build(db, lazy=lazy)
    app.get("/text", callback=count)
    app.get("/template", template="{{notes.count()}}", callback=lambda: {"notes": Note.select()})
    stream(app, "/stream")
    with exhausted(db):
        answer = Client(app).get(f"/{how}")
        assert answer.status == 503
        assert int(answer.headers["Retry-After"]) >= 1
        assert BODY in answer.text
        assert ".db" not in answer.text
        assert Client(app).get("/nowhere").status == 404
    assert Client(app).get(f"/{how}").status == 200


@pytest.mark.parametrize("where", ["route", "stream", "before_request", "after_request", "eager"])
@pytest.mark.parametrize("catchall", [True, False], ids=["catchall", "no-catchall"])
def test_the_error_page_for_503_styles_it(db: Any, where: str, catchall: bool) -> None:
    app = build(db, lazy=where != "eager")
    app.config["catchall"] = catchall

    @app.error(503)
    def sorry(error: Any) -> str:
        assert isinstance(error.exception, peewee_web.NoConnection)
        return f"Sorry, {bottle.response.get_header('Retry-After')}"

    if where.endswith("_request"):
        app.add_hook(where, count)
    callbacks = {"route": count, "stream": lambda: (count() for _ in range(2))}
    app.get("/", callback=callbacks.get(where, lambda: "no query"))
    with exhausted(db):
        answer = Client(app).get("/")
        assert (answer.status, answer.text, answer.headers["Retry-After"]) == (503, "Sorry, 1", "1")
        assert Client(app).get("/", "HEAD").body == b""
    assert Client(app).get("/").status == 200


@pytest.mark.parametrize("where", ["error page", "skipped route", "route of a mounted app"])
def test_where_no_error_page_can_be_had_it_is_503_all_the_same(db: Any, where: str) -> None:
    app = build(db)
    app.error(404, callback=lambda error: count())
    app.get("/skipped-route", callback=count, skip=True)
    child = bottle.Bottle()
    child.get("/of-a-mounted-app", callback=count)
    app.mount("/route/", child)
    paths = {
        "error page": "/nowhere",
        "skipped route": "/skipped-route",
        "route of a mounted app": "/route/of-a-mounted-app",
    }
    with exhausted(db):
        answer = Client(app).get(paths[where])
        assert (answer.status, answer.text, answer.headers["Retry-After"]) == (503, BODY, "1")
        assert Client(app).get(paths[where], "HEAD").body == b""


def test_eager_connecting_is_done_before_the_callback(db: Any) -> None:
    app = build(db, lazy=False)
    calls: list[int] = []
    app.get("/", callback=lambda: calls.append(db.pool_stats().in_use))
    Client(app).get("/")
    with exhausted(db):
        assert Client(app).get("/").status == 503
    assert calls == [1]


def test_other_database_errors_stay_what_they_are(db: Any) -> None:
    app = build(db)
    seen = []
    app.error(500, callback=lambda error: seen.append(type(error.exception)))
    app.get("/", callback=lambda: db.execute_sql("SELECT nonsense"))
    assert Client(app).get("/").status == 500
    assert seen == [peewee.OperationalError]


def test_an_app_may_handle_it_by_itself(db: Any) -> None:
    app = build(db)

    @app.get("/")
    def index() -> str:
        try:
            return count()
        except peewee_web.PoolTimeout:
            return "from the cache"

    with exhausted(db):
        assert Client(app).get("/").text == "from the cache"


# Hooks and error pages.


def test_hooks_and_error_pages_use_the_connection_of_their_request(db: Any) -> None:
    app = build(db)
    connections = []

    def look() -> None:
        connections.append(id(db.connection()))

    app.add_hook("before_request", look)
    app.add_hook("after_request", look)
    app.error(500, callback=lambda error: look() or "styled")

    @app.get("/")
    def index() -> None:
        look()
        raise ZeroDivisionError

    with exhausted(db, but=1):
        assert Client(app).get("/").text == "styled"
    assert len(connections) == 4
    assert len(set(connections)) == 1


@pytest.mark.parametrize("hook", ["before_request", "after_request"])
@pytest.mark.parametrize("error", [ZeroDivisionError, bottle.HTTPError, KeyboardInterrupt])
def test_a_hook_that_raises_loses_no_connection(db: Any, hook: str, error: Any) -> None:
    app = build(db)

    def fail() -> None:
        count()
        raise error()

    app.add_hook(hook, fail)
    app.add_hook(hook, fail)
    app.get("/", callback=count)
    stream(app, "/stream")
    for path in ("/", "/stream") * 3:
        if error is KeyboardInterrupt:
            with pytest.raises(KeyboardInterrupt):
                Client(app).get(path)
        else:
            assert Client(app).get(path).status == 500
        assert db.pool_stats().in_use == 0
        assert current_scope() is None


def test_a_hook_that_answers_early_commits_by_its_status(db: Any) -> None:
    app = build(db, atomic=True)

    @app.hook("before_request")
    def answer() -> None:
        status = int(bottle.request.query.status)
        add(str(status))
        raise bottle.HTTPResponse("early", status)

    app.get("/", callback=lambda: "never")
    for status in (200, 403):
        assert Client(app).get(f"/?status={status}").text == "early"
    assert saved() == ["200"]


def test_a_failing_commit_of_a_hook_is_a_failed_response(db: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    app = build(db, atomic=True)

    def fail() -> None:
        monkeypatch.undo()
        raise peewee.IntegrityError("deferred constraint")

    @app.hook("before_request")
    def answer() -> None:
        add("lost")
        monkeypatch.setattr(db, "commit", fail)
        raise bottle.HTTPResponse("early", 200)

    assert Client(app).get("/").status == 500
    assert saved() == []


def test_what_a_hook_wrote_is_part_of_the_transaction(db: Any) -> None:
    app = build(db, atomic=True)
    app.add_hook("before_request", lambda: add("hook"))
    app.get("/", callback=lambda: bottle.HTTPResponse("failed", 500))
    Client(app).get("/")
    Client(app).get("/nowhere")
    assert saved() == []


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, MemoryError, GeneratorExit])
@pytest.mark.parametrize("where", ["/", "/stream"])
def test_an_exception_that_bottle_lets_through_loses_no_connection(
    db: Any, error: type[BaseException], where: str
) -> None:
    app = build(db, atomic=True)

    def fail() -> str:
        add("lost")
        raise error

    def fail_in_stream() -> Iterator[str]:
        yield fail()

    app.get("/", callback=fail)
    app.get("/stream", callback=fail_in_stream)
    with pytest.raises(error):
        Client(app).get(where)
    assert current_scope() is None
    assert db.pool_stats().in_use == 0
    assert saved() == []


def test_without_catchall_an_error_is_the_servers(db: Any) -> None:
    app = build(db, atomic=True)
    app.config["catchall"] = False

    @app.get("/")
    def index() -> None:
        add("lost")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        Client(app).get("/")
    assert db.pool_stats().in_use == 0
    assert saved() == []


# The app's own calls.


def test_a_callback_may_close_connect_and_open_blocks(db: Any) -> None:
    app = build(db)

    @app.get("/")
    def index(db: Any) -> str:
        first = count()
        db.close()
        second = count()
        with db.connection_context():
            third = count()
        with db:
            fourth = count()
        db.close()
        db.connect()
        return first + second + third + fourth + count() + str(db.pool_stats().in_use)

    assert Client(app).get("/").text == "000001"


# Mounted and merged apps.


def child_of(db: Any, **options: Any) -> Any:
    child = build(db, **options)
    stream(child, "/stream")
    child.get("/text", callback=lambda db: f"{count()} {db.pool_stats().in_use}")
    child.get("/template", template="{{notes.count()}}", callback=lambda: {"notes": Note.select()})
    child.get("/wrapped", callback=lambda: bottle.HTTPResponse(count() for _ in range(3)))
    child.get("/error", callback=lambda: 1 / int(count()))

    @child.post("/<status:int>")
    def create(status: int) -> None:
        add(str(status))
        bottle.response.status = status

    return child


@pytest.fixture(params=["none", "same", "other", "same plugin"])
def parent(request: pytest.FixtureRequest, db: Any, new_database: Any) -> Any:
    """An app without a plugin, with one on the same database, or with one on another."""
    parent = bottle.Bottle()
    if request.param == "same":
        parent.install(PeeweePlugin(db))
    elif request.param == "other":
        parent.install(PeeweePlugin(new_database("other")))
    elif request.param == "same plugin":
        parent.plugin = PeeweePlugin(db, atomic=True)
        parent.install(parent.plugin)
    return parent


def attach(parent: Any, child: Any, how: str) -> str:
    if how == "merged":
        parent.merge(child)
        return ""
    parent.mount("/child/", child if how == "mounted" else child.wsgi)
    return "/child"


@pytest.mark.parametrize("how", ["mounted", "merged", "mounted as WSGI"])
def test_routes_of_a_mounted_app_have_a_scope(db: Any, parent: Any, how: str) -> None:
    prefix = attach(parent, child_of(db, atomic=True), how)
    client = Client(parent)
    assert client.get(f"{prefix}/text").text == "0 1"
    assert client.get(f"{prefix}/template").text == "0"
    assert client.get(f"{prefix}/wrapped").text == "000"
    assert client.get(f"{prefix}/stream").text == "0 0 0 "
    assert client.get(f"{prefix}/stream", "HEAD").status == 200
    assert client.get(f"{prefix}/error").status == 500
    with client.open(f"{prefix}/stream") as (_, chunks):
        next(chunks)
        assert db.pool_stats().in_use == 1
    assert db.pool_stats().in_use == 0

    assert [client.get(f"{prefix}/{status}", "POST").status for status in (201, 400)] == [201, 400]
    assert saved() == ["201"]
    assert db.pool_stats().in_use == 0
    assert current_scope() is None


@pytest.mark.parametrize("how", ["mounted", "merged", "mounted as WSGI"])
@pytest.mark.parametrize("lazy", [True, False], ids=["lazy", "eager"])
def test_no_connection_in_a_mounted_app_is_503(db: Any, parent: Any, how: str, lazy: bool) -> None:
    prefix = attach(parent, child_of(db, lazy=lazy), how)
    if how != "mounted as WSGI":
        parent.error(503, callback=lambda error: "styled by the parent")
    with exhausted(db):
        for path in ("text", "template", "wrapped", "stream"):
            answer = Client(parent).get(f"{prefix}/{path}")
            assert answer.status == 503
            assert int(answer.headers["Retry-After"]) >= 1
            assert BODY in answer.text or answer.text == "styled by the parent"


def test_an_excluded_route_of_a_mounted_app_has_no_scope(db: Any) -> None:
    child = build(db, exclude=["/child/path", "name"])
    child.get("/path", callback=lambda: str(current_scope()))
    child.get("/named", name="name", callback=lambda: str(current_scope()))
    parent = bottle.Bottle()
    parent.mount("/child/", child)
    assert Client(parent).get("/child/path").text == "None"
    assert Client(parent).get("/child/named").text == "None"


def test_two_plugins_of_a_mounted_app_share_its_scope(db: Any, new_database: Any) -> None:
    reports = new_database("reports")
    child = build(db, atomic=True)
    child.install(PeeweePlugin(reports, keyword="reports", atomic=True))

    @child.post("/<status:int>")
    def create(status: int) -> str:
        add("main")
        with Note.bind_ctx(reports):
            add("report")
        bottle.response.status = status
        return f"{db.pool_stats().in_use} {reports.pool_stats().in_use}"

    parent = bottle.Bottle()
    parent.mount("/child/", child)
    assert [Client(parent).get(f"/child/{status}", "POST").text for status in (400, 200)] == ["1 1", "1 1"]
    assert saved() == ["main"]
    with Note.bind_ctx(reports):
        assert saved() == ["report"]
