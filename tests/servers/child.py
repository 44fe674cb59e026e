"""The life of a private database server that is our direct child: start, stop, kill, freeze, reap.

Being the parent, with no pg_ctl or mariadbd-safe between, makes each signal exact and each exit certain.
Knows nothing of SQL; `postgres.py` and `mariadb.py` say how a server is set up, asked and measured.
"""

from __future__ import annotations

import abc
import atexit
import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import urlencode

from tests.servers import processes
from tests.servers.ports import free_port

_ROOT = Path(__file__).parents[2]


class ServerNotInstalled(RuntimeError):
    """No usable server program on this machine; the message names the package that brings one."""


class ServerDidNotStart(RuntimeError):
    """The server exited, or did not answer in time; the message ends with the tail of its log."""


class ServerDidNotStop(RuntimeError):
    """The server was asked to stop and is still there; the message ends with the tail of its log."""


@dataclass(frozen=True)
class Session:
    """One client's connection, as the server sees it.

    `state` is in PostgreSQL's words on every server: "idle", "active", "idle in transaction",
    "starting" (not yet logged in).
    """

    pid: int
    state: str
    query: str
    application_name: str


class ServerProcess(abc.ABC):
    """A database server in a temporary directory, on a port of 127.0.0.1 that it keeps over restarts.

    `settings` are the server's own variables; a change to `server.settings` counts from the next start.
    Raises `ServerNotInstalled`. Not for use from several threads at once, except `execute`, `sessions`,
    `kill_sessions`, `kill_session`, `client_ports` and `url`, which hold no state. As a context manager it
    starts and closes itself.
    """

    accounts: ClassVar[tuple[str, ...]]
    """Whom to run as when we are root, which the servers refuse to be: the first that exists."""
    stop_signals: ClassVar[Mapping[str, signal.Signals]]
    """How each mode of `stop` is asked for."""
    scheme: ClassVar[str]
    user: ClassVar[str]
    default_database: ClassVar[str]
    host: ClassVar[str] = "127.0.0.1"

    def __init__(self, *, settings: Mapping[str, object] | None = None) -> None:
        self.settings: dict[str, object] = dict(settings or {})
        self._identity = self._choose_identity()
        self._find_programs()
        self.port = free_port()
        self.directory = Path(tempfile.mkdtemp(prefix=f"peewee-web-{type(self).__name__.lower()}-"))
        if "user" in self._identity:
            os.chown(self.directory, self._identity["user"], self._identity["group"])
        self._process: subprocess.Popen[bytes] | None = None
        self._prepared = False
        self._frozen = False
        self._closed = False
        self._owner = os.getpid()
        self._undertaker = subprocess.Popen(
            [sys.executable, "-S", "-m", "tests.servers.undertaker", str(self.directory)],
            stdin=subprocess.PIPE,
            cwd=_ROOT,
            start_new_session=True,  # a Ctrl-C is for the tests, not for it
        )
        atexit.register(self.close)

    def __repr__(self) -> str:
        alive = "frozen" if self._frozen else f"pid {self.pid}" if self.running else "down"
        state = "closed" if self._closed else alive
        return f"<{type(self).__name__} {self.host}:{self.port}, {state}>"

    def __enter__(self) -> Any:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    # What each kind of server says of itself.

    @abc.abstractmethod
    def _find_programs(self) -> None:
        """Find the server's programs; `ServerNotInstalled` if there are none."""

    @abc.abstractmethod
    def _setup_command(self) -> Sequence[str]:
        """The command that fills the data directory."""

    @abc.abstractmethod
    def _server_command(self) -> Sequence[str]:
        """The command that serves it, in the foreground."""

    @abc.abstractmethod
    def _try_to_connect(self) -> bool:
        """Whether the server now takes a login and answers."""

    @abc.abstractmethod
    def _first_start(self) -> None:
        """Make what tests expect to find: accounts, the default database."""

    @abc.abstractmethod
    def execute(
        self, sql: str, params: Sequence[object] | None = None, database: str | None = None
    ) -> list[tuple[Any, ...]]:
        """Run one statement as administrator, on a connection of its own that commits by itself; its rows."""

    @abc.abstractmethod
    def create_database(self, name: str) -> None:
        """Create an empty database; it is an error if there is one of that name."""

    @abc.abstractmethod
    def drop_database(self, name: str) -> None:
        """Drop a database if there is one, and throw out its sessions first."""

    @abc.abstractmethod
    def sessions(self, database: str | None = None) -> list[Session]:
        """The clients now connected (to `database`, or to any), without the administrator's connections."""

    @abc.abstractmethod
    def kill_sessions(self, database: str | None = None) -> int:
        """Throw out every client (of `database`, or of any); returns how many, once they are gone."""

    @abc.abstractmethod
    def kill_session(self, pid: int) -> None:
        """Throw out one client, by the `pid` of its session. Returns before it is gone; no error if it is already."""

    @abc.abstractmethod
    def client_ports(self, database: str | None = None) -> list[int]:
        """The port that each client (of `database`, or of any) comes from: one of the proxy's, if there is one."""

    # Where it is.

    def url(
        self, database: str | None = None, *, port: int | None = None, user: str | None = None, **query: object
    ) -> str:
        """The URL for a client: of `default_database` unless told, through a proxy's `port` if given one.

        It logs in as the class's `user`, unless told.
        """
        where = f"{self.host}:{port or self.port}"
        url = f"{self.scheme}://{user or self.user}@{where}/{database or self.default_database}"
        return f"{url}?{urlencode(query)}" if query else url

    @property
    def data(self) -> Path:
        """The server's data directory."""
        return self.directory / "data"

    @property
    def running(self) -> bool:
        """Whether the server's process is there (frozen ones are)."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int | None:
        """The pid of the server (PostgreSQL's postmaster), or None when it is down."""
        return self._process.pid if self._process is not None and self.running else None

    def processes(self) -> list[int]:
        """The pids of the server and of all it forked, orphans included."""
        return processes.inhabitants(self.directory)

    def log_tail(self, lines: int = 30) -> str:
        """The last lines of what the server wrote to its log."""
        log = self.directory / "server.log"
        return "\n".join(log.read_text(errors="replace").splitlines()[-lines:]) if log.exists() else "(no log)"

    # Its life.

    def start(self, timeout: float = 30.0) -> None:
        """Start the server and return once it answers.

        Raises `ServerDidNotStart` if it exits or does not answer within `timeout` seconds, and
        `RuntimeError` if it runs already or is closed.
        """
        if self._closed or self.running:
            raise RuntimeError(f"{self!r} cannot be started: it is {'closed' if self._closed else 'running'}")
        self._reap()  # it may have died without us, and left orphans that a new one would refuse to start beside
        first = not self._prepared
        if first:
            self._run(self._setup_command())
            self._prepared = True
        with (self.directory / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                self._server_command(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.directory,  # what makes it, and all it forks, an inhabitant
                start_new_session=True,  # a Ctrl-C is for the tests, not for it
                **self._identity,
            )
        self._wait_until_ready(self._process, timeout)
        if first:
            self._first_start()

    def stop(self, mode: str = "fast", timeout: float = 30.0) -> None:
        """Ask the server to shut down, in one of the modes of `stop_signals`, and reap it.

        A frozen server is thawed first; one that is down stays down. Raises `ServerDidNotStop` after
        `timeout` seconds, and leaves the server as it is then.
        """
        what = self.stop_signals[mode]
        if self._process is None or not self.running:
            self._reap()
            return
        self.thaw()
        self._process.send_signal(what)
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise ServerDidNotStop(
                f"{self!r} is still there {timeout} s after stop({mode!r}); its log ends:\n{self.log_tail()}"
            ) from None
        self._reap()

    def kill(self) -> None:
        """SIGKILL the server, and then what it forked, as the out-of-memory killer or a power cut would."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
        self._reap()

    def freeze(self) -> None:
        """SIGSTOP the server and all it forked: sockets stay open, the kernel still accepts, nothing answers."""
        if self.pid is None:
            raise RuntimeError(f"{self!r} cannot be frozen: it is down")
        processes.freeze([self.pid])  # alone first: whoever stands still forks no more
        processes.freeze(self.processes())
        self._frozen = True

    def thaw(self) -> None:
        """SIGCONT what `freeze` stopped. No error if nothing was."""
        processes.send(self.processes(), signal.SIGCONT)
        self._frozen = False

    def restart(self, down: float = 0.0, mode: str = "fast") -> None:
        """Stop, stay away for `down` seconds, start again on the same port with the same data."""
        self.stop(mode)
        time.sleep(down)
        self.start()

    def ensure_running(self) -> None:
        """Thaw or start the server if a test left it frozen or down."""
        if self._frozen:
            self.thaw()
        if not self.running:
            self.start()

    def close(self) -> None:
        """Stop the server, whatever its state, and remove its directory. A second call does nothing.

        Does nothing in a process forked from the one that made the server: it is not theirs.
        """
        if self._closed or os.getpid() != self._owner:
            return
        self._closed = True
        atexit.unregister(self.close)
        try:
            self.stop(timeout=10.0)
        except ServerDidNotStop:
            self.kill()
        finally:
            self._forget()
            shutil.rmtree(self.directory, ignore_errors=True)
            self._undertaker.kill()
            self._undertaker.communicate()

    def _forget(self) -> None:  # noqa: B027 - a hook, not a duty
        """Give back what the server holds outside of its directory after a kill."""

    def _reap(self) -> None:
        if self._process is not None:
            self._process.wait()
            self._process = None
        # The parent is dead, so nobody forks any more; what is left are orphans.
        processes.kill_inhabitants(self.directory)
        self._frozen = False

    def _wait_until_ready(self, process: subprocess.Popen[bytes], timeout: float) -> None:
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            if self._try_to_connect():
                return
            with contextlib.suppress(subprocess.TimeoutExpired):
                status = process.wait(0.02)
                raise ServerDidNotStart(f"{self!r} exited with status {status}; its log ends:\n{self.log_tail()}")
        self.kill()
        raise ServerDidNotStart(f"{self!r} did not answer within {timeout} s; its log ends:\n{self.log_tail()}")

    def _run(self, command: Sequence[str]) -> str:
        """Run a program of the server's to its end, as the server's account; what it wrote."""
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=self.directory if hasattr(self, "directory") else "/",
            text=True,
            errors="replace",
            check=False,
            **self._identity,
        )
        if done.returncode:
            raise ServerDidNotStart(f"{command[0]} failed with status {done.returncode}:\n{done.stdout[-4000:]}")
        return str(done.stdout)

    def _choose_identity(self) -> dict[str, Any]:
        if os.geteuid() != 0:
            return {}
        for name in self.accounts:
            with contextlib.suppress(KeyError):
                account = pwd.getpwnam(name)
                return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
        raise ServerNotInstalled(
            f"{type(self).__name__} cannot run as root, and there is no account {' or '.join(self.accounts)}"
        )
