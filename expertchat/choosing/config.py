"""The config of `expertchat best_of_n`: what is answered, by whom, who chooses, and who judges the choice."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from expertchat.backends.served.config import ServerConfig
from expertchat.config import (
    EngineConfig,
    ExpertsConfig,
    Group,
    JudgingConfig,
    ModelConfig,
    Text,
    TopicsConfig,
)
from expertchat.lab.config import JudgeConfig, JudgesConfig, LabConfig, Unattended
from expertchat.sources.config import SourceConfig
from expertchat.trackers.config import ReportTo

CHOOSER = "chooser"  # the name of the judge that chooses
MODEL, BASE = "model", "base"  # the seats of those who write
COLUMN = "column:"
RULES = ("first_sentence", "key_phrases", "subject_line", "longest")
ASKED = "{text}"  # what stands for a row's prompt in an instruction
OF_PAIRS = ("first", "second", "own")  # planted judges that compare and give no number


class ChooseConfig(Group):
    """How one of N is chosen by its score: expertchat.choosing.choice.keys_of.

    `threshold`: of rule=threshold, the score that is enough; rule_text: what the chooser gives the rule's text.
    `temperature`: of rule=softmax, on the scale of the scores.
    """

    rule: Literal["highest", "threshold", "softmax"] = "highest"
    threshold: float | Literal["rule_text"] | None = None
    temperature: float = Field(default=1.0, gt=0)

    @model_validator(mode="after")
    def _has_its_threshold(self) -> ChooseConfig:
        if self.rule == "threshold" and self.threshold is None:
            raise ValueError("rule=threshold needs threshold: the score that is enough, or rule_text (what the rule's text is worth)")
        if self.rule != "threshold" and self.threshold is not None:
            raise ValueError(f"threshold={self.threshold} counts with rule=threshold alone; take that, or leave the threshold away")
        return self


class BestOfNConfig(Unattended):
    """`expertchat best_of_n`. `judges.chooser` chooses, all other judges judge the choice.

    `instruction`: what a table's prompt is put into, in the place of {text}. `base`: the model whose reply the choice is held against;
    None: of a model that has learned what it was before, else nobody's.
    `again`: which candidates those judges rate that rate one by one.
    """

    models_dir: Text | None = None
    view: Literal["live", "plain", "none"]
    report_to: ReportTo
    source: SourceConfig
    topics: TopicsConfig
    count: int = Field(ge=1, le=1_000_000)
    turns: int = Field(ge=0, le=100)
    context: Literal["auto", "view", "chat"] = "auto"
    instruction: Text | None = None
    model: ModelConfig
    base: ModelConfig | None = None
    n: int = Field(ge=2, le=1024)
    judges: JudgesConfig
    choose: ChooseConfig
    judging: JudgingConfig
    again: Literal["all", "chosen"] = "all"
    rule_text: Text | None = None
    cut: Literal["drop", "keep"] = "drop"
    write_pairs: bool = False
    min_margin: float = Field(default=0.0, ge=0)
    resamples: int = Field(default=2000, ge=100, le=100_000)
    engine: EngineConfig
    server: ServerConfig = ServerConfig()

    @model_validator(mode="after")
    def _goes_together(self) -> BestOfNConfig:
        if problems := [*_judge_problems(self), *_text_problems(self)]:
            raise ValueError("\n".join(problems))
        return self

    @property
    def chooser(self) -> JudgeConfig:
        return self.judges.root[CHOOSER]

    @property
    def base_model(self) -> ModelConfig | None:
        """Whose reply the choice is held against."""
        return self.base or (self.model.model_copy(update={"trained": None}) if self.model.trained is not None else None)

    @property
    def against(self) -> list[str]:
        """The texts that the choice is held against."""
        return ["first", *(["base"] if self.base_model else []), *(["rule"] if self.rule_text else [])]

    @property
    def lab(self) -> LabConfig:
        """The judges as those of `expertchat judge`."""
        return LabConfig.model_construct(
            models_dir=self.models_dir, run=self.run, view=self.view, source=self.source, judging=self.judging, judges=self.judges,
            repeats=1, engine=self.engine, server=self.server,
        )  # fmt: skip

    # -- what loading a model asks of a run's config ----------------------------------------------------------------------

    @property
    def experts(self) -> ExpertsConfig:
        """All models, by their places in the config."""
        base = {BASE: self.base_model} if self.base_model is not None else {}
        return ExpertsConfig.model_construct(root={MODEL: self.model, **base, **self.lab.experts.root})


def _judge_problems(config: BestOfNConfig) -> list[str]:
    """What is wrong with who chooses and who judges the choice."""
    judges = config.judges.root
    if CHOOSER not in judges:
        return ["judges.chooser: nobody chooses; name a judge, as chooser=expected, chooser=reward_model or chooser=truth"]
    found, chooser = list[str](), judges[CHOOSER]
    if chooser.form == "pairwise" or chooser.rule in OF_PAIRS:
        what = f"rule={chooser.rule}" if chooser.rule else "form=pairwise"
        found.append(f"judges.chooser: {what} compares two texts, but who chooses gives each a number; take chooser=expected, written, ...")
    for name, judge in judges.items():
        if judge.kind == "recorded":
            found.append(f"judges.{name}: kind=recorded knows nothing of texts that are still to be written; take another judge")
        elif name != CHOOSER and alike(judge, chooser):
            other = "expected" if chooser.kind == "truth" else "truth"
            found.append(f"judges.{name}: is the chooser itself, which would praise its own choice; take another judge, as judge={other}")
    if set(judges) == {CHOOSER}:
        found.append("judges: nobody judges the choice; name another judge, as judge=truth, judge=pairwise or judge=length")
    return found


def _text_problems(config: BestOfNConfig) -> list[str]:
    found, rule = list[str](), config.rule_text
    if rule is not None and rule not in RULES and not (rule.startswith(COLUMN) and rule != COLUMN):
        found.append(f"rule_text={rule}: is no rule; take {', '.join(RULES)}, or column:NAME of a table")
    if config.instruction is not None and ASKED not in config.instruction:
        found.append(f"instruction: holds no {ASKED}, in whose place each prompt would stand; put it where the text belongs")
    if config.instruction is not None and (not config.source.path or config.context == "view"):
        what = "context=view" if config.context == "view" else "no SOURCE"
        found.append(f"instruction: asks about the prompts of a table, shown as a chat, and here is {what}; leave it away, or name a table")
    if config.choose.threshold == "rule_text" and rule is None:
        found.append("choose.threshold=rule_text: there is no such text; name its rule, as rule_text=first_sentence")
    if not config.model.decoding.reply.varies:
        method = config.model.decoding.reply.method
        remedy = "take decoding@model.decoding=sampling"
        found.append(f"model.decoding.reply.method={method}: the {config.n} candidates of a prompt would be equal, or nearly so: {remedy}")
    if config.topics.source == "models":
        found.append("topics.source=models: nobody proposes topics here; take topics=list, topics=file, topics=embedded, or a SOURCE")
    return found


def alike(one: JudgeConfig, other: JudgeConfig) -> bool:
    """Whether two judges say the same: the same weights asked the same, or the same rule."""
    return _asked(one) == _asked(other)


def _asked(judge: JudgeConfig) -> str:
    if judge.reward_model is not None:
        return f"{judge.kind} {judge.reward_model.path}"
    if judge.model is None:
        return judge.model_dump_json(exclude={"note"})
    plain = judge.model_copy(update={"model": None, "note": None}).model_dump_json()
    return f"{weights_of(judge.model)} {judge.model.prompts} {plain}"


def weights_of(model: ModelConfig) -> str:
    """Which weights a model is, however it is loaded."""
    return f"{model.path} {model.trained or ''}".strip()
