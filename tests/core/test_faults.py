"""What exceptions say of a connection, by tables. What real servers make the drivers raise is in the other file."""

from __future__ import annotations

import errno
import importlib
import pickle
import socket
import sqlite3
import ssl
from itertools import chain
from typing import Any

import peewee
import psycopg
import psycopg2
import pymysql
import pytest

from peewee_web import DatabaseUnavailable, PoolTimeout, ScopeClosed
from peewee_web.core.faults import is_lost_connection, is_outage


def wrapped(error: Exception) -> Exception:
    """What Peewee makes of a driver's exception: its own, unless it is no better than the driver's ``Error``."""
    try:
        with peewee.__exception_wrapper__:
            raise error
    except Exception as result:
        return result


def with_sqlstate(sqlstate: str) -> psycopg.Error:
    """As psycopg gives it when the server's answer was not kept, as after unpickling."""
    try:
        return psycopg.errors.lookup(sqlstate)("in any language")
    except KeyError:  # it is younger than this psycopg
        error = psycopg.OperationalError("in any language")
        error.sqlstate = sqlstate
        return error


def of(module: str, name: str, *arguments: object, **attributes: object) -> list[Exception]:
    """An exception of a driver that may not be installed: then none."""
    try:
        return [getattr(importlib.import_module(module), name)(*arguments, **attributes)]
    except ImportError:
        return []


def mysqlclient(number: int, text: str = "in any language", name: str = "OperationalError") -> list[Exception]:
    return of("MySQLdb", name, number, text)


def mysql_connector(number: int, text: str, name: str = "OperationalError") -> list[Exception]:
    return of("mysql.connector.errors", name, msg=text, errno=number)


CONNECTION_LOST: list[Exception] = [
    *(
        with_sqlstate(code)
        for code in ("08000", "08003", "08006", "08P01", "57P01", "57P02", "57P03", "57P04", "57P05")
    ),
    *(with_sqlstate(code) for code in ("25P03", "25P04")),
    *(
        psycopg.OperationalError(text)
        for text in (
            "the connection is closed",
            "the connection is lost",
            "connection socket closed",
            "consuming input failed: could not receive data from server: Connection timed out",
            "sending query failed: no connection to the server",
            "flushing failed: server closed the connection unexpectedly",
        )
    ),
    *(
        psycopg2.OperationalError(text)
        for text in (
            "server closed the connection unexpectedly\n\tThis probably means the server terminated abnormally",
            "SSL connection has been closed unexpectedly",
            "SSL SYSCALL error: EOF detected",
            "SSL error: decryption failed or bad record mac",
            "could not receive data from server: Connection reset by peer",
            "could not send data to server: Broken pipe",
            'lost synchronization with server: got message type "D", length 1',
            "terminating connection due to administrator command",
        )
    ),
    psycopg2.InterfaceError("connection already closed"),
    psycopg2.DatabaseError("error with status PGRES_TUPLES_OK and no message from the libpq"),
    *(
        pymysql.OperationalError(number, "in any language")
        for number in (1053, 1080, 1152, 1153, 1156, 1158, 1159, 1160, 1161, 1927, 2006, 2013, 2014, 2026, 2045, 2055)
    ),
    pymysql.OperationalError(3169, "The session was killed"),
    pymysql.OperationalError(4031, "The client was disconnected by the server because of inactivity."),
    pymysql.InterfaceError(0, ""),
    pymysql.Error("Already closed"),
    pymysql.InternalError("Packet sequence number wrong - got 3 expected 1"),
    *mysqlclient(2006, ""),
    *mysqlclient(0, "", "InterfaceError"),
    *mysql_connector(2013, "Lost connection to MySQL server during query"),
    *mysql_connector(-1, "MySQL Connection not available."),
    *mysql_connector(3024, "The Read Operation timed out", "ReadTimeoutError"),
]
CONNECTION_KEPT: list[Exception] = [
    *(
        with_sqlstate(code)
        for code in ("23505", "23503", "42601", "42P01", "40001", "40P01", "55P03", "57014", "22012", "25P02", "53200")
    ),
    psycopg.InterfaceError("the cursor is closed"),
    psycopg.OperationalError("sending query failed: another command is already in progress"),
    psycopg.ProgrammingError("the last operation didn't produce records"),
    psycopg2.InterfaceError("cursor already closed"),
    psycopg2.IntegrityError("duplicate key value violates unique constraint"),
    psycopg2.ProgrammingError("no results to fetch"),
    *(
        pymysql.OperationalError(number, "in any language")
        for number in (1040, 1045, 1049, 1205, 1213, 1226, 1290, 1317, 1969, 3024, 4025)
    ),
    pymysql.IntegrityError(1062, "Duplicate entry"),
    pymysql.ProgrammingError(1064, "You have an error in your SQL syntax"),
    pymysql.OperationalError(4031, "Referenced trigger 't' for the given action time and event type does not exist"),
    pymysql.DataError(0, ""),
    pymysql.err.ProgrammingError("Cursor closed"),
    *of("MySQLdb", "ProgrammingError", "cursor closed"),
    *mysql_connector(-1, "Cursor is not connected"),
    *mysql_connector(2055, "Cursor is not connected", "ProgrammingError"),
    *mysql_connector(3024, "Query execution was interrupted, maximum statement execution time exceeded"),
    *mysql_connector(1205, "Lock wait timeout exceeded; try restarting transaction"),
    sqlite3.OperationalError("database is locked"),
    sqlite3.ProgrammingError("Cannot operate on a closed database."),
]


def named(error: Any) -> str:
    return f"{type(error).__module__.partition('.')[0]}-{error.args or error}"


@pytest.mark.parametrize("error", CONNECTION_LOST, ids=named)
def test_a_lost_connection_is_known(error: Exception) -> None:
    assert is_lost_connection(error)
    assert is_lost_connection(wrapped(error))


@pytest.mark.parametrize("error", CONNECTION_KEPT, ids=named)
def test_an_error_on_a_good_connection_does_not_lose_it(error: Exception) -> None:
    assert not is_lost_connection(error)
    assert not is_lost_connection(wrapped(error))


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ConnectionResetError(errno.ECONNRESET, "reset"), True),
        (BrokenPipeError(errno.EPIPE, "broken"), True),
        (TimeoutError("timed out"), True),
        (OSError(errno.EHOSTUNREACH, "no route"), True),
        (OSError(errno.EBADF, "closed by another thread"), True),
        (ssl.SSLEOFError(8, "EOF occurred in violation of protocol"), True),
        (FileNotFoundError(errno.ENOENT, "nothing to load"), False),
        (OSError(errno.ENOSPC, "disk full"), False),
        (ValueError("server closed the connection unexpectedly"), False),
        (KeyboardInterrupt(), False),
    ],
    ids=repr,
)
def test_an_error_of_the_socket_loses_the_connection_and_any_other_does_not(
    error: BaseException, expected: bool
) -> None:
    assert is_lost_connection(error) is expected


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (peewee.OperationalError(2013, "Lost connection"), True),
        (peewee.InterfaceError(0, ""), True),
        (peewee.OperationalError("server closed the connection unexpectedly"), True),
        (peewee.InterfaceError("connection already closed"), True),
        (peewee.OperationalError(1205, "Lock wait timeout"), False),
        (peewee.InterfaceError("Error, database connection not opened."), False),
        (peewee.InterfaceError("cursor already closed"), False),
        (peewee.OperationalError("Connection already opened."), False),
    ],
    ids=repr,
)
def test_peewees_exception_without_the_drivers_is_judged_by_itself(error: Exception, expected: bool) -> None:
    assert is_lost_connection(error) is expected


def test_the_drivers_exception_is_found_as_the_cause_too() -> None:
    with pytest.raises(peewee.OperationalError) as raised:
        raise peewee.OperationalError("sorry") from pymysql.OperationalError(2013, "Lost connection")
    assert is_lost_connection(raised.value)


class AppError(psycopg.errors.AdminShutdown):
    """What an app derived from the driver's."""


def test_an_exception_class_of_the_apps_own_is_known_by_its_base() -> None:
    assert is_lost_connection(AppError("bye"))


def test_a_pickled_exception_says_the_same() -> None:
    for error in (with_sqlstate("57P01"), pymysql.OperationalError(2013, "Lost")):
        assert is_lost_connection(pickle.loads(pickle.dumps(error)))


@pytest.mark.parametrize("error", [PoolTimeout("full"), DatabaseUnavailable("down"), ScopeClosed()], ids=repr)
def test_who_got_no_connection_lost_none(error: Exception) -> None:
    error.__cause__ = pymysql.OperationalError(2013, "Lost connection")
    assert not is_lost_connection(error)


# Connection attempts.


def from_libpq(text: str) -> list[Exception]:
    where = 'connection to server at "127.0.0.1", port 5432 failed: '
    return [
        psycopg.OperationalError(f"connection failed: {where}{text}"),
        psycopg2.OperationalError(f"{where}{text}\n"),
    ]


def from_pymysql(inner: OSError, number: int = 2003) -> Exception:
    """PyMySQL's wrapping of an `OSError`, which keeps what it wrapped."""
    error = pymysql.OperationalError(number, f"Can't connect to MySQL server on 'db' ({inner})")
    error.original_exception = inner  # type: ignore[attr-defined]
    return error


NOT_NOW: list[Exception] = [
    *from_libpq("Connection refused\n\tIs the server running on that host and accepting TCP/IP connections?"),
    *from_libpq("timeout expired"),
    *from_libpq("server closed the connection unexpectedly"),
    *from_libpq("No route to host"),
    *from_libpq("SSL SYSCALL error: EOF detected"),
    *from_libpq("could not receive data from server: Connection reset by peer"),
    *from_libpq("session is read-only"),
    *from_libpq("FATAL:  the database system is starting up"),
    *from_libpq("FATAL:  the database system is shutting down"),
    *from_libpq("FATAL:  the database system is in recovery mode"),
    *from_libpq("FATAL:  the database system is not yet accepting connections"),
    *from_libpq("FATAL:  sorry, too many clients already"),
    *from_libpq('FATAL:  too many connections for role "app"'),
    *from_libpq("FATAL:  remaining connection slots are reserved for roles with the SUPERUSER attribute"),
    *from_libpq('FATAL:  database "app" is not currently accepting connections'),
    *from_libpq("FATAL:  server login has been failing, try again later (server_login_retry)"),  # PgBouncer
    *from_libpq("FATAL:  das Datenbanksystem startet"),
    *from_libpq("ВАЖНО:  извините, уже слишком много клиентов"),
    *from_libpq("FATAL:  no more connections allowed (max_client_conn)"),  # PgBouncer
    psycopg.errors.ConnectionTimeout("connection timeout expired"),
    psycopg.OperationalError("failed to resolve host 'db': [Errno -2] Name or service not known"),
    psycopg2.OperationalError('could not translate host name "db" to address: Name or service not known\n'),
    *(with_sqlstate(code) for code in ("53300", "57P03", "57P01", "08006")),
    *(
        pymysql.OperationalError(number, "in any language")
        for number in (1040, 1041, 1042, 1053, 1129, 1135, 1158, 1159, 1203, 1226, 1927, 3032, 3168, 9001)
    ),
    *chain(*(mysqlclient(number) for number in (2002, 2003, 2005, 2006, 2012, 2013, 2055))),
    from_pymysql(ConnectionRefusedError(errno.ECONNREFUSED, "refused")),
    from_pymysql(TimeoutError("timed out")),
    from_pymysql(socket.gaierror(-2, "Name or service not known")),
    from_pymysql(FileNotFoundError(errno.ENOENT, "no such socket")),
    from_pymysql(ssl.SSLEOFError(8, "EOF occurred in violation of protocol")),
    *mysqlclient(2026, "TLS/SSL error: unexpected eof while reading"),
    *mysqlclient(2026, "TLS/SSL error: Connection reset by peer (104)"),
    *mysql_connector(2003, "Can't connect to MySQL server on 'db'"),
    *mysql_connector(3024, "The Read Operation timed out", "ReadTimeoutError"),
    ConnectionRefusedError(errno.ECONNREFUSED, "refused"),
    TimeoutError("timed out"),
    socket.gaierror(-2, "Name or service not known"),
    OSError(errno.ENETUNREACH, "Network is unreachable"),
]
NOT_EVER: list[Exception] = [
    *from_libpq('FATAL:  password authentication failed for user "app"'),
    *from_libpq('FATAL:  role "app" does not exist'),
    *from_libpq('FATAL:  database "app" does not exist'),
    *from_libpq('FATAL:  role "app" is not permitted to log in'),
    *from_libpq('FATAL:  permission denied for database "app"\nDETAIL:  User does not have CONNECT privilege.'),
    *from_libpq('FATAL:  no pg_hba.conf entry for host "10.0.0.1", user "app", database "app", no encryption'),
    *from_libpq('FATAL:  pg_hba.conf rejects connection for host "10.0.0.1", user "app"'),
    *from_libpq("FATAL:  no such database: app"),  # PgBouncer
    *from_libpq("FATAL:  Passwort-Authentifizierung für Benutzer »app« fehlgeschlagen"),
    *from_libpq('ВАЖНО:  роль "app" не существует'),
    *from_libpq("FATAL:  droit refusé pour la base de données app\nDETAIL:  L'utilisateur n'a pas le droit CONNECT."),
    *from_libpq("fe_sendauth: no password supplied"),
    *from_libpq("server does not support SSL, but SSL was required"),
    *from_libpq("SSL error: certificate verify failed"),
    *from_libpq('server certificate for "db" does not match host name "database"'),
    *from_libpq('root certificate file "/none" does not exist'),
    *from_libpq("received invalid response to SSL negotiation: H"),
    *from_libpq('FATAL:  unrecognized configuration parameter "nonsense"'),
    psycopg.OperationalError('connection is bad: invalid sslmode value: "x"'),
    psycopg2.OperationalError('invalid sslmode value: "x"\n'),
    psycopg.ProgrammingError('invalid connection option "nonsense"\n'),
    psycopg2.ProgrammingError('invalid dsn: invalid connection option "nonsense"\n'),
    *(with_sqlstate(code) for code in ("28P01", "28000", "3D000", "42501", "22023")),
    *(
        pymysql.OperationalError(number, "in any language")
        for number in (1043, 1044, 1045, 1049, 1064, 1130, 1251, 1275, 1524, 1698, 1862, 3118, 3159, 3955, 4150, 4151)
    ),
    *chain(*(mysqlclient(number) for number in (2007, 2019, 2026, 2049, 2054, 2059, 2061))),
    from_pymysql(ssl.SSLCertVerificationError(1, "certificate verify failed")),
    from_pymysql(ssl.SSLError(1, "wrong version number")),
    from_pymysql(PermissionError(errno.EACCES, "not your socket")),
    pymysql.OperationalError(2026, "SSL is required but the server doesn't support it"),
    pymysql.InternalError("Packet sequence number wrong - got 80 expected 0"),
    *mysqlclient(2026, "TLS/SSL error: certificate verify failed"),
    *mysql_connector(-1, "Invalid CA Certificate: [Errno 2] No such file or directory"),
    sqlite3.OperationalError("unable to open database file"),
    FileNotFoundError(errno.ENOENT, "no such certificate"),
    PermissionError(errno.EACCES, "unreadable key"),
    ValueError("connect_timeout should be >0 and <=31536000"),
]


@pytest.mark.parametrize("error", NOT_NOW, ids=named)
def test_an_outage_is_known(error: Exception) -> None:
    assert is_outage(error)
    assert is_outage(wrapped(error))


@pytest.mark.parametrize("error", NOT_EVER, ids=named)
def test_a_refusal_is_no_outage(error: Exception) -> None:
    assert not is_outage(error)
    assert not is_outage(wrapped(error))


def test_mysql_connectors_wrapping_of_a_certificate_that_is_not_trusted_is_no_outage() -> None:
    pytest.importorskip("mysql.connector")
    [error] = mysql_connector(2055, "Lost connection to MySQL server at 'db', system error: certificate verify failed")
    assert is_outage(error)
    error.__cause__ = ssl.SSLCertVerificationError(1, "certificate verify failed")
    assert not is_outage(error)


def test_our_own_errors_say_it_by_their_class() -> None:
    assert is_outage(DatabaseUnavailable("down"))
    full = PoolTimeout("full")
    full.__cause__ = ConnectionRefusedError()
    assert not is_outage(full)
