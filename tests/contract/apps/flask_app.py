"""The contract app in Flask."""

from __future__ import annotations

from typing import Any

from flask import Flask, Response, abort, request, stream_with_context

from peewee_web import Databases
from peewee_web.flask import Peewee
from tests.contract.cases import SYNC, Call, stats


def build(databases: Databases) -> Any:
    app = Flask(__name__)
    db = Peewee(app, databases)

    @app.get("/stats")
    def show_stats() -> dict[str, int]:
        return stats(databases.default)

    @app.get("/case/<name>")
    def run(name: str) -> Response:
        case = SYNC.get(name) or abort(404)
        reply = case(Call(db.databases["default"], request.args.to_dict(), nested))
        body = reply.body if isinstance(reply.body, str) else stream_with_context(reply.body)
        return Response(body, reply.status, reply.headers, "text/plain")

    def nested(target: str) -> str:
        return app.test_client().get(target).text

    return app
