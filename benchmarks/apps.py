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
                await send(
                    {"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]}
                )
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


def bottle(path: str) -> dict[str, Variant]:
    from bottle import Bottle

    from peewee_web.bottle import PeeweePlugin

    def application(database: Any) -> Any:
        app = Bottle()
        app.route("/ping", "GET", lambda: "pong")
        app.route("/one", "GET", lambda: one(database))
        return app

    ours, theirs = adapted(path), hooked(path)
    bare, adapter, hooks = application(None), application(ours), application(theirs)
    adapter.install(PeeweePlugin(ours))
    hooks.add_hook("before_request", theirs.connect)
    hooks.add_hook("after_request", lambda: theirs.is_closed() or theirs.close())
    return {
        "bare": Variant(bare),
        "adapter": Variant(adapter, close=ours.close_all),
        "hooks": Variant(hooks, close=theirs.close_all),
    }


class _FalconRoute:
    def __init__(self, answer: Callable[[], bytes]) -> None:
        self.answer = answer

    def on_get(self, req: Any, resp: Any) -> None:
        resp.data = self.answer()


class _FalconAsyncRoute(_FalconRoute):
    async def on_get(self, req: Any, resp: Any) -> None:  # type: ignore[override]
        resp.data = self.answer()


class _FalconHooks:
    def __init__(self, database: Any) -> None:
        self.database = database

    def process_request(self, req: Any, resp: Any) -> None:
        self.database.connect()

    def process_response(self, req: Any, resp: Any, resource: Any, req_succeeded: bool) -> None:
        if not self.database.is_closed():
            self.database.close()


class _FalconAsyncHooks(_FalconHooks):
    async def process_request(self, req: Any, resp: Any) -> None:  # type: ignore[override]
        super().process_request(req, resp)

    async def process_response(self, req: Any, resp: Any, resource: Any, req_succeeded: bool) -> None:  # type: ignore[override]
        super().process_response(req, resp, resource, req_succeeded)


def _falcon(path: str, make: Any, route: Any, hooks_class: Any, kind: str) -> dict[str, Variant]:
    from peewee_web.falcon import install

    def application(database: Any, middleware: Any = None) -> Any:
        app = make(middleware=middleware)
        app.add_route("/ping", route(lambda: b"pong"))
        app.add_route("/one", route(lambda: one(database)))
        return app

    ours, theirs = adapted(path), hooked(path)
    adapter = application(ours)
    install(adapter, ours)
    return {
        "bare": Variant(application(None), kind),
        "adapter": Variant(adapter, kind, ours.close_all),
        "hooks": Variant(application(theirs, [hooks_class(theirs)]), kind, theirs.close_all),
    }


def falcon(path: str) -> dict[str, Variant]:
    import falcon

    return _falcon(path, falcon.App, _FalconRoute, _FalconHooks, "wsgi")


def falcon_asgi(path: str) -> dict[str, Variant]:
    import falcon.asgi

    return _falcon(path, falcon.asgi.App, _FalconAsyncRoute, _FalconAsyncHooks, "asgi")


def django(path: str) -> dict[str, Variant]:
    from benchmarks import django_app

    ours, theirs = adapted(path), hooked(path)
    django_app.configure(ours, theirs)
    return {
        "bare": Variant(django_app.application([])),
        "adapter": Variant(django_app.application(["peewee_web.django.PeeweeMiddleware"]), close=ours.close_all),
        "hooks": Variant(django_app.application(["benchmarks.django_app.documented_hooks"]), close=theirs.close_all),
    }


def tornado(path: str) -> dict[str, Variant]:
    from tornado.web import Application, RequestHandler

    from peewee_web.tornado import PeeweeRequestHandler

    def application(parent: type, database: Any, **settings: Any) -> Any:
        class Ping(parent):  # type: ignore[misc]  # chosen at run time
            def get(self) -> None:
                self.finish(b"pong")

        class One(parent):  # type: ignore[misc]
            def get(self) -> None:
                self.finish(one(database))

        return Application([("/ping", Ping), ("/one", One)], log_function=lambda handler: None, **settings)

    ours, theirs = adapted(path), hooked(path)

    class Hooks(RequestHandler):
        def prepare(self) -> None:
            theirs.connect()

        def on_finish(self) -> None:
            if not theirs.is_closed():
                theirs.close()

    return {
        "bare": Variant(application(RequestHandler, None), "tornado"),
        "adapter": Variant(application(PeeweeRequestHandler, ours, peewee=ours), "tornado", ours.close_all),
        "hooks": Variant(application(Hooks, theirs), "tornado", theirs.close_all),
    }


APPS: dict[str, Callable[[str], dict[str, Variant]]] = {
    "wsgi": wsgi,
    "asgi": asgi,
    "flask": flask,
    "django": django,
    "falcon": falcon,
    "falcon-asgi": falcon_asgi,
    "bottle": bottle,
    "tornado": tornado,
}
