"""The figures of training rounds in words: columns of a table, lines of a log, what changed against the base. No colours here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from expertchat.records import Metrics, Speaker
from expertchat.text.in_words import line
from expertchat.text.sentences import clean
from expertchat.views.model import RunState
from expertchat.views.samples import loss_line
from expertchat.views.sides import called
from expertchat.views.training import FAULT, PHASES, Round, Told, Training, is_final, number
from expertchat.views.words import clock, counted, fault_words, look_again

NONE = "-"  # no figure: never a 0
LOSSES = 40  # cells of the curve of the losses of all steps
Figures = Mapping[str, object]


def shown(value: float | None, form: str, width: int) -> str:
    """A number in `form`, or in fewer digits where that does not fit into `width` cells.

    >>> shown(0.4131, "+.2f", 6), shown(123456.789, ".2f", 6), shown(-0.001, "+.2f", 6), shown(-0.012, ".3f", 5), shown(None, ".2f", 6)
    ('+0.41', '123457', '+0.00', '0.0', '-')
    """
    if value is None:
        return NONE
    if value < 0 and not float(format(value, form).rstrip("%").replace(",", "")):
        value = 0.0  # no "-0.00"
    texts = [format(value, shorter) for shorter in (form, ".1f", ".0f", ".1e", ".0e")]
    text = next((text for text in texts if len(text) <= width), texts[-1])
    return text if float(text.rstrip("%").replace(",", "")) else text.removeprefix("-")  # nor a "-0.0", where digits were left out


def percent(value: float | None, digits: int = 0) -> str:
    return NONE if value is None else f"{100 * value:.{digits}f}"


def span(figures: Figures, name: str, form: Callable[[float], str], dash: str = "-") -> str:
    """The interval of a figure, "66-76", or "" where there is none."""
    low, high = number(figures.get(f"{name}_low")), number(figures.get(f"{name}_high"))
    return "" if low is None or high is None else f"{form(low)}{dash}{form(high)}"


# -- columns of the table of rounds -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Column:
    """One column: `rank` says how early a narrow screen leaves it out (the highest goes first). A figure is None where it is no round's."""

    title: str
    width: int
    rank: int
    form: str = ""
    figure: str = ""


# Figures of what is not trained on, named where there is any.
LOST = (("nulls", "null"), ("equal", "equal pair"), ("stale", "stale pair"), ("lone", "lone group"))
ROUND = Column("round", 5, 0)
LEARNER = Column("by", 2, 0)
LONGEST = 8  # characters of a name in a column
COLUMNS = (
    Column("pairs", 5, 8, ",.0f", "pairs"),
    Column("ties", 4, 10, ",.0f", "ties"),
    Column("reward", 6, 1, "+.2f", "reward_mean"),
    Column("margin", 6, 4, ".2f", "margin"),
    Column("kl", 5, 2, ".3f", "kl"),
    Column("length", 6, 3, ".1f", "length"),
    Column("cut", 4, 11, ".0%", "cut_rate"),
    Column("loss", 5, 9, ".3f", "loss"),
    Column("time", 5, 7),
)
OFFLINE = (  # of one model that learns from rows
    Column("rows", 6, 8, ",.0f", "rows"),
    Column("loss", 6, 1, ".3f", "loss"),
    Column("right", 5, 4, ".0%", "token_accuracy"),
    Column("right", 5, 4, ".0%", "accuracy"),
    Column("margin", 6, 5, ".2f", "implicit_margin"),
    Column("kl", 5, 6, ".3f", "kl"),
    Column("time", 5, 7),
)
OF_GROUPS = {  # in the place of those of pairs, where a method trains on histories with all their replies
    "pairs": Column("groups", 6, 8, ",.0f", "groups"),
    "ties": Column("flat", 4, 10, ",.0f", "flat"),
    "margin": Column("spread", 6, 4, ".2f", "spread"),
}
WIN = Column("win %", 10, 5)
PERPLEXITY = Column("perplexity", 10, 2)
FACTS = Column("facts/base", 10, 6)


def name_width(names: Sequence[str]) -> int:
    """The width of a column of names."""
    return min(LONGEST, max((len(called(name)) for name in names), default=0))


def columns(training: Training, width: int, gap: int) -> list[Column]:
    """The columns that fit into `width`, the round's number first. Those of evaluations only where there are such figures."""
    learners = training.learners()
    by = replace(LEARNER, width=max(LEARNER.width, name_width(learners)))
    chosen = [ROUND, *([by] if len(learners) > 1 else []), *columns_of(training)]
    chosen += [PERPLEXITY] if training.has("perplexity") else []
    chosen += [WIN] if training.has("win_rate") else []
    chosen += [FACTS] if training.has("distinct_policy") else []
    while len(chosen) > 1 and sum(c.width + gap for c in chosen) - gap > width:
        chosen.remove(max(chosen, key=lambda c: c.rank))
    return chosen


def columns_of(training: Training) -> tuple[Column, ...]:
    """The columns of a round's own figures: of pairs, of groups, or of a model that learns from rows those that any round has."""
    if not training.offline:
        grouped = any("groups" in row.figures for row in training.rounds.values())
        return tuple(OF_GROUPS.get(column.title, column) if grouped else column for column in COLUMNS)
    return tuple(c for c in OFFLINE if not c.figure or any(c.figure in row.figures for row in training.rounds.values()))


def cell(column: Column, row: Round, learner: Speaker | None) -> str:
    """What a column says of a round; the columns of evaluations, of `learner` after it."""
    if column is WIN:
        return _win(row.evaluations.get(learner, {}) if learner else {})
    if column is FACTS:
        policy, base = row.evaluated("distinct_policy", learner), row.evaluated("distinct_base", learner)
        return "" if policy is None and base is None else f"{shown(policy, '.2f', 4)}/{shown(base, '.2f', 4)}"
    if column is PERPLEXITY:
        known = row.evaluated("perplexity", learner)
        return "" if known is None else shown(known, ".3f" if known < 100 else ",.0f", PERPLEXITY.width)
    if column is ROUND:
        return str(row.number) if row.number else "base"
    if column.title == LEARNER.title:
        return called(learner)[: column.width] if learner else ""
    if not row.number:
        return ""
    if column.title == "time":
        return clock(round(row.seconds)) if row.seconds else NONE
    return shown(row.figures.get(column.figure), column.form, column.width)


def _win(figures: Figures) -> str:
    """ "71 (66-76)", "" where there was no evaluation."""
    if not figures:
        return ""
    rate, interval = number(figures.get("win_rate")), span(figures, "win_rate", percent)
    return percent(rate) + (f" {interval}" if interval else "")


# -- lines of a log -------------------------------------------------------------------------------------------------------


def round_label(row: Round, training: Training) -> str:
    """ "round  3/24", as wide in every round."""
    total = str(training.total or row.number)
    return f"round {row.number:>{len(total)}}/{total}"


def round_words(row: Round, training: Training) -> str:
    """A finished round as one line whose figures stand under those of the line before."""
    by = f"  {called(row.learner)}" if row.learner and not training.offline else ""
    parts = [f"{c.title} {cell(c, row, row.learner):>{c.width}}" for c in columns_of(training)]
    lost = [counted(int(row.figures[name]), word) for name, word in LOST if row.figures.get(name)]
    phases = [f"{phase} {clock(round(row.phases[phase]))}" for phase in PHASES if row.phases.get(phase, 0) >= 1]
    return "  ".join([round_label(row, training) + by, *parts, *lost, *([f"({', '.join(phases)})"] if phases else [])])


def told_words(told: Told, training: Training) -> str:
    """What is said once of a round or an evaluation."""
    return round_words(told, training) if isinstance(told, Round) else evaluation_words(told)


def where_words(state: RunState) -> str:
    """What the running round is at: "round 3 of 24: talking, 7 of 16 dialogues"."""
    training = state.training
    if training is None or training.phase is None:
        return ""
    at = f"round {training.current.round} of {training.total}: " if training.running and training.current is not None else ""
    done, total, what = training.phase_done(len(state.judged))
    return f"{at}{training.phase.phase}" + (f", {done} of {total} {what}".rstrip() if total else "")


def when(metrics: Metrics) -> str:
    if is_final(metrics) and metrics.weights_of not in (None, metrics.round):
        return f"at the end, weights of round {metrics.weights_of}"
    return "at the end" if is_final(metrics) else f"after round {metrics.round}" if metrics.round else "of the base"


def evaluation_words(metrics: Metrics) -> str:
    """An evaluation as one line."""
    figures = metrics.figures
    changes = (
        f"{c.label} {c.policy}" + (f" against {c.base}" if c.base != NONE else "") + (f", {c.change}" if c.change else "")
        for c in compared(figures)
    )
    said = [text for text in (win_words(figures), right_words(figures), *changes) if text]
    return f"evaluation {when(metrics)}, {called(metrics.learner)}: {'; '.join(said) or 'no figures'}"


def win_words(figures: Figures, dash: str = "-") -> str:
    """ "win rate 71.2 % (61.1-79.6) of 400 on 20 topics, judged by truth", "" where there is none."""
    rate = number(figures.get("win_rate"))
    if rate is None:
        return ""
    interval, n, judge = span(figures, "win_rate", lambda v: percent(v, 1), dash), number(figures.get("n")), figures.get("judge")
    said = f"win rate {percent(rate, 1)} %" + (f" ({interval})" if interval else "") + (f" of {n:,.0f}" if n is not None else "")
    topics = number(figures.get("topics"))
    said += f" on {counted(int(topics), 'topic')}" if topics is not None and n != topics else ""
    return said + (f", judged by {line(str(judge))}" if judge else "")


def right_words(figures: Figures) -> str:
    """ "held-out rows right 83.3 % (55.2-95.3) of 12" of an evaluation on rows with preferences, "" of any other."""
    rate, count = number(figures.get("accuracy")), number(figures.get("rows"))
    if rate is None or count is None or "heldout_margin" not in figures:
        return ""
    interval = span(figures, "accuracy", lambda v: percent(v, 1), "-")
    return f"held-out rows right {percent(rate, 1)} %" + (f" ({interval})" if interval else "") + f" of {count:,.0f}"


OWN = ("perplexity", "perplexity_byte", "exact")  # figures of the policy that are called by their own names


MANNERS = ("questions", "agreements")  # they are shown where they have changed by more than chance


def _moved(figures: Figures, name: str) -> bool:
    low, high = number(figures.get(f"{name}_difference_low")), number(figures.get(f"{name}_difference_high"))
    return low is not None and high is not None and (low > 0 or high < 0)


class Compared(NamedTuple):
    """A figure of the base and of the policy, and what lies between them."""

    label: str
    base: str
    policy: str
    change: str


def compared(figures: Figures, dash: str = "-") -> list[Compared]:
    """What the policy does against its base, as far as there are figures."""
    rows = []
    for label, name, form in (
        ("distinct facts", "distinct", ".2f"),
        ("repeats", "repeats", ".2f"),
        ("fact accuracy", "accuracy", ".3f"),
        ("wrong facts", "wrong", ".2f"),
        ("tokens", "tokens", ".1f"),
        ("judges' reward", "reward", ".2f"),
        ("questions", "questions", ".2f"),
        ("agreements", "agreements", ".2f"),
        ("measured", "measure", ".2f"),
        ("perplexity", "perplexity", ".3f"),
        ("a byte", "perplexity_byte", ".3f"),
        ("word by word", "exact", ".2f"),
    ):
        policy, base = number(figures.get(name if name in OWN else f"{name}_policy")), number(figures.get(f"{name}_base"))
        if (policy is None and base is None) or (name in MANNERS and not _moved(figures, name)):
            continue
        change = "" if policy is None or base is None else shown(policy - base, f"+{form}", 12)
        if name in ("perplexity", "perplexity_byte") and policy is not None and base:
            change = f"x{policy / base:.3g}"
        if name in ("measure", "reward", *MANNERS) and (interval := span(figures, f"{name}_difference", lambda v: f"{v:+.2f}", " to ")):
            change += f" ({interval})"
        if name == "distinct" and (ratio := number(figures.get("distinct_ratio"))) is not None:
            interval = span(figures, "distinct_ratio", lambda v: f"{v:.2f}", dash)
            change = f"x{ratio:.2f}" + (f" ({interval})" if interval else "")
        rows.append(Compared(label, shown(base, form, 12), shown(policy, form, 12), change))
    return rows


# -- the end of a run -----------------------------------------------------------------------------------------------------


def last_evaluations(state: RunState) -> dict[str, Figures]:
    """The last evaluation of each learner; what the summary holds goes before what this view has seen."""
    training = state.training
    learners = training.learners() if training else []
    seen: dict[str, Figures] = {who: figures for who in learners if training and (figures := training.last_evaluation(who))}
    summary = state.finished.summary if state.finished else {}
    said = summary.get("evaluations")
    if isinstance(said, Mapping) and any(isinstance(figures, Mapping) for figures in said.values()):
        return {str(who): figures for who, figures in said.items() if isinstance(figures, Mapping)}
    said = summary.get("evaluation")
    if isinstance(said, Mapping) and len(seen) <= 1:
        return {next(iter(seen), None) or str(summary.get("learner") or "a"): said}
    return seen


def before_and_after(learner: str, figures: Figures) -> list[str]:
    """The last evaluation of a learner as lines whose columns stand under one another."""
    rows = [("", "base", "policy", ""), *compared(figures)]
    said = "; ".join(text for text in (win_words(figures), right_words(figures)) if text)
    said = said or ("" if number(figures.get("perplexity")) is not None else "no win rate")
    lines = [f"{called(learner)} against its base" + (f": {said}" if said else "")]
    if len(rows) == 1:
        return lines
    widths = [max(len(row[at]) for row in rows) for at in range(3)]
    return lines + [f"{a:<{widths[0]}}  {b:>{widths[1]}}  {c:>{widths[2]}}  {d}".rstrip() for a, b, c, d in rows]


def closing_lines(state: RunState) -> list[tuple[str, str]]:
    """The end of a training run as (label, value) lines."""
    assert state.training is not None
    summary = state.finished.summary if state.finished else {}
    total, done = state.training.total, number(summary.get("rounds"))
    done = state.training.finished if done is None else done
    seconds = number(summary.get("seconds"))
    seconds = sum(r.seconds or 0.0 for r in state.training.rounds.values()) if seconds is None else seconds
    rows = "groups" if "groups" in summary or any("groups" in r.figures for r in state.training.rounds.values()) else "pairs"
    made = number(summary.get(rows))
    made = sum(r.figures.get(rows, 0) for r in state.training.rounds.values()) if made is None else made
    took = f" in {clock(round(seconds))}" if seconds else ""
    lines = [("rounds", f"{done:,.0f} of {max(total, done):,.0f}{took}"), *([] if state.training.offline else [(rows, f"{made:,.0f}")])]
    given = summary.get("rows")
    if isinstance(given, Mapping):
        lines.append(("rows", f"{number(given.get('train')) or 0:,.0f} to train on, {number(given.get('evaluation')) or 0:,.0f} held out"))
    lines += [found] if (found := loss_line(summary, LOSSES)) else []
    if kinds := fault_words(_faults(state.training)):
        lines.append(("no answer", kinds))
    if stopped := summary.get("stopped_by"):
        lines.append(("stopped by", line(str(stopped))))
    if best := _best(summary.get("best")):
        lines.append(("best", best))
    if adapter := summary.get("adapter"):
        lines.append(("adapter", clean(str(adapter))))
    return lines + look_again(state)


def _faults(training: Training) -> dict[str, dict[str, int]]:
    """The kinds of nulls of all rounds, the most frequent first."""
    counts = {"rating": Counter[str](), "wim": Counter[str]()}
    for row in training.rounds.values():
        for name, count in row.figures.items():
            what, _, kind = name.removeprefix(FAULT).partition("_")
            if name.startswith(FAULT) and what in counts:
                counts[what][kind] += int(count)
    return {what: dict(kinds.most_common()) for what, kinds in counts.items()}


def _best(best: object) -> str:
    """ "round 20", or of several learners "A round 20, B round 18"; "" where nothing is known."""
    if not isinstance(best, Mapping):
        return ""
    if (at := number(best.get("round"))) is not None:
        return f"round {at:.0f}" if at else "the base: no round was better"
    said = {str(who): _best(own) for who, own in best.items() if isinstance(own, Mapping)}
    return ", ".join(text if len(said) == 1 else f"{called(who)} {text}" for who, text in said.items() if text)
