"""Items out of a run folder: dialogues, turns, candidates, pairs of candidates, and an evaluation's replies. Nothing is generated again."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path

from expertchat.backends.learnt import trained_name
from expertchat.config import ConfigError
from expertchat.evaluation import truth
from expertchat.evaluation.figures import Comparison
from expertchat.evaluation.histories import Held
from expertchat.folder.jsonl import read_records
from expertchat.folder.reader import RunReader
from expertchat.folder.without import without_dialogues
from expertchat.records import Candidate, ExpertRef, Item, Speaker, Text, Transcript, Turn
from expertchat.sources.config import SourceConfig, Unit
from expertchat.sources.encoding import Say
from expertchat.text.likeness import blank
from expertchat.text.sentences import shown_path

REMEDY = "judge another source"


def system_name(model: str, version: int, trained: str | None = None) -> str:
    """Who wrote a text: a model, what it was trained with before, and of a policy that has learned since, which one.

    >>> system_name("embedded:llama", 0), system_name("embedded:llama", 3), system_name("embedded:llama", 0, "my-run")
    ('embedded:llama', 'embedded:llama v3', 'embedded:llama + my-run')
    """
    known = f"{model} + {trained}" if trained else model
    return f"{known} v{version}" if version else known


def is_of(system: str | None, model: str | None) -> bool:
    """Whether a system is a model, or a policy that was trained from it."""
    return system is not None and model is not None and (system == model or system.startswith((f"{model} v", f"{model} + ")))


def run_items(run: RunReader, config: SourceConfig, say: Say) -> list[Item]:
    """The items of a run. Raises ConfigError where it has none of the wanted kind."""
    unit = config.unit if config.unit != "auto" else _best(run)
    compared = unit == "evaluations" and run.kind != "sft"  # sft's hold answers to rows
    if unit not in ("candidates", "pairs") and not compared and (problem := without_dialogues(run)):
        raise ConfigError(f"source.path={problem}")
    if config.unit == "auto":
        say(f"{run.folder.name}: its {unit} are judged; others: source.unit=transcripts, turns, candidates, pairs, evaluations")
    reading = _Reading(run, config)
    items = list(_UNITS[unit](reading))
    if config.subject is not None:
        seats = sorted({item.subject for item in items})
        items = [item for item in items if item.subject == config.subject]
        if seats and not items:
            raise ConfigError(f"source.subject={config.subject}: nobody in {run.folder} is called so; there are {', '.join(seats)}")
    if not items:
        raise ConfigError(f"source.path={run.folder}: holds no {unit}{reading.why(unit)}; take another run, or another source.unit")
    if reading.silent:
        say(f"{run.folder.name}: {named_ids(reading.silent)} said nothing and cannot be judged: left out")
    return _grouped(items, config.group)


def named_ids(ids: Sequence[str]) -> str:
    """The first few ids and how many more."""
    return ", ".join(ids[:5]) + (f" and {len(ids) - 5} more" if len(ids) > 5 else "")


def _best(run: RunReader) -> Unit:
    """What there is to judge in a run that nobody chose a unit for."""
    if run.path("candidates").is_file():
        return "candidates" if run.chooses else "pairs"
    if run.path("transcripts").is_file() or not (run.folder / "evaluations").is_dir():
        return "transcripts"
    return "evaluations"


@dataclass
class _Reading:
    """A run that is read, with what was left out of it."""

    run: RunReader
    config: SourceConfig
    silent: list[str] = field(default_factory=list)
    _transcripts: dict[str, Transcript] | None = None

    @property
    def transcripts(self) -> dict[str, Transcript]:
        if self._transcripts is None:
            self._transcripts = {one.id: one for one in self.run.transcripts()}
        return self._transcripts

    def why(self, unit: Unit) -> str:
        """Why there may be nothing."""
        if self.silent:
            return f" that say anything ({named_ids(self.silent)} are blank)"
        if unit in ("candidates", "pairs") and not (self.run.trains or self.run.chooses):
            return f" (a run of {self.run.kind or 'another command'} has no candidates)"
        return "" if self.run.done else " yet (it is not done)"

    # -- dialogues --------------------------------------------------------------------------------------------------------

    def dialogues(self) -> Iterator[Item]:
        """All that each expert says in a dialogue."""
        for one in self.transcripts.values():
            for seat, ref in one.experts.items():
                own = [turn for turn in one.turns if turn.speaker == seat]
                text = " ".join(turn.text.strip() for turn in own if turn.text.strip())
                if not own or blank(text):
                    self.silent += [f"{one.id}/{seat}"] if own else []
                    continue
                places = [i for i, turn in enumerate(one.turns) if turn.speaker == seat]
                scores = [truth_of(ref, one.topic, one.turns[:i], one.turns[i].text) for i in places]
                known = [score for score in scores if score is not None]
                said = Text(
                    text=text,
                    system=system_name(ref.model, ref.policy_version, ref.trained),
                    truth=sum(known) if len(known) == len(scores) else None,
                    tokens=sum(turn.tokens for turn in own),
                )
                yield self._item(f"{one.id}/{seat}", one.topic, one.id, one.turns, seat, [said], whole=True)

    def turns(self) -> Iterator[Item]:
        """Every turn, with those before it."""
        for one in self.transcripts.values():
            for i, turn in enumerate(one.turns):
                name, ref = f"{one.id}/t{i:02d}", one.experts[turn.speaker]
                if blank(turn.text):
                    self.silent.append(name)
                    continue
                before, written = one.turns[:i], turn.tokens
                yield self._item(name, one.topic, one.id, before, turn.speaker, [_text(ref, one.topic, before, turn.text, written)])

    # -- candidates -------------------------------------------------------------------------------------------------------

    def candidates(self) -> Iterator[Item]:
        """Each candidate alone, after its history."""
        for one, history in self._candidates():
            yield self._item(one.id, history.topic, history.id, history.turns[: one.turn], one.speaker, [_of(one, history)])

    def pairs(self) -> Iterator[Item]:
        """Two candidates of one same history, the one that was drawn first in front."""
        wanted = self.config.pairs_of
        groups: dict[tuple[str, int], list[tuple[Candidate, Transcript]]] = {}
        for one, history in self._candidates():
            groups.setdefault((one.transcript, one.turn), []).append((one, history))
        kept = {frozenset((str(pair.provenance.get("chosen")), str(pair.provenance.get("rejected")))) for pair in self.run.pairs()}
        for both in groups.values():
            couples = list(combinations(sorted(both, key=lambda one: one[0].index), 2))
            if wanted == "kept":
                couples = [couple for couple in couples if frozenset(one.id for one, _ in couple) in kept]
            elif wanted == "first":
                couples = [couple for couple in couples if couple[0][0].text != couple[1][0].text][:1]
            for (one, history), (two, _) in couples:
                name = f"{one.id}-{two.id.rpartition('/')[2]}"
                texts = [_of(one, history), _of(two, history)]
                yield self._item(name, history.topic, history.id, history.turns[: one.turn], one.speaker, texts)

    def _candidates(self) -> Iterator[tuple[Candidate, Transcript]]:
        """Candidates that say something, with the dialogue that they were drawn in; a dialogue that goes on still has no transcript."""
        for one in self.run.candidates():
            if (history := self.transcripts.get(one.transcript)) is None:
                continue
            if blank(one.text):
                self.silent.append(one.id)
                continue
            yield one, history

    # -- evaluations ------------------------------------------------------------------------------------------------------

    def evaluations(self) -> Iterator[Item]:
        """The base's reply to a held-out history, and the policy's."""
        folder = self.run.folder / "evaluations"
        bases = {held.id: held for path in sorted(folder.glob("base-*.jsonl")) for held in read_records(path, Held, REMEDY)}
        seen: set[str] = set()
        for path in sorted(folder.glob("*.jsonl")):
            for one in () if path.name.startswith("base-") else read_records(path, Comparison, REMEDY):
                held = bases.get(one.history)
                if held is None or held.reply is None or one.id in seen or not one.policy_version:
                    continue  # a policy that has not learned is its base
                seen.add(one.id)
                if blank(one.reply.text) or blank(held.reply.text):
                    self.silent.append(one.id)
                    continue
                model = self._model(one.learner)
                base = Text(text=held.reply.text, system=model, truth=_score(one.base), tokens=one.base_tokens)
                policy = Text(
                    text=one.reply.text, system=system_name(model, one.policy_version), truth=_score(one.policy), tokens=one.reply.tokens
                )
                yield self._item(one.id, held.topic, one.history, held.turns, one.learner, [base, policy])

    def _model(self, seat: Speaker) -> str:
        experts = self.run.config.get("experts")
        found = experts.get(seat) if isinstance(experts, Mapping) else None
        if not isinstance(found, Mapping) or "path" not in found:
            return seat
        return system_name(shown_path(str(found["path"])), 0, trained_name(found.get("trained")))

    def _item(
        self, name: str, topic: str, dialogue: str, turns: Sequence[Turn], seat: Speaker, texts: list[Text], whole: bool = False
    ) -> Item:
        """The group is the dialogue's id as yet: see _grouped."""
        return Item(id=name, source="", topic=topic, turns=list(turns), subject=seat, whole=whole, texts=texts, group=dialogue)


_UNITS: dict[Unit, Callable[[_Reading], Iterable[Item]]] = {
    "transcripts": _Reading.dialogues, "turns": _Reading.turns, "candidates": _Reading.candidates, "pairs": _Reading.pairs,
    "evaluations": _Reading.evaluations,
}  # fmt: skip


def _grouped(items: Sequence[Item], by: str) -> list[Item]:
    """The items, each with what it belongs to."""
    if by == "auto":
        by = "topic" if len({item.topic for item in items}) > 1 else "dialogue"
    if by == "dialogue":
        return list(items)
    return [item.model_copy(update={"group": item.topic if by == "topic" else item.id}) for item in items]


def _of(one: Candidate, history: Transcript) -> Text:
    """A candidate as a text that is judged."""
    ref = history.experts[one.speaker]
    said = _text(ref, history.topic, history.turns[: one.turn], one.text, one.tokens)
    return said.model_copy(update={"candidate": one.id, "system": system_name(ref.model, one.policy_version, ref.trained)})


def _text(ref: ExpertRef, topic: str, before: Sequence[Turn], text: str, tokens: int) -> Text:
    said = system_name(ref.model, ref.policy_version, ref.trained)
    return Text(text=text, system=said, truth=truth_of(ref, topic, before, text), tokens=tokens)


def truth_of(ref: ExpertRef, topic: str, before: Sequence[Turn], text: str) -> float | None:
    """What a text of the embedded world truly adds; of any other model nobody knows."""
    if ref.family != "world" or topic not in truth.load().topics:
        return None
    return _score(truth.tally(topic, before, text))


def _score(tally: truth.Tally | None) -> float | None:
    return None if tally is None else float(tally.score)


def is_run(folder: Path) -> bool:
    """Whether a folder holds a run's records."""
    return any((folder / name).exists() for name in ("config.yaml", "transcripts.jsonl", "candidates.jsonl", "events.jsonl", "evaluations"))
