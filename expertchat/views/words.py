"""What views say in words: counts, times, reasons. Shared by the drawn and the plain view; no colours here."""

from __future__ import annotations

import shlex

from expertchat.events import RunFinished, RunStarted
from expertchat.records import Reward
from expertchat.text import clean
from expertchat.views.model import RunState
from expertchat.views.sides import line

STOPPED = {
    "turns": "all turns are spoken",
    "nothing_new": "nobody has anything new to add",
    "loop": "the talk went in circles",
    "context_full": "the context is full",
    "token_limit": "the token limit is reached",
}


def counted(count: int, noun: str) -> str:
    """ "1 turn", "2,000 turns"."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def size(gib: float) -> str:
    """ "15.0 GiB", "3 MiB", "" where it is not known."""
    if gib <= 0:
        return ""
    return f"{gib:.1f} GiB" if gib >= 0.1 else f"{max(1, round(gib * 1024))} MiB"


def clock(seconds: float) -> str:
    """ "0:42", "1:02:03"."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def whole_in_words(run: RunStarted) -> str:
    """How large a run is."""
    rounds = f"{counted(run.rounds, 'round')} of " if run.rounds else ""
    return f"{rounds}{counted(run.conversations, 'conversation')} of up to {counted(run.turns, 'turn')}"


def stop_in_words(reason: str | None, turns: int) -> str:
    """Why a dialogue ended, and after how many turns."""
    return f"ended after {counted(turns, 'turn')}: {STOPPED.get(reason or '', line(reason or 'broken off'))}"


def judged_in_words(reward: Reward) -> str:
    """ "rating 7.1, WIM 0.62, reward +0.41", as far as there are numbers."""
    parts = [f"rating {reward.rating:.1f}"] if reward.rating is not None else []
    parts += [f"WIM {reward.wim:.2f}"] if reward.wim is not None else []
    parts.append(f"reward {reward.value:+.2f}" if reward.value is not None else f"no reward ({line(reward.problem or 'no answer')})")
    return ", ".join(parts)


def ending(finished: RunFinished) -> str:
    """The end of a run in a few words."""
    said = {"done": "done", "stopped": "stopped early; the same command goes on", "failed": "failed"}[finished.status]
    return f"{said}: {line(finished.reason)}" if finished.reason else said


def summary_lines(state: RunState) -> list[tuple[str, str]]:
    """The end of a run as (label, value) lines: counts, throughput, failures, the folder, how to look again.

    What summary.json counts of the whole run goes before what this view has seen of it.
    """
    summary, counts = state.finished.summary if state.finished else {}, state.counts

    def known(key: str, seen: int) -> int:
        value = summary.get(key)
        return value if isinstance(value, int) else seen

    speed = f" ({state.tokens_per_second:,.0f} tokens/s)" if state.tokens_per_second is not None else ""
    ratings, wims = known("rating_count", counts.ratings), known("wim_count", counts.wims)
    lines = [
        ("conversations", f"{state.done:,} of {state.total:,}"),
        ("turns", f"{known('turns', counts.turns):,}"),
        ("tokens", f"{known('tokens', counts.tokens):,} in {clock(state.seconds)}{speed}"),
    ]
    if ratings:
        lines.append(("ratings", f"{ratings:,}, {known('parse_failures', counts.ratings_none):,} without an answer"))
    if wims:
        empty, lacking = known("wim_empty", counts.wims_empty), known("wim_null", counts.wims_none)
        lines.append(("WIM responses", f"{wims:,}, {empty:,} empty, {lacking:,} without a score"))
    if known("rated_pairs", 0):
        lines.append(("ties", f"{known('ties', 0):,} of {known('rated_pairs', 0):,} conversations rate both experts alike"))
    if known("turns_cut", 0):
        lines.append(("turns cut", f"{known('turns_cut', 0):,} at the token limit"))
    reasons = summary.get("stop_reasons")
    if isinstance(reasons, dict):
        lines.append(("endings", ", ".join(f"{line(str(reason)).replace('_', ' ')} {count}" for reason, count in reasons.items())))
    if state.run is not None:
        folder = clean(state.run.folder)
        lines += [("run folder", folder), ("look again", f"expertchat watch {shlex.quote(folder)}")]
    return lines
