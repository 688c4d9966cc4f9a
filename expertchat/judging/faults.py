"""Texts that are not what a judge was asked for, each by its kind. Pure functions; docs/ratings.md says what each kind means.

A fault is claimed only where it is certain: what is doubtful stays an answer. Names, quotations and short texts never suffice.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache

from expertchat.judging.nothing import doubts, says_nothing
from expertchat.records import SEATS
from expertchat.text.likeness import longest_run, weight, words
from expertchat.text.refusals import refuses
from expertchat.text.sentences import one_line, sentences

PARROT = "parrot"  # the kind of a text that repeats the judged one
PARROT_COSINE = 0.98
UNANSWERED = "unanswered"  # the kind of what a server has not answered
PARROT_WORDS, PARROT_SHARE = 8, 0.6  # a verbatim run of at least so many words that makes up so much of the text
ECHO_RUN, ECHO_SHARE = 5, 0.6  # so much of a text stands in the prompt, in runs of at least so many words
LOOP_WORDS, LOOP_DISTINCT = 30, 0.5  # of at least so many words, fewer than so many of all runs of three are different
LOOP_NUMBERS = 12  # so many numbers one after the other are counting, not citing
_LETTER = r"[^\W\d_]"
_SENTENCES = re.compile(r"[.!?。！？｡।॥؟۔\n]+")


@dataclass(frozen=True)
class Fault:
    """Why there is no answer: a short kind for counting, a sentence for people."""

    kind: str
    problem: str


# -- the kinds ----------------------------------------------------------------------------------------------------------

def loops(text: str) -> bool:
    """Whether the text says one thing over and over: one sentence, a list of like items, numbers counted up."""
    plain = _plain(text)
    if weight(plain) >= LOOP_WORDS:
        triples = list(zip(plain, plain[1:], plain[2:], strict=False))
        if len(set(triples)) < LOOP_DISTINCT * len(triples):
            return True
    if " ".join(["#"] * LOOP_NUMBERS) in " ".join(plain):
        return True
    said = Counter(tuple(w for w in _plain(part) if w != "#") for part in _SENTENCES.split(text))
    sentence, times = max(said.items(), key=lambda item: item[1] * weight(item[0]), default=((), 0))
    size = weight(sentence)
    return times >= 3 and size >= 3 and times * size > weight(plain) / 2


def _plain(text: str) -> list[str]:
    """The words (of a script without spaces, the characters); every number is "#"."""
    return ["#" if word.isdigit() else word for word in words(text)]


_MARKED = re.compile(r"[.!?][\"')]* ?(?:\[\d{1,3}\]|\(\d{1,3}\))(?=\s|$)")


@cache
def _line_of_transcript(seats: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile(rf"^\s*(?:{'|'.join(seat.upper() for seat in seats)}): ", re.MULTILINE)


def echoes(text: str, prompt: str, seats: Sequence[str] = SEATS) -> bool:
    """Whether the text copies the prompt, or goes on with the transcript in its form (speakers and sentence numbers)."""
    line = _line_of_transcript(tuple(seats))
    lines, marked = len(line.findall(text)), len(_MARKED.findall(text))
    if lines >= 2 or (marked and line.match(text)) or re.search(r"[<‹]/?transcript[>›]", text):
        return True
    plain, source = _plain(text), _plain(prompt)
    if weight(plain) < PARROT_WORDS:
        return False
    run = round(ECHO_RUN * len(plain) / weight(plain))  # in characters where there are no words
    known = {tuple(source[i : i + run]) for i in range(len(source) - run + 1)}
    covered = {i + k for i in range(len(plain) - run + 1) if tuple(plain[i : i + run]) in known for k in range(run)}
    return len(covered) >= ECHO_SHARE * len(plain)


def copies(reply: str, text: str) -> bool:
    """Whether most of `text` is one long verbatim run of words of `reply`."""
    written = words(text)
    if weight(written) < PARROT_WORDS:
        return False
    run = weight(longest_run(words(reply), written))
    return run >= PARROT_WORDS and run >= PARROT_SHARE * weight(written)


# The other's question, objection or claim is what the judged one may have left without an answer.
_OWN_WORDS = (
    r"'?s (?:[\w-]+ )?(?:answers?|repl(?:y|ies)|responses?|turns?|explanations?|sentences?|texts?|contributions?|descriptions?)\b"
)
_SPEAKS = (
    rf"(?:{_OWN_WORDS}|lacks?|misses|does|did|doesn|didn|fails?|failed|should|could|is|was|has|gives?|gave|says?|said|explains?|only"
    r"|mentions?|never|provides?|needs)"
)
_PARTS = r"(?:the )?(?:answers?|repl(?:y|ies)|responses?|turns?|sentences?) (?:of|by|from|given by)"


def wrong_expert(text: str, subject: str, seats: Sequence[str] = SEATS) -> bool:
    """Whether the text begins as one about another expert of `seats` and never names `subject`."""
    other = f"(?:{'|'.join(seat.upper() for seat in seats if seat != subject)})"
    flat = one_line(text).replace("’", "'").lstrip("\"'*_ ")
    begins = re.match(rf"(?:{_PARTS} expert {other}\b|expert {other} ?{_SPEAKS}|expert {other}:)", flat, re.IGNORECASE)
    named = re.search(rf"\b(?:experts|expert {subject}|both|partner)\b", flat, re.IGNORECASE)
    return begins is not None and named is None and re.search(rf"\b{subject.upper()}\b", flat) is None


# -- language -----------------------------------------------------------------------------------------------------------

_SCRIPTS = (
    ("Latin", "A-Za-zÀ-ɏ"), ("Cyrillic", "Ѐ-ӿ"), ("Greek", "Ͱ-Ͽ"), ("Arabic", "؀-ۿ"), ("Hebrew", "֐-׿"), ("Devanagari", "ऀ-ॿ"),
    ("Thai", "฀-๿"), ("Hangul", "가-힯"), ("Kana", "぀-ヿ"), ("Han", "一-鿿"),
)  # fmt: skip
# Words that are frequent in one of these languages and not in the others.
_STOP_WORDS = {
    "English": "the and of is are was were that this with for not they have has it to which what from been does",
    "German": "der und ist nicht das sich auf dem mit ein eine sind wird auch werden aber oder wie durch sie nur noch",
    "French": "les des est et une dans pour que qui pas sur avec sont plus ce cette aux mais elle nous",
    "Spanish": "los las una es y por con que del para como pero más se su está son muy sobre",
    "Italian": "il gli di che è una per non con sono della del anche più come nel questo alla dei",
    "Portuguese": "os uma não é com para por mais dos como mas foi ao ele das tem à seu sua isso",
    "Dutch": "het een van en niet zijn dat voor met ook maar aan wordt er bij naar deze worden",
}
_STOPS = {name: frozenset(words.split()) for name, words in _STOP_WORDS.items()}
LANGUAGE_WORDS, LANGUAGE_HITS, LANGUAGE_LETTERS = 12, 5, 20


def language(text: str) -> str | None:
    """The script of a text that is not Latin, else the language that its small words tell, or None where that is not sure.

    A Latin text needs 12 words, 5 small words of one language that make up a fifth of it, and at most half as many of any other.
    """
    letters = [c for c in text if c.isalpha()]
    if len(letters) < LANGUAGE_LETTERS and not any(re.match("[぀-ヿ一-鿿가-힯]", c) for c in letters):
        return None
    counts = {name: len(re.findall(f"[{span}]", text)) for name, span in _SCRIPTS}
    counts["Han"], counts["Kana"] = (counts["Han"], 0) if not counts["Kana"] else (0, counts["Han"] + counts["Kana"])
    script = max(counts, key=lambda name: counts[name])
    if counts[script] < 0.7 * len(letters) or counts[script] < 8:
        return None
    if script != "Latin":
        return script
    words = [word.lower() for word in re.findall(rf"{_LETTER}+", text)]
    if len(words) < LANGUAGE_WORDS:
        return None
    hits = sorted(((sum(word in stops for word in words), name) for name, stops in _STOPS.items()), reverse=True)
    (best, name), (second, _) = hits[0], hits[1]
    return name if best >= LANGUAGE_HITS and best >= 0.2 * len(words) and second <= best / 2 else None


def other_language(text: str, reference: str) -> bool:
    """Whether the text is surely in another language than `reference`, the judged dialogue."""
    mine, theirs = language(text), language(reference)
    if mine is None or theirs is None or mine == theirs:
        return False
    return {mine, theirs} != {"Han", "Kana"}  # Japanese may stand in Chinese characters alone


# -- what is missing ----------------------------------------------------------------------------------------------------

_FRAME = frozenset(
    [
        "the", "a", "an", "missing", "specific", "important", "content", "contents", "is", "are", "in", "of", "expert", "experts",
        "answer", "answers", "what", "which", "and", "sentence", "sentences", "number", "numbers",
        "numbered", "to", "from", "for", "following", "it",
        "this", "that", "there", "here",
    ]
)


def rates(text: str, categories: Iterable[str]) -> bool:
    """Whether the text gives ratings: it begins with one, or has two or more (a category, a colon and a number; n/10)."""
    names = "|".join(re.escape(c.replace("_", " ")) for c in categories) or r"(?!)"
    line, tenth = rf"\b(?:{names}|rating|score)\b[*_]*\s*[:=][*_]*\s*\[*\d", r"(?<![\w/.])\d{1,2} ?(?:/|out of) ?10\b(?!/)"
    piece = re.compile(f"{line}|{tenth}", re.IGNORECASE)
    return bool(piece.match(text.lstrip("*_[(\"' \n"))) or len(piece.findall(text)) >= 2


def no_content(text: str, seats: Sequence[str] = SEATS) -> bool:
    """Whether the text names no content at all: only the words of the question, and numbers ("The missing content is [7].")."""
    frame = _FRAME.union(*(_plain(seat) for seat in seats))
    return all(word == "#" or word in frame for word in _plain(text))


# -- together -----------------------------------------------------------------------------------------------------------


def of_prose(text: str, *, subject: str, prompt: str, reference: str, seats: Sequence[str] = SEATS) -> Fault | None:
    """The fault of a judge's prose on expert `subject` of `seats`. `prompt` is what may not be copied, `reference` the dialogue."""
    if not text.strip():
        return Fault("empty", "empty answer")
    if refuses(text):
        return Fault("refusal", "refuses to judge")
    if other_language(text, reference):
        return Fault("language", f"is in another language than the dialogue ({language(text)})")
    if loops(text):
        return Fault("loop", "repeats itself")
    if echoes(text, prompt, seats):
        return Fault("echo", "copies the prompt or goes on with the transcript")
    if wrong_expert(text, subject, seats):
        return Fault("wrong_expert", "is about the other expert" if len(seats) == 2 else "is about another expert")
    return None


def of_analysis(
    text: str, *, subject: str, prompt: str, reference: str, reply: str, seats: Sequence[str] = SEATS
) -> Fault | None:
    """The fault of an analysis in prose. No analysis at all is none: the judge went to the ratings at once."""
    if not text.strip():
        return None
    parrot = Fault(PARROT, "parrots the reply") if copies(reply, text) else None
    fault = parrot or of_prose(text, subject=subject, prompt=prompt, reference=reference, seats=seats)
    return fault and Fault(fault.kind, f"the analysis {fault.problem}")


def of_wim(
    text: str, *, subject: str, prompt: str, reference: str, categories: Sequence[str], seats: Sequence[str] = SEATS
) -> Fault | None:
    """The fault of a WIM response that is not in the empty form; parroting is told apart by its cosine, later."""
    if text.strip() and rates(text, categories):
        return Fault("rates", "rates instead of naming what is missing")
    if text.strip() and no_content(text, seats):
        return Fault("no_content", "names no content")
    if len(parts := sentences(text)) > 1 and says_nothing(parts[0], seats):
        return Fault("unclear", "says that nothing is missing, and goes on")
    if doubts(text, seats):
        return Fault("unclear", "doubts that nothing is missing, and names nothing")
    return of_prose(text, subject=subject, prompt=prompt, reference=reference, seats=seats)
