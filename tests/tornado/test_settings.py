"""``Application(routes, peewee=...)``: what it takes, and that applications don't see each other's databases."""

from __future__ import annotations

from typing import Any

import peewee
import pytest
from tornado.web import Application

import peewee_web
from peewee_web import Databases, ScopedDatabase
from peewee_web.core.scope import current_scope
from peewee_web.tornado import PeeweeRequestHandler, PeeweeWebSocketHandler
from peewee_web.tornado.settings import databases_of
from tests.tornado.conftest import Row, Serve, in_use, wait_for


class Note(peewee.Model):
    """Lives in the default database of whichever application serves the request."""

    text = peewee.CharField()

    class Meta:
        database = ScopedDatabase()


class Notes(PeeweeRequestHandler):
    def get(self) -> None:
        self.write(" ".join(note.text for note in Note.select()))


def fill(databases: Databases, *texts: str) -> Databases:
    with databases.scope():
        Note.create_table()
        for text in texts:
            Note.create(text=text)
    return databases


def test_a_url_a_database_a_mapping_and_databases_will_do(serve: Serve, tmp_path: Any) -> None:
    url = f"sqlite:///{tmp_path}/notes.db"
    fill(Databases(url), "one").close()
    for given in (url, peewee_web.connect(url), {"default": url}, Databases(url)):
        site = serve(Notes, given)
        assert site.get().text == "one"
        assert in_use(databases_of(site.app).default) == 0
        databases_of(site.app).close()


def test_a_database_of_peewees_own_is_adopted(serve: Serve, tmp_path: Any) -> None:
    plain = peewee.SqliteDatabase(str(tmp_path / "plain.db"))
    fill(Databases(plain), "plain")
    assert serve(Notes, plain).get().text == "plain"
    assert plain.is_closed()


def test_several_databases_are_found_by_name(serve: Serve, tmp_path: Any) -> None:
    class Two(PeeweeRequestHandler):
        def get(self) -> None:
            databases = self.settings["peewee"]
            files = [databases[name].execute_sql("PRAGMA database_list").fetchone()[2] for name in databases]
            self.write(" ".join(file.rpartition("/")[2] for file in files))

    databases = Databases({"default": f"sqlite:///{tmp_path}/a.db", "reports": f"sqlite:///{tmp_path}/b.db"})
    assert serve(Two, databases).get().text == "a.db b.db"
    assert [in_use(databases[name]) for name in databases] == [0, 0]
    databases.close()


def test_applications_in_one_process_do_not_see_each_others_databases(serve: Serve, tmp_path: Any) -> None:
    first = fill(Databases(f"sqlite:///{tmp_path}/first.db"), "first")
    second = fill(Databases(f"sqlite:///{tmp_path}/second.db"), "second")
    sites = [serve(Notes, first), serve(Notes, second)]
    for _ in range(3):
        assert [site.get().text for site in sites] == ["first", "second"]
    first.close()
    second.close()


def test_the_databases_are_made_once(serve: Serve, tmp_path: Any) -> None:
    site = serve(Notes, f"sqlite:///{tmp_path}/notes.db")
    made = databases_of(site.app)
    fill(made, "one")
    assert site.get().text == "one"
    assert databases_of(site.app) is made
    made.close()


def test_a_test_may_put_another_database_into_the_settings(serve: Serve, tmp_path: Any) -> None:
    url = f"sqlite:///{tmp_path}/production.db"
    app = Application([(r"/", Notes)], peewee=url)
    fill(databases_of(app), "production").close()
    other = peewee_web.connect(f"sqlite:///{tmp_path}/test.db")
    fill(Databases(other), "test")
    app.settings["peewee"] = other
    assert serve(app).get().text == "test"
    other.close_all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "RuntimeError: no database is configured for this Tornado application: give it one as Application(routes"),
        ({"peewee": 42}, "is not a Peewee database: give a peewee.Database, a URL such as"),
        ({"peewee": {}}, "ValueError: no database given"),
        ({"peewee": "nonsense://x/y"}, "ValueError: unknown database URL scheme 'nonsense'"),
    ],
)
@pytest.mark.parametrize("base", [PeeweeRequestHandler, PeeweeWebSocketHandler])
def test_a_setting_that_will_not_do_is_explained_in_one_line(
    serve: Serve, settings: dict[str, Any], message: str, base: Any, caplog: pytest.LogCaptureFixture
) -> None:
    def get(self: Any) -> None:
        raise AssertionError("never called")

    handler = type("Handler", (base,), {"get": get})
    site = serve([(r"/", handler)], **settings)
    for _ in range(2):
        assert site.get().status_code == 500
    assert message in caplog.text


def test_an_excluded_path_has_no_scope(serve: Serve, tmp_path: Any) -> None:
    class Scoped(PeeweeRequestHandler):
        def get(self) -> None:
            self.write(f"{current_scope() is not None}")

    databases = Databases(f"sqlite:///{tmp_path}/x.db", exclude=["/health", "/static/*"], lazy=False)
    site = serve([(r"/.*", Scoped)], databases)
    assert [site.get(path).text for path in ("/", "/health", "/static/a/b", "/healthy")] == [
        "True",
        "False",
        "False",
        "True",
    ]
    databases.close()


def test_a_handler_that_fell_out_of_the_exclusion_is_scoped_again(serve: Serve, db: Any) -> None:
    class Sync(PeeweeRequestHandler):
        def get(self) -> None:
            self.write(str(Row.select().count()))

    site = serve([(r"/.*", Sync)], Databases(db, exclude=["/health"]))
    assert site.get("/health?x=1").text == "0"  # on the connection of the server's thread, as in plain Peewee
    assert in_use(db) == 1
    site.call(db.close)
    wait_for(lambda: in_use(db) == 0)
    assert site.get("/other").text == "0"
    assert in_use(db) == 0
