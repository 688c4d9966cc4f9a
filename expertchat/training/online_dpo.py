"""`expertchat online_dpo`: rounds of dialogue, candidates, judgement, pairs and a DPO update (OAIF, arXiv 2402.04792), in one run folder.

`OnlineDpo.round` is the algorithm; what stands around it goes on where an earlier start was broken off, evaluates, and ends the run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from expertchat.backends.base import Backend, Embedder
from expertchat.cast import check_categories, load_cast
from expertchat.evaluation.evaluator import Evaluator
from expertchat.evaluation.evaluator import check as check_evaluation
from expertchat.evaluation.truth import check_topics
from expertchat.events import Measured, Note, PhaseStarted, RoundFinished, RoundStarted, RunFinished, Sink, StepFinished
from expertchat.preferences.pairs import make_pairs
from expertchat.records import Metrics, Speaker
from expertchat.run import DONE, Hub, Interrupts, in_folder, run_folder, started, stopped, was_done
from expertchat.summary import seconds_of
from expertchat.topics import given_topics
from expertchat.training.book import Book, put
from expertchat.training.card import model_card
from expertchat.training.clock import Clock
from expertchat.training.config import OnlineDpoConfig
from expertchat.training.figures import alarms, remarks, round_figures
from expertchat.training.learners import make_learners, on_cpu, room_for
from expertchat.training.ranks import Ranks
from expertchat.training.reward import scores
from expertchat.training.rollout import Cast, choices
from expertchat.training.talk import MOST_TOPICS, Talk, part
from expertchat.training.tracking import check_trackers, open_trackers
from expertchat.training.update import Stopped, Updater


def run_online_dpo(
    config: OnlineDpoConfig,
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
    with Hub(sink) as hub, Interrupts() as interrupts, Ranks.start(config.train.sharding, command_line) as ranks:
        check_categories(config)
        check_evaluation(config)
        check_trackers(config.report_to)
        _check_topics(config)
        place = Path(ranks.same(str(run_folder(config.run.dir, "online_dpo"))))
        return in_folder(
            hub,
            interrupts,
            lambda say: Book(place, config.model_dump(mode="json"), command_line, say, writes=ranks.rank == 0),
            lambda book: OnlineDpo(config, book, hub, interrupts, ranks).run(backends, embedder),
        )


def _check_topics(config: OnlineDpoConfig) -> None:
    """Raise ConfigError, before anything is loaded, for topics that cannot be trained or evaluated on."""
    if config.topics.source != "models":
        _, held_out = part(given_topics(config.topics, MOST_TOPICS, config.run.seed), config)
        if config.evaluation.judge == "truth":
            check_topics(topic.text for topic in held_out)


class OnlineDpo:
    """One run: the algorithm in `round`, and what it needs around it."""

    def __init__(self, config: OnlineDpoConfig, book: Book, hub: Hub, interrupts: Interrupts, ranks: Ranks) -> None:
        self.config, self.book, self.hub, self.interrupts, self.ranks = config, book, hub, interrupts, ranks
        self.best: dict[str, list[float]] = {}  # by seat: the round of the best evaluation, and its win rate
        self.ended: str | None = None  # why a guard ended the run before its last round

    def round(self, number: int) -> bool:
        """One round with the newest policy: talk, judge, pair, update, measure, save. False: stopped by a signal."""
        learner, seats = self.learners.of_round(number)
        self.hub.send(RoundStarted(round=number, rounds=self.config.rounds, learner=learner.seat, policy_version=learner.version))
        clock = Clock(self.hub, number)
        with clock("talking"):  # dialogues; at the learner's turns candidates, each of them rated and with its WIM response
            bundles = self.talk.round(number, seats)
        if bundles is None:
            return False
        with clock("pairing"):
            rewards = scores(bundles, self.config, self.backends.get("embedder"))
            made = choices(bundles, rewards, self.config.judging.judge)
            pairing = self.ranks.same(make_pairs(made, self.config.pairs, learner.version))  # no rounding of another machine's in it
            self.book.keep_round(bundles, pairing.pairs)
        with clock("updating"):
            drift = self.talk.drift(learner, bundles)  # of the policy that has talked, from the base
            updated = self.update(number, pairing.pairs)
        if updated is None:
            return False
        figures = round_figures(bundles, rewards, pairing) | drift | updated.all_figures() | clock.figures(bundles)
        self.hub.notes((f"round {number}: {remark}" for remark in remarks(figures, learner.seat)), "warning")
        self.measure(f"round-{number:04d}", number, learner.seat, learner.version, figures)
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
        summary = self.ranks.same(self.book.summary)
        if summary is not None:
            self.book.summary = summary
            return was_done(self.hub, self.book)
        self._load(backends, embedder)
        held_out = self.talk.topics()
        if held_out is None:
            return self._stopped()
        self.evaluators = {
            seat: Evaluator(
                self.config, seat, held_out, self.cast.experts, self.cast.tokens, self.book.folder, self.ranks, self.hub.send,
                self.book.writing,
            )
            for seat in self._seats
        }
        self.hub.send(PhaseStarted(round=0, phase="evaluating"))
        if not all(one.prepare(self.talk.flows) for one in self.evaluators.values()) or not self.evaluate(0):
            return self._stopped()
        for number in range(self.book.last + 1, self.config.rounds + 1):
            if self.ended:
                break
            if self.talk.stop() or not self.round(number):
                return self._stopped()
        return self._end()

    def _load(self, backends: Mapping[str, Backend] | None, embedder: Embedder | None) -> None:
        """Models, learners, and everything that the last whole round has left."""
        config, book, hub = self.config, self.book, self.hub
        # Nothing is in flight yet; but several processes stop together, which they can when they have loaded.
        with self.interrupts.at_once() if self.ranks.world == 1 else nullcontext():
            loaded = load_cast(on_cpu(config) if config.train.sharding == "fsdp" else config, hub, backends, embedder, room_for(config))
            self.learners = make_learners(config, loaded, self.ranks)
        self.backends, self._seats = self.learners.backends, [learner.seat for learner in self.learners.all]
        self.cast = Cast(loaded.experts, loaded.tokens)
        self.talk = Talk(config, self.learners, self.cast, book, hub.send, self.interrupts.stop, self.ranks)
        self.trackers = open_trackers(config.report_to, book.folder, config, config.arm, hub.send) if self.ranks.rank == 0 else None
        self.updaters = {
            learner.seat: Updater(
                learner, config.train, rounds=self._rounds_of(learner.seat), seed=config.run.seed, folder=book.folder,
                on_step=self._step, stop=self.talk.stop, ranks=self.ranks,
            )
            for learner in self.learners.all
        }  # fmt: skip
        book.open()
        self.ranks.barrier()
        if book.last:
            self._restore()
        talk = config.conversation
        hub.send(started("online_dpo", book, conversations=talk.count, turns=talk.turns, resumed=book.last, rounds=config.rounds))
        for metrics in book.metrics.values():  # of an earlier start: for the view, the file has them
            hub.show(Measured(metrics=metrics))
        hub.notes(book.notes, "warning")
        hub.notes(loaded.notes)
        hub.notes(note for learner in self.learners.all for note in learner.notes)

    def _rounds_of(self, seat: Speaker) -> int:
        """How many rounds update a learner."""
        return sum(self.learners.of_round(n)[0].seat == seat for n in range(1, self.config.rounds + 1))

    def _restore(self) -> None:
        """Go on from the last whole round."""
        place, state = self.book.place(self.book.last), self.book.state(self.book.last)
        for learner in self.learners.all:
            learner.load(place / self._name("adapter", learner.seat))
            learner.version = state["versions"][learner.seat]
            self.updaters[learner.seat].load(place / self._name("optimizer.pt", learner.seat))
        self.best, self.ended = state["best"], state["ended"]

    def _name(self, name: str, seat: str) -> str:
        """`name` as a checkpoint has it: with the seat where two experts learn."""
        stem, dot, end = name.partition(".")
        return name if len(self._seats) == 1 else f"{stem}_{seat}{dot}{end}"

    def _stopped(self) -> int:
        return stopped(self.hub, self.interrupts, self.book)

    # -- updating ---------------------------------------------------------------------------------------------------

    def update(self, number: int, pairs: Sequence[Any]) -> Any:
        """The DPO update of the round's learner; None: stopped by a signal, and nothing of it counts."""
        try:
            return self.updaters[self.learners.of_round(number)[0].seat].update(pairs, number)
        except Stopped:
            return None

    def _step(self, round: int, step: int, steps: int, loss: float) -> None:
        self.hub.send(StepFinished(round=round, step=step, steps=steps, loss=loss))

    def guard(self, figures: Mapping[str, Any], seat: Speaker) -> None:
        """Note what is beyond a limit, and do what the config says then."""
        replies = [held.reply.tokens for held in self.evaluators[seat].held if held.reply is not None]
        found = alarms(figures, sum(replies) / len(replies), self.config.guards)
        if not found:
            return
        action = self.config.guards.action
        after = {"note": "", "lower": "; the learning rate is halved", "stop": "; the run ends with this round"}[action]
        self.hub.send(Note(text=f"{'; '.join(found)}{after}", level="warning"))
        if action == "lower":
            self.updaters[seat].lower()
        elif action == "stop":
            self.ended = "; ".join(found)

    # -- measuring and saving ---------------------------------------------------------------------------------------

    def measure(self, name: str, number: int, seat: Speaker, version: int, figures: Mapping[str, Any]) -> None:
        """Keep and announce the figures of a round."""
        self._tell(Metrics(id=name, kind="round", round=number, learner=seat, policy_version=version, figures=dict(figures)))

    def _tell(self, metrics: Metrics) -> None:
        self.book.keep(metrics)
        self.hub.send(Measured(metrics=metrics))
        if self.trackers is not None:
            self.trackers.log(metrics)

    def due(self, number: int) -> bool:
        """Whether an evaluation follows this round."""
        every = self.config.evaluation.every
        return bool(every) and number % every == 0

    def evaluate(self, number: int, final: bool = False) -> bool:
        """Each learner against its base; False: stopped by a signal. What is in metrics.jsonl is not measured again."""
        wanted = self.config.evaluation
        for learner in self.learners.all:
            name = f"evaluation-{learner.seat}-{number:04d}{'-final' if final else ''}"
            metrics = self.book.metrics.get(name)
            if metrics is None:
                n = wanted.final if final else wanted.histories
                metrics = self.evaluators[learner.seat].evaluate(self.talk.flows, number, learner.version, n, final)
                if metrics is None:
                    return False
                self._tell(metrics)
            rate = metrics.figures.get("win_rate")
            if number and not final and isinstance(rate, int | float) and rate > self.best.get(learner.seat, [0, -1.0])[1]:
                self.best[learner.seat] = [number, rate]
        return True

    def save(self, number: int) -> None:
        """The checkpoint of a round, from which a later start goes on."""
        state = {"round": number, "versions": self.learners.versions(), "best": self.best, "ended": self.ended}
        keep = [*range(number - self.config.keep_rounds + 1, number), *(int(best[0]) for best in self.best.values())]
        self.book.checkpoint(number, state, self._write, keep)
        self.talk.bundles.close()
        self.ranks.barrier()

    def _write(self, place: Path) -> None:
        for learner in self.learners.all:
            learner.save(place / self._name("adapter", learner.seat))
            self.updaters[learner.seat].save(place / self._name("optimizer.pt", learner.seat))

    # -- the end ----------------------------------------------------------------------------------------------------

    def _end(self) -> int:
        """The best (or the last) weights: evaluated on histories that nothing was chosen by, and put where they are found."""
        config, book = self.config, self.book
        chosen: dict[str, int] = {}
        for learner in self.learners.all:
            best = int(self.best[learner.seat][0]) if config.evaluation.keep_best and learner.seat in self.best else book.last
            chosen[learner.seat] = best
            learner.load(book.place(best) / self._name("adapter", learner.seat))
        self.hub.send(PhaseStarted(round=book.last, phase="evaluating"))
        if not self.evaluate(book.last, final=True):
            return self._stopped()
        figures = {seat: book.metrics[f"evaluation-{seat}-{book.last:04d}-final"].figures for seat in self._seats}
        for seat, number in chosen.items():
            if self.ranks.rank == 0:
                name = self._name("adapter", seat)
                with book.writing():
                    put(book.place(number) / name, book.folder / name)
                    card = model_card(config, book.folder, "a" if seat == "a" else "b")
                    (book.folder / name / "README.md").write_text(card, encoding="utf-8")
        summary: dict[str, object] = {
            "schema": 1,
            "rounds": book.last,
            "learner": config.learner,
            "pairs": sum(int(m.figures.get("pairs") or 0) for m in book.metrics.values() if m.kind == "round"),
            "best": {seat: {"round": number} for seat, number in chosen.items()},
            "seconds": round(seconds_of(book.folder), 1),
            "adapter": str(book.folder / self._name("adapter", self._seats[0])),
            "adapters": {seat: str(book.folder / self._name("adapter", seat)) for seat in self._seats},
            "evaluation": figures[self._seats[0]],
            "evaluations": figures,
            "stopped_by": self.ended,
        }
        self.hub.send(RunFinished(status="done", summary=summary))
        book.finish(summary)
        if self.trackers is not None:
            self.trackers.close()
        return DONE
