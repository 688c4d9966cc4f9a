"""In which encoding a table is written: named, told by its mark, or found out line by line. What is mixed is no table yet."""

from __future__ import annotations

import codecs
from collections.abc import Callable
from pathlib import Path

from expertchat.config import ConfigError
from expertchat.folder.textfile import MARKS, NO_TEXT
from expertchat.text.sentences import first_line

SHOWN = 8  # lines or rows that a message names
Say = Callable[[str], None]


def read_table_text(path: Path, encoding: str | None, say: Say) -> str:
    """The text of a table. Raises ConfigError with the lines that are in another encoding than the rest, or than the one that is named."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"source.path={path}: cannot be read ({error.strerror or error})") from None
    for magic, name in NO_TEXT:
        if raw.startswith(magic):
            raise ConfigError(f"source.path={path}: is no text but {name}; export it as CSV or JSON Lines in UTF-8")
    if encoding is None:
        encoding = _found(path, raw, say)
    elif encoding.lower().replace("_", "-") in ("utf-8", "utf8") and raw.startswith(codecs.BOM_UTF8):
        encoding = "utf-8-sig"
    try:
        text = raw.decode(encoding)
    except UnicodeDecodeError as error:
        before = raw[: error.start]
        where = f"line {before.count(10) + 1}" if not encoding.lower().startswith("utf-16") else f"byte {error.start + 1}"
        raise ConfigError(
            f"source.path={path}: is not {encoding}: {where} holds 0x{raw[error.start]:02x}; name its own with source.encoding=NAME, or "
            "save it as UTF-8"
        ) from None
    except UnicodeError as error:  # of encodings that no table has (punycode)
        raise ConfigError(f"source.path={path}: is not {encoding} ({first_line(error)}); name its own with source.encoding=NAME") from None
    text = text.removeprefix("\ufeff")  # utf-16-le does not take the mark for one
    if damaged := [n for n, line in enumerate(text.split("\n"), 1) if "\ufffd" in line]:
        say(f"{path.name}: {named(damaged, 'line')} hold U+FFFD: letters were lost before it was saved")
    if twice := [n for n, line in enumerate(text.split("\n"), 1) if _twice(line)]:
        say(f"{path.name}: {named(twice, 'line')} look like UTF-8 that was read as cp1252 ('Ã¤' for 'ä'): save it again from its origin")
    return text


def named(numbers: list[int], word: str) -> str:
    """Rows as a message names them: "rows 3, 7 and 9", of many the first and how many more.

    >>> named([3, 7, 9], "row"), named([4], "row"), named([1, 2], "entry")
    ('rows 3, 7, 9', 'row 4', 'entries 1, 2')
    """
    more = f" and {len(numbers) - SHOWN} more" if len(numbers) > SHOWN else ""
    several = f"{word[:-1]}ies" if word.endswith("y") else f"{word}s"
    return f"{several if len(numbers) > 1 else word} {', '.join(map(str, numbers[:SHOWN]))}{more}"


def _found(path: Path, raw: bytes, say: Say) -> str:
    """The encoding of a file that nobody named."""
    for mark, name in MARKS:
        if raw.startswith(mark):
            return name
    head = raw[:4000]
    if head.count(0) > len(head) // 4:
        first = "utf-16-le" if head[1::2].count(0) > head[::2].count(0) else "utf-16-be"
        say(f"{path.name}: is read as {first} (no mark, and every second byte is 0)")
        return first
    other: list[int] = []
    plain = utf8 = 0
    for n, line in enumerate(raw.split(b"\n"), 1):
        if line.isascii():
            plain += 1
            continue
        try:
            line.decode("utf-8")
            utf8 += 1
        except UnicodeDecodeError:
            other.append(n)
    if not other:
        return "utf-8"
    if utf8:
        raise ConfigError(
            f"source.path={path}: mixes encodings: {named(other, 'line')} are not UTF-8, {utf8} other{'s are' if utf8 > 1 else ' is'}; "
            "save these rows again as UTF-8, or name the encoding of all of it with source.encoding=NAME"
        )
    try:
        raw.decode("cp1252")
    except UnicodeDecodeError:
        raise ConfigError(
            f"source.path={path}: {named(other, 'line')} are neither UTF-8 nor cp1252; name the encoding with source.encoding=NAME "
            "(latin-1, mac_roman, shift_jis), or save it as UTF-8"
        ) from None
    say(f"{path.name}: is read as cp1252 ({named(other, 'line')} are not UTF-8); another one: source.encoding=NAME")
    return "cp1252"


def _twice(line: str) -> bool:
    """Whether a line is UTF-8 that was read as cp1252 and saved again."""
    if not any(mark in line for mark in ("Ã", "Â", "â€")):
        return False
    try:
        return line.encode("cp1252").decode("utf-8") != line
    except UnicodeError:
        return False
