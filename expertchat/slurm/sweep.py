"""A sweep as jobs of submitit: `expertchat converse -m hydra/launcher=submitit_slurm run.seed=0,1,2,3`.

Each job is our own command on a frozen config. Told that its time is up, it stops in order, is put back into the queue and goes on in its
folder. submitit is imported where it is used: it need not be installed.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from expertchat.command.compose import load
from expertchat.command.frozen import freeze
from expertchat.command.launch import Job, sweep_jobs
from expertchat.config import ConfigError
from expertchat.folder.run import FAILED, STOPPED
from expertchat.folder.writing import replace
from expertchat.slurm.config import ClusterConfig
from expertchat.slurm.queue import JobState, states
from expertchat.text.redaction import hide_words
from expertchat.text.sentences import clean

LAUNCHERS = ("submitit_slurm", "submitit_local")
REQUEUES = 20  # after a time limit, where nothing says how many
RESUMABLE = ("cancelled", "timeout", "node_fail", "preempted")  # ends of a job whose run can go on
GRACE_SECONDS = 20.0  # for the result of a job that has ended, on a slow file system
# Variables that sbatch heeds more than what a script says; what is asked for here shall hold.
SHADOWS = {"SBATCH_ACCOUNT": "account", "SBATCH_PARTITION": "partition", "SBATCH_TIMELIMIT": "timeout_min", "SBATCH_QOS": "qos"}
Entry = Callable[[Sequence[str]], int]
Say = Callable[[str], object]


def launch(entry: Entry, say: Say, command: str, overrides: Sequence[str], launcher: str) -> tuple[list[Job], list[int]]:
    """Submit a sweep and wait for it. Returns its jobs and their exit codes; `say` hears how they end, `entry` is what a job calls.

    Raises ConfigError before anything is submitted, and for what sbatch refuses. Ctrl-C leaves the jobs to themselves.
    """
    if launcher not in LAUNCHERS:
        raise ConfigError(f"hydra/launcher={launcher}: a sweep runs with basic (here, one job after another), {' or '.join(LAUNCHERS)}")
    try:
        import hydra_plugins.hydra_submitit_launcher.config  # type: ignore[import-untyped]  # noqa: F401
        import submitit
    except ImportError:
        raise ConfigError(f'hydra/launcher={launcher}: its package is not installed; pip install "expertchat[slurm]"') from None
    on_slurm = launcher == "submitit_slurm"
    of_cluster = [text for text in overrides if on_slurm and re.match(r"cluster[=.]", text)]
    overrides = [text for text in overrides if text not in of_cluster]
    jobs, hydra = sweep_jobs(command, overrides, here=not on_slurm)
    wanted = _of_slurm(hydra.launcher, overrides, _cluster(of_cluster)) if on_slurm else {**hydra.launcher}
    folder = Path(hydra.sweep.dir)
    calls = [Call(entry, [command, "--config", str(_keep(folder / "configs", command, job))], on_slurm) for job in jobs]
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # what sbatch says comes with the error
            submitted = _executor(submitit, "slurm" if on_slurm else "local", wanted).submit_array(calls)
    except (RuntimeError, ValueError, NameError, OSError) as error:
        raise ConfigError(f"hydra/launcher={launcher}: the jobs were not submitted: {' '.join(str(error).split())}") from None
    again = "the same command line" + ("" if any(text.startswith("run.dir=") for text in overrides) else f" with run.dir={folder}")
    runs = [_Run(job, remote, on_slurm, again) for job, remote in zip(jobs, submitted, strict=True)]
    head = runs[0].id.partition("_")[0]
    where = f"job {head} of Slurm" if on_slurm else "processes of this machine"
    say(f"{len(runs)} runs in {folder} as {where}; follow one: expertchat watch {jobs[0].config.run.dir}")
    try:
        _wait(runs, head, say)
    except KeyboardInterrupt:
        if on_slurm:
            say(f"the jobs go on without this command (scancel {head} stops them); {again} takes up what is left")
        raise
    return jobs, [STOPPED if run.code is None else run.code for run in runs]


# -- what is asked of the cluster -----------------------------------------------------------------------------------------


def _cluster(overrides: Sequence[str]) -> ClusterConfig | None:
    """The cluster that the command line or EXPERTCHAT_CLUSTER names. Raises ConfigError."""
    if not overrides and not os.environ.get("EXPERTCHAT_CLUSTER"):
        return None
    cluster: ClusterConfig = load("submit", overrides).cluster
    if cluster.scheduler != "slurm":
        raise ConfigError("cluster: has no Slurm; use hydra/launcher=submitit_local, or name another cluster")
    return cluster


def _of_slurm(launcher: Mapping[str, Any], overrides: Sequence[str], cluster: ClusterConfig | None) -> dict[str, Any]:
    chosen = {found[1] for text in overrides if (found := re.match(r"\+{0,2}hydra\.launcher\.(\w+)", text))}
    wanted = slurm_settings(launcher, chosen, cluster)
    for name, key in SHADOWS.items():
        if wanted.get(key) is not None and (cluster is not None or key in chosen):
            os.environ.pop(name, None)
    return wanted


def slurm_settings(launcher: Mapping[str, Any], chosen: set[str], cluster: ClusterConfig | None) -> dict[str, Any]:
    """hydra.launcher with what a cluster's file asks for, less the keys `chosen` on the command line, which stay as they are."""
    found: dict[str, Any] = {"max_num_timeout": REQUEUES}
    more: dict[str, Any] = {}
    if cluster is not None:
        found = {
            "account": cluster.account,
            "timeout_min": -(-cluster.seconds // 60),
            "nodes": cluster.nodes,
            "cpus_per_task": cluster.cpus,
            "partition": cluster.partition,
            "signal_delay_s": cluster.signal_seconds,
            "max_num_timeout": cluster.requeues,
        }
        if not chosen & {"mem_gb", "mem_per_gpu", "mem_per_cpu"}:
            more["mem"] = cluster.memory
        if cluster.gpus and not chosen & {"gpus_per_node", "gpus_per_task", "gres"}:
            more["gpus-per-node"] = f"{cluster.gpu_type}:{cluster.gpus}" if cluster.gpu_type else cluster.gpus
        for option in cluster.options:
            name, equals, value = option.removeprefix("--").partition("=")
            more[name] = value if equals else True
    settings = {**launcher, **{key: value for key, value in found.items() if key not in chosen}}
    settings["additional_parameters"] = {**more, **(settings.get("additional_parameters") or {})}
    return settings


def _executor(submitit: Any, kind: str, settings: Mapping[str, Any]) -> Any:
    """submitit's executor with the settings of its Hydra launcher, which names those of one kind of executor without the kind."""
    from hydra_plugins.hydra_submitit_launcher.config import BaseQueueConf  # type: ignore[import-untyped]

    given = {key: value for key, value in settings.items() if value is not None and key not in ("_target_", "submitit_folder")}
    limits = {f"{kind}_max_num_timeout": given.pop(name) for name in ("max_num_timeout",) if name in given}
    executor = submitit.AutoExecutor(settings["submitit_folder"], cluster=kind, **limits)
    executor.update_parameters(**{key if hasattr(BaseQueueConf, key) else f"{kind}_{key}": value for key, value in given.items()})
    return executor


def _keep(folder: Path, command: str, job: Job) -> Path:
    """The file of a job's frozen config. An earlier one that says something else stays: its job may still wait in the queue."""
    words = shlex.join(hide_words(["expertchat", command, *job.overrides])).replace("\n", "\n# ")
    text, count = f"# {words}\n{freeze(job.config)}", 1
    folder = folder.absolute()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        while True:
            file = folder / (f"{job.number}.yaml" if count == 1 else f"{job.number}-{count}.yaml")
            if not file.exists():
                replace(file, text, mode=0o600)
            if file.read_text("utf-8") == text:
                return file
            count += 1
    except OSError as error:
        raise ConfigError(f"hydra.sweep.dir: cannot write {folder}: {error.strerror}; name another folder with run.dir") from None


# -- on the node ----------------------------------------------------------------------------------------------------------


class Call:
    """One job where it runs. submitit keeps it as a file and calls it, again after each requeue."""

    def __init__(self, entry: Entry, arguments: list[str], on_slurm: bool) -> None:
        self.entry, self.arguments, self.on_slurm = entry, arguments, on_slurm

    def __call__(self) -> int:
        """The run's exit code. Leaves by SystemExit, without a result, where the job was put back into the queue."""
        import submitit

        if self.on_slurm:
            _prepare(submitit.JobEnvironment())
        number = signal.Signals[f"SIG{submitit.JobEnvironment.USR_SIG}"]
        requeue: Any = signal.getsignal(number)  # submitit's: it would end the process in the midst of a write
        told = _Told()
        signal.signal(number, told)
        try:
            code = self.entry(self.arguments)
        except KeyboardInterrupt:
            code = STOPPED
        finally:
            signal.signal(number, requeue)
        if told.yes and code == STOPPED and callable(requeue):
            with contextlib.suppress(submitit.core.utils.UncompletedJobError):  # it was requeued as often as it may be
                requeue(number, None)
                raise SystemExit(STOPPED)  # a task other than the first does not requeue: it waits for the end
        return code

    def checkpoint(self) -> Any:
        """What submitit runs after a requeue: the same again."""
        import submitit

        return submitit.helpers.DelayedSubmission(self)


def _prepare(place: Any) -> None:
    """Set what a compute node needs; whoever has set it keeps the value."""
    found = dict.fromkeys(("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE"), "1")  # it has no internet
    if place.num_tasks > 1:  # train.sharding=ddp|fsdp with hydra.launcher.tasks_per_node: where they meet
        digits = int(place.raw_job_id) % 20_000
        found |= {"MASTER_ADDR": place.hostnames[0], "MASTER_PORT": str(20_000 + digits)}
    for name, value in found.items():
        os.environ.setdefault(name, value)


class _Told:
    """Hears submitit's signal and tells the run to stop in order, as it does at SIGUSR1."""

    yes = False

    def __call__(self, number: int, frame: Any) -> None:
        self.yes = True
        if callable(signal.getsignal(signal.SIGUSR1)):
            signal.raise_signal(signal.SIGUSR1)
        else:  # nothing has begun, or all is done
            raise KeyboardInterrupt


# -- waiting --------------------------------------------------------------------------------------------------------------


@dataclass
class _Run:
    """A job that was submitted, and how it ended."""

    job: Job
    remote: Any  # submitit's
    on_slurm: bool
    again: str  # what goes on with a run that has stopped
    code: int | None = None
    gone: float | None = None  # when it was first seen to have ended without a result
    id: str = field(init=False)

    def __post_init__(self) -> None:
        self.id = str(self.remote.job_id)

    def result(self) -> int | None:
        """The exit code that it left: of several tasks the highest; None: not (yet)."""
        tasks = [self.remote.task(i) for i in range(self.remote.num_tasks)]
        if not all(task.paths.result_pickle.exists() for task in tasks):
            return None
        try:
            return max(task.results()[0] for task in tasks)
        except Exception:  # whatever went wrong there is in its log
            return FAILED

    def log(self) -> Path:
        paths = self.remote.task(0).paths
        err, out = Path(paths.stderr), Path(paths.stdout)
        return err if err.exists() and err.stat().st_size else out

    def last_words(self) -> str:
        """The last line of its log behind a colon, if there is one."""
        with contextlib.suppress(OSError), self.log().open("rb") as file:
            file.seek(max(0, self.log().stat().st_size - 4096))
            lines = file.read().decode("utf-8", "replace").split("\n")
            last = next((line.strip() for line in reversed(lines) if line.strip()), "")
            return f": {clean(last).removeprefix('expertchat: ')}" if last else ""
        return ""


def _wait(runs: Sequence[_Run], head: str, say: Say) -> None:
    """Until every run has its code. Results are files, looked for each second; Slurm is asked from time to time, for what left none."""
    began = asked = time.monotonic()
    known: dict[str, JobState] = {}
    sure = not runs[0].on_slurm
    while waiting := [run for run in runs if run.code is None]:
        now = time.monotonic()
        pause = 3.0 if any(run.gone for run in waiting) else min(60.0, max(3.0, (now - began) / 10))
        if runs[0].on_slurm and now - asked > pause:
            answer = states([head])
            known, sure, asked = dict(answer), not answer.note, time.monotonic()
        for run in waiting:
            if (text := _ended(run, known.get(run.id), sure)) is not None:
                say(f"[{run.job.number + 1}/{run.job.jobs}] {' '.join(hide_words(run.job.overrides))}: {text}")
        if any(run.code is None for run in runs):
            time.sleep(1.0)


def _ended(run: _Run, state: JobState | None, sure: bool) -> str | None:
    """Give a run its code if it has ended, and say how; None: it has not. `sure`: whether no state means no job."""
    alive = not sure or (state is not None and state.alive) if run.on_slurm else not run.remote.done()
    code = run.result()
    if code is not None and not (code == STOPPED and alive):  # what stopped and is alive was requeued: there will be another result
        run.code = code
        if code == STOPPED:
            return f"stopped; {run.again} goes on with it"
        return "done" if code == 0 else f"failed with exit code {code}{run.last_words()} (log: {run.log()})"
    if alive:
        run.gone = None
        return None
    run.gone = run.gone or time.monotonic()
    if run.on_slurm and time.monotonic() - run.gone < GRACE_SECONDS:
        return None
    run.code = STOPPED if state is not None and state.state in RESUMABLE else FAILED
    how = state.words if state is not None else "ended without a result"
    return f"its job {run.id} {how}{run.last_words()} (log: {run.log()}); {run.again} goes on with it"
