"""How a reply says what it says, whatever that is: what a policy changes where it pleases its judges and says no more."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict

from expertchat.records import Turn
from expertchat.text.agreement import agrees
from expertchat.text.likeness import blank
from expertchat.text.measures import said_again
from expertchat.text.sentences import asks, counted


class Manner(BaseModel):
    """Of a reply's sentences: how many there are, how many ask, how many begin with praise, and how many have been said before, in the
    dialogue or in the reply."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sentences: int
    questions: int
    agreements: int
    again: int


def manner(turns: Sequence[Turn], reply: str) -> Manner:
    """Count a reply to a history."""
    said = [sentence for sentence in counted(reply) if not blank(sentence)]
    again, _ = said_again(reply, [turn.text for turn in turns])
    questions = sum(map(asks, said))
    agreements = sum(agrees(sentence) and not asks(sentence) for sentence in said)
    return Manner(sentences=len(said), questions=questions, agreements=agreements, again=again)
