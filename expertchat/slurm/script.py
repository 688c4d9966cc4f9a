"""The job script that `expertchat submit` writes: bash that a person can read, edit and submit by hand."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from expertchat.config import ConfigError
from expertchat.serving.config import NAME
from expertchat.slurm.config import ClusterConfig
from expertchat.text.redaction import hide_words

SERVER = "server.yaml"  # the config of a server beside it
SUBMISSION = "submission"  # the folder in a run folder that holds all this
# Of jobs/; copied, so that a waiting job does not change with the checkout.
PARTS = ("setup_env.sh", "stage_models.sh", "supervise.sh")


@dataclass(frozen=True)
class Script:
    """What the script is made of. `folder`: the run folder, absolute; `tasks`: those of an array that are left; `ranks`: processes.

    `words`: what the command is told, where that is no frozen config; `name`: of the job, else the folder's; `served`: a server beside it.
    """

    command: str
    command_line: list[str]
    folder: Path
    cluster: ClusterConfig
    stage: list[str]
    models_dir: str | None = None
    tasks: list[int] | None = None
    at_once: int | None = None
    after: str | None = None
    ranks: int = 1
    words: tuple[str, ...] | None = None
    name: str | None = None
    served: bool = False

    def text(self) -> str:
        """The whole file."""
        return "\n".join([*self._head(), "", *self._body(), ""])

    def _head(self) -> list[str]:
        again = "the same line submits this run again, and it goes on where it was"
        words = shlex.join(hide_words(self.command_line)).replace("\n", "\n# ")
        lines = ["#!/bin/bash", f"# {words}", f"# Written by expertchat submit; {again}. By hand: sbatch THIS_FILE"]
        if self.cluster.scheduler == "slurm":
            lines += [f"#SBATCH {option}" for option in self.options()]
        return lines

    def options(self) -> list[str]:
        """What sbatch is asked for."""
        cluster = self.cluster
        gpus = f"{cluster.gpu_type}:{cluster.gpus}" if cluster.gpu_type else str(cluster.gpus)
        found = [
            _option("job-name", self.name or self.folder.name),
            *([_option("account", cluster.account)] if cluster.account else []),
            *([_option("partition", cluster.partition)] if cluster.partition else []),
            _option("time", cluster.time),
            _option("nodes", str(cluster.nodes)),
            _option("cpus-per-task", str(cluster.cpus)),  # of a node; srun shares them out among several processes
            _option("mem", cluster.memory),
            *([_option("gpus-per-node", gpus)] if cluster.gpus else []),
            _option("output", f"{str(self.folder / SUBMISSION).replace('%', '%%')}/slurm-{'%A_%a' if self.tasks else '%j'}.out"),
            _option("open-mode", "append"),  # else a requeue begins the log anew
            "--requeue",
            _option("signal", f"B:USR1@{cluster.signal_seconds}"),
        ]
        if self.tasks:
            found.append(_option("array", _ranges(self.tasks) + (f"%{self.at_once}" if self.at_once else "")))
        if self.after:
            found += afterok([self.after])
        return [*found, *map(_whole, cluster.options)]

    def _body(self) -> list[str]:
        cluster, here = self.cluster, f"$RUN/{SUBMISSION}"
        exports = {
            "EXPERTCHAT_MODULES": " ".join(cluster.modules),
            "EXPERTCHAT_WHEELHOUSE": _absolute(cluster.wheelhouse),
            "EXPERTCHAT_VENV": _absolute(cluster.venv) or ("" if cluster.wheelhouse else _own_environment()),
            "EXPERTCHAT_ARCHIVES": _absolute(cluster.archives),
            "EXPERTCHAT_STAGE": " ".join(self.stage),
            "EXPERTCHAT_MODELS": _absolute(self.models_dir),
            "EXPERTCHAT_REQUEUES": str(cluster.requeues),
            **({"HF_HOME": os.environ["HF_HOME"]} if os.environ.get("HF_HOME") else {}),  # where the hub's cache is
        }
        told = f'--config "{here}/{"config-$TASK.yaml" if self.tasks else "config.yaml"}"' if self.words is None else shlex.join(self.words)
        ranks = f"--ranks {self.ranks} " if self.ranks > 1 else ""
        before = f'expertchat {NAME} --config "{here}/{SERVER}" -- ' if self.served else ""
        return [
            "set -euo pipefail",
            f"cd {shlex.quote(os.getcwd())} # the paths of the config are meant from here",
            f"RUN={shlex.quote(str(self.folder))}",
            *(["TASK=${SLURM_ARRAY_TASK_ID:-${EXPERTCHAT_TASK:?}}"] if self.tasks else []),
            *(f"export {name}={shlex.quote(value)}" for name, value in exports.items()),
            "",
            *(f'source "{here}/{part}"' for part in PARTS),
            f"supervise {ranks}{before}expertchat {self.command} {told}",
        ]


def _ranges(numbers: list[int]) -> str:
    """ "0-3,7": sbatch's form."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number == parts[-1][-1] + 1:
            parts[-1].append(number)
        else:
            parts.append([number])
    return ",".join(f"{part[0]}-{part[-1]}" if len(part) > 1 else str(part[0]) for part in parts)


def afterok(jobs: Sequence[str]) -> list[str]:
    """sbatch's options for a job that begins when these have ended well, and is cancelled when one has not."""
    return [f"--dependency=afterok:{':'.join(jobs)}", "--kill-on-invalid-dep=yes"] if jobs else []


def _option(name: str, value: str) -> str:
    return f'--{name}="{value}"' if any(c in value for c in " '#;") else f"--{name}={value}"


def _whole(option: str) -> str:
    """One more option of sbatch, its value in quotes where a blank would end it; one that has quotes stays as it is."""
    name, equals, value = option.removeprefix("--").partition("=")
    return _option(name, value) if equals and not set(value) & set("\"'") else option


def _absolute(path: str | None) -> str:
    return os.path.abspath(os.path.expanduser(path)) if path else ""


def _own_environment() -> str:
    """The environment that this process runs in, if a job can start from it."""
    return sys.prefix if (Path(sys.prefix) / "bin" / "expertchat").is_file() else ""


def jobs_dir() -> Path:
    """The folder of the job scripts: inside the package in a wheel, beside it in a checkout. Raises ConfigError."""
    package = Path(__file__).resolve().parents[1]
    for place in (package / "jobs", package.parent / "jobs"):
        if all((place / part).is_file() for part in PARTS):
            return place
    raise ConfigError(f"the job scripts {', '.join(PARTS)} are not there: install expertchat again, or use a whole checkout")
