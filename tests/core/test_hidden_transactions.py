"""A transaction that the server opened and then did not speak of: MySQL's answer that reports an error has no flags."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

import peewee
import pytest

import peewee_web
from tests.core.working import saved
from tests.servers.mariadb import MariaDBServer

MODULES = {"mysql": "pymysql", "mysqlconnector": "mysql.connector", "mariadbconnector": "mariadb"}


@pytest.fixture(params=MODULES)
def database(request: pytest.FixtureRequest, mariadb: MariaDBServer) -> Iterator[Any]:
    pytest.importorskip(MODULES[request.param], exc_type=ImportError)
    name = f"hidden_{uuid.uuid4().hex[:12]}"
    mariadb.create_database(name)
    url = mariadb.url(name).replace("mysql://", f"{request.param}://")
    database = peewee_web.connect(url, max_connections=1)
    with database.connection_context():
        database.execute_sql("CREATE TABLE note (text VARCHAR(99))")
        database.execute_sql(
            "CREATE PROCEDURE begins_and_fails() BEGIN START TRANSACTION; INSERT INTO note VALUES ('lost');"
            " SIGNAL SQLSTATE '45000'; END"
        )
    yield database
    database.close_all()
    mariadb.drop_database(name)


def test_a_failed_procedure_leaves_no_transaction_to_the_next_request(database: Any) -> None:
    with peewee_web.scope(), pytest.raises(peewee.PeeweeException):
        database.execute_sql("CALL begins_and_fails()")
    with peewee_web.scope():
        database.execute_sql("INSERT INTO note VALUES ('kept')")
    database.close_idle()  # with the session goes what it had not committed
    assert saved(database) == ["kept"]
