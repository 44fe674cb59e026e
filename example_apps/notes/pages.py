"""The notebook's HTML. Every app shows the same pages; each says which framework and database serve them.

Pages get plain values and run no query, so an error page needs no database.
"""

from __future__ import annotations

import json
import re
from datetime import datetime
from http import HTTPStatus
from pathlib import Path
from urllib.parse import urlencode

import jinja2
from markupsafe import Markup, escape

from . import search
from .forms import MAX_BODY, MAX_TITLE, NoteForm
from .models import Note, database, now
from .store import Page

HERE = Path(__file__).parent
STATIC = str(HERE / "static")
EXCERPT = 260

HTML = "text/html; charset=utf-8"
JSON = "application/json"
CSV = "text/csv; charset=utf-8"
ATTACHMENT = 'attachment; filename="notes.csv"'


class Pages:
    """The pages, for an app that is served by the framework of this name."""

    def __init__(self, framework: str) -> None:
        self.environment = jinja2.Environment(
            loader=jinja2.FileSystemLoader(HERE / "templates"),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self.environment.globals.update(framework=framework, engine=lambda: search.engine(database).name)
        self.environment.filters.update(ago=ago, excerpt=excerpt)

    def _render(self, template: str, **values: object) -> str:
        return self.environment.get_template(template).render(values)

    def index(self, page: Page, tags: list[tuple[str, int]]) -> str:
        """The list: search box, tags, notes, page numbers."""

        def url(**changes: object) -> str:
            query = {"q": page.q, "tag": page.tag, "page": 1} | changes
            kept = {name: value for name, value in query.items() if value and (name, value) != ("page", 1)}
            return "/?" + urlencode(kept) if kept else "/"

        return self._render("index.html", page=page, tags=tags, url=url, stems=search.parse(page.q).stems)

    def editor(self, form: NoteForm | None = None, note: Note | None = None, note_id: int | None = None) -> str:
        """The form: empty, filled with a note, or as somebody sent it, with what is wrong with it."""
        if note is not None:
            form, note_id = NoteForm(note.title, note.body, note.tags), note.id
        limits = {"title": MAX_TITLE, "body": MAX_BODY}
        return self._render("editor.html", form=form or NoteForm(), note_id=note_id, limits=limits)

    def error(self, status: int, path: str, retry_after: object = None) -> tuple[str, str]:
        """The body and content type that say what went wrong: JSON where programs ask, else a page."""
        title, advice = ERRORS.get(status) or (HTTPStatus(status).phrase, "That did not work.")
        if path.startswith(("/api/", "/ready")):
            return json.dumps({"error": title, "status": status}), JSON
        page = self._render("error.html", status=status, title=title, advice=advice, retry_after=retry_after)
        return page, HTML


ERRORS = {
    400: ("That made no sense", "The request could not be read."),
    404: ("Nothing here", "There is no such page or note. It may have been deleted."),
    405: ("Not that way", "This address does not take that kind of request."),
    500: ("Something broke", "It is our fault, not yours. It has been written down."),
    503: ("The database is resting", "Nothing that was saved is lost. This works again as soon as the database does."),
}


def ago(moment: datetime) -> str:
    """How long ago a moment (naive UTC) was, for people."""
    seconds = max(0, int((now() - moment).total_seconds()))
    for unit, size in (("day", 86_400), ("hour", 3_600), ("minute", 60)):
        if count := seconds // size:
            if count > 30 and unit == "day":
                return f"{moment:%-d %B %Y}"
            return f"{count} {unit}{'s' if count > 1 else ''} ago"
    return "just now"


def excerpt(text: str, stems: list[str]) -> Markup:
    """The beginning of a text, or the part where the search found something, with that marked. HTML-safe."""
    pattern = re.compile(r"\b(?:" + "|".join(map(re.escape, stems)) + r")\w*", re.IGNORECASE) if stems else None
    hit = pattern.search(text) if pattern else None
    start = 0
    if hit and hit.end() > EXCERPT:
        start = text.rfind(" ", 0, max(0, hit.start() - 60)) + 1
    end = len(text) if len(text) <= start + EXCERPT else max(text.rfind(" ", start, start + EXCERPT), start + 1)
    if end == start + 1:
        end = start + EXCERPT  # one word as long as all that
    part = text[start:end]
    out, position = Markup("… " if start else ""), 0
    for found in pattern.finditer(part) if pattern else ():
        out += escape(part[position : found.start()]) + Markup("<mark>%s</mark>") % found.group()
        position = found.end()
    return out + escape(part[position:]) + (" …" if end < len(text) else "")
