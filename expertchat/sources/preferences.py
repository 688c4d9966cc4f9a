"""Pairs and single judged replies, out of whatever holds some: TRL's forms, UltraFeedback's, what build_pairs and online_dpo write."""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

from expertchat.config import ConfigError, near
from expertchat.folder.jsonl import read_lines, read_records
from expertchat.folder.reader import RunReader
from expertchat.records import PreferencePair
from expertchat.records.learning import Preference
from expertchat.sources.config import SourceConfig
from expertchat.sources.encoding import Say, named
from expertchat.sources.preferring import PreferredConfig
from expertchat.sources.rows import HUB, Row, Table, is_chat, is_table, number_cell, read_table, texts_of
from expertchat.text.likeness import blank

PAIRS = "pairs.jsonl"
USUAL = {
    "prompt": ("prompt", "question", "instruction", "input", "query"),
    "chosen": ("chosen", "preferred", "accepted"),
    "rejected": ("rejected", "dispreferred", "refused"),
    "completion": ("completion", "response", "answer", "output"),
    "label": ("label", "desirable"),
    "score_chosen": ("score_chosen", "chosen_score", "chosen_rating"),
    "score_rejected": ("score_rejected", "rejected_score", "rejected_rating"),
    "group": ("group", "prompt_id"),
    "topic": ("topic",),
    "part": ("part",),
}
GOOD, BAD = ("true", "1", "1.0", "yes", "good", "desirable", "chosen"), ("false", "0", "0.0", "no", "bad", "undesirable", "rejected")
Chat = list[dict[str, str]]


class Unreadable(Exception):
    """What is wrong with a row, in words that count such rows together."""


def read_preferences(config: PreferredConfig, seed: int, say: Say = lambda text: None) -> list[Preference]:
    """All rows, each with the part that it is for. Raises ConfigError with everything that is wrong."""
    if problems := place_problems(config):
        raise ConfigError(problems)
    found, problems = list[Preference](), list[str]()
    for key, path in _places(config):
        try:
            rows = _read(path, config, say)
        except ConfigError as error:
            problems += [problem.replace("source.path", key).replace("source.", "data.") for problem in error.problems]
            continue
        found += [row.model_copy(update={"part": "evaluation"}) if key == "data.evaluation" else row for row in rows]
    if problems:
        raise ConfigError(list(dict.fromkeys(problems)))
    if config.min_margin is not None:
        found = _apart(found, config.min_margin, say)
    return parted(_limited(_numbered(found), config.limit, seed), config, seed)


def place_problems(config: PreferredConfig) -> list[str]:
    """What is wrong with the names of files, without reading what they hold."""
    if not config.path:
        return ["data.path: names nothing; name a file of pairs, or the folder of build_pairs: data=FILE"]
    found = []
    for key, path in _places(config):
        place = Path(path).expanduser()
        if path.startswith(HUB) or is_table(place):
            if not path.startswith(HUB) and not place.exists():
                found.append(f"{key}={path}: no such file or folder; correct the path")
        elif not place.exists():
            found.append(f"{key}={path}: no such file or folder; correct the path")
        elif not (place / PAIRS).is_file():
            found.append(f"{key}={path}: holds no {PAIRS}; name a file of pairs, or the folder of build_pairs or online_dpo")
    return found


def _places(config: PreferredConfig) -> list[tuple[str, str]]:
    """Each file with the key that names it."""
    held = [("data.evaluation", config.evaluation)] if config.evaluation else []
    return [*(("data.path", path) for path in config.path), *held]


def _read(path: str, config: PreferredConfig, say: Say) -> list[Preference]:
    place = Path(path).expanduser()
    if not path.startswith(HUB) and not is_table(place):
        pairs = list(RunReader(place, "build it again").pairs())
        if not pairs:
            raise ConfigError(f"source.path={path}: its {PAIRS} holds no pair; build pairs first: expertchat build_pairs")
        return _of_run(pairs, place)
    if not path.startswith(HUB) and _is_kept(place) and config.columns == type(config.columns)():
        return _of_run(list(read_records(place, PreferencePair, "build it again")), place.parent)
    table = read_table(path, SourceConfig(path=[path], encoding=config.encoding, split=config.split), say)
    return _Rows(table, config, say).preferences()


def _is_kept(place: Path) -> bool:
    """Whether a file has pairs as a run keeps them, which say more than a table of texts."""
    first = next((one for _, one in read_lines(place)), {}) if place.suffix == ".jsonl" and place.is_file() else {}
    return {"schema", "chosen", "rejected", "provenance"} <= first.keys()


def _of_run(pairs: Sequence[PreferencePair], folder: Path) -> list[Preference]:
    """Pairs as a run keeps them. What their dialogues were about stands in its transcripts."""
    kept = RunReader(folder).transcripts() if (folder / "transcripts.jsonl").is_file() else ()
    topics = {one.id: one.topic for one in kept}
    return [_preference(pair, folder.name, topics) for pair in pairs]


def _preference(pair: PreferencePair, source: str, topics: Mapping[str, str]) -> Preference:
    said = pair.provenance
    sides: tuple[str, str] = ("chosen", "rejected")
    dialogue = str(said.get("transcript") or "")
    topic = str(said.get("topic") or topics.get(dialogue, ""))
    return Preference(
        id=pair.id,
        prompt=pair.prompt,
        chosen=pair.chosen[-1]["content"],
        rejected=pair.rejected[-1]["content"],
        score_chosen=pair.score_chosen,
        score_rejected=pair.score_rejected,
        cut=[side for side in sides if said.get(f"cut_{side}")],  # type: ignore[misc]
        topic=topic,
        group=topic or dialogue,
        source=f"{source}:{pair.id}",
    )


class _Rows:
    """The rows of one table, and what is wrong with them, by kind."""

    def __init__(self, table: Table, config: PreferredConfig, say: Say) -> None:
        self.table, self.config, self.say = table, config, say
        self.columns = self._columns()

    def _columns(self) -> dict[str, str]:
        """The column of each key that has one. Raises ConfigError where the rows are neither pairs nor single replies."""
        wanted, there = self.config.columns, self.table.columns
        plain = {name.strip().casefold().replace(" ", "_"): name for name in reversed(there)}
        found, problems = dict[str, str](), list[str]()
        for key, names in USUAL.items():
            own = getattr(wanted, key)
            if own is not None and own not in there:
                problems.append(f"data.columns.{key}={own}: {self.table.name} has no such column{near(own, there)}")
            column = own if own is not None else next((plain[name] for name in names if name in plain), None)
            if column is not None:
                found[key] = column
        pair, single = {"chosen", "rejected"} <= found.keys(), {"completion", "label"} <= found.keys()
        if not problems and not pair and not single:
            problems.append(
                f"source.path: {self.table.name} holds neither pairs (chosen and rejected) nor single replies (completion and label); name "
                "the columns: data.columns.chosen=NAME data.columns.rejected=NAME"
            )
        if problems:
            shown = ", ".join(repr(one[:40]) for one in there[:30])
            raise ConfigError([f"{problem} (the columns are {shown})" for problem in problems])
        for key in ("completion", "label") if pair else ("chosen", "rejected"):
            found.pop(key, None)
        return found

    def preferences(self) -> list[Preference]:
        """The rows. Raises ConfigError with every row that is none, unless these may be skipped."""
        found, wrong = list[Preference](), defaultdict[str, list[int]](list)
        for row in self.table.rows:
            try:
                found.append(self._made(row))
            except Unreadable as error:
                wrong[str(error)].append(row.number)
        told = [f"{named(numbers, self.table.word)}: {kind}" for kind, numbers in wrong.items()]
        if told and (self.config.incomplete == "refuse" or not found):
            remedy = "fill in or remove these rows, or leave them out with data.incomplete=skip"
            raise ConfigError([f"source.path: {self.table.name}: {one}; {remedy}" for one in told])
        if told:
            left = sum(map(len, wrong.values()))
            self.say(f"{self.table.name}: {left} of {len(self.table.rows)} {self.table.word}s are left out ({'; '.join(told)})")
        return found

    def _made(self, row: Row) -> Preference:
        """One row. Raises Unreadable."""
        cells = {key: row.cells.get(column) for key, column in self.columns.items()}
        if "completion" in self.columns:
            texts, side = self._single(cells)
        else:
            texts, side = self._pair(cells), None
        prompt, rendered, replies = texts
        if side is None and replies[0] == replies[1]:
            raise Unreadable("chosen and rejected are the same")
        chosen, rejected = (replies[0], replies[1]) if side is None else (replies[0], None) if side == "chosen" else (None, replies[0])
        part, topic = str(cells.get("part") or "").casefold(), _plain(cells.get("topic"))
        asked = json.dumps(prompt, ensure_ascii=False) + (rendered or "")
        return Preference(
            id=f"{self.table.word[0]}{row.number:05d}",
            prompt=prompt,
            rendered=rendered,
            chosen=chosen,
            rejected=rejected,
            score_chosen=number_cell(cells.get("score_chosen")),
            score_rejected=number_cell(cells.get("score_rejected")),
            part="evaluation" if part in ("evaluation", "eval", "test", "validation") else "train",
            group=_plain(cells.get("group")) or topic or hashlib.sha256(asked.encode("utf-8", "replace")).hexdigest()[:12],
            topic=topic,
            source=f"{self.table.name}:{row.number}",
        )

    def _pair(self, cells: Mapping[str, Any]) -> tuple[Chat, str | None, list[str]]:
        sides = [cells.get("chosen"), cells.get("rejected")]
        for key, side in zip(("chosen", "rejected"), sides, strict=True):
            if side is None:
                raise Unreadable(f"{key} is empty")
        return self._taken(cells.get("prompt"), sides, ("chosen", "rejected"))

    def _single(self, cells: Mapping[str, Any]) -> tuple[tuple[Chat, str | None, list[str]], str]:
        label = str(cells.get("label")).strip().casefold()
        if label not in (*GOOD, *BAD):
            raise Unreadable("label is neither true nor false (1 or 0)")
        if cells.get("completion") is None:
            raise Unreadable("completion is empty")
        taken = self._taken(cells.get("prompt"), [cells.get("completion")], ("completion",))
        return taken, "chosen" if label in GOOD else "rejected"

    def _taken(self, prompt: Any, sides: Sequence[Any], names: Sequence[str]) -> tuple[Chat, str | None, list[str]]:
        """(prompt, it as a text where it stands as it is, the replies). Raises Unreadable."""
        chats = [is_chat(side) for side in sides]
        if any(chats) and not all(chats):
            raise Unreadable(f"{' and '.join(names)} are of two forms, a chat and a text")
        if not all(chats):
            return self._of_texts(prompt, [str(side) for side in sides], names)
        before, replies = list[Chat](), list[str]()
        own = _messages(prompt) if is_chat(prompt) else [{"role": "user", "content": str(prompt)}] if prompt is not None else None
        for side, name in zip(sides, names, strict=True):
            messages = _messages(side)
            if not messages or messages[-1]["role"] != "assistant" or blank(messages[-1]["content"]):
                raise Unreadable(f"{name} does not end with a reply of the assistant")
            rest = messages[:-1]
            if own is not None and rest and rest[-len(own) :] != own and [m for m in rest if m["role"] != "system"] != own:
                raise Unreadable(f"{name} holds more than one message, and they do not begin with the prompt")
            before.append(rest or own or [])
            replies.append(messages[-1]["content"])
        if any(one != before[0] for one in before):
            raise Unreadable(f"{' and '.join(names)} do not answer one same prompt")
        if not any(message["role"] == "user" and not blank(message["content"]) for message in before[0]):
            raise Unreadable("there is no prompt")
        return before[0], None, replies

    def _of_texts(self, prompt: Any, texts: list[str], names: Sequence[str]) -> tuple[Chat, str | None, list[str]]:
        """Of texts; where no prompt is told, it is what both begin with, up to a space (as TRL's extract_prompt has it)."""
        if is_chat(prompt):
            messages: Chat = _messages(prompt)
            rendered = None
        else:
            if prompt is None and len(texts) == 2:
                common = texts[0][: sum(1 for _ in takewhile(lambda both: both[0] == both[1], zip(*texts, strict=False)))]
                at = max(common.rfind(" "), common.rfind("\n"))
                prompt = common[: at + 1] if at >= 0 else None
                texts = [text[len(prompt or "") :] for text in texts]
            if prompt is None or blank(str(prompt)):
                raise Unreadable("there is no prompt")
            messages = [{"role": "user", "content": str(prompt)}]
            rendered = str(prompt) if self.config.template == "none" else None
        for name, text in zip(names, texts, strict=True):
            if blank(text):
                raise Unreadable(f"{name} is empty")
        return messages, rendered, texts if rendered is not None else [text.strip() for text in texts]


def _messages(value: Any) -> Chat:
    return [{"role": role, "content": text} for role, text in texts_of(value)]


def _plain(value: Any) -> str:
    return "" if value is None or isinstance(value, list | dict) else str(value)


# -- which of them, and what for ------------------------------------------------------------------------------------------


def _apart(rows: list[Preference], least: float, say: Say) -> list[Preference]:
    """The pairs whose scores are apart. Raises ConfigError where no pair has scores."""
    margins = [None if None in (row.score_chosen, row.score_rejected) else row.score_chosen - row.score_rejected for row in rows]  # type: ignore[operator]
    if all(margin is None for margin in margins):
        raise ConfigError(f"data.min_margin={least:g}: no pair has two scores; name them with data.columns.score_chosen, or leave it away")
    kept = [row for row, margin in zip(rows, margins, strict=True) if margin is None or margin >= least]
    if len(kept) < len(rows):
        say(f"{len(rows) - len(kept)} of {len(rows)} pairs have scores that are closer than data.min_margin={least:g}: left out")
    if not kept:
        raise ConfigError(f"data.min_margin={least:g}: the scores of all {len(rows)} pairs are closer; lower it")
    return kept


def _numbered(rows: Sequence[Preference]) -> list[Preference]:
    """Rows with ids of their own: those that several files use are counted through."""
    counts, seen, found = Counter(row.id for row in rows), Counter[str](), []
    for row in rows:
        seen[row.id] += 1
        found.append(row.model_copy(update={"id": f"{row.id}-{seen[row.id]}"}) if counts[row.id] > 1 else row)
    return found


def _limited(rows: list[Preference], limit: int | None, seed: int) -> list[Preference]:
    """At most `limit` rows, drawn by the seed, in the order that they had."""
    if limit is None or len(rows) <= limit:
        return rows
    chosen = {row.id for row in sorted(rows, key=lambda row: _drawn(f"{seed} row {row.id}"))[:limit]}
    return [row for row in rows if row.id in chosen]


def _drawn(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "replace")).digest()


def parted(rows: Sequence[Preference], config: PreferredConfig, seed: int) -> list[Preference]:
    """The rows with their parts: as they say, else a share of their groups is held out, at least one where there are two.

    Raises ConfigError where nothing is left to train on.
    """
    if any(row.part == "evaluation" for row in rows) or not config.share:
        if rows and all(row.part == "evaluation" for row in rows):
            raise ConfigError("data.path: all rows are held out, and none is left to train on; see the column `part`")
        return list(rows)
    groups = list(dict.fromkeys(row.group or row.id for row in rows))
    count = min(max(1, round(config.share * len(groups))), len(groups) - 1)
    held = set(sorted(groups, key=lambda group: _drawn(f"{seed} {group}"))[: max(0, count)])
    return [row.model_copy(update={"part": "evaluation"}) if (row.group or row.id) in held else row for row in rows]


def shared(rows: Sequence[Preference]) -> int:
    """How many held-out rows have a reply, or a prompt, that is trained too."""
    trained = {(json.dumps(row.prompt), row.rendered) for row in rows if row.part == "train"}
    said = {text for row in rows if row.part == "train" for text in (row.chosen, row.rejected) if text is not None}
    held = [row for row in rows if row.part == "evaluation"]
    return sum((json.dumps(row.prompt), row.rendered) in trained or bool(said & {row.chosen, row.rejected}) for row in held)
