"""A private PgBouncer in front of a private PostgreSQL server, from the system's packages."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import psycopg

from tests.servers.child import ServerNotInstalled, ServerProcess, Session
from tests.servers.postgres import PostgresServer

_ADMIN = "tests_admin"
_CONSOLE = "pgbouncer"
_PATH = "/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin"
# PgBouncer's changelog: prepared statements are followed from here on, and where SIGTERM became patient.
_FOLLOWS_STATEMENTS = (1, 21)
_PATIENT_SIGTERM = (1, 23)


class PgBouncerServer(ServerProcess):
    """A PgBouncer of one's own, which lends sessions of *backend* in *pool_mode*: transaction, session or statement.

    All databases of *backend* are to be had under their own names, and `url()` logs in as the same `app`.
    *backend_port* may be that of a proxy. `execute` speaks to the console (``SHOW POOLS``), whatever the database.
    Prepared statements are not followed, as in all versions before 1.21, unless `settings` say so
    (``max_prepared_statements``).
    """

    accounts = ("postgres", "nobody")
    # https://www.pgbouncer.org/usage.html#signals
    stop_signals: ClassVar[Mapping[str, signal.Signals]] = {"fast": signal.SIGTERM, "safe": signal.SIGINT}
    scheme = PostgresServer.scheme
    user = PostgresServer.user
    default_database = PostgresServer.default_database

    def __init__(
        self,
        backend: PostgresServer,
        *,
        pool_mode: str = "transaction",
        backend_port: int | None = None,
        settings: Mapping[str, object] | None = None,
    ) -> None:
        self.backend = backend
        self.pool_mode = pool_mode
        self.backend_port = backend_port or backend.port
        super().__init__(settings=settings)

    def _find_programs(self) -> None:
        program = shutil.which("pgbouncer") or shutil.which("pgbouncer", path=_PATH)
        if program is None:
            raise ServerNotInstalled("no PgBouncer found: apt-get install pgbouncer")
        self._program = program
        said = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout
        found = re.search(r"(\d+)\.(\d+)", said)
        assert found, said
        self.version = (int(found[1]), int(found[2]))
        if self.version >= _PATIENT_SIGTERM:
            self.stop_signals = {"fast": signal.SIGQUIT, "safe": signal.SIGINT}

    def _setup_command(self) -> Sequence[str]:
        return ["mkdir", "--mode=700", str(self.data)]

    def _server_command(self) -> Sequence[str]:
        settings = {
            "listen_addr": self.host,
            "listen_port": self.port,
            "unix_socket_dir": "",
            "auth_type": "trust",
            "auth_file": self._write("userlist.txt", f'"{self.user}" ""\n"{_ADMIN}" ""\n'),
            "admin_users": _ADMIN,
            "pool_mode": self.pool_mode,
            **({"max_prepared_statements": 0} if self.version >= _FOLLOWS_STATEMENTS else {}),
            **self.settings,
        }
        lines = ["[databases]", f"* = host={self.backend.host} port={self.backend_port}", "[pgbouncer]"]
        lines += [f"{name} = {value}" for name, value in settings.items()]
        return [self._program, str(self._write("pgbouncer.ini", "\n".join(lines) + "\n"))]

    def _write(self, name: str, text: str) -> Path:
        path = self.data / name
        path.write_text(text)
        if "user" in self._identity:
            os.chown(path, self._identity["user"], self._identity["group"])
        return path

    def _connect(self) -> psycopg.Connection[Any]:
        return psycopg.connect(
            host=self.host,
            port=self.port,
            user=_ADMIN,
            dbname=_CONSOLE,
            connect_timeout=5,
            autocommit=True,
        )

    def _try_to_connect(self) -> bool:
        try:
            self._connect().close()
        except psycopg.OperationalError:
            return False
        return True

    def _first_start(self) -> None:
        pass

    def execute(
        self, sql: str, params: Sequence[object] | None = None, database: str | None = None
    ) -> list[tuple[Any, ...]]:
        with contextlib.closing(self._connect()) as connection:
            cursor = connection.execute(sql, params)
            return cursor.fetchall() if cursor.description else []

    def show(self, what: str) -> list[dict[str, Any]]:
        """What the console shows of *what*, such as ``"POOLS"``: a dictionary for each row."""
        with contextlib.closing(self._connect()) as connection:
            cursor = connection.execute(f"SHOW {what}")
            names = [column.name for column in cursor.description or ()]
            return [dict(zip(names, row, strict=True)) for row in cursor]

    def create_database(self, name: str) -> None:
        self.backend.create_database(name)

    def drop_database(self, name: str) -> None:
        self.backend.drop_database(name)

    def _clients(self, database: str | None) -> list[dict[str, Any]]:
        return [
            client
            for client in self.show("CLIENTS")
            if client["database"] != _CONSOLE and database in (None, client["database"])
        ]

    def sessions(self, database: str | None = None) -> list[Session]:
        """As the parent says, where the `pid` is the client's port, and the state PgBouncer's: "active", "waiting"."""
        return [
            Session(client["port"], client["state"], "", client.get("application_name") or "")
            for client in self._clients(database)
        ]

    def client_ports(self, database: str | None = None) -> list[int]:
        return [client["port"] for client in self._clients(database)]

    def kill_sessions(self, database: str | None = None) -> int:
        clients = self._clients(database)
        for name in {client["database"] for client in clients}:
            self.execute(f'KILL "{name}"')
            self.execute(f'RESUME "{name}"')
        return len(clients)

    def kill_session(self, pid: int) -> None:
        raise NotImplementedError("before its version 1.24 PgBouncer can throw out all clients of a database only")
