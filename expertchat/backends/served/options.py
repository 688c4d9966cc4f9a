"""The probabilities of options from a server that tells those of the likeliest next tokens alone.

An option is walked towards token by token: what is likely at its beginning, then after its first token, and so on; where " 1" may go on to
" 10", one step more says how much of it does. What is not among the tokens that the server tells has a probability below theirs: it counts
as none, unless the server can be made to say it, and tells how likely that was.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

LEAST = 1e-3  # of the probability: what holds less is not walked after


@dataclass
class Walk:
    """`next()` says after which beginning of an option the tokens are wanted, `take()` is given them: token -> log probability."""

    options: Sequence[str]
    _ends: dict[str, float] = field(default_factory=dict)  # by option, what has been found to end with it
    _open: dict[str, float] = field(default_factory=lambda: {"": 0.0})  # by beginning, its log probability

    def next(self) -> str | None:
        """The likeliest beginning that is still to be looked at, or None."""
        left = {text: logp for text, logp in self._open.items() if logp >= math.log(LEAST)}
        return max(left, key=lambda text: left[text], default=None)

    def take(self, text: str, tokens: Mapping[str, float]) -> None:
        """What comes after `text`."""
        begun, into = self._open.pop(text), dict[str, float]()
        exact = any(self._fits(text + token) for token in tokens)
        for token, logp in tokens.items():
            whole = text + token
            if not exact and not text:  # some servers show a token without the space that it begins with
                whole = next((begin + token for begin in (" ", "") if self._fits(begin + token)), whole)
            if token and self._fits(whole):
                into[whole] = _add(into.get(whole), begun + logp)
        if text in self.options:  # as far as it does not go on to another option
            rest = math.exp(begun) - sum(map(math.exp, into.values()))
            self._end(text, math.log(rest) if rest > 0 else -math.inf)
        for whole, logp in into.items():
            if self._goes_on(whole) and not (whole in self.options and self._known_whole(whole, into)):
                self._open[whole] = _add(self._open.get(whole), logp)
            else:
                self._end(whole, logp)

    def lacking(self, text: str, tokens: Mapping[str, float]) -> list[str]:
        """The rests of options after `text` of which no token is among those that were told, though it might be worth something."""
        if not tokens or math.exp(min(tokens.values())) < LEAST:
            return []
        rests = [option[len(text) :] for option in self.options if option != text and option.startswith(text)]
        return [rest for rest in rests if not any(token and rest.startswith(token) for token in tokens)]

    def logprobs(self) -> tuple[float, ...]:
        """One for each option. What was too unlikely to be looked after ends where it was seen."""
        for text, logp in self._open.items():
            if text in self.options:
                self._end(text, logp)
        self._open = {}
        return tuple(self._ends.get(option, -math.inf) for option in self.options)

    def _fits(self, text: str) -> bool:
        return any(option.startswith(text) for option in self.options)

    def _goes_on(self, text: str) -> bool:
        return any(option != text and option.startswith(text) for option in self.options)

    def _known_whole(self, text: str, into: Mapping[str, float]) -> bool:
        """Whether each option that goes on from `text` is a token of its own here, as " 10" may be beside " 1"."""
        return all(option in into for option in self.options if option != text and option.startswith(text))

    def _end(self, option: str, logp: float) -> None:
        self._ends[option] = _add(self._ends.get(option), logp)


def _add(one: float | None, two: float) -> float:
    """The log of the sum of two probabilities."""
    if one is None or one == -math.inf:
        return two
    high, low = max(one, two), min(one, two)
    return high + math.log1p(math.exp(low - high))
