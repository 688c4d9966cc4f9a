"""Sweeps that run elsewhere: what is asked of a cluster, what comes back, what a signal does; at last on a real Slurm."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from expertchat import cli
from expertchat.command.compose import load
from expertchat.command.frozen import load_frozen
from expertchat.command.launch import Job, run
from expertchat.config import ConfigError
from expertchat.folder.run import DONE, STOPPED, Interrupts
from expertchat.slurm.sweep import REQUEUES, Call, _keep, launch, slurm_settings
from tests.alike import records, same
from tests.cluster import ROOT, Cluster, until
from tests.workers.slow import everywhere, scripted

submitit = pytest.importorskip("submitit")
pytest.importorskip("hydra_plugins.hydra_submitit_launcher.config")

SLURM = ("-m", "hydra/launcher=submitit_slurm")
SMALL = ("conversation.count=1", "conversation.turns=2", "view=none")


def nothing(job: Job) -> int:
    raise AssertionError("a job ran here")


def problems(*arguments: str, command: str = "converse") -> list[str]:
    with pytest.raises(ConfigError) as caught:
        run(command, arguments, nothing, lambda *words: launch(answer, print, *words) if command == "converse" else None)  # type: ignore[arg-type,return-value]
    return caught.value.problems


# -- before anything is submitted -------------------------------------------------------------------------------------------


@pytest.fixture
def away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder without a cluster, which must stay empty."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("EXPERTCHAT_CLUSTER", raising=False)
    yield tmp_path
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("away")
def test_without_its_package_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "submitit", None)
    assert cli.main(["converse", *SLURM, "run.seed=0,1", *SMALL]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line == 'expertchat: hydra/launcher=submitit_slurm: its package is not installed; pip install "expertchat[slurm]"'


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["hydra/launcher=submitit_slum"], ["submitit_slum: a sweep runs with basic (here, one job after another), submitit_slurm or"]),
        (["hydra/launcher=submitit_slurm", "run.seed=0,-1", "conversation.turns=0"], ["turns: Input should be", "seed: Input should be"]),
        (["hydra/launcher=submitit_slurm", "hydra.launcher.acount=x", "hydra.launcher.timeout_min=soon"],
         ["hydra.launcher.acount: unknown key; did you mean hydra.launcher.account?", "Value 'soon' of type 'str' could not be"]),
        (["hydra/launcher=submitit_slurm", "cluster=narvall"], ["there is no cluster 'narvall'; did you mean narval?"]),
        (["hydra/launcher=submitit_slurm", "cluster=laptop"], ["has no Slurm; use hydra/launcher=submitit_local"]),
        (["cluster=narval"], ["cluster: unknown key"]),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_before_anything_is_submitted(arguments: list[str], said: list[str], away: Path) -> None:
    found = problems("-m", *arguments)
    assert len(found) == len(said) and all(any(words in problem for problem in found) for words in said), found


def test_commands_without_a_run_folder_sweep_here(away: Path) -> None:
    with pytest.raises(ConfigError, match="a sweep of world runs here"):
        run("world", [*SLURM, "seed=0,1"], nothing)


def test_a_clusters_settings_become_those_of_the_launcher() -> None:
    cluster = load("submit", ["cluster=beluga", "cluster.account=def-x", "cluster.time=1-00:00:30", "cluster.memory=90G",
                              'cluster.options=["--mail-type=END", "--exclusive"]']).cluster  # fmt: skip
    found = slurm_settings({"timeout_min": 60, "cpus_per_task": 2, "array_parallelism": 4}, {"cpus_per_task"}, cluster)
    assert found["account"] == "def-x" and found["array_parallelism"] == 4
    assert found["timeout_min"] == 1441  # 24 * 60 + 0.5, and the launcher knows whole minutes
    assert found["cpus_per_task"] == 2  # the command line has the last word
    assert found["additional_parameters"] == {"mem": "90G", "gpus-per-node": "v100:4", "mail-type": "END", "exclusive": True}
    assert (found["signal_delay_s"], found["max_num_timeout"]) == (cluster.signal_seconds, cluster.requeues)
    own = slurm_settings({"mem_gb": 8, "gpus_per_node": 1, "additional_parameters": {"nice": 5}}, {"mem_gb", "gpus_per_node"}, cluster)
    assert own["additional_parameters"] == {"nice": 5, "mail-type": "END", "exclusive": True}
    assert slurm_settings({"max_num_timeout": 0}, set(), None)["max_num_timeout"] == REQUEUES
    assert slurm_settings({"max_num_timeout": 0}, {"max_num_timeout"}, None)["max_num_timeout"] == 0


# -- what comes back ----------------------------------------------------------------------------------------------------------


def answer(arguments: Sequence[str]) -> int:
    """Stands for our command in a job; what it does depends on the seed."""
    command, flag, file = arguments
    assert (command, flag) == ("converse", "--config")
    values = yaml.safe_load(Path(file).read_text("utf-8"))
    folder, seed = Path(values["run"]["dir"]), values["run"]["seed"]
    folder.mkdir(parents=True, exist_ok=True)
    starts = [*folder.iterdir()]
    (folder / str(len(starts))).touch()
    match seed:
        case 1:
            print("much\nexpertchat: this is \x1bwrong\n", file=sys.stderr)
            return 2
        case 2:
            os.kill(os.getpid(), signal.SIGKILL)
        case 3:
            raise RuntimeError("a bug")
        case 4 if not starts:  # its time is up at the first start
            with Interrupts() as interrupts:
                os.kill(os.getpid(), signal.SIGUSR2)
                until(interrupts.stop, 30, "the signal")
                return STOPPED
        case 5:
            return STOPPED
    return DONE


@pytest.mark.slow
def test_every_job_gives_its_code_and_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    said: list[str] = []
    words = ["run.seed=0,1,2,3,4,5", "run.dir=out", "hydra.launcher.name=x"]
    jobs, codes = launch(answer, said.append, "converse", ["hydra/launcher=submitit_local", *words], "submitit_local")
    assert codes == [0, 2, 1, 1, 0, 3]
    assert [job.config.run.dir for job in jobs] == [f"out/{i}" for i in range(6)]
    lines = dict(line.split(" ", 1) for line in said[1:])
    for number, words_of_it in enumerate(["done", "failed with exit code 2: this is wrong (log: ", "ended without a result", "a bug (log: ",
                                          "done", "stopped; the same command line goes on"]):  # fmt: skip
        assert words_of_it in lines[f"[{number + 1}/6]"] and f"run.seed={number}" in lines[f"[{number + 1}/6]"], said
    assert [len(list((tmp_path / "out" / str(i)).iterdir())) for i in range(6)] == [1, 1, 1, 1, 2, 1]  # the fourth was requeued


def test_a_file_of_an_earlier_sweep_stays_for_its_job(tmp_path: Path) -> None:
    jobs = [Job(load("converse", [word]), [word, "a=b\nc"]) for word in ("conversation.turns=2", "conversation.turns=3")]
    names = [_keep(tmp_path / "configs", "converse", job).name for job in (jobs[0], jobs[0], jobs[1], jobs[0])]
    assert names == ["0.yaml", "0.yaml", "0-2.yaml", "0.yaml"]
    kept = tmp_path / "configs" / "0-2.yaml"
    assert kept.read_text("utf-8").startswith("# expertchat converse conversation.turns=3 'a=b\n# c'\nmodels_dir: ")
    assert load_frozen("converse", kept) == jobs[1].config


def test_the_code_of_a_sweep_and_what_hears_of_its_jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = [Job(load("converse"), [])]
    heard: list[list[Job]] = []
    for codes, code in (([0, 0], 0), ([1, 2, 0], 2), ([0, 3, 2], 3), ([], 0)):
        heard.clear()
        assert run("converse", ["-m", "hydra/launcher=submitit_local"], nothing, lambda *_, c=codes: (jobs, c), heard.append) == code  # type: ignore[misc]
        assert heard == ([] if code == 3 else [jobs])


# -- what a signal does -----------------------------------------------------------------------------------------------------------


class Handler:
    """Stands for submitit's own handler of SIGUSR2."""

    def __init__(self, left: bool = True) -> None:
        self.left, self.called = left, 0

    def __call__(self, number: int, frame: Any) -> None:
        self.called += 1
        if not self.left:
            raise submitit.core.utils.UncompletedJobError("timed-out too many times")
        raise SystemExit(-1)  # it has requeued the job


@pytest.fixture
def job_environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("SUBMITIT_EXECUTOR", "slurm")
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    for name in ("TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE"):
        monkeypatch.setenv(name, "1")
    before = signal.getsignal(signal.SIGUSR2)
    yield
    signal.signal(signal.SIGUSR2, before)


def call(handler: Handler, entry: Any) -> int:
    signal.signal(signal.SIGUSR2, handler)
    return Call(entry, ["converse"], on_slurm=True)()


def stops(arguments: Sequence[str]) -> int:
    with Interrupts() as interrupts:
        signal.raise_signal(signal.SIGUSR2)
        assert interrupts.reason == "SIGUSR1"
        return STOPPED


def ends_just_then(arguments: Sequence[str]) -> int:
    stops(arguments)
    return DONE


def has_not_begun(arguments: Sequence[str]) -> int:
    signal.raise_signal(signal.SIGUSR2)
    raise AssertionError("it went on")


def is_cancelled(arguments: Sequence[str]) -> int:
    return STOPPED


@pytest.mark.usefixtures("job_environment")
def test_a_run_stops_in_order_and_is_requeued_then() -> None:
    for entry in (stops, has_not_begun):
        handler = Handler()
        with pytest.raises(SystemExit):  # no result is left: the job goes on
            call(handler, entry)
        assert handler.called == 1 and signal.getsignal(signal.SIGUSR2) is handler
    for entry, code in ((ends_just_then, DONE), (is_cancelled, STOPPED)):
        handler = Handler()
        assert call(handler, entry) == code and not handler.called
    assert call(Handler(left=False), stops) == STOPPED  # as often as it may be
    assert os.environ["HF_HUB_OFFLINE"] == "0"  # whoever sets it keeps the value


# -- on a real Slurm ----------------------------------------------------------------------------------------------------------------

ASKED = (*SLURM, "hydra.launcher.timeout_min=10", "hydra.launcher.cpus_per_task=1", "hydra.launcher.mem_gb=1")
WRITTEN = ("topics", "transcripts", "ratings", "wim", "rewards")


def equal(one: Path, other: Path) -> bool:
    """Whether two run folders hold the same records, in whatever order the dialogues ended."""

    def of(folder: Path, name: str) -> list[dict[str, Any]]:
        return sorted(records(folder, name), key=lambda record: str(record["id"]))

    return all(len(of(one, name)) == len(of(other, name)) and all(map(same, of(one, name), of(other, name))) for name in WRITTEN)


def events(folder: Path) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in (folder / "events.jsonl").read_text("utf-8").splitlines()]
    return [event for event in found if event["kind"] in ("run_started", "run_finished")]


@pytest.mark.slow
def test_four_seeds_two_at_once(slurm: Cluster, tmp_path: Path) -> None:
    arguments = ["run.seed=0,1,2,3", *SMALL, *scripted(tmp_path)]
    parallel = [*ASKED, "hydra.launcher.array_parallelism=2"]
    done = slurm.call(["expertchat", "converse", *parallel, *arguments, "run.dir=out"], cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [line.rpartition(": ")[2] for line in done.stderr.splitlines()[1:]] == ["done"] * 4
    assert cli.main(["converse", "-m", *arguments, f"run.dir={tmp_path / 'here'}"]) == 0
    seen = []
    for i in range(4):
        assert equal(tmp_path / "out" / str(i), tmp_path / "here" / str(i))
        start, end = events(tmp_path / "out" / str(i))
        assert start["job"].endswith(f"_{i}") and end["status"] == "done"
        seen.append((start["time"], end["time"]))
    assert all(sum(a <= begin < b for a, b in seen) <= 2 for begin, _ in seen)
    job = slurm.job(start["job"].partition("_")[0])
    assert (job["NumCPUs"], job["MinMemoryNode"]) == ("1", "1G")


@pytest.mark.slow  # test_slurm_broken has a real requeue too, and the order of the stop is told above
def test_a_requeued_run_goes_on_and_a_failed_one_says_why(slurm: Cluster, tmp_path: Path) -> None:
    """Told in the midst of its dialogues that its time is up, a run ends as it would have; beside it a job fails, and a wrong account."""
    small = ["conversation.count=8", "conversation.turns=2", "view=none", "engine.max_batch=1"]
    arguments = ["run.seed=0,1", *small, *scripted(tmp_path / "script")]
    (tmp_path / "out" / "1").mkdir(parents=True)
    (tmp_path / "out" / "1" / "strange.txt").touch()
    command = slurm.line(["expertchat", "converse", *ASKED, *arguments, "run.dir=out"])
    slowly = everywhere(tmp_path / "slow", 0.3)  # so that the signal comes before the end
    where: dict[str, Any] = {"cwd": tmp_path, "env": slurm.environment | slowly, "text": True}
    where |= {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    sweep = subprocess.Popen(command, **where)
    try:
        folder = tmp_path / "out" / "0"
        until(lambda: (folder / "transcripts.jsonl").exists() and (folder / "transcripts.jsonl").stat().st_size, 60, "a dialogue")
        job = events(folder)[0]["job"]
        slurm.run(["scancel", "--signal=USR2", job])
        refused = slurm.call(["expertchat", "converse", *ASKED, "hydra.launcher.account=def-wrong", *arguments, "run.dir=x"], cwd=tmp_path)
        _, said = sweep.communicate(timeout=150)
    finally:
        sweep.kill()
    assert sweep.returncode == 2 and "[1/2] run.seed=0" in said, said
    assert [event.get("status") for event in events(folder)] == [None, "stopped", None, "done"]
    assert slurm.job(job)["Restarts"] == "1"
    [line] = [line for line in said.splitlines() if line.startswith("[2/2]")]
    assert "failed with exit code 2: run.dir: out/1 is not a run folder (it holds strange.txt)" in line and "_log.err)" in line
    assert refused.returncode == 2 and len(refused.stderr.splitlines()) == 1
    assert "the jobs were not submitted" in refused.stderr and "account" in refused.stderr
    whole = ["converse", *arguments[1:], "run.seed=0", f"run.dir={tmp_path / 'whole'}"]
    assert cli.main(whole) == 0 and equal(folder, tmp_path / "whole")
