"""System checks: what ``manage.py check`` and the start of a server say about the settings."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.core import checks
from django.core.exceptions import ImproperlyConfigured

from .databases import databases
from .order import positions
from .settings import BadSetting

MIDDLEWARE = "peewee_web.django.PeeweeMiddleware"

# Middleware that never queries, and whose documentation asks for a place at the top.
_HARMLESS = ("django.middleware.", "whitenoise.", "corsheaders.")


@checks.register("peewee_web")
def check_settings(app_configs: Any = None, **_: Any) -> list[checks.CheckMessage]:
    try:
        databases.current  # noqa: B018  # reads the settings
    except ImproperlyConfigured as error:
        check = error.check if isinstance(error, BadSetting) else "E002"
        return [checks.Error(str(error), id=f"peewee_web.{check}")]
    return []


@checks.register("peewee_web")
def check_middleware(app_configs: Any = None, **_: Any) -> list[checks.CheckMessage]:
    places = positions()
    if not places:
        return [
            checks.Error(
                "PeeweeMiddleware is not in MIDDLEWARE, so requests have no connection of their own.",
                hint=f"Put {MIDDLEWARE!r} first in MIDDLEWARE.",
                id="peewee_web.E001",
            )
        ]
    if len(places) > 1:
        return [
            checks.Error(
                "PeeweeMiddleware is in MIDDLEWARE more than once.",
                hint="Leave the first one.",
                id="peewee_web.E006",
            )
        ]
    before = [path for path in settings.MIDDLEWARE[: places[0]] if not path.startswith(_HARMLESS)]
    if before:
        return [
            checks.Warning(
                f"{', '.join(before)} in MIDDLEWARE before PeeweeMiddleware: what they query is outside the request's "
                "connection and transaction.",
                hint=f"Put {MIDDLEWARE!r} first in MIDDLEWARE.",
                id="peewee_web.W001",
            )
        ]
    return []
