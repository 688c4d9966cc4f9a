"""`expertchat arms`: several training runs as one table."""

from __future__ import annotations

from collections.abc import Sequence


def run(arguments: Sequence[str]) -> int:
    """The table, drawn."""
    from expertchat.report.against_reward import as_svg
    from expertchat.runs.arms import run_arms
    from expertchat.views.arms import markdown, print_arms

    return run_arms(arguments, print_arms, markdown, as_svg)
