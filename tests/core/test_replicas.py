"""Where a query goes, of one that could go to several servers; on files that tell by their rows which one was asked."""

from __future__ import annotations

import asyncio
import logging
import random
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import peewee
import pytest

import peewee_web
from peewee_web import (
    Databases,
    DatabaseUnavailable,
    PooledSqliteDatabase,
    PoolTimeout,
    ReplicatedDatabase,
    ScopeClosed,
)
from peewee_web.core.errors import ScopeError
from peewee_web.core.member import Member
from peewee_web.core.scoped import ScopedDatabase
from tests.core.working import in_thread, in_use


class Servers:
    """A primary and two replicas, each with a row of its own name, and models that live in them."""

    def __init__(self, directory: Path, **options: Any) -> None:
        self.primary, self.one, self.two = (self.open(directory, name) for name in ("primary", "one", "two"))
        self.database = ReplicatedDatabase(self.primary, [self.one, self.two], **options)
        self.databases = Databases(self.database)

        class Note(peewee.Model):
            text = peewee.TextField()

            class Meta:
                database = self.database

        self.Note = Note

    @staticmethod
    def open(directory: Path, name: str, **options: Any) -> PooledSqliteDatabase:
        pooling = {"max_connections": 3, "timeout": 1, **options}
        database = PooledSqliteDatabase(str(directory / f"{name}.db"), **pooling)
        with database.connection_context():
            database.execute_sql("CREATE TABLE note (id INTEGER PRIMARY KEY, text TEXT)")
            database.execute_sql("INSERT INTO note (text) VALUES (?)", (name,))
        return database

    def asked(self) -> str:
        """Which server a read goes to."""
        text: str = self.Note.select().order_by(self.Note.id).get().text
        return text

    def asked_in_scopes(self, count: int) -> list[str]:
        return [self.databases.scope()(self.asked)() for _ in range(count)]

    def break_down(self, database: PooledSqliteDatabase) -> None:
        """Have no connection to be had to it any more, and none that is idle."""
        database.init("/nowhere/at/all.db")
        database.close_idle()


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Servers]]:
    made: list[Servers] = []

    def make(**options: Any) -> Servers:
        directory = tmp_path / str(len(made))
        directory.mkdir()
        made.append(Servers(directory, **options))
        return made[-1]

    yield make
    for servers in made:
        servers.database.close()
        left = {str(each): in_use(each) for each in servers.database.members}
        servers.database.close_all()
        assert not any(left.values()), left


@pytest.fixture
def servers(make: Callable[..., Servers]) -> Servers:
    return make()


# Reads.


def test_scopes_read_from_the_replicas_in_turn(servers: Servers) -> None:
    assert servers.asked_in_scopes(4) in (["one", "two"] * 2, ["two", "one"] * 2)


def test_all_reads_of_a_scope_go_to_one_replica(servers: Servers) -> None:
    with servers.databases.scope():
        assert len({servers.asked() for _ in range(5)}) == 1
    assert in_use(servers.one) + in_use(servers.two) + in_use(servers.primary) == 0


def test_a_read_takes_no_connection_of_the_primary(servers: Servers) -> None:
    servers.primary.close_idle()
    servers.asked_in_scopes(2)
    assert servers.primary.pool_stats().size == 0


@pytest.mark.parametrize("choose", ["round_robin", "random", "least_used"])
def test_reads_are_spread_evenly(make: Callable[..., Servers], choose: str) -> None:
    random.seed(5)
    counts = Counter(make(choose=choose).asked_in_scopes(600))
    assert counts.keys() == {"one", "two"}
    assert abs(counts["one"] - counts["two"]) <= (60 if choose == "random" else 2)


@pytest.mark.parametrize("choose", ["round_robin", "random"])
def test_a_weight_of_two_is_twice_as_many_reads(make: Callable[..., Servers], choose: str) -> None:
    random.seed(5)
    servers = make(choose=choose)
    servers.database.remove_replica(servers.two)
    servers.database.add_replica(servers.two, weight=2)
    counts = Counter(servers.asked_in_scopes(600))
    assert counts["two"] / counts["one"] == pytest.approx(2, rel=0.2)


def test_the_least_used_replica_is_the_one_with_fewest_connections_in_use(make: Callable[..., Servers]) -> None:
    servers = make(choose="least_used")
    lent = servers.one.pool.checkout()
    assert servers.asked_in_scopes(4) == ["two"] * 4
    servers.one.pool.checkin(lent)


@pytest.mark.parametrize("read", ["iterate", "count", "get", "aggregate", "union", "cte", "prefetch", "tuples"])
def test_every_kind_of_select_is_a_read(servers: Servers, read: str) -> None:
    Note = servers.Note
    cte = Note.select().cte("notes")
    reads: dict[str, Callable[[], Any]] = {
        "iterate": lambda: list(Note.select()),
        "count": lambda: Note.select().count(),
        "get": lambda: Note.get(Note.id == 1),
        "aggregate": lambda: Note.select(peewee.fn.MAX(Note.id)).scalar(),
        "union": lambda: list(Note.select() | Note.select()),
        "cte": lambda: list(cte.select_from(cte.c.text)),
        "prefetch": lambda: peewee.prefetch(Note.select()),
        "tuples": lambda: list(Note.select().tuples()),
    }
    with servers.databases.scope() as scope:
        assert reads[read]()
        assert servers.primary not in scope.states or scope.states[servers.primary].closed


def test_reads_of_threads_without_a_scope_go_to_replicas(servers: Servers) -> None:
    asked = [in_thread(servers.database.connection_context()(servers.asked)) for _ in range(4)]
    assert Counter(asked) == {"one": 2, "two": 2}


def test_closing_gives_back_what_a_thread_without_a_scope_has_of_any_server(servers: Servers) -> None:
    with servers.database.connection_context():
        servers.asked()
    assert [in_use(each) for each in servers.database.members] == [0, 0, 0]


def test_coroutines_read_each_in_its_own_scope(servers: Servers) -> None:
    async def request() -> str:
        async with servers.databases.scope():
            first = servers.asked()
            await asyncio.sleep(0)
            assert servers.asked() == first
            return first

    async def run() -> list[str]:
        return list(await asyncio.gather(*(request() for _ in range(3))))

    assert set(asyncio.run(run())) == {"one", "two"}


# What goes to the primary.


@pytest.mark.parametrize(
    "statement", ["insert", "update", "delete", "insert many", "raw", "raw query", "get or create"]
)
def test_what_is_no_select_goes_to_the_primary(servers: Servers, statement: str) -> None:
    Note = servers.Note
    statements: dict[str, Callable[[], Any]] = {
        "insert": lambda: Note.create(text="new"),
        "update": lambda: Note.update(text="new").execute(),
        "delete": lambda: Note.delete().execute(),
        "insert many": lambda: Note.insert_many([{"text": "new"}]).execute(),
        "raw": lambda: servers.database.execute_sql("SELECT text FROM note").fetchall(),
        "raw query": lambda: list(Note.raw("SELECT * FROM note")),
        "get or create": lambda: Note.get_or_create(text="new"),
    }
    with servers.databases.scope() as scope:
        statements[statement]()
        assert not scope.states[servers.primary].closed


def test_a_select_that_calls_what_writes_goes_to_the_primary(servers: Servers) -> None:
    with servers.databases.scope() as scope:
        query = servers.Note.select(peewee.fn.nextval("a"))
        with pytest.raises(peewee.OperationalError, match="nextval"):
            query.scalar()
        assert not scope.states[servers.primary].closed


@pytest.mark.parametrize("transaction", ["atomic", "transaction", "manual", "begin", "in SQL", "with db"])
def test_reads_in_a_transaction_go_to_the_primary(servers: Servers, transaction: str) -> None:
    database = servers.database
    with servers.databases.scope():
        if transaction == "begin":
            database.begin()
            assert servers.asked() == "primary"
            database.rollback()
        elif transaction == "in SQL":
            database.execute_sql("BEGIN")
            assert servers.asked() == "primary"
            database.execute_sql("ROLLBACK")
        else:
            blocks = {
                "atomic": database.atomic,
                "transaction": database.transaction,
                "manual": database.manual_commit,
                "with db": lambda: database,
            }
            with blocks[transaction]():
                assert servers.asked() == "primary"


def test_reads_after_a_transaction_that_only_read_go_to_a_replica_again(servers: Servers) -> None:
    with servers.databases.scope():
        with servers.database.atomic():
            servers.asked()
        assert servers.asked() != "primary"


def test_reads_of_an_atomic_scope_go_to_the_primary(servers: Servers) -> None:
    with servers.databases.scope(atomic=True):
        assert servers.asked() == "primary"


@pytest.mark.parametrize("block", ["autocommit", "atomic"])
def test_after_a_write_the_reads_of_the_scope_go_to_the_primary(servers: Servers, block: str) -> None:
    with servers.databases.scope():
        before = servers.asked()
        if block == "atomic":
            with servers.database.atomic():
                servers.Note.create(text="new")
        else:
            servers.Note.create(text="new")
        assert (before != "primary", servers.asked()) == (True, "primary")
        servers.databases.scope()  # made, and never used
    assert servers.asked_in_scopes(1) != ["primary"]


def test_a_write_past_the_models_counts_as_well(servers: Servers) -> None:
    with servers.databases.scope():
        servers.primary.execute_sql("DELETE FROM note WHERE id > 1")
        assert servers.asked() == "primary"


@pytest.mark.parametrize("writer", ["outer", "inner"])
def test_scopes_within_a_scope_see_what_any_of_them_has_written(servers: Servers, writer: str) -> None:
    with servers.databases.scope():
        if writer == "outer":
            servers.Note.create(text="new")
        with peewee_web.scope():
            if writer == "inner":
                servers.Note.create(text="new")
            else:
                assert servers.asked() == "primary"
        assert servers.asked() == "primary"


def test_without_a_scope_reads_go_to_the_primary_from_a_write_until_the_connection_is_closed(servers: Servers) -> None:
    servers.Note.create(text="new")
    assert servers.asked() == "primary"
    servers.database.close()
    assert servers.asked() != "primary"


def test_a_session_that_was_changed_stays_the_one_that_is_used(servers: Servers) -> None:
    with servers.databases.scope():
        servers.database.execute_sql("CREATE TEMPORARY TABLE mine (id INTEGER)")
        assert servers.asked() == "primary"


# Read-only scopes.


def test_a_read_only_scope_refuses_to_write(servers: Servers) -> None:
    with servers.databases.scope(read_only=True), pytest.raises(ScopeError, match="INSERT INTO in a scope that only"):
        servers.Note.create(text="new")
    assert servers.primary.execute_sql("SELECT COUNT(*) FROM note").fetchone() == (1,)


def test_it_reads_from_a_replica_though_it_be_atomic(servers: Servers) -> None:
    with servers.databases.scope(read_only=True, atomic=True):
        assert servers.asked() != "primary"


def test_a_scope_of_its_own_may_write_in_it(servers: Servers) -> None:
    with servers.databases.scope(read_only=True), peewee_web.scope():
        servers.Note.create(text="new")


@pytest.mark.parametrize(("method", "writes"), [("GET", False), ("HEAD", False), ("POST", True), ("", True)])
def test_requests_with_a_safe_method_only_read_if_asked(servers: Servers, method: str, writes: bool) -> None:
    databases = Databases(servers.database, read_only=True)
    assert databases.scope_for(method, lambda name: None, lambda: None).read_only is not writes
    assert not servers.databases.scope_for(method, lambda name: None, lambda: None).read_only


# Replicas that fail.


def test_a_replica_that_fails_is_left_out(servers: Servers, caplog: pytest.LogCaptureFixture) -> None:
    servers.asked_in_scopes(2)
    servers.break_down(servers.one)
    with caplog.at_level(logging.WARNING, "peewee_web"):
        assert set(servers.asked_in_scopes(6)) == {"two"}
    assert "no reads go to" in caplog.text


def test_one_that_never_worked_fails_no_read(servers: Servers) -> None:
    servers.break_down(servers.one)
    assert set(servers.asked_in_scopes(6)) == {"two"}


def test_a_scope_that_read_from_it_goes_on_with_another(servers: Servers) -> None:
    with servers.databases.scope():
        failing = servers.one if servers.asked() == "one" else servers.two
        failing.close()
        servers.break_down(failing)
        assert servers.asked() in {"one", "two"}


def test_with_none_left_the_primary_reads(servers: Servers) -> None:
    for replica in (servers.one, servers.two):
        servers.break_down(replica)
    assert set(servers.asked_in_scopes(3)) == {"primary"}


def test_without_fallback_it_does_not(make: Callable[..., Servers]) -> None:
    servers = make(fallback=False)
    for replica in (servers.one, servers.two):
        servers.break_down(replica)
    with servers.databases.scope(), pytest.raises(DatabaseUnavailable, match="no replica can be read from"):
        servers.asked()


def test_it_is_looked_at_again(servers: Servers) -> None:
    path = servers.one.database
    servers.break_down(servers.one)
    servers.asked_in_scopes(2)
    servers.one.init(path)
    found = {status.name: status.is_used for status in servers.database.check_connections()}
    assert found[str(path)]
    assert set(servers.asked_in_scopes(4)) == {"one", "two"}


def test_one_that_is_only_busy_stays_and_is_waited_for(make: Callable[..., Servers]) -> None:
    servers = make()
    servers.database.remove_replica(servers.two)
    servers.asked_in_scopes(1)
    lent = [servers.one.pool.checkout() for _ in range(3)]
    with servers.databases.scope(), pytest.raises(PoolTimeout):
        servers.asked()
    for lease in lent:
        servers.one.pool.checkin(lease)
    assert servers.asked_in_scopes(1) == ["one"]


def test_what_the_app_got_wrong_is_told_and_not_sent_elsewhere(servers: Servers) -> None:
    with servers.databases.scope() as scope:
        with pytest.raises(peewee.OperationalError, match="no such function"):
            servers.Note.select(peewee.fn.no_such()).scalar()
        assert servers.primary not in scope.states or scope.states[servers.primary].closed
    assert set(servers.asked_in_scopes(4)) == {"one", "two"}


# Replicas that come and go.


def test_a_replica_may_be_added(servers: Servers, tmp_path: Path) -> None:
    three = servers.open(tmp_path, "three")
    assert servers.database.add_replica(three) is three
    assert set(servers.asked_in_scopes(3)) == {"one", "two", "three"}


def test_a_replica_may_be_removed_under_requests_that_read_from_it(servers: Servers) -> None:
    with servers.databases.scope():
        used = servers.asked()
        database = getattr(servers, used)
        servers.database.remove_replica(database)
        cursor = database.execute_sql("SELECT text FROM note")
        assert cursor.fetchone() == (used,)
    assert set(servers.asked_in_scopes(3)) == {"one", "two"} - {used}
    assert database.pool_stats().size == 0


def test_the_last_replica_may_be_removed(servers: Servers) -> None:
    for replica in (servers.one, servers.two):
        servers.database.remove_replica(replica)
    assert servers.asked_in_scopes(2) == ["primary"] * 2


# What is seen of what was written.


def test_a_write_that_failed_counts_as_one(servers: Servers) -> None:
    """What stands in its way is on the primary, and need not be on the replica yet."""
    servers.primary.execute_sql("CREATE UNIQUE INDEX note_text ON note (text)")
    servers.primary.close()
    with servers.databases.scope():
        note, made = servers.Note.get_or_create(text="primary")
    assert (note.text, made) == ("primary", False)


def test_a_write_with_the_drivers_own_cursor_counts_when_its_connection_is_back(servers: Servers) -> None:
    with servers.databases.scope():
        servers.database.cursor().execute("INSERT INTO note (text) VALUES ('new')")
        servers.database.close()
        assert servers.asked() == "primary"


@pytest.mark.parametrize("writer", ["outer", "inner"])
def test_scopes_of_the_same_databases_within_each_other_know_of_each_others_writes(
    servers: Servers, writer: str
) -> None:
    with servers.databases.scope():
        if writer == "outer":
            servers.Note.create(text="new")
        with servers.databases.scope():
            if writer == "inner":
                servers.Note.create(text="new")
            assert servers.asked() == "primary"
        assert servers.asked() == "primary"


def test_a_thread_without_a_scope_chooses_anew_when_it_has_closed(servers: Servers) -> None:
    asked = []
    for _ in range(4):
        asked.append(servers.asked())
        servers.database.close()
    assert Counter(asked) == {"one": 2, "two": 2}


def test_a_thread_that_has_connected_by_hand_reads_from_replicas_as_well(servers: Servers) -> None:
    for database in servers.database.members:
        database.autoconnect = False
    servers.database.connect()
    assert servers.asked() != "primary"
    servers.database.close()
    with pytest.raises(peewee.InterfaceError, match="not opened"):
        servers.asked()


# What is nobody's fault.


def test_code_that_outlives_its_scope_takes_no_replica_out(servers: Servers) -> None:
    servers.asked_in_scopes(2)
    scope = servers.databases.scope()
    with scope:
        servers.asked()
    with scope.activate(), pytest.raises(ScopeClosed):
        servers.asked()
    assert set(servers.asked_in_scopes(2)) == {"one", "two"}


def test_a_replica_that_is_too_busy_to_be_looked_at_stays(make: Callable[..., Servers]) -> None:
    servers = make()
    servers.asked_in_scopes(2)
    lent = [servers.one.pool.checkout() for _ in range(3)]
    assert [status.is_used for status in servers.database.check_connections()] == [True, True, True]
    for lease in lent:
        servers.one.pool.checkin(lease)


def test_who_holds_a_connection_of_the_primary_waits_for_none_of_a_replica(servers: Servers) -> None:
    """Who has that may be waiting for this one."""
    servers.asked_in_scopes(2)
    pools = [(database.pool, database.pool.checkout()) for database in (servers.one, servers.two) for _ in range(3)]
    with servers.databases.scope():
        servers.database.execute_sql("SELECT 1")
        assert servers.asked() == "primary"
    for pool, lease in pools:
        pool.checkin(lease)


def test_a_read_that_loses_against_others_on_a_replica_is_run_on_the_primary_once(
    servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []

    def cancelled(self: Any, sql: str, params: Any = None) -> Any:
        asked.append(self)
        if self is servers.primary:
            return PooledSqliteDatabase._execute_cursor(self, sql, params)
        raise peewee.OperationalError("database is locked") from sqlite3.OperationalError("database is locked")

    servers.asked_in_scopes(2)
    with servers.databases.scope(), monkeypatch.context() as patched:
        patched.setattr(PooledSqliteDatabase, "execute_sql", cancelled)
        assert servers.asked() == "primary"
    assert len(asked) == 2


# Another primary.


def test_hooks_after_the_commit_run_though_another_is_the_primary_by_then(servers: Servers) -> None:
    members, ran = servers.database._members, []
    with servers.databases.scope(), servers.database.atomic():
        servers.Note.create(text="new")
        servers.database.after_commit(lambda: ran.append(1))
        members.promote(members.replicas[0])
    assert ran == [1]


def test_a_transaction_begun_in_sql_goes_on_where_it_began(servers: Servers) -> None:
    members = servers.database._members
    with servers.databases.scope():
        servers.database.execute_sql("BEGIN")
        servers.Note.create(text="debit")
        members.promote(members.replicas[0])
        servers.Note.create(text="credit")
        servers.database.execute_sql("COMMIT")
    assert servers.primary.execute_sql("SELECT COUNT(*) FROM note").fetchone() == (3,)


def test_a_server_that_left_is_remembered_no_longer(servers: Servers) -> None:
    members = servers.database._members
    members.promote(members.replicas[0])
    servers.database.remove_replica(servers.primary)
    assert members.former == ()


# As a database.


def test_tables_are_made_on_the_primary(servers: Servers) -> None:
    class Tag(servers.database.Model):  # type: ignore[name-defined]
        name = peewee.TextField()

    servers.database.create_tables([Tag])
    assert "tag" in servers.primary.get_tables()


def test_models_are_bound_to_it_and_not_to_its_primary(servers: Servers) -> None:
    class Note(peewee.Model):
        text = peewee.TextField()

    servers.database.bind([Note])
    assert Note._meta.database is servers.database
    with servers.database.bind_ctx([Note]):
        assert Note._meta.database is servers.database


def test_a_scoped_database_stands_for_it(servers: Servers) -> None:
    class Note(peewee.Model):
        text = peewee.TextField()

        class Meta:
            database = ScopedDatabase()

    with servers.databases.scope():
        assert Note.get().text in {"one", "two"}
        Note.create(text="new")
        assert Note.get().text == "primary"


def test_one_connection_of_the_primary_is_taken_early(servers: Servers) -> None:
    with Databases(servers.database, lazy=False).scope():
        assert [in_use(each) for each in servers.database.members] == [1, 0, 0]


def test_the_end_of_the_process_closes_all_pools(servers: Servers) -> None:
    servers.asked_in_scopes(2)
    assert servers.databases.close() == 0
    assert [each.pool_stats().size for each in servers.database.members] == [0, 0, 0]


def test_the_health_check_tells_of_the_replicas(servers: Servers) -> None:
    servers.break_down(servers.one)
    servers.asked_in_scopes(2)
    health = peewee_web.check(servers.database)
    assert [replica.is_used for replica in health.replicas] == [False, True]
    assert health.pool.limit == 3


def test_it_tells_in_a_word_how_it_stands(servers: Servers) -> None:
    assert repr(servers.database) == f"<ReplicatedDatabase {servers.primary.database}, 2 of 2 replicas in use>"


def test_a_transaction_goes_on_where_it_began_whatever_is_the_primary_by_then(servers: Servers) -> None:
    members = servers.database._members
    with servers.databases.scope():
        with servers.database.atomic():
            servers.Note.create(text="before")
            members.promote(members.replicas[0])
            servers.Note.create(text="after")
            assert servers.database.obj is servers.primary
        assert servers.database.obj is not servers.primary
    assert servers.primary.execute_sql("SELECT COUNT(*) FROM note").fetchone() == (3,)


@pytest.mark.parametrize("name", ["host=db1 password=geheim dbname=y", "postgresql://db1/y?user=u&password=geheim"])
def test_a_connection_string_is_not_repeated(name: str) -> None:
    assert Member(peewee_web.PooledPostgresqlDatabase(name)).name == "a PostgreSQL server"


def test_no_password_is_in_what_it_tells() -> None:
    url = "postgresql://me:secret@db.example:5433/app"
    database = ReplicatedDatabase(url, [url.replace("5433", "5434")])
    told = f"{database!r} {database._members.replicas[0]!r}"
    assert "secret" not in told
    assert "db.example:5434" in told


# What can't be.


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (
            ("sqlite:///a.db", ["postgresql://h/b"]),
            {},
            "of the primary's kind: h is PostgreSQL, and the primary SQLite",
        ),
        (("sqlite:///a.db", "sqlite:///b.db"), {}, "replicas is a list"),
        (("sqlite:///a.db", [("sqlite:///b.db", 0)]), {}, "weight is a whole number"),
        (("sqlite:///a.db",), {"choose": "best"}, "choose is one of 'round_robin', 'random', 'least_used'"),
        (("sqlite:///a.db",), {"sticky_for": -1}, "sticky_for is a number of seconds"),
        (("sqlite:///a.db",), {"sticky_by": "letter"}, "sticky_by is 'cookie' or 'header'"),
        ((ReplicatedDatabase("sqlite:///a.db"),), {}, "has replicas already"),
        ((peewee.DatabaseProxy(),), {}, "call its initialize"),
        ((7,), {}, "int is not a Peewee database"),
    ],
)
def test_what_can_not_be_replicated_is_told_in_one_line(arguments: Any, options: Any, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message) as caught:
        ReplicatedDatabase(*arguments, **options)
    assert "\n" not in str(caught.value)


def test_the_primary_is_no_replica_of_its_own(servers: Servers) -> None:
    with pytest.raises(ValueError, match="no replica of its own"):
        servers.database.add_replica(servers.primary)


def test_a_stranger_can_not_be_removed(servers: Servers) -> None:
    with pytest.raises(ValueError, match="none of the replicas"):
        servers.database.remove_replica(servers.primary)


def test_it_has_its_databases_from_the_start(servers: Servers) -> None:
    with pytest.raises(TypeError, match="from the start"):
        servers.database.initialize(servers.one)


def test_a_member_has_a_name_without_a_host() -> None:
    assert Member(peewee_web.connect("postgresql:///app")).name == "app"
