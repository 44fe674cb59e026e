"""A database of one table, and a way to have no connection left."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import peewee
import pytest

import peewee_web
from tests.pools import exhausted as exhausted

LIMIT = 4


class Note(peewee.Model):
    """Bound to the database of the test at hand."""

    text = peewee.CharField()


def add(text: str) -> None:
    Note.create(text=text)


def saved() -> list[str]:
    """What is committed, seen from another connection."""
    with peewee_web.scope():
        return [note.text for note in Note.select().order_by(Note.id)]


@pytest.fixture
def new_database(tmp_path: Path) -> Iterator[Callable[[str], Any]]:
    """Makes databases, and sees to it that every connection of each is given back."""
    made = []

    def make(name: str) -> Any:
        database = peewee_web.connect(f"sqlite:///{tmp_path}/{name}.db", max_connections=LIMIT, timeout=None)
        with peewee_web.scope(), Note.bind_ctx(database):
            Note.create_table()
        made.append(database)
        return database

    yield make
    for database in made:
        assert database.pool_stats().in_use == 0, database
        database.close_all()


@pytest.fixture
def db(new_database: Callable[[str], Any]) -> Iterator[Any]:
    database = new_database("notes")
    with Note.bind_ctx(database):
        yield database
