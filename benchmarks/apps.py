"""The same two routes in each framework, three times: bare, with the adapter, and with Peewee's documented hooks.

``/ping`` runs no query, ``/one`` runs one. The adapter and the hooks stand on pools of the same kind and settings.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from playhouse.pool import PooledSqliteDatabase

import peewee_web
from peewee_web.core.sqlite import PRAGMAS

CONNECTIONS = 8


@dataclass
class Variant:
    """One app; *kind* says how it is called: "wsgi", "asgi" or "tornado"."""

    app: Any
    kind: str = "wsgi"
    close: Callable[[], Any] = lambda: None


def adapted(path: str) -> Any:
    return peewee_web.connect(f"sqlite:///{path}", max_connections=CONNECTIONS)


def hooked(path: str) -> Any:
    return PooledSqliteDatabase(path, max_connections=CONNECTIONS, timeout=10, pragmas=PRAGMAS, check_same_thread=False)


def one(database: Any) -> bytes:
    return b"%d" % database.execute_sql("SELECT 1").fetchone()[0]


def wsgi(path: str) -> dict[str, Variant]:
    from peewee_web.wsgi import PeeweeMiddleware

    def application(database: Any, connect: bool = False) -> Any:
        def app(environ: Any, start_response: Any) -> Any:
            if connect:
                database.connect()
            try:
                body = one(database) if environ["PATH_INFO"] == "/one" else b"pong"
                start_response("200 OK", [("Content-Type", "text/plain")])
                return [body]
            finally:
                if connect:
                    database.close()

        return app

    ours, theirs = adapted(path), hooked(path)
    return {
        "bare": Variant(application(None)),
        "adapter": Variant(PeeweeMiddleware(application(ours), ours), close=ours.close_all),
        "hooks": Variant(application(theirs, connect=True), close=theirs.close_all),
    }


def asgi(path: str) -> dict[str, Variant]:
    from peewee_web.asgi import PeeweeMiddleware

    def application(database: Any, connect: bool = False) -> Any:
        async def app(scope: Any, receive: Any, send: Any) -> None:
            if connect:
                database.connect()
            try:
                body = one(database) if scope["path"] == "/one" else b"pong"
                await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
                await send({"type": "http.response.body", "body": body})
            finally:
                if connect:
                    database.close()

        return app

    ours, theirs = adapted(path), hooked(path)
    return {
        "bare": Variant(application(None), "asgi"),
        "adapter": Variant(PeeweeMiddleware(application(ours), ours), "asgi", ours.close_all),
        "hooks": Variant(application(theirs, connect=True), "asgi", theirs.close_all),
    }


def flask(path: str) -> dict[str, Variant]:
    from flask import Flask

    from peewee_web.flask import Peewee

    def application(database: Any) -> Any:
        app = Flask("bench")
        app.add_url_rule("/ping", "ping", lambda: "pong")
        app.add_url_rule("/one", "one", lambda: one(database))
        return app

    ours, theirs = adapted(path), hooked(path)
    bare, adapter, hooks = application(None), application(ours), application(theirs)
    Peewee(adapter, ours)
    hooks.before_request(lambda: theirs.connect() and None)
    hooks.teardown_request(lambda error: theirs.is_closed() or theirs.close())
    return {
        "bare": Variant(bare),
        "adapter": Variant(adapter, close=ours.close_all),
        "hooks": Variant(hooks, close=theirs.close_all),
    }


APPS: dict[str, Callable[[str], dict[str, Variant]]] = {"wsgi": wsgi, "asgi": asgi, "flask": flask}
