"""The load: a fixed number of requests a second, sent when they are due whatever became of those before.

Runs in a process of its own, so that the faults' work takes no time from it. Speaks just enough HTTP/1.1 over
keep-alive connections; a request that finds none idle opens another, so nobody waits for somebody else's answer.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import json
import multiprocessing
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection

from benchmarks.faults_accounts import NO_ANSWER, PAGE, READ, WRITE, Answer

TITLE = "write "
"""What the title of each note begins with that the load writes; its unique id follows."""
SEEDED = 12  # notes that the example apps put into an empty notebook


@dataclass(frozen=True)
class Load:
    """What to send: *rate* requests a second, of which *writes* is the share of writes, and *pages* pages a second."""

    port: int
    rate: float = 200.0
    writes: float = 0.3
    pages: float = 50.0
    patience: float = 12.0
    """Seconds after which a client gives up: twice what any answer may take."""
    seed: int = 4


@dataclass(frozen=True)
class Shot:
    """One request, due *after* seconds."""

    after: float
    kind: str
    request: bytes
    key: str = ""


def shots(load: Load) -> Iterator[Shot]:
    """What is sent and when, without end; the same for the same rates, so that all variants get the same."""
    chance = random.Random(load.seed)
    asked = ((number / load.rate, False) for number in itertools.count())
    # Half a step later, so that a page does not always come with a request.
    pages = ((number / load.pages + 0.5 / load.rate, True) for number in itertools.count())
    for after, page in heapq.merge(asked, pages):
        if page:
            yield Shot(after, PAGE, _get("/health"))
        elif chance.random() < load.writes:
            key = f"{chance.getrandbits(128):032x}"
            yield Shot(after, WRITE, _post(key), key)
        elif chance.random() < 0.5:
            yield Shot(after, READ, _get(f"/api/notes?page={chance.randint(1, 3)}"))
        else:
            yield Shot(after, READ, _get(f"/api/notes/{chance.randint(1, SEEDED)}"))


def _get(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: bench\r\n\r\n".encode()


def _post(key: str) -> bytes:
    # With a tag, which is written after the note: `crash` stops a transaction there.
    body = json.dumps({"title": TITLE + key, "body": "Written under load.", "tags": ["load"]})
    head = f"POST /api/notes HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    return f"{head}\r\n\r\n{body}".encode()


class Sender:
    """The child process that sends a load, from `begin` to `end`."""

    def __init__(self, load: Load) -> None:
        context = multiprocessing.get_context("spawn")
        self._load = load
        self._pipe, child_end = context.Pipe()
        self._process = context.Process(target=_send, args=(child_end, load), daemon=True)
        self._process.start()
        child_end.close()
        self._pipe.recv()  # it is ready

    def begin(self) -> float:
        """Start; the moment (``time.monotonic``) from which requests are due."""
        self._pipe.send("begin")
        begun: float = self._pipe.recv()
        return begun

    def end(self) -> list[Answer]:
        """Send no more. All answers, once the last request has ended one way or the other."""
        self._pipe.send("end")
        if not self._pipe.poll(self._load.patience + 30):
            raise TimeoutError("the load does not end")
        return [Answer(*each) for each in self._pipe.recv()]

    def __enter__(self) -> Sender:
        return self

    def __exit__(self, *exc: object) -> None:
        self._pipe.close()
        self._process.join(5)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        self._process.close()


def _send(pipe: Connection, load: Load) -> None:
    pipe.send("ready")
    pipe.recv()
    begun = time.monotonic() + 0.05
    pipe.send(begun)
    answers = asyncio.run(_run(pipe, load, begun))
    pipe.send([tuple(answer) for answer in answers])


async def _run(pipe: Connection, load: Load, begun: float) -> list[Answer]:
    clients = _Clients(load.port)
    under_way = []
    for shot in shots(load):
        left = begun + shot.after - time.monotonic()
        if left > 0:
            await asyncio.sleep(left)
        if pipe.poll():
            break
        under_way.append(asyncio.create_task(_fire(clients, shot, begun + shot.after, load.patience)))
    answers = await asyncio.gather(*under_way)
    clients.close()
    return answers


async def _fire(clients: _Clients, shot: Shot, due: float, patience: float) -> Answer:
    sent = time.monotonic()
    try:
        status, retry_after = await asyncio.wait_for(clients.ask(shot.request), patience)
    except (OSError, EOFError, asyncio.TimeoutError, asyncio.LimitOverrunError):
        status, retry_after = NO_ANSWER, False
    return Answer(shot.kind, due, sent, time.monotonic(), status, retry_after, shot.key)


class _Clients:
    """Keep-alive connections to one server, the last used first. Nothing is ever sent twice."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def ask(self, request: bytes) -> tuple[int, bool]:
        """The answer's status, and whether it has Retry-After."""
        reader, writer = await self._take()
        try:
            writer.write(request)
            status, headers = _parse(await reader.readuntil(b"\r\n\r\n"))
            await _skip_body(reader, headers)
        except BaseException:
            writer.transport.abort()
            raise
        if headers.get("connection", "").lower() == "close":
            writer.close()
        else:
            self._idle.append((reader, writer))
        return status, "retry-after" in headers

    async def _take(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        while self._idle:
            reader, writer = self._idle.pop()
            if not (reader.at_eof() or reader.exception() or writer.is_closing()):
                return reader, writer
            writer.transport.abort()
        return await asyncio.open_connection("127.0.0.1", self._port)

    def close(self) -> None:
        for _, writer in self._idle:
            writer.transport.abort()


def _parse(head: bytes) -> tuple[int, dict[str, str]]:
    first, *lines = head.decode("latin-1").split("\r\n")
    pairs = (line.partition(":") for line in lines if line)
    return int(first.split(" ", 2)[1]), {name.strip().lower(): value.strip() for name, _, value in pairs}


async def _skip_body(reader: asyncio.StreamReader, headers: dict[str, str]) -> None:
    if headers.get("transfer-encoding", "").lower() == "chunked":
        while size := int((await reader.readuntil(b"\r\n")).split(b";")[0], 16):
            await reader.readexactly(size + 2)
        await reader.readuntil(b"\r\n")
    else:
        await reader.readexactly(int(headers.get("content-length", 0)))
