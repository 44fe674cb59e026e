"""What a server says of replication: whether it is a primary or a standby, how far it has got, how late it is.

A *position* is text that only this file reads: PostgreSQL's place in the write-ahead log, MariaDB's GTID. What is run
here is run on the connection of the current scope, or thread.
"""

from __future__ import annotations

import math
import re
from typing import Any, NamedTuple

from peewee import MySQLDatabase, PeeweeException, PostgresqlDatabase, SqliteDatabase

from .faults import mysql_number


class Standing(NamedTuple):
    """How a server stands at a moment. ``None`` is what it can't tell, or not to this user."""

    is_standby: bool | None
    position: str | None
    """Up to where it has replayed what the primary has written."""
    lag: float | None
    """Seconds by which it is late, as far as it knows itself; infinite while it receives nothing. None: not told."""
    system: str | None = None
    """Which cluster it is of: copies of one have this in common."""
    timeline: int | None = None
    """How many promotions its data has seen."""


UNKNOWN = Standing(None, None, None)


class Replication:
    """A kind of server that replicates, for all that is known here: one that tells nothing of it."""

    name = "this kind of database"
    #: Whether looking at it is a network call.
    network = True

    def standing(self, database: Any) -> Standing:
        """Raises what the query raises."""
        database.execute_sql("SELECT 1").fetchone()
        return Standing(None, None, 0.0)

    def written(self, database: Any) -> str | None:
        """Up to where *database*, a primary, has written. What is committed is before it."""
        return None

    def is_position(self, text: str) -> bool:
        return False

    def has_reached(self, position: str, wanted: str) -> bool:
        """Whether a server that has got to *position* has all that is *wanted*."""
        return False

    def bytes_between(self, earlier: str, later: str) -> int | None:
        return None


class _Sqlite(Replication):
    name = "SQLite"
    network = False


class _Postgres(Replication):
    name = "PostgreSQL"

    # PostgreSQL's manual, 9.28.4. A standby that has replayed all it has received is not late, however long ago the
    # primary has written something; if it receives nothing, it may be as late as that. (After a restart what it has
    # received seems to be less than what it has replayed. That there is a receiver, any user may know; what it has
    # received, those with pg_monitor. To others a standby's timeline shows with its next restart point.)
    _STANDING = """
        SELECT pg_is_in_recovery(), pg_last_wal_replay_lsn()::text, CASE
            WHEN pg_last_wal_receive_lsn() <= pg_last_wal_replay_lsn()
                AND EXISTS (SELECT FROM pg_stat_wal_receiver) THEN 0
            ELSE EXTRACT(EPOCH FROM clock_timestamp() - pg_last_xact_replay_timestamp())
        END, (SELECT system_identifier FROM pg_control_system())::text, CASE
            WHEN pg_is_in_recovery() THEN GREATEST(
                (SELECT timeline_id FROM pg_control_checkpoint()),
                (SELECT min_recovery_end_timeline FROM pg_control_recovery()),
                (SELECT received_tli FROM pg_stat_wal_receiver))
            ELSE ('x' || substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8))::bit(32)::int
        END"""
    _LSN = re.compile(r"([0-9A-F]{1,8})/([0-9A-F]{1,8})")

    def standing(self, database: Any) -> Standing:
        is_standby, position, lag, system, timeline = database.execute_sql(self._STANDING).fetchone()
        lag = math.inf if lag is None else max(0.0, float(lag))
        return Standing(is_standby, position, lag, system, timeline)

    def written(self, database: Any) -> str | None:
        # Not pg_current_wal_lsn(), which with synchronous_commit=off may be before what is committed.
        position: str = database.execute_sql("SELECT pg_current_wal_insert_lsn()::text").fetchone()[0]
        return position

    def is_position(self, text: str) -> bool:
        return self._LSN.fullmatch(text) is not None

    def has_reached(self, position: str, wanted: str) -> bool:
        return self._bytes(position) >= self._bytes(wanted)

    def bytes_between(self, earlier: str, later: str) -> int | None:
        return self._bytes(later) - self._bytes(earlier)

    def _bytes(self, position: str) -> int:
        high, low = position.split("/")
        return (int(high, 16) << 32) + int(low, 16)


class _MySQL(Replication):
    """MariaDB, with global transaction IDs; and MySQL, without (its sets of UUIDs are not read here)."""

    name = "MySQL"

    # A list of domain-server-sequence, one for each domain, in which sequences only grow.
    _GTIDS = re.compile(r"\d{1,10}-\d{1,10}-\d{1,20}(?:,\d{1,10}-\d{1,10}-\d{1,20}){0,9}")
    # The first is MariaDB's and that of MySQL before 8.4, which has no other than the second.
    _STATUS = ("SHOW SLAVE STATUS", "SHOW REPLICA STATUS")
    # The servers' error numbers: a syntax error, an unknown variable, a right that is missing.
    _SYNTAX, _NO_VARIABLE, _NO_RIGHT = 1064, 1193, 1227

    def standing(self, database: Any) -> Standing:
        position = self._variable(database, "gtid_slave_pos")
        status = self._status(database)
        if status is None:
            # This user may not know. A replica refuses writes, as a rule; but not all that accept them are primaries.
            is_standby = True if self._variable(database, "read_only") else None
            return Standing(is_standby, position, None if self._may_be_running(database) else math.inf)
        if not status:
            return Standing(False, position, None)
        lag = status.get("seconds_behind_master", status.get("seconds_behind_source"))
        return Standing(True, position, math.inf if lag is None else float(lag))

    def _status(self, database: Any) -> dict[str, Any] | None:
        """What it says of its source; empty if it has none, None if this user may not know."""
        for statement in self._STATUS:
            try:
                cursor = database.execute_sql(statement)
            except PeeweeException as error:
                if mysql_number(error) not in (self._SYNTAX, self._NO_RIGHT):
                    raise
            else:
                names = [column[0].lower() for column in cursor.description]
                row = cursor.fetchone()
                return {} if row is None else dict(zip(names, row, strict=True))
        return None

    def _may_be_running(self, database: Any) -> bool:
        """Not so if MariaDB says that it doesn't receive, or doesn't replay; MySQL does not say."""
        row = database.execute_sql("SHOW GLOBAL STATUS LIKE 'Slave_running'").fetchone()
        return row is None or row[1] == "ON"

    def written(self, database: Any) -> str | None:
        position: str | None = self._variable(database, "gtid_current_pos")
        return position

    def _variable(self, database: Any, name: str) -> Any:
        try:
            return database.execute_sql(f"SELECT @@global.{name}").fetchone()[0]
        except PeeweeException as error:
            if mysql_number(error) != self._NO_VARIABLE:
                raise
            return None  # MySQL's

    def is_position(self, text: str) -> bool:
        return self._GTIDS.fullmatch(text) is not None

    def has_reached(self, position: str, wanted: str) -> bool:
        reached = self._sequences(position)
        return all(reached.get(domain, -1) >= number for domain, number in self._sequences(wanted).items())

    def _sequences(self, position: str) -> dict[str, int]:
        triples = [each.split("-") for each in position.replace("\n", "").split(",") if each]
        return {domain: int(number) for domain, _, number in triples}


_KINDS: dict[type, Replication] = {PostgresqlDatabase: _Postgres(), MySQLDatabase: _MySQL(), SqliteDatabase: _Sqlite()}


def replication_of(database: Any) -> Replication:
    """How servers of the kind of *database* replicate."""
    return next((kind for cls, kind in _KINDS.items() if isinstance(database, cls)), Replication())
