"""From SOURCE words to evidence: folders of `expertchat judge`, runs with ratings, and what people said of the same items."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from expertchat.audit.config import AuditConfig
from expertchat.audit.evidence import REMEDY, Evidence, read_folder
from expertchat.config import ConfigError
from expertchat.folder.reader import RunReader
from expertchat.lab.judge import opinion_id
from expertchat.lab.recorded import model_of, said_in
from expertchat.labels.opinions import opinions_of
from expertchat.labels.store import label_files, read_labels
from expertchat.records import Item, JudgeRef, Opinion
from expertchat.sources.config import SourceConfig
from expertchat.sources.read import read_items

NOBODY = "nobody has judged it; judge it with expertchat judge, or name what people said of it with labels=[FOLDER]"


def read(config: AuditConfig) -> Evidence:
    """All that is to be audited. Raises ConfigError with everything that is wrong with it."""
    evidence, problems = Evidence(), []
    for path in config.source.path:
        try:
            items, judges, opinions = _read(path, config.source)
            if not opinions and not config.labels and not (Path(path).expanduser() / "opinions.jsonl").exists():
                problems.append(f"{path}: {NOBODY}")
            else:
                problems += evidence.add(path, items, judges, opinions, judged=not config.labels)
        except ConfigError as error:
            problems += error.problems
    for path in config.labels if not problems else ():
        try:
            problems += _add_people(evidence, path)
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(problems)
    return evidence


def _read(path: str, config: SourceConfig) -> tuple[list[Item], list[JudgeRef], list[Opinion]]:
    place = Path(path).expanduser()
    if ((place / "opinions.jsonl").exists() or (place / "items.jsonl").exists()) and not RunReader(place).chooses:
        return read_folder(place)
    items = read_items(config.model_copy(update={"path": [path]}))
    return (items, *_recorded(RunReader(place, REMEDY), items)) if place.is_dir() else (items, [], [])


def _recorded(run: RunReader, items: Sequence[Item]) -> tuple[list[JudgeRef], list[Opinion]]:
    """What the judges of a run have said of its items."""
    found: dict[str, Opinion] = {}
    names: list[str] = []
    for item, said in said_in(run, items).items():
        for judge, one in said:
            name = opinion_id(item, judge, one.category, one.place, one.order, one.repeat)
            found.setdefault(name, one.model_copy(update={"id": name, "judge": judge}))
            names.append(judge)
    return [JudgeRef(id=name, form="recorded", model=model_of(run, name)) for name in dict.fromkeys(names)], list(found.values())


def _add_people(evidence: Evidence, path: str) -> list[str]:
    """Take in what people said; returns what is wrong with it."""
    place = Path(path).expanduser()
    items = [item.model_copy(update={"id": key[1]}) for key, item in evidence.items.items()]
    if not any(file.is_file() for file in label_files(place)):
        return [f"labels={path}: holds no labels.jsonl; name the folder that expertchat label wrote, or a file of it"]
    labels = read_labels(place, items)
    heard = 0
    for source in sorted({item.source for item in items}):
        own = [
            label.model_copy(update={"item": label.item.removeprefix(f"{source[:8]}/")}) for label in labels if label.source == source
        ]
        judges, opinions = opinions_of(own, of_source := [item for item in items if item.source == source])
        if any(one.answered for one in opinions):
            heard += 1
            if problems := evidence.add(path, of_source, judges, opinions):
                return problems
    return [] if heard else [f"labels={path}: nobody has answered anything about these items; leave it out"]
