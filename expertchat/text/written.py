"""What people write for a judge: principles, reference answers, examples of judgements. Read from YAML or JSON Lines, and checked here.

Raises ValueError with everything that is wrong, a problem a line.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from expertchat.text.cleaning import one_line

Span = tuple[int, int]
_MOST = 10  # problems of a file that are shown
RESERVED = ("analysis", "wim", "reward")  # names of a judgement's other records: no categories


def may_name(category: str) -> bool:
    """Whether a category or a principle can be called so: its name is a part of its records' ids."""
    return category not in RESERVED and "/" not in category and bool(category.strip())


class Principle(BaseModel):
    """A written principle. `category`: as what a judge is asked about it whose wordings know categories alone. A bare text is one, too."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    text: str
    weight: float = Field(default=1.0, ge=0, allow_inf_nan=False)
    category: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _bare(cls, value: Any) -> Any:
        return {"text": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _says_something(self) -> Principle:
        if not self.text.strip():
            raise ValueError("the text is empty: write what is to be kept to")
        return self


class Example(BaseModel):
    """A judgement to show a judge: what an expert said on a topic, and how it is to be rated, in all categories or in each.

    A rating is a number, or the lowest and the highest of those that fit, of which each judgement is shown one: no number is an anchor.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    topic: str
    text: str
    ratings: Span | dict[str, Span]

    @model_validator(mode="before")
    @classmethod
    def _spans(cls, value: Any) -> Any:
        if not isinstance(value, Mapping) or "ratings" not in value:
            return value
        ratings = value["ratings"]
        spans = {name: _span(one) for name, one in ratings.items()} if isinstance(ratings, Mapping) else _span(ratings)
        return {**value, "ratings": spans}

    @model_validator(mode="after")
    def _says_something(self) -> Example:
        if not self.text.strip():
            raise ValueError("the text is empty: write what the expert said")
        return self

    def span(self, category: str) -> Span | None:
        """The ratings that fit in a category; None where it has none."""
        return self.ratings.get(category) if isinstance(self.ratings, dict) else self.ratings


def _span(value: Any) -> Any:
    low, high = (value, value) if isinstance(value, int) else value if isinstance(value, list | tuple) and len(value) == 2 else (None, None)
    whole = all(isinstance(one, int) and not isinstance(one, bool) for one in (low, high))
    if not whole or not 1 <= low <= high <= 10:  # type: ignore[operator]
        raise ValueError(f"a rating is a number from 1 to 10, or [lowest, highest], not {value!r}")
    return (low, high)


def written(value: Any, group: str, conf: Path) -> Any:
    """What stands in a file that `value` names: one of conf/GROUP/, or a YAML or JSONL file. Anything but a text is returned as it is."""
    if not isinstance(value, str):
        return value
    own = conf / group / f"{value}.yaml"
    path = own if re.fullmatch(r"\w+", value) and own.is_file() else Path(value).expanduser()
    if not path.is_file():
        known = sorted(one.stem for one in (conf / group).glob("*.yaml"))
        there = f"; those that come with the package are {', '.join(known)}" if known else ""
        raise ValueError(f"{value}: there is no such file{there}; name a YAML file")
    try:
        text = path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{value}: cannot be read as UTF-8 text ({error}); save it as UTF-8") from None
    return _from_lines(text, value) if path.suffix in (".jsonl", ".ndjson") else _from_yaml(text, value)


def _from_yaml(text: str, name: str) -> Any:
    import yaml

    class Loader(yaml.SafeLoader):
        """YAML in which no key comes twice: the last one would count, and nobody would know of the others."""

    def mapping(loader: yaml.SafeLoader, node: yaml.MappingNode) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value]
        if twice := sorted({key for key in keys if keys.count(key) > 1}):
            raise yaml.YAMLError(f"{', '.join(twice)} stands there twice, line {node.start_mark.line + 1} and on")
        return loader.construct_mapping(node, deep=True)

    Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, mapping)
    try:
        return yaml.load(text, Loader)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise ValueError(f"{name}: is no YAML: {one_line(str(error))}") from None


def _from_lines(text: str, name: str) -> dict[str, str]:
    """Topic -> reference of a JSONL file."""
    found, problems = dict[str, str](), list[str]()
    for n, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):
            entry = None
        topic, reference = (entry.get("topic"), entry.get("reference")) if isinstance(entry, dict) else (None, None)
        if not isinstance(topic, str) or not isinstance(reference, str):
            problems.append(f'line {n} has no "topic" with a "reference"')
        elif topic in found:
            problems.append(f"line {n}: {topic} has a reference already")
        else:
            found[topic] = reference
    if problems:
        more = [f"and {len(problems) - _MOST} lines more"] if len(problems) > _MOST else []
        raise ValueError(f"{name}: {'; '.join([*problems[:_MOST], *more])}")
    return found


def topic_key(topic: str) -> str:
    """Topics that differ in case and white space alone have one reference."""
    return one_line(topic).strip().casefold()


def checked_references(value: Any) -> Any:
    """Topic -> reference, of which none is empty and none has two."""
    if value is None:
        return None
    if not isinstance(value, Mapping) or not value:
        raise ValueError("must be a file or a mapping of topics to reference answers, TOPIC: ANSWER")
    bad = [str(topic) for topic, text in value.items() if not isinstance(topic, str) or not isinstance(text, str) or not text.strip()]
    if bad:
        raise ValueError(f"{', '.join(bad)}: has no text as its reference; write one, or leave the topic out")
    keys = [topic_key(topic) for topic in value]
    if twice := sorted({topic for topic in value if keys.count(topic_key(topic)) > 1}):
        raise ValueError(f"{', '.join(twice)}: is one topic with several references; leave one")
    return dict(value)


def written_problems(
    principles: Mapping[str, Principle] | None, examples: Sequence[Example] | None, categories: Mapping[str, str]
) -> list[str]:
    """What is wrong with principles and examples beside the categories of a judging config."""
    known = ", ".join(categories)
    named = principles or {}
    found = [f"judging.principles: {name!r} cannot be a principle's name; rename it" for name in named if not may_name(name)]
    found += [
        f"judging.principles.{name}.category={one.category}: is not in judging.categories ({known})"
        for name, one in named.items()
        if one.category is not None and one.category not in categories
    ]
    given = {"principles": principles, "examples": examples}
    found += [f"judging.{key}: holds nothing; leave it null" for key, one in given.items() if one is not None and not one]
    if principles and not any(one.weight > 0 for one in principles.values()):
        found.append("judging.principles: no principle has a positive weight; give those that count one")
    if principles is not None and examples is not None:
        found.append("judging.examples show ratings, and by judging.principles none are written; leave one of them out")
    if bare := [str(i) for i, one in enumerate(examples or [], 1) if not any(map(one.span, categories))]:
        found.append(f"judging.examples: {', '.join(bare)} (counted from 1) has no rating in any of judging.categories ({known})")
    return found
