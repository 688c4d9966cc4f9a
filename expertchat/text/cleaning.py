"""Text without what cannot be seen: no control character, nothing invisible that steers a terminal or hides words from a reader.

What belongs to a text in its script stays: joiners where they join letters of scripts that use them, or emoji; variation selectors and
the tags of flags behind a character that has them; line ends of all kinds become "\\n". Nothing else of a text is changed: no form is
normalised, no space is folded.
"""

from __future__ import annotations

import re
import unicodedata

MOST_MARKS = 8  # combining marks on one letter: more than any script stacks, fewer than would cover the lines above
# Scripts whose letters change their form by a joiner: Arabic and its relatives, the Indic ones, Mongolian, Khmer, Myanmar, Adlam, ...
_JOINING = (
    "\u0620-\u08ff\u0900-\u0dff\u0f00-\u109f\u1780-\u17b3\u17b6-\u17ff\u1807-\u180a\u1820-\u18af\u1900-\u1cff\ua840-\ua87f\ua8e0-\ua9ff"
    "\uaa60-\uaadf\uabc0-\uabff\ufb50-\ufdcf\ufdf0-\ufdff\ufe70-\ufefc\U00010a00-\U00010aff\U00011000-\U00011fff\U0001e900-\U0001e95f"
)
# Scripts that write no spaces, so that a zero-width one says where a word ends: Thai, Lao, Tibetan, Myanmar, Khmer, Tai.
_UNSPACED = "\u0e00-\u109f\u1780-\u17b3\u17b6-\u17ff\u1950-\u1aaf\uaa60-\uaadf"
_EMOJI = (
    "\u00a9\u00ae\u203c\u2049\u2122\u2139\u2190-\u21ff\u2300-\u27bf\u2900-\u297f\u2b00-\u2bff\u3030\u303d\u3297\u3299\U0001f000-\U0001faff"
)
_HAN = "\u2e80-\u2fdf\u3005-\u3007\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003fffd"
_VARIED = "\u2200-\u22ff\u2a00-\u2aff\u3001\u3002\uff01\uff0c\uff0e\uff1a\uff1b\uff1f\u1000-\u109f\ua840-\ua87f"
_NEVER = (
    "\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u200e\u200f\u202a-\u202e\u2060-\u206f\u3164\ufdd0-\ufdef"
    "\ufeff\uffa0\ufff0-\ufffb\ufffe\uffff\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e001f\U000e0080-\U000e00ff"
    "\U000e01f0-\U000e0fff" + "".join(f"{chr(plane << 16 | 0xFFFE)}{chr(plane << 16 | 0xFFFF)}" for plane in range(1, 17))
)
_SOMETIMES = "\u180b-\u180f\u200b-\u200d\ufe00-\ufe0f\U000e0020-\U000e007f\U000e0100-\U000e01ef"
_BREAKS = "\x0b\x0c\r\x85\u2028\u2029"
_SUSPECT = re.compile(f"[{_NEVER}{_SOMETIMES}{_BREAKS}\ud800-\udfff]")
_HALF = re.compile("[\ud800-\udfff]")
_DROPPED = re.compile(f"[{_NEVER}]+")
_BREAK = re.compile(f"\r\n|[{_BREAKS}]")
_IN_PLACE = re.compile(
    "(\U0001f3f4[\U000e0030-\U000e0039\U000e0061-\U000e007a]{3,6}\U000e007f"  # a flag: a black one, its region, the end of tags
    f"|(?<=[{_JOINING}])[\u200c\u200d]{{1,3}}|\u200d(?=[{_JOINING}])"
    f"|(?<=[{_EMOJI}\ufe0f\u20e3\U000e007f])\u200d(?=[{_EMOJI}])"
    f"|(?<=[{_UNSPACED}])\u200b(?=[{_UNSPACED}])"
    f"|(?<=[{_EMOJI}])[\ufe0e\ufe0f]|(?<=[0-9#*])\ufe0f(?=\u20e3)"
    f"|(?<=[{_HAN}])[\ufe00-\ufe02\U000e0100-\U000e01ef]|(?<=[{_VARIED}])[\ufe00\ufe01]"
    "|(?<=[\u1820-\u18aa])[\u180b-\u180f])"
    f"|[{_SOMETIMES}]"
)
_STACK = re.compile(rf"[^\w\s\x00-\x7f]{{{MOST_MARKS + 1},}}")  # combining marks are no letters, so a flood of them stands in such a run
_SPACES = re.compile(r"\s+")


def clean(text: str) -> str:
    """Text without control and invisible characters, so that it cannot steer a terminal (newlines and tabs stay).

    Half of a surrogate pair, which cannot be written, becomes U+FFFD.

    >>> clean("\\x1b[2Jh\\u202ei\\u00ad\\u200b!\\r\\nno"), clean("می\\u200cخواهم") == "می\\u200cخواهم"
    ('[2Jhi!\\nno', True)
    """
    while _SUSPECT.search(text) or _STACK.search(text):
        before = text
        text = _once(text)
        if text == before:
            break
    return text


def _once(text: str) -> str:
    """One pass; it only takes away or puts a line end for another, so that passes come to an end."""
    text = _DROPPED.sub("", _BREAK.sub("\n", writable(text)))
    text = _IN_PLACE.sub(lambda match: match[1] or "", text)
    return _STACK.sub(_few_marks, text)


def writable(text: str) -> str:
    """Text with U+FFFD for each half of a surrogate pair, as "\\ud800" in JSON makes one: nothing can be written with it."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace") if _HALF.search(text) else text


def _few_marks(match: re.Match[str]) -> str:
    kept, marks = [], 0
    for character in match.group():
        category = unicodedata.category(character)
        marks = marks + 1 if category in ("Mn", "Me") else marks if category == "Cf" else 0
        if marks <= MOST_MARKS or category == "Cf":
            kept.append(character)
    return "".join(kept)


def one_line(text: str) -> str:
    """All white space folded to single spaces: a turn in a judged transcript is one line, so it cannot fake a speaker."""
    return _SPACES.sub(" ", text).strip()
