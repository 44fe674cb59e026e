"""The watchdog alone: sockets, descriptors, threads, forks and greenlets."""

from __future__ import annotations

import _thread
import gc
import os
import select
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator

import pytest

from peewee_web.core.watchdog import Watchdog, shut_down
from tests.core.working import PATIENCE
from tests.servers.waiting import until

SOON = 0.05  # seconds

# Python 3.12 warns of every fork of a process with threads, which a guarded one is.
forks = pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Two connected sockets. The test's own time limit is all that bounds a read."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


def carries(ours: socket.socket, theirs: socket.socket) -> bool:
    """Whether what is sent on one socket arrives at the other, in both directions."""
    for sender, receiver in ((ours, theirs), (theirs, ours)):
        try:
            sender.send(b"x")
        except BrokenPipeError:
            return False
        if not receiver.recv(1):
            return False
    return True


def test_a_read_that_would_block_for_ever_ends(pair: tuple[socket.socket, socket.socket]) -> None:
    begun = time.monotonic()
    with Watchdog(pair[0].fileno(), SOON) as watchdog:
        assert pair[0].recv(1) == b""
        assert watchdog.fired
    assert watchdog.fired
    assert SOON <= time.monotonic() - begun < PATIENCE


def test_a_write_that_would_block_for_ever_ends(pair: tuple[socket.socket, socket.socket]) -> None:
    with Watchdog(pair[0].fileno(), SOON) as watchdog, pytest.raises(BrokenPipeError):
        pair[0].sendall(b"x" * 10_000_000)
    assert watchdog.fired


def test_a_poll_that_would_block_for_ever_ends(pair: tuple[socket.socket, socket.socket]) -> None:
    poll = select.poll()
    poll.register(pair[0], select.POLLIN)
    with Watchdog(pair[0].fileno(), SOON) as watchdog:
        assert poll.poll(PATIENCE * 1000)
    assert watchdog.fired


def test_no_time_at_all_ends_a_read_at_once(pair: tuple[socket.socket, socket.socket]) -> None:
    with Watchdog(pair[0].fileno(), -1.0) as watchdog:
        assert pair[0].recv(1) == b""
    assert watchdog.fired


def test_endless_time_is_possible(pair: tuple[socket.socket, socket.socket]) -> None:
    with Watchdog(pair[0].fileno(), float("inf")) as watchdog:
        assert carries(*pair)
    assert not watchdog.fired


def test_a_block_that_is_done_in_time_goes_unharmed(pair: tuple[socket.socket, socket.socket]) -> None:
    with Watchdog(pair[0].fileno(), PATIENCE) as watchdog:
        pass
    assert not watchdog.fired
    assert carries(*pair)


def test_an_error_of_the_block_passes(pair: tuple[socket.socket, socket.socket]) -> None:
    with pytest.raises(ZeroDivisionError), Watchdog(pair[0].fileno(), PATIENCE):
        _ = 1 // 0


def test_it_tells_the_truth_also_of_a_block_that_ends_at_the_last_moment() -> None:
    outcomes = set()
    for step in range(400):
        ours, theirs = socket.socketpair()
        with ours, theirs:
            with Watchdog(ours.fileno(), 0.001) as watchdog:
                time.sleep(step % 8 * 0.0003)  # the work of the block, which takes from nothing to twice its time
            if watchdog.fired:
                theirs.settimeout(PATIENCE)
                assert theirs.recv(1) == b""
            else:
                assert carries(ours, theirs)
            outcomes.add(watchdog.fired)
    assert outcomes == {True, False}


def test_a_stranger_that_got_the_number_of_the_closed_socket_is_left_alone() -> None:
    ours, theirs = socket.socketpair()
    number = ours.fileno()
    with theirs, Watchdog(number, SOON) as watchdog:
        ours.close()
        stranger, its_peer = socket.socketpair()
        with stranger, its_peer:
            assert number in (stranger.fileno(), its_peer.fileno())
            until(lambda: watchdog.fired)
            assert theirs.recv(1) == b""
            assert carries(stranger, its_peer)


def test_a_connection_that_the_driver_closed_is_ended_for_the_peer_when_the_block_ends() -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        with Watchdog(ours.fileno(), PATIENCE):
            ours.close()
        assert theirs.recv(1) == b""


def test_a_socket_is_shut_down_at_once_for_who_asks(pair: tuple[socket.socket, socket.socket]) -> None:
    before = descriptors()
    shut_down(pair[0].fileno())
    assert pair[1].recv(1) == b""
    assert descriptors() == before
    shut_down(pair[0].fileno())  # it is no error that there is nothing left to end
    pair[0].close()
    for nothing in (None, -1):
        shut_down(nothing)


def test_no_descriptor_guards_nothing() -> None:
    before = _thread._count()
    with Watchdog(None, 0.0) as watchdog:
        assert _thread._count() == before
    assert not watchdog.fired


def test_a_closed_descriptor_guards_nothing() -> None:
    ours, theirs = socket.socketpair()
    number = ours.fileno()
    ours.close()
    with theirs, Watchdog(number, 0.0) as watchdog:
        pass
    assert not watchdog.fired


def test_a_descriptor_of_no_socket_is_left_alone() -> None:
    readable, writable = os.pipe()
    before = descriptors()
    with Watchdog(readable, 0.0) as watchdog:
        until(lambda: watchdog.fired)
    os.write(writable, b"x")
    assert os.read(readable, 1) == b"x"
    until(lambda: descriptors() == before)
    os.close(readable)
    os.close(writable)


def test_without_a_thread_the_block_runs_unguarded(
    pair: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object) -> None:
        raise RuntimeError("can't create new thread at interpreter shutdown")

    before = descriptors()
    monkeypatch.setattr(_thread, "start_new_thread", refuse)
    with Watchdog(pair[0].fileno(), 0.0) as watchdog:
        assert carries(*pair)
    assert not watchdog.fired
    assert descriptors() == before


@pytest.mark.parametrize("seconds", [0.0, PATIENCE])
def test_no_descriptor_and_no_thread_is_left(pair: tuple[socket.socket, socket.socket], seconds: float) -> None:
    before = descriptors(), _thread._count()
    for _ in range(20):
        with Watchdog(pair[0].fileno(), seconds):
            pass
    until(lambda: (descriptors(), _thread._count()) == before)
    gc.collect()  # a socket that was not closed would warn now


@forks
def test_a_fork_within_the_block_changes_nothing_for_the_parent(pair: tuple[socket.socket, socket.socket]) -> None:
    with Watchdog(pair[0].fileno(), SOON) as watchdog:
        child = os.fork()
        if child:
            _, status = os.waitpid(child, 0)
            assert pair[0].recv(1) == b""
    if not child:
        os._exit(int(watchdog.fired))  # it has left the block, without having waited
    assert watchdog.fired
    assert os.waitstatus_to_exitcode(status) == 0


@forks
def test_a_forked_child_has_watchdogs_of_its_own(pair: tuple[socket.socket, socket.socket]) -> None:
    with Watchdog(pair[0].fileno(), PATIENCE):
        pass
    child = os.fork()
    if not child:
        with Watchdog(pair[1].fileno(), SOON) as watchdog:
            pair[1].recv(1)
        os._exit(0 if watchdog.fired else 1)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0


def run(program: str) -> str:
    """What *program* prints in an interpreter of its own."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(program)], capture_output=True, text=True, timeout=30
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_at_the_end_of_the_interpreter_the_block_still_runs() -> None:
    printed = run("""
    import atexit, socket
    from peewee_web.core.watchdog import Watchdog

    def close():
        ours, theirs = socket.socketpair()
        with Watchdog(ours.fileno(), 5.0):
            theirs.send(b"closed")
            print(ours.recv(9))
        ours.close()
        theirs.close()

    atexit.register(close)
    """)
    assert printed == "b'closed'\n"


GEVENT = """
    import gevent.monkey
    gevent.monkey.patch_all()
    import gevent, socket
    from peewee_web.core.watchdog import Watchdog

    ours, theirs = socket.socketpair()
"""


def test_under_gevent_the_read_of_a_greenlet_ends_and_others_go_on() -> None:
    printed = run(
        GEVENT
        + """
    turns = []

    def other():
        while True:
            turns.append(1)
            gevent.sleep(0.001)

    busy = gevent.spawn(other)
    with Watchdog(ours.fileno(), 0.1) as watchdog:
        print(ours.recv(1), watchdog.fired, len(turns) > 5)
    busy.kill()
    ours.close()
    theirs.close()
    """
    )
    assert printed == "b'' True True\n"


def test_under_gevent_a_driver_that_blocks_in_c_is_ended_too() -> None:
    printed = run(
        GEVENT
        + """
    import _socket
    blocking = _socket.socket(fileno=ours.detach())
    blocking.setblocking(True)
    with Watchdog(blocking.fileno(), 0.1) as watchdog:
        print(blocking.recv(1), watchdog.fired)
    blocking.close()
    theirs.close()
    """
    )
    assert printed == "b'' True\n"
