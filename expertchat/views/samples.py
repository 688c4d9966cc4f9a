"""What a model that was trained on rows writes before and after, and the loss of its steps: lines for the end of a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from expertchat.text.in_words import line
from expertchat.views.sparkline import sparkline

MOST = 4  # prompts that are shown
LONGEST = 200  # characters of a text


class Shown(NamedTuple):
    """A prompt, what the rows have there (or ""), and what was written before and after. `way`: greedy, sampled."""

    prompt: str
    wanted: str
    way: str
    before: str
    after: str

    def lines(self) -> list[tuple[str, str]]:
        """(label, text) for each line of it."""
        said = [("asked", self.prompt), ("wanted", self.wanted), (f"before ({self.way})", self.before), (f"after ({self.way})", self.after)]
        return [(label, text) for label, text in said if text]


def samples(summary: Mapping[str, object]) -> list[Shown]:
    """The samples that a summary holds, greedy ones first; whatever else stands there is left out."""
    kept = summary.get("samples")
    before, after = ({str(one["id"]): one for one in _list(kept, name)} for name in ("before", "after"))
    found = [_shown(one, before.get(name)) for name, one in after.items()] or [_shown(None, one) for one in before.values()]
    found.sort(key=lambda one: one.way != "greedy")
    ways = [one.way for one in found]
    return [one for i, one in enumerate(found) if ways[:i].count(one.way) < MOST and one.way == ways[0]]


def loss_line(summary: Mapping[str, object], width: int) -> tuple[str, str] | None:
    """ "loss", "2.31 █▅▃▂▁ 0.12" over all steps."""
    values = summary.get("losses")
    known = [float(v) if isinstance(v, int | float) else None for v in values] if isinstance(values, list) else []
    numbers = [value for value in known if value is not None]
    if not numbers:
        return None
    return "loss", f"{numbers[0]:.3g} {sparkline(known, max(1, width))} {numbers[-1]:.3g}"


def _list(kept: object, name: str) -> list[Mapping[str, object]]:
    found = kept.get(name) if isinstance(kept, Mapping) else None
    return [one for one in found if isinstance(one, Mapping) and "id" in one] if isinstance(found, list) else []


def _shown(after: Mapping[str, object] | None, before: Mapping[str, object] | None) -> Shown:
    either = after or before or {}
    texts = (either.get("prompt"), either.get("wanted"), either.get("way"), (before or {}).get("text"), (after or {}).get("text"))
    prompt, wanted, way, old, new = (_cut(line(str(text))) if text is not None else "" for text in texts)
    return Shown(prompt, wanted, way, old or ("" if before is None else "(nothing)"), new or ("" if after is None else "(nothing)"))


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"
