"""What a statement does to the database and to its session, as far as its text tells.

For the question whether it may run a second time, or on another connection. In doubt it does more than it does.
"""

from __future__ import annotations

import functools
import re
from typing import NamedTuple


class Effects(NamedTuple):
    """What a statement leaves behind, and what it needs."""

    writes: bool = False
    """It leaves something in the database: running it twice may not be the same as running it once."""
    leaves_state: bool = False
    """It leaves something in the session that others may rely on: a setting, a lock, a temporary table."""
    needs_state: bool = False
    """It asks for what an earlier statement has left in the session."""
    defines: bool = False
    """It changes the schema, rights or the like, which MySQL commits at once, with all of the transaction before it."""
    commits: bool = False
    """It commits, or may: it is a COMMIT, or a procedure or several statements, of which nobody can tell."""

    @property
    def is_repeatable(self) -> bool:
        """A second run, or one on another connection, does no harm."""
        return not (self.writes or self.leaves_state or self.needs_state)


_NOTHING = Effects()
_WRITES = Effects(writes=True)
_DEFINES = Effects(writes=True, defines=True)
_COMMITS = Effects(writes=True, commits=True)
_LEAVES_STATE = Effects(leaves_state=True)
_NEEDS_STATE = Effects(needs_state=True)
_LOCKS_OR_WRITES = Effects(writes=True, leaves_state=True)
_ANYTHING = Effects(writes=True, leaves_state=True, defines=True, commits=True)

_FIRST_WORD = re.compile(r"[\s(]*(\w+)(?:\s+(\w+))?")
_READERS = frozenset({"SELECT", "VALUES", "TABLE", "SHOW", "DESCRIBE", "DESC"})
# These may have any statement inside.
_WRAPPERS = frozenset({"WITH", "EXPLAIN"})
_WRITERS = frozenset({"INSERT", "UPDATE", "DELETE", "REPLACE", "MERGE", "COPY"})
_DEFINERS = frozenset({"CREATE", "ALTER", "DROP", "TRUNCATE", "RENAME", "GRANT", "REVOKE"})
_ENDERS = frozenset({"COMMIT", "END"})
_STATE_LEAVERS = frozenset(
    {"SET", "RESET", "DISCARD", "USE", "LISTEN", "UNLISTEN", "ATTACH", "DETACH", "PRAGMA"}
    | {"LOCK", "UNLOCK", "PREPARE", "DEALLOCATE", "DECLARE", "FETCH", "MOVE", "CLOSE"}
    | {"BEGIN", "START", "ROLLBACK", "ABORT", "SAVEPOINT", "RELEASE"}
)
_TEMPORARY = re.compile(r"\s*CREATE\s+(?:GLOBAL\s+|LOCAL\s+)?TEMP(?:ORARY)?\b", re.IGNORECASE)
# A query that is more than one: it writes a table or a variable, takes locks, or calls what does.
# (PostgreSQL's and MySQL's functions that do so; of an app's own nobody can tell.)
_MORE_THAN_READING = re.compile(
    r"""\bINTO\b | \bFOR\s+(?:NO\s+KEY\s+)?UPDATE\b | \bFOR\s+(?:KEY\s+)?SHARE\b | \bLOCK\s+IN\b | :=
    | \b(?:nextval|setval|set_config|pg_advisory_\w+|pg_try_advisory_\w+|pg_notify|pg_cancel_backend
        |pg_terminate_backend|pg_create_\w+|pg_drop_\w+|pg_switch_\w+|pg_promote|pg_backup_\w+|pg_logical_\w+
        |pg_replication_\w+|lo_\w+|lowrite|dblink\w*|get_lock|release_lock|release_all_locks)\s*\(""",
    re.IGNORECASE | re.VERBOSE,
)
# (Followed by a parenthesis the first two are functions.)
_WRITES_INSIDE = re.compile(
    r"\b(?:(?:INSERT|REPLACE)\b(?!\s*\()|(?:UPDATE|DELETE|MERGE|ANALY[SZ]E|CREATE)\b)", re.IGNORECASE
)
# Comments (but for MySQL's that are executed) and quoted names say nothing.
_COMMENT = re.compile(r"--[^\n]*|/\*(?!!).*?\*/", re.DOTALL)
_QUOTED_NAME = re.compile(r'"\w*"|`\w*`')
_PRAGMA_SETS = re.compile(r"\s*PRAGMA\s+[\w.]+\s*=", re.IGNORECASE)
_OF_THE_SESSION = re.compile(
    r"""\b(?:last_insert_id|found_rows|row_count|lastval|currval|current_setting|pg_my_temp_schema)\s*\(
    | (?<!@)@\w | @@(?:session\b|identity\b|last_insert_id\b|error_count\b|warning_count\b) | \bpg_temp\b
    | ^\s*SHOW\s+(?:COUNT\b|WARNINGS\b|ERRORS\b|SESSION\b)""",
    re.IGNORECASE | re.VERBOSE,
)
_SECOND_STATEMENT = re.compile(r";\s*\S")

# A longer text is looked at each time: a cache of them could hold megabytes.
_CACHED_LENGTH = 4096


def effects_of(sql: object) -> Effects:
    """The effects of *sql*, which may be what only the driver can read (psycopg's ``Composed``)."""
    if not isinstance(sql, str):
        return _ANYTHING
    return _cached(sql) if len(sql) <= _CACHED_LENGTH else _effects_of(sql)


def _effects_of(sql: str) -> Effects:
    if "'" not in sql:  # else what looks like a comment may stand in a text
        sql = _COMMENT.sub(" ", sql)
    sql = _QUOTED_NAME.sub("x", sql)
    effects = _of_the_first_word(sql)
    if _SECOND_STATEMENT.search(sql):
        return _ANYTHING
    return effects._replace(needs_state=True) if _OF_THE_SESSION.search(sql) else effects


def _of_the_first_word(sql: str) -> Effects:
    match = _FIRST_WORD.match(sql)
    word, second = (match[1].upper(), (match[2] or "").upper()) if match else ("", "")
    if word in _READERS or word in _WRAPPERS:
        if _MORE_THAN_READING.search(sql):
            return _LOCKS_OR_WRITES
        return _WRITES if word in _WRAPPERS and _WRITES_INSIDE.search(sql) else _NOTHING
    if word in _WRITERS:
        return _WRITES
    if word in _ENDERS or (second == "PREPARED" and word in ("COMMIT", "ROLLBACK")):
        return _COMMITS
    if (word, second) == ("PREPARE", "TRANSACTION"):
        return _COMMITS
    if _PRAGMA_SETS.match(sql):
        return _LOCKS_OR_WRITES
    if word in _STATE_LEAVERS or _TEMPORARY.match(sql):
        return _LEAVES_STATE
    return _DEFINES if word in _DEFINERS else _ANYTHING


_cached = functools.lru_cache(maxsize=1024)(_effects_of)
