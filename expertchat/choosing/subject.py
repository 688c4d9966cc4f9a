"""The subject line of a post by fixed rules: what a model's line must be better than.

The rules, the first of which that gives a line counts (docs/studies/let_ai_entertain_you.md):

1. A greeting at the beginning is left out ("Hi neighbours!", "Liebe Nachbarn,").
2. The first sentence, where it is no longer than ten words.
3. A question among the first three sentences that is no longer than that.
4. Its weightiest phrases (RAKE, see `ruled.key_phrases`), where they are no longer than that.
5. The first ten words of the first sentence, and three dots.

A line begins with a capital, ends without a full stop, and is no longer than 70 characters.
"""

from __future__ import annotations

import re

from expertchat.text.likeness import blank, weight, words
from expertchat.text.sentences import asks, counted, one_line

LONGEST, CHARACTERS = 10.0, 70  # of a line, in words and in characters
QUESTIONS = 3  # sentences among which a question is looked for
DOTS = "…"
_GREETING = re.compile(
    r"^(?:(?:hi|hello|hey|dear|good (?:morning|evening|day)|hallo|liebe[rs]?|guten (?:morgen|abend|tag)|bonjour|hola|ciao)\b"
    r"(?:\s+[^\s,!.:;?–-]+){0,3}\s*[,!.:;–-]+\s*)+",
    re.IGNORECASE,
)


def subject_line(text: str, phrases: str | None) -> str | None:
    """The line that the rules make of a post, whose key phrases are `phrases`; None where it says nothing.

    >>> subject_line("Hi neighbours! My cat Tom is missing. He is grey.", None)
    'My cat Tom is missing'
    >>> subject_line("I have been looking for somebody in this town who cuts hedges. Does anyone know a gardener? Thanks.", None)
    'Does anyone know a gardener?'
    """
    plain = _GREETING.sub("", one_line(text)).strip()
    said = [sentence for sentence in counted(plain if not blank(plain) else text) if not blank(sentence)]
    if not said:
        return None
    first = said[0]
    questions = [sentence for sentence in said[:QUESTIONS] if asks(sentence)]
    fitting = (line for line in (first, *questions, phrases) if line is not None and fits(line))
    return finished(next(fitting, None) or cut(first))


def fits(line: str) -> bool:
    """Whether a line is short enough for a subject."""
    return weight(words(line)) <= LONGEST and len(line) <= CHARACTERS


def cut(sentence: str) -> str:
    """The beginning of a sentence that fits, with dots; at a space where it has one."""
    taken = sentence[: CHARACTERS - 1]
    while not fits(taken) or (taken != sentence and taken[-1:].isalnum() and sentence[len(taken) :][:1].isalnum() and " " in taken):
        taken = taken.rpartition(" ")[0] if " " in taken else taken[:-1]
    return taken.rstrip(" ,;:–-") + DOTS


def finished(line: str) -> str:
    """The line as it is set: a capital first, no full stop at its end."""
    bare = line.strip().rstrip(".") if not line.endswith("...") else line.strip()
    return bare[:1].upper() + bare[1:]
