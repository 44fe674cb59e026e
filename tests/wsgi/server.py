"""The smallest WSGI server that is strict about PEP 3333, with a client that may hang up."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any
from wsgiref.util import setup_testing_defaults
from wsgiref.validate import validator


class Answer:
    """One request to *app* and what came of it. *chunks* limits how much of the body the client waits for."""

    def __init__(
        self,
        app: Callable[..., Iterable[bytes]],
        path: str = "/",
        method: str = "GET",
        chunks: int | None = None,
        before_body: Callable[[Any], object] = lambda body: None,
        **environ: Any,
    ) -> None:
        self.starts: list[tuple[str, dict[str, str]]] = []
        self.body = b""
        self._sent = False
        environ = {"PATH_INFO": path, "REQUEST_METHOD": method, "QUERY_STRING": "", "SCRIPT_NAME": "", **environ}
        setup_testing_defaults(environ)
        body = app(environ, self._start_response)
        try:
            before_body(body)
            if method != "HEAD":
                for number, chunk in enumerate(body, 1):
                    assert self.starts, "a body before its headers"
                    self._write(chunk)
                    if number == chunks:
                        break
        finally:
            if hasattr(body, "close"):
                body.close()

    def _start_response(self, status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
        if exc_info:
            try:
                if self._sent:
                    raise exc_info[1].with_traceback(exc_info[2])
            finally:
                exc_info = None
        else:
            assert not self.starts, "start_response called twice without exc_info"
        self.starts.append((status, dict(headers)))
        return self._write

    def _write(self, data: bytes) -> None:
        self._sent = self._sent or bool(data)
        self.body += data

    @property
    def status(self) -> int:
        return int(self.starts[-1][0][:3])

    @property
    def headers(self) -> dict[str, str]:
        return self.starts[-1][1]


def validated(app: Any, **request: Any) -> Answer:
    """The same through Python's own validator, which is fussier about types."""
    return Answer(validator(app), **request)
