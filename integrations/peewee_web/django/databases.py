"""``databases`` and ``Model``: the configured databases, found when they are first used and not at import."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

import peewee
from django.apps import apps
from django.core.exceptions import ImproperlyConfigured
from django.core.signals import setting_changed

from ..core.registry import DEFAULT, Databases
from ..core.scope import Scope, current_scope
from ..core.scoped import ScopedDatabase
from .settings import DJANGOS, SETTING, Configuration


class ConfiguredDatabases(Mapping[str, Any]):
    """The databases of ``settings.PEEWEE`` by name, as long as the settings say so. Thread-safe.

    They follow ``override_settings`` and Django's test databases. Raises `ImproperlyConfigured` where the settings
    can't be used.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        # One for the settings themselves, and one more for each override of them.
        self._configurations: list[Configuration | None] = [None]
        self._proxies: dict[str, ScopedDatabase] = {}

    @property
    def current(self) -> Databases:
        """What the settings amount to now: an ordinary `Databases`."""
        configuration = self._configurations[-1]
        if configuration is None or not configuration.is_current():
            with self._lock:
                configuration = self._renew()
        return configuration.databases

    def _renew(self) -> Configuration:
        configuration = self._configurations[-1]
        if configuration is None or not configuration.is_current():
            replaced, configuration = configuration, Configuration()
            self._configurations[-1] = configuration
            if replaced is not None:
                replaced.close()
            self._tell_models(configuration.databases)
        return configuration

    def _tell_models(self, databases: Databases) -> None:
        for name, proxy in self._proxies.items():
            with suppress(KeyError):
                proxy.initialize(databases.default if name == DEFAULT else databases[name])

    def on_setting_changed(self, *, setting: str, enter: bool, **_: Any) -> None:
        if setting not in (SETTING, DJANGOS):
            return
        with self._lock:
            if enter:
                self._configurations.append(None)
                return
            left = self._configurations.pop()
            if not self._configurations:  # this module was imported inside the override
                self._configurations.append(None)
            if left is not None:
                left.close()
                before = self._configurations[-1]
                if before is not None:
                    self._tell_models(before.databases)

    @property
    def _here(self) -> Databases:
        """The same, in a request with what ``choose`` chooses for the default one."""
        current, scope = self.current, current_scope()
        seen = None if scope is None else scope.databases
        return seen if seen is not None and seen.origin is current else current

    def __getitem__(self, name: str) -> Any:
        return self._here[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.current)

    def __len__(self) -> int:
        return len(self.current)

    def __repr__(self) -> str:
        return f"<the databases of settings.{SETTING}>"

    @property
    def default(self) -> Any:
        """The database named ``"default"``, or the only one; in a request what ``choose`` chooses."""
        return self._here.default

    def proxy(self, name: str = DEFAULT) -> ScopedDatabase:
        """Stands for the database called *name*, for models: ``class Meta: database = databases.proxy("reports")``."""
        with self._lock:
            if name not in self._proxies:
                self._proxies[name] = ScopedDatabase(name, self._for_models)
            return self._proxies[name]

    def _for_models(self) -> Databases | None:
        try:
            return self.current
        except ImproperlyConfigured:
            if apps.models_ready:
                raise
            # Fields for JSON and bytes ask already when their model is declared, which may be while the module that
            # the setting names is imported. They are told later.
            return None

    def scope(self, **options: Any) -> Scope:
        """A unit of work outside requests: ``with databases.scope(): ...``, or as a decorator.

        *options* are those of `Databases.scope`: ``lazy``, ``atomic``, ``read_only``, and databases by name.
        """
        return self._here.scope(**options)

    def close(self) -> None:
        """Close idle connections, and the calling thread's own. Configures nothing that is not configured yet."""
        with self._lock:
            for configuration in self._configurations:
                if configuration is not None:
                    configuration.databases.close()


databases = ConfiguredDatabases()
setting_changed.connect(databases.on_setting_changed, dispatch_uid="peewee_web.django")


class Model(peewee.Model):
    """The base class of models that live in the default database of the settings."""

    class Meta:
        database = databases.proxy()
