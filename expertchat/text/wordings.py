"""The wordings of all requests, as data: they come from conf/prompts/ and are checked here, and `fill` is how text gets into them."""

from __future__ import annotations

import string
from collections.abc import Iterable
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from expertchat.text.sentences import Safe, quote

WimWording = Literal["missing", "covers_then_missing"]

_ALLOWED: dict[str, set[str]] = {
    "system": {"persona", "topic", "name"},
    "opening": {"topic", "name", "prompt"},
    "topic": {"avoid"},
    "avoid": {"topics"},
    "topic_prefix": set(),
    "judge_system": {"topic"},
    "judge": {"subject", "topic", "transcript", "categories", "explain"},
    "explain": set(),
    "rating": {"category"},
    "rating_end": set(),
    "category": {"category", "description"},
    "wim_empty": set(),
    "wim_prefix": {"subject", "topic"},
    "analysis_prefix": set(),
    "compare": {"topic", "transcript", "categories"},
    "better": set(),
    "company": {"name", "others"},
    "judge_several": {"subject", "topic", "transcript", "categories", "explain", "names"},
    "moderate": {"topic", "transcript", "names", "last", "lines"},
    "next_speaker": set(),
    "principle": {"subject", "topic", "transcript", "names", "principle", "principles"},
    "principle_line": {"name", "text"},
    "principle_prefix": {"name"},
    "compare_principle": {"topic", "transcript", "principle"},
    "reference": {"topic", "reference"},
    "examples": {"examples"},
    "example": {"topic", "text", "ratings"},
    "guess": {"name", "subject", "topic", "transcript"},
    "guess_prefix": {"subject"},
    "guess_because": set(),
}
_NEEDED = {"judge": {"transcript", "subject"}, "rating": {"category"}, "topic": {"avoid"}, "avoid": {"topics"}}
_NEEDED_WHERE_THERE = {
    "compare": ("transcript",), "moderate": ("transcript",), "judge_several": ("transcript",), "principle": ("transcript",),
    "compare_principle": ("transcript", "principle"), "reference": ("reference",), "examples": ("examples",),
    "example": ("text", "ratings"), "guess": ("transcript", "subject"),
}  # fmt: skip


def fill(wording: str, special_tokens: Iterable[str] = (), **texts: str) -> Safe:
    """A wording with texts in its {names}: the one door through which text of models and users gets into a prompt.

    A text is quoted (one line, no role tokens, fences, numbers of sentences) unless it is Safe. Braces in it are braces.
    """
    return Safe(wording.format(**{name: text if isinstance(text, Safe) else quote(text, special_tokens) for name, text in texts.items()}))


class Prompts(BaseModel):
    """One set of wordings. Fields hold `str.format` templates; the names that each may use are checked.

    Wordings without `compare` cannot ask which of two replies is the better one, and those without `moderate` not who speaks next.
    `company` and `judge_several` are for more than two experts. Without `principle`, `reference` or `example` they cannot ask or show such;
    the first of `principle_answers` says that a principle is kept. Without `guess` they cannot be asked who of the others was a human; the
    first of `guess_answers` says that somebody was.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    system: str
    opening: str
    topic: str
    avoid: str
    judge_system: str
    judge: str
    explain: str
    rating: str
    rating_end: str = ""
    category: str
    wim: dict[WimWording, str]
    wim_empty: str
    topic_prefix: str = ""
    wim_prefix: str = ""
    analysis_prefix: str = ""
    compare: str = ""
    better: str = ""
    company: str = ""
    judge_several: str = ""
    moderate: str = ""
    next_speaker: str = ""
    principle: str = ""
    principle_line: str = ""
    principle_prefix: str = ""
    principle_answers: list[str] = Field(default_factory=list)
    compare_principle: str = ""
    reference: str = ""
    examples: str = ""
    example: str = ""
    guess: str = ""
    guess_prefix: str = ""
    guess_answers: list[str] = Field(default_factory=list)
    guess_because: str = ""
    nothing_new: list[str]
    numbered: Literal["judged", "alike"] = "judged"
    """What is numbered [1], [2] in a transcript: the sentences that are judged, the others (1), (2); or all alike, whoever is judged."""

    @model_validator(mode="after")
    def _check(self) -> Prompts:
        problems = []
        templates = {name: getattr(self, name) for name in _ALLOWED}
        templates |= {f"wim.{name}": text for name, text in self.wim.items()}
        templates |= {f"nothing_new[{i}]": text for i, text in enumerate(self.nothing_new)}
        for name, text in templates.items():
            allowed = _ALLOWED.get(name, {"subject", "topic"})
            try:
                used = {field for _, field, _, _ in string.Formatter().parse(text) if field is not None}
            except ValueError as error:
                problems.append(f"{name}: {error} (double a brace that is meant as text)")
                continue
            if used - allowed:
                problems.append(f"{name}: unknown {sorted(used - allowed)}, may use {sorted(allowed)}")
            if _NEEDED.get(name, set()) - used:
                problems.append(f"{name}: must use {sorted(_NEEDED[name] - used)}")
        missing = {"missing", "covers_then_missing"} - set(self.wim)
        if missing:
            problems.append(f"wim: lacks {sorted(missing)}")
        for name, fields in _NEEDED_WHERE_THERE.items():
            text = getattr(self, name)
            problems += [f"{name}: must use ['{field}']" for field in fields if text and f"{{{field}}}" not in text]
        if self.principle and "{principle}" not in self.principle + self.principle_prefix.replace("{name}", "{principle}"):
            problems.append("principle: nothing says which of the principles is asked for: use {principle}, or {name} in principle_prefix")
        if self.principle and (len(set(self.principle_answers)) != 2 or not all(answer.strip() for answer in self.principle_answers)):
            problems.append(f"principle_answers: must be two answers, the first for a principle that is kept, not {self.principle_answers}")
        if self.guess and (len(set(self.guess_answers)) != 2 or not all(answer.strip() for answer in self.guess_answers)):
            problems.append(f"guess_answers: must be two answers, the first for a human, not {self.guess_answers}")
        if bool(self.examples) != bool(self.example):
            problems.append("examples and example: one holds the other, so both or neither must be there")
        if problems:
            raise ValueError("; ".join(problems))
        return self
