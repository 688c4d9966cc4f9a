"""Does the WIM score reward what it says it rewards? It is high where little is missing; here it is held against all that could show that.

Asked are the runs' own candidates and their judgements. What training sees of a score is which of two replies to one history it puts first,
so the figures are shares of such pairs, with and against the rating, the truth (of the embedded world) and length; beside them rank
correlations over all replies. Intervals as in the judges' card: topics are drawn whole.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy

from expertchat.audit.agreement import rho
from expertchat.audit.estimates import NOTHING, Estimate, needs_lab, share
from expertchat.config import ConfigError
from expertchat.evaluation.draws import Draws
from expertchat.evaluation.truth import tally
from expertchat.folder.reader import RunReader
from expertchat.folder.without import without_dialogues
from expertchat.folder.writing import write_out
from expertchat.records import Candidate, Reward, Transcript, Wim
from expertchat.text.likeness import weight, words
from expertchat.world.facts import load

RESAMPLES, SEED = 1000, 1


@dataclass(frozen=True)
class Reply:
    """A candidate and what is known of it; None where it is not. `missing`: facts that its speaker knows and that nobody has said yet."""

    history: tuple[str, int]
    topic: str
    cosine: float | None
    rating: float | None
    tokens: int
    feedback: float  # words of the WIM text
    empty: bool
    facts: int | None = None  # new true ones
    wrong: int | None = None
    score: int | None = None  # the truth's: see Tally
    missing: int | None = None


# name -> title; a share of pairs of replies to one history, ties of either side left out
PAIRS: dict[str, tuple[str, Callable[[Reply], float | None], Callable[[Reply], float | None]]] = {
    "with_rating": ("the cosine puts first what the rating does", lambda r: r.cosine, lambda r: r.rating),
    "with_truth": ("the cosine puts first the truly better reply", lambda r: r.cosine, lambda r: r.score),
    "rating_with_truth": ("the rating puts first the truly better reply", lambda r: r.rating, lambda r: r.score),
    "with_length": ("the cosine puts first the longer reply", lambda r: r.cosine, lambda r: r.tokens),
    "rating_with_length": ("the rating puts first the longer reply", lambda r: r.rating, lambda r: r.tokens),
    "truth_with_length": ("the truly better reply is the longer one", lambda r: r.score, lambda r: r.tokens),
    "with_wrong": ("the cosine puts first the reply with more that is false", lambda r: r.cosine, lambda r: r.wrong),
    "rating_with_wrong": ("the rating puts first the reply with more that is false", lambda r: r.rating, lambda r: r.wrong),
}
RHO: dict[str, tuple[str, Callable[[Reply], float | None]]] = {
    "rho_rating": ("rho of the cosine and the rating", lambda r: r.rating),
    "rho_facts": ("rho of the cosine and the new true facts", lambda r: r.facts),
    "rho_missing": ("rho of the cosine and the facts that are still missing", lambda r: r.missing),
    "rho_tokens": ("rho of the cosine and the tokens of the reply", lambda r: r.tokens),
    "rho_feedback": ("rho of the cosine and the words of the feedback", lambda r: r.feedback),
}
TITLES = {
    "replies": "replies with a cosine", "nulls": "asked and without one", "empty": "nothing is missing, so the judge says",
    "ties": "pairs with equal cosines", "rating_ties": "pairs with equal ratings",
} | {name: found[0] for name, found in (*PAIRS.items(), *RHO.items())}  # fmt: skip


def run_cosine(arguments: Sequence[str], show: Callable[[Mapping[str, Any]], None]) -> int:
    """Show the figures of each run, and write them where --out says. Raises ConfigError."""
    import argparse

    about = "Does the WIM score reward what it says? Of the candidates of training runs."
    parser = argparse.ArgumentParser("expertchat wim", description=about)
    parser.add_argument("run", type=Path, nargs="+", metavar="RUN", help="a run of online_dpo, rloo or grpo, or a folder of such runs")
    parser.add_argument("--out", metavar="FILE.json", help="write the figures there too")
    options = parser.parse_args(list(arguments))
    needs_lab()
    values = cosines([place for folder in options.run for place in _runs(folder.expanduser())])
    if options.out is not None:
        write_out(f"--out {options.out}", options.out, json.dumps(values, indent=1) + "\n")
    show(values)
    return 0


def _runs(folder: Path) -> list[Path]:
    """The folder itself where it is a run, else the runs in it. Raises ConfigError."""
    found = [folder] if (folder / "config.yaml").is_file() else sorted(path.parent for path in folder.glob("*/config.yaml"))
    if not found:
        raise ConfigError(f"{folder}: is no run and holds none; name a training run (online_dpo, rloo, grpo)")
    return found


def cosines(folders: Sequence[Path]) -> dict[str, Any]:
    """The figures of each run with WIM responses, and which runs have none. Raises ConfigError where none has."""
    rows, without = [], []
    for folder in folders:
        reader = RunReader(folder)
        replies = list(_replies(reader))
        if not any(reply.cosine is not None for reply in replies):
            without.append(folder.name)
            continue
        figures = {name: one.values() if isinstance(one, Estimate) else one for name, one in figures_of(replies).items()}
        rows.append({"run": folder.name, "arm": reader.config.get("arm"), **figures})
    if not rows:
        raise ConfigError([_why_none(RunReader(folder)) for folder in folders])
    return {"schema": 1, "titles": TITLES, "runs": rows, "without": without}


def _why_none(run: RunReader) -> str:
    """What is said of a run of whose replies none has a WIM score."""
    wanted = "name a training run (online_dpo, rloo, grpo) with judging.z > 0 and reward.source=judge"
    if problem := without_dialogues(run):
        return f"{problem.rpartition('; ')[0]}; {wanted}"
    if run.path("wim").is_file() and not run.path("candidates").is_file():
        return f"{run.folder}: what is missing was asked of whole dialogues there, and of no reply alone; {wanted}"
    return f"{run.folder}: no reply has a WIM score; {wanted}"


def _replies(run: RunReader) -> Iterator[Reply]:
    """Every candidate for which a judge was asked what is missing; of several judges the means."""
    transcripts: dict[str, Transcript] = {one.id: one for one in run.transcripts()}
    wims: dict[str, list[Wim]] = {}
    rewards: dict[str, list[Reward]] = {}
    for wim in run.wims():
        wims.setdefault(wim.candidate or "", []).append(wim)
    for reward in run.rewards():
        rewards.setdefault(reward.candidate or "", []).append(reward)
    for candidate in run.candidates():
        transcript = transcripts.get(candidate.transcript)
        if transcript is None or candidate.id not in wims:
            continue
        asked = wims[candidate.id]
        yield Reply(
            history=(candidate.transcript, candidate.turn),
            topic=transcript.topic,
            cosine=_mean([wim.cosine for wim in asked]),
            rating=_mean([reward.rating for reward in rewards.get(candidate.id, [])]),
            tokens=candidate.tokens,
            feedback=sum(weight(words(wim.text)) for wim in asked),
            empty=all(wim.empty for wim in asked),
            **_truth(transcript, candidate),
        )


def _truth(transcript: Transcript, candidate: Candidate) -> dict[str, int]:
    """What the embedded world knows of a reply; nothing for another topic."""
    world = load()
    if transcript.topic not in world.topics:
        return {}
    before = transcript.turns[: candidate.turn]
    counted = tally(transcript.topic, before, candidate.text, world)
    said = world.read([*(turn.text for turn in before), candidate.text], transcript.topic)
    missing = world.missing(said, transcript.topic, candidate.speaker)
    return {"facts": counted.distinct, "wrong": counted.wrong, "score": counted.score, "missing": len(missing)}


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def figures_of(replies: Sequence[Reply]) -> dict[str, Estimate | int]:
    """All figures of a run's replies."""
    groups = {topic: number for number, topic in enumerate(dict.fromkeys(reply.topic for reply in replies))}
    draws = Draws.of(len(groups), RESAMPLES, SEED)
    scored = [reply for reply in replies if reply.cosine is not None]
    histories: dict[tuple[str, int], list[Reply]] = {}
    for reply in scored:
        histories.setdefault(reply.history, []).append(reply)
    pairs = [pair for group in histories.values() for pair in combinations(group, 2)]

    def shares(of: Sequence[tuple[float, str]]) -> Estimate:
        values_N = numpy.array([value for value, _ in of], dtype=float)
        return share(values_N, numpy.array([groups[topic] for _, topic in of], dtype=int), draws) if of else NOTHING

    found: dict[str, Estimate | int] = {
        "replies": len(scored),
        "nulls": shares([(float(reply.cosine is None), reply.topic) for reply in replies]),
        "empty": shares([(float(reply.empty), reply.topic) for reply in scored]),
        "ties": shares([(float(one.cosine == two.cosine), one.topic) for one, two in pairs]),
        "rating_ties": shares([(float(one.rating == two.rating), one.topic) for one, two in pairs if None not in (one.rating, two.rating)]),
    }
    for name, (_, first, second) in PAIRS.items():
        found[name] = shares([(alike, one.topic) for one, two in pairs if (alike := _alike(one, two, first, second)) is not None])
    cosine_N = numpy.array([reply.cosine for reply in scored], dtype=float)
    group_N = numpy.array([groups[reply.topic] for reply in scored])
    for name, (_, value) in RHO.items():
        other_N = numpy.array([numpy.nan if (number := value(reply)) is None else number for reply in scored], dtype=float)
        found[name] = rho(cosine_N, other_N, group_N, draws, None)
    return found


def _alike(one: Reply, two: Reply, first: Callable[[Reply], float | None], second: Callable[[Reply], float | None]) -> float | None:
    """1 where both put the same reply first, 0 where not; None where either has no opinion."""
    a, b, c, d = first(one), first(two), second(one), second(two)
    if a is None or b is None or c is None or d is None or a == b or c == d:
        return None
    return float((a > b) == (c > d))
