"""What views say in words: counts, times, reasons. Shared by the drawn and the plain view; no colours here."""

from __future__ import annotations

import shlex
from collections.abc import Mapping

from expertchat.events import RunFinished, RunStarted
from expertchat.records import Reward, Turn
from expertchat.text.sentences import clean
from expertchat.views.model import RunState
from expertchat.views.sides import line

STOPPED = {
    "turns": "all turns are spoken",
    "nothing_new": "nobody has anything new to add",
    "loop": "the talk went in circles",
    "blank": "nobody says anything any more",
    "context_full": "the context is full",
    "token_limit": "the token limit is reached",
}


def counted(count: int, noun: str, several: str = "") -> str:
    """ "1 turn", "2,000 turns"."""
    return f"{count:,} {noun if count == 1 else several or noun + 's'}"


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


def thought_in_words(thinking: str | None, now: bool = False) -> str:
    """ "thought 214 words" of a turn, "thinking ... 37 words" of one that is `now` written and says nothing yet; "" without thoughts."""
    count = len((thinking or "").split())
    return f"{'thinking ...' if now else 'thought'} {counted(count, 'word')}" if count else ""


def stop_in_words(reason: str | None, turns: int) -> str:
    """Why a dialogue ended, and after how many turns."""
    return f"ended after {counted(turns, 'turn')}: {STOPPED.get(reason or '', line(reason or 'broken off'))}"


def remarks(turn: Turn) -> list[str]:
    """What must be known of a turn besides its text."""
    found = [line(turn.note)] if turn.note else []
    found += ["cut at the token limit"] if turn.cut else []
    found += ["went on for the partner; cut there"] if turn.beyond else []
    return found


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


def mass_in_words(masses: object) -> str:
    """ "; the options hold 97 % of the probability", the least sure judge's where they differ; "" where nothing is known."""
    if not isinstance(masses, Mapping):
        return ""
    means = [one["mean"] for one in masses.values() if isinstance(one, Mapping) and isinstance(one.get("mean"), int | float)]
    return f"; the options hold {100 * min(means):.0f} % of the probability" if means else ""


def fault_words(faults: object, most: int = 4) -> str:
    """ "ratings: low_mass 12, cut 3; WIM: loop 5", the most frequent kinds of nulls; "" where there is none.

    >>> fault_words({"rating": {"cut": 3}, "wim": {}})
    'ratings: cut 3'
    """
    parts = []
    for key, name in (("rating", "ratings"), ("wim", "WIM")):
        kinds = faults.get(key) if isinstance(faults, Mapping) else None
        if isinstance(kinds, Mapping) and kinds:
            shown = [f"{line(str(kind)).replace('_', ' ')} {count}" for kind, count in list(kinds.items())[:most]]
            more = len(kinds) - most
            parts.append(f"{name}: {', '.join(shown)}" + (f" and {counted(more, 'other kind')}" if more > 0 else ""))
    return "; ".join(parts)


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
        said = f"{ratings:,}, {known('parse_failures', counts.ratings_none):,} without an answer"
        lines.append(("ratings", said + mass_in_words(summary.get("rating_mass"))))
    if wims:
        empty, lacking = known("wim_empty", counts.wims_empty), known("wim_null", counts.wims_none)
        lines.append(("WIM responses", f"{wims:,}, {empty:,} empty, {lacking:,} without a score"))
    if kinds := fault_words(summary.get("faults")):
        lines.append(("no answer", kinds))
    if known("rated_pairs", 0):
        lines.append(("ties", f"{known('ties', 0):,} of {known('rated_pairs', 0):,} conversations rate both experts alike"))
    if known("turns_thought", 0):
        said = f"{counted(known('turns_thought', 0), 'turn')} thought {counted(known('words_thought', 0), 'word')}"
        silent = known("turns_all_thinking", 0)
        lines.append(("thinking", said + (f"; {silent:,} of them said nothing after it" if silent else "")))
    if known("turns_cut", 0):
        lines.append(("turns cut", f"{known('turns_cut', 0):,} at the token limit"))
    if beyond := known("turns_beyond", 0):
        lines.append(("both speakers", f"{counted(int(beyond), 'reply', 'replies')} went on for the partner; cut"))
    if blank := known("turns_blank", 0):
        lines.append(("blank", f"{counted(int(blank), 'turn')} without a word"))
    reasons = summary.get("stop_reasons")
    if isinstance(reasons, dict):
        lines.append(("endings", ", ".join(f"{line(str(reason)).replace('_', ' ')} {count}" for reason, count in reasons.items())))
    if state.run is not None:
        folder = clean(state.run.folder)
        lines += [("run folder", folder), ("look again", f"expertchat watch {shlex.quote(folder)}")]
    return lines
