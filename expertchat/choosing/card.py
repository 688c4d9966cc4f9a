"""The card of a run of best_of_n, README.md of its folder: who chose, who judged, the curve, what was left out, what it does not say."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from expertchat.choosing.config import CHOOSER, BestOfNConfig
from expertchat.text.card_in_words import Shape, written
from expertchat.text.cells import markdown
from expertchat.text.sentences import shown_path

PERCENT = 100.0


def card(summary: Mapping[str, Any], config: BestOfNConfig) -> str:
    """The card as Markdown, every figure out of the summary."""
    parts = [
        f"# Best of {config.n}: {markdown(shown_path(config.model.path))}, chosen by {_judge(summary, CHOOSER)}",
        _about(summary, config),
        "## Against N\n\n" + _table(summary),
        _reading(summary),
        "## Left out\n\n" + "\n".join(f"* {line}" for line in left_out(summary)),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _judge(summary: Mapping[str, Any], name: str) -> str:
    judge = summary["judges"][name]
    return f"{markdown(judge['model'] or judge['form'])}" + (f" ({judge['form']})" if judge["model"] else "")


def _about(summary: Mapping[str, Any], config: BestOfNConfig) -> str:
    others = ", ".join(f"`{name}` is {_judge(summary, name)}" for name in summary["judges"] if name != CHOOSER)
    how = {
        "highest": "the highest score", "threshold": f"the first that is worth {config.choose.threshold}",
        "softmax": f"one drawn by its score at temperature {config.choose.temperature:g}",
    }  # fmt: skip
    decoding = config.model.decoding.reply
    return (
        f"{summary['prompts']} prompts of {summary['groups']} groups, {summary['n']} replies each (temperature {decoding.temperature:g}, "
        f"top_p {decoding.top_p:g}, seed {config.run.seed}); taken is {how[config.choose.rule]}. Judged again: {others}.\n\n"
        "`demonstrations.jsonl` holds the choices as rows for supervised fine-tuning"
        + (", `pairs.jsonl` the best against the worst." if config.write_pairs else ".")
    )


def _table(summary: Mapping[str, Any]) -> str:
    names, against = list(summary["judges"]), summary["against"]
    heads = ["N", "KL, nats", *(f"{name}: against {other}, %" for name in names for other in against)]
    heads += [f"{name}: score" for name in names if any("score" in row["judges"][name] for row in summary["curve"])]
    rows = [list(_row(row, names, against)) for row in summary["curve"]]
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _row(row: Mapping[str, Any], names: list[str], against: list[str]) -> Iterator[str]:
    yield str(row["n"])
    yield "" if row["kl"] is None else f"{row['kl']:.2f}"
    for name in names:
        for other in against:
            yield _written(row["judges"][name]["against"][other], PERCENT, 1)
    for name in names:
        if "score" in row["judges"][name]:
            yield _written(row["judges"][name]["score"], 1.0, 2)


def _written(figure: Mapping[str, Any], factor: float, digits: int) -> str:
    if figure["value"] is None:
        return ""
    return written(Shape("", factor, digits), figure)


def _reading(summary: Mapping[str, Any]) -> str:
    said = [
        "Win rates count a tie as half a win; 95 % intervals draw whole groups. Against the first of N, who chooses sees its own "
        "choice win 100 (1 - 1 / 2N) %. The KL divergence is log N - (N - 1) / N where no scores tie.",
        *(f"{one[0].upper()}{one[1:]}." for one in summary["findings"]),
    ]
    return "\n\n".join(said)


def findings(parting: Mapping[str, Any], last: int) -> list[str]:
    """Whether the chooser was over-optimised, and how many candidates are enough, by each other judge, in words."""
    found = []
    for name, part in parting.items():
        loss, best, enough = part["loss"], part["best"], part["enough"]
        if best is None:
            found.append(f"by {name} nothing can be said: it has answered nothing")
        elif part["over_optimised"]:
            lost = _written(loss, PERCENT, 1)
            found.append(f"over-optimised: by {name} N = {best} is the best one, and N = {last} loses {lost} points against it")
        elif best != last and loss["low"] is None:
            found.append(f"by {name} N = {best} is the best one, on prompts too few or too alike to say how sure that is")
        elif enough == last:
            found.append(f"by {name} the largest N is the best one: its gain over all others is shown")
        else:
            found.append(f"by {name} N = {enough} is as good as N = {last}, as far as these prompts can tell")
    return found


def left_out(summary: Mapping[str, Any]) -> list[str]:
    """What was not chosen from, chosen or written, and why."""
    nulls = ", ".join(f"{name} {judge['null']}" for name, judge in summary["judges"].items() if judge["null"])
    ties = ", ".join(f"N = {row['n']}: {row['ties']}" for row in summary["curve"] if row["ties"])
    nothing = ", ".join(f"N = {row['n']}: {row['nothing']}" for row in summary["curve"] if row["nothing"])
    return [
        f"of {summary['candidates']} candidates {summary['blank']} are blank, {summary['equal']} say what an earlier one says, "
        f"{summary['cut']} were cut by the token limit, {summary['altered']} had to be altered",
        f"without an answer: {nulls or 'none'}",
        f"prompts for which nothing was chosen: {nothing or 'none'}",
        f"prompts where another text was worth as much to the chooser: {ties or 'none'}",
        f"demonstrations: {summary['demonstrations']}, {summary['demonstrations_cut']} cut ones left out",
    ]
