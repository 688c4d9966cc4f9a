"""A report of what was named: its sections by the table of them, its verdict and its facts."""

from __future__ import annotations

from expertchat.config import ConfigError
from expertchat.report.parts import Report, Section, Shown, Verdict
from expertchat.report.sections import SECTIONS
from expertchat.report.subject import Subject


def report_of(subject: Subject) -> Report:
    """All of it but the transcripts. What cannot be read is named in its warnings, and the rest stands."""
    sections: list[Section] = []
    warnings: list[str] = []
    for make in SECTIONS:
        try:
            section = make(subject)
        except ConfigError as error:
            warnings += [f"{make.__name__.replace('_', ' ')}: left out: {problem}" for problem in error.problems]
            continue
        if section is not None:
            sections.append(section)
    return Report(", ".join(subject.names.values()), Verdict("", ""), Shown("What was run", [], {}), sections, warnings)
