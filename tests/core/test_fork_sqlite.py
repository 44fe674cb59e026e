"""SQLite in a parent and its forked children: one file for all, or a copy of what was in memory."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import peewee
import pytest

import peewee_web
from peewee_web import PooledSqliteDatabase
from tests.core.forking import UNTOLD, Child, fork, in_child
from tests.core.working import in_thread, in_use, query, save, saved

FORKS = 100


@pytest.fixture(params=["wal", "delete"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[PooledSqliteDatabase]:
    """A pool on a file with a table ``note (text)``, in either way of SQLite's to be atomic."""
    database = PooledSqliteDatabase(
        str(tmp_path / "fork.db"), pragmas={"journal_mode": request.param, "busy_timeout": 5000}, lock_type="IMMEDIATE"
    )
    with database.connection_context():
        database.execute_sql("CREATE TABLE note (text TEXT)")
    yield database
    left = in_use(database)
    database.close_all()
    assert left == 0


def integrity(database: PooledSqliteDatabase) -> str:
    """What SQLite finds in the file, seen from outside of any pool."""
    with closing(sqlite3.connect(database.database)) as connection:
        (answer,) = connection.execute("PRAGMA integrity_check").fetchone()
        return str(answer)


def test_a_child_sees_what_its_parent_has_committed_and_the_parent_what_the_child_has(
    database: PooledSqliteDatabase,
) -> None:
    save(database, "parent")
    assert in_child(lambda: (saved(database), save(database, "child"))[0]) == ["parent"]
    assert saved(database) == ["child", "parent"]
    database.close()


@pytest.mark.parametrize("fork", [fork, UNTOLD])
def test_a_child_goes_on_when_its_parent_has_closed_its_last_connection(database: PooledSqliteDatabase, fork) -> None:  # type: ignore[no-untyped-def]
    """Who closes the last one deletes the write-ahead log: that must not be done under another process."""
    reader, writer = os.pipe()
    written, done = os.pipe()
    query(database)

    def work() -> list[str]:
        save(database, "before")
        os.write(done, b"x")
        os.read(reader, 1)
        save(database, "after")
        with peewee_web.scope():  # on one more connection
            return saved(database)

    child = Child(work, fork)
    os.read(written, 1)
    database.close_all()
    os.write(writer, b"x")
    assert child.result() == ["after", "before"]
    assert saved(database) == ["after", "before"]
    assert integrity(database) == "ok"
    for number in (reader, writer, written, done):
        os.close(number)


def test_a_transaction_of_the_parents_goes_on_and_its_child_finds_the_database_locked(tmp_path: Path) -> None:
    database = PooledSqliteDatabase(
        str(tmp_path / "locked.db"), pragmas={"journal_mode": "wal", "busy_timeout": 50}, lock_type="IMMEDIATE"
    )

    def work() -> tuple[int, str]:
        count = database.execute_sql("SELECT count(*) FROM note").fetchone()[0]
        with pytest.raises(peewee.OperationalError) as failed:
            save(database, "child")
        return count, str(failed.value)

    with peewee_web.scope():
        database.execute_sql("CREATE TABLE note (text TEXT)")
        with database.atomic():
            save(database, "parent")
            assert in_child(work) == (0, "database is locked")
            save(database, "parent again")
    assert saved(database) == ["parent", "parent again"]
    assert integrity(database) == "ok"
    database.close_all()


def test_parents_and_children_that_write_lose_nothing_and_corrupt_nothing(database: PooledSqliteDatabase) -> None:
    for number in range(FORKS):
        with peewee_web.scope():  # one connection is out at the fork, and perhaps one is idle
            query(database)
            child = Child(lambda n=number: save(database, f"child {n}"))  # type: ignore[misc]
            save(database, f"parent {number}")
        if number % 10 == 9:
            database.close_idle()
        child.result()
    assert sorted(saved(database)) == sorted(f"{who} {n}" for who in ("child", "parent") for n in range(FORKS))
    assert integrity(database) == "ok"


def test_a_child_has_a_copy_of_what_was_in_memory() -> None:
    database = peewee_web.connect("sqlite:///:memory:")
    with database.connection_context():
        database.execute_sql("CREATE TABLE note (text TEXT)")
        save(database, "parent")

    def work() -> list[str]:
        save(database, "child")
        database.close()
        notes: list[str] = in_thread(lambda: saved(database))
        return notes

    with database.connection_context():
        assert in_child(work) == ["child", "parent"]
        save(database, "parent again")
    assert saved(database) == ["parent", "parent again"]
    database.close_all()
