"""Text by models and users is data: splitting it into sentences, numbering them, and making it harmless inside a prompt.

What is kept and what is shown: turns, candidates, analyses, WIM texts and topics are kept `neutralise`d, so that a record says what
partner, judge and trainer were shown; what a judge wrote is also kept as it came (`raw` of a rating, answers.jsonl). Everything that is
drawn goes through `clean` once more, and into a judge's prompt through `quote`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from expertchat.text.cleaning import clean, one_line, writable
from expertchat.text.harmless import Safe, in_line, neutralise, quote

__all__ = [
    "Safe", "as_yaml", "asks", "clean", "counted", "first_line", "in_line", "listed", "neutralise", "number", "one_line", "quote",
    "sentences", "shown_path", "writable",
]  # fmt: skip

# What ends a sentence: a stop before white space; a stop of the scripts that put no space after it, at once. Quotes and brackets that
# close there belong to it. A full-width dot before a digit is a decimal point.
_CLOSE = "[\"'”’»)\\]」』）】》〉›]{0,8}"
_STOPS, _WIDE, _JOINED = ".!?؟۔։።", "。！？｡‼⁇⁈⁉।॥။៕", "؟۔።"
_BOUNDARY = re.compile(
    rf"(?<=[{_STOPS}{_WIDE}．]){_CLOSE}(?=\s)|(?<=[{_WIDE}])(?![{_STOPS}{_WIDE}．]){_CLOSE}"
    rf"|(?<=．)(?![{_STOPS}{_WIDE}．0-9０-９]){_CLOSE}|(?<=[{_JOINED}])(?![{_STOPS}{_WIDE}]){_CLOSE}(?=\w)"
)
# The number of a list's entry, which is no sentence, and what ends none: titles and abbreviations.
_ENTRY = re.compile(r"[*_(]*(?:\d{1,3}|[A-Za-z])\.[*_)]*")
_ENDLESS = re.compile(r"(?:^|[\s(\"“])(?:Mrs?|Ms|Dr|Prof|St|vs|e\.g|i\.e|z\.B|d\.h|bzw|[zd])\.$")


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its type where it has none."""
    lines = str(error).strip().splitlines()
    return lines[0].strip() if lines else type(error).__name__


def shown_path(path: str) -> str:
    """A model's path as people are shown it: a local one by its last part, for where it lies on some machine tells nobody anything.

    Hub ids (OWNER/NAME) and "embedded:NAME" stay as they are; a folder of the hub's cache (models--OWNER--NAME) gets its name.
    """
    plain = path.partition("#")[0].replace("\\", "/").rstrip("/")
    parts = [part for part in plain.split("/") if part]
    if not parts:
        return path
    if cached := [part for part in parts if part.startswith("models--")]:
        return "/".join(cached[-1].split("--")[1:])
    local = plain.startswith(("/", ".", "~", "package:")) or len(parts) > 2 or plain.endswith(".gguf") or plain[1:2] == ":"
    return parts[-1] if local else plain


def sentences(text: str) -> list[str]:
    """The sentences of one line of text; the last one may lack its full stop."""
    flat = one_line(text)
    ends = [match.end() for match in _BOUNDARY.finditer(flat)]
    return [s for start, end in zip([0, *ends], [*ends, len(flat)], strict=True) if (s := flat[start:end].strip())]


def counted(text: str) -> list[str]:
    """The sentences of a text as a reader counts them: "1." before a list's entry is none, and "Dr." ends none.

    >>> counted("1. Dr. Ames fishes. 2. Why?"), counted("7.")
    (['Dr. Ames fishes.', 'Why?'], ['7.'])
    """
    every, found = sentences(text), list[str]()
    for sentence in [one for one in every if not _ENTRY.fullmatch(one)] or every:
        if found and _ENDLESS.search(found[-1]):
            found[-1] += f" {sentence}"
        else:
            found.append(sentence)
    return found


def asks(sentence: str) -> bool:
    """Whether a sentence is a question: a question mark of any script ends it, before exclamation marks and marks that close.

    >>> asks('He said: "why?!"'), asks("そう？"), asks("How. ")
    (True, True, False)
    """
    return sentence.rstrip(" \n\t\"'”’»)]」』）】》〉›*_`!！").endswith(("?", "？", "؟", "⁇", "⁈", "⁉", "⸮", "\u037e", "፧"))


def number(text: str, start: int, judged: bool) -> tuple[str, int]:
    """Sentences with a marker after each, `[n]` where judged and `(n)` where context; returns the next free number."""
    parts = []
    for sentence in sentences(text):
        parts.append(f"{sentence} [{start}]" if judged else f"{sentence} ({start})")
        start += 1
    return " ".join(parts), start


def listed(names: Sequence[str], word: str = "and") -> str:
    """Names as one says them.

    >>> listed(["A", "B", "C"]), listed(["A"])
    ('A, B and C', 'A')
    """
    *most, last = names
    return f"{', '.join(most)} {word} {last}" if most else last


def as_yaml(values: Mapping[str, Any]) -> str:
    """Plain values as YAML text that is read back as they are."""
    import yaml  # messages need this module, and --help nothing else

    text = yaml.safe_dump(dict(values), sort_keys=False, allow_unicode=True)
    if re.search("[\x85\u2028\u2029\ufeff]", text):  # read back as other characters, unless they are written as numbers
        text = yaml.safe_dump(dict(values), sort_keys=False)
    return text
