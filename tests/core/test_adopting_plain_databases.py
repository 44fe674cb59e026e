"""Any Peewee database can be adopted in place: Python allows the change of its class."""

from __future__ import annotations

from pathlib import Path

import peewee
import pytest
from playhouse.pool import PooledSqliteDatabase

import peewee_web
from peewee_web.core.adopt import adopt


class Own(peewee.SqliteDatabase):
    """A subclass of the app's."""


@pytest.mark.parametrize("kind", [peewee.SqliteDatabase, PooledSqliteDatabase, Own])
def test_a_database_of_another_class_is_adopted_and_works(kind: type[peewee.Database], tmp_path: Path) -> None:
    database = kind(str(tmp_path / "x.db"))
    assert adopt(database) is database
    assert isinstance(database, kind)
    with peewee_web.scope():
        assert database.execute_sql("SELECT 1").fetchone() == (1,)
        assert not database.is_closed()
    assert database.is_closed()
    if isinstance(database, PooledSqliteDatabase):
        database.close_all()


@pytest.mark.parametrize("kind", [peewee.PostgresqlDatabase, peewee.MySQLDatabase])
def test_so_is_one_of_a_server(kind: type[peewee.Database]) -> None:
    database = kind("name")
    assert adopt(adopt(database)) is database
    assert isinstance(database, kind)
