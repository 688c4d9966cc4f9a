"""The end of a run of best_of_n: what it has come to, the choices as demonstrations and pairs, and a card of it all."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

from expertchat.choosing.card import card, findings
from expertchat.choosing.config import CHOOSER, BestOfNConfig
from expertchat.choosing.curve import Curve
from expertchat.choosing.prompts import Asked
from expertchat.choosing.store import ChoosingFolder
from expertchat.folder.summary import seconds_of
from expertchat.folder.writing import replace
from expertchat.preferences.config import PairsConfig
from expertchat.preferences.pairs import Choice, make_pairs
from expertchat.records import Candidate, Demonstration, Message, Selection, as_line
from expertchat.text.likeness import blank
from expertchat.text.sentences import shown_path

Shown = Callable[[Asked], Sequence[Message]]
"""What the model was shown of a prompt."""
CARD, DEMONSTRATIONS, PAIRS, CHOICES = "README.md", "demonstrations.jsonl", "pairs.jsonl", "choices.jsonl"


def close(config: BestOfNConfig, store: ChoosingFolder, shown: Shown) -> dict[str, Any]:
    """Write what others read of a run, and return its summary."""
    selections = [store.selections[one.id] for one in store.asked]
    groups = [one.prompt.group for one in store.asked]
    demonstrations, cut = _demonstrations(config, store, selections, shown)
    counts: dict[str, Any] = {"demonstrations": len(demonstrations), "demonstrations_cut": cut}
    with store.writing():
        replace(store.folder / DEMONSTRATIONS, "".join(f"{as_line(one)}\n" for one in demonstrations), sync=True)
        replace(store.folder / CHOICES, "".join(_choices(config, store, selections)), sync=True)
        if config.write_pairs:
            made, lines = _pairs(config, store, selections, shown)
            replace(store.folder / PAIRS, lines, sync=True)
            counts |= made
    summary = summarise(config, store, selections, groups) | counts
    with store.writing():
        replace(store.folder / CARD, card(summary, config), sync=True)
    return summary


def summarise(config: BestOfNConfig, store: ChoosingFolder, selections: Sequence[Selection], groups: Sequence[str]) -> dict[str, Any]:
    """What summary.json holds, but for the files that are made of it."""
    curve, candidates = Curve(config, selections, groups), list(store.candidates.values())
    problems = Counter(one.problem for one in selections if one.problem)
    summary: dict[str, Any] = {
        "schema": 1,
        "prompts": len(selections),
        "groups": len(set(groups)),
        "n": config.n,
        "candidates": len(candidates),
        "tokens": sum(one.tokens for one in candidates),
        "blank": sum(blank(one.text) for one in candidates),
        "cut": sum(one.cut for one in candidates),
        "altered": sum(one.altered is not None for one in candidates),
        "equal": sum(first != i for one in selections for i, first in enumerate(one.same)),
        "chosen": sum(bool(one.chosen) and one.chosen[-1] is not None for one in selections),
        "problems": dict(problems.most_common()),
        "seconds": round(seconds_of(store.folder), 2),
        "rule": config.choose.rule,
        "against": config.against,
        "judges": {name: _judge(config, store, name, selections) for name in curve.names},
        "curve": [curve.at(size) for size in curve.sizes],
        "parting": (parting := {name: curve.parting(name) for name in curve.names if name != CHOOSER}),
        "findings": findings(parting, config.n),
    }
    if summary["chosen"]:
        return summary
    why = next(iter(summary["problems"]), "there was nothing to choose from")
    return summary | {"status": "failed", "reason": f"nothing was chosen for any of {len(selections)} prompts: {why}"}


def _judge(config: BestOfNConfig, store: ChoosingFolder, name: str, selections: Sequence[Selection]) -> dict[str, Any]:
    """Who a judge is, and how much it has answered. `null`: candidates (of one who compares: pairs) that it gave nothing."""
    judge = config.judges.root[name]
    given = [one for one in store.opinions.values() if one.judge == name]
    numbers = [score for one in selections for score in one.scores.get(name, [])]
    duels = [result for one in selections for result in one.duels.get(name, {}).values()]
    model = judge.model or judge.reward_model
    return {
        "kind": judge.kind,
        "form": judge.form or judge.rule or judge.kind,
        "model": shown_path(model.path) if model is not None else None,
        "opinions": len(given),
        "answered": sum(one.answered for one in given),
        "null": sum(value is None for value in (numbers or duels)),
        "faults": dict(Counter(one.fault or "problem" for one in given if not one.answered).most_common()),
    }


# -- files ------------------------------------------------------------------------------------------------------------------


def _choices(config: BestOfNConfig, store: ChoosingFolder, selections: Sequence[Selection]) -> Iterator[str]:
    """A row a prompt, as tables are read: the rule's text, the base's (where there is none the first of the N), the choice; null: none."""
    for asked, one in zip(store.asked, selections, strict=True):
        texts = {i: store.candidates[f"{one.id}/k{i}"].text for i in range(len(one.keys)) if f"{one.id}/k{i}" in store.candidates}
        chosen, subject = one.chosen[-1] if one.chosen else None, asked.prompt.subject
        said = store.histories[one.id].turns
        turns = [{"role": "assistant" if turn.speaker == subject else "user", "content": turn.text} for turn in said]
        row = {
            "id": one.id, "topic": asked.topic or None, "group": asked.prompt.group, "prompt": turns or None,
            "reference": asked.prompt.reference, "rule": one.texts.get("rule"),
            "base": one.texts.get("base", texts.get(0)), "best": None if chosen is None else texts[chosen],
        }  # fmt: skip
        yield f"{json.dumps(row, ensure_ascii=False)}\n"



def _demonstrations(
    config: BestOfNConfig, store: ChoosingFolder, selections: Sequence[Selection], shown: Shown
) -> tuple[list[Demonstration], int]:
    """The choices as rows of SFT, and how many were left out because the token limit cut them: they would be taught to end there."""
    found, cut = list[Demonstration](), 0
    for asked, one in zip(store.asked, selections, strict=True):
        if not one.chosen or (i := one.chosen[-1]) is None:
            continue
        candidate = store.candidates[f"{one.id}/k{i}"]
        if candidate.cut and config.cut == "drop":
            cut += 1
            continue
        found.append(
            Demonstration(
                id=candidate.id,
                prompt=[{"role": message.role, "content": message.content} for message in shown(asked)],
                completion=[{"role": "assistant", "content": candidate.text}],
                group=asked.prompt.group,
                source=f"{store.folder.name}:{candidate.id}",
                score=one.scores[CHOOSER][i],
                provenance={
                    "origin": asked.prompt.origin, "n": config.n, "index": i, "rule": config.choose.rule, "tokens": candidate.tokens,
                    "model": shown_path(config.model.path), "cut": int(candidate.cut),
                },
            )
        )  # fmt: skip
    return found, cut


def _pairs(
    config: BestOfNConfig, store: ChoosingFolder, selections: Sequence[Selection], shown: Shown
) -> tuple[dict[str, int], str]:
    """The best of each prompt's candidates against the worst, by the chooser; what became of the rest, and the file."""
    choices = []
    for asked, one in zip(store.asked, selections, strict=True):
        if CHOOSER not in one.scores:
            continue
        own: list[Candidate] = [store.candidates[f"{one.id}/k{i}"] for i in range(config.n)]
        ids = store.answers[own[0].id].prompt if own[0].id in store.answers else []
        choices.append(Choice(tuple(shown(asked)), tuple(own), tuple(one.scores[CHOOSER]), CHOOSER, ids or None))
    cut: Literal["drop", "no_end"] = "drop" if config.cut == "drop" else "no_end"
    settings = PairsConfig(mode="best_worst", min_margin=config.min_margin, max_lag=0, length_ratio=1.0, cut=cut)
    made = make_pairs(choices, settings, choices[0].candidates[0].policy_version if choices else 0)
    dropped = {"tied": made.ties, "equal": made.equal, "altered": made.altered, "cut": made.cut}
    counts = {"pairs": len(made.pairs), **{f"pairs_{why}": number for why, number in dropped.items()}}
    return counts, "".join(f"{as_line(pair)}\n" for pair in made.pairs)
