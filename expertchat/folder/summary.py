"""What a run amounts to: counted from its files, so that a run in several starts counts as one."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from itertools import combinations
from pathlib import Path
from typing import Any

from expertchat.folder.reader import RunReader
from expertchat.text.likeness import blank
from expertchat.text.thinking import count_words

TIE = 1e-9  # two mean ratings closer than this are equal


Line = Mapping[str, Any]


def summarise(folder: Path) -> dict[str, Any]:
    """What summary.json holds. Reads each file once; ratings by direction are of whole dialogues, failures are counted of all.

    `seconds` is time at work: from when the models are loaded to the last event, summed over the starts. `tokens` are those of the turns,
    with what was thought. A direction is "b-by-a": what a gives to b. `turns_by` is there where more than two experts talk.
    """
    run = RunReader(folder)
    transcripts = _Transcripts(run.lines("transcripts"))
    seconds = seconds_of(folder)
    tokens, turns = transcripts.tokens, transcripts.turns
    problems: Counter[str] = Counter()
    faults: dict[str, Counter[str]] = {"rating": Counter(), "wim": Counter()}
    ratings = _ratings(run.lines("ratings"), problems, faults["rating"])
    directions = {way for ways in ratings["ratings"].values() for way in ways}
    summary = {
        "schema": 1,
        "conversations": transcripts.count,
        "turns": turns,
        "tokens": tokens,
        "seconds": round(seconds, 2),
        "turns_per_second": round(turns / seconds, 3) if seconds else None,
        "tokens_per_second": round(tokens / seconds, 1) if seconds else None,
        "turns_cut": transcripts.cut,
        "turns_thought": transcripts.thought,
        "turns_all_thinking": transcripts.silent,
        "words_thought": transcripts.words_thought,
        "turns_beyond": transcripts.beyond,
        "turns_blank": transcripts.blank,
        **({"turns_by": dict(transcripts.speakers)} if len(transcripts.speakers) > 2 else {}),
        **ratings,
        **_wim(run.lines("wim"), problems, faults["wim"]),
        **_rewards(run.lines("rewards"), len(directions), problems),
        "stop_reasons": dict(sorted(transcripts.reasons.items())),
        "problems": dict(problems.most_common(20)),
        "faults": {what: dict(kinds.most_common()) for what, kinds in faults.items()},
    }
    return summary | _failure(summary)


def _failure(summary: Mapping[str, Any]) -> dict[str, str]:
    """What a run that was to judge says where it has not got a single rating or reward; nothing else."""
    if summary["ratings_read"] or summary["rewards_read"]:
        return {}
    asked = summary["rating_count"]
    commonest = next(iter(summary["problems"]), "")
    why = f" ({commonest})" if commonest else ""
    reason = f"no rating could be read: all {asked} are null{why}" if asked else f"nothing was judged{why}"
    return {"status": "failed", "reason": reason}


class _Transcripts:
    """What there is to count of dialogues."""

    def __init__(self, lines: Iterable[Line]) -> None:
        self.count = self.turns = self.tokens = self.cut = self.beyond = self.blank = 0
        self.thought = self.silent = self.words_thought = 0  # turns that thought, those that said nothing after it, words of thoughts
        self.reasons: Counter[str] = Counter()
        self.speakers: Counter[str] = Counter()  # their turns, in the order of the seats
        for line in lines:
            self.count += 1
            self.speakers.update(dict.fromkeys(line.get("experts", ()), 0))
            self.speakers.update(turn["speaker"] for turn in line["turns"])
            self.turns += len(line["turns"])
            self.tokens += sum(turn["tokens"] for turn in line["turns"])
            self.cut += sum(turn["cut"] for turn in line["turns"])
            self.beyond += sum(bool(turn.get("beyond")) for turn in line["turns"])
            self.blank += sum(blank(turn["text"]) for turn in line["turns"])
            self.reasons[line["stop_reason"]] += 1
            thinking = [(turn["thinking"], turn["text"]) for turn in line["turns"] if turn.get("thinking")]
            self.thought += len(thinking)
            self.silent += sum(not text.strip() for _, text in thinking)
            self.words_thought += sum(count_words(thought) for thought, _ in thinking)


class _Mean:
    """Mean of numbers, and how many were lacking."""

    def __init__(self) -> None:
        self.total, self.n, self.lacking = 0.0, 0, 0

    def add(self, number: float | None) -> None:
        if number is None or not math.isfinite(number):
            self.lacking += 1
        else:
            self.total, self.n = self.total + number, self.n + 1

    @property
    def value(self) -> float | None:
        return self.total / self.n if self.n else None

    def result(self) -> dict[str, Any]:
        return {"mean": round(self.total / self.n, 4) if self.n else None, "n": self.n, "null": self.lacking}


def _direction(line: Line) -> str:
    return f"{line['subject']}-by-{line['judge']}"


def _is_whole(line: Line) -> bool:
    """Whether a record judges a whole dialogue."""
    return line["turn"] is None and line["candidate"] is None


def _results(means: Mapping[str, _Mean]) -> dict[str, dict[str, Any]]:
    return {name: mean.result() for name, mean in sorted(means.items())}


def _ratings(lines: Iterable[Line], problems: Counter[str], faults: Counter[str]) -> dict[str, Any]:
    """Mean rating by category and direction. A rating that was asked for in two forms fails where one of them does."""
    means: dict[str, dict[str, _Mean]] = defaultdict(lambda: defaultdict(_Mean))
    masses: dict[str, _Mean] = defaultdict(_Mean)
    count = failures = read = 0
    for line in lines:
        count += 1
        read += line["expected"] is not None or line["value"] is not None
        if kind := line.get("fault"):
            faults[kind] += 1
        if line["problem"]:
            failures += 1
            problems[f"rating: {line['problem']}"] += 1
        if line.get("mass") is not None:
            masses[line["judge"]].add(line["mass"])
        if _is_whole(line):
            number = line["expected"] if line["expected"] is not None else line["value"]
            means[line["category"]][_direction(line)].add(number)
    found = {"rating_count": count, "ratings_read": read, "parse_failures": failures}
    return {**found, "rating_mass": _results(masses), "ratings": {category: _results(ways) for category, ways in means.items()}}


def _wim(lines: Iterable[Line], problems: Counter[str], faults: Counter[str]) -> dict[str, Any]:
    ways: dict[str, _Mean] = defaultdict(_Mean)
    count = empty = lacking = 0
    for line in lines:
        count += 1
        empty += line["empty"]
        lacking += line["cosine"] is None
        if kind := line.get("fault"):
            faults[kind] += 1
        if line["problem"]:
            problems[f"WIM: {line['problem'].split(' (')[0]}"] += 1
        if _is_whole(line):
            ways[_direction(line)].add(line["cosine"])
    return {"wim_count": count, "wim_empty": empty, "wim_null": lacking, "wim": _results(ways)}


def _rewards(lines: Iterable[Line], directions: int, problems: Counter[str]) -> dict[str, Any]:
    """Mean rewards, and ties: of the pairs of experts of a conversation that both have a mean rating, those whose two are equal.

    A reward model's `problems` are counted, too; those of other rewards are those of their ratings and WIM responses.

    Of a conversation, the ratings by each judge are held until those of all `directions` have come.
    """
    ways: dict[str, _Mean] = defaultdict(_Mean)
    waiting: dict[str, dict[str, _Mean]] = {}
    lacking = read = 0
    ties: Counter[bool] = Counter()
    for line in lines:
        lacking += line["value"] is None
        read += line["value"] is not None
        if line.get("problem") and line["judge"] == "reward_model":
            problems[f"reward: {line['problem']}"] += 1
        if _is_whole(line):
            ways[_direction(line)].add(line["value"])
            ratings = waiting.setdefault(line["transcript"], defaultdict(_Mean))
            ratings[line["subject"]].add(line["rating"])
            if sum(mean.n + mean.lacking for mean in ratings.values()) == directions:
                ties.update(_alike(waiting.pop(line["transcript"])))
    for ratings in waiting.values():
        ties.update(_alike(ratings))
    return {"ties": ties[True], "rated_pairs": ties.total(), "rewards_read": read, "rewards_null": lacking, "rewards": _results(ways)}


def _alike(ratings: Mapping[str, _Mean]) -> Iterator[bool]:
    """Of each pair of experts with mean ratings (over their judges), whether the two are equal."""
    known = [mean.value for mean in ratings.values() if mean.value is not None]
    return (abs(first - second) < TIE for first, second in combinations(known, 2))


def seconds_of(folder: Path) -> float:
    """Time at work: from when the models are loaded to the last event, summed over the starts."""
    total = begun = last = 0.0
    for event in RunReader(folder).lines("events"):
        kind, time = event.get("kind"), float(event.get("time", 0.0))
        if kind == "run_started":
            total += max(0.0, last - begun)
            begun = last = time
        elif kind != "loading" and begun:  # what is said while models are loaded comes before a start is announced
            last = max(last, time)
    return total + max(0.0, last - begun)
