"""The contract app in Falcon, under WSGI."""

from __future__ import annotations

from typing import Any

import falcon
from falcon import testing

from peewee_web import Databases
from peewee_web.falcon import install
from tests.contract.cases import SYNC, Call, stats


def build(databases: Databases) -> Any:
    class Stats:
        def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
            resp.media = stats(databases.default)

    class Case:
        def on_get(self, req: falcon.Request, resp: falcon.Response, name: str) -> None:
            if name not in SYNC:
                raise falcon.HTTPNotFound
            reply = SYNC[name](Call(databases.default, req.params, nested))
            resp.status, resp.content_type = reply.status, falcon.MEDIA_TEXT
            resp.set_headers(reply.headers)
            if isinstance(reply.body, str):
                resp.text = reply.body
            else:
                resp.stream = (chunk.encode() for chunk in reply.body)

        on_head = on_get

    def nested(target: str) -> str:
        return testing.TestClient(app).simulate_get(target).text

    app = falcon.App()
    install(app, databases)
    app.add_route("/stats", Stats())
    app.add_route("/case/{name}", Case())
    return app
