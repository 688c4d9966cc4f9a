"""The model card of a reward model: what it has learnt from what, and the run's own figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from expertchat.backends.folders import is_hub_id
from expertchat.records import Figure, Metrics
from expertchat.reward_models.config import OF_PAIRS, TYPES, RewardModelTraining
from expertchat.text.sentences import shown_path

Column = tuple[str, str, str]  # title, name of the figure, how it is written
SHOWN: Sequence[Column] = (
    ("pairs ordered rightly", "accuracy", ".1%"), ("against the truth", "truth_accuracy", ".1%"),
    ("against people", "people_accuracy", ".1%"),
    ("in the order as read", "accuracy_as_read", ".1%"), ("turned round", "accuracy_turned", ".1%"),
    ("rank correlation with what is known (rho)", "rho", ".2f"),
    ("loss", "loss", ".3f"), ("calibration error", "calibration", ".3f"), ("Brier score", "brier", ".3f"),
    ("error, in points", "error", ".2f"),
    ("the longer one is preferred", "longer", ".1%"), ("the longer one is better", "longer_true", ".1%"),
    ("leaning to the longer one", "longer_bias", "+.3f"), ("the first one is preferred", "first", ".1%"),
    ("another choice in the other order", "flips", ".1%"),
)  # fmt: skip
READS = {
    "pairwise": "an encoder that was trained on pairs (RankNet) and gives one text a number",
    "comparison": "an encoder that reads two texts at once and says whether the second is the better one",
    "regression": "an encoder that gives a text the number that it learnt (in standard deviations from the mean)",
    "classification": "an encoder that says whether a text is good",
    TYPES: "an encoder that says of which type a text is, which it reads alone",
    "decoder": "a language model with a score head, trained on pairs (Bradley-Terry)",
}


def card_of(config: RewardModelTraining, summary: Mapping[str, Any], epochs: Sequence[Metrics]) -> str:
    """The card as Markdown."""
    front = {
        **({"base_model": config.path} if is_hub_id(config.path) else {}),
        "library_name": "transformers",
        "pipeline_tag": "text-classification",
        "tags": ["reward-model", "expertchat", config.kind, *(["trl"] if config.kind == "decoder" else ["sentence-transformers"])],
    }
    figures = summary["figures"]
    shown: Sequence[Column] = (*SHOWN, *((f"of the type {name[9:]}", name, ".1%") for name in figures if _of_type(config, name)))
    kept = [(titled(title, config.kind == TYPES), name, form) for title, name, form in shown if figures.get(name) is not None]
    measured = [[title, _shown(figures, name, form)] for title, name, form in kept]
    parts = [
        f"---\n{yaml.safe_dump(front, sort_keys=False)}---",
        f"# A reward model from {shown_path(config.path)}\n\nThis is {READS[config.kind]}. Every figure here was written by the run.",
        f"## On what was held out\n\n{_about(summary)}\n\n" + _table(["", ""], measured),
        "## The epochs\n\n" + _curve(epochs, int(summary["best"])),
        "## Config\n\n" + _table(["", ""], _settings(config, summary)),
        f"## How to use it\n\n```bash\n{_use(config)}\n```",
    ]  # fmt: skip
    return "\n\n".join(parts) + "\n"


def _of_type(config: RewardModelTraining, name: str) -> bool:
    """Whether a figure is the share of one type's texts that are told rightly."""
    return config.kind == TYPES and name.startswith("accuracy_") and name not in ("accuracy_low", "accuracy_high")


def titled(title: str, typed: bool) -> str:
    """What a figure is called; of a model that names types it is another."""
    return title.replace("pairs ordered", "types named") if typed else title


def _about(summary: Mapping[str, Any]) -> str:
    return (
        f"Learnt is `{summary['target']}` from {summary['rows']:,} rows of {summary['groups']:,} groups; measured on "
        f"{summary['held_out']:,} items of {summary['held_out_groups']:,} others. In brackets 95 % intervals, whole groups drawn. "
        f"The best of {summary['epochs']} epochs was chosen by {_chosen_by(summary)}."
    )


def _chosen_by(summary: Mapping[str, Any]) -> str:
    if "choosing" in summary:
        return f"{summary['choosing']:,} items of {summary['choosing_groups']:,} other groups"
    return "the same items, which makes its figures a little too good"


def _curve(epochs: Sequence[Metrics], best: int) -> str:
    chosen = any("choosing_accuracy" in one.figures for one in epochs)
    more, curve = (["of those to choose by"], (*CURVE, ("choosing_accuracy", ".1%"))) if chosen else ([], CURVE)
    rows = [
        [f"{one.round}{' (the result)' if one.round == best else ''}", *(_shown(one.figures, name, form) for name, form in curve)]
        for one in sorted(epochs, key=lambda one: one.round)
    ]
    titles = ["epoch", "training loss", "loss", "ordered rightly", *more]
    return "Before the first (0) the head is as it was drawn.\n\n" + _table(titles, rows)


CURVE = (("train_loss", ".3f"), ("loss", ".3f"), ("accuracy", ".1%"))


def _settings(config: RewardModelTraining, summary: Mapping[str, Any]) -> list[list[str]]:
    train = config.train
    trained = f"LoRA rank {train.rank}, alpha {train.alpha}, and the score head" if config.method == "lora" else "all weights"
    order = f"{config.order}{f' ({config.first})' if config.first else ''}, {'both orders' if config.swap else 'one order'} of each pair"
    told = (("ties", "ties"), ("again", "there again"), ("against", "preferred both ways"))
    left = ", ".join(f"{summary[key]} {what}" for key, what in told)
    rows = {
        "base": f"`{shown_path(config.path)}` ({config.model.dtype}, quantization {config.model.quantization})",
        "trained": trained,
        **({"order of the texts": order} if config.kind == "comparison" else {}),
        **({"left out": left} if config.kind in OF_PAIRS else {}),
        "optimizer": f"AdamW, {train.batch} rows a step, epochs {config.epochs}, schedule {train.schedule}",
        "seed": str(config.run.seed),
    }
    return [[name, value] for name, value in rows.items()]


def _use(config: RewardModelTraining) -> str:
    judge = "expertchat judge SOURCE judge=reward_model judges.reward_model.reward_model.path=THIS_FOLDER"
    if config.kind == "comparison":
        return judge
    if config.kind == TYPES:
        return f"{judge} judges.reward_model.reward_model.label=type\nexpertchat metrics SOURCE classifier=THIS_FOLDER"
    return f"{judge}\nexpertchat online_dpo +reward_model=default reward_model.path=THIS_FOLDER judging.judge=reward_model"


def _shown(figures: Mapping[str, Figure], name: str, form: str) -> str:
    value, low, high = (figures.get(key) for key in (name, f"{name}_low", f"{name}_high"))
    if not isinstance(value, int | float):
        return "–"
    interval = f" [{low:{form}}, {high:{form}}]" if isinstance(low, float) and isinstance(high, float) else ""
    return format(value, form) + interval


def _table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join(f"| {' | '.join(' '.join(cell.replace('|', chr(92) + '|').split()) for cell in line)} |" for line in lines)
