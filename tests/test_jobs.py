"""The scripts of jobs/: what a student submits, environments, requeues, in bash and on a real Slurm (staging: test_jobs_staging.py)."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster import ROOT, Cluster, until
from tests.conftest import NO_SLURM
from tests.workers import asked

JOBS = ROOT / "jobs"
SUBMITTED = ("converse.sh", "online_dpo.sh")
SMALL = {
    "converse.sh": ("conversation.count=2", "conversation.turns=2"),
    "online_dpo.sh": (
        "rounds=1", "conversation.count=2", "conversation.turns=3", "candidates.count=2", "evaluation.every=0", "evaluation.histories=2",
        "evaluation.final=2", "train.rank=2", "pairs.min_margin=0.0", "judging.analysis=false",
    ),
}  # fmt: skip
# A run's stand-in: it says what it hears, and stops in order as expertchat does (exit code 3).
STAND_IN = """\
#!/bin/bash
me=${SLURM_PROCID:-0}
stop() { echo "command $me hears $1"; sleep "${SLOW:-0.2}"; echo "command $me has stopped in order"; exit 3; }
trap 'stop USR1' USR1
trap 'stop TERM' TERM
echo "command $me starts, restarts ${SLURM_RESTART_COUNT:-0}, meets at ${MASTER_ADDR:-}:${MASTER_PORT:-}, threads ${OMP_NUM_THREADS:-}"
if [[ ${SLURM_RESTART_COUNT:-0} == 0 ]]; then for i in {1..600}; do sleep 0.1; done; fi
echo "command $me is done"
"""


def bash(text: str, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `text` as a script with `set -euo pipefail`, outside Slurm. stderr is part of stdout, as in a job's log."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "EXPERTCHAT_", "PIP_"))}
    return subprocess.run(
        ["bash", "-c", f"set -euo pipefail\n{text}"], cwd=cwd, env={**kept, "PIP_CONFIG_FILE": os.devnull, **environment},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=120,
    )  # fmt: skip


def script(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(["#!/bin/bash", *lines, ""]))
    path.chmod(0o755)
    return path


def read(path: Path) -> str:
    return path.read_text("utf-8", "replace") if path.exists() else ""


# -- the scripts that are submitted -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SUBMITTED)
def test_a_script_is_short_and_asks_for_the_same_as_the_other(name: str) -> None:
    lines = (JOBS / name).read_text().splitlines()
    assert len(lines) < 40
    asked = [line for line in lines if line.startswith("#SBATCH") and "--job-name" not in line and "--time" not in line]
    other = (JOBS / SUBMITTED[SUBMITTED.index(name) - 1]).read_text()
    assert asked and all(line in other for line in asked)


def test_every_script_is_bash() -> None:
    for path in sorted(JOBS.iterdir()):
        assert subprocess.run(["bash", "-n", str(path)]).returncode == 0, path.name
        runs = path.read_text().startswith("#!")  # the others are sourced
        assert os.access(path, os.X_OK) == runs, path.name


@pytest.mark.parametrize("name", SUBMITTED)
def test_a_job_as_written_makes_a_whole_run(name: str, slurm: Cluster, tmp_path: Path) -> None:
    checkout = tmp_path / "a checkout"  # a log of its own, and a blank in every path
    checkout.mkdir()
    (checkout / "jobs").symlink_to(JOBS)
    told = {"EXPERTCHAT_RUNS": str(tmp_path / "the runs")}
    if name == "online_dpo.sh":  # by the tests' server; the other one starts a Python of its own, and imports what it needs
        told["EXPERTCHAT_VENV"] = str(asked.environment(tmp_path / "env"))
    job = slurm.sbatch(f"jobs/{name}", *SMALL[name], cwd=checkout, env=told)
    state = slurm.wait(job)
    log = read(checkout / f"slurm-{job}.out")
    assert state == "COMPLETED", log
    run = tmp_path / "the runs" / f"slurm-{job}-{name.removesuffix('.sh')}"
    assert json.loads((run / "summary.json").read_text())
    assert re.search(r"^job: .* GPUs: (CUDA_VISIBLE_DEVICES=0,1,2,3|GPU 0)", log, re.M)
    assert f"job {job}, requeued 0 times" in log
    assert f"SLURM_TMPDIR: {slurm.tmp}" in log
    assert log.rstrip().endswith("ended with exit code 0")


def test_a_script_runs_outside_slurm_and_passes_on_its_arguments_and_exit_code(tmp_path: Path) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    script(programs / "expertchat", 'printf "<%s>" "$@"; echo; [[ $1 == --version ]] || exit 2')
    done = bash(f"cd /; '{JOBS}/converse.sh' 'a=[b c]'", EXPERTCHAT_VENV=str(tmp_path), EXPERTCHAT_RUNS="/r s")
    assert done.returncode == 2
    assert re.search(r"^<converse><run\.dir=/r s/[0-9-]+-converse><view=plain><a=\[b c\]>$", done.stdout, re.M), done.stdout
    assert "job none (no Slurm)" in done.stdout


# -- the environment ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheelhouse with the project's own wheel and nothing that it needs."""
    folder = tmp_path_factory.mktemp("wheel house") / "its wheels"
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    return folder


def test_a_job_installs_from_a_wheelhouse_once_and_without_network(slurm: Cluster, wheels: Path, tmp_path: Path) -> None:
    """The job's network namespace has no internet. --no-deps stands in for the gigabytes that a whole wheelhouse has."""
    twice = f"source '{JOBS}/setup_env.sh'"
    shown = 'command -v expertchat; echo "offline $HF_HUB_OFFLINE"; ls "$VIRTUAL_ENV"/lib/python*/site-packages/expertchat/jobs/*'
    job_file = script(tmp_path / "job.sh", "set -euo pipefail", twice, shown, twice)
    where = {"PYTHONPATH": "", "PIP_FIND_LINKS": "", "PIP_CONFIG_FILE": os.devnull, "EXPERTCHAT_WHEELHOUSE": str(wheels)}
    job = slurm.sbatch("-c2", f"--output={tmp_path}/log", str(job_file), env={**where, "PIP_NO_DEPS": "1"}, cwd=tmp_path)
    state = slurm.wait(job)
    log = read(tmp_path / "log")
    assert state == "COMPLETED", log
    assert f"{slurm.tmp}/root.{job}.0/env/bin/expertchat\noffline 1" in log
    assert "site-packages/expertchat/jobs/supervise.sh" in log
    assert log.count("installed from") == 1 and log.count("job: ") == 9  # 5 lines, and 4 when nothing is left to install


@pytest.mark.slow
def test_a_missing_wheel_ends_the_job_before_anything_is_installed(wheels: Path, tmp_path: Path) -> None:
    where = {"SLURM_TMPDIR": str(tmp_path), "PYTHONPATH": ""}
    done = bash(f"source '{JOBS}/setup_env.sh'; echo went on", EXPERTCHAT_WHEELHOUSE=str(wheels), **where)
    assert done.returncode == 2 and "went on" not in done.stdout
    assert re.search(r"No matching distribution found for \w+", done.stdout), done.stdout  # pip's own line
    assert f"make wheelhouse WHEELHOUSE={wheels}" in done.stdout
    assert not list((tmp_path / "env").glob("lib/python*/site-packages/expertchat"))
    empty = bash(f"source '{JOBS}/setup_env.sh'", EXPERTCHAT_WHEELHOUSE=str(tmp_path), **where)
    assert empty.returncode == 2 and "no wheel of expertchat there" in empty.stdout
    nowhere = bash(f"source '{JOBS}/setup_env.sh'", EXPERTCHAT_WHEELHOUSE=str(wheels))
    assert nowhere.returncode == 2 and "SLURM_TMPDIR, which is not set" in nowhere.stdout


def test_an_environment_is_found_or_its_absence_explained(tmp_path: Path) -> None:
    for name in ("named", "here/.venv"):
        (tmp_path / name / "bin").mkdir(parents=True)
        script(tmp_path / name / "bin" / "expertchat", f"echo expertchat of {name}")
    source = f"source '{JOBS}/setup_env.sh'; echo \"options $- threads ${{OMP_NUM_THREADS:-}}\""
    here, bare = tmp_path / "here", {"PATH": "/usr/bin:/bin"}
    assert "expertchat of named" in bash(source, here, EXPERTCHAT_VENV=str(tmp_path / "named"), **bare).stdout
    own = bash(source, here, SLURM_CPUS_PER_TASK="3", **bare)
    assert own.returncode == 0 and "expertchat of here/.venv" in own.stdout and "options ehuBc threads 3" in own.stdout
    none = bash(source, tmp_path, **bare)
    assert none.returncode == 2 and f"no expertchat here: make setup in {tmp_path}" in none.stdout
    wrong = bash(source, here, EXPERTCHAT_VENV=str(tmp_path), **bare)
    assert wrong.returncode == 2 and "has no bin/expertchat" in wrong.stdout


def test_modules_are_loaded_and_a_missing_one_ends_the_job(slurm: Cluster, tmp_path: Path) -> None:
    if not Path("/etc/profile.d/lmod.sh").exists():
        pytest.skip(f"{NO_SLURM}: lmod is not installed")
    job_file = script(tmp_path / "job.sh", "set -euo pipefail", f"source '{JOBS}/setup_env.sh'", 'echo "cuda is $STUB_MODULE_CUDA $-"')
    logs = f"--output={tmp_path}/%j.log"
    good, bad = (
        slurm.sbatch(logs, str(job_file), env={"EXPERTCHAT_MODULES": names}, cwd=tmp_path)
        for names in ("StdEnv/2023 python/3.11 cuda/12.6", "StdEnv/2023 cuda/11.0")
    )
    states = slurm.wait(good), slurm.wait(bad)
    logs_read = read(tmp_path / f"{good}.log"), read(tmp_path / f"{bad}.log")
    assert states == ("COMPLETED", "FAILED"), logs_read
    assert slurm.job(bad)["ExitCode"] == "2:0"
    assert "modules: StdEnv/2023 python/3.11 cuda/12.6" in logs_read[0] and "cuda is 12.6 ehuB" in logs_read[0]
    assert "module cuda/11.0 cannot be loaded" in logs_read[1] and "'module spider cuda'" in logs_read[1]
    assert "expertchat" not in logs_read[1]  # it had not begun


def test_a_machine_without_modules_says_so(slurm: Cluster) -> None:
    hidden = f"for file in /etc/profile.d/*; do mount --bind /dev/null $file; done; source '{JOBS}/setup_env.sh'"
    done = slurm.call(["unshare", "--mount", "bash", "-c", hidden], env={"EXPERTCHAT_MODULES": "cuda/12.6"})
    assert done.returncode == 2 and "this machine has no 'module' command" in done.stderr


# -- the time limit -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("stand in") / "command"
    path.write_text(STAND_IN)
    path.chmod(0o755)
    return path


def supervised(tmp_path: Path, stand_in: Path, ranks: int = 1) -> Path:
    count = f"--ranks {ranks} " if ranks > 1 else ""
    lines = ["#SBATCH --mem=100M", "#SBATCH --requeue", "#SBATCH --open-mode=append", "set -euo pipefail", f"source '{JOBS}/supervise.sh'"]
    return script(tmp_path / f"job{ranks}.sh", *lines, f"supervise {count}'{stand_in}'", "echo after it")


@pytest.fixture
def node(slurm: Cluster) -> Iterator[Cluster]:
    """The cluster; what a failed test leaves running does not stand in the next one's way."""
    yield slurm
    slurm.call(["scancel", "--quiet", *slurm.submitted])


def starts(path: Path) -> None:
    until(lambda: re.search("command [0-9] starts", read(path)), 30, f"a command's start in {path}")
    time.sleep(0.3)  # all ranks


def test_before_the_time_limit_a_task_is_requeued_and_goes_on_alone(node: Cluster, stand_in: Path, tmp_path: Path) -> None:
    """Of an array's tasks the last one has the array's own id as its job id: requeuing by that would take the others along."""
    job = node.sbatch("--array=0-1", f"--output={tmp_path}/%a.log", str(supervised(tmp_path, stand_in)))
    starts(tmp_path / "0.log")
    starts(tmp_path / "1.log")
    node.run(["scancel", "--batch", "--signal=USR1", f"{job}_1"])
    until(lambda: "command 0 is done" in read(tmp_path / "1.log"), 60, "the requeued task", lambda: read(tmp_path / "1.log"))
    log = read(tmp_path / "1.log")
    told = ["restarts 0", "told to stop", "hears USR1", "stopped in order", "exit code 3", "requeued (1 of 20", "restarts 1", "is done"]
    places = [log.index(words) for words in told]
    assert places == sorted(places), log
    assert (node.wait(f"{job}_1"), node.job(f"{job}_1")["Restarts"]) == ("COMPLETED", "1")
    assert (node.state(f"{job}_0"), node.job(f"{job}_0")["Restarts"]) == ("RUNNING", "0")
    node.run(["scancel", job])
    assert node.wait(f"{job}_0") == "CANCELLED"
    assert "cancelled, or the time is over (TERM)" in read(tmp_path / "0.log") and "requeued" not in read(tmp_path / "0.log")


def test_requeues_are_bounded(node: Cluster, stand_in: Path, tmp_path: Path) -> None:
    job = node.sbatch(f"--output={tmp_path}/log", str(supervised(tmp_path, stand_in)), env={"EXPERTCHAT_REQUEUES": "0"})
    starts(tmp_path / "log")
    node.run(["scancel", "--batch", "--signal=USR1", job])
    assert node.wait(job) == "FAILED"
    assert node.job(job)["ExitCode"] == "3:0"
    assert "not requeued: it was 0 times already, and EXPERTCHAT_REQUEUES=0" in read(tmp_path / "log")
    over = bash(f"source '{JOBS}/supervise.sh'; supervise echo it runs", SLURM_RESTART_COUNT="3", EXPERTCHAT_REQUEUES="2")
    assert over.returncode == 1 and "not started: requeued 3 times" in over.stdout and "it runs" not in over.stdout


def test_a_cancelled_run_stops_in_order_and_is_not_requeued(node: Cluster, stand_in: Path, tmp_path: Path) -> None:
    job = node.sbatch(f"--output={tmp_path}/log", str(supervised(tmp_path, stand_in)))
    starts(tmp_path / "log")
    node.run(["scancel", job])
    assert node.wait(job) == "CANCELLED"
    until(lambda: "exit code 3" in read(tmp_path / "log"), 20, "the end of the log", lambda: read(tmp_path / "log"))
    log = read(tmp_path / "log")
    assert "command 0 hears TERM" in log and "command 0 has stopped in order" in log
    assert node.job(job)["Restarts"] == "0" and "after it" not in log


def test_four_processes_stop_in_order_though_not_at_once(node: Cluster, stand_in: Path, tmp_path: Path) -> None:
    """8 cores: 8 / 4 = 2 threads each. One process ends long after the others; srun must not end it."""
    slow = tmp_path / "slow"
    script(slow, f'if [[ $SLURM_PROCID == 0 ]]; then export SLOW=2; fi; exec "{stand_in}"')
    job_file = str(supervised(tmp_path, slow, ranks=4))
    job = node.sbatch("-c8", "--gpus-per-node=v100:4", f"--output={tmp_path}/log", job_file, env={"EXPERTCHAT_REQUEUES": "0"})
    until(lambda: read(tmp_path / "log").count(" starts, ") == 4, 30, "four starts")
    time.sleep(0.3)
    node.run(["scancel", "--batch", "--signal=USR1", job])
    assert node.wait(job) == "FAILED"
    log = read(tmp_path / "log")
    assert node.job(job)["ExitCode"] == "3:0", log
    for rank in range(4):
        assert f"command {rank} starts, restarts 0, meets at 127.0.0.1:{20000 + int(job) % 20000}, threads 2" in log
        assert f"command {rank} has stopped in order" in log
    assert "hears TERM" not in log


@pytest.mark.parametrize(("number", "name"), [(signal.SIGTERM, "TERM"), (signal.SIGUSR1, "USR1")])
def test_outside_slurm_signals_are_passed_on(number: signal.Signals, name: str, stand_in: Path, tmp_path: Path) -> None:
    with (tmp_path / "log").open("w") as log:
        done = subprocess.Popen([str(supervised(tmp_path, stand_in))], stdout=log, stderr=log, env={"PATH": os.environ["PATH"]})
        starts(tmp_path / "log")
        done.send_signal(number)
        assert done.wait(timeout=30) == 3
    assert f"command 0 hears {name}" in read(tmp_path / "log") and "requeued" not in read(tmp_path / "log")


def test_a_signal_to_all_at_once_does_not_cost_the_exit_code(tmp_path: Path) -> None:
    """Slurm signals a job's shell and its processes together: bash's own `wait` then often reports 255 or 143 for 3."""
    command = script(tmp_path / "command", "trap 'exit 3' TERM", "echo command 0 starts", "for i in {1..100}; do sleep 0.05; done")
    job_file = supervised(tmp_path, command)
    for i in range(5):
        with (tmp_path / f"log{i}").open("w") as log:
            done = subprocess.Popen([str(job_file)], stdout=log, stderr=log, env={"PATH": os.environ["PATH"]}, start_new_session=True)
            starts(tmp_path / f"log{i}")
            os.killpg(done.pid, signal.SIGTERM)
            assert done.wait(timeout=30) == 3, read(tmp_path / f"log{i}")


def test_exit_codes_pass_through() -> None:
    source = f"source '{JOBS}/supervise.sh'"
    both = bash(f'{source}; supervise true; echo "between $-"; supervise bash -c "exit 2"; echo never')
    assert both.returncode == 2 and "between ehuBc" in both.stdout and "never" not in both.stdout
    # A run that another signal has stopped is not requeued: scontrol, which is not there, is not asked.
    alone = bash(f'{source}; supervise bash -c "exit 3"', SLURM_JOB_ID="1")
    assert alone.returncode == 3 and "requeue" not in alone.stdout
