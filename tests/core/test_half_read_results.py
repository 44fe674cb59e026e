"""A result that is still being read when its scope ends does not reach into the next scope."""

from __future__ import annotations

import contextlib
from typing import Any

import pymysql.cursors
import pytest

import peewee_web
from peewee_web import PooledSqliteDatabase
from peewee_web.core.drivers import Status, driver_for
from tests.core.working import in_use, save, saved
from tests.servers.mariadb import MariaDBServer


@pytest.fixture
def notes(database: PooledSqliteDatabase) -> PooledSqliteDatabase:
    for text in "abc":
        save(database, text)
    database.close()
    return database


def test_the_next_scope_does_not_read_the_snapshot_of_a_half_read_result(notes: PooledSqliteDatabase) -> None:
    with peewee_web.scope():
        rows = notes.execute_sql("SELECT text FROM note")
        rows.fetchone()
    notes.connect()
    with peewee_web.scope():
        save(notes, "d")
    notes.close()
    assert saved(notes) == ["a", "b", "c", "d"]
    with contextlib.suppress(Exception):
        rows.close()


def test_a_connection_with_a_half_read_result_is_closed(notes: PooledSqliteDatabase) -> None:
    with peewee_web.scope():
        connection = notes.connection()
        rows = notes.execute_sql("SELECT text FROM note")
        rows.fetchone()
    with peewee_web.scope():
        assert notes.connection() is not connection
    assert in_use(notes) == 0


def test_a_connection_whose_results_were_read_is_kept(notes: PooledSqliteDatabase) -> None:
    with peewee_web.scope():
        connection = notes.connection()
        rows = notes.execute_sql("SELECT text FROM note")
        assert len(rows.fetchall()) == 3
    with peewee_web.scope():
        assert notes.connection() is connection


def test_an_unbuffered_result_is_seen_on_pymysql(mariadb: MariaDBServer) -> None:
    database: Any = peewee_web.connect(mariadb.url())
    with peewee_web.scope():
        connection = database.connection()
        driver = driver_for(connection)
        assert driver.status(connection) is not Status.BUSY
        cursor = connection.cursor(pymysql.cursors.SSCursor)
        cursor.execute("SELECT 1 UNION SELECT 2")
        cursor.fetchone()
        assert driver.status(connection) is Status.BUSY
    assert not connection.open
    cursor._result.unbuffered_active = False  # else PyMySQL's finalizer reads on, from the closed connection
    database.close_all()
