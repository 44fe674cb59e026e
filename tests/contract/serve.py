"""Serve one contract app under one server until terminated: ``python -m tests.contract.serve APP SERVER URL PORT``.

Nothing of the app is imported before the server calls for it, so that gevent can patch first, as in production.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
import sys
from typing import Any

THREADS = 16


def build(name: str, url: str, flags: list[str]) -> Any:
    import peewee_web
    from tests.contract import several
    from tests.contract.apps import APPS
    from tests.contract.cases import MAX_CONNECTIONS, TIMEOUT

    databases: Any = peewee_web.connect(url, max_connections=MAX_CONNECTIONS, timeout=TIMEOUT)
    module = importlib.import_module(f"tests.contract.apps.{APPS[name][0]}")
    options: dict[str, Any] = {"lazy": "eager" not in flags, "atomic": "atomic" in flags}
    if "tenants" in flags:
        databases = several.tenants(databases, url)
        options["choose"] = several.choosing(module)
    if "several" in flags:
        databases = several.named(databases, url)
        options |= {"atomic": ["default", "shop"], "read_only": True}
    return module.build(peewee_web.Databases(databases, exclude=["/stats", *several.OUTSIDE], **options))


def main() -> None:
    name, server, url, port, *flags = sys.argv[1:]
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(name)s %(levelname)s %(message)s")
    for noisy in ("tornado.access", "uvicorn.access", "gunicorn.access", "httpx"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    if server == "tornado":
        asyncio.run(_serve_tornado(name, url, flags, int(port)))
    elif server == "uvicorn":
        import uvicorn

        uvicorn.run(build(name, url, flags), host="127.0.0.1", port=int(port), log_level="warning")
    elif server == "waitress":
        import waitress

        waitress.serve(build(name, url, flags), host="127.0.0.1", port=int(port), threads=THREADS)
    else:
        _serve_gunicorn(name, server, url, flags, port)


def _serve_gunicorn(name: str, server: str, url: str, flags: list[str], port: str) -> None:
    from gunicorn.app.base import BaseApplication

    class Application(BaseApplication):
        def load_config(self) -> None:
            settings = {"bind": f"127.0.0.1:{port}", "workers": 1, "worker_class": server, "loglevel": "warning"}
            settings["keepalive"] = 60  # by default it hangs up after 2 s, maybe while a client sends its next request
            settings |= {"threads": THREADS} if server == "gthread" else {"worker_connections": 200}
            for key, value in settings.items():
                self.cfg.set(key, value)

        def load(self) -> Any:
            return build(name, url, flags)

    Application().run()


async def _serve_tornado(name: str, url: str, flags: list[str], port: int) -> None:
    build(name, url, flags).listen(port, "127.0.0.1")
    await asyncio.Event().wait()


if __name__ == "__main__":
    main()
