"""What was said already, as one more judge: a run's ratings, an evaluation's verdicts, or the opinions of an earlier `expertchat judge`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from expertchat.backends.asking import Flow
from expertchat.config import ConfigError
from expertchat.evaluation.figures import Comparison
from expertchat.folder.jsonl import read_records
from expertchat.folder.reader import RunReader
from expertchat.lab.config import JudgeConfig
from expertchat.lab.judge import Bench, LabJudge, of_rating, of_verdict, opinion_id
from expertchat.records import Item, JudgeRef, Opinion, Rating
from expertchat.sources.read import from_source, own_id

REMEDY = "leave this judge out"
Said = dict[str, list[tuple[str, Opinion]]]
"""By item: who said it, and what, as an opinion of nobody yet."""


@dataclass(frozen=True)
class Recorded:
    """What one judge of a run said of the items that are here."""

    name: str
    config: JudgeConfig
    model: str | None
    said: dict[str, list[Opinion]]  # by item

    @classmethod
    def of(cls, name: str, config: JudgeConfig, bench: Bench, items: Sequence[Item]) -> LabJudge:
        """Read the run. Raises ConfigError where it says nothing of these items, or where several judges of it do."""
        place = config.of or (bench.config.source.path[0] if len(bench.config.source.path) == 1 else None)
        if place is None:
            raise ConfigError(f"judges.{name}.of: which run? there are several sources; name the run folder that holds what was said")
        folder = Path(place).expanduser()
        if not folder.is_dir():
            raise ConfigError(f"judges.{name}.of={place}: is no run folder; name the one that holds what was said")
        run = RunReader(folder, REMEDY)
        found = said_in(run, from_source(place, bench.config.source, items))
        who = sorted({judge for said in found.values() for judge, _ in said})
        if config.by is not None and config.by not in who and who:
            raise ConfigError(f"judges.{name}.by={config.by}: nobody in {place} is called so; there are {', '.join(who)}")
        kept = {item: [one for judge, one in said if config.by in (None, judge)] for item, said in found.items()}
        if not any(kept.values()):
            raise ConfigError(f"judges.{name}: {place} says nothing of these items; name the run that they come from with judges.{name}.of")
        twice = [item for item, said in kept.items() if len({_about(one) for one in said}) < len(said)]
        if twice:
            raise ConfigError(f"judges.{name}: {', '.join(who)} each judge {twice[0]}; take one of them with judges.{name}.by=NAME")
        return cls(name, config, model_of(run, config.by or (who[0] if len(who) == 1 else None)), kept)

    @property
    def ref(self) -> JudgeRef:
        return JudgeRef(id=self.name, form="recorded", model=self.model, note=self.config.note)

    def takes(self, item: Item) -> bool:
        return bool(self.said.get(item.id))

    def owes(self, item: Item, repeat: int) -> list[str]:
        return [one.id for one in self._own(item)] if repeat == 0 else []

    def flow(self, item: Item, repeat: int) -> Flow[list[Opinion]]:
        yield from ()
        return self._own(item) if repeat == 0 else []

    def _own(self, item: Item) -> list[Opinion]:
        return [
            one.model_copy(
                update={
                    "id": opinion_id(item.id, self.name, one.category, one.place, one.order, one.repeat), "judge": self.name,
                }
            )
            for one in self.said[item.id]
        ]  # fmt: skip


def _about(one: Opinion) -> tuple[object, ...]:
    return one.category, one.place, one.order, one.repeat


def said_in(run: RunReader, items: Sequence[Item]) -> Said:
    """What a run says of items that come from it: opinions of an earlier `judge` by the items' ids, ratings and verdicts by those of what
    was judged."""
    found: Said = {}
    known = {item.id: item for item in items}
    for one in run.opinions():
        if one.item in known:
            found.setdefault(one.item, []).append((one.judge, one))
    places = dict(_places(items))
    for rating in run.ratings():
        for item, place in places.get(_judged(rating), []):
            found.setdefault(item, []).append((rating.judge, of_rating(rating, item, "", place)))
    own = {own_id(item): item.id for item in items if item.pair}
    for path in sorted((run.folder / "evaluations").glob("*.jsonl")):
        for comparison in () if path.name.startswith("base-") else read_records(path, Comparison, REMEDY):
            if comparison.id in own:
                item = own[comparison.id]
                found.setdefault(item, []).extend((verdict.judge, of_verdict(verdict, item, "")) for verdict in comparison.verdicts)
    return found


def _places(items: Sequence[Item]) -> Iterator[tuple[str, list[tuple[str, int]]]]:
    """What ratings call the texts of items -> (item, place) of each."""
    found: dict[str, list[tuple[str, int]]] = {}
    for item in items:
        for place, text in enumerate(item.texts):
            found.setdefault(text.candidate or own_id(item), []).append((item.id, place))
    yield from found.items()


def _judged(rating: Rating) -> str:
    """What a rating is of, as the items of its run are called: a candidate, a turn, all that a subject says."""
    if rating.candidate is not None:
        return rating.candidate
    return f"{rating.transcript}/{rating.subject}" if rating.turn is None else f"{rating.transcript}/t{rating.turn:02d}"


def model_of(run: RunReader, judge: str | None) -> str | None:
    """The model that judged in a run, where one did: that of a seat, or the one that an earlier `judge` noted."""
    if judge is None:
        return None
    for ref in run.judges():
        if ref.id == judge:
            return ref.model
    transcript = next(run.transcripts(), None)
    seat = judge.removeprefix("base_")
    return transcript.experts[seat].model if transcript is not None and seat in transcript.experts else None
