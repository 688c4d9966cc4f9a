"""The rankings of the judges' card as an SVG: the chance of each system to win, by each judge, with its interval."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

from expertchat.config import ConfigError
from expertchat.views.audit import rankings


def svg(card: Mapping[str, Any]) -> str:
    """Text stays text, and the same card gives the same file. Raises ConfigError where nobody has compared systems."""
    found = list(rankings(card))
    if not found:
        raise ConfigError("plot: there is no ranking to draw: no judge has compared texts of two systems; leave it out")
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "expertchat", "text.parse_math": False}):
        systems = [one["system"] for one in found[0][1]["systems"]]
        figure, axes = pyplot.subplots(figsize=(8, 1.2 + 0.25 * len(systems) * (len(found) + 1)))
        for j, (name, ranking) in enumerate(found):
            by_name = {one["system"]: one["chance"] for one in ranking["systems"]}
            here = [(i, by_name[system]) for i, system in enumerate(systems) if system in by_name]
            x = [100 * one["value"] for _, one in here]
            low = [100 * (one["value"] - one["low"]) if one["low"] is not None else 0 for _, one in here]
            high = [100 * (one["high"] - one["value"]) if one["high"] is not None else 0 for _, one in here]
            axes.errorbar(x, [i + j * 0.8 / len(found) for i, _ in here], xerr=[low, high], fmt="o", capsize=3, label=name)
        axes.axvline(50, color="grey", linewidth=0.8)
        axes.set_yticks([i + 0.4 * (1 - 1 / len(found)) for i in range(len(systems))], systems)
        axes.invert_yaxis()
        axes.set_xlim(0, 100)
        axes.set_xlabel("chance to win against the others, %")
        axes.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
        out = io.StringIO()
        figure.savefig(out, format="svg", bbox_inches="tight", metadata={"Date": None})
        pyplot.close(figure)
    return out.getvalue()
