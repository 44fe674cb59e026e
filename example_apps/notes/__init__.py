"""The notebook itself, free of any web framework: models, search, what can be done with notes, and its pages."""

from __future__ import annotations

import os
from typing import Any

import peewee_web

#: Where the notes live. Every app reads it, so one shell variable moves all five to another database.
DATABASE_URL = os.environ.get("DATABASE_URL") or "sqlite:///notes.db"
#: Copies of it that are kept up to date by the servers themselves, with spaces between: pages are read from there.
REPLICA_URLS = (os.environ.get("REPLICA_URLS") or "").split()


def connect() -> Any:
    """The app's database: one server, or a primary and its replicas. Opens no connection yet."""
    if REPLICA_URLS:
        return peewee_web.ReplicatedDatabase(DATABASE_URL, REPLICA_URLS)
    return peewee_web.connect(DATABASE_URL)
