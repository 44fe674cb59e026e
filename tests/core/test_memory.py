"""``:memory:`` means one database for every connection of the object, on every thread."""

from __future__ import annotations

import gc
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import peewee
import pytest
from playhouse.pool import PooledSqliteDatabase as PlayhouseSqlitePool

import peewee_web
from peewee_web import PooledSqliteDatabase
from peewee_web.core import sqlite
from peewee_web.core.adopt import adopt
from tests.core.working import Working, in_thread, in_use, query, save, saved

VARIANTS = [True, False] if sqlite3.sqlite_version_info >= (3, 36) else [False]


@pytest.fixture(params=VARIANTS, ids=lambda shared: "memdb" if shared else "shared-cache")
def variant(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Both ways to share a memory database: the newer, and the one for SQLite below 3.36."""
    plain = sqlite.memory_uri
    monkeypatch.setattr(sqlite, "memory_uri", lambda: plain(request.param))
    return bool(request.param)


@pytest.fixture(params=["connect", "pool", "playhouse", "plain"])
def memory(request: pytest.FixtureRequest, variant: bool) -> Iterator[Any]:
    kinds: dict[str, Any] = {
        "connect": lambda: peewee_web.connect("sqlite:///:memory:"),
        "pool": lambda: PooledSqliteDatabase(":memory:"),
        "playhouse": lambda: adopt(PlayhouseSqlitePool(":memory:")),
        "plain": lambda: adopt(peewee.SqliteDatabase(":memory:")),
    }
    database = kinds[request.param]()
    yield database
    close(database)


def close(database: Any) -> None:
    database.close()
    if hasattr(database, "close_all"):
        database.close_all()


def create(database: Any) -> None:
    with database.connection_context():
        database.execute_sql("CREATE TABLE note (text TEXT)")
        save(database)


def test_every_scope_sees_the_same_data(memory: Any) -> None:
    create(memory)
    with peewee_web.scope():
        assert memory.execute_sql("SELECT text FROM note").fetchall() == [("x",)]
        with peewee_web.scope():
            assert memory.execute_sql("SELECT text FROM note").fetchall() == [("x",)]


def test_every_thread_sees_the_same_data(memory: Any) -> None:
    create(memory)
    assert in_thread(lambda: saved(memory)) == ["x"]


def test_a_thread_may_write(memory: Any) -> None:
    create(memory)

    @peewee_web.scope()
    def write() -> None:
        save(memory, "y")

    in_thread(write)
    assert saved(memory) == ["x", "y"]


def test_a_connection_may_change_threads(memory: Any) -> None:
    with peewee_web.scope():
        query(memory)
        assert Working(None, lambda: query(memory)).result() == 1


def test_the_data_stays_while_no_connection_is_open(memory: Any) -> None:
    create(memory)
    close(memory)
    assert saved(memory) == ["x"]


def test_an_isolated_transaction_is_rolled_back(memory: Any) -> None:
    create(memory)
    with peewee_web.scope():
        memory.begin()
        save(memory, "lost")
    assert saved(memory) == ["x"]


@pytest.mark.parametrize("kind", [peewee.SqliteDatabase, PlayhouseSqlitePool])
@pytest.mark.parametrize("state", ["open", "closed"])
def test_data_from_before_the_adoption_is_kept(variant: bool, kind: Any, state: str) -> None:
    if kind is peewee.SqliteDatabase and state == "closed":
        pytest.skip("closing the connection of a private memory database ends it")
    database = kind(":memory:")
    database.connect()
    database.execute_sql("CREATE TABLE note (text TEXT)")
    save(database)
    if state == "closed":
        database.close()
    adopt(database)
    with peewee_web.scope():
        assert database.execute_sql("SELECT text FROM note").fetchall() == [("x",)]
    assert in_thread(lambda: saved(database)) == ["x"]
    close(database)


@pytest.mark.parametrize("kind", [peewee.SqliteDatabase, PlayhouseSqlitePool])
def test_a_connection_that_was_open_is_open_after_the_adoption(variant: bool, kind: Any) -> None:
    database = kind(":memory:", autoconnect=False)
    database.connect()
    database.execute_sql("CREATE TABLE note (text TEXT)")
    adopt(database)
    save(database)
    with peewee_web.scope():
        assert database.execute_sql("SELECT text FROM note").fetchall() == [("x",)]
    close(database)


def test_the_private_connections_of_an_adopted_pool_are_not_used_again(variant: bool) -> None:
    database = PlayhouseSqlitePool(":memory:")
    database.execute_sql("CREATE TABLE note (text TEXT)")
    database.close()
    adopt(database)
    with peewee_web.scope():
        save(database)
    assert saved(database) == ["x"]
    with peewee_web.scope(), peewee_web.scope():
        assert saved(database) == ["x"]
    assert in_use(database) == 0
    database.close_all()


def test_a_memory_database_in_a_transaction_is_not_adopted(variant: bool) -> None:
    database = peewee.SqliteDatabase(":memory:")
    with database.atomic():
        with pytest.raises(peewee.OperationalError, match="transaction is open"):
            adopt(database)
        assert query(database) == 1
    database.close()


def test_two_memory_databases_do_not_meet(variant: bool) -> None:
    first, second = (adopt(peewee.SqliteDatabase(":memory:")) for _ in range(2))
    create(first)
    with peewee_web.scope():
        assert second.get_tables() == []


def test_the_data_goes_with_the_database_object(variant: bool) -> None:
    database = adopt(peewee.SqliteDatabase(":memory:"))
    create(database)
    uri = database.database
    del database
    gc.collect()
    connection = sqlite3.connect(uri, uri=True)
    assert connection.execute("SELECT count(*) FROM sqlite_master").fetchone() == (0,)
    connection.close()


def test_a_deferred_database_may_become_a_memory_database(variant: bool) -> None:
    database: Any = adopt(peewee.SqliteDatabase(None))
    database.init(":memory:")
    create(database)
    assert in_thread(lambda: saved(database)) == ["x"]


def test_a_memory_database_may_become_a_file(variant: bool, tmp_path: Path) -> None:
    database: Any = adopt(peewee.SqliteDatabase(":memory:"))
    database.init(str(tmp_path / "50%25 off?.db"))
    create(database)
    assert (tmp_path / "50%25 off?.db").exists()


def test_functions_pragmas_and_attached_databases_stay(variant: bool, tmp_path: Path) -> None:
    database: Any = peewee.SqliteDatabase(":memory:", pragmas={"foreign_keys": 1})
    database.register_function(lambda: 42, "answer", 0)
    database.attach(str(tmp_path / "other.db"), "other")
    adopt(database)
    with peewee_web.scope():
        assert database.execute_sql("SELECT answer()").fetchone() == (42,)
        assert database.foreign_keys == 1
        assert database.get_tables("other") == []


def test_a_file_is_left_alone(tmp_path: Path) -> None:
    database = adopt(peewee.SqliteDatabase(str(tmp_path / "x.db")))
    with peewee_web.scope():
        query(database)
    assert database.database == str(tmp_path / "x.db")


def test_a_driver_that_is_not_pythons_own_keeps_its_private_memory() -> None:
    pytest.importorskip("apsw")
    from playhouse.apsw_ext import APSWDatabase

    database = adopt(APSWDatabase(":memory:"))
    with peewee_web.scope():
        assert query(database) == 1
    assert database.database == ":memory:"
