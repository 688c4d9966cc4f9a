"""The config of `expertchat posts`: who writes about what, in which languages, and how unlike each other the posts must be."""

from __future__ import annotations

import re
import string
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field, RootModel, field_validator, model_validator

from expertchat.backends.served.config import ServerConfig
from expertchat.config import (
    ConfigError,
    EmbedderConfig,
    EngineConfig,
    ExpertsConfig,
    Group,
    ModelConfig,
    Text,
    TopicsConfig,
)
from expertchat.folder.textfile import read_mapping
from expertchat.lab.config import Alone
from expertchat.trackers.config import ReportTo

MODEL = "model"  # the seat of who writes
NAME = re.compile(r"[a-z][a-z0-9_]{0,23}")
PLACES = {"persona", "topic"}
NOBODY = "a neighbour"  # who writes where a language has no personas


def _read_personas(value: Any) -> Any:
    """Personas as they stand, or those of a YAML file `name: who they are`."""
    if not isinstance(value, str):
        return {} if value is None else value
    try:
        found = read_mapping(Path(value).expanduser(), "personas", "lines `name: who they are`")
    except ConfigError as error:
        raise ValueError(str(error)) from None
    if not all(isinstance(one, str) and one.strip() for one in found.values()):
        raise ValueError(f"{value}: holds no personas; write lines `name: who they are`")
    return {str(name): text for name, text in found.items()}


class LanguageConfig(Group):
    """What is written in one language. `wording`: what the model is asked, {persona} and {topic}; None: it opens a talk about the topic as
    the expert that it is (the embedded models). `personas`: name -> who they are. `marks`: short words by which the language is known."""

    wording: Text | None = None
    personas: Annotated[dict[str, Text], BeforeValidator(_read_personas)] = Field(default_factory=dict)
    topics: TopicsConfig
    marks: list[Text] = Field(default_factory=list)

    @field_validator("wording")
    @classmethod
    def _places(cls, wording: str | None) -> str | None:
        try:
            used = {name for _, name, _, _ in string.Formatter().parse(wording or "") if name is not None}
        except ValueError as error:
            raise ValueError(f"{error} (double a brace that is meant as text)") from None
        if unknown := sorted(used - PLACES):
            raise ValueError(f"uses unknown {unknown}; only {{persona}} and {{topic}} are filled in (double a brace that is meant as text)")
        if wording is not None and "topic" not in used:
            raise ValueError("has no {topic}: all posts would be about the same; put it where the topic belongs")
        return wording

    @model_validator(mode="after")
    def _topics_are_there(self) -> LanguageConfig:
        if self.topics.source == "models":
            raise ValueError("topics.source=models: nobody proposes topics here; take a list or a file")
        return self


class LanguagesConfig(RootModel[dict[str, LanguageConfig]]):
    """What is written, by language."""

    model_config = ConfigDict(frozen=True, strict=True)


class PostsConfig(Alone):
    """`expertchat posts`. `count`: posts that are wanted; `parts`: files that they are shared out to. `max_similarity`: the cosine of two
    posts' embeddings above which the later one is written anew, `attempts` times at most. `cut`: what becomes of one that the token limit
    cut: written anew, or shortened to its whole sentences. `apart`: posts that these must not be like."""

    models_dir: Text | None = None
    view: Literal["live", "plain", "none"]
    report_to: ReportTo
    languages: LanguagesConfig
    model: ModelConfig
    embedder: EmbedderConfig
    count: int = Field(ge=1, le=1_000_000)
    parts: int = Field(default=1, ge=1, le=100)
    max_similarity: float = Field(default=0.9, gt=0, le=1)
    attempts: int = Field(default=4, ge=1, le=50)
    cut: Literal["anew", "shorten"] = "anew"
    apart: list[Text] = Field(default_factory=list)
    engine: EngineConfig
    server: ServerConfig = ServerConfig()

    @model_validator(mode="after")
    def _goes_together(self) -> PostsConfig:
        problems = [f"languages.{name}: cannot be a language's name; take small letters, digits and _, a letter first"
                    for name in self.languages.root if not NAME.fullmatch(name)]  # fmt: skip
        if self.parts > self.count:
            problems.append(f"parts={self.parts}: there are but {self.count} posts (count); lower it")
        reply = self.model.decoding.reply
        if not reply.varies and self.attempts > 1:
            remedy = "take decoding@model.decoding=sampling, or attempts=1"
            problems.append(f"model.decoding.reply.method={reply.method}: a post that is written anew would be the same one: {remedy}")
        if problems:
            raise ValueError("\n".join(problems))
        return self

    # -- what loading a model asks of a run's config ----------------------------------------------------------------------

    @property
    def experts(self) -> ExpertsConfig:
        return ExpertsConfig.model_construct(root={MODEL: self.model})

    @property
    def embeds(self) -> bool:
        """Posts are told apart by their embeddings."""
        return True
