"""What a run of judges amounts to, counted from its folder: what each judge said, and which systems won, in which order."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from expertchat.evaluation.by_topic import share_of
from expertchat.folder.reader import RunReader
from expertchat.folder.summary import seconds_of
from expertchat.lab.judge import ORDERS
from expertchat.records import Item, JudgeRef, Opinion
from expertchat.sources.read import cluster_of

TIE = "tie"


def summarise(folder: Path) -> dict[str, Any]:
    """What summary.json holds. A judge's `seconds_per_1000` are those of a thousand opinions, of the ones that were timed."""
    run = RunReader(folder)
    items = {item.id: item for item in run.items()}
    given: dict[str, list[Opinion]] = defaultdict(list)
    for opinion in run.opinions():
        given[opinion.judge].append(opinion)
    judges = {ref.id: _of_judge(ref, given[ref.id], items) for ref in run.judges()}
    summary = {
        "schema": 1,
        "items": len(items),
        "pairs": sum(item.pair for item in items.values()),
        "opinions": sum(map(len, given.values())),
        "answered": sum(judge["answered"] for judge in judges.values()),
        "seconds": round(seconds_of(folder), 2),
        "judges": judges,
    }
    if summary["answered"]:
        return summary
    problems = Counter(one.problem for said in given.values() for one in said if one.problem)
    commonest = next((problem for problem, _ in problems.most_common(1)), "")
    why = f": all {summary['opinions']} opinions are null ({commonest})" if commonest else ", for there was nothing to judge"
    return summary | {"status": "failed", "reason": f"no judge answered anything{why}"}


def _of_judge(ref: JudgeRef, said: Sequence[Opinion], items: dict[str, Item]) -> dict[str, Any]:
    """What one judge said."""
    choices = [one for one in said if one.order is not None]
    rated = [one for one in said if one.order is None]
    seconds = [one.seconds for one in said if one.seconds is not None]
    found: dict[str, Any] = {
        "form": ref.form,
        "model": ref.model,
        "items": len({one.item for one in said}),
        "opinions": len(said),
        "answered": sum(one.answered for one in said),
        "seconds_per_1000": round(1000 * fmean(seconds), 3) if seconds else None,
        "faults": dict(Counter(one.fault or "problem" for one in said if not one.answered).most_common()),
    }
    if rated:
        categories: dict[str, list[float]] = defaultdict(list)
        for one in rated:
            if one.number is not None:
                categories[one.category].append(one.number)
        numbers = [number for every in categories.values() for number in every]
        found["mean"] = round(fmean(numbers), 4) if numbers else None
        found["means"] = {name: round(fmean(every), 4) for name, every in categories.items()}
        if typed := _typed(rated, items):
            found["types"] = typed
    if choices:
        found |= _compared(choices, items)
    return found


def _typed(rated: Sequence[Opinion], items: dict[str, Item]) -> list[dict[str, Any]]:
    """By system, of texts that have a type, by a judge of which one category is called so: the share of which that one is rated highest
    (of several that are, its part), with its interval over groups; the mean rating of that category, and of the others."""
    given: dict[tuple[str, int, int], dict[str, float | None]] = defaultdict(dict)
    for one in rated:
        given[one.item, one.place, one.repeat][one.category] = one.number
    found: dict[str, list[tuple[float, str, float, float]]] = defaultdict(list)
    for (name, place, _), numbers in given.items():
        item, known = items[name], {category: number for category, number in numbers.items() if number is not None}
        if item.type not in known or len(known) < max(2, len(numbers)):
            continue  # what is not rated in all categories is highest in none
        best = [category for category, number in known.items() if number == max(known.values())]
        own = known.pop(item.type)
        right = 1 / len(best) if item.type in best else 0.0
        found[item.texts[place].system or "all"].append((right, cluster_of(item), own, fmean(known.values())))
    return [_of_types(system, *zip(*rows, strict=True)) for system, rows in found.items()]


def _of_types(system: str, right: Sequence[float], groups: Sequence[str], own: Sequence[float], others: Sequence[float]) -> dict[str, Any]:
    found = share_of(right, groups, seed=0)
    return {
        "name": system, "n": len(right), "right": found.value, "right_low": found.low, "right_high": found.high, "own": fmean(own),
        "others": fmean(others),
    }  # fmt: skip


def _compared(choices: Sequence[Opinion], items: dict[str, Item]) -> dict[str, Any]:
    """Choices: by place in the item, by place as shown, how often both orders agree, and who won in each order.

    `wins`: order -> system -> times that its text was chosen. Of three systems that are compared two by two, these are the counts of a
    three-way comparison in both orders of presentation.
    """
    known = [one for one in choices if one.choice is not None]
    shown = Counter("tie" if one.choice == "tie" else "first" if one.choice == one.order else "second" for one in known)
    orders: dict[tuple[str, str, int], dict[str, str]] = defaultdict(dict)
    for one in known:
        orders[one.item, one.category, one.repeat][one.order or ""] = one.choice or ""
    both = [said for said in orders.values() if len(said) == len(ORDERS)]
    wins: dict[str, Counter[str]] = {order: Counter() for order in ORDERS}
    for one in known:
        texts = items[one.item].texts
        systems = [text.system for text in texts]
        if None not in systems and systems[0] != systems[1]:
            wins[one.order or ""].update(dict.fromkeys((str(name) for name in systems), 0))
            wins[one.order or ""][TIE if one.choice == "tie" else str(systems[one.choice == "second"])] += 1
    return {
        "choices": {choice: sum(one.choice == choice for one in known) for choice in ("first", "second", "tie")},
        "shown": {place: shown[place] for place in ("first", "second", "tie")},
        "both_orders": len(both),
        "agree": sum(len(set(said.values())) == 1 for said in both),
        "wins": {order: {name: count for name, count in sorted(won.items())} for order, won in wins.items()},
    }
