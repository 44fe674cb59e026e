"""A WSGI app that opens connections when it is imported, as apps do under ``gunicorn --preload``.

The environment says which database (``APP_DATABASE``, a URL), through which driver (``APP_DRIVER``), and whose pool
(``APP_POOL``: ours, or playhouse's as Peewee documents its use).
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any
from urllib.parse import parse_qs

import peewee

import peewee_web
from peewee_web.wsgi import PeeweeMiddleware

_URL, _DRIVER = os.environ["APP_DATABASE"], os.environ["APP_DRIVER"]
_OURS = os.environ.get("APP_POOL", "ours") == "ours"
_POSTGRES = _DRIVER.startswith("psycopg")
_SESSION = "pg_backend_pid()" if _POSTGRES else "connection_id()"
_SLEEP = "pg_sleep(0.005)" if _POSTGRES else "sleep(0.005)"


def _connect() -> Any:
    if not _POSTGRES:
        peewee.mysql = import_module(_DRIVER)
    options: dict[str, Any] = {"prefer_psycopg3": True} if _DRIVER == "psycopg" else {}
    if _OURS:
        return peewee_web.connect(_URL, max_connections=8, timeout=20.0, **options)
    from playhouse.db_url import connect

    return connect(_URL.replace("://", "+pool://"), max_connections=8, timeout=20, **options)


database = _connect()


def session() -> int:
    number: int = database.execute_sql(f"SELECT {_SESSION}").fetchone()[0]
    return number


def ask(token: str) -> dict[str, Any]:
    """What the server says to *token*, slowly enough for others to ask meanwhile."""
    row = database.execute_sql(f"SELECT %s, {_SESSION}, {_SLEEP}", (token,)).fetchone()
    return {"token": row[0], "session": row[1], "process": os.getpid()}


# One connection idle in the pool, one held by a scope that nobody ends, one left open in the main thread.
held = peewee_web.scope()
if _OURS:
    with held.activate():
        parents = {session()}
        with peewee_web.scope():
            parents.add(session())
            with peewee_web.scope():
                parents.add(session())
    database.connect()
else:
    database.connect()
    parents = {session()}


@contextmanager
def as_documented() -> Iterator[None]:
    """Peewee's own hooks for a request."""
    database.connect(reuse_if_open=True)
    try:
        yield
    finally:
        database.close()


def serve(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    token = parse_qs(environ["QUERY_STRING"]).get("token", [""])[0]
    if environ["PATH_INFO"] == "/parents":
        answer: dict[str, Any] = {"process": os.getppid(), "sessions": sorted(parents)}
    elif environ["PATH_INFO"] == "/outside":  # of any scope, as a thread of the app's own
        try:
            answer = ask(token)
        finally:
            database.close()
    elif environ["PATH_INFO"] == "/inherited":
        with held.activate():
            answer = ask(token)
        held.release()
    elif _OURS:
        answer = ask(token)
    else:
        with as_documented():
            answer = ask(token)
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps(answer).encode()]


app = PeeweeMiddleware(serve, database, exclude=("/outside", "/inherited", "/parents")) if _OURS else serve
