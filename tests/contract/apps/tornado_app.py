"""The contract app in Tornado, on its own server."""

from __future__ import annotations

from typing import Any

from tornado.httpclient import AsyncHTTPClient
from tornado.web import Application, HTTPError

from peewee_web import Databases
from peewee_web.tornado import PeeweeRequestHandler
from tests.contract.apps.asgi_app import as_async
from tests.contract.cases import ASYNC, SYNC, Call, stats


def build(databases: Databases) -> Any:
    class Stats(PeeweeRequestHandler):
        def get(self) -> None:
            self.write(stats(databases.default))

    class Case(PeeweeRequestHandler):
        async def get(self, name: str) -> None:
            query = {key: self.get_query_argument(key) for key in self.request.query_arguments}
            call = Call(databases.default, query, nested_async=self.nested)
            if name in ASYNC:
                reply = await ASYNC[name](call)
            elif name in SYNC:
                reply = SYNC[name](call)
            else:
                raise HTTPError(404)
            self.set_status(reply.status)
            self.set_header("Content-Type", "text/plain")
            if isinstance(reply.body, str):
                self.write(reply.body)
                return
            async for chunk in as_async(reply.body):
                self.write(chunk)
                await self.flush()

        head = get

        async def nested(self, target: str) -> str:
            answer = await AsyncHTTPClient().fetch(f"http://{self.request.host}{target}", raise_error=False)
            return answer.body.decode()

    return Application([(r"/stats", Stats), (r"/case/(.*)", Case)], peewee=databases)
