"""What apps do with a database: reads, writes, and all the ways of not giving a connection back."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pymysql.cursors
from peewee import OperationalError

import peewee_web
from tests.stress.books import Books, Fate, Heartbeat, Planned, Timer

_ROWS = 5000


class Workload:
    """The requests of one app on *database*. One object serves all threads; each brings its own dice."""

    def __init__(self, database: Any, driver: str, books: Books, slack: float, heart: Heartbeat) -> None:
        self.database = database
        self.books = books
        self._driver = driver
        self._slack = slack
        self._heart = heart
        #: How often each is done, out of all.
        self.requests: dict[Callable[[random.Random], None], int] = {
            self.read: 10,
            self.write: 10,
            self.write_plainly: 6,
            self.write_in_autocommit: 4,
            self.raise_in_atomic: 4,
            self.roll_back_to_a_savepoint: 3,
            self.leave_a_session_open: 3,
            self.leave_a_begin_open: 3,
            self.leave_a_session_open_plainly: 3,
            self.leave_a_result_half_read: 4,
            self.close_and_go_on: 3,
            self.go_on_after_an_error: 4,
            self.nest: 1,
            self.hold: 2,
            self.die: 3,
            self.die_in_a_transaction: 2,
            self.forget_a_scope: 2,
            self.forget_a_scope_in_a_cycle: 1,
            self.abandon_a_stream: 3,
            self.drop_a_stream: 2,
        }

    # Statements.

    def create_table(self) -> None:
        self.database.execute_sql("CREATE TABLE stress (id BIGINT PRIMARY KEY)")

    def echo(self) -> None:
        token = self.books.number()
        answer = self.database.execute_sql("SELECT CAST(%s AS DECIMAL(20))", (token,)).fetchone()
        if answer is None or answer[0] != token:
            self.books.violate(f"asked for {token} and read {answer}: another's answer")

    def insert(self, row: int) -> None:
        self.database.execute_sql("INSERT INTO stress (id) VALUES (%s)", (row,))

    @contextmanager
    def scope(self) -> Iterator[None]:
        """A scope whose end is timed."""
        scope = peewee_web.scope()
        with scope.activate():
            try:
                yield
            finally:
                with Timer(self.books, "end of scope", self._limit, self._heart):
                    scope.end()

    @property
    def _limit(self) -> float:
        return float(self.database.pool.options.timeout + self._slack)

    def commit_a_row(self) -> None:
        row, inserted = self.books.new_row(), False
        try:
            with self.database.atomic():
                self.insert(row)
                inserted = True  # from here on an error leaves open whether it was committed
        except Exception:
            if not inserted:
                self.books.rows[row] = Fate.ABSENT
            raise
        self.books.rows[row] = Fate.COMMITTED

    # Requests that do it right.

    def read(self, dice: random.Random) -> None:
        with self.scope():
            for _ in range(dice.randint(1, 3)):
                self.echo()

    def write(self, dice: random.Random) -> None:
        @peewee_web.scope()
        def request() -> None:
            self.echo()
            self.commit_a_row()

        request()

    def write_plainly(self, dice: random.Random) -> None:
        self.database.connect()
        try:
            self.commit_a_row()
            self.echo()
        finally:
            self.database.close()

    def write_in_autocommit(self, dice: random.Random) -> None:
        with self.database.connection_context():
            row = self.books.new_row()
            self.insert(row)
            self.books.rows[row] = Fate.COMMITTED
            self.echo()

    def raise_in_atomic(self, dice: random.Random) -> None:
        with self.scope(), self.database.atomic():
            self.insert(self.books.new_row(Fate.ABSENT))
            raise Planned

    def roll_back_to_a_savepoint(self, dice: random.Random) -> None:
        row, inserted = self.books.new_row(), False
        try:
            with self.scope(), self.database.atomic():
                self.insert(row)
                with suppress(Planned), self.database.atomic():
                    self.insert(self.books.new_row(Fate.ABSENT))
                    raise Planned
                inserted = True
        except Exception:
            if not inserted:
                self.books.rows[row] = Fate.ABSENT
            raise
        self.books.rows[row] = Fate.COMMITTED

    # Requests that don't.

    def leave_a_session_open(self, dice: random.Random) -> None:
        with self.scope():
            self.database.session_start()
            self.insert(self.books.new_row(Fate.ABSENT))
            if dice.random() < 0.3:
                raise Planned

    def leave_a_begin_open(self, dice: random.Random) -> None:
        with self.scope():
            self.database.execute_sql("BEGIN")
            self.insert(self.books.new_row(Fate.ABSENT))

    def leave_a_session_open_plainly(self, dice: random.Random) -> None:
        self.database.connect()
        try:
            self.database.session_start()
            self.insert(self.books.new_row(Fate.ABSENT))
        finally:
            try:
                self.database.close()
            except OperationalError:  # "Attempting to close database while transaction is open."
                self.database.session_rollback()
                self.database.close()

    def leave_a_result_half_read(self, dice: random.Random) -> None:
        with self.scope():
            self.echo()
            rows = self._half_read(self.database.connection(), dice)
        if self._driver == "pymysql" and rows._result is not None:
            rows._result.unbuffered_active = False  # else PyMySQL's finalizer reads on, from the closed connection

    def _half_read(self, connection: Any, dice: random.Random) -> Any:
        """Read the first row of many; what is returned holds on to the others."""
        if self._driver == "pymysql":
            cursor = connection.cursor(pymysql.cursors.SSCursor)
            cursor.execute("SELECT seq FROM seq_1_to_%s", (_ROWS,))
            cursor.fetchone()
            return cursor
        if self._driver == "psycopg3" and dice.random() < 0.5:
            rows = connection.cursor().stream(f"SELECT generate_series(1, {_ROWS})")
            next(rows)
            return rows
        cursor = connection.cursor(f"stress_{self.books.number()}", withhold=True)
        try:
            cursor.execute(f"SELECT generate_series(1, {_ROWS})")
            cursor.fetchone()
        finally:
            if self._driver == "psycopg3":  # which warns of a cursor that it finds open
                for _ in range(2):  # the first fails, and leaves it open, where the connection is just found lost
                    with suppress(Exception):
                        cursor.close()
        return cursor

    def close_and_go_on(self, dice: random.Random) -> None:
        with self.scope():
            self.echo()
            self.database.close()
            self.echo()
            if dice.random() < 0.5:
                self.database.manual_close()

    def go_on_after_an_error(self, dice: random.Random) -> None:
        begun = time.monotonic()
        with self.scope():
            try:
                self.echo()
                self.commit_a_row()
            except Exception as error:
                self.books.note_error("go_on_after_an_error", error, begun)
                self.echo()

    def nest(self, dice: random.Random) -> None:
        with self.scope(), self.database.atomic():
            self.insert(self.books.new_row(Fate.ABSENT))
            with self.scope():
                self.commit_a_row()
            raise Planned

    def hold(self, dice: random.Random) -> None:
        with self.scope():
            self.echo()
            time.sleep(dice.uniform(0, 0.1))
            self.echo()

    def die(self, dice: random.Random) -> None:
        def life() -> None:
            self.database.connect()
            self.echo()

        self._in_thread(life)

    def die_in_a_transaction(self, dice: random.Random) -> None:
        def life() -> None:
            self.database.connect()
            self.database.session_start()
            self.insert(self.books.new_row(Fate.ABSENT))

        self._in_thread(life)

    def _in_thread(self, life: Callable[[], None]) -> None:
        errors: list[Exception] = []

        def run() -> None:
            try:
                life()
            except Exception as error:
                errors.append(error)

        thread = threading.Thread(target=run, name="stress-mortal")
        thread.start()
        thread.join()
        if errors:
            raise errors.pop()

    def forget_a_scope(self, dice: random.Random) -> None:
        scope = peewee_web.scope()
        with scope.activate():
            self.database.session_start()
            self.insert(self.books.new_row(Fate.ABSENT))

    def forget_a_scope_in_a_cycle(self, dice: random.Random) -> None:
        scope: Any = peewee_web.scope()
        scope.itself = scope
        with scope.activate():
            self.echo()

    def abandon_a_stream(self, dice: random.Random) -> None:
        stream = self._stream()
        next(stream)
        next(stream)
        stream.close()

    def drop_a_stream(self, dice: random.Random) -> None:
        next(self._stream())

    def _stream(self) -> Any:
        @peewee_web.scope()
        def stream() -> Iterator[None]:
            with self.database.atomic():
                for _ in range(10):
                    self.insert(self.books.new_row(Fate.ABSENT))
                    yield

        return stream()
