"""`expertchat build_pairs`: texts are scored, the high ones chosen, counterparts written until one scores low; pairs and their card.

`_Building.run` is the whole of it. Whatever a model answers is kept as it comes, so that a start that goes on asks for nothing twice.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from expertchat.backends.asking import Flow
from expertchat.backends.base import Backend
from expertchat.building.card import card, markdown, warnings
from expertchat.building.choosing import ENOUGH, NO_LOW, NO_ROOM, Sorting, bounds, couples, drawn, matched, of_attempt, of_source, pair_of
from expertchat.building.config import MODEL, BuildConfig
from expertchat.building.counterpart import Low, Writing, reasons
from expertchat.building.held_out import HeldOut, held_out
from expertchat.building.reading import Prompts, cut_texts, items_of, plainly, source_of
from expertchat.building.scoring import Scored, alone, scored, the_judge, to_judge
from expertchat.building.store import PAIRS, BuildFolder
from expertchat.config import ConfigError
from expertchat.events import JudgeCalled, OpinionGiven, Sink
from expertchat.experts.base import ContextTooSmallError
from expertchat.folder.summary import seconds_of
from expertchat.folder.writing import replace, saving
from expertchat.lab.frame import RunFrame
from expertchat.lab.judge import Bench, LabJudge
from expertchat.lab.run import load_judges
from expertchat.records import Item, Opinion
from expertchat.records.building import Attempt
from expertchat.talk.journal import Journal

CARD = "card"


def run_build(
    config: BuildConfig, command_line: list[str], sink: Sink, *, backends: Mapping[str, Backend] | None = None
) -> int:
    """Build pairs, or go on with it. Returns 0 when they are there, 3 when it was stopped and can go on, 1 where not one could be built.

    `sink` is closed at the end. `backends` ("model", and judges.NAME.model) replace those of the config. Raises ConfigError for what is
    wrong with the config or the source.
    """
    return _Building(config, command_line, backends).run(sink)


class _Building(RunFrame[BuildConfig, BuildFolder]):
    command, folder = "build_pairs", BuildFolder

    def read(self) -> None:
        self.items = items_of(self.config, self.told.append)
        self.held: HeldOut = held_out(self.config.held_out, self.told.append)

    def work(self) -> int:
        """Score, choose, write counterparts, tell."""
        config = self.config
        judge = the_judge(config, Bench(config, {}, {}), self.items)  # what is wrong with it is told before anything is loaded
        judged, generates = to_judge(judge, self.items), self._generates(judge)
        self.loaded(lambda: load_judges(config, self.hub, self.backends))
        judge = the_judge(config, Bench(config, self.cast.experts, self.cast.tokens), self.items)
        self._begin(judged, judge)
        if not self._score(judged, judge):
            return self.stopped()
        texts = self._scored()
        sorting = Sorting(config, self.held, self._prompts(), bounds(texts, config.choose, free=not generates))
        self._tell_bounds(sorting)
        low = Low(config, self.held.text)
        if generates:
            if not self._write(texts, sorting, low, judge):
                return self.stopped()
        else:
            self._match(texts, sorting, low, judge.name)
        return self.finished(self._end(judge.name))

    def _generates(self, judge: LabJudge) -> bool:
        """Whether counterparts are written. Raises ConfigError where they should be and cannot."""
        origin = self.config.counterpart.origin
        if origin == "source" or (origin == "auto" and any(item.pair for item in self.items)):
            return False
        if not any(judge.takes(alone(item, place)) for item in self.items for place in range(len(item.texts))):
            raise ConfigError(f"counterpart.origin=generated: {judge.name} scores no text by itself; take counterpart.origin=source")
        if problems := self.config.cannot_generate():
            single = f"the source holds {len(self.items)} single texts, and no pairs"
            raise ConfigError([problem.replace("counterpart.origin=generated", single) for problem in problems])
        return True

    def _begin(self, judged: Sequence[Item], judge: LabJudge) -> None:
        self.store.begin(judged, [judge.ref])
        owed = [item for item in judged if judge.takes(item)]
        before = len(owed) - len(self._left(owed, judge))
        self.begins(conversations=0, turns=0, judgements=len(owed), resumed=before)
        self.hub.send(JudgeCalled(judge=judge.ref, items=len(owed)))

    # -- scoring ----------------------------------------------------------------------------------------------------

    def _left(self, judged: Sequence[Item], judge: LabJudge) -> list[Item]:
        """The items of which an opinion is not on disk."""
        return [item for item in judged if judge.takes(item) and not self.store.opinions.keys() >= set(judge.owes(item, 0))]

    def _score(self, judged: Sequence[Item], judge: LabJudge) -> bool:
        """Ask the judge about every text; False: stopped by a signal."""

        def flow(item: Item) -> Flow[None]:
            for opinion in (yield from self._journal().over(judge.flow(item, 0))):
                self.hub.send(OpinionGiven(opinion=opinion))

        left = self._left(judged, judge)
        return self.asked([flow(item) for item in left], len(judged), len(judged) - len(left))

    def _scored(self) -> list[Scored]:
        said: dict[str, list[Opinion]] = {}
        for opinion in self.store.opinions.values():
            said.setdefault(opinion.item, []).append(opinion)
        return scored(self.config, self.items, said, cut_texts(source_of(self.config), self.items))

    def _prompts(self) -> dict[str, list[dict[str, str]] | None]:
        self.prompts = Prompts(plainly(self.config), self.config.model)
        if self.config.model is not None:
            self.prompts.info, self.prompts.count = self.cast.backends[MODEL].info, self.cast.tokens[MODEL]
        return {item.id: self.prompts.of(item) for item in self.items}

    def _tell_bounds(self, sorting: Sorting) -> None:
        for kind, at in sorted(sorting.bounds.items()):
            name = f"type {kind}: " if kind else ""
            self.hub.say(f"{name}chosen from a score of {at.high:.4g} on, rejected up to {at.low:.4g}")

    # -- counterparts -----------------------------------------------------------------------------------------------

    def _write(self, texts: Sequence[Scored], sorting: Sorting, low: Low, judge: LabJudge) -> bool:
        """Counterparts to the texts that score high, as many as are wanted; False: stopped by a signal."""
        wanted: list[Scored] = []
        for one in drawn(texts, self.config.run.seed):
            reason = sorting.why_not(one)
            if reason is None:
                wanted.append(one)
            else:
                self.store.ended(sorting.outcome(one, reason))
        writing = Writing(self.config, judge, self.prompts, low, self.config.judging, dict(self.store.attempts), self.store.tried)
        while wanted and (lacking := self._lacking()):
            wave, wanted = wanted[:lacking], wanted[lacking:]
            if not self.asked([self._paired(one, sorting, writing) for one in wave], len(wave)):
                return False
        for one in wanted:
            self.store.ended(sorting.outcome(one, ENOUGH))
        return True

    def _lacking(self) -> int:
        """How many pairs are still wanted; of all, as many as there may be texts."""
        return len(self.items) if self.config.count is None else max(0, self.config.count - self._built)

    _built = 0  # pairs of this start and of those before it, as far as it has got

    def _paired(self, one: Scored, sorting: Sorting, writing: Writing) -> Flow[None]:
        """One chosen text, from its first counterpart to its pair on disk."""
        at = sorting.bounds[one.type]
        try:
            tried = yield from self._journal().over(writing.flow(one, at.low))
        except ContextTooSmallError as error:
            self.store.ended(sorting.outcome(one, NO_ROOM, problem=str(error)))
            return
        last: Attempt = tried[-1]
        if last.reason is not None or last.score is None:
            self.store.ended(sorting.outcome(one, f"{NO_LOW}: {reasons(tried)}", attempts=len(tried)))
            return
        special = self.cast.backends[MODEL].info.special_tokens
        about = of_attempt(last, writing.prompts.expert(one.item).ref.model)
        pair = pair_of(one, sorting.prompts[one.item.id] or [], last.text, last.score, about, writing.judge.name, special)
        self.store.ended(sorting.outcome(one, attempts=len(tried), pair=pair.id), pair)
        self._built += 1
        self.forget(f"{one.id}/")

    def _match(self, texts: Sequence[Scored], sorting: Sorting, low: Low, judge: str) -> None:
        """Pairs of texts that are there."""
        special = self.cast.backends[MODEL].info.special_tokens if self.config.model is not None else ()
        for group in couples(texts, sorting.prompts):
            for one, reason, partner in matched(group, sorting, low):
                if partner is None or not self._lacking():
                    self.store.ended(sorting.outcome(one, reason or ENOUGH))
                    continue
                prompt = sorting.prompts[one.item.id] or []
                pair = pair_of(one, prompt, partner.text.text, partner.score or 0.0, of_source(partner), judge, special)
                self.store.ended(sorting.outcome(one, pair=pair.id), pair)
                self._built += 1

    # -- asking -----------------------------------------------------------------------------------------------------

    def _journal(self) -> Journal:
        return Journal(self.store.answers, self.store.keep)

    # -- the end ----------------------------------------------------------------------------------------------------

    def _end(self, judge: str) -> dict[str, Any]:
        """The card beside the pairs, and the summary."""
        store = self.store
        pairs, outcomes = list(store.pairs.values()), list(store.outcomes.values())
        told = card(pairs, self.config.held_out.near, self.held, outcomes, store.attempts.values())
        title = store.folder.name
        with store.writing(), saving(store.folder):
            replace(store.folder / f"{CARD}.json", json.dumps(told, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
            replace(store.folder / f"{CARD}.md", markdown(told, title, judge, " ".join(store.command_line)))
        self.hub.notes(warnings(told), "warning")
        summary: dict[str, Any] = {"schema": 1, "pairs": len(pairs), "file": str(store.folder / PAIRS), CARD: told}
        summary["seconds"] = round(seconds_of(store.folder), 2)
        if pairs:
            return summary
        why = Counter(one.reason for one in outcomes if one.reason).most_common(3)
        shown = ", ".join(f"{count} {reason}" for reason, count in why) or "there is no text"
        return summary | {"status": "failed", "reason": f"not one pair could be built: of {len(outcomes)} texts {shown}"}
