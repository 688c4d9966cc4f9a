"""A text that a rule makes of what is answered: what a reply must be better than to be worth a model."""

from __future__ import annotations

import re
from collections import Counter

from expertchat.choosing.subject import subject_line
from expertchat.text.likeness import blank, words
from expertchat.text.sentences import counted

LONGEST = "longest"  # of the candidates, so that it is known when they are there
PHRASES, LONG = 3, 4  # how many phrases a text is told by, and words of a phrase at most
SHORT = 3  # letters of a word that parts phrases


def rule_text(rule: str, said: str | None) -> str | None:
    """What a rule makes of `said`; None where there is nothing to make it of.

    >>> rule_text("first_sentence", "Tides rise. They fall again.")
    'Tides rise.'
    """
    if said is None or blank(said):
        return None
    if rule == "first_sentence":
        return next((sentence for sentence in counted(said) if not blank(sentence)), None)
    if rule == "subject_line":
        return subject_line(said, key_phrases(said))
    return key_phrases(said) if rule == "key_phrases" else None


def key_phrases(text: str) -> str | None:
    """Its weightiest phrases, in the order of the text: RAKE (Rose et al. 2010), with short words in the place of a list of stop words.

    A phrase is a run of longer words within a sentence; a word weighs what its phrases are long together by how often it comes, a phrase
    the sum of its words.

    >>> key_phrases("The gravity of the Moon pulls the ocean water and its tides.")
    'gravity, Moon pulls, ocean water'
    """
    found: list[list[str]] = []
    for part in re.split(r"[^\w\s'-]", text):
        run: list[str] = []
        for word in [*part.split(), ""]:
            if len(word.strip("'-")) > SHORT:
                run.append(word)
            elif run:
                found.append(run[:LONG])
                run = []
    count, reach = Counter[str](), Counter[str]()
    for phrase in found:
        for word in map(str.casefold, phrase):
            count[word] += 1
            reach[word] += len(phrase)
    weight = {" ".join(one): sum(reach[word] / count[word] for word in map(str.casefold, one)) for one in found}
    heavy = sorted(weight, key=lambda one: -weight[one])[:PHRASES]
    told = [one for one in weight if one in heavy]
    return ", ".join(told) if told and words(" ".join(told)) else None
