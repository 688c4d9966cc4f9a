"""Evaluation inside the loop: the policy's replies to held-out histories against its base's, by the truth or by a judge.

The histories and the base's replies are made once a run. The first `evaluation.histories` of them serve the evaluations on the way, by
which the best checkpoint may be chosen; the `evaluation.final` after them, on topics of their own where there are such, serve the last one
alone, so that a lucky choice does not count in the run's own figure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Protocol, TypeVar

from expertchat.backends.asking import Flow
from expertchat.config import ConfigError, JudgeName
from expertchat.evaluation import truth
from expertchat.evaluation.comparing import Comparer, comparison_id
from expertchat.evaluation.config import Evaluated
from expertchat.evaluation.figures import Comparison, figures
from expertchat.evaluation.histories import Held, InOrder, Making, Plan, plans, read_histories
from expertchat.evaluation.parts import Parts
from expertchat.events import Announce, Note
from expertchat.experts.base import CountTokens, ExpertChat
from expertchat.folder.jsonl import Log, read_records
from expertchat.folder.writing import replace as write_whole
from expertchat.folder.writing import saving
from expertchat.judging.roles import judges_of
from expertchat.records import Metrics, Speaker

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


def check(config: Evaluated) -> None:
    """Raises ConfigError with everything that keeps the evaluation of a config from being made, before anything is loaded."""
    evaluation, problems = config.evaluation, []
    models = dict(config.experts.items()) | ({"third": config.third} if config.third is not None else {})
    for learner in config.learners:
        family = models[learner].family
        if evaluation.judge == "truth" and family != "world":
            problems.append(
                f"evaluation.judge=truth knows the embedded world alone, but expert {learner} is of the family {family}; "
                "use evaluation=pointwise or evaluation=pairwise"
            )
        roles = judges_of(evaluation.by, learner, config.experts.seats, config.judging.partners) if evaluation.judge == "pairwise" else ()
        for judge in (models[role.seat] for role in roles if role.seat in models):
            name = "compare" if config.judging.principles is None else "compare_principle"
            if not getattr(judge.prompts, name):
                problems.append(
                    f"evaluation.judge=pairwise: the wordings of evaluation.by={evaluation.by} (family {judge.family}) have no `{name}`; "
                    "the embedded models were not trained to compare: use evaluation=truth, evaluation=pointwise, or a third model as judge"
                )
    if evaluation.asks and evaluation.by == "partner" and len(config.trained) > 1:
        problems.append(f"evaluation.by=partner learns too (learner={config.learner}): use evaluation.by=partner_reference or third")
    if problems:
        raise ConfigError(list(dict.fromkeys(problems)))


class Evaluator:
    """Evaluates one learner. `experts` and `tokens` are by seat: those who talk, and "third" where there is one.

    The backends that are asked: base_NAME of each expert for the histories, the learner's name for the policy, the judge's own.
    Raises ConfigError for what cannot be evaluated.
    """

    def __init__(
        self,
        config: Evaluated,
        learner: Speaker,
        parts: Parts,
        experts: Mapping[str, ExpertChat],
        tokens: Mapping[str, CountTokens],
        folder: Path,
        ranks: Ranks,
        announce: Announce,
        writing: Callable[[], AbstractContextManager[object]] = nullcontext,
    ) -> None:
        check(config)
        if not parts.held_out:
            raise ConfigError(f"evaluation.topics={config.evaluation.topics}: no topic is held out to evaluate on; hold out at least one")
        self.config, self.learner, self.experts, self.tokens = config, learner, experts, tokens
        self.ranks, self.announce, self.writing = ranks, announce, writing
        self.folder = folder / "evaluations"
        topics = [topic.text for topic in (*parts.choose, *parts.held_out)]
        if config.evaluation.judge == "truth":
            truth.check_topics(topics)
        known = config.experts[learner].family == "world" and all(topic in truth.load().topics for topic in topics)
        self.comparer = Comparer(config, learner, experts, tokens, known)
        evaluation, seats = config.evaluation, config.experts.seats
        first = plans(learner, parts.choose, evaluation.turns, evaluation.histories, seats) if parts.choose else []
        last = evaluation.final + (0 if first else evaluation.histories)
        self.plans = first + plans(learner, parts.held_out, evaluation.turns, last, seats, len(first))
        self.held: list[Held] = []

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

        def made(plan: Plan) -> Flow[None]:
            own.put((yield from making.flow(plan)))

        whole = self._all_ran(run(made(plan) for plan in mine))
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
        if config.evaluation.asks and config.reward.judged(config.judging):
            by, trained = (self._judges(names) for names in ((config.evaluation.by,), config.judging.judges))
            if by & trained:
                text = (
                    f"evaluation.by={config.evaluation.by} is the model whose ratings are trained on: its win rate will be too good; "
                    "a third model or the truth is not taken in"
                )
                self.announce(Note(text=text, level="warning"))

    def _judges(self, how: Sequence[JudgeName]) -> set[str]:
        """The seats of the judges of the learner."""
        return {role.seat for role in judges_of(how, self.learner, self.config.experts.seats, self.config.judging.partners)}

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
        compared = self.ranks.same(_read(path, [comparison_id(held, version) for held in usable]) if self.ranks.rank == 0 else None)
        if compared is None:
            compared = self._compared(run, usable, version, final)
            if compared is None:
                return None
            if self.ranks.rank == 0:
                with self.writing():
                    _write(path, compared)
        return Metrics(
            id=f"evaluation-{self.learner}-{rounds:04d}{'-final' if final else ''}",
            kind="evaluation",
            round=rounds,
            learner=self.learner,
            policy_version=version,
            weights_of=weights_of,
            figures=figures(compared, self.comparer.title, self.config.run.seed),
        )

    def _compared(self, run: Run, usable: Sequence[Held], version: int, final: bool) -> list[Comparison] | None:
        """The policy's replies beside the base's; each process has its share. None: stopped by a signal."""
        made: dict[str, Comparison] = {}
        mine = self.ranks.mine(usable)

        rewarded = {held.id for held in usable[: self.config.evaluation.rewarded]} if final else set()

        def compared(held: Held) -> Flow[None]:
            made[held.id] = yield from self.comparer.flow(held, version, held.id in rewarded)

        if not self._all_ran(run(compared(held) for held in mine)):
            return None
        return self.ranks.gather([made[held.id] for held in mine])


def _read(path: Path, ids: Sequence[str]) -> list[Comparison] | None:
    """The comparisons of an evaluation that was made before; None where it was not, or was another one."""
    try:
        found = list(read_records(path, Comparison, "remove the file"))
    except ConfigError:
        return None
    return found if found and [kept.id for kept in found] == list(ids) else None


def _write(path: Path, compared: Sequence[Comparison]) -> None:
    with saving(path):
        write_whole(path, "".join(f"{record.to_json()}\n" for record in compared), sync=True)
