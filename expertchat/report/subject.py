"""What a report is about: runs, one by one or in folders, studies, and the files that `audit`, `arms` and `metrics` write."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from os.path import commonpath
from pathlib import Path
from typing import Any

from expertchat.config import ConfigError
from expertchat.folder.jsonl import read_json
from expertchat.folder.reader import FILES, RunReader
from expertchat.runs.seen import below

# What the JSON of other commands is known by.
WRITTEN = {"audit": {"judges", "left_out", "against"}, "arms": {"arms", "notes"}, "metrics": {"means", "together", "systems"},
           "tokens": {"about", "tokens"}}  # fmt: skip
STUDY, LOGS, OLD = "study.json", "logs", "superseded"
REMEDY = "leave this run out"
_TASK = re.compile(r"task-\d+")


def kept_steps(study: Path) -> dict[str, Mapping[str, Any]]:
    """What is kept of a study's steps that were begun (command, words, code, seconds), in the order in which they were. The studies of an
    earlier form kept all in study.json."""
    earlier = (read_json(study / STUDY) or {}).get("steps")
    found = dict(earlier) if isinstance(earlier, Mapping) else {}
    found |= {path.stem: read_json(path) for path in sorted((study / LOGS).glob("*.json"))}
    steps = {str(name): step for name, step in found.items() if isinstance(step, Mapping)}
    return dict(sorted(steps.items(), key=lambda one: float(one[1].get("began") or 0.0)))


@dataclass(frozen=True)
class Subject:
    """`runs`: all of them, each once, in the order of their folders; of an array that was merged, what it was merged into.

    `studies`: folders of studies, whose steps are among the runs where they are runs. `files`: JSON files of results, as they were read.
    """

    runs: Sequence[RunReader]
    studies: Sequence[Path] = ()
    files: dict[Path, dict[str, Any]] = field(default_factory=dict)

    @cached_property
    def names(self) -> dict[Path, str]:
        """What each run is called in the report, by its folder: as much of its path as tells it from the others."""
        folders = [run.folder.resolve() for run in self.runs]
        if len(folders) < 2:
            return {run.folder: folder.name for run, folder in zip(self.runs, folders, strict=True)}
        above = Path(commonpath(folders))
        return {run.folder: str(folder.relative_to(above)) for run, folder in zip(self.runs, folders, strict=True)}

    def name(self, run: RunReader) -> str:
        return self.names[run.folder]

    @cached_property
    def cards(self) -> dict[str, Mapping[str, Any]]:
        """The judges' cards by what they are called. Raises ConfigError."""
        from expertchat.report.cards import cards_of

        return cards_of({self.name(run): run for run in self.runs}, self.files)

    @property
    def trained(self) -> list[RunReader]:
        """The runs in which somebody learns, round by round."""
        return [run for run in self.runs if run.trains]


def subject_of(places: Sequence[Path]) -> Subject:
    """What stands at the places that were named. Raises ConfigError with every one at which there is nothing to report."""
    runs: dict[Path, RunReader] = {}
    studies: list[Path] = []
    files: dict[Path, dict[str, Any]] = {}
    problems = []
    for place in (place.expanduser() for place in places):
        if place.is_file():
            found = read_json(place)
            if found is None or not any(keys <= found.keys() for keys in WRITTEN.values()):
                problems.append(f"{place}: is no JSON file of results; name a run, a folder of runs, or what {', '.join(WRITTEN)} wrote")
            else:
                files[place] = found
            continue
        if not place.is_dir():
            problems.append(f"{place}: no such folder or file; name a run, a folder of runs, or a study's folder")
            continue
        study = (place / STUDY).is_file()
        studies += [place] if study else []
        inside = {run.folder.resolve(): run for run in _runs(place)}
        runs |= {key: run for key, run in inside.items() if key not in runs}
        if not inside and not study:
            problems.append(f"{place}: holds no run; name a run folder, or a folder of runs (expertchat runs {place} lists them)")
    if problems:
        raise ConfigError(problems)
    merged = {key.parent for key in runs if key.name == "merged"}  # of an array whose folder does not say that it is one
    kept = [run for key, run in runs.items() if not (key.parent in merged and _TASK.fullmatch(key.name))]
    return Subject(tuple(kept), tuple(studies), files)


def _runs(place: Path) -> Iterator[RunReader]:
    study = (place / STUDY).is_file()  # which its lock makes look like a run while it goes on
    inside = sorted(one for one in place.iterdir() if one.is_dir() and one.name != OLD) if study else [place]
    for group in (group for one in inside for group in below(one)):
        merged = [seen for seen in group if seen.run.folder.name == "merged"]
        for seen in merged if len(group) > 1 and merged else group:
            if seen.names and OLD not in seen.run.folder.relative_to(place).parts:
                yield RunReader(seen.run.folder, REMEDY)
    if not study and any((place / f"{name}.jsonl").is_file() for name in FILES):  # records that somebody wrote by a program of their own
        yield RunReader(place, REMEDY)
