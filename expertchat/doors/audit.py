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
    return composed("audit", _named(arguments), _one)


def _one(job: Job) -> int:
    from expertchat.audit.run import run_audit
    from expertchat.views.audit import markdown, print_card
    from expertchat.views.audit_plot import svg

    return run_audit(job.config, print_card, markdown, svg)


def _named(arguments: Sequence[str]) -> list[str]:
    """`SOURCE ...` as overrides."""
    words = [word for word in arguments if "=" not in word and not word.startswith("-")]
    named = ",".join("'" + word.replace("\\", "\\\\").replace("'", "\\'") + "'" for word in words)
    return [*(one for one in arguments if one not in words), *([f"paths=[{named}]"] if words else [])]


def check(config: AuditConfig, here: bool) -> Problems:
    """What keeps it from being run."""
    from importlib.util import find_spec

    from expertchat.command.check_places import new_file_problem

    for key, path in (("out", config.out), ("plot", config.plot)):
        if path and (problem := new_file_problem(key, path)):
            yield problem
    if config.plot and find_spec("matplotlib") is None:
        yield f"plot={config.plot}: needs matplotlib: pip install 'expertchat[lab]', or leave it out"
