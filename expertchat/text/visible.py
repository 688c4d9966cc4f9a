"""Text as it may be shown on one line with nothing left out: what cannot be seen is written in characters that can."""

from __future__ import annotations

import re

from expertchat.text.cleaning import clean

_SIGNS = {"\n": "↵", "\t": "⇥", "\r": "\\r"}


def visible(text: str) -> str:
    """One line with a sign for each character that has no look of its own: ↵ and ⇥, and \\x1b, \\u202e for what steers a terminal.

    Combining marks that stand alone get a circle to stand on.

    >>> visible("\\x1b[2J a\\n\\u202eb"), visible("größer")
    ('\\\\x1b[2J a↵\\\\u202eb', 'größer')
    """
    shown = "".join(_SIGNS.get(c) or (c if c.isprintable() and clean(c) == c else _written(c)) for c in text)
    return re.sub(r"^(?=[\u0300-\u036f\u20d0-\u20ff])", "◌", clean(shown))


def _written(character: str) -> str:
    """A character by its number."""
    number = ord(character)
    return f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"
