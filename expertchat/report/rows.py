"""What stands in tables of a run, row by row: items that were judged, pairs, rows that a model learns from, picks, posts."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from expertchat.folder.reader import RunReader
from expertchat.report.grouped import Files, Line, by_key
from expertchat.report.talk import SNIPPET, Talk, kept, list_at, map_at, number_of, snippet_of, talk_of, text_of, turn_of

PARTS = {"train": "trained on", "choosing": "to choose by", "evaluation": "held out"}  # what a row is for -> the kind that it is read as
_EVALUATION = re.compile(r"(?P<what>samples|rows)-(?P<round>\d+)(?P<final>-final)?\.jsonl")


def rows(number: int, run: RunReader, files: Files) -> Iterator[Talk]:
    """All that stands in a run by rows."""
    yield from _items(number, files)
    if not files.files["transcripts"]:
        yield from _pairs(number, files)
    yield from _taught(number, run, files)
    yield from _preferred(number, run, files)
    yield from _picked(number, files)
    yield from _posts(number, files)


# -- items of the judges' lab ---------------------------------------------------------------------------------------------------


def _items(number: int, files: Files) -> Iterator[Talk]:
    """Texts that were there before and were judged: one, or two beside each other, with what each judge says."""
    for name, lines in files.files["items"].each():
        line = lines[-1]
        texts = [{"by": str(line.get("subject") or ""), "text": text_of(one.get("text")) or "",
                  "of": text_of(one.get("system")) or f"text {n}",
                  **kept({"tokens": one.get("tokens"), "truth": number_of(one.get("truth"))})}
                 for n, one in enumerate(list_at(line, "texts"), 1)]  # fmt: skip
        opinions = [_opinion(one) for one in files.of("opinions", name)]
        body: dict[str, Any] = {"turns": [turn_of(turn) for turn in list_at(line, "turns")], "replies": texts, "ratings": opinions,
                                "heading": "What is judged"}  # fmt: skip
        if (label := line.get("label")) is not None:
            body["label"] = text_of(label)
        talk = talk_of(number, name, "item", line, body)
        choices = {str(one["choice"]) for one in opinions if one.get("choice")}
        unread = any(one.get("number") is None and not one.get("choice") for one in opinions)
        flags = [flag for flag in talk.flags if flag != "null"]
        snippet = talk.snippet or snippet_of(texts)
        yield talk._replace(flags=["null", *flags] if unread else flags, snippet=snippet,
                            apart=talk.apart if not choices else float(len(choices) - 1))  # fmt: skip


def _opinion(line: Line) -> dict[str, Any]:
    number = next((x for x in map(number_of, (line.get("expected"), line.get("value"), line.get("score"))) if x is not None), None)
    known = {"place": line.get("place"), "order": line.get("order"), "repeat": line.get("repeat") or None, "choice": line.get("choice"),
             "mass": number_of(line.get("mass")), "raw": text_of(line.get("raw")), "problem": text_of(line.get("problem"))}  # fmt: skip
    return {"judge": str(line.get("judge")), "subject": "", "category": str(line.get("category")), "number": number, **kept(known)}


# -- pairs that were built -----------------------------------------------------------------------------------------------------


def _pairs(number: int, files: Files) -> Iterator[Talk]:
    """Pairs of texts that no dialogue of the run stands behind: the prompt, and the chosen and the rejected reply to it."""
    for _, lines in files.files["pairs"].each():
        for line in lines:
            turns = [{"by": str(one.get("role")), "text": text_of(one.get("content")) or ""} for one in list_at(line, "prompt")]
            replies = [
                {**_said(line, side), "of": side, **kept({"score": number_of(line.get(f"score_{side}"))})}
                for side in ("chosen", "rejected")
            ]
            talk = talk_of(number, str(line.get("id")), "pair", line, {"turns": turns, "replies": replies, "heading": "The pair"})
            about = next((turn["text"] for turn in turns if turn["by"] == "user"), "")
            topic = text_of(map_at(line, "provenance").get("topic")) or " ".join(about.split())[:SNIPPET]
            yield talk._replace(topic=topic, snippet=snippet_of(replies))


def _said(line: Line, side: str) -> dict[str, Any]:
    """The text of a side of a pair, or of a completion: the first message of it."""
    first = next((one for one in list_at(line, side)[:1] if isinstance(one, Mapping)), {})
    return {"by": "assistant", "text": text_of(first.get("content")) or ""}


# -- rows that a model learns from: what goes in, and what comes out --------------------------------------------------------------


def _taught(number: int, run: RunReader, files: Files) -> Iterator[Talk]:
    """What sft teaches: prompt and completion of each row; of those of which samples were written, what the model wrote, by evaluation."""
    written: dict[str, list[dict[str, Any]]] = {}
    alone: dict[str, Line] = {}  # prompts that the config names, of no row
    for when, line in _evaluated(run, "samples"):
        row = str(line.get("id")).rpartition("/")[0]
        written.setdefault(row, []).append(_written(when, line))
        if row not in files.files["demonstrations"]:
            alone[row] = line
    for name, lines in files.files["demonstrations"].each():
        wanted = {**_said(lines[-1], "completion"), "of": "what it is to say", **kept({"score": number_of(lines[-1].get("score"))})}
        heading = "What it is to say" + (", and what it wrote" if name in written else "")
        yield _row(number, name, lines[-1], heading, [wanted], written.get(name, []))
    for name, line in alone.items():
        yield _row(number, name, line, "What it wrote", [], written[name], "asked for")


def _written(when: str, line: Line) -> dict[str, Any]:
    right = line.get("wanted") is not None and str(line.get("text")).strip() == str(line.get("wanted")).strip()
    facts = [str(line.get("way")), "word by word as wanted" if right else "", "" if line.get("ended") else "did not end by itself"]
    return {"by": "model", "of": when, "text": text_of(line.get("text")) or "", "note": ", ".join(filter(None, facts)),
            "right": right, "tokens": line.get("tokens")}  # fmt: skip


def _preferred(number: int, run: RunReader, files: Files) -> Iterator[Talk]:
    """What dpo and kto learn from: a prompt with a reply to be had and one to be left, or one of them; and how the policy stood to those
    that are held out, by evaluation."""
    stood: dict[str, list[tuple[str, Line]]] = {}
    for when, line in _evaluated(run, "rows"):
        stood.setdefault(str(line.get("id")), []).append((when, line))
    for name, lines in files.files["preferences"].each():
        line = lines[-1]
        sides = [side for side in ("chosen", "rejected") if line.get(side) is not None]
        replies = [
            {"by": "assistant", "of": side, "text": text_of(line.get(side)) or "", "note": _moved(side, stood.get(name, ())) or None,
             "cut": side in list_at(line, "cut") or None, **kept({"score": number_of(line.get(f"score_{side}"))})}
            for side in sides
        ]  # fmt: skip
        yield _row(number, name, line, "The replies to learn from", [kept(one) for one in replies], [])


def _moved(side: str, stood: Iterable[tuple[str, Line]]) -> str:
    """How much likelier than to its base a reply became to the policy, evaluation by evaluation."""
    known = [(when, value) for when, line in stood if (value := number_of(line.get(side))) is not None]
    return "log policy/base " + ", ".join(f"{value:+.3g} {when}" for when, value in known) if known else ""


def _row(
    number: int, name: str, line: Line, heading: str, wanted: list[dict[str, Any]], written: list[dict[str, Any]], kind: str = ""
) -> Talk:
    """A row: its prompt, what it holds (`wanted`), and what the model wrote."""
    rendered = text_of(line.get("rendered"))
    prompt = [{"by": str(one.get("role")), "text": text_of(one.get("content")) or ""} for one in list_at(line, "prompt")]
    turns = [{"by": "as it is shown", "text": rendered}] if rendered else prompt
    body = {"turns": turns, "replies": [*wanted, *written], "heading": heading, **kept({"source": text_of(line.get("source"))})}
    talk = talk_of(number, name, kind or PARTS.get(str(line.get("part")), "row"), line, body)
    last = [one for one in written if one["note"].startswith("greedy")][-1:]
    end = "" if not last or not wanted else "as wanted" if last[0]["right"] else "otherwise"
    topic = text_of(line.get("topic") or line.get("group")) or snippet_of(turns)
    return talk._replace(topic=topic, snippet=snippet_of(wanted or written), end=end)


def _evaluated(run: RunReader, what: str) -> Iterator[tuple[str, Line]]:
    """The lines of the evaluations' files, each with when that was."""
    for path in sorted((run.folder / "evaluations").glob(f"{what}-*.jsonl"), key=_at):
        if found := _EVALUATION.fullmatch(path.name):
            at = int(found["round"])
            when = "with the weights that were kept" if found["final"] else f"after round {at}" if at else "before training"
            for _, lines in by_key(path, "id"):
                yield when, lines[-1]


def _at(path: Path) -> tuple[bool, str]:
    """The final one is the last."""
    return "final" in path.name, path.name


# -- picks and posts ---------------------------------------------------------------------------------------------------------------


def _picked(number: int, files: Files) -> Iterator[Talk]:
    """The texts of a row beside each other, and which was picked in which order."""
    for name, lines in files.files["rows"].each() if files.files["picks"] else ():
        line, picks = lines[-1], files.of("picks", name)
        chosen = [str(one.get("choice")) for one in picks if one.get("choice") is not None]
        texts = [{"by": "", "of": str(column), "text": text_of(text) or "",
                  "note": f"picked in {chosen.count(str(column))} of {len(picks)} orders"}
                 for column, text in map_at(line, "texts").items()]  # fmt: skip
        turns = [{"by": "said before", "text": text_of(said) or ""} for said in list_at(line, "said")]
        opinions = [_pick(one) for one in picks]
        body = {"turns": turns, "replies": texts, "ratings": opinions, "heading": "The texts", "rated": "By the order shown"}
        talk = talk_of(number, name, "pick", line, body)
        flags = ["null"] if len(chosen) < len(picks) else []
        one_same = f"{chosen[0]} or none" if flags and chosen else f"always {chosen[0]}" if chosen else ""
        end = one_same if len(set(chosen)) < 2 else "changes with the order"
        topic = talk.topic or snippet_of(turns)
        yield talk._replace(flags=flags, apart=None, end=text_of(end) or "", topic=topic, snippet=snippet_of(texts))


def _pick(line: Line) -> dict[str, Any]:
    order = ", ".join(map(str, list_at(line, "order")))
    known = {"mass": number_of(line.get("mass")), "choice": text_of(line.get("choice")), "raw": text_of(line.get("raw")),
             "problem": text_of(line.get("problem"))}  # fmt: skip
    return {"judge": "", "subject": "", "way": "picked", "category": text_of(order) or "", "number": None, **kept(known)}


def _posts(number: int, files: Files) -> Iterator[Talk]:
    """A place with all that was written for it: the post, and what was none and why."""
    for place, lines in files.files["written"].each():
        posts = [{"by": str(one.get("persona") or ""), "of": str(one.get("topic") or ""), "text": text_of(one.get("text")) or "",
                  "note": _fault(one), "tokens": one.get("tokens")} for one in lines]  # fmt: skip
        line = lines[-1]
        name = f"s{int(place):04d}" if place.isdigit() else place
        talk = talk_of(number, name, "post", line, {"turns": [], "replies": posts, "heading": "What was written"})
        end = "taken" if line.get("fault") is None else text_of(line.get("fault")) or ""
        yield talk._replace(end=end, snippet=snippet_of(posts[-1:]), tokens=sum(int(one.get("tokens") or 0) for one in lines))


def _fault(line: Line) -> str:
    like, near = number_of(line.get("similarity")), line.get("near")
    nearest = f", {like:.2f} like {near}" if like is not None and near else ""
    return text_of(f"{'taken' if line.get('fault') is None else line.get('fault')}{nearest}") or ""
