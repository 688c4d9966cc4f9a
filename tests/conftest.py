"""What all tests share: one thread each, a Slurm, a server of processes; and a loud word where Slurm was not there to be tested."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Before torch is imported: threads that wait for each other spin, and several workers share the cores.
os.environ["OMP_NUM_THREADS"] = "1"

import pytest

from tests.cluster import Cluster, SlurmProblem, lacking
from tests.workers.forked import OWNER, SHARED, locked

NO_SLURM = "no Slurm here"


# -- a session, of one process or of several workers ---------------------------------------------------------------------------


def pytest_configure(config: pytest.Config) -> None:
    """One folder for all workers of a session. What they start for each other ends with the process that started them."""
    given = getattr(config, "workerinput", None)
    if given is None:
        os.environ |= {SHARED: tempfile.mkdtemp(prefix="tests-", dir="/tmp"), OWNER: str(os.getpid())}
    else:
        os.environ |= {name: given[name] for name in (SHARED, OWNER)}


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    node.workerinput |= {name: os.environ[name] for name in (SHARED, OWNER)}


def pytest_unconfigure(config: pytest.Config) -> None:
    if hasattr(config, "workerinput"):
        return
    folder = Path(os.environ[SHARED])
    if (made := folder / "slurm").exists() and (base := json.loads(made.read_text()).get("base")):
        Cluster(base).stop()
        shutil.rmtree(base, ignore_errors=True)
    shutil.rmtree(folder, ignore_errors=True)


# The modules that take longest, which the workers begin with: at the end all of them are to have something short left.
LONG = (
    "bench", "online_dpo", "stopping", "several_processes", "real", "pairs_file", "sharding", "sweep", "three_learn",
    "learning", "resume", "gpu_proof", "merge_seeds", "cli", "evaluation", "methods", "submit", "ranks", "embedding",
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Each worker is given as many tests as the others, in their order, and takes from others when it is done.

    The first begins with what waits for Slurm, the others with the long modules, a whole one each, for its fixtures are made once a worker.
    """
    share = len(items) // (workers := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")))
    waiting = [item for item in items if "slurm" in getattr(item, "fixturenames", ())]
    begun: list[list[pytest.Item]] = [waiting, *([] for _ in range(workers - 1))]
    for i, name in enumerate(LONG):
        mine = begun[1 + i % (workers - 1)] if workers > 1 else waiting
        mine += [item for item in items if item.path.stem == f"test_{name}" and item not in waiting]
    rest = iter([item for item in items if not any(item in queue for queue in begun)])
    items[:] = [item for queue in begun for item in (*queue, *itertools.islice(rest, max(0, share - len(queue))))] + list(rest)


# -- what is set ---------------------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True, scope="session")
def plain_environment() -> Iterator[None]:
    """What this user has set for runs means nothing to the tests."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("EXPERTCHAT_CLUSTER", "EXPERTCHAT_MODELS", "EXPERTCHAT_RUNS"):
            patch.delenv(name, raising=False)
        yield


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Whatever number of threads a run has set in this process."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.get_num_threads() != 1:
        torch.set_num_threads(1)


# -- Slurm ---------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def slurm() -> Cluster:
    """A real Slurm on this machine, one for all workers of the tests; its nodes have four placeholder GPUs and no internet."""
    with locked("slurm") as path:
        if not path.exists():
            path.write_text(json.dumps(_start_slurm()))
        found = json.loads(path.read_text())
    if "lacking" in found:
        pytest.skip(f"{NO_SLURM}: {found['lacking']}")
    return Cluster(found["base"])


def _start_slurm() -> dict[str, str]:
    if problems := lacking():
        return {"lacking": "; ".join(problems)}
    base = Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp"))  # a short name, for a socket's path has a limit
    base.chmod(0o755)
    made = Cluster(base)
    try:
        made.start()
    except SlurmProblem as error:
        made.stop()
        return {"lacking": f"it did not start: {error}"}
    return {"base": str(base)}


def pytest_terminal_summary(terminalreporter: Any) -> None:
    skipped = [report for report in terminalreporter.stats.get("skipped", []) if NO_SLURM in str(report.longrepr)]
    if skipped:
        reason = str(skipped[0].longrepr[2]) if isinstance(skipped[0].longrepr, tuple) else str(skipped[0].longrepr)
        terminalreporter.section("SLURM WAS NOT TESTED", sep="!", red=True, bold=True)
        terminalreporter.line(f"{len(skipped)} tests that need a real Slurm were skipped: {reason}", red=True)
