"""Training: what became of the learners against their base, and how every figure went from round to round."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from expertchat.records import Metrics
from expertchat.report.learning import Learning, by_arm, learnings, pooled
from expertchat.report.parts import Cell, Figure, Section, Shown
from expertchat.report.shapes import Axis, Point, Series, cell_of, curves, interval, number, written
from expertchat.report.subject import Subject
from expertchat.text.in_words import line

MOST = 4  # lines of a figure; with more of them the seeds of an arm are drawn as one
SHARE = Axis("share", percent=True, low=0.0)
RATING = Axis("rating, 1 to 10", least=1.0)
ROUND = "round"


@dataclass(frozen=True)
class Measure:
    """One figure of the page: the metrics that it shows of each learner, each with what it is called."""

    name: str
    title: str
    axis: Axis
    lines: Sequence[tuple[str, str]]
    evaluated: bool = False  # a figure of the evaluations, not of the rounds
    note: str = ""


END = "Hollow, beside: at the end, on other histories."
ENDED = "Hollow, beside: at the end."
WILSON = "Bars: 95 % intervals, a tie is half a win."
TOPICS = f"Bars: 95 % intervals, whole topics drawn. {END}"
DIALOGUES = "Bars: 95 % intervals, whole dialogues drawn."
MEASURES = (
    Measure("win_rate", "Replies that win against the base's", Axis("won", True, 0.5, 0.0, 1.0),
            (("all", "win_rate"), ("of about the same length", "win_rate_length_matched")), True, f"{WILSON} {END}"),
    Measure("facts", "Distinct true facts a reply, times the base's", Axis("times the base's", at=1.0), (("", "distinct_ratio"),), True,
            f"Bars: 95 % intervals. {END}"),
    Measure("wrong", "Wrong facts a reply", Axis("facts", low=0.0), (("policy", "wrong_policy"), ("base", "wrong_base")), True, TOPICS),
    Measure("fact_accuracy", "Facts that are right", Axis("share of the facts", True),
            (("policy", "accuracy_policy"), ("base", "accuracy_base")), True, END),
    Measure("truth", "Truth of the held-out replies, policy less base", Axis("new facts, less repeats and wrong ones", at=0.0),
            (("", "truth_difference"),), True, f"Bars: 95 % intervals. {END}"),
    Measure("manners", "Manners of the held-out replies, policy less base", Axis("sentences a reply", at=0.0),
            (("questions", "questions_difference"), ("agreements", "agreements_difference"), ("said before", "again_difference")), True,
            f"Bars: 95 % intervals. {END}"),
    Measure("measured", "What a program measures, against the base", Axis("difference", at=0.0), (("", "measure_difference"),), True,
            f"Bars: 95 % intervals. {END}"),
    Measure("rated", "Ratings of the held-out replies", RATING, (("policy", "rating_policy"), ("base", "rating_base")), True, TOPICS),
    Measure("perplexity", "Perplexity of what is held out", Axis("perplexity", log=True), (("", "perplexity"),), True, END),
    Measure("exact", "Samples that say word by word what the row has", SHARE, (("", "exact"),), True, END),
    Measure("held_out", "Held-out pairs ordered rightly", Axis("pairs", True, 0.5, 0.0, 1.0), (("", "accuracy"),), True, f"{WILSON} {END}"),
    Measure("held_out_margin", "Implicit margin of the held-out pairs", Axis("margin", at=0.0), (("", "heldout_margin"),), True, END),
    Measure("tokens", "Length of the held-out replies", Axis("tokens", low=0.0),
            (("policy", "tokens_policy"), ("base", "tokens_base")), True, TOPICS),
    Measure("reward", "Reward of the candidates", Axis("mean reward", least=0.2), (("", "reward_mean"),), note=DIALOGUES),
    Measure("rating", "Ratings of the candidates", RATING, (("", "rating_mean"),), note=DIALOGUES),
    Measure("wim", "WIM scores of the candidates", Axis("cosine", least=0.1), (("", "wim_mean"),), note=DIALOGUES),
    Measure("margin", "Margin of the pairs", Axis("reward, chosen - rejected", at=0.0), (("", "margin"),), note=DIALOGUES),
    Measure("spread", "Spread of the rewards within a history", Axis("standard deviation", low=0.0), (("", "spread"),)),
    Measure("kl", "Distance from the base", Axis("KL, nats a reply", at=0.0), (("", "kl"),)),
    Measure("entropy", "Entropy of the next token", Axis("nats", low=0.0), (("", "entropy"),)),
    Measure("length", "Length of the replies", Axis("tokens", low=0.0),
            (("candidates", "length"), ("chosen", "length_chosen"), ("rejected", "length_rejected")), note=DIALOGUES),
    Measure("diversity", "Different pairs of words among the candidates", SHARE, (("", "distinct_2"),)),
    Measure("repeats", "Sentences that were said before", SHARE, (("", "repeats"),)),
    Measure("lost", "What is not trained on", SHARE, (("ties", "tie_rate"), ("nulls", "null_rate"), ("cut", "cut_rate"))),
    Measure("loss", "Loss", Axis("loss"), (("", "loss"),)),
    Measure("grad_norm", "Norm of the gradient", Axis("norm", low=0.0), (("", "grad_norm"),)),
    Measure("right", "Pairs or tokens that training gets right", Axis("share", True),
            (("pairs", "accuracy"), ("tokens", "token_accuracy"))),
    Measure("implicit_margin", "Implicit margin in training", Axis("margin", at=0.0), (("", "implicit_margin"),)),
)  # fmt: skip
# What a table says of the last evaluation: title, the policy's figure, the base's, and what stands for the change.
COMPARED: Sequence[tuple[str, str, str | None, str | None]] = (
    ("win rate, %", "win_rate", None, None), ("of about the same length, %", "win_rate_length_matched", None, None),
    ("distinct facts a reply", "distinct_policy", "distinct_base", "distinct_ratio"),
    ("wrong facts a reply", "wrong_policy", "wrong_base", "wrong_difference"),
    ("facts that are right, %", "accuracy_policy", "accuracy_base", "accuracy_difference"),
    ("repeats a reply", "repeats_policy", "repeats_base", "repeats_difference"),
    ("claims that are repeats, %", "repeat_rate_policy", "repeat_rate_base", "repeat_rate_difference"),
    ("new facts, less repeats and wrong ones", "truth_policy", "truth_base", "truth_difference"),
    ("what the judges of training make of it", "reward_policy", "reward_base", "reward_difference"),
    ("sentences said before", "again_policy", "again_base", "again_difference"),
    ("questions a reply", "questions_policy", "questions_base", "questions_difference"),
    ("agreements a reply", "agreements_policy", "agreements_base", "agreements_difference"),
    ("tokens a reply", "tokens_policy", "tokens_base", "tokens_ratio"), ("rating", "rating_policy", "rating_base", None),
    ("measured", "measure_policy", "measure_base", "measure_difference"), ("perplexity", "perplexity", "perplexity_base", None),
    ("perplexity a byte", "perplexity_byte", "perplexity_byte_base", None), ("word by word right, %", "exact", "exact_base", None),
    ("held-out pairs ordered rightly, %", "accuracy", None, None), ("replies", "n", None, None),
)  # fmt: skip
OF_ROWS = "What is held out is of the same kind as what was learnt from: of other texts these figures say nothing. Another seed may differ."
CANNOT = (
    "Intervals are by topic: of other topics than those of the evaluation they hold as far as these are like them, and another seed may "
    "come out elsewhere. Who judges in training may be wrong in ways that training learns to use."
)


def training(subject: Subject) -> Section | None:
    """Curves and the last evaluation of every run in which somebody learns."""
    found = [one for one in learnings(subject) if one.rounds or one.evaluations]
    if not found:
        return None
    figures = [figure for measure in MEASURES for figure in figures_of(measure, found)]
    figures += [figure for figure in (_losses(found),) if figure is not None]
    many = [f"{len(found)} learners; a row for each stands below."]
    cannot = [OF_ROWS] * any(_by_rows(one) for one in found) + [CANNOT] * any(not _by_rows(one) for one in found)
    lead = [*(many if len(found) > MOST else [text for one in found if (text := _said(one))]), *cannot]
    return Section("training", "Training", lead, [*compared(found), *figures])


def _by_rows(one: Learning) -> bool:
    """Whether it learns from rows, and nobody judges in training."""
    return one.run.kind in ("sft", "dpo")


# -- figures ----------------------------------------------------------------------------------------------------------------


def figures_of(measure: Measure, found: Sequence[Learning]) -> Iterator[Figure]:
    """One figure of a single learner, with all its lines; of several one for each metric, with a line each."""
    if len(found) == 1:
        series = [_series(found[0], measure, title, key) for title, key in measure.lines if _has(found[0], measure, key)]
        figure = curves(f"training-{measure.name}", measure.title, ROUND, measure.axis, series, _note(measure, found))
        return iter([figure] if figure is not None else [])
    return _of_several(measure, found)


def _of_several(measure: Measure, found: Sequence[Learning]) -> Iterator[Figure]:
    arms = by_arm(found)
    whole = len(found) > MOST and len(arms) < len(found)
    for title, key in measure.lines:
        if measure.evaluated and key.endswith("_base"):
            continue  # the base is what the others are held against
        if whole:
            several = [[_series(one, measure, "", key) for one in own] for own in arms.values()]
            series = [Series(f"{name} ({len(own)})", pooled(one.points for one in own), pooled(one.apart for one in own))
                      for name, own in zip(arms, several, strict=True)]  # fmt: skip
        else:
            series = [_series(one, measure, one.name, key) for one in found]
        note = "Lines: means over the seeds of an arm; bars: from the lowest to the highest seed." if whole else _note(measure, found)
        name, said = f"training-{measure.name}" + (f"-{key}" if len(measure.lines) > 1 else ""), f": {title}" if title else ""
        figure = curves(name, f"{measure.title}{said}", ROUND, measure.axis, series, note)
        if figure is not None:
            yield figure


def _has(one: Learning, measure: Measure, key: str) -> bool:
    return any(
        metrics.figures.get(key) is not None for metrics in ([*one.evaluations, one.final] if measure.evaluated else one.rounds) if metrics
    )


def _series(one: Learning, measure: Measure, title: str, key: str) -> Series:
    return Series(title, one.evaluated(key), one.at_the_end(key)) if measure.evaluated else Series(title, one.by_round(key))


def _note(measure: Measure, found: Sequence[Learning]) -> str:
    """With how much an evaluation was measured."""
    if not measure.evaluated:
        return measure.note
    on_the_way = [each for one in found for each in one.evaluations if each.round]
    finals = [one.final for one in found if one.final]
    said = []
    for measured, when in ((on_the_way, "on the way"), (finals, "at the end")):
        if counts := sorted(
            {int(n) for each in measured if (n := number(each.figures.get("n", each.figures.get("held_out")))) is not None}
        ):
            said.append(f"n = {' to '.join(f'{n:,}' for n in dict.fromkeys((counts[0], counts[-1])))} {when}")
    points = [point for one in found for _, key in measure.lines for point in (*one.evaluated(key), *one.at_the_end(key))]
    sure = any(point.low is not None for point in points)
    note = measure.note if sure or measure.note != TOPICS else END
    note = note.replace(END, ENDED) if all(_by_rows(one) for one in found) else note
    return " ".join([note, *([f"{', '.join(said)}."] if said else []), *([] if sure else ["No interval is kept of it."])]).strip()


def _losses(found: Sequence[Learning]) -> Figure | None:
    """The loss of every optimizer step, of those that keep it."""
    series = []
    for one in found:
        if one.run.path("steps").is_file():
            kept = {step.id: step for step in one.run.steps()}
            steps = sorted(kept.values(), key=lambda step: (step.round, step.step))
            series.append(Series(one.name, [Point(i + 1, step.loss) for i, step in enumerate(steps)]))
    return curves("training-steps", "Loss of every step", "step", Axis("loss"), series)


# -- words and tables -------------------------------------------------------------------------------------------------------


def _said(one: Learning) -> str:
    """What an evaluation at the end, or the last one on the way, says in a sentence."""
    last, rate = one.last, Axis("", percent=True)
    if last is None:
        return ""
    figures, who = last.figures, f"{line(one.name)}: " if one.name else ""
    parts = []
    for key, count, what in (("win_rate", "n", "replies win against the base's"),
                             ("win_rate_length_matched", "n_length_matched", "of about the same length do")):  # fmt: skip
        if (value := number(figures.get(key))) is not None:
            bounds = interval(number(figures.get(f"{key}_low")), number(figures.get(f"{key}_high")), rate)
            n = number(figures.get(count))
            parts.append(f"{written(value, rate)}{bounds} of {'' if n is None else f'{n:,.0f} '}{what}")
    judge = f", judged by {line(str(figures['judge']))}" if parts and figures.get("judge") else ""
    plain = Axis("")
    if (value := number(figures.get("perplexity"))) is not None:
        before = number(figures.get("perplexity_base"))
        base = f", the base's {written(before, plain)}" if before is not None else ""
        parts.append(f"the perplexity of what is held out is {written(value, plain)}{base}")
    return f"{f'{who}after' if who else 'After'} {_round(last)}: {'; '.join(parts)}{judge}." if parts else ""


def _round(last: Metrics) -> str:
    """After which round an evaluation was made, and whose weights it is of, where an earlier round's were kept."""
    kept = "" if last.weights_of in (None, last.round) else f", with the weights of round {last.weights_of}"
    return f"round {last.round}{kept}"


def compared(found: Sequence[Learning]) -> Iterator[Shown]:
    """A learner's last evaluation as a table: policy, base, and what lies between them; several as a row each."""
    measured = [(one, last) for one in found if (last := one.last) is not None]
    if len(measured) > 1:
        shown = [(title, key) for title, key, _, _ in COMPARED if any(last.figures.get(key) is not None for _, last in measured)]
        rows = {line(one.name): [_cell(title, one, last, key) for title, key in shown] for one, last in measured}
        yield Shown("The last evaluation of each", [title for title, _ in shown], rows, note="Figures of the policies alone.")
        return
    for one in found:
        if (last := one.last) is None:
            continue
        rows = {title: [_cell(title, one, last, key) for key in (policy, base, change)] for title, policy, base, change in COMPARED}
        rows = {title: cells for title, cells in rows.items() if cells[0].value is not None}
        if rows:
            judge = last.figures.get("judge")
            where = ("on what is held out" if _by_rows(one) else "on histories of its own") if last is one.final else "on the way"
            note = f"After {_round(last)}, {where}"
            note += f", judged by {line(str(judge))}." if judge else "."
            yield Shown("The last evaluation", ["policy", "base", "difference or ratio"], rows, note=note)


def _cell(title: str, one: Learning, last: Metrics, key: str | None) -> Cell:
    return cell_of(title, last.figures.get(key), *one.bounds_of(last, key)) if key else Cell(None)
