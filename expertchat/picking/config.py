"""The config of `expertchat pick`: which texts, in which orders, and who picks."""

from __future__ import annotations

import string
from collections.abc import Iterator
from itertools import permutations
from typing import Literal

from pydantic import Field, model_validator

from expertchat.backends.served.config import ServerConfig
from expertchat.config import EngineConfig, ExpertsConfig, ModelConfig, Text
from expertchat.lab.config import Unattended
from expertchat.sources.config import SourceConfig
from expertchat.trackers.config import ReportTo

JUDGE = "judge"  # the seat of the model that picks
LETTERS = "ABCD"
PLACES = {"texts", "said", "question", "lines", "letters"}


class PickConfig(Unattended):
    """`expertchat pick`. `texts`: the columns whose texts stand side by side. `orders`: all in which these can stand, or those that turn
    them round (each text once in each place). `rule`: a picker with a known defect in a model's place. `min_mass`: where the letters hold
    less of the probability than this, nothing is picked."""

    models_dir: Text | None = None
    view: Literal["live", "plain", "none"]
    report_to: ReportTo
    source: SourceConfig
    texts: list[Text] = Field(min_length=2, max_length=len(LETTERS))
    orders: Literal["all", "turned"] = "all"
    model: ModelConfig | None = None
    rule: Literal["first", "last", "longest", "shortest", "random"] | None = None
    system: Text
    prompt: Text
    question: Text
    answer: Text
    min_mass: float = Field(default=0.5, ge=0, le=1)
    resamples: int = Field(default=2000, ge=100, le=100_000)
    engine: EngineConfig
    server: ServerConfig = ServerConfig()

    @model_validator(mode="after")
    def _goes_together(self) -> PickConfig:
        problems = list(self._problems())
        if problems:
            raise ValueError("\n".join(problems))
        return self

    def _problems(self) -> Iterator[str]:
        if len(set(self.texts)) < len(self.texts):
            yield f"texts={self.texts}: names a column twice; name each once"
        if self.model is not None and self.rule is not None:
            yield f"rule={self.rule}: picks in the place of a model, and there is one too; leave one of them away"
        try:
            used = {name for _, name, _, _ in string.Formatter().parse(self.prompt) if name is not None}
        except ValueError as error:
            yield f"prompt: {error} (double a brace that is meant as text)"
            return
        if unknown := sorted(used - PLACES):
            yield f"prompt: uses unknown {unknown}; filled in are {', '.join(sorted(PLACES))}"
        if lacking := sorted({"texts", "lines"} - used):
            yield f"prompt: lacks {{{'} and {'.join(lacking)}}}, without which nobody can pick"

    @property
    def all_orders(self) -> list[tuple[str, ...]]:
        """The orders that are asked, that of `texts` first.

        Turned, of (a, b, c): (a, b, c), (c, a, b), (b, c, a).
        """
        k = len(self.texts)
        if self.orders == "all":
            return list(permutations(self.texts))
        return [tuple(self.texts[(i - n) % k] for i in range(k)) for n in range(k)]

    # -- what loading a model asks of a run's config ----------------------------------------------------------------------

    @property
    def experts(self) -> ExpertsConfig:
        return ExpertsConfig.model_construct(root={JUDGE: self.model} if self.model is not None else {})
