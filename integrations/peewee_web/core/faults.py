"""What an exception says of the connection: that it is lost, or that none can be had for now.

Exceptions are told apart by the module that their classes come from, so no driver has to be imported, or installed.
Numbers and codes decide where there are any; a server may speak any language.
"""

from __future__ import annotations

import errno
import re
import socket
from typing import Any

from peewee import PeeweeException

from .errors import ConnectionLost, DatabaseUnavailable, NoConnection, ScopeError

_POSTGRES = frozenset({"psycopg", "psycopg2", "psycopg2cffi"})
_MYSQL = frozenset({"pymysql", "MySQLdb", "mysql", "_mysql_connector", "mariadb"})

# A statement's errors.

# PostgreSQL's "Message Severity Levels": FATAL ends the session, PANIC all of them; an ERROR never does, whatever its
# SQLSTATE: 08001 may come from a foreign server, 08P01 from a wrong number of parameters.
_POSTGRES_ENDS = frozenset({"FATAL", "PANIC"})
# Without a severity the SQLSTATE has to do (PostgreSQL's appendix A): class 08, connection exception; 57P01 to 57P05,
# shutdown, crash, "cannot connect now", database dropped, idle too long; 25P03 and 25P04, transaction too long.
_POSTGRES_LOST = re.compile("08|57P0[1-5]|25P0[34]")
# Without either it is libpq (fe-misc.c, fe-exec.c, fe-protocol3.c, fe-secure*.c) or the driver that speaks.
_POSTGRES_LOST_WORDS = (
    "server closed the connection",
    "could not receive data from server",
    "could not send data to server",
    "connection has been closed unexpectedly",
    "no connection to the server",
    "connection not open\n",
    "connection pointer is null",
    "lost synchronization with server",
    "message contents do not agree with length",
    "ssl syscall error",
    "ssl error",
    "gssapi wrap error",
    "gssapi unwrap error",
    "terminating connection",
    "invalid socket",
    # psycopg
    "consuming input failed",
    "flushing failed",
    "the connection is closed",
    "the connection is lost",
    "connection socket closed",
    # psycopg2
    "connection already closed",
    "no message from the libpq",
)

# MySQL's and MariaDB's error references. From the server: 1053 it shuts down; 1080 and 1152 it closes by force; 1153
# the packet was too large, after which it hangs up; 1156 to 1161 packets out of order, or reading or writing failed;
# 1927 (MariaDB) and 3169 killed; 4031 idle too long. From the client: 2006 and 2013 gone, 2014 commands out of sync
# (who reads which result is unknown, so no further statement can be sent), 2026 TLS broke, 2027 malformed packet, 2045
# shared memory abandoned, 2048 invalid handle, 2055 gone, with the system's error.
_MYSQL_LOST = frozenset(
    {1053, 1080, 1152, 1153, 1156, 1157, 1158, 1159, 1160, 1161, 1927, 3169, 4031}
    | {2006, 2013, 2014, 2026, 2027, 2045, 2048, 2055}
)
# MySQL Connector's own time-outs. Their number is also the server's, whose time-out leaves a good connection.
_MYSQL_TIMED_OUT = frozenset({"ConnectionTimeoutError", "ReadTimeoutError", "WriteTimeoutError"})
# What has no number of its own.
_MYSQL_LOST_WORDS = (
    "mysql connection not available",  # MySQL Connector
    "invalid connection or not connected",  # MariaDB Connector
    "packet sequence number wrong",  # PyMySQL
)

_LOST_ERRNOS = frozenset(
    {errno.EBADF, errno.ENOTCONN, errno.ESHUTDOWN, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ENETDOWN}
    | {errno.ENETRESET, errno.EHOSTDOWN}
)

# A conflict's errors: the server has undone the statement, or the transaction, in favour of another's.

# PostgreSQL's class 40: 40001 serialization failure, 40P01 deadlock detected.
_POSTGRES_CONFLICT = frozenset({"40001", "40P01"})
# MySQL's and MariaDB's: 1205 lock wait timeout (which undoes the statement only), 1213 deadlock.
_MYSQL_CONFLICT = frozenset({1205, 1213})
# SQLite's result codes: 5 SQLITE_BUSY, 6 SQLITE_LOCKED; the primary code is in the lower byte.
_SQLITE_CONFLICT = frozenset({5, 6})
_SQLITE = frozenset({"sqlite3", "pysqlite3", "sqlcipher3", "apsw", "cysqlite"})

# PostgreSQL's 25006, read-only transaction: a standby's are. MySQL's and MariaDB's 1836, read-only mode; and 1290, an
# option forbids it, where that is read_only or super_read_only.
_POSTGRES_READ_ONLY = "25006"
_MYSQL_READ_ONLY = 1836
_MYSQL_FORBIDDEN_BY_OPTION = 1290
_READ_ONLY_WORDS = ("read-only", "read_only")

# A connection attempt's errors.

# Class 08; class 53, insufficient resources (53300, too many connections); 57P01 to 57P05 as above; 55000, the database
# does not accept connections at present.
_POSTGRES_OUTAGE = re.compile("08|53|57P0[1-5]|55000")
# libpq gives no SQLSTATE for a failed attempt, only a text: the server's answer, or its own (fe-connect.c,
# fe-secure-openssl.c, fe-auth*.c). These say "not you", "no such thing" or "bad set-up"; all else is an outage.
_POSTGRES_REFUSED_WORDS = (
    "authentication failed",
    "no password supplied",
    "no pg_hba.conf entry",
    "pg_hba.conf rejects",
    "does not exist",
    "permission denied",
    "is not permitted to log in",
    "no such database",  # PgBouncer
    "no such user",  # PgBouncer
    "unsupported startup parameter",  # PgBouncer
    "unrecognized configuration parameter",
    "invalid value for parameter",
    "unsupported frontend protocol",
    "invalid connection option",
    "invalid dsn",
    "invalid uri",
    "invalid port number",
    "invalid integer value",
    "could not match",  # so many hosts, so many ports
    "definition of service",
    "certificate",
    "private key",
    "does not support ssl",
    "invalid response to ssl negotiation",
    "expected authentication request",
    "requirement",  # of an authentication method
    "authentication method",
    "channel binding",
    "not supported",
)
_POSTGRES_BAD_VALUE = re.compile(r"invalid \w+ value")
# What the server answered stands, in any language, behind its severity and two blanks (libpq's pqBuildErrorMessage3).
_POSTGRES_ANSWER = re.compile(r"(?:^|: )[^\s:]+:  (.*)", re.MULTILINE)
# In all eleven languages of PostgreSQL 15 the refusals quote the user, the database or the host, or name the privilege
# CONNECT; "starting up", "shutting down" and "too many clients" do neither. (The limit of one role's connections does.)
_POSTGRES_NAMES = re.compile(r'["«»„“”‟「」『』]|\bCONNECT\b')
_POSTGRES_OUTAGE_WORDS = (
    "the database system is",  # starting up, shutting down, in recovery mode, not yet accepting connections
    "too many",  # clients already, connections for a role, for a database
    "connection slots are reserved",
    "accepting connections",
)

# From the server: 1040 and 1041 too many connections, out of resources; 1042 can't resolve the client's name; 1047
# (Galera) not ready yet; 1129 blocked until an administrator has looked; 1135 no thread to be had; 1203 and 1226 too
# many for this user; 3032 offline mode; 3168 not available. 9001 is ProxySQL's "no server reached". From the client:
# 2001 to 2005 no socket, refused, unknown host; 2012 broke off in the handshake; 2070 no DNS SRV record.
_MYSQL_OUTAGE = (_MYSQL_LOST - {1153, 2014, 2026, 2027, 2048}) | frozenset(
    {1040, 1041, 1042, 1047, 1077, 1079, 1129, 1135, 1203, 1226, 3032, 3168, 9001}
    | {2001, 2002, 2003, 2004, 2005, 2012, 2070}
)
_MYSQL_TLS = 2026
# Both bad TLS set-ups and peers that go away in the handshake have that number.
_TLS_BROKEN_OFF_WORDS = ("eof", "closed", "reset by peer", "broken pipe", "timed out", "timeout", "syscall", "lost")
_TLS_BROKEN_OFF = frozenset({"SSLEOFError", "SSLZeroReturnError", "SSLSyscallError"})


def is_lost_connection(error: BaseException) -> bool:
    """Whether *error*, raised by a statement, says that its connection is gone, or can't be used any more.

    *error* is Peewee's exception or the driver's own, or an `OSError` of the socket that came through. A statement that
    was refused, cancelled or timed out on a good connection is not one that lost it.
    """
    if isinstance(error, (NoConnection, ScopeError)):
        return isinstance(error, ConnectionLost)
    error = _drivers_own(error)
    modules = _modules(error)
    if modules & _POSTGRES:
        return _postgres_lost(error)
    if modules & _MYSQL:
        return _mysql_lost(error)
    if isinstance(error, PeeweeException):
        return _mysql_lost(error) or _has_words(error, _POSTGRES_LOST_WORDS)
    return isinstance(error, OSError) and (
        isinstance(error, (ConnectionError, TimeoutError)) or "ssl" in modules or error.errno in _LOST_ERRNOS
    )


def is_conflict(error: BaseException) -> bool:
    """Whether *error*, raised by a statement or a COMMIT, says that it lost against another's, and had no effect.

    A deadlock, a serialization failure, a lock that was waited for in vain, SQLite's "database is locked". *error* is
    Peewee's exception or the driver's own.
    """
    error = _drivers_own(error)
    modules = _modules(error)
    if modules & _POSTGRES:
        return _sqlstate(error) in _POSTGRES_CONFLICT
    if modules & _MYSQL:
        return _mysql_number(error) in _MYSQL_CONFLICT
    return bool(modules & _SQLITE) and _sqlite_conflict(error)


def is_read_only(error: BaseException) -> bool:
    """Whether *error*, raised by a statement, says that the server only reads. The statement had no effect then.

    (Or the transaction only reads, because the app has set it so.) *error* is Peewee's exception or the driver's own.
    """
    error = _drivers_own(error)
    modules = _modules(error)
    if modules & _POSTGRES:
        return _sqlstate(error) == _POSTGRES_READ_ONLY
    number = _mysql_number(error) if modules & _MYSQL else None
    return number == _MYSQL_READ_ONLY or (number == _MYSQL_FORBIDDEN_BY_OPTION and _has_words(error, _READ_ONLY_WORDS))


def is_answer(error: BaseException) -> bool:
    """Whether *error*, raised by a connection attempt, is what a server has said: there is one, and it runs."""
    error = _drivers_own(error)
    modules = _modules(error)
    if modules & _POSTGRES:
        return _POSTGRES_ANSWER.search(str(error)) is not None
    number = _mysql_number(error)
    return bool(modules & _MYSQL) and number is not None and not 2000 <= number < 3000  # those are the client's


def mysql_number(error: BaseException) -> int | None:
    """The number that MySQL or MariaDB gave *error*, which is Peewee's exception or the driver's own."""
    return _mysql_number(_drivers_own(error))


def is_outage(error: BaseException) -> bool:
    """Whether *error*, raised by a connection attempt, says "not now" rather than "not you" or "no such database".

    *error* is Peewee's exception or the driver's own. A bad TLS set-up is no outage. SQLite has no server, so its
    errors never are. PostgreSQL gives its reason in words only; those of other languages than English are told apart by
    whether they name somebody.
    """
    if isinstance(error, NoConnection):
        return isinstance(error, DatabaseUnavailable)
    error = _drivers_own(error)
    modules = _modules(error)
    if modules & _POSTGRES:
        return _postgres_outage(error)
    if modules & _MYSQL:
        return _mysql_outage(error)
    return isinstance(error, OSError) and _network_outage(error, modules)


def first_line(error: BaseException) -> str:
    """What *error* says, for a line of a message: a driver's text may have several."""
    return str(error).strip().partition("\n")[0] or type(error).__name__


def _drivers_own(error: BaseException) -> BaseException:
    """What Peewee's exception was made from, or itself."""
    while isinstance(error, PeeweeException):
        inner = getattr(error, "orig", None) or error.__cause__
        if inner is None:
            break
        error = inner
    return error


def _modules(error: BaseException) -> set[str]:
    """The top-level modules of *error*'s class and its bases: an app may have derived its own."""
    return {cls.__module__.partition(".")[0] for cls in type(error).__mro__}


def _has_words(error: BaseException, words: tuple[str, ...]) -> bool:
    text = f"{error}\n".lower()
    return any(word in text for word in words)


def _postgres_lost(error: Any) -> bool:
    severity = getattr(getattr(error, "diag", None), "severity_nonlocalized", None)
    if severity:
        return severity in _POSTGRES_ENDS
    sqlstate = _sqlstate(error)
    if sqlstate:
        return _POSTGRES_LOST.match(sqlstate) is not None
    connection = getattr(getattr(error, "cursor", None), "connection", None)
    if getattr(connection, "closed", 0) == 2:  # psycopg2: not closed by the app, but found broken
        return True
    return _has_words(error, _POSTGRES_LOST_WORDS)


def _sqlite_conflict(error: Any) -> bool:
    code = getattr(error, "sqlite_errorcode", None) or getattr(error, "extendedresult", None)  # APSW's is the latter
    if code:
        return code & 0xFF in _SQLITE_CONFLICT
    return _has_words(error, ("is locked",))  # before Python 3.11


def _sqlstate(error: Any) -> str | None:
    return getattr(error, "sqlstate", None) or getattr(error, "pgcode", None)


def _mysql_lost(error: BaseException) -> bool:
    number = _mysql_number(error)
    if _class_names(error) & _MYSQL_TIMED_OUT:
        return True
    if number in (None, -1):  # -1: MySQL Connector's own
        return str(error) == "Already closed" or _has_words(error, _MYSQL_LOST_WORDS)  # the first is PyMySQL's ping
    if number == 0:  # PyMySQL, and mysqlclient before 1.4, of a connection that they had closed: (0, '')
        return "InterfaceError" in _class_names(error)
    if number == 2055 and _has_words(error, ("cursor",)):  # MySQL Connector of a closed one: "Cursor is not connected"
        return False
    if number == 4031:  # MariaDB's is another: "Referenced trigger ... does not exist"
        return not _has_words(error, ("trigger",))
    return number in _MYSQL_LOST


def _mysql_number(error: Any) -> int | None:
    number = getattr(error, "errno", None)
    if number is None and error.args:
        number = error.args[0]
    return number if isinstance(number, int) else None


def _class_names(error: BaseException) -> set[str]:
    return {cls.__name__ for cls in type(error).__mro__}


def _postgres_outage(error: Any) -> bool:
    if "OperationalError" not in _class_names(error):
        return False
    sqlstate = _sqlstate(error)
    if sqlstate and sqlstate != "08P01":  # which PgBouncer gives for anything
        return _POSTGRES_OUTAGE.match(sqlstate) is not None
    if _has_words(error, _POSTGRES_REFUSED_WORDS) or _POSTGRES_BAD_VALUE.search(str(error)):
        return False
    if _has_words(error, _POSTGRES_OUTAGE_WORDS):
        return True
    return not any(_POSTGRES_NAMES.search(answer) for answer in _POSTGRES_ANSWER.findall(str(error)))


def _mysql_outage(error: Any) -> bool:
    number = _mysql_number(error)
    if _class_names(error) & _MYSQL_TIMED_OUT:
        return True
    if number == _MYSQL_TLS:
        return _has_words(error, _TLS_BROKEN_OFF_WORDS) and not _has_words(error, ("certificate",))
    # PyMySQL makes a 2003 of any OSError, MySQL Connector a 2055.
    inner = getattr(error, "original_exception", error.__cause__)
    if isinstance(inner, OSError) and not isinstance(inner, FileNotFoundError):  # a Unix socket goes with its server
        return _network_outage(inner, _modules(inner))
    return number in _MYSQL_OUTAGE


def _network_outage(error: OSError, modules: set[str]) -> bool:
    """Not any `OSError` is one: a certificate that is no file stays missing."""
    if "ssl" in modules:
        return bool(_class_names(error) & _TLS_BROKEN_OFF)
    known = (ConnectionError, TimeoutError, socket.gaierror, socket.herror)
    return isinstance(error, known) or error.errno in _LOST_ERRNOS | {errno.EADDRNOTAVAIL, errno.EAGAIN}
