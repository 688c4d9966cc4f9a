"""Items that are labelled, and labels of them, for the tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from expertchat.config import conf_dir
from expertchat.labels.config import FormConfig
from expertchat.records import Turn
from expertchat.records.lab import Item, Label, Text

SOURCE = "5ca1ab1e"
SCALES = {"depth": "how deep", "clarity": "how clear"}
RATINGS = FormConfig(name="two", scales=SCALES, missing=True, flags={"spam": "", "rude": ""}, spare=["spam"])
PAIRS = FormConfig(name="pairs", choice=True)


def form(name: str) -> FormConfig:
    """A form of conf/."""
    path = conf_dir() / "form" / f"{name}.yaml"
    plain = yaml.safe_load(path.read_text("utf-8"))
    below = plain.pop("defaults", [])
    return FormConfig.model_validate({**(form(below[0]).model_dump() if below else {}), **plain})


def single(number: int, text: str = "", **more: Any) -> Item:
    """An item with one text."""
    values = {"topic": "tides", "group": "g", "source": SOURCE, "texts": [Text(text=text or f"text {number}", system="model-x")]}
    return Item.model_validate({"id": f"s{number:02d}", **values, **more})


def pair(number: int, first: str = "the first", second: str = "the second", **more: Any) -> Item:
    """An item with two texts."""
    name = f"p{number:02d}"
    texts = [Text(text=first, system="model-x", candidate=f"{name}/c0"), Text(text=second, system="model-y", candidate=f"{name}/c1")]
    turns = [Turn(speaker="b", text="What causes the tides?")]
    values = {"topic": "tides", "turns": turns, "group": "g", "source": SOURCE, "texts": texts}
    return Item.model_validate({"id": name, **values, **more})


def label(item: str, annotator: str = "ann", **more: Any) -> Label:
    """A label as it is kept."""
    values = {"id": f"{annotator}/{item}", "item": item, "source": SOURCE, "annotator": annotator, "form": "two", "at": 1.0}
    return Label.model_validate(values | more)


def written(path: Path, items: list[Item]) -> Path:
    """The items as a file that is a source."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{item.to_json()}\n" for item in items), "utf-8")
    return path
