"""Rows of whatever holds some: CSV, JSON Lines, parquet, a folder of `datasets`, a data set of the hub. What they mean is columns.py's."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from expertchat.config import ConfigError
from expertchat.folder.textfile import json_lines, table_rows
from expertchat.sources.config import SourceConfig
from expertchat.sources.encoding import SHOWN, Say, named, read_table_text
from expertchat.text.sentences import first_line

HUB = "hf:"
TABLES = (".csv", ".tsv", ".tab", ".jsonl", ".ndjson", ".json", ".parquet")
SAVED = ("dataset_dict.json", "dataset_info.json", "state.json")  # what datasets.save_to_disk leaves


@dataclass(frozen=True)
class Row:
    """One row: its number as whoever has the file open counts it, and its cells by column. What is empty or not-a-number is None."""

    number: int
    cells: Mapping[str, Any]


@dataclass(frozen=True)
class Table:
    """All rows of a source. `word`: what its rows are called, in messages and as a part of ids."""

    name: str
    columns: list[str]
    rows: list[Row]
    word: str = "row"


def is_table(path: Path) -> bool:
    """Whether a path is one that `read_table` reads."""
    if path.is_dir():
        return any((path / name).is_file() for name in SAVED)
    return path.suffix.lower() in TABLES


def read_table(path: str, config: SourceConfig, say: Say) -> Table:
    """The rows at `path`. Raises ConfigError that names the rows that are none."""
    if path.startswith(HUB):
        return _of_datasets(path, _from_hub(path.removeprefix(HUB), config.split))
    place = Path(path).expanduser()
    if place.is_dir():
        return _of_datasets(path, _chosen_split(path, _saved(place), config.split))
    match place.suffix.lower():
        case ".parquet":
            return _of_parquet(place)
        case ".csv" | ".tsv" | ".tab":
            return _of_text(place, read_table_text(place, config.encoding, say))
        case _:
            return _of_json(place, read_table_text(place, config.encoding, say))


# -- text files -----------------------------------------------------------------------------------------------------------


def _of_text(path: Path, text: str) -> Table:
    rows = table_rows(path, text, "source.path:")
    if not rows:
        raise ConfigError(f"source.path={path}: holds no row")
    head = [name.strip().lstrip("\ufeff") for name in rows[0][1]]
    while head and not head[-1]:
        head.pop()
    problems = [f"source.path={path}: column {i + 1} has no name in the first row; name it" for i, name in enumerate(head) if not name]
    if twice := sorted({name for name in head if name and head.count(name) > 1}):
        problems.append(f"source.path={path}: {', '.join(map(repr, twice))} stand{'s' if len(twice) == 1 else ''} twice in the first row")
    wide = [n for n, cells in rows[1:] if any(cell.strip() for cell in cells[len(head) :])]
    if wide:
        problems.append(
            f"source.path={path}: {named(wide, 'row')} have more cells than the first row ({_shown(head)}); put quotes around a cell that "
            "holds the separator"
        )
    if problems:
        raise ConfigError(problems)
    found = [Row(n, {name: _cell(cells[i] if i < len(cells) else None) for i, name in enumerate(head)}) for n, cells in rows[1:]]
    return _whole(Table(path.name, head, found))


def _of_json(path: Path, text: str) -> Table:
    """An object a line; of a .json file, a list of objects, or the only list that its object holds."""
    if path.suffix.lower() == ".json":
        return _of_list(path, text)
    rows, wrong = list[Row](), list[int]()
    for n, line in json_lines(text):
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):
            entry = None
        if isinstance(entry, dict):
            rows.append(Row(n, {str(name): _cell(value) for name, value in entry.items()}))
        else:
            wrong.append(n)
    if wrong:
        raise ConfigError(f"source.path={path}: {named(wrong, 'line')} hold no JSON object; write one object a line")
    return _whole(Table(path.name, _columns(rows), rows, "line"))


def _of_list(path: Path, text: str) -> Table:
    try:
        whole = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"source.path={path}: is no JSON ({first_line(error)}); one object a line is a .jsonl file") from None
    lists = [value for value in whole.values() if isinstance(value, list)] if isinstance(whole, dict) else [whole]
    if len(lists) != 1 or not isinstance(lists[0], list):
        raise ConfigError(f"source.path={path}: holds no list of objects; write [{{...}}, ...], or one object a line in a .jsonl file")
    if wrong := [n for n, entry in enumerate(lists[0], 1) if not isinstance(entry, dict)]:
        raise ConfigError(f"source.path={path}: {named(wrong, 'entry')} are no objects")
    rows = [Row(n, {str(name): _cell(value) for name, value in entry.items()}) for n, entry in enumerate(lists[0], 1)]
    return _whole(Table(path.name, _columns(rows), rows, "entry"))


# -- data sets ------------------------------------------------------------------------------------------------------------


def _from_hub(name: str, split: str | None) -> Any:
    """OWNER/NAME or OWNER/NAME:CONFIG of the hub, or of its cache."""
    place, _, config = name.partition(":")
    if not place.strip():
        raise ConfigError("source.path=hf: names no data set; write hf:OWNER/NAME, or hf:OWNER/NAME:CONFIG")
    try:
        found = _datasets().load_dataset(place, config or None)
    except Exception as error:
        raise ConfigError(f"source.path=hf:{name}: cannot be had ({first_line(error)}); correct OWNER/NAME, or name a file") from None
    return _chosen_split(f"hf:{name}", found, split)


def _saved(path: Path) -> Any:
    try:
        return _datasets().load_from_disk(str(path))
    except Exception as error:
        raise ConfigError(f"source.path={path}: datasets cannot load it ({first_line(error)}); save it again with save_to_disk") from None


def _datasets() -> Any:
    """The library, which draws no bars of its own."""
    import datasets
    from datasets.utils.logging import disable_progress_bar

    disable_progress_bar()
    return datasets


def _of_parquet(path: Path) -> Table:
    import pyarrow.parquet

    try:
        found = pyarrow.parquet.read_table(path)
    except (OSError, ValueError) as error:  # pyarrow's own errors are among these
        raise ConfigError(f"source.path={path}: cannot be read ({first_line(error)}); save it again") from None
    names, cells, problems = list(found.column_names), list[list[Any]](), list[str]()
    for name in names:
        try:
            cells.append(found.column(name).to_pylist())
        except (ValueError, OverflowError, NotImplementedError) as error:  # letters that are none, dates that no calendar has
            why = first_line(error)
            problems.append(f"source.path={path}: column {name!r} cannot be read ({why}); leave it out, or save it as text in UTF-8")
    if problems:
        raise ConfigError(problems)
    return _of_entries(path.name, names, (dict(zip(names, row, strict=True)) for row in zip(*cells, strict=True)))


def _chosen_split(path: str, found: Any, split: str | None) -> Any:
    """One split of a data set."""
    if not hasattr(found, "keys"):
        return found
    names = list(found.keys())
    if split is None and len(names) == 1:
        return found[names[0]]
    if split not in names:
        lacks = "has several splits" if split is None else f"has no split {split!r}"
        raise ConfigError(f"source.path={path}: {lacks}; name one with source.split=NAME: {', '.join(names)}")
    return found[split]


def _of_datasets(path: str, found: Any) -> Table:
    return _of_entries(path.rstrip("/").rpartition("/")[2], list(found.column_names), found)


def _of_entries(name: str, columns: list[str], entries: Iterable[Mapping[str, Any]]) -> Table:
    """Rows that are numbered from 0, as data sets number theirs."""
    rows = [Row(n, {column: _cell(value) for column, value in entry.items()}) for n, entry in enumerate(entries)]
    return _whole(Table(name, columns, rows))


# -- cells ----------------------------------------------------------------------------------------------------------------


_NOTHING = ("", "nan", "<na>")


def _cell(value: Any) -> Any:
    """A value as it stands, None where there is none: an empty cell, null, not-a-number. Bytes are the text that they hold, if any."""
    if isinstance(value, bytes):  # how some programs write texts into parquet
        try:
            value = value.decode("utf-8")
        except UnicodeDecodeError:
            return None
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return None if isinstance(value, str) and value.strip().casefold() in _NOTHING else value


def _columns(rows: list[Row]) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in row.cells))


def _whole(table: Table) -> Table:
    if not table.rows:
        raise ConfigError(f"source.path: {table.name} holds no row")
    return table


def _shown(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(repr(name[:40]) for name in names[:SHOWN]) + more


def texts_of(messages: Any) -> Iterator[tuple[str, str]]:
    """(role, text) of each message of a chat, in either of the two forms that data sets have: role and content, from and value."""
    for message in messages:
        if isinstance(message, Mapping):
            role, text = message.get("role", message.get("from")), message.get("content", message.get("value"))
            if isinstance(role, str) and isinstance(text, str):
                yield _ROLES.get(role.lower(), role.lower()), text


_ROLES = {"human": "user", "prompter": "user", "gpt": "assistant", "bot": "assistant", "model": "assistant"}


def is_chat(value: Any) -> bool:
    """Whether a cell holds messages."""
    return isinstance(value, list) and bool(value) and len(list(texts_of(value))) == len(value)


def number_cell(value: Any) -> float | None:
    """A cell as a number; None for what is none, and for inf and nan, which would make sums of nothing.

    >>> number_cell("2.5"), number_cell("inf"), number_cell(None), number_cell("x")
    (2.5, None, None, None)
    """
    try:
        found = math.nan if value is None else float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return found if math.isfinite(found) else None
