"""What is said in words wherever it is said, in a view or in a list: ages, why a run stopped, what happened last."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from expertchat.text.cleaning import clean, one_line

# Why a dialogue ended; docs/dialogues.md says when.
STOPPED = {
    "turns": "all turns are spoken",
    "nothing_new": "nobody has anything new to add",
    "loop": "the talk went in circles",
    "blank": "nobody says anything any more",
    "context_full": "the context is full",
    "token_limit": "the token limit is reached",
}
SIGNALS = {
    "SIGUSR1": "at the time limit", "SIGTERM": "from outside (SIGTERM)", "SIGINT": "by Ctrl-C", "SIGHUP": "because its terminal was closed",
}  # fmt: skip


def line(text: str) -> str:
    """Foreign text as one harmless line."""
    return one_line(clean(text))


def age(seconds: float) -> str:
    """ "12 s", "3 min", "2 h", "5 days"."""
    for unit, length in (("days", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= length * (2 if unit == "days" else 1):
            return f"{int(seconds // length)} {unit}"
    return f"{max(0, int(seconds))} s"


def stopped_by(reason: str | None) -> str:
    """Why a run stopped early, from the signal that it got; nothing where nothing is known."""
    return SIGNALS.get(reason or "", line(reason or ""))


def event_in_words(event: Mapping[str, Any]) -> str:
    """An event as it stands in the file, in a few words. It may hold anything: what is lacking is left out."""

    def told(key: str) -> str:
        return line(str(event.get(key) or ""))

    for name in ("rating", "wim", "reward", "guess"):
        if isinstance(record := event.get(name), Mapping):
            return f"{line(str(record.get('transcript') or ''))} is judged".strip()
    where, nth = told("conversation"), f"round {told('round')}".strip()
    match event.get("kind"):
        case "run_started":
            before = event.get("resumed")
            return f"went on, {before} were done" if isinstance(before, int) and before else "began"
        case "loading":
            return f"{'loaded' if event.get('done') else 'loads'} {told('what')}"
        case "note":
            return told("text")
        case "conversation_started":
            return f"{where} begins: {told('topic')}"
        case "turn_finished":
            index = event.get("index")
            return f"turn {index + 1 if isinstance(index, int) else '?'} of {where}"
        case "candidates_judged":
            return f"candidates in {where} are judged"
        case "conversation_finished":
            return f"{where} is spoken"
        case "conversation_judged":
            return f"{where} is done"
        case "round_started":
            return f"{nth} begins"
        case "phase_started":
            return f"{nth}: {told('phase')}" if event.get("round") else told("phase")  # round 0 comes before the first
        case "measured":
            metrics = event.get("metrics")
            return f"round {metrics.get('round')} is measured" if isinstance(metrics, Mapping) else "measured"
        case "round_finished":
            return f"{nth} is done"
        case "judge_called":
            judge = event.get("judge")
            return f"judge {line(str(judge.get('id')))} begins" if isinstance(judge, Mapping) else "a judge begins"
        case "opinion_given":
            opinion = event.get("opinion")
            return f"{line(str(opinion.get('item')))} is judged" if isinstance(opinion, Mapping) else "an item is judged"
        case "run_finished":
            reason, stopped = stopped_by(told("reason")), event.get("status") == "stopped"
            return told("status") + (f"{'' if stopped else ':'} {reason}" if reason else "")
    return told("kind").replace("_", " ")
