"""The contract app in Falcon, under ASGI."""

from __future__ import annotations

from typing import Any

import falcon.asgi
import httpx

from peewee_web import Databases
from peewee_web.falcon import install
from tests.contract.apps.asgi_app import as_async
from tests.contract.cases import ASYNC, SYNC, Call, stats


def build(databases: Databases) -> Any:
    class Stats:
        async def on_get(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
            resp.media = stats(databases.default)

    class Case:
        async def on_get(self, req: falcon.asgi.Request, resp: falcon.asgi.Response, name: str) -> None:
            call = Call(databases.default, req.params, nested_async=nested)
            if name in ASYNC:
                reply = await ASYNC[name](call)
            elif name in SYNC:
                reply = SYNC[name](call)
            else:
                raise falcon.HTTPNotFound
            resp.status, resp.content_type = reply.status, falcon.MEDIA_TEXT
            resp.set_headers(reply.headers)
            if isinstance(reply.body, str):
                resp.text = reply.body
            else:
                chunks = as_async(reply.body)
                resp.stream = (chunk.encode() async for chunk in chunks)

        on_head = on_get

    async def nested(target: str) -> str:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://inner") as client:
            return (await client.get(target)).text

    app = falcon.asgi.App()
    install(app, databases)
    app.add_route("/stats", Stats())
    app.add_route("/case/{name}", Case())
    return app
