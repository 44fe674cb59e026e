"""``Databases``: names, options, and what is refused."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import peewee
import pytest

import peewee_web
from peewee_web import Databases, PooledSqliteDatabase
from tests.core.working import in_use, query


def test_a_single_database_is_the_default(database: PooledSqliteDatabase) -> None:
    databases = Databases(database)
    assert dict(databases) == {"default": database}
    assert databases.default is database


def test_a_url_is_as_good_as_a_database(tmp_path: Path) -> None:
    databases = Databases(f"sqlite:///{tmp_path}/x.db")
    assert isinstance(databases["default"], PooledSqliteDatabase)


def test_a_mapping_names_databases_of_either_kind(database: PooledSqliteDatabase, tmp_path: Path) -> None:
    databases = Databases({"default": database, "reports": f"sqlite:///{tmp_path}/x.db"})
    assert list(databases) == ["default", "reports"]
    assert (len(databases), databases["default"]) == (2, database)


def test_the_only_database_is_the_default_whatever_its_name(database: PooledSqliteDatabase) -> None:
    assert Databases({"notes": database}).default is database


def test_of_several_none_is_the_default_but_by_name(database: PooledSqliteDatabase, tmp_path: Path) -> None:
    databases = Databases({"a": database, "b": f"sqlite:///{tmp_path}/x.db"})
    with pytest.raises(KeyError, match=r"'default'.*'a', 'b'"):
        _ = databases.default


def test_an_unknown_name_is_answered_with_the_known_ones(database: PooledSqliteDatabase) -> None:
    with pytest.raises(KeyError, match="no database is named 'reports': there is 'default'"):
        Databases(database)["reports"]


def test_an_unknown_name_is_simply_not_in_the_mapping(database: PooledSqliteDatabase) -> None:
    databases = Databases(database)
    assert "reports" not in databases
    assert databases.get("reports") is None


def test_a_database_under_two_names_is_one(database: PooledSqliteDatabase) -> None:
    with Databases({"a": database, "b": database}, lazy=False).scope():
        assert in_use(database) == 1


def test_a_proxy_of_a_proxy_leads_to_the_database(tmp_path: Path) -> None:
    inner, outer = peewee.DatabaseProxy(), peewee.DatabaseProxy()
    outer.initialize(inner)
    inner.initialize(peewee.SqliteDatabase(str(tmp_path / "x.db")))
    assert Databases(outer).default is inner.obj


@pytest.mark.parametrize("nothing", [{}, peewee_web.ScopedDatabase()])
def test_no_database_at_all_is_refused(nothing: Any) -> None:
    with pytest.raises(ValueError, match="no database"):
        Databases(nothing)


@pytest.mark.parametrize("name", [None, 1, ("a",)])
def test_a_name_that_is_no_text_is_refused(database: PooledSqliteDatabase, name: Any) -> None:
    with pytest.raises(TypeError, match="name is a string"):
        Databases({name: database})


def test_the_settings_of_a_database_instead_of_it_are_refused_without_repeating_them() -> None:
    with pytest.raises(TypeError, match="dict is not a Peewee database") as raised:
        Databases({"default": {"name": "app", "password": "s3cret"}})
    assert "s3cret" not in str(raised.value)


def test_commit_when_must_be_a_function(database: PooledSqliteDatabase) -> None:
    with pytest.raises(TypeError, match="commit_when"):
        Databases(database, commit_when=200)  # type: ignore[arg-type]


def test_an_unknown_option_is_refused(database: PooledSqliteDatabase) -> None:
    with pytest.raises(TypeError, match="eager"):
        Databases(database, eager=True)  # type: ignore[call-arg]


@pytest.mark.parametrize(("status", "commits"), [(200, True), (302, True), (399, True), (400, False), (500, False)])
def test_success_and_redirects_commit(database: PooledSqliteDatabase, status: int, commits: bool) -> None:
    assert Databases(database).commit_when(status) is commits


def test_what_commits_may_be_chosen(database: PooledSqliteDatabase) -> None:
    assert Databases(database, commit_when=lambda status: status == 404).commit_when(404)


def test_scopes_have_the_options_of_the_databases(database: PooledSqliteDatabase) -> None:
    scope = Databases(database, lazy=False, atomic=True).scope()
    assert (scope.lazy, scope.atomic) == (False, True)


def test_a_scope_may_have_options_of_its_own(database: PooledSqliteDatabase) -> None:
    scope = Databases(database, lazy=False, atomic=True).scope(lazy=True, atomic=False)
    assert (scope.lazy, scope.atomic) == (True, False)


@pytest.mark.parametrize(
    ("exclude", "route", "excluded"),
    [
        ("/health", "/health", True),
        ("/health", "/health/", False),
        ("/static/*", "/static/css/app.css", True),
        ("/static/*", "/static", False),
        (("/a", "/b"), "/b", True),
        (("/a", "/b"), "/c", False),
        ((), "/", False),
        ("*", "/anything", True),
        ("/Health", "/health", False),
    ],
)
def test_paths_may_be_excluded(database: PooledSqliteDatabase, exclude: Any, route: str, excluded: bool) -> None:
    assert Databases(database, exclude=exclude).excludes(route) is excluded


def test_a_request_has_a_path_and_maybe_a_route_to_be_excluded_by(database: PooledSqliteDatabase) -> None:
    databases = Databases(database, exclude=["health"])
    assert databases.excludes("/api/health", "health")
    assert not databases.excludes("/api/health", None)


def test_of_takes_databases_as_they_are(database: PooledSqliteDatabase) -> None:
    databases = Databases(database)
    assert Databases.of(databases) is databases


def test_of_makes_databases_with_the_options(database: PooledSqliteDatabase) -> None:
    assert Databases.of(database, atomic=True).atomic


def test_of_does_not_drop_options_that_the_databases_have_already(database: PooledSqliteDatabase) -> None:
    with pytest.raises(TypeError, match=r"give atomic, lazy to Databases\(\.\.\.\)"):
        Databases.of(Databases(database), lazy=True, atomic=True)


def test_databases_are_told_apart_by_identity(database: PooledSqliteDatabase) -> None:
    first, second = Databases(database), Databases(database)
    assert first != second
    assert len({first, second, first}) == 2


def test_making_databases_opens_no_connection(database: PooledSqliteDatabase) -> None:
    database.close_idle()
    Databases({"a": database, "b": "postgresql://nobody@nowhere.invalid/x"})
    assert database.pool_stats().idle == 0


def test_close_closes_idle_connections_and_takes_orphans_back(database: PooledSqliteDatabase) -> None:
    databases = Databases(database)
    forgotten = peewee_web.scope()
    with forgotten.activate():
        query(database)
    del forgotten
    gc.collect()
    query(database)
    databases.close()
    assert (in_use(database), database.pool_stats().idle) == (0, 0)


def test_close_leaves_requests_under_way_alone(database: PooledSqliteDatabase) -> None:
    databases = Databases(database)
    scope = databases.scope()
    with scope.activate():
        query(database)
    databases.close()
    with scope.activate():
        assert query(database) == 1
    scope.end()


def test_close_goes_on_when_a_database_can_not_be_closed(database: PooledSqliteDatabase) -> None:
    databases = Databases({"deferred": peewee.SqliteDatabase(None), "second": database})
    query(database)
    databases.close()
    assert database.pool_stats().idle == 0
