"""What is known of texts, from whatever holds it: people's labels, a run's scores, judges' opinions, the truth of the embedded world."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from expertchat.audit.config import AuditConfig
from expertchat.audit.evidence import Evidence, Key, key_of
from expertchat.audit.reading import read as read_evidence
from expertchat.audit.sheet import sheet
from expertchat.config import ConfigError
from expertchat.folder.reader import RunReader
from expertchat.records import Choice, Item
from expertchat.reward_models.config import RewardModelTraining, Target
from expertchat.sources.config import SourceConfig
from expertchat.sources.encoding import Say
from expertchat.sources.read import from_source, read_items
from expertchat.text.sentences import listed

TARGETS: tuple[Target, ...] = ("label", "people", "scores", "opinions", "truth")
TOLD: dict[Target, str] = {
    "label": "what the source itself calls better", "people": "what people said in labels", "scores": "the scores that the run gave",
    "opinions": "what judges have said", "truth": "the truth of the embedded world",
}  # fmt: skip


@dataclass(frozen=True)
class Known:
    """An item with the number of each of its texts, and of a pair which text is better; None: not known."""

    item: Item
    values: tuple[float | None, ...]
    better: Choice | None = None

    @property
    def sign(self) -> float | None:
        """1 where the first text is better, -1 the second, 0 a tie; None where nobody knows."""
        return None if self.better is None else {"first": 1.0, "second": -1.0, "tie": 0.0}[self.better]

    @property
    def known(self) -> bool:
        return self.better is not None or any(value is not None for value in self.values)


def read_known(config: RewardModelTraining, source: SourceConfig, target: str, say: Say) -> tuple[Target, list[Known]]:
    """All items of a source with what is known of them by `target` (auto: the first kind that there is), which is returned too.

    Raises ConfigError where nothing is known.
    """
    items = read_items(source, say, scored=True)
    for kind in TARGETS if target == "auto" else (target,):
        readers: dict[str, Callable[[], list[Known]]] = {
            "label": lambda: by_label(items, config.min_margin),
            "people": lambda: by_people(items, source, config.labels, config.min_margin) if config.labels else [],
            "scores": lambda: by_scores(items, source, config.min_margin),
            "opinions": lambda: by_opinions(items, source, config.judge, config.min_margin),
            "truth": lambda: by_truth(items, config.min_margin),
        }
        found = [one for one in readers[kind]() if one.known]
        if found:
            if target == "auto":
                say(f"learnt is {TOLD[kind]} (target={kind})")  # type: ignore[index]
            return kind, found  # type: ignore[return-value]
    what = f"target={target}: nothing of the kind" if target != "auto" else "target: neither a label, nor a score, opinion or truth"
    raise ConfigError(
        f"{what} is known of the {len(items)} items of {', '.join(source.path)}; name a source of rated or compared texts, columns with "
        "source.columns.label or source.columns.truth, or what people said with labels=[FOLDER]"
    )


def of_values(item: Item, values: Sequence[float | None], min_margin: float) -> Known:
    """An item whose texts have numbers: of a pair the higher one is better, unless they lie too near to each other."""
    better: Choice | None = None
    if item.pair and (one := values[0]) is not None and (two := values[1]) is not None:
        better = "tie" if abs(one - two) <= min_margin else "first" if one > two else "second"
    return Known(item, tuple(values), better)


def by_truth(items: Iterable[Item], min_margin: float) -> list[Known]:
    return [of_values(item, [text.truth for text in item.texts], min_margin) for item in items]


def by_label(items: Iterable[Item], min_margin: float) -> list[Known]:
    """The source's own labels: a rating of one text, a choice between two."""
    found = []
    for item in items:
        label = item.label
        if isinstance(label, str):
            found.append(Known(item, (None, None), label))
        elif label is not None:
            found.append(of_values(item, [float(label)], min_margin))
    return found


def by_scores(items: Sequence[Item], source: SourceConfig, min_margin: float) -> list[Known]:
    """What the runs of a source made their pairs of, by candidate."""
    scores: dict[tuple[str, str], float] = {}  # by the item's own source too: candidates of all runs are called alike
    for path in source.path:
        place = Path(path).expanduser()
        if (place / "scores.jsonl").is_file():
            own = {item.source for item in from_source(path, source, items)}
            given = {one.id: one.value for one in RunReader(place, "name another source").scores() if one.value is not None}
            scores |= {(name, candidate): value for name in own for candidate, value in given.items()}
    if not scores:
        return []
    return [of_values(item, [scores.get((item.source, text.candidate or "")) for text in item.texts], min_margin) for item in items]


def by_opinions(items: Sequence[Item], source: SourceConfig, judge: str | None, min_margin: float) -> list[Known]:
    """What one judge has said of them. Raises ConfigError where several have and none of them is named."""
    evidence = _evidence(source, [])
    names = sorted(name for name in evidence.opinions if evidence.judges[name].form != "person")
    if not names:
        return []
    if judge is not None and judge not in names:
        raise ConfigError(f"judge={judge}: nobody of that name has judged these items; there are {listed(names)}")
    if judge is None and len(names) > 1:
        raise ConfigError(f"judge: {listed(names)} have judged these items; name one with judge=NAME")
    return _said(items, evidence, [judge or names[0]], min_margin)


def by_people(items: Sequence[Item], source: SourceConfig, labels: Sequence[str], min_margin: float) -> list[Known]:
    """What people have said of them: the mean of their numbers, what most of them chose."""
    evidence = _evidence(source, labels)
    names = sorted(name for name in evidence.opinions if evidence.judges[name].form == "person")
    return _said(items, evidence, names, min_margin)


def _evidence(source: SourceConfig, labels: Sequence[str]) -> Evidence:
    """What is said of the items of a source; nothing where nobody says anything."""
    folders = [path for path in source.path if labels or Path(path).expanduser().is_dir()]
    if not folders:
        return Evidence()
    config = AuditConfig(
        source=source.model_copy(update={"path": folders}), labels=list(labels), against="auto", resamples=200, seed=source.seed
    )
    try:
        return read_evidence(config)
    except ConfigError as error:
        if labels or not all("nobody has judged it" in one or "is not an answer" in one for one in error.problems):
            raise
        return Evidence()


def _said(items: Sequence[Item], evidence: Evidence, names: Sequence[str], min_margin: float) -> list[Known]:
    """The items with what these judges or people say of them together."""
    at = dict.fromkeys(evidence.items, 0)
    lengths = {(key, place): 0.0 for key, item in evidence.items.items() for place in range(len(item.texts))}
    sheets = [sheet(evidence.judges[name], evidence.items, evidence.opinions[name], {}, lengths, at) for name in names]
    keys: Mapping[Key, Item] = {key_of(item): item for item in items}
    found = []
    for key, item in keys.items():
        numbers = [[one.texts[key, place] for one in sheets if (key, place) in one.texts] for place in range(len(item.texts))]
        choices = [one.choices[key] for one in sheets if key in one.choices]
        values = [fmean(ones) if ones else None for ones in numbers]
        if choices:
            mean = fmean(choices)
            found.append(Known(item, tuple(values), "first" if mean > 0 else "second" if mean < 0 else "tie"))
        else:
            found.append(of_values(item, values, min_margin))
    return found
