"""Management commands give their connections back, and Django's test runner can drop what it made."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command

import peewee_web
from peewee_web.core.scope import current_scope
from peewee_web.django import PeeweeCommand, databases
from tests.django.conftest import Note, add, saved, session
from tests.django.test_engines import described

ROOT = Path(__file__).parents[2]


class Add(PeeweeCommand):
    def add_arguments(self, parser: Any) -> None:
        parser.add_argument("text")
        parser.add_argument("--fail", action="store_true")

    def handle(self, *args: Any, text: str, fail: bool, **options: Any) -> str:
        add(text)
        if fail:
            databases.default.begin()
            add("lost")
            raise CommandError("no")
        return str(session())


def test_a_command_gives_its_connection_back(db: Any) -> None:
    for _ in range(6):
        call_command(Add(stdout=io.StringIO()), "one")
        assert db.pool_stats().in_use == 0
    assert saved() == ["one"] * 6


def test_a_command_that_fails_gives_it_back_rolled_back(db: Any) -> None:
    with pytest.raises(CommandError):
        call_command(Add(), "one", "--fail")
    assert db.pool_stats().in_use == 0
    assert saved() == ["one"]


def test_a_command_inside_a_scope_takes_part_in_it(db: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with peewee_web.scope() as scope, db.atomic() as transaction:
        own = session()
        call_command(Add(), "one")
        assert current_scope() is scope
        assert [note.text for note in Note.select()] == ["one"]
        transaction.rollback()
    assert capsys.readouterr().out.strip() == str(own)
    assert saved() == []


def test_the_command_line_closes_the_pool(db: Any, capsys: pytest.CaptureFixture[str]) -> None:
    Add().run_from_argv(["manage.py", "add", "one"])
    assert (db.pool_stats().in_use, db.pool_stats().idle) == (0, 0)
    assert saved() == ["one"]


TESTS = """
import peewee
from django.test import Client, SimpleTestCase
from peewee_web.django import Model, databases

class Note(Model):
    text = peewee.CharField()

class Notes(SimpleTestCase):
    databases = "__all__"

    def test_rows_go_to_the_test_database(self):
        Note.create_table()
        Note.create(text="outside a scope: this thread has a connection now")
        with databases.scope():
            name, = databases["default"].execute_sql("SELECT current_database()").fetchone()
        self.assertEqual(name, "test_django_runner")
"""


def test_djangos_test_runner_uses_a_database_of_its_own_and_can_drop_it(postgres: Any, tmp_path: Path) -> None:
    postgres.create_database("django_runner")
    database = {"ENGINE": "django.db.backends.postgresql", **described(postgres.url("django_runner"))}
    (tmp_path / "project.py").write_text(
        "INSTALLED_APPS = ['peewee_web.django']\n"
        "MIDDLEWARE = ['peewee_web.django.PeeweeMiddleware']\n"
        "SECRET_KEY = 'none'\n"
        "USE_TZ = True\n"
        "TEST_RUNNER = 'peewee_web.django.test.PeeweeTestRunner'\n"
        f"DATABASES = {{'default': {database!r}}}\n"
    )
    (tmp_path / "test_notes.py").write_text(TESTS)
    path = os.pathsep.join([str(tmp_path), str(ROOT / "integrations")])
    environment = {**os.environ, "DJANGO_SETTINGS_MODULE": "project", "PYTHONPATH": path}
    try:
        done = subprocess.run(
            [sys.executable, "-W", "error", "-m", "django", "test", "--noinput"],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        assert "Ran 1 test" in done.stderr
        names = [row[0] for row in postgres.execute("SELECT datname FROM pg_database")]
        assert "test_django_runner" not in names
        assert "django_runner" in names
    finally:
        postgres.drop_database("django_runner")
