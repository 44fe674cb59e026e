"""Run one of the apps:  python -m example_apps [flask|django|falcon|bottle|tornado] [--port 8000]

Creates the tables, fills an empty notebook and serves it: waitress for the WSGI frameworks, Tornado for itself.
APP, HOST, PORT and DATABASE_URL (sqlite:///notes.db, postgresql://…, mysql://…) say the same through the environment;
REPLICA_URLS names replicas of that database, with spaces between.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import socket
import sys
from contextlib import suppress
from importlib import import_module
from typing import Any, NoReturn

import peewee

APPS = {
    "flask": "example_apps.flask_notes.app:app",
    "django": "example_apps.django_notes.wsgi:application",
    "falcon": "example_apps.falcon_notes.app:app",
    "bottle": "example_apps.bottle_notes.app:app",
    "tornado": "example_apps.tornado_notes.app:app",
}
THREADS = 8


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m example_apps", description="The same notebook on five frameworks.")
    parser.add_argument("app", nargs="?", default=os.environ.get("APP") or "flask", help=" | ".join(APPS))
    parser.add_argument("--host", default=os.environ.get("HOST") or "127.0.0.1")
    parser.add_argument("--port", default=os.environ.get("PORT") or "8000")
    options = parser.parse_args(arguments)
    name = options.app.lower()
    if name not in APPS:
        die(f"no app is called {options.app!r}: choose {', '.join(APPS)}")
    with listen(options.host, options.port) as listener:
        app, database = prepare(name)
        host, port = listener.getsockname()[:2]
        print(f"Notes on {name.capitalize()} with {database}:  http://{f'[{host}]' if ':' in host else host}:{port}/")
        print("Ctrl-C stops it.", flush=True)
        signal.signal(signal.SIGTERM, lambda *_: sys.exit())
        with suppress(KeyboardInterrupt):
            (serve_tornado if name == "tornado" else serve_wsgi)(app, listener)


def die(message: str) -> NoReturn:
    sys.exit(f"example_apps: {message}")


def listen(host: str, port: str) -> socket.socket:
    if not (port.isascii() and port.isdigit() and int(port) < 65536):
        die(f"{port!r} is not a port: choose a number from 0 (any free one) to 65535")
    try:
        return socket.create_server((host, int(port)), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        die(f"can't listen on {host} port {port}: {os.strerror(error.errno) if error.errno else error}")


def prepare(name: str) -> tuple[Any, str]:
    """Load the app, create its tables. Returns the app and what its database is called."""
    import peewee_web
    from example_apps.notes import DATABASE_URL, connect, models, search, seed

    for variable, make in (("DATABASE_URL", lambda: peewee_web.connect(DATABASE_URL)), ("REPLICA_URLS", connect)):
        try:
            make()  # opens nothing, but knows what is wrong with it
        except (peewee.ImproperlyConfigured, TypeError, ValueError) as error:
            die(f"{variable} can't be used: {error}")
    module, attribute = APPS[name].split(":")
    try:
        app = getattr(import_module(module), attribute)
    except ModuleNotFoundError as error:
        if error.name and error.name.startswith(("example_apps", "peewee_web")):
            raise
        die(f"{error.name} is not installed: pip install 'peewee-web[examples]'")
    try:
        # Work outside a request: Flask's databases belong to an app, so they are found in its context.
        with app.app_context() if name == "flask" else peewee_web.scope():
            seed.setup()
            return app, search.engine(models.database).name
    except peewee.OperationalError as error:
        die(f"the database can't be reached: {' '.join(str(error).split())}")


def serve_wsgi(app: Any, listener: socket.socket) -> None:
    from waitress import wasyncore
    from waitress.server import create_server

    channels: dict[int, Any] = {}
    try:
        create_server(app, channels, sockets=[listener], threads=THREADS, ident="notes").run()
    finally:
        wasyncore.close_all(channels)  # run() waits for requests under way; connections kept alive it forgets


def serve_tornado(app: Any, listener: socket.socket) -> None:
    from tornado.httpserver import HTTPServer

    async def serve() -> None:
        stop = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
        server = HTTPServer(app)
        listener.setblocking(False)
        server.add_socket(listener)
        await stop.wait()
        server.stop()
        await server.close_all_connections()

    asyncio.run(serve())
