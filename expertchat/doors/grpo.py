"""`expertchat grpo`: the experts learn from each other, round by round, by GRPO."""

from __future__ import annotations

from collections.abc import Sequence

from expertchat.doors.online_dpo import WORK, check, learn

__all__ = ["WORK", "check", "run"]


def run(arguments: Sequence[str]) -> int:
    """One run, or a sweep, whose runs are shown in one table at its end."""
    return learn("grpo", arguments)
