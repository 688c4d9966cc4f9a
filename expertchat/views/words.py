"""What views say in words: counts, times, reasons. Shared by the drawn and the plain view; no colours here."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence

from expertchat.events import RunFinished, RunStarted
from expertchat.folder.jsonl import as_number
from expertchat.records import Reward, Turn
from expertchat.text.in_words import STOPPED, line
from expertchat.text.sentences import clean
from expertchat.views.model import RunState
from expertchat.views.sides import called


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
    if run.judgements:
        return counted(run.judgements, "judgement")
    if run.candidates:
        return f"{counted(run.conversations, 'prompt')} with {counted(run.candidates, 'candidate')} each"
    if run.rounds and not run.conversations:
        return counted(run.rounds, "round")
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
    found += [{"edited": "edited by a person", "injected": "written by a person in the speaker's place"}[turn.hand]] if turn.hand else []
    found += ["went on for the partner; cut there"] if turn.beyond else []
    return found


def judged_in_words(reward: Reward) -> str:
    """ "rating 7.1, WIM 0.62, reward +0.41", as far as there are numbers."""
    parts = [f"rating {reward.rating:.1f}"] if reward.rating is not None else []
    parts += [f"WIM {reward.wim:.2f}"] if reward.wim is not None else []
    parts.append(f"reward {reward.value:+.2f}" if reward.value is not None else f"no reward ({line(reward.problem or 'no answer')})")
    return ", ".join(parts)


def turn_in_words(rewards: Sequence[Reward]) -> list[str]:
    """The reward of one turn; of several judges "reward by B +0.41, C +0.30"."""
    if len(rewards) < 2:
        return [judged_in_words(reward) for reward in rewards]
    given = (f"{called(r.judge)} {'none' if r.value is None else f'{r.value:+.2f}'}" for r in rewards)
    return [f"reward by {', '.join(given)}"]


def ending(finished: RunFinished) -> str:
    """The end of a run in a few words."""
    said = {"done": "done", "stopped": "stopped early; the same command goes on", "failed": "failed"}[finished.status]
    return f"{said}: {line(finished.reason)}" if finished.reason else said


def mass_in_words(masses: object) -> str:
    """ "; the options hold 97 % of the probability", the least sure judge's where they differ; "" where nothing is known."""
    if not isinstance(masses, Mapping):
        return ""
    means = [mass["mean"] for mass in masses.values() if isinstance(mass, Mapping) and isinstance(mass.get("mean"), int | float)]
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


def turing_words(table: object) -> str:
    """ "A 1 of 4 (5-70 %), B, a person, 3 of 4 (30-95 %)": how often each was taken for a human, with the 95 % interval."""
    parts = []
    for seat, row in table.items() if isinstance(table, Mapping) else ():
        n, said, low, high = (row.get(key) for key in ("n", "said_human", "rate_low", "rate_high"))
        who = f"{called(str(seat))}{', a person,' if row.get('is_human') else ''}"
        interval = f" ({100 * low:.0f}-{100 * high:.0f} %)" if isinstance(low, float) and isinstance(high, float) else ""
        null = f", {row['null']} without an answer" if row.get("null") else ""
        parts.append(f"{who} {said} of {n}{interval}{null}")
    return "; ".join(parts)


def served_words(served: object) -> str:
    """What servers were asked, and what it has cost where that is known; "" of a run without any.

    >>> served_words({"requests": 60, "prompt_tokens": 29031, "completion_tokens": 523, "cost": 0.25})
    '60 requests, 29,031 tokens of prompts and 523 of answers, cost 0.2500'
    """
    if not isinstance(served, Mapping):
        return ""
    requests, prompts, answers = (int(as_number(served.get(key))) for key in ("requests", "prompt_tokens", "completion_tokens"))
    cost = f", cost {as_number(served['cost']):,.4f}" if served.get("cost") is not None else ""
    return f"{counted(requests, 'request')}, {prompts:,} tokens of prompts and {answers:,} of answers{cost}"


def _by_speaker(turns: object) -> str:
    """ ": A 12, B 9, C 10" of three or more experts."""
    return f": {', '.join(f'{called(str(seat))} {count:,}' for seat, count in turns.items())}" if isinstance(turns, Mapping) else ""


def summary_lines(state: RunState) -> list[tuple[str, str]]:
    """The end of a run as (label, value) lines: counts, throughput, failures, the folder, how to look again.

    What summary.json counts of the whole run goes before what this view has seen of it.
    """
    summary, counts = state.finished.summary if state.finished else {}, state.counts

    def known(key: str, seen: int = 0) -> int:
        value = summary.get(key)
        return value if isinstance(value, int) else seen

    ratings, wims = known("rating_count", counts.ratings), known("wim_count", counts.wims)
    lacking, scoreless = known("parse_failures", counts.ratings_none), known("wim_null", counts.wims_none)
    thought, silent, pairs = known("turns_thought"), known("turns_all_thinking"), known("rated_pairs")
    cut, beyond, blank = known("turns_cut"), known("turns_beyond"), known("turns_blank")
    speed = f" ({state.tokens_per_second:,.0f} tokens/s)" if state.tokens_per_second is not None else ""
    unspoken = f"; {silent:,} of them said nothing after it" if silent else ""
    alike = "pairs of experts are rated alike" if "turns_by" in summary else "conversations rate both experts alike"
    kinds, turing = fault_words(summary.get("faults")), turing_words(summary.get("turing"))
    told = (  # a label, whether there is anything to say, and what
        ("conversations", True, f"{(done := known('conversations', state.done)):,} of {max(done, state.total):,}"),
        ("turns", True, f"{known('turns', counts.turns):,}{_by_speaker(summary.get('turns_by'))}"),
        ("tokens", True, f"{known('tokens', counts.tokens):,} in {clock(state.seconds)}{speed}"),
        ("ratings", ratings, f"{ratings:,}, {lacking:,} without an answer{mass_in_words(summary.get('rating_mass'))}"),
        ("WIM responses", wims, f"{wims:,}, {known('wim_empty', counts.wims_empty):,} empty, {scoreless:,} without a score"),
        ("no answer", kinds, kinds),
        ("ties", pairs, f"{known('ties'):,} of {pairs:,} {alike}"),
        ("taken for a human", turing, turing),
        ("thinking", thought, f"{counted(thought, 'turn')} thought {counted(known('words_thought'), 'word')}{unspoken}"),
        ("turns cut", cut, f"{cut:,} at the token limit"),
        ("both speakers", beyond, f"{counted(beyond, 'reply', 'replies')} went on for the partner; cut"),
        ("blank", blank, f"{counted(blank, 'turn')} without a word"),
    )
    lines = [(label, said) for label, there, said in told if there]
    reasons = summary.get("stop_reasons")
    if isinstance(reasons, dict):
        lines.append(("endings", ", ".join(f"{line(str(reason)).replace('_', ' ')} {count}" for reason, count in reasons.items())))
    return lines + look_again(state)


def look_again(state: RunState) -> list[tuple[str, str]]:
    """The last lines of every end: what servers were asked, where the run lies, and how to look at it again."""
    if state.run is None:
        return []
    folder, servers = clean(state.run.folder), served_words(state.finished.summary.get("served")) if state.finished else ""
    return [*([("servers", servers)] if servers else []), ("run folder", folder), ("look again", f"expertchat watch {shlex.quote(folder)}")]
