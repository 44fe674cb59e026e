"""The contract app in Tornado, on its own server."""

from __future__ import annotations

from typing import Any, NoReturn

from tornado.httpclient import AsyncHTTPClient
from tornado.httputil import HTTPServerRequest
from tornado.web import Application, HTTPError

from peewee_web import Databases
from peewee_web.tornado import PeeweeRequestHandler, PeeweeWebSocketHandler
from tests.contract.apps.asgi_app import as_async
from tests.contract.cases import ASYNC, SYNC, Call, answer_message, before_view, stats


def build(databases: Databases) -> Any:
    class Stats(PeeweeRequestHandler):
        def get(self) -> None:
            self.write(stats(databases.default))

    class Case(PeeweeRequestHandler):
        def prepare(self) -> None:
            self.query = {key: self.get_query_argument(key) for key in self.request.query_arguments}
            before_view(self.query)

        async def get(self, name: str) -> None:
            call = Call(databases.default, self.query, nested_async=self.nested)
            if name in ASYNC:
                reply = await ASYNC[name](call)
            elif name in SYNC:
                reply = SYNC[name](call)
            else:
                raise HTTPError(404)
            self.set_status(reply.status)
            for header in {"Content-Type": "text/plain", **reply.headers}.items():
                self.set_header(*header)
            if isinstance(reply.body, str):
                self.write(reply.body)
                return
            async for chunk in as_async(reply.body):
                self.write(chunk)
                await self.flush()

        head = post = get

        async def nested(self, target: str, host: str = "inner") -> str:
            connection: Any = self.request.connection
            url = f"http://127.0.0.1:{connection.stream.socket.getsockname()[1]}{target}"
            answer = await AsyncHTTPClient().fetch(url, headers={"Host": host}, raise_error=False)
            return answer.body.decode()

    class Socket(PeeweeWebSocketHandler):
        async def on_message(self, message: str | bytes) -> None:
            assert isinstance(message, str)
            await self.write_message(answer_message(databases.default, message))

    return Application([(r"/stats", Stats), (r"/case/(.*)", Case), (r"/socket", Socket)], peewee=databases)


def host_of(request: HTTPServerRequest) -> str:
    assert isinstance(request, HTTPServerRequest)
    return request.host


def refuse() -> NoReturn:
    raise HTTPError(404)
