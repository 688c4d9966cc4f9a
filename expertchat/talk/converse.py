"""`expertchat converse`: topics, dialogues, judgements, a summary; into one run folder that the same command goes on with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from expertchat.backends.asking import Flow
from expertchat.backends.base import Backend, Embedder
from expertchat.events import ConversationFinished, ConversationJudged, Sink
from expertchat.folder.run import Hub, Interrupts, finished, in_folder, run_folder, started, stopped, was_done
from expertchat.folder.store import Store
from expertchat.folder.summary import summarise
from expertchat.judging.fits import check_references
from expertchat.judging.judge import judge_dialogue, record_counts
from expertchat.records import Topic
from expertchat.talk.cast import load_cast
from expertchat.talk.config import ConverseConfig
from expertchat.talk.conversation import Dialogue, check_first_prompts
from expertchat.talk.journal import Journal
from expertchat.talk.order import opener_of
from expertchat.talk.scheduler import Scheduler
from expertchat.talk.topics import Proposals, conversation_id, given_topics
from expertchat.trackers.beside import with_trackers


def run_converse(
    config: ConverseConfig,
    command_line: list[str],
    sink: Sink,
    *,
    backends: Mapping[str, Backend] | None = None,
    embedder: Embedder | None = None,
) -> int:
    """Run, or go on with a run. Returns 0 when it is done, 3 when it was stopped and can go on, 1 when its folder cannot be written.

    `sink` is closed at the end. `backends` (by the experts' names, and "third" and "moderator" where there are such) and `embedder` replace
    those of the config.
    Raises ConfigError for what is wrong with the config or the input.
    """
    with Hub(with_trackers(config, sink)) as hub, Interrupts() as interrupts:
        given = [] if config.topics.source == "models" else given_topics(config.topics, config.conversation.count, config.run.seed)
        check_references(config.judging, [topic.text for topic in given])
        place = run_folder(config.run.dir, "converse")
        return in_folder(
            hub,
            interrupts,
            lambda say: Store(place, config.model_dump(mode="json"), command_line, say),
            lambda store: _Converse(store.as_begun(config), store, hub, interrupts, given).run(backends, embedder),
        )


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
            return was_done(self.hub, self.store)
        config, hub, store, mine = self.config, self.hub, self.store, self._mine()
        with self.interrupts.at_once():  # nothing is in flight yet, and loading may take minutes
            cast = self.cast = load_cast(config, hub, backends, embedder)
        longest = max((topic.text for topic in self.given), key=len, default="a topic")
        check_first_prompts(self._dialogue(Topic(id="check", text=longest, source="list"), 0))
        store.begin(lambda speakers: record_counts(config.judging, config.experts.seats, speakers))
        done = len(store.done)
        hub.send(started("converse", store, conversations=len(mine), turns=config.conversation.turns, resumed=done))
        hub.notes(store.notes, "warning")
        hub.notes(cast.notes)
        scheduler = Scheduler(cast.backends, config.engine.max_batch, hub.send, self.interrupts.stop, len(mine), done)
        self.forget = scheduler.forget
        topics = self._topics(scheduler)
        if topics is None or not scheduler.run(self._conversations(topics, mine)):
            return stopped(hub, self.interrupts, store)
        return finished(hub, store, summarise(store.folder))

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
        tokens = {seat: self.cast.tokens[seat] for seat in self.cast.seats}
        proposals = Proposals(self.cast.speakers, config.topics, count, self.store.keep, self.hub.send, tokens)
        flow = Journal(self.store.answers(), self.store.keep).over(proposals.flow(known))
        return proposals.topics if scheduler.run([flow], counted=False) else None

    def _mine(self) -> range:
        """The dialogues of the whole run that this one makes, by index."""
        i, n = self.config.conversation.part or (0, 1)
        return range(i, self.config.conversation.count, n)

    def _conversations(self, topics: list[Topic], mine: range) -> Iterator[Flow[None]]:
        for index in mine:
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
        judging = judge_dialogue(transcript, self.config.judging, cast.experts, self.hub.send, cast.tokens, dict(saved.records))
        yield from Journal(dict(saved.answers), self.store.keep).over(judging)
        self.forget(f"{topic.id}/")
        self.hub.send(ConversationJudged(conversation=topic.id))

    def _dialogue(self, topic: Topic, index: int) -> Dialogue:
        config, tokens = self.config.conversation, self.cast.tokens
        counts = {seat: tokens[seat] for seat in self.cast.seats}
        opener = opener_of(index, config.opener, self.cast.seats)
        return Dialogue(topic, opener, self.cast.speakers, config, self.hub.send, counts, self.config.run.seed, self.cast.moderator)
