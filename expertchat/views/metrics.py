"""How the figures of texts look: on a screen, and as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TextIO

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from expertchat.text.cells import markdown as as_markdown
from expertchat.text.sentences import clean, one_line
from expertchat.views.console import open_console
from expertchat.views.figures import NONE
from expertchat.views.looks import indented
from expertchat.views.words import counted

Values = Mapping[str, Any]


def number(value: float | None, digits: int, sign: bool = False) -> str:
    """A figure; never "-0.00".

    >>> number(-0.0004, 3, True), number(None, 2), number(1234.5, 1)
    ('+0.000', '-', '1,234.5')
    """
    if value is None:
        return NONE
    text = f"{value:{'+' if sign else ''},.{digits}f}"
    return text if float(text.replace(",", "")) else f"{0.0:{'+' if sign else ''}.{digits}f}"


def cell(one: Mapping[str, Any] | None, digits: int, sign: bool = False) -> str:
    """ "0.412 (0.380 to 0.440)"."""
    if one is None or one["mean"] is None:
        return NONE
    low, high = one["low"], one["high"]
    interval = "" if low is None or high is None else f" ({number(low, digits, sign)} to {number(high, digits, sign)})"
    return number(one["mean"], digits, sign) + interval


def _named(one: Mapping[str, Any]) -> tuple[str, str]:
    return str(one["first"]), str(one["second"])


def columns(values: Values) -> list[tuple[str, list[str]]]:
    """Title and cells of each column: the measures, how many texts have them, each system, each difference."""
    figures = [*values["means"], *values["together"]]
    pairs = list(dict.fromkeys(_named(one) for figure in values["means"] for one in figure["differences"]))
    found: list[tuple[str, list[str]]] = [("", [figure["title"] for figure in figures]), ("texts", [_count(figure) for figure in figures])]
    for system in values["systems"]:
        title = "mean" if len(values["systems"]) == 1 and system == "all" else _cell_text(system)
        found.append((title, [cell(figure["systems"].get(system), figure["digits"]) for figure in figures]))
    for pair in pairs:
        ones = [next((one for one in figure.get("differences", ()) if _named(one) == pair), None) for figure in figures]
        cells = [cell(one, figure["digits"], sign=True) for one, figure in zip(ones, figures, strict=True)]
        found.append((_cell_text(f"{pair[0]} - {pair[1]}"), cells))
    return found


def _cell_text(text: str) -> str:
    return one_line(clean(text))


def _count(figure: Mapping[str, Any]) -> str:
    counts = [one["n"] for one in figure["systems"].values()]
    return str(counts[0]) if len(set(counts)) == 1 else " / ".join(map(str, counts))


def caption(values: Values) -> str:
    """What the numbers are."""
    what = f"{counted(values['texts'], 'text')} of {counted(values['items'], 'item')}, {counted(values['groups'], 'group')}"
    said = f"{what}. Means over texts with 95 % intervals, bootstrapped over groups (dialogues or topics)"
    if any(figure["differences"] for figure in values["means"]):
        said += "; differences are those of pairs"
    return f"{said}. ROUGE, distinct, repeats and likeness are shares of 1, BLEU and chrF of 100; likelihoods in nats."


def remarks(values: Values) -> list[str]:
    """What must be said beside the table: how BLEU and chrF were computed, what is left out, what is null and why."""
    found = [f"{name}: {signature}" for name, signature in values["signatures"].items()]
    found += values["notes"]
    reasons: dict[tuple[str, int], list[str]] = {}
    for figure in values["means"]:
        for why, count in figure["nulls"].items():
            reasons.setdefault((why, count), []).append(figure["title"])
    for (why, count), titles in reasons.items():
        which = "all figures" if len(titles) == len(values["means"]) else ", ".join(titles)
        found.append(f"no figure for {counted(count, 'text')}, {why}: {which}")
    return [one_line(clean(text)) for text in found]


def markdown(values: Values) -> str:
    """The table as Markdown, with its caption and remarks."""
    shown = columns(values)
    table = [[title or "measure" for title, _ in shown], *zip(*(cells for _, cells in shown), strict=True)]
    head, *lines = ["| " + " | ".join(map(as_markdown, cells)) + " |" for cells in table]
    lines = [head, "|---|" + "---:|" * (len(shown) - 1), *lines]
    notes = [f"- {as_markdown(note)}" for note in remarks(values)]
    return "\n".join([*lines, "", caption(values), *([""] if notes else []), *notes]) + "\n"


def print_metrics(values: Values, stream: TextIO | None = None) -> None:
    """The table, in parts where the screen is not wide enough, then the remarks."""
    console = open_console(stream)
    first, *rest = columns(values)
    console.print()
    for part in _parts(first, rest, console.width - 4):
        console.print(indented(_table([first, *part])))
    console.print(indented(Text(caption(values), "dim")))
    for note in remarks(values):
        console.print(indented(Text(note, "yellow")))
    console.print()


def _parts(first: tuple[str, list[str]], rest: Sequence[tuple[str, list[str]]], width: int) -> list[list[tuple[str, list[str]]]]:
    """The columns in as many tables as it takes."""
    own = max(map(len, first[1]), default=0)
    parts: list[list[tuple[str, list[str]]]] = [[]]
    left = width - own
    for title, cells in rest:
        needed = max(map(len, (*title.split(), *cells))) + 2
        if parts[-1] and needed > left:
            parts.append([])
            left = width - own
        parts[-1].append((title, cells))
        left -= needed
    return parts


def _table(shown: Sequence[tuple[str, list[str]]]) -> Table:
    out = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for i, (title, _) in enumerate(shown):
        out.add_column(title, justify="right" if i else "left", overflow="fold")
    for title, *cells in zip(*(cells for _, cells in shown), strict=True):
        if set(cells) != {NONE}:  # of all texts together there is no difference of pairs
            out.add_row(*map(Text, (title, *cells)))
    return out
