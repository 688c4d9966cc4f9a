"""How likely texts are to a model after what was said before them: sums of log-probabilities over the text's own tokens alone."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from expertchat.config import ModelConfig
from expertchat.experts.base import ExpertChat, History
from expertchat.metrics.kept import Kept, Request
from expertchat.records import Message, Speaker, Turn
from expertchat.records.lab import Item
from expertchat.text.sentences import neutralise, writable

if TYPE_CHECKING:
    from expertchat.backends.local import LocalBackend

CHUNK = 512  # tokens of a text in one request: long texts go through in parts
WAVE = 32  # texts that are scored before they are kept and progress is told
Kind = Literal["view", "chat", "none"]


@dataclass(frozen=True)
class Likelihood:
    """The sum of the log-probabilities (nats) of `tokens` tokens, which are `size` bytes of UTF-8; or None, with the reason."""

    logp: float | None
    tokens: int = 0
    size: int = 0
    problem: str | None = None
    note: str | None = None


@dataclass(frozen=True)
class Piece:
    """Tokens after a prompt."""

    prompt: tuple[int, ...]
    reply: tuple[int, ...]
    size: int
    note: str | None = None


class Likelihoods:
    """Scores texts by one model. `context`: what stands before a text.

    view: the turns before it as the run's own expert sees them, its persona and wordings of `config` included; chat: the turns alone, the
    subject's as the assistant's and all others as the user's, a first user message with the topic where there is none; none: nothing.
    auto is view for the embedded models, which know no other prompts, else chat. A text that nothing stands before is read alone: its first
    token has no probability unless the tokenizer begins every text with a token of its own.
    """

    def __init__(self, backend: LocalBackend, config: ModelConfig, context: str = "auto", kept: Kept | None = None) -> None:
        self.backend, self.config, self.kept = backend, config, kept or Kept()
        self.context: Kind = ("view" if config.family == "world" else "chat") if context == "auto" else context  # type: ignore[assignment]
        self._experts: dict[tuple[Speaker, ...], ExpertChat] = {}

    def score(self, asked: Sequence[tuple[Item, str]], tell: Callable[[int], None] = lambda done: None) -> list[Likelihood]:
        """The likelihood of each (item, one of its texts); `tell` hears how many are done."""
        found: list[Likelihood] = []
        for start in range(0, len(asked), WAVE):
            found += self._wave(asked[start : start + WAVE])
            tell(len(found))
        return found

    def _wave(self, asked: Sequence[tuple[Item, str]]) -> list[Likelihood]:
        pieces = [list(self._pieces(item, text)) for item, text in asked]
        requests = [
            ((*piece.prompt, *piece.reply[:at]), [piece.reply[at : at + CHUNK]])
            for several in pieces
            for piece in several
            if isinstance(piece, Piece)
            for at in range(0, len(piece.reply), CHUNK)
        ]
        sums = iter(self.kept.sums(requests, self._compute))
        return [self._added(several, sums) for several in pieces]

    def _compute(self, requests: list[Request]) -> list[float]:
        from expertchat.backends.likelihood import likelihoods

        return [one.logp for (one,) in likelihoods(self.backend, requests)]

    def _added(self, several: Sequence[Piece | str], sums: Iterator[float]) -> Likelihood:
        """The parts of one text together; all of them are taken from `sums`."""
        scored = [one for one in several if isinstance(one, Piece)]
        logp = sum(next(sums) for piece in scored for _ in range(0, len(piece.reply), CHUNK))
        tokens = sum(len(piece.reply) for piece in scored)
        problem = next((one for one in several if isinstance(one, str)), None)
        if problem is not None:
            return Likelihood(None, problem=problem)
        if not tokens:
            return Likelihood(None, problem="one token alone has no probability")
        if logp != logp or logp == float("-inf"):
            return Likelihood(None, problem="the model's probabilities are no numbers")
        return Likelihood(logp, tokens, sum(piece.size for piece in scored), note=next((one.note for one in scored if one.note), None))

    # -- what is asked ----------------------------------------------------------------------------------------------

    def _pieces(self, item: Item, text: str) -> Iterator[Piece | str]:
        """What is scored of a text; a string is a reason why it cannot be. Of a whole dialogue: each turn of its subject."""
        if not item.whole:
            yield self._piece(item, item.turns, text)
            return
        for i, turn in enumerate(item.turns):
            if turn.speaker == item.subject and turn.text.strip():
                yield self._piece(item, item.turns[:i], turn.text)

    def _piece(self, item: Item, turns: Sequence[Turn], text: str) -> Piece | str:
        renderer, text = self.backend.renderer, writable(text)
        size = len(text.encode("utf-8"))
        if self.context == "none" or (not turns and not item.topic.strip()):
            return self._alone(text)
        holds = self.backend.info.context_length

        def read(dropped: int) -> tuple[list[int], list[int]]:
            messages = self._messages(item, turns[dropped:])
            return renderer.answered(messages), renderer.reply(messages, Message("assistant", text), end=False)

        def fits(dropped: int) -> bool:
            return not holds or sum(map(len, read(dropped))) <= holds

        dropped = 0 if fits(0) else bisect_left(range(len(turns)), True, key=fits)
        prompt, reply = read(dropped)
        if not fits(dropped):
            return f"prompt and text take {len(prompt) + len(reply)} tokens, but the context of {self.backend.info.name} holds {holds}"
        note = f"{dropped} oldest turn{'s' if dropped > 1 else ''} not shown: context full" if dropped else None
        return Piece(tuple(prompt), tuple(reply), size, note)

    def _alone(self, text: str) -> Piece | str:
        """A text that nothing stands before."""
        tokenizer, holds = self.backend.tokenizer, self.backend.info.context_length
        ids = [int(i) for i in tokenizer(self.backend.renderer.plain(text), verbose=False)["input_ids"]]
        if holds and len(ids) > holds:
            return f"the text takes {len(ids)} tokens, but the context of {self.backend.info.name} holds {holds}"
        own = ids[:1] and ids[0] in self.backend.renderer.vocabulary.special_ids  # of the text none becomes a special token
        first = "" if own else str(tokenizer.decode(ids[:1], clean_up_tokenization_spaces=False))
        size = max(0, len(text.encode("utf-8")) - len(first.encode("utf-8")))
        return Piece(tuple(ids[:1]), tuple(ids[1:]), size) if ids else "the text has no token"

    def _messages(self, item: Item, turns: Sequence[Turn]) -> Sequence[Message]:
        expert = self._expert(item)
        if self.context == "view":
            return expert.view(History(item.topic, tuple(turns)))
        special = self.backend.renderer.special_tokens
        exchange = [Message("assistant" if t.speaker == item.subject else "user", neutralise(t.text, special)) for t in turns]
        if not exchange or exchange[0].role == "assistant":
            exchange.insert(0, Message("user", neutralise(item.topic or "...", special)))
        return expert.chat("", exchange)

    def _expert(self, item: Item) -> ExpertChat:
        """Who sees the dialogue of an item as its subject does."""
        from expertchat.experts.registry import make_expert

        seats = tuple(dict.fromkeys((item.subject, *(turn.speaker for turn in item.turns))))
        seats = seats if len(seats) > 1 else (item.subject, "b" if item.subject != "b" else "a")
        if seats not in self._experts:
            self._experts[seats] = make_expert(item.subject, self.config, self.backend.info, seats)
        return self._experts[seats]
