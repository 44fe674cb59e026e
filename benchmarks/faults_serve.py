"""Serve one notes app under its framework's server until terminated, with a worker that is replaced when it dies.

``python -m benchmarks.faults_serve APP VARIANT PORT THREADS``, where a variant is "ours" or "hooks"; the database is
that of DATABASE_URL, as the example apps have it. The parent process makes the tables and then touches no database;
the worker that it forks loads the app.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from importlib.util import find_spec
from typing import Any

APPS = {
    "flask": "example_apps.flask_notes.app:app",
    "django": "example_apps.django_notes.wsgi:application",
    "tornado": "example_apps.tornado_notes.app:app",
}


def set_up() -> None:
    """Make the tables and the first notes."""
    from playhouse import db_url

    from example_apps.notes import DATABASE_URL, seed

    database = db_url.connect(DATABASE_URL.partition("?")[0])  # the rest is for a pool
    with database.connection_context():  # `with database:` were a transaction, which MariaDB ends at each CREATE TABLE
        seed.setup(database)


def load(name: str, variant: str) -> Any:
    """The app; *variant* "ours" is the example app as it is."""
    if variant == "hooks":
        from benchmarks import faults_hooks
        from example_apps.notes import DATABASE_URL

        return faults_hooks.BUILD[name](faults_hooks.database(DATABASE_URL))
    module, attribute = APPS[name].split(":")
    return getattr(import_module(module), attribute)


def main() -> None:
    name, variant, port, threads = sys.argv[1:]
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(asctime)s %(name)s %(message)s")
    set_up()
    if name == "tornado":
        _serve_tornado(variant, int(port), int(threads))
    elif find_spec("gunicorn"):
        _serve_gunicorn(name, variant, port, int(threads))
    else:
        import waitress

        # One process, which nobody replaces; as many connections as clients.
        waitress.serve(load(name, variant), host="127.0.0.1", port=port, threads=threads, connection_limit=5000)


def _serve_gunicorn(name: str, variant: str, port: str, threads: int) -> None:
    from gunicorn.app.base import BaseApplication

    class Application(BaseApplication):
        def load_config(self) -> None:
            settings = {
                "bind": f"127.0.0.1:{port}",
                "workers": 1,
                "worker_class": "gthread",
                "threads": threads,
                "worker_connections": 5000,  # as many as clients; else what waits to be accepted is no figure of ours
                "keepalive": 60,  # by default it hangs up after 2 s, maybe while a client sends its next request
                "graceful_timeout": 1,
                "control_socket_disable": True,  # one for all servers of an account
                "loglevel": "warning",
            }
            for key, value in settings.items():
                self.cfg.set(key, value)

        def load(self) -> Any:
            return load(name, variant)

    Application().run()


def _serve_tornado(variant: str, port: int, threads: int) -> None:
    from tornado.httpserver import HTTPServer
    from tornado.netutil import bind_sockets
    from tornado.process import fork_processes

    sockets = bind_sockets(port, "127.0.0.1", backlog=2048)
    fork_processes(1, max_restarts=10)

    async def serve() -> None:
        # Of a size of our own: asyncio's has four threads more than there are cores.
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(threads))
        HTTPServer(load("tornado", variant)).add_sockets(sockets)
        await asyncio.Event().wait()

    asyncio.run(serve())


if __name__ == "__main__":
    main()
