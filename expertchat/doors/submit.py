"""`expertchat submit`: another command as a job, a study as a chain of them."""

from __future__ import annotations

import os
from collections.abc import Sequence


def run(arguments: Sequence[str]) -> int:
    """Submit, and say as what."""
    os.environ["HF_HUB_OFFLINE"] = "1"  # the nodes have no network either
    if next(iter(arguments), "") == "study":
        from expertchat.studies.chain import run_submit_study
        from expertchat.views.study import print_chain

        return run_submit_study(arguments[1:], print_chain)
    from expertchat.slurm.submit import run_submit
    from expertchat.views.outcomes import print_submitted

    return run_submit(arguments, print_submitted)
