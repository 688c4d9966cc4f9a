"""What a report says first: what came out, with its interval and n, and what that cannot say."""

from __future__ import annotations

from collections.abc import Callable

from expertchat.folder.jsonl import read_json
from expertchat.report.parts import Verdict
from expertchat.report.subject import STUDY, Subject, kept_steps
from expertchat.report.talk import map_at
from expertchat.report.verdict_arms import of_arms
from expertchat.report.verdict_others import of_other_kinds, of_rows, of_talk
from expertchat.report.words import counted, unfinished

SMOKE = "Run at size smoke, which shows that it runs: no figure of it means anything."


def verdict_of(subject: Subject) -> Verdict:
    """The first sentences: of a study its own, else of what the runs are for."""
    kinds: tuple[Callable[[Subject], Verdict | None], ...] = (of_study, of_arms, of_rows, of_other_kinds, of_talk)
    for say in kinds:
        if (found := say(subject)) is not None:
            return found
    return Verdict("Nothing has come out yet.", unfinished(subject) or "There is no dialogue, no round and no judgement in what was named.")


def of_study(subject: Subject) -> Verdict | None:
    """A study: its question, how far it is, and what its arms say where it has some."""
    if not subject.studies:
        return None
    place = subject.studies[0]
    report, state = read_json(place / "report.json") or {}, read_json(place / STUDY) or {}
    steps, tables = kept_steps(place), map_at(report, "tables")
    title = str(report.get("title") or state.get("study") or place.resolve().name).rstrip(".")
    title = title if title.endswith(("?", "!")) else f"{title}."
    done = sum(step.get("code") == 0 for step in steps.values())
    if not tables:
        says = f"{title} {done} of {counted(len(steps), 'step')} that were begun are done."
        return Verdict(says, "Its tables come with the last step; nothing can be said before.")
    own = report.get("says")
    inner = of_arms(subject)  # a study that says itself what came out still shows its arms
    says = str(own) if own else inner.says if inner else f"{counted(len(tables), 'table')} came of it."
    cannot = [
        SMOKE if state.get("size") == "smoke" else f"Run at size {state.get('size')}.",
        str(report.get("cannot") or ""),
        inner.cannot if inner and not own else unfinished(subject),
    ]
    return Verdict(f"{title} {says}", " ".join(filter(None, cannot)), inner.shown if inner else None)
