"""The prompts of a table: what is to be answered, where nothing stands yet that could be judged."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from expertchat.config import ConfigError, near
from expertchat.records import Turn
from expertchat.sources.columns import OTHERS, context_columns
from expertchat.sources.config import SourceConfig
from expertchat.sources.encoding import Say, named
from expertchat.sources.rows import Table
from expertchat.sources.tables import plain_cell, turns_of
from expertchat.text.likeness import blank


@dataclass(frozen=True)
class PromptRow:
    """What a row asks. `more`: the cell of one further column."""

    id: str
    topic: str
    turns: list[Turn]
    group: str
    reference: str | None
    more: str | None


def prompt_rows(table: Table, config: SourceConfig, say: Say, more: str | None = None) -> Iterator[PromptRow]:
    """The rows of a table as prompts; one that has a topic alone opens a dialogue on it.

    Raises ConfigError for columns that are not there, and for rows that ask nothing, unless these may be skipped.
    """
    columns = context_columns(config.columns, table.columns, table.name)
    if not {"prompt", "topic"} & columns.keys():
        shown = ", ".join(repr(one[:40]) for one in table.columns[:30])
        raise ConfigError(
            f"source.path: {table.name} has no column of prompts ({', '.join(OTHERS['prompt'])}), nor one of topics; name it with "
            f"source.columns.prompt=NAME or source.columns.topic=NAME (the columns are {shown})"
        )
    if more is not None and more not in table.columns:
        raise ConfigError(f"rule_text=column:{more}: {table.name} has no such column{near(more, table.columns)}")
    say(f"{table.name}: {', '.join(f'{key} is {column}' for key, column in columns.items())}; others: source.columns.KEY=NAME")
    empty, found, firsts = list[int](), list[PromptRow](), dict[tuple[str, ...], str]()
    for row in table.rows:
        cells = {key: row.cells.get(column) for key, column in columns.items()}
        turns, topic = turns_of(cells.get("prompt")), plain_cell(cells.get("topic")) or config.topic or ""
        if not any(not blank(turn.text) for turn in turns) and blank(topic):
            empty.append(row.number)
            continue
        name = plain_cell(cells.get("id")) or f"{table.word[0]}{row.number:04d}"
        group = plain_cell(cells.get("group")) or topic or firsts.setdefault(tuple(turn.text for turn in turns), name)  # alike: one group
        more_cell = plain_cell(row.cells.get(more)) if more is not None else None
        found.append(PromptRow(name, topic, turns, group, plain_cell(cells.get("reference")), more_cell))
    if twice := [name for name, n in Counter(row.id for row in found).items() if n > 1]:
        raise ConfigError(
            f"source.path: {table.name}: several rows have one same id {twice[0]!r}; give each its own, or source.columns.id=none"
        )
    if empty and config.incomplete == "refuse":
        remedy = "fill in or remove these rows, or leave them out with source.incomplete=skip"
        raise ConfigError(f"source.path: {table.name}: {named(empty, table.word)}: ask nothing; {remedy}")
    if empty:
        say(f"{table.name}: {named(empty, table.word)} ask nothing and are left out")
    yield from found
