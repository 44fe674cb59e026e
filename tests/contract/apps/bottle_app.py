"""The contract app in Bottle."""

from __future__ import annotations

import io
from typing import Any, NoReturn

from bottle import BaseRequest, Bottle, HTTPResponse, abort, request

from peewee_web import Databases
from peewee_web.bottle import PeeweePlugin
from tests.contract.cases import SYNC, Call, before_view, stats


def build(databases: Databases) -> Any:
    app = Bottle()
    app.install(PeeweePlugin(databases))

    @app.hook("before_request")
    def early() -> None:
        before_view(request.query)

    @app.get("/stats")
    def show_stats(db: Any) -> dict[str, int]:
        return stats(db)

    @app.route("/case/<name>", ["GET", "POST"])
    def run(name: str, db: Any) -> HTTPResponse:
        case = SYNC.get(name) or abort(404)
        reply = case(Call(db, dict(request.query), nested))
        return HTTPResponse(reply.body, reply.status, {"Content-Type": "text/plain", **reply.headers})

    def nested(target: str, host: str = "inner") -> str:
        path, _, query = target.partition("?")
        environ = {"REQUEST_METHOD": "GET", "PATH_INFO": path, "QUERY_STRING": query, "wsgi.input": io.BytesIO()}
        environ["HTTP_HOST"] = host
        return b"".join(app(environ, lambda *_: None)).decode()

    return app


def host_of(asked: BaseRequest) -> str:
    host: str = asked.get_header("Host")
    return host


def refuse() -> NoReturn:
    abort(404)
