"""``settings.PEEWEE``, read: which databases there are and how requests use them.

Where it names none, they are those of Django's own ``DATABASES``. Every complaint is a ``BadSetting`` of one line,
which the system checks show before a server starts.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import peewee
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.utils.module_loading import import_string

from ..core.databases import connect
from ..core.registry import DEFAULT, Databases
from ..core.replicas import ReplicatedDatabase
from . import engines

SETTING = "PEEWEE"
KEYS = ("DATABASES", "DATABASE", "LAZY", "ATOMIC", "COMMIT_WHEN", "EXCLUDE", "CHOOSE", "READ_ONLY")
DJANGOS = "DATABASES"
REPLICAS = "REPLICAS"
DUMMY = "django.db.backends.dummy"  # what Django fills in where a project has no database


class BadSetting(ImproperlyConfigured):
    """The setting can't be used. ``check`` is the number of the system check that says so."""

    def __init__(self, check: str, message: str) -> None:
        super().__init__(message)
        self.check = check


class Configuration:
    """The databases that the settings describe at the time it is made. Raises `BadSetting`; opens no connection."""

    def __init__(self) -> None:
        configured = _configured()
        options = _options(configured)
        where, described = _described(configured)
        self._descriptions = [value for value in described.values() if isinstance(value, Mapping)]
        self._names = self._current_names()
        if isinstance(described, Databases):
            if options:
                given = ", ".join(key for key in KEYS if key.lower() in options)
                raise BadSetting("E002", f"{where} is a Databases object, which holds the options: give it {given}")
            self._made: list[Any] = []
            self.databases = described
            return
        found = {name: _find(where, name, value) for name, value in described.items()}
        self._made = [database for database, made in found.values() if made]
        self.databases = Databases({name: database for name, (database, _) in found.items()}, **options)

    def is_current(self) -> bool:
        """Whether the databases have their names still: Django's test runner changes them, and sends no signal."""
        return not self._descriptions or self._names == self._current_names()

    def _current_names(self) -> list[Any]:
        return [description.get("NAME") for description in self._descriptions]

    def close(self) -> None:
        """Close the idle connections of the databases that were made here. Those given as objects stay as they are."""
        if self._made:
            Databases({str(number): database for number, database in enumerate(self._made)}).close()


def _configured() -> Mapping[str, Any]:
    configured = getattr(settings, SETTING, None)
    if configured is None:
        return {}
    if not isinstance(configured, Mapping) or isinstance(configured, Databases):
        raise BadSetting(
            "E002",
            f"{SETTING} is a dict such as {{'DATABASES': {{'default': 'postgresql://user@host/name'}}}}, "
            f"not a {type(configured).__name__}",
        )
    _check_keys(SETTING, configured, KEYS)
    if "DATABASE" in configured and "DATABASES" in configured:
        raise BadSetting("E002", f"{SETTING} has both DATABASE and DATABASES: put the one into the other, as 'default'")
    return configured


def _check_keys(where: str, given: Iterable[Any], known: Iterable[str]) -> None:
    for key in given:
        if key not in known:
            close = difflib.get_close_matches(str(key).upper(), known, n=1)
            advice = f"did you mean {close[0]!r}?" if close else f"there is {', '.join(known)}"
            raise BadSetting("E002", f"{where} has no key {key!r}: {advice}")


def _options(configured: Mapping[str, Any]) -> dict[str, Any]:
    options: dict[str, Any] = {}
    for key in ("LAZY", "ATOMIC", "READ_ONLY"):
        if key in configured:
            options[key.lower()] = configured[key]
            names = key == "ATOMIC" and isinstance(configured[key], (list, tuple, set, frozenset))
            if not isinstance(configured[key], bool) and not names:
                raise BadSetting("E002", f"{SETTING}[{key!r}] is True or False, not {configured[key]!r}")
    for key, argument in (("COMMIT_WHEN", "the HTTP status"), ("CHOOSE", "the request")):
        function = configured.get(key)
        if function is not None:
            where = f"{SETTING}[{key!r}]"
            options[key.lower()] = _import(where, function) if isinstance(function, str) else function
            if not callable(options[key.lower()]):
                raise BadSetting("E002", f"{where} is a function of {argument}, or its dotted path")
    exclude = configured.get("EXCLUDE", ())
    if exclude:
        options["exclude"] = (exclude,) if isinstance(exclude, str) else tuple(exclude)
        if not all(isinstance(pattern, str) for pattern in options["exclude"]):
            raise BadSetting("E002", f"{SETTING}['EXCLUDE'] is a list of paths and names of routes, as strings")
    return options


def _described(configured: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    """What describes each database, by name, and where it stands."""
    where = f"{SETTING}['DATABASES']"
    described = configured.get("DATABASES")
    if "DATABASE" in configured:
        where, described = f"{SETTING}['DATABASE']", {DEFAULT: configured["DATABASE"]}
    if described is None:
        where, described = DJANGOS, settings.DATABASES
        if not any(description.get("ENGINE", DUMMY) != DUMMY for description in described.values()):
            raise BadSetting(
                "E002",
                f"no database is configured: set {SETTING} = {{'DATABASES': {{'default': 'postgresql://user@host/name'}}}}",
            )
        described = {name: value for name, value in described.items() if value.get("ENGINE", DUMMY) != DUMMY}
    elif not isinstance(described, Mapping):
        described = {DEFAULT: described}
    elif not described:
        raise BadSetting(
            "E002", f"{where} is empty: name a database, as in {{'default': 'postgresql://user@host/name'}}"
        )
    elif "ENGINE" in described or "URL" in described:
        raise BadSetting("E002", f"{where} maps names to databases: write {{'default': {{...}}}}")
    return where, described


def _find(described_in: str, name: Any, value: Any) -> tuple[Any, bool]:
    """The database, and whether it was made here."""
    where = f"{described_in}[{name!r}]"
    made = False
    with _explained(where):
        if isinstance(value, Mapping):
            if described_in != DJANGOS:  # the backends of others have keys of their own
                _check_keys(where, value, (*engines.KEYS, *engines.ORM_KEYS, REPLICAS))
            value, made = _open(where, value), True
        elif isinstance(value, str) and "://" in value:
            value, made = connect(value), True
        elif isinstance(value, str):
            value = _import(where, value)
        return Databases({name: value}).default, made


def _open(where: str, described: Mapping[str, Any]) -> Any:
    primary = engines.open_described({key: value for key, value in described.items() if key != REPLICAS})
    if REPLICAS not in described:
        return primary
    replicas = described[REPLICAS]
    if isinstance(replicas, (str, Mapping)):
        raise BadSetting(
            "E002", f"{where}[{REPLICAS!r}] is a list of databases, each a URL or described as this one is"
        )
    return ReplicatedDatabase(primary, [_find(where, REPLICAS, replica)[0] for replica in replicas])


@contextmanager
def _explained(where: str) -> Iterator[None]:
    try:
        yield
    except peewee.ImproperlyConfigured as error:
        raise BadSetting("E004", f"{where}: {error}") from None
    except ValueError as error:
        raise BadSetting("E003", f"{where}: {error}") from None
    except TypeError as error:
        raise BadSetting("E005", f"{where}: {error}") from None


def _import(where: str, path: str) -> Any:
    if not all(part.isidentifier() for part in path.split(".")):  # not repeated: it may be a URL with a password
        raise BadSetting("E003", f"{where} is neither a URL such as 'postgresql://user@host/name' nor a dotted path")
    try:
        return import_string(path)
    except ImportError as error:
        raise BadSetting("E003", f"{where} names {path!r}, which can't be imported: {error}") from error
