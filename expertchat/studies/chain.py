"""`expertchat submit study NAME SIZE ...`: a study as a chain of jobs, each of which runs some steps when those that they read are done.

A step whose command may be a job of its own is one; others that follow each other share one. The last job writes the report. A job's
command is `expertchat study FILE SIZE --only STEPS` on a copy of the study's file: what a step does, and how it goes on, is the same with
and without Slurm. Of what only a step that has run can show (its folder is read by the next one) nothing is checked here.
"""

from __future__ import annotations

import json
import os
import shlex
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from expertchat.command.compose import load
from expertchat.command.launch import load_whole, without_secrets
from expertchat.command.overrides import mended
from expertchat.command.table import COMMANDS, find
from expertchat.config import ConfigError
from expertchat.folder.jsonl import read_json
from expertchat.folder.writing import replace
from expertchat.slurm.array import Array
from expertchat.slurm.checks import Checked, check_all, duration, work_of
from expertchat.slurm.config import ClusterConfig
from expertchat.slurm.queue import states
from expertchat.slurm.sbatch import submit
from expertchat.slurm.script import SUBMISSION, Script, afterok
from expertchat.slurm.submission import PRIVATE, write_files
from expertchat.studies.asked import Asked, asked
from expertchat.studies.going import State, left_of, marks_of, of_other_models, opened, standing
from expertchat.studies.written import Step
from expertchat.text.redaction import hide_words

CHAIN = Path(SUBMISSION) / "chain.json"
FLAGS = ("--dry-run", "--force")
LIGHT = {"gpus": 0, "gpu_type": None, "gpu_gib": None, "nodes": 1, "cpus": 2, "memory": "4G"}  # for steps that load no model
Show = Callable[[dict[str, Any]], None]


@dataclass
class Link:
    """One job of the chain. `after`: the links that it begins after; no steps: it writes the report alone."""

    name: str
    steps: tuple[Step, ...]
    after: tuple[str, ...]
    cluster: ClusterConfig
    place: Path  # the folder of its script
    checked: Checked = field(default_factory=Checked)
    seconds: float | None = None  # of work, where that is known
    last: bool = False
    array: Array | None = None
    job: str | None = None

    @property
    def script(self) -> Path:
        return self.place / f"job-{self.name}.sh"

    def left(self) -> list[int] | None:
        return None


def run_submit_study(arguments: Sequence[str], show: Show) -> int:
    """Check, write and submit the steps that are not done, show the chain. Returns 0; raises ConfigError with everything that is wrong."""
    arguments = without_secrets(arguments)
    flags = [word for word in arguments if word in FLAGS]
    ours = [word for word in arguments if word.startswith(("cluster=", "cluster."))]
    wanted = asked([word for word in arguments if word not in flags and word not in ours])  # a study's words have no grammar of Hydra's
    if wanted.only or wanted.lists:
        raise ConfigError("submit study: takes the whole study; --only and --list are of `expertchat study`")
    cluster: ClusterConfig = load("submit", [mended(word) for word in ours]).cluster
    place = Path(os.path.abspath(wanted.folder))
    links = _links(wanted, cluster, place / SUBMISSION)
    _check(wanted, links, place, "--force" in flags, "--dry-run" in flags)
    _write(wanted, links, place, ["expertchat", "submit", "study", *arguments])
    if "--dry-run" not in flags:
        _submit(wanted, links, place, arguments)
    show(_told(wanted, links))
    return 0


# -- what is a job of its own -------------------------------------------------------------------------------------------------


def _links(wanted: Asked, cluster: ClusterConfig, place: Path) -> list[Link]:
    """The jobs for the steps that are not done, in order; the last one writes the report. Without Slurm one job does all."""
    done = standing(wanted.folder, wanted.steps)
    left = [step for step in wanted.steps if step.name not in done]
    if cluster.scheduler == "local":
        return [Link(wanted.name, tuple(left), (), cluster, place, last=True)]
    groups: list[list[Step]] = []
    for step in left:
        alone = COMMANDS[step.command].jobs
        if alone or not groups or COMMANDS[groups[-1][0].command].jobs or _light([step]) != _light(groups[-1]):
            groups.append([])
        groups[-1].append(step)
    if not groups or not _light(groups[-1]):
        groups.append([])
    links: list[Link] = []
    of: dict[str, str] = {}
    for group in groups:
        name = group[0].name if group else "report"
        after = {of[read]: None for step in group for read in step.after if read in of and of[read] != name}
        of |= {step.name: name for step in group}
        asks = cluster.model_copy(update=LIGHT) if _light(group) else cluster
        links.append(Link(name, tuple(group), tuple(after), asks, place))
    read = {name for link in links for name in link.after}
    last = links[-1]
    last.last, last.after = True, tuple(dict.fromkeys([*last.after, *(link.name for link in links[:-1] if link.name not in read)]))
    return links


def _light(group: Sequence[Step]) -> bool:
    """Whether no step of it loads a model."""
    return all(COMMANDS[step.command].models is None for step in group)


# -- checks -----------------------------------------------------------------------------------------------------------------------


def _check(wanted: Asked, links: Sequence[Link], place: Path, force: bool, dry: bool) -> None:
    """Raise ConfigError for what would fail, each problem with its step; fill `checked` and `seconds`."""
    before = read_json(place / CHAIN) or {}
    alive = [job for job, seen in states([str(one.get("job")) for one in before.get("jobs") or () if one.get("job")]).items() if seen.alive]
    if alive:
        again = shlex.join(["expertchat", "study", *wanted.again, "--list"])
        raise ConfigError(f"run.dir: {place} is submitted already: job {', '.join(alive)} waits or runs; `{again}` shows what is done")
    steps, state = wanted.steps, State(wanted.folder)
    if problem := of_other_models(steps, marks := marks_of(steps), state, left_of(steps, marks, state)):
        raise ConfigError(problem)
    problems: dict[str, list[str]] = {}
    left = {step.name for link in links for step in link.steps}
    for link in links:
        for step in link.steps:
            found = _checked(step, link, left, place)
            link.seconds = None if found.seconds is None and link.seconds is None else (link.seconds or 0.0) + (found.seconds or 0.0)
            doubts = [] if force else [f"{doubt} (--force submits all the same)" for doubt in found.doubts]
            link.checked.known = link.checked.known or found.known
            if dry:  # it waits for nothing: what is not here yet is told
                link.checked.notes += [*found.notes, *(f"in the way: {problem}" for problem in [*found.problems, *doubts])]
                continue
            for problem in [*found.problems, *doubts]:
                problems.setdefault(problem, []).append(step.name)
            link.checked.notes += [*found.notes, *([f"in spite of: {doubt}" for doubt in found.doubts] if force else [])]
            link.checked.stage += [name for name in found.stage if name not in link.checked.stage]
    if problems:
        raise ConfigError([f"{_some(names)}: {problem}" for problem, names in problems.items()])


def _some(names: Sequence[str]) -> str:
    """ "a, b, c and 4 more"."""
    names = list(dict.fromkeys(names))
    return f"{', '.join(names[:3])}{f' and {len(names) - 3} more' if len(names) > 3 else ''}"


def _checked(step: Step, link: Link, left: set[str], place: Path) -> Checked:
    """What can be known of a step before it runs."""
    command = COMMANDS[step.command]
    if not command.jobs:  # a matter of minutes
        return Checked()
    words, reads = [mended(word) for word in step.words], [name for name in step.after if name in left]
    later = [f"is checked when it begins: it reads {_some(reads)}"] if reads else []
    try:
        if command.overrides is not None:
            words = find(command.overrides)(words)
        if reads:
            found = work_of(step.command, load(step.command, words), link.cluster, place)
            return Checked(seconds=found[0] if found else None, notes=later)
        config = load_whole(step.command, words, here=False)
    except ConfigError as error:
        if reads:
            return Checked(notes=later)
        raise ConfigError([f"{step.name}: {problem}" for problem in error.problems]) from None
    return check_all(step.command, config, link.cluster, 1, place)


# -- what is written and submitted ------------------------------------------------------------------------------------------------


def _write(wanted: Asked, links: Sequence[Link], place: Path, command_line: Sequence[str]) -> None:
    """The study's folder with a script for each job and a copy of the study's file. Raises ConfigError."""
    opened(wanted.name, wanted.size, place)
    file = f"{wanted.name}.yaml"
    try:
        text = wanted.file.read_text("utf-8")
    except OSError as error:
        raise ConfigError(f"{wanted.file}: cannot be read ({error.strerror})") from None
    scripts = {}
    for link in links:
        only = () if link.last else ("--only", ",".join(step.name for step in link.steps))
        words = (str(place / SUBMISSION / file), wanted.size, *wanted.words, f"run.dir={wanted.folder}", "view=plain", *only)
        scripts[link.script.name] = Script(
            command="study", command_line=list(command_line), folder=place, cluster=link.cluster, stage=link.checked.stage,
            models_dir=os.environ.get("EXPERTCHAT_MODELS"), words=words, name=f"{wanted.name}.{link.name}",
        ).text()  # fmt: skip
    scripts["submit.sh"] = _by_hand(links, place)
    write_files(place, {file: text}, scripts, command_line)
    _keep(wanted, links, place, command_line)


def _by_hand(links: Sequence[Link], place: Path) -> str:
    """The same for a login node where this program is not: bash that submits one script after the other."""
    lines = ["#!/bin/bash", "# Submits the chain, each job after those that it reads.", "set -euo pipefail",
             f"cd {shlex.quote(str(place / SUBMISSION))}"]  # fmt: skip
    numbers = {link.name: f"JOB{i}" for i, link in enumerate(links)}
    if links[0].cluster.scheduler == "local":
        return "\n".join([*lines, f"bash {shlex.quote(links[0].script.name)}", ""])
    for link in links:
        waits = " ".join(afterok([f"${numbers[name]}" for name in link.after]))
        lines.append(f"{numbers[link.name]}=$(sbatch --parsable {waits}{' ' if waits else ''}{shlex.quote(link.script.name)})")
    return "\n".join([*lines, f"echo submitted: {' '.join(f'${number}' for number in numbers.values())}", ""])


def _submit(wanted: Asked, links: Sequence[Link], place: Path, command_line: Sequence[str]) -> None:
    """Hand the scripts over, each told the jobs that it begins after. What was submitted before a refusal is told and kept."""
    jobs: dict[str, str] = {}
    for link in links:
        try:
            link.job = jobs[link.name] = submit(link, afterok([jobs[name] for name in link.after]))
        except ConfigError as error:
            begun = f"; jobs {' '.join(jobs.values())} are in the queue: scancel takes them back" if jobs else ""
            raise ConfigError(f"{link.name}: {error}{begun}") from None
        finally:
            _keep(wanted, links, place, command_line)


def _keep(wanted: Asked, links: Sequence[Link], place: Path, command_line: Sequence[str]) -> None:
    jobs = [{"link": link.name, "steps": [step.name for step in link.steps], "after": list(link.after), "job": link.job} for link in links]
    values = {"schema": 1, "study": wanted.name, "size": wanted.size, "command_line": hide_words(list(command_line)),
              "time": round(time.time(), 3), "jobs": jobs}  # fmt: skip
    replace(place / CHAIN, json.dumps(values, indent=1) + "\n", sync=True, mode=PRIVATE)


# -- what is said -----------------------------------------------------------------------------------------------------------------


def _told(wanted: Asked, links: Sequence[Link]) -> dict[str, Any]:
    """What the view shows."""
    rows: list[dict[str, Any]] = []
    for link in links:
        row = {
            "gpus": f"{link.cluster.gpus * link.cluster.nodes} x {link.cluster.gpu_type or 'GPU'}" if link.cluster.gpus else None,
            "time": duration(link.cluster.seconds),
            "work": "minutes" if _light(link.steps) else duration(link.seconds) if link.seconds is not None else None,
            "after": _some(link.after) if link.after else "",
        }
        names = [step.name for step in link.steps] + (["the report"] if link.last else [])
        alike = rows and row == {key: rows[-1][key] for key in row} and rows[-1]["of"] == [step.of for step in link.steps]
        if not alike:
            rows.append({**row, "of": [step.of for step in link.steps], "names": [], "jobs": []})
        rows[-1]["names"] += names
        rows[-1]["jobs"].append(link.job)
    notes: dict[str, list[str]] = {}
    for link in links:
        for note in link.checked.notes:
            said = f"its work is told {how}" if (how := link.checked.known) and f" of work {how}" in note else note
            notes.setdefault(said, []).append(link.name)
    submitted = any(link.job for link in links)
    return {
        "title": wanted.study.title,
        "jobs": rows,
        "submitted": submitted,
        "totals": _totals(links),
        "scripts": str(wanted.folder / SUBMISSION),
        "submit": None if submitted else f"bash {shlex.quote(str(wanted.folder / SUBMISSION / 'submit.sh'))}",
        "list": shlex.join(["expertchat", "study", *wanted.again, "--list"]),
        "notes": [f"{_some(names)}: {note}" for note, names in notes.items()],
    }


def _totals(links: Sequence[Link]) -> list[str]:
    """All of the work, and how long the longest way through the chain is."""
    unknown = [link.name for link in links if link.seconds is None and not _light(link.steps)]
    ends: dict[str, float] = {}
    for link in links:
        ends[link.name] = (link.seconds or 0.0) + max((ends[name] for name in link.after), default=0.0)
    work = sum(link.seconds or 0.0 for link in links)
    gpus = sum((link.seconds or 0.0) * link.cluster.gpus * link.cluster.nodes for link in links) / 3600
    if not work:
        return []
    but = f"; without {', '.join(unknown)}, of which nothing is known" if unknown else ""
    used = f", {gpus:.0f} GPU hours" if gpus else ""
    return [f"about {duration(work)} of work in all{used}; {duration(max(ends.values()))} where jobs that may run at once do{but}"]
