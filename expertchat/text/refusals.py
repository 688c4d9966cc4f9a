"""Whether a model refuses what it is asked for."""

from __future__ import annotations

import re

from expertchat.text.sentences import one_line

_SORRY = r"(?:(?:i'?m|i am|we are|we're) (?:very |so |truly )?sorry|sorry|i apologi[sz]e|apologies|my apologies|unfortunately)"
_CANNOT = (
    r"(?:(?:i|we) (?:can ?not|can'?t|won'?t|will not|(?:am|are) (?:unable|not able) to)|(?:i'?m|we'?re) (?:unable|not able) to)"
    r"(?: (?:really|simply|currently|personally))?"
)
_HELP = r"help|assist|comply|fulfil+|engage|participate|continue|proceed"
_MAKE = r"judge|rate|evaluate|score|assess|provide|give|offer|answer|do|generate|create|write|share|discuss|access"
_ONE = (
    r"(?:(?:this|that|it|them|these|those|the|your|such|a|an|any|either|other|specific|personal|numerical|numeric|reliable|fair) )*"
    r"(?:this|that|it|them|these|those|you|people|persons?|conversations?|dialogues?|discussions?|transcripts?|requests?|questions?"
    r"|tasks?|topics?|answers?|repl(?:y|ies)|responses?|texts?|experts?|ratings?|scores?|judge?ments?|evaluations?|assessments?"
    r"|opinions?|feedback|content|information|advice)(?: [ab](?!\w))?"
)
_ASKED = rf"{_ONE}(?: (?:of|for|on|by|to) {_ONE})?"
# What follows is the end of it, or a reason: "I can't rate this answer higher" and "I can't judge from this how ..." judge.
_ENDS = (
    r"(?=[ \"'*]*(?:[.!?;]|$|, but\b|,? (?:because|since|as|due to|at this|at the moment|that is|which is|on (?:this|that|the)|about)\b))"
)
_PLAINLY = (
    rf"(?:{_CANNOT} (?:(?:{_HELP})(?: you)?(?: (?:with|in|to))?(?: {_ASKED})?|(?:{_MAKE})(?: {_ASKED})?){_ENDS}"
    r"|(?:i|we) (?:must|have to) (?:respectfully )?decline\b|(?:i|we) (?:do not|don'?t) feel comfortable\b"
    r"|(?:i|we) (?:do not|don'?t) have (?:any )?(?:personal|opinions?|feelings|beliefs|preferences|the (?:ability|capability)|access)\b)"
)
# "As AI systems grow, the answer does not ..." and "As an AI, I do not see ..." are about the answer.
_AS_AI = (
    r"(?:as (?:an? )?(?:ai|artificial intelligence|(?:large )?language model)(?: language)?(?: (?:model|assistant|system|judge|chatbot))?"
    r"(?: (?:developed|trained|created|made) by [\w ]{1,20})?,? "
    r"(?:(?:(?:i|we)(?: (?:simply|really|also|personally|unfortunately))?"
    r"(?: ?(?:am|are|'m|'re|do|can|could|will|would|should|must|have))? ?"
    r"(?:not|n't|cannot|can't|won't|unable|no|lack)\b(?! (?:see|find|think|believe|notice)\b))"
    r"|my (?:purpose|role|task) is not\b|it(?: is|'s) not (?:appropriate|possible|my)\b))"
)
_REFUSAL = re.compile(
    rf"(?:{_SORRY}[,.]? (?:but |that )?(?:{_PLAINLY}|{_CANNOT} (?:{_HELP}|judge|rate|provide|evaluate)\b(?! from\b))|{_PLAINLY}|{_AS_AI}"
    r"|(?:es )?tut mir leid[,.]? (?:aber )?[^.]{0,40}\b(?:nicht|kein\w*)\b"
    r"|als (?:eine? )?(?:ki|sprachmodell)(?:-\w+)?,? \w+ ich\b[^.]{0,60}\b(?:nicht|kein\w*)\b"
    r"|ich kann (?:dabei|das|diese\w*)[^.]{0,40} nicht"
    r"(?: (?:weiter)?(?:helfen|bewerten|beurteilen|beantworten|einschätzen|tun|machen))?(?=[.,!]|$))",
    re.IGNORECASE,
)


def refuses(text: str) -> bool:
    """Whether the text begins as a refusal: "I'm sorry, but I can't ...", "As an AI, I do not ..."."""
    return bool(_REFUSAL.match(one_line(text).replace("’", "'").lstrip("\"'*_ ")))
