"""The master goes on with the connections that it opened: it writes down which sessions they are, child by child."""

from __future__ import annotations

import os
from typing import Any


def child_exit(server: Any, worker: Any) -> None:
    if os.environ.get("APP_POOL", "ours") != "ours":
        return
    from tests.fork import app

    with open(os.environ["APP_MASTER_LOG"], "a") as log:
        with app.held.activate():
            held = app.session()
        log.write(f"{app.session()} {held}\n")
