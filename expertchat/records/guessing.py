"""What those who took part in a dialogue say afterwards: who of the others was a human."""

from __future__ import annotations

from pydantic import Field

from expertchat.records.run import Record, Speaker


class Guess(Record):
    """Whether `guesser` takes `subject` for a human; None: no answer, and why.

    Of a model `chance` is the share that "a human" has of the probability of both answers, and `mass` what these hold together. `reason`:
    why, in the guesser's own words. `is_human`: what is true.
    """

    transcript: str
    guesser: Speaker
    subject: Speaker
    is_human: bool
    human: bool | None = None
    chance: float | None = Field(default=None, ge=0, le=1)
    mass: float | None = Field(default=None, ge=0, le=1)
    reason: str = ""
    problem: str | None = None
    fault: str | None = None  # the kind of a null, as a rating has it
