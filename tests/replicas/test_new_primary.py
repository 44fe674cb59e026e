"""What an app does when another server is the primary: which it follows, which it does not, and what that costs."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Callable, Iterator

import peewee
import psycopg
import pytest

import peewee_web
from peewee_web import DatabaseUnavailable
from tests.core.forking import Child
from tests.core.working import Working
from tests.replicas.served import Client, Served
from tests.servers.fixtures import _run
from tests.servers.postgres import PostgresServer
from tests.servers.replication import MariaDBPair, PostgresCluster
from tests.servers.waiting import until

Make = Callable[..., Served]


def write(served: Served, text: str) -> None:
    served.databases.scope()(served.Note.create)(text=text)


# Which is followed.


def test_a_new_primary_is_written_to(make: Make, cluster: PostgresCluster, caplog: pytest.LogCaptureFixture) -> None:
    served = make()
    served.ports(2)
    before, (after, other) = cluster.primary, cluster.standbys
    before.kill()
    cluster.promote(after)
    cluster.repoint(other, after)
    begun = time.monotonic()
    with served.databases.scope():
        served.Note.create(text="on the new one")
    assert time.monotonic() - begun < 5
    assert served.database.get_write() is served.databases_made[1]
    assert f"127.0.0.1:{after.port} is the primary now" in caplog.text
    assert set(served.ports(4)) == {other.port}


def test_so_is_one_that_took_over_while_the_old_one_became_a_standby(make: Make, cluster: PostgresCluster) -> None:
    """Nobody hangs up then: the statement is refused, and goes to the other."""
    served = make()
    served.ports(2)
    before, (after, _) = cluster.primary, cluster.standbys
    with served.databases.scope():
        served.Note.create(text="on the old one")
    before.kill()
    cluster.promote(after)
    cluster.rejoin(before, after)
    with served.databases.scope():
        served.Note.create(text="on the new one")
    assert served.database.get_write() is served.databases_made[1]


def test_the_old_primary_serves_reads_when_it_is_back_as_a_standby(make: Make, cluster: PostgresCluster) -> None:
    served = make(look_every=0.2)
    before, (after, other) = cluster.primary, cluster.standbys
    before.kill()
    cluster.promote(after)
    cluster.repoint(other, after)
    served.database.get_write()
    with served.databases.scope():
        served.Note.create(text="on the new one")
    cluster.rejoin(before, after)
    until(lambda: before.port in served.ports(4), 30)
    assert after.port not in served.ports(8)


def test_a_transaction_that_met_the_failover_fails_and_the_next_one_works(make: Make, cluster: PostgresCluster) -> None:
    served = make()
    after = cluster.standbys[0]

    def meet_it() -> None:
        with served.database.atomic():
            served.Note.create(text="lost")
            cluster.primary.kill()
            cluster.promote(after)
            served.Note.create(text="lost as well")

    with served.databases.scope():
        with pytest.raises(peewee.PeeweeException):
            meet_it()
        with served.database.atomic():
            served.Note.create(text="kept")
    texts = [text for (text,) in after.execute("SELECT text FROM note WHERE text <> 'a row'", database=served.name)]
    assert texts == ["kept"]


def test_libpqs_own_list_of_hosts_leads_to_the_new_primary(make: Make, cluster: PostgresCluster) -> None:
    served = make()
    before, after = cluster.primary, cluster.standbys[0]
    hosts = f"127.0.0.1:{before.port},127.0.0.1:{after.port}"
    url = before.url(served.name, prefer_psycopg3="true", target_session_attrs="read-write")
    database = peewee_web.connect(url.replace(f"127.0.0.1:{before.port}", hosts), timeout=5)
    with peewee_web.scope():
        database.execute_sql("INSERT INTO note (text) VALUES ('before')")
    before.kill()
    cluster.promote(after)
    with peewee_web.scope():
        database.execute_sql("INSERT INTO note (text) VALUES ('after')")
        assert database.execute_sql("SELECT inet_server_port()").fetchone() == (after.port,)
    database.close_all()


def test_workers_that_were_forked_follow_as_well(make: Make, cluster: PostgresCluster) -> None:
    served = make()
    served.database.close_idle()
    reader, writer = os.pipe()

    def work() -> None:
        os.read(reader, 1)
        write(served, "in the child")

    child = Child(work)
    after = cluster.standbys[0]
    cluster.primary.kill()
    cluster.promote(after)
    os.write(writer, b"x")
    child.result()
    assert after.execute("SELECT text FROM note WHERE text = 'in the child'", database=served.name)


@pytest.mark.parametrize("atomic", ["requests", "blocks"])
def test_so_does_an_app_that_writes_in_transactions_only(make: Make, cluster: PostgresCluster, atomic: str) -> None:
    served = make()
    before, after = cluster.primary, cluster.standbys[0]
    before.kill()
    cluster.promote(after)
    cluster.rejoin(before, after)

    def work() -> None:
        with served.databases.scope(atomic=atomic == "requests"), served.database.atomic():
            served.Note.create(text="new")

    with pytest.raises(DatabaseUnavailable, match="the primary has become a standby"):
        work()
    work()


def test_an_event_loop_does_not_notice_it(make: Make, cluster: PostgresCluster) -> None:
    served = make()
    cluster.primary.kill()
    cluster.promote(cluster.standbys[0])

    async def request() -> None:
        async with served.databases.scope():
            served.Note.create(text="new")

    asyncio.run(request())


def test_a_block_that_is_the_first_thing_a_request_does_goes_there(make: Make, cluster: PostgresCluster) -> None:
    served = make()
    served.database.close_idle()
    cluster.primary.kill()
    cluster.promote(cluster.standbys[0])
    with served.databases.scope(atomic=True), served.database.atomic():
        served.Note.create(text="new")


def test_all_who_are_refused_at_once_go_there(make: Make, cluster: PostgresCluster) -> None:
    """As many as there are connections."""
    served = make()
    before, after = cluster.primary, cluster.standbys[0]
    before.kill()
    cluster.promote(after)
    cluster.rejoin(before, after)
    for writing in [Working(None, lambda: write(served, "new")) for _ in range(4)]:
        writing.result()


def test_a_standby_that_hangs_does_not_keep_it_from_being_found(make: Make, cluster: PostgresCluster) -> None:
    served = make(look_every=0.1)
    served.ports(4)
    after, hung = cluster.standbys
    hung.freeze()
    try:
        served.databases.scope()(served.database.get_read)()
        cluster.primary.kill()
        cluster.promote(after)
        write(served, "new")
    finally:
        hung.thaw()


# Which is not.


def test_a_server_of_another_cluster_is_none_to_follow(make: Make, cluster: PostgresCluster) -> None:
    served = make()
    served.ports(2)
    with PostgresServer() as stranger:
        stranger.create_database(served.name)
        stranger.execute("CREATE TABLE note (id serial PRIMARY KEY, text text)", database=served.name)
        other = served.database.add_replica(served.connect(stranger))
        served.database.check_connections()
        cluster.primary.kill()
        with pytest.raises(DatabaseUnavailable):
            write(served, "precious")
        assert stranger.execute("SELECT text FROM note", database=served.name) == []
        served.database.remove_replica(other)


def test_a_primary_that_has_no_connection_to_spare_is_still_the_primary(make: Make, cluster: PostgresCluster) -> None:
    served = make()
    served.ports(2)
    served.database.close_idle()
    primary, other = cluster.primary, cluster.standbys[0]
    with contextlib.closing(psycopg.connect(primary.url(served.name))):
        primary.execute(f"ALTER DATABASE {served.name} CONNECTION LIMIT 1")
        cluster.promote(other)  # by mistake
        with pytest.raises(DatabaseUnavailable, match="too many connections"):
            write(served, "precious")
        assert served.database.get_write() is served.databases_made[0]
    primary.execute(f"ALTER DATABASE {served.name} CONNECTION LIMIT -1")


def test_a_primary_of_before_is_not_gone_back_to(make: Make, cluster: PostgresCluster) -> None:
    served = make()
    before, after = cluster.primary, cluster.standbys[0]
    before.kill()
    cluster.promote(after)
    write(served, "on the new one")
    before.start()  # as the primary that it was
    after.kill()
    with pytest.raises(DatabaseUnavailable):
        write(served, "precious")
    assert before.execute("SELECT text FROM note WHERE text = 'precious'", database=served.name) == []


def test_a_standby_that_follows_the_old_primary_has_nothing_of_the_new_one(
    make: Make, cluster: PostgresCluster
) -> None:
    """The old one was only cut off from the app, and goes on being written to by others."""
    served = make()
    served.ports(4)
    old, (new, other) = cluster.primary, cluster.standbys
    cluster.promote(new)
    served.database._members.failover.look()
    old.execute("INSERT INTO note (text) SELECT 'by others' FROM generate_series(1, 2000)", database=served.name)
    client = Client(served)
    client.write("mine")
    until(lambda: other.has_replayed("0/1"))
    assert client.read("mine") == new.port
    assert served.database.check_connections()[1].reason == "it does not follow the new primary yet"


# MariaDB.


@pytest.fixture
def own_pair() -> Iterator[MariaDBPair]:
    """One that is thrown away afterwards."""
    yield from _run(MariaDBPair)  # type: ignore[arg-type, misc]


@pytest.mark.parametrize("may_know", [True, False])
def test_a_replica_of_mariadb_that_became_the_primary_is_followed_if_its_user_may_know(
    own_pair: MariaDBPair, may_know: bool
) -> None:
    pair = own_pair
    pair.primary.create_user("watcher", *(pair.MONITORING if may_know else ()))
    pair.wait_until_caught_up()
    served = Served(pair.primary, [pair.replica], {"url_options": {"user": "watcher"}})
    served.create()
    write(served, "before")
    pair.wait_until_caught_up()
    served.ports(1)
    pair.primary.kill()
    for statement in ("STOP SLAVE", "RESET SLAVE ALL", "SET GLOBAL read_only = OFF"):
        pair.replica.execute(statement)
    if may_know:
        write(served, "on the new one")
        assert pair.replica.execute("SELECT text FROM note WHERE text LIKE 'on%'", database=served.name)
    else:
        with pytest.raises(DatabaseUnavailable):
            write(served, "nowhere")
    served.server = pair.replica
    served.close()
