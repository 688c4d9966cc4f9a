"""`expertchat tokens`: what a model thinks of each token of a text, of what it goes on with, or of what it said in a run."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from expertchat.backends.base import Decoding
from expertchat.config import ConfigError, ModelConfig
from expertchat.experts.base import ContextTooSmallError, History
from expertchat.folder.reader import RunReader
from expertchat.folder.writing import write_out
from expertchat.metrics.config import TokensConfig, given_problems
from expertchat.metrics.loaded import load_model
from expertchat.metrics.said import ALTERED, Said, find_said, model_of, weights_of
from expertchat.records import Message, finite

if TYPE_CHECKING:
    from expertchat.backends.local import LocalBackend
    from expertchat.backends.looking import Looked, Spelling

FIRST = "nothing stands before the first token, so it has no probability (this tokenizer begins a text with no token of its own)"
GOES_ON = 20  # tokens, where there is no text
BITS = {"nats": 1.0, "bits": 1 / math.log(2)}
Show = Callable[[Mapping[str, Any]], None]


@dataclass(frozen=True)
class Asked:
    """What is looked at: `reply`, token by token, after `prompt`. `text`: what it says, without what a tokenizer adds; `about`: where it
    comes from; `notes`: what must be known of it.
    """

    prompt: tuple[int, ...]
    reply: tuple[int, ...]
    text: str = ""
    about: Mapping[str, Any] = field(default_factory=dict)
    notes: Sequence[str] = ()
    shown: bool = True  # whether the prompt was asked to be told apart from the text


def run_tokens(config: TokensConfig, show: Show) -> int:
    """Show the tokens, and write them where `out` says. Raises ConfigError with everything that is wrong, before a model is loaded."""
    if problems := given_problems(config):
        raise ConfigError(problems)
    if config.run is not None:
        backend, asked = of_run(config, Path(config.run).expanduser())
    else:
        assert config.model is not None
        here = {} if config.device is None else {"device": config.device}
        backend = load_model(config.model.model_copy(update=here), config.seed, config.threads)
        asked = of_text(config, backend)
    values = looked_at(config, backend, asked)
    if config.out is not None:
        write_out(f"out={config.out}", config.out, json.dumps(values, indent=1, ensure_ascii=False) + "\n")
    show(values)
    return 0


# -- a text ---------------------------------------------------------------------------------------------------------------


def of_text(config: TokensConfig, backend: LocalBackend) -> Asked:
    """The tokens of a prompt and a text, as a chat or as they stand."""
    prompt, text, notes = config.prompt or "", config.text or "", list[str]()
    if config.chat:
        messages = (Message("user", prompt),)
        before = backend.renderer.answered(messages) if text else backend.renderer.encode(messages)
        own = backend.renderer.reply(messages, Message("assistant", text), end=False) if text else []
        return Asked(tuple(before), tuple(own), text, notes=notes)
    whole = tuple(backend.tokenizer(prompt + text, verbose=False)["input_ids"])
    begun = tuple(backend.tokenizer(prompt, verbose=False)["input_ids"]) if prompt else ()
    if not text:
        return Asked(begun, (), notes=notes)
    start = next((i for i, (one, two) in enumerate(zip(begun, whole, strict=False)) if one != two), min(len(begun), len(whole)))
    if prompt and start < len(begun):
        notes.append("the end of the prompt and the beginning of the text make one token: it counts as the text's")
    if prompt and prompt[-1].isalnum() and text[0].isalnum():
        notes.append("no space stands between prompt and text: they are one word")
    if not prompt:
        start = _added(backend, whole)
    return Asked(whole[:start], whole[start:], text, notes=notes, shown=bool(prompt))


def _added(backend: LocalBackend, ids: Sequence[int]) -> int:
    """How many tokens the tokenizer puts before a text by itself: one or none."""
    bare = backend.tokenizer("", verbose=False)["input_ids"]
    return 1 if bare and ids and bare[0] == ids[0] and ids[0] in backend.renderer.vocabulary.special_ids else 0


# -- a run ----------------------------------------------------------------------------------------------------------------


def of_run(config: TokensConfig, folder: Path) -> tuple[LocalBackend, Asked]:
    """The model that spoke, as it was trained then, with the prompt that it was shown and what it said. Raises ConfigError."""
    from expertchat.experts.registry import make_expert

    run = RunReader(folder, "name another run")
    if not run.begun:
        raise ConfigError(f"run={folder}: is no run's folder; name one that holds config.yaml and transcripts.jsonl")
    said = find_said(run, config.turn or "")
    model = model_of(run, said.speaker, config.models_dir, config.device)
    version = said.version if config.version is None else config.version
    weights = weights_of(run, said.speaker, version)
    if weights is not None:  # which say themselves what the model was trained with before
        model = model.model_copy(update={"trained": str(weights)})
    backend = load_model(model, run.seed or 0, config.threads, exact=False)
    expert = make_expert(said.speaker, model, backend.info, run.seats)
    history = History(said.transcript.topic, tuple(said.transcript.turns[: said.index]))
    try:
        request, note = expert.reply_request("tokens", history, backend.count_tokens)
    except ContextTooSmallError as error:
        raise ConfigError(f"turn={config.turn}: {error}") from None
    notes = [*([note] if note else []), *_of_reply(said), *_of_weights(said, version)]
    notes.append(f"the run drew by {_drawn(model)}; probabilities are at temperature 1 over the whole vocabulary")
    if said.ids is not None:
        prompt, reply = backend.renderer.encode(request.messages, request.prefix), list(said.ids)
    else:
        prompt = backend.renderer.answered(request.messages)
        reply = backend.renderer.reply(request.messages, Message("assistant", said.text), end=False)
    about = {
        "run": str(folder), "dialogue": said.transcript.id, "topic": said.transcript.topic, "turn": said.index,
        "turns": len(said.transcript.turns), "speaker": said.speaker, "candidate": said.candidate, "policy_version": version,
    }  # fmt: skip
    return backend, Asked(tuple(prompt), tuple(reply), said.text, about, notes)


def _of_reply(said: Said) -> list[str]:
    """What is to be said of the reply's tokens."""
    found = []
    if said.ids is None:
        found.append("the run kept no tokens of this turn: its text is cut into tokens anew, which may be others than were drawn")
        if said.thought:
            found.append("it thought before it spoke: the prompt is without its thoughts, so its first words look less likely")
    if said.altered is not None and (said.ids is not None or said.altered != "thinking"):
        found.append(f"of what was drawn: {ALTERED[said.altered]}")
    return found


def _of_weights(said: Said, version: int) -> list[str]:
    return [] if version == said.version else [f"policy version {said.version} spoke; these are the probabilities of version {version}"]


def _drawn(model: ModelConfig) -> str:
    """How the run's reply was drawn, in words."""
    reply = model.decoding.reply
    by = {
        "contrastive": f"contrastive search (top_k={reply.top_k}, alpha={reply.penalty_alpha:g})", "beam": f"beam search ({reply.beams})",
        "greedy": "greedy search", "sampling": f"sampling (temperature={reply.temperature:g}, top_p={reply.top_p:g}, top_k={reply.top_k})",
    }  # fmt: skip
    return by[reply.method]


# -- looking --------------------------------------------------------------------------------------------------------------


def looked_at(config: TokensConfig, backend: LocalBackend, asked: Asked) -> dict[str, Any]:
    """All that is told, as values: log-probabilities and entropies in `config.unit`."""
    from expertchat.backends.looking import Spelling, looks, write

    notes, spelling, scale = list(asked.notes), Spelling(backend.tokenizer), BITS[config.unit]
    wanted = config.continues if config.continues is not None else 0 if asked.reply else GOES_ON
    first: tuple[int, ...] = ()
    if not asked.prompt:  # nothing stands before the first token
        if not asked.reply:
            raise ConfigError("there is no token to look at; give a longer text")
        first = asked.reply[:1]
        asked = replace(asked, prompt=first, reply=asked.reply[1:])
        notes.append(FIRST)
    given = len(asked.reply)
    if wanted:
        method = "sampling" if config.sample else "greedy"
        decoding = Decoding(method=method, max_new_tokens=wanted, temperature=config.temperature)  # type: ignore[arg-type]
        more = write(backend, (*asked.prompt, *asked.reply), wanted, decoding)
        asked = replace(asked, reply=(*asked.reply, *more))
        if len(more) < wanted:
            notes.append(f"the model ended after {len(more)} tokens")
    found = looks(backend, asked.prompt, asked.reply, config.top)
    before = () if first else asked.prompt
    pieces = spelling.pieces(before, (*first, *asked.reply))
    ids = (*asked.prompt, *asked.reply)
    rows = [_first(first[0], pieces[0], spelling)] if first else []
    for i, (one, piece) in enumerate(zip(found, [*pieces[len(first) :], ""], strict=True)):
        rows.append(_row(one, piece, ids[: len(asked.prompt) + i], spelling, scale, "continued" if i >= given else "given"))
    next_row = rows.pop()
    special = backend.renderer.vocabulary.special_ids
    for row in rows:
        row["special"] = row["id"] in special
    return finite({
        "schema": 1, "model": backend.info.name, "unit": config.unit, "temperature": 1.0, "lines": config.lines, "about": dict(asked.about),
        "notes": [*notes, *backend.info.notes],
        "prompt": {"text": "" if first else spelling.text(asked.prompt), "tokens": 0 if first else len(asked.prompt), "asked": asked.shown},
        "tokens": rows, "next": {key: next_row[key] for key in ("entropy", "five", "top")},
        "total": total(rows, _own("".join(row["text"] for row in rows if row["logp"] is not None), "" if first else asked.text), scale),
    })  # fmt: skip


def _own(spelt: str, text: str) -> str:
    """What tokens spell, without the space that a tokenizer has put before the text."""
    bare = spelt.lstrip()
    return text[: len(text) - len(text.lstrip())] + bare if text.strip() and bare.startswith(text.strip()) else spelt


def _first(token: int, piece: str, spelling: Spelling) -> dict[str, Any]:
    none = dict.fromkeys(("probability", "logp", "rank", "entropy", "five"))
    return {"id": token, "text": piece, "name": spelling.name(token), "from": "given", **none, "top": []}


def _row(one: Looked, piece: str, before: Sequence[int], spelling: Spelling, scale: float, source: str) -> dict[str, Any]:
    """One token; texts are as they stand, and views make them harmless. The likeliest tokens have what each would add."""
    top = [{"id": i, "text": spelling.after(before, i), "probability": p} for i, p in one.top]
    return {
        "id": one.id, "text": piece, "name": "" if one.id is None else spelling.name(one.id), "from": source,
        "probability": None if one.logp is None else math.exp(one.logp), "logp": None if one.logp is None else one.logp * scale,
        "rank": one.rank, "entropy": one.entropy * scale, "five": one.five, "top": top,
    }  # fmt: skip


def total(rows: Sequence[Mapping[str, Any]], text: str, scale: float = 1.0) -> dict[str, Any]:
    """Of the tokens that have a probability: the sum of their log-probabilities, by token and by byte, and the perplexity.

    perplexity = exp(-sum of log p / tokens): two tokens of probability 1/2 and 1/8 have exp((ln 2 + ln 8) / 2) = 4.
    """
    known = [row["logp"] / scale for row in rows if row["logp"] is not None]
    if not known:
        return {"tokens": 0, "bytes": 0, "logp": None, "logp_token": None, "logp_byte": None, "perplexity": None, "entropy": None}
    size, nats = len(text.encode("utf-8", "surrogatepass")), sum(known)
    return {
        "tokens": len(known), "bytes": size, "logp": nats * scale, "logp_token": nats * scale / len(known),
        "logp_byte": nats * scale / size if size else None, "perplexity": math.exp(min(700.0, -nats / len(known))),
        "entropy": fmean(row["entropy"] for row in rows if row["entropy"] is not None),
    }  # fmt: skip
