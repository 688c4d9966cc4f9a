"""Conversations: how they were rated both ways, what was missing, how long they are and how they ended."""

from __future__ import annotations

from expertchat.report.parts import Section
from expertchat.report.subject import Subject


def conversations(subject: Subject) -> Section | None:
    """The section of all runs in which somebody talks."""
    return None
