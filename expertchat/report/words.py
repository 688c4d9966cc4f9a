"""Figures in the words of a sentence."""

from __future__ import annotations

from collections.abc import Sequence

from expertchat.report.subject import Subject

NAMED = 3  # runs that are told by name


def whole(value: float) -> str:
    """A share in whole percent; with decimals where these would say nothing, all or one half of what is not quite that.

    >>> [whole(value) for value in (0.62, 0.5005, 0.998, 1.0)]
    ['62', '50.05', '99.8', '100']
    """
    told = [f"{100 * value:.{digits}f}" for digits in range(3)]
    same = abs(100 * value - float(told[0])) < 1e-9
    return next((said for said in told if same or float(said) not in (0, 50, 100)), told[0])


def percent(value: float) -> str:
    """ "62 %" of 0.62."""
    return f"{whole(value)} %"


def interval(value: float, low: float | None, high: float | None) -> str:
    """ "62 % (47 to 75)"."""
    return percent(value) + (f" ({whole(low)} to {whole(high)})" if low is not None and high is not None else "")


def rate(value: float, low: float | None, high: float | None, of: str) -> str:
    """ "62 % of 40 comparisons (95 % interval 47 to 75)"."""
    bounds = f" (95 % interval {whole(low)} to {whole(high)})" if low is not None and high is not None else ""
    return f"{percent(value)} of {of}{bounds}"


def listed(words: Sequence[str]) -> str:
    """ "a, b and c"."""
    return " and ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else "".join(words)


def counted(n: int, what: str) -> str:
    """ "1 judge", "1,200 judges"."""
    return f"{n:,} {what}{'' if n == 1 else 's'}"


def unfinished(subject: Subject) -> str | None:
    """That not all runs are at their end, or that some failed at what they are for; None where all is well."""
    failed = [subject.name(run) for run in subject.runs if run.failure is not None]
    going = [subject.name(run) for run in subject.runs if not run.done]
    said = []
    if failed:
        said.append(f"{_named(failed)} did not reach what {'it is' if len(failed) == 1 else 'they are'} for.")
    if going:
        said.append(f"Not at {'its' if len(going) == 1 else 'their'} end yet: {_named(going)}.")
    return " ".join(said) or None


def _named(names: Sequence[str]) -> str:
    more = len(names) - NAMED
    return listed([*names[:NAMED], *([f"{more} more"] if more > 0 else [])])
