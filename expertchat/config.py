"""The whole configuration, typed and checked at the door: one pydantic model for each group of conf/.

Hydra composes, `validate` checks everything at once and raises ConfigError with every problem, its value and its remedy.
Nothing behind the door sees a DictConfig.
"""

from __future__ import annotations

import re
import string
from collections.abc import ItemsView, Mapping
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    RootModel,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from expertchat.records import SEAT
from expertchat.text.complaints import complaints, joined
from expertchat.text.complaints import near as near
from expertchat.text.complaints import near_key as near_key
from expertchat.text.places import conf_dir as conf_dir
from expertchat.text.sentences import listed
from expertchat.text.wordings import Prompts, WimWording
from expertchat.text.written import Example, Principle, checked_references, topic_key, written, written_problems
from expertchat.text.written import may_name as may_name


class ConfigError(Exception):
    """Everything that is wrong with a configuration or an input, one problem a line. Ends a command with exit code 2."""

    def __init__(self, problems: list[str] | str) -> None:
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        super().__init__("\n".join(self.problems))


class Group(BaseModel):
    """A config group: unknown keys are errors, and so is true where a number is wanted."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False, protected_namespaces=())


def _number_as_text(value: Any) -> Any:
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


# Hydra reads `run.dir=2026` as a number; a folder, topic or revision may well look like one.
Text = Annotated[str, BeforeValidator(_number_as_text)]
Device = Annotated[str, Field(pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$")]
Urls = list[Text] | Text | None
Prices = Annotated[list[float], Field(min_length=2, max_length=2)] | None
LEAST_TEMPERATURE, LEAST_TOP_P, MOST_MIN_P = 0.1, 0.1, 0.9  # beyond these sampling nearly always takes the likeliest token


class DecodingConfig(Group):
    """See expertchat.backends.base.Decoding."""

    method: Literal["contrastive", "sampling", "beam", "greedy"]
    max_new_tokens: int = Field(ge=1)
    temperature: float = Field(default=1.0, gt=0, le=10)
    top_p: float = Field(default=1.0, gt=0, le=1)
    top_k: int = Field(default=0, ge=0)
    min_p: float = Field(default=0.0, ge=0, lt=1)
    penalty_alpha: float = Field(default=0.6, ge=0, le=1)
    beams: int = Field(default=4, ge=1, le=64)
    no_repeat_ngram: int = Field(default=0, ge=0, le=1000)
    stop: list[Annotated[Text, Field(min_length=1)]] = []

    @property
    def varies(self) -> bool:
        """Whether one same prompt gives different texts: it samples, and from more than the likeliest token."""
        drawn = self.method == "sampling" and self.temperature >= LEAST_TEMPERATURE
        return drawn and self.top_k != 1 and self.top_p > LEAST_TOP_P and self.min_p <= MOST_MIN_P

    @model_validator(mode="after")
    def _contrastive_needs_k(self) -> DecodingConfig:
        if self.method == "contrastive" and self.top_k < 1:
            raise ValueError("contrastive search needs top_k >= 1 (the paper's value is 4)")
        return self


class StagesConfig(Group):
    """Separate decoding settings for the three kinds of text an expert writes."""

    topic: DecodingConfig
    reply: DecodingConfig
    judge: DecodingConfig


class PersonaConfig(Group):
    """`brief` may use {topic} and {name}; with `file`, the brief is the entry `name` of that YAML file."""

    name: Text
    brief: str = ""
    file: Text | None = None

    @model_validator(mode="after")
    def _has_brief(self) -> PersonaConfig:
        if not self.brief.strip() and not self.file:
            raise ValueError("has neither a brief nor a file: write brief, or name a YAML file of personas in file")
        return self

    @field_validator("brief")
    @classmethod
    def _braces(cls, brief: str) -> str:
        try:
            used = {name for _, name, _, _ in string.Formatter().parse(brief) if name is not None}
        except ValueError as error:
            raise ValueError(f"{error} (double a brace that is meant as text)") from None
        if unknown := sorted(used - {"topic", "name"}):
            raise ValueError(f"uses unknown {unknown}; only {{topic}} and {{name}} are filled in (double a brace that is meant as text)")
        return brief


class ModelConfig(Group):
    """A model and how to load it, with the persona, wordings and decoding of the expert that uses it.

    `path`: a local folder, a hub id, or "embedded:llama" / "embedded:mixtral" for the models in the package.
    """

    family: str
    path: Text = Field(min_length=1)
    revision: Text | None = None
    trained: Text | None = None  # what a run has trained, on top of it: RUN, RUN/rounds/000003, the folder of an adapter or of weights
    models_dir: Text | None = Field(default=None, exclude=True)  # searched first for a hub id; a matter of the machine, not of the run
    backend: Literal["local", "llamacpp", "server", "scripted", "human"] = "local"  # human: a person at this terminal
    script: Text | None = None  # backend=scripted: a JSONL file of replies
    url: Urls = None  # backend=server, and so are the next ones (docs/servers.md); several addresses serve the same
    model: Text | None = None  # what the server calls it
    key_from: Text | None = None  # the environment variable that holds the key
    more: dict[str, Any] = {}  # further fields of every request
    prices: Prices = None  # of a million tokens of prompts and of answers
    dtype: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    quantization: Literal["none", "auto", "nf4", "int8"] = "none"  # of the linear layers; auto: none where the dtype fits, else nf4
    device: Annotated[str, Field(pattern=r"^(auto|cpu|mps|cuda(:\d+)?|balanced)$")] = "auto"  # balanced: over all GPUs
    attention: Literal["auto", "sdpa", "eager", "flash_attention_2"] = "auto"
    context_length: int | None = Field(default=None, ge=64)
    thinking: bool = False  # may the model think before it speaks, where it can?
    prompts: Prompts
    persona: PersonaConfig
    decoding: StagesConfig


# Other parts of a run, and words of its config, of its records and of its progress.
NOT_SEATS = (
    "third", "moderator", "embedder", "judge", "topics", "all", "both", "one", "none", "partner", "self", "alternate", "list", "file",
    "reward_model", "model",
)  # fmt: skip


class ExpertsConfig(RootModel[dict[str, ModelConfig]]):
    """Who talks, two or more, by name; the order of the names is that of their turns, and each name a seat of the dialogue."""

    model_config = ConfigDict(frozen=True, strict=True)

    @field_validator("root")
    @classmethod
    def _seats(cls, experts: dict[str, ModelConfig]) -> dict[str, ModelConfig]:
        there = f"there is only {listed(list(experts))}" if experts else "there are none"
        problems = [] if len(experts) > 1 else [f"{there}; a dialogue has two or more: add one with +model@experts.NAME=MODEL"]
        bad = [name for name in experts if not re.fullmatch(SEAT, name) or name in NOT_SEATS or name.startswith("base_")]
        remedy = f"take at most 24 small letters, digits and _, a letter first, no base_..., and none of {', '.join(NOT_SEATS)}"
        problems += [f"experts.{name}: cannot be an expert's name; {remedy}" for name in bad]
        if problems:
            raise ValueError("\n".join(problems))
        return experts

    def __getitem__(self, seat: str) -> ModelConfig:
        return self.root[seat]

    def items(self) -> ItemsView[str, ModelConfig]:
        return self.root.items()

    @property
    def seats(self) -> tuple[str, ...]:
        """Their names, in the order of their turns."""
        return tuple(self.root)

    def having(self, **models: ModelConfig) -> ExpertsConfig:
        """The same experts, some of them with other models."""
        return ExpertsConfig.model_construct(root=self.root | models)


ALTERNATE = "alternate"  # the experts open by turns, a dialogue each


class ConversationConfig(Group):
    """`count` dialogues of at most `turns` turns. `order` says who has the next turn, `opener` (alternate, or a name) who begins."""

    count: int = Field(ge=1, le=1_000_000)
    turns: int = Field(ge=1, le=1000)
    order: Literal["round_robin", "random", "moderator"] = "round_robin"
    opener: Text = ALTERNATE
    max_tokens: int | None = Field(default=None, ge=1)  # new tokens of a whole dialogue
    loop_similarity: float = Field(default=0.9, gt=0, le=1)  # two turns at least this alike (word overlap) count as a loop
    stop_when_nothing_new: bool = True


class TopicsConfig(Group):
    """Where topics come from; a list or file is used in order and again from its start when it runs out."""

    source: Literal["list", "file", "models"]
    list: Annotated[list[Text], Field(default_factory=list)]
    file: Text | None = None
    column: Text | None = None  # of a .csv, .tsv or .json(l) file; unset, "topic" or "text"
    shuffle: bool = False
    max_similarity: float = Field(default=0.9, gt=0, le=1)  # source=models: closer topics are proposed again
    attempts: int = Field(default=4, ge=1, le=50)

    @model_validator(mode="after")
    def _has_topics(self) -> TopicsConfig:
        if self.source == "list" and not self.list:
            raise ValueError("list is empty: name at least one topic, or use topics=models or topics=file")
        if self.source == "list" and any(not topic.strip() for topic in self.list):
            raise ValueError("list holds an empty topic: remove it")
        if self.source == "file" and not self.file:
            raise ValueError("file is not set: name a text file, a table or a JSONL file")
        if self.column is not None and self.source != "file":
            raise ValueError(f"column={self.column} is the column of a file: it goes with topics=file topics.file=PATH")
        return self


class WimConfig(Group):
    enabled: bool = True
    wording: WimWording = "missing"
    empty_score: float = Field(default=1.0, ge=-1, le=1)


JudgeName = Literal["partner", "partner_reference", "self", "moving", "reference", "third", "reward_model"]
"""Whose weights judge the actor: the partner's as they are now, or without its adapter; the actor's own as they are now (self and moving
are the same), or without its adapter (reference); a third model's; or those of a model that gives every reply a number (reward_model)."""
Combine = Literal["mean", "worst", "majority"]
Scale = Literal["symmetric", "fifths"]  # see expertchat.judging.wim.scale_rating


class JudgingConfig(Group):
    """`judge`: who judges each expert; of more than two, `partners` each (all others) or ring (the next one in the order of the seats). A
    list is an ensemble, whose rewards for candidates are put together as `combine` says (expertchat.preferences.ensemble).
    `form`: sampled text, the expected value over the options, or both.

    `min_mass`: where the options hold less of the probability than this, they say nothing, and there is no expected rating and no verdict.
    `principles`, which stand in the place of the categories, `references` by topic, and `examples` (`examples_shown` of them in a prompt)
    may be named by their files; the config holds what stands in those.
    """

    allowed: ClassVar[tuple[str, ...]] = ("partner", "self", "third", "reward_model")

    judge: JudgeName | list[JudgeName]
    combine: Combine = "mean"
    partners: Literal["each", "ring"] = "each"
    form: Literal["sampled", "expected", "both"]
    min_mass: float = Field(default=0.5, ge=0, le=1)
    analysis: bool
    per_turn: bool
    categories: dict[str, str]
    weights: dict[str, float]
    principles: dict[str, Principle] | None = None
    references: dict[str, str] | None = None
    examples: list[Example] | None = None
    examples_shown: int = Field(default=2, ge=1)
    z: float = Field(ge=0, le=1)
    rating_scale: Scale = "symmetric"
    wim: WimConfig

    @property
    def judges(self) -> tuple[JudgeName, ...]:
        """Who judges."""
        return tuple(self.judge) if isinstance(self.judge, list) else (self.judge,)

    @property
    def asked(self) -> dict[str, str]:
        """What a rating or a verdict is asked about, name -> description: the principles, else the categories."""
        return self.categories if self.principles is None else {name: one.text for name, one in self.principles.items()}

    @property
    def shares(self) -> dict[str, float]:
        """The weights of what is asked."""
        return self.weights if self.principles is None else {name: one.weight for name, one in self.principles.items()}

    def reference(self, topic: str) -> str | None:
        """The reference answer on a topic."""
        key = topic_key(topic)
        return next((text for known, text in (self.references or {}).items() if topic_key(known) == key), None)

    @field_validator("judge", mode="before")
    @classmethod
    def _known_judges(cls, judge: Any) -> Any:
        names = judge if isinstance(judge, list) else [judge]
        known = f"{', '.join(cls.allowed[:-1])} or {cls.allowed[-1]}, or a list of them, [{', '.join(cls.allowed[:2])}]"
        if not names or any(name not in cls.allowed for name in names):
            raise ValueError(f"must be {known}")
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"has {', '.join(twice)} twice: a judge has one voice; to give it more weight is nothing that judges can do")
        return judge

    @field_validator("principles", "references", "examples", mode="before")
    @classmethod
    def _from_file(cls, value: Any, info: ValidationInfo) -> Any:
        found = written(value, str(info.field_name), conf_dir())
        if isinstance(value, str) and not found:
            raise ValueError(f"{value}: holds nothing")
        return checked_references(found) if info.field_name == "references" else found

    @model_validator(mode="after")
    def _weights_fit(self) -> JudgingConfig:
        problems = []
        if not self.categories:
            problems.append("judging.categories is empty: name at least one category")
        bad = [name for name in self.categories if not may_name(name)]
        problems += [f"judging.categories: {name!r} cannot be a category's name; rename it" for name in bad]
        unknown = sorted(set(self.weights) - set(self.categories))
        if unknown:
            problems.append(f"judging.weights names {unknown}, which are not in judging.categories {sorted(self.categories)}")
        if any(w < 0 for w in self.weights.values()):
            problems.append("judging.weights: a weight is negative")
        if self.z < 1 and self.principles is None and not any(w > 0 for w in self.weights.values()):
            problems.append("judging.weights: no category has a positive weight, but judging.z < 1 needs ratings")
        if self.z > 0 and not self.wim.enabled:
            problems.append("judging.z > 0 needs judging.wim.enabled=true")
        problems += written_problems(self.principles, self.examples, self.categories)
        if problems:
            raise ValueError("\n".join(problems))
        return self


class MayBeServed(Group):
    """What may stand here or behind an address, there as `model`."""

    backend: Literal["local", "server"] = "local"
    url: Urls = None
    model: Text | None = None
    key_from: Text | None = None
    prices: Prices = None


class EmbedderConfig(MayBeServed):
    """`path`: a sentence-transformers folder or hub id, or "embedded:embedder"; "auto" follows the models. Without `dtype`: fp32."""

    path: Text = "auto"
    models_dir: Text | None = Field(default=None, exclude=True)
    device: Device = "auto"
    dtype: Literal["auto", "fp32", "bf16", "fp16"] = "fp32"
    batch_size: int = Field(default=64, ge=1)


class RewardModelConfig(MayBeServed):
    """A classifier that judges: its score s is the reward tanh((s - `center`) / `scale`), of a logit 2 p - 1 where scale is 2. `label`: the
    one whose probability p is the score (2 p - 1 the reward); "type": the one called as the text's type."""

    only_here: ClassVar[tuple[str, ...]] = ("label", "max_tokens")  # keys that no server takes

    path: Text = Field(min_length=1)
    revision: Text | None = None
    models_dir: Text | None = Field(default=None, exclude=True)
    device: Device = "auto"
    dtype: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    batch_size: int = Field(default=16, ge=1)
    max_tokens: int | None = Field(default=None, ge=16)
    center: float = 0.0
    scale: float = Field(default=2.0, gt=0)
    label: Text | None = None


class EngineConfig(Group):
    """How the machine is used; what is null is found out when the models are loaded."""

    max_batch: int | None = Field(default=None, ge=1)
    threads: int | None = Field(default=None, ge=1, le=1024)  # torch would crash at millions of them
    cache_gib: float | None = Field(default=None, ge=0)


class RunConfig(Group):
    """`dir`: the run folder; unset, a new one under runs/."""

    dir: Text | None = Field(default=None, min_length=1)
    seed: int = Field(default=0, ge=0, lt=2**63)


G = TypeVar("G", bound=BaseModel)


def validate(model: type[G], values: Mapping[str, Any]) -> G:
    """`values` as a `model`; raises ConfigError that names every problem with its value."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        details = joined(error.errors(include_url=False))
        raise ConfigError([line for detail in details for line in complaints(model, detail)]) from None
