"""One comparison, as a flow: the policy's reply to a held-out history, held against the base's by the truth, a program or judges."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean

from expertchat.backends.asking import Ask, Flow, together
from expertchat.backends.base import Completion
from expertchat.config import JudgingConfig
from expertchat.evaluation import truth
from expertchat.evaluation.config import Evaluated
from expertchat.evaluation.figures import RATINGS_APART, Comparison, outcome
from expertchat.evaluation.histories import Held
from expertchat.evaluation.manner import manner
from expertchat.experts.base import CountTokens, ExpertChat, History
from expertchat.judging.judge import judged_by
from expertchat.judging.pairwise import OUTCOMES, Duel, by_principles, duel_flow, winner
from expertchat.judging.pairwise import outcome as by_all_principles
from expertchat.judging.roles import Role, judges_of
from expertchat.judging.view import Judgement
from expertchat.records import Reward, Speaker, Turn, Verdict
from expertchat.text.measures import PROGRAMS


def comparison_id(held: Held, version: int) -> str:
    """The id of the comparison of a policy with the base on a history."""
    return f"{held.id}/v{version:04d}"


@dataclass
class Comparer:
    """Compares the policy of `learner` with its base. `known`: the truth of all topics is known, and told whoever judges."""

    config: Evaluated
    learner: Speaker
    experts: Mapping[str, ExpertChat]
    tokens: Mapping[str, CountTokens]
    known: bool
    base_ratings: dict[str, list[Reward]] = field(default_factory=dict)  # by history, where the judges stay as they are

    @property
    def title(self) -> str:
        """How the figures name what decides."""
        settings = self.config.evaluation
        if settings.judge == "reward":
            return f"program ({'more' if self.direction > 0 else 'less'} {self.config.program})"
        return f"{settings.judge} by {settings.by}" if settings.asks else settings.judge

    @property
    def direction(self) -> int:
        """1: more of what a program measures is better; -1: less is."""
        return self.config.reward.sign if self.config.program == self.config.reward.kind else 1

    @property
    def roles(self) -> tuple[Role, ...]:
        """The judges."""
        return judges_of(self.config.evaluation.by, self.learner, self.config.experts.seats, self.config.judging.partners)

    def flow(self, held: Held, version: int, rewarded: bool = False) -> Flow[Comparison]:
        """The policy's reply, judged beside the base's; `rewarded`: by the judges of training as well."""
        found = yield from self._compared(held, version)
        config = self.config
        if found.problem is not None or not rewarded:
            return found
        assert held.reply is not None
        roles = judges_of(config.judging.judges, self.learner, config.experts.seats, config.judging.partners)
        policy = yield from self._judged(held, found.reply, f"{found.id}/reward", roles, config.judging)
        base = yield from self._judged(held, held.reply, f"{found.id}/base-reward", roles, config.judging)
        pairs = ((one.value, other.value) for one, other in zip(policy, base, strict=True))
        both = [(one, other) for one, other in pairs if one is not None and other is not None]  # of a judge that gave both a number
        if not both:
            return found
        worth, before = (fmean(side) for side in zip(*both, strict=True))
        return found.model_copy(update={"reward_policy": worth, "reward_base": before})

    def _compared(self, held: Held, version: int) -> Flow[Comparison]:
        """The policy's reply, and which of the two is better."""
        base = held.reply
        assert base is not None
        key = comparison_id(held, version)
        reply = yield from self._reply(held, key)
        plain = Comparison(
            id=key, history=held.id, learner=self.learner, policy_version=version, reply=reply, base_tokens=base.tokens, topic=held.topic
        )
        if self.known:
            policy, before = (truth.tally(held.topic, held.turns, turn.text) for turn in (reply, base))
            plain = plain.model_copy(update={"policy": policy, "base": before})
        told, before_told = (manner(held.turns, turn.text) for turn in (reply, base))
        plain = plain.model_copy(update={"manner_policy": told, "manner_base": before_told})
        if (problem := self._silent(reply, base)) is not None:
            return plain.model_copy(update={"problem": problem})
        if self.config.program is not None:
            measure = PROGRAMS[self.config.program].measure
            plain = plain.model_copy(update={"measure_policy": measure(reply.text), "measure_base": measure(base.text)})
        match self.config.evaluation.judge:
            case "reward":
                return self._by_program(plain)
            case "truth":
                assert plain.policy is not None and plain.base is not None
                return plain.model_copy(update={"outcome": outcome(plain.policy.score, plain.base.score)})
            case "pointwise":
                return (yield from self._pointwise(held, plain))
            case "pairwise":
                return (yield from self._pairwise(held, plain))

    def _reply(self, held: Held, key: str) -> Flow[Turn]:
        """What the policy answers to the history."""
        expert = self.experts[self.learner]
        request, note = expert.reply_request(key, History(held.topic, tuple(held.turns)), self.tokens.get(self.learner))
        (answer,) = yield [Ask(self.learner, request, label=self.learner)]
        assert isinstance(answer, Completion)
        read = expert.read_reply(answer.text)
        return Turn(
            speaker=self.learner,
            text=read.text,
            thinking=read.thinking if read.thought else None,
            beyond=read.beyond or None,
            tokens=answer.tokens,
            cut=answer.finish == "length" and not read.beyond,
            note=note,
        )

    def _silent(self, policy: Turn, base: Turn) -> str | None:
        """Why there is nothing to compare where a reply was all thinking."""
        silent = [who for who, turn in (("policy", policy), ("base", base)) if turn.thinking and not turn.text.strip()]
        return f"{' and '.join(silent)} said nothing, the reply is {self.experts[self.learner].thoughts.silent()}" if silent else None

    def _by_program(self, plain: Comparison) -> Comparison:
        """Which reply has more of what is measured, or less."""
        if plain.measure_policy is None or plain.measure_base is None:
            return plain.model_copy(update={"problem": "a reply has no words"})
        result = outcome(self.direction * plain.measure_policy, self.direction * plain.measure_base)
        return plain.model_copy(update={"outcome": result})

    # -- by judges --------------------------------------------------------------------------------------------------

    def _pointwise(self, held: Held, plain: Comparison) -> Flow[Comparison]:
        """Whose mean rating is higher, over the judges that rated both. Not the reward: it changes with judging.z, and arms are compared by
        one same measure.
        """
        assert held.reply is not None
        given = yield from self._rate(held, plain.reply, plain.id)
        if held.id not in self.base_ratings or self.config.evaluation.by == "partner":
            self.base_ratings[held.id] = yield from self._rate(held, held.reply, f"{held.id}/base")
        before = self.base_ratings[held.id]
        both = [pair for pair in zip(given, before, strict=True) if None not in (pair[0].rating, pair[1].rating)]
        policy, base = (_mean(one_side) for one_side in (zip(*both, strict=True) if both else (given, before)))
        plain = plain.model_copy(update={"rating_policy": policy, "rating_base": base})
        if not both or policy is None or base is None:
            problem = next((reward.problem for reward in (*given, *before) if reward.problem), "no judge rated both replies")
            return plain.model_copy(update={"problem": problem})
        return plain.model_copy(update={"outcome": outcome(policy, base, RATINGS_APART)})

    def _rate(self, held: Held, reply: Turn, place: str) -> Flow[list[Reward]]:
        """What each judge makes of a reply, by its ratings alone."""
        return (yield from self._judged(held, reply, place, self.roles, ratings_alone(self.config.judging)))

    def _judged(self, held: Held, reply: Turn, place: str, roles: Sequence[Role], judging: JudgingConfig) -> Flow[list[Reward]]:
        """What each judge makes of a reply."""
        turns, seats = (*held.turns, reply), self.config.experts.seats

        def judged(role: Role) -> Flow[Reward]:
            judgement = Judgement(held.topic, turns, self.learner, len(held.turns), judging.asked, seats, role, place, held.id)
            judgement = replace(judgement, seed=self.config.run.seed)
            return (yield from judged_by(judgement, judging, self.experts, self.tokens)).reward

        return (yield from together([judged(role) for role in roles]))

    def _pairwise(self, held: Held, plain: Comparison) -> Flow[Comparison]:
        """Who wins in both orders, by each principle where there are such; of several judges, the mean of what they say."""
        assert held.reply is not None
        replies, least, judging = (held.reply.text, plain.reply.text), self.config.judging.min_mass, self.config.judging

        def asked(role: Role) -> Flow[list[list[Verdict]]]:
            key, turns = f"{plain.id}/by-{role.judge}", tuple(held.turns)
            duel = Duel(key, held.id, held.topic, turns, self.learner, *replies, judging.categories, judging.reference(held.topic))
            draw = f"{self.config.run.seed} {held.id} {role.judge}"
            duels = [duel] if judging.principles is None else by_principles(duel, judging.principles, draw)
            expert, count = self.experts[role.seat], self.tokens.get(role.seat)
            return together([duel_flow(role.backend, expert, one, count, least) for one in duels])

        found = yield from together([asked(role) for role in self.roles])
        said = [result for judge in found if (result := self._outcome(judge)) is not None]
        every = [verdict for judge in found for verdicts in judge for verdict in verdicts]
        problem = None if said else next((verdict.problem for verdict in every if verdict.problem), None)
        return plain.model_copy(update={"verdicts": every, "outcome": fmean(said) if said else None, "problem": problem})

    def _outcome(self, found: Sequence[Sequence[Verdict]]) -> float | None:
        """What one judge's verdicts in both orders come to, over all principles where there are such."""
        if self.config.judging.principles is not None:
            return by_all_principles(found, self.config.judging.shares)
        result = winner(found[0])
        return None if result is None else OUTCOMES[result]


def _mean(rewards: Sequence[Reward]) -> float | None:
    """The mean of the ratings that are there."""
    known = [reward.rating for reward in rewards if reward.rating is not None]
    return fmean(known) if known else None


def ratings_alone(config: JudgingConfig) -> JudgingConfig:
    """The same judging without WIM; where only WIM counted, all categories weigh the same."""
    weights = config.weights if any(weight > 0 for weight in config.weights.values()) else dict.fromkeys(config.categories, 1.0)
    return config.model_copy(update={"z": 0.0, "weights": weights, "wim": config.wim.model_copy(update={"enabled": False})})
