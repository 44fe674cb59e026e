"""The faults: what each does to the server, the link or the app, and which bars it is held to."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import psycopg
import pymysql

from benchmarks import faults_bars
from benchmarks.faults_accounts import Course, Strike
from benchmarks.faults_apps import App
from benchmarks.faults_link import LoginCounter, StallingProxy
from tests.servers.child import ServerProcess
from tests.servers.waiting import until

_DOWN = 2.0
_FROZEN = 3.0
_DELAYED = 3.0
_ROUND_TRIP = 0.2
_KILLS = 5
_LONGEST_OLD = 2.0  # seconds: no transaction of the load takes as long, so one that is older was left behind


@dataclass
class Scene:
    """What a fault is done to. It tells the course when it struck, and when it was over."""

    server: ServerProcess
    database: str
    app: App
    link: StallingProxy | LoginCounter | None
    course: Course
    outage: float
    notes: dict[str, Any] = field(default_factory=dict)

    @contextlib.contextmanager
    def strike(self) -> Iterator[None]:
        begin = time.monotonic()
        self.course.begin = min(self.course.begin, begin)
        try:
            yield
        finally:
            self.course.strikes.append(Strike(begin, time.monotonic()))

    def over(self) -> None:
        self.course.end = time.monotonic()

    def wait(self, seconds: float) -> None:
        """Until the fault is *seconds* old."""
        time.sleep(max(0.0, self.course.begin + seconds - time.monotonic()))


def restart(scene: Scene) -> None:
    with scene.strike():
        scene.server.stop("fast")
    scene.wait(_DOWN)
    scene.server.start()
    scene.over()


def kill(scene: Scene) -> None:
    with scene.strike():
        scene.server.kill()
    scene.wait(_DOWN)
    scene.server.start()
    scene.over()


def backends(scene: Scene) -> None:
    killed = []
    for number in range(_KILLS):
        if number:
            scene.wait(number)
        with scene.strike():
            killed.append(_kill_sessions(scene.server, scene.database))
    scene.over()
    scene.notes["killed"] = killed


def _kill_sessions(server: ServerProcess, database: str) -> int:
    """As the server's own method, but on MariaDB by one connection: PyMySQL's take 30 ms of the processor each."""
    if server.scheme != "mysql":
        return server.kill_sessions(database)
    with contextlib.closing(_connect(server, None)) as connection, connection.cursor() as cursor:

        def clients() -> set[int]:
            cursor.execute("SELECT ID FROM information_schema.PROCESSLIST WHERE DB = %s", (database,))
            return {pid for (pid,) in cursor.fetchall()}

        victims = clients()
        for pid in victims:
            with contextlib.suppress(pymysql.err.OperationalError):  # it went by itself
                cursor.execute(f"KILL {pid}")
        until(lambda: not victims & clients())
    return len(victims)


def cut(scene: Scene) -> None:
    link = _proxy(scene)
    with scene.strike():
        link.refuse()
        link.cut()
    scene.wait(_DOWN)
    link.forward()
    scene.over()


def freeze(scene: Scene) -> None:
    link = _proxy(scene)
    with scene.strike():
        link.stall()
    scene.wait(_FROZEN)
    link.resume()
    scene.over()


def delay(scene: Scene) -> None:
    link = _proxy(scene)
    with scene.strike():
        link.delay(_ROUND_TRIP / 2)  # it counts once in each direction
    scene.wait(_DELAYED)
    link.delay(0)
    scene.over()


def down(scene: Scene) -> None:
    link = scene.link
    assert isinstance(link, LoginCounter)
    with scene.strike():
        link.refuse()
        scene.server.stop("fast")
    scene.wait(scene.outage)
    scene.server.start()
    link.forward()  # its clients can't reach it before
    scene.over()


def crash(scene: Scene) -> None:
    """The app's process dies while a note is written and not yet committed, which a lock on its tags sees to."""
    with scene.strike(), _locked(scene.server, scene.database, "notetag"):
        held = time.monotonic()
        until(lambda: _writing(scene))
        scene.app.kill_worker()
        scene.course.held = Strike(held, time.monotonic())
    scene.over()  # its server starts another by itself
    time.sleep(1.5 * _LONGEST_OLD)
    scene.notes["open_transactions"] = old_transactions(scene.server, scene.database)


@contextlib.contextmanager
def _locked(server: ServerProcess, database: str, table: str) -> Iterator[None]:
    """Nobody else writes to *table* meanwhile; all may read it."""
    if server.scheme == "mysql":
        connection: Any = _connect(server, database)
        statement = f"LOCK TABLES {table} READ"
    else:
        connection = psycopg.connect(server.url(database))
        statement = f"LOCK TABLE {table} IN EXCLUSIVE MODE"
    with contextlib.closing(connection), connection.cursor() as cursor:
        cursor.execute(statement)
        yield


def _connect(server: ServerProcess, database: str | None) -> Any:
    """To a MariaDB server."""
    return pymysql.connect(host=server.host, port=server.port, user=server.user, database=database, ssl_disabled=True)


def _writing(scene: Scene) -> bool:
    sessions = scene.server.sessions(scene.database)
    return any(each.state == "active" and "INSERT" in each.query and "notetag" in each.query for each in sessions)


def old_transactions(server: ServerProcess, database: str) -> int:
    """How many transactions are older than any of the load's can be; each holds locks."""
    if server.scheme == "mysql":
        rows = server.execute(
            "SELECT count(*) FROM information_schema.INNODB_TRX"
            " JOIN information_schema.PROCESSLIST ON ID = trx_mysql_thread_id"
            " WHERE DB = %s AND trx_started < now() - INTERVAL %s SECOND",
            (database, _LONGEST_OLD),
            database="information_schema",
        )
    else:
        rows = server.execute(
            "SELECT count(*) FROM pg_stat_activity JOIN pg_locks USING (pid)"
            " WHERE datname = %s AND locktype = 'transactionid' AND granted"
            " AND xact_start < clock_timestamp() - make_interval(secs => %s)",
            (database, _LONGEST_OLD),
        )
    return int(rows[0][0])


def _proxy(scene: Scene) -> StallingProxy:
    assert isinstance(scene.link, StallingProxy)
    return scene.link


@dataclass(frozen=True)
class Fault:
    """*way* is what the app's connections go through; *after* the least seconds to look on once it is over."""

    text: str
    act: Callable[[Scene], None]
    bars: faults_bars.Bars
    way: Literal["direct", "proxy", "counter"] = "direct"
    after: float = 5.0


FAULTS = {
    "restart": Fault("server restarted, 2 s down", restart, faults_bars.of_a_restart),
    "kill": Fault("server killed, 2 s down", kill, faults_bars.of_a_restart),
    "backends": Fault("every backend killed, five times", backends, faults_bars.of_backends, after=4.0),
    "cut": Fault("link cut for 2 s", cut, faults_bars.of_a_link, "proxy"),
    "freeze": Fault("link frozen for 3 s", freeze, faults_bars.of_a_link, "proxy"),
    "delay": Fault("link delayed by 200 ms for 3 s", delay, faults_bars.of_a_link, "proxy", after=6.0),
    "down": Fault("server down for 30 s", down, faults_bars.of_an_outage, "counter"),
    "crash": Fault("app killed mid-transaction", crash, faults_bars.of_a_crash),
}
