"""When there is nothing more to say: turns that repeat, say nothing, or only thank and take leave. Any language: by form, not by words.

Courtesy without end has a form of its own. Turn after turn is slight (short, no question, no number), says nothing of the topic, and either
repeats what was just said or exclaims a few words. One such turn, or two, end nothing: short answers in a talk with content look alike.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from expertchat.records import Turn
from expertchat.text.likeness import blank, has_question_mark, ngrams, overlap, units, weight, words

SLIGHT = 60  # words of a turn that may be courtesy
SHORT = 4  # a turn of fewer words may be a whole answer, and come again
WHOLE = 8  # words of a turn at least that can be stuck
TAIL = 12  # turns that are looked back at
BLANK = 3  # blank turns of one speaker end a dialogue, or as many as there are seats one right after the other
STALE = 0.25  # of their groups of characters at most are new: the last two turns repeat what was just said
WORDY, NEWS = 15, 0.4  # and of longer ones than so many words so much of the content words: in long talks groups of characters run out
AGAIN, AGAIN_LONG, LONG = 0.5, 0.3, 5  # the same where most turns exclaim: their mean is short, or longer than so many words
CHEERS = ((4, 0.75), (6, 1.0))  # so many exclamations in a row, of which so much is new
CHEER = 3  # words of an exclamation, on the mean
LINKED = 1 / 3  # of its content words stand in what was said before: a turn that still belongs to the talk
_STATES = re.compile(r"[.。｡।።۔]\s*$")
_EXCLAIMS = re.compile(r"[!！‼❗¡՜]")
_PARTS = re.compile(r"(?<=[!！‼.。｡।።۔])\s*")
_PICTURE = re.compile("[\u2600-\u27bf\u2b50\U0001f000-\U0001faff]")


def silent(turns: Sequence[Turn], seats: int = 2) -> bool:
    """Whether the talk has died: as many blank turns as there are seats, one right after the other, or three of one speaker's."""
    if len(turns) >= seats and all(blank(turn.text) for turn in turns[-seats:]):
        return True
    own = [turn for turn in turns if turn.speaker == turns[-1].speaker][-BLANK:] if turns else []
    return len(own) == BLANK and all(blank(turn.text) for turn in own)


def repeats(turns: Sequence[Turn], likeness: float) -> bool:
    """Whether the last turn shares at least `likeness` of its words with an earlier one of its speaker.

    A short one ("Yes.", "Why?") may come again in answer to something else: it repeats only where the turn before it does too.
    """
    return _again(turns, likeness) and (weight(words(turns[-1].text)) >= SHORT or _again(turns[:-1], likeness))


def stuck(turns: Sequence[Turn], likeness: float, seats: int = 2) -> bool:
    """Whether at least `likeness` of the different words of the last turns, as many as there are seats and none of them short, stand in as
    many turns before them.
    """
    last, before = turns[-seats:], turns[-2 * seats : -seats]
    if len(before) < seats or any(weight(words(turn.text)) < WHOLE for turn in last):
        return False
    seen = {unit for turn in before for unit in units(turn.text)}
    return all(len(own & seen) >= likeness * len(own) for own in (set(units(turn.text)) for turn in last))


def _again(turns: Sequence[Turn], likeness: float) -> bool:
    if not turns or blank(turns[-1].text):
        return False
    last = turns[-1]
    return any(overlap(turn.text, last.text) >= likeness for turn in turns[:-1] if turn.speaker == last.speaker)


def only_courtesy(topic: str, turns: Sequence[Turn]) -> bool:
    """Whether the last turns do nothing but thank, agree or take leave, and nothing more is to be expected."""
    texts = [turn.text for turn in turns[-2 * TAIL :]]
    run: list[str] = []
    for text in reversed(texts[-TAIL:]):
        if not _slight(text):
            break
        run.insert(0, text)
    if len(run) < CHEERS[0][0]:
        return False
    new = _new(run)
    if new <= STALE and (_mean(run[-2:]) <= WORDY or _news(run) <= NEWS):
        return True
    last, mean = run[-5:], _mean(run[-5:])
    again = AGAIN if mean <= LONG else AGAIN_LONG
    if len(last) == 5 and max(new, _new(run[:-1])) <= again and sum(map(_exclaims, last)) >= 3 and not _linked(topic, texts, 5):
        return True
    for count, most in CHEERS:
        last = run[-count:]
        cheers = sum(map(_exclaims, last)) >= 0.75 * count and not any(map(_states, last)) and _mean(last) <= CHEER
        if len(last) == count and new <= most and cheers and not _linked(topic, texts, count):
            return True
    return False


def _slight(text: str) -> bool:
    return not has_question_mark(text) and not any(c.isdigit() for c in text) and weight(words(text)) <= SLIGHT


def _mean(texts: Sequence[str]) -> float:
    """Words of a text on the mean."""
    return sum(weight(words(text)) for text in texts) / len(texts)


def _new(run: Sequence[str]) -> float:
    """The share of the last two texts, in groups of characters, that stands neither in the texts before them nor in the other one."""
    seen: set[str] = set().union(*map(ngrams, run[:-2]))
    one, two = ngrams(run[-2]), ngrams(run[-1])
    return (len(one - seen) + len(two - seen - one)) / max(1, len(one | two))


def _news(run: Sequence[str]) -> float:
    """The share of the last two texts' content words that stands in none before them."""
    seen, last = set[str]().union(*map(_content, run[:-2])), set[str]().union(*map(_content, run[-2:]))
    return len(last - seen) / max(1, len(last))


def _exclaims(text: str) -> bool:
    return _EXCLAIMS.search(text) is not None or _PICTURE.search(text) is not None


def _states(text: str) -> bool:
    """Whether a sentence of the text ends as a statement does."""
    return any(_STATES.search(part) for part in _PARTS.split(text) if not blank(part))


def _linked(topic: str, texts: Sequence[str], count: int) -> bool:
    """Whether one of the last `count` texts still belongs to the talk: by a word of the topic, or by many of what was said before them."""
    about, before = _content(topic), set[str]().union(*(_content(text) for text in texts[:-count]))
    return any((own := _content(text)) & about or (own and len(own & before) >= max(1, LINKED * len(own))) for text in texts[-count:])


def _content(text: str) -> set[str]:
    """The longer words of a text, pairs of characters in a script without spaces."""
    return {unit for unit in units(text) if len(unit) >= 4 or weight([unit]) < 1}
