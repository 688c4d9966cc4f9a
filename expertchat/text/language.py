"""In which of several languages a text is written, by the short words that it has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from expertchat.text.likeness import words


def language_of(text: str, marks: Mapping[str, Sequence[str]]) -> str | None:
    """The language whose marks most words of the text are; None where it has none of any, or as many of two.

    >>> marks = {"en": ["the", "and", "is"], "de": ["der", "und", "ist"]}
    >>> language_of("Der Hund ist weg, und wer hat ihn gesehen?", marks), language_of("Ciao!", marks)
    ('de', None)
    """
    said = words(text)
    found = sorted(((sum(word in set(own) for word in said), name) for name, own in marks.items()), reverse=True)
    if not found or not found[0][0] or (len(found) > 1 and found[0][0] == found[1][0]):
        return None
    return found[0][1]
