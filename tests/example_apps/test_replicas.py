"""The apps on a primary and its standbys, given by two environment variables."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.replicas.conftest import cluster  # noqa: F401  # a fixture
from tests.servers.replication import PostgresCluster

from .running import APPS, RunningApp


@pytest.fixture(params=APPS)
def app(request: pytest.FixtureRequest, cluster: PostgresCluster, tmp_path: Path) -> Iterator[RunningApp]:  # noqa: F811
    name = f"notes_{uuid.uuid4().hex[:12]}"
    cluster.primary.create_database(name)
    cluster.wait_until_caught_up()
    url, *replicas = (server.url(name) for server in (cluster.primary, *cluster.standbys))
    with RunningApp(request.param, url, tmp_path / "log", replica_urls=" ".join(replicas)) as running:
        yield running
    cluster.primary.drop_database(name)


def test_pages_are_read_from_replicas_and_who_wrote_a_note_finds_it(
    app: RunningApp,
    cluster: PostgresCluster,  # noqa: F811
) -> None:
    cluster.wait_until_caught_up()
    for _ in range(4):
        assert app.http.get("/").status_code == 200
    health = app.http.get("/ready").json()
    assert [replica["is_used"] for replica in health["replicas"]] == [True, True]
    used = [session for standby in cluster.standbys for session in standby.sessions() if session.state != "active"]
    assert used
    for standby in cluster.standbys:
        cluster.pause_replay(standby)
    try:
        answer = app.http.post("/notes", data={"title": "Just written", "body": "and not replayed"})
        assert answer.status_code == 303
        assert "Just written" in app.http.get("/").text
        app.http.cookies.clear()
        assert "Just written" not in app.http.get("/").text
    finally:
        for standby in cluster.standbys:
            cluster.resume_replay(standby)
