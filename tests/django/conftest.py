"""A Django project of one process: its settings, a database, and urls that each test chooses."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from wsgiref.util import setup_testing_defaults

import django
import peewee
import pytest
from django.conf import settings
from django.test import Client, override_settings
from django.urls import path

import peewee_web
from tests.pools import exhausted as exhausted

LIMIT = 4
hears_of_leaving = pytest.mark.skipif(django.VERSION < (5, 0), reason="Django < 5.0 does not listen for disconnects")
OURS = "peewee_web.django.PeeweeMiddleware"

settings.configure(
    INSTALLED_APPS=["peewee_web.django"],
    MIDDLEWARE=[OURS],
    ROOT_URLCONF="tests.django.conftest",
    ALLOWED_HOSTS=["*"],
    SECRET_KEY="none",
    USE_TZ=True,
    LOGGING_CONFIG=None,
)
django.setup()

from peewee_web.django import Model, databases  # noqa: E402  # models want a project, as in one

urlpatterns: list[Any] = []


class Note(Model):
    text = peewee.CharField()


def add(text: str) -> None:
    Note.create(text=text)


def saved() -> list[str]:
    """What is committed, seen from another connection."""
    with databases.scope(lazy=True, atomic=False):
        return [note.text for note in Note.select().order_by(Note.id)]


def session() -> int:
    """Which connection this code is on."""
    database = databases.default
    database.execute_sql("SELECT 1")
    return id(database.connection())


class Urls:
    """A URLconf."""

    def __init__(self, *patterns: Any, **handlers: Any) -> None:
        self.urlpatterns = list(patterns)
        self.__dict__.update(handlers)


def environ(**changes: Any) -> dict[str, Any]:
    """What a WSGI server passes for ``GET /``."""
    request: dict[str, Any] = {**changes}
    setup_testing_defaults(request)
    return request


def client() -> Client:
    """One that gets what a browser gets: a 500 instead of the exception."""
    return Client(raise_request_exception=False)


@pytest.fixture
def new_database(tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Makes databases, and sees to it that every connection of each is given back."""
    made = []

    def make(name: str, **options: Any) -> Any:
        options = {"max_connections": LIMIT, "timeout": None, **options}
        database = peewee_web.connect(f"sqlite:///{tmp_path}/{name}.db", **options)
        with override_settings(PEEWEE={"DATABASES": database}), databases.scope():
            Note.create_table()
        made.append(database)
        return database

    yield make
    for database in made:
        assert database.pool_stats().in_use == 0, database
        database.close_all()


@pytest.fixture
def db(new_database: Callable[..., Any]) -> Iterator[Any]:
    database = new_database("notes")
    with override_settings(PEEWEE={"DATABASES": database}):
        yield database


Project = Callable[..., None]


@pytest.fixture
def project(db: Any) -> Iterator[Project]:
    """``project(view, …)``: the view at ``/``, further patterns, middleware after ours, options of PEEWEE."""
    with ExitStack() as stack:

        def set_up(view: Any, *patterns: Any, middleware: Any = (), handlers: Any = None, **options: Any) -> None:
            changed = {
                "PEEWEE": {"DATABASES": db, **options},
                "MIDDLEWARE": [OURS, *middleware],
                "ROOT_URLCONF": Urls(path("", view, name="home"), *patterns, **(handlers or {})),
            }
            stack.enter_context(override_settings(**changed))

        yield set_up
