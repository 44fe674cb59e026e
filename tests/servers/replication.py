"""Private servers that replicate: a PostgreSQL primary with its standbys, a MariaDB primary with its replica.

What the servers do by themselves is in `postgres.py` and `mariadb.py`; here is who follows whom, and how a test has
one fall behind, take over or come back. A server's settings for replication are those of a real one, except for
pauses before a new attempt, which are short.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from psycopg import sql as quoting

from tests.servers.child import ServerDidNotStart, ServerProcess
from tests.servers.mariadb import _ADMIN, _ROOT, MariaDBServer
from tests.servers.postgres import PostgresServer
from tests.servers.waiting import until

_PATIENCE = 10.0  # seconds, of every wait that has no other limit


class PostgresHost(PostgresServer):
    """One server of a cluster: the first primary if it has no *upstream*, else made as a standby of that.

    Its `name` is what the primary knows it by: the application name of its replication connection.
    """

    programs: ClassVar[tuple[str, ...]] = ("postgres", "pg_basebackup")

    def __init__(
        self,
        name: str,
        *,
        upstream: PostgresHost | None = None,
        installation: Path | None = None,
        settings: Mapping[str, object] | None = None,
    ) -> None:
        self.name = name
        self.upstream = upstream
        replication = {
            "hot_standby": "on",
            "hot_standby_feedback": "off",
            # A standby that was away finds what it missed, without a slot that would hold the primary's disk.
            "wal_keep_size": "256MB",
            # The default, 5 s, is how long a standby stays away from a primary that is back, or new.
            "wal_retrieve_retry_interval": "100ms",
            "shared_buffers": "16MB",
        }
        super().__init__(installation=installation, settings={**replication, **(settings or {})})

    def __repr__(self) -> str:
        return f"<{self.name}: {super().__repr__()[1:]}"

    def _setup_command(self) -> Sequence[str]:
        if self.upstream is None:
            return super()._setup_command()
        # -R leaves standby.signal and primary_conninfo behind.
        options = ["-R", "--wal-method=stream", "--checkpoint=fast", "--no-sync", "--no-password"]
        return [str(self._bin / "pg_basebackup"), f"--dbname={self._conninfo()}", f"--pgdata={self.data}", *options]

    def _conninfo(self) -> str:
        assert self.upstream is not None
        return f"host={self.upstream.host} port={self.upstream.port} user=postgres application_name={self.name}"

    def _first_start(self) -> None:
        if self.upstream is None:
            super()._first_start()
        else:
            # It came along from a primary that waits for its standbys; this one, promoted, would wait for itself.
            self.alter_system(synchronous_standby_names=None, synchronous_commit=None)

    def alter_system(self, **settings: object) -> None:
        """ALTER SYSTEM, and return once it counts for every process of the server; None stands for the default."""
        for name, value in settings.items():
            change = quoting.SQL("ALTER SYSTEM SET {} = {}" if value is not None else "ALTER SYSTEM RESET {}")
            self.execute(change.format(quoting.Identifier(name), str(value)).as_string(None))
        ((before,),) = self.execute("SELECT pg_conf_load_time()")
        self.execute("SELECT pg_reload_conf()")
        # A new session's time of loading is the postmaster's, which tells its children before it forks more.
        until(lambda: self.execute("SELECT pg_conf_load_time() > %s", (before,)) == [(True,)], _PATIENCE)
        # It is the checkpointer that has commits wait for standbys, and it reloads before it makes a checkpoint.
        self.execute("CHECKPOINT")

    def follow(self, upstream: PostgresHost) -> None:
        """As a standby, follow *upstream* from now on. Returns before it does: `wait_until_streaming`."""
        self.upstream = upstream
        self.alter_system(primary_conninfo=self._conninfo())

    def clone(self, upstream: PostgresHost) -> None:
        """Forget all data, and start as a standby of *upstream* on the same port."""
        self.kill()
        self._forget()
        shutil.rmtree(self.data)
        self.upstream = upstream
        self._prepared = False
        self.start()

    def wait_until_streaming(self, timeout: float = _PATIENCE) -> None:
        """Return once the upstream sends what it writes as it writes it; `ServerDidNotStart` after *timeout*."""
        try:
            until(self._is_streaming, timeout)
        except TimeoutError:
            raise ServerDidNotStart(
                f"{self!r} does not follow {self.upstream!r} after {timeout} s; its log ends:\n{self.log_tail()}"
            ) from None

    def _is_streaming(self) -> bool:
        assert self.upstream is not None
        # With the end of a timeline that both know, a primary goes to "streaming" for a moment even for a standby that
        # can't follow it to the next.
        ((timeline,),) = self.upstream.execute("SELECT left(pg_walfile_name(pg_current_wal_lsn()), 8)")
        question = "SELECT state FROM pg_stat_replication WHERE application_name = %s"
        return self.upstream.execute(question, (self.name,)) == [("streaming",)] and self.execute(
            "SELECT sender_port, received_tli FROM pg_stat_wal_receiver"
        ) == [(self.upstream.port, int(timeline, 16))]

    def has_replayed(self, position: str) -> bool:
        """Whether *position*, an LSN, is in what its clients see."""
        return self.execute("SELECT pg_last_wal_replay_lsn() >= %s::pg_lsn", (position,)) == [(True,)]


class _Group(contextlib.AbstractContextManager[Any]):
    """Servers that start in order, since each is made from the one before, and close in the reverse of it."""

    hosts: Sequence[ServerProcess]

    def __enter__(self) -> Any:
        with contextlib.ExitStack() as stack:
            stack.callback(self.close)
            for host in self.hosts:
                host.start()
            self._settle()
            stack.pop_all()
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _settle(self) -> None:
        """What is left to do when all have started."""

    def close(self) -> None:
        """Stop all servers, whatever their state, and remove their directories. A second call does nothing."""
        with contextlib.ExitStack() as stack:
            for host in self.hosts:
                stack.callback(host.close)


class PostgresCluster(_Group):
    """A primary and its standbys, made with pg_basebackup; all are direct children, and start and close with it.

    The first *synchronous* of the standbys hold every commit back until they have it, as *synchronous_commit* says:
    ``on`` for written, ``remote_apply`` for visible there. *installation* and *settings* are those of every server.
    Raises `ServerNotInstalled`. Not for use from several threads at once, except as far as its servers are.

    `primary` and `standbys` tell the roles as `promote` and `rejoin` leave them; `hosts` never changes. Databases are
    made on the primary, and a standby has them once it has caught up.
    """

    def __init__(
        self,
        standbys: int = 2,
        synchronous: int = 0,
        *,
        synchronous_commit: str = "on",
        installation: Path | None = None,
        settings: Mapping[str, object] | None = None,
    ) -> None:
        self.primary = PostgresHost("host_0", installation=installation, settings=settings)
        self.standbys = [
            PostgresHost(f"host_{number}", upstream=self.primary, installation=installation, settings=settings)
            for number in range(1, standbys + 1)
        ]
        self.hosts: Sequence[PostgresHost] = (self.primary, *self.standbys)
        self._synchronous = (synchronous, synchronous_commit)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} primary={self.primary!r} standbys={self.standbys!r}>"

    def _settle(self) -> None:
        for standby in self.standbys:
            standby.wait_until_streaming()
        self.set_synchronous(*self._synchronous)

    def set_synchronous(self, count: int, synchronous_commit: str = "on") -> None:
        """Have the primary wait for the first *count* of `standbys`, connected or not; with 0 for none.

        Releases the commits that waited for somebody else. After a `promote` nobody is waited for until this is called.
        """
        names = ", ".join(standby.name for standby in self.standbys[:count])
        self.primary.alter_system(
            synchronous_standby_names=f"FIRST {count} ({names})" if count else None,
            synchronous_commit=synchronous_commit if count else None,
        )

    def wait_until_caught_up(self, timeout: float = _PATIENCE) -> None:
        """Return once all standbys that run show what was committed on the primary before this call.

        Not what was committed with ``synchronous_commit=off``. Raises `TimeoutError` after *timeout* seconds, so with
        a standby that is paused.
        """
        deadline = time.monotonic() + timeout
        ((position,),) = self.primary.execute("SELECT pg_current_wal_flush_lsn()::text")
        for standby in [standby for standby in self.standbys if standby.running]:
            try:
                until(lambda: standby.has_replayed(position), deadline - time.monotonic())  # noqa: B023
            except TimeoutError:
                raise TimeoutError(f"{standby!r} has not replayed {position} after {timeout} s") from None

    def pause_replay(self, standby: PostgresHost) -> None:
        """Have *standby* fall behind: it receives, and shows nothing new. Ends with a restart, too."""
        standby.execute("SELECT pg_wal_replay_pause()")
        until(lambda: standby.execute("SELECT pg_get_wal_replay_pause_state()") == [("paused",)], _PATIENCE)

    def resume_replay(self, standby: PostgresHost) -> None:
        """Have *standby* go on after a pause. Returns before it has caught up; no error if it was not paused."""
        standby.execute("SELECT pg_wal_replay_resume()")

    def promote(self, standby: PostgresHost, timeout: float = 30.0) -> None:
        """Make *standby* the primary; it takes writes on return, and waits for no standby.

        Touches nobody else: a primary that still runs goes on taking writes, other standbys go on following it, and a
        standby that was ahead of this one can't follow it any more. Raises `TimeoutError` after *timeout* seconds.
        """
        self.standbys.remove(standby)
        ((done,),) = standby.execute("SELECT pg_promote(true, %s)", (int(timeout),))
        if not done:
            raise TimeoutError(f"{standby!r} is still a standby after {timeout} s")
        self.primary, standby.upstream = standby, None

    def repoint(self, standby: PostgresHost, new_primary: PostgresHost, timeout: float = _PATIENCE) -> None:
        """Have *standby* follow *new_primary*; returns once it does.

        Raises `ServerDidNotStart` if it does not within *timeout* seconds. It can't when it has what the new primary
        never had: `rejoin` it then. Nor while it is paused.
        """
        standby.follow(new_primary)
        standby.wait_until_streaming(timeout)

    def rejoin(self, old_primary: PostgresHost, new_primary: PostgresHost) -> None:
        """Bring a former primary back, killed or not, as the last of `standbys`; what only it had is lost.

        It is made anew, not by pg_rewind: a second at most on databases of this size, and whatever its state.
        """
        old_primary.clone(new_primary)
        old_primary.wait_until_streaming()
        if old_primary not in self.standbys:
            self.standbys.append(old_primary)

    def ensure_running(self) -> None:
        """Have all hosts run and follow `primary`, whoever that is now, after a test that left them otherwise."""
        self.primary.ensure_running()
        for host in self.hosts:
            if host is self.primary:
                continue
            if host in self.standbys and host.upstream is self.primary:
                host.ensure_running()
                self.resume_replay(host)
                host.wait_until_streaming()
            else:  # it may have what the primary never had
                self.rejoin(host, self.primary)
        self.set_synchronous(*self._synchronous)


class MariaDBHost(MariaDBServer):
    """One server of a pair: the primary, or the replica of *upstream*.

    `url()` logs in as `app`, which may do anything in every database and nothing beyond, so that `read_only` holds for
    it; for the administrator of `execute` it does not.
    """

    user = "app"

    def __init__(
        self, number: int, *, upstream: MariaDBHost | None = None, settings: Mapping[str, object] | None = None
    ) -> None:
        self.upstream = upstream
        replication = {
            "server-id": number,
            # Names without the machine's in them.
            "log-bin": "binlog",
            "relay-log": "relay",
            "log-slave-updates": "ON",
            "read-only": "ON" if upstream else "OFF",
        }
        super().__init__(settings={**replication, **(settings or {})})

    def _first_start(self) -> None:
        if self.upstream is None:
            super()._first_start()
            self.create_user(self.user)
            return
        # All that `_first_start` made on the primary comes with the rest, the administrator too.
        with contextlib.closing(self._connect(_ROOT, self.port)) as connection, connection.cursor() as cursor:
            cursor.execute(
                # The administrator's port lets the replica in when clients took every connection, and his account
                # is none of the `sessions` that tests count and kill.
                f"CHANGE MASTER TO MASTER_HOST='{self.host}', MASTER_PORT={self.upstream._admin_port},"
                f" MASTER_USER='{_ADMIN}', MASTER_USE_GTID=slave_pos,"
                # Seconds until it tries again to reach its primary; default, 60.
                " MASTER_CONNECT_RETRY=1,"
                # From 11.4 on a replica asks for TLS, unless told (MDEV-31857).
                " MASTER_SSL=0, MASTER_SSL_VERIFY_SERVER_CERT=0"
            )
            cursor.execute("START SLAVE")
            cursor.execute("SELECT MASTER_GTID_WAIT(%s, %s)", (self.upstream.position(), _PATIENCE))
            if cursor.fetchone() != (0,):
                raise ServerDidNotStart(f"{self!r} follows nobody; its log ends:\n{self.log_tail()}")

    def create_user(self, name: str, *privileges: str) -> None:
        """Create an account like `app`, which has *privileges* on the whole server in addition; see `url(user=)`."""
        self.execute(f"CREATE USER {name}@'%'")
        self.execute(f"GRANT ALL ON `%`.* TO {name}@'%'")
        if privileges:
            self.execute(f"GRANT {', '.join(privileges)} ON *.* TO {name}@'%'")

    def position(self) -> str:
        """The GTID of the last transaction in its binary log."""
        ((position,),) = self.execute("SELECT @@gtid_binlog_pos")
        return str(position)


class MariaDBPair(_Group):
    """A primary and a replica that follows it by GTIDs and is read-only; they start and close with it.

    Raises `ServerNotInstalled`. Databases and users are made on the primary, and the replica has them once it has
    caught up. `replica.execute` is refused no write, and nothing but `execute` should make any there.
    """

    MONITORING: ClassVar[tuple[str, ...]] = ("SLAVE MONITOR", "BINLOG MONITOR")
    """What an account needs to see SHOW SLAVE STATUS, and SHOW MASTER STATUS: for `primary.create_user`."""

    def __init__(self, *, settings: Mapping[str, object] | None = None) -> None:
        self.primary = MariaDBHost(1, settings=settings)
        self.replica = MariaDBHost(2, upstream=self.primary, settings=settings)
        self.hosts: Sequence[MariaDBHost] = (self.primary, self.replica)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} primary={self.primary!r} replica={self.replica!r}>"

    def wait_until_caught_up(self, timeout: float = _PATIENCE) -> None:
        """Return once the replica shows what was committed on the primary before this call.

        Raises `TimeoutError` after *timeout* seconds, so with a replica that is paused.
        """
        position = self.primary.position()
        ((answer,),) = self.replica.execute("SELECT MASTER_GTID_WAIT(%s, %s)", (position, timeout))
        if answer != 0:
            raise TimeoutError(
                f"{self.replica!r} has not replayed {position} after {timeout} s; its log ends:\n"
                + self.replica.log_tail(5)
            )

    def pause_replay(self) -> None:
        """Have the replica fall behind: it receives, and shows nothing new. Ends with its restart, too."""
        self.replica.execute("STOP SLAVE SQL_THREAD")

    def resume_replay(self) -> None:
        """Have the replica go on after a pause. Returns before it has caught up; no error if it was not paused."""
        self.replica.execute("START SLAVE SQL_THREAD")

    def ensure_running(self) -> None:
        """Have both run, in their roles, after a test that left them otherwise."""
        for host, read_only in ((self.primary, "OFF"), (self.replica, "ON")):
            host.ensure_running()
            host.execute(f"SET GLOBAL read_only = {read_only}")
        self.replica.execute("START SLAVE")
