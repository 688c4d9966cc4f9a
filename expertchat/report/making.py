"""A report of what was named: its sections by the table of them, its verdict and its facts."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from expertchat.config import ConfigError
from expertchat.report.facts import facts, tiles
from expertchat.report.parts import Report, Section, Shown, Verdict
from expertchat.report.sections import SECTIONS
from expertchat.report.subject import Subject
from expertchat.report.verdict import verdict_of

Made = TypeVar("Made")


def report_of(subject: Subject) -> Report:
    """All of it but the transcripts. What cannot be read is named in its warnings, and the rest stands."""
    warnings: list[str] = []

    def made(what: str, make: Callable[[Subject], Made], otherwise: Made) -> Made:
        try:
            return make(subject)
        except ConfigError as error:
            warnings.extend(f"{what} left out: {problem}" for problem in error.problems)
        except (
            ArithmeticError,
            AttributeError,
            LookupError,
            TypeError,
            ValueError,
        ) as error:  # of a file that holds what none of ours does
            warnings.append(f"{what} left out: what the files hold was not understood ({type(error).__name__}: {error})")
        return otherwise

    nothing: Section | None = None
    sections = [made(f"section {make.__name__.replace('_', ' ')}", make, nothing) for make in SECTIONS]
    verdict = made("the first sentence", verdict_of, Verdict("What came out could not be read.", "See what is to be known."))
    known = made("what was run", facts, Shown("What was run", [], {}))
    counts = made("the counts", tiles, list[tuple[str, str, str]]())
    return Report(_title(subject), verdict, known, [one for one in sections if one is not None], warnings, counts)


def _title(subject: Subject) -> str:
    if subject.studies:
        return ", ".join(place.resolve().name for place in subject.studies)
    names = list(subject.names.values()) or [str(path) for path in subject.files]
    return ", ".join(names) if len(names) < 4 else f"{names[0]}, {names[1]} and {len(names) - 2} more"
