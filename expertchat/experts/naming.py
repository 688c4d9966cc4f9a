"""The topic in what a model proposed: a name of one to six words, or why there is none.

A sentence, an instruction, a copy of the request and whatever was cut in the middle name no topic. What is wrapped around a name (quotes,
numbers, "Topic:", "Let us talk about ...") is taken off.
"""

from __future__ import annotations

import re
from unicodedata import category

from expertchat.text.likeness import has_question_mark, longest_run, units, weight, words
from expertchat.text.sentences import one_line

RUN, COPIED = 3, 2 / 3  # words in a row of the request, or a share of the longer words, that make a topic a copy of it
WORDS, CHARACTERS = 6, 20  # of a topic at most: words, and characters in scripts without spaces
PROBLEMS = {
    "refusal": "refused",
    "thinking": "only thought",
    "nothing": "named nothing",
    "cut": "were cut at the token limit",
    "sentence": "were sentences",
    "long": f"had more than {WORDS} words",
    "prompt": "copied the request",
    "list": "were lists",
    "marks": "held marks that are in no name",
    "near": "came too close to an earlier topic",
}
"""Why a proposal is no topic -> how it is said of several."""

_TOPIC = (
    r"(?:topic|subject|theme|title|proposal|thema|tema|sujet|titel|título|тема|话题|話題|主题|主題|トピック|テーマ|주제|موضوع|الموضوع|विषय)"
)
_LABEL = re.compile(
    rf"^(?:[^\n:：]{{0,60}}\b)?{_TOPIC}(?: (?:\d+|proposal|suggestion|idea|name))?(?: (?:is|would be|could be|for [\w ]+))? ?[:：]\s*",
    re.IGNORECASE,
)
_NUMBER = re.compile(r"^(?:[-*•·–—#>]+|\(?\d{1,2}[.):]|[a-zA-Z]\))\s+")
_LEAD = re.compile(
    r"^(?:(?:sure|okay|ok|certainly|of course|yes|well)[!,.:]? )?"
    r"(?:(?:how|what) about"
    r"|(?:(?:let us|let's|we (?:could|can|should)|you (?:could|can|should)|i(?:'d| would)?(?: like to)?|please|maybe|perhaps) ?)*"
    r"(?:talk about|discuss|suggest|propose|explore))(?: (?:a |the )?(?:topic|discussion) (?:of|on|about))? (?=\S)",
    re.IGNORECASE,
)
_QUOTED = re.compile(r"[\"“„«「『]([^\"“”„«»「」『』\n]{2,60})[\"”“»」』]|\*\*([^*\n]{2,60})\*\*")


def _set(text: str) -> frozenset[str]:
    return frozenset(text.split())


_WRAPS = "\"'“”„‘’«»「」『』*_` \t"
_INSIDE = re.compile(r"[.!?。！？…]\s+\S|[。！？;；]\S|\.{2,}")
# Words of whole sentences that are in hardly any name: not "us" (US history), "war", "hat", "io"; "I" only as the first (World War I).
_PERSON = _set(
    "i'm i'd i've i'll myself you you're your yours yourself we we're let's it's that's there's here's what's who's "
    "ich wir mich dich yo tú usted nosotros je nous vous você nós я ты мы вы"
)
_VERB = _set(
    "is are was were isn't aren't wasn't weren't should would could cannot can't don't doesn't didn't won't has have had does did "
    "ist sind waren wird werden haben está están sont è são é"
)
_ORDER = _set(
    "i discuss propose choose imagine consider explain describe write please suggest "
    "diskutiere schreibe wähle beschreibe discute escribe elige discutez écrivez choisissez"
)
_REPLY = _set(
    "yes no ok okay sure none nothing hello hi hey thanks thank welcome great good fine done n a the an one it this that and or of"
)
_CLOSES = re.compile(r"(?:吧|吗|嗎|呢|了|ですか?|ます|ません|ましょう|ください|습니다|세요|까요)$")
_NAMED = "-'’‘.,:&/()+#·・ー–—\"“”„«»「」『』‧"  # besides letters, marks and digits


def named(text: str, request: str = "", cut: bool = False) -> tuple[str | None, str | None]:
    """(the topic, None) or (None, the kind of problem). `request` is what the model was asked; `cut`: the token limit ended the text.

    >>> named('1. **Topic:** "The history of zero."'), named("Discuss the topic yourself")
    (('The history of zero', None), (None, 'sentence'))
    """
    lines = [line.strip() for line in text.split("\n") if any(c.isalnum() for c in line)]
    if not lines:
        return None, "nothing"
    first = _bare(lines[0])
    if not any(c.isalnum() for c in first) or first.endswith((":", "：")):  # only "Here is a topic:"
        if len(lines) < 2:
            return None, "cut" if cut else "nothing"
        lines, first = lines[1:], _bare(lines[1])
    if cut and len(lines) < 2:
        return None, "cut"
    problem = _problem(first, request)
    for match in _QUOTED.finditer(lines[0]) if problem in ("sentence", "long") else ():
        inner = _bare(match[1] or match[2])
        if _problem(inner, request) is None:
            return inner, None
    return (first, None) if problem is None else (None, problem)


def _bare(line: str) -> str:
    """What is left of a line without numbers, labels, leads and quotes around it."""
    line = one_line(line)
    while True:
        before = line
        line = _NUMBER.sub("", line).strip(_WRAPS)
        line = _LABEL.sub("", line).strip(_WRAPS)
        if match := _LEAD.match(line.replace("’", "'")):
            line = line[match.end() :].rstrip("?？").strip(_WRAPS)
        line = line.removesuffix(".").removesuffix("。") if not line.endswith("..") else line
        line = re.sub(r"\s*[,;:–—-]+(?: ?\d{1,2})?$", "", line)  # the beginning of a list's next item
        if line == before:
            return line


def _problem(topic: str, request: str) -> str | None:
    found = words(topic)
    if not any(c.isalpha() for c in topic) or all(word in _REPLY or word.isdecimal() for word in found):
        return "nothing"
    tokens = topic.casefold().replace("’", "'").split()
    stripped = [token.strip(".,:;()\"'") for token in tokens]
    if has_question_mark(topic) or topic.endswith(("!", "！")) or _INSIDE.search(topic) or _CLOSES.search(topic):
        return "sentence"
    if stripped[0] in _ORDER or _PERSON & set(stripped) or _VERB & set(stripped[1:]):
        return "sentence"
    alone = sum(weight([word]) < 1 for word in found)
    if len(found) - alone > WORDS or alone > CHARACTERS:
        return "long"
    if len(re.findall(r"[,、，;；]", topic)) > 1:
        return "list"
    if any(category(c)[0] not in "LMNZ" and c not in _NAMED for c in topic) or topic.count("(") != topic.count(")"):
        return "marks"
    return "prompt" if _copies(topic, request) else None


def _copies(topic: str, request: str) -> bool:
    """Whether most longer words of a topic stand in the request, or three words in a row, or its label ("Experts: Jane Smith")."""
    asked, own = set(units(request)), [unit for unit in units(topic) if len(unit) > 2 or weight([unit]) < 1]
    label = re.match(r"(\w+): ", topic)
    if (label and label[1].casefold() in asked) or weight(longest_run(words(request), words(topic))) >= RUN:
        return True
    return bool(own) and sum(unit in asked for unit in own) >= COPIED * len(own)
