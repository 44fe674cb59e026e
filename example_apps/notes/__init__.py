"""The notebook itself, free of any web framework: models, search, what can be done with notes, and its pages."""

from __future__ import annotations

import os

#: Where the notes live. Every app reads it, so one shell variable moves all five to another database.
DATABASE_URL = os.environ.get("DATABASE_URL") or "sqlite:///notes.db"
