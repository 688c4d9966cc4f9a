"""What all views share of their looks: colours, places of speakers, and small shapes.

Only the terminal's own colours are used (cyan, magenta, red, green, bold, dim; yellow and blue from the fourth expert on), so that light
and dark backgrounds both work.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

from rich.align import Align
from rich.console import RenderableType
from rich.padding import Padding
from rich.rule import Rule
from rich.table import Table as RichTable
from rich.text import Text

from expertchat.events import RunFinished
from expertchat.views.sides import Seats, Side, called, seat_number
from expertchat.views.words import ending

COLOURS = ("cyan", "magenta", "green", "yellow", "blue", "red")  # by seat; who judges and does not talk has the one after the seats'
WIDEST = 116  # a dialogue is not drawn wider than this: two sides that lie too far apart do not read as one talk
BAR = 10  # cells of a rating's bar: one for each point
SPINNER = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
NARROW = 80  # columns below which bars are short
ENDS = {"done": "bold green", "stopped": "bold", "failed": "bold red"}

Part = tuple[str, str]  # of a text: what it says, and its style


# -- speakers -----------------------------------------------------------------------------------------------------------


def colour(speaker: str, seats: Seats) -> str:
    return COLOURS[seat_number(speaker, seats) % len(COLOURS)]


def person(speaker: str, seats: Seats, style: str = "bold") -> Part:
    """ "A" in the speaker's colour."""
    return called(speaker), f"{style} {colour(speaker, seats)}"


def side_title(side: Side, seats: Seats, between: str = " on ") -> Text:
    """ "A on B" in both colours."""
    return Text.assemble(person(side.judge, seats), (between, "dim"), person(side.subject, seats))


def bubble_width(width: int) -> int:
    """The widest a chat bubble gets on a screen of `width` columns."""
    width = min(width, WIDEST)
    return max(min(width, 24), min(88, int(width * (0.78 if width >= 50 else 0.9))))


def indent(speaker: str, seats: Seats, width: int) -> int:
    """Columns to the left of a speaker's bubbles: none for the first, for the last so many that a whole one just fits."""
    free = max(0, min(width, WIDEST) - bubble_width(width))
    number = min(seat_number(speaker, seats), len(seats) - 1)
    return round(free * number / max(1, len(seats) - 1))


def edge(speaker: str, seats: Seats) -> Literal["left", "right"]:
    """Two face each other, left and right, as in a chat; of more, each has an indent of its own on the left."""
    return "right" if len(seats) == 2 and seat_number(speaker, seats) > 0 else "left"


def placed(drawn: RenderableType, speaker: str, seats: Seats, width: int) -> RenderableType:
    """Something where its speaker stands."""
    if edge(speaker, seats) == "right":
        return Align(drawn, "right", width=min(width, WIDEST))
    left = 0 if len(seats) == 2 else indent(speaker, seats, width)
    return Padding(drawn, (0, 0, 0, left), expand=False) if left else drawn


# -- shapes -------------------------------------------------------------------------------------------------------------


def spinner(tick: int) -> Part:
    """What turns while something goes on."""
    return f"{SPINNER[tick % len(SPINNER)]} ", "cyan"


def bar(share: float, cells: int, style: str) -> Text:
    """A bar of fixed length, `share` in 0..1 of it filled."""
    filled = round(max(0.0, min(1.0, share)) * cells)
    return Text.assemble(("━" * filled, style), ("─" * (cells - filled), "dim"))


def run_bar(done: int, total: int, what: str, width: int) -> Text:
    """ "━━━━──── 3/6 done": how much of a run is done, the beginning of the last line of the screen."""
    text = bar(done / total if total else 0, 8 if width < NARROW else 20, "bold green")
    return text.append(f" {done}/{total} {what}", style="bold")


def fitted(text: Text, width: int) -> Text:
    """The same text as one line of at most `width` cells."""
    text.no_wrap = True
    text.truncate(max(width, 1), overflow="ellipsis")
    return text


def with_parts(text: Text, parts: dict[str, str], least: Sequence[str], width: int) -> Text:
    """A line that goes on with all `parts` that there are; where they do not fit, those named in `least` are left out, in this order."""
    for name in least:
        if text.cell_len + sum(len(part) + 3 for part in parts.values() if part) > width:
            parts[name] = ""
    return fitted(text.append("".join(f" · {part}" for part in parts.values() if part)), width)


def indented(drawn: RenderableType, above: int = 0) -> Padding:
    """Two columns to the right, where everything stands that is no dialogue."""
    return Padding(drawn, (above, 0, 0, 2))


def end_rule(finished: RunFinished) -> Rule:
    """The line above the end of a run."""
    return Rule(Text(ending(finished), style=ENDS[finished.status]), align="left", style="dim", characters="─")


def labelled(lines: Iterable[tuple[str, str]]) -> RenderableType:
    """(label, value) lines whose values stand under one another."""
    grid = RichTable.grid(padding=(0, 2, 0, 0))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    for label, value in lines:
        grid.add_row(Text(label), Text(value))
    return indented(grid)


def verdict(low: float | None, high: float | None) -> str:
    """The colour of a win rate whose whole interval lies above one half, or below; "" where it does not."""
    return "bold green" if low is not None and low > 0.5 else "bold red" if high is not None and high < 0.5 else ""
