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
_VIEW = (
    r"(?:(?:i (?:think|believe|would say|feel)(?: that)?|in my (?:opinion|view),?|as far as i can (?:see|tell),?|overall,?|so,?|no[,.]?) )?"
)
_WHOSE = r"(?: ?(?:(?:given |provided )?(?:of|by)) expert (?:SEATS))?"
_ANSWERS = r"(?:answers?|repl(?:y|ies)|responses?|dialogue)"
_ITS = rf"(?:(?:the|their|this|these) )?{_ANSWERS}?(?: (?:given|provided))?{_WHOSE}"
_OF = rf"(?: here)?(?: (?:in|from) (?:expert (?:SEATS)'s? {_ANSWERS}|{_ITS}))?"
_WEIGHT = r"(?:important|specific|relevant|significant|major|crucial|essential|notable|noteworthy|substantial|key|critical|vital)"
_KIND = rf"(?: else| at all| more| further| of (?:importance|significance|note)| {_WEIGHT})?"
_GONE = r"(?:missing|lacking|left out|omitted)"
_THING = rf"(?:(?:{_WEIGHT}|further|other|additional) ){{0,2}}(?:content|information|details?|facts?|points?|aspects?|elements?)"
_ANY = rf"any(?:thing| {_THING})"
_THEIRS = rf"(?:(?:the|their|these|this) {_ANSWERS}(?: (?:given|provided))?{_WHOSE}|expert (?:SEATS)'s? {_ANSWERS})"
_FULL = r"(?:(?:very|quite|fully|so) )?(?:complete|comprehensive|thorough|exhaustive|detailed|full|good|clear|precise|accurate)"
# The reason that may follow says in English what is covered; what lacks in it makes it another answer.
_REASON = (
    rf"(?:,? (?:as|since|because) (?!.*(?:MORE))(?:they|it|everything|all(?: [\w'-]+){{0,3}}|expert (?:SEATS)|{_THEIRS})"
    r" (?:fully |already |all )?(?:cover|address|answer|explain|mention|contain|include|discuss|touch|is|are|was|were)[a-z]*"
    r"(?: [a-z0-9'-]+){0,12})?"
)
_ENGLISH = (
    rf"(?:i (?:see|find) )?nothing{_KIND}(?:'s| is| seems| appears| was)?(?: to be)?(?: {_GONE})?{_KIND}",
    rf"there(?:'s| is) nothing{_KIND}(?: that(?:'s| is))? {_GONE}",
    rf"(?:there (?:is|are) )?no (?:missing {_THING}|{_THING} (?:(?:is|are|that (?:is|are)) )?{_GONE})",
    rf"(?:i|we) (?:do not|don't|cannot|can't|can not|could not|couldn't) (?:see|find|think of|name|identify|notice) {_ANY}"
    rf"{_KIND}(?: (?:that|which)(?:'s| is| are))? {_GONE}",
    rf"(?:i|we) (?:do not|don't) (?:think|believe|feel|see)(?: that)? {_ANY}{_KIND} (?:is|are|was) {_GONE}",
    rf"there (?:is not|isn't) {_ANY}(?: that is)? {_GONE}",
    rf"(?:(?:it|expert (?:SEATS)) is |(?:they|the answers) are )?not {_GONE} {_ANY}{_KIND}",
    rf"(?:it|they|expert (?:SEATS)|{_THEIRS}) (?:do|does)(?: not|n't) (?:miss|lack|omit|leave out) {_ANY}{_KIND}",
    rf"{_THEIRS} (?:is|are|seems?) (?:complete|{_FULL}(?:,? and {_FULL})?(?:[;,.:]| [-–—])? (?:and |so )?nothing{_KIND} is {_GONE})",
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
    rf"\b(?:nothing{_KIND}(?: is|'s| seems| appears)?(?: to be)? {_GONE}"
    rf"|(?:do not|don't) (?:think|believe|feel)(?: that)? {_ANY} is {_GONE}"
    rf"|(?:do|does)(?: not|n't) (?:miss|lack|omit|leave out) {_ANY}|nichts fehlt|fehlt nichts|falta nada|manque rien|manca nulla)\b"
)
_MORE = (
    r"\b(?:but|except|apart|besides|other than|though|although|however|only|save|außer|aber|nur|pero|excepto|salvo|mais|sauf|about)\b"
)
_NAMES = re.compile(rf"{_MORE}|[;:]|,(?! (?:dass|que|that|что)\b)")
# What lacks, what is doubted and what is wished: beside the form they may name something.
_LACKS = re.compile(
    rf"{_MORE}|\b(?:missing|absent|lack\w*|omit\w*|left out|without|not|never|cannot|no|none|nor|doubt\w*|wrong|false|hardly|almost|nearly"
    r"|perhaps|maybe|if|unless|yet|still|despite|unlike|could|should|would|might|need\w*|add\w*|more|fehl\w*|nicht|keine?\w?)\b|n't\b"
)
_FEW = 12  # words of a sentence that denies or doubts the form and names nothing


def plain(text: str) -> str:
    """Lower case, without bold marks, and without punctuation, markup and pictures around it (a question mark stays)."""
    flat = one_line(text).lower().replace("’", "'").replace("**", "")
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
    english = rf"(?:{'|'.join(_ENGLISH)}){_OF}{_REASON}".replace("MORE", _LACKS.pattern).replace("SEATS", "|".join(seats))
    return re.compile(rf"{_HEAD}(?:{_VIEW}{english}|{'|'.join(_OTHERS)})")


def says_nothing(text: str, seats: Sequence[str] = SEATS) -> bool:
    """Whether the whole text says that nothing is missing (in the answers of one of `seats`)."""
    return _empty(tuple(seats)).fullmatch(plain(text)) is not None


def doubts(text: str, seats: Sequence[str] = SEATS) -> bool:
    """Whether the text denies or doubts that nothing is missing, and names nothing: "I cannot say that nothing is missing." So is one
    that says it in more words than a form has, and nothing beside it that may lack: "The answers cover the tides; nothing is missing."
    """
    flat = plain(text)
    held = _WITHIN.search(flat)
    if held is None or says_nothing(text, seats):
        return False
    rest = f"{flat[: held.start()]} {flat[held.end() :]}"
    denied = _NAMES.search(flat) is None and weight(words(flat)) <= _FEW
    return denied or ("?" not in rest and _LACKS.search(rest) is None)
