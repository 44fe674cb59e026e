"""How a Peewee database opens and closes a physical connection: the two things that its pool asks of it."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

from peewee import Database, SqliteDatabase
from peewee import __exception_wrapper__ as in_peewees_terms  # type: ignore[attr-defined]  # left out of the stubs
from playhouse.pool import PooledDatabase as PlayhousePool

from .dialling import open_connection
from .sqlite import prepare

__all__ = ["PhysicalConnections", "in_peewees_terms"]

if TYPE_CHECKING:
    from .pool import Pool

    class PeeweeDatabase(Database):
        """The names of Peewee's ``Database`` that its type stubs leave out and this file stands on (4.5)."""

        _state: Any
        _lock: Any

        def init(self, *args: Any, **options: Any) -> None: ...
        def begin(self, *args: Any, **options: Any) -> None: ...
        def connection(self) -> Any: ...
        def cursor(self, named_cursor: Any = None) -> Any: ...
        def pop_transaction(self) -> Any: ...
        def top_transaction(self) -> Any: ...
        def transaction_depth(self) -> int: ...
        def _connect(self) -> Any: ...
        def _close(self, conn: Any) -> None: ...
        def _initialize_connection(self, conn: Any) -> None: ...
        def _set_server_version(self, conn: Any) -> None: ...
        def _notify_hooks(self, sql: Any, params: Any, start: float, exc: Any) -> None: ...
        def _execute_cursor(self, sql: str, params: Any, **options: Any) -> Any: ...

else:
    PeeweeDatabase = object


class PhysicalConnections(PeeweeDatabase):
    """Mixin over a Peewee ``Database``. Called by the pool, from any thread."""

    pool: Pool

    def open_physical(self) -> Any:
        """A new physical connection. Peewee's `_connect`, which an app may have overridden, makes it."""
        with in_peewees_terms:
            conn = self._connect()
            if self.server_version is None:
                try:
                    self._set_server_version(conn)
                except BaseException:
                    with suppress(Exception):
                        self.close_physical(conn)
                    raise
        return conn

    def _connect(self) -> Any:
        if isinstance(self, SqliteDatabase):
            prepare(self)
        open_ = super()._connect
        if isinstance(self, PlayhousePool):
            self._in_use.clear()  # it is out of work, also where an app's own class calls it
            if getattr(open_, "__func__", None) is PlayhousePool._connect:
                open_ = super(PlayhousePool, self)._connect  # past its lock
        return open_connection(self, open_, self.pool.options.connect_timeout, self.pool.options.keepalive)

    def close_physical(self, conn: Any) -> None:
        """Close *conn* for good."""
        if isinstance(self, PlayhousePool):
            self._close(conn, close_conn=True)
        else:
            self._close(conn)
