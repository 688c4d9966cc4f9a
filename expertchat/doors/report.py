"""`expertchat report RUN|FOLDER ...`: one HTML file to look at."""

from __future__ import annotations

from collections.abc import Sequence


def run(arguments: Sequence[str]) -> int:
    """Write the page, or show its first part in the terminal."""
    from expertchat.report.command import run_report
    from expertchat.views.report import print_report, print_written

    return run_report(arguments, print_report, print_written)
