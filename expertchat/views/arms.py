"""How the table of arms looks: on a screen, and as Markdown."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from textwrap import fill
from typing import Any, TextIO

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from expertchat.folder.reader import called
from expertchat.text.cells import markdown as as_markdown
from expertchat.text.sentences import clean, one_line
from expertchat.views.console import open_console
from expertchat.views.figures import NONE, percent, span
from expertchat.views.looks import indented, verdict
from expertchat.views.metrics import number
from expertchat.views.scatter import Dot, scatter

Row = Mapping[str, Any]
Column = tuple[str, list[str]]  # a title and the cells below it
GAP, EDGES = 2, 2  # cells between two columns, and beside them
WIDE = 150  # a screen that takes all columns side by side


def _number(value: float | None, digits: int = 2) -> str:
    return number(value, digits)


def _both(row: Row, name: str, digits: int = 2) -> str:
    """Policy / base."""
    values = row[f"{name}_policy"], row[f"{name}_base"]
    return NONE if values == (None, None) else " / ".join(_number(value, digits) for value in values)


def _with_span(row: Row, name: str, form: Callable[[float | None], str], dash: str = "-") -> str:
    """A figure with its interval, where it has one."""
    if row.get(name) is None:
        return NONE
    interval = span(row, name, form, dash)
    return form(row[name]) + (f" ({interval})" if interval else "")


def _rate(name: str) -> Callable[[Row], str]:
    return lambda row: _with_span(row, name, lambda value: percent(value, 1))


def _ratio(name: str) -> Callable[[Row], str]:
    return lambda row: _with_span(row, name, _number)


def _change(name: str, points: bool = False) -> Callable[[Row], str]:
    """Policy less base, with its sign."""

    def signed(value: float | None) -> str:
        return number(None if value is None else 100 * value, 1, sign=True) if points else number(value, 2, sign=True)

    return lambda row: _with_span(row, name, signed, " to ")


def _over_seeds(row: Row) -> str:
    if len(row["seeds"]) < 2 or row["win_rate_min"] is None:
        return NONE
    return f"{percent(row['win_rate_min'], 1)}-{percent(row['win_rate_max'], 1)}"


def _chance(row: Row) -> str:
    chance = row.get("minus_control_holm")
    return NONE if chance is None else "<.001" if chance < 0.001 else f"{chance:.3f}".lstrip("0")


def _rounds(row: Row) -> str:
    done = str(row["rounds"]) if row["rounds"] == row["rounds_max"] else f"{row['rounds']}-{row['rounds_max']}"
    return done if row["finished"] else f"{done} of {row['rounds_wanted']}"


def _judged(row: Row) -> str:
    """Of each seed."""
    return f"{row['judged']:,}" if row["judged"] == row["judged_max"] else f"{row['judged']:,}-{row['judged_max']:,}"


COLUMNS: tuple[tuple[str, Callable[[Row], str]], ...] = (
    ("seeds", lambda row: str(len(row["seeds"]))),
    ("judged replies", _judged),
    ("win rate, %", _rate("win_rate")),
    ("seeds apart", _over_seeds),
    ("like length, %", _rate("win_rate_length_matched")),
    ("less control", _change("minus_control", points=True)),
    ("p", _chance),
    ("facts, x base", _ratio("distinct_ratio")),
    ("tokens", lambda row: _both(row, "tokens", 0)),
    ("facts", lambda row: _both(row, "distinct")),
    ("repeats", lambda row: _both(row, "repeats")),
    ("accuracy", lambda row: _both(row, "accuracy")),
    ("ties, %", lambda row: percent(row["tie_rate"])),
    ("nulls, %", lambda row: percent(row["null_rate"])),
    ("margin/sd", lambda row: _number(row["margin_scaled"])),
    ("KL", lambda row: _number(row["kl"], 1)),
    ("rounds", _rounds),
)
FIRST = 7  # columns of the upper table where the screen is not wide
# Whether the judges are pleased and nothing is gained: policy less base, a reply.
PLEASED: tuple[tuple[str, Callable[[Row], str]], ...] = (
    ("reward", _change("reward_difference")),
    ("reward gained", lambda row: _number(row.get("reward_gain"))),
    ("truth", _change("truth_difference")),
    ("length, x base", _ratio("tokens_ratio")),
    ("repeats", _change("repeats_difference")),
    ("of claims, %", _change("repeat_rate_difference", points=True)),
    ("said before", _change("again_difference")),
    ("questions", _change("questions_difference")),
    ("agreements", _change("agreements_difference")),
    ("accuracy", _change("accuracy_difference")),
)


def columns(rows: Sequence[Row], of: Sequence[tuple[str, Callable[[Row], str]]] = COLUMNS) -> list[Column]:
    """Title and cells of every column in which at least one arm has something; the names of the arms first."""
    found = [(title, [cell(row) for row in rows]) for title, cell in of]
    return [("arm", names(rows)), *((title, cells) for title, cells in found if set(cells) != {NONE})]


def names(rows: Sequence[Row]) -> list[str]:
    several = len({row["learner"] for row in rows}) > 1
    return [one_line(clean(row["arm"])) + (f", {called(row['learner'])}" if several else "") for row in rows]


def caption(rows: Sequence[Row]) -> str:
    """What the numbers are."""
    judges = sorted({str(row["judge"]) for row in rows if row["judge"]})
    judged = f" ({', '.join(judges)})" if judges else ""
    alone = any(row.get("drawn") != "topics" for row in rows if row["win_rate"] is not None)
    drawn = "95 % interval, " + ("every reply for itself where none are kept (Wilson)" if alone else "topics drawn")
    return (
        f"Win rate against the base on held-out topics{judged}, ties half: {drawn}.{_least(rows)}{_control(rows)} "
        "Policy / base; ties and nulls of the judgements in training; margin in standard deviations of the rewards; "
        "KL to the base in nats a reply, last round."
    )


def _least(rows: Sequence[Row]) -> str:
    """The least effect that so many topics show."""
    found = [(row["topics"], 100 * row["win_rate_least"]) for row in rows if row.get("topics") and row.get("win_rate_least") is not None]
    if not found:
        return ""
    topics, least = sorted({count for count, _ in found}), [least for _, least in found]
    many = "-".join(map(str, dict.fromkeys((topics[0], topics[-1]))))
    if min(least) >= 50:
        return f" {many} topics can show of no win rate that it is not 50."
    told = [points for points in least if points < 50]
    points = " to ".join(dict.fromkeys((f"{min(told):.1f}", f"{max(told):.1f}")))
    rest = ", and show of no win rate that it is not 50 in the other arms" if len(told) < len(least) else ""
    return f" {many} topics miss a win rate that is less than {points} points from 50 one time in five or more{rest}."


def _control(rows: Sequence[Row]) -> str:
    found = sorted({one_line(clean(str(row["control"]))) for row in rows if row.get("control")})
    if not found:
        return ""
    return f" Less control: points of the win rate more than {found[0]}, on the same histories; p by Holm for so many arms."


PLEASED_SAID = (
    "Policy less base, a reply, 95 %, topics drawn. Reward: what the judges of training make of held-out replies (gained: in training, the "
    "last rounds less the first); truth: new facts, less repeats and what is wrong. A reward that rises where no truth does is hacked."
)


def pleased(rows: Sequence[Row]) -> list[Column]:
    """Reward and truth, and what else has changed; nothing where that is not known."""
    found = columns(rows, PLEASED)
    return found if len(found) > 2 else []


def dots(rows: Sequence[Row]) -> list[Dot]:
    """Truth against reward: what the judges of training make of held-out replies, else what the reward gained in training."""
    key = "reward_difference" if any(row.get("reward_difference") is not None for row in rows) else "reward_gain"
    return [
        Dot(name, row[key], row["truth_difference"])
        for name, row in zip(names(rows), rows, strict=True)
        if row.get(key) is not None and row.get("truth_difference") is not None
    ]


def markdown(values: Mapping[str, Any]) -> str:
    """The table as Markdown, with its caption and notes."""
    rows = values["arms"]
    notes = [f"- {as_markdown(note)}" for note in values["notes"]]
    parts = [_rows(columns(rows)), as_markdown(caption(rows))]
    parts += [_rows(pleased(rows)), PLEASED_SAID] if pleased(rows) else []
    return "\n\n".join([*parts, *(["\n".join(notes)] if notes else [])]) + "\n"


def _rows(shown: Sequence[Column]) -> str:
    lines = ["| " + " | ".join(title for title, _ in shown) + " |", "|---|" + "---:|" * (len(shown) - 1)]
    lines += ["| " + " | ".join(map(as_markdown, cells)) + " |" for cells in zip(*(c for _, c in shown), strict=True)]
    return "\n".join(lines)


def print_arms(values: Mapping[str, Any], stream: TextIO | None = None) -> None:
    """The table, in two parts on a screen that is not wide, then the notes."""
    console = open_console(stream)
    rows, shown = values["arms"], columns(values["arms"])
    upper = {title for title, _ in COLUMNS[:FIRST]}
    parts = [shown] if console.width >= WIDE else [
        [column for column in shown if column[0] in upper or column[0] == "arm"],
        [column for column in shown if column[0] not in upper],
    ]  # fmt: skip
    console.print()
    for part in parts:
        for fits in fitting(part, console.width - 2 - EDGES):
            console.print(indented(_table(fits, rows)))
    console.print(indented(Text(caption(rows), "dim")))
    if others := pleased(rows):
        console.print()
        for fits in fitting(others, console.width - 2 - EDGES):
            console.print(indented(_table(fits, rows)))
        console.print(indented(Text(PLEASED_SAID, "dim")))
    if drawn := scatter(dots(rows), "reward", "truth, policy less base", min(60, console.width - 30)):
        console.print()
        for line in drawn:
            console.print(indented(Text(line)))
    for note in values["notes"]:
        console.print(indented(Text(clean(note), "yellow")))
    console.print()


def fitting(part: Sequence[Column], width: int) -> list[list[Column]]:
    """The same columns in as many tables as it takes for no cell to be broken, their titles in as many lines; one, where that fits."""
    if sum(max(map(len, (title, *cells))) + GAP for title, cells in part) - GAP <= width:
        return [list(part)]
    arm, *columns = part
    room = width - min(max(map(len, arm[1])), width // 3)
    tables: list[list[Column]] = []
    left = 0
    for title, cells in columns:
        needed = max(map(len, (*title.split(), *cells)))
        if not tables or needed + GAP > left:
            tables.append([arm])
            left = room
        tables[-1].append((fill(title, needed), cells))
        left -= needed + GAP
    return tables


def _table(part: Sequence[Column], rows: Sequence[Row]) -> Table:
    out = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for title, _ in part:
        out.add_column(title, justify="left" if title == "arm" else "right", overflow="fold")
    for cells, row in zip(zip(*(cells for _, cells in part), strict=True), rows, strict=True):
        styles = ["" if not title.startswith("win") else verdict(row["win_rate_low"], row["win_rate_high"]) for title, _ in part]
        out.add_row(*(Text(cell, style) for cell, style in zip(cells, styles, strict=True)))
    return out
