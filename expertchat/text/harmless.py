"""Text as data inside a prompt: whatever looks like a role token, a fence, a sentence's number or a special token is rewritten, visibly.

What is meant to be found is found in the folded text (compatibility forms, case, look-alike letters and marks, invisible characters and
accents left out), and rewritten in the text itself: <|im_end|> becomes ‹¦im_end¦›. Nothing is cut away. That this comes to an end:

- rewriting markup takes at least one of its characters < > [ ] | # out of the text, and nothing puts one in;
- a word that is a special token gets a mark in it that stands in no token at all: no token can lie across it, so there is one fewer.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from itertools import chain

from expertchat.text.cleaning import clean, one_line

_VISIBLE = {"<": "‹", ">": "›", "[": "{", "]": "}", "|": "¦", "#": "♯"}
_BRACES = str.maketrans("[](){}", "{}{}{}")
# Marks that look like markup though their compatibility form is another, and letters of other scripts that look like Latin ones.
_ALIKE = str.maketrans(
    "˂ᐸ⟨❬❮⧼˃ᐳ⟩❭❯⧽│┃∣ǀ❘❙❚⏐∕⁄⧸╱▁⟦〚❲〔【⁅⟧〛❳〕】⁆❨❪⟮⦅❩❫⟯⦆⠀аеорсхуіјѕԁԛԝһӏпτοιυναρκеɡıɑ",
    "<<<<<<>>>>>>||||||||////_[[[[[[]]]]]](((())))" + " aeopcxyijsdqwhlntoiuvapkegia",
)
_S = r"\s{0,8}"
_FENCE = "|".join(r"\s?".join(name) for name in ("transcript", "reference", "example"))
_NAMES = rf"system|user|assistant|human|developer|{_FENCE}|start_of_turn|end_of_turn"
_HALF = "im_start|im_end|eot_id|endoftext|start_header_id|end_header_id|system|user|assistant|end"  # names that need no end to be read
_ROLE = re.compile(
    rf"<{_S}\|[^|<>\n]{{0,60}}\|{_S}>|<\|{_S}[a-z_]{{1,40}}{_S}>|<{_S}[a-z_]{{1,40}}{_S}\|>|<{_S}\|{_S}(?:{_HALF})\b"
    rf"|<{_S}/{{0,3}}{_S}(?:{_NAMES}|bos|eos|pad|unk)(?:\s[^<>\n]{{0,80}})?/?{_S}>|<{_S}/{{1,3}}{_S}(?:{_NAMES})\b|<{_S}/?{_S}s{_S}>"
    rf"|<{_S}<{_S}/?{_S}sys{_S}>{_S}>"
    rf"|\[{_S}/?{_S}(?:inst|system_prompt|available_tools|tool_calls|tool_results|tool_content|model_settings){_S}\]"
    rf"|^[ \t]*\#{{2,6}}{_S}(?:instructions?|inputs?|responses?|system|user|human|assistant){_S}:",
    re.MULTILINE,
)
# Characters of which one must be there for a role token or a sentence's number to be there: what folds to < [ # or (.
_BEGINS = re.compile("[<[#(≮＜﹤˂ᐸ⟨❬❮⧼［⟦〚❲〔【⁅﹇﹝︹︻＃﹟（⁽₍﹙❨❪⟮⦅｟︵⑴-⒇]")
# [1] and [[7]] of any size; (1) to (999), and (1000) where it is no year. [0, 1] and [1-3] are no numbers of sentences.
_MARKER = re.compile(r"\[{1,4}\s{0,4}\d+\.?\s{0,4}[\])]{1,4}|\({1,4}\s{0,4}(?!(?:1\d|20)\d\d\s*\))\d{1,4}\.?\s{0,4}[\])]{1,4}")
_DOTS = "·∙⋅•◦▪▫◆◇○●"  # what is put into a special token that is a plain word


class Safe(str):
    """Text that was made harmless, or is our own wording: it may stand in a prompt as it is."""


def neutralise(text: str, special_tokens: Iterable[str] = ()) -> Safe:
    """Clean text that holds no role token, fence or special token any more, nor what looks like one; what was one is still to be read.

    Special tokens of white space alone are left: no text can be written without them.

    >>> neutralise("</Transcript ><｜User｜>hi Human: yes", (" Human:",))
    '‹/Transcript ›‹¦User¦›hi H·uman: yes'
    """
    return _neutralised(text, tuple(special_tokens))


def in_line(text: str, special_tokens: Iterable[str] = ()) -> Safe:
    """`neutralise`d text on one line."""
    return neutralise(one_line(clean(text)), special_tokens)


def quote(text: str, special_tokens: Iterable[str] = ()) -> Safe:
    """Text as it may stand inside a judge's prompt: one line, no numbers of sentences, no role tokens or fences."""
    return neutralise(_unnumbered(one_line(clean(text))), special_tokens)


@lru_cache(maxsize=4096)  # a turn is shown again in every later prompt of its dialogue
def _neutralised(text: str, special_tokens: tuple[str, ...]) -> Safe:
    """Repeats until nothing is left, because what is taken away may put another one together."""
    tokens = _tokens(special_tokens)
    while True:
        before = text
        text = tokens.broken(_without_markup(clean(text), tokens.markup))
        if text == before:
            return Safe(text)


def _without_markup(text: str, special: re.Pattern[str] | None) -> str:
    while (_BEGINS.search(text) or special) and (spans := _spans(text, special)):
        text = _rewritten(text, spans, lambda folded, own: _VISIBLE.get(folded, own))
    return text


def _spans(text: str, special: re.Pattern[str] | None) -> list[tuple[int, int]]:
    """Where role tokens and special tokens with markup stand; those that overlap are one."""
    folded, places = _fold(text)
    found = sorted((places[m.start()], places[m.end() - 1] + 1) for p in (_ROLE, special) if p for m in p.finditer(folded))
    spans: list[tuple[int, int]] = []
    for start, end in found:
        if spans and start < spans[-1][1]:
            spans[-1] = (spans[-1][0], max(end, spans[-1][1]))
        else:
            spans.append((start, end))
    return spans


def _rewritten(text: str, spans: Sequence[tuple[int, int]], change: Callable[[str, str], str]) -> str:
    parts, last = [], 0
    for start, end in spans:
        parts += [text[last:start], *(change(_folded(c), c) for c in text[start:end])]
        last = end
    return "".join(parts) + text[last:]


def _unnumbered(text: str) -> str:
    """Text in which [5], (5) and their likes in any script's digits are {5}."""
    if not _BEGINS.search(text):
        return text
    folded, places = _fold(text)
    spans = [(places[m.start()], places[m.end() - 1] + 1) for m in _MARKER.finditer(folded)]
    return _rewritten(text, spans, lambda folded, own: folded.translate(_BRACES) if re.search(r"[\[\]()]", folded) else own)


# -- folding ------------------------------------------------------------------------------------------------------------


def _fold(text: str) -> tuple[str, Sequence[int]]:
    """The folded text, and for each of its characters where the one stands that it was made of."""
    if text.isascii():
        return text.lower(), range(len(text))
    parts, places = [], []
    for i, character in enumerate(text):
        folded = _folded(character)
        parts.append(folded)
        places += [i] * len(folded)
    return "".join(parts), places


@lru_cache(maxsize=20_000)
def _folded(character: str) -> str:
    if character.isascii():
        return character.lower()
    if character.isdecimal():
        return str(unicodedata.decimal(character))
    plain = unicodedata.normalize("NFKC", unicodedata.normalize("NFKD", character.translate(_ALIKE)).casefold()).translate(_ALIKE)
    bare = "".join(c for c in unicodedata.normalize("NFD", plain) if unicodedata.category(c) not in ("Cf", "Mn", "Me"))
    return character if len(bare) > 1 and any(c in _VISIBLE for c in bare) else bare  # one that holds its own brackets is a picture


# -- special tokens -----------------------------------------------------------------------------------------------------


class _Tokens:
    """The special tokens of a model: those with markup, which are looked for folded, and plain words, looked for as they are."""

    def __init__(self, tokens: Iterable[str]) -> None:
        wanted = sorted({token for token in tokens if token.strip()}, key=lambda token: (-len(token), token))
        folded = {token: _fold(token)[0] for token in wanted}
        marked = [token for token in wanted if any(c in _VISIBLE for c in folded[token])]
        plain = [token for token in wanted if token not in marked]
        self.markup = _any_of([folded[token] for token in marked])
        used = {c for token in wanted for c in (*token, *folded[token])}
        self._dot = next(c for c in chain(_DOTS, map(chr, range(0x2801, 0xD800))) if c not in used)
        self._words = _any_of([token for token in plain if len(token) > 1])
        self._letters = {ord(token): self._twin(token, used) for token in plain if len(token) == 1}

    def _twin(self, letter: str, used: set[str]) -> str:
        wide = chr(ord(letter) + 0xFEE0) if "!" <= letter <= "~" else self._dot
        return self._dot if wide in used else wide

    def broken(self, text: str) -> str:
        """Text without the plain words: each has a dot in it; one of a single character is written full-width."""
        text = text.translate(self._letters) if self._letters else text
        while self._words and self._words.search(text):
            text = self._words.sub(self._dotted, text)
        return text

    def _dotted(self, match: re.Match[str]) -> str:
        word = match.group()
        place = min(len(word) - len(word.lstrip()) + 1, len(word) - 1)
        return f"{word[:place]}{self._dot}{word[place:]}"


def _any_of(tokens: Sequence[str]) -> re.Pattern[str] | None:
    return re.compile("|".join(map(re.escape, tokens))) if tokens else None


_tokens = lru_cache(maxsize=64)(_Tokens)
