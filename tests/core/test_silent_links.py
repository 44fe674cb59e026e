"""Keepalive on a real link whose packets are lost: a query on it ends. In a network namespace of the test's own."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import peewee
import pytest

from peewee_web.core.dialling import open_connection
from peewee_web.core.faults import is_lost_connection
from tests.core import raw
from tests.core.halting import HaltingWay
from tests.core.working import Working
from tests.servers.waiting import until

HERE, THERE = "198.18.77.1", "198.18.77.2"  # RFC 2544: for tests of networks, nobody's on the Internet
CLONE_NEWNET = 0x40000000  # sched.h
KEEPALIVE = 1.0
# The first question after a second, three more a second apart.
LONGEST = 4.0
BUSY = 4.0  # what a busy machine may add


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)


class Namespace:
    """A network namespace with a cable to ours; `THERE` is its end, `HERE` is ours."""

    def __init__(self) -> None:
        self._name = f"pw{uuid.uuid4().hex[:8]}"
        self._cable = self._name + "h"
        ip("netns", "add", self._name)
        try:
            ip("link", "add", self._cable, "type", "veth", "peer", "name", "end", "netns", self._name)
            ip("addr", "add", f"{HERE}/30", "dev", self._cable)
            ip("link", "set", self._cable, "up")
            ip("-n", self._name, "addr", "add", f"{THERE}/30", "dev", "end")
            ip("-n", self._name, "link", "set", "end", "up")
        except BaseException:
            self.remove()
            raise

    def remove(self) -> None:
        ip("netns", "delete", self._name)  # takes both ends of the cable along

    def run(self, work: Callable[[], Any]) -> Any:
        """*work* in the namespace: a socket belongs for ever to the one that its thread was in."""

        def inside() -> Any:
            handle = os.open(f"/run/netns/{self._name}", os.O_RDONLY)
            try:
                if ctypes.CDLL(None, use_errno=True).setns(handle, CLONE_NEWNET):
                    raise OSError(ctypes.get_errno(), "setns")
            finally:
                os.close(handle)
            return work()

        return Working(None, inside).result()

    def lose_all_packets(self) -> None:
        """Our end forgets its address: what arrives for it is dropped, without a word to the sender."""
        ip("addr", "del", f"{HERE}/30", "dev", self._cable)


@pytest.fixture
def namespace() -> Iterator[Namespace]:
    if shutil.which("ip") is None:
        pytest.skip("needs the program ip: apt-get install iproute2")
    try:
        namespace = Namespace()
    except subprocess.CalledProcessError as error:
        pytest.skip(f"network namespaces are not allowed here: {error.stderr.strip()}")
    yield namespace
    namespace.remove()


@pytest.fixture(params=["psycopg", "psycopg2", "pymysql", "MySQLdb", "mysql.connector", "mariadb"])
def dialled(
    request: pytest.FixtureRequest, namespace: Namespace, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Any, Any]]:
    """A server, and a connection to it over the cable."""
    module = raw.module_of(request.param)
    server = request.getfixturevalue("postgres" if request.param in raw.POSTGRES else "mariadb")
    if request.param in ("pymysql", "MySQLdb"):
        monkeypatch.setattr(peewee, "mysql", module)
    with HaltingWay(server, host=HERE) as way:
        database = raw.database_of(request.param, server, host=way.host, port=way.port)
        connection = namespace.run(lambda: open_connection(database, database._connect, 5.0, KEEPALIVE))
        yield server, connection
        with contextlib.suppress(Exception):
            connection.close()


def ends_in_time(work: Callable[[], Any]) -> None:
    begun = time.monotonic()
    with pytest.raises(Exception) as raised:  # noqa: PT011
        work()
    assert time.monotonic() - begun < LONGEST + BUSY
    assert is_lost_connection(raised.value), repr(raised.value)


def test_a_query_that_is_sent_into_the_void_ends(namespace: Namespace, dialled: tuple[Any, Any]) -> None:
    _, connection = dialled
    assert raw.run(connection, "SELECT 1")[0] == 1
    namespace.lose_all_packets()
    ends_in_time(lambda: raw.run(connection, "SELECT 1"))


def test_a_query_whose_answer_is_lost_ends(namespace: Namespace, dialled: tuple[Any, Any]) -> None:
    server, connection = dialled
    waiting = Working(
        None, lambda: raw.run(connection, f"SELECT {'pg_sleep' if 'post' in server.scheme else 'SLEEP'}(60)")
    )
    until(lambda: any(session.state == "active" for session in server.sessions()))
    namespace.lose_all_packets()
    ends_in_time(waiting.result)
    server.kill_sessions()


def test_a_long_query_on_a_good_link_is_left_alone(dialled: tuple[Any, Any]) -> None:
    server, connection = dialled
    seconds = LONGEST + 1.0
    assert raw.run(connection, f"SELECT {'pg_sleep' if 'post' in server.scheme else 'SLEEP'}({seconds})") is not None
