"""What `expertchat pick` shows: a bar while rows are judged, and at the end what was picked in each order and what of it is the place."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.table import Table
from rich.text import Text

from expertchat import events
from expertchat.text.in_words import line
from expertchat.views.bar import BarView


class PickingView(BarView):
    """The view of a run that picks one of several texts."""

    doing = "rows"

    def size_of(self, run: events.RunStarted) -> str:
        return f"{run.conversations:,} rows, each in {run.candidates:,} orders"

    def show_end(self, summary: Mapping[str, Any]) -> None:
        if not summary.get("orders"):
            return
        names = summary["texts"]
        table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold", title="picked, by the order shown", title_justify="left")
        table.add_column("as shown")
        for name in (*names, "none", "p of so uneven"):
            table.add_column(Text(line(name)), justify="right")
        for row in summary["orders"]:
            p = "" if row["uneven"] is None else f"{row['uneven']:.3f}"
            table.add_row(Text(line(row["order"])), *(f"{n:,}" for n in (*row["picked"].values(), row["none"])), p)
        self.console.print()
        self.console.print(table)
        even = f"by chance {100 * summary['even']:.1f} %"
        for said in (
            *(f"{line(name)}: {_percent(summary['systems'][name])} of all picks" for name in names),
            f"what stood first: {_percent(summary['first'])} ({even})",
            f"the same in all orders: {_percent(summary['consistent'])} of the rows; of two orders {_percent(summary['agree'])}",
            *_odds(summary.get("odds")),
        ):
            self._say(said, "dim")
        if summary["equal"]:
            self._say(f"in {summary['equal']:,} rows two texts are equal", "dim")
        self.console.print()


def _odds(odds: Mapping[str, Any] | None) -> Iterator[str]:
    """What is picked by what it is, and by its place, each with the other held equal."""
    for key, said in (("systems", "odds, the places held equal"), ("places", "odds of the places, the texts held equal")):
        if odds is not None:
            yield f"{said}: " + ", ".join(
                f"{line(name)} {one['value']:.2f} ({one['low']:.2f} to {one['high']:.2f})" for name, one in odds[key].items()
            )


def _percent(figure: Mapping[str, Any]) -> str:
    if figure["value"] is None:
        return "–"
    bounds = "" if figure["low"] is None else f" ({100 * figure['low']:.1f} to {100 * figure['high']:.1f})"
    return f"{100 * figure['value']:.1f} %{bounds}"
