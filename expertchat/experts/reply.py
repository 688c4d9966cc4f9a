"""What a model wrote, taken apart into what everybody is shown and what is kept beside it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Reply:
    """`text` is what partner, judge and trainer are shown.

    Kept apart from it: `thinking`, and `beyond`, what was said in the partner's name. `thought`: there was a thinking block, perhaps an
    empty one. `unended`: the model was still thinking where its text ends.
    """

    text: str
    thinking: str = ""
    beyond: str = ""
    thought: bool = False
    unended: bool = False
