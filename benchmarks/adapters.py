"""What an adapter costs: ``python -m benchmarks.adapters`` (``make bench``).

Two questions for each framework, both asked in-process, without a server, in interleaved rounds:

1. a request that runs no query: the framework with the adapter, minus the bare framework (aim: under 5 us);
2. a request of one query on SQLite: the adapter beside the hooks that Peewee's documentation gives.

Prints a table and writes ``benchmarks/results/adapters.json``.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.apps import APPS, Variant

RESULTS = Path(__file__).parent / "results"


def environ(path: str) -> dict[str, Any]:
    return {
        "REQUEST_METHOD": "GET",
        "PATH_INFO": path,
        "QUERY_STRING": "",
        "SCRIPT_NAME": "",
        "SERVER_NAME": "bench",
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "HTTP_HOST": "bench",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(),
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
    }


def run_wsgi(app: Any, path: str, times: int) -> float:
    """Seconds for *times* requests."""

    def start_response(status: str, headers: Any, exc_info: Any = None) -> Any:
        if not status.startswith("200"):
            raise RuntimeError(f"{path} answered {status}")

    begun = time.perf_counter()
    for _ in range(times):
        body = app(environ(path), start_response)
        for _chunk in body:
            pass
        close = getattr(body, "close", None)
        if close is not None:
            close()
    return time.perf_counter() - begun


async def run_asgi(app: Any, path: str, times: int) -> float:
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": b"",
        "headers": [(b"host", b"bench")],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
    }

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        if message.get("status", 200) != 200:
            raise RuntimeError(f"{path} answered {message['status']}")

    begun = time.perf_counter()
    for _ in range(times):
        await app(dict(scope), receive, send)
    return time.perf_counter() - begun


class _Sink:
    """Stands for the client's connection of a Tornado request, and drops what is written to it."""

    def __init__(self) -> None:
        self.finished = asyncio.Event()

    def set_close_callback(self, callback: Any) -> None: ...

    def write_headers(self, start_line: Any, headers: Any, chunk: Any = None) -> Any:
        if start_line.code != 200:
            raise RuntimeError(f"answered {start_line.code}")
        return _done()

    def write(self, chunk: Any) -> Any:
        return _done()

    def finish(self) -> None:
        self.finished.set()


def _done() -> asyncio.Future[None]:
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    future.set_result(None)
    return future


async def run_tornado(app: Any, path: str, times: int) -> float:
    from tornado.httputil import HTTPHeaders, HTTPServerRequest, RequestStartLine

    start_line = RequestStartLine("GET", path, "HTTP/1.1")

    begun = time.perf_counter()
    for _ in range(times):
        sink = _Sink()
        connection: Any = sink
        app(HTTPServerRequest(start_line=start_line, headers=HTTPHeaders({"Host": "bench"}), connection=connection))
        await sink.finished.wait()
    return time.perf_counter() - begun


def measure(variants: dict[str, Variant], path: str, times: int, rounds: int) -> dict[str, float]:
    """Microseconds a request: the median over interleaved rounds, for each variant."""
    taken: dict[str, list[float]] = {name: [] for name in variants}
    loop = asyncio.new_event_loop()
    try:
        for _ in range(rounds + 1):  # the first warms up and is dropped
            for name, variant in variants.items():
                if variant.kind == "wsgi":
                    seconds = run_wsgi(variant.app, path, times)
                else:
                    run = run_asgi if variant.kind == "asgi" else run_tornado
                    seconds = loop.run_until_complete(run(variant.app, path, times))
                taken[name].append(seconds / times * 1e6)
    finally:
        loop.close()
    return {name: statistics.median(values[1:]) for name, values in taken.items()}


def bench(build: Callable[[str], dict[str, Variant]], times: int, rounds: int) -> dict[str, dict[str, float]]:
    with tempfile.TemporaryDirectory() as directory:
        variants = build(f"{directory}/bench.db")
        no_query = measure({name: variants[name] for name in ("bare", "adapter")}, "/ping", times, rounds)
        one_query = measure({name: variants[name] for name in ("hooks", "adapter")}, "/one", times, rounds)
        for variant in variants.values():
            variant.close()
    return {"no query": no_query, "one query": one_query}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("apps", nargs="*", default=list(APPS))
    parser.add_argument("--times", type=int, default=2000, help="requests in a round")
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    print("microseconds a request, in-process, median of", options.rounds, "rounds")
    print(f"{'':<14}{'no query':^32}{'one query, SQLite':^36}")
    print(f"{'':<14}{'bare':>9}{'adapter':>10}{'cost':>9}    {'hooks':>9}{'adapter':>10}{'ratio':>9}")
    results = {}
    for app in options.apps:
        results[app] = bench(APPS[app], options.times, options.rounds)
        empty, query = results[app]["no query"], results[app]["one query"]
        print(
            f"{app:<14}{empty['bare']:>9.1f}{empty['adapter']:>10.1f}{empty['adapter'] - empty['bare']:>9.1f}    "
            f"{query['hooks']:>9.1f}{query['adapter']:>10.1f}{query['adapter'] / query['hooks']:>9.2f}",
            flush=True,
        )
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "adapters.json").write_text(json.dumps(results, indent=2) + "\n")
    print(f"written to {(RESULTS / 'adapters.json').relative_to(Path.cwd())}")


if __name__ == "__main__":
    main()
