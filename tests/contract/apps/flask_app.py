"""The contract app in Flask."""

from __future__ import annotations

from typing import Any, NoReturn

from flask import Flask, Request, Response, abort, request, stream_with_context

from peewee_web import Databases
from peewee_web.flask import Peewee
from tests.contract.cases import SYNC, Call, before_view, stats


def build(databases: Databases) -> Any:
    app = Flask(__name__)
    db = Peewee(app, databases)

    @app.before_request
    def early() -> None:
        before_view(request.args)

    @app.get("/stats")
    def show_stats() -> dict[str, int]:
        return stats(databases.default)

    @app.route("/case/<name>", methods=["GET", "POST"])
    def run(name: str) -> Response:
        case = SYNC.get(name) or abort(404)
        reply = case(Call(lambda: db.databases["default"], request.args.to_dict(), nested))
        body = reply.body
        if not isinstance(body, str) and "plain" not in request.args:
            body = stream_with_context(body)
        return Response(body, reply.status, reply.headers, "text/plain")

    def nested(target: str, host: str = "inner") -> str:
        return app.test_client().get(target, base_url=f"http://{host}").text

    return app


def host_of(asked: Request) -> str:
    assert isinstance(asked, Request)
    return asked.host


def refuse() -> NoReturn:
    abort(404)
