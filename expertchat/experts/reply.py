"""What a model wrote, taken apart into what everybody is shown and what is kept beside it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Reply:
    """`text` is what partner, judge and trainer are shown.

    Kept apart from it: `thinking`, and `beyond`, what was said in the partner's name.
    """

    text: str
    thinking: str = ""
    beyond: str = ""
