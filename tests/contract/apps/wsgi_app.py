"""The contract app as a bare WSGI callable behind the generic middleware."""

from __future__ import annotations

import io
import json
from typing import Any
from urllib.parse import parse_qsl

from peewee_web import Databases
from peewee_web.wsgi import PeeweeMiddleware
from tests.contract.cases import SYNC, Call, before_view, stats


def build(databases: Databases) -> Any:
    database = databases.default

    def bare(environ: dict[str, Any], start_response: Any) -> Any:
        path = environ["PATH_INFO"]
        if path == "/stats":
            start_response("200 OK", [("Content-Type", "application/json")])
            return [json.dumps(stats(database)).encode()]
        case = SYNC.get(path.removeprefix("/case/"))
        if case is None:
            start_response("404 Not Found", [("Content-Type", "text/plain")])
            return [b"no such case"]
        query = dict(parse_qsl(environ["QUERY_STRING"]))
        before_view(query)
        reply = case(Call(database, query, nested))
        start_response(f"{reply.status} Answer", [("Content-Type", "text/plain"), *reply.headers.items()])
        if environ["REQUEST_METHOD"] == "HEAD":
            return []
        if isinstance(reply.body, str):
            return [reply.body.encode()]
        return (chunk.encode() for chunk in reply.body)

    app = PeeweeMiddleware(bare, databases)

    def nested(target: str, host: str = "inner") -> str:
        path, _, query = target.partition("?")
        environ = {"REQUEST_METHOD": "GET", "PATH_INFO": path, "QUERY_STRING": query, "wsgi.input": io.BytesIO()}
        environ["HTTP_HOST"] = host
        return b"".join(app(environ, lambda *_: None)).decode()

    return app


def host_of(environ: dict[str, Any]) -> str:
    host: str = environ["HTTP_HOST"]
    return host
