"""Rows that a model is taught, out of whatever holds some: text lines, tables, JSON Lines, a run's best dialogues."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from pathlib import Path

from expertchat.config import ConfigError
from expertchat.folder.reader import RunReader
from expertchat.records import Demonstration
from expertchat.sources.best_of_run import best_of_run
from expertchat.sources.config import SourceConfig
from expertchat.sources.encoding import Say
from expertchat.sources.instructions import find_template, read_lines_of
from expertchat.sources.rows import HUB, TABLES, is_table, read_table
from expertchat.sources.runs import is_run
from expertchat.sources.taught_tables import Part, taught_rows
from expertchat.sources.teaching import DataConfig
from expertchat.sources.wording import Wording
from expertchat.text.likeness import units

NEAR = 0.9  # share of their words, in the same order, from which two rows are nearly the same
MOST_COMPARED = 2_000_000  # pairs of rows that are compared for likeness


def read_demonstrations(config: DataConfig, seed: int, say: Say = lambda text: None) -> list[Demonstration]:
    """All rows, each with the part that it is for. `say` is told which choices were made. Raises ConfigError with all that is wrong."""
    if problems := place_problems(config):
        raise ConfigError(problems)
    wording = Wording(find_template(config.template), config)
    found, problems = list[Demonstration](), list[str]()
    for path, held_out in [*((path, False) for path in config.path), *([(config.evaluation, True)] if config.evaluation else [])]:
        key = "data.evaluation" if held_out else "data.path"
        try:
            rows = _read(path, config, wording, say)
        except ConfigError as error:
            problems += [problem.replace("source.path", key).replace("source.encoding", "data.encoding") for problem in error.problems]
            continue
        if held_out:
            rows = [row.model_copy(update={"part": "evaluation"}) for row in rows]
        found += rows
    if problems:
        raise ConfigError(list(dict.fromkeys(problems)))
    return parted(_limited(_numbered(found), config.limit, seed), config, seed)


def place_problems(config: DataConfig) -> list[str]:
    """What is wrong with the names of files, without reading what they hold."""
    if not config.path:
        return ["data.path: names nothing; name a file of rows or a run: data=FILE"]
    found = []
    files = [("data.path", path) for path in config.path]
    for key, path in [*files, ("data.evaluation", config.evaluation)] if config.evaluation else files:
        place = Path(path).expanduser()
        if path.startswith(HUB):
            continue
        if not place.exists():
            found.append(f"{key}={path}: no such file or folder; correct the path")
        elif place.is_dir() and not is_table(place) and not is_run(place):
            found.append(f"{key}={path}: is no run folder, and none that `datasets` saved; name a run, a table or a text file")
    return found


def _read(path: str, config: DataConfig, wording: Wording, say: Say) -> list[Demonstration]:
    place = Path(path).expanduser()
    if path.startswith(HUB) or is_table(place):
        source = SourceConfig(path=[path], encoding=config.encoding, split=config.split)
        return taught_rows(read_table(path, source, say), config, wording, say)
    if place.is_dir():
        return best_of_run(RunReader(place, "name another source"), config.best, say)
    if place.suffix.lower() in (".doc", ".docx", ".xls", ".xlsx", ".pdf"):
        raise ConfigError(f"data.path={path}: is no text; name a text file, or a table that ends in {', '.join(TABLES)}")
    lines = read_lines_of(place)
    return [
        wording.row(f"l{line.number:05d}", line.instruction, "", line.answer, part="evaluation" if line.held_out else None,
                    source=f"{place.name}:{line.number}", ends="\n")
        for line in lines
    ]  # fmt: skip


def _numbered(rows: Sequence[Demonstration]) -> list[Demonstration]:
    """Rows with ids of their own: those that several files use are counted through."""
    counts = Counter(row.id for row in rows)
    seen: Counter[str] = Counter()
    found = []
    for row in rows:
        seen[row.id] += 1
        found.append(row.model_copy(update={"id": f"{row.id}-{seen[row.id]}"}) if counts[row.id] > 1 else row)
    return found


# -- what is held out -------------------------------------------------------------------------------------------------------


def parted(rows: Sequence[Demonstration], config: DataConfig, seed: int) -> list[Demonstration]:
    """The rows with their parts: as they say, else a share of their groups is held out, at least one where there are two; and of what is
    left those by which the best round is chosen.

    Raises ConfigError where nothing is left to train on.
    """
    if rows and not any(row.part == "train" for row in rows):
        raise ConfigError("data.path: all rows are held out, and none is left to train on; see `part`, or the comment with _EVAL_")
    found = list(rows)
    if not any(row.part == "evaluation" for row in rows):
        found = _drawn(found, "evaluation", config.share, f"{seed} ")
    if not any(row.part == "choosing" for row in rows):
        found = _drawn(found, "choosing", config.choose, f"{seed} choosing ")
        if config.choose and not any(row.part == "choosing" for row in found):
            raise ConfigError(f"data.choose={config.choose:g}: the rows to train on are of one group, which cannot be parted; set it to 0")
    return found


def _drawn(rows: list[Demonstration], part: Part, share: float, salt: str) -> list[Demonstration]:
    """The rows, a share of the groups to train on in another part: one group at least where there are two, and never all."""
    groups = list(dict.fromkeys(row.group or row.id for row in rows if row.part == "train"))
    count = min(max(1, round(share * len(groups))), len(groups) - 1) if share else 0
    order = sorted(groups, key=lambda group: hashlib.sha256(f"{salt}{group}".encode("utf-8", "replace")).digest())
    drawn = set(order[: max(0, count)])
    taken = [row.part == "train" and (row.group or row.id) in drawn for row in rows]
    return [row.model_copy(update={"part": part}) if now else row for row, now in zip(rows, taken, strict=True)]


def _limited(rows: list[Demonstration], limit: int | None, seed: int) -> list[Demonstration]:
    """At most `limit` rows, drawn by the seed, in the order that they had."""
    if limit is None or len(rows) <= limit:
        return rows
    ranked = sorted(rows, key=lambda row: hashlib.sha256(f"{seed} row {row.id}".encode("utf-8", "replace")).digest())
    chosen = {row.id for row in ranked[:limit]}
    return [row for row in rows if row.id in chosen]


@dataclass
class Shared:
    """Rows that stand in both parts: ids of held-out rows with the trained one. `looked`: whether all were compared for likeness."""

    same: list[tuple[str, str]] = field(default_factory=list)
    near: list[tuple[str, str]] = field(default_factory=list)
    answers: int = 0  # held-out rows whose answer alone is one that is trained
    looked: bool = True

    def told(self) -> Iterator[str]:
        """What is to be said of them."""
        if self.same:
            yield f"{_pairs(self.same)} held out and trained alike: what is measured on them was learnt by heart"
        if self.near:
            yield f"{_pairs(self.near)} held out and trained in nearly the same words ({NEAR:.0%} of them or more)"
        if self.answers:
            yield f"{self.answers} more held-out rows have an answer that is trained after another prompt"
        if not self.looked:
            yield "there are too many rows to compare all of them in their words: only equal ones were looked for"


def _pairs(found: Sequence[tuple[str, str]]) -> str:
    shown = ", ".join(f"{one} = {two}" for one, two in found[:3]) + (", ..." if len(found) > 3 else "")
    return f"{len(found)} row{'s are' if len(found) > 1 else ' is'} ({shown})"


def shared(rows: Sequence[Demonstration]) -> Shared:
    """What train and evaluation share: the same row whatever its case and spaces, and nearly the same words."""
    found = Shared()
    trained = [(row, *_text(row)) for row in rows if row.part == "train"]
    held = [(row, *_text(row)) for row in rows if row.part == "evaluation"]
    exact = {units(prompt + " " + answer): row.id for row, prompt, answer in trained}
    answers = {units(answer) for _, _, answer in trained if len(units(answer)) > 2}
    left = []
    for row, prompt, answer in held:
        whole = units(prompt + " " + answer)
        if whole in exact:
            found.same.append((row.id, exact[whole]))
            continue
        left.append((row, prompt, answer))
    found.looked = len(left) * len(trained) <= MOST_COMPARED
    known = [(row.id, units(prompt), units(answer)) for row, prompt, answer in trained]
    for row, prompt, answer in left if found.looked else ():
        mine = units(prompt), units(answer)
        other = next((name for name, *its in known if all(map(_near, mine, its))), None)
        if other is not None:
            found.near.append((row.id, other))
        found.answers += other is None and mine[1] in answers
    return found


def _near(one: Sequence[str], other: Sequence[str]) -> bool:
    """Whether most words of two texts are the same, in the same order."""
    if one == other:
        return True
    if 2 * (Counter(one) & Counter(other)).total() < NEAR * (len(one) + len(other)):  # quickly said of nearly all
        return False
    return SequenceMatcher(None, one, other, autojunk=False).ratio() >= NEAR


def _text(row: Demonstration) -> tuple[str, str]:
    """Prompt and answer of a row as texts."""
    return " ".join(message["content"] for message in row.prompt), " ".join(message["content"] for message in row.completion)
