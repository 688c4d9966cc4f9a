"""`expertchat audit SOURCE ...`: the judges' card."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from expertchat.doors.entry import composed

if TYPE_CHECKING:
    from expertchat.audit.config import AuditConfig
    from expertchat.command.checks import Problems
    from expertchat.command.launch import Job


def run(arguments: Sequence[str]) -> int:
    """The card as a table."""
    from expertchat.sources.words import as_overrides

    return composed("audit", as_overrides(arguments), _one)


def _one(job: Job) -> int:
    from expertchat.audit.run import run_audit
    from expertchat.report.sections.judges import svg
    from expertchat.views.audit import markdown, print_card

    return run_audit(job.config, print_card, markdown, svg)


def check(config: AuditConfig, here: bool) -> Problems:
    """What keeps it from being run."""
    from importlib.util import find_spec

    from expertchat.command.check_places import new_file_problem

    for key, path in (("out", config.out), ("plot", config.plot)):
        if path and (problem := new_file_problem(key, path)):
            yield problem
    if config.plot and find_spec("matplotlib") is None:
        yield f"plot={config.plot}: needs matplotlib: pip install 'expertchat[plot]', or leave it out"
