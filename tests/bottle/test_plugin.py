"""Installing the plugin: its place in the app, the keyword, several plugins and apps, and what is refused."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import bottle
import pytest

import peewee_web
from peewee_web.bottle import PeeweePlugin
from tests.bottle.client import Client
from tests.bottle.conftest import Note, add, saved


@pytest.fixture
def app() -> Any:
    return bottle.Bottle()


# What a route sees.


def test_a_route_queries_and_its_connection_is_given_back_before_the_answer_is_sent(app: Any, db: Any) -> None:
    app.install(PeeweePlugin(db))

    @app.post("/notes/<text>")
    def create(text: str) -> str:
        add(text)
        return str(db.pool_stats().in_use)

    with Client(app).open("/notes/x", "POST") as (answer, chunks):
        assert db.pool_stats().in_use == 0
        assert answer.status == 200
        assert next(chunks) == b"1"
    assert saved() == ["x"]


def test_a_route_without_a_query_takes_no_connection(app: Any, db: Any) -> None:
    app.install(PeeweePlugin(db))
    app.get("/", callback=lambda: f"{db.pool_stats().in_use}")
    db.close_idle()

    assert Client(app).get("/").text == "0"
    assert Client(app).get("/nowhere").status == 404
    assert db.pool_stats().idle == 0


def test_a_callback_that_takes_the_keyword_is_given_the_database(app: Any, db: Any) -> None:
    app.install(PeeweePlugin(db))
    given = []

    @app.get("/takes/<name>")
    def takes(name: str, db: Any) -> None:
        given.append((name, db))

    @app.get("/takes-none")
    def takes_none() -> None:
        given.append(())

    @app.get("/keyword-only")
    def keyword_only(*, db: Any) -> None:
        given.append(db)

    @app.get("/anything")
    def anything(**kwargs: Any) -> None:
        given.append(kwargs)

    for path in ("/takes/x", "/takes-none", "/keyword-only", "/anything"):
        assert Client(app).get(path).status == 200

    assert given == [("x", db), (), db, {}]


def test_the_keyword_of_a_decorated_callback_is_found(app: Any, db: Any) -> None:
    app.install(PeeweePlugin(db))

    def careful(callback: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(callback)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            return callback(*args, **kwargs)

        return wrapper

    def giving(callback: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(callback)
        def wrapper() -> Any:
            return callback(db="its own")

        return wrapper

    def show(db: Any) -> str:
        return str(db)

    for path, decorator in (("/careful", careful), ("/giving", giving)):
        app.get(path, callback=decorator(show))

    assert Client(app).get("/careful").text == str(db)
    assert Client(app).get("/giving").text == "its own"


def test_callbacks_may_be_methods_partials_and_builtins(app: Any, db: Any) -> None:
    app.install(PeeweePlugin(db))

    class Notes:
        def show(self, db: Any) -> str:
            return str(db)

        def __call__(self, db: Any) -> str:
            return str(db)

    app.get("/method", callback=Notes().show)
    app.get("/object", callback=Notes())
    app.get("/partial", callback=functools.partial(Notes.show, Notes()))
    app.get("/builtin", callback=str)

    assert {Client(app).get(path).text for path in ("/method", "/object", "/partial")} == {str(db)}
    assert Client(app).get("/builtin").status == 200


def test_the_keyword_is_configured_for_all_routes_or_for_one(app: Any, db: Any) -> None:
    app.install(PeeweePlugin(db, keyword="database"))

    @app.get("/")
    def index(database: Any) -> str:
        return str(database)

    @app.get("/other", peewee={"keyword": "pdb"})
    def other(pdb: Any, database: str = "none") -> str:
        return f"{pdb} {database}"

    assert Client(app).get("/").text == str(db)
    assert Client(app).get("/other").text == f"{db} none"


def test_what_the_url_gives_goes_before_the_keyword(app: Any, db: Any) -> None:
    app.install(PeeweePlugin(db))
    app.get("/<db>", callback=lambda db: db)
    assert Client(app).get("/x").text == "x"


def test_further_databases_are_given_by_their_names(app: Any, new_database: Any) -> None:
    main, reports = new_database("main"), new_database("reports")
    app.install(PeeweePlugin({"default": main, "reports": reports}))

    @app.get("/")
    def index(db: Any, reports: Any, default: str = "not a database") -> str:
        return f"{db.database} {reports.database} {default}"

    assert Client(app).get("/").text == f"{main.database} {reports.database} not a database"


def test_a_keyword_without_a_default_database_is_explained(app: Any, new_database: Any) -> None:
    app.install(PeeweePlugin({"notes": new_database("notes"), "reports": new_database("reports")}))
    app.get("/named", callback=lambda notes, reports: f"{notes is not reports}")
    app.get("/default", callback=lambda db: "never")

    assert Client(app).get("/named").text == "True"
    answer = Client(app).get("/default")
    assert answer.status == 500
    assert "no database is named 'default': there is 'notes', 'reports'" in answer.log


def test_the_database_may_be_a_url_or_a_registry(app: Any, db: Any, tmp_path: Any) -> None:
    plugin = app.install(PeeweePlugin(f"sqlite:///{tmp_path}/url.db"))
    app.get("/", callback=lambda db: str(db.execute_sql("SELECT 1").fetchone()))
    assert Client(app).get("/").text == "(1,)"
    plugin.databases.close()

    databases = peewee_web.Databases(db, atomic=True)
    assert PeeweePlugin(databases).databases is databases


# Routes and plugins.


def test_the_plugin_is_around_all_others_whenever_it_is_installed(app: Any, db: Any) -> None:
    seen = []

    def audit(callback: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            seen.append(kwargs["db"])
            return callback(*args, **kwargs)

        return wrapper

    app.get("/", callback=lambda db: {"json": "as ever"})
    app.install(audit)
    assert Client(app).get("/").status == 500  # made without the plugin, and made again with it
    app.install(PeeweePlugin(db))
    answer = Client(app).get("/")

    assert seen == [db]
    assert answer.headers["Content-Type"] == "application/json"


def test_a_template_may_query(app: Any, db: Any) -> None:
    app.install(PeeweePlugin(db, atomic=True))
    with peewee_web.scope():
        add("x")

    @app.get("/", template="{{[note.text for note in notes]}}")
    def index() -> dict[str, Any]:
        return {"notes": Note.select()}

    assert Client(app).get("/").text == "[&#039;x&#039;]"


def test_in_debug_mode_routes_are_prepared_at_once(app: Any, db: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bottle, "DEBUG", True)
    app.get("/before", template="{{notes.count()}}", callback=lambda db: {"notes": Note.select()})
    app.install(PeeweePlugin(db))
    app.get("/after", template="{{notes.count()}}", callback=lambda db: {"notes": Note.select()})
    assert [Client(app).get(path).text for path in ("/before", "/after")] == ["0", "0"]


@pytest.mark.parametrize("skip", ["instance", "name", "class", "all"])
def test_a_skipped_route_is_given_nothing_but_may_query(app: Any, db: Any, skip: str) -> None:
    plugin = PeeweePlugin(db, lazy=False)
    app.install(plugin)
    chosen = {"instance": [plugin], "name": ["peewee"], "class": [PeeweePlugin], "all": True}[skip]

    @app.get("/", skip=chosen)
    def index(db: Any = None) -> str:
        connections = plugin.databases.default.pool_stats().in_use
        return f"{db} {connections} {Note.select().count()}"

    assert Client(app).get("/").text == "None 0 0"


def test_a_plugin_of_one_route_needs_no_app(app: Any, db: Any) -> None:
    @app.get("/", apply=[PeeweePlugin(db)])
    def index(db: Any) -> str:
        return str(Note.select().count())

    @app.get("/stream", apply=[PeeweePlugin(db)])
    def stream(db: Any) -> Any:
        for _ in range(3):
            yield str(Note.select().count())

    assert Client(app).get("/").text == "0"
    assert Client(app).get("/stream").text == "000"
    assert db.pool_stats().in_use == 0


def test_excluded_paths_and_names_go_without(app: Any, db: Any) -> None:
    app.install(PeeweePlugin(db, exclude=["/static/*", "health"], lazy=False, atomic=True))
    app.get("/static/x", callback=lambda: str(peewee_web.core.scope.current_scope()))
    app.get("/health", name="health", callback=lambda db: f"{db.pool_stats().in_use} {db.in_transaction()}")
    app.get("/", callback=lambda db: f"{db.pool_stats().in_use} {db.in_transaction()}")

    assert Client(app).get("/static/x").text == "None"
    assert Client(app).get("/health").text == "0 False"
    assert Client(app).get("/").text == "1 True"


# Several plugins, several apps.


def test_two_plugins_share_the_scope_of_a_request(app: Any, db: Any, new_database: Any) -> None:
    reports = new_database("reports")
    app.install(PeeweePlugin(db, atomic=True))
    app.install(PeeweePlugin(reports, keyword="reports", atomic=True))

    @app.post("/<status:int>")
    def create(status: int, db: Any, reports: Any) -> str:
        add("main")
        with Note.bind_ctx(reports):
            add("report")
        bottle.response.status = status
        return f"{db.pool_stats().in_use} {reports.pool_stats().in_use}"

    assert Client(app).get("/400", "POST").text == Client(app).get("/200", "POST").text == "1 1"

    assert saved() == ["main"]
    with Note.bind_ctx(reports):
        assert saved() == ["report"]


def test_the_second_plugin_is_skipped_and_configured_by_its_own_name(app: Any, db: Any, new_database: Any) -> None:
    first, second = PeeweePlugin(db), PeeweePlugin(new_database("reports"), keyword="reports")
    app.install(first)
    app.install(second)
    assert (first.name, second.name) == ("peewee", "peewee_reports")

    @app.get("/", skip=["peewee"])
    def index(reports: Any, db: Any = None) -> str:
        return f"{reports.database != db}{db}"

    @app.get("/renamed", peewee_reports={"keyword": "r"})
    def renamed(r: Any, db: Any) -> str:
        return f"{r is second.databases.default} {db is first.databases.default}"

    assert Client(app).get("/").text == "TrueNone"
    assert Client(app).get("/renamed").text == "True True"


def test_a_keyword_is_given_once_for_each_app(app: Any, db: Any) -> None:
    plugin = PeeweePlugin(db)
    app.install(plugin)
    for again in (plugin, PeeweePlugin("sqlite:///other.db")):
        with pytest.raises(bottle.PluginError, match="keyword 'db' is installed on this app already"):
            app.install(again)


def test_plugins_of_one_app_must_agree_on_the_options(app: Any, db: Any) -> None:
    app.install(PeeweePlugin(db, atomic=True))
    with pytest.raises(bottle.PluginError, match="give them the same atomic"):
        app.install(PeeweePlugin("sqlite:///other.db", keyword="other"))


def test_apps_in_one_process_do_not_see_each_others_databases(new_database: Any) -> None:
    def build(name: str) -> Any:
        app = bottle.Bottle()
        app.install(PeeweePlugin(new_database(name)))

        @app.post("/<text>")
        def create(text: str) -> None:
            ScopedNote.create(text=text)

        app.get("/", callback=lambda: ",".join(note.text for note in ScopedNote.select()))
        return app

    class ScopedNote(Note):
        class Meta:
            database = peewee_web.ScopedDatabase()
            table_name = "note"

    first, second = Client(build("first")), Client(build("second"))
    first.get("/a", "POST")
    second.get("/b", "POST")
    assert first.get("/").text == "a"
    assert second.get("/").text == "b"


def test_one_plugin_serves_several_apps(db: Any) -> None:
    plugin = PeeweePlugin(db)
    apps = [bottle.Bottle() for _ in range(2)]
    for app in apps:
        app.install(plugin)
        app.get("/", callback=lambda db: str(Note.select().count()))
    assert [Client(app).get("/").text for app in apps] == ["0", "0"]

    apps[0].uninstall(plugin)
    assert Client(apps[1]).get("/").text == "0"
    assert Client(apps[0]).get("/").status == 500  # nothing is given for `db` any more


def test_a_request_inside_a_request_has_a_scope_of_its_own(app: Any, db: Any) -> None:
    def read(db: Any) -> str:
        return f"{Note.select().count()} of {db.pool_stats().in_use}"

    app.install(PeeweePlugin(db, atomic=True))
    app.get("/read", callback=read, peewee={"atomic": False})  # SQLite has one writer
    child = bottle.Bottle()
    child.install(PeeweePlugin(db))
    child.get("/read", callback=read)
    parent = bottle.Bottle()  # without a plugin of its own: the child's begins the scope
    parent.mount("/child/", child)

    @app.get("/")
    def index(db: Any) -> str:
        add("outer")
        bottle.response.status = 201
        inner = Client(app).get("/read").text, Client(parent).get("/child/read").text
        assert db.in_transaction()
        return f"{inner} {Note.select().count()} of {db.pool_stats().in_use}"

    assert Client(app).get("/").text == "('0 of 2', '0 of 2') 1 of 1"
    assert saved() == ["outer"]


# Taking it off again.


def test_uninstalling_puts_the_app_back(app: Any, db: Any) -> None:
    before = {name: getattr(app, name) for name in ("wsgi", "trigger_hook", "plugins")}
    plugin = PeeweePlugin(db)
    app.install(plugin)
    app.get("/", callback=lambda: str(peewee_web.core.scope.current_scope()))
    assert "Scope" in Client(app).get("/").text

    assert app.uninstall("peewee") == [plugin]
    assert {name: getattr(app, name) for name in before} == before
    assert app._hooks["app_reset"] == []
    assert Client(app).get("/").text == "None"
    assert db.pool_stats().idle == 0

    app.install(plugin)
    assert "Scope" in Client(app).get("/").text


def test_plugins_come_off_in_any_order(app: Any, db: Any, new_database: Any) -> None:
    first, second = PeeweePlugin(db), PeeweePlugin(new_database("other"), keyword="other")
    app.install(first)
    app.install(second)
    app.get("/", callback=lambda other: str(other.execute_sql("SELECT 1").fetchone()))

    app.uninstall(first)
    assert Client(app).get("/").text == "(1,)"
    app.uninstall(PeeweePlugin)
    assert "wsgi" not in vars(app) or app.wsgi == vars(app)["wsgi"] != second
    assert Client(app).get("/").status == 500
    assert app.uninstall(True) != []


def test_who_wrapped_the_app_afterwards_stays(app: Any, db: Any) -> None:
    plugin = PeeweePlugin(db)
    app.install(plugin)
    inner, calls = app.wsgi, []

    def wrapped(environ: Any, start_response: Any) -> Any:
        calls.append(environ["PATH_INFO"])
        return inner(environ, start_response)

    vars(app)["wsgi"] = wrapped
    app.get("/", callback=lambda: str(peewee_web.core.scope.current_scope()))
    app.uninstall(plugin)
    assert Client(app).get("/").text == "None"
    assert calls == ["/"]


def test_closing_the_app_closes_idle_connections(app: Any, db: Any) -> None:
    app.install(PeeweePlugin(db))
    app.get("/", callback=lambda: str(Note.select().count()))
    Client(app).get("/")
    assert db.pool_stats().idle == 1
    app.close()
    assert db.pool_stats().idle == 0


# What is refused.


@pytest.mark.parametrize("keyword", ["", "not a name", None, 1])
def test_a_keyword_that_is_no_name_is_refused(db: Any, keyword: Any) -> None:
    with pytest.raises(ValueError, match="name of an argument of your callbacks"):
        PeeweePlugin(db, keyword=keyword)


def test_what_is_no_database_is_refused() -> None:
    with pytest.raises(TypeError, match="is not a Peewee database"):
        PeeweePlugin(42)


def test_an_unknown_option_is_refused(db: Any) -> None:
    with pytest.raises(TypeError, match="atomicc"):
        PeeweePlugin(db, atomicc=True)
