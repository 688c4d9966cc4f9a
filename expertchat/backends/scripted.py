"""A backend without a model: replies come from a script. For tests and for demonstrations of the flow.

A script is a JSONL file, one rule a line, read from the top; the first rule that fits a request answers it:

    {"match": "/depth$", "text": " 7"}              fits if the regular expression is found in the request's key or its last user message
    {"match": "(?i)judge", "text": ["Good.", "Weak."]}
    {"text": "Welcome. What do you know of herons?"}    fits every request
    {"text": "They nest in trees."}

Lines without `match` form one sequence. Of several texts, a request takes the one whose number is the count of the assistant's earlier
messages in it (the first reply of a speaker takes the first text, and so on, again from the start when they run out): so a
reply depends on its request alone, not on the batch or the order. A rule may also hold "scores": a list of probabilities for
the options of a score request. Without it, the option equal to the text gets 0.91 and the others share the rest.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from expertchat.backends.base import Backend, Completion, Decoding, GenerateRequest, ModelInfo, OnText, ScoreRequest, Scores
from expertchat.config import ConfigError
from expertchat.folder.textfile import json_lines, read_text
from expertchat.records import Message
from expertchat.text.sentences import writable
from expertchat.text.thinking import first_stop

Reply = Callable[[GenerateRequest], str]
Score = Callable[[ScoreRequest], Sequence[float]]
"""Probabilities (not logs) of the request's options."""

_CONFIDENT = 0.91
_NO_DECODING = Decoding()


@dataclass(frozen=True)
class Rule:
    """One answer of a script. `pattern` None fits everything."""

    texts: tuple[str, ...]
    pattern: re.Pattern[str] | None = None
    scores: tuple[float, ...] = field(default=())

    def fits(self, request: GenerateRequest | ScoreRequest) -> bool:
        if self.pattern is None:
            return True
        asked = next((m.content for m in reversed(request.messages) if m.role == "user"), "")
        return bool(self.pattern.search(request.key) or self.pattern.search(asked))

    def text(self, request: GenerateRequest | ScoreRequest) -> str:
        return self.texts[sum(m.role == "assistant" for m in request.messages) % len(self.texts)]


class ScriptedBackend(Backend):
    """Answers with `reply(request)` and `score(request)`; a word counts as a token, whole words stream."""

    def __init__(self, reply: Reply, score: Score | None = None, name: str = "scripted", context_length: int = 4096) -> None:
        self._reply, self._score = reply, score
        self.info = ModelInfo(name=name, context_length=context_length, notes=("scripted replies: no model is loaded",))

    @classmethod
    def from_rules(cls, rules: Sequence[Rule], name: str = "scripted", context_length: int = 4096) -> ScriptedBackend:
        """The first rule that fits answers."""

        def find(request: GenerateRequest | ScoreRequest) -> Rule:
            rule = next((rule for rule in rules if rule.fits(request)), None)
            if rule is None:
                raise ConfigError(f'{name}: no rule of the script fits {request.key}; add a line {{"text": ...}} without "match"')
            return rule

        def score(request: ScoreRequest) -> Sequence[float]:
            rule = find(request)
            return rule.scores or _peak(rule.text(request), request.options)

        return cls(lambda request: find(request).text(request), score, name, context_length)

    @classmethod
    def from_file(cls, path: str | Path, context_length: int = 4096) -> ScriptedBackend:
        """Read a JSONL script. Raises ConfigError that names every bad line."""
        return cls.from_rules(read_script(Path(path)), f"scripted:{Path(path).name}", context_length)

    def generate(self, requests: Sequence[GenerateRequest], on_text: OnText | None = None) -> list[Completion]:
        results = []
        for i, request in enumerate(requests):
            text, limit = self._reply(request), request.decoding.max_new_tokens
            ends = [match.end() for match in re.finditer(r"\s*\S+", text)]
            cut = len(ends) > limit
            text = text[: ends[limit - 1]] if cut else text
            stop = first_stop(text, [stop for stop in request.stops if stop], self.info.opens_thinking and not request.prefix, True)
            if stop is not None:
                text, cut = text[:stop], False
            if on_text is not None:
                for end in [e for e in ends if e < len(text)][::4]:
                    on_text(i, text[:end])
                on_text(i, text)
            results.append(Completion(text, len(text.split()), 0.0, "length" if cut else "stop"))
        return results

    def score(self, requests: Sequence[ScoreRequest]) -> list[Scores]:
        results = []
        for request in requests:
            if self._score is None:
                text = self._reply(GenerateRequest(request.key, request.messages, _NO_DECODING, request.prefix))
                probabilities: Sequence[float] = _peak(text, request.options)
            else:
                probabilities = self._score(request)
            if len(probabilities) != len(request.options):
                raise ConfigError(f"{self.info.name}: {len(probabilities)} scores for the {len(request.options)} options of {request.key}")
            results.append(Scores(tuple(math.log(p) if p > 0 else -math.inf for p in probabilities)))
        return results

    def count_tokens(self, messages: Sequence[Message]) -> int:
        """Words, and four more a message for its frame."""
        return sum(len(message.content.split()) + 4 for message in messages)


def read_script(path: Path) -> list[Rule]:
    """The rules of a JSONL script; lines without `match` are gathered into one rule. Raises ConfigError."""
    lines = json_lines(read_text(path, "script"))
    rules: list[Rule] = []
    sequence: list[str] = []
    problems: list[str] = []
    for number, line in lines:
        try:
            rule = _rule(json.loads(line))
        except (ValueError, RecursionError, re.error) as error:
            problems.append(f"script {path}, line {number}: {error}")
            continue
        if rule.pattern is None and not rule.scores:
            sequence.extend(rule.texts)
        else:
            rules.append(rule)
    if sequence:
        rules.append(Rule(tuple(sequence)))
    if not rules and not problems:
        problems.append(f'script {path}: holds no replies; write one JSON object a line, such as {{"text": "Hello."}}')
    if problems:
        raise ConfigError(problems)
    return rules


def _rule(line: object) -> Rule:
    if not isinstance(line, dict) or not set(line) <= {"match", "text", "scores"}:
        raise ValueError('a line is a JSON object with "text" and perhaps "match" and "scores"')
    text, scores = line.get("text", ""), line.get("scores", [])
    texts = text if isinstance(text, list) else [text]
    if ("text" not in line and "scores" not in line) or not texts or not all(isinstance(t, str) for t in texts):
        raise ValueError('"text" must be a string or a list of strings')
    if not isinstance(scores, list) or not all(isinstance(s, int | float) and not isinstance(s, bool) and s >= 0 for s in scores):
        raise ValueError('"scores" must be a list of probabilities')
    match = line.get("match")
    if match is not None and not isinstance(match, str):
        raise ValueError('"match" must be a regular expression')
    return Rule(tuple(map(writable, texts)), None if match is None else re.compile(match), tuple(map(float, scores)))


def _peak(text: str, options: Sequence[str]) -> list[float]:
    """Confident in the option that equals the text; no probability anywhere if none does."""
    equal = [option.strip() == text.strip() for option in options]
    if not any(equal):
        return [0.0] * len(options)
    rest = (1 - _CONFIDENT) / max(1, len(options) - 1)
    return [_CONFIDENT if same else rest for same in equal]
