"""`expertchat converse`: topics, dialogues, judgements, a summary; into one run folder that the same command goes on with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from expertchat.backends.asking import Flow
from expertchat.backends.base import Backend, Embedder
from expertchat.config import ConfigError
from expertchat.events import ConversationFinished, ConversationJudged, GuessGiven, Sink
from expertchat.folder.desk import Desk
from expertchat.folder.reader import RunReader
from expertchat.folder.run import Hub, Interrupts, finished, in_folder, run_folder, started, stopped, was_done
from expertchat.folder.store import Store
from expertchat.folder.summary import summarise
from expertchat.judging.fits import check_references
from expertchat.judging.guessing import guess_all, guesses_wanted, turing_of
from expertchat.judging.judge import judge_dialogue, judgements, record_counts
from expertchat.records import Speaker, Topic, Transcript, Turn
from expertchat.talk.branching import branched, kept_turns, parent_of
from expertchat.talk.cast import load_cast
from expertchat.talk.config import ConverseConfig
from expertchat.talk.conversation import Dialogue, check_first_prompts
from expertchat.talk.journal import Journal
from expertchat.talk.order import opener_of
from expertchat.talk.scheduler import Scheduler
from expertchat.talk.table import Table
from expertchat.talk.topics import Proposals, conversation_id, conversation_index, given_topics
from expertchat.text.sentences import listed
from expertchat.trackers.beside import with_trackers


def run_converse(
    config: ConverseConfig,
    command_line: list[str],
    sink: Sink,
    *,
    backends: Mapping[str, Backend] | None = None,
    embedder: Embedder | None = None,
    desk: Desk | None = None,
) -> int:
    """Run, or go on with a run. Returns 0 when it is done, 3 when it was stopped and can go on, 1 when its folder cannot be written.

    `sink` is closed at the end. `backends` (by the experts' names, and "third" and "moderator" where there are such) and `embedder` replace
    those of the config. `desk`: where a person types, if one sits there or looks at every turn.
    Raises ConfigError for what is wrong with the config or the input.
    """
    with Hub(with_trackers(config, sink)) as hub, Interrupts() as interrupts:
        parent = parent_of(config.branch)
        given = [] if config.topics.source == "models" else given_topics(config.topics, config.conversation.count, config.run.seed)
        check_references(config.judging, [topic.text for topic in given])
        place = run_folder(config.run.dir, "converse")
        return in_folder(
            hub,
            interrupts,
            lambda say: Store(place, config.model_dump(mode="json"), command_line, say),
            lambda store: _Converse(store.as_begun(config), store, hub, interrupts, given, desk, parent).run(backends, embedder),
        )


# -- what happens -------------------------------------------------------------------------------------------------------


@dataclass
class _Converse:
    config: ConverseConfig
    store: Store
    hub: Hub
    interrupts: Interrupts
    given: list[Topic]
    desk: Desk | None = None
    parent: Transcript | None = None
    topics: int = 0  # that the dialogues have in turn

    def run(self, backends: Mapping[str, Backend] | None, embedder: Embedder | None) -> int:
        if self.store.summary is not None:
            return was_done(self.hub, self.store)
        config, hub, store, mine = self.config, self.hub, self.store, self._mine()
        with self.interrupts.at_once():  # nothing is in flight yet, and loading may take minutes
            cast = self.cast = load_cast(config, hub, backends, embedder)
        longest = max((topic.text for topic in self.given), key=len, default="a topic")
        check_first_prompts(self._dialogue(Topic(id="check", text=longest, source="list"), 0))
        self.table = self._table()
        store.begin(self._expected)
        done = len(store.done)
        hub.send(started("converse", store, conversations=len(mine), turns=config.conversation.turns, resumed=done))
        hub.notes(store.notes, "warning")
        hub.notes([*cast.notes, *self._unjudged(), *branched(config.branch)])
        scheduler = Scheduler(cast.backends, config.engine.max_batch, hub.send, self.interrupts.stop, len(mine), done)
        self.forget = scheduler.forget
        topics = self._topics(scheduler)
        width = 1 if self.table is not None else None  # a person sits in one dialogue at a time
        if topics is None or not scheduler.run(self._conversations(topics, mine), width):
            return stopped(hub, self.interrupts, store)
        if self.table is not None:
            self.table.clear()
        return finished(hub, store, summarise(store.folder) | turing_of(RunReader(store.folder)))

    def _table(self) -> Table | None:
        """Where a person types; None: nobody does."""
        config = self.config
        if not config.seated:
            return None
        if self.desk is None:
            raise ConfigError("a person sits at the table, and there is nowhere to type: run it on a terminal, with view=live or step")
        return Table(self.desk, self.store, config.people, config.table.seconds, config.view == "step")

    def _expected(self, speakers: Sequence[Speaker]) -> tuple[int, ...]:
        """The records that a dialogue with these speakers' turns has when it is whole."""
        config, seats = self.config, self.config.experts.seats
        guesses = len(guesses_wanted(seats, speakers)) if config.guesses else 0
        return (*record_counts(config.judging, seats, speakers, config.unasked), guesses)

    def _unjudged(self) -> list[str]:
        """Whom nobody judges where a person is not asked."""
        seats = self.config.experts.seats
        judged = {one.subject for one in judgements(self.config.judging, seats, seats, self.config.unasked)}
        lost = [seat.upper() for seat in seats if seat not in judged]
        remedy = "a person is not asked for ratings (table.rate=never; judging.judge=self or third asks a model)"
        return [f"nobody judges {listed(lost)}: {remedy}"] if lost else []

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
        tokens = {seat: self.cast.tokens[seat] for seat in self.cast.seats if seat not in config.people}
        speakers = {seat: expert for seat, expert in self.cast.speakers.items() if seat not in config.people}
        proposals = Proposals(speakers, config.topics, count, self.store.keep, self.hub.send, tokens)
        flow = Journal(self.store.answers(), self.store.keep).over(proposals.flow(known))
        return proposals.topics if scheduler.run([flow], counted=False) else None

    def _mine(self) -> range:
        """The dialogues of the whole run that this one makes, by index; a branch makes the one that it goes on with."""
        if self.parent is not None:
            return range(index := conversation_index(self.parent.id), index + 1)
        i, n = self.config.conversation.part or (0, 1)
        return range(i, self.config.conversation.count, n)

    def _conversations(self, topics: list[Topic], mine: range) -> Iterator[Flow[None]]:
        self.topics = len(topics)
        for index in mine:
            name = conversation_id(index)
            if name not in self.store.done:
                yield self._conversation(topics[index % len(topics)].model_copy(update={"id": name}), index)

    def _conversation(self, topic: Topic, index: int) -> Flow[None]:
        """One dialogue from its first turn to its last reward."""
        saved, dialogue = self.store.saved(topic.id), self._dialogue(topic, index)
        if saved.transcript is None:
            next_turn = None if self.table is None else self.table.next_turn(dialogue)
            transcript = yield from dialogue.flow(saved.done_turns() or self._given_turns(), next_turn)
            self.store.keep(transcript)
        else:
            transcript = saved.transcript
            dialogue.replay(transcript.turns)
        self.hub.send(ConversationFinished(conversation=topic.id, turns=len(transcript.turns), stop_reason=transcript.stop_reason))
        cast = self.cast
        sits = self.table if self.config.people - self.config.unasked else None
        judging = judge_dialogue(transcript, self.config.judging, cast.experts, self.hub.send, cast.tokens, dict(saved.records), sits)
        yield from Journal(dict(saved.answers), self.store.keep).over(judging)
        if self.config.guesses:
            guessing = guess_all(
                transcript, cast.experts, cast.tokens, self._ask, saved.records, lambda guess: self.hub.send(GuessGiven(guess=guess)),
                self.config.judging.min_mass,
            )  # fmt: skip
            yield from Journal(dict(saved.answers), self.store.keep).over(guessing)
        self.forget(f"{topic.id}/")
        self.hub.send(ConversationJudged(conversation=topic.id))

    def _given_turns(self) -> list[Turn]:
        """The turns of another run that this one goes on from."""
        return [] if self.parent is None or self.config.branch is None else kept_turns(self.parent, self.config.branch)

    def _ask(self, guesser: Speaker, subject: Speaker) -> tuple[bool | None, str]:
        """What a person says of another one."""
        assert self.desk is not None
        return self.desk.guess(guesser, subject)

    def _dialogue(self, topic: Topic, index: int) -> Dialogue:
        config, tokens = self.config.conversation, self.cast.tokens
        counts = {seat: tokens[seat] for seat in self.cast.seats}
        opener = opener_of(index, config.opener, self.cast.seats, self.topics)
        return Dialogue(topic, opener, self.cast.speakers, config, self.hub.send, counts, self.config.run.seed, self.cast.moderator)
