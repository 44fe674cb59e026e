"""The contract app in Falcon, under WSGI."""

from __future__ import annotations

from typing import Any, NoReturn

import falcon
from falcon import testing

from peewee_web import Databases
from peewee_web.falcon import install
from tests.contract.cases import SYNC, Call, before_view, stats


def build(databases: Databases) -> Any:
    class Early:
        def process_request(self, req: falcon.Request, resp: falcon.Response) -> None:
            before_view(req.params)

    class Stats:
        def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
            resp.media = stats(databases.default)

    class Case:
        def on_get(self, req: falcon.Request, resp: falcon.Response, name: str) -> None:
            if name not in SYNC:
                raise falcon.HTTPNotFound
            reply = SYNC[name](Call(databases.default, req.params, nested))
            resp.status, resp.content_type = reply.status, falcon.MEDIA_TEXT
            for header in reply.headers.items():
                resp.append_header(*header)
            if isinstance(reply.body, str):
                resp.text = reply.body
            else:
                resp.stream = (chunk.encode() for chunk in reply.body)

        on_head = on_post = on_get

    def nested(target: str, host: str = "inner") -> str:
        return testing.TestClient(app).simulate_get(target, host=host).text

    app = falcon.App(middleware=[Early()])
    install(app, databases)
    app.add_route("/stats", Stats())
    app.add_route("/case/{name}", Case())
    return app


def host_of(req: falcon.Request) -> str:
    return req.host


def refuse() -> NoReturn:
    raise falcon.HTTPNotFound
