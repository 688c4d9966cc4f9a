"""Truth against reward: whether an arm says more that is true, or only pleases its judges."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from expertchat.config import ConfigError
from expertchat.folder.reader import called
from expertchat.report.drawing import COLOURS, FAINT, MARKS, drawn
from expertchat.report.parts import Figure, Number
from expertchat.report.shapes import Axis, interval, label_of, name_of, written
from expertchat.text.in_words import line as clean_line

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PLAIN = Axis("")
HELD_OUT, IN_TRAINING = "reward_difference", "reward_gain"
TRUTH = "truth_difference"


class WithInterval(NamedTuple):
    """A figure with its interval, where it has one."""

    value: float
    low: float | None
    high: float | None

    @classmethod
    def of(cls, row: Mapping[str, Any], name: str) -> WithInterval:
        return cls(float(row[name]), row.get(f"{name}_low"), row.get(f"{name}_high"))

    def __str__(self) -> str:
        return written(self.value, PLAIN) + interval(self.low, self.high, PLAIN)


class Point(NamedTuple):
    """An arm."""

    name: str
    reward: WithInterval
    truth: WithInterval


def names_of(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """What the arms are called, each otherwise than the others."""
    several = len({row["learner"] for row in rows}) > 1
    names = [f"{clean_line(row['arm'])}, {called(row['learner'])}" if several else clean_line(row["arm"]) for row in rows]
    return [name if names.count(name) == 1 else f"{name} ({i + 1})" for i, name in enumerate(names)]


def truth_against_reward(rows: Sequence[Mapping[str, Any]], names: Sequence[str], before: str = "arms") -> Figure | None:
    """A point for each arm: how much more reward and how much more truth its replies have than the base's, with intervals where there are
    such; None where fewer than two arms have both."""
    reward = HELD_OUT if any(row.get(HELD_OUT) is not None for row in rows) else IN_TRAINING
    points = [Point(name_of(name), WithInterval.of(row, reward), WithInterval.of(row, TRUTH)) for name, row in zip(names, rows, strict=True)
              if row.get(reward) is not None and row.get(TRUTH) is not None]  # fmt: skip
    if len(points) < 2:
        return None

    def draw(axes: Axes) -> None:
        axes.axhline(0, color=FAINT, linewidth=0.9, zorder=0)
        axes.axvline(0, color=FAINT, linewidth=0.9, zorder=0)
        for i, (name, (x, left, right), (y, low, high)) in enumerate(points):
            look = COLOURS[i % len(COLOURS)]
            if left is not None and right is not None:
                axes.plot([left, right], [y, y], color=look, linewidth=0.9)
            if low is not None and high is not None:
                axes.plot([x, x], [low, high], color=look, linewidth=0.9)
            mark = MARKS[(i + i // len(COLOURS)) % len(MARKS)]
            axes.plot([x], [y], color=look, marker=mark, linestyle="none", markersize=6, label=label_of(name))
        what = "of held-out replies, policy less base" if reward == HELD_OUT else "of the candidates, last rounds less first"
        axes.set_xlabel(f"reward {what}")
        axes.set_ylabel("truth, policy less base")
        axes.grid()
        axes.figure.legend(loc="outside right upper")

    lines: list[Sequence[Number]] = [[point.name, *point.reward, *point.truth] for point in points]
    said = "; ".join(f"{point.name}: reward {point.reward}, truth {point.truth}" for point in points)
    note = (
        "Truth: new facts a reply, less repeats and what is wrong. Where the reward rises and the truth does not, the judges are pleased "
        "and nothing is gained. Lines: 95 % intervals, topics drawn."
    )
    columns = ("arm", "reward", "reward_low", "reward_high", "truth", "truth_low", "truth_high")
    return Figure(f"{before}-truth_reward", "Truth against reward", f"{said}.", columns, lines, draw, note, (7.2, 3.4))


def as_svg(rows: Sequence[Mapping[str, Any]]) -> str:
    """The figure as a file. Raises ConfigError where there is nothing to draw, or nothing to draw with."""
    figure = truth_against_reward(rows, names_of(rows))
    if figure is None:
        raise ConfigError("--out: truth against reward is of two arms and more whose truth is known; name a .md, .csv or .json")
    return drawn(figure).decode("utf-8")
