"""Pools that a test makes, which it must leave whole."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.core.working import in_use


@pytest.fixture
def pools() -> Iterator[list[Any]]:
    """Where a test puts the databases that it makes. They are closed after it, when all has come back to them."""
    pools: list[Any] = []
    yield pools
    left = [in_use(database) for database in pools]
    for database in pools:
        database.close_all()
    assert left == [0] * len(left)
