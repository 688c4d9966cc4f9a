"""What picks in several orders come to: who was picked in each order, how consistent that is, and how much of it is the place."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

from expertchat.evaluation.by_topic import share_of
from expertchat.evaluation.counts import effects, evenness
from expertchat.evaluation.draws import FEWEST
from expertchat.records import Pick, PickRow

NONE = "none"
Order = tuple[str, ...]


def summarise(
    rows: Sequence[PickRow], picks: Sequence[Pick], orders: Sequence[Order], seed: int, resamples: int = 2000
) -> dict[str, Any]:
    """What summary.json holds. Intervals draw whole groups, of one group alone whole rows; those of the odds let them vary.

    `orders`: for each order what was picked, and `uneven`, the probability of counts so uneven by chance. `systems` and `places`: shares of
    all picks. `first`: that of the first place (1 / k of k texts where the place does not count). `consistent`: rows in which all orders
    came to the same; `agree`: two orders on the mean; `turned`: the first one and the one turned by one place. `odds`: of a text by what it
    is and by its place, each with the other held equal.
    """
    topics = len({row.group for row in rows})
    groups = {row.id: row.group if topics >= FEWEST else row.id for row in rows}
    names, k = list(orders[0]), len(orders[0])
    by_order: dict[Order, Counter[str]] = {order: Counter() for order in orders}
    by_row: dict[str, dict[Order, str]] = defaultdict(dict)
    for pick in picks:
        by_order[tuple(pick.order)][pick.choice or NONE] += 1
        if pick.choice is not None:
            by_row[pick.row][tuple(pick.order)] = pick.choice
    given = [pick for pick in picks if pick.choice is not None]
    by_group: dict[str, dict[Order, Counter[str]]] = defaultdict(lambda: defaultdict(Counter))
    for pick in given:
        by_group[groups[pick.row]][tuple(pick.order)][str(pick.choice)] += 1

    def figure(values: Mapping[str, Sequence[float]]) -> dict[str, float | int | None]:
        """A mean over all values, by row."""
        flat = [(value, groups[row]) for row, every in values.items() for value in every]
        if not flat:
            return {"value": None, "low": None, "high": None, "n": 0}
        found = share_of([value for value, _ in flat], [group for _, group in flat], seed=seed, resamples=resamples)
        return {"value": found.value, "low": found.low, "high": found.high, "n": found.n}

    def of_picks(is_it: Any) -> dict[str, float | int | None]:
        values: dict[str, list[float]] = defaultdict(list)
        for pick in given:
            values[pick.row].append(float(is_it(pick)))
        return figure(values)

    turned: Order = (orders[0][-1], *orders[0][:-1])
    whole = {row: said for row, said in by_row.items() if len(said) == len(orders)}
    summary: dict[str, Any] = {
        "schema": 1,
        "rows": len(rows),
        "groups": topics,
        "texts": names,
        "equal": sum(len({text.strip() for text in row.texts.values()}) < k for row in rows),
        "picks": len(picks),
        "picked": len(given),
        "faults": dict(Counter(pick.fault or "problem" for pick in picks if pick.choice is None).most_common()),
        "orders": [_order(order, counts, names) for order, counts in by_order.items()],
        "by_order": {"-".join(order): _order(order, counts, names) for order, counts in by_order.items()},
        "systems": {name: of_picks(lambda pick, name=name: pick.choice == name) for name in names},
        "places": {str(place + 1): of_picks(lambda pick, place=place: pick.order.index(pick.choice) == place) for place in range(k)},
        "consistent": figure({row: [float(len(set(said.values())) == 1)] for row, said in whole.items()}),
        "agree": figure({row: [float(one == two) for one, two in combinations(said.values(), 2)] for row, said in by_row.items()}),
        "turned": figure(
            {row: [float(said[orders[0]] == said[turned])] for row, said in by_row.items() if orders[0] in said and turned in said}
        ),
        "even": 1 / k,
        "odds": _odds(by_order, by_group, len(whole)),
    }
    summary["first"] = summary["places"]["1"]
    if given:
        return summary
    why = Counter(pick.problem for pick in picks if pick.problem).most_common(1)
    return summary | {"status": "failed", "reason": f"nothing was picked in any of {len(picks)} cases: {why[0][0] if why else 'no row'}"}


def _order(order: Order, counts: Mapping[str, int], names: Sequence[str]) -> dict[str, Any]:
    """What was picked in one order."""
    there = [counts.get(name, 0) for name in names]
    return {
        "order": ", ".join(order), "picked": dict(zip(names, there, strict=True)), NONE: counts.get(NONE, 0), "n": sum(there),
        "uneven": evenness(there) if sum(there) else None,
    }  # fmt: skip


def _odds(by_order: Mapping[Order, Counter[str]], by_group: Mapping[str, Mapping[Order, Counter[str]]], rows: int) -> dict[str, Any] | None:
    """The odds as they are written; None where there are none, or nothing that varies."""
    if len(by_group) < FEWEST or (found := effects(by_order, list(by_group.values()))) is None:
        return None
    keys = ("value", "low", "high", "p")
    systems = {f"{one} : {other}": dict(zip(keys, odds, strict=True)) for (one, other), odds in found.systems.items()}
    places = {f"{one + 1} : {other + 1}": dict(zip(keys, odds, strict=True)) for (one, other), odds in found.places.items()}
    return {"systems": systems, "places": places, "rows": rows}
