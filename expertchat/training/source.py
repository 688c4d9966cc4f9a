"""What `expertchat merge` merges: an adapter or trained weights in some folder, and the base that they are for. No torch here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from expertchat.backends.learnt import Learnt, find_learnt, of_others
from expertchat.config import ConfigError
from expertchat.folder.embedded import PREFIX
from expertchat.training.merge_config import MergeConfig


@dataclass(frozen=True)
class Source:
    """What is merged, and the base that it goes into."""

    learnt: Learnt
    base: str
    revision: str | None
    quantization: str = "none"  # of the base in the run that it comes from, where that is known

    @property
    def folder(self) -> Path:
        return self.learnt.folder


def find_source(config: MergeConfig) -> Source:
    """The adapter or the trained weights that `config.adapter` means, and their base. Raises ConfigError."""
    try:
        learnt = find_learnt(config.adapter)
    except ConfigError as error:
        raise ConfigError([f"adapter={config.adapter}: {problem}" for problem in error.problems]) from None
    base, revision = (config.base, None) if config.base else (learnt.base, learnt.revision)
    if not base:
        raise ConfigError(f"adapter={config.adapter}: does not say which model it is for; name it with base=PATH")
    if base.startswith(PREFIX) and (problem := of_others(learnt)):
        raise ConfigError(f"adapter={config.adapter}: {problem}")
    return Source(learnt, base, revision, str(learnt.expert.get("quantization", "none")))
