"""What a statement does to the database and to its session, as far as its text tells.

For the question whether it may run a second time, or on another connection. In doubt it does more than it does.
"""

from __future__ import annotations

import functools
import re
from typing import NamedTuple


class Effects(NamedTuple):
    """What a statement leaves behind."""

    writes: bool
    """Something in the database: running it twice may not be the same as running it once."""
    binds: bool
    """Something in the session that a later statement may rely on, such as a setting, a lock or a temporary table."""
    defines: bool
    """Something in the schema, the rights or the server's own tables: what MySQL commits at once."""

    @property
    def reads(self) -> bool:
        """It leaves nothing behind: a second time, or on another connection, it does no harm."""
        return not (self.writes or self.binds)


_NOTHING = Effects(writes=False, binds=False, defines=False)
_WRITES = Effects(writes=True, binds=False, defines=False)
_BINDS = Effects(writes=False, binds=True, defines=False)
_DEFINES = Effects(writes=True, binds=False, defines=True)
_ANYTHING = Effects(writes=True, binds=True, defines=True)

_FIRST_WORD = re.compile(r"[\s(]*(\w+)")
_READERS = frozenset({"SELECT", "VALUES", "TABLE", "SHOW", "DESCRIBE", "DESC"})
# These may have any statement inside.
_WRAPPERS = frozenset({"WITH", "EXPLAIN"})
_BINDERS = frozenset(
    {"SET", "RESET", "DISCARD", "USE", "LISTEN", "UNLISTEN", "LOAD", "ATTACH", "DETACH", "PRAGMA"}
    | {"LOCK", "UNLOCK", "PREPARE", "DEALLOCATE", "DECLARE", "FETCH", "MOVE", "CLOSE"}
    | {"BEGIN", "START", "ROLLBACK", "ABORT", "SAVEPOINT", "RELEASE"}
)
_WRITERS = frozenset({"INSERT", "UPDATE", "DELETE", "REPLACE", "MERGE", "COPY"})
_DEFINERS = frozenset({"CREATE", "ALTER", "DROP", "TRUNCATE", "RENAME", "GRANT", "REVOKE", "COMMIT"})
_TEMPORARY = re.compile(r"\s*CREATE\s+(?:GLOBAL\s+|LOCAL\s+)?TEMP(?:ORARY)?\b", re.IGNORECASE)
# A query that is more than one: it writes a table or a variable, takes locks, or calls what does; or a second statement
# follows it. (PostgreSQL's and MySQL's functions that do so; of an app's own nobody can tell.)
_MORE_THAN_READING = re.compile(
    r"""\bINTO\b | \bFOR\s+(?:NO\s+KEY\s+)?UPDATE\b | \bFOR\s+(?:KEY\s+)?SHARE\b | \bLOCK\s+IN\b | := | ;\s*\S
    | \b(?:nextval|setval|set_config|pg_advisory_\w+|pg_try_advisory_\w+|pg_notify|pg_cancel_backend
        |pg_terminate_backend|pg_create_\w+|pg_drop_\w+|pg_switch_\w+|pg_promote|lo_\w+|lowrite|dblink\w*
        |get_lock|release_lock|release_all_locks|last_insert_id)\s*\(""",
    re.IGNORECASE | re.VERBOSE,
)
_WRITES_INSIDE = re.compile(r"\b(?:INSERT|UPDATE|DELETE|MERGE|REPLACE|ANALY[SZ]E|CREATE)\b", re.IGNORECASE)
_SECOND_STATEMENT = re.compile(r";\s*\S")

# A longer text is looked at each time: a cache of them could hold megabytes.
_CACHED_LENGTH = 4096


def effects_of(sql: object) -> Effects:
    """The effects of *sql*, which may be what only the driver can read (psycopg's ``Composed``)."""
    if not isinstance(sql, str):
        return _ANYTHING
    return _cached(sql) if len(sql) <= _CACHED_LENGTH else _effects_of(sql)


def _effects_of(sql: str) -> Effects:
    match = _FIRST_WORD.match(sql)
    word = match[1].upper() if match else ""
    if word in _READERS or word in _WRAPPERS:
        if _MORE_THAN_READING.search(sql):
            return _ANYTHING
        return _WRITES if word in _WRAPPERS and _WRITES_INSIDE.search(sql) else _NOTHING
    if _SECOND_STATEMENT.search(sql):
        return _ANYTHING
    if word in _BINDERS or _TEMPORARY.match(sql):
        return _BINDS
    if word in _WRITERS:
        return _WRITES
    return _DEFINES if word in _DEFINERS else _ANYTHING


_cached = functools.lru_cache(maxsize=1024)(_effects_of)
