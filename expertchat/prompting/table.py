"""Prompts of a file: each is answered by itself, and the answers are rows of another file, with all that the first one says of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from expertchat.config import ConfigError
from expertchat.folder.jsonl import Log, read_lines
from expertchat.prompting.config import TalkConfig
from expertchat.prompting.lines import TOGETHER
from expertchat.prompting.talk import Exchange, Talk, drawn
from expertchat.training.single import Prompts, read_prompts

OWN = ("id", "prompt", "answer", "system", "tokens", "cut", "drawn")  # columns of the answers; those of the prompts become given_NAME


def table_problems(config: TalkConfig) -> Iterator[str]:
    """What does not go together, or cannot be read."""
    given = config.prompts
    if given.file is None:
        for key, value, none in (("column", given.column, None), ("out", given.out, None), ("samples", given.samples, 1)):
            if value != none:
                yield f"prompts.{key}={value}: goes with prompts.file=PATH"
        return
    if given.out is None:
        yield "prompts.out: is not set; name the file of the answers, prompts.out=answers.jsonl"
    elif not given.out.endswith(".jsonl"):
        yield f"prompts.out={given.out}: must end in .jsonl"
    if given.samples > 1 and config.model is not None and not config.model.decoding.reply.varies:
        how = config.model.decoding.reply.method
        yield f"prompts.samples={given.samples}: {how} gives equal answers; take decoding@model.decoding=sampling, or prompts.samples=1"


def run_table(config: TalkConfig, say: Callable[[str], None]) -> int:
    """Answer every prompt of the file; 1 where one has no answer. What an earlier start has answered is not asked again.

    Raises ConfigError for a file that cannot be read or written, one that holds other answers, or a model that cannot be loaded.
    """
    assert config.prompts.file is not None and config.prompts.out is not None
    given = read_prompts(config.prompts.file, config.prompts.column)
    talk = Talk(config, say)
    out = _Answers(Path(config.prompts.out).expanduser(), talk)
    wanted = [(at, draw) for at in range(len(given.texts)) for draw in range(config.prompts.samples)]
    left = iter([(at, draw) for at, draw in wanted if _name(at, draw) not in out.there])
    if out.there:
        say(f"{out.path}: {len(out.there)} of {len(wanted)} answers are there already")
    silent = 0
    while batch := list(islice(left, config.engine.max_batch or TOGETHER)):
        for (at, draw), one in zip(batch, _answered(talk, given, batch), strict=True):
            out.keep(_row(_name(at, draw), given, at, one, talk))
            silent += not one.text
        say(f"{len(out.there)} of {len(wanted)} prompts are answered")
    if silent:
        say(f"{silent} of {len(wanted)} prompts have an empty answer")
    return 1 if silent and (silent == len(wanted) or config.silence == "fails") else 0


def _name(at: int, draw: int) -> str:
    return f"{at:05d}" + (f"/{draw}" if draw else "")


def _answered(talk: Talk, given: Prompts, batch: list[tuple[int, int]]) -> list[Exchange]:
    return talk.answers([given.texts[at] for at, _ in batch], places=batch)


def _row(name: str, given: Prompts, at: int, one: Exchange, talk: Talk) -> dict[str, Any]:
    text, told = given.texts[at], one.completion
    cells = {f"given_{key}" if key in OWN else key: value for key, value in given.columns.get(text, {}).items()}
    return {
        "id": name, "prompt": text, **cells, "answer": one.text, "system": talk.spoken.name, "tokens": told.tokens if told else None,
        "cut": told is not None and told.finish == "length", "drawn": drawn(one.decoding),
    }  # fmt: skip


class _Answers:
    """The file of the answers: `there` are the ids of those in it."""

    def __init__(self, path: Path, talk: Talk) -> None:
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._log = Log(path)
        except OSError as error:
            raise ConfigError(f"prompts.out: cannot write {path} ({error.strerror or error}); name another file") from None
        rows = [row for _, row in read_lines(path)]
        mine = talk.spoken.name, drawn(talk.decoding)
        if strange := next((row for row in rows if (row.get("system"), row.get("drawn")) != mine), None):
            raise ConfigError(
                f"prompts.out: {path} holds answers of {strange.get('system')} by {strange.get('drawn')}, not of {mine[0]} by {mine[1]}; "
                "name another file"
            )
        self.there = {str(row["id"]) for row in rows}

    def keep(self, row: dict[str, Any]) -> None:
        self._log.append(json.dumps(row, ensure_ascii=False))
        self.there.add(str(row["id"]))
