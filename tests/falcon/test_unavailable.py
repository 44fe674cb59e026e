"""No connection is 503 with Retry-After, styled as the app styles its errors; and only where one was needed."""

from __future__ import annotations

from typing import Any

import falcon
import peewee
import pytest
from falcon import testing

from peewee_web import DatabaseUnavailable, NoConnection, PoolTimeout
from peewee_web.core.unavailable import BODY
from peewee_web.falcon import PeeweeMiddleware, install
from tests.falcon.conftest import Kind, Note, exhausted


def client_of(kind: Kind, db: Any, **options: Any) -> Any:
    app = kind.app()
    install(app, db, **options)
    app.add_route("/", kind.resource(lambda req, resp: resp.set_header("x", str(db.execute_sql("SELECT 1")))))
    app.add_route("/ping", kind.resource(lambda req, resp: resp.set_header("x", "pong")))
    return testing.TestClient(app)


@pytest.mark.parametrize("lazy", [True, False])
def test_an_unreachable_server_is_503(kind: Kind, unreachable: Any, lazy: bool) -> None:
    answer = client_of(kind, unreachable, lazy=lazy).simulate_get("/")
    assert answer.status_code == 503
    assert int(answer.headers["Retry-After"]) >= 1
    assert answer.json == {"title": "503 Service Unavailable", "description": BODY}


def test_only_what_needed_the_database_is_503(kind: Kind, unreachable: Any) -> None:
    client = client_of(kind, unreachable)
    assert client.simulate_get("/ping").headers["x"] == "pong"
    assert client.simulate_get("/missing").status_code == 404


def test_eager_is_503_on_routes_and_404_on_none(kind: Kind, unreachable: Any) -> None:
    client = client_of(kind, unreachable, lazy=False)
    assert client.simulate_get("/ping").status_code == 503
    assert client.simulate_get("/missing").status_code == 404


def test_an_excluded_route_is_not_503(kind: Kind, unreachable: Any) -> None:
    assert client_of(kind, unreachable, lazy=False, exclude="/ping").simulate_get("/ping").headers["x"] == "pong"


@pytest.mark.parametrize("lazy", [True, False])
def test_an_exhausted_pool_is_503(kind: Kind, db: Any, lazy: bool) -> None:
    client = client_of(kind, db, lazy=lazy)
    with exhausted(db):
        answer = client.simulate_get("/")
        assert answer.status_code == 503
        assert int(answer.headers["Retry-After"]) >= 1
    assert client.simulate_get("/").status_code == 200


def test_the_apps_error_serializer_styles_it(kind: Kind, unreachable: Any) -> None:
    client = client_of(kind, unreachable)

    def serialize(req: Any, resp: Any, error: falcon.HTTPError) -> None:
        resp.text = f"styled {error.status_code}, again in {resp.get_header('Retry-After')}"

    client.app.set_error_serializer(serialize)
    assert client.simulate_get("/").text == "styled 503, again in 1"


def test_the_apps_own_handler_of_no_connection_goes_before_ours(kind: Kind, unreachable: Any) -> None:
    for lazy in (True, False):
        client = client_of(kind, unreachable, lazy=lazy)

        def handle(req: Any, resp: Any, error: NoConnection, params: Any) -> None:
            resp.status, resp.text = 503, f"mine {error.retry_after}"

        client.app.add_error_handler(NoConnection, kind.handler(handle))
        assert client.simulate_get("/").text.startswith("mine ")


def test_the_middleware_alone_answers_503_when_it_is_eager(kind: Kind, unreachable: Any) -> None:
    client = kind.serve(lambda req, resp: None, middleware=[PeeweeMiddleware(unreachable, lazy=False)])
    answer = client.simulate_get("/")
    assert answer.status_code == 503
    assert int(answer.headers["Retry-After"]) >= 1


def test_the_cause_is_kept_for_whoever_logs_it(kind: Kind, unreachable: Any, db: Any) -> None:
    causes: list[Any] = []

    def handle(req: Any, resp: Any, error: falcon.HTTPServiceUnavailable, params: Any) -> None:
        causes.append(error.__cause__)

    for database, lazy in ((unreachable, True), (unreachable, False), (db, True), (db, False)):
        app = kind.app(middleware=[PeeweeMiddleware(database, lazy=lazy)])
        app.add_route("/", kind.resource(lambda req, resp: database.execute_sql("SELECT 1")))  # noqa: B023
        app.add_error_handler(falcon.HTTPServiceUnavailable, kind.handler(handle))
        with exhausted(db):
            testing.TestClient(app).simulate_get("/")
    assert [type(cause) for cause in causes] == [DatabaseUnavailable, PoolTimeout]  # of the eager ones


@pytest.mark.parametrize("error", [peewee.OperationalError("no such table"), peewee.IntegrityError("unique")])
def test_other_database_errors_stay_what_they_were(kind: Kind, db: Any, error: Exception) -> None:
    def respond(req: Any, resp: Any) -> None:
        raise error

    app = kind.app()
    install(app, db)
    app.add_route("/", kind.resource(respond))
    assert testing.TestClient(app).simulate_get("/").status_code == 500


def test_a_request_after_the_outage_is_served(kind: Kind, db: Any) -> None:
    client = client_of(kind, db)
    with exhausted(db):
        for _ in range(3):
            assert client.simulate_get("/").status_code == 503
    for _ in range(3):
        assert client.simulate_get("/").status_code == 200
    assert db.pool_stats().in_use == 0


def test_first_use_that_fails_leaks_nothing(kind: Kind, db: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def respond(req: Any, resp: Any) -> None:
        Note.select().count()

    def broken(connection: Any) -> None:
        raise ZeroDivisionError("first use")

    client = kind.serve(respond, middleware=[PeeweeMiddleware(db)])
    db.close_all()
    with monkeypatch.context() as patch:
        patch.setattr(db, "_initialize_connection", broken)
        for _ in range(5):
            assert client.simulate_get("/").status_code == 500
            assert db.pool_stats().in_use == 0
    assert client.simulate_get("/").status_code == 200
