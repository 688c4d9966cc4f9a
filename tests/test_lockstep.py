"""Sharded models that talk: every process asks something else, and gets what it would get alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests import tiny
from tests.workers.forked import run, start
from tests.workers.talking import alone


def models(folder: Path) -> list[str]:
    return [str(tiny.build(folder / kind, kind, seed=seed)) for seed, kind in enumerate(("llama3", "mixtral"))]


def test_all_get_what_they_would_get_alone(tmp_path: Path) -> None:
    folders = models(tmp_path)
    expected = alone(folders)
    assert [len(answers) for answers in expected] == [15, 6, 9, 0]  # three requests for each message; rank 3 has nothing to ask
    found = run(4, "talking.together", tmp_path / "ranks", folders=folders)
    for rank, one in enumerate(found):
        for answers in one["rounds"]:
            assert len(answers) == len(expected[rank])
            for answer, wanted in zip(answers, expected[rank], strict=True):
                assert answer == (wanted if isinstance(wanted, str) else pytest.approx(wanted, abs=1e-5))
        assert one["models"] == 2  # voices of one model are one
        assert one["hooks"] == 2  # its own are gone
    # Who asks less keeps the others company more often; nobody runs a pass of nobody's.
    assert found[3]["company"] > found[1]["company"] > found[2]["company"] > found[0]["company"] > 0


def test_a_pass_that_breaks_off_ends_all(tmp_path: Path) -> None:
    folders = models(tmp_path)
    done = start(4, "talking.breaks_off", tmp_path / "ranks", folders=folders)
    assert done.returncode == 0, done.stderr[-4000:]
    said = [json.loads((tmp_path / "ranks" / f"{rank}.json").read_text("utf-8")) for rank in range(4)]
    assert all(len(one) == 1 for one in said)
    assert "RankLost: a pass of rank 1 broke off" in said[1][0] and "engine.max_batch" in said[1][0]
    assert all(f"RankLost: rank {rank} lost the others" in said[rank][0] for rank in (0, 2, 3))
