"""What `expertchat reward_model` shows: a bar while a pass lasts (lines where there is no terminal), a line an epoch, and the result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TextIO

from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from expertchat import events
from expertchat.records import Metrics
from expertchat.text.in_words import line
from expertchat.views import words
from expertchat.views.bar import BarView
from expertchat.views.sparkline import sparkline

CURVE = 32  # cells of a curve
# Title, figure, how it is written, and what a faultless or a blind judge has.
ROWS: Sequence[tuple[str, str, str, str]] = (
    ("ordered rightly", "accuracy", "%", "a coin: 50.0 %"), ("against the truth", "truth_accuracy", "%", "a coin: 50.0 %"),
    ("against people", "people_accuracy", "%", "a coin: 50.0 %"),
    ("  in the order as read", "accuracy_as_read", "%", ""), ("  turned round", "accuracy_turned", "%", ""),
    ("rank correlation", "rho", ".2f", ""), ("loss", "loss", ".3f", ""),
    ("calibration error", "calibration", ".3f", "perfect: 0"), ("error in points", "error", ".2f", ""),
    ("prefers the longer", "longer", "%", ""), ("  which is better", "longer_true", "%", ""),
    ("leans to the longer", "longer_bias", "+.3f", "none: 0"), ("prefers the first", "first", "%", "none: 50.0 %"),
    ("orders disagree", "flips", "%", "none: 0"),
)  # fmt: skip


class RewardsView(BarView):
    """The view of a reward model's training."""

    def __init__(self, stream: TextIO | None = None, moves: bool = True) -> None:
        super().__init__(stream, moves)
        self._epochs: dict[int, Metrics] = {}

    def size_of(self, run: events.RunStarted) -> str:
        return words.counted(run.rounds, "epoch")

    def hear(self, event: events.AnyEvent) -> None:
        match event:
            case events.StepFinished() if self._moves:
                self._move(f"epoch {event.round}", event.step, event.steps, f"loss {event.loss:.3f}", remaining=False)
            case events.Measured():
                self.close()
                self._epochs[event.metrics.round] = event.metrics
                self._say(epoch_in_words(event.metrics, self._run.rounds if self._run else 0))

    def show_end(self, summary: Mapping[str, Any]) -> None:
        if isinstance(figures := summary.get("figures"), Mapping):
            self.console.print()
            self.console.print(Panel(result_table(figures), title=Text(result_title(summary)), title_align="left", expand=False))
            self._curves()
            self.console.print()

    def _curves(self) -> None:
        """Accuracy and loss from epoch to epoch, where there are several."""
        told = [self._epochs[number] for number in sorted(self._epochs)]
        right = "type named rightly" if told and "coin" in told[-1].figures else "ordered rightly"
        for title, name, form in ((right, "accuracy", "%"), ("loss", "loss", ".3f")) if len(told) > 2 else ():
            values = [number(one.figures.get(name)) for one in told]
            if values[0] is not None and values[-1] is not None:
                self._say(f"  {title:<18} {written(values[0], form):>7} {sparkline(values, CURVE)} {written(values[-1], form)}")


def number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def written(value: float, form: str) -> str:
    return f"{100 * value:.1f} %" if form == "%" else format(value, form)


def with_interval(figures: Mapping[str, Any], name: str, form: str) -> str:
    """ "81.3 % (77.0–85.1)"."""
    value, low, high = (number(figures.get(key)) for key in (name, f"{name}_low", f"{name}_high"))
    if value is None:
        return "-"
    scale, inner = (100.0, ".1f") if form == "%" else (1.0, form)
    interval = f" ({scale * low:{inner}}–{scale * high:{inner}})" if low is not None and high is not None else ""
    return written(value, form) + interval


def epoch_in_words(one: Metrics, epochs: int) -> str:
    """ "epoch 2/4  training loss 0.512  loss 0.498  ordered rightly 76.2 % (71.0–80.8)"."""
    figures = one.figures
    parts = ["before training" if not one.round else f"epoch {one.round}/{epochs}"]
    for title, name in (("training loss", "train_loss"), ("loss", "loss")):
        if (value := number(figures.get(name))) is not None:
            parts.append(f"{title} {value:.3f}")
    parts.append(f"{'type named' if 'coin' in figures else 'ordered'} rightly {with_interval(figures, 'accuracy', '%')}")
    if number(figures.get("truth_accuracy")) is not None:
        parts.append(f"by truth {with_interval(figures, 'truth_accuracy', '%')}")
    if number(figures.get("choosing_accuracy")) is not None:
        parts.append(f"to choose by {with_interval(figures, 'choosing_accuracy', '%')}")
    if (skipped := number(figures.get("train_skipped"))) is not None and skipped:
        parts.append(f"{skipped:.0f} steps not made")
    return "  ".join(parts)


def result_title(summary: Mapping[str, Any]) -> str:
    return line(f"{summary.get('kind')} from {summary.get('base')}, epoch {summary.get('best')}")


def result_table(figures: Mapping[str, Any]) -> Table:
    """What the result does on what is held out."""
    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    coin = number(figures.get("coin"))
    table.add_row("measured on", f"{figures.get('n')} {'comparisons' if coin is None else 'texts'} of {figures.get('groups')} groups", "")
    rows = ROWS if coin is None else (("type named rightly", "accuracy", "%", f"the commonest: {written(coin, '%')}"), *ROWS[1:])
    for title, name, form, beside in rows:
        if number(figures.get(name)) is not None:
            table.add_row(title, with_interval(figures, name, form), Text(beside, style="dim"))
    return table
