"""`expertchat wim`: whether the WIM score of training runs rewards what it says."""

from __future__ import annotations

from collections.abc import Sequence


def run(arguments: Sequence[str]) -> int:
    """The figures, drawn."""
    from expertchat.audit.cosine import run_cosine
    from expertchat.views.wim import print_cosines

    return run_cosine(arguments, print_cosines)
