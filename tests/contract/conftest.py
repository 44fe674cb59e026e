"""A running site for each target: every adapter on every database, and every adapter under every server."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest

import peewee_web
from tests.contract.apps import APPS, SERVERS
from tests.contract.cases import Row
from tests.contract.site import Site, Target, new_token
from tests.servers.proxy import TcpProxy

DATABASES = ("sqlite", "psycopg3", "psycopg2", "pymysql")


def targets() -> list[Target]:
    """With CONTRACT=full, the whole product; else each app on each database and under each server at least once."""
    full = os.environ.get("CONTRACT") == "full"
    return [
        Target(app, server, database)
        for app, (_, kind) in APPS.items()
        for server in SERVERS[kind]
        for database in DATABASES
        if full or server == SERVERS[kind][0] or database == "psycopg3"
    ]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what does not apply to a target: ``only_for`` marks, and cases for coroutines under a sync app."""
    left_out = [item for item in items if not _applies(item)]
    if left_out:
        items[:] = [item for item in items if item not in set(left_out)]
        config.hook.pytest_deselected(items=left_out)


def _applies(item: pytest.Item) -> bool:
    parameters = getattr(getattr(item, "callspec", None), "params", {})
    target = next((parameter for parameter in parameters.values() if isinstance(parameter, Target)), None)
    if target is None:
        return True
    if str(parameters.get("case", "")).startswith("async") and APPS[target.app][1] == "wsgi":
        return False
    return all(mark.args[0](target) for mark in item.iter_markers("only_for"))


@pytest.fixture(scope="module", params=targets(), ids=str)
def site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    yield from run_site(request.param, request, tmp_path_factory)


def one_per_app(database: str) -> list[Target]:
    return [Target(app, SERVERS[kind][0], database) for app, (_, kind) in APPS.items()]


@pytest.fixture(scope="module", params=one_per_app("psycopg3"), ids=str)
def atomic_site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    yield from run_site(request.param, request, tmp_path_factory, "atomic")


@pytest.fixture(scope="module", params=one_per_app("psycopg3"), ids=str)
def eager_site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    yield from run_site(request.param, request, tmp_path_factory, "eager")


@pytest.fixture(scope="module", params=one_per_app("sqlite"), ids=str)
def tenant_site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    yield from run_site(request.param, request, tmp_path_factory, "tenants")


@pytest.fixture(scope="module", params=one_per_app("sqlite"), ids=str)
def strict_tenant_site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    yield from run_site(request.param, request, tmp_path_factory, "tenants", "eager", "atomic")


@pytest.fixture(scope="module", params=one_per_app("sqlite"), ids=str)
def several_site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    yield from run_site(request.param, request, tmp_path_factory, "several")


def run_site(
    target: Target, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, *flags: str
) -> Iterator[Site]:
    directory = tmp_path_factory.mktemp(str(target))
    log = directory / "server.log"
    if target.database == "sqlite":
        url = f"sqlite:///{directory}/contract.db"
        create_table(url)
        site = Site(target, url, log, flags=flags)
        yield site
        site.close()
        return
    server: Any = request.getfixturevalue("mariadb" if target.database == "pymysql" else "postgres")
    name = f"contract_{new_token()}"
    server.create_database(name)
    address = urlsplit(server.url(name))
    assert address.hostname is not None
    assert address.port is not None
    with TcpProxy(address.hostname, address.port) as proxy:
        url = server.url(name, port=proxy.port)
        if target.database == "psycopg3":
            url += "?prefer_psycopg3=true"
        create_table(url)
        site = Site(target, url, log, sessions=lambda: server.sessions(name), proxy=proxy, flags=flags)
        yield site
        site.close()
    server.drop_database(name)


def create_table(url: str) -> None:
    database = peewee_web.connect(url)
    with Row.bind_ctx(database):
        Row.create_table()
    database.close_all()
