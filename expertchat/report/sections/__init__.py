"""The sections of a report, in the order of the page: each a function that is handed what the report is about and gives its part of the
page, or None where there is nothing of the kind. A new one is a file and a line here.

What a section draws imports matplotlib when it is drawn; what stands in a damaged file is a ConfigError, which leaves out that section.
"""

from __future__ import annotations

from collections.abc import Callable

from expertchat.report.parts import Section
from expertchat.report.sections.conversations import conversations
from expertchat.report.sections.several import several
from expertchat.report.subject import Subject

MakeSection = Callable[[Subject], Section | None]

SECTIONS: tuple[MakeSection, ...] = (
    # Here: studies, training, arms, pairs, candidates, judges, labels, reward_models, best_of_n, lookup, one file each.
    several,
    conversations,
)
