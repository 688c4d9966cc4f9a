"""`expertchat submit`: what it asks of a cluster, what it writes, what it refuses before a job waits in a queue. No Slurm is needed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from expertchat.command.compose import load
from expertchat.command.frozen import load_frozen
from expertchat.config import ConfigError
from expertchat.events import Note
from expertchat.folder.here import place
from expertchat.folder.submission import read_submission
from expertchat.slurm import checks
from expertchat.slurm.array import Array, overrides, parse
from expertchat.slurm.config import ClusterConfig, seconds
from expertchat.slurm.queue import JobState
from expertchat.slurm.script import Script, _ranges
from expertchat.slurm.submit import run_submit
from expertchat.talk.converse import run_converse
from tests.scripted import Collect
from tests.workers.slow import scripted

SMALL = ["conversation.count=2", "conversation.turns=2"]
GPUS = ["cluster=beluga"]


def submit(*arguments: str) -> dict[str, Any]:
    """What the user is told."""
    told: list[dict[str, Any]] = []
    assert run_submit(list(arguments), told.append) == 0
    return told[0]


def problems(*arguments: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        run_submit(list(arguments), lambda told: None)
    return caught.value.problems


def cluster(*given: str) -> ClusterConfig:
    found = load("submit", list(given)).cluster
    assert isinstance(found, ClusterConfig)
    return found


def script(name: str = "run", **more: Any) -> str:
    values: dict[str, Any] = {
        "command": "converse", "command_line": ["expertchat", "submit", "converse"], "folder": Path("/runs") / name,
        "cluster": cluster("cluster.account=def-x"), "stage": [], **more,
    }  # fmt: skip
    return Script(**values).text()


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith(("EXPERTCHAT_", "SBATCH_", "SLURM_"))]:
        monkeypatch.delenv(name)


# -- what is asked for --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("90", 5400), ("1:30", 90), ("3:00:00", 10_800), ("1-12", 129_600), ("1-12:30", 131_400), ("2-0:0:5", 172_805),
        ("0", None), ("abc", None), ("1:2:3:4", None), ("-1", None), ("", None), ("1d", None),
    ],
)  # fmt: skip
def test_a_time_limit_is_read_as_sbatch_reads_it(text: str, wanted: int | None) -> None:
    assert seconds(text) == wanted


@given(st.integers(0, 400), st.integers(0, 23), st.integers(0, 59), st.integers(1, 59))
def test_days_hours_minutes_seconds(days: int, hours: int, minutes: int, rest: int) -> None:
    assert seconds(f"{days}-{hours}:{minutes:02}:{rest:02}") == days * 86_400 + hours * 3_600 + minutes * 60 + rest


@given(st.sets(st.integers(0, 60), min_size=1))
def test_an_array_names_the_tasks_that_are_left(tasks: set[int]) -> None:
    found: set[int] = set()
    for part in _ranges(sorted(tasks)).split(","):
        first, _, last = part.partition("-")
        found |= set(range(int(first), int(last or first) + 1))
    assert found == tasks


def test_every_problem_of_a_cluster_is_named() -> None:
    with pytest.raises(ConfigError) as caught:
        load("submit", ["cluster.time=soon", "cluster.memory=12Q", "cluster.options=[mail]", "cluster.gpus=-1", "cluster.account='a b'"])
    named = {problem.split(":")[0] for problem in caught.value.problems}
    assert named == {"cluster.account", "cluster.time", "cluster.gpus", "cluster.memory", "cluster.options"}


def test_gpus_need_their_memory() -> None:
    with pytest.raises(ConfigError, match="gpu_gib"):
        load("submit", ["cluster.gpus=2"])


def test_memory_and_ranks() -> None:
    assert cluster("cluster.memory=500").bytes == 500 * 2**20
    assert cluster("cluster.memory=12g").bytes == 12 * 2**30
    assert cluster("cluster=beluga", "cluster.nodes=2").ranks == 8  # 2 nodes of 4 GPUs
    assert cluster("cluster.processes=3").ranks == 3
    told = submit("converse", *SMALL, "cluster.memory=0", "run.dir=whole", "--dry-run")  # sbatch's word for all that a node has
    assert "all memory of a node" in told["about"]


def test_the_cluster_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EXPERTCHAT_CLUSTER", "narval")
    monkeypatch.setenv("SBATCH_ACCOUNT", "def-someone")
    assert (cluster().gpu_type, cluster().account) == ("a100", "def-someone")
    assert cluster("cluster=laptop").scheduler == "local"
    monkeypatch.setenv("SBATCH_ACCOUNT", "")
    assert cluster().account is None
    for wrong, remedy in (("narvall", "did you mean narval?"), ("", "unset it")):
        monkeypatch.setenv("EXPERTCHAT_CLUSTER", wrong)
        told = problems("converse", "cluster.time=1:00:00", "--dry-run")
        assert len(told) == 1 and told[0].startswith(f"EXPERTCHAT_CLUSTER={wrong}: there is no cluster '{wrong}'") and remedy in told[0]
        assert cluster("cluster=laptop").scheduler == "local"
        assert "did you mean cluster.time?" in problems("converse", "cluster=laptop", "cluster.tim=1", "--dry-run")[0]


def test_the_job_of_this_process() -> None:
    assert place({}) is None
    assert place({"SLURM_JOB_ID": "7"}) == ("7", 0)
    task = {"SLURM_JOB_ID": "9", "SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "2", "SLURM_RESTART_COUNT": "3"}
    assert place(task) == ("7_2", 3)


# -- the script ---------------------------------------------------------------------------------------------------------


def test_the_script_says_what_is_asked_for() -> None:
    text = script(cluster=cluster("cluster=beluga", "cluster.account=def-x", 'cluster.options=["--mail-type=END"]'), after="12")
    lines = text.splitlines()
    assert lines[0] == "#!/bin/bash"
    assert lines[1] == "# expertchat submit converse"
    asked = [line.removeprefix("#SBATCH ") for line in lines if line.startswith("#SBATCH ")]
    assert asked == [
        "--job-name=run", "--account=def-x", "--time=3:00:00", "--nodes=1", "--cpus-per-task=40", "--mem=180G",
        "--gpus-per-node=v100:4", "--output=/runs/run/submission/slurm-%j.out", "--open-mode=append", "--requeue", "--signal=B:USR1@120",
        "--dependency=afterok:12", "--kill-on-invalid-dep=yes", "--mail-type=END",
    ]  # fmt: skip
    assert lines[-1] == 'supervise expertchat converse --config "$RUN/submission/config.yaml"'


def test_processes_are_started_by_srun() -> None:
    assert "supervise --ranks 4 expertchat" in script(ranks=4, cluster=cluster("cluster=beluga"))


def test_an_array_has_a_config_a_task() -> None:
    text = script(tasks=[0, 1, 3], at_once=2)
    assert "#SBATCH --array=0-1,3%2" in text
    assert "slurm-%A_%a.out" in text
    assert text.splitlines()[-1].endswith('/config-$TASK.yaml"')


def test_names_with_odd_characters_stay_whole(tmp_path: Path) -> None:
    odd = "it's 100% mine $HOME `x` #1"
    text = script(odd)
    assert '--output="' in text and "100%%" in text
    (tmp_path / "s.sh").write_text("\n".join(line for line in text.splitlines() if line.startswith("RUN=")) + '\nprintf %s "$RUN"')
    assert subprocess.run(["bash", tmp_path / "s.sh"], capture_output=True, text=True, check=True).stdout == f"/runs/{odd}"
    assert subprocess.run(["bash", "-n", "-c", text], capture_output=True).returncode == 0


# -- what is written ----------------------------------------------------------------------------------------------------


def test_a_dry_run_writes_and_submits_nothing(tmp_path: Path) -> None:
    told = submit("converse", *SMALL, "run.dir=one", "run.seed=5", "--dry-run")
    here = tmp_path / "one" / "submission"
    assert told["job"] is None and told["submit"] == "sbatch one/submission/job.sh" and told["watch"] is None
    assert {path.name for path in here.iterdir()} >= {
        "job.sh", "config.yaml", "provenance.json", "submission.json", "setup_env.sh", "stage_models.sh", "supervise.sh",
    }  # fmt: skip
    frozen = yaml.safe_load((here / "config.yaml").read_text("utf-8"))
    assert (frozen["run"], frozen["conversation"]["count"], frozen["view"]) == ({"dir": str(tmp_path / "one"), "seed": 5}, 2, "plain")
    assert os.access(here / "job.sh", os.X_OK)
    assert (found := read_submission(tmp_path / "one")) is not None and found.jobs == ()
    assert json.loads((here / "provenance.json").read_text("utf-8"))["packages"]["torch"]
    assert submit("converse", *SMALL, "run.dir=one", "run.seed=5", "--dry-run")["run"] == "one"  # safe to repeat


def test_an_array_freezes_a_config_for_each_task(tmp_path: Path) -> None:
    told = submit("converse", "conversation.count=5", "run.dir=all", "--array=4%2", "--dry-run")
    assert told["merge"].startswith("expertchat merge_runs all")
    configs = [yaml.safe_load((tmp_path / "all" / "submission" / f"config-{n}.yaml").read_text("utf-8")) for n in range(4)]
    assert [config["conversation"]["part"] for config in configs] == [[0, 4], [1, 4], [2, 4], [3, 4]]
    assert [config["run"]["dir"] for config in configs] == [str(tmp_path / "all" / f"task-{n}") for n in range(4)]
    submit("converse", "run.seed=3", "run.dir=seeds", "--array=3", "--spread=seeds", "--dry-run")
    seeds = [yaml.safe_load((tmp_path / "seeds" / "submission" / f"config-{n}.yaml").read_text("utf-8"))["run"]["seed"] for n in range(3)]
    assert seeds == [3, 4, 5]


def test_arrays() -> None:
    assert parse("4%2", None, "converse") == Array(4, 2, "topics")
    assert parse("3", None, "online_dpo") == Array(3, None, "seeds")
    for text in ("1", "x", "4%0", "0-3", "99999"):
        with pytest.raises(ConfigError, match="--array"):
            parse(text, None, "converse")
    with pytest.raises(ConfigError, match="--spread topics is for converse"):
        parse("4", "topics", "online_dpo")
    with pytest.raises(ConfigError, match="take fewer"):
        overrides(Array(8, None, "topics"), 0, load("converse", ["conversation.count=7"]))


# -- what is refused ----------------------------------------------------------------------------------------------------


def test_all_problems_of_run_and_cluster_come_at_once() -> None:
    found = problems("converse", "conversation.trns=3", "cluster.time=never", "--array=x", "--after=soon")
    assert len(found) == 4
    for words in ("conversation.trns", "cluster.time", "--array x", "--after soon"):
        assert any(words in problem for problem in found), (words, found)


def test_commands_that_cannot_be_submitted() -> None:
    assert "did you mean converse?" in problems("convers")[0]
    assert "converse, online_dpo" in problems("plan")[0]
    assert "submitit" in problems("converse", "-m", "run.seed=0,1")[0]


def test_a_run_of_another_config_keeps_its_folder() -> None:
    submit("converse", *SMALL, "run.dir=one", "--dry-run")
    found = problems("converse", *SMALL, "run.dir=one", "run.seed=9")
    assert "another config" in found[0] and "run.seed: was 0, is 9" in found[1]
    assert "was submitted without --array" in problems("converse", *SMALL, "run.dir=one", "--array=2", "--dry-run")[0]
    Path("mine").mkdir()
    Path("mine/thesis.tex").touch()
    assert "name a new folder" in problems("converse", *SMALL, "run.dir=mine", "--dry-run")[0]


def test_nothing_breaks_out_of_the_script(tmp_path: Path) -> None:
    submit("converse", *SMALL, "run.dir=one", "topics=list", 'topics.list=["tides\n#SBATCH --time=9\ntouch here"]', "--dry-run")
    text = (tmp_path / "one" / "submission" / "job.sh").read_text("utf-8")
    assert all(line.startswith("# ") for line in text.splitlines() if "touch here" in line or "--time=9" in line)
    for bad in ('a"b', "a\\b", "a\nb"):
        assert "name another" in problems("converse", *SMALL, f"run.dir='{bad}'", "--dry-run")[0]


def test_a_job_that_waits_is_not_submitted_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    submit("converse", *SMALL, "run.dir=one", "--dry-run")
    path = Path("one/submission/submission.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), "jobs": [{"job": "41", "time": 1.0}]}))
    monkeypatch.setattr("expertchat.slurm.submit.states", lambda jobs: {"41": JobState("41", "pending", "Priority")})
    assert "job 41 waits or runs" in problems("converse", *SMALL, "run.dir=one")[0]
    monkeypatch.setattr("expertchat.slurm.submit.states", lambda jobs: {"41": JobState("41", "cancelled")})
    submit("converse", *SMALL, "run.dir=one", "--dry-run")
    found = read_submission(Path("one"))
    assert found is not None and found.jobs == (("41", 1.0),)  # what was submitted before stays written down


def test_models_must_be_here_for_nodes_have_no_internet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "empty"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    found = problems("converse", "model@experts.a=llama3_8b", "topics=embedded", *GPUS, "--dry-run")
    assert len(found) == 2  # the model, and the embedder that a real model wants
    assert all("the nodes have no internet" in problem for problem in found)
    archives = tmp_path / "packed"
    archives.mkdir()
    for name in ("Meta-Llama-3-8B-Instruct.tar", "all-mpnet-base-v2.zip"):
        (archives / name).touch()
    given = ["converse", "model@experts.a=llama3_8b", "topics=embedded", *GPUS, f"cluster.archives={archives}", "--dry-run", "run.dir=x"]
    assert ["checksum" in problem for problem in problems(*given)] == [True, True]
    for name in ("Meta-Llama-3-8B-Instruct.tar", "all-mpnet-base-v2.zip"):
        (archives / f"{name}.sha256").touch()
    told = submit(*given)
    assert "export EXPERTCHAT_STAGE='Meta-Llama-3-8B-Instruct all-mpnet-base-v2'" in (tmp_path / told["script"]).read_text("utf-8")
    assert any("memory plan: fits on 4 x v100 of 16 GiB" in note for note in told["notes"])


def test_the_memory_plan_is_held_against_the_gpus(tmp_path: Path) -> None:
    archives = tmp_path / "packed"
    archives.mkdir()
    for name in ("Meta-Llama-3-8B-Instruct", "Mixtral-8x7B-Instruct-v0.1", "all-mpnet-base-v2"):
        (archives / f"{name}.tar").touch()
        (archives / f"{name}.tar.sha256").touch()
    given = ["converse", "+experiment=llama3_vs_mixtral", "cluster=beluga", "cluster.gpus=1", f"cluster.archives={archives}"]
    found = problems(*given, "--dry-run")
    assert len(found) == 1
    assert "memory plan on 1 x v100 of 16 GiB: does not fit" in found[0] and "--force" in found[0]
    assert any("in spite of: memory plan" in note for note in submit(*given, "--dry-run", "--force")["notes"])


def test_main_memory_and_time_are_looked_at() -> None:
    found = problems("online_dpo", "cluster.memory=500M", "cluster.time=2", "--dry-run")
    assert len(found) == 2
    assert "needs about 0.9 GiB" in found[0] or "needs about 0.9 GiB" in found[1]
    assert any("of 120 s nothing is left" in problem for problem in found)


def test_the_last_run_says_how_long_it_takes(tmp_path: Path) -> None:
    assert any("not known" in note for note in submit("converse", *SMALL, "run.dir=runs/new", "--dry-run")["notes"])
    config = load("converse", [*SMALL, "run.dir=runs/old", "view=none"])
    assert run_converse(config, ["expertchat", "converse"], Collect()) == 0
    pace = checks.last_pace(Path("runs"), "converse", config)
    assert pace is not None and pace.run == Path("runs/old") and pace.seconds > 0
    assert checks.last_pace(Path("runs"), "online_dpo", load("online_dpo", [])) is None
    other = load("converse", ["model@experts.b=embedded_llama"])
    assert checks.last_pace(Path("runs"), "converse", other) is None  # other models have another speed
    origin = Path("runs/old/provenance.json")
    told = origin.read_text("utf-8")
    origin.write_text(json.dumps({**json.loads(told), "merged": {}}))  # the runs of several machines at once say nothing
    assert checks.last_pace(Path("runs"), "converse", config) is None
    origin.write_text(told)
    # 10^9 turns at that speed
    found = problems("converse", "conversation.count=1000000", "conversation.turns=1000", "run.dir=runs/long", "--dry-run")
    assert "but 21 starts (cluster.requeues=20) give 20 h 18 min" in found[0]  # 21 (3600 - 120) s = 73080 s
    longer = round(3 * 3480 / pace.seconds / 1000)  # a run of three starts
    notes = submit("converse", f"conversation.count={longer}", "conversation.turns=1000", "run.dir=runs/long", "--dry-run")["notes"]
    assert any("more than one start of 1 h, so it will be requeued about" in note for note in notes)


@pytest.mark.parametrize(
    ("value", "words"),
    [(45, "45 s"), (89, "89 s"), (91, "2 min"), (700, "12 min"), (3_600, "1 h"), (12_000, "3 h 20 min"), (187_200, "2 d 4 h")],
)
def test_durations(value: float, words: str) -> None:
    assert checks.duration(value) == words


def test_processes_and_nodes_must_fit_together() -> None:
    assert "one process runs on one node" in problems("converse", "cluster.nodes=2", "--dry-run")[0]
    assert "with one process" in problems("online_dpo", "train.sharding=ddp", "--dry-run")[0]
    assert "use torchrun" in problems("online_dpo", "train.sharding=ddp", "cluster=laptop", "cluster.processes=2", "--dry-run")[0]
    assert "--after needs Slurm" in problems("converse", "cluster=laptop", "--after=3", "--dry-run")[0]


def test_environments_must_be_there(tmp_path: Path) -> None:
    assert "make wheelhouse" in problems("converse", f"cluster.wheelhouse={tmp_path}", "--dry-run")[0]
    assert "is no environment" in problems("converse", f"cluster.venv={tmp_path}", "--dry-run")[0]


def test_without_sbatch_it_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert "cluster=laptop" in problems("converse", *SMALL, "run.dir=one")[0]
    assert Path("one/submission/job.sh").is_file()


# -- on this machine ----------------------------------------------------------------------------------------------------


def test_a_laptop_runs_it_in_the_background(tmp_path: Path) -> None:
    """Also as an array: two tasks, one after the other."""
    line = [sys.executable, "-m", "expertchat.cli", "submit", "converse", *SMALL, "cluster=laptop", "run.dir=both", "--array=2"]
    line += scripted(tmp_path)  # the processes are what is tried here, not the models
    here = tmp_path / "at@home, $1"  # which no shell and no xargs may take for something else
    here.mkdir()
    done = subprocess.run(line, capture_output=True, text=True, cwd=here)
    assert done.returncode == 0, done.stderr
    assert "job pid:" in done.stdout and "expertchat watch both" in done.stdout
    summaries = [here / "both" / f"task-{n}" / "summary.json" for n in range(2)]
    end = time.monotonic() + 240
    while not all(path.exists() for path in summaries) and time.monotonic() < end:
        time.sleep(0.2)
    log = (here / "both" / "submission" / "slurm-local.out").read_text("utf-8")
    assert [json.loads(path.read_text("utf-8"))["conversations"] for path in summaries] == [1, 1], log


def test_a_job_says_that_the_code_has_moved_on_since_it_was_submitted(tmp_path: Path) -> None:
    submit("converse", *SMALL, "run.dir=one", "--dry-run")
    path = tmp_path / "one" / "submission" / "provenance.json"
    values = json.loads(path.read_text("utf-8"))
    path.write_text(json.dumps({**values, "packages": {**values["packages"], "torch": "1.0"}}))
    sink = Collect()
    config = load_frozen("converse", tmp_path / "one" / "submission" / "config.yaml", ["view=none"])
    assert run_converse(config, ["expertchat", "converse"], sink) == 0
    notes = [event.text for event in sink.events if isinstance(event, Note)]
    assert any(note.startswith("since the job was submitted, this has changed: torch 1.0 -> ") for note in notes)
