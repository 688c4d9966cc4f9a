"""Handing a script to Slurm, or where there is none to this machine; a refusal is told with what to do about it."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from expertchat.config import ConfigError
from expertchat.folder.writing import private
from expertchat.slurm.array import Array
from expertchat.slurm.config import ClusterConfig
from expertchat.slurm.queue import process_id

REMEDIES = (  # words of sbatch, and what to do
    ("account", "Name yours: cluster.account=def-... (or SBATCH_ACCOUNT); `sacctmgr show associations user=$USER` lists them"),
    ("node configuration", "No node has what was asked for: {asked}. There are {there}. Change cluster.gpu_type, gpus, cpus or memory"),
    ("time limit", "Ask for less: cluster.time=... (`sinfo -o '%P %l'` shows the limits)"),
    ("partition", "Name one that is there: cluster.partition=... (`sinfo -s` lists them)"),
    ("dependency", "--after wants the id of a job that is in the queue or has ended lately (`squeue --me`)"),
    ("memory", "Ask for less: cluster.memory=... (`sinfo -o '%n %m'` shows what nodes have)"),
    ("contact", "This machine reaches no Slurm now; try again, or ask the cluster's staff"),
)
# Of Slurm's, those that are the user's and not of a job.
OF_USER = ("SLURM_CONF", "SLURM_CLUSTERS", "SLURM_TIME_FORMAT")
# Of sbatch's variables, which go over what a script says, those that stay: the site's or the user's defaults for what the config has not.
KEPT = ("SBATCH_PARTITION", "SBATCH_QOS", "SBATCH_CONSTRAINT", "SBATCH_RESERVATION", "SBATCH_CLUSTERS", "SBATCH_EXPORT")


class Submitted(Protocol):
    """What is handed over: a script, and of an array the tasks that are left."""

    @property
    def cluster(self) -> ClusterConfig: ...
    @property
    def script(self) -> Path: ...
    @property
    def array(self) -> Array | None: ...
    def left(self) -> list[int] | None: ...


def submit(wanted: Submitted, more: Sequence[str] = ()) -> str:
    """The job's id. `more`: options beside those of the script. Raises ConfigError with sbatch's words and what to do about them."""
    if wanted.cluster.scheduler == "local":
        return _here(wanted)
    if shutil.which("sbatch") is None:
        raise ConfigError(
            f"there is no sbatch here, so this is no login node of a Slurm cluster. {wanted.script} is written: submit it there, or "
            "let it run on this machine: cluster=laptop"
        )
    try:
        line = ["sbatch", "--parsable", *more, str(wanted.script)]
        done = subprocess.run(line, capture_output=True, text=True, timeout=120, env=_environment(wanted.cluster))
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ConfigError(f"sbatch does not answer ({error}); try again later: {wanted.script} is written") from None
    if done.returncode:
        lines = [line.removeprefix("sbatch: error: ").strip(" .") for line in done.stderr.splitlines() if line.strip()]
        said = "; ".join(lines) or "it does not say why"
        raise ConfigError(f"sbatch refuses the job: {said}. {_remedy(said, wanted.cluster)}")
    return done.stdout.strip().splitlines()[-1].partition(";")[0]


def _environment(cluster: ClusterConfig) -> dict[str, str]:
    """This process's variables without those that would go over the script's options, and those of the job that it runs in itself.

    sbatch hands these on: a job would take itself for a task of the array that has submitted it, and requeue that one.
    """
    kept = [name for name in KEPT if name != "SBATCH_PARTITION" or cluster.partition is None]
    dropped = ("SBATCH_", "SLURM_") if os.environ.get("SLURM_JOB_ID") else ("SBATCH_",)
    return {name: value for name, value in os.environ.items() if not name.startswith(dropped) or name in (*kept, *OF_USER)}


def _remedy(said: str, cluster: ClusterConfig) -> str:
    remedy = next((text for words, text in REMEDIES if words in said.lower()), "The script is in the run's submission folder")
    asked = f"{cluster.gpus} x {cluster.gpu_type or 'GPU'}, " if cluster.gpus else ""
    return remedy.format(asked=f"{asked}{cluster.cpus} cores and {cluster.memory} on each of {cluster.nodes}", there=_nodes())


def _nodes() -> str:
    """What the cluster's nodes have, in a few words."""
    try:
        done = subprocess.run(["sinfo", "-h", "-o", "%D nodes with %G, %c cores, %m MiB"], capture_output=True, text=True, timeout=20)
        lines = list(dict.fromkeys(line.strip() for line in done.stdout.splitlines() if line.strip()))
    except (OSError, subprocess.TimeoutExpired):
        lines = []
    return "; ".join(lines[:8]) or "nodes that sinfo does not tell of"


def _here(wanted: Submitted) -> str:
    """Run the script in the background of this machine; "pid:123.456789" (see `process_id`)."""
    line = ["bash", str(wanted.script)]
    if wanted.array is not None:  # its tasks share the machine
        tasks = " ".join(map(str, wanted.left() or []))
        at_once = wanted.array.at_once or 1
        one = "sh -c 'exec env EXPERTCHAT_TASK=\"$1\" bash \"$0\"' \"$0\""  # no -I: its mark may stand in the script's path
        line = ["bash", "-c", f'printf "%s\\n" {tasks} | xargs -P {at_once} -n 1 {one}', str(wanted.script)]
    outside = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}  # it is no part of a job
    with open(wanted.script.parent / "slurm-local.out", "ab", opener=private) as log:
        process = subprocess.Popen(line, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, env=outside)
    return process_id(process.pid)
