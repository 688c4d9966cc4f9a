"""The forms in which a judge says that nothing is missing. A form is the whole of an answer: whatever else is said takes it back.

So "I cannot say that nothing is missing." is none, nor is "Nothing is missing, except sources."
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from unicodedata import category

from expertchat.records import SEATS
from expertchat.text.likeness import weight, words
from expertchat.text.sentences import one_line

_HEAD = r"(?:(?:what is missing|missing(?: content)?|answer|es fehlt|réponse|respuesta|antwort): ?)?"
_VIEW = r"(?:(?:i (?:think|believe|would say|feel)(?: that)?|in my (?:opinion|view),?|as far as i can (?:see|tell),?|overall,?|so,?) )?"
_WHOSE = r"(?: ?(?:(?:given |provided )?(?:of|by)) expert (?:SEATS))?"
_ANSWERS = r"(?:answers?|repl(?:y|ies)|responses?|dialogue)"
_ITS = rf"(?:(?:the|their|this|these) )?{_ANSWERS}?(?: (?:given|provided))?{_WHOSE}"
_OF = rf"(?: here)?(?: (?:in|from) (?:expert (?:SEATS)'s? {_ANSWERS}|{_ITS}))?"
_WEIGHT = r"(?:important|specific|relevant|significant|major|crucial|essential|notable|noteworthy|substantial|key|critical|vital)"
_KIND = rf"(?: else| at all| more| further| of (?:importance|significance|note)| {_WEIGHT})?"
_GONE = r"(?:missing|lacking|left out|omitted)"
_THING = rf"(?:(?:{_WEIGHT}|further|other|additional) ){{0,2}}(?:content|information|details?|facts?|points?|aspects?|elements?)"
_ENGLISH = (
    rf"(?:i (?:see|find) )?nothing{_KIND}(?:'s| is| seems| appears| was)?(?: to be)?(?: {_GONE})?{_KIND}",
    rf"there(?:'s| is) nothing{_KIND}(?: that(?:'s| is))? {_GONE}",
    rf"(?:there (?:is|are) )?no (?:missing {_THING}|{_THING} (?:(?:is|are|that (?:is|are)) )?{_GONE})",
    rf"(?:i|we) (?:do not|don't|cannot|can't|can not|could not|couldn't) (?:see|find|think of|name|identify|notice) any(?:thing| {_THING})"
    rf"{_KIND}(?: (?:that|which)(?:'s| is| are))? {_GONE}",
    rf"there (?:is not|isn't) any(?:thing| {_THING})(?: that is)? {_GONE}",
    rf"(?:(?:it|expert (?:SEATS)) is |(?:they|the answers) are )?not {_GONE} (?:anything|any {_THING}){_KIND}",
    rf"the {_ANSWERS} (?:is|are|seems?) complete(?:[;,.]? (?:and )?nothing{_KIND} is {_GONE})?",
    r"none|n/a",
)
_OTHERS = (
    r"(?:(?:es|mir|da|hier|ihr|ihm|den antworten) )?fehlt nichts(?: wichtiges| wesentliches| mehr)?|nichts(?: wichtiges)?(?: fehlt)?",
    r"keine?s?|no (?:le )?falta nada(?: importante| más| específico)?|nada (?:importante )?(?:falta|está faltando)|no hay nada que falte",
    r"nada|ninguno",
    r"il (?:ne|n'y) manque rien(?: d'important| de plus)?|rien (?:d'important )?ne manque|rien|aucun",
    r"non manca (?:nulla|niente)(?: di importante)?|niente|nulla|nessuno",
    r"não falta nada(?: importante)?|nada (?:importante )?(?:falta|está faltando)|nenhum",
    r"er ontbreekt niets(?: belangrijks)?|niets(?: ontbreekt)?|geen",
    r"(?:inget|ingenting|intet|der) (?:saknas|mangler)(?: intet)?|inget|intet|ingenting|mitään ei puutu",
    r"(?:niczego|nic) nie brakuje|niczego|nic|hiçbir şey eksik değil|eksik (?:bir ?şey )?yok|hiçbir şey",
    r"ничего(?: важного)? не (?:упущено|пропущено|отсутствует|хватает)|всё есть|ничего|нічого(?: не бракує)?",
    r"(?:没有|沒有|无|無)(?:任何)?(?:遗漏|遺漏|缺失|缺漏|缺少)?(?:任何)?(?:的)?(?:内容|內容)?|什么都不缺|什麼都不缺|没有什么遗漏",
    r"何も(?:欠けて|不足して|抜けて)(?:いません|いない|ません)|(?:欠けている|足りない|不足している)(?:もの|内容|点)は(?:特に)?(?:ありません|ない|なし)"
    r"|特に(?:ありません|なし|ない)|ありません|なし",
    r"(?:(?:빠진|누락된|부족한) ?(?:것|내용|점|부분)[은이도]? ?)?없(?:습니다|음|다|어요)",
    r"لا شيء(?: (?:ينقص|مفقود|ناقص))?|لا ينقص (?:أي )?شيء|لا يوجد (?:شيء |ما )?(?:مفقود|ناقص|ينقص)",
    r"कुछ (?:भी )?नहीं(?: (?:छूटा|छूट रहा|कम|गायब)(?: है)?)?|कोई कमी नहीं(?: है)?",
)
_WITHIN = re.compile(
    rf"\b(?:nothing{_KIND}(?: is|'s| seems| appears)?(?: to be)? {_GONE}|nichts fehlt|fehlt nichts|falta nada|manque rien|manca nulla)\b"
)
_NAMES = re.compile(
    r"\b(?:but|except|apart|besides|other than|though|although|however|only|save|außer|aber|nur|pero|excepto|salvo|mais|sauf|about)\b"
    r"|[;:]|,(?! (?:dass|que|that|что)\b)"
)
_FEW = 12  # words of a sentence that denies or doubts the form and names nothing


def plain(text: str) -> str:
    """Lower case, without punctuation, markup and pictures around it (a question mark stays)."""
    flat = one_line(text).lower().replace("’", "'")
    start, end = 0, len(flat)
    while start < end and _around(flat[start]):
        start += 1
    while end > start and _around(flat[end - 1]):
        end -= 1
    return flat[start:end]


def _around(c: str) -> bool:
    return c not in "?？؟" and (category(c)[0] in "PSZ" or c in "\u200d\ufe0f")


@cache
def _empty(seats: tuple[str, ...]) -> re.Pattern[str]:
    of = _OF.replace("SEATS", "|".join(seats))
    english = "|".join(_ENGLISH).replace("SEATS", "|".join(seats))
    return re.compile(rf"{_HEAD}(?:{_VIEW}(?:{english}){of}|{'|'.join(_OTHERS)})")


def says_nothing(text: str, seats: Sequence[str] = SEATS) -> bool:
    """Whether the whole text says that nothing is missing (in the answers of one of `seats`)."""
    return _empty(tuple(seats)).fullmatch(plain(text)) is not None


def doubts(text: str, seats: Sequence[str] = SEATS) -> bool:
    """Whether the text denies or doubts that nothing is missing, and names nothing: "I cannot say that nothing is missing." """
    flat = plain(text)
    denied = _WITHIN.search(flat) is not None and _NAMES.search(flat) is None
    return denied and weight(words(flat)) <= _FEW and not says_nothing(text, seats)
