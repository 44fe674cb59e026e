"""Flask apps on SQLite files, and a way to have no connection left."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import peewee
import pytest
from flask import Flask

import peewee_web
from peewee_web.flask import Peewee
from tests.pools import exhausted as exhausted

LIMIT = 4


class Site:
    """An app with a table of notes in a database of its own."""

    def __init__(self, database: Any, db: Peewee | None = None, **config: Any) -> None:
        self.database = database
        self.app = Flask(__name__)
        self.app.config.from_mapping(PEEWEE_DATABASE=database, SECRET_KEY="x", **config)
        self.db = db or Peewee()
        self.db.init_app(self.app)

        class Note(self.db.Model):  # type: ignore[misc, name-defined]
            text = peewee.CharField()

        self.Note = Note
        with peewee_web.scope(), Note.bind_ctx(database):
            Note.create_table()
        self.client = self.app.test_client()

    @property
    def in_use(self) -> int:
        return self.database.pool_stats().in_use

    def add(self, text: str) -> None:
        self.Note.create(text=text)

    def count(self) -> str:
        return str(self.Note.select().count())

    def saved(self) -> list[str]:
        """What is committed, seen from another connection."""
        query = self.Note.select().order_by(self.Note.id)
        with peewee_web.scope():
            return [note.text for note in query.bind(self.database)]


@pytest.fixture
def new_database(tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Makes databases, and sees to it that every connection of each is given back."""
    made = []

    def make(name: str) -> Any:
        database = peewee_web.connect(f"sqlite:///{tmp_path}/{name}.db", max_connections=LIMIT, timeout=None)
        made.append(database)
        return database

    yield make
    for database in made:
        assert database.pool_stats().in_use == 0, database
        database.close_all()


@pytest.fixture
def new_site(new_database: Callable[..., Any]) -> Callable[..., Site]:
    def make(name: str = "notes", **config: Any) -> Site:
        return Site(new_database(name), **config)

    return make


@pytest.fixture
def site(new_site: Callable[..., Site]) -> Site:
    return new_site()
