"""The benchmark of routing runs to its end. What it measures is not asserted: time on a test machine proves nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import replicas


def test_a_quick_run_measures_all_contenders(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    replicas.main(["--quick"], results=tmp_path)
    measured = json.loads((tmp_path / "replicas.json").read_text())
    printed = capsys.readouterr().out
    assert len(measured["figures"]) == 3
    assert all(name in printed for name in measured["figures"])
    assert measured["bars"]
