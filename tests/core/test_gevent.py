"""Greenlets, where gevent has patched: nobody waits for ever, and nothing that is killed takes a connection along."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.core.raw import module_of

pytest.importorskip("gevent")

_ROOT = Path(__file__).parents[2]
CONNECTIONS = 8
COOPERATIVE = ["psycopg", "pymysql"]


def run(request: pytest.FixtureRequest, case: str, driver: str, when: str = "first") -> dict[str, Any]:
    """What ``tests.core.greenlets`` found."""
    module_of(driver)
    server = request.getfixturevalue("postgres" if driver.startswith("psycopg") else "mariadb")
    done = subprocess.run(
        [sys.executable, "-m", "tests.core.greenlets", case, server.url(), driver, when],
        cwd=_ROOT,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert (found["in_use"], found["waiting"], found["limit"]) == (0, 0, CONNECTIONS)
    assert found["size"] <= CONNECTIONS
    return found


@pytest.mark.parametrize(
    ("driver", "when"), [("psycopg", "first"), ("psycopg", "last"), ("pymysql", "last"), ("psycopg2", "last")]
)
def test_every_greenlet_gets_its_own_answer(request: pytest.FixtureRequest, driver: str, when: str) -> None:
    """psycopg2 blocks the hub while it queries, and nothing more."""
    assert run(request, "all", driver, when)["right"] == 200


@pytest.mark.parametrize("driver", COOPERATIVE)
def test_greenlets_are_served_in_turn(request: pytest.FixtureRequest, driver: str) -> None:
    found = run(request, "turns", driver)
    assert found["least"] > 3
    assert found["ahead"] <= 2 + found["least"] // 10


@pytest.mark.parametrize("driver", COOPERATIVE)
def test_the_hub_goes_on_while_greenlets_wait(request: pytest.FixtureRequest, driver: str) -> None:
    assert run(request, "ticking", driver)["ticks"] > 100


@pytest.mark.parametrize("driver", [*COOPERATIVE, pytest.param("psycopg2", marks=pytest.mark.soak)])
def test_a_greenlet_that_is_killed_takes_no_connection_along(request: pytest.FixtureRequest, driver: str) -> None:
    assert run(request, "killed", driver)["right"] == 100
