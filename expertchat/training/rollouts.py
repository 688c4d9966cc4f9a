"""The dialogues of each round, their topics, and whatever else a training run asks of the models, by all processes together."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from expertchat.backends.asking import Flow
from expertchat.evaluation.parts import Parts
from expertchat.events import Announce
from expertchat.preferences.candidates import Bundle, Rollout
from expertchat.records import Figure, Speaker, Topic
from expertchat.talk.cast import Cast
from expertchat.talk.conversation import Dialogue, check_first_prompts
from expertchat.talk.journal import Journal
from expertchat.talk.order import opener_of
from expertchat.talk.scheduler import Scheduler, Spent
from expertchat.talk.topics import Proposals, conversation_id
from expertchat.training.at_work import AtWork
from expertchat.training.config import OnlineConfig
from expertchat.training.drift import drift, moved
from expertchat.training.folder import TrainingFolder, round_name
from expertchat.training.held_out import part
from expertchat.training.learner import Learner, Learners
from expertchat.training.lockstep import Lockstep
from expertchat.training.ranks import Ranks
from expertchat.training.single import given, rules_of

POOL = 4  # topics=models: for how many rounds topics are proposed


class Rollouts:
    """Who talks, with whom, about what. `stopped` says whether a signal came to this process."""

    def __init__(
        self,
        config: OnlineConfig,
        learners: Learners,
        cast: Cast,
        store: TrainingFolder,
        announce: Announce,
        stopped: Callable[[], bool],
        ranks: Ranks,
    ) -> None:
        self.config, self.learners, self.cast, self.store = config, learners, cast, store
        self.announce, self.stopped, self.ranks = announce, stopped, ranks
        self.at_work = AtWork(store, ranks.rank)
        self.speakers = cast.speakers
        self.counts = {seat: cast.tokens[seat] for seat in self.speakers}
        self.training: list[Topic] = []
        self.rules = rules_of(config)

    # -- topics -----------------------------------------------------------------------------------------------------

    def topics(self) -> Parts | None:
        """Find the topics, in their three parts; None if a signal came while topics were proposed.

        Raises ConfigError where too few are left, or where the first prompts do not fit their contexts.
        """
        config, known = self.config, self.store.topics
        if config.topics.source == "models" and config.prompts.file is None:
            count = config.evaluation.topics + config.evaluation.choosing + POOL * config.conversation.count
            proposals = Proposals(self.speakers, config.topics, count, self.store.keep, self.announce, self.counts)
            if len(known) < count and not self.flows([proposals.flow(known)]):
                return None
            topics = list(known)
        else:
            topics = given(config)
        parts = part(topics, config)
        self.training = parts.train
        check_first_prompts(self._dialogue("check", 1, 0, max((topic.text for topic in topics), key=len)))
        return parts

    # -- a round ----------------------------------------------------------------------------------------------------

    def round(self, number: int, seats: tuple[Speaker, ...], spent: Spent) -> list[Bundle] | None:
        """The dialogues of a round in their order, those made by other processes and by an earlier start included; None: stopped.

        `seats`: at whose turns candidates are sampled. `spent` hears what the time goes into.
        """
        names = [f"{round_name(number)}/{conversation_id(i)}" for i in range(self.config.conversation.count)]
        done = self.ranks.same(self.at_work.bundles(number) if self.ranks.rank == 0 else {})
        mine = self.ranks.mine([(i, name) for i, name in enumerate(names) if name not in done])
        for seat, version in self.learners.versions().items():
            expert = self.speakers[seat]
            expert.ref = expert.ref.model_copy(update={"policy_version": version})
        scheduler, journal = self._scheduler(len(names), len(done), spent), self._journal(number)
        made: dict[str, Bundle] = {}

        def one(index: int, name: str) -> Flow[None]:
            bundle = yield from journal.over(self._rollout(name, number, index, seats).bundle())
            self.at_work.keep(number, bundle)
            scheduler.forget(f"{name}/")
            made[name] = bundle

        if not self._together(scheduler.run, (one(index, name) for index, name in mine)):
            return None
        self.at_work.close("answers")
        found = done | {bundle.id: bundle for bundle in self.ranks.gather([made[name] for _, name in mine])}
        if self.ranks.rank == 0:
            self.at_work.drop_answers(number)
        return [found[name] for name in names]

    def _journal(self, number: int) -> Journal:
        """What was answered before in a round, and where answers are kept: all that its policies say until it is whole."""
        found = self.ranks.same(self.at_work.answers(number) if self.ranks.rank == 0 else {})
        version = repr(sorted(self.learners.versions().items()))
        return Journal(found, lambda answer: self.at_work.keep(number, answer), version, tokens=True)

    def _rollout(self, name: str, number: int, index: int, seats: tuple[Speaker, ...]) -> Rollout:
        alone = seats[index % len(seats)] if self.config.prompts.file is not None else None
        dialogue = self._dialogue(name, number, index, opener=alone)
        return Rollout(dialogue, self.cast, self.rules, number, seats, self.learners.versions())

    def _dialogue(self, name: str, number: int, index: int, text: str | None = None, opener: Speaker | None = None) -> Dialogue:
        """The dialogue at `index` of a round; `text` in the place of its topic, `opener` in that of whose turn it is to open."""
        config, place = self.config, (number - 1) * self.config.conversation.count + index
        again, nth = divmod(place, len(self.training))
        topic = random.Random(f"{config.run.seed} topics {again}").sample(self.training, len(self.training))[nth]
        return Dialogue(
            Topic(id=name, text=text or topic.text, source=topic.source),
            opener or opener_of(index, config.conversation.opener, config.experts.seats),
            self.speakers,
            config.conversation,
            self.announce,
            self.counts,
            config.run.seed,
            self.cast.moderator,
        )

    def drift(self, learner: Learner, bundles: Sequence[Bundle]) -> tuple[dict[str, float], dict[str, Figure]]:
        """How far the policy that gave the replies of a round has gone from its base, by candidate where that is known, and on the whole;
        each process measures its share."""
        mine = self.ranks.mine([one for bundle in bundles for one in bundle.sampled])
        with Lockstep(self.ranks, self.learners.sharded):
            found = moved(learner, mine)
        every = [one for part in self.ranks.gather([found]) for one in part]
        return {one.id: one.log_ratio for of_history in every for one in of_history}, drift(every)

    # -- the models -------------------------------------------------------------------------------------------------

    def flows(self, flows: Iterable[Flow[Any]]) -> bool:
        """Run flows to their end; False: a signal stopped them here or in another process."""
        journal = self._journal(self.store.last + 1)
        every = [journal.over(flow) for flow in flows]
        return self._together(self._scheduler(len(every)).run, every)

    def stop(self) -> bool:
        """Whether a signal came, here or to another process."""
        return self.ranks.agree(self.stopped())

    def _scheduler(self, total: int = 0, finished: int = 0, spent: Spent = lambda asked, seconds: None) -> Scheduler:
        self.learners.publish(self.store.folder)
        most = self.config.engine.max_batch
        return Scheduler(self.learners.backends, most, self.announce, self.stopped, total, finished, spent=spent)

    def _together(self, run: Callable[[Iterable[Flow[Any]]], bool], flows: Iterable[Flow[Any]]) -> bool:
        """All processes talk, each its own share; passes through a model that they hold in parts are made in step."""
        with Lockstep(self.ranks, self.learners.sharded):
            ran = run(flows)
        return not self.ranks.agree(not ran)
