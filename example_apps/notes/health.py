"""What an orchestrator asks: whether this process may be sent requests that need the database."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import peewee_web

from .models import database


def ready() -> dict[str, Any]:
    """For the readiness route. Raises as any request does that needs the database while it is away: 503."""
    return {"status": "ready", **asdict(peewee_web.check(database))}
