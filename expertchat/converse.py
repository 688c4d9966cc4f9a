"""`expertchat converse`: topics, dialogues, judgements, a summary; into one run folder that the same command goes on with."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from expertchat.backends.base import Backend, Embedder
from expertchat.config import ConfigError, ConverseConfig, ModelConfig
from expertchat.conversation import Dialogue, check_first_prompts, opener_of
from expertchat.events import ConversationFinished, ConversationJudged, Loading, Note, RunFinished, RunStarted, Sink
from expertchat.experts.base import CountTokens, ExpertChat
from expertchat.jsonl import WriteError
from expertchat.judging.judge import RESERVED, Judging, record_counts
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
    """Load what the config names, each model once. Raises ConfigError."""
    from expertchat.experts.registry import expert_notes, family_class, make_expert

    cast, seats = Cast(), seats_of(config)
    families = {seat: family_class(model.family) for seat, model in seats.items()}
    threads = config.engine.threads or (1 if all(m.path.startswith("embedded:") for m in seats.values()) else None)
    if given is None and threads is not None:
        import torch

        torch.set_num_threads(threads)
    loaded: dict[str, Backend] = dict(given or {})
    for seat, model in seats.items():
        key = seat if given is not None else _what_is_loaded(model, families[seat].family.stop)
        if key not in loaded:
            loaded[key] = _load_model(config, model, families[seat].family.stop, hub)
        cast.backends[seat] = loaded[key]
        cast.experts[seat] = make_expert(seat, model, loaded[key].info)
        notes = expert_notes(model, cast.experts[seat], loaded[key].info)
        cast.notes += [note for text in notes if (note := f"{loaded[key].info.name}: {text}") not in cast.notes]
    if config.judging.wim.enabled or config.topics.source == "models":
        cast.backends["embedder"] = embedder or _load_embedder(config, [m.path for m in seats.values()], hub)
    return cast


def _what_is_loaded(model: ModelConfig, stop: tuple[str, ...]) -> str:
    """Two seats with the same value share a backend: persona, wordings and decoding differ by request."""
    return model.model_dump_json(exclude={"family", "prompts", "persona", "decoding"}) + repr(stop)


def _load_model(config: ConverseConfig, model: ModelConfig, stop: tuple[str, ...], hub: Hub) -> Backend:
    from expertchat.backends.loading import load_backend

    what, began = model.path, time.monotonic()
    hub.send(Loading(what=what))
    backend = load_backend(model, config.run.seed, stop, config.engine.max_batch)
    hub.send(Loading(what=what, done=True, seconds=time.monotonic() - began))
    return backend


def _load_embedder(config: ConverseConfig, paths: list[str], hub: Hub) -> Embedder:
    from expertchat.backends.loading import load_embedder

    def announce(done: bool, seconds: float) -> None:
        hub.send(Loading(what="embedder", done=done, seconds=seconds))

    return load_embedder(config.embedder, paths, announce)


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
        self.hub.send(ConversationJudged(conversation=topic.id))

    def _dialogue(self, topic: Topic, index: int) -> Dialogue:
        config, tokens = self.config.conversation, self.cast.tokens
        counts: dict[Speaker, CountTokens] = {"a": tokens["a"], "b": tokens["b"]}
        opener = opener_of(index, config.opener)
        return Dialogue(topic, opener, self.cast.speakers, config, self.hub.send, counts, self.config.run.seed)
