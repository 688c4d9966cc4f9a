"""What a reward model is trained on and measured by, read and parted before any model is loaded."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from expertchat.config import ConfigError
from expertchat.reward_models.config import OF_PAIRS, TYPES, RewardModelTraining, Target
from expertchat.reward_models.examples import (
    Example,
    Preferences,
    Scale,
    apart,
    as_pairs,
    both_ways,
    bound_of,
    parted,
    preferences,
    request_of,
    spread_of,
    valued,
)
from expertchat.reward_models.known import Known, by_people, by_truth, read_known
from expertchat.reward_models.typed import by_type, typed_examples
from expertchat.sources.encoding import Say
from expertchat.sources.read import cluster_of

FEWEST = 2  # rows of training


@dataclass(frozen=True)
class Material:
    """Rows of training, and what is held out with what is known of it, the truth and people's word beside it (empty where that is learnt
    itself, or nobody knows). `choosing`: by which the best epoch is chosen; empty: what is held out does it."""

    target: Target
    examples: list[Example]
    held_out: list[Known]
    truth: list[Known]
    people: list[Known]
    notes: list[str]
    counts: dict[str, int]
    scale: Scale
    choosing: Sequence[Known] = ()
    types: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """Of everything that is trained on or held out: a run goes on with the same alone."""
        known = [*self.held_out, *self.choosing]
        lines = [repr(one) for one in self.examples] + [one.item.to_json() + repr(one.values) + repr(one.better) for one in known]
        return hashlib.sha256("\n".join(lines).encode("utf-8", "replace")).hexdigest()[:16]

    def facts(self, config: RewardModelTraining) -> dict[str, Any]:
        """What reward_model.json says of a model that has learnt this."""
        values: dict[str, Any] = {"schema": 1, "kind": config.kind, "target": self.target, "base": config.path}
        values |= {"max_tokens": config.train.max_tokens, "quantization": "none", "history": config.shows_history}
        if config.kind == TYPES:
            values |= {"types": list(self.types), "alone": True}
        if config.kind == "regression":
            values |= {"mean": self.scale.mean, "spread": self.scale.spread}
        return values | ({"bound": self.scale.bound} if config.kind == "classification" else {})


def read_material(config: RewardModelTraining, say: Say) -> Material:
    """Read the source, part it, and make rows of it. Raises ConfigError for what teaches nothing."""
    if config.kind == TYPES:
        return _of_types(config, say)
    target, known = read_known(config, config.source, config.target, say)
    if config.held_out.path:
        other = config.source.model_copy(update={"path": config.held_out.path})
        parts = apart(known, read_known(config, other, target, say)[1])
    else:
        other, parts = config.source, parted(known, config.held_out.share, config.run.seed)
    train, choosing = _chosen_by(config, parts.train)
    items = [one.item for one in parts.held_out]
    truth = by_truth(items, config.min_margin) if target != "truth" else []
    people = by_people(items, other, config.labels, config.min_margin) if config.labels and target != "people" else []
    held_out, truth, people = (list(ones) for ones in (parts.held_out, truth, people))
    if config.kind in OF_PAIRS:
        held_out, truth, people, choosing = (as_pairs(ones, config.min_margin) for ones in (held_out, truth, people, choosing))
    truth, people = ([one for one in ones if one.known] for ones in (truth, people))
    maker = _of_pairs if config.kind in OF_PAIRS else _of_texts
    examples, counts, scale = maker(config, train)
    _must_differ("held_out.share", held_out, config, ", or name another source with held_out.path")
    if config.held_out.choose:
        _must_differ("held_out.choose", choosing, config, "")
    counts |= _counted(held_out, choosing, train)
    notes = [*parts.notes, _told(config, counts)]
    return Material(target, examples, held_out, truth, people, notes, counts, scale or Scale(), choosing)


def _must_differ(key: str, known: Sequence[Known], config: RewardModelTraining, more: str) -> None:
    """Raise ConfigError where nothing can be measured on items."""
    if not any(one.sign for one in as_pairs(known, config.min_margin)):
        what = f"of its {len(known)} items no two are known to differ, so nothing can be measured"
        raise ConfigError(f"{key.partition('.')[0] if more else key}: {what}; raise {key}{',' if more else ' or'} lower min_margin{more}")


def _of_types(config: RewardModelTraining, say: Say) -> Material:
    """Rows of one text and its type."""
    known = by_type(config.source, say)
    if config.held_out.path:
        parts = apart(known, by_type(config.source.model_copy(update={"path": config.held_out.path}), say))
    else:
        parts = parted(known, config.held_out.share, config.run.seed)
    train, choosing = _chosen_by(config, parts.train)
    examples, types = typed_examples(train, [*parts.held_out, *choosing])
    counts = {"rows": len(examples), "ties": 0, "again": 0, "against": 0, "types": len(types)}
    counts |= _counted(parts.held_out, choosing, train)
    return Material("type", examples, parts.held_out, [], [], [*parts.notes, _told(config, counts)], counts, Scale(), choosing, types)


def _chosen_by(config: RewardModelTraining, train: list[Known]) -> tuple[list[Known], list[Known]]:
    """What is trained on, and the groups of it by which the best epoch is chosen."""
    if not config.held_out.choose:
        return train, []
    left = parted(train, config.held_out.choose, config.run.seed, "held_out.choose")
    return left.train, left.held_out


def _counted(held_out: Sequence[Known], choosing: Sequence[Known], train: Sequence[Known]) -> dict[str, int]:
    chosen = {"choosing": len(choosing), "choosing_groups": _groups(choosing)} if choosing else {}
    return {**chosen, "held_out": len(held_out), "held_out_groups": _groups(held_out), "groups": _groups(train)}


def _groups(known: Sequence[Known]) -> int:
    return len({cluster_of(one.item) for one in known})


Made = tuple[list[Example], dict[str, int], "Scale | None"]


def _of_pairs(config: RewardModelTraining, known: Sequence[Known]) -> Made:
    """Rows of two texts of which one is better."""
    found = preferences(known, config.min_margin)
    if len(found.pairs) < FEWEST:
        raise ConfigError(f"kind={config.kind}: {_too_few(found)}, and it learns from two texts to one same history of which one is better")
    if config.kind == "comparison":
        examples = [row for pair in found.pairs for row in both_ways(pair, config)]
        _two_classes(examples, config)
    else:
        examples = [Example((request_of(one.item, one.better), request_of(one.item, 1 - one.better))) for one in found.pairs]
    return examples, {"rows": len(examples), "ties": found.ties, "again": found.again, "against": found.against}, None


def _too_few(found: Preferences) -> str:
    left = {"ties": found.ties, "preferred both ways": found.against}
    said = ", ".join(f"{count} {what}" for what, count in left.items() if count)
    return f"the training rows hold {len(found.pairs)} pairs" + (f" ({said})" if said else "")


def _two_classes(examples: Sequence[Example], config: RewardModelTraining) -> None:
    """Raise ConfigError where the better text always stands in the same place."""
    if len({one.value for one in examples}) == 1:
        place = "second" if examples[0].value else "first"
        raise ConfigError(
            f"kind=comparison order={config.order} swap=false: in all {len(examples)} rows the better text stands {place}, and one class "
            "alone teaches nothing but the place; set swap=true or order=drawn"
        )


def _of_texts(config: RewardModelTraining, known: Sequence[Known]) -> Made:
    """Rows of one text and its number."""
    texts, again = valued(known)
    if len(texts) < FEWEST:
        what = "choices between two texts alone" if any(one.better for one in known) else f"{len(texts)} texts with a number"
        raise ConfigError(f"kind={config.kind}: learns the numbers of texts, and the training rows hold {what}; set kind=pairwise")
    values = [one.value for one in texts]
    scale = Scale(*spread_of(values)) if config.kind == "regression" else Scale(bound=bound_of(values, config.threshold))

    def learnt(value: float) -> float:
        return (value - scale.mean) / scale.spread if config.kind == "regression" else float(value >= scale.bound)

    examples = [Example((request_of(one.item, one.place),), learnt(one.value)) for one in texts]
    return examples, {"rows": len(examples), "ties": 0, "again": again, "against": 0}, scale


def _told(config: RewardModelTraining, counts: dict[str, int]) -> str:
    """How much there is, and what was left out."""
    of = "texts" if config.kind in ("regression", "classification", TYPES) else "comparisons" if config.kind == "comparison" else "pairs"
    left = {"ties": counts["ties"], "there again": counts["again"], "preferred both ways": counts["against"]}
    said = ", ".join(f"{count:,} {what}" for what, count in left.items() if count)
    rest = f" (left out: {said})" if said else ""
    choosing = f"the best epoch chosen by {counts['choosing']:,} items of {counts['choosing_groups']:,}, " if "choosing" in counts else ""
    return (
        f"trained on {counts['rows']:,} {of} of {counts['groups']:,} groups{rest}, {choosing}measured on {counts['held_out']:,} items of "
        f"{counts['held_out_groups']:,} other groups"
    )
