"""`expertchat submit`: another command as a job."""

from __future__ import annotations

import os
from collections.abc import Sequence


def run(arguments: Sequence[str]) -> int:
    """Submit, and say as what."""
    os.environ["HF_HUB_OFFLINE"] = "1"  # the nodes have no network either
    from expertchat.slurm.submit import run_submit
    from expertchat.views.outcomes import print_submitted

    return run_submit(arguments, print_submitted)
