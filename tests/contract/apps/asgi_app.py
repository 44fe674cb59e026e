"""The contract app as a bare ASGI callable behind the generic middleware."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from typing import Any
from urllib.parse import parse_qsl

import httpx

from peewee_web import Databases
from peewee_web.asgi import PeeweeMiddleware
from tests.contract.cases import ASYNC, SYNC, Call, Reply, answer_message, before_view, stats


def build(databases: Databases) -> Any:
    database = databases.default

    async def bare(scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] == "websocket":
            await converse(receive, send)
        if scope["type"] != "http":
            return
        name = scope["path"].removeprefix("/case/")
        call = Call(database, dict(parse_qsl(scope["query_string"].decode())), nested_async=nested)
        before_view(call.query)
        if scope["path"] == "/stats":
            reply = Reply(json.dumps(stats(database)))
        elif name in ASYNC:
            reply = await ASYNC[name](call)
        elif name in SYNC:
            reply = SYNC[name](call)
        else:
            reply = Reply("no such case", status=404)
        headers = [(name.lower().encode(), value.encode()) for name, value in reply.headers.items()]
        headers.append((b"content-type", b"text/plain"))
        await send({"type": "http.response.start", "status": reply.status, "headers": headers})
        if isinstance(reply.body, str):
            await send({"type": "http.response.body", "body": reply.body.encode()})
            return
        async for chunk in as_async(reply.body):
            await send({"type": "http.response.body", "body": chunk.encode(), "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    async def converse(receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        while (message := await receive())["type"] == "websocket.receive":
            await send({"type": "websocket.send", "text": answer_message(database, message["text"])})

    app = PeeweeMiddleware(bare, databases)

    async def nested(target: str, host: str = "inner") -> str:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=f"http://{host}") as client:
            return (await client.get(target)).text

    return app


async def as_async(body: Iterator[str] | AsyncIterator[str]) -> AsyncIterator[str]:
    if isinstance(body, AsyncIterator):
        async for chunk in body:
            yield chunk
    else:
        for chunk in body:
            yield chunk


def host_of(scope: dict[str, Any]) -> str:
    host: bytes = dict(scope["headers"])[b"host"]
    return host.decode()
