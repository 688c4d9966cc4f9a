"""A dozen of the faults of the proof: each start says in one message what happened, and the next one ends as if it had not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.proofs.faults import main


@pytest.mark.slow
def test_a_dozen_faults_of_a_run(tmp_path: Path) -> None:
    assert main([str(tmp_path), "--quick"]) == 0
    rows = json.loads((tmp_path / "faults.json").read_text("utf-8"))
    assert len(rows) >= 12 and all(row["again"] == 0 for row in rows)
    assert {row["code"] for row in rows} == {-9, 0, 1, 2, 3}
