"""``peewee_web.check(db)``."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import peewee
import pytest

import peewee_web
from peewee_web import Databases, DatabaseUnavailable, PooledSqliteDatabase, PoolTimeout, ScopedDatabase
from tests.core.working import Served, in_use, query
from tests.servers.ports import free_port


def test_a_database_that_answers(served: Served) -> None:
    health = peewee_web.check(served.database)
    version = served.server.execute("SELECT version()")[0][0]
    assert health.server_version in version
    assert health.server_version[0].isdigit()
    assert health.read_only is False
    assert 0 < health.round_trip < 5
    assert (health.pool.in_use, health.pool.limit) == (1, 4)
    assert in_use(served.database) == 0
    assert json.loads(json.dumps(dataclasses.asdict(health)))["pool"]["limit"] == 4


def test_a_database_that_refuses_to_write(served: Served) -> None:
    if served.server.scheme == "postgresql":
        turn = f"ALTER DATABASE {served.name} SET default_transaction_read_only = {{}}"
    else:
        turn = "SET GLOBAL read_only = {}"
    served.server.execute(turn.format("on"))
    served.database.close_all()
    try:
        assert peewee_web.check(served.database).read_only is True
    finally:
        served.server.execute(turn.format("off"))
    served.database.close_all()


def test_sqlite(database: PooledSqliteDatabase) -> None:
    health = peewee_web.check(database)
    assert health.server_version == ".".join(map(str, peewee.sqlite3.sqlite_version_info))
    assert health.read_only is False
    with peewee_web.scope():
        database.execute_sql("PRAGMA query_only = 1")
    assert peewee_web.check(database).read_only is True


def test_named_databases_are_checked_by_name(database: PooledSqliteDatabase, tmp_path: Path) -> None:
    reports = PooledSqliteDatabase(str(tmp_path / "reports.db"))
    assert list(peewee_web.check({"default": database, "reports": reports})) == ["default", "reports"]
    assert list(peewee_web.check(Databases(database))) == ["default"]
    reports.close_all()


@pytest.mark.parametrize("thing", ["sqlite:///x.db", {"reports": "sqlite:///x.db"}])
def test_a_url_would_be_another_pool(thing: Any) -> None:
    with pytest.raises(TypeError, match="a pool of its own"):
        peewee_web.check(thing)


def test_what_models_bind_to_is_checked_in_its_apps_scope(database: PooledSqliteDatabase) -> None:
    with Databases(database).scope():
        assert peewee_web.check(ScopedDatabase()).server_version
    proxy = peewee.DatabaseProxy()
    proxy.initialize(database)
    assert peewee_web.check(proxy).server_version


def test_it_has_a_connection_of_its_own(database: PooledSqliteDatabase) -> None:
    with peewee_web.scope(), database.atomic():
        query(database)
        assert peewee_web.check(database).pool.in_use == 2
        assert database.in_transaction()
    assert in_use(database) == 0


def test_a_database_of_another_kind_answers_as_well() -> None:
    class Other(peewee_web.PooledDatabase, peewee.Database):
        def _connect(self) -> Any:
            return peewee.sqlite3.connect(":memory:", check_same_thread=False)

    health = peewee_web.check(Other("x"))
    assert (health.server_version, health.read_only) == ("", False)


def test_one_that_is_away_raises_what_a_request_would_see() -> None:
    database = peewee_web.connect(f"postgresql://me@127.0.0.1:{free_port()}/x", timeout=None)
    with pytest.raises(DatabaseUnavailable):
        peewee_web.check(database)


def test_one_that_is_exhausted_raises_what_a_request_would_see(tmp_path: Path) -> None:
    database = PooledSqliteDatabase(str(tmp_path / "x.db"), max_connections=1, timeout=None)
    with peewee_web.scope():
        query(database)
        with pytest.raises(PoolTimeout):
            peewee_web.check(database)
    database.close_all()
