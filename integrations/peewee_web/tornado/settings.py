"""The databases of one application, from ``Application(routes, peewee=db)``."""

from __future__ import annotations

import threading
from typing import Any

from tornado.web import Application

from ..core.registry import Databases

SETTING = "peewee"
_MADE = "_peewee_web"  # the attribute of an application that keeps what was made of its setting
_lock = threading.Lock()


def databases_of(application: Application) -> Databases:
    """Made once, when the first request asks; anew if a test puts another database into the settings.

    Raises `RuntimeError` when there is no such setting, `TypeError` or `ValueError` when it can't be a database.
    """
    configured: Any = application.settings.get(SETTING)
    if isinstance(configured, Databases):
        return configured
    with _lock:
        made_of, databases = vars(application).get(_MADE, (None, None))
        if made_of is None or made_of is not configured:
            if configured is None:
                raise RuntimeError(
                    "no database is configured for this Tornado application: give it one as "
                    "Application(routes, peewee=db), where db is a Peewee database, a URL such as 'sqlite:///app.db', "
                    "or Databases(db, ...)"
                )
            databases = Databases.of(configured)
            setattr(application, _MADE, (configured, databases))
    assert isinstance(databases, Databases)
    return databases
