"""The properties of tests/properties.py by hypothesis, with few cases; `python -m tests.proofs.properties OUT` runs them with a million."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.proofs import properties
from tests.properties import PROPERTIES, Property, cleaning

LONG = ("resuming",)


@pytest.mark.parametrize(
    "holds",
    [pytest.param(one, marks=pytest.mark.slow) if one.__name__ in LONG else one for one in PROPERTIES],
    ids=lambda one: one.__name__,
)
def test_property(holds: Property, tmp_path: Path) -> None:
    @settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.randoms(use_true_random=False))
    def check(rng: Random) -> None:
        holds(rng, tmp_path)

    check()


def test_the_proof_counts_its_cases_and_says_what_it_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def never(rng: Random, folder: Path) -> None:
        """Three never comes."""
        assert rng.randint(0, 3) != 3, "three came"

    assert properties.prove(tmp_path, 400, 0, {cleaning: 0.5, never: 0.5}) == 1
    rows = capsys.readouterr().out.splitlines()
    assert any("cleaning" in row and "| 200 |" in row and row.endswith("| nothing |") for row in rows)
    assert any("never" in row and "three came" in row for row in rows) and "400 cases" in rows[-1]
    assert (tmp_path / "properties.md").read_text("utf-8").startswith("| property |")
