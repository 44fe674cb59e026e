"""Which server of a real cluster answers, and what happens when one of them fails, lags or changes its part."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import peewee
import pytest

import peewee_web
from peewee_web import DatabaseUnavailable
from peewee_web.core.replication import replication_of
from tests.core.working import Working
from tests.replicas.pairs import write_and_read
from tests.replicas.served import Client, Served
from tests.servers.replication import MariaDBPair, PostgresCluster
from tests.servers.waiting import until

Make = Callable[..., Served]


# Routing.


def test_reads_are_spread_within_5_percent_of_even(make: Make, cluster: PostgresCluster) -> None:
    counts = make().ports(400)
    assert counts.keys() == {standby.port for standby in cluster.standbys}
    assert max(counts.values()) <= 1.05 * 200


@pytest.mark.parametrize("prefer_psycopg3", ["true", "false"])
def test_what_writes_or_locks_goes_to_the_primary(make: Make, cluster: PostgresCluster, prefer_psycopg3: str) -> None:
    served = make(prefer_psycopg3)
    Note = served.Note
    inserted = peewee.CTE("inserted", Note.insert(text="by a CTE").returning(Note.text))
    statements: dict[str, Callable[[], Any]] = {
        "for update": lambda: list(Note.select().for_update()),
        "a CTE that writes": lambda: list(
            Note.select(peewee.SQL("inserted.text")).from_(peewee.SQL("inserted")).with_cte(inserted).tuples()
        ),
        "insert returning": lambda: list(Note.insert(text="returned").returning(Note)),
        "raw": lambda: served.database.execute_sql("SELECT pg_is_in_recovery()").fetchone(),
        "advisory lock": lambda: Note.select(peewee.fn.pg_try_advisory_xact_lock(1)).scalar(),
    }
    for what, run in statements.items():
        with served.databases.scope() as scope:
            run()
            held = [database for database, state in scope.states.items() if not state.closed]
            assert held == [served.databases_made[0]], what


def test_a_read_that_a_standby_cancels_is_run_on_the_primary(make: Make, cluster: PostgresCluster) -> None:
    """What the standby replays removes rows that the read still needs (PostgreSQL's manual, 26.4.2)."""
    served = make()
    standby = cluster.standbys[0]
    served.database.remove_replica(served.databases_made[2])
    standby.alter_system(max_standby_streaming_delay="0")
    try:
        with served.databases.scope():
            slow = served.Note.select(peewee.SQL("inet_server_port(), pg_sleep(0.5)")).tuples()

            def vacuum() -> None:
                until(lambda: any(each.state == "active" for each in standby.sessions(served.name)))
                cluster.primary.execute("DELETE FROM note", database=served.name)
                cluster.primary.execute("VACUUM note", database=served.name)

            vacuuming = Working(None, vacuum)
            rows = list(slow)
            vacuuming.result()
        assert rows == []  # the primary has none any more
    finally:
        standby.alter_system(max_standby_streaming_delay=None)


# Servers that fail.


def test_a_standby_that_is_killed_costs_no_read_and_comes_back(
    make: Make, cluster: PostgresCluster, caplog: pytest.LogCaptureFixture
) -> None:
    served = make(look_every=0.2)
    dead, alive = cluster.standbys
    served.ports(4)
    dead.kill()
    assert set(served.ports(20)) == {alive.port}
    assert f"no reads go to 127.0.0.1:{dead.port}" in caplog.text
    dead.start()
    until(lambda: dead.port in served.ports(2), 20)
    assert f"reads go to 127.0.0.1:{dead.port} again" in caplog.text


def test_without_any_standby_the_primary_reads(make: Make, cluster: PostgresCluster) -> None:
    served = make()
    for standby in cluster.standbys:
        standby.kill()
    assert set(served.ports(4)) == {cluster.primary.port}


def test_without_fallback_there_is_no_database(make: Make, cluster: PostgresCluster) -> None:
    served = make(fallback=False)
    for standby in cluster.standbys:
        standby.kill()
    with pytest.raises(DatabaseUnavailable, match="no replica can be read from"):
        served.ports(1)


def test_a_standby_that_is_late_is_left_out(make: Make, cluster: PostgresCluster) -> None:
    served = make(max_lag=1, look_every=0.1)
    late, _ = cluster.standbys
    served.ports(2)
    cluster.pause_replay(late)
    served.Note.create(text="not replayed")
    served.database.close()
    until(lambda: late.port not in served.ports(4), 10)
    cluster.resume_replay(late)
    until(lambda: late.port in served.ports(4), 20)


def test_a_standby_that_is_behind_by_bytes_is_left_out(make: Make, cluster: PostgresCluster) -> None:
    served = make(max_lag_bytes=10_000, look_every=0.1)
    late, _ = cluster.standbys
    served.ports(2)
    cluster.pause_replay(late)
    cluster.primary.execute("INSERT INTO note (text) SELECT 'x' FROM generate_series(1, 1000)", database=served.name)
    until(lambda: late.port not in served.ports(4), 10)


def test_the_first_read_after_a_standby_died_waits_for_none(make: Make, cluster: PostgresCluster) -> None:
    served = make()
    served.ports(2)
    cluster.standbys[0].kill()
    begun = time.monotonic()
    served.ports(4)
    assert time.monotonic() - begun < 3  # the pools' timeout is 5


def test_a_thread_without_a_scope_does_not_stay_with_one_that_falls_behind(
    make: Make, cluster: PostgresCluster
) -> None:
    served = make(max_lag=1, look_every=0.1)
    served.port()
    for standby in cluster.standbys:
        cluster.pause_replay(standby)
    cluster.primary.execute("INSERT INTO note (text) VALUES ('new')", database=served.name)
    until(lambda: served.port() == cluster.primary.port, 10)
    served.database.close()


def test_while_the_primary_is_away_a_late_standby_is_better_than_none(make: Make, cluster: PostgresCluster) -> None:
    served = make(max_lag=0.5, look_every=0.1)
    served.ports(2)
    cluster.primary.kill()
    with pytest.raises(DatabaseUnavailable), served.databases.scope():
        served.Note.create(text="nowhere")
    standbys = {standby.port for standby in cluster.standbys}
    begun = time.monotonic()
    while time.monotonic() - begun < 2:  # by then they are late, as nobody writes
        assert set(served.ports(2)) <= standbys
        time.sleep(0.1)


def test_a_server_that_is_no_standby_is_left_out(make: Make, cluster: PostgresCluster) -> None:
    served = make()
    stranger = served.connect(cluster.primary)
    served.database.add_replica(stranger)
    assert cluster.primary.port not in served.ports(9)
    status = served.database.check_connections()[-1]
    assert (status.is_used, status.reason) == (False, "it is not a standby")
    stranger.close_all()


def test_a_pool_that_is_told_of_a_read_only_server_replaces_its_connections(
    make: Make, cluster: PostgresCluster
) -> None:
    database = make().connect(cluster.standbys[0])
    with peewee_web.scope():
        before = database.pool.checkout()
        database.pool.checkin(before)
        with pytest.raises(peewee.PeeweeException, match="read-only"):
            database.execute_sql("INSERT INTO note (text) VALUES ('x')")
        database.execute_sql("SELECT 1")
        (lease,) = database.pool.ledger.everything()[1]
        assert lease.connection is not before.connection
    database.close_all()


def test_the_statuses_tell_how_each_stands(make: Make, cluster: PostgresCluster) -> None:
    primary, *standbys = make().database.check_connections()
    assert (primary.name, primary.role, primary.is_used) == (f"127.0.0.1:{cluster.primary.port}", "primary", True)
    assert [each.role for each in standbys] == ["replica", "replica"]
    reached = replication_of(peewee.PostgresqlDatabase(None)).has_reached
    for each in standbys:
        assert each.position is not None
        assert primary.position is not None
        assert each.is_used
        assert each.lag is not None
        assert reached(primary.position, each.position)


# Reading one's own writes.


def test_a_client_that_wrote_reads_from_a_standby_that_has_replayed_it(make: Make, cluster: PostgresCluster) -> None:
    served = make()
    client = Client(served)
    client.write("mine")
    cluster.wait_until_caught_up()
    assert client.read("mine") in {standby.port for standby in cluster.standbys}


def test_and_from_the_primary_while_none_has(make: Make, cluster: PostgresCluster) -> None:
    served = make()
    client = Client(served)
    for standby in cluster.standbys:
        cluster.pause_replay(standby)
    client.write("mine")
    assert client.read("mine") == cluster.primary.port
    assert Client(served).read("") in {standby.port for standby in cluster.standbys}


def test_a_bookmark_takes_no_connection_but_the_requests_own(make: Make, cluster: PostgresCluster) -> None:
    """If each request that wrote were to wait for a second one, all would wait for each other."""
    served = make()
    client = Client(served)
    client.write("before")
    lent = [(pool, pool.checkout()) for pool in (each.pool for each in served.databases_made) for _ in range(3)]
    client.write("mine")
    cluster.wait_until_caught_up()
    assert client.read("mine") in {standby.port for standby in cluster.standbys}
    for pool, lease in lent:
        pool.checkin(lease)


def test_a_thousand_pairs_of_requests_miss_no_write_while_replay_pauses_at_random(
    make: Make, cluster: PostgresCluster
) -> None:
    assert write_and_read(make(look_every=0.2), cluster, pairs=1000, threads=4) == 0


# MariaDB.


@pytest.fixture
def make_on_mariadb(pair: MariaDBPair) -> Iterator[Make]:
    made: list[Served] = []

    def make(**options: Any) -> Served:
        made.append(Served(pair.primary, [pair.replica], options))
        made[-1].create()
        made[-1].Note.create(text="a row")
        made[-1].database.close()
        pair.wait_until_caught_up()
        return made[-1]

    yield make
    pair.ensure_running()
    for served in made:
        served.close()


def test_mariadb_reads_from_its_replica(make_on_mariadb: Make, pair: MariaDBPair) -> None:
    assert set(make_on_mariadb().ports(4)) == {pair.replica.port}


def test_mariadb_writes_to_its_primary(make_on_mariadb: Make, pair: MariaDBPair) -> None:
    served = make_on_mariadb()
    with served.databases.scope():
        served.Note.create(text="new")
        assert served.port() == pair.primary.port


def test_mariadb_shows_clients_what_they_have_written(make_on_mariadb: Make, pair: MariaDBPair) -> None:
    client = Client(make_on_mariadb())
    pair.pause_replay()
    client.write("mine")
    assert client.read("mine") == pair.primary.port
    pair.resume_replay()
    pair.wait_until_caught_up()
    until(lambda: client.read("mine") == pair.replica.port, 5)


def test_mariadbs_replica_is_left_out_while_it_does_not_replicate(make_on_mariadb: Make, pair: MariaDBPair) -> None:
    user = "watcher_" + uuid.uuid4().hex[:6]
    pair.primary.create_user(user, *pair.MONITORING)
    pair.wait_until_caught_up()
    served = make_on_mariadb(url_options={"user": user}, look_every=0.1)
    served.ports(1)
    pair.pause_replay()
    until(lambda: set(served.ports(2)) == {pair.primary.port}, 10)
    pair.resume_replay()
    until(lambda: set(served.ports(2)) == {pair.replica.port}, 20)


def test_without_the_right_to_know_of_it_mariadbs_replica_is_used(
    make_on_mariadb: Make, caplog: pytest.LogCaptureFixture
) -> None:
    served = make_on_mariadb()
    with caplog.at_level(logging.WARNING, "peewee_web"):
        served.ports(2)
    assert caplog.text == ""
