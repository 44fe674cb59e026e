"""The databases of an app as one request sees them, where the tenant, or a test, decides which is the default."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from peewee import PeeweeException

from .errors import ScopeError
from .registry import Databases, resolve


class Selection(Databases):
    """*databases* as one unit of work sees them: *replaced* stand for some names.

    If *choose* is given it says what stands for the default one, as the option of that name does, and *chosen* is told.
    """

    def __init__(
        self,
        databases: Databases,
        replaced: Mapping[str, Any],
        choose: Callable[[], Any] | None = None,
        chosen: Callable[[str, Any], None] = lambda name, database: None,
    ) -> None:
        vars(self).update(vars(databases))  # its options
        self._origin = databases.origin
        self._databases = dict(databases._databases)
        if choose is None and isinstance(databases, Selection) and self._default_name not in replaced:
            choose = partial(databases.__getitem__, self._default_name)
        self._choice = choose
        self._chosen = chosen
        #: What the choice has failed with.
        self._failure: Exception | None = None
        self._choosing = threading.RLock()
        self._is_choosing = False
        for name, database in replaced.items():
            if name not in self._databases:
                raise TypeError(f"no database is named {name!r}: scope() takes {', '.join(self._databases)} by name")
            self._databases[name] = self._found(database, f"scope({name}=...)")

    @property
    def origin(self) -> Databases:
        return self._origin

    def name_of(self, database: object) -> str | None:
        """The name that the app has given it, or else that for which it stands here."""
        return self.origin.name_of(database) or super().name_of(database)

    def __getitem__(self, name: str) -> Any:
        if self._choice is not None and name == self._default_name:
            self.settled()
        return super().__getitem__(name)

    def get(self, name: str, default: Any = None) -> Any:
        return self[name] if name in self._databases else default  # a KeyError may be the app's own

    def settled(self) -> Databases:
        with self._choosing:
            if self._choice is None:
                return self
            if self._is_choosing:
                raise ScopeError(
                    "choose= uses the default database, which it is to choose: look tenants up in one of another name, "
                    "such as a model bound to ScopedDatabase('control')"
                )
            if self._failure is not None:
                raise self._failure
            self._is_choosing = True
            try:
                database = self._found(self._choice(), "choose=")
            except PeeweeException:  # a choice that could not be looked up may be when it is asked for again
                raise
            except AttributeError as error:  # which Python would take for a missing attribute of the proxy that asks
                self._failure = ScopeError(f"choose= failed: {error}")
                raise self._failure from error
            except Exception as error:
                self._failure = error
                raise
            finally:
                self._is_choosing = False
            self._databases[self._default_name] = database
            self._choice = None
            self._chosen(self._default_name, database)
        return self

    def _found(self, database: Any, giver: str) -> Any:
        known = self.origin._databases
        if isinstance(database, str) and database in known:
            return known[database]
        if database is None or isinstance(database, str):
            # A URL may hold a password, and what a client has sent belongs in no log.
            what = "None" if database is None else "a name that is not known"
            raise ScopeError(
                f"{giver} gave {what}: give one of {', '.join(map(repr, known))}, or a Peewee database (for a URL, one "
                "that peewee_web.connect() has made once)"
            )
        return resolve(giver, database)
