"""Loopback ports for servers that tests take down and bring back.

Knows nothing of what will listen there.
"""

from __future__ import annotations

import random
import socket
from pathlib import Path

_EPHEMERAL = Path("/proc/sys/net/ipv4/ip_local_port_range")
_LOWEST = 15000
_TRIES = 200


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens on, below the kernel's range for outgoing connections.

    A port of that range would not stay ours while its server is down: any client may be given it as its
    source port, and a client that keeps trying to connect to it is sooner or later connected to itself
    (TCP's simultaneous open). Raises `OSError` when no port is found.
    """
    highest = int(_EPHEMERAL.read_text().split()[0]) if _EPHEMERAL.exists() else 32768
    for _ in range(_TRIES):
        port = random.randrange(min(_LOWEST, highest - 1000), highest)
        with socket.socket() as candidate:
            try:
                candidate.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise OSError(f"no free port found on 127.0.0.1 below {highest} in {_TRIES} tries")
