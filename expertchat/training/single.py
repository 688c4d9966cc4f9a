"""Single prompts (prompts.file=PATH) in the place of dialogues: dialogues of one turn, whose speaker is shown the prompt and nothing else.

So the loop, the judges, the evaluation and the records are those of dialogues. Nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from expertchat.config import ConfigError
from expertchat.folder.textfile import read_text, text_lines
from expertchat.preferences.config import TYPE, Rules
from expertchat.records import Topic
from expertchat.sources.config import SourceConfig
from expertchat.sources.encoding import named
from expertchat.sources.rows import is_table, read_table
from expertchat.sources.tables import plain_cell
from expertchat.talk.topics import conversation_id, given_topics
from expertchat.training.config import OnlineConfig

COLUMNS = ("prompt", "question", "instruction", "text", "topic")  # what a column of prompts is called, where nothing else is said
MOST_TOPICS = 10_000
C = TypeVar("C", bound=OnlineConfig)


@dataclass(frozen=True)
class Prompts:
    """The prompts of a file in its order, each once, and by prompt the other cells of its row."""

    texts: Sequence[str]
    columns: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def read_prompts(file: str, column: str | None = None, kind: str | None = None) -> Prompts:
    """A text file, one prompt a line (with # comments), or a table (.csv, .tsv, .jsonl, .json, .parquet, a folder of `datasets`) with a
    column of prompts: `column`, else the first of COLUMNS that is there. A prompt of messages must be one user message. `kind`: the column
    of types, else one that is called so; they stand in the rows as TYPE.

    Raises ConfigError with everything that is wrong with it.
    """
    path = Path(file).expanduser()
    if not is_table(path):
        for key, name in (("column", column), ("type", kind)):
            if name is not None:
                raise ConfigError(f"prompts.{key}={name}: {path} is read as a list, one prompt a line; call a table .csv, .tsv or .jsonl")
        lines = [line.strip() for _, line in text_lines(read_text(path, "prompts.file:")) if not line.lstrip().startswith("#")]
        return _whole(path, Prompts(list(dict.fromkeys(lines))))
    try:
        table = read_table(file, SourceConfig(path=[file]), lambda note: None)
    except ConfigError as error:
        raise ConfigError([problem.replace("source.path", "prompts.file") for problem in error.problems]) from None
    name = column if column is not None else next((name for name in COLUMNS if name in table.columns), None)
    if name is None or name not in table.columns:
        lacks = f"has no column {column}" if column is not None else f"has no column called {', '.join(COLUMNS[:-1])} or {COLUMNS[-1]}"
        raise ConfigError(f"prompts.file: {path} {lacks}; name one with prompts.column=NAME: {', '.join(table.columns)}")
    if kind is not None and kind not in table.columns:
        raise ConfigError(f"prompts.type={kind}: {path} has no such column; it has {', '.join(table.columns)}")
    types = kind or next((one for one in table.columns if one.casefold() == TYPE), None)
    found, bad = dict[str, Mapping[str, Any]](), list[int]()
    for row in table.rows:
        text = _text(row.cells.get(name))
        if text is None:
            bad.append(row.number)
        else:
            typed = {} if types is None else {TYPE: plain_cell(row.cells.get(types))}
            found.setdefault(text, {**{key: value for key, value in row.cells.items() if key != name}, **typed})
    if bad:
        said = f"{named(bad, table.word)} hold no prompt under {name}: a text, or a list with one user message"
        raise ConfigError(f"prompts.file: {path}: {said}; mend or remove {'it' if len(bad) == 1 else 'them'}")
    return _whole(path, Prompts(list(found), found))


def _text(cell: Any) -> str | None:
    if isinstance(cell, list) and len(cell) == 1 and isinstance(cell[0], Mapping) and cell[0].get("role", "user") == "user":
        cell = cell[0].get("content")
    return cell.strip() if isinstance(cell, str) and cell.strip() else None


def _whole(path: Path, found: Prompts) -> Prompts:
    if not found.texts:
        raise ConfigError(f"prompts.file: {path} holds no prompt; write one a line")
    return found


# -- in the place of dialogues -------------------------------------------------------------------------------------------


def given(config: OnlineConfig) -> list[Topic]:
    """What is talked about: the prompts, or the topics of a list or file. Raises ConfigError."""
    if config.prompts.file is None:
        return given_topics(config.topics, MOST_TOPICS, config.run.seed)
    found = _prompts_of(config)
    untyped = [text for text in found.texts if config.by_type and not found.columns.get(text, {}).get(TYPE)]
    if untyped:
        raise ConfigError(
            f"reward_model.label=type: {len(untyped)} of {len(found.texts)} prompts of {config.prompts.file} have no type; fill in their "
            "cells, or name the column with prompts.type=NAME"
        )
    return [Topic(id=conversation_id(i), text=text, source="file") for i, text in enumerate(found.texts)]


def _prompts_of(config: OnlineConfig) -> Prompts:
    assert config.prompts.file is not None
    return read_prompts(config.prompts.file, config.prompts.column, config.prompts.type)


def rules_of(config: OnlineConfig) -> Rules:
    """What a round's dialogues need to know; of prompts, the other cells of their rows too."""
    return replace(config.rules, columns={} if config.prompts.file is None else _prompts_of(config).columns)


def alone(config: C) -> C:
    """The config as the loop takes it: with prompts, dialogues of one turn, whose speaker sees the prompt and nothing else. Evaluated are
    replies to held-out prompts, no histories."""
    if config.prompts.file is None:
        return config

    def bare(model: Any) -> Any:
        prompts = model.prompts.model_copy(update={"system": "", "opening": "{prompt}"})
        return model.model_copy(update={"prompts": prompts})

    return config.model_copy(
        update={
            "experts": config.experts.having(**{seat: bare(model) for seat, model in config.experts.items()}),
            "conversation": config.conversation.model_copy(update={"turns": 1, "stop_when_nothing_new": False}),
            "candidates": config.candidates.model_copy(update={"opening": True}),
            "evaluation": config.evaluation.model_copy(update={"turns": 0}),
        }
    )
