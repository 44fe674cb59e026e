"""A client that calls a WSGI app as a server would, checked by the standard library's validator (PEP 3333)."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from wsgiref.util import setup_testing_defaults
from wsgiref.validate import validator


@dataclass
class Answer:
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    log: str = ""  # what was written to wsgi.errors

    @property
    def text(self) -> str:
        return self.body.decode()


class Client:
    def __init__(self, app: Callable[..., Any]) -> None:
        self.app = app

    def get(self, path: str, method: str = "GET", **environ: Any) -> Answer:
        with self.open(path, method, **environ) as (answer, chunks):
            answer.body = b"".join(chunks)
        return answer

    @contextmanager
    def open(self, path: str, method: str = "GET", **extra: Any) -> Iterator[tuple[Answer, Iterator[bytes]]]:
        """The answer and its body, to be read or not; leaving the block is the client going away."""
        answer, log = Answer(), io.StringIO()
        path, _, query = path.partition("?")
        environ: dict[str, Any] = {"REQUEST_METHOD": method, "PATH_INFO": path, "QUERY_STRING": query}
        environ |= {"SCRIPT_NAME": "", "wsgi.errors": log, **extra}
        setup_testing_defaults(environ)

        def start_response(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Callable[..., None]:
            answer.status, answer.headers = int(status[:3]), dict(headers)
            return lambda data: None

        body = validator(self.app)(environ, start_response)
        try:
            yield answer, iter(body)
        finally:
            body.close()
            answer.log = log.getvalue()
