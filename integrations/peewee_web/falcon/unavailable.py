"""How "no connection" becomes a 503 of Falcon's own, for the app's error serializer or handlers to style."""

from __future__ import annotations

from typing import Any, NoReturn

import falcon

from ..core.errors import NoConnection
from ..core.unavailable import body_of, retry_after


class Unavailable(NoConnection, falcon.HTTPServiceUnavailable):
    """A `NoConnection` for an app that has an error handler for those, and for any other the 503 that it means."""

    def __init__(self, error: NoConnection) -> None:
        falcon.HTTPServiceUnavailable.__init__(self, description=body_of(error), retry_after=retry_after(error))
        self.args = error.args
        self.retry_after, self.database = error.retry_after, error.database


def answer_unavailable(req: Any, resp: Any, error: NoConnection, params: Any) -> NoReturn:
    raise falcon.HTTPServiceUnavailable(description=body_of(error), retry_after=retry_after(error)) from error


async def answer_unavailable_async(req: Any, resp: Any, error: NoConnection, params: Any, ws: Any = None) -> NoReturn:
    answer_unavailable(req, resp, error, params)
