"""What `best_of_n` keeps of a prompt besides its history (a transcript) and its candidates."""

from __future__ import annotations

from pydantic import Field

from expertchat.records.run import Record, Speaker


class Prompt(Record):
    """What is answered: the turns of the transcript with the same id, which `subject` answers next.

    `origin`: the topic's place, the item or the row that it comes from. `lead`: turns that the model makes up first, of a dialogue on the
    topic. `group`: prompts of one group are alike (a topic, a dialogue). `rule_text`: what a column of the table has for a rule's text.
    `source`: the digest of what was read.
    """

    origin: str
    subject: Speaker
    group: str
    source: str
    lead: int = 0
    reference: str | None = None
    rule_text: str | None = None


class Selection(Record):
    """What became of one prompt (`id`). Candidates go by their places, 0 to n - 1.

    `scores`: by judge, what each candidate is worth to it, the chooser's among them; None: it does not say. `others`: by judge, what the
    texts are worth that the choice is held against, and `texts` those themselves. `duels`: by judge that compares, "3-base" -> 1 (the
    candidate won), 0.5, 0 or None. `keys`: the highest of the first N is chosen; None: it cannot be. `chosen`: the choice of the first N,
    for each N of `sizes`.
    """

    sizes: list[int]
    chosen: list[int | None]
    keys: list[float | None]
    scores: dict[str, list[float | None]]
    others: dict[str, dict[str, float | None]] = Field(default_factory=dict)
    duels: dict[str, dict[str, float | None]] = Field(default_factory=dict)
    texts: dict[str, str] = Field(default_factory=dict)
    same: list[int] = Field(default_factory=list)  # for each candidate, the first one that says the same
    like: dict[str, list[int]] = Field(default_factory=dict)  # by text that it is held against, the candidates that say the same
    opinions: int = 0  # that judges gave for it
    problem: str | None = None  # why nothing is chosen, or nothing was drawn
