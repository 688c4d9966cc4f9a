"""`expertchat merge_runs RUN [RUN ...]`: the tasks of an array, or runs that differ in their seeds, as one run folder.

Parts of one run (conversation.part) give the folder that one run over all of them would have written, its records in the order of the
dialogues. Runs with a seed each are put one after another, and every id gets its seed before it ("s1/c0003"), so that nothing collides.
The folder is written under another name and renamed: it is there whole or not at all. One merge into a folder at a time.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from expertchat.config import ConfigError
from expertchat.events import Note, RunFinished
from expertchat.folder.embedded import KEY, begun_with
from expertchat.folder.jsonl import as_number
from expertchat.folder.provenance import provenance
from expertchat.folder.reader import RunReader, is_failed
from expertchat.folder.run_folder import differences
from expertchat.folder.served import figures as served
from expertchat.folder.submission import read_submission
from expertchat.folder.summary import seconds_of, summarise
from expertchat.folder.writing import replace
from expertchat.judging.guessing import turing_of
from expertchat.records import finite
from expertchat.runs.arms import arms
from expertchat.runs.merged import Origin, as_json, events, in_order, names, one_after_another
from expertchat.text.redaction import hide_in
from expertchat.text.sentences import as_yaml

Kind = Literal["parts", "seeds"]
SHOWN = 3  # differing keys
NOT_BEGUN = "has not begun"
NO_SOURCE = "is no single run of converse or a training command; leave it out"


class Source(RunReader):
    """A run that is merged."""

    @property
    def part(self) -> tuple[int, int] | None:
        part = self.config.get("conversation", {}).get("part")
        return (int(part[0]), int(part[1])) if part else None

    @property
    def own_seed(self) -> int:
        """Its seed: whatever is merged has one."""
        return self.seed or 0

    def so_far(self) -> str:
        """How much of an unfinished run there is."""
        if self.trains:
            return f"{self.last_round} of {self.rounds} rounds"
        i, n = self.part or (0, 1)
        mine = len(range(i, self.config["conversation"]["count"], n))
        return f"{sum(1 for _ in self.lines('transcripts'))} of {mine} dialogues"

    def seconds(self) -> float:
        """Its time at work."""
        return as_number(self.summary.get("seconds")) or seconds_of(self.folder)


@dataclass
class Merged:
    """What was merged. `lacking`: what is not in it though it belongs there."""

    out: Path
    kind: Kind
    sources: Sequence[Source]
    summary: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    lacking: list[str] = field(default_factory=list)

    def values(self) -> dict[str, Any]:
        """As plain values."""
        return {
            "out": str(self.out),
            "kind": self.kind,
            "sources": [str(one.folder) for one in self.sources],
            "summary": self.summary,
            "notes": self.notes,
            "lacking": self.lacking,
        }


def run_merge_runs(arguments: Sequence[str], show: Callable[[Mapping[str, Any]], None]) -> int:
    """Merge and show what came of it. Raises ConfigError."""
    import argparse

    about = "The tasks of an array, or runs that differ in their seeds, as one run."
    parser = argparse.ArgumentParser("expertchat merge_runs", description=about)
    parser.add_argument("run", type=Path, nargs="+", metavar="RUN", help="a run folder, or the folder of an array (RUN/task-0, ...)")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="the merged run (default for an array: RUN/merged)")
    parser.add_argument("--partial", action="store_true", help="merge what there is, though tasks are lacking or not finished")
    options = parser.parse_args(list(arguments))
    merged = merge_runs(options.run, options.out, options.partial, ["expertchat", "merge_runs", *arguments])
    show(merged.values())
    return 0


def merge_runs(folders: Sequence[Path], out: Path | None, partial: bool = False, command_line: Sequence[str] = ()) -> Merged:
    """The runs in `folders` as one in `out`. Raises ConfigError with everything that is wrong."""
    problems: list[str] = []
    lacking: list[str] = []
    sources = _sources(folders, problems, lacking)
    lacking += [f"{one.folder}: is not finished ({one.so_far()})" for one in sources if not one.done]
    problems += [f"{one.folder}: failed ({one.failure}); leave it out" for one in sources if one.trains and one.failure is not None]
    kind = _kind(sources, problems)
    sources = _ordered(sources, kind, problems, lacking)
    out = _out(folders, out, problems)
    if not partial:
        problems += [f"{text}; let it run to its end, or merge what there is with --partial" for text in lacking]
    if out is not None and sources and not problems:
        config = _config(sources, kind, out)
        problems += _unwelcome(out, config)
    if problems or out is None:
        raise ConfigError(problems)
    merged = Merged(out, kind, sources, lacking=lacking, notes=_apart(sources))
    try:
        _write(merged, config, command_line)
    except OSError as error:
        raise ConfigError(f"--out {out}: cannot be written ({error.strerror or error}); name another folder") from None
    finally:
        shutil.rmtree(_work(out), ignore_errors=True)
    return merged


# -- what is merged -----------------------------------------------------------------------------------------------------


def _sources(folders: Sequence[Path], problems: list[str], lacking: list[str]) -> list[Source]:
    """The runs named, and those of the arrays named; each once."""
    found: dict[Path, Source] = {}
    for folder in folders:
        place = folder.expanduser()
        runs = [place] if RunReader(place).begun else _tasks(place)
        if not place.is_dir():
            problems.append(f"{folder}: no such folder; name a run, or the folder of an array")
        elif not runs:
            problems.append(f"{folder}: is no run and holds no run of an array (task-0, task-1, ...); name the run folders")
        else:
            begun = [one for run in runs if (one := Source(run)).begun]
            there = {one.folder for one in begun}
            lacking += [f"{folder}: task {n} {NOT_BEGUN}" for n in range(_wanted(place)) if place / f"task-{n}" not in there]
            for one in begun:
                if one.folder.resolve() in found:
                    problems.append(f"{one.folder}: is named twice; name it once")
                elif problem := _no_source(one):
                    problems.append(problem)
                else:
                    found[one.folder.resolve()] = one
    if not found and not problems:
        problems.append("none of the tasks has begun: there is nothing to merge yet")
    return list(found.values())


def _tasks(folder: Path) -> list[Path]:
    found = [path for path in folder.glob("task-*") if re.fullmatch(r"task-\d+", path.name)]
    return sorted(found, key=lambda path: int(path.name[5:]))


def _wanted(folder: Path) -> int:
    """How many tasks were submitted; 0 where that is not known."""
    submission = read_submission(folder)
    return (submission.tasks or 0) if submission is not None else 0


def _no_source(run: Source) -> str:
    """Why a run cannot be merged, whatever it were merged with."""
    try:
        return "" if "conversation" in run.config and run.seed is not None else f"{run.folder}: {NO_SOURCE}"
    except ConfigError as error:
        return str(error)


def _kind(sources: Sequence[Source], problems: list[str]) -> Kind:
    """What the runs are to each other, with a problem for each that does not belong to the first."""
    parts = [one for one in sources if one.part is not None]
    if parts and len(parts) < len(sources):
        whole = next(one for one in sources if one.part is None)
        problems.append(f"{whole.folder} is a whole run, {parts[0].folder} a part of one: merge parts with parts alone")
    kind: Kind = "parts" if parts else "seeds"
    free = "conversation.part" if kind == "parts" else "run.seed"
    for one in sources[1:]:
        lines = [line for line in differences(sources[0].config, one.config) if line.partition(": was ")[0] != free]
        was, now = (begun_with(run.folder, run.config) for run in (sources[0], one))
        lines += [f"embedded models: was {was!r}, is {now!r}"] if was != now else []
        if lines and (one.part is None) == (sources[0].part is None):
            shown = "; ".join(lines[:SHOWN]) + ("; ..." if len(lines) > SHOWN else "")
            problems.append(f"{one.folder}: is a run of another config than {sources[0].folder} ({shown}); leave one of them out")
    return kind


def _ordered(sources: Sequence[Source], kind: Kind, problems: list[str], lacking: list[str]) -> list[Source]:
    """By part or seed. What is there twice is a problem; parts that are not there are noted as lacking."""
    by: dict[int, Source] = {}
    for one in sources:
        number = one.own_seed if kind == "seeds" else one.part[0] if one.part else -1
        if number in by:
            what = f"run.seed={number}" if kind == "seeds" else f"conversation.part={list(one.part or ())}"
            problems.append(f"{by[number].folder} and {one.folder} both have {what}; leave one of them out")
        by.setdefault(number, one)
    if kind == "seeds" and len(sources) == 1:
        problems.append(f"{sources[0].folder}: one whole run has nothing to be merged with; name another one")
    if kind == "parts" and len({one.part[1] for one in sources if one.part}) > 1:
        said = ", ".join(f"{one.folder} is {list(one.part or ())}" for one in sources)
        problems.append(f"the runs are not parts of one same run: {said}")
    elif kind == "parts" and not any(text.endswith(NOT_BEGUN) for text in lacking):  # else its part need not be named again
        n = next(one.part[1] for one in sources if one.part)
        lacking += [f"part {i} of {n} (conversation.part=[{i},{n}]) is not among the runs" for i in range(n) if i not in by]
    return [by[number] for number in sorted(by)]


def _apart(sources: Sequence[Source]) -> list[str]:
    """What else the runs differ in."""
    notes = []
    told = [one.provenance for one in sources]
    commits = {json.dumps(one.get("git"), sort_keys=True) for one in told}
    if len(commits) > 1:
        names = sorted({str((one.get("git") or {}).get("commit", "none"))[:7] for one in told})
        notes.append(f"the runs were made by different states of the program ({', '.join(names)}); see provenance.json")
    packages = [one.get("packages") or {} for one in told]
    if changed := sorted({name for one in packages for name in one if one[name] != packages[0].get(name)}):
        notes.append(f"the runs were made with different versions of {', '.join(changed)}; see their provenance.json")
    return notes


# -- where it goes ------------------------------------------------------------------------------------------------------


def _out(folders: Sequence[Path], out: Path | None, problems: list[str]) -> Path | None:
    if out is not None:
        return out.expanduser()
    if len(folders) == 1 and not RunReader(folders[0].expanduser()).begun:
        return folders[0].expanduser() / "merged"
    problems.append("--out FOLDER is lacking: say where the merged run goes")
    return None


def _config(sources: Sequence[Source], kind: Kind, out: Path) -> dict[str, Any]:
    """The config of the merged run. One of several seeds is no run that could be gone on with, so it has no run.seed."""
    config: dict[str, Any] = dict(sources[0].config)
    run = {**config["run"], "dir": str(out)}
    if kind == "parts":
        return {**config, "run": run, "conversation": {**config["conversation"], "part": None}}
    del run["seed"]
    return {**config, "run": {**run, "seeds": [one.own_seed for one in sources]}}


def _unwelcome(out: Path, config: Mapping[str, Any]) -> list[str]:
    """Why `out` cannot be replaced: it is something else than an earlier merge of the same run (of fewer seeds, it may be)."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return []
    said, earlier = "", RunReader(out)
    if "merged" in earlier.provenance:
        try:
            lines = [line for line in differences(earlier.config, config) if line.partition(": was ")[0] != "run.seeds"]
        except ConfigError:
            lines = ["its config.yaml cannot be read"]
        if not lines:
            return []
        said = f" ({'; '.join(lines[:SHOWN])})"
    return [f"{out}: is there already and no earlier merge of these runs{said}; name another folder with --out, or remove it"]


# -- writing ------------------------------------------------------------------------------------------------------------


def _write(merged: Merged, config: Mapping[str, Any], command_line: Sequence[str]) -> None:
    """Everything under another name, summary.json last of all, then renamed."""
    out, work = merged.out, _work(merged.out)
    old = out.with_name(f".{out.name}.old")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    told = {**provenance(list(command_line)), "merged": {"kind": merged.kind, "sources": [_origin(one) for one in merged.sources]}}
    told |= {KEY: models} if (models := begun_with(merged.sources[0].folder, config)) else {}
    replace(work / "provenance.json", json.dumps(hide_in(told), indent=2) + "\n", mode=0o600)
    replace(work / "config.yaml", as_yaml(config))
    origins = [Origin(one.folder, f"s{one.own_seed}/" if merged.kind == "seeds" else "") for one in merged.sources]
    for name in names(origins):
        (work / name).parent.mkdir(exist_ok=True)
        with open(work / name, "wb") as file:
            file.writelines(in_order(name, origins) if merged.kind == "parts" else one_after_another(name, origins))
            file.flush()
            os.fsync(file.fileno())
    _write_events(merged, origins, work)
    text = json.dumps(finite(merged.summary), indent=2, ensure_ascii=False, allow_nan=False)
    replace(work / "summary.json", text + "\n", sync=True)
    shutil.rmtree(old, ignore_errors=True)
    if out.exists():
        os.rename(out, old)
    os.rename(work, out)
    shutil.rmtree(old, ignore_errors=True)


def _work(out: Path) -> Path:
    return out.with_name(f".{out.name}.new")


def _write_events(merged: Merged, origins: Sequence[Origin], work: Path) -> None:
    """events.jsonl as of one run, and the summary, which its last event tells."""
    training, time = merged.sources[0].trains, 0.0
    begin = {"folder": str(merged.out), "conversations": _conversations(merged)}
    with open(work / "events.jsonl", "wb") as file:
        for told in events(origins, begin, training):
            file.write(told.line)
            time = max(time, told.time)
        file.writelines(as_json(Note(time=time, text=text, level="warning").model_dump(mode="json")) for text in merged.notes)
        file.flush()
        merged.summary = _training_summary(merged, work) if training else _summary(merged, work)
        merged.summary |= served(*(one.folder for one in merged.sources))
        reason = f"merged with --partial: {'; '.join(merged.lacking)}" if merged.lacking else None
        failed = is_failed(merged.summary)
        reason = str(merged.summary["reason"]) if failed else reason
        end = RunFinished(time=time, status="failed" if failed else "done", reason=reason, summary=merged.summary)
        file.write(as_json(end.model_dump(mode="json")))
        file.flush()
        os.fsync(file.fileno())


def _conversations(merged: Merged) -> int:
    """Dialogues of the whole run; of a training run those of a round."""
    count = int(merged.sources[0].config["conversation"]["count"])
    return count if merged.kind == "parts" or merged.sources[0].trains else count * len(merged.sources)


def _origin(source: Source) -> dict[str, Any]:
    """What provenance.json says of a run."""
    told = source.provenance
    kept = {name: told.get(name) for name in ("git", "slurm", "host", "date", "command_line")}
    return {"folder": str(source.folder.resolve()), "part": source.part, "seed": source.seed, "done": source.done, **kept}


def _summary(merged: Merged, work: Path) -> dict[str, Any]:
    """Counted from the merged files; the times of the runs are added up."""
    summary = summarise(work) | turing_of(RunReader(work))
    seconds = sum(one.seconds() for one in merged.sources)
    summary |= {
        "seconds": round(seconds, 2),
        "turns_per_second": round(summary["turns"] / seconds, 3) if seconds else None,
        "tokens_per_second": round(summary["tokens"] / seconds, 1) if seconds else None,
    }
    if merged.kind == "seeds":
        summary["seeds"] = [one.own_seed for one in merged.sources]
    return summary | ({"partial": merged.lacking} if merged.lacking else {})


def _training_summary(merged: Merged, work: Path) -> dict[str, Any]:
    """The seeds pooled as one arm."""
    table = arms([one.folder for one in merged.sources])
    rows = {row["learner"]: row for row in table.rows}
    rounds = [one.figures for one in RunReader(work).metrics() if one.kind == "round"]
    made = "groups" if any("groups" in figures for figures in rounds) else "pairs"
    summary = {
        "schema": 1,
        "seeds": [one.own_seed for one in merged.sources],
        "rounds": min(row["rounds"] for row in table.rows),
        "learner": merged.sources[0].config["learner"],
        made: sum(int(as_number(figures.get(made))) for figures in rounds),
        "seconds": round(sum(one.seconds() for one in merged.sources), 1),
        "evaluation": next(iter(rows.values())),
        "evaluations": rows,
        "notes": table.notes,
    }
    return summary | ({"partial": merged.lacking} if merged.lacking else {})
