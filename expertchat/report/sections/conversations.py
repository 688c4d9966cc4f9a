"""Conversations: how they were rated both ways, what was missing, how long they are, how they ended and what failed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from statistics import fmean
from typing import TYPE_CHECKING

import numpy

from expertchat.report.drawing import COLOURS, DASHES, MARKS
from expertchat.report.parts import Cell, Figure, Number, Section, Shown
from expertchat.report.subject import Subject
from expertchat.report.told import Told, Way, of, of_categories, pooled, read
from expertchat.text.in_words import STOPPED, line

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_WAYS = 6  # told apart in one drawing


def conversations(subject: Subject) -> Section | None:
    """The section of all runs in which somebody talks."""
    told = Told()
    runs = [run for run in subject.runs if run.path("transcripts").is_file() and not run.chooses]
    for number, run in enumerate(runs):
        read(run, told, f"{number}/" if len(runs) > 1 else "")
    if not told.topics:
        return None
    figures = (ratings(told), drift(told), missing(told), lengths(told))
    made = (sides(told), *figures, mass(told), agreement(told), endings(told), lacking(told))
    parts = [part for part in made if part is not None]
    return Section("conversations", "Conversations", lead(told, len(runs)), parts)


# -- what is said and shown -----------------------------------------------------------------------------------------------------


def lead(told: Told, runs: int) -> list[str]:
    """How many there are, and of what."""
    turns = sum(odd["turns"] for odd in told.odd.values())
    n, topics = len(told.topics), len(set(told.topics.values()))
    of = f" of {runs} runs" if runs > 1 else ""
    said = f"{n:,} dialogues{of} on {topics:,} topics, {turns:,} turns; who talks: "
    return [said + "; ".join(f"{who} is {', '.join(sorted(models))}" for who, models in told.models.items()) + "."]


def sides(told: Told) -> Shown:
    """The experts side by side."""
    rows: dict[str, list[Cell]] = {}
    for who in told.speakers:
        odd = told.odd.get(who, Counter())
        tokens = [one for own in told.turns[who] for one in own]
        whole = [values for ((subject, _), _), values in told.ratings.items() if subject == who]
        rated = of_categories(whole) if whole else pooled(of(told.candidates, who)).cell()
        rows[who] = [
            Cell(odd["turns"]), Cell(fmean(tokens) if tokens else None), rated, pooled(of(told.wim, who)).cell(),
            pooled(of(told.rewards, who)).cell(), Cell(int(odd["cut"])), Cell(int(odd["blank"])),
        ]  # fmt: skip
    note = "With 95 % intervals that draw whole topics; a dash where nothing is to be had. Rating, WIM and reward are what the others gave."
    return Shown("Side by side", ["turns", "tokens a turn", "rating", "WIM score", "reward", "cut turns", "blank turns"], rows, note=note)


def by(way: Way) -> str:
    return f"{way[0]} by {way[1]}"


def ratings(told: Told) -> Figure | None:
    """How the ratings of whole dialogues are spread, category by category, with their means."""
    known = {key: values for key, values in told.ratings.items() if values.numbers}
    ways = list(dict.fromkeys(way for way, _ in known))[:MOST_WAYS]
    categories = list(dict.fromkeys(category for _, category in known))
    if not known:
        return None
    rows: list[Sequence[Number]] = []
    drawn: list[tuple[str, int, Cell, numpy.ndarray]] = []
    for category in categories:
        for i, way in enumerate(ways):
            if (values := known.get((way, category))) is None:
                continue
            counts = numpy.bincount(numpy.clip(numpy.rint(values.numbers), 1, 10).astype(int), minlength=11)[1:]
            cell = values.cell()
            drawn.append((category, i, cell, counts))
            rows.append([category, by(way), cell.value, cell.low, cell.high, len(values.numbers), values.lacking, *map(int, counts)])

    def draw(axes: Axes) -> None:
        step = 1.0 / (len(ways) + 0.6)
        for category, i, cell, counts in drawn:
            y = categories.index(category) + (i - (len(ways) - 1) / 2) * step
            for score, count in enumerate(counts, 1):
                if count:
                    axes.barh(y, 0.9, step * 0.86, left=score - 0.45, color=COLOURS[i], alpha=0.1 + 0.5 * count / counts.max(), linewidth=0)
            mean = float(cell.value or 0.0)
            low, high = (mean if x is None else x for x in (cell.low, cell.high))
            axes.plot([low, high], [y, y], color=COLOURS[i], linewidth=2)
            axes.plot([mean], [y], MARKS[i], color=COLOURS[i], label=by(ways[i]) if category == drawn[0][0] else None)
        axes.set_yticks(range(len(categories)), categories)
        axes.set_ylim(len(categories) - 0.5, -0.5)
        axes.set_xlim(0.5, 10.5)
        axes.set_xticks(range(1, 11))
        axes.set_xlabel("rating (1 to 10)")
        _legend(axes, len(ways))

    columns = ["category", "who by whom", "mean", "low", "high", "n", "null", *(f"rated {i}" for i in range(1, 11))]
    said = ", ".join(f"{category} {by(ways[i])} {cell}" for category, i, cell, _ in drawn[:4])
    return Figure(
        "ratings", "Ratings of whole dialogues, by category", f"A strip for each category and direction. Means: {said}.", columns, rows,
        draw,
        "Strips: the share of ratings at each step, the darker the more. Marks: means with 95 % intervals that draw whole topics.",
        (6.4, 1.0 + max(2.0, 0.26 * len(ways) * len(categories))),
    )  # fmt: skip


def _legend(axes: Axes, many: int) -> None:
    if many:
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=min(many, 3), borderaxespad=0.2)


def missing(told: Told) -> Figure | None:
    """How the WIM scores are spread, by direction."""
    known = {way: values for way, values in told.wim.items() if values.numbers}
    if not known:
        return None
    edges = numpy.linspace(-0.2, 1.0, 25)
    ways = list(known)[:MOST_WAYS]
    shares = {way: numpy.histogram(numpy.clip(known[way].numbers, -0.2, 1.0), edges)[0] / len(known[way].numbers) for way in ways}
    middles = (edges[:-1] + edges[1:]) / 2

    def draw(axes: Axes) -> None:
        for i, way in enumerate(ways):
            axes.stairs(100 * shares[way], edges, color=COLOURS[i], linestyle=DASHES[i], linewidth=1.5, label=by(way))
            axes.axvline(fmean(known[way].numbers), color=COLOURS[i], linestyle=DASHES[i], linewidth=0.8, alpha=0.7)
        axes.set_xlabel("WIM score (cosine of a reply and what is missing in it)")
        axes.set_ylabel("% of responses")
        axes.set_ylim(0, None)
        _legend(axes, len(ways))

    rows: list[list[Number]] = []
    for way in ways:
        rows += [[by(way), float(round(middle, 4)), float(share)] for middle, share in zip(middles, shares[way], strict=True)]
    said = "; ".join(f"{by(way)} {known[way].cell()}, n {len(known[way].numbers)}" for way in ways)
    columns = ["who by whom", "middle of the bin", "share"]
    alt = f"Histograms by direction. Means: {said}."
    return Figure("wim", "WIM scores", alt, columns, rows, draw, "Thin lines: the means.", (6.0, 3.0))


def drift(told: Told) -> Figure | None:
    """How turns (or the candidates for them) are rated as a dialogue goes on, where they are rated one by one."""
    known = {way: {place: one for place, one in sorted(places.items()) if one.numbers} for way, places in told.places.items()}
    known = {way: places for way, places in known.items() if len(places) > 1}
    if not known:
        return None
    ways = list(known)[:MOST_WAYS]
    cells = {way: [(place + 1, one.cell(), len(one.numbers)) for place, one in known[way].items()] for way in ways}
    rows: list[list[Number]] = [[by(way), turn, cell.value, cell.low, cell.high, n] for way in ways for turn, cell, n in cells[way]]

    def draw(axes: Axes) -> None:
        from matplotlib.ticker import MaxNLocator

        for i, way in enumerate(ways):
            of_way = [row for row in rows if row[0] == by(way)]
            turns, means = [float(row[1] or 0) for row in of_way], [float(row[2] or 0) for row in of_way]
            axes.plot(turns, means, color=COLOURS[i], marker=MARKS[i], linestyle=DASHES[i], label=by(way))
            for turn, row in zip(turns, of_way, strict=True):
                if isinstance(row[3], float) and isinstance(row[4], float):
                    axes.plot([turn, turn], [row[3], row[4]], color=COLOURS[i], linewidth=1)
        axes.set_xlabel("turn of the dialogue")
        axes.set_ylabel("rating (1 to 10)")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        _legend(axes, len(ways))

    said = "; ".join(f"{by(way)} from {cells[way][0][1]} to {cells[way][-1][1]}" for way in ways)
    return Figure("drift", "Ratings of turns as the dialogue goes on", f"Mean rating by turn: {said}.",
                  ["who by whom", "turn", "mean", "low", "high", "n"], rows, draw,
                  "Of turns, or of the candidates for them; bars: 95 % intervals that draw whole topics.", (6.0, 3.0))  # fmt: skip


def lengths(told: Told) -> Figure | None:
    """How long turns are as a dialogue goes on: the median and the middle half, by speaker."""
    known = {who: [(place, own) for place, own in enumerate(turns) if own] for who, turns in told.turns.items()}
    known = {who: turns for who, turns in known.items() if turns}
    if not any(place for turns in known.values() for place, _ in turns):  # single prompts: a reply each, and no dialogue that goes on
        return None
    spans = {who: [(place + 1, *numpy.quantile(own, (0.5, 0.25, 0.75)), len(own)) for place, own in turns] for who, turns in known.items()}

    def draw(axes: Axes) -> None:
        from matplotlib.ticker import MaxNLocator

        for i, (who, span) in enumerate(list(spans.items())[:MOST_WAYS]):
            x = [one[0] for one in span]
            low, high = [one[2] for one in span], [one[3] for one in span]
            axes.plot(x, [one[1] for one in span], color=COLOURS[i], marker=MARKS[i], linestyle=DASHES[i], label=who)
            axes.fill_between(x, low, high, color=COLOURS[i], alpha=0.18, linewidth=0)
        axes.set_xlabel("turn of the dialogue")
        axes.set_ylabel("tokens")
        axes.set_ylim(0, None)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        _legend(axes, len(spans))

    rows = [[who, *map(float, one[:4]), one[4]] for who, span in spans.items() for one in span]
    said = "; ".join(f"{who} from {span[0][1]:.0f} to {span[-1][1]:.0f} tokens" for who, span in spans.items())
    return Figure("lengths", "Length of turns as the dialogue goes on", f"Median tokens by turn: {said}.",
                  ["speaker", "turn", "median", "lower quartile", "upper quartile", "n"], rows, draw,
                  "Lines: medians; bands: the middle half.", (6.0, 3.0))  # fmt: skip


def mass(told: Told) -> Shown | None:
    """How much of the probability the ten answers hold together: where it is little, the expected rating says little."""
    if not told.mass:
        return None
    rows = {}
    for judge, values in told.mass.items():
        low, middle = numpy.quantile(values, (0.05, 0.5))
        rows[judge] = [Cell(len(values)), Cell(fmean(values)), Cell(float(middle)), Cell(float(low)),
                       Cell(f"{100 * fmean(one < 0.5 for one in values):.1f} %")]  # fmt: skip
    return Shown("Probability on the ten answers, by judge", ["ratings", "mean", "median", "5 % are below", "under one half"], rows)


def agreement(told: Told) -> Shown | None:
    """How alike two judges rate: of the same subject in the same category, where several do."""
    pairs: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for said in told.cases.values():
        judges = sorted(said)
        for i, one in enumerate(judges):
            for two in judges[i + 1 :]:
                pairs.setdefault((one, two), []).append((said[one], said[two]))
    title, note = "Agreement of judges on the same subject and category", ""
    if not pairs:  # each side has one judge: how what they give each other goes together
        title = "What two experts give each other, category by category"
        note = "Each expert has one judge here, the other one: no agreement on one thing, but whether who is rated high rates high."
        by_dialogue: dict[tuple[str, str], dict[str, float]] = {}
        for (dialogue, who, category), said in told.cases.items():
            by_dialogue.setdefault((dialogue, category), {})[who] = next(iter(said.values()))
        for said in by_dialogue.values():
            for one, two in [tuple(sorted(said))] if len(said) == 2 else []:
                pairs.setdefault((one, two), []).append((said[one], said[two]))
    rows = {f"{one} and {two}": _alike(values) for (one, two), values in pairs.items() if len(values) > 1}
    return Shown(title, ["n", "correlation of ranks", "mean difference", "within one point"], rows, note=note) if rows else None


def _alike(values: Sequence[tuple[float, float]]) -> list[Cell]:
    both_N_2 = numpy.asarray(values)
    difference_N = both_N_2[:, 0] - both_N_2[:, 1]
    rho = rank_correlation(values)
    return [Cell(len(values)), Cell(rho), Cell(float(difference_N.mean())), Cell(f"{100 * float((abs(difference_N) <= 1).mean()):.0f} %")]


def rank_correlation(values: Sequence[tuple[float, float]]) -> float | None:
    """Spearman's rho: the correlation of ranks, equal values sharing theirs. None where one side is all alike."""
    ranks = [_ranks(numpy.asarray(side, dtype=float)) for side in zip(*values, strict=True)]
    if any(rank.std() == 0 for rank in ranks):
        return None
    return float(numpy.corrcoef(numpy.stack(ranks))[0, 1])


def _ranks(values_N: numpy.ndarray) -> numpy.ndarray:
    _, inverse_N, counts = numpy.unique(numpy.round(values_N, 3), return_inverse=True, return_counts=True)
    return (numpy.cumsum(counts) - (counts - 1) / 2)[inverse_N]


def endings(told: Told) -> Shown:
    """How dialogues ended."""
    total = told.ends.total()
    rows = {STOPPED.get(end, line(end)): [Cell(n), Cell(f"{100 * n / total:.0f} %")] for end, n in told.ends.most_common()}
    return Shown("How they ended", ["dialogues", "share"], rows)


def lacking(told: Told) -> Shown | None:
    """What could not be read, by reason: none of it became a number."""
    names = {"ratings": "rating", "wim": "WIM", "rewards": "reward"}
    rows = {
        f"{names[kind]}: {why}": [Cell(n), Cell(f"{100 * n / told.asked[kind]:.1f} %")] for (kind, why), n in told.faults.most_common(20)
    }
    asked = ", ".join(f"{n:,} {names[kind]}{'s' if kind != 'wim' else ' responses'}" for kind, n in told.asked.items())
    if not rows:
        return Shown("Nothing is lacking", ["asked for"], {"all that was asked for was answered": [Cell(asked)]})
    return Shown("What could not be read", ["how many", "of its kind"], rows, note=f"Asked for: {asked}. What cannot be read is no number.")
