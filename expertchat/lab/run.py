"""`expertchat judge`: judges on items that exist, in full batches, into one folder that the same command goes on with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from expertchat.backends.asking import Ask, Flow
from expertchat.backends.base import Backend
from expertchat.config import ConfigError
from expertchat.events import JudgeCalled, OpinionGiven, Sink
from expertchat.folder.reader import RunReader
from expertchat.folder.run import Hub
from expertchat.lab.config import LabConfig, seat_of
from expertchat.lab.frame import RunFrame, Say
from expertchat.lab.judge import Bench, LabJudge, asked_place
from expertchat.lab.kinds import judges_of
from expertchat.lab.store import LabFolder, with_earlier_judges
from expertchat.lab.summary import summarise
from expertchat.records import Item
from expertchat.sources.read import read_items
from expertchat.talk.cast import Cast, load_cast, load_reward_model
from expertchat.talk.journal import Journal

if TYPE_CHECKING:
    from expertchat.choosing.config import BestOfNConfig

Work = tuple[LabJudge, Item, int]  # one judgement: who, of what, which time


def run_judge(
    config: LabConfig, command_line: list[str], sink: Sink, *, backends: Mapping[str, Backend] | None = None
) -> int:
    """Judge, or go on with it. Returns 0 when it is done, 3 when it was stopped and can go on, 1 when no judge answered anything.

    `sink` is closed at the end. `backends` (by the places of the judges' models, judges.NAME.model) replace those of the config. Raises
    ConfigError for what is wrong with the config or the source.
    """
    return _Lab(config, command_line, backends).run(sink)


class _Lab(RunFrame[LabConfig, LabFolder]):
    command = "judge"

    def __init__(self, config: LabConfig, command_line: list[str], backends: Mapping[str, Backend] | None) -> None:
        super().__init__(config, command_line, backends)
        self.seconds: dict[str, float] = {}  # that the models worked, by judgement
        self.earlier: set[str] = set()  # places of what an earlier start has asked: nobody knows the seconds of these

    def read(self) -> None:
        self.config, self.added = with_earlier_judges(self.config, self.place)
        self.items = read_items(self.config.source, self.told.append)

    def opened(self, say: Say) -> LabFolder:
        return LabFolder(self.place, self.config.model_dump(mode="json"), self.command_line, say, self.added)

    def work(self) -> int:
        store, hub, config = self.store, self.hub, self.config
        judges = judges_of(Bench(config, {}, {}), self.items)
        self._check(judges)
        cast = self._loaded(self._left(judges))
        judges = judges_of(Bench(config, cast.experts, cast.tokens), self.items)
        store.begin(self.items, [judge.ref for judge in judges])
        self.earlier = {place for answer in store.answers for place in _above(answer)}
        every, left = list(self._works(judges)), self._left(judges)
        resumed = len(every) - len(left)
        self.begins(conversations=0, turns=0, judgements=len(every), resumed=resumed)
        for judge in judges:
            hub.send(JudgeCalled(judge=judge.ref, items=sum(judge.takes(item) for item in self.items)))
        if not self.asked((self._judged(work) for work in left), len(every), resumed, spent=self._spent):
            return self.stopped()
        return self.finished(summarise(store.folder))

    def _check(self, judges: Sequence[LabJudge]) -> None:
        """Raise ConfigError for judges for whom there is nothing to judge."""
        pairs = sum(item.pair for item in self.items)
        there = f"the source holds {len(self.items)} items, {pairs} of them pairs"
        idle = [judge.name for judge in judges if not any(judge.takes(item) for item in self.items)]
        if idle:
            raise ConfigError(
                [f"judges.{name}: can judge nothing of this ({there}); leave it out, or choose another source.unit" for name in idle]
            )

    def _loaded(self, left: Sequence[Work]) -> Cast:
        """The models of the judges that have something to do."""
        busy = {judge.name for judge, _, _ in left}
        wanted = {name: judge for name, judge in self.config.judges.items() if name in busy}
        config = self.config.model_copy(update={"judges": type(self.config.judges).model_construct(root=wanted)})
        return self.loaded(lambda: load_judges(config, self.hub, self.backends))

    def _works(self, judges: Sequence[LabJudge]) -> Iterator[Work]:
        """All judgements. The judges of one item follow each other: what they show their models begins alike."""
        for item in self.items:
            takers = [judge for judge in judges if judge.takes(item)]
            yield from ((judge, item, n) for n in range(self.config.repeats) for judge in takers if judge.owes(item, n))

    def _left(self, judges: Sequence[LabJudge]) -> list[Work]:
        """The judgements of which something is not on disk."""
        there = {line["id"] for line in RunReader(self.store.folder).lines("opinions")}
        return [(judge, item, n) for judge, item, n in self._works(judges) if not there.issuperset(judge.owes(item, n))]

    def _judged(self, work: Work) -> Flow[None]:
        """One judgement, from its first question to its opinions on disk."""
        judge, item, repeat = work
        place = asked_place(item, judge.name, repeat)
        self.seconds[place] = 0.0
        opinions = yield from Journal(self.store.answers, self.store.keep).over(judge.flow(item, repeat))
        spent = self.seconds.pop(place)
        each = spent / len(opinions) if spent and place not in self.earlier else None
        for opinion in opinions:
            self.hub.send(OpinionGiven(opinion=opinion.model_copy(update={"seconds": each})))
        self.forget(f"{place}/")

    def _spent(self, asked: Sequence[Ask], seconds: float) -> None:
        """Share the time of an advance out among those that it was for."""
        for ask in asked:
            place = ask.request.key
            while place and place not in self.seconds:
                place = place.rpartition("/")[0]
            if place:
                self.seconds[place] += seconds / len(asked)


def load_judges(config: LabConfig | BestOfNConfig, hub: Hub, backends: Mapping[str, Backend] | None) -> Cast:
    """The models of a config, those of its judges among them; `backends` by their places replace them."""
    cast = load_cast(config, hub, backends, None)
    for name, judge in config.judges.items():
        if judge.reward_model is not None:
            seat = seat_of(name, "reward_model")
            cast.backends[seat] = (backends or {}).get(seat) or load_reward_model(judge.reward_model, hub, cast.terms)
    return cast


def _above(key: str) -> Iterator[str]:
    """All places that a key stands in: a/b and a of a/b/c."""
    while key := key.rpartition("/")[0]:
        yield key
