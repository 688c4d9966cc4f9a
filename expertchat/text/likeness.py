"""How alike two texts are, in any script: words where there are spaces, characters where there are none (Chinese, Japanese, Thai)."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import lru_cache
from unicodedata import category, normalize

# Scripts that put no spaces between words. A character there carries less than a word does: about two make one in Chinese and Japanese,
# about four in Thai, Lao, Burmese and Khmer.
_HAN_KANA = r"\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_SOUTH_EAST = r"\u0e00-\u0e4e\u0e80-\u0ecf\u1000-\u103f\u1780-\u17d3"
_SPACELESS = re.compile(f"[{_HAN_KANA}{_SOUTH_EAST}]")
_WHOLE_WORDS = {True: 0.5, False: 0.25}  # of Han and Kana; of the others
_JOINERS = "\u200c\u200d\u00ad"
_APOSTROPHES = str.maketrans("’ʼ", "''")  # as they are typed, and as books and models write them
_ASKS = re.compile(r"[?？؟⁇՞፧⸮]|[;\u037e]\s*$")  # the last two are the Greek question mark


def blank(text: str) -> bool:
    """Whether nothing is said: no letter and no digit of any script (white space, punctuation, emoji alone)."""
    return not any(c.isalnum() for c in text)


def has_question_mark(text: str) -> bool:
    """Whether the text holds a question mark of any script."""
    return _ASKS.search(text) is not None


def words(text: str) -> list[str]:
    """The words of a text, folded in case, width and kind of apostrophe; in scripts without spaces every character is one. Marks stay with
    their letter.

    >>> words("Bees’ don't — 蜂蜜 ﬁne")
    ['bees', "don't", '蜂', '蜜', 'fine']
    """
    found: list[str] = []
    joined = False  # the last word may be gone on with
    folded = normalize("NFKC", text).casefold().translate(_APOSTROPHES)
    for i, c in enumerate(folded):
        kind = category(c)[0]
        if kind in "LN":
            alone = _SPACELESS.match(c) is not None
            if joined and not alone and not _SPACELESS.match(found[-1][0]):
                found[-1] += c
            else:
                found.append(c)
            joined = True
        elif joined and (kind == "M" or (c == "'" and folded[i + 1 : i + 2].isalpha())):
            found[-1] += c
        elif c not in _JOINERS:
            joined = False
    return found


def weight(found: Iterable[str]) -> float:
    """How many words `words` amount to: a character of a script without spaces is a part of one.

    >>> weight(words("bees make 蜂蜜"))
    3.0
    """
    return sum(_WHOLE_WORDS[re.match(f"[{_HAN_KANA}]", word) is not None] if _SPACELESS.match(word) else 1.0 for word in found)


@lru_cache(maxsize=4096)  # a turn is compared with every later one of its dialogue
def units(text: str) -> tuple[str, ...]:
    """What texts are compared by: words, and pairs of neighbours in scripts without spaces."""
    found, out = words(text), list[str]()
    for i, word in enumerate(found):
        if not _SPACELESS.match(word):
            out.append(word)
        elif i + 1 < len(found) and _SPACELESS.match(found[i + 1]):
            out.append(word + found[i + 1])
        elif not (i and _SPACELESS.match(found[i - 1])):
            out.append(word)
    return tuple(out)


def overlap(first: str, second: str) -> float:
    """How much of their words two texts share, 0..1: twice the shared ones over all, counted with repetition. Two blank texts: 1.

    >>> overlap("bees make honey", "Bees make wax")
    0.6666666666666666
    """
    one, two = Counter(units(first)), Counter(units(second))
    total = one.total() + two.total()
    return 2 * (one & two).total() / total if total else 1.0


def ngrams(text: str, n: int = 3) -> set[str]:
    """The groups of n characters of a text's words, their ends marked; pairs of characters in scripts without spaces.

    Whatever the inflection, words of one stem share most of them.
    """
    found: set[str] = set()
    for unit in units(text):
        if _SPACELESS.match(unit):
            found.add(unit)
        else:
            marked = f" {unit} "
            found.update(marked[i : i + n] for i in range(max(1, len(marked) - n + 1)))
    return found


def alike(first: str, second: str) -> float:
    """How alike two texts look, 0..1: twice the shared groups of characters over all (Dice). Two blank texts: 1."""
    one, two = ngrams(first), ngrams(second)
    return 2 * len(one & two) / (len(one) + len(two)) if one or two else 1.0


def longest_run(first: Sequence[str], second: Sequence[str]) -> Sequence[str]:
    """The longest run of words that stands in both."""
    from difflib import SequenceMatcher

    match = SequenceMatcher(None, first, second, autojunk=False).find_longest_match()
    return second[match.b : match.b + match.size]
