"""The contract app in Falcon, under ASGI."""

from __future__ import annotations

from typing import Any, NoReturn

import falcon.asgi
import httpx

from peewee_web import Databases
from peewee_web.falcon import install
from tests.contract.apps.asgi_app import as_async
from tests.contract.cases import ASYNC, SYNC, Call, answer_message, before_view, stats


def build(databases: Databases) -> Any:
    class Early:
        async def process_request(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
            before_view(req.params)

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
            for header in reply.headers.items():
                resp.append_header(*header)
            if isinstance(reply.body, str):
                resp.text = reply.body
            else:
                chunks = as_async(reply.body)
                resp.stream = (chunk.encode() async for chunk in chunks)

        on_head = on_post = on_get

    class Socket:
        async def on_websocket(self, req: falcon.asgi.Request, ws: falcon.asgi.WebSocket) -> None:
            await ws.accept()
            while True:
                await ws.send_text(answer_message(databases.default, await ws.receive_text()))

    async def nested(target: str, host: str = "inner") -> str:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=f"http://{host}") as client:
            return (await client.get(target)).text

    app = falcon.asgi.App(middleware=[Early()])
    install(app, databases)
    app.add_route("/stats", Stats())
    app.add_route("/case/{name}", Case())
    app.add_route("/socket", Socket())
    return app


def host_of(req: falcon.asgi.Request) -> str:
    assert isinstance(req, falcon.asgi.Request)
    return req.host


def refuse() -> NoReturn:
    raise falcon.HTTPNotFound
