"""``settings.PEEWEE``: what it may hold, what it is said to be wrong with, and when it is read."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import peewee
import pytest
from django.conf import settings
from django.test import override_settings
from playhouse.pwasyncio import AsyncSqliteDatabase

import peewee_web
from peewee_web.django import Model, databases
from peewee_web.django.databases import ConfiguredDatabases
from peewee_web.django.settings import BadSetting

plain = peewee.SqliteDatabase(":memory:")
not_a_database = object()


def configured(**peewee_setting: Any) -> peewee_web.Databases:
    with override_settings(PEEWEE=peewee_setting):
        return databases.current


def refused(setting: Any) -> str:
    """What is said about it: one line that names the setting."""
    with override_settings(PEEWEE=setting), pytest.raises(BadSetting) as caught:
        _ = databases.current
    message = str(caught.value)
    assert "PEEWEE" in message
    assert "\n" not in message
    return f"{caught.value.check}: {message}"


# What a database may be.


def test_a_url() -> None:
    database = configured(DATABASES={"default": "sqlite:///x.db?max_connections=3"})["default"]
    assert isinstance(database, peewee_web.PooledSqliteDatabase)
    assert (database.database, database.pool.options.max_connections) == ("x.db", 3)


@pytest.mark.parametrize("given", [plain, "tests.django.test_settings.plain"])
def test_a_database_or_the_dotted_path_of_one(given: Any) -> None:
    assert configured(DATABASES={"default": given})["default"] is plain


def test_a_mapping_of_a_url_with_options() -> None:
    described = {"URL": "sqlite:///x.db", "OPTIONS": {"cached_statements": 7}, "POOL": {"max_connections": 3}}
    database = configured(DATABASES={"default": described})["default"]
    assert database.pool.options.max_connections == 3
    assert database.connect_params["cached_statements"] == 7


def test_a_mapping_in_djangos_way() -> None:
    described = {"ENGINE": "django.db.backends.sqlite3", "NAME": "x.db", "CONN_MAX_AGE": 60}
    assert configured(DATABASES={"default": described})["default"].database == "x.db"


@pytest.mark.parametrize("setting", [{"DATABASE": plain}, {"DATABASES": plain}])
def test_a_single_one_is_the_default(setting: dict[str, Any]) -> None:
    assert configured(**setting).default is plain


def test_several_by_name() -> None:
    several = configured(DATABASES={"default": "sqlite:///a.db", "reports": "sqlite:///b.db"})
    assert {name: database.database for name, database in several.items()} == {"default": "a.db", "reports": "b.db"}


def test_a_databases_object_with_its_own_options() -> None:
    given = peewee_web.Databases(plain, atomic=True)
    assert configured(DATABASES=given) is given
    assert "E002" in refused({"DATABASES": given, "LAZY": False})


def test_the_options() -> None:
    made = configured(DATABASE=plain, LAZY=False, ATOMIC=True, COMMIT_WHEN=bool, EXCLUDE=["/static/*", "health"])
    assert (made.lazy, made.atomic, made.commit_when, made.exclude) == (False, True, bool, ("/static/*", "health"))
    defaults = configured(DATABASE=plain)
    assert (defaults.lazy, defaults.atomic, defaults.exclude) == (True, False, ())


# What is wrong.


@pytest.mark.parametrize(
    ("setting", "complaint"),
    [
        ("sqlite:///x.db", "E002: PEEWEE is a dict such as"),
        ({"DATABASES": {}}, "E002: PEEWEE['DATABASES'] is empty"),
        ({"DATABASES": {"ENGINE": "django.db.backends.sqlite3"}}, "write {'default': {...}}"),
        ({"DATABASE": plain, "DATABASES": {"default": plain}}, "both DATABASE and DATABASES"),
        ({"DATABASE": plain, "ATOMIK": True}, "no key 'ATOMIK': did you mean 'ATOMIC'?"),
        ({"DATABASE": plain, "atomic": True}, "no key 'atomic': did you mean 'ATOMIC'?"),
        ({"DATABASE": plain, "XYZZY": True}, "there is DATABASES, DATABASE, LAZY"),
        ({"DATABASE": plain, "ATOMIC": "yes"}, "PEEWEE['ATOMIC'] is True or False, not 'yes'"),
        ({"DATABASE": plain, "COMMIT_WHEN": 200}, "PEEWEE['COMMIT_WHEN'] is a function"),
        ({"DATABASE": plain, "COMMIT_WHEN": "tests.nowhere"}, "names 'tests.nowhere', which can't be imported"),
        ({"DATABASE": plain, "EXCLUDE": [404]}, "PEEWEE['EXCLUDE'] is a list of paths"),
        (
            {"DATABASES": {"default": "orcale://x/y"}},
            "E003: PEEWEE['DATABASES']['default']: unknown database URL",
        ),
        (
            {"DATABASES": {"default": "postgresql://x"}},
            "E003: PEEWEE['DATABASES']['default']: the postgresql URL names no",
        ),
        (
            {"DATABASES": {"default": "tests.django.nothing"}},
            "E003: PEEWEE['DATABASES']['default'] names 'tests.django.n",
        ),
        ({"DATABASES": {"default": "tests.django.test_settings.not_a_database"}}, "is not a Peewee database"),
        ({"DATABASES": {"default": 5}}, "E005: PEEWEE['DATABASES']['default']: int is not a Peewee database"),
        ({"DATABASES": {"default": AsyncSqliteDatabase("x.db")}}, "E005: PEEWEE['DATABASES']['default']: AsyncSqlite"),
        ({"DATABASES": {5: plain}}, "E005: PEEWEE['DATABASES'][5]: a database's name is a string"),
        ({"DATABASES": {"default": {"NAME": "x"}}}, "E003: PEEWEE['DATABASES']['default']: the engine None"),
        (
            {"DATABASES": {"default": {"ENGINE": "x.oracle", "NAME": "x"}}},
            "the engine 'x.oracle' has no like here: use one",
        ),
        ({"DATABASES": {"default": {"ENGINE": "x.mysql", "NAME": ""}}}, "it has no NAME"),
        ({"DATABASES": {"default": {"ENGINE": "x.mysql", "NAEM": "x"}}}, "no key 'NAEM': did you mean 'NAME'?"),
    ],
)
def test_it_is_said_in_one_line_what_to_do(setting: Any, complaint: str) -> None:
    assert complaint in refused(setting)


@pytest.mark.parametrize("url", ["postgresql:someone:secret@host/name", "postgresql//u:secret@h/n", "u:secret@h"])
def test_what_may_hold_a_password_is_not_repeated(url: str) -> None:
    assert "secret" not in refused({"DATABASES": {"default": url}})


def test_a_missing_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peewee, "mysql", None)
    complaint = refused({"DATABASES": {"default": "mysql://x@y/z"}})
    assert complaint.startswith("E004: ")
    assert "pip install 'peewee-web[mysql]'" in complaint


def test_no_setting_and_no_databases_of_djangos() -> None:
    with pytest.raises(BadSetting, match="no database is configured: set PEEWEE = "):
        _ = databases.current


# When it is read.


def test_nothing_is_read_at_import() -> None:
    script = """
import peewee
from peewee_web.django import Model, PeeweeCommand, PeeweeMiddleware, databases
from django.conf import settings
class Note(Model):
    text = peewee.CharField()
assert not settings.configured
repr(databases)
assert not settings.configured
settings.configure(PEEWEE={"DATABASE": "sqlite:///:memory:"})
Note.create_table()
Note.create(text="x")
assert Note.select().count() == 1
"""
    subprocess.run([sys.executable, "-W", "error", "-c", script], check=True, timeout=60)


def test_models_follow_an_override_and_come_back(tmp_path: Path) -> None:
    class Row(Model):
        name = peewee.CharField()

    def count() -> int:
        with databases.scope():
            Row.create_table()
            Row.create(name="x")
            return Row.select().count()

    with override_settings(PEEWEE={"DATABASE": f"sqlite:///{tmp_path}/one.db"}):
        one = databases["default"]
        assert [count(), count()] == [1, 2]
        with override_settings(PEEWEE={"DATABASE": f"sqlite:///{tmp_path}/other.db"}):
            other = databases["default"]
            assert count() == 1
        assert other.pool_stats().idle == 0  # nothing stays open of what is over
        assert databases["default"] is one
        assert count() == 3
    assert one.pool_stats().idle == 0


def test_a_database_given_as_an_object_is_not_closed_after_an_override(tmp_path: Path) -> None:
    given = peewee_web.connect(f"sqlite:///{tmp_path}/x.db")
    with override_settings(PEEWEE={"DATABASE": given}):
        given.connect()
        assert databases["default"] is given
    assert not given.is_closed()
    given.close()
    given.close_all()


def test_overrides_inside_an_override_end_in_turn() -> None:
    outer, inner = peewee.SqliteDatabase(":memory:"), peewee.SqliteDatabase(":memory:")
    with override_settings(PEEWEE={"DATABASE": outer}):
        with override_settings(PEEWEE={"DATABASE": "sqlite:///never-asked.db"}):
            with override_settings(PEEWEE={"DATABASE": inner}):
                assert databases.default is inner
            with override_settings(DEBUG=True):
                assert databases.default.database == "never-asked.db"
        assert databases.default is outer


def test_an_override_that_was_there_before_is_not_taken_for_the_settings() -> None:
    imported_inside_it = ConfiguredDatabases()
    with override_settings(PEEWEE={"DATABASE": plain}):
        assert imported_inside_it.default is plain
        imported_inside_it.on_setting_changed(setting="PEEWEE", enter=False)
    with override_settings(PEEWEE={"DATABASE": "sqlite:///x.db"}):
        assert imported_inside_it.default is not plain


def test_fields_are_told_which_kind_of_database_they_meet() -> None:
    with override_settings(PEEWEE={"DATABASE": "postgresql://x@y/z"}):

        class Row(Model):
            content = peewee.BlobField()

        on_postgresql = Row.content._constructor
        with override_settings(PEEWEE={"DATABASE": "sqlite:///x.db"}):
            _ = databases.current
            assert Row.content._constructor is not on_postgresql
        assert Row.content._constructor is on_postgresql


def test_a_model_may_be_declared_while_its_database_can_not_be_imported_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    from django.apps import apps

    with override_settings(PEEWEE={"DATABASE": "tests.django.test_settings.late"}):
        monkeypatch.setattr(apps, "models_ready", False)

        class Row(Model):
            content = peewee.BlobField()

        assert Row.content._constructor is bytearray
        monkeypatch.setattr(apps, "models_ready", True)
        with pytest.raises(BadSetting, match="can't be imported"):
            Row.select().count()
        monkeypatch.setattr(sys.modules[__name__], "late", peewee_web.connect("sqlite:///:memory:"), raising=False)
        with databases.scope():
            Row.create_table()
            assert Row.select().count() == 0
        assert Row.content._constructor is not bytearray
        databases.default.close_all()


def test_models_of_another_database() -> None:
    class Report(Model):
        class Meta:
            database = databases.proxy("reports")

    with override_settings(PEEWEE={"DATABASES": {"default": plain, "reports": "sqlite:///:memory:"}}):
        with databases.scope():
            Report.create_table()
            assert Report.table_exists()
            assert databases["reports"].get_tables() == ["report"]
        assert databases.proxy("reports") is databases.proxy("reports")


def test_databases_is_a_mapping() -> None:
    with override_settings(PEEWEE={"DATABASES": {"default": plain, "other": "sqlite:///x.db"}}):
        assert list(databases) == ["default", "other"]
        assert len(databases) == 2
        assert "other" in databases
        with pytest.raises(KeyError, match="no database is named 'third'"):
            _ = databases["third"]


# Django's own DATABASES.


@pytest.fixture
def djangos(tmp_path: Path) -> Iterator[dict[str, Any]]:
    """Django's DATABASES, changed as its test runner changes it."""
    described = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": str(tmp_path / "real.db")}}
    before, settings.DATABASES = settings.DATABASES, described
    yield described
    databases.close()
    settings.DATABASES = before


def test_without_a_setting_they_are_djangos_own(djangos: dict[str, Any], tmp_path: Path) -> None:
    with override_settings(PEEWEE=None):
        assert databases["default"].database == str(tmp_path / "real.db")
    with override_settings(PEEWEE={"ATOMIC": True}):
        assert databases["default"].database == str(tmp_path / "real.db")
        assert databases.current.atomic


def test_aliases_without_an_engine_are_none(djangos: dict[str, Any]) -> None:
    djangos["other"] = djangos["default"]
    djangos["default"] = {}
    with override_settings(PEEWEE=None):
        assert list(databases) == ["other"]


def test_a_complaint_about_them_names_them(djangos: dict[str, Any]) -> None:
    djangos["default"]["ENGINE"] = "django.db.backends.oracle"
    with override_settings(PEEWEE=None), pytest.raises(BadSetting, match=r"^DATABASES\['default'\]: the engine"):
        _ = databases.current


def test_keys_of_other_backends_are_theirs(djangos: dict[str, Any]) -> None:
    djangos["default"]["SCHEMA_SEARCH_PATHS"] = ["a"]
    with override_settings(PEEWEE=None):
        assert databases["default"]


def test_they_are_followed_to_the_test_database_and_back(djangos: dict[str, Any], tmp_path: Path) -> None:
    with override_settings(PEEWEE=None):
        real = databases["default"]
        with databases.scope():
            real.execute_sql("SELECT 1")
        djangos["default"]["NAME"] = "file:memorydb_default?mode=memory&cache=shared"  # what Django calls it
        test = databases["default"]
        assert real.pool_stats().idle == 0
        with databases.scope():
            assert test.execute_sql("PRAGMA database_list").fetchone()[2] == ""  # in memory
        djangos["default"]["NAME"] = real.database
        assert databases["default"].database == real.database
        assert test.pool_stats().idle == 0
    assert not (tmp_path / "file:memorydb_default?mode=memory&cache=shared").exists()
