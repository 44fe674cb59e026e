"""``connect(url)``: what is read from a URL, what is refused, and that no password is ever repeated."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import peewee
import pytest

import peewee_web
from peewee_web import PooledMySQLDatabase, PooledPostgresqlDatabase, PooledSqliteDatabase
from tests.core.working import Served, query
from tests.servers.ports import free_port


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        ("sqlite:///x.db", PooledSqliteDatabase),
        ("sqlite+pool:///x.db", PooledSqliteDatabase),
        ("postgres://h/d", PooledPostgresqlDatabase),
        ("postgresql://h/d", PooledPostgresqlDatabase),
        ("postgresql+pool://h/d", PooledPostgresqlDatabase),
        ("POSTGRESQL://h/d", PooledPostgresqlDatabase),
        ("mysql://h/d", PooledMySQLDatabase),
        ("mariadb://h/d", PooledMySQLDatabase),
    ],
)
def test_the_scheme_chooses_the_class(url: str, kind: type) -> None:
    assert type(peewee_web.connect(url)) is kind


@pytest.mark.parametrize("scheme", ["psycopg3", "postgresext", "cockroachdb"])
def test_another_scheme_that_peewee_knows_gives_a_pool_as_well(scheme: str) -> None:
    database = peewee_web.connect(f"{scheme}://h/d", max_connections=3)
    assert isinstance(database, peewee_web.PooledDatabase)
    assert isinstance(database, peewee.PostgresqlDatabase)
    assert repr(database).endswith("Database 0/3 in use, 0 idle, 0 waiting>")


def test_the_parts_of_the_url_are_read() -> None:
    database = peewee_web.connect("postgresql://user:secret@host:1234/name")
    assert database.database == "name"
    assert database.connect_params == {"user": "user", "password": "secret", "host": "host", "port": 1234}


@pytest.mark.parametrize("scheme", ["postgresql", "mysql", "mariadb"])
def test_user_and_password_are_decoded(scheme: str) -> None:
    parameters = peewee_web.connect(f"{scheme}://a%40b:p%40ss%2Fw%3Ard%25@host/name").connect_params
    assert (parameters["user"], parameters["password"]) == ("a@b", "p@ss/w:rd%")
    assert "passwd" not in parameters


def test_an_ipv6_address_is_a_host() -> None:
    parameters = peewee_web.connect("postgresql://[::1]:5433/name").connect_params
    assert (parameters["host"], parameters["port"]) == ("::1", 5433)


def test_options_come_from_the_query() -> None:
    database = peewee_web.connect(
        "postgresql://h/d?max_connections=7&timeout=2.5&stale_timeout=60&connect_timeout=3&prefer_psycopg3=true"
    )
    assert (
        database.pool.options.max_connections,
        database.pool.options.timeout,
        database.pool.options.max_lifetime,
    ) == (7, 2.5, 60)
    assert database.connect_params["connect_timeout"] == 3
    assert type(database._adapter).__name__ == "Psycopg3Adapter"


def test_options_given_in_code_win_over_the_query() -> None:
    database = peewee_web.connect("sqlite:///x.db?max_connections=7&timeout=1", max_connections=2)
    assert (database.pool.options.max_connections, database.pool.options.timeout) == (2, 1)


@pytest.mark.parametrize(("timeout", "expected"), [("none", None), ("0", 0)])
def test_the_timeout_may_be_switched_off_or_without_limit(timeout: str, expected: float | None) -> None:
    assert peewee_web.connect(f"sqlite:///x.db?timeout={timeout}").pool.options.timeout == expected


def test_the_defaults_of_the_pool() -> None:
    database = peewee_web.connect("sqlite:///x.db")
    assert (
        database.pool.options.max_connections,
        database.pool.options.timeout,
        database.pool.options.max_lifetime,
    ) == (20, 10.0, 3600)


def test_a_server_is_reached_by_its_url(served: Served) -> None:
    with peewee_web.scope():
        assert query(served.database) == 1


# SQLite


def opened(url: str, **options: Any) -> Any:
    database = peewee_web.connect(url, **options)
    database.connect()
    return database


def test_a_relative_and_an_absolute_path(tmp_path: Path) -> None:
    assert peewee_web.connect("sqlite:///data/x.db").database == "data/x.db"
    assert peewee_web.connect(f"sqlite:///{tmp_path}/x.db").database == f"{tmp_path}/x.db"


def test_sqlite_serves_readers_while_one_writes(tmp_path: Path) -> None:
    database = opened(f"sqlite:///{tmp_path}/x.db")
    pragmas = ["journal_mode", "foreign_keys", "busy_timeout", "synchronous"]
    assert [database.pragma(name) for name in pragmas] == ["wal", 1, 5000, 1]
    database.close_all()


def test_sqlite_begins_with_the_write_lock(tmp_path: Path) -> None:
    database = opened(f"sqlite:///{tmp_path}/x.db", pragmas={"busy_timeout": 0})
    with database.atomic(), peewee_web.scope(), pytest.raises(peewee.OperationalError, match="locked"):
        database.begin()
    database.close_all()


@pytest.mark.parametrize("pragmas", [{"journal_mode": "delete"}, [("journal_mode", "delete")]])
def test_a_pragma_given_in_code_wins_and_the_others_stay(tmp_path: Path, pragmas: Any) -> None:
    database = opened(f"sqlite:///{tmp_path}/x.db", pragmas=pragmas, lock_type=None)
    assert (database.journal_mode, database.foreign_keys) == ("delete", 1)
    with database.atomic(), peewee_web.scope():
        query(database)
        with database.atomic():  # deferred: two begin at once
            pass
    database.close_all()


def test_memory_may_be_named_or_left_out() -> None:
    for url in ("sqlite:///:memory:", "sqlite://", "sqlite:///"):
        database = opened(url)
        assert database.get_tables() == []
        database.close_all()


def test_a_sqlite_url_with_two_slashes_is_refused_not_read_as_memory() -> None:
    with pytest.raises(ValueError, match="three slashes"):
        peewee_web.connect("sqlite://notes.db")


# What is refused


@pytest.mark.parametrize("url", ["postgresql://user:s3cret@host", "postgresql://user:s3cret@host/", "mysql:///"])
def test_a_url_without_a_database_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="names no database") as raised:
        peewee_web.connect(url)
    assert "s3cret" not in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("url", ["oracle://user:s3cret@host/d", "", "notes.db", "s3cret@host", "user:s3cret@host/d"])
def test_an_unknown_scheme_is_refused_with_those_that_are_known(url: str) -> None:
    with pytest.raises(ValueError, match=r"use one of .*mysql.*postgresql.*sqlite") as raised:
        peewee_web.connect(url)
    assert "s3cret" not in str(raised.value)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://user:s3cret/more@host/d",
        "postgresql://user:s3cret#more@host/d",
        "postgresql://user:s3cret?more@host/d",
        "postgresql://user@host:s3cret/d",
        "postgresql://user:pw@host:99999/d",
        "postgresql://user:s3cret[@host/d",
        "postgresql://user:s3cret\u2100@host/d",
    ],
)
def test_a_url_that_can_not_be_read_says_how_to_write_it_and_repeats_nothing(url: str) -> None:
    with pytest.raises(ValueError, match=r"can't be read.*%2F") as raised:
        peewee_web.connect(url)
    assert "s3cret" not in str(raised.value)
    assert raised.value.__cause__ is None
    assert raised.value.__suppress_context__


@pytest.mark.parametrize("url", [None, b"sqlite:///x.db", 7, Path("x.db")])
def test_what_is_no_text_is_refused(url: Any) -> None:
    with pytest.raises(TypeError, match="takes a URL"):
        peewee_web.connect(url)


@pytest.mark.parametrize(
    ("url", "missing", "extra"),
    [
        ("postgresql://user:s3cret@h/d", ["psycopg", "psycopg2"], "peewee-web[postgres]"),
        ("mysql://user:s3cret@h/d", ["pymysql", "MySQLdb"], "peewee-web[mysql]"),
        ("mariadb://user:s3cret@h/d", ["pymysql", "MySQLdb"], "peewee-web[mysql]"),
    ],
)
def test_a_missing_driver_is_named_with_what_to_install(url: str, missing: list[str], extra: str) -> None:
    program = (
        f"import sys; sys.modules.update(dict.fromkeys({missing!r}))\n"
        f"import peewee_web\n"
        f"try: peewee_web.connect({url!r})\n"
        f"except Exception as error: print(type(error).__name__, error)"
    )
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert said.startswith("ImproperlyConfigured")
    assert f"pip install '{extra}'" in said
    assert "s3cret" not in said


def test_one_of_the_two_postgresql_drivers_is_enough() -> None:
    program = (
        "import sys; sys.modules['psycopg2'] = None\n"
        "import peewee_web\n"
        "print(type(peewee_web.connect('postgresql://h/d')._adapter).__name__)"
    )
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert said.strip() == "Psycopg3Adapter"


# Passwords


@pytest.mark.parametrize("suffix", ["", "?prefer_psycopg3=true"])
def test_a_password_is_in_no_repr_message_or_log_line(suffix: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    database = peewee_web.connect(f"postgresql://user:s3cret@127.0.0.1:{free_port()}/d{suffix}", timeout=None)
    databases = peewee_web.Databases(database)
    with databases.scope() as scope, pytest.raises(peewee_web.DatabaseUnavailable) as raised:
        query(database)
    said = [repr(database), repr(databases), repr(scope), str(raised.value), str(raised.value.__cause__), caplog.text]
    assert not [text for text in said if "s3cret" in text]


def test_connecting_to_nothing_yet_makes_no_connection(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    database = peewee_web.connect(f"postgresql://user@127.0.0.1:{free_port()}/d")
    assert database.is_closed()
    assert caplog.text == ""


def test_a_list_of_hosts_is_libpqs() -> None:
    database = peewee_web.connect("postgresql://me:p%2Fw@one:5433,[::1]:5434,three/app?target_session_attrs=read-write")
    parameters = database.connect_params
    assert (database.database, parameters["host"], parameters["port"]) == ("app", "one,::1,three", "5433,5434,")
    assert (parameters["password"], parameters["target_session_attrs"]) == ("p/w", "read-write")


def test_other_drivers_take_no_list_of_hosts() -> None:
    with pytest.raises(ValueError, match="can't be read") as caught:
        peewee_web.connect("mysql://me:secret@one:3306,two:3306/app")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(("scheme", "is_mariadb"), [("mariadb", True), ("mysql", False)])
def test_peewee_is_told_of_mariadb(scheme: str, is_mariadb: bool) -> None:
    assert peewee_web.connect(f"{scheme}://me@host/app").mariadb is is_mariadb
