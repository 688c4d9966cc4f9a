"""How a text looks whose tokens are shaded by their probabilities, and the table of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TextIO

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

from expertchat.text.sentences import clean, one_line
from expertchat.text.visible import visible
from expertchat.views.console import CleanConsole, open_console
from expertchat.views.figures import NONE
from expertchat.views.looks import indented
from expertchat.views.metrics import number
from expertchat.views.words import counted

Values = Mapping[str, Any]
# From this probability on: its style, on light and dark screens, and its words in the legend.
SHADES = (
    (0.8, "black on green", "80 % and more"),
    (0.5, "black on cyan", "50"),
    (0.2, "black on yellow", "20"),
    (0.05, "white on magenta", "5"),
    (0.0, "white on red", "less"),
)
UNKNOWN = "reverse"
PART = "·"  # a token that is a part of a character, which the last of its tokens shows
GAP, INDENT = 2, 6  # cells between columns, and beside the table
LEAST = 16  # cells of the likeliest tokens


def shade(probability: float | None) -> str:
    """The style of a token. What has no probability is not coloured like what has a small one."""
    return UNKNOWN if probability is None else next(style for least, style, _ in SHADES if probability >= least)


def percent(probability: float | None) -> str:
    """
    >>> percent(0.9734), percent(0.00004), percent(0.0), percent(None)
    ('97.34', '<0.01', '0.00', '-')
    """
    if probability is None:
        return NONE
    return "<0.01" if 0 < probability < 0.00005 else f"{100 * probability:.2f}"


MORE = "lines=null shows all, and out=FILE.json has them"


def print_tokens(values: Values, stream: TextIO | None = None, more: str = MORE) -> None:
    """The text, shaded where there is a terminal, and the table of its tokens; then what comes next, sums and remarks. `more`: how tokens
    are to be seen that the table has not."""
    console = open_console(stream)
    console.print()
    for line in _head(values):
        console.print(indented(line))
    console.print(indented(shaded(values, console.is_terminal), above=1))
    if console.is_terminal:
        console.print(indented(legend(values), above=1))
    rows, note = chosen(values, more)
    if rows:
        console.print(indented(_table(console, values, rows), above=1))
    for line in _foot(values, note):
        console.print(indented(line))
    console.print()


def _head(values: Values) -> list[Text]:
    about = values["about"]
    said = [clean(values["model"])]
    if about:
        said += [f"{about['dialogue']} on {about['topic']}", f"turn {about['turn']} ({about['turn'] + 1} of {about['turns']})"]
        said += [f"candidate {about['candidate']}"] if about["candidate"] else []
        said += [f"expert {about['speaker']}, policy version {about['policy_version']}"]
    head = [Text(one_line(clean(" · ".join(map(str, said)))), "bold")]
    prompt = values["prompt"]
    if prompt["tokens"] and prompt["asked"]:
        shown = visible(prompt["text"])
        shown = shown if len(shown) <= 240 else f"... {shown[-236:]}"
        head.append(Text.assemble((f"after {counted(prompt['tokens'], 'token')}: ", "dim"), (shown, "dim")))
    return head


def shaded(values: Values, colours: bool) -> Text:
    """The tokens one after the other, each in its shade; what the model wrote itself is underlined."""
    text = Text()
    for row in values["tokens"]:
        style = (shade(row["probability"]) if colours else "") + (" underline" if row["from"] == "continued" else "")
        text.append(visible(row["text"]) or PART, style.strip())
        if row["text"].endswith("\n"):
            text.append("\n")
    return text


def legend(values: Values) -> Text:
    text = Text.assemble(("probability of the token, %: ", "dim"))
    for _, style, words in SHADES:
        text.append(f" {words} ", style).append(" ")
    if any(row["probability"] is None for row in values["tokens"]):
        text.append(" none ", UNKNOWN)
    if any(row["from"] == "continued" for row in values["tokens"]):
        text.append("  underlined: written by the model", "dim")
    return text


def chosen(values: Values, more: str = MORE) -> tuple[list[tuple[int, Mapping[str, Any]]], str]:
    """The tokens that stand in the table, by their places, and what is said of the others."""
    rows, lines = list(enumerate(values["tokens"])), values["lines"]
    if lines is None or len(rows) <= lines:
        return rows, ""
    known = [one for one in rows if one[1]["probability"] is not None]
    least = {place for place, _ in sorted(known, key=lambda one: one[1]["probability"])[:lines]}
    note = f"the table has the {lines} least likely of {len(rows)} tokens; {more}"
    return [one for one in rows if one[0] in least], note


def _table(console: CleanConsole, values: Values, rows: Sequence[tuple[int, Mapping[str, Any]]]) -> Table:
    titles = ["", "token", "%", "log p", "rank", "entropy", "top 5, %"]
    lines = [
        [
            str(place), f"[{_spelt(row)}]", percent(row["probability"]), number(row["logp"], 3),
            NONE if row["rank"] is None else f"{row['rank']:,}", number(row["entropy"], 2), percent(row["five"]),
        ]
        for place, row in rows
    ]  # fmt: skip
    taken = sum(max(map(cell_len, column)) + GAP for column in zip(titles, *lines, strict=True))
    out = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, GAP - 1, 0, 0))
    for title in [*titles, "likeliest, %"]:
        out.add_column(title, justify="left" if title in ("token", "likeliest, %") else "right", no_wrap=True)
    for (_, row), cells in zip(rows, lines, strict=True):
        style = shade(row["probability"]) if console.is_terminal else ""
        top = likeliest(row["top"], max(LEAST, console.width - INDENT - taken))
        out.add_row(*(Text(cell, style if i == 2 else "") for i, cell in enumerate([*cells, top])))
    return out


def _spelt(row: Mapping[str, Any]) -> str:
    """What a token adds to the text; where that is no whole character, its name."""
    piece = row["text"]
    return visible(row["name"] if not piece or "\ufffd" in piece else piece)


def likeliest(top: Sequence[Mapping[str, Any]], width: int) -> str:
    """ "[ Paris] 41.20  [ the] 8.03": as many as fit into so many cells, the first in any case."""
    parts = [f"[{visible(one['text'])}] {percent(one['probability'])}" for one in top]
    while len(parts) > 1 and cell_len("  ".join(parts)) > width:
        parts.pop()
    return "  ".join(parts)


def _foot(values: Values, note: str) -> list[Text]:
    following, total, unit = values["next"], values["total"], values["unit"]
    known = (f"  entropy {number(following['entropy'], 2)}", "dim")
    lines = [
        Text(f"log p and entropy in {unit}; top 5: the share that the five likeliest tokens hold together", "dim"),
        Text.assemble(("next: ", "dim"), likeliest(following["top"], 60), known),
    ]
    if total["tokens"]:
        lines.append(Text(
            f"{counted(total['tokens'], 'token')}, {counted(total['bytes'], 'byte')}: log p {number(total['logp'], 3)} {unit}, "
            f"{number(total['logp_token'], 4)} a token, {number(total['logp_byte'], 4)} a byte; perplexity {total['perplexity']:.2f}; "
            f"mean entropy {number(total['entropy'], 3)} {unit}"
        ))  # fmt: skip
    return [*lines, *(Text(one_line(clean(text)), "yellow") for text in [*([note] if note else []), *values["notes"]])]
