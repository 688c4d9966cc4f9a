"""What a run amounts to: counted from its files, so that a run in several starts counts as one."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from expertchat.folder.reader import RunReader
from expertchat.text.likeness import blank
from expertchat.text.thinking import count_words

TIE = 1e-9  # two mean ratings closer than this are equal


def summarise(folder: Path) -> dict[str, Any]:
    """What summary.json holds. Reads each file once; ratings by direction are of whole dialogues, failures are counted of all.

    `seconds` is time at work: from when the models are loaded to the last event, summed over the starts. `tokens` are those of the turns,
    with what was thought.
    """
    run = RunReader(folder)
    transcripts = _Transcripts(run)
    seconds = seconds_of(folder)
    tokens, turns = transcripts.tokens, transcripts.turns
    problems: Counter[str] = Counter()
    faults: dict[str, Counter[str]] = {"rating": Counter(), "wim": Counter()}
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
        **_ratings(run, problems, faults["rating"]),
        **_wim(run, problems, faults["wim"]),
        **_rewards(run),
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
    reason = "nothing was judged"
    if asked:
        commonest = next(iter(summary["problems"]), "")
        reason = f"no rating could be read: all {asked} are null" + (f" ({commonest})" if commonest else "")
    return {"status": "failed", "reason": reason}


class _Transcripts:
    def __init__(self, run: RunReader) -> None:
        self.count = self.turns = self.tokens = self.cut = self.beyond = self.blank = 0
        self.thought = self.silent = self.words_thought = 0  # turns that thought, those that said nothing after it, words of thoughts
        self.reasons: Counter[str] = Counter()
        for line in run.lines("transcripts"):
            self.count += 1
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

    def result(self) -> dict[str, Any]:
        return {"mean": round(self.total / self.n, 4) if self.n else None, "n": self.n, "null": self.lacking}


def _direction(line: dict[str, Any]) -> str:
    return f"{line['subject']}-by-{line['judge']}"


def _ratings(run: RunReader, problems: Counter[str], faults: Counter[str]) -> dict[str, Any]:
    """Mean rating by category and direction. A rating that was asked for in two forms fails where one of them does."""
    means: dict[str, dict[str, _Mean]] = defaultdict(lambda: defaultdict(_Mean))
    masses: dict[str, _Mean] = defaultdict(_Mean)
    count = failures = read = 0
    for line in run.lines("ratings"):
        count += 1
        read += line["expected"] is not None or line["value"] is not None
        if kind := line.get("fault"):
            faults[kind] += 1
        if line["problem"]:
            failures += 1
            problems[f"rating: {line['problem']}"] += 1
        if line.get("mass") is not None:
            masses[line["judge"]].add(line["mass"])
        if line["turn"] is None and line["candidate"] is None:
            number = line["expected"] if line["expected"] is not None else line["value"]
            means[line["category"]][_direction(line)].add(number)
    by_category = {category: {way: mean.result() for way, mean in sorted(ways.items())} for category, ways in means.items()}
    by_judge = {judge: mean.result() for judge, mean in sorted(masses.items())}
    found = {"rating_count": count, "ratings_read": read, "parse_failures": failures}
    return {**found, "rating_mass": by_judge, "ratings": by_category}


def _wim(run: RunReader, problems: Counter[str], faults: Counter[str]) -> dict[str, Any]:
    ways: dict[str, _Mean] = defaultdict(_Mean)
    count = empty = lacking = 0
    for line in run.lines("wim"):
        count += 1
        empty += line["empty"]
        lacking += line["cosine"] is None
        if kind := line.get("fault"):
            faults[kind] += 1
        if line["problem"]:
            problems[f"WIM: {line['problem'].split(' (')[0]}"] += 1
        if line["turn"] is None and line["candidate"] is None:
            ways[_direction(line)].add(line["cosine"])
    by_way = {way: mean.result() for way, mean in sorted(ways.items())}
    return {"wim_count": count, "wim_empty": empty, "wim_null": lacking, "wim": by_way}


def _rewards(run: RunReader) -> dict[str, Any]:
    """Mean rewards, and ties: of the conversations in which both experts have a mean rating, those in which the two are equal."""
    ways: dict[str, _Mean] = defaultdict(_Mean)
    waiting: dict[str, dict[str, float | None]] = {}
    lacking = ties = pairs = read = 0
    for line in run.lines("rewards"):
        lacking += line["value"] is None
        read += line["value"] is not None
        if line["turn"] is not None or line["candidate"] is not None:
            continue
        ways[_direction(line)].add(line["value"])
        both = waiting.setdefault(line["transcript"], {})
        both[line["subject"]] = line["rating"]
        if len(both) == 2:
            one, two = waiting.pop(line["transcript"]).values()
            if one is not None and two is not None:
                pairs += 1
                ties += abs(one - two) < TIE
    by_way = {way: mean.result() for way, mean in sorted(ways.items())}
    return {"ties": ties, "rated_pairs": pairs, "rewards_read": read, "rewards_null": lacking, "rewards": by_way}


def seconds_of(folder: Path) -> float:
    """Time at work: from when the models are loaded to the last event, summed over the starts."""
    total = begun = last = 0.0
    for event in RunReader(folder).lines("events"):
        kind, time = event.get("kind"), float(event.get("time", 0.0))
        if kind == "run_started":
            total += max(0.0, last - begun)
            begun = last = time
        elif kind != "loading":  # models are loaded before a start is announced
            last = max(last, time)
    return total + max(0.0, last - begun)
