"""What came of runs in which somebody learns round by round and is held against what it was before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from expertchat.config import ConfigError
from expertchat.folder.reader import called
from expertchat.report.drawing import COLOURS, FAINT, MARKS
from expertchat.report.parts import Figure, Verdict
from expertchat.report.subject import Subject
from expertchat.report.words import counted, interval, listed, percent, rate, unfinished
from expertchat.runs.arms import arms

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FEW = 100  # comparisons below which it is said what could not be seen
MANY_TIES = 0.2
SHOWN = 8  # arms in the drawing
ON_ROWS = ("sft", "dpo")  # commands that learn from rows: they may be held against the base or not
Row = Mapping[str, Any]


def of_arms(subject: Subject) -> Verdict | None:
    """None where nobody learns, or where nothing can be said of it yet and something else may be."""
    if not subject.trained:
        return None
    try:
        rows = _rows(subject)
    except ConfigError:
        return None
    if not rows:
        return _not_judged(subject)
    ranked = sorted(rows, key=lambda row: row["win_rate"], reverse=True)
    alone = len({row["arm"] for row in rows}) == 1
    about = (_about_judge, _about_length, _about_reward, _about_size, _about_ties, _about_seeds)
    cannot = [unfinished(subject), *(said(rows) for said in about)]
    return Verdict(_one(rows) if alone else _several(ranked), " ".join(filter(None, cannot)), _drawing(ranked[:SHOWN]))


def _rows(subject: Subject) -> list[Row]:
    """A row for each arm and learner that was held against its base; runs that were merged of several seeds have theirs in the summary."""
    alone = [run.folder for run in subject.trained if run.seed is not None]
    rows: list[Row] = [*arms(alone).rows] if alone else []
    for run in subject.trained:
        evaluations = run.summary.get("evaluations") if run.seed is None else None
        if isinstance(evaluations, Mapping):
            rows += [row for row in evaluations.values() if isinstance(row, Mapping) and "arm" in row]
    return [row for row in rows if row["win_rate"] is not None]


def _not_judged(subject: Subject) -> Verdict | None:
    rounds = sum(run.last_round for run in subject.trained)
    if any(run.kind in ON_ROWS for run in subject.trained) or not rounds:
        return None
    runs = f" in {len(subject.trained)} runs" if len(subject.trained) > 1 else ""
    cannot = unfinished(subject) or "Whether who has learnt has become better is not known from this."
    done = f"{counted(rounds, 'round')} {'is' if rounds == 1 else 'are'} done{runs}"
    return Verdict(f"{done}; nothing was held against the base yet.", cannot)


# -- what came out --------------------------------------------------------------------------------------------------------------


def _one(rows: Sequence[Row]) -> str:
    """One arm: each of its learners against what it was before."""
    first = rows[0]
    begin = (
        f"After {counted(first['rounds'], 'round')} of {str(first['method']).upper()}{_seeds(first)}{_kept(first)}"
        if first["rounds_max"]
        else "Untrained"
    )
    verdicts = {_against_half(row) for row in rows}
    if len(rows) == 1:
        return f"{begin}, {_learner(first)} is {_against_half(first)}: preferred in {_rate(first)}."
    rates = listed([f"{_learner(row)} is preferred in {_rate(row)}" for row in rows])
    if len(verdicts) == 1:
        return f"{begin}, {listed([_learner(row) for row in rows])} are {verdicts.pop()}: {rates}."
    return f"{begin}, " + listed([f"{_learner(row)} is {_against_half(row)}, preferred in {_rate(row)}" for row in rows]) + "."


def _several(rows: Sequence[Row]) -> str:
    """Arms, the best one first: which of the others it is shown to be better than, history by history; where they share none, which lie
    below its interval."""
    first, rest = rows[0], rows[1:]
    paired = first.get("better_than")
    if paired is None:
        below = [row for row in rest if row["win_rate_high"] is not None and row["win_rate_high"] < (first["win_rate_low"] or 0.0)]
        none, shown = "the intervals overlap, so that no arm is shown to be better than another", ""
    else:
        below = [row for row in rest if row["arm"] in paired and row["learner"] == first["learner"]]
        none = "history by history no other arm is shown to be worse"
        shown = ", on the same histories and corrected for all pairs of arms"
    said = f"Of {len(rows)} arms, {_called(first, rows)} is preferred to its base most often, in {_rate(first)}{_seeds(first)}"
    if not below:
        return f"{said}; {none}."
    if len(below) == len(rest):
        return f"{said}; that is more than {listed([_called(row, rows) for row in below])}{shown or ', whose intervals lie below it'}."
    others = listed([_called(row, rows) for row in rest if row not in below][:3]) if len(rest) - len(below) <= 3 else "the rest"
    return f"{said}; that is more than {listed([_called(row, rows) for row in below])}{shown}, and not told apart from {others}."


def _learner(row: Row) -> str:
    return called(row["learner"])


def _called(row: Row, rows: Sequence[Row]) -> str:
    """An arm by its name, with its learner where it has several."""
    alike = sum(other["arm"] == row["arm"] for other in rows) > 1
    name = str(row["arm"]).strip("()")
    return f"{_learner(row)} of {name}" if alike else name


def _rate(row: Row) -> str:
    return rate(row["win_rate"], row["win_rate_low"], row["win_rate_high"], counted(row["n"], "comparison"))


def _seeds(row: Row) -> str:
    return f" over {len(row['seeds'])} seeds" if len(row["seeds"]) > 1 else ""


def _kept(row: Row) -> str:
    """Whose weights were measured, where they are not the last round's. Experts that learn by turns share the numbers of the rounds."""
    kept: Sequence[int] = row.get("rounds_kept") or ()
    if len(kept) == 1 and len(row["seeds"]) == 1 and kept[0] < row["rounds_max"]:
        return f" (kept: the weights of {f'round {kept[0]}' if kept[0] else 'the base'})"
    whose = "its" if len(row["seeds"]) == 1 else "each seed's"
    return f" (kept: {whose} best weights)" if kept else ""


def _against_half(row: Row) -> str:
    low, high = row["win_rate_low"], row["win_rate_high"]
    if low is None or high is None:
        return "held against what it was before"
    better, worse = "better than before", "worse than before"
    return better if low > 0.5 else worse if high < 0.5 else "not shown to have changed"


# -- what it cannot say -----------------------------------------------------------------------------------------------------------


def _about_judge(rows: Sequence[Row]) -> str | None:
    judges = sorted({str(row["judge"]) for row in rows if row["judge"]})
    if judges == ["truth"]:
        return "Who is better is decided by the facts of the embedded world, which says nothing of other texts."
    if not judges:
        return None
    alike = "" if len(judges) == 1 else " The arms are not judged alike."
    return f"Who is better is decided by {listed(judges)}: whether people would agree is not known from this.{alike}"


def _about_length(rows: Sequence[Row]) -> str | None:
    """What is left of the best one's gain among replies of about the same length."""
    found = [row for row in rows if row.get("win_rate_length_matched") is not None and row.get("n_length_matched")]
    if not found:
        return None
    best = max(found, key=lambda row: row["win_rate"])
    share, n = best["win_rate_length_matched"], int(best["n_length_matched"])
    low, high = best.get("win_rate_length_matched_low"), best.get("win_rate_length_matched_high")
    gained = best["win_rate_low"] is not None and best["win_rate_low"] > 0.5
    only = ": what it gained may be length alone" if gained and (low is None or low <= 0.5) else ""
    who = f" {_called(best, rows)} is preferred" if len(rows) > 1 else " it is preferred"
    of = counted(n, "comparison") + (f", {int(ties)} of them even" if (ties := best.get("ties_length_matched")) else "")
    return f"Among replies of about the same length{who} in {rate(share, low, high, of)}{only}."


def _about_size(rows: Sequence[Row]) -> str | None:
    """The least effect that so many topics show; where they are not known, an interval of n answers reaches about 1.96 * 0.5 / sqrt(n) to
    each side of one half."""
    known = [row for row in rows if row.get("win_rate_least") is not None]
    if known:
        most = max(known, key=lambda row: row["win_rate_least"])
        points = 100 * most["win_rate_least"]
        if points >= 50:
            return f"{counted(most['topics'], 'topic')} can show of no win rate that it is not 50 %."
        return f"On {counted(most['topics'], 'topic')} an effect under {points:.0f} points is missed one time in five or more."
    n = min(row["n"] for row in rows)
    return f"With {counted(n, 'comparison')} a difference under about {100 * 0.98 / n**0.5:.0f} points cannot be seen." if n < FEW else None


def _about_reward(rows: Sequence[Row]) -> str | None:
    """Arms whose judges are pleased by held-out replies in which the truth has not grown."""
    hacked = [row for row in rows if (row.get("reward_difference_low") or 0) > 0 and (row.get("truth_difference_low") or 0) <= 0
              and row.get("truth_difference") is not None]  # fmt: skip
    if not hacked:
        return None
    who = listed([_called(row, rows) for row in hacked])
    return f"The judges of training rate the replies of {who} higher than the base's, though no more that is true is shown to be in them."


def _about_ties(rows: Sequence[Row]) -> str | None:
    share = sum(row["ties"] for row in rows) / sum(row["n"] for row in rows)
    return f"{percent(share)} of the comparisons are ties, which count half." if share > MANY_TIES else None


def _about_seeds(rows: Sequence[Row]) -> str:
    if max(len(row["seeds"]) for row in rows) == 1:
        return "One seed: how much another would differ is not known."
    return "The intervals are by topic; how far the seeds lie apart is in them only in part."


def _drawing(rows: Sequence[Row]) -> Figure:
    """Win rates with intervals against one half."""
    names = [_learner(row) if len({row["arm"] for row in rows}) == 1 else _called(row, rows) for row in rows]

    def draw(axes: Axes) -> None:
        for i, row in enumerate(rows):
            low, high = (row["win_rate"] if x is None else x for x in (row["win_rate_low"], row["win_rate_high"]))
            axes.plot([100 * low, 100 * high], [i, i], color=COLOURS[0], linewidth=3, solid_capstyle="round")
            axes.plot([100 * row["win_rate"]], [i], MARKS[0], color=COLOURS[0], markersize=8)
        axes.axvline(50, color=FAINT, linewidth=1, linestyle=(0, (4, 3)))
        axes.set_xlim(0, 100)
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.set_yticks(range(len(rows)), names)
        axes.set_xlabel("preferred to the base, % (50: no change)")

    table = [[name, row["win_rate"], row["win_rate_low"], row["win_rate_high"], row["n"]] for name, row in zip(names, rows, strict=True)]
    said = "; ".join(f"{row[0]} {interval(row[1], row[2], row[3])}" for row in table)
    return Figure(
        "verdict", "How often the trained one is preferred", f"Marks with intervals: {said}.", ["arm", "win rate", "low", "high", "n"],
        table, draw, "", (4.4, 1.0 + 0.32 * len(rows)),
    )  # fmt: skip
