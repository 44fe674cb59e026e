"""Saying which database an app uses: ``init_app``, ``app.config``, several apps, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import peewee
import pytest
from flask import Flask

import peewee_web
from peewee_web.core.scoped import NotConfigured
from peewee_web.flask import Peewee
from tests.flask.conftest import Site, exhausted


def one(database: Any) -> Any:
    return database.execute_sql("SELECT 1").fetchone()


# Where the database comes from.


def test_an_app_is_given_to_the_constructor(tmp_path: Path) -> None:
    app = Flask(__name__)
    app.config["PEEWEE_DATABASE"] = f"sqlite:///{tmp_path}/x.db"
    db = Peewee(app)
    with app.app_context():
        assert one(db.database) == (1,)
        assert db.databases["default"].database == f"{tmp_path}/x.db"
        db.databases.close()


def test_an_app_factory_calls_init_app(tmp_path: Path) -> None:
    db = Peewee()

    class Note(db.Model):  # type: ignore[misc, name-defined]
        text = peewee.CharField()

    def create_app() -> Flask:
        app = Flask(__name__)
        app.config["PEEWEE_DATABASE"] = f"sqlite:///{tmp_path}/x.db"
        db.init_app(app)

        @app.get("/")
        def index() -> str:
            return ",".join(note.text for note in Note.select())

        return app

    apps = [create_app(), create_app()]
    with apps[0].app_context():
        db.database.create_tables([Note])
        Note.create(text="x")
    assert [app.test_client().get("/").text for app in apps] == ["x", "x"]
    for app in apps:
        with app.app_context():
            db.databases.close()


@pytest.mark.parametrize("given", ["init_app", "constructor", "databases in config", "database in config"])
def test_what_is_given_in_code_goes_before_what_is_configured(new_database: Callable[..., Any], given: str) -> None:
    names = ["database in config", "databases in config", "constructor", "init_app"]
    choices = {name: new_database(name) for name in names[: names.index(given) + 1]}
    app = Flask(__name__)
    app.config["PEEWEE_DATABASE"] = choices["database in config"]
    if "databases in config" in choices:
        app.config["PEEWEE_DATABASES"] = {"default": choices["databases in config"]}
    db = Peewee(database=choices.get("constructor"))
    db.init_app(app, choices.get("init_app"))
    with app.app_context():
        assert db.databases["default"] is choices[given]


def test_options_in_code_go_before_configured_ones(new_database: Callable[..., Any]) -> None:
    app = Flask(__name__)
    app.config.from_mapping(
        PEEWEE_LAZY=False, PEEWEE_ATOMIC=True, PEEWEE_EXCLUDE=["/health"], PEEWEE_COMMIT_WHEN=lambda status: True
    )
    db = Peewee(database=new_database("x"), lazy=True, exclude=["/static/*"])
    db.init_app(app, exclude=["/about"])
    with app.app_context():
        assert db.databases.lazy is True
        assert db.databases.atomic is True
        assert db.databases.exclude == ("/about",)
        assert db.databases.commit_when(500) is True


def test_several_databases_are_reached_by_name(new_database: Callable[..., Any]) -> None:
    main, reports = new_database("main"), new_database("reports")
    app = Flask(__name__)
    app.config["PEEWEE_DATABASES"] = {"default": main, "reports": reports}
    db = Peewee(app)

    class Report(peewee.Model):
        class Meta:
            database = peewee_web.ScopedDatabase("reports")

    @app.get("/")
    def index() -> str:
        Report.create_table()
        one(db.database)
        assert Report.table_exists()
        assert not main.table_exists("report")
        return f"{main.pool_stats().in_use} {reports.pool_stats().in_use} {list(db.databases)}"

    assert app.test_client().get("/").text == "1 1 ['default', 'reports']"


def test_a_registry_carries_its_own_options(new_database: Callable[..., Any]) -> None:
    databases = peewee_web.Databases(new_database("x"), atomic=True)
    app = Flask(__name__)
    db = Peewee(app, databases)
    with app.app_context():
        assert db.databases is databases
    with pytest.raises(TypeError, match=r"give lazy to Databases\(\.\.\.\)"):
        Peewee(Flask(__name__), databases, lazy=False)


def test_a_peewee_database_of_any_class_is_adopted(tmp_path: Path) -> None:
    plain = peewee.SqliteDatabase(f"{tmp_path}/x.db")
    app = Flask(__name__)
    db = Peewee(app, plain)
    app.add_url_rule("/", view_func=lambda: f"{one(db.database)} {plain.is_closed()}")
    assert app.test_client().get("/").text == "(1,) False"
    assert plain.is_closed()


# Models and several apps.


def test_db_model_is_one_class() -> None:
    db = Peewee()
    assert db.Model is db.Model
    assert issubclass(db.Model, peewee.Model)


def test_models_see_the_rows_of_the_app_at_hand(new_database: Callable[..., Any]) -> None:
    db = Peewee()
    sites = [Site(new_database(name), db) for name in ("first", "second")]
    note = sites[0].Note

    for site in sites:
        site.app.add_url_rule("/<text>", "add", lambda text: note.create(text=text).text, methods=["POST"])
        site.app.add_url_rule("/", "list", lambda: ",".join(row.text for row in note.select()))
    for site, text in zip(sites, "ab", strict=True):
        site.client.post(f"/{text}")

    assert [site.client.get("/").text for site in sites] == ["a", "b"]
    with sites[0].app.app_context():
        assert note.get().text == "a"
        with sites[1].app.app_context():
            assert note.get().text == "b"
            assert note.get().text == "b"
        assert note.get().text == "a"


def test_apps_may_have_an_extension_each(new_site: Callable[..., Site]) -> None:
    first, second = new_site("first"), new_site("second")
    with first.app.app_context():
        first.add("x")
        assert first.count() == "1"
    with second.app.app_context():
        assert second.count() == "0"
        with pytest.raises(RuntimeError, match="no Flask app with this Peewee extension is active"):
            _ = first.db.databases


def test_the_extension_is_registered_as_peewee(site: Site) -> None:
    registration = site.app.extensions["peewee"]
    assert registration.owner is site.db
    assert registration.of_app["default"] is site.database


# What is refused.


def test_an_app_without_a_database_is_refused() -> None:
    with pytest.raises(RuntimeError, match=r"set app.config\['PEEWEE_DATABASE'\]"):
        Peewee(Flask(__name__))


def test_registering_twice_is_refused(site: Site) -> None:
    for db in (site.db, Peewee()):
        with pytest.raises(RuntimeError, match=r"registered on this Flask app .* already: call init_app once"):
            db.init_app(site.app)
    site.app.add_url_rule("/", view_func=site.count)
    assert site.client.get("/").text == "0"


def test_use_without_init_app_is_explained() -> None:
    db = Peewee(database="sqlite:///:memory:")
    app = Flask(__name__)
    with app.app_context():
        with pytest.raises(RuntimeError, match=r"call db.init_app\(app\)"):
            _ = db.databases
        with pytest.raises(NotConfigured, match="no database is configured for 'default' here"):
            db.database.execute_sql("SELECT 1")


def test_use_outside_any_context_is_explained(site: Site) -> None:
    with pytest.raises(RuntimeError, match=r"inside `with app.app_context\(\):`"):
        _ = site.db.databases
    with pytest.raises(NotConfigured, match="run inside an app's request or app context"):
        site.Note.select().count()


def test_an_unknown_option_and_a_bad_one_are_refused(new_database: Callable[..., Any]) -> None:
    with pytest.raises(TypeError, match="lazzy"):
        Peewee(Flask(__name__), new_database("x"), lazzy=True)
    app = Flask(__name__)
    app.config["PEEWEE_COMMIT_WHEN"] = 400
    with pytest.raises(TypeError, match="commit_when takes a function"):
        Peewee(app, new_database("y"))


def test_databases_without_a_default_one_are_refused_and_leave_the_app_as_it_was(
    new_database: Callable[..., Any],
) -> None:
    app = Flask(__name__)
    before = app.wsgi_app
    with pytest.raises(KeyError, match="no database is named 'default': there is 'a', 'b'"):
        Peewee(app, {"a": new_database("a"), "b": new_database("b")})
    assert "peewee" not in app.extensions
    assert app.wsgi_app == before


def test_nothing_is_connected_before_a_query_asks_for_it(site: Site) -> None:
    site.database.close_idle()
    with site.app.app_context():
        assert site.db.databases["default"] is site.database
    site.app.add_url_rule("/", view_func=lambda: "no query")
    assert site.client.get("/").text == "no query"
    assert site.database.pool_stats().idle == 0


# What goes without.


@pytest.mark.parametrize("lazy", [True, False], ids=["lazy", "eager"])
def test_excluded_paths_and_endpoints_need_no_database(new_site: Callable[..., Site], lazy: bool) -> None:
    site = new_site(PEEWEE_EXCLUDE=["/health", "named", "/static/*", "static"], PEEWEE_LAZY=lazy)
    for path, endpoint in (("/health", "health"), ("/by-name", "named"), ("/", "index")):
        site.app.add_url_rule(path, endpoint, lambda: "ok")
    with exhausted(site.database):
        assert site.client.get("/health").text == "ok"
        assert site.client.get("/by-name").text == "ok"
        assert site.client.get("/static/x").status_code == 404
        assert site.client.get("/").status_code == (200 if lazy else 503)


@pytest.mark.parametrize("path", ["/by-path", "/by-name"])
def test_excluded_views_are_not_atomic(new_site: Callable[..., Site], path: str) -> None:
    site = new_site(PEEWEE_EXCLUDE=["/by-path", "named"], PEEWEE_ATOMIC=True)

    def create() -> tuple[str, int]:
        site.add("x")
        return f"{site.database.in_transaction()}", 400

    site.app.add_url_rule("/by-path", "path", create, methods=["POST"])
    site.app.add_url_rule("/by-name", "named", create, methods=["POST"])
    assert site.client.post(path).text == "False"
    assert site.saved() == ["x"]


@pytest.mark.parametrize("path", ["/by-path", "/by-name"])
def test_an_excluded_request_inside_a_request_leaves_its_transaction_alone(
    new_site: Callable[..., Site], path: str
) -> None:
    site = new_site(PEEWEE_EXCLUDE=["/by-path", "named"], PEEWEE_ATOMIC=True)
    for rule, endpoint in (("/by-path", "path"), ("/by-name", "named")):
        site.app.add_url_rule(rule, endpoint, lambda: "ok")

    @site.app.post("/")
    def create() -> tuple[str, int]:
        site.add("lost")
        site.app.test_client().get(path)
        return f"{site.database.in_transaction()}", 400

    assert site.client.post("/").text == "True"
    assert site.saved() == []
