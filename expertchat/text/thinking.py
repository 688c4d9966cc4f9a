"""Thinking blocks in what a model wrote: what it thought, what it said, and whether it was still thinking at the end.

Known are the published forms: tags (<think>, <thinking>, <thought>, <reasoning>, <seed:think>, in any case, with attributes), special
tokens (<|begin_of_thought|>, <|START_THINKING|>, <|THINK_START|>, <|inner_prefix|>, <|channel>thought), [THINK], ◁think▷, the channels of
harmony (also as they look without their special tokens: "analysis...assistantfinal..."), "Here is my thought process:"; and all of them in
the softened characters ‹ › ¦ that prompts show. A template may open the block in the prompt, so a closing mark alone ends one that began
with the text. Text that speaks of such marks, in code, in quotation marks or in the middle of a sentence, is text.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

_PLAIN = str.maketrans("‹›¦", "<>|")  # of the same length, so that places stay
_NAME = r"(?:seed:|mm:)?(?:think(?:ing)?|thoughts?|reasoning)"
_ATTRIBUTES = r"""(?:\s+[\w:-]+\s*=\s*(?:"[^"<>]*"|'[^'<>]*'|[^\s<>"']+))*"""
_HEADER = r"(?:<\|start\|>\s*assistant\s*)?<\|channel\|>\s*"  # of harmony
_MARK = re.compile(
    rf"(?P<empty><{_NAME}{_ATTRIBUTES}\s*/>)"
    rf"|(?P<open><{_NAME}{_ATTRIBUTES}\s*>)|(?P<close></\s?{_NAME}\s*>)"
    r"|(?P<bracket>\[think\]|\{think\})|(?P<unbracket>\[/think\]|\{/think\})"
    rf"|(?P<begin><\|{_NAME}\|>|<\|begin_of_thought\|>|<\|start_thinking\|>|<\|think_start\|>|<\|inner_prefix\|>|◁ ?think▷"
    rf"|<\|channel>\s*thought\b|<\|open\|>think<\|sep\|>|{_HEADER}(?!final)\w+[^<]*<\|message\|>)"
    rf"|(?P<end><\|/{_NAME}\|>|<\|end_of_thought\|>|<\|end_thinking\|>|<\|think_end\|>|<\|inner_suffix\|>|◁ ?/think▷"
    rf"|<channel\|>|<\|close\|>think<\|sep\|>|{_HEADER}final[^<]*<\|message\|>)",
    re.IGNORECASE,
)
# Of harmony without its special tokens: a channel's name glued to what is written there. And of Granite, which writes plain sentences.
_BARE = re.compile(r"\s*(?:analysis|commentary)(?=\S)")
_BARE_FINAL = re.compile(r"assistantfinal")
_ONLY_FINAL = re.compile(r"\s*final(?=[A-Z])")
_PROCESS = re.compile(r"\s*here(?:'s|’s| is) my thought process:", re.IGNORECASE)
_RESPONSE = re.compile(r"\bhere(?:'s|’s| is) my response:", re.IGNORECASE)
# What goes round the answer of a model that has thought, and is no part of it.
_AROUND = re.compile(
    r"<\|(?:begin_of_solution|end_of_solution|start_response|end_response|return|end|call)\|>|<\|open\|>response<\|sep\|>"
    r"|<\|close\|>response<\|sep\|>",
    re.IGNORECASE,
)
_WRAPPED = re.compile(r"(\s*)<(answer|response|output)>(.*?)(?:</\2>)?(\s*)", re.IGNORECASE | re.DOTALL)
_BEFORE = re.compile(r"[\w,;(] $")  # in the middle of a sentence a mark has this before it
_AFTER = re.compile(r" [a-z(]|[,;)]|[.?!](?:\s|$)")  # and this behind it
_QUOTES = {'"': '"', "'": "'", "“": "”", "‘": "’", "„": "“", "«": "»", "`": "`"}
# How marks may begin, for a text that is not whole yet.
_NAMES = ("think", "thinking", "thought", "thoughts", "reasoning", "seed:think", "mm:think")
_ENDS = (("<", ">"), ("</", ">"), ("<|", "|>"), ("<|/", "|>"))
_BEGINNINGS = (
    *(f"{begin}{name}{end}" for name in _NAMES for begin, end in _ENDS),
    "[think]", "[/think]", "{think}", "{/think}", "◁think▷", "◁/think▷", "<|begin_of_thought|>", "<|end_of_thought|>", "<|start_thinking|>",
    "<|end_thinking|>", "<|think_start|>", "<|think_end|>", "<|inner_prefix|>", "<|inner_suffix|>", "<|channel>thought", "<channel|>",
    "<|open|>think<|sep|>", "<|close|>think<|sep|>", "<|channel|>", "<|start|>assistant<|channel|>", "<|begin_of_solution|>",
    "<|end_of_solution|>", "<|start_response|>", "<|end_response|>", "<|return|>", "<|end|>",
)  # fmt: skip
_WORDS = ("analysis", "commentary", "final", "here is my thought process:", "here's my thought process:")
_LONGEST = 200  # characters of a mark that is not whole, at most: attributes


@dataclass(frozen=True)
class Split:
    """A text taken apart. `said` is what stands outside all blocks, as it was written; `thinking` what stands in them.

    `open`: a block was begun and not ended. `found`: there was a block, perhaps an empty one.
    """

    thinking: str
    said: str
    open: bool = False
    found: bool = False


@dataclass(frozen=True)
class _Mark:
    """`kind`: open, close, or empty (both). `told`: it stands where text would speak of it. `small`: [think], not [THINK], or a sentence.

    Those count only where another mark says so, and a `quoted` one never.
    """

    start: int
    end: int
    kind: str
    told: bool = False
    small: bool = False
    quoted: bool = False

    @property
    def unsure(self) -> bool:
        return self.told or self.small


@dataclass
class _Block:
    """A block from its first mark to the end of its last one; what was thought stands from `inner` to `outer`."""

    start: int
    inner: int
    outer: int = -1
    end: int = -1


def split(text: str, opened: bool = False, announces: bool = False) -> Split:
    """What a text thinks and what it says. `opened`: the prompt ended inside a block, which the text begins in. `announces`: its model was
    asked to think, so that "Here is my thought process:" begins a block that may have been cut; else a response must follow.

    >>> split("<think>7 or 8?</think> 8").said, split("<think>hm").open, split("Hm.</think>8").thinking
    (' 8', True, 'Hm.')
    """
    found = _once(text, opened, announces)
    while found.found and (again := _once(found.said)).found:  # what is left may have grown together to another mark
        thinking = "\n\n".join(part for part in (found.thinking, again.thinking) if part)
        found = Split(thinking, again.said, found.open or again.open, True)
    return found


def _once(text: str, opened: bool = False, announces: bool = False) -> Split:
    blocks, still = _blocks(text, opened, announces=announces)
    return _taken_apart(text, blocks, still)


def so_far(text: str, opened: bool = False) -> Split:
    """The same of a text that is still being written: the beginning of a mark at its end is neither said nor thought yet.

    A mark that may yet turn out to be one is taken for one: nothing that is thought shows as said, unless the block's own beginning is
    not in the text.
    """
    text = text[: len(text) - _unfinished(text)]
    blocks, still = _blocks(text, opened, growing=True)
    return _taken_apart(text, blocks, still)


def first_stop(text: str, stops: Iterable[str], opened: bool = False, whole: bool = False) -> int | None:
    """Where the first stop string outside of all thinking begins, or None. A text that is not `whole` may still be growing: a mark that
    may yet turn out to begin a block is taken for one."""
    stops = [stop for stop in stops if stop in text]
    if not stops:
        return None
    spans = [(block.start, block.end) for block in _blocks(text, opened, growing=not whole)[0]]
    places = [place for stop in stops if (place := _outside(text, stop, spans)) is not None]
    return min(places, default=None)


def count_words(text: str) -> int:
    """How many words a text has, as it is shown beside folded thinking."""
    return len(text.split())


_SWITCH = re.compile(r"\b(?:enable_thinking|add_thinking|use_thinking|enable_reasoning|thinking_budget|reasoning_effort|thinking)\b")
_EXPRESSIONS = re.compile(r"\{[%{](.*?)[%}]\}", re.DOTALL)
_LITERAL = re.compile(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"")


def template_thinks(source: str) -> str | None:
    """What the source of a chat template says of thinking, in words: its switch, or the block that it opens; None where it says nothing.

    >>> template_thinks("{% if enable_thinking is false %}x{% endif %}")
    "can think: asked not to by its chat template's enable_thinking, unless experts.*.thinking=true"
    """
    code = " ".join(_LITERAL.sub("''", part) for part in _EXPRESSIONS.findall(source))
    if (switch := _SWITCH.search(code)) is not None:
        return f"can think: asked not to by its chat template's {switch.group()}, unless experts.*.thinking=true"
    _, _, prompt = source.rpartition("add_generation_prompt")
    if prompt and any(mark.kind == "open" and not mark.small for mark in _marks(prompt.replace("\\n", "\n"))):
        return "thinks: its chat template opens a thinking block, which is closed at once unless experts.*.thinking=true"
    if any(mark.kind != "empty" for mark in _marks(source) if not mark.small):
        return "may think: its chat template knows thinking blocks but no switch; what it thinks is kept apart"
    return None


def _outside(text: str, stop: str, spans: Sequence[tuple[int, int]]) -> int | None:
    place = text.find(stop)
    while place >= 0:
        inside = next((end for start, end in spans if start <= place < end), None)
        if inside is None:
            return place
        place = text.find(stop, max(inside, place + 1))
    return None


def _taken_apart(text: str, blocks: Sequence[_Block], still: bool) -> Split:
    if not blocks:
        return Split("", text)
    said, thought, last = [], [], 0
    for block in blocks:
        said.append(text[last : block.start])
        thought.append(_bared(text[block.inner : block.outer]).strip())
        last = block.end
    rest = _bared("".join(said) + text[last:])
    if wrapped := _WRAPPED.fullmatch(rest):
        rest = wrapped[1] + wrapped[3] + wrapped[4]
    return Split("\n\n".join(part for part in thought if part), rest, still, True)


def _bared(text: str) -> str:
    """The text without what goes round it."""
    kept, last = "", 0
    for found in _AROUND.finditer(text.translate(_PLAIN)):
        kept, last = kept + text[last : found.start()], found.end()
    return kept + text[last:]


# -- marks and blocks ---------------------------------------------------------------------------------------------------


def _blocks(text: str, opened: bool, growing: bool = False, announces: bool = False) -> tuple[list[_Block], bool]:
    """The blocks of a text in their order, and whether the last one has no end.

    A block ends with the first closing mark. One more closing mark belongs to a block round it, which began with the last one if opening
    marks stood in that, and else with the text.
    """
    blocks: list[_Block] = []
    now = _Block(0, 0) if opened else None
    nested = 0
    marks = _marks(text, announces)
    for i, mark in enumerate(marks):
        if now is None:
            now, nested = _outside_block(blocks, mark, marks[i + 1 :], nested, growing)
        elif mark.kind == "open":
            nested += not mark.quoted
        elif mark.kind == "close" and not mark.quoted:
            now.outer, now.end = mark.start, mark.end
            blocks.append(now)
            now = None
    if now is None:
        return blocks, False
    now.outer = now.end = len(text)
    return [*blocks, now], True


def _outside_block(
    blocks: list[_Block], mark: _Mark, later: Sequence[_Mark], nested: int, growing: bool
) -> tuple[_Block | None, int]:
    """What a mark does where no block is open: (the block that it opens, opening marks inside the last block that wait for their end)."""
    if mark.quoted:
        return None, nested
    if mark.kind == "empty":
        blocks.append(_Block(mark.start, mark.end, mark.end, mark.end))
        return None, 0
    if mark.kind == "open":
        certain = not mark.unsure or growing or any(one.kind == "close" and not one.told and not one.quoted for one in later)
        return (_Block(mark.start, mark.end), 0) if certain else (None, nested)
    if mark.unsure and not nested:
        return None, 0
    if nested and blocks:
        blocks[-1].outer, blocks[-1].end = mark.start, mark.end
        return None, nested - 1
    blocks[:] = [_Block(0, 0, mark.start, mark.end)]
    return None, 0


def _marks(text: str, announces: bool = False) -> list[_Mark]:
    """All marks in their order."""
    plain = text.translate(_PLAIN)
    marks = [_mark(plain, found) for found in _MARK.finditer(plain)]
    if (bare := _bare(plain, announces)) is not None:
        marks = sorted([*bare, *marks], key=lambda mark: mark.start)
    return marks


def _bare(plain: str, announces: bool) -> list[_Mark] | None:
    """The marks of a text that begins with the name of a channel, or with a sentence that announces thoughts."""
    if begun := _PROCESS.match(plain):
        ends = [_Mark(found.start(), found.end(), "close") for found in _RESPONSE.finditer(plain)]
        return [_Mark(begun.start(), begun.end(), "open", small=not announces), *ends]  # anybody may begin a reply so
    if only := _ONLY_FINAL.match(plain):
        return [_Mark(only.start(), only.end(), "empty")]
    begun, final = _BARE.match(plain), _BARE_FINAL.search(plain)
    if begun is None:
        return None
    letter = plain[begun.end()]
    if final is None and not (letter in '"“' or (letter.isalpha() and not letter.islower())):  # no word of English goes on like this
        return None
    return [_Mark(begun.start(), begun.end(), "open"), *([_Mark(final.start(), final.end(), "close")] if final else [])]


def _mark(plain: str, found: re.Match[str]) -> _Mark:
    start, end, kind = found.start(), found.end(), found.lastgroup or ""
    if kind in ("begin", "end"):
        return _Mark(start, end, "open" if kind == "begin" else "close")
    does = {"bracket": "open", "unbracket": "close"}.get(kind, kind)
    before, after = plain[max(0, start - 1) : start], plain[end : end + 1]
    spoken_of = _in_code(plain, start, end) or (bool(after) and _QUOTES.get(before) == after)
    quoted = before == after == "`" or (does != "close" and spoken_of)
    told = _BEFORE.search(plain[max(0, start - 2) : start]) is not None and _AFTER.match(plain, end) is not None
    small = kind in ("bracket", "unbracket") and not found.group().isupper()  # "[thinking]" is how a play says what its people do
    return _Mark(start, end, does, told or spoken_of, small, quoted)


def _in_code(plain: str, start: int, end: int) -> bool:
    """Whether a place lies between two back quotes of its line, or between two fences."""
    line, stop = plain.rfind("\n", 0, start) + 1, plain.find("\n", end)
    rest = plain[end:] if stop < 0 else plain[end:stop]
    if plain.count("`", line, start) % 2 and "`" in rest:
        return True
    return plain.count("```", 0, start) % 2 == 1 and "```" in plain[end:]


def _unfinished(text: str) -> int:
    """How many characters at the end of a growing text may be the beginning of a mark."""
    plain = text[-_LONGEST:].translate(_PLAIN).lower()
    if len(text) <= _LONGEST and (whole := plain.strip()) and any(word.startswith(whole) for word in _WORDS):
        return len(text)
    for at in (i for i, c in enumerate(plain) if c in "<[{◁"):
        tail = plain[at:]
        if any(mark.startswith(tail) for mark in _BEGINNINGS) or _begun(tail):
            return len(plain) - at
    return 0


_WITH_ATTRIBUTES = re.compile(rf"<{_NAME}\s[^<>]*$")
_IN_HEADER = re.compile(r"(?:<\|start\|>\s*assistant\s*)?<\|channel\|>[^<]{0,40}(?:<\|?m?e?s?s?a?g?e?\|?)?$")


def _begun(tail: str) -> bool:
    return _WITH_ATTRIBUTES.match(tail) is not None or _IN_HEADER.match(tail) is not None
