"""A database described in Django's way (ENGINE, NAME, USER, …), opened as a pooled Peewee database.

Options of Django's own backends are translated where Peewee says the same in another way; what is left goes to the
driver, as in Django.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ..core.databases import connect

Description = Mapping[str, Any]
Arguments = dict[str, Any]

#: The keys of a description. The second half means something to Django's ORM only.
KEYS = ("ENGINE", "URL", "NAME", "USER", "PASSWORD", "HOST", "PORT", "OPTIONS", "POOL")
ORM_KEYS = (
    "ATOMIC_REQUESTS",
    "AUTOCOMMIT",
    "CONN_HEALTH_CHECKS",
    "CONN_MAX_AGE",
    "DISABLE_SERVER_SIDE_CURSORS",
    "TEST",
    "TIME_ZONE",
)


def open_described(description: Description) -> Any:
    """The database that *description* describes; ``URL`` may stand for ENGINE and what goes with it.

    ``OPTIONS`` go to the driver, ``POOL`` to the pool (``max_connections``, ``stale_timeout``, ``timeout``). Raises
    `ValueError` for an engine that has no like in Peewee, and what `connect` raises.
    """
    pool = dict(description.get("POOL") or {})
    options = dict(description.get("OPTIONS") or {})
    if description.get("URL"):
        return connect(description["URL"], **options, **pool)
    engine = str(description.get("ENGINE") or "").rpartition(".")[2]
    if engine not in _ENGINES:
        raise ValueError(
            f"the engine {description.get('ENGINE')!r} has no like here: use one of {', '.join(_ENGINES)}, "
            "or give a URL or a Peewee database"
        )
    scheme, arguments_of = _ENGINES[engine]
    if not description.get("NAME"):
        raise ValueError("it has no NAME: say which database it is")
    return connect(f"{scheme}://", **{**arguments_of(description, options), **pool})


def _server(description: Description) -> Arguments:
    given = {
        "database": description["NAME"],
        "user": description.get("USER"),
        "password": description.get("PASSWORD"),
        "host": description.get("HOST"),
        "port": description.get("PORT"),
    }
    return {name: value for name, value in given.items() if value}


def _postgresql(description: Description, options: Arguments) -> Arguments:
    pool = options.pop("pool", None)  # of Django's own pooling (5.1), which is psycopg_pool's
    options.pop("server_side_binding", None)  # of Django's cursors
    role = options.pop("assume_role", None)
    if role:
        escaped = str(role).replace("\\", "\\\\").replace(" ", "\\ ")  # libpq, "options"
        options["options"] = f"{options.get('options', '')} -c role={escaped}".strip()
    if isinstance(pool, Mapping):
        same = {"max_connections": pool.get("max_size"), "timeout": pool.get("timeout")}
        options.update({name: value for name, value in same.items() if value})
    # Django prefers psycopg 3 where both are installed, and so the options may be meant for it.
    return {**_server(description), "prefer_psycopg3": True, **options}


def _mysql(description: Description, options: Arguments) -> Arguments:
    arguments = _server(description)
    if str(arguments.get("host", "")).startswith("/"):
        arguments["unix_socket"] = arguments.pop("host")
    if "port" in arguments:
        arguments["port"] = int(arguments["port"])
    level = options.pop("isolation_level", None)
    if level:
        if "init_command" in options:
            raise ValueError("its OPTIONS have isolation_level and init_command: set the level in the init_command")
        options["init_command"] = f"SET SESSION TRANSACTION ISOLATION LEVEL {level.upper()}"
    return {**arguments, **options}


def _sqlite(description: Description, options: Arguments) -> Arguments:
    name = str(description["NAME"])
    options.pop("check_same_thread", None)
    pragmas = _pragmas(options.pop("init_command", None) or "")
    if "timeout" in options:  # seconds to wait for a lock; the pool's argument of this name is another
        pragmas["busy_timeout"] = int(options.pop("timeout") * 1000)
    mode = options.pop("transaction_mode", None)
    if mode:
        options["lock_type"] = mode.upper()
    if name.startswith("file:"):
        options["uri"] = True
    return {"database": name, "pragmas": pragmas, **options}


def _pragmas(init_command: str) -> dict[str, Any]:
    """Django 5.1's ``init_command`` holds statements; pragmas are what it is for."""
    pragmas: dict[str, Any] = {}
    for statement in filter(None, map(str.strip, init_command.split(";"))):
        word, _, rest = statement.partition(" ")
        name, equals, value = rest.partition("=")
        if word.upper() != "PRAGMA" or not equals:
            raise ValueError(f"its init_command has {statement!r}: here it may hold `PRAGMA name = value;` only")
        pragmas[name.strip().lower()] = value.strip()
    return pragmas


_ENGINES: dict[str, tuple[str, Callable[[Description, Arguments], Arguments]]] = {
    "postgresql": ("postgresql", _postgresql),
    "mysql": ("mysql", _mysql),
    "sqlite3": ("sqlite", _sqlite),
    "postgis": ("postgresql", _postgresql),
    "spatialite": ("sqlite", _sqlite),
}
