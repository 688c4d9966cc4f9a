"""The cluster that the tests of Slurm share, and a loud word where they were skipped for want of one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.cluster import Cluster, SlurmProblem, cluster, lacking

NO_SLURM = "no Slurm here"


@pytest.fixture(autouse=True, scope="session")
def plain_environment() -> Iterator[None]:
    """What this user has set for runs means nothing to the tests."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("EXPERTCHAT_CLUSTER", "EXPERTCHAT_MODELS", "EXPERTCHAT_RUNS"):
            patch.delenv(name, raising=False)
        yield


@pytest.fixture(scope="session")
def slurm() -> Iterator[Cluster]:
    """A real Slurm on this machine, one for each worker of the tests; its node has four placeholder GPUs and no internet."""
    if problems := lacking():
        pytest.skip(f"{NO_SLURM}: {'; '.join(problems)}")
    with cluster() as made:
        try:
            made.start()
        except SlurmProblem as error:
            pytest.skip(f"{NO_SLURM}: it did not start: {error}")
        yield made


def pytest_terminal_summary(terminalreporter: Any) -> None:
    skipped = [report for report in terminalreporter.stats.get("skipped", []) if NO_SLURM in str(report.longrepr)]
    if skipped:
        reason = str(skipped[0].longrepr[2]) if isinstance(skipped[0].longrepr, tuple) else str(skipped[0].longrepr)
        terminalreporter.section("SLURM WAS NOT TESTED", sep="!", red=True, bold=True)
        terminalreporter.line(f"{len(skipped)} tests that need a real Slurm were skipped: {reason}", red=True)
