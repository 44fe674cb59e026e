"""A client of Django's ASGI handler that may go away."""

from __future__ import annotations

import asyncio
from typing import Any

from django.core.handlers.asgi import ASGIHandler


class Exchange:
    """One GET request and what came of it. ``leave()`` is the client going away."""

    def __init__(self, path: str = "/", method: str = "GET") -> None:
        self.scope = {"type": "http", "method": method, "path": path, "headers": [], "query_string": b""}
        self.status = 0
        self.headers: dict[str, str] = {}
        self.body = b""
        self.answering = asyncio.Event()
        self._asked = False
        self._left = asyncio.Event()

    def leave(self) -> None:
        self._left.set()

    async def run(self) -> Exchange:
        """With warnings of Django's about streams the other way round as they are."""
        await ASGIHandler()(self.scope, self._receive, self._send)
        return self

    async def _receive(self) -> dict[str, Any]:
        if not self._asked:
            self._asked = True
            return {"type": "http.request"}
        await self._left.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = {name.decode().title(): value.decode() for name, value in message["headers"]}
        else:
            self.body += message.get("body", b"")
            self.answering.set()


def get(path: str = "/", method: str = "GET") -> Exchange:
    async def run() -> Exchange:
        return await Exchange(path, method).run()

    return asyncio.run(run())
