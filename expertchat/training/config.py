"""The config of `expertchat online_dpo`, `rloo` and `grpo`: one pydantic model for each of its groups. Nothing here imports torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import gcd
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from expertchat.backends.served.config import ServerConfig
from expertchat.config import (
    LEAST_TEMPERATURE,
    LEAST_TOP_P,
    MOST_MIN_P,
    ConversationConfig,
    EmbedderConfig,
    EngineConfig,
    ExpertsConfig,
    Group,
    JudgeName,
    ModelConfig,
    RewardModelConfig,
    RunConfig,
    Text,
    TopicsConfig,
)
from expertchat.evaluation.config import EvaluationConfig
from expertchat.judging.fits import judging_problems
from expertchat.preferences import functions
from expertchat.preferences.config import CandidateJudging, CandidatesConfig, PairsConfig, ProgramName, RewardConfig, Rules
from expertchat.records import Speaker
from expertchat.talk.config import talk_problems
from expertchat.talk.order import by_turns, opener_of
from expertchat.text.measures import PROGRAMS
from expertchat.trackers.config import ReportTo
from expertchat.training.method import METHODS, methods

LossName = Literal[
    "sigmoid", "hinge", "ipo", "exo_pair", "nca_pair", "robust", "bco_pair", "sppo_hard", "apo_zero", "apo_down", "discopop", "sft",
    "sigmoid_norm",
]  # fmt: skip


class UpdateConfig(Group):
    """What every training method is told. `batch` rows a step over all processes, `micro_batch` of them at a time.

    `update`: the training method. `method`: which weights are trained.
    """

    takes: ClassVar[tuple[str, ...]] = ("pairs",)  # what the rows of its methods are made of: see expertchat.training.method.Entry

    update: Text
    method: Literal["lora", "full", "last_layer"]
    targets: Annotated[list[Text], Field(default_factory=list)]  # names of linear layers; empty: those of the model's family
    rank: int = Field(ge=1, le=1024)
    alpha: int = Field(ge=1)
    dropout: float = Field(ge=0, lt=1)
    batch: int = Field(ge=1)
    micro_batch: int = Field(ge=1)
    epochs: int = Field(ge=1)
    learning_rate: float = Field(gt=0)
    schedule: Literal["constant", "linear", "cosine"]
    warmup_rounds: float = Field(ge=0)
    weight_decay: float = Field(ge=0)
    max_grad_norm: float = Field(gt=0)
    max_tokens: int | None = Field(default=None, ge=16)  # of a prompt with its reply; longer rows are dropped and counted
    checkpointing: bool
    sharding: Literal["pipeline", "ddp", "fsdp"]

    @model_validator(mode="before")
    @classmethod
    def _takes_such_rows(cls, values: Any) -> Any:
        """Before its keys are looked at, which are other ones."""
        name = values.get("update") if isinstance(values, Mapping) else None
        if name in METHODS and METHODS[name].takes not in cls.takes:
            command = {"pairs": "online_dpo", "judged": "dpo"}.get(METHODS[name].takes, name)
            raise ValueError(f"update={name} is of another command, expertchat {command}; here take {' or '.join(methods(*cls.takes))}")
        return values

    @property
    def rows(self) -> str:
        """What its rows are made of, as figures of a round count them: pairs, groups, shown, judged."""
        return METHODS[self.update].takes

    @model_validator(mode="after")
    def _fits(self) -> UpdateConfig:
        if problems := [*self._problems()]:
            raise ValueError("\n".join(problems))
        return self

    def _problems(self) -> Iterator[str]:
        """What does not go together."""
        if self.update not in METHODS:
            yield f"train.update={self.update} is no training method: take {' or '.join(methods(*self.takes))}"
        if self.batch % self.micro_batch:
            yield f"train.batch={self.batch}: no multiple of train.micro_batch={self.micro_batch}; take {gcd(self.batch, self.micro_batch)}"
        if self.dropout and self.method != "lora":
            yield f"train.dropout={self.dropout:g} is that of LoRA adapters; with train.method={self.method} set train.dropout=0"


class TrainConfig(UpdateConfig):
    """The update of a round by DPO; the rows are preference pairs."""

    update: Text = "dpo"
    loss: Annotated[list[LossName], Field(min_length=1)]
    loss_weights: list[float] | None = None
    beta: float = Field(gt=0)
    label_smoothing: float = Field(ge=0, lt=0.5)
    reference: Literal["base", "round_start"]

    def _problems(self) -> Iterator[str]:
        yield from super()._problems()
        if self.loss_weights is not None and len(self.loss_weights) != len(self.loss):
            yield f"train.loss_weights has {len(self.loss_weights)} numbers for {len(self.loss)} losses"
        if self.reference == "round_start" and self.method != "lora":
            yield f"train.reference=round_start needs train.method=lora; with {self.method} the only copy kept is the base"
        if "exo_pair" in self.loss and not self.label_smoothing:
            yield "train.loss=exo_pair needs train.label_smoothing > 0 (the paper's value is 0.001)"
        if self.label_smoothing and {"exo_pair", "robust"}.isdisjoint(self.loss):
            yield f"train.label_smoothing={self.label_smoothing:g} has no effect with train.loss=[{','.join(self.loss)}]: take robust, or 0"


class PolicyGradientTrain(UpdateConfig):
    """The update of a round by RLOO or GRPO; the rows are histories with all their candidates.

    `baseline`: what a reward is held against, the other replies to the same history or all of the expert who speaks in the round. `scale`:
    over whose standard deviation it is divided. `cut`: replies that the token limit cut are trained as far as they go, or not.
    """

    takes: ClassVar[tuple[str, ...]] = ("groups",)

    update: Text
    baseline: Literal["group", "role"]
    scale: Literal["group", "role"] | None
    epsilon: float = Field(gt=0)
    epsilon_high: float | None = Field(default=None, gt=0)  # None: as epsilon
    beta: float = Field(ge=0)  # rloo: taken off the reward for each nat of log policy - log base; grpo: the weight of the KL in the loss
    normalise: Literal["reply", "tokens", "constant"] | None = None  # grpo: see expertchat.training.grpo
    reply_tokens: int = Field(default=64, ge=1)  # normalise=constant: what the sum over a reply's tokens is divided by
    cut: Literal["no_end", "mask"]

    @property
    def clip(self) -> tuple[float, float]:
        """How far below and above 1 a ratio of probabilities counts."""
        return self.epsilon, self.epsilon if self.epsilon_high is None else self.epsilon_high

    def _problems(self) -> Iterator[str]:
        yield from super()._problems()
        if self.update == "rloo" and self.normalise is not None:
            yield f"train.normalise={self.normalise} has no effect with train.update=rloo, to which a whole reply is one action; set null"
        if self.update == "grpo" and self.normalise is None:
            yield "train.normalise=null: train.update=grpo needs one of reply, tokens, constant"
        if (self.baseline, self.scale) == ("role", "group"):  # what is divided is then no part of that spread
            yield "train.baseline=role with train.scale=group divides by almost 0 where rewards are alike; set train.scale=role or null"
        if self.epsilon >= 1:
            yield f"train.epsilon={self.epsilon:g} clips nothing: a ratio of probabilities is never below 0; take less than 1 (usual: 0.2)"


class GuardsConfig(Group):
    """Limits that a round is held against; None: not watched. A length is held against that of the base's replies."""

    max_kl: float | None = Field(default=None, gt=0)  # nats a reply
    max_length_ratio: float | None = Field(default=None, gt=1)
    min_distinct_2: float | None = Field(default=None, ge=0, le=1)
    max_null_rate: float | None = Field(default=None, ge=0, le=1)
    max_parrot_rate: float | None = Field(default=None, ge=0, le=1)
    action: Literal["note", "lower", "stop"]  # lower: see expertchat.training.guards
    worse: float = Field(default=1.25, gt=1)  # lower: again where a figure is this many times as bad as when the rate was lowered last
    lowest: float = Field(default=0.0625, gt=0, le=1)  # lower: the least share of the learning rate


class SinglePrompts(Group):
    """A file of single prompts in the place of dialogues on topics (expertchat.training.single); None: dialogues. `type`: the column that
    says what kind of reply a prompt asks for, by which a classifier judges (reward_model.label=type); None: one called so."""

    file: Text | None = None
    column: Text | None = None
    type: Text | None = None


class OnlineConfig(Group):
    """What all commands have whose experts learn round by round from what they have just said. `learner`: who is trained. all (of two also
    both): every expert by turns, a round each; one: one policy that plays them all."""

    models_dir: Text | None = None
    run: RunConfig
    view: Literal["live", "plain", "none"]
    show_thinking: bool = False
    report_to: ReportTo
    arm: Text | None = None  # what this run is called in a table of several
    experts: ExpertsConfig
    third: ModelConfig | None = None
    moderator: ModelConfig | None = None
    learner: Text
    rounds: int = Field(ge=1, le=9999)
    conversation: ConversationConfig  # count: dialogues of a round
    topics: TopicsConfig
    prompts: SinglePrompts
    candidates: CandidatesConfig
    judging: CandidateJudging
    reward_model: RewardModelConfig | None = None
    reward: RewardConfig
    train: UpdateConfig
    guards: GuardsConfig
    evaluation: EvaluationConfig
    keep_rounds: int = Field(ge=1)  # checkpoints that stay on disk besides the best
    embedder: EmbedderConfig
    engine: EngineConfig
    server: ServerConfig = ServerConfig()

    @property
    def command(self) -> str:
        """The command that it is of."""
        return "online_dpo" if self.train.rows == "pairs" else self.train.update

    @model_validator(mode="after")
    def _fits(self) -> OnlineConfig:
        if problems := [*talk_problems(self.experts, self.conversation, self.moderator), *self._learner()]:
            raise ValueError("\n".join(problems))
        if self.third is None and self.evaluation.by == "third":
            problems.append("evaluation.by=third needs a third model: add +model@third=NAME")
        problems += judging_problems(self.judging, self, sorted(self.judge_names), self.trained)
        if self.reward.wim == "shuffled" and self.judging.z == 0:
            problems.append("reward.wim=shuffled has no effect with judging.z=0")
        if self.evaluation.asks and self.evaluation.by in ("self", "moving"):
            problems.append(f"evaluation.by={self.evaluation.by} lets the policy judge itself: use reference, partner_reference or third")
        if self.evaluation.by == "reward_model":
            problems.append("evaluation.by=reward_model gives no ratings and compares nothing: use reference, partner_reference or third")
        if self.judging.references is not None and self.topics.source == "models":
            problems.append("judging.references needs topics that are known before: use topics=list or topics=file")
        problems += [*self._decodings(), *self._rewards(), *self._single()]
        if self.train.method != "lora" and self.train.sharding != "pipeline":
            problems.append(f"train.method={self.train.method} runs with train.sharding=pipeline alone; use train.method=lora")
        if problems:
            raise ValueError("\n".join(problems))
        return self

    @property
    def trained(self) -> tuple[Speaker, ...]:
        """At whose turns candidates are sampled, and so who is trained."""
        return self.experts.seats if self.learner in ("all", "both", "one") else (self.learner,)

    @property
    def learners(self) -> tuple[Speaker, ...]:
        """Each set of trained weights once, by the seat that it is called after: one policy that plays all is called after the first."""
        return self.trained[:1] if self.learner == "one" else self.trained

    @property
    def rules(self) -> Rules:
        """What the dialogues of a round need to know."""
        return Rules(self.candidates, self.judging, self.reward, self.run.seed)

    @property
    def asks_judges(self) -> bool:
        """Whether the judges of judging.judge are asked: for the rewards, or about replies of the last evaluation."""
        return self.reward.judged(self.judging) or self.evaluation.rewarded > 0

    @property
    def judge_names(self) -> set[JudgeName]:
        """Who judges: for the rewards, unless they ask nobody, and in the evaluations."""
        judging = set(self.judging.judges) if self.asks_judges else set()
        return judging | ({self.evaluation.by} if self.evaluation.asks else set())

    @property
    def embeds(self) -> bool:
        """Whether anything is embedded: WIM texts, topics that models propose, the sentences that a penalty for repeats compares."""
        reward = self.reward
        asked = self.asks_judges and self.judging.wim.enabled and self.judging.judges != ("reward_model",)
        return self.topics.source == "models" or asked or (reward.kind != "random" and reward.repeat_penalty > 0)

    @property
    def program(self) -> ProgramName | None:
        """What a program measures in the replies, for the reward or for the evaluation."""
        kind = self.reward.kind
        return self.evaluation.measure or (None if kind in ("judge", "random", "functions") else kind)

    def _learner(self) -> list[str]:
        names = self.experts.seats
        words = ("all", *(["both"] if len(names) == 2 else []), "one")
        if self.learner in (*names, *words):
            return []
        remedy = f"name one of the experts ({', '.join(names)}), or {', '.join(words[:-1])} or {words[-1]}"
        return [f"learner={self.learner}: {'there are more than two experts' if self.learner == 'both' else 'is no expert'}; {remedy}"]

    def _decodings(self) -> list[str]:
        """A learner's candidates must differ: of equal texts none is better."""
        found, useless = list[str](), "no pair can be made" if self.train.rows == "pairs" else "none is better than another"
        for seat in self.trained:
            reply = self.experts[seat].decoding.reply
            if not reply.varies:
                said, remedy = str(reply.method), ""
                if said == "sampling":
                    shown = reply.model_dump(include={"temperature", "top_k", "top_p", "min_p"})
                    said = f"sampling ({', '.join(f'{key}={value}' for key, value in shown.items())})"
                    remedy = f" (temperature >= {LEAST_TEMPERATURE}, top_k not 1, top_p > {LEAST_TOP_P}, min_p <= {MOST_MIN_P})"
                found.append(
                    f"experts.{seat}.decoding.reply: {said} gives a learner {self.candidates.count} equal candidates, of which {useless}; "
                    f"set decoding@experts.{seat}.decoding=sampling{remedy}"
                )
        return found

    def _single(self) -> Iterator[str]:
        """What does not go with single prompts."""
        if self.prompts.file is None:
            if self.prompts.column is not None:
                yield f"prompts.column={self.prompts.column} is the column of a file: it goes with prompts.file=PATH"
            if self.prompts.type is not None:
                yield f"prompts.type={self.prompts.type} is the column of a file: it goes with prompts.file=PATH"
            if self.by_type:
                yield "reward_model.label=type: turns of a dialogue have no type; name one label, or single prompts: prompts.file=TABLE"
            return
        if self.evaluation.judge == "truth":
            yield "prompts.file: evaluation.judge=truth knows the embedded world's topics; use evaluation=pointwise, pairwise or reward"
        if self.reward.dialogue_weight:
            yield f"prompts.file: there is no dialogue for reward.dialogue_weight={self.reward.dialogue_weight:g}; set it to 0"
        if self.judging.references is not None:
            yield "prompts.file: judging.references are those of topics; take them away"

    @property
    def by_type(self) -> bool:
        """Whether a classifier judges each reply by the type that its prompt asks for."""
        asked = self.reward_model is not None and self.reward_model.label == "type"
        return asked and "reward_model" in self.judging.judges and self.reward.judged(self.judging)

    def _rewards(self) -> list[str]:
        """Settings of the reward that would do nothing, or could not be done."""
        reward, evaluation, known, found = self.reward, self.evaluation, list(PROGRAMS), list[str]()
        if reward.kind != "judge":
            of = "reward.functions" if reward.functions else f"reward.source={reward.source}"
            if reward.wim == "shuffled":
                why = "each function is what it says" if reward.functions else "no judge is asked"
                found.append(f"reward.wim=shuffled has no effect with {of}: {why}")
            if reward.dialogue_weight:
                found.append(f"reward.dialogue_weight={reward.dialogue_weight:g} needs reward.source=judge, not {of.rpartition('=')[2]}")
        if reward.functions and reward.source != "judge":
            found.append(f"reward.functions stand in the place of reward.source={reward.source}: take one of them away")
        if reward.weights is not None and not reward.functions:
            found.append("reward.weights are those of reward.functions, of which there are none")
        found += functions.problems(reward.functions, reward.weights, self.judging) if reward.functions else []
        if reward.wim == "shuffled" and self.histories < 2:
            found.append(
                f"reward.wim=shuffled takes the WIM responses of another history, but a round has {self.histories}; raise "
                "conversation.count or conversation.turns"
            )
        if evaluation.judge == "reward" and self.program is None:
            found.append(
                f"evaluation.judge=reward needs a program's measure, but reward.source={reward.kind}: set "
                f"evaluation.measure={known[0]} (or {', '.join(known[1:])}), or another reward"
            )
        if evaluation.measure is not None and evaluation.judge != "reward":
            found.append(f"evaluation.measure={evaluation.measure} needs evaluation=reward, not evaluation.judge={evaluation.judge}")
        return found

    @property
    def histories(self) -> int:
        """The least number of histories with candidates that a round of whole dialogues has; of a drawn order of turns, about how many."""
        talk, seats, first = self.conversation, self.experts.seats, 0 if self.candidates.opening else 1

        def of(seat: Speaker) -> int:
            if talk.order != "round_robin":
                return talk.count * (talk.turns - first) // len(seats)
            openers = [opener_of(i, talk.opener, seats) for i in range(min(talk.count, 2 * len(seats)))]
            return sum(by_turns(seats, opener, turn) == seat for opener in openers for turn in range(first, talk.turns))

        return sum(map(of, seats)) if self.learner == "one" else min(map(of, self.trained))


class OnlineDpoConfig(OnlineConfig):
    """`expertchat online_dpo`."""

    pairs: PairsConfig
    train: TrainConfig


class PolicyGradientConfig(OnlineConfig):
    """`expertchat rloo` and `expertchat grpo`, which differ in their defaults."""

    train: PolicyGradientTrain


def _backend_of(config: OnlineConfig, seat: Speaker) -> str:
    """What serves a seat that is no model of this process; tests put doubles in the place of models."""
    found = config.experts[seat].backend
    return "scripted" if found == "local" else found


def learner_problems(config: OnlineConfig, scripted: Sequence[Speaker], loaded: Mapping[Speaker, object]) -> list[str]:
    """Why experts cannot learn so. `scripted`: learners that are no models; `loaded`: seats with equal values share a loaded model."""
    others = [seat for seat in config.experts.seats if seat not in scripted]
    remedy = f", or learner={others[0]}" if others else ""
    problems = [f"experts.{seat}: backend={_backend_of(config, seat)} cannot be trained; use a model{remedy}" for seat in scripted]
    models = len({loaded[seat] for seat in config.trained})
    if config.learner == "one" and models > 1:
        places = " and ".join(f"experts.{seat}" for seat in config.trained)
        seats = "both" if len(config.trained) == 2 else "all"
        problems.append(f"learner=one needs one model in {seats} seats: give {places} the same path, dtype and quantization")
    if config.learner != "one" and models < len(config.trained) and (method := config.train.method) != "lora":
        problems.append(f"learner={config.learner} with one model needs an adapter for each seat: train.method=lora, not {method}")
    return problems
