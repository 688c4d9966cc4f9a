"""What came of runs that talk, judge, choose, pick, build, write, or learn from rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy

from expertchat.evaluation.statistics import FEW, mean_by_cluster
from expertchat.folder.reader import RunReader
from expertchat.report.drawing import COLOURS, MARKS
from expertchat.report.parts import Figure, Verdict
from expertchat.report.shapes import Axis, number, written
from expertchat.report.subject import Subject
from expertchat.report.talk import map_at
from expertchat.report.told import RATING, Values
from expertchat.report.verdict_arms import ON_ROWS
from expertchat.report.words import counted, interval, listed, rate, unfinished
from expertchat.reward_models.config import TYPES
from expertchat.text.card_in_words import FLAGGED, THE_TRUTH, finding, names
from expertchat.text.in_words import line

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Dialogue = tuple[str, str]  # its run and its id
DOTS = 400  # dialogues that are drawn as dots
JUDGES = 5  # of a judges' run that are told
THAN = {"first": "the first reply", "base": "the base's reply", "rule": "the rule's text"}
CHOOSER = "chooser"  # who chose, of the judges of best_of_n
AGAINST = {"truth": "the truth", "label": "the labels", "people": "people"}


def of_rows(subject: Subject) -> Verdict | None:
    """sft, dpo and reward_model: what the held-out rows say, else how the loss went."""
    runs = [run for run in subject.runs if run.kind in ON_ROWS or run.makes_judge]
    if not runs:
        return None
    run = runs[-1]
    many = f" (the last of {len(runs)} such runs)" if len(runs) > 1 else ""
    cannot = unfinished(subject) or "They were held out by group from the same source: on texts of another kind it may do worse."
    if run.failure is not None:
        return Verdict(f"{run.kind} has not done what it is for: {run.failure}.", cannot)
    figures = map_at(run.summary, "figures" if run.makes_judge else "evaluation")
    if isinstance(accuracy := figures.get("accuracy"), float):
        n = figures.get("n" if run.makes_judge else "rows")
        typed = run.makes_judge and run.config.get("kind") == TYPES
        said = rate(accuracy, figures.get("accuracy_low"), figures.get("accuracy_high"), f"{n} held-out {'texts' if typed else 'pairs'}")
        what = "The reward model ranks the better text higher" if run.makes_judge else "The trained model finds the chosen reply likelier"
        what = "The classifier names the type rightly" if typed else what
        return Verdict(f"{what} in {said}{many}.", cannot)
    known = map_at(run.summary, "rows").get("train", run.summary.get("rows"))
    rows = counted(known, "row") if isinstance(known, int) else "rows"
    before, after = number(figures.get("perplexity_base")), number(figures.get("perplexity"))
    if before is not None and after is not None:
        held = counted(int(figures.get("held_out") or 0), "held-out row")
        said = f"{run.kind} on {rows}: the perplexity of {held} went from {written(before, Axis(''))} to {written(after, Axis(''))}"
        return Verdict(f"{said}{many}.", f"It says how likely those rows are now, not whether what the model writes is better. {cannot}")
    losses = [one.figures.get("loss_evaluation", one.figures.get("loss")) for one in run.metrics()]
    known_losses = [loss for loss in losses if isinstance(loss, float)]
    if not known_losses:
        return None
    went = f"went from {known_losses[0]:.3g} to {known_losses[-1]:.3g}" if len(known_losses) > 1 else f"was {known_losses[0]:.3g}"
    said = f"{run.kind} on {rows}: the loss {went} in {counted(len(known_losses), 'round')}"
    return Verdict(f"{said}{many}.", "A loss says how likely the rows are now, not whether what the model writes is better.")


def of_other_kinds(subject: Subject) -> Verdict | None:
    """Runs that choose, pick, build, judge or write; the last one of the first kind that there is."""
    kinds: dict[str, tuple[Callable[[RunReader], str | None], str]] = {
        "best_of_n": (_chosen, "Who chooses likes its own choice: the judges that did not choose are those that count."),
        "pick": (_picked, "Who goes by the place says nothing of the texts: what stood first tells how much of it that is."),
        "build_pairs": (_built, "That a judge scores them apart does not make the chosen ones good."),
        "judge": (
            lambda run: said_of_card(subject.cards.get(line(subject.name(run)))) or _judged(run),
            "How right a judge is stands in its card, as far as a truth, a label or a person is there to hold it against.",
        ),
        "posts": (_posted, "That they are unlike each other does not make them good."),
    }
    for kind, (say, cannot) in kinds.items():
        for run in reversed(subject.runs):
            if run.kind == kind and (said := say(run)) is not None:
                return Verdict(said, unfinished(subject) or cannot)
    return None


def _chosen(run: RunReader) -> str | None:
    """By each judge, who chose last, how often the best of all n is better than the base, or than what it was held against first."""
    curve = run.summary.get("curve")
    last: Mapping[str, Any] = curve[-1] if isinstance(curve, list) and curve else {}
    parts, kinds = list[str](), map_at(run.summary, "judges")
    for judge, one in sorted(map_at(last, "judges").items(), key=lambda found: found[0] == CHOOSER):
        against = map_at(one, "against")
        name = "base" if "base" in against else next(iter(against), None)
        if name is not None and (found := against[name]).get("value") is not None:
            said = rate(found["value"], found.get("low"), found.get("high"), f"{found.get('n')} prompts")
            better = "" if parts else f"the choice is better than {THAN.get(name, name)} "
            parts.append(f"by {_who_judges(judge, map_at(kinds, judge))} {better}in {said}")
    return f"Best of {last.get('n')}: {'; '.join(map(line, parts))}." if parts else None


def _who_judges(judge: str, kind: Mapping[str, Any]) -> str:
    """A judge of a choice by its name, and what stands behind that."""
    what = kind.get("form") if kind.get("kind") == "rule" else kind.get("model") or kind.get("kind")
    return f"{judge} ({what})" if what and str(what) != judge else judge


def _built(run: RunReader) -> str | None:
    card = map_at(run.summary, "card")
    if not card:
        return None
    length, said = map_at(card, "length"), f"{_counted(card, 'pairs')} of {_counted(card, 'texts')}"
    if isinstance(share := length.get("share_longer"), float):
        said += (
            f"; the chosen text is the longer one in {rate(share, length.get('share_longer_low'), length.get('share_longer_high'), 'them')}"
        )
    return f"{said}."


def _counted(card: Mapping[str, Any], what: str) -> str:
    return counted(card[what], what.removesuffix("s")) if isinstance(card.get(what), int) else f"- {what}"


def _picked(run: RunReader) -> str | None:
    """Which text is picked most often, and how often what stood first."""
    systems = {text: one for text, one in map_at(run.summary, "systems").items() if one.get("value") is not None}
    if not systems:
        return None
    text = max(systems, key=lambda name: float(systems[name]["value"]))
    best, first = systems[text], map_at(run.summary, "first")
    share = rate(best["value"], best["low"], best["high"], f"{best['n']:,} picks")
    even = run.summary.get("even") or 1 / len(systems)
    apart = best["low"] is not None and best["low"] > even
    what = f"{text} most often, in {share}" if apart else f"none of {len(systems)} texts more often than by chance ({text} in {share})"
    said = f"{run.summary.get('judge')} picks {what}"
    if first.get("value") is not None:
        said += f", and what stood first in {interval(first['value'], first.get('low'), first.get('high'))}"
    return line(f"{said}.")


def _posted(run: RunReader) -> str | None:
    summary = run.summary
    if not summary.get("wanted"):
        return None
    near = f"; the two nearest are {summary['nearest']:.2f} alike" if isinstance(summary.get("nearest"), float) else ""
    of = f"on {summary.get('topics')} topics, of {summary.get('written')} texts"
    return f"{summary.get('posts')} of {summary['wanted']} posts, {of}{near}."


def said_of_card(card: Mapping[str, Any] | None) -> str | None:
    """Who is right most often, where something is there to hold judges against, and what is wrong with whom."""
    judges = [row for row in card["judges"] if row["judge"] != THE_TRUTH] if card is not None else []
    if card is None or not judges:
        return None
    said = f"{counted(len(judges), 'judge')} on {counted(card['items'], 'item')}"
    called = list(zip(names(judges), (row["figures"] for row in judges), strict=True))
    right = [(one["agreement"], who) for who, one in called if one["agreement"]["value"] is not None]
    if right and card["against"]:
        best, who = max(right, key=lambda one: float(one[0]["value"]))
        better = sum(one["flag"] == "above" for one, _ in right)
        share = rate(best["value"], best["low"], best["high"], f"{best['n']:,} pairs")
        said += f": {who} agrees with {AGAINST[card['against']]} most often, in {share}; {better} of {len(right)} better than chance"
    wrong = [f"{who}, {finding(key, one[key]).partition(': ')[2]}" for who, one in called for key in FLAGGED if one[key]["flag"] == "bias"]
    flags = {one[key]["flag"] for _, one in called for key in FLAGGED}
    none = "None shows a bias." if "none" in flags else "That is too little to show whether one has a bias."
    return f"{said}. " + (f"A bias shows: {'; '.join(wrong)}." if wrong else none)


def _judged(run: RunReader) -> str | None:
    judges = map_at(run.summary, "judges")
    parts = []
    for name, one in list(judges.items())[:JUDGES]:
        mean = f", mean {one['mean']:.2f}" if isinstance(one.get("mean"), float) else ""
        parts.append(f"{name} gives {one.get('answered')} answers to {one.get('opinions')} questions{mean}")
    more = f"; {len(judges) - JUDGES} more stand below" if len(judges) > JUDGES else ""
    return f"{counted(len(judges), 'judge')} on {run.summary.get('items')} items: {'; '.join(parts)}{more}." if parts else None


# -- dialogues ------------------------------------------------------------------------------------------------------------------


def of_talk(subject: Subject) -> Verdict | None:
    """Who is rated how high, and whether that differs: the difference is taken dialogue by dialogue, its interval draws topics."""
    topics: dict[Dialogue, str] = {}
    told: dict[Dialogue, dict[str, dict[str, list[float]]]] = {}
    models: dict[str, dict[str, None]] = {}  # by seat, in the order of the dialogues
    asked = lacking = 0
    for run in subject.runs:
        name = str(run.folder)
        for one in run.lines("transcripts") if not run.chooses else ():
            topics[name, str(one.get("id"))] = str(one.get("topic"))
            for seat, ref in map_at(one, "experts").items():
                models.setdefault(seat, {})[str(ref.get("model") if isinstance(ref, Mapping) else None)] = None
        for rating in run.lines("ratings"):
            number = rating.get("expected") if rating.get("expected") is not None else rating.get("value")
            asked, lacking = asked + 1, lacking + (number is None)
            if number is not None and rating.get("turn") is None and rating.get("candidate") is None:
                by_category = told.setdefault((name, str(rating.get("transcript"))), {}).setdefault(str(rating.get("subject")), {})
                by_category.setdefault(str(rating.get("category")), []).append(float(number))
    if not topics:
        return None
    cannot = [
        unfinished(subject),
        "Ratings are what models think of each other: how right they are is for a person or the judges' card to say.",
    ]
    if lacking:
        cannot.append(f"{lacking:,} of {asked:,} ratings could not be read and count nowhere.")
    several = [f"{seat} is {listed(list(own))}" for seat, own in models.items() if len(own) > 1]
    if several:
        cannot.append(f"Not all dialogues have the same models ({line('; '.join(several))}): a rating is that of all who sat there.")
    given = {key: numbers for key, by_subject in told.items() if (numbers := _in_common(by_subject))}
    return Verdict(_rated(topics, given), " ".join(filter(None, cannot)), _drawing(topics, given))


Given = Mapping[Dialogue, Mapping[str, Sequence[float]]]  # by dialogue and by who was rated


def _in_common(by_subject: Mapping[str, Mapping[str, Sequence[float]]]) -> dict[str, list[float]]:
    """Who was rated in a dialogue -> the mean in each category in which all have a number: categories are rated high and low, so a mean
    over others than the other one's would say who could be read."""
    categories = sorted(set.intersection(*(set(by_category) for by_category in by_subject.values())))
    return {who: [fmean(by_category[one]) for one in categories] for who, by_category in by_subject.items()} if categories else {}


def _who(given: Given) -> list[str]:
    return sorted({subject for by_subject in given.values() for subject in by_subject})


def _drawing(topics: Mapping[Dialogue, str], given: Given) -> Figure | None:
    """How high each expert is rated, dialogue by dialogue, with the mean and its interval."""
    who, rng = _who(given), numpy.random.default_rng(0)
    if not who:
        return None
    values = {one: [fmean(by[one]) for by in given.values() if one in by] for one in who}
    spoken = {one: [topics.get(key, "") for key, by in given.items() if one in by] for one in who}
    cells = {one: Values(values[one], spoken[one], scale=RATING).cell() for one in who}
    bounds = {one: (cell.low, cell.high) for one, cell in cells.items()}
    heights = {one: rng.uniform(-0.28, 0.28, len(values[one])) for one in who}

    def draw(axes: Axes) -> None:
        for i, one in enumerate(who):
            dots = slice(None, DOTS)
            axes.plot(values[one][dots], i + heights[one][dots], ".", color=COLOURS[i % 6], alpha=0.35, markersize=4, markeredgewidth=0)
            mean, (low, high) = fmean(values[one]), bounds[one]
            if low is not None and high is not None:
                axes.plot([low, high], [i, i], color=COLOURS[i % 6], linewidth=3, solid_capstyle="round")
            axes.plot([mean], [i], MARKS[i % 6], color=COLOURS[i % 6], markersize=8)
        axes.set_xlim(0.8, 10.2)
        axes.set_xticks(range(1, 11))
        axes.set_ylim(len(who) - 0.4, -0.6)
        axes.set_yticks(range(len(who)), [f"expert {one}" for one in who])
        axes.set_xlabel("rating of a dialogue, mean of its categories")

    rows = [[one, fmean(values[one]), *bounds[one], len(values[one])] for one in who]
    said = "; ".join(f"expert {row[0]} {row[1]:.1f}" for row in rows)
    return Figure("verdict", "How high each is rated", f"Dots are dialogues, marks means with intervals: {said}.",
                  ["expert", "mean", "low", "high", "n"], rows, draw, "", (4.4, 1.0 + 0.5 * len(who)))  # fmt: skip


def _rated(topics: Mapping[Dialogue, str], given: Given) -> str:
    who = _who(given)
    if not who:
        return f"{counted(len(topics), 'dialogue')} on {counted(len(set(topics.values())), 'topic')}; nobody is rated yet."
    means = {one: fmean(fmean(by[one]) for by in given.values() if one in by) for one in who}
    on = f"In {counted(len(topics), 'dialogue')} on {counted(len(set(topics.values())), 'topic')}, "
    said = on + listed([f"expert {one} is rated {mean:.1f}" for one, mean in means.items()])
    both = [key for key, by in given.items() if all(one in by for one in who[:2])]
    if len(who) != 2 or not both:
        return f"{said}."
    apart = [fmean(given[key][who[0]]) - fmean(given[key][who[1]]) for key in both]
    low, high = mean_by_cluster(apart, [topics.get(key, "") for key in both], seed=0, resamples=1000)
    mean = fmean(apart)
    if low is None or high is None:
        few = len({topics.get(key, "") for key in both}) < FEW
        return f"{said}: {abs(mean):.1f} points apart, {'on too few topics' if few else 'all alike, which is too little'} for an interval."
    if low <= 0 <= high:
        return f"{said} of 10: not told apart (difference {mean:+.1f}, 95 % interval {low:+.1f} to {high:+.1f})."
    first, (least, most) = who[0 if mean > 0 else 1], sorted((abs(low), abs(high)))
    return f"{said} of 10: {first} is higher by {abs(mean):.1f} (95 % interval {least:.1f} to {most:.1f})."
