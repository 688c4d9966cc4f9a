"""Reading one rating out of what a judge wrote: whose number, in what form, never repaired, one value, else null.

The grammar (docs/ratings.md has it as a table, which a test reads):

    answer      := open* [label] open* value [scale] [unit] close* (end | separator explanation | connective explanation)
    value       := "1" ... "10" in ASCII digits, with nothing glued to it
    explanation := text that states no other value: its numbers count things, name sentences, or are the scale

Everything else is null, and only then is it asked what it may have been (`_kind`): the kind of a null never changes a value.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

from expertchat.records import SEATS
from expertchat.text.refusals import refuses
from expertchat.text.thinking import split


@dataclass(frozen=True)
class Parsed:
    """A rating read from text, or None with the reason as a sentence and as a short kind."""

    value: int | None
    problem: str | None = None
    fault: str | None = None


_WORDS = [
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "null", "eins", "zwei", "drei", "vier",
    "fünf", "sechs", "sieben", "acht", "neun", "zehn",
]
_WORD_NUMBER = "|".join(_WORDS)
_GENERIC = r"(?:(?:the|my|final|die|meine) )*(?:rating|score|answer|bewertung|wertung|antwort)"
_NO_LABEL = [
    "Note", "Expert", "Overall", "Total", "Scale", "Max", "Maximum", "Min", "Minimum", "Average", "Mean", "Sentence", "Step",
    "Errors", "Facts", "Confidence",
]
_I_GIVE = r"i(?P<would>'d| would)? (?:rate|give|score)(?: (?:it|this|them|{whom}))?(?: with)?(?: an?)?\s+(?=[0-9*_`\[])"
_MARKS = ("**", "__", "*", "_", "`", "[[")
_CLOSE = {"[[": "]]"}
_QUOTES = {'"': '"', "'": "'", "“": "”", "„": "“", "(": ")"}  # these wrap the value alone, or the whole answer
_SCALE = r"(?:/ ?|out of |of |von |(?:on|auf) (?:a|an|the|einer) (?:scale|skala) (?:of|from|von) 1 ?(?:-|–|to|bis) ?|on a 1 ?(?:-|–|to) ?)"
_CORE = re.compile(
    rf"(?P<value>[0-9]+)(?: ?(?:points?|pts|punkte?))?(?: ?{_SCALE}(?P<scale>[0-9]+)(?: scale)?)?(?: ?(?:points?|pts|punkten?))?(?!\w)",
    re.IGNORECASE,
)
_OUTSIDE = re.compile(rf" ?{_SCALE}(?P<scale>[0-9]+)(?![\w])", re.IGNORECASE)
_CONNECTIVE = re.compile(r" (?:because|since|as|for|due to|with|weil|da|denn|wegen)\b", re.IGNORECASE)
_SEPARATOR = re.compile(r"[.!:;,]?(?:(?:\s+[-–—]+|[—–])?(?=[\s(]|$)|[—–](?=[^\W\d_]))")
# Numbers of an explanation that are nobody's rating: the scale itself, sentence markers, named sentences, years.
_HARMLESS = re.compile(
    r"\((?:(?:out of |von |max\.? |of )10|10 (?:is|being|=) (?:the )?(?:best|highest|excellent))\)"
    r"|(?:scale|skala) (?:of|from|von) 1 ?(?:-|–|to|bis) ?10(?![\w.,/%]*\d)|\(1 ?(?:-|–|to|bis) ?10\)"
    r"|\(1 ?(?:=|is|being) ?[a-z ]+, 10 ?(?:=|is|being) ?[a-z ]+\)|\b1 ?[-–] ?10 scale"
    r"|(?<!\[)\[\d{1,3}(?:, ?\d{1,3})*\](?!\])"
    r"|\b(?:sentences?|turns?|lines?|steps?|paragraphs?|sätze?) \d{1,3}(?:(?:,| and|, and| to|-|–| und) ?\d{1,3})*(?![\w.,/%]*\d)"
    r"|\b(?:in|since|from|around|by|seit) [12]\d{3}(?![\w.,/%-]*\d)",
    re.IGNORECASE,
)
# What may stand behind closed brackets and says nothing: pictures and marks, but none that is a measure.
_IDLE = re.compile(r"(?:[*_`]|<br ?/?>|[^\S\n]|(?![🔟💯★☆⭐🌟👎])[\u200b-\u200d\u2190-\u2bff\ufe0f\U0001f300-\U0001faff])+")
_UNIT = re.compile(
    r"(?:points?|pts|stars?|percent|punkte?n?|sterne?|prozent|errors?|mistakes?|facts?|fehler|fakten|of|out|would|could|might|is|was|than)\b",
    re.IGNORECASE,
)
_FIXED = re.compile("[\u00a0\u2007\u202f]")  # spaces that do not break, as French has them before a colon and between a number and its unit
_ANY_NUMBER = re.compile(rf"(?P<number>\d+|\b(?:{_WORD_NUMBER})\b)", re.IGNORECASE)
_BEFORE_RATING = frozenset(
    [
        "to", "or", "not", "than", "maybe", "perhaps", "say", "think", "give", "giving", "rate", "rated", "rating", "score", "scores",
        "be", "now", "actually", "overall", "change", "about", "around", "between", "is", "was", "previously", "earlier",
        "formerly", "originally", "first", "later", "final", "answer", "least", "most", "oder", "eher", "nicht", "bis", "auf", "gebe",
    ]
)
_AFTER_RATING = frozenset(
    [
        "out", "of", "von", "or", "to", "because", "and", "instead", "for", "if", "would", "is", "was", "but", "rather", "points",
        "point", "pts", "stars", "star", "percent", "on", "in", "at", "as", "though", "overall", "maybe", "if", "oder", "bis", "und",
        "punkte", "punkten", "sterne", "prozent", "please", "then", "now", "scale",
    ]
)
# What a number counts. Within a sentence a plural within two words ("3 facts", "2 small errors", "3 of the facts"); at the beginning of
# one a verb would look alike ("6 fits"), so there a noun of this list; after "one" a word that is neither.
_OF_THE = r" of (?:the|its|his|her|their) "
_NO_PLURAL = (
    r"(?!(?:is|was|has|does|this|thus|plus|minus|perhaps|always|as|us|his|its|stars|points|others|seems|fits|suits|sounds|works|feels|makes"
    r"|reflects|looks|appears|needs|stands|remains|goes|deserves|gets|gives|means|overall)\b)"
)
_NO_ADJECTIVE = r"(?!(?:with|without|for|in|on|at|by|from|than|then|really|given|despite|due|when|where|while|so)\b)"
_PLURAL = rf"{_NO_PLURAL}(?:[a-z]+s|people|fehler|fakten|sätze|antworten|jahre)\b"
_COUNTED = re.compile(rf"(?:{_OF_THE}|[ -])(?:{_NO_ADJECTIVE}[a-z]+[ -])?{_PLURAL}", re.IGNORECASE)
_COUNTED_FIRST = re.compile(
    rf"(?:{_OF_THE}|[ -])(?:{_NO_ADJECTIVE}[a-z]+[ -])?(?:errors|mistakes|facts|examples|sentences|questions|details|numbers"
    r"|mechanisms|gaps|problems|weaknesses|strengths|issues|repeats|repetitions|flaws|claims|sources|answers|fehler|fakten|sätze)\b",
    re.IGNORECASE,
)
_COUNTED_ONE = re.compile(rf"{_OF_THE}|[ -](?!\w*(?:s|ly)\b){_NO_ADJECTIVE}[^\W\d_]+", re.IGNORECASE)
_TAKEN_BACK = re.compile(
    r"\b(?:wait|correction|scratch that|second thoughts?|i (?:would |will |must )?(?:change|revise|correct|take (?:it|that) back)"
    r"|too (?:high|low|generous|harsh)|instead|no(?=[,.])|not sure|unsure|at (?:least|most)|or (?:more|less|so|higher|lower|above|below)"
    r"|approximately|roughly|maybe|perhaps|ish|give or take|hypothetically|oder (?:so|mehr|weniger)|mindestens|höchstens|ungefähr|etwa)\b",
    re.IGNORECASE,
)
_FIRST_HYPOTHETICAL = re.compile(
    r"^[\s(,;.–—-]*(?:if|unless|assuming|provided|wenn|falls|or|oder|max|min|minus|plus|half|und|and)\b", re.IGNORECASE
)


def parse_rating(
    text: str, category: str | None = None, finish: str = "stop", subject: str | None = None, seats: Sequence[str] = SEATS
) -> Parsed:
    """The value of a rating line, strictly: a whole number from 1 to 10 at the place of the answer, alone or "out of 10".

    `category` is the one that was asked for (its label may be repeated), `finish` how the answer ended ("length": cut by the token limit,
    so that its last number may have gone on), `subject` the name of the judged expert, one of `seats`.

    >>> parse_rating(" 8/10 because of 3 facts").value, parse_rating(" 8 (on a scale of 1-10)").value
    (8, 8)
    >>> parse_rating("between 7 and 11").problem
    'a range, not one value'
    """
    found = split(text)
    if found.open:
        return Parsed(None, "the judge was still thinking", "thinking")
    said = re.sub(r"[ \t]*\n\s*", "\n", _FIXED.sub(" ", found.said).strip())
    if not said:
        return Parsed(None, "empty answer", "empty")
    value = None
    if any(c.isnumeric() and not c.isascii() for c in said):
        return Parsed(None, "digits of another script", "script")
    if re.match(r"`*(?:json)?\s*\{", said):
        value = _json_value(said, category)
        return Parsed(value) if value is not None else Parsed(None, "JSON that is not one rating", "json")
    value = _answer(said, category, finish, subject, seats)
    if value is not None and 1 <= value <= 10:
        return Parsed(value)
    problem, fault = _kind(said, value, finish)
    return Parsed(None, problem, fault)


# -- the grammar --------------------------------------------------------------------------------------------------------


def _answer(text: str, category: str | None, finish: str, subject: str | None, seats: Sequence[str]) -> int | None:
    """The value at the place of the answer, any whole number; None where the text has not the form."""
    text = _unwrapped(text)
    polite = re.match(_I_GIVE.format(whom=f"expert {subject or 'a(?!.)'}"), text.replace("’", "'"), re.IGNORECASE)
    rest = text[polite.end() :] if polite else _after_label(text, category)
    begun = _unwrapped(rest)
    core = _core(begun)
    if core is None:
        return None
    value, after = core
    if begun.startswith("[["):
        after = _after_brackets(after)
    if polite and polite["would"] and after.strip(" .!"):
        return None  # "I would give it an 8, but ..." did not
    if not after.strip():
        return value if finish != "length" else None
    return value if _explains(after, value, finish, category, subject, seats) else None


def _after_brackets(after: str) -> str:
    """What follows a value in double brackets: they end it as a colon does, so that a new sentence may begin. "[[8]] errors" is none."""
    idle = _IDLE.match(after)
    if idle is None:
        return after
    rest = after[idle.end() :]
    if rest[:1].isupper() and re.search(r"[ >]", idle.group()) and not _UNIT.match(rest):
        return f": {rest}"
    return rest if not rest else after


def _unwrapped(text: str) -> str:
    """Without markup or quotes that stand around all of it, and without the mark of a heading."""
    text = re.sub(r"^#{1,6} ", "", text.strip())
    if match := re.fullmatch(r"\\boxed\{([^{}]*)\}|<(rating|score|answer)>([^<>]*)</\2>", text, re.IGNORECASE):
        return _unwrapped(match.group(1) or match.group(3) or "")
    for start in (*_MARKS, *_QUOTES):
        end = _CLOSE.get(start) or _QUOTES.get(start) or start
        inner = text[len(start) : -len(end)]
        whole = text.startswith(start) and text.endswith(end) and len(text) > len(start) + len(end)
        if whole and start not in inner and end not in inner and not (start == "(" and inner.strip().isdigit()):
            return _unwrapped(inner)
    return text


def _after_label(text: str, category: str | None) -> str:
    """What follows the label of the asked category, a word for a rating, or "I rate it"; the text itself where there is none."""
    names = [_GENERIC]
    if category is not None:
        name = re.escape(category.replace("_", " ").strip())
        names += [name, f"{name} (?:rating|score)", rf"{_GENERIC} (?:for|of) {name}"]
    label = f"(?:the )?(?:{'|'.join(names)})(?: ?\\((?:1 ?[-–] ?10|out of 10)\\))?"
    mark = r"(?P<mark>\*\*|__|[*_`]|)"
    sep = r"(?P<sep>\s*[:=]\s*| (?:is|of)\b(?: an?\b)? ?|\s+|(?<=[:=*_`]))(?=\S)"
    match = re.match(rf"{mark}(?:{label})(?P<inner>\s*[:=])?(?P=mark){sep}", text, re.IGNORECASE)
    if match and (match["inner"] or match["sep"].strip() or category is not None):
        return text[match.end() :]
    if match := re.match(r"an? (?=[0-9])", text, re.IGNORECASE):
        return text[match.end() :]
    if category is None and (match := re.match(r"(\*\*|)([A-Z][a-z]+)(?::\1|\1:)\s*(?=\S)", text)) and match.group(2) not in _NO_LABEL:
        return text[match.end() :]
    return text


def _core(text: str) -> tuple[int, str] | None:
    """(value, what follows) where the text begins with a value on a scale of 10, in balanced markup or none."""
    start = next((m for m in (*_MARKS, '"', "'", "(") if text.startswith(m)), "")
    match = _CORE.match(text, len(start))
    if match is None:
        return None
    digits, scale, after = match["value"], match["scale"], text[match.end() :]
    if start:
        end = _CLOSE.get(start) or _QUOTES.get(start) or start
        stop = "." if after.startswith("." + end) else ""
        if not after.startswith(stop + end) or (start == "(" and scale is None):
            return None
        after = after[len(stop + end) :]
        if scale is None and (outside := _OUTSIDE.match(after)):  # "**8**/10"
            scale, after = outside["scale"], after[outside.end() :]
        if after[:1].isalnum():
            return None
    if (len(digits) > 1 and digits[0] == "0") or len(digits) > 3 or scale not in (None, "10"):
        return None
    return int(digits), after


def _explains(after: str, value: int, finish: str, category: str | None, subject: str | None, seats: Sequence[str]) -> bool:
    """Whether what follows the value is the end of a sentence, or an explanation that states no other value."""
    connective = _CONNECTIVE.match(after)
    after = re.sub(rf"^ \((?:{_WORDS[value]})\)", "", after, flags=re.IGNORECASE) if value <= 10 else after  # "8 (eight)"
    if not after.strip(" .!"):
        return finish != "length"
    separator = None if connective else _SEPARATOR.match(after)
    if separator is None and connective is None:
        scale = re.match(r"\s*(?=\()|\n", after)
        if scale is None:
            return False
    rest = after[separator.end() :] if separator else after
    if separator is not None and not separator.group() and not rest.lstrip(" ").startswith(("(", "\n")):
        return False  # a bare word after the number: it counts something ("8 errors")
    if not rest.strip(" .!\"'*_`"):
        return finish != "length"
    if finish == "length" and not re.search(r"[^\W\d_]", rest):
        return False
    mark = separator.group() if separator else ""
    if value == 1 and mark == "." and re.match(r"\s+\w", rest):
        return False  # the first number of a list
    if re.search(r"[-–—]", mark) and re.match(rf"\s*[(]*(?:\d|(?:{_WORD_NUMBER})\b(?<!one))", rest, re.IGNORECASE):
        return False  # "7 - 8" and "8 - 2 errors" alike
    if "?" in rest[:2] or _FIRST_HYPOTHETICAL.match(rest) or _TAKEN_BACK.search(rest):
        return False
    names = "|".join(seat.upper() for seat in seats)
    expert = rf"(?:the )?(?i:expert )({names})\b"
    whose = re.match(rf" for (?:the )?(?i:expert )?({names})\b", after) or re.match(rf" ?(?:[(]|[-–—:] ?)(?:for )?{expert}[).! ]*$", after)
    if whose and whose.group(1).lower() != (subject or "").lower():
        return False
    of = re.match(r" for (?:the |its )?(\w+)\W*$", after)
    if of and whose is None and of.group(1).lower() != (category or "").replace("_", " ").lower():
        return False  # "8 for accuracy" where depth was asked
    numbered = "|".join(seat for seat in seats if re.search(r"\d", seat))  # the number of a name is no value
    return not _other_values(re.sub(rf"\b(?:{numbered})\b", "", rest, flags=re.IGNORECASE) if numbered else rest)


def _other_values(rest: str) -> bool:
    """Whether a number of an explanation may be another value."""
    if not re.search(r"[^\W\d_]", rest) and re.search(r"\d", rest):  # numbers and no word
        return not re.fullmatch(r"\s*\(1 ?[-–] ?10\)[.!]?", rest)
    plain = _HARMLESS.sub("\x00", rest)
    return any(not _counts(plain, match) for match in _ANY_NUMBER.finditer(plain))


def _counts(text: str, match: re.Match[str]) -> bool:
    """Whether the number at `match` counts something, and can be no rating."""
    before = re.search(r"([^\W\d_]*)([^\w]*)$", text[: match.start()])
    previous, between = (before.group(1).lower(), before.group(2)) if before else ("", "")
    after = text[match.end() :]
    if previous in _BEFORE_RATING or (between.strip(" ") and not re.search(r"(?:[.,;!]\s+|\()$", between)):
        return False
    first = re.match(r"[ -]([^\W\d_]+)", after)
    if first is None or (first.group(1).lower() in _AFTER_RATING and not re.match(_OF_THE, after)):
        return False
    if match.group().lower() in ("1", "one", "eins"):
        return _COUNTED_ONE.match(after) is not None
    inside = bool(previous) and not between.strip(" ")
    return (_COUNTED if inside else _COUNTED_FIRST).match(after) is not None


def _json_value(text: str, category: str | None) -> int | None:
    """The one value of a JSON object under the asked category or a word for a rating; all other members must hold no number."""
    fence = re.fullmatch(r"```(?:json)?\s*(\{.*\})\s*```|`?(\{[^`]*\})`?", text, re.DOTALL)
    if fence is None:
        return None
    try:
        pairs = json.loads(fence.group(1) or fence.group(2), object_pairs_hook=list)
    except (ValueError, RecursionError):
        return None
    if not isinstance(pairs, list):
        return None
    keys = {"rating", "score", *([category.replace("_", " ").lower()] if category else [])}
    found: list[object] = []
    for key, value in pairs:
        if isinstance(value, str) and not re.search(r"\d", value):
            continue  # a reason in words
        any_one = category is None and str(key).isalpha() and str(key).title() not in _NO_LABEL
        known = any_one or str(key).replace("_", " ").lower() in keys
        if not known:
            return None
        found.append(value)
    if len(found) != 1:
        return None
    value = found[0]
    if isinstance(value, str):
        core = _core(value.strip())
        value = core[0] if core is not None and not core[1].strip(". ") else None
    return value if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 10 else None


# -- what a null may have been ------------------------------------------------------------------------------------------

_N = rf"(?:\d+|{_WORD_NUMBER})"
_KINDS: tuple[tuple[str, str, str], ...] = (
    ("negated", "a number that is denied", rf"\b(?:not|isn't|never|nicht|kein\w*)\b[^.]{{0,20}}{_N}"),
    ("hypothetical", "a number that is only supposed", rf"\b(?:would|could|might|should|if|wenn|falls|könnte|würde)\b|^\D*{_N}\s*\?"),
    ("range", "a range, not one value", rf"\b(?:between|zwischen)\b|{_N}\s*(?:-|–|—|to|bis)\s*{_N}|^\D*{_N} (?:or|oder) {_N}"),
    (
        "bound",
        "a bound, not a value",
        rf"[<>≤≥]|at (?:least|most)|up to|{_N}\+|or (?:more|less|higher|lower)|mindestens|höchstens|m(?:ax|in)imum",
    ),
    (
        "approximate",
        "an approximate number",
        r"[~≈]|\b(?:about|around|approximately|roughly|nearly|almost|circa|ca|etwa|ungefähr|rund|maybe|perhaps)\b|ish\b",
    ),
    ("sign", "a number with a sign", r"^\W*[-+−]\s*\d"),
)


def _kind(text: str, value: int | None, finish: str) -> tuple[str, str]:
    """(problem, fault) of a text that gave no value."""
    if refuses(text):
        return "refuses to judge", "refusal"
    first = re.search(r"[-+−]?\d+(?:[.,]\d+)?", text)
    words = re.findall(rf"\b(?:{_WORD_NUMBER})\b", text, re.IGNORECASE)
    if first is None:
        return ("a number in words", "word") if words else ("no number", "no_number")
    number = first.group()
    if value is not None:
        return f"'{value}' is not in 1..10", "out_of_range"
    if re.fullmatch(r"[-−]?\d+[.,]\d+", number):
        return f"'{number}' is not a whole number from 1 to 10", "decimal"
    if finish == "length" and re.fullmatch(r"[\W\d]*\d[\W\d]*|.*\d\W*", text, re.DOTALL):
        return "the token limit cut the number", "cut"
    if re.match(r"[\[(]\d+[\])]", text):
        return "the number of a sentence", "marker"
    for fault, problem, pattern in _KINDS:
        if re.search(pattern, text, re.IGNORECASE):
            return problem, fault
    if (scale := re.search(r"\d+ ?(?:\w+ )?(?:/|out of|von) ?(\d+)", text)) and scale.group(1) != "10":
        return f"'{scale.group()}' is not on a scale of 10", "scale"
    if re.search(r"\d\s*(?:%|percent|prozent|\*|★|⭐|stars?|sterne?)", text, re.IGNORECASE):
        return "stars or percent are not on a scale of 10", "scale"
    if re.match(r"(?:1\.|\d+\))\s+\S", text):
        return "the number of a list", "list"
    if len(re.findall(r"\d+", text)) > 1:
        return "more than one number, and not clear which is meant", "two_values"
    return f"'{number}' does not stand where the rating is asked for", "form"
