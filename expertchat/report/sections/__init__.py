"""The sections of a report, in the order of the page: each a function that is handed what the report is about and gives its part of the
page, or None where there is nothing of the kind. A new one is a file and a line here.

What a section draws imports matplotlib when it is drawn; what stands in a damaged file is a ConfigError, which leaves out that section.
"""

from __future__ import annotations

from collections.abc import Callable

from expertchat.report.parts import Section
from expertchat.report.sections.arms import arms
from expertchat.report.sections.best_of_n import best_of_n
from expertchat.report.sections.candidates import candidates
from expertchat.report.sections.conversations import conversations
from expertchat.report.sections.family import family
from expertchat.report.sections.judges import judges
from expertchat.report.sections.labels import labels
from expertchat.report.sections.lookup import lookup
from expertchat.report.sections.pairs import pairs
from expertchat.report.sections.picks import picks, posts
from expertchat.report.sections.reward_models import reward_models
from expertchat.report.sections.several import several
from expertchat.report.sections.studies import studies
from expertchat.report.sections.training import training
from expertchat.report.subject import Subject

MakeSection = Callable[[Subject], Section | None]

SECTIONS: tuple[MakeSection, ...] = (
    studies,
    several,
    arms,
    training,
    conversations,
    family,
    pairs,
    candidates,
    judges,
    labels,
    reward_models,
    best_of_n,
    picks,
    posts,
    lookup,
)
