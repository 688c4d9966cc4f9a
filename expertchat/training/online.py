"""`expertchat online_dpo`, `rloo`, `grpo`: rounds of dialogue, candidates, judgement and an update on them, in one run folder.

With preference pairs and DPO that is OAIF (arXiv 2402.04792). `Online.round` is the algorithm; what stands around it goes on where an
earlier start was broken off, evaluates, and ends the run.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from expertchat.backends.base import Backend, Embedder
from expertchat.config import ConfigError
from expertchat.evaluation.evaluator import Evaluator
from expertchat.evaluation.evaluator import check as check_evaluation
from expertchat.evaluation.figures import ANSWERED
from expertchat.events import Measured, Note, PhaseStarted, RoundFinished, RoundStarted, Sink, StepFinished
from expertchat.folder.reader import RunReader
from expertchat.folder.run import Hub, Interrupts, finished, in_folder, run_folder, started, stopped, was_done
from expertchat.folder.summary import seconds_of
from expertchat.folder.writing import replace
from expertchat.preferences.candidates import choices
from expertchat.preferences.pairs import make_pairs
from expertchat.preferences.score import scored
from expertchat.records import Metrics, Speaker
from expertchat.talk.cast import load_cast
from expertchat.trackers.tracking import check_trackers, open_trackers
from expertchat.training.card import model_card
from expertchat.training.checkpoints import damage
from expertchat.training.clock import Clock
from expertchat.training.config import OnlineConfig, OnlineDpoConfig
from expertchat.training.figures import remarks, round_figures, why_nothing
from expertchat.training.folder import TrainingFolder, put
from expertchat.training.guards import alarms, to_lower
from expertchat.training.held_out import check_given
from expertchat.training.learner import make_learners
from expertchat.training.method import Rows, Stopped, Updated, method_of
from expertchat.training.ranks import Ranks
from expertchat.training.restore import restore
from expertchat.training.rollouts import Rollouts
from expertchat.training.room import on_cpu, room_for
from expertchat.training.single import alone
from expertchat.training.through import let_talk


def run_online(
    config: OnlineConfig,
    command_line: list[str],
    sink: Sink,
    *,
    backends: Mapping[str, Backend] | None = None,
    embedder: Embedder | None = None,
) -> int:
    """Run, or go on with a run. Returns 0 when it is done, 3 when it was stopped and can go on, 1 when its folder cannot be written.

    `sink` is closed at the end. `backends` (by seat; "third" and "moderator" too) and `embedder` replace those of the config.
    Raises ConfigError for what is wrong with the config or the input.
    """
    with Hub(sink) as hub, Interrupts() as interrupts, Ranks.start(config.train.sharding, command_line) as ranks:
        check_evaluation(config)
        check_trackers(config.report_to)
        check_given(config)
        place = Path(ranks.same(str(run_folder(config.run.dir, config.command))))
        return in_folder(
            hub,
            interrupts,
            lambda say: TrainingFolder(place, config.model_dump(mode="json"), command_line, say, writes=ranks.rank == 0),
            lambda store: Online(alone(store.as_begun(config)), store, hub, interrupts, ranks).run(backends, embedder),
        )


class Online:
    """One run: the algorithm in `round`, and what it needs around it."""

    def __init__(self, config: OnlineConfig, store: TrainingFolder, hub: Hub, interrupts: Interrupts, ranks: Ranks) -> None:
        self.config, self.store, self.hub, self.interrupts, self.ranks = config, store, hub, interrupts, ranks
        self.best: dict[str, list[float]] = {}  # by seat: the round of the best evaluation, and its win rate
        self.ended: str | None = None  # why a guard ended the run before its last round
        self.lowered: dict[str, dict[str, float]] = {}  # by seat: the guards that are tripped, and their values when they lowered the rate

    def round(self, number: int) -> bool:
        """One round with the newest policy: talk, judge, pair, update, measure, save. False: stopped by a signal."""
        learner, seats = self.learners.of_round(number)
        self.hub.send(RoundStarted(round=number, rounds=self.config.rounds, learner=learner.seat, policy_version=learner.version))
        clock = Clock(self.hub, number)
        with clock("talking"):  # dialogues; at the learner's turns candidates, each of them rated and with its WIM response
            bundles = self.rollouts.round(number, seats, clock.spent)
        if bundles is None:
            return False
        with clock("pairing"):
            scores = scored(bundles, self.rollouts.rules, self.backends.get("embedder"))
            values = {score.id: score.value for score in scores}
            made = self.ranks.same(choices(bundles, values, self._judge))  # no rounding of another machine's in it
            pairing = make_pairs(made, self.config.pairs, learner.version) if isinstance(self.config, OnlineDpoConfig) else None
            self.store.keep_round(bundles, scores, pairing.pairs if pairing else [])
        with clock("measuring"):
            ratios, drift = self.rollouts.drift(learner, bundles)  # of the policy that has talked, from the base
        with clock("updating"):
            updated = self.update(number, Rows(pairing.pairs if pairing else [], made, log_ratios=ratios))
        if updated is None:
            return False
        figures = round_figures(bundles, scores, pairing) | drift | updated.all_figures() | clock.figures(bundles)
        self.hub.notes((f"round {number}: {remark}" for remark in remarks(figures, learner.seat)), "warning")
        self.measure(f"round-{number:04d}", number, learner.seat, learner.version, figures)
        if not updated.steps:
            self.hub.send(Note(text=f"nothing was learnt in round {number}: {why_nothing([figures])}", level="warning"))
        if self.due(number):
            with clock("evaluating"):
                if not self.evaluate(number):
                    return False
        with clock("saving"):
            self.guard(figures, learner.seat)
            self.save(number)
        self.hub.send(RoundFinished(round=number, seconds=clock.seconds))
        return True

    # -- the run ----------------------------------------------------------------------------------------------------

    def run(self, backends: Mapping[str, Backend] | None, embedder: Embedder | None) -> int:
        """All rounds that are left, then the end."""
        summary = self.ranks.same(self.store.summary)
        if summary is not None:
            self.store.summary = summary
            return was_done(self.hub, self.store)
        self._load(backends, embedder)
        parts = self.rollouts.topics()
        if parts is None:
            return self._stopped()
        self.evaluators = {
            seat: Evaluator(
                self.config,
                seat,
                parts,
                self.cast.experts,
                self.cast.tokens,
                self.store.folder,
                self.ranks,
                self.hub.send,
                self.store.writing,
            )
            for seat in self._seats
        }
        self.hub.send(PhaseStarted(round=0, phase="evaluating"))
        if not all(one.prepare(self.rollouts.flows) for one in self.evaluators.values()) or not self.evaluate(0):
            return self._stopped()
        for number in range(self.store.last + 1, self.config.rounds + 1):
            if self.ended:
                break
            if self.rollouts.stop() or not self.round(number):
                return self._stopped()
        return self._end()

    def _load(self, backends: Mapping[str, Backend] | None, embedder: Embedder | None) -> None:
        """Models, learners, and everything that the last whole round has left."""
        config, store, hub = self.config, self.store, self.hub
        # Nothing is in flight yet; but several processes stop together, which they can when they have loaded.
        with self.interrupts.at_once() if self.ranks.world == 1 else nullcontext():
            loaded = load_cast(on_cpu(config) if config.train.sharding == "fsdp" else config, hub, backends, embedder, room_for(config))
            self.learners = make_learners(config, loaded, self.ranks)
            let_talk(self.learners, config, loaded, self.ranks)
        self.backends, self._seats = self.learners.backends, [learner.seat for learner in self.learners.all]
        self.cast = loaded
        self.rollouts = Rollouts(config, self.learners, self.cast, store, hub.send, self.interrupts.stop, self.ranks)
        self.trackers = open_trackers(config.report_to, store.folder, config, config.arm, hub.send) if self.ranks.rank == 0 else None
        method = method_of(config.train.update)
        self.updaters = {
            learner.seat: method(
                learner, config.train, rounds=self._rounds_of(learner.seat), seed=config.run.seed, folder=store.folder,
                on_step=self._step, stop=self.rollouts.stop, ranks=self.ranks,
            )
            for learner in self.learners.all
        }  # fmt: skip
        store.open()
        self.ranks.barrier()
        restore(store, self.ranks, self._take, ", and trains again with what was said since")
        talk = config.conversation
        hub.send(started(config.command, store, conversations=talk.count, turns=talk.turns, resumed=store.last, rounds=config.rounds))
        for metrics in store.metrics.values():  # of an earlier start: for the view, the file has them
            hub.show(Measured(metrics=metrics))
        hub.notes(store.notes, "warning")
        hub.notes(loaded.notes)
        hub.notes(note for learner in self.learners.all for note in learner.notes)

    def _rounds_of(self, seat: Speaker) -> int:
        """How many rounds update a learner."""
        return sum(self.learners.of_round(n)[0].seat == seat for n in range(1, self.config.rounds + 1))

    def _take(self, number: int) -> str | None:
        """Take over a round's checkpoint; why that cannot be done."""
        place = self.store.place(number)
        try:
            state = self.store.state(number)
            for learner in self.learners.all:
                learner.load(place / self._name("adapter", learner.seat))
                learner.version = state["versions"][learner.seat]
                self.updaters[learner.seat].load(place / self._name("optimizer.pt", learner.seat))
        except ConfigError as error:
            return str(error)
        self.best, self.ended, self.lowered = state["best"], state["ended"], state.get("lowered", {})
        return None

    def _name(self, name: str, seat: str) -> str:
        """`name` as a checkpoint has it: with the seat where several experts learn."""
        stem, dot, end = name.partition(".")
        return name if len(self._seats) == 1 else f"{stem}_{seat}{dot}{end}"

    def _tracked(self, summary: dict[str, object]) -> None:
        """Tell the trackers what they lack of the texts, and let them go."""
        if self.trackers is not None:
            self.trackers.end(RunReader(self.store.folder), summary)

    def _stopped(self) -> int:
        self._tracked({})
        return stopped(self.hub, self.interrupts, self.store)

    @property
    def _judge(self) -> str:
        """Who says which reply is better, as pairs name it."""
        reward = self.config.reward
        return "+".join(self.config.judging.judges) if reward.kind == "judge" else "+".join(reward.functions) or reward.source

    # -- updating ---------------------------------------------------------------------------------------------------

    def update(self, number: int, rows: Rows) -> Updated | None:
        """The update of the round's learner; None: stopped by a signal, and nothing of it counts."""
        self.learners.free()
        try:
            return self.updaters[self.learners.of_round(number)[0].seat].update(rows, number)
        except Stopped:
            return None

    def _step(self, round: int, step: int, steps: int, loss: float) -> None:
        self.hub.send(StepFinished(round=round, step=step, steps=steps, loss=loss))

    def guard(self, figures: Mapping[str, Any], seat: Speaker) -> None:
        """Note what is beyond a limit, and do what the config says then."""
        replies = [held.reply.tokens for held in self.evaluators[seat].held if held.reply is not None]
        guards = self.config.guards
        found = alarms(figures, sum(replies) / len(replies), guards)
        lowering, self.lowered[seat] = to_lower(found, self.lowered.get(seat, {}), guards.worse)
        said, after = "; ".join(map(str, found)), ""
        if guards.action == "lower" and lowering:
            share = self.updaters[seat].lower(guards.lowest)
            after = f"; the learning rate is lowered to {share:.3g} of what was set" if share else "; the rate is at its least already"
        elif guards.action == "stop" and found:
            self.ended, after = said, "; the run ends with this round"
        if found:
            self.hub.send(Note(text=f"{said}{after}", level="warning"))

    # -- measuring and saving ---------------------------------------------------------------------------------------

    def measure(self, name: str, number: int, seat: Speaker, version: int, figures: Mapping[str, Any]) -> None:
        """Keep and announce the figures of a round."""
        self._tell(Metrics(id=name, kind="round", round=number, learner=seat, policy_version=version, figures=dict(figures)))

    def _tell(self, metrics: Metrics) -> None:
        self.store.keep(metrics)
        self.hub.send(Measured(metrics=metrics))
        if self.trackers is not None:
            self.trackers.log(metrics)

    def due(self, number: int) -> bool:
        """Whether an evaluation follows this round: the last one is to be chosen from, too, where any is."""
        every, rounds = self.config.evaluation.every, self.config.rounds
        return bool(every) and (number % every == 0 or (number == rounds and rounds > every))

    def evaluate(self, number: int, final: bool = False) -> bool:
        """Each learner against its base; False: stopped by a signal. What is in metrics.jsonl is not measured again."""
        wanted = self.config.evaluation
        for learner in self.learners.all:
            name = f"evaluation-{learner.seat}-{number:04d}{'-final' if final else ''}"
            metrics = self.store.metrics.get(name)
            if metrics is None:
                n = wanted.final if final else wanted.histories
                weights = self.kept(learner.seat) if final else None
                version = learner.version if weights is None else self._version(weights, learner.seat)
                metrics = self.evaluators[learner.seat].evaluate(self.rollouts.flows, number, version, n, final, weights)
                if metrics is None:
                    return False
                self._tell(metrics)
                if not metrics.figures.get("n"):
                    text = f"the evaluation of expert {learner.seat} after round {number} says nothing: no comparison had an outcome"
                    self.hub.send(Note(text=text, level="warning"))
            if number and learner.version and not final:  # a resumed run asks for that of its base again
                self._choose(learner.seat, number, metrics.figures)
        self.learners.free()
        return True

    def _choose(self, seat: Speaker, number: int, figures: Mapping[str, Any]) -> None:
        """Whether the weights of this round are the best so far. A rate of few answers is no rate to choose by."""
        rate, n = figures.get("win_rate"), figures.get("n") or 0
        if not isinstance(rate, int | float) or rate <= self.best.get(seat, [0, -1.0])[1]:
            return
        if n < ANSWERED * self.config.evaluation.histories:
            of = f"{n} of {self.config.evaluation.histories} comparisons after round {number} had an outcome"
            text = f"expert {seat}: {of}, too few to choose that round by"
            self.hub.send(Note(text=text, level="warning"))
            return
        self.best[seat] = [number, rate]

    def save(self, number: int) -> None:
        """The checkpoint of a round, from which a later start goes on."""
        state = {"round": number, "versions": self.learners.versions(), "best": self.best, "ended": self.ended, "lowered": self.lowered}
        keep = [*range(number - self.config.keep_rounds + 1, number), *(int(best[0]) for best in self.best.values())]
        self.store.checkpoint(number, state, self._write, keep)
        self.rollouts.at_work.close()
        self.ranks.barrier()

    def _write(self, place: Path) -> None:
        for learner in self.learners.all:
            learner.save(place / self._name("adapter", learner.seat))
            self.updaters[learner.seat].save(place / self._name("optimizer.pt", learner.seat))

    # -- the end ----------------------------------------------------------------------------------------------------

    def kept(self, seat: Speaker) -> int:
        """The round whose weights the run gives for a learner: that of its best evaluation, or the last one."""
        keep_best = self.config.evaluation.keep_best and seat in self.best
        return int(self.best[seat][0]) if keep_best else self.store.last

    def _version(self, number: int, seat: Speaker) -> int:
        """The policy version that the checkpoint of a round holds."""
        return int(self.store.state(number)["versions"][seat])

    def _end(self) -> int:
        """The best (or the last) weights: evaluated on histories that nothing was chosen by, and put where they are found.

        A learner that was never updated has none to give. Where that is all of them, the run has failed.
        """
        config, store = self.config, self.store
        learnt = [learner for learner in self.learners.all if learner.version]
        if not learnt:
            return self._nothing_learnt()
        self._check_best()
        for learner in learnt:
            learner.load(store.place(self.kept(learner.seat)) / self._name("adapter", learner.seat))
        self.hub.send(PhaseStarted(round=store.last, phase="evaluating"))
        if not self.evaluate(store.last, final=True):
            return self._stopped()
        figures = {seat: store.metrics[f"evaluation-{seat}-{store.last:04d}-final"].figures for seat in self._seats}
        found = {learner.seat: store.folder / self._name("adapter", learner.seat) for learner in learnt}
        for seat, place in found.items():
            if self.ranks.rank == 0:
                with store.writing():
                    put(store.place(self.kept(seat)) / place.name, place)
                    replace(place / "README.md", model_card(config, store.folder, seat))
        for seat in self._seats:
            if seat not in found:
                text = f"expert {seat} has learnt nothing and has no adapter: {why_nothing(self._figures(seat))}"
                self.hub.send(Note(text=text, level="warning"))
        summary = self._summary() | {
            "best": {seat: {"round": self.kept(seat), "policy_version": self._version(self.kept(seat), seat)} for seat in found},
            "adapter": str(next(iter(found.values()))),
            "adapters": {seat: str(place) for seat, place in found.items()},
            "evaluation": figures[next(iter(found))],
            "evaluations": figures,
        }
        return self._finish(summary)

    def _check_best(self) -> None:
        """Where the checkpoint of the best evaluation is damaged, the run gives its last weights."""
        for seat, (number, _) in list(self.best.items()):
            if problem := self.ranks.same(damage(self.store.folder, int(number)) if self.ranks.rank == 0 else None):
                del self.best[seat]
                text = f"{problem}: the weights of the best evaluation (round {number:.0f}) are lost, those of the last round are given"
                self.hub.send(Note(text=text, level="warning"))

    def _nothing_learnt(self) -> int:
        """The end of a run whose learners are what they were: no adapter, no card, and why."""
        row = "a pair" if isinstance(self.config, OnlineDpoConfig) else "a history"
        reason = f"nothing was learnt, no round made {row} to train on: {why_nothing(self._figures())}"
        return self._finish(self._summary() | {"status": "failed", "reason": reason, "best": {}, "adapter": None, "adapters": {}})

    def _summary(self) -> dict[str, object]:
        """What there is to say of every run."""
        return {
            "schema": 1,
            "rounds": self.store.last,
            "learner": self.config.learner,
            self.config.train.rows: sum(int(figures.get(self.config.train.rows) or 0) for figures in self._figures()),
            "seconds": round(seconds_of(self.store.folder), 1),
            "stopped_by": self.ended,
        }

    def _figures(self, seat: Speaker | None = None) -> list[Mapping[str, Any]]:
        """The figures of all rounds, or of those that a learner had."""
        return [m.figures for m in self.store.metrics.values() if m.kind == "round" and seat in (None, m.learner)]

    def _finish(self, summary: dict[str, object]) -> int:
        self.rollouts.at_work.close()
        self.store.tidy()
        code = finished(self.hub, self.store, summary)
        self._tracked(summary)
        return code
