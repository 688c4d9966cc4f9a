"""Overrides as people write them. Hydra's grammar knows ASCII alone outside of quotes: other letters are quoted for it, nothing else is.

What it cannot read for another reason (a comma, an apostrophe, a parenthesis in a text) has more than one meaning: it is not guessed, but
the word is shown as it must be written.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, QuotedString
from hydra.errors import HydraException

_OTHER = "x"  # stands for a character that the grammar does not know, in a text of the same length


def parsed(text: str) -> Override | None:
    """An override as Hydra reads it, or None where it cannot."""
    try:
        return OverridesParser.create().parse_override(text)
    except (HydraException, ValueError):
        return None


def mended(text: str) -> str:
    """`text` with its unquoted words of other than ASCII letters in quotes, if nothing but these keeps Hydra from reading it.

    >>> mended("topics.list=[寿司, tides]"), mended("run.dir=~/runs"), mended("a=[l'été]")
    ('topics.list=["寿司", tides]', 'run.dir="~/runs"', "a=[l'été]")
    """
    key, equals, value = text.partition("=")
    if not equals or not key.isascii() or (value.isascii() and "~" not in value) or parsed(text) is not None:
        return text
    plain = parsed(key + equals + _folded(value))
    if plain is None:
        return text
    found = key + equals + "".join(f'"{part}"' if word and _folded(part) != part else part for part, word in _parts(value))
    read = parsed(found)
    same = read is not None and not read.is_sweep_override() and _values(read.value()) == _values(plain.value())
    return found if same else text


def corrected(text: str) -> str | None:
    """The word as a shell must be given it, its texts quoted; None where no quotes help.

    >>> corrected("topics.list=[it's life, tides]")
    '\\'topics.list=["it\\'"\\'"\\'s life",tides]\\''
    """
    key, equals, value = text.partition("=")
    value = value.strip()
    if not key or not equals or parsed(f"{key}=1") is None or value.startswith("{") or value.startswith("[") != value.endswith("]"):
        return None
    if value.startswith("["):
        found = f"{key}=[{','.join(_quoted(part.strip()) for part in _split(value[1:-1]) if part.strip())}]"
    else:
        found = f"{key}={_quoted(value)}"
    return shlex.quote(found) if parsed(found) is not None else None


def _quoted(text: str) -> str:
    """A text as it stands inside an override: as it is where Hydra reads it so, else in quotes."""
    one = parsed(f"a={text}")
    if one is not None and not one.is_sweep_override() and not isinstance(one.value(), dict | list):
        return text
    bare = text[1:-1] if len(text) > 1 and text[0] == text[-1] == '"' else text
    return '"' + bare.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _split(text: str) -> list[str]:
    """The parts between commas; those inside of double quotes and of brackets are none."""
    parts, depth, quoted = [""], 0, False
    for character in text:
        quoted ^= character == '"'
        depth += (character in "[{(") - (character in "]})") if not quoted else 0
        if character == "," and not quoted and depth <= 0:
            parts.append("")
        else:
            parts[-1] += character
    return parts


def _folded(text: str) -> str:
    return "".join(character if character.isascii() and character != "~" else _OTHER for character in text)


def _parts(value: str) -> Iterator[tuple[str, bool]]:
    """(text, whether it is an unquoted word) of a value, in its order; blanks at a word's ends do not belong to it."""
    word, quote, braces = "", "", 0
    for character in value:
        if quote or (character in "'\"" and not word.strip()):
            if not quote:
                yield word, False
                word, quote = character, character
                continue
            word += character
            if character == quote and not word.endswith(f"\\{quote}"):
                yield word, False
                word, quote = "", ""
        elif character in "[]{}()," or (character == ":" and braces):
            braces += (character == "{") - (character == "}")
            yield from _stripped(word)
            yield character, False
            word = ""
        else:
            word += character
    yield from _stripped(word)


def _stripped(word: str) -> Iterator[tuple[str, bool]]:
    inner = word.strip()
    before = len(word) - len(word.lstrip())
    yield word[:before], False
    yield inner, bool(inner)
    yield word[before + len(inner) :], False


def _values(value: Any) -> Any:
    """A parsed value with its texts folded: equal for what differs in its quotes alone."""
    if isinstance(value, QuotedString):
        return _folded(value.text)
    if isinstance(value, str):
        return _folded(value)
    if isinstance(value, dict):
        return {_values(key): _values(one) for key, one in value.items()}
    return [_values(one) for one in value] if isinstance(value, list) else value
