"""Databases described as Django's are opened as Peewee's, on real servers."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

import peewee
import pytest

import peewee_web
from peewee_web.django.engines import open_described


def like(engine: str, name: Any = "notes", **described: Any) -> Any:
    return open_described({"ENGINE": f"django.db.backends.{engine}", "NAME": name, **described})


def described(url: str) -> dict[str, Any]:
    """As a project writes it in DATABASES."""
    parts = urlsplit(url)
    return {
        "NAME": parts.path[1:],
        "USER": parts.username or "",
        "PASSWORD": parts.password or "",
        "HOST": parts.hostname or "",
        "PORT": str(parts.port or ""),
    }


@pytest.mark.parametrize(
    ("engine", "expected"),
    [
        ("postgresql", peewee_web.PooledPostgresqlDatabase),
        ("mysql", peewee_web.PooledMySQLDatabase),
        ("sqlite3", peewee_web.PooledSqliteDatabase),
    ],
)
def test_each_engine_has_its_like(engine: str, expected: type) -> None:
    database = like(engine)
    assert isinstance(database, expected)
    assert database.database == "notes"


def test_what_is_left_empty_is_left_out() -> None:
    assert like("postgresql", USER="", PASSWORD="", HOST="", PORT="").connect_params == {}


def test_the_pool_has_options_of_its_own() -> None:
    assert like("postgresql", POOL={"max_connections": 3}).pool.options.max_connections == 3


def test_options_of_djangos_pool_are_taken_over() -> None:
    database = like("postgresql", OPTIONS={"pool": {"min_size": 2, "max_size": 4, "timeout": 3}, "sslmode": "require"})
    assert (database.pool.options.max_connections, database.pool.options.timeout) == (4, 3)
    assert database.connect_params == {"sslmode": "require"}
    assert like("postgresql", OPTIONS={"pool": True}).connect_params == {}


def test_a_socket_is_a_host_to_django_and_not_to_mysql_drivers() -> None:
    assert like("mysql", HOST="/run/mysqld.sock").connect_params["unix_socket"] == "/run/mysqld.sock"


def test_an_isolation_level_beside_an_init_command_is_refused() -> None:
    with pytest.raises(ValueError, match="set the level in the init_command"):
        like("mysql", OPTIONS={"isolation_level": "serializable", "init_command": "SET x=1"})


def test_sqlites_options(tmp_path: Any) -> None:
    options = {
        "timeout": 7.5,
        "transaction_mode": "exclusive",
        "init_command": "PRAGMA synchronous=off; PRAGMA cache_size = -4000;",
        "check_same_thread": True,
        "cached_statements": 9,
    }
    database = like("sqlite3", tmp_path / "x.db", OPTIONS=options)
    with peewee_web.scope():
        pragmas = [
            database.execute_sql(f"PRAGMA {name}").fetchone()[0]
            for name in ("busy_timeout", "synchronous", "cache_size", "journal_mode", "foreign_keys")
        ]
    assert pragmas == [7500, 0, -4000, "wal", 1]
    assert database._lock_type == "EXCLUSIVE"
    assert database.connect_params == {"cached_statements": 9, "check_same_thread": False}
    database.close_all()


def test_an_init_command_that_is_no_pragma_is_refused() -> None:
    with pytest.raises(ValueError, match="'ATTACH y': here it may hold `PRAGMA name = value;` only"):
        like("sqlite3", OPTIONS={"init_command": "PRAGMA synchronous=off; ATTACH y"})


def test_a_postgresql_server_takes_it(postgres: Any) -> None:
    postgres.create_database("django_engine")
    settings = described(postgres.url("django_engine"))
    postgres.execute('CREATE ROLE "a role"')
    postgres.execute(f'GRANT "a role" TO "{settings["USER"]}"')
    options = {"assume_role": "a role", "application_name": "notes", "isolation_level": 3}
    try:
        database = like("postgresql", **settings | {"OPTIONS": options})
        with peewee_web.scope():
            row = database.execute_sql("SELECT current_user, current_setting('application_name')").fetchone()
            with database.atomic():
                level = database.execute_sql("SHOW transaction_isolation").fetchone()[0]
        assert (*row, level) == ("a role", "notes", "repeatable read")
        database.close_all()
    finally:
        postgres.drop_database("django_engine")
        postgres.execute('DROP ROLE "a role"')


def test_a_mysql_server_takes_it(mariadb: Any) -> None:
    mariadb.create_database("django_engine")
    try:
        options = {"isolation_level": "read committed", "connect_timeout": 5}
        database = like("mysql", **described(mariadb.url("django_engine")) | {"OPTIONS": options})
        with peewee_web.scope():
            row = database.execute_sql("SELECT DATABASE(), @@session.tx_isolation").fetchone()
        assert row == ("django_engine", "READ-COMMITTED")
        assert isinstance(database, peewee.MySQLDatabase)
        database.close_all()
    finally:
        mariadb.drop_database("django_engine")
