"""``ScopedDatabase.Model``: models of several apps on one base class."""

from __future__ import annotations

from pathlib import Path

import peewee

import peewee_web


def test_the_base_class_is_made_once_and_outside_any_scope() -> None:
    scoped = peewee_web.ScopedDatabase()
    assert issubclass(scoped.Model, peewee.Model)
    assert scoped.Model is scoped.Model
    assert scoped.Model._meta.database is scoped  # type: ignore[attr-defined]


def test_the_base_class_is_not_that_of_the_database_at_hand(tmp_path: Path) -> None:
    databases = [peewee_web.Databases(f"sqlite:///{tmp_path}/{name}.db") for name in ("first", "second")]
    scoped = peewee_web.ScopedDatabase()
    with databases[0].scope():
        assert databases[0].default.Model is not scoped.Model

        class Note(scoped.Model):  # type: ignore[misc, name-defined]
            text = peewee.CharField()

        Note.create_table()
        assert Note.table_exists()
    with databases[1].scope():
        assert not Note.table_exists()
    for registry in databases:
        registry.close()
