"""What the owner of a pooled database may ask of it besides queries: the methods of ``playhouse.pool``, and more."""

from __future__ import annotations

from peewee import OperationalError

from .executing import Executing
from .stats import PoolStats


class Pooling(Executing):
    """Mixin over a Peewee ``Database``. All methods are thread-safe; the pool itself is ``pool``."""

    def pool_stats(self) -> PoolStats:
        """The figures of this moment."""
        return self.pool.stats()

    def warm(self) -> int:
        """Open connections until there are ``min_connections``, before the first request needs one.

        Returns how many there are. Raises `DatabaseUnavailable`, `PoolTimeout`, or what the server refuses with.
        """
        return self.pool.warm()

    def close_idle(self) -> int:
        """Close the connections that nobody uses. Returns how many."""
        self.take_back_orphans(in_background=False)
        return self.pool.close_idle()

    def close_stale(self, age: float = 600) -> int:
        """Close connections that have been in use for *age* seconds, done or not. Returns how many.

        Their users get an error at their next query.
        """
        return self.pool.evict(age)

    def close_all(self) -> None:
        """Close all connections, also those in use, whose users get an error at their next query."""
        self.close()
        self.close_idle()
        self.pool.evict()

    def close_pool(self, timeout: float = 0.0) -> int:
        """Close the idle connections, and the others as they come back, which may take *timeout* seconds in all.

        For the end of the process: nothing is cut off in the middle of a statement. Returns how many were still in use
        when the time was up; each is closed when it is given back.
        """
        return self.pool.close(timeout)

    def manual_close(self) -> bool:
        """Close the connection of the current scope or thread for good. Returns whether there was one."""
        state = self._state.find()
        with state:
            if state.closed:
                return False
            if state.transactions:
                raise OperationalError("Attempting to close database while transaction is open.")
            self.discard(state)
            return True

    def dispose(self) -> None:
        """Forget all connections without closing them: Peewee's way to begin anew in a forked child.

        (There is no need to: a child's pool begins anew by itself.)
        """
        self._state.find().reset()
        self.orphans.clear()
        self.pool.forget()
