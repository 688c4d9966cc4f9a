"""The files of a merged run: records in the order of the dialogues, or with a seed before every id, and events as of one run.

Files are read line by line; of those that are sorted, only the places of their lines are held.
"""

from __future__ import annotations

import heapq
import json
import os
import re
from array import array
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

from expertchat.config import ConfigError
from expertchat.evaluation.figures import Comparison
from expertchat.evaluation.histories import Held
from expertchat.events import RunStarted
from expertchat.folder.jsonl import read_lines
from expertchat.folder.reader import FILES
from expertchat.folder.store import EVENTS, prefixed


class Origin(NamedTuple):
    """A run folder, and what goes before the ids of its records."""

    folder: Path
    prefix: str = ""


class Told(NamedTuple):
    """An event as a line. What says the same `once` as an earlier one, of another part or start, is not said again."""

    time: float
    line: bytes
    once: str = ""


def names(origins: Sequence[Origin]) -> list[str]:
    """The files of records, and of a training run's evaluations."""
    found = {path.relative_to(one.folder).as_posix() for one in origins for path in one.folder.glob("evaluations/*.jsonl")}
    return sorted(found | {f"{name}.jsonl" for name in FILES for one in origins if (one.folder / f"{name}.jsonl").exists()})


def as_json(line: Mapping[str, Any]) -> bytes:
    """One line of a file."""
    return (json.dumps(line, ensure_ascii=False, separators=(",", ":")) + "\n").encode()


def _lines(path: Path) -> Iterator[tuple[bytes, dict[str, Any]]]:
    """Each whole line as it stands in the file, and what it says."""
    if path.exists():
        with open(path, "rb") as file:
            for (_, line), raw in zip(read_lines(path), file, strict=False):
                yield raw, line


# -- records ------------------------------------------------------------------------------------------------------------


def in_order(name: str, origins: Sequence[Origin]) -> Iterator[bytes]:
    """The lines of the parts of one run in the order of their dialogues, a dialogue's own as they were. Topics, which all parts have, and
    the answers in which models proposed them, once.

    Raises ConfigError for a record of something else than a dialogue.
    """
    import numpy

    paths = [one.folder / name for one in origins if (one.folder / name).exists()]
    index, source, start, size = array("q"), array("i"), array("q"), array("q")
    for number, path in enumerate(paths):
        at = 0
        for raw, line in _lines(path):
            index.append(_index(path, line))
            source.append(number)
            start.append(at)
            size.append(len(raw))
            at += len(raw)
    last, said = -1, set[str | None]()
    with ExitStack() as closing:
        files = [closing.enter_context(open(path, "rb")).fileno() for path in paths]
        for i in numpy.lexsort((numpy.asarray(start), numpy.asarray(source), numpy.asarray(index))):
            said = said if index[i] == last else set()
            last = index[i]
            raw = os.pread(files[source[i]], size[i], start[i])
            known = json.loads(raw).get("id") if name in ("topics.jsonl", "answers.jsonl") else None
            if known is None or known not in said:
                yield raw
            said.add(known)


def _index(path: Path, line: Mapping[str, Any]) -> int:
    """Which dialogue a record belongs to."""
    name = str(line.get("transcript", line.get("id")))
    if not re.fullmatch(r"c\d{4,}", name):
        raise ConfigError(f"{path}: a record belongs to {name!r}, which is no dialogue of a run; leave this run out")
    return int(name[1:])


def one_after_another(name: str, origins: Sequence[Origin]) -> Iterator[bytes]:
    """The lines of the runs, with each run's prefix before its ids. Raises ConfigError for a file whose ids are not known."""
    stem = Path(name).stem
    model = FILES.get(stem) if "/" not in name else Held if stem.startswith("base-") else Comparison
    for one in origins:
        for _, line in _lines(one.folder / name):
            if model is None:
                raise ConfigError(f"{one.folder / name}: is no file of this version's runs, so its ids are not known; move it away")
            yield as_json(prefixed(model, line, one.prefix))


# -- events -------------------------------------------------------------------------------------------------------------


def events(origins: Sequence[Origin], begin: Mapping[str, Any], rounds: bool) -> Iterator[Told]:
    """The events of the runs without their ends. `begin`: what the beginning says of the merged run.

    Dialogues are told as they happened, side by side, as of one run. `rounds`: training runs are told one after another, for nobody could
    tell their rounds apart.
    """
    streams = [_events(one, begin if rounds else None) for one in origins]
    said: set[str] = set()
    if not rounds:
        every = [_lines(one.folder / "events.jsonl") for one in origins]
        starts = [line for lines in every if (line := next((line for _, line in lines if line.get("kind") == "run_started"), None))]
        if starts:
            yield _started(min(starts, key=_time), begin)
    for told in (one for stream in streams for one in stream) if rounds else heapq.merge(*streams, key=lambda one: one.time):
        if told.once not in said:
            yield told
        if told.once:
            said.add(told.once)


def _time(line: Mapping[str, Any]) -> float:
    return float(line.get("time", 0.0))


def _started(line: Mapping[str, Any], begin: Mapping[str, Any]) -> Told:
    """The beginning of the merged run, from that of one of its runs."""
    kept = {name: line.get(name, 0) for name in ("time", "command", "turns", "rounds")}
    return Told(_time(line), as_json(RunStarted(**kept, **begin).model_dump(mode="json")))


def _events(origin: Origin, begin: Mapping[str, Any] | None) -> Iterator[Told]:
    """All starts of a run as one. `begin`: what its beginning says; None: it is not told."""
    for raw, line in _lines(origin.folder / "events.jsonl"):
        kind, time = str(line.get("kind")), _time(line)
        if kind == "run_started" and begin is not None:
            yield _started(line, begin)
            begin = None
        elif kind not in ("run_started", "run_finished") and kind in EVENTS:
            once = as_json({**line, "time": 0, "seconds": 0}).decode() if kind in ("note", "loading") else ""
            yield Told(time, as_json(prefixed(EVENTS[kind], line, origin.prefix)) if origin.prefix else raw, once)
