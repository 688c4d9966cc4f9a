"""What is judged, and what a judge is shown of it: the transcript in one prompt, fenced, one turn a line, every sentence numbered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from expertchat.judging.roles import NOBODY, Role
from expertchat.records import SEATS, Speaker, Turn
from expertchat.text.sentences import number, quote, sentences


class Shown(NamedTuple):
    """An example as a judgement shows it: with the ratings that were drawn for it."""

    topic: str
    text: str
    ratings: Mapping[str, int]  # by category


@dataclass(frozen=True)
class Judgement:
    """One judgement: whose turns are judged in which dialogue of `seats`. `turn` picks a single turn; else all of the subject's count.

    For a candidate, `turns` ends with the candidate as its last turn and `turn` is that turn's index. `role` says who judges, and `place`
    is the id of what is judged, with which those of all records begin; what is only shown needs neither.

    `reference` is an answer that the judge may hold it against, `type` what kind of text it is to be, for a classifier. What is
    drawn for a judgement (the order of principles, examples and their numbers) is drawn by `draw`, whatever else is in a batch.
    """

    topic: str
    turns: tuple[Turn, ...]
    subject: Speaker
    turn: int | None = None
    categories: Mapping[str, str] = field(default_factory=dict)  # name -> description; those of the config
    seats: tuple[Speaker, ...] = SEATS
    role: Role = NOBODY
    place: str = ""
    transcript: str = ""  # its id
    candidate: str | None = None
    reference: str | None = None
    type: str | None = None
    examples: tuple[Shown, ...] = ()
    seed: int = 0  # the run's

    @property
    def key(self) -> str:
        """The id that all records of this judgement begin with: c0003/b-by-a, c0003/t02/b-by-a."""
        return f"{self.place}/{self.subject}-by-{self.role.judge}"

    @property
    def draw(self) -> str:
        """What names the draws of a judgement. All candidates of a history have one: they are compared, and no draw is to part them."""
        return f"{self.seed} {self.transcript} {self.turn} {self.subject} {self.role.judge}"

    def judged(self, index: int) -> bool:
        """Whether the turn at `index` is judged (else it is context)."""
        return self.turns[index].speaker == self.subject and self.turn in (None, index)

    @property
    def reply(self) -> str:
        """The judged text alone, as it is embedded for the WIM score."""
        return " ".join(t.text for i, t in enumerate(self.turns) if self.judged(i))

    @property
    def dialogue(self) -> str:
        """What was said, as far as the judge sees it: its language is the one to answer in."""
        return " ".join(turn.text for turn in self.shown())

    def shown(self) -> tuple[Turn, ...]:
        """The turns up to the judged one."""
        return self.turns if self.turn is None else self.turns[: self.turn + 1]

    def render(self, special_tokens: Sequence[str] = (), max_sentences: int | None = None, alike: bool = False) -> str:
        """The numbered transcript. With `max_sentences`, the oldest turns are left out, and a line says so. `alike`: nothing in it shows
        who is judged, so that it is one same text for all judges.
        """
        turns = [(i, t.speaker, quote(t.text, special_tokens)) for i, t in enumerate(self.shown())]
        sizes = [len(sentences(text)) for _, _, text in turns]
        start = 0
        while max_sentences is not None and sum(sizes[start:]) > max_sentences and start < len(turns) - 1:
            start += 1
        lines = [f"({start} oldest turns left out)"] if start else []
        n = 1
        for i, speaker, text in turns[start:]:
            marked, n = number(text, n, alike or self.judged(i))
            lines.append(f"{speaker.upper()}: {marked}")
        return "\n".join(lines)
