"""The five apps, each started once and asked by all tests."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from .running import APPS, RunningApp


@pytest.fixture(scope="session", params=APPS)
def app(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningApp]:
    directory = tmp_path_factory.mktemp(request.param)
    with RunningApp(request.param, f"sqlite:///{directory}/notes.db", directory / "log") as running:
        yield running


@pytest.fixture
def http(app: RunningApp) -> httpx.Client:
    return app.http
