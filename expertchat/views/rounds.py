"""How a training run looks: its rounds as a table and as curves, what the running round is at, the end.

Colours as in `expertchat.views.looks`; a figure that is better than chance beyond its interval is green, one that is worse is red.
"""

from __future__ import annotations

from typing import NamedTuple

from rich.box import ROUNDED
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table as RichTable
from rich.text import Text

from expertchat.records import Metrics, Speaker
from expertchat.views import figures, looks
from expertchat.views.figures import FACTS, LEARNER, ROUND, WIN, cell, columns
from expertchat.views.model import RunState
from expertchat.views.samples import samples
from expertchat.views.sides import Seats, called, seat_number
from expertchat.views.sparkline import sparkline
from expertchat.views.training import Round, Told, Training
from expertchat.views.words import clock

LEAST = 50  # columns that two curves need beside each other
CURVES = (  # title, figure, form, of evaluations
    ("reward", "reward_mean", "+.2f", False),
    ("win", "win_rate", ".0%", True),
    ("kl", "kl", ".3f", False),
    ("facts", "distinct_policy", ".2f", True),
    ("margin", "margin", ".2f", False),
    ("spread", "spread", ".2f", False),
    ("length", "length", ".1f", False),
    ("loss", "loss", ".3f", False),
    ("ppl", "perplexity", ".3g", True),
)
SHOWN_CURVES = 6
SHORT_NAME = 6  # cells that a long name keeps, where there are so many


# -- the rounds -----------------------------------------------------------------------------------------------------------


def _verdict(row: Round, learner: Speaker | None) -> str:
    return looks.verdict(row.evaluated("win_rate_low", learner), row.evaluated("win_rate_high", learner)) or "bold"


def table(training: Training, width: int, room: int) -> list[Text]:
    """The newest rounds as at most `room` lines that end with the running one; figures stand under their titles whatever they are."""
    gap = 1 if width < looks.NARROW else 2
    chosen = columns(training, width, gap)
    head = Text((" " * gap).join(f"{c.title:>{c.width}}" for c in chosen), style="dim", no_wrap=True)
    lines: list[Text] = []
    for row in reversed(rows := training.shown()):
        lines[:0] = _rows(row, chosen, gap, training.seats)
        if len(lines) >= room:
            break
    now, phase = training.current, training.phase
    if training.running and now is not None and not any(row.number == now.round for row in rows[-2:]):  # nothing is measured of it yet
        lines.append(Text(f"{now.round:>{ROUND.width}}{' ' * gap}{phase.phase if phase else 'begins'}", style="dim", no_wrap=True))
    return [head, *lines[-(room - 1) :]] if room > 1 and lines else []


def _rows(row: Round, chosen: list[figures.Column], gap: int, seats: Seats) -> list[Text]:
    """A round, and a line for each other expert that was evaluated after it."""
    first = row.learner or next(iter(row.evaluations), None)
    texts = []
    for learner in [first, *(who for who in sorted(row.evaluations, key=lambda who: (seat_number(who, seats), who)) if who != first)]:
        text = Text(no_wrap=True)
        for at, column in enumerate(chosen):
            text.append(" " * gap if at else "")
            own = learner == first or column.title in (LEARNER.title, WIN.title, FACTS.title)
            text.append(f"{cell(column, row, learner) if own else '':>{column.width}}", _style(column, row, learner, seats))
        texts.append(text)
    return texts


def _style(column: figures.Column, row: Round, learner: Speaker | None, seats: Seats) -> str:
    if column is WIN:
        return _verdict(row, learner)
    if column.title == LEARNER.title and learner:
        return looks.colour(learner, seats)
    return "dim" if column is ROUND or row.number == 0 else "bold" if column is FACTS else ""


# -- the curves -----------------------------------------------------------------------------------------------------------


def curves(training: Training, width: int, room: int) -> list[Text]:
    """The main figures over the rounds, at most `room` lines.

    Two figures in a line; of several learners each figure for all of them, in as many lines as they need.
    """
    learners = training.learners()
    found: list[list[_Curve]] = []
    for title, name, form, evaluated in CURVES:
        values = {who: training.curve(name, who, evaluated) for who in learners}
        if any(v is not None for curve in values.values() for v in curve):
            found.append([_Curve(title, form, who, values[who]) for who in learners])
    names = figures.name_width(learners) if len(learners) > 1 else 0
    if names:
        rows = 1 if len(learners) == 2 else -(-len(learners) // max(1, (width + 3) // (LEAST // 2 + 3)))
        across = -(-len(learners) // rows)
    else:
        rows, across, shown = 1, 2 if width >= LEAST else 1, [curve for figure in found[:SHOWN_CURVES] for curve in figure]
        found = [shown[at : at + across] for at in range(0, len(shown), across)]
    each, lines = (width - 3 * (across - 1)) // across, []
    for figure in found:
        for at in range(0, len(figure), across):
            lines.append(Text("   ").join(_curve(curve, each, training.seats, names) for curve in figure[at : at + across]))
    return lines[: max(0, room) // rows * rows]


class _Curve(NamedTuple):
    title: str
    form: str
    learner: Speaker
    values: list[float | None]


def _curve(curve: _Curve, width: int, seats: Seats, names: int) -> Text:
    """ "reward   -0.12 ▁▂▄▆█   +0.45": a title, the first value where there is room, the curve, the last value; `width` cells.

    `names`: cells of the learner's name before it; 0 where there is but one.
    """
    known = [value for value in curve.values if value is not None]
    first, last = (figures.shown(value, curve.form, 6) for value in ((known[0], known[-1]) if known else (None, None)))
    text = Text(no_wrap=True)
    name, style = looks.person(curve.learner, seats)
    text.append(f"{name[:names]:<{names}} " if names else "", style)
    text.append(f"{curve.title:<6}", style="dim")
    roomy = width >= 40
    text.append(f" {first:>6}" if roomy else "", style="dim")
    cells = max(1, width - text.cell_len - 8)
    text.append(f" {sparkline(curve.values, cells):<{cells}}", style=looks.colour(curve.learner, seats) if names else "green")
    return text.append(f" {last:>6}", style="bold")


# -- where the run is -----------------------------------------------------------------------------------------------------


def phase_line(state: RunState, width: int, tick: int) -> Text:
    """The running round, and how far it is with what it is at."""
    training = state.training
    assert training is not None
    text, now, phase = Text.assemble(looks.spinner(tick)), training.current, training.phase
    at = _phase(state, 8 if width < looks.NARROW else 20)
    since = f"  {clock(max(0.0, state.time - phase.time))}" if phase is not None and phase.time else ""
    room = width - len(since)
    if now is not None and training.running:
        text.append(f"round {now.round}/{training.total}", style="bold")
        name, style = looks.person(now.learner, training.seats)
        version, learns = f" v{now.policy_version}", " learns  "
        left = room - text.cell_len - 2 - len(version) - at.cell_len  # how far the phase is counts more than a long name
        if left < min(len(name), SHORT_NAME) + len(learns):
            learns = "  "
        shown = looks.fitted(Text(name), left - len(learns)).plain
        text.append(f"  {shown}{version}", style).append(learns, style="dim")
    text.append_text(at)
    _, total, what = training.phase_done(len(state.judged))
    loss = f", loss {training.step.loss:.3f}" if training.step is not None else ""
    for said in (f" {what}" if what else "", loss) if total > 0 else ():
        if text.cell_len + len(said) <= room:
            text.append(said, style="dim")
    return looks.fitted(text.append(since, style="dim"), width)


def _phase(state: RunState, cells: int) -> Text:
    """The phase, and how far it is where that can be known: a bar with a count."""
    training = state.training
    assert training is not None
    if training.phase is None:
        over = "finishing" if training.finished >= training.total else "between two rounds"
        return Text("begins" if training.running else "starting" if training.current is None else over, style="dim")
    text = Text(training.phase.phase, style="bold")
    done, total, _ = training.phase_done(len(state.judged))
    if total <= 0:
        return text
    share = done / total
    if training.phase.phase == "talking" and state.run is not None and state.run.turns:  # dialogues in step with one another end together
        share += sum(len(c.by_index) for c in state.conversations.values()) / (total * state.run.turns)
    return Text.assemble(text, "  ", looks.bar(share, cells, "green"), f" {done}/{total}")


def status_line(state: RunState, width: int) -> Text:
    """The last line of the screen: rounds done, speed, time so far and time left."""
    training = state.training
    assert training is not None
    done, total = min(training.finished, training.total), training.total
    left = training.left()
    parts = {
        "speed": f"{state.tokens_per_second:,.0f} tokens/s" if state.tokens_per_second is not None else "",
        "clock": clock(max(0.0, state.time - state.run.time)) if state.run is not None else "",
        "left": f"about {clock(left)} left" if left else "",
    }
    return looks.with_parts(looks.run_bar(done, total, "rounds", width), parts, ("speed", "clock"), width)


# -- lines that stay, and the end -----------------------------------------------------------------------------------------


def told_line(told: Told, training: Training, width: int) -> Text:
    """What is said once of a round or an evaluation."""
    return round_line(told, training, width) if isinstance(told, Round) else evaluation_line(told, training.seats, width)


def round_line(row: Round, training: Training, width: int) -> Text:
    """A finished round as one line; what does not fit is left out, the least important figure first."""
    head = Text.assemble(("✓ ", "green"), figures.round_label(row, training))
    if row.learner and not training.offline:
        head.append("  ").append(*looks.person(row.learner, training.seats))
    chosen = [c for c in figures.columns_of(training) if row.figures or not c.figure]
    while chosen and head.cell_len + sum(len(c.title) + c.width + 3 for c in chosen) > width:
        chosen.remove(max(chosen, key=lambda c: c.rank))
    for column in chosen:
        head.append(f"  {column.title} ", style="dim").append(f"{cell(column, row, row.learner):>{column.width}}")
    return looks.fitted(head, width)


def evaluation_line(metrics: Metrics, seats: Seats, width: int) -> Text:
    """An evaluation as one line: the win rate, then policy and base; what does not fit is left out."""
    text = Text(f"  {figures.when(metrics)} ", style="dim")
    text.append(*looks.person(metrics.learner, seats, "bold not dim"))
    row = Round(metrics.round, metrics.learner, evaluations={metrics.learner: metrics.figures})
    if (rate := row.evaluated("win_rate", metrics.learner)) is not None:
        interval = figures.span(metrics.figures, "win_rate", figures.percent, "–")
        said = f"{figures.percent(rate)} %" + (f" ({interval})" if interval else "")
        text.append("  win ").append(said, style=f"not dim {_verdict(row, metrics.learner)}")
    for figure in figures.compared(metrics.figures):
        said = figure.policy + (f" (base {figure.base})" if figure.base != figures.NONE else "")
        if text.cell_len + len(figure.label) + len(said) + 3 > width:
            break
        text.append(f"  {figure.label} ").append(said, style="not dim")
    return looks.fitted(text, width)


def closing(state: RunState, width: int) -> RenderableType:
    """The end of a training run: each learner before and after, the curves, the counts, where the adapter lies."""
    assert state.finished is not None and state.training is not None
    parts: list[RenderableType] = [Text(""), looks.end_rule(state.finished), Text("")]
    for learner, last in figures.last_evaluations(state).items():
        parts += [before_and_after(learner, last, state.seats, min(width, looks.WIDEST)), Text("")]
    drawn = curves(state.training, min(width, looks.WIDEST) - 4, 2 * SHOWN_CURVES)
    parts += [looks.indented(Group(*drawn)), Text("")] if drawn else []
    for one in samples(state.finished.summary):
        parts += [looks.labelled(one.lines()), Text("")]
    return Group(*parts, looks.labelled(figures.closing_lines(state)))


def before_and_after(learner: str, last: figures.Figures, seats: Seats, width: int) -> RenderableType:
    """A small panel: the win rate with its interval, and base, policy and change of the other figures."""
    rows: list[RenderableType] = []
    if said := figures.win_words(last, "–"):
        rows.append(Text(said, style="bold"))
    if compared := figures.compared(last, "–"):
        grid = RichTable(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="dim")
        grid.add_column("")
        for title in ("base", "policy"):
            grid.add_column(title, justify="right", no_wrap=True)
        grid.add_column("")
        for figure in compared:
            grid.add_row(Text(figure.label), Text(figure.base), Text(figure.policy, style="bold"), Text(figure.change, style="dim"))
        rows += [Text(""), grid] if rows else [grid]
    style = looks.colour(learner, seats)
    heading = Text(f"{called(learner)} against its base", style=f"bold {style}")
    body = Group(*rows) if rows else Text("no evaluation figures", style="dim")
    panel = Panel(body, title=heading, title_align="left", box=ROUNDED, border_style=style, width=min(width - 2, 72))
    return looks.indented(panel)
