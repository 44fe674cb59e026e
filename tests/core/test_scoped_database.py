"""``ScopedDatabase``: models of several apps in one process, each on the database of the app that is served."""

from __future__ import annotations

import asyncio
import copy
from pathlib import Path
from typing import Any

import peewee
import pytest

import peewee_web
from peewee_web import Databases, ScopedDatabase
from tests.core.working import Working

proxy = ScopedDatabase()
reports = ScopedDatabase("reports")


class Note(proxy.Model):  # type: ignore[name-defined, misc]
    text = peewee.TextField()
    data = peewee.BlobField(null=True)


class Report(reports.Model):  # type: ignore[name-defined, misc]
    text = peewee.TextField()


@pytest.fixture
def first(tmp_path: Path) -> Any:
    return made(tmp_path / "first")


@pytest.fixture
def second(tmp_path: Path) -> Any:
    return made(tmp_path / "second")


def made(directory: Path) -> Databases:
    directory.mkdir()
    databases = Databases(
        {name: peewee.SqliteDatabase(str(directory / f"{name}.db")) for name in ("default", "reports")}
    )
    with databases.scope():
        proxy.create_tables([Note])
        reports.create_tables([Report])
    return databases


def texts() -> list[str]:
    return [note.text for note in Note.select().order_by(Note.text)]


def test_models_of_two_apps_in_one_process_do_not_meet(first: Databases, second: Databases) -> None:
    with first.scope():
        Note.create(text="first")
        with second.scope():
            Note.create(text="second")
            assert texts() == ["second"]
        assert texts() == ["first"]


def test_models_of_two_apps_do_not_meet_in_coroutines_that_take_turns(first: Databases, second: Databases) -> None:
    async def serve(databases: Databases, text: str) -> list[str]:
        async with databases.scope():
            for _ in range(3):
                Note.create(text=text)
                await asyncio.sleep(0)
            return texts()

    async def both() -> list[list[str]]:
        return await asyncio.gather(serve(first, "a"), serve(second, "b"))

    assert asyncio.run(both()) == [["a"] * 3, ["b"] * 3]


def test_the_name_chooses_among_an_apps_databases(first: Databases) -> None:
    with first.scope():
        assert proxy.obj is first["default"]
        assert reports.obj is first["reports"]


def test_the_default_is_the_only_database_whatever_its_name(tmp_path: Path) -> None:
    databases = Databases({"notes": f"sqlite:///{tmp_path}/x.db"})
    with databases.scope():
        assert proxy.obj is databases["notes"]


def test_a_name_that_the_app_does_not_have_is_answered_with_those_it_has(tmp_path: Path) -> None:
    with Databases(f"sqlite:///{tmp_path}/x.db").scope(), pytest.raises(KeyError, match=r"'reports'.*'default'"):
        Report.create(text="x")


def test_outside_any_scope_a_query_says_what_to_do() -> None:
    with pytest.raises(AttributeError, match=r"no database is configured for 'default'.*databases\.scope\(\)"):
        Note.create(text="x")


def test_that_error_is_one_of_peewees() -> None:
    with pytest.raises(peewee.InterfaceError):
        texts()


def test_a_scope_without_named_databases_leads_nowhere() -> None:
    with peewee_web.scope(), pytest.raises(peewee.InterfaceError, match="no database is configured"):
        texts()


def test_outside_any_scope_the_fallback_is_asked(first: Databases, second: Databases) -> None:
    falling = ScopedDatabase(fallback=lambda: first)
    assert falling.obj is first["default"]
    with second.scope():
        assert falling.obj is second["default"]


def test_a_fallback_may_have_no_answer() -> None:
    with pytest.raises(AttributeError, match="no database is configured"):
        ScopedDatabase(fallback=lambda: None).execute_sql("SELECT 1")


def test_a_worker_thread_of_the_scope_has_its_database(first: Databases) -> None:
    with first.scope():
        Note.create(text="x")
        assert Working(None, texts).result() == ["x"]


def test_atomic_is_the_current_apps(first: Databases) -> None:
    with first.scope():
        with proxy.atomic() as transaction:
            Note.create(text="kept")
            with proxy.atomic() as savepoint:
                Note.create(text="lost")
                savepoint.rollback()
            assert first["default"].in_transaction()
            transaction.commit()
        assert texts() == ["kept"]


def test_atomic_decorates_functions_before_any_app_is_known(first: Databases) -> None:
    @proxy.atomic()
    def work() -> bool:
        return bool(first["default"].in_transaction())

    with first.scope():
        assert work()


def test_connection_blocks_are_the_current_apps(first: Databases) -> None:
    with first.scope():
        with proxy:
            Note.create(text="x")
        with proxy.connection_context():
            assert texts() == ["x"]
        assert first["default"].is_closed()


def test_the_model_base_is_one_and_bound_to_the_proxy(first: Databases) -> None:
    assert proxy.Model is proxy.Model
    assert proxy.Model is not reports.Model
    with first.scope():
        real = first["default"].Model
        assert proxy.Model is not real
    assert Note._meta.database is proxy


def test_the_model_base_may_be_asked_for_inside_a_scope_first(first: Databases) -> None:
    late = ScopedDatabase()
    with first.scope():
        _ = first["default"].Model
        assert late.Model._meta.database is late


def test_a_blob_is_stored_and_read_without_an_initialize(first: Databases) -> None:
    with first.scope():
        Note.create(text="x", data=b"\x00\xff")
        assert bytes(Note.get().data) == b"\x00\xff"


def test_a_blob_is_stored_as_the_current_database_wants_it(postgres: Any, first: Databases) -> None:
    """One model, an SQLite app and a PostgreSQL app in one process."""
    served = Databases(postgres.url())
    with served.scope():
        proxy.create_tables([Note])
        Note.create(text="x", data=b"\x00\xff")
        assert bytes(Note.get().data) == b"\x00\xff"
        with first.scope():
            Note.create(text="x", data=b"\x00\xff")
            assert bytes(Note.get().data) == b"\x00\xff"
        proxy.drop_tables([Note])
    served.default.close_all()


def test_initialize_tells_the_fields_what_database_to_expect(first: Databases) -> None:
    scoped = ScopedDatabase()
    seen: list[Any] = []
    scoped.attach_callback(seen.append)
    scoped.initialize(first["default"])
    assert seen == [first["default"]]
    assert scoped.obj is None  # it only tells


def test_models_may_be_bound_to_another_database_for_a_test(first: Databases, tmp_path: Path) -> None:
    other = peewee.SqliteDatabase(str(tmp_path / "other.db"))
    with other.bind_ctx([Note]):
        other.create_tables([Note])
        Note.create(text="bound")
    other.close()
    with first.scope():
        assert texts() == []


def test_a_field_that_is_copied_for_a_subclass_keeps_the_proxy() -> None:
    assert copy.deepcopy(proxy) is proxy
    assert copy.copy(proxy) is proxy

    class Child(Note):
        pass

    assert Child._meta.database is proxy


def test_the_repr_names_it() -> None:
    assert repr(reports) == "<ScopedDatabase 'reports'>"


def test_an_attribute_can_not_be_set_by_mistake() -> None:
    with pytest.raises(AttributeError):
        proxy.autoconnect = False


def test_probing_for_an_attribute_is_safe_outside_a_scope() -> None:
    assert not hasattr(proxy, "execute_sql")
