"""``using()``: models on another database, for a block and in this context only."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import copy
import functools
import gc
import inspect
import random
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import peewee
import playhouse.postgres_ext
import playhouse.shortcuts
import playhouse.signals
import pytest

import peewee_web
from peewee_web import Databases, PooledSqliteDatabase, ScopedDatabase
from peewee_web.core.using import using
from tests.core.working import PATIENCE, Working, in_thread, in_use

TABLES = (
    'CREATE TABLE "user" (id INTEGER PRIMARY KEY, name VARCHAR(99) UNIQUE)',
    'CREATE TABLE "tweet" (id INTEGER PRIMARY KEY, user_id INTEGER, text VARCHAR(99))',
)


@pytest.fixture
def databases(tmp_path: Path) -> Iterator[dict[str, Any]]:
    """``own``, ``a`` and ``b``, each with a user of its name who has tweeted it."""
    databases = {
        name: PooledSqliteDatabase(str(tmp_path / f"{name}.db"), pragmas={"journal_mode": "wal"})
        for name in ("own", "a", "b")
    }
    for name, database in databases.items():
        with database.connection_context():
            for table in TABLES:
                database.execute_sql(table)
            database.execute_sql('INSERT INTO "user" VALUES (1, ?)', (name,))
            database.execute_sql('INSERT INTO "tweet" VALUES (1, 1, ?)', (name,))
    yield databases
    for database in databases.values():
        database.close_all()


@pytest.fixture
def own(databases: dict[str, Any]) -> Any:
    return databases["own"]


@pytest.fixture
def a(databases: dict[str, Any]) -> Any:
    return databases["a"]


@pytest.fixture
def b(databases: dict[str, Any]) -> Any:
    return databases["b"]


def models(database: Any) -> tuple[Any, Any]:
    """A user and their tweets, new for each test: the first use of a model differs from the later ones."""

    class User(peewee.Model):
        name = peewee.CharField()

        class Meta:
            pass

    class Tweet(peewee.Model):
        user = peewee.ForeignKeyField(User, backref="tweets")
        text = peewee.CharField()

        class Meta:
            pass

    for model in (User, Tweet):
        model._meta.database = database  # type: ignore[attr-defined]
    return User, Tweet


@pytest.fixture
def User(own: Any) -> Any:
    return models(own)[0]


@pytest.fixture
def Tweet(User: Any) -> Any:
    [tweet] = User._meta.backrefs.values()
    return tweet


def names(model: Any) -> list[str]:
    """Whose rows a query finds: by them the databases are told apart."""
    return [user.name for user in model.select().order_by(model.name)]


def names_in(database: Any) -> list[str]:
    return [name for (name,) in database.execute_sql('SELECT name FROM "user" ORDER BY name').fetchall()]


# Which database a query goes to.


def test_queries_in_the_block_go_to_the_given_database(User: Any, a: Any) -> None:
    with using(a, [User]):
        assert names(User) == ["a"]


def test_queries_after_the_block_go_to_the_models_own_database(User: Any, a: Any) -> None:
    with using(a, [User]):
        names(User)
    assert names(User) == ["own"]


def test_an_exception_ends_the_switch_as_well(User: Any, a: Any) -> None:
    with contextlib.suppress(ZeroDivisionError), using(a, [User]):
        raise ZeroDivisionError
    assert names(User) == ["own"]


def test_the_block_has_the_database(User: Any, a: Any) -> None:
    with using(a, [User]) as database:
        assert database is a


WRITES: dict[str, Callable[[Any], Any]] = {
    "create": lambda User: User.create(name="x"),
    "save": lambda User: User(name="x").save(),
    "insert": lambda User: User.insert(name="x").execute(),
    "insert_many": lambda User: User.insert_many([{"name": "x"}]).execute(),
    "bulk_create": lambda User: User.bulk_create([User(name="x")]),
    "get_or_create": lambda User: User.get_or_create(name="x"),
    "update": lambda User: User.update(name="x").where(User.id == 1).execute(),
    "save_again": lambda User: User(id=1, name="x").save(),
    "bulk_update": lambda User: User.bulk_update([User(id=1, name="x")], [User.name]),
    "set_item": lambda User: User.__class__.__setitem__(User, 1, {"name": "x"}),
    "replace": lambda User: User.replace(id=1, name="x").execute(),
    "raw": lambda User: User.raw("INSERT INTO user VALUES (2, 'x')").execute(),
    "table": lambda User: User._meta.table.insert(name="x").execute(),
}


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_a_write_goes_to_the_given_database(write: Callable[[Any], Any], User: Any, a: Any) -> None:
    with using(a, [User]):
        write(User)
    assert "x" in names_in(a)


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_a_write_leaves_the_models_own_database_alone(write: Callable[[Any], Any], User: Any, own: Any, a: Any) -> None:
    with using(a, [User]):
        write(User)
    assert names_in(own) == ["own"]


READS: dict[str, Callable[[Any, Any], Any]] = {
    "get": lambda User, Tweet: User.get().name,
    "get_by_id": lambda User, Tweet: User.get_by_id(1).name,
    "scalar": lambda User, Tweet: User.select(User.name).scalar(),
    "raw": lambda User, Tweet: User.raw('SELECT * FROM "user"').get().name,
    "alias": lambda User, Tweet: User.alias().select().get().name,
    "table": lambda User, Tweet: User._meta.table.select().execute()[0]["name"],
    "union": lambda User, Tweet: (User.select() | User.select()).get().name,
    "cte": lambda User, Tweet: (lambda cte: cte.select_from(cte.c.name).scalar())(User.select().cte("x")),
    "join": lambda User, Tweet: Tweet.select(Tweet, User).join(User).get().user.name,
    "subquery": lambda User, Tweet: Tweet.get(Tweet.user.in_(User.select())).text,
    "reference": lambda User, Tweet: Tweet.get().user.name,
    "back_reference": lambda User, Tweet: User.get().tweets.get().text,
    "prefetch": lambda User, Tweet: peewee.prefetch(User.select(), Tweet)[0].tweets[0].text,
}


@pytest.mark.parametrize("read", READS.values(), ids=READS)
def test_a_read_goes_to_the_given_database(read: Callable[[Any, Any], Any], User: Any, Tweet: Any, a: Any) -> None:
    with using(a, [User]):
        assert read(User, Tweet) == "a"


@pytest.mark.parametrize("read", READS.values(), ids=READS)
def test_a_read_after_the_block_goes_to_the_models_own_database(
    read: Callable[[Any, Any], Any], User: Any, Tweet: Any, a: Any
) -> None:
    with using(a, [User]):
        read(User, Tweet)
    assert read(User, Tweet) == "own"


def test_what_is_not_found_raises_the_models_own_exception(User: Any, a: Any) -> None:
    with using(a, [User]), pytest.raises(User.DoesNotExist):
        User.get(User.name == "own")


def test_a_query_keeps_the_database_of_where_it_was_built(User: Any, a: Any) -> None:
    before = User.select(User.name)
    with using(a, [User]):
        built = User.select(User.name)
        assert before.scalar() == "own"
    assert built.scalar() == "a"


def test_a_transaction_of_the_database_covers_the_models_in_the_block(User: Any, a: Any) -> None:
    with using(a, [User]), a.atomic() as transaction:
        User.create(name="x")
        transaction.rollback()
    assert names_in(a) == ["a"]


def test_a_model_of_playhouse_signals_switches_and_signals(own: Any, a: Any) -> None:
    class User(playhouse.signals.Model):  # type: ignore[misc]
        name = peewee.CharField()

        class Meta:
            database = own

    seen = []

    def note(sender: Any, instance: Any, created: bool) -> None:
        seen.append(names_in(sender._meta.database))

    playhouse.signals.post_save.connect(note, sender=User)
    with using(a, [User]):
        User.create(name="x")
    playhouse.signals.post_save.disconnect(note, sender=User)
    assert seen == [["a", "x"]]


# Tables.


@pytest.fixture(params=["declared", "bound", "made with a schema manager's database"])
def Note(request: pytest.FixtureRequest, own: Any) -> Any:
    """A model without tables, whose schema manager has been told of its database or not."""

    class Note(peewee.Model):
        text = peewee.CharField(index=True)

        class Meta:
            database = own
            schema_options: Any = {"database": own} if request.param.startswith("made") else None

    if request.param == "bound":
        Note.bind(own)
    return Note


def test_a_table_is_created_in_the_given_database(Note: Any, own: Any, a: Any) -> None:
    with using(a, [Note]):
        Note.create_table()
    assert (own.table_exists("note"), a.table_exists("note")) == (False, True)


def test_a_table_is_dropped_in_the_given_database(Note: Any, own: Any, a: Any) -> None:
    for database in (own, a):
        database.execute_sql("CREATE TABLE note (id INTEGER, text TEXT)")
    with using(a, [Note]):
        Note.drop_table()
    assert (own.table_exists("note"), a.table_exists("note")) == (True, False)


def test_a_table_is_looked_for_in_the_given_database(Note: Any, a: Any) -> None:
    a.execute_sql("CREATE TABLE note (id INTEGER, text TEXT)")
    with using(a, [Note]):
        assert Note.table_exists()


def test_after_the_block_tables_are_the_models_own_databases_again(Note: Any, own: Any, a: Any) -> None:
    with using(a, [Note]):
        Note.table_exists()
    Note.create_table()
    assert (own.table_exists("note"), a.table_exists("note")) == (True, False)


def test_a_schema_manager_of_another_class_stays_one(own: Any, a: Any) -> None:
    class Manager(peewee.SchemaManager):
        pass

    class Note(peewee.Model):
        class Meta:
            database = own
            schema_manager_class = Manager

    with using(a, [Note]):
        assert isinstance(Note._schema, Manager)  # type: ignore[attr-defined]
        assert Note._schema.database is a


def test_a_table_that_is_renamed_in_the_block_has_its_new_name(User: Any, a: Any) -> None:
    a.execute_sql('ALTER TABLE "user" RENAME TO "person"')
    with using(a, [User]):
        names_before = User._meta.table.__name__
        User._meta.set_table_name("person")
        assert (names_before, names(User)) == ("user", ["a"])


# Related models.


def test_models_that_refer_to_the_model_switch_along(User: Any, Tweet: Any, a: Any) -> None:
    with using(a, [User]):
        assert Tweet.get().text == "a"


def test_models_that_the_model_refers_to_switch_along(User: Any, Tweet: Any, a: Any) -> None:
    with using(a, [Tweet]):
        assert names(User) == ["a"]


def test_models_that_refer_to_the_model_stay_if_asked(User: Any, Tweet: Any, a: Any) -> None:
    with using(a, [User], bind_backrefs=False):
        assert (names(User), Tweet.get().text) == (["a"], "own")


def test_models_that_the_model_refers_to_stay_if_asked(User: Any, Tweet: Any, a: Any) -> None:
    with using(a, [Tweet], bind_refs=False):
        assert (names(User), Tweet.get().text) == (["own"], "a")


def test_only_the_given_models_switch_if_asked(User: Any, Tweet: Any, a: Any) -> None:
    with using(a, [User], bind_refs=False, bind_backrefs=False):
        assert (names(User), Tweet.get().text) == (["a"], "own")


def test_models_related_through_others_switch_along(User: Any, Tweet: Any, own: Any, a: Any) -> None:
    class Like(peewee.Model):
        tweet = peewee.ForeignKeyField(Tweet)

        class Meta:
            database = own

    with using(a, [User]):
        assert Like._meta.database is a  # type: ignore[attr-defined]


def test_a_model_that_refers_to_itself_switches(own: Any, a: Any) -> None:
    class Node(peewee.Model):
        parent = peewee.ForeignKeyField("self", null=True, backref="children")

        class Meta:
            database = own

    with using(a, [Node]):
        Node.create_table()
        root = Node.create()
        Node.create(parent=root)
        assert [child.parent for child in root.children] == [root]


@pytest.mark.parametrize("backref", [None, "+"])
def test_the_model_between_two_switches_along(backref: str | None, own: Any, a: Any) -> None:
    class Tag(peewee.Model):
        class Meta:
            database = own

    class Note(peewee.Model):
        tags = peewee.ManyToManyField(Tag, backref=backref)

        class Meta:
            database = own

    with using(a, [Note]):
        a.create_tables([Note, Tag, Note.tags.get_through_model()])
        note = Note.create()
        note.tags.add(Tag.create())
        assert len(note.tags) == 1


def test_the_model_between_two_that_are_declared_in_the_block_is_not_switched(own: Any, a: Any) -> None:
    class Base(peewee.Model):
        class Meta:
            database = own

    with using(a, [Base]):

        class Tag(Base):
            pass

        class Note(Base):
            tags = peewee.ManyToManyField(Tag)

        assert Note.tags.get_through_model()._meta.database is own


# Blocks within blocks.


def test_the_inner_block_wins(User: Any, a: Any, b: Any) -> None:
    with using(a, [User]), using(b, [User]):
        assert names(User) == ["b"]


def test_after_the_inner_block_the_outer_one_holds_again(User: Any, a: Any, b: Any) -> None:
    with using(a, [User]):
        with using(b, [User]):
            pass
        assert names(User) == ["a"]


def test_the_outer_block_holds_for_the_models_that_the_inner_one_leaves_alone(
    User: Any, Tweet: Any, a: Any, b: Any
) -> None:
    with using(a, [User]), using(b, [Tweet], bind_refs=False):
        assert (names(User), Tweet.get().text) == (["a"], "b")


def test_one_may_be_entered_many_times(User: Any, a: Any) -> None:
    switch = using(a, [User])
    seen = []
    for _ in range(2):
        with switch:
            seen.append(names(User))
        seen.append(names(User))
    assert seen == [["a"], ["own"]] * 2


def test_one_may_be_entered_within_itself(User: Any, a: Any) -> None:
    switch = using(a, [User])
    with switch:
        with switch:
            pass
        assert names(User) == ["a"]
    assert names(User) == ["own"]


def test_threads_may_be_in_the_same_one(User: Any, a: Any) -> None:
    switch = using(a, [User])

    def work() -> list[str]:
        with switch:
            return names(User)

    with switch:
        assert in_thread(work) == ["a"]
        assert names(User) == ["a"]


def test_blocks_may_be_left_in_the_order_in_which_they_were_entered(User: Any, a: Any, b: Any) -> None:
    """As two generators do that a consumer advances by turns."""
    first, second = using(a, [User]), using(b, [User])
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert names(User) == ["b"]
    second.__exit__(None, None, None)
    assert names(User) == ["own"]


def test_a_block_that_is_left_in_another_context_leaves_that_one_as_it_is(User: Any, a: Any, b: Any) -> None:
    switch = using(a, [User])
    contextvars.copy_context().run(switch.__enter__)
    with using(b, [User]):
        switch.__exit__(None, None, None)
        assert names(User) == ["b"]


def test_a_coroutine_that_is_dropped_in_the_block_leaves_the_work_amid_which_it_is_closed_alone(
    User: Any, a: Any, b: Any
) -> None:
    class Pause:
        def __await__(self) -> Iterator[None]:
            yield

    async def work() -> None:
        async with using(a, [User]):
            await Pause()

    coroutine = work()
    contextvars.copy_context().run(coroutine.send, None)
    with using(b, [User]):
        coroutine.close()
        assert names(User) == ["b"]


def test_a_generator_that_is_closed_within_a_block_of_its_own_ends_it(User: Any, a: Any) -> None:
    def steps() -> Iterator[list[str]]:
        with using(a, [User]):
            yield names(User)

    generator = steps()
    next(generator)
    generator.close()  # type: ignore[attr-defined]
    assert names(User) == ["own"]


# Threads and tasks.


def test_other_threads_see_the_models_own_database(User: Any, a: Any) -> None:
    with using(a, [User]):
        assert in_thread(lambda: names(User)) == ["own"]


def test_a_thread_started_in_the_block_sees_the_models_own_database(User: Any, a: Any) -> None:
    seen = []
    with using(a, [User]):
        thread = threading.Thread(target=lambda: seen.append(names(User)))
        thread.start()
        thread.join()
    assert seen == [["own"]]


def test_a_worker_thread_that_was_given_the_context_is_in_the_block(User: Any, a: Any) -> None:
    async def work() -> list[str]:
        async with using(a, [User]):
            return await asyncio.to_thread(names, User)

    assert asyncio.run(work()) == ["a"]


def test_a_task_started_in_the_block_is_in_it(User: Any, a: Any) -> None:
    async def ask() -> list[str]:
        return names(User)

    async def work() -> list[str]:
        with using(a, [User]):
            return await asyncio.create_task(ask())

    assert asyncio.run(work()) == ["a"]


def test_a_task_started_in_the_block_is_in_it_after_the_block_as_well(User: Any, a: Any) -> None:
    async def ask(ended: asyncio.Event) -> list[str]:
        await ended.wait()
        return names(User)

    async def work() -> list[str]:
        ended = asyncio.Event()
        with using(a, [User]):
            task = asyncio.create_task(ask(ended))
        ended.set()
        return await task

    assert asyncio.run(work()) == ["a"]


def test_other_tasks_see_the_models_own_database(User: Any, a: Any) -> None:
    async def ask(entered: asyncio.Event, asked: asyncio.Event) -> list[str]:
        await entered.wait()
        found = names(User)
        asked.set()
        return found

    async def work() -> list[str]:
        entered, asked = asyncio.Event(), asyncio.Event()
        task = asyncio.create_task(ask(entered, asked))
        with using(a, [User]):
            entered.set()
            await asked.wait()
        return await task

    assert asyncio.run(work()) == ["own"]


@pytest.fixture
def four(tmp_path: Path) -> Iterator[list[Any]]:
    four = [peewee_web.connect(f"sqlite:///{tmp_path}/{number}.db", max_connections=40) for number in range(4)]
    for database in four:
        with database.connection_context():
            for table in TABLES:
                database.execute_sql(table)
    yield four
    left = sum(in_use(database) for database in four)
    for database in four:
        database.close_all()
    assert left == 0


class Writer:
    """Writes rows of its own to databases chosen at random, and compares what it then reads with what it wrote."""

    def __init__(self, number: int, User: Any, databases: list[Any]) -> None:
        self._random = random.Random(number)
        self._number = number
        self._User = User
        self._written: dict[Any, list[str]] = {database: [] for database in databases}

    def choose(self) -> Any:
        return self._random.choice(list(self._written))

    def write(self, database: Any) -> None:
        name = f"{self._number}-{len(self._written[database])}"
        self._User.create(name=name)
        self._written[database].append(name)

    def check(self, database: Any) -> None:
        User = self._User
        found = User.select().where(User.name.startswith(f"{self._number}-")).order_by(User.id)
        assert [user.name for user in found] == self._written[database]


def test_sixteen_threads_that_switch_at_random_read_their_own_rows(User: Any, four: list[Any]) -> None:
    def work(writer: Writer) -> None:
        for _ in range(15):
            outer, inner = writer.choose(), writer.choose()
            with peewee_web.scope(), using(outer, [User]):
                writer.write(outer)
                with using(inner, [User]):
                    writer.write(inner)
                    writer.check(inner)
                writer.check(outer)

    writers = [Writer(number, User, four) for number in range(16)]
    for thread in [Working(contextvars.Context(), functools.partial(work, writer)) for writer in writers]:
        thread.result()
    assert names(User) == ["own"]


def test_two_hundred_tasks_that_switch_at_random_read_their_own_rows(User: Any, four: list[Any]) -> None:
    def step(what: Callable[[Any], None], database: Any) -> None:
        with peewee_web.scope():
            what(database)

    async def work(writer: Writer, places: asyncio.Semaphore) -> None:
        for turn in range(2):
            outer, inner = writer.choose(), writer.choose()
            async with using(outer, [User]):
                step(writer.write, outer)
                await asyncio.sleep(0)
                async with using(inner, [User]):
                    if turn:
                        async with places:
                            await asyncio.to_thread(step, writer.write, inner)
                    else:
                        step(writer.write, inner)
                    await asyncio.sleep(0)
                    step(writer.check, inner)
                await asyncio.sleep(0)
                step(writer.check, outer)

    async def all_of_them() -> None:
        places = asyncio.Semaphore(8)
        await asyncio.gather(*(work(Writer(number, User, four), places) for number in range(200)))

    asyncio.run(all_of_them())
    assert names(User) == ["own"]


def test_a_model_that_is_first_used_by_many_threads_at_once_switches_in_each(own: Any, four: list[Any]) -> None:
    for _ in range(20):
        User, _ = models(own)
        start = threading.Barrier(8)

        def work(number: int, User: Any = User, start: threading.Barrier = start) -> bool:
            start.wait(PATIENCE)
            with using(four[number % 4], [User]):
                return User._meta.database is User._schema.database is four[number % 4]

        threads = [Working(contextvars.Context(), functools.partial(work, number)) for number in range(8)]
        assert all(thread.result() for thread in threads)


# What stays as it was.


def test_a_model_that_was_never_switched_is_not_touched(User: Any, own: Any, a: Any) -> None:
    class Other(peewee.Model):
        class Meta:
            database = own

    with using(a, [User]):
        pass
    assert type(Other._meta) is peewee.Metadata  # type: ignore[attr-defined]
    assert type(Other._schema) is peewee.SchemaManager  # type: ignore[attr-defined]


def test_the_models_metadata_is_of_its_class_as_before(own: Any, a: Any) -> None:
    class Aware(peewee.SubclassAwareMetadata):
        pass

    class User(peewee.Model):
        name = peewee.CharField()

        class Meta:
            database = own
            model_metadata_class = Aware

    with using(a, [User]):
        assert isinstance(User._meta, Aware)  # type: ignore[attr-defined]
        assert names(User) == ["a"]


def test_a_table_that_is_first_asked_for_in_the_block_is_of_the_models_own_database_after_it(
    User: Any, own: Any, a: Any
) -> None:
    with using(a, [User]):
        User._meta.schema = None  # a new table is made
        table = User._meta.table
        assert table._database is a
    assert table._database is own


def test_a_table_that_was_bound_elsewhere_on_purpose_is_there_after_the_block(User: Any, a: Any, b: Any) -> None:
    with using(a, [User]):
        User._meta.table  # noqa: B018
    User._meta.table.bind(b)
    with using(a, [User]):
        assert User._meta.table.select().execute()[0]["name"] == "a"
    assert User._meta.table.select().execute()[0]["name"] == "b"


def test_a_class_declared_in_the_block_inherits_the_models_own_database(User: Any, own: Any, a: Any) -> None:
    with using(a, [User]):

        class Member(User):  # type: ignore[misc]
            pass

        assert Member._meta.database is own


def test_a_class_declared_in_the_block_can_be_switched_itself(User: Any, own: Any, a: Any) -> None:
    with using(a, [User]):

        class Member(User):  # type: ignore[misc]
            class Meta:
                table_name = "user"

        with using(a, [Member]):
            assert names(Member) == ["a"]
    assert names(Member) == ["own"]


# Binding.


def test_a_model_that_is_bound_after_the_block_lives_there(User: Any, a: Any, b: Any) -> None:
    with using(a, [User]):
        pass
    User.bind(b)
    assert names(User) == ["b"]


def test_a_model_that_another_thread_binds_stays_switched_in_the_block(User: Any, a: Any, b: Any) -> None:
    with using(a, [User]):
        in_thread(lambda: User.bind(b))
        assert names(User) == ["a"]
    assert names(User) == ["b"]


def test_binding_in_the_block_holds_for_the_rest_of_it(User: Any, a: Any, b: Any) -> None:
    with using(a, [User]):
        User.bind(b)
        assert names(User) == ["b"]
    assert names(User) == ["own"]


def test_binding_in_the_block_binds_the_tables_too(User: Any, a: Any, b: Any) -> None:
    with using(a, [User]):
        User.bind(b)
        assert User._schema.database is b
        assert User._meta.table._database is b


def test_binding_in_the_block_is_not_seen_by_other_threads(User: Any, a: Any, b: Any) -> None:
    with using(a, [User]):
        User.bind(b)
        assert in_thread(lambda: names(User)) == ["own"]


def test_binding_in_a_task_is_not_seen_by_the_block_it_was_started_in(User: Any, a: Any, b: Any) -> None:
    async def bind() -> None:
        User.bind(b)

    async def work() -> list[str]:
        with using(a, [User]):
            await asyncio.create_task(bind())
            return names(User)

    assert asyncio.run(work()) == ["a"]


def test_peewees_bind_ctx_works_in_the_block(User: Any, a: Any, b: Any) -> None:
    with using(a, [User]):
        with b.bind_ctx([User]):
            assert names(User) == ["b"]
        assert names(User) == ["a"]
    assert names(User) == ["own"]


def test_peewees_bind_ctx_of_a_table_works_in_the_block(User: Any, own: Any, a: Any, b: Any) -> None:
    with using(a, [User]):
        table = User._meta.table
        with table.bind_ctx(b):
            assert table.select().execute()[0]["name"] == "b"
        assert table.select().execute()[0]["name"] == "a"
    assert table.select().execute()[0]["name"] == "own"


def test_the_block_works_in_peewees_bind_ctx(User: Any, a: Any, b: Any) -> None:
    with b.bind_ctx([User]):
        with using(a, [User]):
            assert names(User) == ["a"]
        assert names(User) == ["b"]
    assert names(User) == ["own"]


def test_two_tasks_may_use_peewees_bind_ctx_in_blocks_of_theirs(User: Any, own: Any, a: Any, b: Any) -> None:
    async def work(first: Any, second: Any) -> list[list[str]]:
        seen = []
        with using(first, [User]):
            with second.bind_ctx([User]):
                await asyncio.sleep(0)
                seen.append(names(User))
            await asyncio.sleep(0)
            seen.append(names(User))
        return seen

    async def both() -> Any:
        return await asyncio.gather(work(a, b), work(b, a))

    assert asyncio.run(both()) == [[["b"], ["a"]], [["a"], ["b"]]]
    assert names(User) == ["own"]


# Fields that depend on the kind of database.


def documents(database: Any, field: Any) -> Any:
    class Document(peewee.Model):
        data = field

        class Meta:
            pass

    Document._meta.database = database  # type: ignore[attr-defined]
    return Document


VALUES = {"json": (peewee.JSONField, {"key": [1, None]}), "blob": (peewee.BlobField, b"\x00\xff")}
on_values = pytest.mark.parametrize(("field", "value"), VALUES.values(), ids=VALUES)


@on_values
@pytest.mark.parametrize("own", [None, ScopedDatabase()])
def test_a_field_of_a_model_without_a_database_works_in_the_block(own: Any, field: Any, value: Any, a: Any) -> None:
    Document = documents(own, field())
    with using(a, [Document]):
        Document.create_table()
        Document.create(data=value)
        assert Document.get().data == value


def test_a_field_is_as_before_outside_the_block(a: Any) -> None:
    Document = documents(None, peewee.JSONField())
    with using(a, [Document]):
        Document.data.db_value([1])
    assert type(Document.data.db_value([1])) is list  # not compared: SQL's == is true


def test_a_field_of_a_model_that_is_bound_later_is_that_databases(a: Any, b: Any) -> None:
    Document = documents(None, peewee.JSONField())
    with using(a, [Document]):
        Document.data.db_value([1])
    Document.bind(b)
    Document.create_table()
    Document.create(data=[1])
    assert Document.get().data == [1]


def test_a_field_of_a_model_whose_proxy_is_initialized_later_is_that_databases(a: Any, b: Any) -> None:
    proxy = peewee.DatabaseProxy()

    class Document(peewee.Model):
        data = peewee.JSONField()

        class Meta:
            database = proxy

    with using(a, [Document]):
        proxy.initialize(b)
    Document.create_table()
    Document.create(data=[1])
    assert Document.get().data == [1]


@on_values
def test_a_field_of_an_alias_works_in_the_block(field: Any, value: Any, a: Any) -> None:
    Document = documents(None, field())
    with using(a, [Document]):
        Document.create_table()
        Document.create(data=value)
        alias = Document.alias()
        assert alias.select().where(alias.data == value).get().data == value


def test_a_field_whose_alias_was_used_in_the_block_is_as_before_outside(a: Any) -> None:
    Document = documents(None, peewee.BlobField())
    with using(a, [Document]):
        alias = Document.alias()
        assert alias.data._constructor is memoryview
    assert alias.data._constructor is Document.data._constructor is bytearray


def test_a_path_into_a_field_of_an_alias_works_in_the_block(a: Any) -> None:
    Document = documents(None, peewee.JSONField())
    with using(a, [Document]):
        Document.create_table()
        Document.create(data={"key": 1})
        alias = Document.alias()
        assert alias.select().where(alias.data["key"] == 1).exists()


def test_binding_in_the_block_leaves_the_field_as_it_is_outside(a: Any, b: Any) -> None:
    Document = documents(None, peewee.JSONField())
    with using(a, [Document]):
        Document.bind(b)
    assert type(Document.data.db_value([1])) is list  # not compared: SQL's == is true


def test_a_field_that_is_inherited_by_a_class_declared_in_the_block_is_that_classs_own(a: Any) -> None:
    Document = documents(None, peewee.JSONField())
    with using(a, [Document]):
        Document.data.db_value([1])

        class Letter(Document):  # type: ignore[misc]
            pass

        assert type(Letter.data.db_value([1])) is list  # it has no database
        with using(a, [Letter]):
            assert isinstance(Letter.data.db_value([1]), peewee.Function)


def test_a_copied_field_works_as_the_field_does(a: Any) -> None:
    Document = documents(None, peewee.BlobField())
    with using(a, [Document]):
        assert copy.copy(Document.data).db_value(b"x") == Document.data.db_value(b"x")


@on_values
def test_one_model_may_be_in_databases_of_two_kinds_at_once(field: Any, value: Any, postgres: Any, a: Any) -> None:
    Document = documents(None, field())
    served = peewee_web.connect(postgres.url())
    with peewee_web.scope(), using(served, [Document]):
        Document.create_table()
        Document.create(data=value)
        with using(a, [Document]):
            Document.create_table()
            Document.create(data=value)
            assert Document.get().data == value
        found = Document.get().data
        Document.drop_table()
    served.close_all()
    assert (bytes(found) if isinstance(value, bytes) else found) == value


PG_FIELDS = {**VALUES, "playhouse json": (playhouse.postgres_ext.JSONField, {"key": [1, None]})}


@pytest.mark.parametrize(("field", "value"), PG_FIELDS.values(), ids=PG_FIELDS)
def test_one_model_may_be_reached_through_two_drivers(field: Any, value: Any, postgres: Any) -> None:
    drivers = [peewee_web.connect(f"{postgres.url()}{suffix}") for suffix in ("", "?prefer_psycopg3=true")]
    Document = documents(drivers[0], field())
    with peewee_web.scope(), using(drivers[1], [Document]):
        Document.create_table()
        Document.create(data=value)
        found = Document.get().data
        Document.drop_table()
    for driver in drivers:
        driver.close_all()
    assert (bytes(found) if isinstance(value, bytes) else found) == value


def test_a_database_may_be_given_another_driver_between_two_blocks() -> None:
    deferred = peewee.PostgresqlDatabase(None)
    Document = documents(None, peewee.BlobField())
    seen = []
    for preferred in (False, True):
        deferred.init("notes", prefer_psycopg3=preferred)
        with using(deferred, [Document]):
            seen.append(type(Document.data.db_value(b"x")).__module__.partition(".")[0])
    assert seen == ["psycopg2", "psycopg"]


class Placed(peewee.FieldDatabaseHook, peewee.TextField):  # type: ignore[misc]
    """A user's own, which sets nothing where there is no database."""

    def _db_hook(self, database: Any) -> None:
        if database is not None:
            self.place = database.database


def test_a_proxy_is_given_to_the_field_as_the_database_behind_it(a: Any) -> None:
    class Choosy(Placed):
        def _db_hook(self, database: Any) -> None:
            super()._db_hook(database if isinstance(database, peewee.SqliteDatabase) else None)

    Document = documents(None, Choosy())
    proxy = peewee.DatabaseProxy()
    proxy.initialize(a)
    with using(proxy, [Document]):
        assert Document.data.place == a.database


def test_a_field_is_told_of_a_database_once_and_not_at_each_use(a: Any) -> None:
    told = []

    class Noting(Placed):
        def _db_hook(self, database: Any) -> None:
            told.append(database)
            super()._db_hook(database)

    Document = documents(None, Noting())
    with using(a, [Document]):
        Document.data.place  # noqa: B018
        before = len(told)
        for _ in range(3):
            Document.data.place  # noqa: B018
    assert len(told) == before


def test_fields_that_follow_have_one_class_however_often_they_are_switched(a: Any, b: Any) -> None:
    class Local(Placed):
        pass

    kinds = set()
    for Document in (documents(None, Local()), documents(a, Local())):
        for database in (a, b, a):
            with using(database, [Document]):
                kinds.add(type(Document.data))
    [kind] = kinds
    assert (kind.__module__, kind.__qualname__) == (Local.__module__, Local.__qualname__)
    assert "place" in dict(inspect.getmembers(kind))


@pytest.mark.parametrize("own", [None, ScopedDatabase()])
def test_a_field_that_heeds_databases_only_works_in_the_block(own: Any, a: Any, b: Any) -> None:
    Document = documents(own, Placed())
    ScopedDatabase().bind([Document]) if own else None
    with using(a, [Document]):
        assert Document.data.place == a.database
        with using(b, [Document]):
            assert Document.alias().data.place == b.database


def test_a_field_that_heeds_databases_only_has_nothing_of_theirs_outside_the_block(a: Any) -> None:
    Document = documents(None, Placed())
    with using(a, [Document]):
        pass
    with pytest.raises(AttributeError, match="'Placed' object has no attribute 'place'"):
        Document.data.place  # noqa: B018


def test_a_field_whose_hook_takes_databases_only_works_in_the_block(own: Any, a: Any) -> None:
    class Strict(Placed):
        def _db_hook(self, database: Any) -> None:
            self.place = database.database

    class Document(own.Model):  # type: ignore[misc, name-defined]
        data = Strict()

    with using(a, [Document]):
        assert Document.data.place == a.database
    assert Document.data.place == own.database


# What the database may be given as.


def test_a_foreign_database_is_adopted(User: Any, tmp_path: Path) -> None:
    foreign = peewee.SqliteDatabase(str(tmp_path / "a.db"))
    with using(foreign, [User]), peewee_web.scope():
        User.select().count() if foreign.table_exists("user") else None
        assert in_use(foreign) == 1
    assert in_use(foreign) == 0


def test_a_name_means_the_database_of_the_current_scope(User: Any, own: Any, a: Any) -> None:
    with Databases({"default": own, "reports": a}).scope(), using("reports", [User]) as database:
        assert database is a
        assert names(User) == ["a"]


def test_a_name_means_another_database_in_another_scope(User: Any, own: Any, a: Any, b: Any) -> None:
    @using("reports", [User])
    def ask() -> list[str]:
        return names(User)

    seen = []
    for reports in (a, b):
        with Databases({"default": own, "reports": reports}).scope():
            seen.append(ask())
    assert seen == [["a"], ["b"]]


def test_a_name_may_be_another_database_in_an_inner_scope(User: Any, a: Any, b: Any) -> None:
    switch = using("reports", [User])
    with Databases({"reports": a}).scope(), switch:
        with Databases({"reports": b}).scope(), switch:
            assert names(User) == ["b"]
        assert names(User) == ["a"]


def test_default_is_the_only_database_whatever_its_name(User: Any, a: Any) -> None:
    with Databases({"notes": a}).scope(), using("default", [User]):
        assert names(User) == ["a"]


@pytest.mark.parametrize("kind", [peewee.Proxy, peewee.DatabaseProxy])
def test_a_proxy_means_its_database(kind: Any, User: Any, a: Any) -> None:
    proxy = kind()
    proxy.initialize(a)
    with using(proxy, [User]):
        assert names(User) == ["a"]


def test_a_scoped_database_means_the_one_of_the_current_scope(User: Any, own: Any, a: Any) -> None:
    with Databases({"default": own, "reports": a}).scope(), using(ScopedDatabase("reports"), [User]):
        assert names(User) == ["a"]


def test_a_proxy_may_be_initialized_after_using_was_called(User: Any, a: Any) -> None:
    proxy = peewee.DatabaseProxy()
    switch = using(proxy, [User])
    proxy.initialize(a)
    with switch:
        assert names(User) == ["a"]


def test_a_model_of_a_scoped_database_may_be_switched_outside_any_scope(a: Any) -> None:
    User, _ = models(ScopedDatabase())
    with using(a, [User]):
        assert names(User) == ["a"]


def test_a_models_scoped_database_is_not_asked_for(a: Any) -> None:
    """It may have yet to be chosen, and this may be how."""

    def fail() -> Databases:
        pytest.fail("asked for")

    User, _ = models(ScopedDatabase(fallback=fail))
    with using(a, [User]):
        assert names(User) == ["a"]


# Errors.


@pytest.mark.parametrize(
    ("database", "error", "message"),
    [
        ("postgresql://user:secret@host/name", ValueError, r"no URL: .*peewee_web\.connect\(\)"),
        (None, TypeError, r"NoneType is not a Peewee database"),
        (42, TypeError, r"int is not a Peewee database: give "),
        ([], TypeError, r"list is not a Peewee database: give "),
        (peewee.SqliteDatabase, TypeError, r"not a Peewee database: give "),
    ],
    ids=str,
)
def test_what_is_no_database_is_refused_at_once(database: Any, error: Any, message: str, User: Any) -> None:
    with pytest.raises(error, match=message):
        using(database, [User])


@pytest.mark.parametrize(
    ("models", "error", "message"),
    [
        ([], ValueError, r"no models: .*\[User, Tweet\]"),
        (42, TypeError, r"list of model classes.*not an object of int"),
        ("User", TypeError, r"list of model classes.*not an object of str"),
        (["User"], TypeError, r"an object of str is no model class"),
        ([int], TypeError, r"int is no model class"),
        ([peewee.Model], TypeError, r"Model is no model class"),
    ],
    ids=str,
)
def test_what_are_no_models_is_refused_at_once(models: Any, error: Any, message: str, a: Any) -> None:
    with pytest.raises(error, match=message):
        using(a, models)


def test_a_single_model_is_refused_without_a_query(User: Any, a: Any) -> None:
    """A model class can be iterated over: that reads its rows."""
    with pytest.raises(TypeError, match=r"list of model classes.*not User"):
        using(a, User)


def test_an_object_of_a_model_is_refused(User: Any, a: Any) -> None:
    with pytest.raises(TypeError, match=r"an object of User is no model class"):
        using(a, [User()])


def test_a_proxy_without_a_database_is_refused(User: Any) -> None:
    with pytest.raises(ValueError, match=r"no database yet: .*initialize\(\)"), using(peewee.DatabaseProxy(), [User]):
        pass


def test_a_scoped_database_without_a_scope_is_refused(User: Any) -> None:
    with pytest.raises(ValueError, match=r"no database yet: .*databases\.scope\(\)"), using(ScopedDatabase(), [User]):
        pass


@pytest.mark.parametrize("scope", [contextlib.nullcontext, peewee_web.scope])
def test_a_name_outside_a_scope_with_databases_is_refused(scope: Any, User: Any) -> None:
    with scope(), pytest.raises(ValueError, match=r"with databases\.scope\(\)"), using("reports", [User]):
        pass


def test_an_unknown_name_is_answered_with_those_there_are(User: Any, own: Any, a: Any) -> None:
    databases = Databases({"default": own, "reports": a})
    with databases.scope(), pytest.raises(ValueError, match=r"'default', 'reports'"), using("report", [User]):
        pass


@pytest.mark.parametrize("given", ["postgresql://user:secret@host/name", "host=h password=secret"])
def test_no_message_has_what_was_given_for_a_name(given: str, User: Any, a: Any) -> None:
    with Databases(a).scope(), pytest.raises(ValueError) as raised, using(given, [User]):  # noqa: PT011
        pass
    assert "secret" not in str(raised.value)


SERVED = {"PostgreSQL": peewee.PostgresqlDatabase, "MySQL": peewee.MySQLDatabase}


@pytest.mark.parametrize(("kind", "database"), SERVED.items(), ids=SERVED)
def test_a_database_of_another_kind_is_refused(kind: str, database: Any, a: Any) -> None:
    User, _ = models(database("postgresql://user:secret@host/name", password="secret"))
    with pytest.raises(TypeError) as raised, using(a, [User]):
        pass
    assert str(raised.value).startswith(f"User lives in {kind} and using() was given SQLite: ")
    assert "secret" not in str(raised.value)


def test_so_it_is_for_a_related_model(User: Any, Tweet: Any, a: Any) -> None:
    Tweet.bind(peewee.PostgresqlDatabase("x"), bind_refs=False)
    with pytest.raises(TypeError, match="Tweet lives in PostgreSQL"), using(a, [User]):
        pass


def test_after_such_an_error_nothing_is_switched(User: Any, Tweet: Any, a: Any) -> None:
    Tweet.bind(peewee.PostgresqlDatabase("x"), bind_refs=False)
    with contextlib.suppress(TypeError), using(a, [User]):
        pass
    assert names(User) == ["own"]


def test_the_models_own_database_counts_and_not_the_outer_blocks(a: Any) -> None:
    User, _ = models(None)
    with using(peewee.PostgresqlDatabase("x"), [User]), using(a, [User]):
        assert names(User) == ["a"]


@pytest.mark.parametrize("own", [None, peewee.Proxy(), peewee.DatabaseProxy(), ScopedDatabase()])
def test_a_model_without_a_database_takes_any(own: Any, a: Any) -> None:
    User, _ = models(own)
    with using(a, [User]):
        assert names(User) == ["a"]


def test_metadata_that_keeps_a_database_per_thread_is_refused(own: Any, a: Any) -> None:
    class User(peewee.Model):
        class Meta:
            database = own
            model_metadata_class = playhouse.shortcuts.ThreadSafeDatabaseMetadata

    with pytest.raises(TypeError, match=r"ThreadSafeDatabaseMetadata of User .*: leave it out"), using(a, [User]):
        pass


# As a decorator.


def test_a_function_runs_in_the_block(User: Any, a: Any) -> None:
    @using(a, [User])
    def ask() -> list[str]:
        return names(User)

    assert (ask(), names(User)) == (["a"], ["own"])


def test_a_function_may_call_itself(User: Any, a: Any) -> None:
    @using(a, [User])
    def ask(depth: int) -> list[list[str]]:
        return [*(ask(depth - 1) if depth else []), names(User)]

    assert (ask(2), names(User)) == ([["a"]] * 3, ["own"])


def test_a_coroutine_runs_in_the_block(User: Any, a: Any) -> None:
    @using(a, [User])
    async def ask() -> list[str]:
        await asyncio.sleep(0)
        return names(User)

    async def work() -> Any:
        return await ask(), names(User)

    assert asyncio.run(work()) == (["a"], ["own"])


async def _coroutine() -> None: ...
async def _asynchronous_generator() -> AsyncIterator[None]:
    yield


def _generator() -> Iterator[None]:
    yield


def _function() -> None: ...


KINDS = {
    _coroutine: inspect.iscoroutinefunction,
    _asynchronous_generator: inspect.isasyncgenfunction,
    _generator: inspect.isgeneratorfunction,
    _function: inspect.isfunction,
}


@pytest.mark.parametrize(("function", "is_kind"), KINDS.items(), ids=lambda each: each.__name__)
def test_what_is_decorated_keeps_its_kind_and_name(function: Any, is_kind: Any, User: Any, a: Any) -> None:
    decorated = using(a, [User])(function)
    assert (is_kind(decorated), decorated.__name__) == (True, function.__name__)


def test_each_step_of_a_generator_runs_in_the_block_and_the_consumer_does_not(User: Any, a: Any) -> None:
    @using(a, [User])
    def steps() -> Iterator[list[str]]:
        yield names(User)
        yield names(User)

    assert [(found, names(User)) for found in steps()] == [(["a"], ["own"])] * 2


def test_each_step_of_an_async_generator_runs_in_the_block_and_the_consumer_does_not(User: Any, a: Any) -> None:
    @using(a, [User])
    async def steps() -> AsyncIterator[list[str]]:
        yield names(User)
        await asyncio.sleep(0)
        yield names(User)

    async def work() -> list[Any]:
        return [(found, names(User)) async for found in steps()]

    assert asyncio.run(work()) == [(["a"], ["own"])] * 2


def test_a_generator_may_yield_within_a_block_of_its_own(User: Any, a: Any, b: Any) -> None:
    @using(a, [User])
    def steps() -> Iterator[list[str]]:
        with using(b, [User]):
            yield names(User)
            yield names(User)
        yield names(User)

    assert [(found, names(User)) for found in steps()] == [(["b"], ["own"]), (["b"], ["own"]), (["a"], ["own"])]


def test_a_generator_goes_on_in_its_block_in_any_thread(User: Any, a: Any, b: Any) -> None:
    @using(a, [User])
    def steps() -> Iterator[list[str]]:
        yield names(User)
        yield names(User)

    generator = steps()
    next(generator)
    with using(b, [User]):
        assert in_thread(lambda: next(generator)) == ["a"]
        assert names(User) == ["b"]


def test_two_runs_of_a_generator_may_take_turns(User: Any, a: Any) -> None:
    @using(a, [User])
    def steps() -> Iterator[list[str]]:
        yield names(User)
        yield names(User)

    assert [*zip(steps(), steps(), strict=True), names(User)] == [(["a"], ["a"]), (["a"], ["a"]), ["own"]]


def test_a_generator_takes_values_and_exceptions_and_returns(User: Any, a: Any) -> None:
    @using(a, [User])
    def talk() -> Any:
        heard = []
        try:
            heard.append((yield 1))
        except ZeroDivisionError:
            heard.append(names(User))
        heard.append((yield 2))
        return heard

    steps = talk()
    assert (next(steps), steps.throw(ZeroDivisionError())) == (1, 2)
    with pytest.raises(StopIteration) as stop:
        steps.send("sent")
    assert stop.value.value == [["a"], "sent"]


def test_an_async_generator_takes_values_and_exceptions(User: Any, a: Any) -> None:
    @using(a, [User])
    async def talk() -> Any:
        try:
            yield 1
        except ZeroDivisionError:
            heard = yield names(User)
        yield heard

    async def work() -> list[Any]:
        steps = talk()
        return [await steps.asend(None), await steps.athrow(ZeroDivisionError()), await steps.asend("sent")]

    assert asyncio.run(work()) == [1, ["a"], "sent"]


def test_a_generator_that_is_closed_or_dropped_runs_its_finally_in_the_block(User: Any, a: Any) -> None:
    seen = []

    @using(a, [User])
    def steps() -> Iterator[None]:
        try:
            yield
        finally:
            seen.append(names(User))

    for _ in steps():
        break
    gc.collect()
    assert (seen, names(User)) == ([["a"]], ["own"])


@pytest.mark.parametrize("closed", [True, False], ids=["closed", "dropped"])
def test_an_async_generator_that_is_closed_or_dropped_runs_its_finally_in_the_block(
    closed: bool, User: Any, a: Any
) -> None:
    seen = []
    done = asyncio.Event()

    @using(a, [User])
    async def steps() -> Any:
        try:
            yield
        finally:
            seen.append(names(User))
            done.set()

    async def work() -> None:
        generator = steps()
        await generator.__anext__()
        if closed:
            await generator.aclose()
        del generator
        gc.collect()
        await asyncio.wait_for(done.wait(), 10)

    asyncio.run(work())
    assert seen == [["a"]]


def test_the_exception_of_an_async_generator_comes_through_as_it_is(User: Any, a: Any) -> None:
    error = ZeroDivisionError()

    @contextlib.asynccontextmanager
    @using(a, [User])
    async def job() -> AsyncIterator[None]:
        yield

    async def work() -> None:
        async with job():
            raise error

    with pytest.raises(ZeroDivisionError) as raised:
        asyncio.run(work())
    assert raised.value is error
    assert error.__context__ is None


def test_a_context_manager_made_of_a_generator_works(User: Any, a: Any) -> None:
    @contextlib.contextmanager
    @using(a, [User])
    def job() -> Iterator[list[str]]:
        yield names(User)

    with job() as found:
        assert (found, names(User)) == (["a"], ["own"])


def test_a_step_that_is_dropped_leaves_the_work_amid_which_it_is_closed_alone(User: Any, a: Any, b: Any) -> None:
    class Pause:
        def __await__(self) -> Iterator[None]:
            yield

    @using(a, [User])
    async def steps() -> Any:
        await Pause()
        yield

    step = steps().__anext__()
    contextvars.copy_context().run(step.send, None)
    with using(b, [User]):
        del step
        gc.collect()
        assert names(User) == ["b"]
