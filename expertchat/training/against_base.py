"""The policy of an offline run against its base: held-out dialogues, as online_dpo has them, and how far the policy has gone in them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any

from expertchat.backends.asking import Flow
from expertchat.backends.base import Backend
from expertchat.backends.loading import Wanted, find_models, load_models
from expertchat.config import ConfigError
from expertchat.evaluation.evaluator import Evaluator
from expertchat.evaluation.figures import Comparison
from expertchat.evaluation.histories import Held
from expertchat.evaluation.parts import Parts, parts_of
from expertchat.experts.base import ExpertChat, History
from expertchat.experts.registry import family_class, make_expert
from expertchat.folder.jsonl import read_records
from expertchat.folder.run import Hub
from expertchat.plan.planner import Plan, placed
from expertchat.preferences.candidates import Sampled
from expertchat.records import Candidate, Figure, Message, Topic
from expertchat.talk.cast import what_is_loaded
from expertchat.talk.journal import Journal
from expertchat.talk.scheduler import Scheduler
from expertchat.talk.topics import given_topics
from expertchat.text.measures import distinct_n
from expertchat.text.written import topic_key
from expertchat.training.at_work import AtWork
from expertchat.training.dpo_config import PARTNER, POLICY, Against
from expertchat.training.drift import drift, moved
from expertchat.training.learner import Learner
from expertchat.training.lockstep import Lockstep
from expertchat.training.offline import OfflineFolder
from expertchat.training.ranks import Ranks
from expertchat.training.single import MOST_TOPICS

THIRD = "third"
ON_ALL = "the rows are on all topics of the evaluation: its win rate is on topics that the model was trained on"
PLANNED = {PARTNER: "partner", THIRD: THIRD}  # what the memory plan calls those that are loaded beside the policy


def held_out_topics(against: Against, trained: Collection[str]) -> tuple[Parts, str | None]:
    """The topics of the evaluation, and what is to be said of them: those of the list on which no row is; where there are none, the last
    of all. Raises ConfigError for topics that cannot be read.
    """
    config = against.config
    every = given_topics(config.topics, MOST_TOPICS, config.run.seed)
    known = {topic_key(topic) for topic in trained if topic}
    free, wanted, choosing = _without(every, known), config.evaluation.topics, config.evaluation.choosing
    if not free:
        return Parts([], [], every[-wanted:]), ON_ALL
    parts = parts_of(every, wanted, choosing)
    choose, held_out = (_without(part, known) for part in (parts.choose, parts.held_out))
    if len(held_out) == len(parts.held_out) and (len(held_out) == wanted or parts.choose) and len(choose) >= min(choosing, 1):
        return Parts([], choose, held_out), None
    choose, said = free[:-wanted][-choosing:] if choosing else [], None
    if len(free) < wanted:
        said = f"{len(free)} topics have no row to train on, so the evaluation has these and not evaluation.topics={wanted}"
    elif choosing and not choose:
        said = "no other topic without a row is left to choose by: the best weights are chosen on the topics that are held out, too"
    return Parts([], choose, free[-wanted:]), said


def _without(topics: Iterable[Topic], known: Collection[str]) -> list[Topic]:
    return [topic for topic in topics if topic_key(topic.text) not in known]


class AgainstBase:
    """Evaluates the policy of `learner`; its partner and its judge are loaded here, what they share with it once.

    Raises ConfigError for what cannot be evaluated.
    """

    def __init__(
        self, against: Against, topics: Parts, learner: Learner, store: OfflineFolder, hub: Hub, ranks: Ranks, stop: Any,
        plan: Plan | None = None,
    ) -> None:  # fmt: skip
        self.against, self.learner, self.store, self.hub, self.ranks, self.stopped = against, learner, store, hub, ranks, stop
        self.at_work = AtWork(store, ranks.rank)
        self.chooses = bool(topics.choose)  # on topics of their own
        self.backends, self.experts = self._cast(plan)
        tokens = {seat: self.backends[seat].count_tokens for seat in self.experts}
        self.evaluator = Evaluator(
            against, POLICY, topics, self.experts, tokens, store.folder, ranks, hub.send, store.writing
        )
        self.sharded: list[Any] = [learner.backend.model]

    def _cast(self, plan: Plan | None) -> tuple[dict[str, Any], dict[str, ExpertChat]]:
        """Backends by the evaluation's names, and the experts over them; what is loaded here stands where the memory plan has it."""
        config, hub = self.against.config, self.hub
        models = {POLICY: config.model, PARTNER: config.partner or config.model, **({THIRD: config.third} if config.third else {})}
        wanted = {seat: Wanted(model, family_class(model.family).family.stop) for seat, model in models.items()}
        keys = {seat: what_is_loaded(one) for seat, one in wanted.items()}
        lacking = dict[str, Wanted]()
        for seat, one in reversed(wanted.items()):
            if keys[seat] != keys[POLICY]:
                model, where = placed(one.config, PLANNED[seat], plan)
                lacking[keys[seat]] = one._replace(config=model, device_map=where)
        folders = find_models(lacking, hub.send)
        found = load_models(lacking, folders, config.run.seed, config.engine, hub.send) if lacking else {}
        base: dict[str, Backend] = {keys[POLICY]: self.learner.base, **found}
        experts = {seat: make_expert(seat, model, base[keys[seat]].info, (POLICY, PARTNER)) for seat, model in models.items()}
        backends: dict[str, Any] = {seat: base[key] for seat, key in keys.items()}
        backends |= {f"base_{seat}": base[keys[seat]] for seat in (POLICY, PARTNER)}
        return backends | {POLICY: self.learner.policy}, experts

    def measured(self, number: int, final: bool, histories: int, weights_of: int | None) -> dict[str, Figure] | None:
        """The figures after a round; None: stopped by a signal."""
        evaluator = self.evaluator
        if not evaluator.held and not evaluator.prepare(self._run):
            return None
        version = self.learner.version
        made = evaluator.evaluate(self._run, number, version, histories, final, weights_of)
        if made is None:
            return None
        figures, compared = dict(made.figures), self._compared(number, final)
        figures["length"] = figures.get("tokens_policy")
        figures["distinct_2"] = distinct_n([one.reply.text for one in compared], 2)
        return figures | self._drift(compared)

    def _compared(self, number: int, final: bool) -> list[Comparison]:
        path = self.store.folder / "evaluations" / f"{POLICY}-r{number:04d}{'-final' if final else ''}.jsonl"
        return self.ranks.same(list(read_records(path, Comparison, "remove the file")) if self.ranks.rank == 0 else [])

    def _drift(self, compared: Sequence[Comparison]) -> dict[str, Figure]:
        """How far the policy has gone from its base in these replies: 0 before it has learnt anything."""
        held = {one.id: one for one in self.evaluator.held}
        mine = [self._sampled(one, held[one.history]) for one in self.ranks.mine(compared)]
        with Lockstep(self.ranks, self.sharded):
            found = moved(self.learner, mine)
        return drift([one for part in self.ranks.gather([found]) for one in part])

    def _sampled(self, one: Comparison, held: Held) -> Sampled:
        """A reply with the tokens of its text; one that the limit cut has no end."""
        expert, renderer = self.experts[POLICY], self.learner.backend.renderer
        history = History(held.topic, tuple(held.turns))
        prompt = expert.reply_request(one.id, history, self.backends[POLICY].count_tokens)[0].messages
        ids = renderer.reply(list(prompt), Message("assistant", one.reply.text), end=not one.reply.cut)
        candidate = Candidate(
            id=one.id, transcript=held.id, round=0, turn=len(held.turns), index=0, speaker=POLICY, text=one.reply.text, ids=ids,
            policy_version=self.learner.version, altered="thinking" if one.reply.thinking else None,
        )  # fmt: skip
        return Sampled(prompt=list(prompt), prompt_ids=renderer.answered(list(prompt)), candidates=[candidate])

    def _run(self, flows: Iterable[Flow[Any]]) -> bool:
        """Run flows to their end, by all processes together; False: a signal stopped them. What was answered is asked for once."""
        number, every = self.store.last + 1, list(flows)
        known = self.ranks.same(self.at_work.answers(number) if self.ranks.rank == 0 else {})
        journal = Journal(known, lambda answer: self.at_work.keep(number, answer), str(self.learner.version))
        scheduler = Scheduler(
            self.backends, self.against.config.engine.max_batch, self.hub.send, lambda: self.stopped(), len(every)
        )
        with Lockstep(self.ranks, self.sharded):
            ran = scheduler.run([journal.over(flow) for flow in every])
        self.at_work.close()
        return not self.ranks.agree(not ran)


def trained_topics(rows: Iterable[Any]) -> set[str]:
    """The topics of rows to train on, where they are known."""
    return {row.topic for row in rows if row.part == "train" and row.topic}


def check_against(against: Against) -> None:
    """Raise ConfigError for what cannot be evaluated, before anything is loaded."""
    from expertchat.evaluation.evaluator import check
    from expertchat.evaluation.truth import check_topics

    check(against)
    topics = given_topics(against.config.topics, MOST_TOPICS, against.config.run.seed)
    if not topics:
        raise ConfigError("topics: there is none to talk about in the evaluation; name some, or evaluation.judge=none")
    if against.judge == "truth":
        check_topics(topic.text for topic in topics)


