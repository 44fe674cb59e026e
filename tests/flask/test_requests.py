"""What happens in a request: bodies, transactions, no connection, hooks that query or fail, requests in requests."""

from __future__ import annotations

import asyncio
import io
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import peewee
import pytest
from flask import (
    Blueprint,
    Flask,
    Response,
    abort,
    after_this_request,
    copy_current_request_context,
    redirect,
    request,
    send_file,
    session,
    stream_with_context,
)
from flask.sessions import SecureCookieSession, SessionInterface
from werkzeug.exceptions import ServiceUnavailable
from werkzeug.wsgi import FileWrapper

import peewee_web
from peewee_web.core.scope import current_scope
from peewee_web.core.unavailable import BODY
from peewee_web.flask import atomic_requests, non_atomic_requests
from tests.flask.conftest import Site, exhausted


@pytest.fixture(autouse=True)
def nothing_is_left_behind(site: Site) -> Iterator[None]:
    yield
    assert current_scope() is None
    assert site.in_use == 0


# A view.


def test_a_view_queries_and_its_connection_is_given_back_before_the_answer_is_sent(site: Site) -> None:
    @site.app.get("/")
    def index() -> str:
        return f"{site.count()} {site.in_use}"

    answer = site.client.get("/", buffered=False)
    assert site.in_use == 0
    assert answer.text == "0 1"
    answer.close()


def test_a_view_without_a_query_takes_no_connection(site: Site) -> None:
    site.app.add_url_rule("/", view_func=lambda: f"{site.in_use}")
    site.database.close_idle()
    assert site.client.get("/").text == "0"
    assert site.client.get("/nowhere").status_code == 404
    assert site.database.pool_stats().idle == 0


def test_a_view_may_close_connect_and_open_blocks(site: Site) -> None:
    @site.app.get("/")
    def index() -> str:
        database = site.db.databases["default"]
        counts = site.count()
        database.close()
        counts += site.count()
        with database.connection_context():
            counts += site.count()
        with database:
            counts += site.count()
        database.close()
        database.connect()
        return f"{counts}{site.count()} {site.in_use}"

    assert site.client.get("/").text == "00000 1"


def test_an_async_view_shares_the_connection_of_its_request(site: Site) -> None:
    seen = []

    def look() -> None:
        seen.append(id(site.database.connection()))

    site.app.before_request(look)

    @site.app.get("/")
    async def index() -> str:
        look()
        await asyncio.sleep(0)
        await asyncio.to_thread(look)
        return f"{site.in_use}"

    for _ in range(6):
        seen.clear()
        assert site.client.get("/").text == "1"
        assert len(seen) == 3
        assert len(set(seen)) == 1


def test_a_blueprint_is_served_as_well(site: Site) -> None:
    blueprint = Blueprint("notes", __name__, url_prefix="/notes")
    blueprint.get("/")(site.count)
    blueprint.errorhandler(503)(lambda error: ("styled by the blueprint", 503))
    site.app.register_blueprint(blueprint)
    assert site.client.get("/notes/").text == "0"
    with exhausted(site.database):
        assert site.client.get("/notes/").text == "styled by the blueprint"


# Bodies.


@pytest.mark.parametrize("with_context", [True, False], ids=["stream_with_context", "plain generator"])
def test_a_streamed_body_queries_on_the_connection_of_its_request(site: Site, with_context: bool) -> None:
    checkouts = []

    @site.app.get("/")
    def index() -> Response:
        checkouts.append(id(site.database.connection()))

        def body() -> Iterator[str]:
            for _ in range(3):
                checkouts.append(id(site.database.connection()))
                yield site.count()

        return Response(stream_with_context(body()) if with_context else body())

    for _ in range(6):
        answer = site.client.get("/", buffered=False)
        chunks = iter(answer.response)
        assert [next(chunks), site.in_use, current_scope()] == [b"0", 1, None]
        assert list(chunks) == [b"0", b"0"]
        answer.close()
        assert site.in_use == 0
    assert len(set(checkouts)) == 1


@pytest.mark.parametrize("how", ["abort", "error", "not found", "styled"])
def test_an_error_page_holds_no_connection_while_it_is_sent(site: Site, how: str) -> None:
    site.app.before_request(lambda: site.count() and None)
    site.app.add_url_rule("/", view_func=lambda: abort(403) if how == "abort" else 1 / 0)
    if how == "styled":
        site.app.errorhandler(500)(lambda error: ("styled", 500))
    answer = site.client.get("/nowhere" if how == "not found" else "/", buffered=False)
    assert site.in_use == 0
    assert answer.status_code >= 400
    answer.close()


@pytest.mark.parametrize("with_context", [True, False], ids=["stream_with_context", "plain generator"])
def test_a_client_that_goes_away_mid_body_gives_the_connection_back(site: Site, with_context: bool) -> None:
    @site.app.get("/")
    def index() -> Response:
        def body() -> Iterator[str]:
            while True:
                yield site.count()

        return Response(stream_with_context(body()) if with_context else body())

    for _ in range(6):
        answer = site.client.get("/", buffered=False)
        assert next(iter(answer.response)) == b"0"
        assert site.in_use == 1
        answer.close()
        assert site.in_use == 0


@pytest.mark.parametrize("path", ["/text", "/stream", "/with-context"])
def test_head_gives_the_connection_back(site: Site, path: str) -> None:
    def stream() -> Iterator[str]:
        yield "x"

    site.app.add_url_rule("/text", "text", site.count)
    site.app.add_url_rule("/stream", "stream", lambda: Response(site.count() + text for text in stream()))
    site.app.add_url_rule(
        "/with-context", "ctx", lambda: Response(stream_with_context(stream()), headers={"X": site.count()})
    )
    for _ in range(6):
        answer = site.client.head(path, buffered=False)
        assert (answer.status_code, answer.data) == (200, b"")
        assert site.in_use == 0
        answer.close()


def test_a_body_that_fails_half_way_is_rolled_back(site: Site) -> None:
    @site.app.get("/")
    def index() -> Response:
        def body() -> Iterator[str]:
            with site.db.database.atomic():
                site.add("lost")
                yield "begun"
                raise ZeroDivisionError

        return Response(stream_with_context(body()))

    with pytest.raises(ZeroDivisionError):
        site.client.get("/", buffered=True)
    assert site.saved() == []


def test_what_is_called_on_close_may_query(site: Site) -> None:
    counts = []

    @site.app.get("/<kind>")
    def index(kind: str) -> Response:
        site.count()
        answer = Response("text" if kind == "text" else iter(["a", "b"]))
        answer.call_on_close(lambda: counts.append(site.database.execute_sql("SELECT 1").fetchone()))
        return answer

    for kind in ("text", "stream"):
        site.client.get(f"/{kind}").close()
        assert site.in_use == 0
    assert counts == [(1,), (1,)]


def test_a_file_holds_no_connection_while_it_is_sent(site: Site, tmp_path: Path) -> None:
    (tmp_path / "file.txt").write_text("content")

    @site.app.get("/")
    def index() -> Response:
        site.count()
        return send_file(tmp_path / "file.txt")

    answer = site.client.get("/", buffered=False)
    assert site.in_use == 0
    assert answer.text == "content"
    answer.close()

    served = site.app.wsgi_app(_environ(**{"wsgi.file_wrapper": FileWrapper}), lambda *_: None)
    assert type(served) is FileWrapper
    served.close()


def _environ(**more: Any) -> dict[str, Any]:
    from werkzeug.test import EnvironBuilder

    return {**EnvironBuilder("/").get_environ(), **more}


# Transactions.


@pytest.mark.parametrize(
    ("status", "expected"), [(200, ["x"]), (302, ["x"]), (400, []), (500, [])], ids=["200", "302", "400", "500"]
)
@pytest.mark.parametrize("how", ["returned", "aborted", "changed afterwards"])
def test_an_atomic_request_commits_by_its_status(
    new_site: Callable[..., Site], how: str, status: int, expected: list[str]
) -> None:
    site = new_site("atomic", PEEWEE_ATOMIC=True)

    @site.app.post("/")
    def create() -> Response:
        site.add("x")
        assert site.database.in_transaction()
        if how == "aborted":
            abort(Response("text", status))
        return Response("text", status if how == "returned" else 200)

    if how == "changed afterwards":

        @site.app.after_request
        def change(answer: Response) -> Response:
            answer.status_code = status
            return answer

    assert site.client.post("/").status_code == status
    assert site.saved() == expected


def test_an_unhandled_error_rolls_an_atomic_request_back(new_site: Callable[..., Site]) -> None:
    site = new_site("atomic", PEEWEE_ATOMIC=True)

    @site.app.post("/")
    def create() -> None:
        site.add("lost")
        raise ZeroDivisionError

    assert site.client.post("/").status_code == 500
    assert site.saved() == []


@pytest.mark.parametrize("config", ["TESTING", "PROPAGATE_EXCEPTIONS", "DEBUG"])
def test_an_error_that_flask_propagates_loses_no_connection(new_site: Callable[..., Site], config: str) -> None:
    site = new_site("atomic", PEEWEE_ATOMIC=True, **{config: True})

    @site.app.post("/")
    def create() -> None:
        site.add("lost")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        site.client.post("/")
    assert site.in_use == 0
    assert site.saved() == []


def test_a_handled_error_commits_by_the_status_of_its_answer(new_site: Callable[..., Site]) -> None:
    site = new_site("atomic", PEEWEE_ATOMIC=True)

    @site.app.errorhandler(ZeroDivisionError)
    def forgive(error: ZeroDivisionError) -> tuple[str, int]:
        return site.count(), int(request.args["status"])

    @site.app.post("/")
    def create() -> None:
        site.add("x")
        raise ZeroDivisionError

    assert site.client.post("/?status=400").text == "1"
    assert site.saved() == []
    assert site.client.post("/?status=200").text == "1"
    assert site.saved() == ["x"]


def test_commit_when_decides(new_site: Callable[..., Site]) -> None:
    site = new_site("atomic", PEEWEE_ATOMIC=True, PEEWEE_COMMIT_WHEN=lambda status: status == 409)

    @site.app.post("/<int:status>")
    def create(status: int) -> tuple[str, int]:
        site.add(str(status))
        return "", status

    site.client.post("/200")
    site.client.post("/409")
    assert site.saved() == ["409"]


def test_a_failed_commit_is_a_failed_response(new_site: Callable[..., Site], monkeypatch: pytest.MonkeyPatch) -> None:
    site = new_site("atomic", PEEWEE_ATOMIC=True)

    def fail() -> None:
        monkeypatch.undo()
        raise peewee.IntegrityError("deferred constraint")

    @site.app.post("/")
    def create() -> str:
        site.add("lost")
        monkeypatch.setattr(site.database, "commit", fail)
        return "never"

    @site.app.errorhandler(500)
    def styled(error: Any) -> tuple[str, int]:
        return f"styled {error.original_exception}", 500

    answer = site.client.post("/")
    assert (answer.status_code, answer.text) == (500, "styled deferred constraint")
    assert site.saved() == []


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_a_view_opts_out_of_the_transaction(new_site: Callable[..., Site], is_async: bool) -> None:
    site = new_site("atomic", PEEWEE_ATOMIC=True)

    def create() -> tuple[str, int]:
        site.add(str(site.database.in_transaction()))
        return "", 500

    async def create_async() -> tuple[str, int]:
        return create()

    site.app.add_url_rule("/", "create", non_atomic_requests(create_async if is_async else create), methods=["POST"])
    assert site.client.post("/").status_code == 500
    assert site.saved() == ["False"]


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_a_view_opts_in_to_a_transaction(site: Site, is_async: bool) -> None:
    def create(status: int) -> tuple[str, int]:
        site.add(str(status))
        assert site.database.in_transaction()
        return "", status

    async def create_async(status: int) -> tuple[str, int]:
        return create(status)

    view = atomic_requests(create_async if is_async else create)
    site.app.add_url_rule("/<int:status>", "create", view, methods=["POST"])
    site.client.post("/200")
    site.client.post("/400")
    assert site.saved() == ["200"]


def test_a_transaction_left_open_is_rolled_back_and_warned_about(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    @site.app.post("/<how>")
    def create(how: str) -> str:
        if how == "session":
            site.db.database.session_start()
        else:
            site.db.database.atomic().__enter__()
        site.add("lost")
        return "ok"

    site.app.add_url_rule("/", "count", site.count)
    for how in ("session", "atomic"):
        caplog.clear()
        with caplog.at_level(logging.WARNING, "peewee_web"):
            assert site.client.post(f"/{how}").text == "ok"
        assert f"a transaction opened at {__file__}" in caplog.text
        assert site.client.get("/").text == "0"


def test_an_exception_inside_atomic_rolls_it_back(site: Site) -> None:
    @site.app.post("/")
    def create() -> None:
        site.add("before")
        with site.db.database.atomic():
            site.add("lost")
            raise ZeroDivisionError

    assert site.client.post("/").status_code == 500
    assert site.saved() == ["before"]


# No connection.


@pytest.mark.parametrize("lazy", [True, False], ids=["lazy", "eager"])
@pytest.mark.parametrize("testing", [True, False], ids=["testing", "production"])
def test_no_connection_is_503(new_site: Callable[..., Site], lazy: bool, testing: bool) -> None:
    site = new_site("other", PEEWEE_LAZY=lazy, TESTING=testing)
    site.app.add_url_rule("/", view_func=site.count)
    with exhausted(site.database):
        answer = site.client.get("/")
        assert answer.status_code == 503
        assert answer.headers["Retry-After"] == "1"
        assert BODY in answer.text
        assert ".db" not in answer.text
    assert site.client.get("/").text == "0"


@pytest.mark.parametrize("by", ["code", "class", "NoConnection"])
@pytest.mark.parametrize("where", ["view", "async view", "before_request", "after_request", "session", "eager"])
def test_an_error_handler_styles_it(new_site: Callable[..., Site], by: str, where: str) -> None:
    site = new_site("other", PEEWEE_LAZY=where != "eager")

    def sorry(error: Any) -> tuple[str, int]:
        cause = error if by == "NoConnection" else error.__cause__
        assert isinstance(cause, peewee_web.PoolTimeout)
        return "Sorry", 503

    site.app.register_error_handler(
        {"code": 503, "class": ServiceUnavailable, "NoConnection": peewee_web.NoConnection}[by], sorry
    )

    async def view() -> str:
        return site.count()

    def after(answer: Response) -> Response:
        site.count()
        return answer

    site.app.add_url_rule("/", "index", {"view": site.count, "async view": view}.get(where, lambda: "no query"))
    if where == "before_request":
        site.app.before_request(lambda: site.count() and None)
    elif where == "after_request":
        site.app.after_request(after)
    elif where == "session":
        site.app.session_interface = DatabaseSessions(site)

    with exhausted(site.database):
        answer = site.client.get("/")
        assert (answer.status_code, answer.text) == (503, "Sorry")
    assert site.client.get("/").status_code == 200


def test_an_error_handler_may_query(site: Site) -> None:
    site.app.add_url_rule("/", view_func=lambda: 1 / 0)
    site.app.errorhandler(500)(lambda error: (f"{site.count()} notes", 500))
    assert site.client.get("/").text == "0 notes"
    with exhausted(site.database):
        assert site.client.get("/").status_code == 503


def test_an_error_page_for_503_may_not_find_a_connection_either(site: Site) -> None:
    site.app.add_url_rule("/", view_func=site.count)
    site.app.errorhandler(503)(lambda error: (site.count(), 503))
    with exhausted(site.database):
        answer = site.client.get("/")
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
    assert BODY in answer.text


def test_other_database_errors_stay_what_they_are(site: Site) -> None:
    site.app.add_url_rule("/", view_func=lambda: site.db.database.execute_sql("SELECT nonsense"))
    site.app.errorhandler(peewee.OperationalError)(lambda error: ("its own handler", 418))
    assert site.client.get("/").status_code == 418


def test_a_view_may_handle_it_by_itself(site: Site) -> None:
    @site.app.get("/")
    def index() -> str:
        try:
            return site.count()
        except peewee_web.PoolTimeout:
            return "from the cache"

    with exhausted(site.database):
        assert site.client.get("/").text == "from the cache"


# Hooks.


class DatabaseSessions(SessionInterface):
    """Sessions in the table of notes, as apps keep theirs in the database."""

    def __init__(self, site: Site) -> None:
        self.site = site

    def open_session(self, app: Flask, request: Any) -> SecureCookieSession:
        query = self.site.Note.select(self.site.Note.text)
        return SecureCookieSession({"notes": [note.text for note in query]})

    def save_session(self, app: Flask, session: Any, response: Response) -> None:
        if session.modified:
            self.site.add("saved")


@pytest.mark.parametrize("atomic", [True, False], ids=["atomic", "autocommit"])
def test_a_session_interface_may_query(new_site: Callable[..., Site], atomic: bool) -> None:
    site = new_site("other", PEEWEE_ATOMIC=atomic)
    site.app.session_interface = DatabaseSessions(site)

    @site.app.get("/")
    def index() -> str:
        session["x"] = "y"
        return f"{session['notes']}"

    assert site.client.get("/").text == "[]"
    assert site.client.get("/").text == "['saved']"
    assert site.in_use == 0


def test_a_session_saved_in_the_database_is_part_of_the_requests_transaction(new_site: Callable[..., Site]) -> None:
    site = new_site("other", PEEWEE_ATOMIC=True)
    site.app.session_interface = DatabaseSessions(site)

    @site.app.get("/")
    def index() -> tuple[str, int]:
        session["x"] = "y"
        site.add("from the view")
        return "", int(request.args["status"])

    site.client.get("/?status=400")
    assert site.saved() == []
    site.client.get("/?status=200")
    assert site.saved() == ["from the view", "saved"]


def test_after_this_request_and_teardown_functions_may_query(site: Site) -> None:
    counts = []
    site.app.teardown_request(lambda error: counts.append(site.count()))
    site.app.teardown_appcontext(lambda error: counts.append(site.count()))

    @site.app.get("/")
    def index() -> str:
        @after_this_request
        def remember(answer: Response) -> Response:
            counts.append(site.count())
            return answer

        return "ok"

    assert site.client.get("/").text == "ok"
    assert counts == ["0", "0", "0"]


def test_a_before_request_function_that_answers_early_is_part_of_the_request(new_site: Callable[..., Site]) -> None:
    site = new_site("atomic", PEEWEE_ATOMIC=True)

    @site.app.before_request
    def answer() -> tuple[str, int]:
        status = int(request.args["status"])
        site.add(str(status))
        return "early", status

    for status in (200, 403):
        assert site.client.get(f"/?status={status}").text == "early"
    assert site.saved() == ["200"]


HOOKS = ["before_request", "after_request", "teardown_request", "teardown_appcontext"]


@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize("error", [ZeroDivisionError, SystemExit, KeyboardInterrupt])
def test_a_hook_that_raises_loses_no_connection(site: Site, hook: str, error: type[BaseException]) -> None:
    def fail(*_: Any) -> None:
        site.count()
        raise error

    getattr(site.app, hook)(fail)
    getattr(site.app, hook)(fail)
    site.app.add_url_rule("/", "index", site.count)
    site.app.add_url_rule("/stream", "stream", lambda: Response(site.count() for _ in range(3)))
    for path in ("/", "/stream") * 3:
        if error is ZeroDivisionError and not hook.startswith("teardown"):
            with site.client.get(path) as answer:
                assert answer.status_code == 500
        else:
            with pytest.raises(error):
                site.client.get(path)
        assert site.in_use == 0
        assert current_scope() is None


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt, GeneratorExit])
def test_an_exception_that_flask_lets_through_loses_no_connection(
    new_site: Callable[..., Site], error: type[BaseException]
) -> None:
    site = new_site("atomic", PEEWEE_ATOMIC=True)

    @site.app.get("/")
    def index() -> None:
        site.add("lost")
        raise error

    with pytest.raises(error):
        site.client.get("/")
    assert site.in_use == 0
    assert site.saved() == []


# Requests inside requests, and around them.


def test_a_request_inside_a_request_has_a_scope_of_its_own(site: Site) -> None:
    site.app.add_url_rule("/inner", "inner", lambda: f"{site.count()} of {site.in_use}")

    @site.app.get("/")
    def index() -> str:
        with site.db.database.atomic():
            site.add("outer")
            inner = site.app.test_client().get("/inner").text
            assert site.database.in_transaction()
            return f"{inner}, {site.count()} of {site.in_use}"

    assert site.client.get("/").text == "0 of 2, 1 of 1"
    assert site.saved() == ["outer"]


def test_an_app_mounted_in_another_has_its_own_databases(new_site: Callable[..., Site]) -> None:
    from werkzeug.middleware.dispatcher import DispatcherMiddleware

    outer, inner = new_site("outer"), new_site("inner")
    for site in (outer, inner):
        site.app.add_url_rule("/", view_func=site.count)
        with site.app.app_context():
            site.add("x")
    with inner.app.app_context():
        inner.add("y")
    outer.app.wsgi_app = DispatcherMiddleware(outer.app.wsgi_app, {"/inner": inner.app})  # type: ignore[method-assign]
    assert outer.client.get("/").text == "1"
    assert outer.client.get("/inner/").text == "2"
    assert (outer.in_use, inner.in_use) == (0, 0)


def test_a_client_that_keeps_the_context_keeps_a_scope_in_it(site: Site) -> None:
    @site.app.get("/")
    def index() -> str:
        site.add("x")
        return request.path

    with site.client as client:
        assert client.get("/").text == "/"
        assert request.path == "/"
        assert site.count() == "1"
        assert site.in_use == 1
        assert client.get("/").text == "/"
        assert site.count() == "2"
    assert site.in_use == 0


def test_a_request_inside_an_app_context_has_a_scope_of_its_own(site: Site) -> None:
    site.app.add_url_rule("/", view_func=lambda: f"{site.count()} of {site.in_use}")
    with site.app.app_context(), site.db.database.atomic():
        site.add("x")
        assert site.client.get("/").text == "0 of 2"
        assert site.count() == "1"


def test_a_thread_with_a_copied_request_context_shares_the_connection(site: Site) -> None:
    import contextvars
    import threading

    @site.app.get("/")
    def index() -> str:
        seen = [id(site.database.connection())]

        @copy_current_request_context
        def look() -> None:
            seen.append(id(site.database.connection()))

        thread = threading.Thread(target=contextvars.copy_context().run, args=(look,))
        thread.start()
        thread.join()
        return f"{len(seen)} {len(set(seen))} {site.in_use}"

    assert site.client.get("/").text == "2 1 1"


def test_an_upload_is_read_as_ever(site: Site) -> None:
    @site.app.post("/")
    def create() -> str:
        site.add(request.files["file"].stream.read().decode())
        return redirect("/").headers["Location"]

    assert site.client.post("/", data={"file": (io.BytesIO(b"content"), "x.txt")}).text == "/"
    assert site.saved() == ["content"]
