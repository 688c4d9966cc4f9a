"""What `expertchat build_pairs` shows: a judges' bar while texts are scored and counterparts written, and what came of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.table import Table

from expertchat.text.in_words import line
from expertchat.views import words
from expertchat.views.judging import JudgingView

NUMBERS = (("mean", "mean"), ("least", "least"), ("lower", "25 %"), ("median", "median"), ("upper", "75 %"), ("most", "most"))
ROWS = (("scores", "chosen"), ("scores", "rejected"), ("margins", ""), ("words", "prompt"), ("words", "chosen"), ("words", "rejected"))


class BuildingView(JudgingView):
    """The view of a run that builds pairs."""

    doing = "built"

    def show_end(self, summary: Mapping[str, Any]) -> None:
        card = summary.get("card")
        if isinstance(card, Mapping):
            self.console.print()
            for said in came_to(card):
                self._say(said)
            if card["pairs"]:
                self.console.print()
                self.console.print(numbers_table(card))
            self.console.print()
        super().show_end(summary)


def came_to(card: Mapping[str, Any]) -> Iterator[str]:
    """The counts of a card, a line each."""
    yield f"{words.counted(card['pairs'], 'pair')} of {words.counted(card['texts'], 'text')}"
    for reason, count in card["dropped"].items():
        yield f"  {count:,} not chosen: {line(reason)}"
    tried = card["attempts"]
    if tried["written"]:
        mean = f", {tried['mean']:.2f} a pair" if tried["mean"] else ""
        yield f"{words.counted(tried['written'], 'counterpart')} written, {tried['taken']:,} taken{mean}"
        for reason, count in tried["not_taken"].items():
            yield f"  {count:,} not taken: {line(reason)}"
    size = card["length"]
    if size and size["share_longer"] is not None:
        within = f"{size['share_longer_low']:.1%} to {size['share_longer_high']:.1%}"
        yield f"chosen longer: {size['share_longer']:.1%} ({within}), by {size['difference']:+.1f} words on the mean"
    if leaks := card["leakage"]:
        yield "held out, and in a pair: " + ", ".join(f"{count:,} {line(name)}" for name, count in leaks.items())


def numbers_table(card: Mapping[str, Any]) -> Table:
    """Scores, margins and lengths."""
    table = Table(box=None, padding=(0, 2, 0, 0), collapse_padding=True, header_style="bold")
    table.add_column("")
    for _, title in NUMBERS:
        table.add_column(title, justify="right")
    for name, side in ROWS:
        found = card[name][side] if side else card[name]
        if found:
            table.add_row(f"{name}, {side}" if side else name, *(f"{found[key]:,.2f}" for key, _ in NUMBERS))
    return table
