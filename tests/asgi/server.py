"""The smallest ASGI server: it hands messages over, keeps what is sent, and its client may hang up."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from tests.core.working import PATIENCE

Message = MutableMapping[str, Any]
REQUEST: Message = {"type": "http.request", "body": b"", "more_body": False}
START: Message = {"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]}


def chunk(body: bytes, more: bool = True) -> Message:
    return {"type": "http.response.body", "body": body, "more_body": more}


class Server:
    """One connection from a client to *app*. Whoever waits for more than *incoming* waits until the client is gone."""

    def __init__(
        self,
        app: Callable[..., Awaitable[None]],
        *,
        kind: str = "http",
        path: str = "/",
        incoming: tuple[Message, ...] = (REQUEST,),
        gone_after: int | None = None,
        on_send: Callable[[Message], object] = lambda message: None,
        extensions: dict[str, Any] | None = None,
        receive_fails: bool = False,
    ) -> None:
        self.app = app
        self.scope: dict[str, Any] = {
            "type": kind,
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": "1.1",
            "method": "GET",
            "path": path,
            "query_string": b"",
            "headers": [],
            "extensions": extensions or {},
        }
        self.sent: list[Message] = []
        self.received = 0
        self.gone = asyncio.Event()
        self._incoming = list(incoming)
        self._gone_after = gone_after
        self._on_send = on_send
        self._receive_fails = receive_fails
        self._kind = kind

    async def receive(self) -> Message:
        self.received += 1
        await asyncio.sleep(0)
        if self._incoming:
            return self._incoming.pop(0)
        if self._receive_fails:
            raise ConnectionResetError
        await self.gone.wait()
        return {"type": f"{self._kind}.disconnect"}

    async def send(self, message: Message) -> None:
        """As uvicorn's: it drops without a word what is sent to a client that went away."""
        if not self.gone.is_set():
            self.sent.append(message)
            self._on_send(message)
        if len(self.sent) == self._gone_after:
            self.gone.set()

    async def serve(self) -> Server:
        await asyncio.wait_for(self.app(self.scope, self.receive, self.send), PATIENCE)
        return self

    @property
    def status(self) -> int:
        status: int = self.sent[0]["status"]
        return status

    @property
    def headers(self) -> dict[bytes, bytes]:
        return dict(self.sent[0]["headers"])

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.sent)


def serve(app: Any, **options: Any) -> Server:
    """Serve one request on a loop of its own; no task may be left behind."""

    async def main() -> Server:
        server = await Server(app, **options).serve()
        await asyncio.sleep(0)
        left = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        assert not left
        return server

    return asyncio.run(main())
