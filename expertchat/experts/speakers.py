"""A reply that goes on as several speakers ("A: ... B: ..."): where another one's turn begins in it.

A label is a name and a colon at the beginning of a line. What is only a letter or a common word ("B:", "User:") may as well be an item of
a list, an exam question or the head of a letter; it counts where every label of the reply is a speaker's, and what follows is said, not
named.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cached_property
from itertools import pairwise

from expertchat.text.likeness import weight, words

_PARTNER = (
    "user|human|partner|friend|interviewer|usuario|usuário|utente|utilisateur|benutzer|nutzer|mensch|пользователь|человек"
    "|用户|用戶|人类|人類|ユーザー|사용자|المستخدم"
)
_OWN = "assistant|ai|chatbot|bot|me|model|asistente|assistente|assistent|ki|ассистент|助手|アシスタント|어시스턴트|المساعد"
_EXPERT = r"(?:expert|experte|expertin|experto|experta|esperto|perito|speaker|person|эксперт|专家|專家|専門家)[ _-]?"
_OPEN = r"[ \t]*(?:#{1,6} |[*_]{1,3}|[\[(<‹]|> )?"
_CLOSE = r"(?:[*_]{1,3}|[\])>›])?(?: ?\([^()\n]{1,20}\))?[ \t]?[:：](?:[*_]{1,3})?(?=\s|$|(?<=：))"
_ANY = re.compile(rf"^{_OPEN}(?P<name>[^\W\d_][\w'’-]*(?: [\w'’-]+){{0,2}}){_CLOSE}", re.MULTILINE)
_SENTENCE_END = r"(?<=[.!?。！？…\"”’)])[ \t]+"
# Role tokens as text.neutralise leaves them: nobody writes a user's message in the middle of a turn.
_TOKEN = r"^[ \t]*(?:(?:‹¦im_start¦›|‹¦start_header_id¦›|‹start_of_turn›)[ \t]*user\b|‹¦(?:user|human)¦›|\{INST\})"
_INLINE = re.compile(r"(?:^|[.!?…][\"”’)]*\s+)([A-Z][\w-]*): ", re.MULTILINE)  # labels of lines and of sentences
_ROLES = "User|Human"
# Heads that take turns in a list, and are nobody's names.
_HEAD_WORDS = (
    "q f r question questions frage pregunta answer answers antwort respuesta myth myths mythos mito fact facts fakt truth reality fiction"
    " problem problems solution solutions lösung problema solución before after vorher nachher antes después pro pros con cons advantage"
    " advantages disadvantage disadvantages benefit benefits risk risks cost costs strength strengths weakness weaknesses cause causes"
    " effect effects ursache wirkung reason reasons result results consequence claim claims counterclaim evidence argument arguments"
    " counterargument objection rebuttal reply thesis antithesis synthesis theory practice term definition word meaning example examples"
    " counterexample input output action reaction stimulus response challenge challenges opportunity opportunities mistake correction wrong"
    " right true false do don't dos don'ts old new past present future then now first second here there day night hot cold step steps note"
    " notes hypothesis observation conclusion premise misconception expectation setup punchline symptom treatment remedy"
)
_HEADS = frozenset(_HEAD_WORDS.split())
_TWO = re.compile(r"\b(?:two|both|either|options?|alternatives?|choices?|zwei|beide|dos|deux)\b", re.IGNORECASE)
_SAID = 4  # words that are surely said; fewer only with the mark that ends a sentence
_ENDS = re.compile(r"[.!?。！？…]")


def _name(name: str) -> str:
    """The pattern of an expert's name."""
    return re.escape(name) if len(name) == 1 else f"(?i:{re.escape(name).replace('_', '[ _]')})"


def _without(words: str, *names: str) -> str:
    """Alternatives of a pattern, those aside that are `names`."""
    return "|".join(word for word in words.split("|") if word not in {name.lower() for name in names})


class Speakers:
    """The labels of a dialogue as one of its speakers may write them: `own` and `others` are names ("A", "B", "DR_JONES").

    A name of one letter is one only as a capital; longer ones may be written in small letters, and with a space for an underscore.
    """

    def __init__(self, own: str, others: Sequence[str]) -> None:
        self.own, self.others = own, tuple(others)
        self._partner = _without(_PARTNER, own)  # words for somebody else; an expert's name is a word for that expert alone
        self._self = _without(_OWN, *others)

    def apart(self, text: str) -> tuple[str, str]:
        """(what is the speaker's own, what is not): the own label at the beginning is left out, and the text ends where another's turn
        begins.

        >>> Speakers("A", ["B"]).apart("A: Bees dance.\\nB: And the sun?\\nA: Yes.")
        ('Bees dance.', 'B: And the sun?\\nA: Yes.')
        """
        first = self._own_label(text)
        found = (self._clear(text), self._common(text), self._script(text))
        begins = min((start for start in found if start is not None), default=len(text))
        return text[min(first, begins) : begins].strip(), text[begins:].strip()

    # -- patterns ---------------------------------------------------------------------------------------------------

    @cached_property
    def _own_clear(self) -> str:
        return f"{_EXPERT}(?:{_name(self.own)})"

    @cached_property
    def _others(self) -> str:
        return "|".join(map(_name, self.others)) or r"(?!)"

    @cached_property
    def _known(self) -> re.Pattern[str]:
        """Labels of speakers, whatever their case."""
        return re.compile(rf"(?:{_EXPERT})?(?:{_name(self.own)}|{self._others})|{_PARTNER}|{_OWN}|you", re.IGNORECASE)

    @cached_property
    def _clear_label(self) -> re.Pattern[str]:
        """A label that is nothing else: "Expert B:" at the beginning of a line or, with a capital, of a sentence."""
        label = rf"(?:{_EXPERT}(?:{self._others}))"
        return re.compile(
            rf"^{_OPEN}(?i:{label}){_CLOSE}|{_SENTENCE_END}(?=[^\W\d_a-z])(?i:{label}){_CLOSE}|{_TOKEN}", re.MULTILINE
        )

    # -- places -----------------------------------------------------------------------------------------------------

    def _own_label(self, text: str) -> int:
        """Where the text begins after a label of its speaker."""
        match = re.match(rf"{_OPEN}(?:(?i:{self._own_clear}|{self._self})|{_name(self.own)}){_CLOSE}\s*", text)
        return match.end() if match and self._all_known(text) and self._is_said(text[match.end() :]) else 0

    def _clear(self, text: str) -> int | None:
        match = self._clear_label.search(text)
        return None if match is None else match.start()

    def _common(self, text: str) -> int | None:
        """Where another's turn begins by a label that may be something else: a letter, "User:"; after the speaker's own label also by a
        letter in the middle of a line.
        """
        if not self._all_known(text) or self._options(text):
            return None
        named = self._own_label(text) > 0
        label = rf"(?:(?i:{self._partner}{'|you' if named else ''})|{self._others})"
        later = rf"|(?m:^){_OPEN}(?i:{self._self}){_CLOSE}" if not named else ""
        inside = rf"|{_SENTENCE_END}(?:{self._others}){_CLOSE}" if named else ""
        if all(self._known.fullmatch(label) for label in _INLINE.findall(text)):
            inside += rf"|{_SENTENCE_END}(?:{_ROLES}){_CLOSE}"
        for match in re.finditer(rf"(?m:^){_OPEN}{label}{_CLOSE}{inside}{later}", text):
            if match.start() == 0 and re.match(rf"{_OPEN}(?i:{self._self}){_CLOSE}", text):
                continue
            if self._is_said(text[match.end() :]):
                return match.start()
        return None

    def _script(self, text: str) -> int | None:
        """Where the second speaker begins in a text that is a script from its first line on: labels, no more than there are speakers, that
        take turns, thrice. Heads of a list ("Myth:", "Fact:") take turns as well.
        """
        labels = [(match.start(), match["name"].casefold()) for match in _ANY.finditer(text)]
        names = [name for _, name in labels]
        people = 2 <= len(set(names)) <= len(self.others) + 1
        if len(labels) < 3 or labels[0][0] != 0 or not people or _HEADS.intersection(names) or any(a == b for a, b in pairwise(names)):
            return None
        return labels[1][0]

    def _options(self, text: str) -> bool:
        """Whether the letters of the speakers are a list of options: each once, in their order, after a line that introduces them."""
        labels = list(_ANY.finditer(text))
        letters = [match["name"] for match in labels]
        if len(letters) < 2 or letters != sorted({self.own, *self.others})[: len(letters)] or self.own not in letters:
            return False
        intro = text[: labels[0].start()].strip().split("\n")[-1]
        told = intro.endswith((":", "：")) or (letters[0] == self.own and _TWO.search(intro) is not None)
        return told and not any(re.match(r".*[?？]", text[match.end() :]) for match in labels)  # an option asks nothing

    def _all_known(self, text: str) -> bool:
        """Whether no line begins with a label that is no speaker's: "C:", "Q:", "Step B:", "De:" are of lists, questions and letters."""
        return all(self._known.fullmatch(match["name"]) for match in _ANY.finditer(text))

    def _is_said(self, rest: str) -> bool:
        """Whether the line that follows a label is a turn and not the name of a thing; so is an empty end."""
        line = rest.strip().split("\n")[0]
        return not line or weight(words(line)) >= _SAID or _ENDS.search(line) is not None
