"""Text by a model is data: splitting it into sentences, numbering them, and making it harmless inside a prompt."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

_SENTENCE = re.compile(r"(?<=[.!?])[\"')\]]*\s+")
_SPACES = re.compile(r"\s+")
_MARKER = re.compile(r"[\[(](\d{1,3})[\])]")
# What no model text may carry into a prompt: role tokens of the known templates, turn and fence tags.
_ROLE = re.compile(
    r"<\|[^|<>]{0,40}\|>|<</?SYS>>|\[/?INST\]|</?s>|<(?:start|end)_of_turn>|</?transcript>|</?(?:system|user|assistant)>",
    re.IGNORECASE,
)
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff]")


def clean(text: str) -> str:
    """Text without control and invisible characters, so that it cannot steer a terminal (newlines and tabs stay)."""
    return _CONTROL.sub("", text.replace("\r\n", "\n").replace("\r", "\n"))


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


def neutralise(text: str, special_tokens: Iterable[str] = ()) -> str:
    """Text that holds no role token, fence or special token any more; what was one is shown in ‹ › or ( )."""
    return _neutralised(text, tuple(special_tokens))


@lru_cache(maxsize=4096)  # a turn is shown again in every later prompt of its dialogue
def _neutralised(text: str, special_tokens: tuple[str, ...]) -> str:
    """Repeats until nothing is left, because removing a token may put another one together."""
    text = clean(text)
    special = sorted((t for t in special_tokens if t.strip() and len(t) > 2), key=len, reverse=True)
    while True:
        before = text
        text = _ROLE.sub(_defang, text)
        for token in special:
            text = text.replace(token, _defang_text(token))
        if text == before:
            return text


def _defang(match: re.Match[str]) -> str:
    return _defang_text(match.group())


def _defang_text(token: str) -> str:
    changed = token.translate(str.maketrans("<>[]|", "‹›{}¦"))
    return changed if changed != token else token[0] + " " + token[1:]


def one_line(text: str) -> str:
    """All white space folded to single spaces: a turn in a judged transcript is one line, so it cannot fake a speaker."""
    return _SPACES.sub(" ", text).strip()


def quote(text: str, special_tokens: Iterable[str] = ()) -> str:
    """Model text as it may stand inside a judge's prompt: one line, no sentence markers, no role tokens or fences."""
    return one_line(_MARKER.sub(r"{\1}", neutralise(text, special_tokens)))


def sentences(text: str) -> list[str]:
    """The sentences of one line of text; the last one may lack its full stop."""
    return [s for s in (part.strip() for part in _SENTENCE.split(one_line(text))) if s]


def number(text: str, start: int, judged: bool) -> tuple[str, int]:
    """Sentences with a marker after each, `[n]` where judged and `(n)` where context; returns the next free number."""
    parts = []
    for sentence in sentences(text):
        parts.append(f"{sentence} [{start}]" if judged else f"{sentence} ({start})")
        start += 1
    return " ".join(parts), start


def as_yaml(values: Mapping[str, Any]) -> str:
    """Plain values as YAML text that is read back as they are."""
    import yaml  # messages need this module, and --help nothing else

    text = yaml.safe_dump(dict(values), sort_keys=False, allow_unicode=True)
    if re.search("[\x85\u2028\u2029\ufeff]", text):  # read back as other characters, unless they are written as numbers
        text = yaml.safe_dump(dict(values), sort_keys=False)
    return text
