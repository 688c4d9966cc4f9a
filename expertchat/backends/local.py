"""A backend over a transformers model: the same text for the same request, whatever else is in the batch."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Sequence
from contextlib import nullcontext
from copy import copy
from pathlib import Path
from typing import Any, NoReturn

from torch import Tensor
from transformers import GenerationConfig

from expertchat.backends import architecture, claims, plain, rotary
from expertchat.backends.base import (
    Backend,
    Capabilities,
    Completion,
    Decoding,
    GenerateRequest,
    Lane,
    ModelInfo,
    OnText,
    ScoreRequest,
    Scores,
)
from expertchat.backends.budget import Budget
from expertchat.backends.decoding import NotFinite, uniforms
from expertchat.backends.engine import Engine, make_engine
from expertchat.backends.kept import Context
from expertchat.backends.lanes import BatchLane
from expertchat.backends.rendering import Renderer
from expertchat.backends.rows import MEMORY_ERRORS, BranchLane, alike
from expertchat.backends.scoring import MOST, Asked, Plan, exclude_extensions, first_of, plan, share, values
from expertchat.backends.streaming import Pieces, Row, Watch
from expertchat.backends.unloadable import out_of_memory
from expertchat.backends.voice import Voice, bare
from expertchat.backends.weights import load_weights
from expertchat.config import ConfigError
from expertchat.records import Message

GIB = 2**30
MOST_ROWS = 64  # where the engine cannot tell how much memory a row takes


class LocalBackend(Backend):
    """Runs one causal language model. `seed` and a request's key fix the noise of its reply.

    `stop_tokens` (token strings) end a message besides the end tokens of the tokenizer, of the generation config and of the chat template;
    those that the vocabulary lacks are ignored. At most `max_batch` rows run at once (None: as many as the free memory holds), and at most
    `cache_gib` GiB of keys and values are kept between requests (None: from the free memory; 0: nothing is kept). `engine` False runs
    everything through transformers' `generate`. `renderer`: of the same tokenizer, where there is one already. Raises ConfigError without a
    chat template.
    """

    capabilities = Capabilities(lanes=True, keeps=True, tokens=True)

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        name: str,
        seed: int = 0,
        *,
        context_length: int | None = None,
        stop_tokens: Sequence[str] = (),
        notes: Sequence[str] = (),
        max_batch: int | None = None,
        cache_gib: float | None = None,
        engine: bool = True,
        thinking: bool = False,
        renderer: Renderer | None = None,
    ) -> None:
        self.model, self.tokenizer, self.seed = model.eval(), tokenizer, seed
        self.renderer = renderer or Renderer(tokenizer, name, thinking)
        rows = claims.embedding_rows(model)
        self.pieces = Pieces(tokenizer, self.renderer.vocabulary.hidden.union(claims.nameless_ids(tokenizer, rows)))
        found, ends = _end_ids(model, tokenizer, self.renderer, stop_tokens)
        notes = [*notes, *self.renderer.notes, *ends, *claims.unusable_ids(found, tokenizer.pad_token_id, rows)]
        self.end_ids = tuple(i for i in found if 0 <= i < rows)
        pads = (tokenizer.pad_token_id, *self.end_ids, tokenizer.unk_token_id, 0)
        self.pad_id = next(i for i in pads if i is not None and 0 <= i < rows)
        if tokenizer.pad_token_id != self.pad_id:  # training pads with it; the mask hides it
            tokenizer.pad_token = tokenizer.convert_ids_to_tokens(self.pad_id)
        # The model's own generation settings (repetition penalties, top-k, ...) would mix into every decoding that leaves them open.
        model.generation_config = GenerationConfig(pad_token_id=self.pad_id, eos_token_id=list(self.end_ids) or None)
        holds, (context_length, turning) = architecture.holds(model.config), rotary.settle(model, context_length)
        notes += [turning] if turning else []
        if context_length and holds and context_length > holds:
            notes.append(f"context_length {context_length} is more than the {holds} tokens that the model was made for")
        budget = Budget(None if cache_gib is None else int(cache_gib * GIB))
        made = make_engine(model, context_length or holds, budget) if engine else "not wanted"
        if isinstance(made, str) and engine:
            notes.append(f"no kept key/value caches, every prompt is computed anew: {made}")
        self.engine: Engine | None = None if isinstance(made, str) else made
        if self.engine is None and not plain.ragged_rows_agree(model, self.pad_id, name):
            notes.append("one row at a time: rows of different lengths that run together differ from single ones")
            max_batch = 1
        self._max_batch = max_batch
        self.info = ModelInfo(
            name=name,
            context_length=context_length or holds,
            special_tokens=self.renderer.special_tokens,
            notes=tuple(notes),
            system_role=self.renderer.system_role,
            alternation=self.renderer.alternation,
            opens_thinking=self.renderer.opens_thinking,
        )

    @classmethod
    def load(
        cls,
        folder: Path,
        name: str,
        seed: int = 0,
        *,
        dtype: str = "auto",
        device: str = "auto",
        attention: str = "auto",
        quantization: str = "none",
        device_map: dict[str, int | str] | None = None,
        **more: Any,
    ) -> LocalBackend:
        """Load a checked model folder; `more` goes to the constructor. Raises ConfigError with one message."""
        renderers: list[Renderer] = []  # made before the weights are read: a template that is of no use is said at once
        loaded = load_weights(
            folder,
            name,
            dtype=dtype,
            device=device,
            attention=attention,
            quantization=quantization,
            device_map=device_map,
            accept=lambda tokenizer: renderers.append(Renderer(tokenizer, name, more.get("thinking", False))),
        )
        notes = [*loaded.notes, *more.pop("notes", ())]
        made = cls(loaded.model, loaded.tokenizer, name, seed, notes=notes, renderer=renderers[0], **more)
        claims.check(made.model, made.tokenizer, made.renderer, name, made.info.context_length, made._broken())
        return made

    @property
    def device(self) -> str:
        return str(self.model.device)

    @property
    def max_batch(self) -> int:
        """Rows that run at once at most; found from the free memory at first use unless it was set, and lowered when memory runs out."""
        if self._max_batch is None:
            self._max_batch = self.engine.rows_that_fit(self.info.context_length) if self.engine else MOST_ROWS
        return self._max_batch

    @max_batch.setter
    def max_batch(self, rows: int) -> None:
        self._max_batch = rows

    @property
    def counts(self) -> Any:
        """What the engine has done (tokens prefilled, reused, decoded; bytes of caches at most), or None without one."""
        return self.engine.counts if self.engine else None

    def forget(self, key: str) -> None:
        if self.engine is not None:
            self.engine.kept.forget(key)

    def voice(self, switch: Callable[[], None]) -> LocalBackend:
        """The same model as it speaks after `switch()` (an adapter turned on or off), with caches of its own."""
        return self.over(Voice(self.model, switch))

    def over(self, model: Any) -> LocalBackend:
        """The same backend over another model of the same shape, with caches of its own."""
        other = copy(self)
        other.model = model
        if self.engine is not None:
            packed = self.engine.packed if bare(other.model) is bare(self.model) else None
            other.engine = Engine(other.model, self.engine.shapes, self.engine.budget, packed)
        return other

    def moved(self) -> None:
        """The model stands on another device: find out anew how it is run there."""
        if self.engine is not None:
            made = make_engine(self.model, self.info.context_length, self.engine.budget)
            self.engine = None if isinstance(made, str) else made

    def refresh(self) -> None:
        """The weights have changed: forget what was computed with the old ones."""
        if self.engine is not None:
            self.engine.free()

    def _shrink(self, tried: int, error: Exception, each: int = 1) -> None:
        """Memory ran out with so many requests of `each` rows. Raises ConfigError where not even one fits."""
        if tried <= 1:
            self.out_of_memory(error)
        before, self.max_batch = self.max_batch, tried // 2 * each
        self.say(f"{self.info.name}: out of memory, max_batch lowered from {before} to {self.max_batch}; nothing is lost")

    def _make_room(self, tried: int, error: Exception, each: int = 1) -> None:
        """The same, after a pass of whole batches. Raises what else went wrong."""
        if not out_of_memory(error):
            raise error
        if self.engine is not None:
            self.engine.budget.free()
        self._shrink(tried, error, each)

    def out_of_memory(self, error: Exception) -> NoReturn:
        """Say that not even one row fits. Raises ConfigError."""
        raise ConfigError(
            f"model {self.info.name}: out of memory with a single row; shorten the dialogue (conversation.turns, max_new_tokens), "
            "lower engine.cache_gib, or use a smaller or quantised model"
        ) from error

    # -- generation -------------------------------------------------------------------------------------------------

    def alike(self, decoding: Decoding) -> Hashable:
        """Equal for decodings whose requests may share a batch: with the engine speakers and judges do, whatever each is sampled with."""
        return decoding if self.engine is None or decoding.method == "beam" else alike(decoding)

    def lane(self, decoding: Decoding) -> Lane:
        """A lane for requests with this decoding and those that are `alike`."""
        if self.engine is None or decoding.method == "beam":
            return BatchLane(self._generate, lambda: self.max_batch)
        return BranchLane(self.engine, decoding, self.end_ids, self._begin, lambda: self.max_batch, self._shrink, self._broken())

    def generate(self, requests: Sequence[GenerateRequest], on_text: OnText | None = None) -> list[Completion]:
        """Complete every request, those whose decodings are `alike` together."""
        results: dict[int, Completion] = {}
        kinds = [self.alike(request.decoding) for request in requests]
        for kind in dict.fromkeys(kinds):
            lane = self.lane(requests[kinds.index(kind)].decoding)
            tickets: dict[int, int] = {}
            try:
                for i, request in enumerate(requests):
                    if kinds[i] == kind:
                        tickets[lane.add(request, _tell(on_text, i))] = i
                while lane.load:
                    results |= {tickets[ticket]: completion for ticket, completion in lane.advance()}
            finally:
                lane.close()
        return [results[i] for i in range(len(requests))]

    def _begin(self, request: GenerateRequest) -> tuple[list[int], Row, Sequence[float]]:
        ids = self.renderer.encode(request.messages, request.prefix)
        row = self.row(request, ids)
        return ids, row, uniforms(self.seed, request.key, row.limit) if request.decoding.method == "sampling" else []

    def _broken(self) -> str:
        """What is said where the logits are not finite."""
        dtype = str(self.model.dtype).removeprefix("torch.")
        of_fp16 = "set its dtype to bf16, or fp32 where the device has no bf16"
        remedy = of_fp16 if dtype == "float16" else "check its weights, or the adapter's"
        return f"model {self.info.name}: its logits are not finite ({dtype}), so no word can be drawn from them; {remedy}"

    def row(self, request: GenerateRequest, ids: Sequence[int], index: int = 0) -> Row:
        """An empty reply to a prompt of `ids`. Raises ConfigError if the prompt alone fills the context."""
        holds, most = self.info.context_length, request.decoding.max_new_tokens
        if holds and len(ids) >= holds:
            raise ConfigError(
                f"model {self.info.name}: a prompt takes {len(ids)} tokens, but the context holds {holds}; shorten the dialogue "
                "(conversation.turns, max_new_tokens) or use a model with a longer context"
            )
        thinking = self.info.opens_thinking and not request.prefix
        return Row(self.pieces, index, ids, min(most, holds - len(ids)) if holds else most, request.stops, thinking)

    def _generate(self, requests: Sequence[GenerateRequest], on_text: OnText | None = None) -> list[Completion]:
        """The usual way: whole batches of one decoding; rows of about the same length run together."""
        prompts = [self.renderer.encode(request.messages, request.prefix) for request in requests]
        waiting = sorted(range(len(requests)), key=lambda i: (len(prompts[i]), i))
        results: dict[int, Completion] = {}
        while waiting:
            decoding = requests[waiting[0]].decoding
            each = decoding.beams if decoding.method == "beam" else 1  # rows of a request
            batch = waiting[: max(1, self.max_batch // each)]
            rows = [self.row(requests[i], prompts[i], i) for i in batch]
            watch = Watch(rows, self.end_ids, on_text)
            limit, started = max(row.limit for row in rows), time.perf_counter()
            noise = [uniforms(self.seed, requests[i].key, limit) for i in batch]
            try:
                plain.write(self.model, [prompts[i] for i in batch], decoding, rows, watch, noise, self.pad_id)
            except NotFinite:
                raise ConfigError(self._broken()) from None
            except MEMORY_ERRORS as error:
                self._make_room(len(batch), error, each)
                continue
            watch.announce(last=True)
            seconds = time.perf_counter() - started
            results |= {row.index: row.completion(prompts[row.index], seconds) for row in rows}
            waiting = waiting[len(batch) :]
        return [results[i] for i in range(len(requests))]

    # -- scoring ----------------------------------------------------------------------------------------------------

    def score(self, requests: Sequence[ScoreRequest]) -> list[Scores]:
        """Log probabilities of the options of every request.

        Context and option are tokenised as one string and split at their longest common token prefix. All options whose beginnings lie on
        one path of tokens (" 1" to " 10" with every known tokenizer) need one path; requests with nearly equal contexts share one context.
        """
        started = time.perf_counter()
        plans = [plan(self.renderer, request, self.info.name, self.info.context_length) for request in requests]
        found: list[dict[tuple[int, ...], float]] = [{} for _ in plans]
        waiting = self._asked(plans, [request.key for request in requests])
        with nullcontext() if self.engine is None else self.engine.counts.phase("score"):
            while waiting:
                waiting = self._score(waiting, plans, found)
        pairs = zip(plans, found, strict=True)
        results = [exclude_extensions(planned.options, [have[o] for o in planned.options]) for planned, have in pairs]
        seconds = time.perf_counter() - started
        return [Scores(tuple(result), seconds) for result in results]

    def _asked(self, plans: Sequence[Plan], keys: Sequence[str]) -> list[Asked]:
        """What is to be run: contexts that requests share; without the engine each path has its own."""
        if self.engine is not None:
            return share(plans, keys)
        return [Asked(one.context, keys[i], [(i, path, path)]) for i, one in enumerate(plans) for path in one.paths]

    def _score(self, waiting: list[Asked], plans: Sequence[Plan], found: list[dict[tuple[int, ...], float]]) -> list[Asked]:
        """Score a batch of contexts of about the same length; returns what still waits."""
        waiting.sort(key=self._length)
        batch, rest = first_of(waiting, self.max_batch, MOST // self.model.config.get_text_config().vocab_size)
        try:
            logps = self._continuations(batch)
        except MEMORY_ERRORS as error:
            self._make_room(len(batch), error)
            return waiting
        for asked, of_row in zip(batch, logps, strict=True):
            for (i, path, _), logps_T_V in zip(asked.tails, of_row, strict=True):
                found[i] |= values(plans[i].options, path, logps_T_V)
        return rest

    def _length(self, asked: Asked) -> tuple[int, int]:
        """By which rows of a batch are alike: the tokens to compute, then all."""
        new = len(asked.context) if self.engine is None else self.engine.new_tokens(Context(asked.context[:-1]))
        return new, len(asked.context) + len(asked.tails[0][2])

    def _continuations(self, batch: Sequence[Asked]) -> list[list[Tensor]]:
        """For each path of each context: log probabilities before it and after each of its tokens."""
        tails = [[tail for _, _, tail in asked.tails] for asked in batch]
        if self.engine is None:
            rows = [(asked.context, tail) for asked, (tail,) in zip(batch, tails, strict=True)]
            return [[logps_T_V] for logps_T_V in plain.continuations(self.model, rows, self.pad_id)]
        last = [[len(path) + 1 for _, path, _ in asked.tails] for asked in batch]
        return self.engine.continuations([Context(asked.context, asked.owner) for asked in batch], tails, last)

    def count_tokens(self, messages: Sequence[Message]) -> int:
        """Tokens of the rendered chat, generation prompt included. A last message of the assistant's is the beginning of its answer."""
        begun = messages[-1] if messages and messages[-1].role == "assistant" else None
        return len(self.renderer.encode(messages[:-1] if begun else messages, begun.content if begun else ""))


def _tell(on_text: OnText | None, index: int) -> Callable[[str], None] | None:
    return None if on_text is None else lambda text: on_text(index, text)


def _end_ids(model: Any, tokenizer: Any, renderer: Renderer, stop_tokens: Sequence[str]) -> tuple[tuple[int, ...], list[str]]:
    """Ids that end a message: of the tokenizer, the generation config, the chat template and the family; and notes on them.

    A config that names none gets its class's number, which may be any word of this tokenizer: an ordinary one ends nothing.
    """
    configured = model.generation_config.eos_token_id
    configured = [i for i in (configured if isinstance(configured, list | tuple) else [configured]) if i is not None]
    added, default = tokenizer.added_tokens_decoder, _default_end(type(model.config.get_text_config()))
    words = [i for i in configured if i == default and i not in added and i != tokenizer.eos_token_id]
    said = [f"token {i} ({tokenizer.convert_ids_to_tokens(i)!r})" for i in words]
    notes = [f"{token}, an end by default, is an ordinary word and ends nothing" for token in said]
    vocabulary = tokenizer.get_vocab()
    family = [vocabulary[token] for token in stop_tokens if token in vocabulary]
    found = [tokenizer.eos_token_id, *(i for i in configured if i not in words), renderer.end_token(), *family]
    ids = tuple(dict.fromkeys(i for i in found if i is not None))
    if not ids:
        where = "its tokenizer, its generation_config.json or its chat template"
        notes.append(f"no end token is known to {where}, so every reply runs to max_new_tokens")
    return ids, notes


def _default_end(config: type[Any]) -> int | None:
    """The end token of a config that names none."""
    try:
        return getattr(config(), "eos_token_id", None)
    except Exception:  # some cannot be made out of nothing
        return None
