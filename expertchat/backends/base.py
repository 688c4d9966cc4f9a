"""What computes: requests, what they give back, and what a backend is and says that it can.

An expert builds requests, a backend runs them in batches, the conversation decides what happens next.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal, Protocol

from expertchat.records import Message

LATER = ("no_repeat_ngram", "stop")


@dataclass(frozen=True)
class Decoding:
    """How text is drawn. `method` picks the fields that count; the others are ignored.

    contrastive: `penalty_alpha` in 0..1, `top_k`  (Su et al. 2022, arXiv 2202.06417)
    sampling: `temperature`, `top_p`, `top_k` (0 = off), `min_p`
    beam: `beams`
    greedy: nothing

    With each: `no_repeat_ngram` n: no run of n tokens twice in prompt and reply (0 = off); `stop`: the text ends before the first of these.
    """

    method: Literal["contrastive", "sampling", "beam", "greedy"] = "sampling"
    max_new_tokens: int = 256
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    penalty_alpha: float = 0.6
    beams: int = 4
    no_repeat_ngram: int = 0
    stop: tuple[str, ...] = ()

    def __repr__(self) -> str:
        """Without what came later, where it is off: answers that earlier versions have kept are known by it."""
        shown = [one.name for one in fields(self) if one.name not in LATER or getattr(self, one.name)]
        return f"Decoding({', '.join(f'{name}={getattr(self, name)!r}' for name in shown)})"


@dataclass(frozen=True)
class GenerateRequest:
    """Continue `messages` with the assistant's next message, which begins with `prefix`.

    `key` names the noise: the same key gives the same random numbers, whatever else is in the batch.
    """

    key: str
    messages: tuple[Message, ...]
    decoding: Decoding
    prefix: str = ""
    stop: tuple[str, ...] = ()  # further stop strings; the text ends before the first one

    @property
    def stops(self) -> tuple[str, ...]:
        """All stop strings."""
        return (*self.stop, *self.decoding.stop)


@dataclass(frozen=True)
class ScoreRequest:
    """Log probability of each of `options` as the next words after `prefix`, in one pass over the shared context."""

    key: str
    messages: tuple[Message, ...]
    options: tuple[str, ...]
    prefix: str = ""


@dataclass(frozen=True)
class EmbedRequest:
    """A sentence embedding of `text` (long texts are chunked, never cut)."""

    key: str
    text: str


@dataclass(frozen=True)
class ValueRequest:
    """The worth of `reply` as the next message after `messages`, by a reward model.

    `first`: the other text, which stands before it, where the model compares two: how much better than that one it is. `label`: the type
    that a classifier may be asked for.
    """

    key: str
    messages: tuple[Message, ...]
    reply: str
    first: str | None = None
    label: str | None = None


Request = GenerateRequest | ScoreRequest | EmbedRequest | ValueRequest


@dataclass(frozen=True)
class Completion:
    """The new text only (without `prefix`); `finish` says whether the model ended it or the token limit did.

    `prompt`: the token ids that the model was shown, with the prefix. `ids`: those it wrote, as they were drawn; the last one is an end
    token where `ended`. Both are empty where the backend knows no tokens. `unshown`: what the ids hold and the text does not, besides that
    end token.
    """

    text: str
    tokens: int
    seconds: float
    finish: Literal["stop", "length"]
    prompt: tuple[int, ...] = ()
    ids: tuple[int, ...] = ()
    ended: bool = False
    unshown: Literal["special", "stop"] | None = None  # special tokens, or a stop string and what came with it


@dataclass(frozen=True)
class Scores:
    """Natural log probabilities, one for each option; an option that another one extends excludes the extension."""

    logprobs: tuple[float, ...]
    seconds: float = 0.0


@dataclass(frozen=True)
class Embedding:
    """A unit-length vector."""

    vector: tuple[float, ...]


@dataclass(frozen=True)
class Valued:
    """A reward model's `score` of a reply, on its own scale, and the `reward` between -1 and 1 that it comes to; or why there is none.

    `likeliest`: of a classifier that is asked how likely a label is, the one that it finds likeliest.
    """

    score: float | None
    reward: float | None = None
    problem: str | None = None
    likeliest: str | None = None


Result = Completion | Scores | Embedding | Valued

OnText = Callable[[int, str], None]
"""Called with a request's index in the batch and its text so far; backends call it a few times a second at most."""


@dataclass(frozen=True)
class ModelInfo:
    """What a conversation must know of the loaded model."""

    name: str
    context_length: int
    special_tokens: tuple[str, ...] = ()
    notes: tuple[str, ...] = field(default=())  # automatic choices with their reasons, e.g. "fp32: this CPU has no bf16"
    system_role: bool | None = None  # what the model's chat template accepts and demands; None where there is no template
    alternation: bool | None = None
    opens_thinking: bool = False  # its prompts end inside a thinking block, which the reply begins in


class Lane(Protocol):
    """Rows of one backend that advance together, of decodings that are `alike` to it.

    A lane that is not advanced waits, and nothing of it is lost: one device can serve several lanes in turns.
    """

    continuous: bool
    """Whether requests may join and leave at any step, so that the batch stays full; else each batch runs to its end."""

    @property
    def load(self) -> int:
        """Requests that run or wait."""
        ...

    def add(self, request: GenerateRequest, on_text: Callable[[str], None] | None = None) -> int:
        """Take a request; its ticket comes back from `advance` with its completion. `on_text` is told the text so far, throttled."""
        ...

    def advance(self) -> list[tuple[int, Completion]]:
        """Run some steps, until a request is done or a short while has passed; the finished ones by ticket."""
        ...

    def close(self) -> None:
        """Drop what still runs or waits, and free its memory."""
        ...


@dataclass(frozen=True)
class Capabilities:
    """What a backend can beyond running whole batches. It is said here and nowhere tried out; tests/test_capabilities.py holds it to it."""

    lanes: bool = False  # it serves requests as they come: `lane`
    keeps: bool = False  # what it computed helps later requests: `forget`
    tokens: bool = False  # completions hold the ids that the model was shown and wrote
    scores: bool = True  # it knows the probabilities of options: `score`


class Computing:
    """What a scheduler must know of whatever it hands requests to. Who knows better than these defaults overrides them."""

    capabilities: Capabilities = Capabilities()
    max_batch: int | None = None
    """Requests that run at once at most; None: it does not say. It may be lowered at any time."""
    say: Callable[[str], None] = staticmethod(lambda text: None)
    """Told what changes during a run."""

    @property
    def device(self) -> str:
        """Where it computes: what stands on different devices can run at the same time."""
        return "cpu"

    def forget(self, key: str) -> None:
        """Free what is kept for requests whose key begins with `key`, where it `keeps` anything."""
        return


class Backend(Computing, ABC):
    """Runs requests in batches. Order of the results = order of the requests."""

    info: ModelInfo
    model: Any = None
    """The model itself, where it stands in this process."""
    engine: Any = None
    """What runs its passes and keeps its caches (expertchat.backends.engine), where it has one."""

    @abstractmethod
    def generate(self, requests: Sequence[GenerateRequest], on_text: OnText | None = None) -> list[Completion]:
        """Complete every request."""

    @abstractmethod
    def score(self, requests: Sequence[ScoreRequest]) -> list[Scores]:
        """Log probabilities of the options of every request."""

    @abstractmethod
    def count_tokens(self, messages: Sequence[Message]) -> int:
        """Tokens of the rendered chat, generation prompt included."""

    def alike(self, decoding: Decoding) -> Hashable:
        """Equal for decodings whose requests may share a batch; here every decoding has batches of its own."""
        return decoding

    def lane(self, decoding: Decoding) -> Lane:
        """A lane for requests with this decoding and those that are `alike`, where it has `lanes`."""
        raise NotImplementedError(f"{self.info.name} runs whole batches only")


class Valuer(Computing, ABC):
    """Says what replies are worth, in batches (a reward model)."""

    name: str

    @abstractmethod
    def value(self, requests: Sequence[ValueRequest]) -> list[Valued]:
        """The worth of each request's reply."""


class Embedder(Computing, ABC):
    """Turns texts into unit-length vectors, batched and cached by text."""

    name: str

    @abstractmethod
    def embed(self, requests: Sequence[EmbedRequest]) -> list[Embedding]:
        """The vectors of the requests' texts."""
