"""Candidates of one history beside each other: their scores and what these come from; and the policy's reply beside the base's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import pstdev
from typing import TYPE_CHECKING, Any

from expertchat.folder.jsonl import read_lines
from expertchat.folder.reader import RunReader
from expertchat.report.drawing import COLOURS, FAINT, INK
from expertchat.report.learning import learnings
from expertchat.report.parts import Cell, Figure, Number, Section, Shown
from expertchat.report.shapes import number
from expertchat.report.subject import Subject
from expertchat.text.in_words import line

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_RUNS, MOST_HISTORIES, LONGEST = 3, 48, 320
TITLE = 60  # characters of a topic that a title has, which may be a whole prompt
OF_EACH = 3  # held-out replies that won, and that lost
RESULTS = ("won", "tied", "lost", None)
Line = dict[str, Any]


@dataclass(frozen=True)
class History:
    """The candidates of one history, with their scores, what these come from, and what became of them."""

    name: str
    round: int
    topic: str
    candidates: Sequence[Line]
    scores: Mapping[str, Line]
    rewards: Mapping[str, Line]
    used: Mapping[str, str]  # candidate -> chosen, rejected

    def score(self, candidate: Line) -> float | None:
        return number(self.scores.get(str(candidate.get("id")), {}).get("value"))

    @property
    def values(self) -> list[float]:
        return [value for one in self.candidates if (value := self.score(one)) is not None]

    @property
    def spread(self) -> float:
        return pstdev(self.values)


def candidates(subject: Subject) -> Section | None:
    """The section of the first few runs that have sampled several replies to one history, or were held against their base."""
    parts: list[Figure | Shown] = []
    several = len(subject.runs) > 1
    for run in [run for run in subject.runs if run.path("candidates").is_file() and run.path("scores").is_file()][:MOST_RUNS]:
        found, last = histories(run)
        if found:
            name = line(subject.name(run)) if several else ""
            number_ = list(subject.runs).index(run)
            parts += [_figure(found, last, name, f"candidates-{number_}"), *_tables(found, name)]
    parts += _held_out(subject)
    parts = [replace(part, folded=several) if isinstance(part, Shown) else part for part in parts]  # of several runs they are many
    lead = ["Every candidate of a history answers the same turns. A few are shown here; all are among the transcripts."]
    return Section("candidates", "Replies to one same history", lead, parts) if parts else None


def histories(run: RunReader) -> tuple[list[History], int]:
    """The histories of the last round that has scores for two candidates and more, and which round that is."""
    scores = {str(one["id"]): one for one in run.lines("scores") if "id" in one}
    groups: dict[tuple[int, str, int], dict[str, Line]] = {}
    for one in run.lines("candidates"):
        if str(one.get("id")) in scores and isinstance(one.get("round"), int):
            groups.setdefault((one["round"], str(one.get("transcript")), int(one.get("turn") or 0)), {})[str(one["id"])] = one
    last = max((place for place, _, _ in groups), default=0)
    latest = {key: list(own.values()) for key, own in groups.items() if key[0] == last and len(own) > 1}
    wanted = {str(one.get("id")) for own in latest.values() for one in own}
    rewards = {str(one["candidate"]): one for one in run.lines("rewards") if one.get("candidate") in wanted}
    used: dict[str, str] = {}
    for pair in run.lines("pairs"):
        provenance = pair.get("provenance")
        used |= {str(provenance.get(side)): side for side in ("chosen", "rejected")} if isinstance(provenance, Mapping) else {}
    topics = {str(one.get("id")): str(one.get("topic")) for one in run.lines("transcripts")}
    found = [History(f"{transcript}, turn {turn + 1}", last, topics.get(transcript, ""), own, scores, rewards, used)
             for (_, transcript, turn), own in latest.items()]  # fmt: skip
    return [one for one in found if len(one.values) > 1], last


# -- figures and tables -----------------------------------------------------------------------------------------------------


def _figure(found: Sequence[History], last: int, run: str, name: str) -> Figure:
    """Each history's candidates on a line of their own, the histories by their best one."""
    ordered = sorted(found, key=lambda one: (-max(one.values), one.name))
    step = -(-len(ordered) // MOST_HISTORIES)
    shown = ordered[::step]
    rows: list[Sequence[Number]] = [
        [i + 1, one.name, str(each.get("id")), one.score(each), one.used.get(str(each.get("id")), "")]
        for i, one in enumerate(shown)
        for each in one.candidates
    ]

    def draw(axes: Axes) -> None:
        for place, one in enumerate(shown, 1):
            axes.plot([place, place], [min(one.values), max(one.values)], color=FAINT, linewidth=0.8, zorder=1)
        for what, mark, colour, size in (("", "o", INK, 2.6), ("chosen", "^", COLOURS[0], 5.0), ("rejected", "v", COLOURS[1], 5.0)):
            own = [(int(row[0] or 0), value) for row in rows if row[4] == what and (value := number(row[3])) is not None]
            if own:
                fill: Any = "none" if what == "rejected" else "full"
                axes.plot([x for x, _ in own], [y for _, y in own], color=colour, marker=mark, markersize=size, linestyle="none",
                          fillstyle=fill, label=what or "neither")  # fmt: skip
        axes.set_xlabel("history, by its best candidate")
        axes.set_ylabel("score")
        axes.grid(axis="y")
        if axes.figure is not None and any(row[4] for row in rows):
            axes.figure.legend(loc="outside lower left", ncols=3)

    widest = max(found, key=lambda one: one.spread)
    alt = (
        f"{len(shown)} histories, a line from the worst to the best candidate of each. The widest is {widest.name}, from "
        f"{min(widest.values):.3f} to {max(widest.values):.3f}."
    )
    left = f" Every {step}th of {len(ordered)} histories." if step > 1 else ""
    title = f"Scores of the candidates of each history, round {last}" + (f" of {run}" if run else "")
    note = f"n = {len(found):,} histories.{left}"
    return Figure(name, title, alt, ("place", "history", "candidate", "score", "used"), rows, draw, note, (7.2, 3.1))


def _tables(found: Sequence[History], run: str) -> Iterator[Shown]:
    """The histories whose candidates lie widest apart, in the middle, and nearest."""
    ordered = sorted(found, key=lambda one: (-one.spread, one.name))
    for what, one in {
        "widest apart": ordered[0],
        "in the middle": ordered[len(ordered) // 2],
        "nearest to each other": ordered[-1],
    }.items():
        columns: dict[str, list[Any]] = {
            "reply": [_short(each.get("text")) for each in one.candidates],  # first: a phone shows the first columns
            "score": [one.score(each) for each in one.candidates],
            "rating": [_of_reward(one, each, "rating") for each in one.candidates],
            "WIM": [_of_reward(one, each, "wim") for each in one.candidates],
            "for length": [_of_score(one, each, "length_penalty") for each in one.candidates],
            "for repeats": [_of_score(one, each, "repeat_penalty") for each in one.candidates],
            "measured": [_of_score(one, each, "measured") for each in one.candidates],
            "tokens": [each.get("tokens") for each in one.candidates],
            "pair": [one.used.get(str(each.get("id"))) for each in one.candidates],
        }
        kept = {title: cells for title, cells in columns.items() if any(cell not in (None, 0, 0.0) for cell in cells)}
        rows = {f"k{each.get('index')}": [Cell(cells[i]) for cells in kept.values()] for i, each in enumerate(one.candidates)}
        topic = f", on {_short(one.topic, TITLE)}" if one.topic else ""
        yield Shown(f"{one.name}{topic}: candidates {what}" + (f" ({run})" if run else ""), list(kept), rows)


def _of_reward(one: History, candidate: Line, key: str) -> float | None:
    return number(one.rewards.get(str(candidate.get("id")), {}).get(key))


def _of_score(one: History, candidate: Line, key: str) -> float | None:
    return number(one.scores.get(str(candidate.get("id")), {}).get(key))


def _short(text: object, longest: int = LONGEST) -> str:
    said = line(str(text or ""))
    return said if len(said) <= longest else f"{said[:longest].rstrip()}…"


def _held_out(subject: Subject) -> Iterator[Shown]:
    """The policy's reply beside the base's to the same held-out history: the first few that won and that lost."""
    for one in learnings(subject)[:MOST_RUNS]:
        if (last := one.last) is None:
            continue
        name = f"{{}}-r{last.round:04d}{'-final' if last is one.final else ''}.jsonl"
        base = {str(held.get("id")): held for _, held in read_lines(one.run.evaluation(one.learner, "base-{}.jsonl"))}
        made = [said for _, said in read_lines(one.run.evaluation(one.learner, name)) if str(said.get("id", "")).startswith(one.of)]
        outcomes = [number(said.get("outcome")) for said in made]
        results = list(map(_result, outcomes))
        won, lost = ([said for said, found in zip(made, results, strict=True) if found == wanted][:OF_EACH] for wanted in ("won", "lost"))
        rows = {str(said.get("id")): _beside(base.get(str(said.get("history")), {}), said) for said in (*won, *lost)}
        if rows:
            counts = ", ".join(f"{results.count(word):,} {word or 'without an answer'}" for word in RESULTS if word or None in results)
            title = "Base and policy on the same held-out history" + (f", {line(one.name)}" if one.name else "")
            note = f"Of {len(made):,}: {counts}. The first ones that won and that lost."
            yield Shown(title, ["topic", "said before", "base", "policy", "the policy has"], rows, note=note)


def _beside(held: Mapping[str, Any], said: Mapping[str, Any]) -> list[Cell]:
    turns = held.get("turns")
    before = turns[-1].get("text") if isinstance(turns, list) and turns and isinstance(turns[-1], Mapping) else None
    replies = [one.get("text") if isinstance(one, Mapping) else None for one in (held.get("reply"), said.get("reply"))]
    return [
        Cell(line(str(said.get("topic") or ""))),
        *(Cell(None if text is None else _short(text)) for text in (before, *replies)),
        Cell(_result(number(said.get("outcome")))),
    ]


def _result(outcome: float | None) -> str | None:
    """What an evaluation counts an outcome as: of several judges it is their mean."""
    return None if outcome is None else "won" if outcome > 0.5 else "lost" if outcome < 0.5 else "tied"
