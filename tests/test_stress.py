"""A few seconds of `python -m tests.stress` on each driver."""

from __future__ import annotations

import logging
import random

import pytest

from tests.stress.run import DRIVERS, MAX_CONNECTIONS, Plan, stress

_SECONDS = 3.0
_LONGEST_FAULT = 0.8


@pytest.mark.parametrize("driver", DRIVERS)
def test_nothing_is_lost_doubled_or_stuck_while_the_server_and_the_network_fail(
    driver: str, request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL, "peewee_web")  # hundreds of lines about what is done wrong on purpose
    server = request.getfixturevalue("mariadb" if driver == "pymysql" else "postgres")
    plan = Plan(driver, _SECONDS, seed=random.randrange(10**6), longest_fault=_LONGEST_FAULT)
    outcome = stress(plan, server)
    assert not outcome.books.violations, f"{plan}\n" + "\n".join(outcome.books.violations)
    assert outcome.in_use == 0
    assert outcome.idle == outcome.sessions <= MAX_CONNECTIONS
    assert outcome.sessions_at_the_end == 0
