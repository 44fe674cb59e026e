"""What the text of a statement says of its effects."""

from __future__ import annotations

import peewee
import pytest

from peewee_web.core.statements import Effects, effects_of

READS = [
    "SELECT 1",
    "  select * from note",
    "(SELECT 1) UNION (SELECT 2)",
    "VALUES (1), (2)",
    "TABLE note",
    "SHOW server_version",
    "EXPLAIN SELECT 1",
    "WITH latest AS (SELECT max(id) FROM note) SELECT * FROM latest",
    "SELECT 1;",
    "SELECT for_update FROM note",
    "SELECT count(*) FROM note WHERE nextvalue = 1",
    "SELECT " + "1, " * 3000 + "1",
]
WRITES = [
    "INSERT INTO note VALUES (1)",
    "UPDATE note SET text = 'x'",
    "DELETE FROM note",
    "REPLACE INTO note VALUES (1)",
    "WITH gone AS (DELETE FROM note RETURNING *) SELECT * FROM gone",
    "EXPLAIN ANALYZE DELETE FROM note",
]
DEFINES = [
    "CREATE TABLE note (id INT)",
    "ALTER TABLE note ADD COLUMN x INT",
    "DROP TABLE note",
    "TRUNCATE note",
    "COMMIT",
]
BINDS = [
    "SET search_path TO mine",
    "RESET ALL",
    "CREATE TEMP TABLE mine (id INT)",
    "create  temporary table mine (id int)",
    "LISTEN news",
    "PREPARE p AS SELECT 1",
    "LOCK TABLES note READ",
    "BEGIN",
    "START TRANSACTION",
    "ROLLBACK",
    "SAVEPOINT s1",
    "USE other",
]
ANYTHING = [
    "SELECT nextval('note_id_seq')",
    "SELECT pg_advisory_lock(1)",
    "SELECT pg_try_advisory_xact_lock (1)",
    "SELECT GET_LOCK('a', 1)",
    "SELECT set_config('app.user', '1', false)",
    "SELECT * INTO other FROM note",
    "SELECT * FROM note FOR UPDATE",
    "SELECT * FROM note FOR NO KEY UPDATE SKIP LOCKED",
    "SELECT * FROM note LOCK IN SHARE MODE",
    "SELECT @a := 1",
    "SELECT 1; DELETE FROM note",
    "SET x = 1; DELETE FROM note",
    "DELETE FROM note; SET x = 1",
    "CALL do_it()",
    "DO $$ BEGIN END $$",
    "EXECUTE p",
    "/* a hint */ SELECT 1",
    "",
]


@pytest.mark.parametrize("sql", READS, ids=lambda sql: sql[:40])
def test_what_only_reads_may_run_twice(sql: str) -> None:
    assert effects_of(sql) == Effects(writes=False, binds=False, defines=False)
    assert effects_of(sql).reads


@pytest.mark.parametrize("sql", WRITES)
def test_what_writes(sql: str) -> None:
    assert effects_of(sql) == Effects(writes=True, binds=False, defines=False)


@pytest.mark.parametrize("sql", DEFINES)
def test_what_mysql_commits_at_once(sql: str) -> None:
    assert effects_of(sql) == Effects(writes=True, binds=False, defines=True)


@pytest.mark.parametrize("sql", BINDS)
def test_what_is_left_in_the_session(sql: str) -> None:
    assert effects_of(sql) == Effects(writes=False, binds=True, defines=False)


@pytest.mark.parametrize("sql", ANYTHING)
def test_what_may_do_anything(sql: str) -> None:
    assert effects_of(sql) == Effects(writes=True, binds=True, defines=True)


def test_what_is_no_text_may_do_anything() -> None:
    assert effects_of(object()) == Effects(writes=True, binds=True, defines=True)


class Note(peewee.Model):
    text = peewee.TextField()
    parent = peewee.ForeignKeyField("self", null=True)


@pytest.mark.parametrize("database", [peewee.PostgresqlDatabase("x"), peewee.MySQLDatabase("x")])
def test_peewees_own_queries(database: peewee.Database) -> None:
    parent = Note.alias()
    queries = [
        Note.select(),
        Note.select(peewee.fn.COUNT(Note.id)).where(Note.text.contains("for update")),
        Note.select().join(parent, on=(Note.parent == parent.id)).order_by(peewee.fn.RANDOM()).limit(3),
        Note.select() | Note.select(),
    ]
    with Note.bind_ctx(database):
        for query in queries:
            assert effects_of(database.get_sql_context().sql(query).query()[0]).reads
        for query in (Note.insert(text="x"), Note.update(text="x"), Note.delete(), Note.insert_many([{"text": "x"}])):
            assert effects_of(database.get_sql_context().sql(query).query()[0]) == Effects(
                writes=True, binds=False, defines=False
            )
        assert effects_of(database.get_sql_context().sql(Note.select().for_update()).query()[0]).writes
