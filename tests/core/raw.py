"""Connections of each DB-API driver to a test server, past any pool of ours."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
from collections.abc import Iterator
from typing import Any, TypeVar

import peewee
import pytest
from playhouse import mysql_ext

from tests.servers.certificate import make_certificate
from tests.servers.child import ServerDidNotStart, ServerNotInstalled, ServerProcess
from tests.servers.mariadb import MariaDBServer
from tests.servers.postgres import PostgresServer, postgres_installations

POSTGRES = ("psycopg", "psycopg2")
PURE = "mysql.connector in Python"
MYSQL = ("pymysql", "MySQLdb", "mysql.connector", PURE, "mariadb")
DRIVERS = (*POSTGRES, *MYSQL)


def module_of(driver: str) -> Any:
    """The module of *driver*. Skips the test when it is not installed."""
    return pytest.importorskip(driver.partition(" ")[0])


def connect(driver: str, server: Any, *, port: int | None = None, tls: bool | None = None, **options: Any) -> Any:
    """A connection in autocommit mode through *driver*, in TLS or not or as the driver likes best.

    Skips the test when the driver is not installed.
    """
    module = module_of(driver)
    options = {"host": server.host, "port": port or server.port, "user": server.user, **tls_of(driver, tls), **options}
    if driver in POSTGRES:
        connection = module.connect(**{"dbname": server.default_database, **options})
        connection.autocommit = True
        return connection
    if driver == PURE:
        options = {"use_pure": True, **options}
    return module.connect(**{"database": server.default_database, "autocommit": True, **options})


def tls_of(driver: str, wanted: bool | None) -> dict[str, Any]:
    """The options that ask *driver* for TLS, or for none."""
    if wanted is None:
        return {}
    if driver in POSTGRES:
        return {"sslmode": "require" if wanted else "disable"}
    if driver == "mariadb":
        return {"ssl": wanted, "ssl_verify_cert": False}
    if driver == "MySQLdb":
        return {"ssl_mode": "REQUIRED" if wanted else "DISABLED"}
    if driver == "pymysql" and wanted:
        return {"ssl": {"check_hostname": False}}
    return {"ssl_verify_cert": False} if wanted else {"ssl_disabled": True}


def database_of(driver: str, server: Any, *, tls: bool | None = None, name: str | None = None, **options: Any) -> Any:
    """A plain Peewee database, which reaches *server* through *driver*."""
    options = {"host": server.host, "port": server.port, "user": server.user, **tls_of(driver, tls), **options}
    if driver == PURE:
        options["use_pure"] = True
    return class_of(driver)(name or server.default_database, **options)


def class_of(driver: str) -> Any:
    """Peewee's class for *driver*. (Which of PyMySQL and mysqlclient it takes is up to `peewee.mysql`.)"""
    if driver == "psycopg":
        return lambda *arguments, **options: peewee.PostgresqlDatabase(*arguments, prefer_psycopg3=True, **options)
    if driver == "psycopg2":
        return peewee.PostgresqlDatabase
    if driver in ("pymysql", "MySQLdb"):
        return peewee.MySQLDatabase
    return mysql_ext.MariaDBConnectorDatabase if driver == "mariadb" else mysql_ext.MySQLConnectorDatabase


def is_encrypted(driver: str, connection: Any) -> bool:
    """Whether *connection* is in TLS, as the server sees it."""
    with contextlib.closing(connection.cursor()) as cursor:
        if driver in POSTGRES:
            cursor.execute("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()")
            return bool(cursor.fetchone()[0])
        cursor.execute("SHOW SESSION STATUS LIKE 'Ssl_cipher'")
        return bool(cursor.fetchone()[1])


def fileno(driver: str, connection: Any) -> int:
    """The descriptor of *connection*'s socket."""
    if driver == "pymysql":
        return int(connection._sock.fileno())
    if driver == PURE:
        return int(connection._socket.sock.fileno())
    if driver == "mysql.connector":  # written in C, it tells only where it went
        (found,) = _sockets_to(connection.server_host, connection.server_port)
        return found
    return int(connection._get_socket() if driver == "mariadb" else connection.fileno())


def _sockets_to(host: str, port: int) -> Iterator[int]:
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # closed meanwhile, or not connected
            if stat.S_ISSOCK(os.fstat(int(name)).st_mode):
                with socket.socket(fileno=os.dup(int(name))) as twin:
                    if twin.getpeername()[:2] == (host, port):
                        yield int(name)


def run(connection: Any, sql: str) -> Any:
    """The first row of what *sql* gives."""
    with contextlib.closing(connection.cursor()) as cursor:
        cursor.execute(sql)
        return cursor.fetchone()


def do(connection: Any, sql: str) -> None:
    """Run *sql*, which gives no rows, or none that matter."""
    with contextlib.closing(connection.cursor()) as cursor:
        cursor.execute(sql)


def secure_postgres() -> PostgresServer:
    """A PostgreSQL server that speaks TLS, started. (The first installation may have been built without it.)"""
    for installation in postgres_installations():
        server = PostgresServer(installation=installation, settings={"ssl": "on"})
        with contextlib.suppress(ServerDidNotStart):
            return _start(server, "ssl_cert_file", "ssl_key_file")
    raise ServerNotInstalled("no PostgreSQL server with TLS found: apt-get install postgresql")


def secure_mariadb() -> MariaDBServer:
    """A MariaDB server that speaks TLS, started."""
    return _start(MariaDBServer(), "ssl-cert", "ssl-key")


_Server = TypeVar("_Server", bound=ServerProcess)


def _start(server: _Server, certificate_setting: str, key_setting: str) -> _Server:
    try:
        certificate, key = make_certificate(server.directory)
        server.settings |= {certificate_setting: certificate, key_setting: key}
        server.start()
    except BaseException:
        server.close()
        raise
    return server
