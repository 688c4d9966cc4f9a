"""The known families, and how a config becomes an expert."""

from __future__ import annotations

import string
from collections.abc import Sequence
from pathlib import Path

import yaml

from expertchat.backends.base import Decoding, ModelInfo
from expertchat.backends.learnt import trained_name
from expertchat.config import ConfigError, DecodingConfig, ModelConfig, PersonaConfig
from expertchat.experts.auto import Auto
from expertchat.experts.base import ExpertChat, Settings
from expertchat.experts.llama3 import Llama3
from expertchat.experts.mixtral import Mistral, Mixtral
from expertchat.experts.qwen import Qwen
from expertchat.experts.world import WorldExpert
from expertchat.folder.textfile import read_text
from expertchat.records import SEATS, ExpertRef, Speaker
from expertchat.text.sentences import shown_path

FAMILIES: dict[str, type[ExpertChat]] = {
    "auto": Auto,
    "llama3": Llama3,
    "mixtral": Mixtral,
    "mistral": Mistral,
    "qwen": Qwen,
    "world": WorldExpert,
}


PERSON = ExpertRef(family="human", model="a person")


def family_class(name: str) -> type[ExpertChat]:
    """The class of a family. Raises ConfigError that lists the known ones."""
    if name not in FAMILIES:
        raise ConfigError(f"family={name} is unknown: use one of {', '.join(sorted(FAMILIES))} (auto takes any model with a chat template)")
    return FAMILIES[name]


def make_expert(letter: str, config: ModelConfig, info: ModelInfo, seats: Sequence[Speaker] = SEATS) -> ExpertChat:
    """The expert in the seat `letter` for a loaded model; `seats` are the names of all who talk.

    Raises ConfigError for a family, persona or template that does not fit.
    """
    cls = family_class(config.family)
    stages = config.decoding
    settings = Settings(
        prompts=config.prompts,
        persona=persona_brief(config.persona),
        topic=decoding(stages.topic),
        reply=decoding(stages.reply),
        judge=decoding(stages.judge),
        thinking=config.thinking,
    )
    trained = trained_name(config.trained)
    ref = ExpertRef(family=config.family, model=shown_path(config.path), revision=config.revision, trained=trained)
    if config.backend == "human":
        ref = PERSON
    expert = cls(letter, settings, ref, config.context_length or info.context_length or None, info.special_tokens, seats)
    expert.thoughts.opens = info.opens_thinking
    if isinstance(expert, Auto):
        expert.adapt(info)
    elif expert.family.system_role and info.system_role is False:
        raise ConfigError(
            f"expert {letter}: family={config.family} sends a system message, but the chat template of {info.name} does not take one; "
            "set the model's own family, or family=auto"
        )
    elif not expert.family.alternation and info.alternation:
        raise ConfigError(
            f"expert {letter}: family={config.family} may send two messages of one role in a row, but the chat template of {info.name} "
            "refuses them; set the model's own family, or family=auto"
        )
    return expert


def expert_notes(config: ModelConfig, expert: ExpertChat, info: ModelInfo) -> list[str]:
    """What a user should know about how an expert came to be: the model's notes, and family=auto's findings."""
    return [*info.notes, *([expert.adapt(info)] if isinstance(expert, Auto) else [])]


def decoding(config: DecodingConfig) -> Decoding:
    """A decoding config as the backends take it."""
    return Decoding(**config.model_dump() | {"stop": tuple(config.stop)})


def persona_brief(config: PersonaConfig) -> str:
    """The brief of a persona, from its file where it has one. Raises ConfigError."""
    brief, where = config.brief, f"persona {config.name}"
    if config.file:
        where = f"persona file {config.file}"
        try:
            named = yaml.safe_load(read_text(Path(config.file).expanduser(), "persona file"))
        except (yaml.YAMLError, RecursionError, ValueError) as error:
            raise ConfigError(f"{where}: cannot be read as UTF-8 YAML ({(str(error) or type(error).__name__).splitlines()[0]})") from None
        if not isinstance(named, dict) or not isinstance(named.get(config.name), str):
            known = ", ".join(map(str, named)) if isinstance(named, dict) else "nothing"
            raise ConfigError(f"{where}: holds no text for {config.name} (it holds {known}); set persona.name to one of them")
        brief = named[config.name]
    try:
        used = {field for _, field, _, _ in string.Formatter().parse(brief) if field is not None}
    except ValueError as error:
        raise ConfigError(f"{where}: {error} (double a brace that is meant as text)") from None
    if used - {"topic", "name"}:
        raise ConfigError(f"{where}: unknown {sorted(used - {'topic', 'name'})}, may use {{topic}} and {{name}}")
    return brief.strip()
