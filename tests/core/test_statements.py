"""What the text of a statement says of its effects."""

from __future__ import annotations

import peewee
import pytest

from peewee_web.core.statements import Effects, effects_of

REPEATABLE = [
    "/* a hint */ SELECT 1",
    "-- which page\nSELECT 1",
    "WITH a AS (SELECT 1) SELECT REPLACE(name, 'a', 'b'), INSERT(name, 1, 1, 'c') FROM a",
    'SELECT "t1"."into", `t1`.`update` FROM "t" AS "t1"',
    'WITH a AS (SELECT "t"."create" FROM "t") SELECT 1',
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
    "SELECT @@version",
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
]
COMMITS = ["COMMIT", "END", "COMMIT PREPARED 'x'", "ROLLBACK PREPARED 'x'", "PREPARE TRANSACTION 'x'"]
LEAVES_STATE = [
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
LOCKS_OR_WRITES = [
    "PRAGMA user_version = 7",
    "SELECT nextval('note_id_seq')",
    "SELECT pg_advisory_lock(1)",
    "SELECT pg_try_advisory_xact_lock (1)",
    "SELECT GET_LOCK('a', 1)",
    "SELECT set_config('app.user', '1', false)",
    "SELECT pg_logical_slot_get_changes('s', NULL, NULL)",
    "SELECT pg_backup_start('x')",
    "SELECT * INTO other FROM note",
    "SELECT * FROM note FOR UPDATE",
    "SELECT * FROM note FOR NO KEY UPDATE SKIP LOCKED",
    "SELECT * FROM note LOCK IN SHARE MODE",
]
ANYTHING = [
    "SELECT 1; DELETE FROM note",
    "SET x = 1; DELETE FROM note",
    "DELETE FROM note; SET x = 1",
    "CALL do_it()",
    "DO $$ BEGIN END $$",
    "EXECUTE p",
    "LOAD DATA INFILE 'x' INTO TABLE note",
    "",
]
NEEDS_STATE = [
    "SELECT LAST_INSERT_ID()",
    "SELECT FOUND_ROWS()",
    "SHOW WARNINGS",
    "SELECT @mine",
    "SELECT @@session.sql_mode",
    "SELECT currval('note_id_seq')",
    "SELECT * FROM pg_temp.mine",
]


def ids(sql: str) -> str:
    return sql[:40]


@pytest.mark.parametrize("sql", REPEATABLE, ids=ids)
def test_what_only_reads_may_run_twice(sql: str) -> None:
    assert effects_of(sql) == Effects()
    assert effects_of(sql).is_repeatable


@pytest.mark.parametrize("sql", WRITES, ids=ids)
def test_what_writes(sql: str) -> None:
    assert effects_of(sql) == Effects(writes=True)


@pytest.mark.parametrize("sql", DEFINES, ids=ids)
def test_what_mysql_commits_at_once(sql: str) -> None:
    assert effects_of(sql) == Effects(writes=True, defines=True)


@pytest.mark.parametrize("sql", COMMITS, ids=ids)
def test_what_commits(sql: str) -> None:
    assert effects_of(sql) == Effects(writes=True, commits=True)


@pytest.mark.parametrize("sql", LEAVES_STATE, ids=ids)
def test_what_is_left_in_the_session(sql: str) -> None:
    assert effects_of(sql) == Effects(leaves_state=True)


@pytest.mark.parametrize("sql", LOCKS_OR_WRITES, ids=ids)
def test_a_query_that_does_more_than_read(sql: str) -> None:
    assert effects_of(sql) == Effects(writes=True, leaves_state=True)


@pytest.mark.parametrize("sql", NEEDS_STATE, ids=ids)
def test_what_asks_for_something_in_the_session(sql: str) -> None:
    assert effects_of(sql) == Effects(needs_state=True)
    assert not effects_of(sql).is_repeatable


@pytest.mark.parametrize("sql", [*ANYTHING, b"SELECT 1"], ids=repr)
def test_what_may_do_anything(sql: object) -> None:
    assert effects_of(sql) == Effects(writes=True, leaves_state=True, defines=True, commits=True)


def test_a_write_that_needs_the_session() -> None:
    assert effects_of("INSERT INTO child VALUES (LAST_INSERT_ID())") == Effects(writes=True, needs_state=True)


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
            assert effects_of(database.get_sql_context().sql(query).query()[0]).is_repeatable
        for query in (Note.insert(text="x"), Note.update(text="x"), Note.delete(), Note.insert_many([{"text": "x"}])):
            assert effects_of(database.get_sql_context().sql(query).query()[0]) == Effects(writes=True)
        assert effects_of(database.get_sql_context().sql(Note.select().for_update()).query()[0]).writes
