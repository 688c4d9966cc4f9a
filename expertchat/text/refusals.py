"""Whether a model refuses what it is asked for."""

from __future__ import annotations

import re

from expertchat.text.sentences import one_line

_SORRY = r"(?:(?:i'?m|i am|we are|we're) (?:very |so |truly )?sorry|sorry|i apologi[sz]e|apologies|my apologies|unfortunately)"
_CANNOT = (
    r"(?:i|we) (?:can ?not|can'?t|won'?t|will not|must decline|am unable to|am not able to|'?m not able to|'?m unable to"
    r"|do not feel comfortable|don'?t have)(?: to)?"
    r"(?: (?:help|assist|judge|rate|provide|evaluate|comply|fulfil+|answer|do|give|continue|engage|participate|access|personal|opinions"
    r"|any|the ability|with|this|that|an?|your)\b)"
)
_REFUSAL = re.compile(
    rf"(?:{_SORRY}[,.]? (?:but |that )?{_CANNOT}|{_CANNOT} (?:.{{0,30}})?(?:request|this|that|with|opinions|judg|rat|content)"
    rf"|as (?:an? )?(?:ai|artificial intelligence|large language model|language model)\b[^.!?]{{0,60}}\b(?:not|n't|cannot|unable)"
    r"|(?:es )?tut mir leid[,.]? (?:aber )?[^.]{0,40}\b(?:nicht|kein\w*)\b|als (?:ki|sprachmodell)\b[^.]{0,60}\b(?:nicht|kein\w*)\b"
    r"|ich kann (?:dabei|das|diese\w*)[^.]{0,40} nicht\b)",
    re.IGNORECASE,
)


def refuses(text: str) -> bool:
    """Whether the text begins as a refusal: "I'm sorry, but I can't ...", "As an AI, I do not ..."."""
    return bool(_REFUSAL.match(one_line(text).replace("’", "'").lstrip("\"'*_ ")))
