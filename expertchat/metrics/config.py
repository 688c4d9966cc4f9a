"""The configs of `expertchat metrics` and `expertchat tokens`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, ConfigDict, Field, RootModel

from expertchat.config import EmbedderConfig, Group, ModelConfig, RewardModelConfig, Text
from expertchat.sources.config import SourceConfig

Measure = Literal["type", "rouge", "bleu", "chrf", "likelihood", "reference_likelihood", "distinct", "repeats", "length", "similarity"]
Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,39}$")]
TABLES, ROWS = (".md", ".csv", ".json"), (".csv", ".jsonl")
LONGEST_TEXT = 1_000_000  # characters that `tokens` takes


def _ends_in(path: str, known: tuple[str, ...]) -> str:
    """A file whose name tells in which form it is to be written."""
    if Path(path).suffix not in known:
        raise ValueError(f"must end in {', '.join(known)}")
    return path


class ClassifiersConfig(RootModel[dict[Name, RewardModelConfig]]):
    """Classifiers of types by names of the user's own; that of the name `type` is the one that is named without any."""

    model_config = ConfigDict(frozen=True, strict=True)


class MetricsConfig(Group):
    """`expertchat metrics`: what is measured of which texts, by which model's probabilities and which classifiers of types (by names of
    your own), and where it goes."""

    source: SourceConfig
    measures: Annotated[list[Measure], Field(min_length=1)]
    model: ModelConfig | None = None
    classifiers: ClassifiersConfig = Field(default_factory=lambda: ClassifiersConfig({}))
    context: Literal["auto", "view", "chat", "none"] = "auto"
    embedder: EmbedderConfig
    stemmer: Literal["none", "english", "german"] = "none"
    bleu_tokenizer: Literal["13a", "intl", "zh", "ja-mecab", "ko-mecab", "char", "none"] = "13a"
    models_dir: Text | None = None
    seed: int = Field(default=0, ge=0, lt=2**63)
    threads: int | None = Field(default=None, ge=1, le=1024)
    rows: Annotated[Text, AfterValidator(lambda path: _ends_in(path, ROWS))] | None = None
    out: Annotated[Text, AfterValidator(lambda path: _ends_in(path, TABLES))] | None = None


class TokensConfig(Group):
    """`expertchat tokens`: a model and a text, or a run and a turn of it."""

    model: ModelConfig | None = None
    run: Text | None = None
    turn: Text | None = None
    version: int | None = Field(default=None, ge=0)
    prompt: Annotated[Text, Field(max_length=LONGEST_TEXT)] | None = None
    text: Annotated[Text, Field(max_length=LONGEST_TEXT)] | None = None
    chat: bool = False
    continues: int | None = Field(default=None, ge=0, le=10_000)
    sample: bool = False
    temperature: float = Field(default=1.0, gt=0, le=10)
    top: int = Field(default=5, ge=1, le=100)
    unit: Literal["nats", "bits"] = "nats"
    lines: int | None = Field(default=40, ge=0)
    models_dir: Text | None = None
    device: Annotated[str, Field(pattern=r"^(auto|cpu|mps|cuda(:\d+)?|balanced)$")] | None = None
    seed: int = Field(default=0, ge=0, lt=2**63)
    threads: int | None = Field(default=None, ge=1, le=1024)
    out: Annotated[Text, AfterValidator(lambda path: _ends_in(path, (".json",)))] | None = None


def given_problems(config: TokensConfig) -> list[str]:
    """What does not go together of the words of `tokens`."""
    if (config.model is None) == (config.run is None):
        return ['name a model and a text, or a run and a turn: expertchat tokens MODEL "TEXT", or expertchat tokens RUN --turn c0001/3']
    found = []
    if config.run is None:
        if config.turn is not None:
            found.append(f"turn={config.turn}: is a turn of a run; name the run's folder in the place of the model")
        if config.version is not None:
            found.append(f"version={config.version}: is one of a run's policy versions; name the run's folder in the place of the model")
        if not config.text and not config.prompt:
            found.append('there is no text: write it behind the model, "TEXT", or give what it is to go on with, prompt="TEXT"')
        if config.chat and not config.prompt:
            found.append('chat=true: there is nothing that the assistant answers; give it, prompt="TEXT"')
    else:
        if config.turn is None:
            unsaid = "turn: is not said; name one of the run's, --turn DIALOGUE/NUMBER (c0001/3), or a candidate's id"
            found.append(_nobody_speaks(config.run) or unsaid)
        if config.prompt or config.text or config.chat:
            found.append("prompt, text and chat go with a model; a run has its own")
    return found


def _nobody_speaks(run: str) -> str | None:
    """Why a run has no turn that could be named."""
    from expertchat.folder.reader import RunReader
    from expertchat.folder.without import without_dialogues

    return without_dialogues(RunReader(Path(run).expanduser()))
