"""Foreign text in tables that others read: in Markdown no markup, in CSV no formula."""

from __future__ import annotations

import re

from expertchat.text.cleaning import clean, one_line

# What begins a link, an emphasis, a tag, an entity, code or the next cell. Inside a word _ is a letter: random_judge.
_MARKUP = re.compile(r"[\\`*\[\]|]|(?<![^\W_])_|_(?![^\W_])")
_ENTITIES = {"&": "&amp;", "<": "&lt;"}
_FORMULA = ("=", "+", "-", "@", "\t", "\r")  # a table program would compute what begins so


def markdown(text: str) -> str:
    """A text in a cell or a line of Markdown: clean, and data instead of markup; lines one after the other, with a semicolon between them.

    >>> markdown("[a](http://x) **b**\\nrandom_judge | <img>")
    '\\\\[a\\\\](http://x) \\\\*\\\\*b\\\\*\\\\*; random_judge \\\\| &lt;img>'
    """
    said = "; ".join(filter(None, map(one_line, clean(text).splitlines())))
    return _MARKUP.sub(r"\\\g<0>", re.sub("[&<]", lambda found: _ENTITIES[found[0]], said))


def code(text: str) -> str:
    """A text between the back quotes of Markdown, where no other markup is read; in a cell, too."""
    return one_line(clean(text)).replace("`", "'").replace("|", "\\|")


def csv_cell(value: object) -> object:
    """A value in a cell of a CSV: a text that a table program would take for a formula gets an apostrophe before it. Numbers stay numbers.

    >>> csv_cell("=1+1"), csv_cell("a-b"), csv_cell(-1.5), csv_cell(None)
    ("'=1+1", 'a-b', -1.5, None)
    """
    if not isinstance(value, str):
        return value
    text = clean(value)
    return f"'{text}" if text.startswith(_FORMULA) else text
