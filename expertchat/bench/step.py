"""Where the time of one step goes: products, attention, choosing words, other operations, and what lies between them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from expertchat.bench.ceilings import least_seconds
from expertchat.bench.decoded import replies
from expertchat.bench.kit import Kit

KINDS = {
    "products": ("mkldnn::_linear", "aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm"),
    "attention": ("attend", "aten::_scaled_dot_product"),
    "choosing words": ("aten::_softmax", "aten::cumsum", "aten::sort", "aten::topk", "aten::searchsorted", "aten::max"),
}
OTHER, BETWEEN = "other operations", "between them"


def measure_step(kit: Kit) -> None:
    """A step of N replies whose contexts are there, timed without and taken apart with torch's profiler."""
    part = kit.part("step", f"A step of the engine, in the mean of {kit.settings.tokens - 1}")
    if kit.subject.device_type() != "cpu":
        part.notes.append("measured on a CPU only: the operations of a GPU run on after their calls have returned")
        return
    part.notes.append(f"{BETWEEN}: Python, the tokens' text, and calls; {OTHER}: norms, positions, the cache, sums of probabilities")
    for rows in kit.settings.rows:
        kit.tell(f"step, N={rows}")
        seconds, context = _step(kit, rows)
        least = least_seconds(kit.subject, kit.ceilings, rows, 1, context)
        whole = sum(seconds.values())
        parts = ", ".join(f"{name} {1000 * value:.1f}" for name, value in seconds.items())
        part.facts.append((f"N={rows}", f"{1000 * whole:.1f} ms: {parts}; the least {1000 * least:.1f} ({least / whole:.0%})"))
        part.numbers[f"N={rows}"] = {**seconds, "least": least}


def _step(kit: Kit, rows: int) -> tuple[dict[str, float], float]:
    """Seconds of a step by kind, and the tokens that it sees."""
    from torch.profiler import ProfilerActivity, profile

    backend = kit.subject.engine(rows)
    requests = kit.requests(backend, rows, "s")
    steps = kit.settings.tokens - 1
    whole = replies(kit, backend, requests, primed=requests)
    first = replies(kit, backend, [replace(r, decoding=replace(r.decoding, max_new_tokens=1)) for r in requests], primed=requests)
    # The first token of a reply comes of its prompt's pass, which is not a step.
    wall = min(max(0.0, whole(i).seconds - first(i).seconds) for i in range(kit.settings.repeats)) / steps
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        whole(0)
    with profile(activities=[ProfilerActivity.CPU]) as before:
        first(0)
    found = {name: max(0.0, value - by_kind(before)[name]) / steps for name, value in by_kind(profiled).items()}
    length = sum(backend.count_tokens(request.messages) for request in requests) / rows
    return {**found, BETWEEN: max(0.0, wall - sum(found.values()))}, length + kit.settings.tokens / 2


def by_kind(profiled: Any) -> Mapping[str, float]:
    """Seconds of the operations themselves, without those that they call."""
    found = dict.fromkeys([*KINDS, OTHER], 0.0)
    for event in profiled.key_averages():
        kind = next((name for name, starts in KINDS.items() if event.key.startswith(starts)), OTHER)
        found[kind] += event.self_cpu_time_total / 1e6
    return found

