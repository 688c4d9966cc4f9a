"""Texts of several types (kind=types): a classifier learns of which type a text is, and is measured by how often it says so rightly."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy

from expertchat.audit.estimates import Estimate, share
from expertchat.config import ConfigError
from expertchat.evaluation.draws import Draws
from expertchat.records import Figure, Item, Opinion
from expertchat.reward_models.config import RewardModelTraining
from expertchat.reward_models.examples import Example, request_of
from expertchat.reward_models.known import Known
from expertchat.sources.config import SourceConfig
from expertchat.sources.encoding import Say
from expertchat.sources.read import cluster_of, read_items
from expertchat.text.sentences import listed


def by_type(source: SourceConfig, say: Say) -> list[Known]:
    """The single texts of a source that have a type, without what stands before them: they are read alone. Raises ConfigError."""
    items = read_items(source, say)
    found = [Known(item.model_copy(update={"turns": [], "topic": ""}), (None,)) for item in items if item.type and not item.pair]
    if not found:
        raise ConfigError(
            f"kind=types: none of the {len(items)} items of {', '.join(source.path)} is one text with a type; name the column of types: "
            "source.columns.type=NAME"
        )
    return found


def typed_examples(train: Sequence[Known], held_out: Sequence[Known]) -> tuple[list[Example], tuple[str, ...]]:
    """The rows of training, each with the place of its type, and all types. Raises ConfigError where there are not two, or where what is
    held out has others."""
    types = tuple(dict.fromkeys(str(one.item.type) for one in train))
    if len(types) < 2:
        raise ConfigError(f"kind=types: all {len(train)} rows of training are of the type {listed(types)}, and one class teaches nothing")
    if strange := sorted({str(one.item.type) for one in held_out} - set(types)):
        raise ConfigError(
            f"kind=types: what is held out has types that no row of training has ({listed(strange)}); hold out other groups "
            "(held_out.share, run.seed), or another source with held_out.path"
        )
    return [Example((request_of(one.item, 0),), float(types.index(str(one.item.type)))) for one in train], types


@dataclass(frozen=True)
class TypedMeasure:
    """How often the likeliest type is the right one. An opinion's score is the probability of the right one, its `raw` the likeliest."""

    config: RewardModelTraining
    known: Sequence[Known]

    @property
    def items(self) -> list[Item]:
        return [one.item for one in self.known]

    def figures(self, opinions: Sequence[Opinion]) -> dict[str, Figure]:
        """All figures of what was said; `coin`: the share of the commonest type."""
        types = {item.id: str(item.type) for item in self.items}
        names = {name: at for at, name in enumerate(sorted({cluster_of(item) for item in self.items}))}
        at = {item.id: names[cluster_of(item)] for item in self.items}
        draws = Draws.of(len(names), self.config.resamples, self.config.run.seed)
        said = [one for one in opinions if one.score is not None]
        coin = max(Counter(types.values()).values()) / len(types)
        found: dict[str, Figure] = {"n": len(said), "groups": len({at[one.item] for one in said}), "coin": coin}
        found |= _told("accuracy", _right(said, types, at, draws, coin))
        for kind in dict.fromkeys(types.values()):
            own = _right([one for one in said if types[one.item] == kind], types, at, draws, None)
            found[f"accuracy_{kind}"] = own.value
        losses = [-math.log(max(one.score or 0.0, 1e-12)) for one in said]
        return found | {"loss": sum(losses) / len(losses) if losses else None, "unanswered": len(opinions) - len(said)}


def _right(said: Sequence[Opinion], types: Mapping[str, str], at: Mapping[str, int], draws: Draws, coin: float | None) -> Estimate:
    right_N = numpy.asarray([float(one.raw == types[one.item]) for one in said], dtype=float)
    return share(right_N, numpy.asarray([at[one.item] for one in said], dtype=int), draws, coin, score=True)


def _told(name: str, one: Estimate) -> dict[str, Figure]:
    return {name: one.value, f"{name}_low": one.low, f"{name}_high": one.high}
