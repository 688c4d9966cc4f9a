"""Several runs: each with its state, size and seed."""

from __future__ import annotations

from expertchat.report.facts import facts_of
from expertchat.report.parts import Cell, Section, Shown
from expertchat.report.subject import Subject

SHOWN = ("state", "seed", "size", "time at work", "begun")


def several(subject: Subject) -> Section | None:
    """A line for each run, where there are more than one."""
    if len(subject.runs) < 2:
        return None
    rows = {}
    for run in subject.runs:
        known = facts_of(run)
        rows[subject.name(run)] = [Cell(run.kind or None), *(Cell(None if known[key] is None else str(known[key])) for key in SHOWN)]
    return Section("runs", "Runs", (), [Shown("Run by run", ["command", *SHOWN], rows)])
