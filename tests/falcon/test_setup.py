"""How an app is told about its database, and what it is told when it does that wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import falcon
import falcon.asgi
import pytest
from falcon import testing

import peewee_web
from peewee_web.core.scope import current_scope
from peewee_web.falcon import PeeweeMiddleware, install
from tests.falcon.conftest import Kind, Note, saved, session


def test_the_middleware_is_all_that_an_app_needs(kind: Kind, db: Any) -> None:
    def respond(req: Any, resp: Any) -> None:
        Note.create(text="a")
        resp.media = [note.text for note in Note.select()]

    client = kind.serve(respond, middleware=[PeeweeMiddleware(db)])
    assert client.simulate_get("/").json == ["a"]
    assert client.simulate_get("/").json == ["a", "a"]
    assert db.pool_stats().in_use == 0


@pytest.mark.parametrize("independent", [True, False])
def test_middleware_may_be_dependent_or_independent(kind: Kind, db: Any, independent: bool) -> None:
    client = kind.serve(
        lambda req, resp: Note.create(text="a"),
        middleware=[PeeweeMiddleware(db)],
        independent_middleware=independent,
    )
    assert client.simulate_get("/").status_code == 200
    assert client.simulate_get("/missing").status_code == 404
    assert db.pool_stats().in_use == 0


def test_install_serves_an_app_that_exists(kind: Kind, db: Any) -> None:
    app = kind.app()
    install(app, db)
    app.add_route("/", kind.resource(lambda req, resp: Note.create(text="a")))
    assert testing.TestClient(app).simulate_get("/").status_code == 200
    assert db.pool_stats().in_use == 0


def test_install_goes_before_the_middleware_that_is_there(kind: Kind, db: Any) -> None:
    seen: list[Any] = []

    class Queries:
        """Its hooks of both kinds."""

        def process_request(self, req: Any, resp: Any) -> None:
            seen.append((current_scope(), session(db)))

        def process_response(self, req: Any, resp: Any, resource: Any, succeeded: bool) -> None:
            seen.append((current_scope(), session(db)))

        async def process_request_async(self, req: Any, resp: Any) -> None:
            self.process_request(req, resp)

        async def process_response_async(self, *arguments: Any) -> None:
            self.process_response(*arguments)

    app = kind.app(middleware=[Queries()])
    install(app, db)
    app.add_route("/", kind.resource(lambda req, resp: seen.append((current_scope(), session(db)))))
    testing.TestClient(app).simulate_get("/")
    assert len(seen) == 3
    assert seen[0] == seen[1] == seen[2]
    assert seen[0][0] is not None


def test_installing_twice_says_what_to_do(kind: Kind, db: Any) -> None:
    app = kind.app()
    install(app, db)
    with pytest.raises(RuntimeError, match="a PeeweeMiddleware already: give a mapping"):
        install(app, db)


def test_installing_on_an_app_with_the_middleware_says_what_to_do(kind: Kind, db: Any) -> None:
    with pytest.raises(RuntimeError, match="a PeeweeMiddleware already: give a mapping"):
        install(kind.app(middleware=[PeeweeMiddleware(db)]), db)


def test_two_middlewares_on_one_app_are_told_what_to_do(
    kind: Kind, db: Any, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    client = kind.serve(lambda req, resp: None, middleware=[PeeweeMiddleware(db), PeeweeMiddleware(db)])
    assert client.simulate_get("/").status_code == 500
    log = caplog.text + capsys.readouterr().err  # Falcon logs to `wsgi.errors`, or under ASGI as everybody does
    assert "two PeeweeMiddleware serve this Falcon app: give a mapping of databases to one" in log


def test_what_is_no_app_is_refused(db: Any) -> None:
    with pytest.raises(TypeError, match=r"install\(app, db\): app is a falcon.App or a falcon.asgi.App"):
        install(db, falcon.App())


@pytest.mark.parametrize("bad", [None, 5, object()])
def test_what_is_no_database_is_refused(bad: Any) -> None:
    with pytest.raises(TypeError, match="is not a Peewee database"):
        PeeweeMiddleware(bad)


def test_an_unknown_option_is_refused(db: Any) -> None:
    with pytest.raises(TypeError, match="eager"):
        PeeweeMiddleware(db, eager=True)


def test_a_failed_install_leaves_the_app_as_it_was(kind: Kind, db: Any) -> None:
    app = kind.app()
    with pytest.raises(TypeError):
        install(app, None)
    install(app, db)


def test_two_apps_of_one_process_have_their_own_databases(kind: Kind, tmp_path: Path) -> None:
    shared = peewee_web.ScopedDatabase()
    databases = [peewee_web.connect(f"sqlite:///{tmp_path}/{n}.db") for n in range(2)]

    def respond(req: Any, resp: Any) -> None:
        resp.text = Path(shared.execute_sql("PRAGMA database_list").fetchone()[2]).name

    clients = [kind.serve(respond, middleware=[PeeweeMiddleware(database)]) for database in databases]
    assert [client.simulate_get("/").text for client in clients] == ["0.db", "1.db"]
    for database in databases:
        assert database.pool_stats().in_use == 0
        database.close_all()


def test_one_middleware_may_serve_apps_of_both_kinds(db: Any) -> None:
    middleware = PeeweeMiddleware(db)
    for kind in (Kind(False), Kind(True)):
        client = kind.serve(lambda req, resp: Note.create(text="a"), middleware=[middleware])
        assert client.simulate_get("/").status_code == 200
    assert db.pool_stats().in_use == 0


def test_several_databases_are_given_back_together(kind: Kind, db: Any, tmp_path: Path) -> None:
    reports = peewee_web.connect(f"sqlite:///{tmp_path}/reports.db")

    def respond(req: Any, resp: Any) -> None:
        db.execute_sql("SELECT 1")
        reports.execute_sql("SELECT 1")
        assert db.pool_stats().in_use == reports.pool_stats().in_use == 1

    client = kind.serve(respond, middleware=[PeeweeMiddleware({"default": db, "reports": reports})])
    assert client.simulate_get("/").status_code == 200
    assert reports.pool_stats().in_use == 0
    reports.close_all()


@pytest.mark.parametrize("pattern", ["/health/7", "/health/{number}", "/health/*"])
@pytest.mark.parametrize("options", [{}, {"lazy": False}, {"atomic": True}], ids=["lazy", "eager", "atomic"])
def test_excluded_paths_and_uri_templates_have_no_scope(
    kind: Kind, db: Any, pattern: str, options: dict[str, Any]
) -> None:
    class Resource:
        def on_get(self, req: Any, resp: Any, number: str) -> None:
            resp.media = [current_scope() is None, db.pool_stats().in_use]

    class AsyncResource:
        async def on_get(self, req: Any, resp: Any, number: str) -> None:
            Resource().on_get(req, resp, number)

    app = kind.app()
    install(app, db, exclude=[pattern], **options)
    app.add_route("/health/{number}", AsyncResource() if kind.is_async else Resource())
    app.add_route("/other", kind.resource(lambda req, resp: resp.set_header("scope", str(current_scope()))))
    client = testing.TestClient(app)
    assert client.simulate_get("/health/7").json == [True, 0]
    assert client.simulate_get("/other").headers["scope"].startswith("<Scope")


def test_an_excluded_template_commits_what_earlier_middleware_wrote(kind: Kind, db: Any) -> None:
    class Writes:
        def process_request(self, req: Any, resp: Any) -> None:
            Note.create(text="seen")

        async def process_request_async(self, req: Any, resp: Any) -> None:
            Note.create(text="seen")

    class Resource:
        def on_get(self, req: Any, resp: Any, name: str) -> None:
            assert db.pool_stats().in_use == 0
            raise falcon.HTTPBadRequest

    class AsyncResource:
        async def on_get(self, req: Any, resp: Any, name: str) -> None:
            Resource().on_get(req, resp, name)

    app = kind.app(middleware=[PeeweeMiddleware(db, atomic=True, exclude="/{name}"), Writes()])
    app.add_route("/{name}", AsyncResource() if kind.is_async else Resource())
    assert testing.TestClient(app).simulate_get("/x").status_code == 400
    assert saved() == ["seen"]
