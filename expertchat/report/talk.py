"""One thing to read, as the page's script reads it: plain values, whose texts are cleaned as on every screen.

What is damaged is left out.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from statistics import fmean
from typing import Any, NamedTuple

from expertchat.report.grouped import Line
from expertchat.text.cleaning import clean

SNIPPET = 90  # characters of a dialogue that its line in the list has
FLAGS = ("null", "cut", "loop", "blank", "thought")


class Talk(NamedTuple):
    """One thing to read. `mean`: of its ratings; `apart`: how far its judges are from each other, None where that cannot be said."""

    run: int
    id: str
    kind: str  # dialogue, history (held out), prompt, item, pair, ..., and what a row is for
    topic: str
    end: str
    flags: list[str]
    turns: int
    tokens: int
    mean: float | None
    apart: float | None
    snippet: str
    body: dict[str, Any]
    above: str = ""  # the dialogue of the report that it goes on from: its run and its id, as "0/c0003"

    def line(self) -> list[Any]:
        """Its line in the list."""
        return [self.run, self.id, self.kind, self.topic, self.end, self.flags, self.turns, self.tokens, _round(self.mean, 2),
                _round(self.apart, 2), self.snippet, self.above]  # fmt: skip


def talk_of(number: int, name: str, kind: str, line: Line, body: dict[str, Any]) -> Talk:
    """What there is to read, of run `number`; its `body` has `turns`, and may have `ratings` and `wim`."""
    turns, ratings, end = body["turns"], body.get("ratings") or [], str(line.get("stop_reason") or "")
    numbers = [one["number"] for one in ratings if one.get("number") is not None]
    whole = [one for one in ratings if "turn" not in one and "candidate" not in one]
    lacking = any(one.get("number") is None for one in ratings) or any(one.get("cosine") is None for one in body.get("wim") or ())
    said = {
        "null": lacking, "cut": any(turn.get("cut") for turn in turns), "loop": end == "loop",
        "blank": any(not turn["text"].strip() and not turn.get("open") for turn in turns),
        "thought": any(turn.get("thinking") for turn in turns),
    }  # fmt: skip
    return Talk(
        number, name, kind, text_of(line.get("topic")) or "", end, [flag for flag in FLAGS if said[flag]], len(turns),
        sum(turn.get("tokens") or 0 for turn in turns), fmean(numbers) if numbers else None, apart(whole or ratings),
        snippet_of(turns), body,
    )  # fmt: skip


def apart(ratings: Iterable[Mapping[str, Any]]) -> float | None:
    """How far judges are from each other, in points: where several rate the same in the same category, the mean distance of the highest
    and the lowest; where each subject has one judge of its own, the distance of what the sides give each other."""
    by_case: dict[tuple[Any, ...], dict[str, float]] = {}
    by_side: dict[str, list[float]] = {}
    for one in ratings:
        if (number := one.get("number")) is not None:
            case = (one.get("subject"), one.get("category"), one.get("turn"), one.get("candidate"))
            by_case.setdefault(case, {})[str(one.get("judge"))] = number
            by_side.setdefault(str(one.get("subject")), []).append(number)
    several = [max(said.values()) - min(said.values()) for said in by_case.values() if len(said) > 1]
    if several:
        return fmean(several)
    means = [fmean(values) for values in by_side.values()]
    return max(means) - min(means) if len(means) > 1 else None


# -- its parts -----------------------------------------------------------------------------------------------------------------


def turn_of(line: Mapping[str, Any]) -> dict[str, Any]:
    known = {"tokens": line.get("tokens"), "cut": line.get("cut") or None, "note": text_of(line.get("note")),
             "thinking": text_of(line.get("thinking")), "beyond": text_of(line.get("beyond"))}  # fmt: skip
    return {"by": str(line.get("speaker") or ""), "text": text_of(line.get("text")) or "", **kept(known)}


def snippet_of(turns: list[dict[str, Any]]) -> str:
    text = next((turn["text"] for turn in turns if turn["text"].strip()), "")
    return " ".join(text[: 4 * SNIPPET].split())[:SNIPPET]


def list_at(line: Mapping[str, Any], key: str) -> list[Any]:
    found = line.get(key)
    return [one for one in found if not isinstance(one, list)] if isinstance(found, list) else []


def map_at(line: object, key: str) -> Mapping[str, Any]:
    found = line.get(key) if isinstance(line, Mapping) else None
    return found if isinstance(found, Mapping) else {}


def kept(values: Mapping[str, Any]) -> dict[str, Any]:
    """Those that are there."""
    return {key: value for key, value in values.items() if value is not None and value != ""}


def text_of(value: object) -> str | None:
    return None if value is None else clean(str(value))


def number_of(value: object) -> float | None:
    """With as many digits as anybody looks at."""
    return round(float(value), 4) if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) else None


def _round(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)
