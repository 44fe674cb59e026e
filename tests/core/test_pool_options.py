"""The arguments of a pool: which values make sense, how they are written, and what is said of those that don't."""

from __future__ import annotations

import math
from dataclasses import fields
from typing import Any

import pytest

import peewee_web
from peewee_web import PooledSqliteDatabase
from peewee_web.core.options import PoolOptions

DOCUMENTED = {
    "max_connections": 20,
    "timeout": 10.0,
    "max_waiting": None,
    "max_lifetime": 3600.0,
    "max_idle": 600.0,
    "min_connections": 0,
    "probe_after": 15.0,
    "max_connecting": 2,
    "reset": None,
    "leak_after": None,
}


@pytest.mark.parametrize("name", DOCUMENTED)
def test_an_options_default_is_the_documented_one(name: str) -> None:
    assert getattr(PooledSqliteDatabase(":memory:").pool.options, name) == DOCUMENTED[name]


@pytest.mark.parametrize("name", [field.name for field in fields(PoolOptions) if field.name != "reset"])
@pytest.mark.parametrize("value", [-1, "many", float("nan"), [1], {}])
def test_a_number_that_makes_no_sense_is_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"^{name} "):
        PooledSqliteDatabase(":memory:", **{name: value})


@pytest.mark.parametrize("name", ["min_connections", "max_connecting"])
def test_what_is_a_number_in_any_case_can_not_be_none(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} takes a number, not None"):
        PoolOptions(**{name: None})


@pytest.mark.parametrize("name", ["max_connections", "max_waiting", "min_connections", "max_connecting"])
def test_a_count_is_whole(name: str) -> None:
    with pytest.raises(ValueError, match=f"^{name} takes a whole number, not 1.5"):
        PoolOptions(**{name: 1.5})


def test_nothing_could_be_opened_without_a_connection_attempt() -> None:
    with pytest.raises(ValueError, match="max_connecting must be at least 1"):
        PoolOptions(max_connecting=0)


def test_no_more_connections_can_be_kept_than_there_may_be() -> None:
    with pytest.raises(ValueError, match=r"min_connections \(5\) is more than max_connections \(4\)"):
        PoolOptions(max_connections=4, min_connections=5)


def test_a_pool_without_a_bound_may_keep_any_number() -> None:
    assert PoolOptions(max_connections=None, min_connections=500).min_connections == 500


def test_a_reset_is_a_statement_or_a_function() -> None:
    with pytest.raises(ValueError, match="reset takes a statement or a function"):
        PoolOptions(reset=5)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "text", "number"), [("max_connections", "8", 8), ("timeout", "2.5", 2.5), ("max_idle", "0", 0.0)]
)
def test_a_number_may_be_text(name: str, text: str, number: float) -> None:
    assert getattr(PoolOptions(**{name: text}), name) == number


def test_options_come_from_a_urls_query() -> None:
    database = peewee_web.connect(
        "sqlite:///:memory:?max_connections=3&timeout=1.5&max_waiting=2&stale_timeout=60&probe_after=5"
    )
    options = database.pool.options
    assert (options.max_connections, options.timeout, options.max_waiting) == (3, 1.5, 2)
    assert (options.max_lifetime, options.probe_after) == (60, 5)


def test_stale_timeout_is_another_word_for_max_lifetime() -> None:
    assert PooledSqliteDatabase(":memory:", stale_timeout=60).pool.options.max_lifetime == 60
    assert PooledSqliteDatabase(":memory:", max_lifetime=60).pool.options.max_lifetime == 60


def test_an_unknown_option_goes_to_the_driver() -> None:
    assert PooledSqliteDatabase(":memory:", cached_statements=5).connect_params == {"cached_statements": 5}


@pytest.mark.parametrize("endless", [0, math.inf])
def test_a_wait_without_limit_bounds_a_connection_attempt_all_the_same(endless: float) -> None:
    options = PoolOptions(timeout=endless)
    assert (options.patience, options.connect_timeout) == (math.inf, 10)


@pytest.mark.parametrize(("timeout", "connect_timeout"), [(None, 10), (0.1, 1), (5, 5), (60, 60)])
def test_a_connection_attempt_gets_the_timeout_and_a_second_at_least(
    timeout: float | None, connect_timeout: float
) -> None:
    assert PoolOptions(timeout=timeout).connect_timeout == connect_timeout


def test_an_infinite_bound_is_none() -> None:
    assert PoolOptions(max_connections=math.inf).limit == math.inf  # type: ignore[arg-type]


def test_options_are_not_changed_but_replaced() -> None:
    options = PoolOptions(max_connections=3)
    assert options.but(timeout=1) == PoolOptions(max_connections=3, timeout=1)
    with pytest.raises(ValueError, match="timeout can't be negative"):
        options.but(timeout=-1)
