"""Evaluation inside the loop: the policy's replies to held-out histories against its base's, by the truth or by a judge.

The histories and the base's replies are made once a run. The first `evaluation.histories` of them serve the evaluations on the way, by
which the best checkpoint may be chosen; the `evaluation.final` after them serve the last one alone, so that a lucky choice does not
count in the run's own figure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Protocol, TypeVar

from pydantic import ValidationError

from expertchat.backends.asking import Ask, Flow
from expertchat.config import ConfigError, JudgingConfig
from expertchat.evaluation import truth
from expertchat.evaluation.figures import RATINGS_APART, Comparison, figures, outcome
from expertchat.evaluation.histories import Held, InOrder, Making, Plan, plans, read_histories
from expertchat.events import Announce, Note
from expertchat.experts.base import CountTokens, ExpertChat, History
from expertchat.folder.jsonl import Log, read_lines, saving
from expertchat.folder.lock import replace as write_whole
from expertchat.judging.judge import Case, JudgeWork
from expertchat.judging.pairwise import Duel, duel_flow, winner
from expertchat.judging.roles import judges_of
from expertchat.judging.view import Judgement
from expertchat.records import Metrics, Speaker, Topic, Turn
from expertchat.text.measures import PROGRAMS
from expertchat.training.config import OnlineDpoConfig

T = TypeVar("T")
Run = Callable[[Iterable[Flow[Any]]], bool]
"""Runs flows to their end; False: a signal stopped it."""
WAVE = 64  # histories that each of several processes makes before they are written


class Ranks(Protocol):
    """The processes of a run, as far as an evaluation needs them (expertchat.training.ranks)."""

    rank: int
    world: int

    def mine(self, items: Sequence[T]) -> list[T]: ...

    def gather(self, mine: list[T]) -> list[T]: ...

    def same(self, value: T) -> T: ...


def check(config: OnlineDpoConfig) -> None:
    """Raises ConfigError with everything that keeps the evaluation of a config from being made, before anything is loaded."""
    evaluation, problems = config.evaluation, []
    for learner in config.learners:
        model = {**dict(config.experts.items()), "third": config.third}
        if evaluation.judge == "truth" and model[learner].family != "world":  # type: ignore[union-attr]
            problems.append(
                f"evaluation.judge=truth knows the embedded world alone, but expert {learner} is of the family "
                f"{model[learner].family}; use evaluation=pointwise or evaluation=pairwise"  # type: ignore[union-attr]
            )
        judge = model[judges_of(evaluation.by, learner, config.experts.seats)[0].seat]
        if evaluation.judge == "pairwise" and judge is not None and not judge.prompts.compare:
            problems.append(
                f"evaluation.judge=pairwise: the wordings of evaluation.by={evaluation.by} (family {judge.family}) have no `compare`; "
                "the embedded models were not trained to compare: use evaluation=truth, evaluation=pointwise, or a third model as judge"
            )
    if evaluation.asks and evaluation.by == "partner" and config.learner in ("both", "one", "all"):
        problems.append(f"evaluation.by=partner learns too (learner={config.learner}): use evaluation.by=partner_reference or third")
    if problems:
        raise ConfigError(list(dict.fromkeys(problems)))


class Evaluator:
    """Evaluates one learner. `experts` and `tokens` are by seat: "a", "b", and "third" where there is one.

    The backends that are asked: base_a and base_b for the histories, the learner's letter for the policy, the judge's own.
    Raises ConfigError for what cannot be evaluated.
    """

    def __init__(
        self,
        config: OnlineDpoConfig,
        learner: Speaker,
        topics: Sequence[Topic],
        experts: Mapping[str, ExpertChat],
        tokens: Mapping[str, CountTokens],
        folder: Path,
        ranks: Ranks,
        announce: Announce,
        writing: Callable[[], AbstractContextManager[object]] = nullcontext,
    ) -> None:
        check(config)
        if not topics:
            raise ConfigError(f"evaluation.topics={config.evaluation.topics}: no topic is held out to evaluate on; hold out at least one")
        self.config, self.learner, self.experts, self.tokens = config, learner, experts, tokens
        self.ranks, self.announce, self.writing = ranks, announce, writing
        self.folder = folder / "evaluations"
        self.world = config.experts[learner].family == "world" and all(t.text in truth.load().topics for t in topics)
        if config.evaluation.judge == "truth":
            truth.check_topics(t.text for t in topics)
        self.program = PROGRAMS[config.program] if config.program is not None else None
        self.direction = config.reward.sign if config.program == config.reward.source else 1
        count = config.evaluation.histories + config.evaluation.final
        self.plans = plans(learner, topics, config.evaluation.turns, count)
        self.held: list[Held] = []
        self._ratings: dict[str, float | None] = {}  # of the base's replies by history, where the judge stays as it is

    # -- histories and the base's replies ---------------------------------------------------------------------------

    def prepare(self, run: Run) -> bool:
        """Make what is lacking of the histories and of the base's replies to them; False: stopped by a signal."""
        path, rank = self.folder / f"base-{self.learner}.jsonl", self.ranks.rank
        log = None
        if rank == 0:
            with self.writing(), saving(path):
                self.folder.mkdir(parents=True, exist_ok=True)
                log = Log(path, self.writing)
        try:
            self.held = list(self.ranks.same(read_histories(path, self.plans) if rank == 0 else []))
            missing = self.plans[len(self.held) :]
            size = WAVE * self.ranks.world if self.ranks.world > 1 else max(1, len(missing))
            for start in range(0, len(missing), size):
                if not self._make(missing[start : start + size], log, run):
                    return False
        finally:
            if log is not None:
                log.close()
        self._tell()
        return True

    def _make(self, wave: Sequence[Plan], log: Log | None, run: Run) -> bool:
        """One process writes each history as soon as those before it are there; several gather a wave's first."""
        speakers = {seat: self.experts[seat] for seat in self.config.experts.seats}
        counts: dict[Speaker, CountTokens] = {s: self.tokens[s] for s in speakers if s in self.tokens}
        making = Making(self.config.conversation, speakers, counts)
        alone, mine = self.ranks.world == 1, self.ranks.mine(wave)
        out = InOrder(log, iter([plan.id for plan in wave]))
        own = out if alone else InOrder(None, iter([plan.id for plan in mine]))

        def one(plan: Plan) -> Flow[None]:
            own.put((yield from making.flow(plan)))

        whole = self._all_ran(run(one(plan) for plan in mine))
        if whole and not alone:
            for held in self.ranks.gather(own.written):
                out.put(held)
        self.held += out.written
        return whole

    def _all_ran(self, ran: bool) -> bool:
        """Whether no process was stopped: only then do all have their share."""
        return all(self.ranks.gather([ran]))

    def _tell(self) -> None:
        lost = [held for held in self.held if held.reply is None]
        if len(lost) == len(self.held):
            raise ConfigError(f"evaluation: no history has a place for a reply ({lost[0].problem}); raise evaluation.turns or the context")
        if lost:
            text = f"{len(lost)} of {len(self.held)} held-out histories are left out ({lost[0].id}: {lost[0].problem})"
            self.announce(Note(text=text, level="warning"))
        config = self.config
        if config.evaluation.asks and config.reward.source == "judge":
            names = (config.evaluation.by, config.judging.judge)
            by, trained = (judges_of(name, self.learner, config.experts.seats)[0].seat for name in names)
            if by == trained:
                text = (
                    f"evaluation.by={config.evaluation.by} is the model whose ratings are trained on: its win rate will be too good; "
                    "a third model or the truth is not taken in"
                )
                self.announce(Note(text=text, level="warning"))

    # -- an evaluation ----------------------------------------------------------------------------------------------

    def evaluate(
        self, run: Run, rounds: int, version: int, n: int, final: bool = False, weights_of: int | None = None
    ) -> Metrics | None:
        """The policy of `version` after `rounds` rounds on the first n histories; None: stopped by a signal.

        `final`: on histories that no other evaluation has used, with the weights that were saved after round `weights_of`. An evaluation
        that is on disk is not made again.
        """
        name = f"{self.learner}-r{rounds:04d}{'-final' if final else ''}"
        path = self.folder / f"{name}.jsonl"
        on_the_way = self.config.evaluation.histories
        chosen = self.held[on_the_way:] if final else self.held[: max(n, on_the_way)]
        usable = [held for held in chosen if held.reply is not None][:n]
        compared = self.ranks.same(_read(path, [self._id(held, version) for held in usable]) if self.ranks.rank == 0 else None)
        if compared is None:
            made: dict[str, Comparison] = {}
            mine = self.ranks.mine(usable)

            def one(held: Held) -> Flow[None]:
                made[held.id] = yield from self._compare(held, version)

            if not self._all_ran(run(one(held) for held in mine)):
                return None
            compared = self.ranks.gather([made[held.id] for held in mine])
            if self.ranks.rank == 0:
                with self.writing():
                    _write(path, compared)
        settings = self.config.evaluation
        judge = f"{settings.judge} by {settings.by}" if settings.asks else settings.judge
        if settings.judge == "reward":
            judge = f"program ({'more' if self.direction > 0 else 'less'} {self.config.program})"
        return Metrics(
            id=f"evaluation-{self.learner}-{rounds:04d}{'-final' if final else ''}",
            kind="evaluation",
            round=rounds,
            learner=self.learner,
            policy_version=version,
            weights_of=weights_of,
            figures=figures(compared, judge, self.config.run.seed),
        )

    def _id(self, held: Held, version: int) -> str:
        return f"{held.id}/v{version:04d}"

    def _compare(self, held: Held, version: int) -> Flow[Comparison]:
        """The policy's reply, judged beside the base's."""
        expert, base = self.experts[self.learner], held.reply
        assert base is not None
        key = self._id(held, version)
        request, note = expert.reply_request(key, History(held.topic, tuple(held.turns)), self.tokens.get(self.learner))
        (answer,) = yield [Ask(self.learner, request, label=self.learner)]
        read = expert.read_reply(answer.text)  # type: ignore[union-attr]
        reply = Turn(
            speaker=self.learner,
            text=read.text,
            thinking=read.thinking if read.thought else None,
            beyond=read.beyond or None,
            tokens=answer.tokens,  # type: ignore[union-attr]
            cut=answer.finish == "length" and not read.beyond,  # type: ignore[union-attr]
            note=note,
        )
        plain = Comparison(id=key, history=held.id, learner=self.learner, policy_version=version, reply=reply, base_tokens=base.tokens)
        if self.world:
            tallies = {
                "policy": truth.tally(held.topic, held.turns, reply.text),
                "base": truth.tally(held.topic, held.turns, base.text),
            }
            plain = plain.model_copy(update=tallies)
        plain = plain.model_copy(update={"topic": held.topic})
        if (problem := _silent(reply, base)) is not None:
            return plain.model_copy(update={"problem": problem})
        if self.program is not None:
            measured = {"measure_policy": self.program.measure(reply.text), "measure_base": self.program.measure(base.text)}
            plain = plain.model_copy(update=measured)
        match self.config.evaluation.judge:
            case "reward":
                if plain.measure_policy is None or plain.measure_base is None:
                    return plain.model_copy(update={"problem": "a reply has no words"})
                return plain.model_copy(
                    update={"outcome": outcome(self.direction * plain.measure_policy, self.direction * plain.measure_base)}
                )
            case "truth":
                assert plain.policy is not None and plain.base is not None
                return plain.model_copy(update={"outcome": outcome(plain.policy.score, plain.base.score)})
            case "pointwise":
                return (yield from self._pointwise(held, plain))
            case "pairwise":
                return (yield from self._pairwise(held, plain))

    # -- by a judge -------------------------------------------------------------------------------------------------

    def _pointwise(self, held: Held, one: Comparison) -> Flow[Comparison]:
        """Whose mean rating is higher. Not the reward: it changes with judging.z, and arms are compared by one same measure."""
        assert held.reply is not None
        policy, problem = yield from self._rate(held, one.reply, one.id)
        if held.id not in self._ratings or self.config.evaluation.by == "partner":
            self._ratings[held.id], problem_base = yield from self._rate(held, held.reply, f"{held.id}/base")
            problem = problem or problem_base
        base = self._ratings[held.id]
        one = one.model_copy(update={"rating_policy": policy, "rating_base": base})
        if policy is None or base is None:
            return one.model_copy(update={"problem": problem or "no rating of the base's reply"})
        return one.model_copy(update={"outcome": outcome(policy, base, RATINGS_APART)})

    def _rate(self, held: Held, reply: Turn, key: str) -> Flow[tuple[float | None, str | None]]:
        role = judges_of(self.config.evaluation.by, self.learner, self.config.experts.seats)[0]
        who, seat = role.backend, role.seat
        config = ratings_alone(self.config.judging)
        judgement = Judgement(held.topic, (*held.turns, reply), self.learner, len(held.turns), config.categories)
        case = Case(f"{key}/{self.learner}-by-{who}", held.id, judgement, who, who)
        _, _, reward = yield from JudgeWork(case, config, self.experts[seat], self.tokens.get(seat)).flow()
        return reward.rating, reward.problem

    def _pairwise(self, held: Held, one: Comparison) -> Flow[Comparison]:
        """Who wins in both orders."""
        assert held.reply is not None
        role = judges_of(self.config.evaluation.by, self.learner, self.config.experts.seats)[0]
        who, seat = role.backend, role.seat
        categories = self.config.judging.categories
        duel = Duel(f"{one.id}/by-{who}", held.id, held.topic, tuple(held.turns), self.learner, held.reply.text, one.reply.text, categories)
        least = self.config.judging.min_mass
        verdicts = yield from duel_flow(who, self.experts[seat], duel, self.tokens.get(seat), least)
        result = winner(verdicts)
        said = {"policy": 1.0, "tie": 0.5, "base": 0.0, None: None}[result]
        problem = None if result else next((v.problem for v in verdicts if v.problem), None)
        return one.model_copy(update={"verdicts": verdicts, "outcome": said, "problem": problem})


def _silent(policy: Turn, base: Turn) -> str | None:
    """Why there is nothing to compare where a reply was all thinking."""
    silent = [who for who, turn in (("policy", policy), ("base", base)) if turn.thinking and not turn.text.strip()]
    return f"{' and '.join(silent)} said nothing, the reply is all thinking: raise decoding.reply.max_new_tokens" if silent else None


def ratings_alone(config: JudgingConfig) -> JudgingConfig:
    """The same judging without WIM; where only WIM counted, all categories weigh the same."""
    weights = config.weights if any(weight > 0 for weight in config.weights.values()) else dict.fromkeys(config.categories, 1.0)
    return config.model_copy(update={"z": 0.0, "weights": weights, "wim": config.wim.model_copy(update={"enabled": False})})


def _read(path: Path, ids: Sequence[str]) -> list[Comparison] | None:
    """The comparisons of an evaluation that was made before; None where it was not, or was another one."""
    try:
        found = [Comparison.model_validate(line) for _, line in read_lines(path)]
    except (ConfigError, ValidationError):
        return None
    return found if found and [one.id for one in found] == list(ids) else None


def _write(path: Path, compared: Sequence[Comparison]) -> None:
    with saving(path):
        write_whole(path, "".join(f"{one.to_json()}\n" for one in compared), sync=True)
