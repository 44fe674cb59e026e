"""``manage.py check``."""

from __future__ import annotations

from typing import Any

import pytest
from django.core.checks import run_checks
from django.test import override_settings

from peewee_web.django import PeeweeMiddleware
from tests.django.conftest import OURS

SECURITY = "django.middleware.security.SecurityMiddleware"
COMMON = "django.middleware.common.CommonMiddleware"
THEIRS = "tests.django.test_requests.Around"


class Subclass(PeeweeMiddleware):
    pass


def found(middleware: list[str], peewee: Any = None) -> list[str]:
    with override_settings(MIDDLEWARE=middleware, PEEWEE=peewee or {"DATABASE": "sqlite:///x.db"}):
        return [message.id for message in run_checks(tags=["peewee_web"])]


@pytest.mark.parametrize(
    "middleware", [[OURS, COMMON], [SECURITY, OURS], ["tests.django.test_checks.Subclass"], [OURS, "no.such.Thing"]]
)
def test_all_is_well(middleware: list[str]) -> None:
    assert found(middleware) == []


def test_the_middleware_is_missing() -> None:
    assert found([COMMON]) == ["peewee_web.E001"]


def test_the_middleware_is_there_twice() -> None:
    assert found([OURS, "tests.django.test_checks.Subclass"]) == ["peewee_web.E006"]


def test_the_middleware_comes_after_one_that_may_query() -> None:
    assert found([THEIRS, OURS]) == ["peewee_web.W001"]


@pytest.mark.parametrize(
    ("setting", "check"),
    [
        ({"DATABASES": {}}, "E002"),
        ({"DATABASE": "orcale://x/y"}, "E003"),
        ({"DATABASE": 5}, "E005"),
        ({"NO": 5}, "E002"),
    ],
)
def test_the_setting_can_not_be_used(setting: Any, check: str) -> None:
    assert found([OURS], setting) == [f"peewee_web.{check}"]


def test_they_are_part_of_djangos_checks() -> None:
    with override_settings(MIDDLEWARE=[OURS], PEEWEE={"DATABASE": 5}):
        assert "peewee_web.E005" in [message.id for message in run_checks()]
