"""What every app does with notes. Plain Peewee: nothing here knows that a connection comes from a pool, or when."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from peewee import JOIN, PREFETCH_TYPE, Load, fn

from . import search
from .forms import NoteForm
from .models import Note, NoteTag, Tag, database, now

PER_PAGE = 9


@dataclass(frozen=True)
class Page:
    """One page of a list, and how it was asked for."""

    notes: list[Note]
    page: int
    pages: int
    total: int
    q: str
    tag: str

    def as_json(self) -> dict[str, Any]:
        notes = [note.as_json() for note in self.notes]
        return {"notes": notes, "page": self.page, "pages": self.pages, "total": self.total}


def with_tags(notes: Any) -> Any:
    """The same query, whose notes bring their tags along: one more query in all, not one per note."""
    links = NoteTag.select(NoteTag, Tag).join(Tag)
    return notes.with_related(Load(Note.links, links, strategy=PREFETCH_TYPE.MATERIALIZE))


def find(q: str = "", tag: str = "", page: int = 1) -> Page:
    """Notes that match a search and carry a tag: best match first, or else latest first."""
    notes, order = Note.select(), [Note.updated_at.desc(), Note.id.desc()]
    if tag:
        notes = notes.where(Note.id.in_(NoteTag.select(NoteTag.note).join(Tag).where(Tag.name == tag)))
    if q:
        engine, wanted = search.engine(database), search.parse(q)
        if not wanted:
            return Page([], 1, 1, 0, q, tag)
        if wanted.terms:
            hits = engine.hits(wanted.terms).alias("hits")
            notes = notes.join(hits, on=(hits.c.id == Note.id))
            order.insert(0, hits.c.rank.desc())
        for term in wanted.without:
            unwanted = engine.hits([term]).alias("unwanted")
            notes = notes.where(Note.id.not_in(unwanted.select_from(unwanted.c.id)))
    total = notes.count()
    pages = max(1, -(-total // PER_PAGE))
    page = min(max(1, page), pages)
    found = list(with_tags(notes.order_by(*order).paginate(page, PER_PAGE)))
    return Page(found, page, pages, total, q, tag)


def get(note_id: int) -> Note:
    """One note with its tags. Raises `Note.DoesNotExist`."""
    if not 0 < note_id < 2**31:  # no such id fits the column: SQLite would overflow, PostgreSQL refuse
        raise Note.DoesNotExist(f"no note {note_id}")
    return with_tags(Note.select().where(Note.id == note_id)).get()


def create(form: NoteForm) -> Note:
    with database.atomic():
        note = Note.create(title=form.title, body=form.body)
        _tag(note, form.tags)
    return get(note.id)


def update(note_id: int, form: NoteForm) -> Note:
    """Replace a note's text and tags. Raises `Note.DoesNotExist`."""
    with database.atomic():
        note = get(note_id)
        note.title, note.body, note.updated_at = form.title, form.body, now()
        note.save()
        # Only of a note that may have some: MariaDB would lock the gap where a new note's would be, and two requests
        # that then fill it wait for each other.
        NoteTag.delete().where(NoteTag.note == note).execute()
        _tag(note, form.tags)
    return get(note_id)


def delete(note_id: int) -> None:
    """Raises `Note.DoesNotExist`."""
    get(note_id).delete_instance()


def _tag(note: Note, names: list[str]) -> None:
    if names:
        # In one order everywhere, so that two requests that add the same new tags can't deadlock.
        Tag.insert_many([{"name": name} for name in sorted(names)]).on_conflict_ignore().execute()
        tags = Tag.select().where(Tag.name.in_(names))
        NoteTag.insert_many([{"note": note, "tag": tag} for tag in tags]).execute()


def tags() -> list[tuple[str, int]]:
    """Every tag in use, and on how many notes."""
    count = fn.COUNT(NoteTag.note)
    return list(Tag.select(Tag.name, count).join(NoteTag).group_by(Tag.name).order_by(Tag.name).tuples())


def export_rows() -> Iterator[bytes]:
    """All notes as CSV, a line at a time, read from the database while they are sent.

    The query runs here and now, before the first byte: a database that is away is still a proper 503.
    """
    columns = (Note.id, Note.title, Note.body, Note.created_at, Note.updated_at, Tag.name)
    rows = (
        Note.select(*columns)
        .join(NoteTag, JOIN.LEFT_OUTER)
        .join(Tag, JOIN.LEFT_OUTER)
        .order_by(Note.id, Tag.name)
        .tuples()
        .iterator()
    )
    return _csv(rows)


def _csv(rows: Iterator[tuple[Any, ...]]) -> Iterator[bytes]:
    line = io.StringIO()
    writer = csv.writer(line)
    writer.writerow(["id", "title", "body", "tags", "created_at", "updated_at"])
    for _, group in groupby(rows, key=lambda row: row[0]):
        (note_id, title, body, created, updated, first), *others = group
        names = ", ".join(filter(None, [first, *(row[-1] for row in others)]))
        writer.writerow([note_id, title, body, names, created.isoformat(), updated.isoformat()])
        yield line.getvalue().encode()
        line.seek(0)
        line.truncate()
    yield line.getvalue().encode()  # the heading, where there are no notes
