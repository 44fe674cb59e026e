"""A private MariaDB server for tests, from the system's packages."""

from __future__ import annotations

import contextlib
import shutil
import signal
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import pymysql
from pymysql.connections import Connection

from tests.servers.child import ServerDidNotStop, ServerNotInstalled, ServerProcess, Session
from tests.servers.ports import free_port

_ADMIN = "tests_admin"
_ROOT = "root"
_PATH = "/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin"
_TRX_CACHE = 0.1  # seconds; storage/innobase/trx/trx0i_s.cc, CACHE_MIN_IDLE_TIME_NS


class MariaDBServer(ServerProcess):
    """A MariaDB server of one's own.

    `url()` logs in as root, to the empty database `test`. The administrator comes in by a port of its own,
    so it gets in when a test has taken every connection.
    """

    accounts = ("mysql", "nobody")
    stop_signals: ClassVar[Mapping[str, signal.Signals]] = {"fast": signal.SIGTERM}
    scheme = "mysql"
    user = _ROOT
    default_database = "test"

    def __init__(self, *, settings: Mapping[str, object] | None = None) -> None:
        super().__init__(settings=settings)
        self._admin_port = free_port()
        self._trx_lock = threading.Lock()
        self._trx_read_at = 0.0

    def _find_programs(self) -> None:
        server = shutil.which("mariadbd") or shutil.which("mariadbd", path=_PATH)
        install = shutil.which("mariadb-install-db") or shutil.which("mariadb-install-db", path=_PATH)
        if server is None or install is None:
            raise ServerNotInstalled("no MariaDB server found: apt-get install mariadb-server")
        self._server, self._install = server, install

    def _options(self) -> list[str]:
        settings = {
            "datadir": self.data,
            # Not the /tmp that servers share: each removes at its start what it takes for its own leftovers.
            "tmpdir": self.directory,
            "skip-name-resolve": "ON",
            "character-set-server": "utf8mb4",
            # Small and quick; the log's size must be the same at installation and afterwards.
            "innodb-log-file-size": "8M",
            "innodb-buffer-pool-size": "32M",
            # A commit reaches the kernel, not the disk: survives SIGKILL, as a test expects, but no power cut.
            "innodb-flush-log-at-trx-commit": 2,
        }
        return [f"--{name}={value}" for name, value in settings.items()]

    def _setup_command(self) -> Sequence[str]:
        defaults = ["--no-defaults", "--auth-root-authentication-method=normal", "--skip-test-db"]
        return [self._install, *defaults, *self._options()]

    def _server_command(self) -> Sequence[str]:
        settings = {
            "bind-address": self.host,
            "port": self.port,
            "extra-port": self._admin_port,
            "extra-max-connections": 10,
            "socket": self.directory / "mariadb.sock",
            "pid-file": self.directory / "mariadb.pid",
            "max-connections": 200,
            # A lock that a test forgot should be an error before the test's time is over; default, a day.
            "lock-wait-timeout": 30,
            **self.settings,
        }
        arguments = [f"--{name.replace('_', '-')}={value}" for name, value in settings.items()]
        return [self._server, "--no-defaults", *self._options(), *arguments]

    def _connect(self, user: str, port: int, database: str | None = None) -> Connection[Any]:
        return pymysql.connect(
            host=self.host,
            port=port,
            user=user,
            database=database,
            connect_timeout=5,
            read_timeout=60,
            autocommit=True,
        )

    def _try_to_connect(self) -> bool:
        try:
            self._connect(_ROOT, self.port).close()
        except pymysql.err.OperationalError:
            return False
        return True

    def _first_start(self) -> None:
        with contextlib.closing(self._connect(_ROOT, self.port)) as connection, connection.cursor() as cursor:
            cursor.execute(f"CREATE USER {_ADMIN}@'%'")
            cursor.execute(f"GRANT ALL ON *.* TO {_ADMIN}@'%' WITH GRANT OPTION")
            cursor.execute(f"CREATE DATABASE {_quote(self.default_database)}")

    def execute(
        self, sql: str, params: Sequence[object] | None = None, database: str | None = None
    ) -> list[tuple[Any, ...]]:
        name = database or self.default_database
        with (
            contextlib.closing(self._connect(_ADMIN, self._admin_port, name)) as connection,
            connection.cursor() as cursor,
        ):
            cursor.execute(sql, params)
            return list(cursor.fetchall())

    def create_database(self, name: str) -> None:
        self.execute(f"CREATE DATABASE {_quote(name)}", database="mysql")

    def drop_database(self, name: str) -> None:
        # DROP waits for the metadata locks of open transactions; who holds them has to go first.
        self.kill_sessions(name)
        self.execute(f"DROP DATABASE IF EXISTS {_quote(name)}", database="mysql")

    def sessions(self, database: str | None = None) -> list[Session]:
        """As the parent says; takes 0.1 s more when called in a row, and knows no application names.

        A transaction counts from its first statement that reads or writes an InnoDB table: MariaDB's BEGIN
        alone is not in INNODB_TRX, where PostgreSQL already says "idle in transaction".
        """
        with self._trx_lock:
            # InnoDB refreshes INNODB_TRX only when nobody has read it for 0.1 s: who polls faster
            # sees the same old rows for ever.
            time.sleep(max(0.0, self._trx_read_at + 1.5 * _TRX_CACHE - time.monotonic()))
            rows = self.execute(
                "SELECT p.ID, p.USER, p.COMMAND, p.INFO, t.trx_id IS NOT NULL"
                " FROM information_schema.PROCESSLIST p"
                " LEFT JOIN information_schema.INNODB_TRX t ON t.trx_mysql_thread_id = p.ID"
                " WHERE p.USER NOT IN (%s, 'system user') AND p.COMMAND <> 'Daemon'"
                " AND (%s IS NULL OR p.DB = %s) ORDER BY p.ID",
                (_ADMIN, database, database),
                database="information_schema",
            )
            self._trx_read_at = time.monotonic()
        return [
            Session(pid, _state(user, command, bool(in_transaction)), query or "", "")
            for pid, user, command, query, in_transaction in rows
        ]

    def _clients(self, database: str | None) -> set[int]:
        rows = self.execute(
            "SELECT ID FROM information_schema.PROCESSLIST"
            " WHERE USER NOT IN (%s, 'system user') AND COMMAND <> 'Daemon' AND (%s IS NULL OR DB = %s)",
            (_ADMIN, database, database),
            database="information_schema",
        )
        return {pid for (pid,) in rows}

    def kill_sessions(self, database: str | None = None) -> int:
        victims = self._clients(database)
        for pid in victims:
            self.kill_session(pid)
        deadline = time.monotonic() + 10.0
        while left := victims & self._clients(None):
            if time.monotonic() > deadline:
                raise ServerDidNotStop(f"killed 10 s ago and still there: sessions {sorted(left)} of {self!r}")
            time.sleep(0.002)  # KILL only leaves a mark for the session's thread, and nothing tells when it is gone
        return len(victims)

    def kill_session(self, pid: int) -> None:
        with contextlib.suppress(pymysql.err.OperationalError):  # 1094, it went by itself
            self.execute(f"KILL {pid}", database="information_schema")

    def client_ports(self, database: str | None = None) -> list[int]:
        rows = self.execute(
            "SELECT HOST FROM information_schema.PROCESSLIST"
            " WHERE USER NOT IN (%s, 'system user') AND COMMAND <> 'Daemon' AND (%s IS NULL OR DB = %s)",
            (_ADMIN, database, database),
            database="information_schema",
        )
        return [int(host.rpartition(":")[2]) for (host,) in rows]


def _state(user: str, command: str, in_transaction: bool) -> str:
    if user == "unauthenticated user" or command == "Connect":
        return "starting"
    if command == "Sleep":
        return "idle in transaction" if in_transaction else "idle"
    return "active"


def _quote(name: str) -> str:
    return "`" + name.replace("`", "``") + "`"
