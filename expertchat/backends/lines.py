"""What runs in a lane: branches (replies in the making) and lines (rows of a slab, with one branch or several)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from expertchat.backends.base import Decoding, GenerateRequest
from expertchat.backends.kept import SIZE, Context
from expertchat.backends.ngrams import Ngrams
from expertchat.backends.scoring import SHARED, common_prefix
from expertchat.backends.streaming import Row

TAIL = 8  # tokens that may follow a shared context for requests to share a line; they are fed one a step
WIDEST = 16  # branches of a line at most


@dataclass(eq=False)
class Branch:
    """One reply in the making: `ids` are the prompt and what is written so far, of which `fed` tokens have gone through the model."""

    ticket: int
    request: GenerateRequest
    ids: list[int]
    row: Row
    noise: Sequence[float]
    on_text: Callable[[str], None] | None = None
    fed: int = 0
    places: list[int] = field(default_factory=list)  # of the tokens after the shared context
    began: float = 0.0
    shown: str = ""
    ngrams: Ngrams | None = None

    @cached_property
    def decoding(self) -> Decoding:
        """How its words are chosen from their logits: equal for branches that differ in their limits and stop strings alone."""
        return replace(self.request.decoding, max_new_tokens=0, stop=())

    def ruled_out(self, free: Collection[int]) -> set[int]:
        """Words that would repeat a run of tokens; none of `free`."""
        if self.ngrams is None:
            self.ngrams = Ngrams(self.request.decoding.no_repeat_ngram, free)
        return self.ngrams.ruled_out(self.ids)

    def announce(self, last: bool = False) -> str:
        text = self.row.text(last)
        if self.on_text is not None and text != self.shown:
            self.shown = text
            self.on_text(text)
        return text


@dataclass(eq=False)
class Line:
    """`shared` tokens of context, then the branches' own."""

    shared: int
    branches: list[Branch]

    @property
    def context(self) -> Context:
        first = self.branches[0]
        return Context(first.ids[: self.shared], first.request.key)


def grouped(wave: Sequence[Branch], alone: bool = False) -> list[Line]:
    """Lines for the branches, in the order of their tickets: equal or nearly equal prompts share one, unless each is to stand `alone`."""
    lines: list[Line] = []
    for branch in sorted(wave, key=lambda branch: branch.ids):
        line = lines[-1] if lines and not alone else None
        if line is None or len(line.branches) >= WIDEST or not _take_in(line, branch):
            lines.append(Line(len(branch.ids), [branch]))
    return sorted(lines, key=lambda line: min(branch.ticket for branch in line.branches))


def _take_in(line: Line, branch: Branch) -> bool:
    """Add a branch to a line if their prompts are equal, or differ in a few tokens at the end."""
    first = line.branches[0].ids
    shared = line.shared
    if first != branch.ids or len(first) != shared:
        # Not the whole of any prompt: each branch needs a token of its own to begin with.
        shortest = min(len(first), len(branch.ids), *(len(b.ids) for b in line.branches))
        shared = min(common_prefix([first[:shared], branch.ids]), shortest - 1)
        longest = max(len(branch.ids), *(len(b.ids) for b in line.branches))
        if shared < SHARED or longest - shared > TAIL:
            return False
    line.shared = shared
    line.branches.append(branch)
    return True


def first_of(lines: Sequence[Line], new_tokens: Callable[[Line], int]) -> tuple[list[Line], list[Line]]:
    """Lines to compute now, and those that wait because one of the former has a long beginning in common that is not kept yet."""
    now: list[Line] = []
    later: list[Line] = []
    seen: set[tuple[int, ...]] = set()
    for line in lines:
        ids = line.branches[0].ids
        start = line.shared - new_tokens(line)
        beginnings = {tuple(ids[: start + SIZE * n]) for n in (4, 16) if start + SIZE * n < line.shared}
        (later if beginnings & seen else now).append(line)
        seen |= beginnings
    return now, later


def even_batches(lines: Sequence[Line], size: Callable[[Line], int]) -> list[list[Line]]:
    """Lines in batches with about equally many new tokens: little of a pass is padding."""
    batches: list[list[Line]] = []
    for new, line in sorted(((size(line), line) for line in lines), key=lambda pair: -pair[0]):
        longest = size(batches[-1][0]) if batches else 0
        if batches and (new >= 0.6 * longest or longest <= 2 * SIZE):
            batches[-1].append(line)
        else:
            batches.append([line])
    return batches
