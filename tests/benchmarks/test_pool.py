"""The pool's benchmark runs to its end. What it measures is not asserted: time on a test machine proves nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import pool


@pytest.mark.parametrize("part", pool.PARTS)
def test_a_quick_run_measures_every_pool_and_writes_table_json_and_plot(
    part: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pool.main([part, "--quick"], results=tmp_path)
    printed = capsys.readouterr().out
    measured = json.loads((tmp_path / "pool.json").read_text())
    assert measured["bars"]
    for name in ("peewee-web", "playhouse.pool", "SQLAlchemy, pre-ping", "psycopg_pool, check"):
        assert name in printed
        assert name in json.dumps(measured["parts"][part])
    assert (tmp_path / "pool.png").read_bytes().startswith(b"\x89PNG")
