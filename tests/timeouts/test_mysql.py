"""The time limits of MySQL's and MariaDB's servers: who hits them, and what it costs."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import peewee
import pytest

import peewee_web
from peewee_web.core.faults import is_lost_connection
from tests.core import raw
from tests.core.working import query
from tests.servers.mariadb import MariaDBServer
from tests.servers.waiting import until

# Those that show the pool their socket.
POLLED = ("pymysql", "MySQLdb", raw.PURE, "mariadb")
# The schemes of their URLs.
SCHEMES = {"pymysql": "mysql", "MySQLdb": "mysql", "mariadb": "mariadbconnector"}
# In whole seconds, and the server closes no earlier.
A_SECOND = "SET SESSION wait_timeout = 1"

Connect = Callable[..., Any]


@pytest.fixture(params=[*POLLED, "mysql.connector"])
def driver(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    module = raw.module_of(request.param)
    if request.param in ("pymysql", "MySQLdb"):
        monkeypatch.setattr(peewee, "mysql", module)
    return str(request.param)


@pytest.fixture(scope="module")
def name(mariadb: MariaDBServer) -> Iterator[str]:
    name = f"timeouts_{uuid.uuid4().hex[:12]}"
    mariadb.create_database(name)
    yield name
    mariadb.drop_database(name)


@pytest.fixture
def connect(driver: str, name: str, mariadb: MariaDBServer, pools: list[Any]) -> Connect:
    """Makes pools through *driver*, with the given options."""

    def connect(**options: Any) -> Any:
        url = mariadb.url(name).replace("mysql", SCHEMES.get(driver, "mysqlconnector"), 1)
        pools.append(peewee_web.connect(url, **({"use_pure": True} if driver == raw.PURE else {}), **options))
        return pools[-1]

    return connect


def use(database: Any) -> None:
    with peewee_web.scope():
        query(database)


@pytest.mark.parametrize("driver", POLLED, indirect=True)
def test_a_connection_that_was_idle_for_wait_timeout_is_noticed_before_its_use(
    connect: Connect, name: str, mariadb: MariaDBServer
) -> None:
    database = connect(init_command=A_SECOND)
    use(database)
    until(lambda: mariadb.client_ports(name) == [])
    use(database)
    stats = database.pool_stats()
    assert (stats.created, stats.lost) == (2, 1)


@pytest.mark.parametrize("driver", ["mysql.connector"], indirect=True)
def test_where_no_socket_is_shown_probe_after_has_to_be_shorter_than_wait_timeout(
    connect: Connect, name: str, mariadb: MariaDBServer
) -> None:
    trusting, careful = connect(init_command=A_SECOND), connect(init_command=A_SECOND, probe_after=0.5)
    use(trusting)
    use(careful)
    until(lambda: mariadb.client_ports(name) == [])
    use(careful)
    with peewee_web.scope():
        with pytest.raises(peewee.OperationalError) as caught:
            trusting.execute_sql("DO 1")
        assert is_lost_connection(caught.value.__cause__)
    use(trusting)


@pytest.mark.parametrize("driver", ["pymysql"], indirect=True)
def test_a_transaction_that_stands_still_for_wait_timeout_is_lost(
    connect: Connect, name: str, mariadb: MariaDBServer
) -> None:
    database = connect(init_command=A_SECOND)

    def stand_still() -> None:
        with database.atomic():
            query(database)
            until(lambda: mariadb.client_ports(name) == [])
            query(database)

    with peewee_web.scope():
        with pytest.raises(peewee.OperationalError) as caught:
            stand_still()
        assert is_lost_connection(caught.value.__cause__)
    use(database)


def test_interactive_timeout_is_not_for_us(connect: Connect, mariadb: MariaDBServer) -> None:
    ((interactive, waiting),) = mariadb.execute("SELECT @@GLOBAL.interactive_timeout, @@GLOBAL.wait_timeout")
    mariadb.execute("SET GLOBAL interactive_timeout = 777")
    try:
        database = connect()
        with peewee_web.scope():
            assert database.execute_sql("SELECT @@SESSION.wait_timeout").fetchone()[0] == waiting
    finally:
        mariadb.execute(f"SET GLOBAL interactive_timeout = {interactive}")


def test_a_statement_that_takes_too_long_for_the_server_leaves_a_good_connection(connect: Connect) -> None:
    database = connect(init_command="SET SESSION max_statement_time = 0.1")
    with peewee_web.scope():
        with pytest.raises(peewee.PeeweeException, match="max_statement_time") as caught:
            database.execute_sql("SELECT SLEEP(30)").fetchall()
        assert not is_lost_connection(caught.value)
        query(database)
    assert database.pool_stats().created == 1


@pytest.mark.parametrize("driver", ["pymysql"], indirect=True)
def test_a_statement_that_takes_too_long_for_the_driver_costs_the_connection(connect: Connect) -> None:
    database = connect(read_timeout=1)
    with peewee_web.scope():
        with pytest.raises(peewee.OperationalError) as caught:
            database.execute_sql("DO SLEEP(30)")
        assert is_lost_connection(caught.value.__cause__)
    use(database)
    assert database.pool_stats().created == 2


@pytest.mark.parametrize("driver", ["pymysql"], indirect=True)
def test_a_read_that_takes_too_long_for_the_driver_is_not_run_again(connect: Connect) -> None:
    database = connect(read_timeout=1)
    with peewee_web.scope(), pytest.raises(peewee.OperationalError):
        database.execute_sql("SELECT SLEEP(30)")
    assert database.pool_stats().created == 1


def test_what_is_set_in_a_url_arrives(name: str, mariadb: MariaDBServer) -> None:
    url = mariadb.url(name, init_command="SET SESSION wait_timeout = 123", read_timeout=7, max_idle=60)
    database = peewee_web.connect(url)
    with closing(database.pool), peewee_web.scope():
        assert database.execute_sql("SELECT @@SESSION.wait_timeout").fetchone() == (123,)
    assert database.connect_params["read_timeout"] == 7
    assert database.pool.options.max_idle == 60
