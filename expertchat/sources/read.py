"""What exists already, as items: whatever SOURCE names."""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, TypeVar

from expertchat.config import ConfigError
from expertchat.folder.jsonl import read_records
from expertchat.folder.reader import RunReader
from expertchat.records import Item
from expertchat.sources.config import SourceConfig
from expertchat.sources.encoding import Say
from expertchat.sources.rows import HUB, TABLES, is_table, read_table
from expertchat.sources.runs import is_run, run_items
from expertchat.sources.tables import table_items

ITEMS = "items.jsonl"  # in the folder of a judge


class Named(Protocol):
    """Anything that has an id."""

    @property
    def id(self) -> str: ...


N = TypeVar("N", bound=Named)


def read_items(config: SourceConfig, say: Say = lambda text: None, scored: bool = False) -> list[Item]:
    """The items of all sources that a config names, in their order. `say` is told which choices were made.

    `scored`: what a table calls chosen is taken for its label, also where a judge's scores have made it so.

    Each has the digest of its own source: of all that it holds, whatever the order of reading and wherever it lies. Where several are read,
    the first signs of it stand before the ids. Raises ConfigError with everything that cannot be read.
    """
    if not config.path:
        raise ConfigError("source.path: names nothing; name a run folder, a table or a data set: SOURCE, or source.path=[...]")
    problems, sources = list[str](), list[list[Item]]()
    for path in config.path:
        try:
            sources.append(drawn(signed(_read(path, config, say, scored)), config))
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(list(dict.fromkeys(problems)))
    several = len(sources) > 1
    found = [item.model_copy(update={"id": f"{item.source[:8]}/{item.id}"}) if several else item for one in sources for item in one]
    if twice := [name for name, n in Counter(item.id for item in found).items() if n > 1]:
        raise ConfigError(f"source.path: {', '.join(config.path)} hold the same items ({twice[0]}, ...): name each source once")
    return found + _identical(found, config)


def from_source(path: str, config: SourceConfig, items: Sequence[Item]) -> list[Item]:
    """Those of `items`, which `config` reads, that come from `path`. Ids of a run's records say nothing of which run: all have c0000.

    Of one source all do, whatever the path: it may be where somebody has judged them.
    """
    if len({item.source for item in items}) < 2:
        return list(items)
    place = Path(path).expanduser()
    alone = config.model_copy(update={"path": [path]} | ({"unit": "auto"} if (place / ITEMS).is_file() else {}))
    try:
        own = {item.source for item in signed(_read(path, alone, lambda text: None, scored=False))}
    except ConfigError:
        return []
    return [item for item in items if item.source in own]


def cluster_of(item: Item) -> str:
    """What is drawn and held out as a whole: a topic, whichever source talks of it; another group is its source's own."""
    return f"topic {item.topic}" if item.topic and item.group == item.topic else f"{item.source}/{item.group}"


def own_id(item: Item) -> str:
    """An item's id in its own source: before it may stand the first signs of the source, where several were read."""
    return item.id.removeprefix(f"{item.source[:8]}/")


def source_problems(config: SourceConfig) -> list[str]:
    """What is wrong with the names of sources, without reading what they hold."""
    if not config.path:
        return ["source.path: names nothing; name a run folder, a table or a data set: SOURCE, or source.path=[...]"]
    return [problem for path in config.path if not path.startswith(HUB) and (problem := _place_problem(path)) is not None]


def signed(items: Sequence[Item]) -> list[Item]:
    """The items with the digest of them all as their source; those that have one keep it."""
    lines = sorted(item.model_copy(update={"source": ""}).to_json() for item in items)
    digest = hashlib.sha256("\n".join(lines).encode("utf-8", "replace")).hexdigest()[:16]
    return [item if item.source else item.model_copy(update={"source": digest}) for item in items]


def _read(path: str, config: SourceConfig, say: Say, scored: bool) -> list[Item]:
    if path.startswith(HUB):
        return table_items(read_table(path, config, say), config, say, scored)
    if problem := _place_problem(path):
        raise ConfigError(problem)
    place = Path(path).expanduser()
    if (place / ITEMS).is_file() or place.name == ITEMS:
        return _kept(place if place.name == ITEMS else place / ITEMS, config)
    if is_table(place):
        return table_items(read_table(path, config, say), config, say, scored)
    return run_items(RunReader(place, "judge another source"), config, say)


def _place_problem(path: str) -> str | None:
    place = Path(path).expanduser()
    if not place.exists():
        hub = f"; a data set of the hub is named hf:{path}" if path.count("/") == 1 and not path.startswith((".", "/", "~")) else ""
        return f"source.path={path}: no such file or folder{hub or '; correct the path'}"
    if is_table(place) or (place / ITEMS).is_file():
        return None
    if place.is_dir():
        return None if is_run(place) else f"source.path={path}: is no run folder, and none that `datasets` saved; name a run or a table"
    return f"source.path={path}: is no table; name one that ends in {', '.join(TABLES)}"


def _kept(path: Path, config: SourceConfig) -> list[Item]:
    """The items of a judge's folder, as they were."""
    if config.unit != "auto":
        raise ConfigError(
            f"source.unit={config.unit}: {path} holds items already; leave source.unit away, or name the source that they came from"
        )
    found = list(read_records(path, Item, "judge its source again"))
    if not found:
        raise ConfigError(f"source.path={path}: holds no item")
    return found


def drawn(items: list[N], config: SourceConfig) -> list[N]:
    """At most `limit` items, in the order that they had; the same seed draws the same ones, wherever they stand."""
    if config.limit is None or len(items) <= config.limit:
        return items
    ranked = sorted(items, key=lambda item: hashlib.sha256(f"{config.seed} {item.id}".encode("utf-8", "replace")).digest())
    chosen = {item.id for item in ranked[: config.limit]}
    return [item for item in items if item.id in chosen]


def _identical(items: Sequence[Item], config: SourceConfig) -> list[Item]:
    """Pairs of one same text, made of pairs that are there."""
    if not config.identical:
        return []
    pairs = [item for item in items if item.pair]
    if not pairs:
        raise ConfigError("source.identical: puts in pairs of one same text, but here are none to make them of; leave it away")
    drawn = random.Random(f"{config.seed} identical").sample(pairs, min(config.identical, len(pairs)))
    return [item.model_copy(update={"id": f"{item.id}/same", "texts": [item.texts[0]] * 2, "label": None}) for item in drawn]
