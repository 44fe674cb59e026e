"""What comes in: the fields of a note, from an HTML form or from JSON, and the query string of the list."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .search import printable

MAX_TITLE, MAX_BODY, MAX_TAGS, MAX_TAG = 200, 50_000, 8, 30


@dataclass
class NoteForm:
    """The fields as they will be stored, and what is wrong with them: `errors` maps a field to one sentence."""

    title: str = ""
    body: str = ""
    tags: list[str] = field(default_factory=list)
    errors: dict[str, str] = field(default_factory=dict)


def read(data: Any) -> NoteForm:
    """Check a submitted note: any mapping with `title`, `body` and `tags` ("a, b" or ["a", "b"]). Never raises."""
    form = NoteForm()
    if not isinstance(data, Mapping):
        form.errors["note"] = "Send one object with title, body and tags."
        return form

    def text(name: str) -> str:
        value = data.get(name) or ""
        if not isinstance(value, str):
            form.errors[name] = f"The {name} must be text."
            return ""
        return printable(value.replace("\r\n", "\n"))

    form.title = " ".join(text("title").split())
    form.body = text("body").rstrip()
    if not form.title:
        form.errors.setdefault("title", "Give the note a title.")
    elif len(form.title) > MAX_TITLE:
        form.errors["title"] = f"Keep the title within {MAX_TITLE} characters; this has {len(form.title)}."
    if len(form.body) > MAX_BODY:
        form.errors["body"] = f"Keep the note within {MAX_BODY:,} characters; this has {len(form.body):,}."
    form.tags = _tags(data.get("tags"), form.errors)
    return form


def _tags(value: Any, errors: dict[str, str]) -> list[str]:
    names = value.split(",") if isinstance(value, str) else value or []
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        errors["tags"] = "The tags must be a list of words."
        return []
    # A comma separates tags in the form, so none can hold one.
    cleaned = (" ".join(printable(part).split()).lower() for name in names for part in name.split(","))
    tags = list(dict.fromkeys(tag for tag in cleaned if tag))
    if len(tags) > MAX_TAGS:
        errors["tags"] = f"Use at most {MAX_TAGS} tags."
    elif any(len(tag) > MAX_TAG for tag in tags):
        errors["tags"] = f"Keep each tag within {MAX_TAG} characters."
    return tags


def query(args: Mapping[str, Any]) -> dict[str, Any]:
    """The list's query string as arguments for `store.find`. What makes no sense is taken as not said."""
    page = str(args.get("page") or "")
    return {
        "q": printable(str(args.get("q") or "")).strip(),
        "tag": printable(str(args.get("tag") or "")).strip().lower(),
        "page": int(page) if re.fullmatch(r"[0-9]{1,9}", page) else 1,
    }
