"""What models are taught besides preference pairs: demonstrations."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from expertchat.records.run import Record


class Demonstration(Record):
    """One reply that a model is to learn to give (SFT): TRL's conversational prompt-completion form, which `datasets` and `trl sft` read.

    `prompt`: the messages before the reply (a plain text is one message of the user), `completion`: the reply, one message of the
    assistant. `rendered`: the prompt's text as it is shown to the model, where no chat template is to be used (an instruction template).
    `part`: what it is for; choosing: the best round is chosen by it. `group`: rows of one group are alike (a topic, a type); parts are
    drawn by it. `source`: where it comes from, file:row or run:id. `score`: what a judge gave it, where one chose it.
    """

    prompt: list[dict[str, str]]
    completion: list[dict[str, str]]
    rendered: str | None = None
    part: Literal["train", "choosing", "evaluation"] = "train"
    group: str = ""
    source: str = ""
    score: float | None = None
    provenance: dict[str, str | int | float] = Field(default_factory=dict)


class Preference(Record):
    """A prompt with a reply that is to become likelier (`chosen`), one that is to become unlikelier (`rejected`), or both (a pair).

    `prompt`, `rendered`, `part`, `group` and `source` are as a Demonstration has them. `cut`: replies that the token limit ended, which
    are trained without an end. `topic`: what it is about, where that is known.
    """

    prompt: list[dict[str, str]]
    rendered: str | None = None
    chosen: str | None = None
    rejected: str | None = None
    score_chosen: float | None = None
    score_rejected: float | None = None
    cut: list[Literal["chosen", "rejected"]] = Field(default_factory=list)
    part: Literal["train", "evaluation"] = "train"
    group: str = ""
    topic: str = ""
    source: str = ""

    @property
    def pair(self) -> bool:
        """Whether both are there."""
        return self.chosen is not None and self.rejected is not None


class Step(Record):
    """One optimizer step of a model that is trained on rows, for its loss curve."""

    round: int
    step: int  # of its round, from 1
    loss: float | None
    seconds: float  # of the update so far


class Standing(Record):
    """How a held-out row (`id`) stands with the policy: log policy - log base of each reply that it has, in nats; `likelier`: whether the
    policy finds the chosen one of a pair likelier as a whole."""

    chosen: float | None = None
    rejected: float | None = None
    likelier: bool | None = None
    policy_version: int


class Sample(Record):
    """What a model writes after a prompt, before it is trained or after a round: looked at, not counted.

    `way`: how it was written (greedy, sampled). `wanted`: what the rows have there, None where it is a prompt of nobody's. `ended`:
    whether it ended by itself.
    """

    prompt: list[dict[str, str]]
    rendered: str | None = None
    way: str
    text: str
    wanted: str | None = None
    tokens: int
    ended: bool
    policy_version: int
