"""``ScopedDatabase``: models of several apps in one process, each on the database of the app that is served."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import copy
import datetime
import gc
import json
import pickle
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import peewee
import playhouse.dataset
import playhouse.fields
import playhouse.kv
import playhouse.migrate
import playhouse.migrations
import playhouse.postgres_ext
import playhouse.reflection
import playhouse.schema_diff
import playhouse.shortcuts
import playhouse.signals
import playhouse.sqlite_ext
import playhouse.test_utils
import pytest

import peewee_web
from peewee_web import Databases, PooledSqliteDatabase, ReplicatedDatabase, ScopedDatabase
from peewee_web.core.errors import ConnectionLost, ScopeError
from peewee_web.core.using import using
from tests.core.working import PATIENCE, Served, Working, in_use

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


def test_what_it_was_initialized_with_is_met_outside_any_scope(first: Databases, second: Databases) -> None:
    scoped = ScopedDatabase()
    scoped.initialize(first["default"])
    assert scoped.obj is first["default"]
    with second.scope():
        assert scoped.obj is second["default"]


def test_where_an_adapter_knows_the_app_an_initialize_changes_nothing(first: Databases, second: Databases) -> None:
    of_first, of_none = ScopedDatabase(fallback=lambda: first), ScopedDatabase(fallback=lambda: None)
    for scoped in (of_first, of_none):
        scoped.initialize(second["default"])
    assert of_first.obj is first["default"]
    assert of_none.obj is None


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


# Wherever Peewee takes a database or a DatabaseProxy: what works with Peewee's own proxy works with ours.


@pytest.fixture(params=["DatabaseProxy", "ScopedDatabase", "ScopedDatabase of a ReplicatedDatabase"])
def db(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    """What models bind to: Peewee's proxy, for comparison, and ours in the scope of an app."""
    if request.param == "DatabaseProxy":
        plain = peewee.DatabaseProxy()
        plain.initialize(peewee.SqliteDatabase(str(tmp_path / "x.db")))
        yield plain
        plain.close()
        return
    real: Any = peewee_web.connect(f"sqlite:///{tmp_path}/x.db", max_connections=1, timeout=1)
    databases = Databases(ReplicatedDatabase(real) if "Replicated" in request.param else real)
    with databases.scope():
        yield ScopedDatabase()
    left = in_use(real)
    databases.close()
    assert left == 0


@pytest.fixture
def Author(db: Any) -> Any:
    class Author(db.Model):  # type: ignore[misc, name-defined]
        name = peewee.CharField(unique=True)
        born = peewee.DateField(null=True)

    return Author


@pytest.fixture
def Book(db: Any, Author: Any) -> Any:
    class Book(db.Model):  # type: ignore[misc, name-defined]
        author = peewee.ForeignKeyField(Author, backref="books", null=True)
        title = peewee.TextField()
        data = peewee.JSONField(null=True)
        cover = peewee.BlobField(null=True)

    db.create_tables([Author, Book])
    return Book


def titles(Book: Any) -> list[str]:
    return [book.title for book in Book.select().order_by(Book.title)]


class Undone(Exception):
    """Raised in a block that is to be rolled back."""


def test_tables_are_created_and_dropped(db: Any, Author: Any, Book: Any) -> None:
    assert db.get_tables() == ["author", "book"]
    db.drop_tables([Author, Book])
    assert db.get_tables() == []


def test_a_model_creates_and_drops_its_table(db: Any, Author: Any) -> None:
    Author.create_table()
    assert Author.table_exists()
    assert db.table_exists(Author)
    Author.drop_table()
    assert not Author.table_exists()


BLOCKS: dict[str, Callable[[Any], Any]] = {
    "atomic": lambda db: db.atomic(),
    "atomic with arguments": lambda db: db.atomic("IMMEDIATE"),
    "transaction": lambda db: db.transaction(),
    "with db": lambda db: db,
}


@pytest.mark.parametrize("block", BLOCKS.values(), ids=BLOCKS)
def test_a_block_commits(db: Any, Book: Any, block: Any) -> None:
    with block(db):
        assert db.in_transaction()
        Book.create(title="kept")
    assert not db.in_transaction()
    assert titles(Book) == ["kept"]


@pytest.mark.parametrize("block", BLOCKS.values(), ids=BLOCKS)
def test_a_block_is_rolled_back_by_an_error(db: Any, Book: Any, block: Any) -> None:
    with contextlib.suppress(Undone), block(db):
        Book.create(title="lost")
        raise Undone
    assert titles(Book) == []


def test_the_block_of_the_database_itself_gives_a_database(db: Any) -> None:
    with db as real:
        assert isinstance(real, peewee.Database)


def test_a_savepoint_is_rolled_back_by_itself(db: Any, Book: Any) -> None:
    with db.atomic():
        Book.create(title="kept")
        with contextlib.suppress(Undone), db.savepoint():
            Book.create(title="lost")
            raise Undone
    assert titles(Book) == ["kept"]


def test_a_transaction_may_be_ended_within_its_block(db: Any, Book: Any) -> None:
    with db.atomic() as transaction:
        Book.create(title="kept")
        transaction.commit()
        Book.create(title="lost")
        transaction.rollback()
    assert titles(Book) == ["kept"]


def test_transactions_may_be_managed_by_hand(db: Any, Book: Any) -> None:
    with db.manual_commit():
        db.begin()
        Book.create(title="lost")
        db.rollback()
        db.begin()
        Book.create(title="kept")
        db.commit()
    assert titles(Book) == ["kept"]


def test_a_session_is_a_transaction(db: Any, Book: Any) -> None:
    db.session_start()
    Book.create(title="lost")
    assert db.session_rollback()
    assert titles(Book) == []


def test_a_batch_is_committed_in_groups(db: Any, Book: Any) -> None:
    for title in db.batch_commit(["a", "b", "c"], 2):
        Book.create(title=title)
    assert titles(Book) == ["a", "b", "c"]


def test_a_function_may_be_called_after_the_commit(db: Any, Book: Any) -> None:
    called: list[bool] = []
    with db.atomic():
        Book.create(title="x")
        db.after_commit(lambda: called.append(db.in_transaction()))
        assert called == []
    assert len(called) == 1


DECORATORS: dict[str, Callable[[Any], Any]] = {
    "atomic": lambda db: db.atomic(),
    "transaction": lambda db: db.transaction(),
    "manual_commit": lambda db: db.manual_commit(),
    "connection_context": lambda db: db.connection_context(),
}


@pytest.mark.parametrize("decorator", DECORATORS.values(), ids=DECORATORS)
def test_a_block_may_be_a_decorator(db: Any, Book: Any, decorator: Any) -> None:
    @decorator(db)
    def work(title: str) -> None:
        Book.create(title=title)

    work("a")
    work("b")
    assert titles(Book) == ["a", "b"]


def test_a_connection_is_opened_and_closed_by_hand(db: Any) -> None:
    db.close()
    assert db.is_closed()
    assert db.connect() is True
    assert db.connect(reuse_if_open=True) is False
    assert db.is_connection_usable()
    assert db.close() is True
    assert db.close() is False


def test_a_connection_block_closes_at_its_end(db: Any) -> None:
    db.close()
    with db.connection_context():
        assert not db.is_closed()
    assert db.is_closed()


def test_statements_may_be_given_as_sql(db: Any, Book: Any) -> None:
    db.execute_sql("INSERT INTO book (title) VALUES (?)", ("x",))
    assert db.execute(Book.select(Book.title)).fetchall() == [("x",)]


def test_a_table_without_a_model_may_live_there(db: Any, Book: Any) -> None:
    Book.create(title="x")
    table = peewee.Table("book", ("id", "title")).bind(db)
    assert [row["title"] for row in table.select(table.title)] == ["x"]


def test_a_query_may_be_told_where_to_go(db: Any, Book: Any) -> None:
    Book.create(title="x")
    assert [book.title for book in Book.select().bind(db)] == ["x"]
    assert [book.title for book in Book.select().execute(db)] == ["x"]


def test_rows_are_got_or_created(db: Any, Book: Any, Author: Any) -> None:
    assert [Author.get_or_create(name="x")[1] for _ in range(2)] == [True, False]


def test_rows_are_inserted_many_at_once(db: Any, Book: Any) -> None:
    Book.insert_many([{"title": "a"}, {"title": "b"}]).execute()
    Book.bulk_create([Book(title="c"), Book(title="d")], batch_size=1)
    assert titles(Book) == ["a", "b", "c", "d"]


def test_rows_are_updated_in_bulk(db: Any, Book: Any) -> None:
    books = [Book.create(title="a"), Book.create(title="b")]
    for book in books:
        book.title += "!"
    Book.bulk_update(books, [Book.title])
    assert titles(Book) == ["a!", "b!"]


def test_a_row_that_is_there_already_is_updated(db: Any, Book: Any, Author: Any) -> None:
    day = datetime.date(1900, 1, 1)
    Author.create(name="x")
    Author.insert(name="x", born=day).on_conflict(conflict_target=[Author.name], preserve=[Author.born]).execute()
    assert [author.born for author in Author.select()] == [day]


def test_parts_of_dates_are_asked_for(db: Any, Book: Any, Author: Any) -> None:
    Author.create(name="x", born=datetime.date(1900, 2, 3))
    assert Author.select(Author.born.month).scalar() == 2


def test_related_rows_are_prefetched(db: Any, Book: Any, Author: Any) -> None:
    author = Author.create(name="x")
    for title in ("a", "b"):
        Book.create(title=title, author=author)
    for found in (peewee.prefetch(Author.select(), Book.select()), Author.select().prefetch(Book)):
        assert [[book.title for book in each.books] for each in found] == [["a", "b"]]


def test_many_to_many_rows_are_related(db: Any) -> None:
    class Tag(db.Model):  # type: ignore[misc, name-defined]
        name = peewee.TextField()

    class Post(db.Model):  # type: ignore[misc, name-defined]
        tags = peewee.ManyToManyField(Tag, backref="posts")

    db.create_tables([Tag, Post, Post.tags.get_through_model()])
    post = Post.create()
    post.tags.add(Tag.create(name="x"))
    assert [tag.name for tag in post.tags] == ["x"]


def test_json_is_stored_and_read(db: Any, Book: Any) -> None:
    Book.create(title="x", data={"key": [1, None]})
    assert Book.get().data == {"key": [1, None]}


def test_a_path_into_json_is_asked_for(db: Any, Book: Any) -> None:
    Book.create(title="x", data={"key": 1})
    assert Book.select().where(Book.data["key"] == 1).exists()


def test_json_of_an_alias_is_asked_for(db: Any, Book: Any) -> None:
    Book.create(title="x", data={"key": 1})
    alias = Book.alias()
    assert alias.select().where(alias.data["key"] == 1).get().data == {"key": 1}


def test_json_is_changed_in_place(db: Any, Book: Any) -> None:
    Book.create(title="x", data={"key": 1})
    Book.update(data=Book.data["key"].set([2])).execute()
    assert Book.get().data == {"key": [2]}


def test_bytes_are_stored_and_read(db: Any, Book: Any) -> None:
    Book.create(title="x", cover=b"\x00\xff")
    assert bytes(Book.get().cover) == b"\x00\xff"


def test_fields_of_playhouse_are_stored_and_read(db: Any) -> None:
    class Packed(db.Model):  # type: ignore[misc, name-defined]
        pickled = playhouse.fields.PickleField()
        compressed = playhouse.fields.CompressedField()

    Packed.create_table()
    Packed.create(pickled={1, 2}, compressed=b"x" * 99)
    assert (Packed.get().pickled, Packed.get().compressed) == ({1, 2}, b"x" * 99)


def test_full_text_is_searched(db: Any) -> None:
    class Text(playhouse.sqlite_ext.FTS5Model):  # type: ignore[misc]
        body = playhouse.sqlite_ext.SearchField()

        class Meta:
            database = db

    Text.create_table()
    Text.create(body="a needle in hay")
    assert [text.body for text in Text.search("needle")] == ["a needle in hay"]


def test_a_table_is_migrated(db: Any, Book: Any) -> None:
    Book.create(title="x")
    migrator = playhouse.migrate.SchemaMigrator.from_database(db)
    with db.atomic():
        playhouse.migrate.migrate(
            migrator.add_column("book", "pages", peewee.IntegerField(default=7)),
            migrator.rename_column("book", "title", "name"),
        )
    assert db.execute_sql("SELECT name, pages FROM book").fetchall() == [("x", 7)]


def test_migrations_are_run_from_files(db: Any, Book: Any, tmp_path: Path) -> None:
    (tmp_path / "steps").mkdir()
    step = "import peewee\n\n\ndef up(migrator, db):\n    migrator.migrate({})\n"
    added = "migrator.add_column('book', 'pages', peewee.IntegerField(null=True))"
    (tmp_path / "steps" / "0001_pages.py").write_text(step.format(added))
    playhouse.migrations.run(db, str(tmp_path / "steps"))
    assert "pages" in [column.name for column in db.get_columns("book")]


def test_the_tools_for_migrations_find_it_by_its_path(db: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], "found", db, raising=False)
    assert isinstance(playhouse.migrations._resolve_database(f"{__name__}.found"), peewee.SqliteDatabase)


def test_a_schema_is_compared_with_models(db: Any, Book: Any, Author: Any) -> None:
    difference = playhouse.schema_diff.diff_models(db, [Author, Book])
    assert not any(difference), difference


def test_models_are_generated_from_a_schema(db: Any, Book: Any) -> None:
    Book.create(title="x")
    generated = playhouse.reflection.Introspector.from_database(db).generate_models()
    assert [row.title for row in generated["book"].select()] == ["x"]
    assert sorted(playhouse.reflection.generate_models(db)) == ["author", "book"]


def test_a_dataset_opens_the_database_behind_it(db: Any, Book: Any) -> None:
    """It takes no proxy, not even Peewee's."""
    with pytest.raises((AttributeError, TypeError)):
        playhouse.dataset.DataSet(db)
    dataset = playhouse.dataset.DataSet(db.obj)
    dataset["book"].insert(title="x")
    assert titles(Book) == ["x"]


def test_a_key_value_store_lives_there(db: Any) -> None:
    store = playhouse.kv.KeyValue(database=db)
    store["a"] = 1
    store.update(a=2, b=3)
    assert dict(store) == {"a": 2, "b": 3}


def test_signals_are_sent(db: Any) -> None:
    class Letter(playhouse.signals.Model):  # type: ignore[misc]
        text = peewee.TextField()

        class Meta:
            database = db

    sent: list[Any] = []
    playhouse.signals.post_save.connect(lambda sender, letter, created: sent.append(letter.text), sender=Letter)
    Letter.create_table()
    Letter.create(text="x")
    assert sent == ["x"]


def test_queries_are_counted(db: Any, Book: Any) -> None:
    with playhouse.test_utils.count_queries() as counted:
        titles(Book)
    assert counted.count == 1


def test_a_row_becomes_a_dict_and_a_row_again(db: Any, Book: Any, Author: Any) -> None:
    book = Book.create(title="x", author=Author.create(name="y"), data=[1])
    described = playhouse.shortcuts.model_to_dict(book, exclude=[Book.cover])
    assert playhouse.shortcuts.dict_to_model(Book, described).author.name == "y"


def test_models_that_are_bound_per_thread_may_live_there(db: Any) -> None:
    class Note(db.Model):  # type: ignore[misc, name-defined]
        text = peewee.TextField()

        class Meta:
            model_metadata_class = playhouse.shortcuts.ThreadSafeDatabaseMetadata

    Note.create_table()
    Note.create(text="x")
    assert [note.text for note in Note.select()] == ["x"]


def unbound() -> Any:
    class Loose(peewee.Model):
        text = peewee.TextField()
        data = peewee.JSONField(null=True)

    return Loose


BINDINGS: dict[str, Callable[[Any, Any], Any]] = {
    "Model.bind": lambda db, Loose: Loose.bind(db),
    "db.bind": lambda db, Loose: db.bind([Loose]),
}


@pytest.mark.parametrize("bind", BINDINGS.values(), ids=BINDINGS)
def test_a_model_is_bound_to_it(db: Any, bind: Any) -> None:
    Loose = unbound()
    bind(db, Loose)
    Loose.create_table()
    Loose.create(text="x", data=[1])
    assert (Loose.get().text, Loose.get().data) == ("x", [1])


BOUND_FOR_A_BLOCK: dict[str, Callable[[Any, Any], Any]] = {
    "Model.bind_ctx": lambda db, Loose: Loose.bind_ctx(db),
    "db.bind_ctx": lambda db, Loose: db.bind_ctx([Loose]),
}


@pytest.mark.parametrize("bind", BOUND_FOR_A_BLOCK.values(), ids=BOUND_FOR_A_BLOCK)
def test_a_model_is_bound_to_it_for_a_block(db: Any, bind: Any) -> None:
    Loose = unbound()
    with bind(db, Loose):
        Loose.create_table()
        Loose.create(text="x", data=[1])
        assert (Loose.get().text, Loose.get().data) == ("x", [1])
    assert Loose._meta.database is not db


def test_binding_a_model_binds_those_it_refers_to(db: Any) -> None:
    Loose = unbound()

    class Part(peewee.Model):
        whole = peewee.ForeignKeyField(Loose)

    db.bind([Part])
    db.create_tables([Loose, Part])
    assert Part.create(whole=Loose.create(text="x", data=[1])).whole.data == [1]


def test_the_metadata_of_a_model_is_copied(db: Any, Book: Any) -> None:
    assert copy.copy(Book._meta).database is db
    assert copy.deepcopy(Book._meta).get_database_instance() is Book._meta.get_database_instance()


def test_a_subclass_of_a_model_inherits_its_fields(db: Any, Book: Any) -> None:
    class Comic(Book):  # type: ignore[misc]
        pass

    Comic.create_table()
    Comic.create(title="x", data=[1], cover=b"y")
    assert (Comic.get().data, bytes(Comic.get().cover)) == ([1], b"y")


class Portable(peewee.Model):
    text = peewee.TextField()
    data = peewee.JSONField(null=True)


def test_a_row_is_pickled(db: Any) -> None:
    with Portable.bind_ctx(db):
        Portable.create_table()
        row = pickle.loads(pickle.dumps(Portable.create(text="x", data=[1])))
        row.text = "y"
        row.save()
        assert [(each.text, each.data) for each in Portable.select()] == [("y", [1])]


def test_a_hook_of_the_database_sees_the_queries(db: Any, Book: Any) -> None:
    seen: list[str] = []
    db.query_hooks.append(lambda event: seen.append(event.sql))
    titles(Book)
    assert len(seen) == 1


def test_a_function_of_sqlites_is_registered(db: Any) -> None:
    db.close()

    @db.func()
    def shout(text: str) -> str:
        return text.upper()

    assert db.execute_sql("SELECT shout('x')").fetchone() == ("X",)


def test_the_only_row_that_can_not_be_there_is_not_found(db: Any, Book: Any) -> None:
    assert list(Book.noop()) == []


def test_it_may_be_asked_what_kind_of_database_it_is(db: Any) -> None:
    assert isinstance(db, peewee.DatabaseProxy)
    assert isinstance(db.obj, peewee.SqliteDatabase)


# Before any app is configured.

early = ScopedDatabase()


class Document(early.Model):  # type: ignore[name-defined, misc]
    data = peewee.JSONField(null=True)
    body = peewee.BlobField(null=True)


@early.retry
def count_documents() -> int:
    return Document.select().count()


@early.retry(max_retries=1, backoff=0)
def fail_once(failures: list[Exception]) -> int:
    if failures:
        raise failures.pop()
    return count_documents()


@early.retry
async def count_documents_async() -> int:
    return Document.select().count()


@pytest.fixture
def files(tmp_path: Path) -> Any:
    databases = Databases(f"sqlite:///{tmp_path}/documents.db")
    with databases.scope():
        early.create_tables([Document])
    yield databases
    left = in_use(databases.default)
    databases.close()
    assert left == 0


def works(data: Any = None, body: bytes = b"\x00\xff") -> bool:
    """Whether a document comes back from where this code runs as it was saved."""
    data = data or {"key": [1, None]}
    key = Document.create(data=data, body=body).id  # type: ignore[attr-defined]
    found = Document.select().where(Document.id == key, Document.data["key"] == data["key"]).get()  # type: ignore[attr-defined]
    return (found.data, bytes(found.body)) == (data, body)


USES: dict[str, Callable[[Any], Any]] = {
    "a query": lambda db: Document.select().count(),
    "a row": lambda db: Document.create(data=[1]),
    "SQL": lambda db: db.execute_sql("SELECT 1"),
    "atomic": lambda db: db.atomic().__enter__(),
    "transaction": lambda db: db.transaction().__enter__(),
    "savepoint": lambda db: db.savepoint(),
    "manual_commit": lambda db: db.manual_commit().__enter__(),
    "connection_context": lambda db: db.connection_context().__enter__(),
    "with db": lambda db: db.__enter__(),
    "connect": lambda db: db.connect(),
    "close": lambda db: db.close(),
    "create_tables": lambda db: db.create_tables([Document]),
    "create_table": lambda db: Document.create_table(),
    "get_tables": lambda db: db.get_tables(),
    "retry": lambda db: count_documents(),
}


@pytest.mark.parametrize("use", USES.values(), ids=USES)
def test_before_any_app_is_known_whatever_is_asked_says_what_to_do(use: Any) -> None:
    with pytest.raises(peewee.InterfaceError, match=r"no database is configured.*databases\.scope\(\)"):
        use(early)


def test_a_fallback_that_fails_is_told_of() -> None:
    def settings() -> Databases:
        raise AttributeError("no such setting")

    with pytest.raises(ScopeError, match="no such setting"):
        ScopedDatabase(fallback=settings).execute_sql("SELECT 1")


def test_a_model_that_was_declared_before_works_in_the_app(files: Databases) -> None:
    with files.scope():
        assert works()


def test_a_model_that_is_declared_within_a_scope_works_outside_it(files: Databases) -> None:
    scoped = ScopedDatabase()
    with files.scope():

        class Late(scoped.Model):  # type: ignore[misc, name-defined]
            data = peewee.JSONField()

        Late.create_table()
    with files.scope():
        Late.create(data=[1])
        assert Late.get().data == [1]


def test_a_model_that_is_bound_before_works_in_the_app(files: Databases) -> None:
    Loose = unbound()
    ScopedDatabase().bind([Loose])
    with files.scope():
        Loose.create_table()
        Loose.create(text="x", data=[1])
        assert Loose.get().data == [1]


def test_a_function_that_is_decorated_with_retry_before_is_run_in_the_app(files: Databases) -> None:
    with files.scope():
        assert count_documents() == 0


def test_a_coroutine_function_that_is_decorated_with_retry_before_is_run_in_the_app(files: Databases) -> None:
    async def serve() -> int:
        async with files.scope():
            return await count_documents_async()

    assert asyncio.run(serve()) == 0


def test_a_function_that_is_decorated_with_retry_before_is_run_again(files: Databases) -> None:
    failures: list[Exception] = [ConnectionLost("the server was restarted")]
    with files.scope():
        assert fail_once(failures) == 0
    assert failures == []


def test_a_function_that_is_decorated_with_retry_is_refused_within_a_transaction(files: Databases) -> None:
    with files.scope(), early.atomic(), pytest.raises(ScopeError, match="retry inside a transaction"):
        count_documents()


@pytest.mark.parametrize("kind", [lambda database: database, ReplicatedDatabase], ids=["plain", "replicated"])
def test_a_function_that_is_decorated_with_retry_is_refused_in_an_atomic_scope(files: Databases, kind: Any) -> None:
    databases = Databases(kind(files.default), atomic=True)
    with databases.scope(), pytest.raises(ScopeError, match="retry inside a transaction"):
        count_documents()


@pytest.mark.parametrize("kind", [peewee.SqliteDatabase, PooledSqliteDatabase])
def test_a_database_may_be_named_later(kind: Any, tmp_path: Path) -> None:
    deferred = kind(None)
    databases = Databases(deferred)
    with databases.scope(), pytest.raises(peewee.InterfaceError, match=r"call its init\(\)"):
        early.connect()
    deferred.init(str(tmp_path / "named.db"))
    with databases.scope():
        early.create_tables([Document])
        assert works()
    databases.close()


def test_a_proxy_that_is_given_for_a_database_has_to_have_one() -> None:
    with pytest.raises(ValueError, match=r"has no database yet: call its initialize\(\) first"):
        Databases(peewee.DatabaseProxy())


def test_a_scoped_database_that_is_given_for_a_database_leads_to_it_with_its_replicas(files: Databases) -> None:
    replicated = ReplicatedDatabase(files.default)
    with Databases(replicated).scope():
        assert Databases(early).default is replicated


# One model in databases of several kinds.


@pytest.fixture
def served(served: Served) -> Served:
    if served.driver == "pymysql":
        served.database.mariadb = True  # Peewee has to be told, and writes JSON for MySQL else
    return served


def test_a_model_works_in_apps_on_databases_of_two_kinds(served: Served, files: Databases) -> None:
    other = Databases(served.database)
    with other.scope():
        early.create_tables([Document])
        assert works()
        with files.scope():
            assert works()
        assert works({"key": 2}), "back in the first"
        early.drop_tables([Document])


def test_a_model_that_is_declared_in_one_app_works_in_another_on_another_kind(served: Served, files: Databases) -> None:
    scoped = ScopedDatabase()
    with Databases(served.database).scope():

        class Late(scoped.Model):  # type: ignore[misc, name-defined]
            data = peewee.JSONField()
            body = peewee.BlobField()

        Late.create_table()
        with files.scope():
            Late.create_table()
            Late.create(data=[1], body=b"\x00")
            assert (Late.get().data, bytes(Late.get().body)) == ([1], b"\x00")
        Late.drop_table()


def test_the_json_of_playhouse_works_through_each_driver(postgres: Any) -> None:
    scoped = ScopedDatabase()

    class Late(scoped.Model):  # type: ignore[misc, name-defined]
        data = playhouse.postgres_ext.JSONField(dumps=lambda value: json.dumps([value]))

    for suffix in ("", "?prefer_psycopg3=true", ""):
        databases = Databases(postgres.url() + suffix)
        with databases.scope():
            Late.create_table()
            Late.create(data={"key": 1})
            found = Late.get().data
            Late.drop_table()
        databases.close()
        assert found == [{"key": 1}]


def test_a_model_that_is_bound_to_another_kind_for_a_test_works_there(served: Served, files: Databases) -> None:
    with files.scope():
        assert works()
        with served.database.bind_ctx([Document]):
            served.database.create_tables([Document])
            assert works()
            served.database.drop_tables([Document])
        assert works({"key": 2}), "as before"


def test_a_model_switches_with_using(served: Served, files: Databases) -> None:
    with files.scope():
        assert works()
        with using(served.database, [Document]):
            Document.create_table()
            assert works()
            Document.drop_table()
        assert works({"key": 2}), "as before"
    with Databases(served.database).scope():
        Document.create_table()
        assert works()
        Document.drop_table()


def test_a_model_that_switched_with_using_before_it_was_bound_works_in_the_app(files: Databases) -> None:
    Loose, scoped = unbound(), ScopedDatabase()
    with files.scope(), using(files.default, [Loose]):
        Loose.create_table()
        Loose.create(text="x", data=[1])
    scoped.bind([Loose])
    with files.scope():
        Loose.create(text="y", data=[2])
        with using(files.default, [Loose]):
            assert sorted(row.data for row in Loose.select()) == [[1], [2]]


@contextlib.contextmanager
def in_using(database: Any, Model: Any) -> Iterator[None]:
    with peewee_web.scope(), using(database, [Model]):
        yield


@contextlib.contextmanager
def in_app(database: Any, Model: Any) -> Iterator[None]:
    with Databases(database).scope():
        yield


def comes_back(Model: Any) -> bool:
    """Whether a row with fields of each kind comes back from where this code runs as it was saved."""
    Model.create_table()
    Model.create(data={"key": [1, None]}, body=b"\x00\xff")
    found = Model.select().where(Model.data["key"] == [1, None]).get()
    Model.drop_table()
    return (found.data, bytes(found.body)) == ({"key": [1, None]}, b"\x00\xff")


def is_told_of_none(Model: Any) -> bool:
    return type(Model.data.db_value([1])) is list and type(Model.body.db_value(b"x")) is bytearray


def test_a_field_that_follows_using_follows_the_app_when_its_model_is_bound_later(
    served: Served, files: Databases
) -> None:
    class Loose(peewee.Model):
        data = peewee.JSONField()
        body = peewee.BlobField()

    for database in (served.database, files.default):
        with in_using(database, Loose):
            assert comes_back(Loose)
    assert is_told_of_none(Loose)
    Loose.bind(ScopedDatabase())
    assert is_told_of_none(Loose)
    for way in (in_app, in_using, in_app):
        for database in (served.database, files.default):
            with way(database, Loose):
                assert comes_back(Loose)
    assert is_told_of_none(Loose)


def test_a_field_that_follows_the_app_follows_using_later(served: Served, files: Databases) -> None:
    scoped = ScopedDatabase()

    class Late(scoped.Model):  # type: ignore[misc, name-defined]
        data = peewee.JSONField()
        body = peewee.BlobField()

    assert is_told_of_none(Late)
    for way in (in_app, in_using, in_app):
        for database in (served.database, files.default):
            with way(database, Late):
                assert comes_back(Late)
    with files.scope(), in_using(served.database, Late):
        assert comes_back(Late), "in an app that lives elsewhere"
    Late.bind(None)
    assert is_told_of_none(Late)
    with in_using(files.default, Late):
        assert comes_back(Late), "bound to nothing any more"


def test_what_the_app_has_told_the_fields_holds_outside_any_scope(files: Databases) -> None:
    """As where an expression is built when a module is imported."""
    scoped = ScopedDatabase(fallback=lambda: None)

    class Late(scoped.Model):  # type: ignore[misc, name-defined]
        data = peewee.JSONField()

    scoped.initialize(files.default)
    outside = Late.data["key"] == 1
    with files.scope():
        Late.create_table()
        Late.create(data={"key": 1})
        assert Late.select().where(outside).exists()


def test_a_field_keeps_no_database_of_before(tmp_path: Path) -> None:
    """Else tenants that come and go would be kept forever."""
    databases = [peewee.SqliteDatabase(str(tmp_path / f"{number}.db")) for number in range(3)]
    gone = [weakref.ref(database) for database in databases]
    while databases:
        with Databases(databases.pop()).scope():
            assert Document.data.db_value([1]) is not None
    gc.collect()
    assert sum(reference() is not None for reference in gone) <= 1


def test_a_field_that_keeps_itself_keeps_no_database_of_before(tmp_path: Path) -> None:
    """Its hook runs on a copy, which has what the field had."""

    class Kept(peewee.FieldDatabaseHook, peewee.TextField):  # type: ignore[misc]
        def _db_hook(self, database: Any) -> None:
            self.read = self.db_value

    scoped = ScopedDatabase()

    class Late(scoped.Model):  # type: ignore[misc, name-defined]
        text = Kept()

    databases = [peewee.SqliteDatabase(str(tmp_path / f"{number}.db")) for number in range(3)]
    gone = [weakref.ref(database) for database in databases]
    while databases:
        with Databases(databases.pop()).scope():
            assert Late.text.read("x") == "x"
    gc.collect()
    assert sum(reference() is not None for reference in gone) <= 1


def test_a_field_of_a_users_own_follows_the_database_too(first: Databases) -> None:
    class Named(peewee.FieldDatabaseHook, peewee.TextField):  # type: ignore[misc]
        def _db_hook(self, database: Any) -> None:
            self.where = None if database is None else database.database

    scoped = ScopedDatabase()

    class Late(scoped.Model):  # type: ignore[misc, name-defined]
        text = Named()

    assert Late.text.where is None
    with first.scope():
        assert Late.text.where == first["default"].database
    assert type(Late.text).__name__ == "Named"


# Two apps at once.


def test_threads_of_two_apps_do_not_meet(first: Databases, second: Databases) -> None:
    both = threading.Barrier(2, timeout=PATIENCE)

    def serve(databases: Databases, text: str) -> set[str]:
        seen: set[str] = set()
        for _ in range(20):
            with databases.scope():
                both.wait()
                Note.create(text=text)
                both.wait()
                seen.update(texts())
        return seen

    threads = [Working(contextvars.Context(), partial(serve, *app)) for app in ((first, "a"), (second, "b"))]
    assert [thread.result() for thread in threads] == [{"a"}, {"b"}]


def test_fifty_tasks_of_two_apps_do_not_meet(first: Databases, second: Databases) -> None:
    async def serve(databases: Databases, text: str) -> list[str]:
        async with databases.scope():
            Note.create(text=text)
            await asyncio.sleep(0)
            with reports.atomic():
                Report.create(text=text)
            await asyncio.sleep(0)
            return [*texts(), *(report.text for report in Report.select())]

    async def all_of_them() -> list[list[str]]:
        return await asyncio.gather(*(serve(*((first, "a"), (second, "b"))[number % 2]) for number in range(50)))

    seen = asyncio.run(all_of_them())
    assert [set(each) for each in seen] == [{"a"}, {"b"}] * 25


def test_fifty_tasks_of_two_apps_have_fields_of_their_own_kind(served: Served, files: Databases) -> None:
    apps = [Databases(served.database), files]
    with apps[0].scope():
        early.create_tables([Document])

    async def serve(number: int) -> bool:
        async with apps[number % 2].scope():
            Document.select().count()
            await asyncio.sleep(0)
            worked = works({"key": number})
        await asyncio.sleep(0)
        return worked

    async def all_of_them() -> list[bool]:
        results = []
        for first in range(0, 50, 4):  # as many at once as the pool has
            results += await asyncio.gather(*map(serve, range(first, min(first + 4, 50))))
        return results

    assert all(asyncio.run(all_of_them()))
    with apps[0].scope():
        early.drop_tables([Document])


def test_a_connection_block_of_one_app_leaves_that_of_another_open(first: Databases, second: Databases) -> None:
    with first.scope(), proxy.connection_context():
        with second.scope():
            with proxy.connection_context():
                Note.create(text="x")
            assert proxy.is_closed()
        assert not proxy.is_closed()


def test_a_transaction_of_one_app_is_none_of_anothers(first: Databases, second: Databases) -> None:
    with first.scope(), proxy.atomic(), second.scope():
        assert not proxy.in_transaction()
