"""One healthy Peewee connection per request. Adapters: ``peewee_web.flask``, ``peewee_web.django`` and so on."""

from .core.databases import (
    PooledDatabase,
    PooledMySQLDatabase,
    PooledPostgresqlDatabase,
    PooledSqliteDatabase,
    RetryOperationalError,
    connect,
)
from .core.errors import DatabaseUnavailable, NoConnection, PoolTimeout, ScopeClosed
from .core.health import check
from .core.registry import Databases
from .core.replicas import ReplicatedDatabase
from .core.retry import retry
from .core.scope import Scope, scope
from .core.scoped import ScopedDatabase
from .core.stats import PoolStats
from .core.using import using

__all__ = [
    "DatabaseUnavailable",
    "Databases",
    "NoConnection",
    "PoolStats",
    "PoolTimeout",
    "PooledDatabase",
    "PooledMySQLDatabase",
    "PooledPostgresqlDatabase",
    "PooledSqliteDatabase",
    "ReplicatedDatabase",
    "RetryOperationalError",
    "Scope",
    "ScopeClosed",
    "ScopedDatabase",
    "check",
    "connect",
    "retry",
    "scope",
    "using",
]
