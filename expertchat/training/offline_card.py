"""The model card of what an offline run has trained: README.md of the adapter's folder, every figure read from the run's own files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import yaml

from expertchat.folder.reader import RunReader
from expertchat.records import Metrics
from expertchat.text.sentences import shown_path
from expertchat.training.card import base_model, figure, how_to_use, number, table, when
from expertchat.training.offline_config import OfflineConfig

TITLES = {  # of figures that have one, in their order; others are told by their names
    "perplexity": ("perplexity a token", ".4g"), "perplexity_byte": ("a byte", ".4g"),
    "choosing_perplexity": ("of the rows to choose by", ".4g"), "exact": ("greedy samples word by word", ".0%"),
    "win_rate": ("win rate", ".1%"), "loss": ("loss", ".4g"), "token_accuracy": ("likeliest token is the right one", ".1%"),
    "accuracy": ("accuracy", ".1%"), "length": ("tokens a sample", ".1f"), "n": ("n", ".0f"),
    "held_out": ("rows", ".0f"),
}  # fmt: skip


def offline_card(config: OfflineConfig, run_folder: Path, about: str, settings: Mapping[str, str]) -> str:
    """The card. `about`: how it was trained, in a sentence that goes on after the model's name; `settings` besides those of all runs.

    Raises ConfigError for broken metrics.jsonl.
    """
    model, train = config.model, config.train
    found = list(RunReader(run_folder).metrics())
    lora = train.method == "lora"
    front = {
        **base_model(model.path),
        "library_name": "peft" if lora else "transformers",
        "pipeline_tag": "text-generation",
        "tags": [train.update, "expertchat", *(["lora"] if lora else []), "trl"],
    }
    name = shown_path(model.path)
    parts = [
        f"---\n{yaml.safe_dump(front, sort_keys=False)}---",
        f"# {name}, trained by {train.update}\n\nA {'LoRA adapter' if lora else 'set of weights'} for {name}, {about}\n\n"
        "Every figure on this page was written by the run itself.",
        "## Against its base\n\n" + _figures([m for m in found if m.kind == "evaluation"], "Not evaluated in this run."),
        "## The run\n\n" + _figures([m for m in found if m.kind == "round"], "No round was finished."),
        "## Config\n\n" + table(["", ""], [[key, value] for key, value in {**_settings(config), **settings}.items()]),
        "## How to use it\n\n" + how_to_use(train, model),
    ]
    return "\n\n".join(parts) + "\n"


def _figures(found: list[Metrics], nothing: str) -> str:
    """A row for each round or evaluation, a column for each figure that has a title."""
    if not found:
        return nothing
    names = [name for name in TITLES if any(number(m.figures, name) is not None for m in found)]
    rows = [[when(m), *(figure(m.figures, name, TITLES[name][1]) for name in names)] for m in found]
    return table(["after round", *(TITLES[name][0] for name in names)], rows)


def _settings(config: OfflineConfig) -> dict[str, str]:
    train, model = config.train, config.model
    revision = f" at `{model.revision}`" if model.revision else ""
    return {
        "base": f"`{shown_path(model.path)}`{revision} ({model.dtype}, quantization {model.quantization})",
        "trained": f"LoRA rank {train.rank}, alpha {train.alpha:g}, dropout {train.dropout:g}" if train.method == "lora" else train.method,
        "optimizer": f"AdamW, learning rate {train.learning_rate:g} ({train.schedule}), {train.batch} rows a step, epochs {train.epochs}",
        "seed": str(config.run.seed),
    }
