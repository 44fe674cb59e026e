"""The figures of a pool."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PoolStats:
    """What a pool has now, and what it has done since the start of the process.

    Now: ``limit`` (None where there is none), ``size`` (connections open, being opened or being closed), ``idle``,
    ``in_use`` (leases), ``waiting`` (checkouts in the queue), ``generation`` (how often one that was lost has made all
    others suspect). Since the start: ``checkouts``; ``waits``, those that had to queue up, and their ``wait_seconds``;
    ``timeouts``; connections ``created``, ``closed`` and ``lost`` (broken in use, or found dead); ``probes`` and
    ``probe_failures``; ``connect_errors``.
    """

    limit: int | None
    size: int
    idle: int
    in_use: int
    waiting: int
    generation: int
    checkouts: int
    waits: int
    wait_seconds: float
    timeouts: int
    created: int
    closed: int
    probes: int
    probe_failures: int
    lost: int
    connect_errors: int


@dataclass
class Counts:
    """What a pool has done since its start; see `PoolStats`."""

    checkouts: int = 0
    waits: int = 0
    wait_seconds: float = 0.0
    timeouts: int = 0
    created: int = 0
    closed: int = 0
    probes: int = 0
    probe_failures: int = 0
    lost: int = 0
    connect_errors: int = 0
