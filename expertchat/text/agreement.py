"""Phrases that agree or flatter instead of saying anything: what a policy learns to open with where judges like to be liked."""

from __future__ import annotations

import re

from expertchat.text.sentences import one_line

_GOOD = (
    r"(?:(?:very|really|such|quite) )*"
    r"(?:good|great|excellent|wonderful|fantastic|fair|valid|interesting|important|insightful|fascinating)"
)
_THING = r"(?:point|question|idea|insight|observation|explanation|summary|answer|thought|remark|one)"
_ENGLISH = (
    r"(?:i|we) (?:\w+ly )?(?:agree|couldn'?t agree more|could not agree more|concur)\b"
    r"|(?:you(?:'re| are)|that(?:'s| is)|this is) (?:\w+ly |so )*(?:right|correct|true)\s*(?:[.!,]|$)"
    rf"|(?:(?:(?:that|this)(?:'s| is)|what) (?:an? )?)?{_GOOD} {_THING}\b|an? {_GOOD} {_THING}\s*(?:[.!,]|$)"
    r"|(?:absolutely|exactly|indeed|precisely|definitely|totally|well said|of course|agreed)\s*(?:[.!,]|$)"
    r"|(?:thank you|thanks(?! to\b))\b"
)
_GUT = r"(?:sehr )?(?:gute?r?|tolle?r?|wichtige?r?) (?:punkt|frage|idee|gedanke)"
_GERMAN = (
    r"(?:ich|da|dem) (?:stimme[^.!?]{0,40}\bzu|pflichte[^.!?]{0,40}\bbei|kann[^.!?]{0,40}\b(?:zustimmen|beipflichten))\b"
    r"|(?:du hast|sie haben|da hast du|ihr habt)[^.!?]{0,15}\brecht\b|(?:genau|richtig|stimmt|absolut|danke|vielen dank)\s*(?:[.!,]|$)"
    rf"|(?:das ist (?:eine? )?)?{_GUT}\b|eine? {_GUT}\s*(?:[.!,]|$)"
)
_AGREES = re.compile(rf"(?:(?:yes|no|oh|ah|well|ja)\b[,.! ]*)?(?:{_ENGLISH}|{_GERMAN})", re.IGNORECASE)


def agrees(sentence: str) -> bool:
    """Whether a sentence begins as an agreement, praise or thanks, in English or German.

    >>> [agrees(said) for said in ("I completely agree.", "That is a good point.", "Great question!", "Du hast völlig recht.")]
    [True, True, True, True]
    >>> [agrees(said) for said in ("Tides rise twice a day.", "Good bread needs time.", "That is true of comets alone.", "Do you agree?")]
    [False, False, False, False]
    """
    return bool(_AGREES.match(one_line(sentence).replace("’", "'").lstrip("\"'*_ ")))
