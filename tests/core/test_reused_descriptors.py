"""A driver that has closed its own socket has given the number back to the system, which gives it to the next."""

from __future__ import annotations

import socket

import pytest

import peewee_web
from peewee_web import DatabaseUnavailable
from tests.core.working import Served, in_use, query


def test_the_end_of_a_lost_connection_does_not_reach_the_next_owner_of_its_descriptor(served: Served) -> None:
    database = served.database
    with peewee_web.scope():
        database.begin()  # else it would be replaced
        lease = next(iter(database.pool.ledger.everything()[1]))
        number = lease.pooled.fileno
        served.server.kill_sessions(served.name)
        with pytest.raises(DatabaseUnavailable):
            query(database)
        strangers = _take(number)
    try:
        assert in_use(database) == 0
        for ours, peer in strangers:
            ours.sendall(b"still open")
            assert peer.recv(99) == b"still open"
    finally:
        for pair in strangers:
            for end in pair:
                end.close()


def _take(number: int) -> list[tuple[socket.socket, socket.socket]]:
    """Pairs of sockets, one of which has the descriptor *number* if that was free."""
    pairs = [socket.socketpair()]
    while max(end.fileno() for end in pairs[-1]) < number:
        pairs.append(socket.socketpair())
    return pairs
