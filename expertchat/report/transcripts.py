"""Everything there is to read in runs, one dialogue (item, held-out history, prompt) at a time, with all that was said of it.

A `Talk` is plain values, as the page's script reads them. Texts are cleaned as on every screen; what is damaged is left out and counted.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from expertchat.folder.reader import RunReader
from expertchat.report.grouped import Files, Line, by_key
from expertchat.report.rows import rows
from expertchat.report.subject import Subject
from expertchat.report.talk import Talk, kept, list_at, map_at, number_of, talk_of, text_of, turn_of
from expertchat.talk.branching import branch_of, run_above
from expertchat.text.cleaning import clean
from expertchat.text.sentences import shown_path

_HELD_OUT = re.compile(r"(?P<learner>[a-z][a-z0-9_]*)-r(?P<round>\d+)(?P<final>-final)?\.jsonl")


def talks(subject: Subject, warnings: list[str]) -> Iterator[Talk]:
    """All there is to read, run by run. What could not be read is told in `warnings`."""
    for number, run in enumerate(subject.runs):
        with Files(run, subject.name(run), warnings) as files:
            yield from _dialogues(number, run, files, _shades(subject, run), _branch(subject, run))
            yield from _held_out(number, run)
            yield from rows(number, run, files)


# -- dialogues ----------------------------------------------------------------------------------------------------------------


def _shades(subject: Subject, run: RunReader) -> dict[tuple[Any, Any, Any], list[list[Any]]]:
    """How likely each token was, as `expertchat tokens RUN --turn ... out=FILE` has written it: by dialogue, turn and candidate."""
    found = {}
    for values in subject.files.values():
        about = map_at(values, "about")
        if _is_of(subject, run, Path(str(about.get("run"))).resolve()):
            tokens = [one for one in list_at(values, "tokens") if isinstance(one, Mapping) and not one.get("special")]
            shades = [[text_of(one.get("text")) or "", number_of(one.get("probability")), one.get("rank")] for one in tokens]
            found[about.get("dialogue"), about.get("turn"), about.get("candidate")] = shades
    return found


def _is_of(subject: Subject, run: RunReader, named: Path) -> bool:
    """Whether a file that names a run's folder is of this one: by that folder, or, where the runs were moved since, by its name alone, if
    no other run here is called so."""
    folders = [one.folder.resolve() for one in subject.runs]
    here = run.folder.resolve()
    return here == named or (named not in folders and here.name == named.name and [one.name for one in folders].count(here.name) == 1)


def _branch(subject: Subject, run: RunReader) -> dict[str, Any]:
    """Where the dialogues of a run go on from; nothing where it is no branch."""
    if (found := branch_of(run)) is None:
        return {}
    folder = run_above(found)
    number = next((i for i, other in enumerate(subject.runs) if other.folder.resolve() == folder), None)
    name = folder.name if number is None else subject.name(subject.runs[number])
    return {"run": number, "name": text_of(name), "id": text_of(found.get("dialogue")), "turns": found.get("turns"),
            "edited": found.get("edited") is not None}  # fmt: skip


def _dialogues(
    number: int, run: RunReader, files: Files, shades: Mapping[tuple[Any, Any, Any], list[list[Any]]], branch: Mapping[str, Any]
) -> Iterator[Talk]:
    chosen = run.chooses
    for name, lines in files.files["transcripts"].each():
        line = lines[-1]
        turns = [turn_of(turn) for turn in list_at(line, "turns")]
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
            "experts": {str(who): _model(ref) for who, ref in map_at(line, "experts").items()}, "seed": line.get("seed"), "turns": turns,
            "ratings": ratings, "wim": wim, "rewards": [_reward(one) for one in files.of("rewards", name)],
            **({"branch": dict(branch)} if branch else {}),
        }  # fmt: skip
        if chosen:
            body["chosen"] = _chosen(files.last("selections", name))
        talk = talk_of(number, name, "prompt" if chosen else "dialogue", line, body)
        yield talk._replace(above=f"{branch['run']}/{branch['id']}") if branch.get("run") is not None else talk


def _candidates(turns: list[dict[str, Any]], files: Files, name: str, shades: Mapping[tuple[Any, Any, Any], list[list[Any]]]) -> None:
    """Set the candidates of each turn beside it; those of a turn that is not there (best_of_n's reply) make one."""
    scores = {str(one.get("id")): one for one in files.of("scores", name)}
    made = [map_at(one, "provenance") for one in files.of("pairs", name)]
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
            {**turn_of({**one, "speaker": one.get("speaker")}), "id": str(one.get("id")), "taken": bool(one.get("continued")),
             **kept({"score": number_of(score.get("value")), "problem": text_of(score.get("problem")), "altered": one.get("altered"),
                      "paired": paired.get(one.get("id")),
                      "shades": shades.get((name, place, one.get("index"))) or shades.get((name, place, one.get("id")))})}
        )  # fmt: skip


def _chosen(line: Line) -> dict[str, Any]:
    """What best_of_n made of a prompt: the scores by judge, and which candidate is the choice of the first N."""
    return {"sizes": list_at(line, "sizes"), "chosen": list_at(line, "chosen"), "scores": map_at(line, "scores"),
            "problem": text_of(line.get("problem"))}  # fmt: skip


# -- held-out histories: base and policy beside each other ----------------------------------------------------------------------


def _held_out(number: int, run: RunReader) -> Iterator[Talk]:
    """Each held-out history with the base's reply to it and the policies', evaluation by evaluation."""
    folder = run.folder / "evaluations"
    replies: dict[str, list[dict[str, Any]]] = {}
    for path in sorted(folder.glob("*.jsonl")):
        if (found := _HELD_OUT.fullmatch(path.name)) is None:
            continue
        said = f"after round {int(found['round'])}" + (", final" if found["final"] else "")
        for history, lines in by_key(path, "history"):
            replies.setdefault(history, []).extend(_reply(one, said) for one in lines)
    for path in sorted(folder.glob("base-*.jsonl")):
        for name, lines in by_key(path, "id"):
            line = lines[-1]
            base = {**turn_of(map_at(line, "reply")), "of": "base", **kept({"problem": text_of(line.get("problem"))})}
            body = {"turns": [turn_of(turn) for turn in list_at(line, "turns")], "replies": [base, *replies.get(name, ())]}
            talk = talk_of(number, name, "history", line, body)
            last = [one["outcome"] for one in body["replies"] if one.get("outcome") is not None][-1:]
            yield talk._replace(end={1.0: "won", 0.5: "tied", 0.0: "lost"}.get(last[0], "") if last else "")


def _reply(line: Line, said: str) -> dict[str, Any]:
    verdicts = [kept({"judge": str(one.get("judge")), "first": one.get("first"), "verdict": one.get("verdict"),
                      "raw": text_of(one.get("raw")), "problem": text_of(one.get("problem"))})
                for one in list_at(line, "verdicts")]  # fmt: skip
    known = {"outcome": number_of(line.get("outcome")), "problem": text_of(line.get("problem")),
             "rating": number_of(line.get("rating_policy")), "rating_base": number_of(line.get("rating_base")),
             "verdicts": verdicts or None}  # fmt: skip
    return {**turn_of(map_at(line, "reply")), "of": f"policy {line.get('policy_version')}, {said}", **kept(known)}


# -- parts of them --------------------------------------------------------------------------------------------------------------


def _rating(line: Line) -> dict[str, Any]:
    value, expected = number_of(line.get("value")), number_of(line.get("expected"))
    known = {"turn": line.get("turn"), "candidate": line.get("candidate"), "value": value if expected is not None else None,
             "mass": number_of(line.get("mass")), "raw": text_of(line.get("raw")), "problem": text_of(line.get("problem"))}  # fmt: skip
    number = expected if expected is not None else value
    return {"judge": str(line.get("judge")), "subject": str(line.get("subject")), "category": str(line.get("category")), "number": number,
            **kept(known)}  # fmt: skip


def _wim(line: Line) -> dict[str, Any]:
    known = {"turn": line.get("turn"), "candidate": line.get("candidate"), "analysis": text_of(line.get("analysis")),
             "empty": line.get("empty") or None, "problem": text_of(line.get("problem"))}  # fmt: skip
    return {"judge": str(line.get("judge")), "subject": str(line.get("subject")), "text": text_of(line.get("text")) or "",
            "cosine": number_of(line.get("cosine")), **kept(known)}  # fmt: skip


def _reward(line: Line) -> dict[str, Any]:
    known = {"turn": line.get("turn"), "candidate": line.get("candidate"), "rating": number_of(line.get("rating")),
             "wim": number_of(line.get("wim")), "score": number_of(line.get("score")), "problem": text_of(line.get("problem"))}  # fmt: skip
    return {"judge": str(line.get("judge")), "subject": str(line.get("subject")), "value": number_of(line.get("value")), **kept(known)}


def _model(ref: object) -> str:
    """Which model spoke, with the version of its policy where it had learnt."""
    if not isinstance(ref, Mapping):
        return str(ref)
    version = ref.get("policy_version")
    return clean(shown_path(str(ref.get("model") or ref.get("family") or "?"))) + (f", policy {version}" if version else "")


