"""Reading the text files that users bring, whatever system wrote them. Raises ConfigError with the place and the remedy."""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from expertchat.config import ConfigError

MARKS = (  # the longer ones first: UTF-32's begins as UTF-16's does
    (codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"), (codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)  # fmt: skip
NO_TEXT = (
    (b"PK\x03\x04", "an office document or a zip archive"), (b"\xd0\xcf\x11\xe0", "an old office document"), (b"%PDF", "a PDF"),
    (b"\x1f\x8b", "compressed"), (b"PAR1", "a parquet file"), (b"SQLite", "a database"),
)  # fmt: skip
_LINE_ENDS = re.compile("\r\n|[\n\r\x0b\x0c\x85\u2028\u2029]")
_JSON_LINE_ENDS = re.compile("\r\n|[\n\r]")  # the others may stand inside a JSON string
_CELL = 1 << 24  # characters of a table's cell at most
_HEAD = 1 << 16  # characters in which its first row is looked for
_QUOTED = re.compile(r'(^|[,;\t\n\r])"(?:[^"]|"")*"')


def read_text(path: Path, what: str) -> str:
    """The text of a file in UTF-8 (with or without a byte order mark), or in UTF-16 or UTF-32 with one; `what` names it in messages."""
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        raise ConfigError(f"{what} {path}: no such file; correct the path") from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{what} {path}: cannot be read ({getattr(error, 'strerror', None) or error})") from None
    for magic, name in NO_TEXT:
        if raw.startswith(magic):
            raise ConfigError(f"{what} {path}: is no text but {name}; save it as UTF-8 text (a table: export it as CSV)")
    coding = next((coding for mark, coding in MARKS if raw.startswith(mark)), "utf-8")
    if coding == "utf-8" and raw[:1000].count(0) > len(raw[:1000]) // 4:
        raise ConfigError(f"{what} {path}: looks like UTF-16 without a byte order mark; save the file as UTF-8")
    try:
        return raw.decode(coding)
    except UnicodeDecodeError as error:
        name = coding.upper().removesuffix("-SIG")
        raise ConfigError(f"{what} {path}: is not {name}: {_place(raw, error, coding)}; save the file as UTF-8") from None


def read_mapping(path: Path, what: str, needs: str) -> dict[str, Any]:
    """The keys and values of a YAML file, in any coding that `read_text` knows; `needs`: what it must hold, said where it holds none."""
    import yaml  # most commands that read texts read no YAML

    try:
        values = yaml.safe_load(read_text(path, what))
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise ConfigError(f"{what} {path}: cannot be read as YAML ({' '.join(str(error).split()) or type(error).__name__})") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{what} {path}: holds no keys with values; it needs {needs}")
    return values


def _place(raw: bytes, error: UnicodeDecodeError, coding: str) -> str:
    if not coding.startswith("utf-8"):
        return f"byte {error.start + 1} of the file ({error.reason})"
    before = raw[: error.start]
    line, column = before.count(b"\n") + 1, error.start - (before.rfind(b"\n") + 1) + 1
    return f"line {line}, byte {column} of the line is 0x{raw[error.start]:02x}"


def text_lines(text: str) -> list[tuple[int, str]]:
    """Number (from 1) and text of the lines that hold something, at line ends of all kinds."""
    return [(n, line) for n, line in enumerate(_LINE_ENDS.split(text), 1) if line.strip()]


def json_lines(text: str) -> list[tuple[int, str]]:
    """Number (from 1) and text of the lines of JSON Lines that hold something."""
    return [(n, line) for n, line in enumerate(_JSON_LINE_ENDS.split(text), 1) if line.strip()]


def column(path: Path, text: str, what: str, wanted: str | None, usual: Sequence[str] = ()) -> list[str]:
    """The cells of one column of a table with a head: the `wanted` one, else the one of the `usual` names that is there.

    Raises ConfigError with the columns' names where there is none.
    """
    rows = [cells for _, cells in table_rows(path, text, f"{what}.file:")]
    if not rows:
        return []
    head = [name.strip() for name in rows[0]]
    names = [wanted] if wanted is not None else list(usual)
    places = [i for name in names for i, found in enumerate(head) if found.casefold() == name.strip().casefold()]
    shown = ", ".join(repr(name[:40]) for name in head[:20]) + (f" and {len(head) - 20} more" if len(head) > 20 else "")
    if not places:
        lacks = f"no column {wanted!r}" if wanted is not None else f"no column called {' or '.join(usual)}"
        raise ConfigError(f"{what}.file: {path} is a table and has {lacks}; name one with {what}.column=NAME: its first line has {shown}")
    if wanted is not None and len(places) > 1:
        raise ConfigError(f"{what}.column={wanted}: {path} has {len(places)} columns of that name ({shown}); rename one of them")
    wide = [row for row in rows[1:] if any(cell.strip() for cell in row[len(head) :])]
    if wide:
        raise ConfigError(
            f"{what}.file: {path}: {len(wide)} of {len(rows) - 1} rows have more cells than the first line ({shown}), "
            f"such as {str(wide[0])[:80]}: put quotes around a cell that holds the separator"
        )
    return [row[places[0]] for row in rows[1:] if len(row) > places[0]]


def table_rows(path: Path, text: str, what: str) -> list[tuple[int, list[str]]]:
    """All rows that hold something, each with its number as a spreadsheet counts them, from 1.

    A .tsv is separated by tabs, a .csv by what its first line says (sep=;), else by what it holds most of: comma, semicolon or tab.
    `what` begins messages.
    """
    first = next((line for _, line in text_lines(text[:_HEAD])), "")
    start = text.find(first)
    outside = next((line for _, line in text_lines(_QUOTED.sub(r"\1", text[start : start + _HEAD]))), "")  # a quoted cell may hold lines
    separator = "\t" if path.suffix.lower() in (".tsv", ".tab") else max(",;\t", key=outside.count)
    if said := re.fullmatch(r"sep=([,;\t|])", first.strip(" \"")):
        separator, text = said[1], text[text.index(first) + len(first) :]
    limit = csv.field_size_limit(_CELL)
    reader = csv.reader(io.StringIO(text.replace("\0", ""), newline=""), delimiter=separator, strict=True)
    try:
        return [(n, row) for n, row in enumerate(reader, 1) if any(cell.strip() for cell in row)]
    except csv.Error as error:
        raise ConfigError(
            f"{what} {path}, line {reader.line_num} is not written as a table ({error}); put quotes around a cell that holds quotes, "
            "and double those in it, or use a text file with one a line"
        ) from None
    finally:
        csv.field_size_limit(limit)
