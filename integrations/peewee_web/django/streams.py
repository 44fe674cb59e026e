"""What becomes of the scope when the response leaves the middleware: a complete one has no more need of it.

A streamed one keeps it until Django closes the response, which it does after the last byte and when the client goes
away. Nothing is attached to complete responses: caches pickle them.
"""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncGenerator
from typing import Any

from asgiref.sync import async_to_sync
from django.http import HttpResponse

from ..core.bodies import ScopedAsyncBody, ScopedBody
from ..core.scope import Scope

_ending: set[asyncio.Task[None]] = set()  # the event loop itself keeps only weak references


def hand_over(response: HttpResponse, scope: Scope) -> HttpResponse:
    """*response*, with *scope* ended or tied to its body."""
    if not response.streaming or _is_plain_file(getattr(response, "file_to_stream", None)):
        scope.end()
    else:
        # `_iterator` (4.2 to 5.2) and not `streaming_content`: that hides what has to be closed behind a new generator.
        body = response._iterator
        stream = _steps(ScopedAsyncBody(body, scope)) if response.is_async else None
        response._iterator = stream or ScopedBody(body, scope)
        if hasattr(response, "file_to_stream"):
            response.file_to_stream = None  # a server's wsgi.file_wrapper would read it past the scope
        response.close = _Close(response, scope, stream)
    return response


def _is_plain_file(file: Any) -> bool:
    """Whether reading *file* can't query: a file of the system's, or one in memory."""
    if isinstance(file, io.BytesIO):
        return True
    try:
        file.fileno()
    except (AttributeError, OSError):
        return False
    return True


async def _steps(body: ScopedAsyncBody[Any]) -> AsyncGenerator[Any, None]:
    """A generator, which the event loop closes also where Django forgets to (4.2, when sending fails)."""
    try:
        async for chunk in body:
            yield chunk
            # Peewee's queries never wait, and a server whose client is gone need not either: without a turn for the
            # loop, Django would not hear of it.
            await asyncio.sleep(0)
    finally:
        await body.aclose()


class _Close:
    """Stands in for ``response.close`` once: what Django closes, and whom it tells, is the request's code too."""

    def __init__(self, response: HttpResponse, scope: Scope, stream: AsyncGenerator[Any, None] | None) -> None:
        self._response = response
        self._scope = scope
        self._stream = stream

    def __call__(self) -> None:
        response, scope = self._response, self._scope
        vars(response).pop("close", None)  # and with it the reference cycle
        if self._stream is not None and not scope.ended:
            self._end_async(self._stream)
        if self._stream is not None or scope.ended:
            assert scope.databases is not None
            scope = scope.databases.scope(lazy=True, atomic=False)
        try:
            with scope.activate():
                response.close()
        finally:
            scope.end()

    def _end_async(self, stream: AsyncGenerator[Any, None]) -> None:
        async def end() -> None:
            try:
                await stream.aclose()
            finally:
                self._scope.end()

        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            async_to_sync(end)()
        else:  # AsyncClient, where a test leaves the body half-read
            task = loop.create_task(end())
            _ending.add(task)
            task.add_done_callback(_ending.discard)
