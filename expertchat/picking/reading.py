"""The rows of a table that `expertchat pick` judges: several texts to one same prompt."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from expertchat.config import ConfigError, near
from expertchat.picking.config import PickConfig
from expertchat.records import PickRow
from expertchat.sources.columns import context_columns
from expertchat.sources.encoding import Say, named
from expertchat.sources.read import drawn
from expertchat.sources.rows import Row, Table, read_table
from expertchat.sources.tables import plain_cell, turns_of
from expertchat.text.likeness import blank


def read_rows(config: PickConfig, say: Say = lambda text: None) -> list[PickRow]:
    """The rows of all tables that have all texts. Raises ConfigError with everything that cannot be read, and for rows with an empty text
    unless these may be skipped (source.incomplete=skip)."""
    if not config.source.path:
        raise ConfigError("source.path: names nothing; name a table of several texts a row: expertchat pick TABLE texts=[...]")
    problems, found = list[str](), list[PickRow]()
    for i, path in enumerate(config.source.path):
        before = f"{i}-" if len(config.source.path) > 1 else ""
        try:
            found += drawn(_of_table(read_table(path, config.source, say), config, say, before), config.source)
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(problems)
    if not found:
        raise ConfigError(f"source.path: {', '.join(config.source.path)}: no row has all of {', '.join(config.texts)}")
    found = _asked_alike(found)
    digest = hashlib.sha256("\n".join(row.to_json() for row in found).encode("utf-8", "replace")).hexdigest()[:16]
    return [row.model_copy(update={"source": digest}) for row in found]


def _asked_alike(rows: Sequence[PickRow]) -> list[PickRow]:
    """The rows, those of which nothing else says to what they belong by what was asked: asked twice, it is one group."""
    firsts = dict[tuple[str, ...], str]()
    return [
        row.model_copy(update={"group": firsts.setdefault(tuple(row.said), row.id)}) if row.group == row.id and row.said else row
        for row in rows
    ]


def _of_table(table: Table, config: PickConfig, say: Say, before: str) -> list[PickRow]:
    if lacking := [name for name in config.texts if name not in table.columns]:
        raise ConfigError([f"texts: {table.name} has no column {name!r}{near(name, table.columns)}" for name in lacking])
    columns = context_columns(config.source.columns, table.columns, table.name)
    empty, found = list[int](), list[PickRow]()
    for row in table.rows:
        texts = {name: plain_cell(row.cells.get(name)) or "" for name in config.texts}
        if any(blank(text) for text in texts.values()):
            empty.append(row.number)
            continue
        found.append(_row(row, columns, texts, before, table, config))
    if len({row.id for row in found}) < len(found):
        raise ConfigError(f"source.path: {table.name}: several rows have one same id; give each its own, or source.columns.id=none")
    if empty and config.source.incomplete == "refuse":
        remedy = "fill in or remove these rows, or leave them out with source.incomplete=skip"
        raise ConfigError(f"source.path: {table.name}: {named(empty, table.word)}: lack one of {', '.join(config.texts)}; {remedy}")
    if empty:
        say(f"{table.name}: {named(empty, table.word)} lack a text and are left out")
    return found


def _row(row: Row, columns: dict[str, str], texts: dict[str, str], before: str, table: Table, config: PickConfig) -> PickRow:
    cells = {key: row.cells.get(column) for key, column in columns.items()}
    topic = plain_cell(cells.get("topic")) or config.source.topic or ""
    name = before + (plain_cell(cells.get("id")) or f"{table.word[0]}{row.number:04d}")
    said, own = [turn.text for turn in turns_of(cells.get("prompt"))], plain_cell(cells.get("group"))
    group = before + own if own and own != topic else topic or name  # groups of two tables may be called alike; topics are the same
    return PickRow(id=name, source="", group=group, topic=topic, said=said, texts=texts)
