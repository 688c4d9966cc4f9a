"""A submission: what is to run, where and as what, and its files in the run folder."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from expertchat.command.frozen import freeze
from expertchat.config import ConfigError
from expertchat.folder.provenance import changes, provenance
from expertchat.folder.submission import PLACE, read_submission
from expertchat.folder.writing import replace
from expertchat.serving.config import ServeConfig
from expertchat.slurm.array import Array, task_folder
from expertchat.slurm.checks import Checked
from expertchat.slurm.config import ClusterConfig
from expertchat.slurm.script import PARTS, SERVER, SUBMISSION, Script, jobs_dir
from expertchat.text.redaction import hide_words

PRIVATE = 0o600  # command lines, changes of the code, paths


@dataclass
class Wanted:
    """One submission: what is to run (`configs`: one, or one for each task), on what, and where (`folder`, absolute)."""

    command: str
    command_line: list[str]
    config: Any
    configs: list[Any]
    cluster: ClusterConfig
    folder: Path
    array: Array | None
    after: str | None
    served: ServeConfig | None = None  # by a server in the same job
    checked: Checked = field(default_factory=Checked)

    @property
    def ranks(self) -> int:
        """Processes of one run."""
        train = getattr(self.config, "train", None)
        return self.cluster.ranks if train is not None and train.sharding != "pipeline" else 1

    @property
    def place(self) -> Path:
        return self.folder / SUBMISSION

    @property
    def script(self) -> Path:
        return self.place / "job.sh"

    def names(self) -> list[str]:
        """The frozen configs' files."""
        return ["config.yaml"] if self.array is None else [f"config-{task}.yaml" for task in range(self.array.tasks)]

    def left(self) -> list[int] | None:
        """The tasks that are not done; None: no array."""
        if self.array is None:
            return None
        return [task for task in range(self.array.tasks) if not (task_folder(self.folder, task) / "summary.json").exists()]


def write_submission(wanted: Wanted) -> None:
    """The script with its parts, the frozen configs, the code's version: for their owner's eyes alone. Raises ConfigError."""
    text = Script(
        command=wanted.command,
        command_line=wanted.command_line,
        folder=wanted.folder,
        cluster=wanted.cluster,
        stage=wanted.checked.stage,
        models_dir=getattr(wanted.config, "models_dir", None),
        tasks=wanted.left(),
        at_once=wanted.array.at_once if wanted.array else None,
        after=wanted.after,
        ranks=wanted.ranks,
        served=wanted.served is not None,
    ).text()
    configs = {name: freeze(config) for name, config in zip(wanted.names(), wanted.configs, strict=True)}
    configs |= {SERVER: freeze(wanted.served)} if wanted.served is not None else {}
    write_files(wanted.folder, configs, {wanted.script.name: text}, wanted.command_line)
    _save(wanted, _jobs(wanted.folder))


def write_files(folder: Path, files: Mapping[str, str], scripts: Mapping[str, str], command_line: Sequence[str]) -> None:
    """The submission's folder in `folder`: these files and scripts, by their names, the scripts' parts, and the code's version.

    Raises ConfigError.
    """
    place = folder / SUBMISSION
    try:
        folder.mkdir(parents=True, exist_ok=True)
        place.mkdir(mode=0o700, exist_ok=True)
        place.chmod(0o700)  # Slurm and bash write the job's output in here, by a umask of their own
        for part in PARTS:
            replace(place / part, (jobs_dir() / part).read_text("utf-8"), mode=PRIVATE)
        for name, text in files.items():
            replace(place / name, text, mode=PRIVATE)
        replace(place / "provenance.json", json.dumps(provenance(list(command_line)), indent=2) + "\n", mode=PRIVATE)
        (place / "code.diff").unlink(missing_ok=True)
        if diff := changes():
            replace(place / "code.diff", diff, mode=PRIVATE)
        for name, text in scripts.items():
            replace(place / name, text, mode=0o700)
    except OSError as error:
        raise ConfigError(f"run.dir: cannot write {place}: {error.strerror}; name another folder") from None


def book(wanted: Wanted, job: str) -> None:
    """Note that it was submitted, as this job."""
    _save(wanted, [*_jobs(wanted.folder), {"job": job, "time": round(time.time(), 3)}])


def _jobs(folder: Path) -> list[dict[str, Any]]:
    before = read_submission(folder)
    return [{"job": job, "time": at} for job, at in before.jobs] if before is not None else []


def _save(wanted: Wanted, jobs: list[dict[str, Any]]) -> None:
    array = wanted.array
    values = {
        "schema": 1,
        "command": wanted.command,
        "command_line": hide_words(wanted.command_line),
        "scheduler": wanted.cluster.scheduler,
        "cluster": wanted.cluster.model_dump(mode="json"),
        "tasks": array.tasks if array else None,
        "at_once": array.at_once if array else None,
        "spread": array.spread if array else None,
        "after": wanted.after,
        "time_limit": wanted.cluster.time,
        "jobs": jobs,
    }
    replace(wanted.folder / PLACE, json.dumps(values, indent=1) + "\n", sync=True, mode=PRIVATE)
