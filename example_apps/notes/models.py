"""The tables. One set of models serves all five apps: each gives `database` its own database at start-up,

    models.database.initialize(db)

and everything else in this package follows it.
"""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

from peewee import CharField, CompositeKey, DatabaseProxy, DateTimeField, ForeignKeyField, Model, TextField

database = DatabaseProxy()


def now() -> datetime:
    """UTC, in the whole seconds that all three databases store alike (MariaDB's DATETIME has no fraction)."""
    return datetime.now(timezone.utc).replace(microsecond=0, tzinfo=None)


class Table(Model):
    class Meta:
        database = database


class Note(Table):
    title = CharField(max_length=200)
    body = TextField()
    created_at = DateTimeField(default=now)
    updated_at = DateTimeField(default=now, index=True)

    @property
    def tags(self) -> list[str]:
        """Names in order. Costs no query on a note that came with its `links` (see `store.with_tags`)."""
        return sorted(link.tag.name for link in self.links)

    def as_json(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "title": self.title,
            "body": self.body,
            "tags": self.tags,
            "created_at": self.created_at.isoformat() + "Z",
            "updated_at": self.updated_at.isoformat() + "Z",
        }


class Tag(Table):
    name = CharField(max_length=30, unique=True)


class NoteTag(Table):
    note = ForeignKeyField(Note, backref="links", on_delete="CASCADE")
    tag = ForeignKeyField(Tag, backref="links", on_delete="CASCADE")

    class Meta:
        primary_key = CompositeKey("note", "tag")


TABLES = (Note, Tag, NoteTag)
