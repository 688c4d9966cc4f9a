"""Everything there is to read in runs, one dialogue (item, held-out history, prompt) at a time, with all that was said of it.

A `Talk` is plain values, as the page's script reads them. Texts are cleaned as on every screen; what is damaged is left out and counted.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from expertchat.folder.reader import RunReader
from expertchat.report.grouped import Grouped, Line
from expertchat.report.subject import Subject
from expertchat.text.cleaning import clean
from expertchat.text.sentences import shown_path

SNIPPET = 90  # characters of a dialogue that its line in the list has
FLAGS = ("null", "cut", "loop", "blank", "thought")
_HELD_OUT = re.compile(r"(?P<learner>[a-z][a-z0-9_]*)-r(?P<round>\d+)(?P<final>-final)?\.jsonl")


class Talk(NamedTuple):
    """One thing to read. `mean`: of its ratings; `apart`: how far its judges are from each other, None where that cannot be said."""

    run: int
    id: str
    kind: str  # dialogue, history (held out), prompt, item
    topic: str
    end: str
    flags: list[str]
    turns: int
    tokens: int
    mean: float | None
    apart: float | None
    snippet: str
    body: dict[str, Any]

    def line(self) -> list[Any]:
        """Its line in the list."""
        return [self.run, self.id, self.kind, self.topic, self.end, self.flags, self.turns, self.tokens, _round(self.mean, 2),
                _round(self.apart, 2), self.snippet]  # fmt: skip


def talks(subject: Subject, warnings: list[str]) -> Iterator[Talk]:
    """All there is to read, run by run. What could not be read is told in `warnings`."""
    for number, run in enumerate(subject.runs):
        with _Files(run, subject.name(run), warnings) as files:
            yield from _dialogues(number, run, files, _shades(subject, run))
            yield from _held_out(number, run)
            yield from _items(number, files)
            if not files.files["transcripts"]:
                yield from _pairs(number, files)


class _Files:
    """The files of a run that say something of a dialogue, by it."""

    def __init__(self, run: RunReader, name: str, warnings: list[str]) -> None:
        self._named, self._warnings = name, warnings
        keys = {"transcripts": "id", "candidates": "transcript", "ratings": "transcript", "wim": "transcript", "rewards": "transcript",
                "scores": "transcript", "prompts": "id", "selections": "id", "items": "id", "opinions": "item",
                "pairs": "provenance.transcript"}  # fmt: skip
        self.files = {file: Grouped(run.path(file), key) for file, key in keys.items()}

    def of(self, file: str, key: str) -> list[Line]:
        return self.files[file].of(key)

    def last(self, file: str, key: str) -> Line:
        return next(iter(self.of(file, key)[-1:]), {})

    def __enter__(self) -> _Files:
        return self

    def __exit__(self, *_: object) -> None:
        for name, file in self.files.items():
            file.close()
            if file.unreadable:
                self._warnings.append(f"{self._named}: {name}.jsonl: lines that are damaged and left out: {file.unreadable}")


# -- dialogues ----------------------------------------------------------------------------------------------------------------


def _shades(subject: Subject, run: RunReader) -> dict[tuple[Any, Any, Any], list[list[Any]]]:
    """How likely each token was, as `expertchat tokens RUN --turn ... out=FILE` has written it: by dialogue, turn and candidate."""
    found = {}
    for values in subject.files.values():
        about = _map(values, "about")
        if Path(str(about.get("run"))).resolve().name == run.folder.resolve().name:
            tokens = [one for one in _list(values, "tokens") if isinstance(one, Mapping) and not one.get("special")]
            shades = [[_text(one.get("text")) or "", _number(one.get("probability")), one.get("rank")] for one in tokens]
            found[about.get("dialogue"), about.get("turn"), about.get("candidate")] = shades
    return found


def _dialogues(number: int, run: RunReader, files: _Files, shades: Mapping[tuple[Any, Any, Any], list[list[Any]]]) -> Iterator[Talk]:
    chosen = run.chooses
    for name, lines in files.files["transcripts"].each():
        line = lines[-1]
        turns = [_turn(turn) for turn in _list(line, "turns")]
        for (dialogue, place, candidate), tokens in shades.items():
            if dialogue == name and candidate is None and isinstance(place, int) and place < len(turns):
                turns[place]["shades"] = tokens
        _candidates(turns, files, name, shades)
        for turn in turns:
            for one in turn.get("candidates", ()):
                if one["taken"] and "shades" in one:
                    turn["shades"] = one["shades"]
        ratings = [_rating(one) for one in files.of("ratings", name)]
        wim = [_wim(one) for one in files.of("wim", name)]
        body = {
            "experts": {str(who): _model(ref) for who, ref in _map(line, "experts").items()}, "seed": line.get("seed"), "turns": turns,
            "ratings": ratings, "wim": wim, "rewards": [_reward(one) for one in files.of("rewards", name)],
        }  # fmt: skip
        if chosen:
            body["chosen"] = _chosen(files.last("selections", name))
        yield _talk(number, name, "prompt" if chosen else "dialogue", line, body)


def _candidates(turns: list[dict[str, Any]], files: _Files, name: str, shades: Mapping[tuple[Any, Any, Any], list[list[Any]]]) -> None:
    """Set the candidates of each turn beside it; those of a turn that is not there (best_of_n's reply) make one."""
    scores = {str(one.get("id")): one for one in files.of("scores", name)}
    made = [_map(one, "provenance") for one in files.of("pairs", name)]
    paired = {pair.get(side): side for pair in made for side in ("chosen", "rejected")}
    for one in files.of("candidates", name):
        place = one.get("turn")
        if not isinstance(place, int) or place < 0:
            continue
        if place >= len(turns):
            if place > len(turns):
                continue
            turns.append({"by": str(one.get("speaker")), "text": "", "open": True})
        score = scores.get(str(one.get("id")), {})
        turns[place].setdefault("candidates", []).append(
            {**_turn({**one, "speaker": one.get("speaker")}), "id": str(one.get("id")), "taken": bool(one.get("continued")),
             **_kept({"score": _number(score.get("value")), "problem": _text(score.get("problem")), "altered": one.get("altered"),
                      "paired": paired.get(one.get("id")),
                      "shades": shades.get((name, place, one.get("index"))) or shades.get((name, place, one.get("id")))})}
        )  # fmt: skip


def _chosen(line: Line) -> dict[str, Any]:
    """What best_of_n made of a prompt: the scores by judge, and which candidate is the choice of the first N."""
    return {"sizes": _list(line, "sizes"), "chosen": _list(line, "chosen"), "scores": _map(line, "scores"),
            "problem": _text(line.get("problem"))}  # fmt: skip


def _talk(number: int, name: str, kind: str, line: Line, body: dict[str, Any]) -> Talk:
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
        number, name, kind, _text(line.get("topic")) or "", end, [flag for flag in FLAGS if said[flag]], len(turns),
        sum(turn.get("tokens") or 0 for turn in turns), fmean(numbers) if numbers else None, _apart(whole or ratings),
        _snippet(turns), body,
    )  # fmt: skip


def _apart(ratings: Iterable[Mapping[str, Any]]) -> float | None:
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


# -- held-out histories: base and policy beside each other ----------------------------------------------------------------------


def _held_out(number: int, run: RunReader) -> Iterator[Talk]:
    """Each held-out history with the base's reply to it and the policies', evaluation by evaluation."""
    folder = run.folder / "evaluations"
    replies: dict[str, list[dict[str, Any]]] = {}
    for path in sorted(folder.glob("*.jsonl")):
        if (found := _HELD_OUT.fullmatch(path.name)) is None:
            continue
        said = f"after round {int(found['round'])}" + (", final" if found["final"] else "")
        for history, lines in _each(path, "history"):
            replies.setdefault(history, []).extend(_reply(one, said) for one in lines)
    for path in sorted(folder.glob("base-*.jsonl")):
        for name, lines in _each(path, "id"):
            line = lines[-1]
            base = {**_turn(_map(line, "reply")), "of": "base", **_kept({"problem": _text(line.get("problem"))})}
            body = {"turns": [_turn(turn) for turn in _list(line, "turns")], "replies": [base, *replies.get(name, ())]}
            talk = _talk(number, name, "history", line, body)
            last = [one["outcome"] for one in body["replies"] if one.get("outcome") is not None][-1:]
            yield talk._replace(end={1.0: "won", 0.5: "tied", 0.0: "lost"}.get(last[0], "") if last else "")


def _reply(line: Line, said: str) -> dict[str, Any]:
    verdicts = [_kept({"judge": str(one.get("judge")), "first": one.get("first"), "verdict": one.get("verdict"),
                       "raw": _text(one.get("raw")), "problem": _text(one.get("problem"))}) for one in _list(line, "verdicts")]  # fmt: skip
    known = {"outcome": _number(line.get("outcome")), "problem": _text(line.get("problem")), "rating": _number(line.get("rating_policy")),
             "rating_base": _number(line.get("rating_base")), "verdicts": verdicts or None}  # fmt: skip
    return {**_turn(_map(line, "reply")), "of": f"policy {line.get('policy_version')}, {said}", **_kept(known)}


def _each(path: Path, key: str) -> Iterator[tuple[str, list[Line]]]:
    grouped = Grouped(path, key)
    try:
        yield from grouped.each()
    finally:
        grouped.close()


# -- items of the judges' lab ---------------------------------------------------------------------------------------------------


def _items(number: int, files: _Files) -> Iterator[Talk]:
    """Texts that were there before and were judged: one, or two beside each other, with what each judge says."""
    for name, lines in files.files["items"].each():
        line = lines[-1]
        texts = [{"by": str(line.get("subject") or ""), "text": _text(one.get("text")) or "", "of": _text(one.get("system")) or f"text {n}",
                  **_kept({"tokens": one.get("tokens"), "truth": _number(one.get("truth"))})}
                 for n, one in enumerate(_list(line, "texts"), 1)]  # fmt: skip
        opinions = [_opinion(one) for one in files.of("opinions", name)]
        body: dict[str, Any] = {"turns": [_turn(turn) for turn in _list(line, "turns")], "replies": texts, "ratings": opinions}
        if (label := line.get("label")) is not None:
            body["label"] = _text(label)
        talk = _talk(number, name, "item", line, body)
        choices = {str(one["choice"]) for one in opinions if one.get("choice")}
        unread = any(one.get("number") is None and not one.get("choice") for one in opinions)
        flags = [flag for flag in talk.flags if flag != "null"]
        snippet = talk.snippet or _snippet(texts)
        yield talk._replace(flags=["null", *flags] if unread else flags, snippet=snippet,
                            apart=talk.apart if not choices else float(len(choices) - 1))  # fmt: skip


def _opinion(line: Line) -> dict[str, Any]:
    number = next((x for x in map(_number, (line.get("expected"), line.get("value"), line.get("score"))) if x is not None), None)
    known = {"place": line.get("place"), "order": line.get("order"), "repeat": line.get("repeat") or None, "choice": line.get("choice"),
             "mass": _number(line.get("mass")), "raw": _text(line.get("raw")), "problem": _text(line.get("problem"))}  # fmt: skip
    return {"judge": str(line.get("judge")), "subject": "", "category": str(line.get("category")), "number": number, **_kept(known)}


# -- pairs that were built -----------------------------------------------------------------------------------------------------


def _pairs(number: int, files: _Files) -> Iterator[Talk]:
    """Pairs of texts that no dialogue of the run stands behind: the prompt, and the chosen and the rejected reply to it."""
    for _, lines in files.files["pairs"].each():
        for line in lines:
            turns = [{"by": str(one.get("role")), "text": _text(one.get("content")) or ""} for one in _list(line, "prompt")]
            replies = [
                {**_said(line, side), "of": side, **_kept({"score": _number(line.get(f"score_{side}"))})} for side in ("chosen", "rejected")
            ]
            talk = _talk(number, str(line.get("id")), "pair", line, {"turns": turns, "replies": replies})
            about = next((turn["text"] for turn in turns if turn["by"] == "user"), "")
            topic = _text(_map(line, "provenance").get("topic")) or " ".join(about.split())[:SNIPPET]
            yield talk._replace(topic=topic, snippet=_snippet(replies))


def _said(line: Line, side: str) -> dict[str, Any]:
    first: Any = next(iter(_list(line, side)), {})
    return {"by": "assistant", "text": _text(_map({"one": first}, "one").get("content")) or ""}


# -- parts of them --------------------------------------------------------------------------------------------------------------


def _turn(line: Mapping[str, Any]) -> dict[str, Any]:
    known = {"tokens": line.get("tokens"), "cut": line.get("cut") or None, "note": _text(line.get("note")),
             "thinking": _text(line.get("thinking")), "beyond": _text(line.get("beyond"))}  # fmt: skip
    return {"by": str(line.get("speaker") or ""), "text": _text(line.get("text")) or "", **_kept(known)}


def _rating(line: Line) -> dict[str, Any]:
    value, expected = _number(line.get("value")), _number(line.get("expected"))
    known = {"turn": line.get("turn"), "candidate": line.get("candidate"), "value": value if expected is not None else None,
             "mass": _number(line.get("mass")), "raw": _text(line.get("raw")), "problem": _text(line.get("problem"))}  # fmt: skip
    number = expected if expected is not None else value
    return {"judge": str(line.get("judge")), "subject": str(line.get("subject")), "category": str(line.get("category")), "number": number,
            **_kept(known)}  # fmt: skip


def _wim(line: Line) -> dict[str, Any]:
    known = {"turn": line.get("turn"), "candidate": line.get("candidate"), "analysis": _text(line.get("analysis")),
             "empty": line.get("empty") or None, "problem": _text(line.get("problem"))}  # fmt: skip
    return {"judge": str(line.get("judge")), "subject": str(line.get("subject")), "text": _text(line.get("text")) or "",
            "cosine": _number(line.get("cosine")), **_kept(known)}  # fmt: skip


def _reward(line: Line) -> dict[str, Any]:
    known = {"turn": line.get("turn"), "candidate": line.get("candidate"), "rating": _number(line.get("rating")),
             "wim": _number(line.get("wim")), "score": _number(line.get("score")), "problem": _text(line.get("problem"))}  # fmt: skip
    return {"judge": str(line.get("judge")), "subject": str(line.get("subject")), "value": _number(line.get("value")), **_kept(known)}


def _model(ref: object) -> str:
    """Which model spoke, with the version of its policy where it had learnt."""
    if not isinstance(ref, Mapping):
        return str(ref)
    version = ref.get("policy_version")
    return clean(shown_path(str(ref.get("model") or ref.get("family") or "?"))) + (f", policy {version}" if version else "")


def _snippet(turns: list[dict[str, Any]]) -> str:
    text = next((turn["text"] for turn in turns if turn["text"].strip()), "")
    return " ".join(text[: 4 * SNIPPET].split())[:SNIPPET]


def _list(line: Mapping[str, Any], key: str) -> list[Any]:
    found = line.get(key)
    return [one for one in found if not isinstance(one, list)] if isinstance(found, list) else []


def _map(line: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = line.get(key)
    return found if isinstance(found, Mapping) else {}


def _kept(values: Mapping[str, Any]) -> dict[str, Any]:
    """Those that are there."""
    return {key: value for key, value in values.items() if value is not None and value != ""}


def _text(value: object) -> str | None:
    return None if value is None else clean(str(value))


def _number(value: object) -> float | None:
    """With as many digits as anybody looks at."""
    return round(float(value), 4) if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) else None


def _round(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)
