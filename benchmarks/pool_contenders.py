"""The pools that are compared, each used the way its own documentation shows, all with psycopg 3 and autocommit."""

from __future__ import annotations

import abc
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, ClassVar

import psycopg


@dataclass(frozen=True)
class Target:
    """The server that all connect to, and how long a connection attempt may take."""

    host: str
    port: int
    user: str = "app"
    dbname: str = "postgres"
    connect_timeout: int = 10

    def options(self) -> dict[str, Any]:
        return {"host": self.host, "port": self.port, "user": self.user, "connect_timeout": self.connect_timeout}

    def connect(self) -> psycopg.Connection[Any]:
        return psycopg.connect(dbname=self.dbname, autocommit=True, **self.options())


class Contender(abc.ABC):
    """A pool of at most *size* connections, opened when they are needed."""

    name: ClassVar[str]
    checks: ClassVar[bool] = True
    """Whether it notices at a checkout that the connection is dead."""

    @abc.abstractmethod
    def __init__(self, target: Target, size: int, timeout: float, **options: Any) -> None: ...

    @abc.abstractmethod
    def take(self) -> Any:
        """Check a connection out. What `give` and `connection` take."""

    @abc.abstractmethod
    def give(self, taken: Any) -> None: ...

    def connection(self, taken: Any) -> psycopg.Connection[Any]:
        connection: psycopg.Connection[Any] = taken
        return connection

    @abc.abstractmethod
    def spin(self, times: int) -> None:
        """Check out and in, *times* times, with nothing between that isn't the pool's."""

    @abc.abstractmethod
    def close(self) -> None: ...


class Peewee(Contender):
    """A Peewee database with a pool: `connect` takes a connection, for this thread, and `close` gives it back."""

    db: Any

    def take(self) -> Any:
        self.db.connect()
        return self.db.connection()

    def give(self, taken: Any) -> None:
        self.db.close()

    def spin(self, times: int) -> None:
        connect, close = self.db.connect, self.db.close
        for _ in range(times):
            connect()
            close()


class Ours(Peewee):
    name = "peewee-web"

    def __init__(self, target: Target, size: int, timeout: float, **options: Any) -> None:
        from peewee_web import PooledPostgresqlDatabase

        self.db = PooledPostgresqlDatabase(
            target.dbname,
            max_connections=size,
            timeout=timeout,
            prefer_psycopg3=True,
            **target.options(),
            **options,
        )

    def close(self) -> None:
        self.db.close_pool()


class OursAlone(Ours):
    """Without the Peewee database around it."""

    name = "peewee-web, Pool alone"

    def take(self) -> Any:
        return self.db.pool.checkout()

    def give(self, taken: Any) -> None:
        self.db.pool.checkin(taken)

    def connection(self, taken: Any) -> psycopg.Connection[Any]:
        connection: psycopg.Connection[Any] = taken.connection
        return connection

    def spin(self, times: int) -> None:
        checkout, checkin = self.db.pool.checkout, self.db.pool.checkin
        for _ in range(times):
            checkin(checkout())


class Playhouse(Peewee):
    name = "playhouse.pool"

    def __init__(self, target: Target, size: int, timeout: float, **options: Any) -> None:
        from playhouse.pool import PooledPostgresqlDatabase

        self.db = PooledPostgresqlDatabase(
            target.dbname, max_connections=size, timeout=timeout, prefer_psycopg3=True, **target.options()
        )

    def close(self) -> None:
        self.db.close_all()


class SQLAlchemyPrePing(Contender):
    name = "SQLAlchemy, pre-ping"
    pre_ping: ClassVar[bool] = True

    def __init__(self, target: Target, size: int, timeout: float, **options: Any) -> None:
        import sqlalchemy

        self.engine = sqlalchemy.create_engine(
            "postgresql+psycopg://",
            creator=target.connect,
            poolclass=sqlalchemy.QueuePool,
            pool_size=size,
            max_overflow=0,
            pool_timeout=timeout,
            pool_pre_ping=self.pre_ping,
        )
        # The first connection asks the server for its version and more, once.
        self.engine.connect().close()

    def take(self) -> Any:
        return self.engine.raw_connection()

    def give(self, taken: Any) -> None:
        taken.close()

    def connection(self, taken: Any) -> psycopg.Connection[Any]:
        connection: psycopg.Connection[Any] = taken.driver_connection
        return connection

    def spin(self, times: int) -> None:
        take = self.engine.raw_connection
        for _ in range(times):
            take().close()

    def close(self) -> None:
        self.engine.dispose()


class SQLAlchemy(SQLAlchemyPrePing):
    name = "SQLAlchemy"
    checks = False
    pre_ping = False


class PsycopgPoolCheck(Contender):
    name = "psycopg_pool, check"
    checked: ClassVar[bool] = True

    def __init__(self, target: Target, size: int, timeout: float, **options: Any) -> None:
        from psycopg_pool import ConnectionPool

        self.pool: Any = ConnectionPool(
            kwargs={"dbname": target.dbname, "autocommit": True, **target.options()},
            min_size=0,
            max_size=size,
            timeout=timeout,
            check=ConnectionPool.check_connection if self.checked else None,
            open=True,
        )

    def take(self) -> Any:
        return self.pool.getconn()

    def give(self, taken: Any) -> None:
        self.pool.putconn(taken)

    def spin(self, times: int) -> None:
        getconn, putconn = self.pool.getconn, self.pool.putconn
        for _ in range(times):
            putconn(getconn())

    def close(self) -> None:
        with suppress(Exception):
            self.pool.close(timeout=2)


class PsycopgPool(PsycopgPoolCheck):
    name = "psycopg_pool"
    checks = False
    checked = False


RIVALS: tuple[type[Contender], ...] = (Playhouse, SQLAlchemyPrePing, SQLAlchemy, PsycopgPoolCheck, PsycopgPool)
CONTENDERS: tuple[type[Contender], ...] = (Ours, *RIVALS)
