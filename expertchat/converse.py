"""`expertchat converse`: topics, dialogues, judgements, a summary; into one run folder that the same command goes on with."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from expertchat.backends.base import Backend, Embedder
from expertchat.backends.loading import LaterEmbedder, Wanted, find_models, load_embedder, load_models
from expertchat.config import ConfigError, ConverseConfig, ModelConfig
from expertchat.conversation import Dialogue, check_first_prompts, opener_of
from expertchat.events import ConversationFinished, ConversationJudged, Loading, Note, RunFinished, RunStarted, Sink
from expertchat.experts.base import CountTokens, ExpertChat
from expertchat.jsonl import WriteError
from expertchat.judging.judge import RESERVED, Judging, record_counts
from expertchat.plan.planner import check, embedder_device, placed
from expertchat.records import Speaker, Topic
from expertchat.run import Hub, Interrupts, run_folder
from expertchat.scheduler import Flow, Scheduler
from expertchat.store import Store
from expertchat.summary import summarise
from expertchat.topics import Proposals, conversation_id, given_topics

DONE, FAILED, STOPPED = 0, 1, 3


def run_converse(
    config: ConverseConfig,
    command_line: list[str],
    sink: Sink,
    *,
    backends: Mapping[str, Backend] | None = None,
    embedder: Embedder | None = None,
) -> int:
    """Run, or go on with a run. Returns 0 when it is done, 3 when it was stopped and can go on, 1 when its folder cannot be written.

    `sink` is closed at the end. `backends` ("a", "b", and "third" where there is one) and `embedder` replace those of the config.
    Raises ConfigError for what is wrong with the config or the input.
    """
    hub = Hub(sink)
    try:
        with Interrupts() as interrupts:
            _check_categories(config)
            given = [] if config.topics.source == "models" else given_topics(config.topics, config.conversation.count, config.run.seed)
            store = Store(run_folder(config.run.dir, "converse"), config.model_dump(mode="json"), command_line)
            hub.store = store
            try:
                return _Converse(config, store, hub, interrupts, given).run(backends, embedder)
            except BaseException as error:
                return _broken_off(error, store, hub)
            finally:
                store.close()
    finally:
        hub.close()


def _broken_off(error: BaseException, store: Store, hub: Hub) -> int:
    """The exit code for what ended a run early, or the error again where the caller shall see it."""
    if isinstance(error, KeyboardInterrupt):
        with suppress(WriteError):
            hub.send(RunFinished(status="stopped", reason="interrupted twice: what was in flight is made again"))
        return STOPPED
    if isinstance(error, WriteError):
        hub.store = None
        hub.send(RunFinished(status="failed", reason=str(error)))
        return FAILED
    end = RunFinished(time=time.time(), status="failed", reason=f"{type(error).__name__}: {error}")
    with suppress(WriteError):
        store.send(end)
    if not isinstance(error, ConfigError):  # a ConfigError is shown by the caller
        hub.show(end)
    raise error


def _check_categories(config: ConverseConfig) -> None:
    bad = [name for name in config.judging.categories if name in RESERVED or "/" in name or not name.strip()]
    if bad:
        raise ConfigError([f"judging.categories: {name!r} cannot be a category's name; rename it" for name in bad])


# -- who takes part -----------------------------------------------------------------------------------------------------


@dataclass
class Cast:
    """The loaded models: backends by seat ("a", "b", "third") plus "embedder", and the experts."""

    backends: dict[str, Any] = field(default_factory=dict)
    experts: dict[str, ExpertChat] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def tokens(self) -> dict[str, CountTokens]:
        return {seat: self.backends[seat].count_tokens for seat in self.experts}

    @property
    def speakers(self) -> dict[Speaker, ExpertChat]:
        return {"a": self.experts["a"], "b": self.experts["b"]}


def seats_of(config: ConverseConfig) -> dict[str, ModelConfig]:
    """The models that a run needs, by seat."""
    seats = {"a": config.experts.a, "b": config.experts.b}
    if config.judging.judge == "third" and config.third is not None:
        seats["third"] = config.third
    return seats


def load_cast(config: ConverseConfig, hub: Hub, given: Mapping[str, Backend] | None, embedder: Embedder | None) -> Cast:
    """Load what the config names, each model once. Raises ConfigError, before anything is loaded if it can be known then."""
    from expertchat.experts.registry import expert_notes, family_class, make_expert

    cast, seats = Cast(), seats_of(config)
    wanted = {seat: Wanted(model, family_class(model.family).family.stop) for seat, model in seats.items()}
    wants_embedder = embedder is None and (config.judging.wim.enabled or config.topics.source == "models")
    backends, found = _load(config, wanted if given is None else {}, wants_embedder, hub)
    backends |= given or {}
    for seat, model in seats.items():
        backend: Any = backends[seat]
        cast.backends[seat] = backend
        cast.experts[seat] = make_expert(seat, model, backend.info)
        notes = expert_notes(model, cast.experts[seat], backend.info)
        cast.notes += [note for text in notes if (note := f"{backend.info.name}: {text}") not in cast.notes]
        if hasattr(backend, "say"):
            backend.say = lambda text: hub.send(Note(text=text, level="warning"))
    embedder = embedder or found
    if embedder is not None:
        cast.backends["embedder"] = embedder
    return cast


def _load(
    config: ConverseConfig, wanted: Mapping[str, Wanted], wants_embedder: bool, hub: Hub
) -> tuple[dict[str, Backend], LaterEmbedder | None]:
    """The backends by seat, and the embedder if it is wanted: found, and loaded later."""
    keys = {seat: _what_is_loaded(one) for seat, one in wanted.items()}
    models = {key: next(wanted[seat] for seat in wanted if keys[seat] == key) for key in dict.fromkeys(keys.values())}
    problems: list[str] = []
    folders, embedder = dict[str, Path](), None
    try:
        folders = find_models(models, hub.send)
    except ConfigError as error:
        problems += error.problems
    try:
        embedder = _find_embedder(config, hub) if wants_embedder else None
    except ConfigError as error:
        problems += error.problems
    if problems:
        raise ConfigError(problems)
    _set_threads(config.engine.threads, [one.config for one in models.values() if one.config.backend == "local"])
    plan = check(config) if models else None
    for key, one in models.items():
        placed_config, device_map = placed(one.config, next(seat for seat in wanted if keys[seat] == key), plan)
        models[key] = one._replace(config=placed_config, device_map=device_map)
    if embedder is not None:
        embedder.config = embedder.config.model_copy(update={"device": embedder_device(plan, embedder.config.device)})
    loaded = load_models(models, folders, config.run.seed, config.engine, hub.send)
    return {seat: loaded[key] for seat, key in keys.items()}, embedder


def _what_is_loaded(wanted: Wanted) -> str:
    """Two seats with the same value share a backend: persona, wordings and decoding differ by request."""
    return wanted.config.model_dump_json(exclude={"family", "prompts", "persona", "decoding"}) + repr(wanted.stop_tokens)


def _set_threads(threads: int | None, models: Sequence[ModelConfig]) -> None:
    if not models:
        return
    import torch

    from expertchat.backends.hardware import usable_cores

    torch.set_num_threads(threads or (1 if all(model.path.startswith("embedded:") for model in models) else usable_cores()))


def _find_embedder(config: ConverseConfig, hub: Hub) -> LaterEmbedder:
    def announce(done: bool, seconds: float) -> None:
        hub.send(Loading(what="embedder", done=done, seconds=seconds, gib=embedder.gib))

    embedder = load_embedder(config.embedder, [model.path for model in seats_of(config).values()], announce)
    return embedder


# -- what happens -------------------------------------------------------------------------------------------------------


@dataclass
class _Converse:
    config: ConverseConfig
    store: Store
    hub: Hub
    interrupts: Interrupts
    given: list[Topic]

    def run(self, backends: Mapping[str, Backend] | None, embedder: Embedder | None) -> int:
        if self.store.summary is not None:
            return self._was_done(self.store.summary)
        config, hub, store = self.config, self.hub, self.store
        cast = self.cast = load_cast(config, hub, backends, embedder)
        longest = max((topic.text for topic in self.given), key=len, default="a topic")
        check_first_prompts(self._dialogue(Topic(id="check", text=longest, source="list"), 0))
        store.begin(lambda speakers: record_counts(config.judging, speakers))
        hub.send(self._started())
        hub.notes(store.notes, "warning")
        hub.notes(cast.notes)
        count = config.conversation.count
        scheduler = Scheduler(cast.backends, config.engine.max_batch, hub.send, self.interrupts.stop, count, len(store.done))
        self.forget = scheduler.forget
        topics = self._topics(scheduler)
        if topics is None or not scheduler.run(self._conversations(topics)):
            return self._stopped()
        summary = summarise(store.folder)
        hub.send(RunFinished(status="done", summary=summary))
        store.finish(summary)
        return DONE

    def _started(self) -> RunStarted:
        config, store = self.config, self.store
        return RunStarted(
            command="converse",
            folder=str(store.folder),
            conversations=config.conversation.count,
            turns=config.conversation.turns,
            resumed=len(store.done),
            pid=os.getpid(),
            host=socket.gethostname(),
        )

    def _was_done(self, summary: dict[str, Any]) -> int:
        self.hub.show(Note(time=time.time(), text=f"{self.store.folder} is done already: nothing is left to do"))
        self.hub.show(RunFinished(time=time.time(), status="done", reason="it was done before", summary=summary))
        return DONE

    def _stopped(self) -> int:
        self.hub.send(RunFinished(status="stopped", reason=self.interrupts.reason))
        self.store.sync()
        return STOPPED

    def _topics(self, scheduler: Scheduler) -> list[Topic] | None:
        """The topics of the run, used in turn; None if a signal came while they were proposed."""
        known, config = self.store.topics(), self.config
        if config.topics.source != "models":
            topics = known + self.given[len(known) :]
            for topic in topics:
                self.store.keep(topic)
            return topics
        count = config.conversation.count
        if len(known) >= count:
            return known
        tokens: dict[Speaker, CountTokens] = {"a": self.cast.tokens["a"], "b": self.cast.tokens["b"]}
        proposals = Proposals(self.cast.speakers, config.topics, count, self.store.keep, self.hub.send, tokens)
        return proposals.topics if scheduler.run([proposals.flow(known)], counted=False) else None

    def _conversations(self, topics: list[Topic]) -> Iterator[Flow[None]]:
        for index in range(self.config.conversation.count):
            name = conversation_id(index)
            if name not in self.store.done:
                yield self._conversation(topics[index % len(topics)].model_copy(update={"id": name}), index)

    def _conversation(self, topic: Topic, index: int) -> Flow[None]:
        """One dialogue from its first turn to its last reward."""
        saved, dialogue = self.store.saved(topic.id), self._dialogue(topic, index)
        if saved.transcript is None:
            transcript = yield from dialogue.flow(saved.done_turns())
            self.store.keep(transcript)
        else:
            transcript = saved.transcript
            dialogue.replay(transcript.turns)
        self.hub.send(ConversationFinished(conversation=topic.id, turns=len(transcript.turns), stop_reason=transcript.stop_reason))
        cast = self.cast
        yield from Judging(transcript, self.config.judging, cast.experts, self.hub.send, cast.tokens, dict(saved.records)).flow()
        self.forget(f"{topic.id}/")
        self.hub.send(ConversationJudged(conversation=topic.id))

    def _dialogue(self, topic: Topic, index: int) -> Dialogue:
        config, tokens = self.config.conversation, self.cast.tokens
        counts: dict[Speaker, CountTokens] = {"a": tokens["a"], "b": tokens["b"]}
        opener = opener_of(index, config.opener)
        return Dialogue(topic, opener, self.cast.speakers, config, self.hub.send, counts, self.config.run.seed)
