"""What was asked and answered: prompts worded, answers streamed, the oldest left out where the context is full."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from expertchat.backends.base import Completion, Decoding, GenerateRequest
from expertchat.backends.learnt import Learnt
from expertchat.config import ConfigError
from expertchat.experts.registry import decoding
from expertchat.folder.reader import RunReader
from expertchat.prompting.config import TalkConfig
from expertchat.prompting.model import Spoken, as_text
from expertchat.records import Message
from expertchat.sources.instructions import find_template
from expertchat.text.sentences import clean
from expertchat.text.thinking import so_far, split

if TYPE_CHECKING:
    from expertchat.backends.local import LocalBackend


@dataclass
class Exchange:
    """A prompt, as it was typed and as it was shown (`messages`), and its answer. `worded`: by a template, so that the one message is all
    that the model was shown; `stopped`: by the user, in the middle."""

    prompt: str
    messages: tuple[Message, ...] = ()
    text: str = ""
    thinking: str = ""
    trained: bool = True
    decoding: Decoding = field(default_factory=Decoding)
    completion: Completion | None = None
    draw: int = 0
    worded: bool = False
    stopped: bool = False

    @property
    def remark(self) -> str:
        """What is to be said behind an answer: how many tokens, how fast, and whether it was cut."""
        one = self.completion
        if one is None:
            return "stopped"
        rate = f", {one.tokens / one.seconds:.0f} a second" if one.seconds > 0 and one.tokens > 1 else ""
        cut = ", cut at the token limit (/max N)" if one.finish == "length" else ""
        return f"{one.tokens} token{'' if one.tokens == 1 else 's'}{rate}{cut}"


class Talk:
    """A conversation with one model. `say` hears what happens beside the answers."""

    def __init__(self, config: TalkConfig, say: Callable[[str], None]) -> None:
        assert config.model is not None
        self.config, self.say = config, say
        self.spoken = Spoken(config, say)
        self.wording, system, self.ends = wording_of(config.template, self.spoken.learnt)
        self.template = find_template(self.wording)
        self.system = system if config.system is None else config.system
        self.decoding: Decoding = decoding(config.model.decoding.reply)
        self.trained = True  # whether it speaks as it was trained, where it was
        self.exchanges: list[Exchange] = []
        self._left_out = 0

    @property
    def last(self) -> Exchange | None:
        return self.exchanges[-1] if self.exchanges else None

    def backend(self, trained: bool | None = None) -> LocalBackend:
        """Who answers. Raises ConfigError where it cannot be loaded."""
        found = self.spoken.voice(self.trained if trained is None else trained)
        return found if self.wording == "chat" else as_text(found)

    @property
    def remembers(self) -> bool:
        """Whether a prompt stands after what was said before: one that a template words stands alone."""
        return self.config.history and self.wording == "chat"

    # -- wording ----------------------------------------------------------------------------------------------------

    def worded(self, prompt: str, before: Sequence[Exchange], backend: LocalBackend) -> tuple[tuple[Message, ...], int]:
        """What the model is shown of a prompt, and how many of the oldest exchanges are left out of it. Raises ConfigError."""
        if self.wording != "chat":
            text = self.template.prompt(prompt, "") if self.template is not None else prompt + self.ends
            return (Message("user", f"{self.system}\n\n{text}" if self.system else text),), 0
        shown = [one for one in before if one.text.strip()][self._left_out :] if self.remembers else []
        room, dropped = backend.info.context_length - self.decoding.max_new_tokens, self._left_out
        while True:
            messages = self._chat(prompt, shown, backend)
            needed = backend.count_tokens(messages)
            if needed <= room or not backend.info.context_length:
                return messages, dropped
            if not shown:
                self._too_long(needed, backend)
                return messages, dropped
            shown, dropped = shown[1:], dropped + 1

    def _too_long(self, needed: int, backend: LocalBackend) -> None:
        if needed >= backend.info.context_length:
            holds = backend.info.context_length
            raise ConfigError(f"the prompt takes {needed} tokens, and the context of {backend.info.name} holds {holds}; shorten it")

    def _chat(self, prompt: str, before: Sequence[Exchange], backend: LocalBackend) -> tuple[Message, ...]:
        """A user and the model by turns; a system text stands before the first prompt where the template takes none."""
        said = [message for one in before for message in (Message("user", one.prompt), Message("assistant", one.text))]
        said.append(Message("user", prompt))
        if not self.system:
            return tuple(said)
        if backend.info.system_role is False:
            return (Message("user", f"{self.system}\n\n{said[0].content}"), *said[1:])
        return (Message("system", self.system), *said)

    def request(self, exchange: Exchange, at: int) -> GenerateRequest:
        """`at` and the number of the draw name the noise: the same conversation is answered the same again."""
        return GenerateRequest(f"talk/{at}/{exchange.draw}", exchange.messages, exchange.decoding)

    # -- asking -----------------------------------------------------------------------------------------------------

    def ask(self, prompt: str, stop: Callable[[], bool] = lambda: False, draw: int = 0, trained: bool | None = None) -> Iterator[str]:
        """The pieces of the answer to a prompt as they come, clean; then it belongs to the conversation. `stop` is asked between steps.

        Raises ConfigError, and then nothing has changed.
        """
        voice = self.trained if trained is None else trained
        backend = self.backend(voice)
        messages, dropped = self.worded(prompt, self.exchanges, backend)
        if dropped > self._left_out:
            oldest = f"{dropped} oldest exchanges are" if dropped > 1 else "oldest exchange is"
            self.say(f"the context is full: the {oldest} not shown to the model any more")
        self._left_out = dropped
        exchange = Exchange(prompt, messages, trained=voice, decoding=self.decoding, draw=draw, worded=self.wording != "chat")
        lane = backend.lane(exchange.decoding)
        heard, shown, opened = [""], "", backend.info.opens_thinking
        lane.add(self.request(exchange, len(self.exchanges)), lambda text: heard.__setitem__(0, text))
        try:
            while exchange.completion is None and not stop():
                exchange.completion = next((one for _, one in lane.advance()), None)
                whole = heard[0] if exchange.completion is None else exchange.completion.text
                piece, shown = self._grown(whole, shown, opened, exchange.completion is not None)
                if piece:
                    yield piece
        except KeyboardInterrupt:  # in the middle of a pass: what was heard so far is the answer
            pass
        finally:
            lane.close()
        exchange.stopped = exchange.completion is None
        found = split(heard[0] if exchange.completion is None else exchange.completion.text, opened)
        exchange.text, exchange.thinking = clean(found.said).strip(), found.thinking
        self.exchanges.append(exchange)

    def _grown(self, text: str, shown: str, opened: bool, whole: bool) -> tuple[str, str]:
        """What is new of the text, without its thoughts, and all that is shown of it by then."""
        said = clean((split if whole else so_far)(text, opened).said).lstrip()
        said = said.rstrip() if whole else said[: len(said) - _held_back(said, self.decoding.stop)]
        if not said.startswith(shown):  # what seemed to be said was thought
            return ("", shown) if not whole else (f"\n{said}", said)
        return said[len(shown) :], said

    def answers(self, prompts: Sequence[str], first: int = 0, places: Sequence[tuple[int, int]] | None = None) -> list[Exchange]:
        """The answers to prompts that each stand alone, together; they do not become a part of the conversation. `first`: the number of
        the first, which names its noise; or `places`: of each its number, and that of its draw. Raises ConfigError."""
        backend = self.backend()
        numbered = places if places is not None else [(first + i, 0) for i in range(len(prompts))]
        how: dict[str, Any] = {"trained": self.trained, "decoding": self.decoding, "worded": self.wording != "chat"}
        made = [Exchange(one, self.worded(one, (), backend)[0], draw=draw, **how) for one, (_, draw) in zip(prompts, numbered, strict=True)]
        requests = [self.request(one, at) for one, (at, _) in zip(made, numbered, strict=True)]
        for one, completion in zip(made, backend.generate(requests), strict=True):
            found = split(completion.text, backend.info.opens_thinking)
            one.completion, one.text, one.thinking = completion, clean(found.said).strip(), found.thinking
        return made

    # -- going back ---------------------------------------------------------------------------------------------------

    def undo(self) -> Exchange | None:
        """Take the last exchange back."""
        self._left_out = 0
        return self.exchanges.pop() if self.exchanges else None

    def reset(self) -> None:
        """Forget what was said."""
        self.exchanges.clear()
        self._left_out = 0

    # -- looking ------------------------------------------------------------------------------------------------------

    def tokens(self, lines: int) -> dict[str, Any]:
        """How likely each token of the last answer was, as `expertchat tokens` tells it. Raises ConfigError."""
        from expertchat.metrics.config import TokensConfig
        from expertchat.metrics.tokens import Asked, looked_at

        one = self.last
        if one is None or one.completion is None or not one.completion.ids:
            raise ConfigError("there is no whole answer to look at yet")
        asked = Asked(one.completion.prompt, one.completion.ids, notes=[f"it was drawn by {drawn(one.decoding)}"])
        return looked_at(TokensConfig(text="x", continues=0, top=3, lines=lines), self.backend(one.trained), asked)


def wording_of(wanted: str, learnt: Learnt | None) -> tuple[str, str, str]:
    """The template of prompts, their system text, and what ends a prompt that stands as it is: with auto as a run's rows were worded."""
    data: Any = {}
    if wanted == "auto" and learnt is not None and learnt.run is not None:
        data = RunReader(learnt.run).config.get("data")
    if not isinstance(data, Mapping) or not isinstance(template := data.get("template"), str):
        return ("chat" if wanted == "auto" else wanted), "", ""
    return template, str(data.get("system") or ""), "\n" if template == "none" else ""


def _held_back(text: str, stops: Sequence[str]) -> int:
    """How many characters at the end of a growing text may yet be the beginning of a stop string."""
    most = max((len(stop) for stop in stops), default=0)
    return next((n for n in range(min(most, len(text)), 0, -1) if any(stop.startswith(text[-n:]) for stop in stops)), 0)


def drawn(by: Decoding) -> str:
    """A decoding in the words of the prompt.

    >>> drawn(Decoding("beam", 64, beams=5, no_repeat_ngram=3))
    'beam search, beams=5, no_repeat_ngram=3, at most 64 tokens'
    """
    drawing = ("temperature", "top_p", "top_k", "min_p")
    known: dict[str, tuple[str, tuple[str, ...]]] = {
        "greedy": ("greedy search", ()), "beam": ("beam search", ("beams",)), "sampling": ("sampling", drawing),
        "contrastive": ("contrastive search", ("penalty_alpha", "top_k")),
    }  # fmt: skip
    name, keys = known[by.method]
    off = {"top_p": 1.0, "top_k": 0, "min_p": 0.0}
    told = [f"{key}={getattr(by, key):g}" for key in keys if getattr(by, key) != off.get(key)]
    told += [f"no_repeat_ngram={by.no_repeat_ngram}"] if by.no_repeat_ngram else []
    told += [f"stop={stop!r}" for stop in by.stop]
    return ", ".join([name, *told, f"at most {by.max_new_tokens} tokens"])


