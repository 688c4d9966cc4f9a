"""The loop of the commands that train one model on a file of rows: sft, and dpo and kto on pairs that were there before.

A round is an epoch, a pass over the rows, or with `rounds_per_epoch` a part of one: rows -> update -> evaluation -> checkpoint. The update
is a method of METHODS (an Updater), which has the optimizer, the schedule over all rounds, several processes and broken numbers; folder,
checkpoints and trackers are those of online_dpo. kill -9, and the same command goes on with the round after the last whole one. At the end
the weights of the best round are measured once more and lie in adapter/, with a card.

A command is a class on `Offline`:

    command          its name; `figure` and `higher`: by which figure of an evaluation the best round is kept, and whether more is better
    compared         whether the untouched base is asked for after the first update (a reference, a win rate over it)
    read()           the rows, before any model is loaded: `self.as_kept(...)` takes them from the run folder where it has them already
    prepare()        the model is there (`self.learner`): what needs its tokens, and what is wrong with rows seen so. Nothing is written yet
    keep()           the folder is the run's now: write the rows, so that no change of their file changes a run that goes on
    rows(n)          what round n trains on, the same in every start; `self.part(rows, n)` is its part of an epoch, in the epoch's order
    measured(n, ...) the figures of an evaluation; None: a signal came. Each process has all rows: `self.ranks.mine` and `gather` share
                     them out, and passes through the model stand within `self.together()`
    enough(n, figures) whether a round may be chosen by its evaluation
    after(n, figures)  for guards: may call `self.updater.lower` or set `self.ended`; `self.lowered` is kept across starts
    nothing()        why no weight changed, where none did
    card()           the adapter's README.md
    more()           what the summary says besides

and its door: `run_offline(SftRun, config, command_line, view)`, whose config is an `OfflineConfig`.
"""

from __future__ import annotations

import random
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import ClassVar, Generic, TypeVar

from expertchat.backends.local import LocalBackend
from expertchat.config import ConfigError
from expertchat.events import Measured, Note, PhaseStarted, RoundFinished, RoundStarted, Sink, StepFinished
from expertchat.folder.jsonl import read_records
from expertchat.folder.reader import RunReader
from expertchat.folder.run import Hub, Interrupts, finished, in_folder, run_folder, started, stopped, was_done
from expertchat.folder.summary import seconds_of
from expertchat.folder.writing import replace
from expertchat.records import Figure, Metrics, Record
from expertchat.records.learning import Step
from expertchat.trackers.tracking import FINAL, check_trackers, open_trackers
from expertchat.training.checkpoints import damage
from expertchat.training.clock import Clock
from expertchat.training.folder import TrainingFolder, put, round_name
from expertchat.training.learner import Learner, one_learner
from expertchat.training.lockstep import Lockstep
from expertchat.training.method import Rows, Stopped, Updated, method_of
from expertchat.training.offline_config import SEAT, OfflineConfig
from expertchat.training.one_model import load_one
from expertchat.training.ranks import Ranks
from expertchat.training.restore import restore
from expertchat.training.sharding import shard

C = TypeVar("C", bound=OfflineConfig)
R = TypeVar("R", bound=Record)
T = TypeVar("T")


class OfflineFolder(TrainingFolder):
    """The run folder of such a run: figures, the loss of every step, checkpoints."""

    logs: tuple[str, ...] = ("events", "metrics", "steps")

    def keep_step(self, step: Step) -> None:
        """Append a step, unless an earlier start has kept it."""
        self._once("steps", [step])


def run_offline(
    kind: type[Offline[C]], config: C, command_line: list[str], sink: Sink, *, backend: LocalBackend | None = None
) -> int:
    """Run, or go on with a run. Returns 0 when it is done, 3 when it was stopped and can go on, 1 where nothing was learnt.

    `sink` is closed at the end; `backend` replaces the model of the config. Raises ConfigError for a wrong config or input.
    """
    with Hub(sink) as hub, Interrupts() as interrupts, Ranks.start(config.train.sharding, command_line) as ranks:
        check_trackers(config.report_to)
        place = Path(ranks.same(str(run_folder(config.run.dir, kind.command))))
        return in_folder(
            hub,
            interrupts,
            lambda say: OfflineFolder(place, config.model_dump(mode="json"), command_line, say, writes=ranks.rank == 0),
            lambda store: kind(store.as_begun(config), store, hub, interrupts, ranks).run(backend),
        )


class Offline(ABC, Generic[C]):
    """One run: the loop in `round`, what a command must give, and what stands around them."""

    command: ClassVar[str]
    figure: str
    higher: bool
    compared: ClassVar[bool] = True

    def __init__(self, config: C, store: OfflineFolder, hub: Hub, interrupts: Interrupts, ranks: Ranks) -> None:
        self.config, self.store, self.hub, self.interrupts, self.ranks = config, store, hub, interrupts, ranks
        self.best: list[float] = []  # the round of the best evaluation, and its figure
        self.ended: str | None = None  # why the run ends before its last round
        self.lowered: dict[str, float] = {}
        self._began = 0.0  # of the update that is running

    def round(self, number: int) -> bool:
        """Update, evaluate, save. False: stopped by a signal."""
        self.hub.send(RoundStarted(round=number, rounds=self.config.rounds, learner=SEAT, policy_version=self.learner.version))
        clock = Clock(self.hub, number)
        with clock("updating"):
            updated = self.update(number)
        if updated is None:
            return False
        figures = {"rows": updated.rows, **updated.all_figures(), **clock.figures([])}
        self._tell(Metrics(id=f"round-{number:04d}", kind="round", round=number, learner=SEAT, policy_version=self.learner.version,
                           figures=figures))  # fmt: skip
        if updated.skipped:
            self.warn(f"round {number}: {updated.skipped} of {updated.steps + updated.skipped} steps were not made: their loss or gradient "
                      "was not finite")  # fmt: skip
        if self._due(number):
            with clock("evaluating"):
                if not self.evaluate(number):
                    return False
        with clock("saving"):
            self.after(number, figures)
            self._save(number)
        self.hub.send(RoundFinished(round=number, seconds=clock.seconds))
        return True

    # -- what a command gives ---------------------------------------------------------------------------------------

    @abstractmethod
    def read(self) -> None:
        """Read the rows. Raises ConfigError with everything that is wrong with them."""

    def prepare(self) -> None:
        """Make of the rows what the model is shown. Raises ConfigError."""

    @abstractmethod
    def keep(self) -> None:
        """Write the rows into the run folder (`self.keep_rows`)."""

    @abstractmethod
    def rows(self, number: int) -> Rows:
        """What a round trains on."""

    @abstractmethod
    def measured(self, number: int, final: bool) -> dict[str, Figure] | None:
        """The figures of the present weights after a round; None: stopped by a signal. `final`: those that the run gives in the end."""

    def enough(self, number: int, figures: Mapping[str, Figure]) -> bool:
        """Whether an evaluation says enough for its round to be chosen by it."""
        return True

    def after(self, number: int, figures: Mapping[str, Figure]) -> None:
        """Hold a round's figures against limits."""

    @abstractmethod
    def nothing(self) -> str:
        """Why nothing was learnt."""

    @abstractmethod
    def card(self) -> str:
        """The model card of what was trained."""

    def more(self) -> dict[str, object]:
        """What there is to say of such a run at its end."""
        return {}

    # -- what a command is given ------------------------------------------------------------------------------------

    def as_kept(self, name: str, kind: type[R], make: Callable[[], list[R]]) -> list[R]:
        """The records that an earlier start has kept as NAME.jsonl, else those that `make` makes. The same in every process."""
        path = self.store.folder / f"{name}.jsonl"
        if self.ranks.same(path.is_file()):
            return list(read_records(path, kind, "restore it, or name another run.dir"))
        return make()

    def keep_rows(self, name: str, records: Sequence[Record]) -> None:
        """Write NAME.jsonl, once, whole."""
        path = self.store.folder / f"{name}.jsonl"
        if self.ranks.rank == 0 and not path.is_file():
            with self.store.writing():
                replace(path, "".join(f"{one.to_json()}\n" for one in records), sync=True)

    def keep_evaluation(self, name: str, number: int, final: bool, records: Sequence[Record]) -> None:
        """Write evaluations/NAME-NNNN.jsonl, what an evaluation says of each row."""
        if self.ranks.rank == 0 and records:
            with self.store.writing():
                place = self.store.folder / "evaluations"
                place.mkdir(exist_ok=True)
                replace(place / f"{name}-{number:04d}{'-final' if final else ''}.jsonl", "".join(f"{one.to_json()}\n" for one in records))

    def part(self, rows: Sequence[T], number: int) -> list[T]:
        """A round's part of its epoch; the seed draws the order of each epoch, in which no length plays a part."""
        parts = self.config.rounds_per_epoch
        epoch, nth = divmod(number - 1, parts)
        order = list(rows)
        random.Random(f"{self.config.run.seed} epoch {epoch}").shuffle(order)
        return order[nth * len(order) // parts : (nth + 1) * len(order) // parts]

    def together(self) -> Lockstep:
        """While entered, passes through a model that the processes hold in parts fit together."""
        return Lockstep(self.ranks, self._sharded)

    def stop(self) -> bool:
        """Whether a signal came to any process; asked by all of them at the same places."""
        return self.ranks.agree(self.interrupts.stop())

    def warn(self, text: str) -> None:
        self.hub.send(Note(text=text, level="warning"))

    # -- the run ----------------------------------------------------------------------------------------------------

    def run(self, backend: LocalBackend | None) -> int:
        """All rounds that are left, then the end."""
        summary = self.ranks.same(self.store.summary)
        if summary is not None:
            self.store.summary = summary
            return was_done(self.hub, self.store)
        self.read()
        self._load(backend)
        self.hub.send(PhaseStarted(round=0, phase="evaluating"))
        if not self.evaluate(0):
            return self._stopped()
        for number in range(self.store.last + 1, self.config.rounds + 1):
            if self.ended:
                break
            if self.stop() or not self.round(number):
                return self._stopped()
        return self._end()

    def _load(self, given: LocalBackend | None) -> None:
        """The model, what is trained of it, and everything that the last whole round has left."""
        config, store, hub = self.config, self.store, self.hub
        # Nothing is in flight yet; but several processes stop together, which they can when they have loaded.
        with self.interrupts.at_once() if self.ranks.world == 1 else nullcontext():
            backend, self.plan = (given, None) if given is not None else load_one(config, hub)
            self._sharded = [backend.model] if config.train.sharding == "fsdp" else []
            if self._sharded:
                shard(backend.model, self.ranks)
                backend.moved()
            self.learner: Learner = one_learner(config.model, backend, config.train, config.run.seed, self.compared)
            self.prepare()
        self.updater = method_of(config.train.update)(
            self.learner, config.train.model_copy(update={"epochs": 1}), rounds=config.rounds, seed=config.run.seed, folder=store.folder,
            on_step=self._step, stop=self.stop, ranks=self.ranks,
        )  # fmt: skip
        store.open()
        self.ranks.barrier()
        self.keep()
        self.trackers = open_trackers(config.report_to, store.folder, config, config.arm, hub.send) if self.ranks.rank == 0 else None
        restore(store, self.ranks, self._take)
        hub.send(started(self.command, store, conversations=0, turns=0, resumed=store.last, rounds=config.rounds))
        for metrics in store.metrics.values():  # of an earlier start: for the view, the file has them
            hub.show(Measured(metrics=metrics))
        hub.notes(store.notes, "warning")
        hub.notes(self.learner.notes)

    def _take(self, number: int) -> str | None:
        """Take over a round's checkpoint; why that cannot be done."""
        place = self.store.place(number)
        try:
            state = self.store.state(number)
            self.learner.load(place / "adapter")
            self.learner.version = state["versions"][SEAT]
            self.updater.load(place / "optimizer.pt")
        except ConfigError as error:
            return str(error)
        self.best, self.ended, self.lowered = list(state["best"].get(SEAT, [])), state["ended"], state.get("lowered", {})
        return None

    def _tracked(self, summary: dict[str, object]) -> None:
        """Tell the trackers what they lack of the texts, and let them go."""
        if self.trackers is not None:
            self.trackers.end(RunReader(self.store.folder), summary)

    def _stopped(self) -> int:
        self._tracked({})
        return stopped(self.hub, self.interrupts, self.store)

    # -- updating ---------------------------------------------------------------------------------------------------

    def update(self, number: int) -> Updated | None:
        """The update of a round; None: stopped by a signal, and nothing of it counts."""
        self.learner.refresh()
        self._began = time.monotonic()
        try:
            return self.updater.update(self.rows(number), number)
        except Stopped:
            return None

    def _step(self, round: int, step: int, steps: int, loss: float) -> None:
        took = float(f"{time.monotonic() - self._began:.3f}")
        self.store.keep_step(Step(id=f"{round_name(round)}/s{step:06d}", round=round, step=step, loss=loss, seconds=took))
        self.hub.send(StepFinished(round=round, step=step, steps=steps, loss=loss))

    # -- measuring and saving ---------------------------------------------------------------------------------------

    def _tell(self, metrics: Metrics) -> None:
        self.store.keep(metrics)
        self.hub.send(Measured(metrics=metrics))
        if self.trackers is not None:
            self.trackers.log(metrics)

    def _due(self, number: int) -> bool:
        """Whether an evaluation follows this round."""
        every = self.config.evaluation.every
        return bool(every) and (number % every == 0 or number == self.config.rounds)

    def evaluate(self, number: int, final: bool = False) -> bool:
        """Measure the model after a round; False: stopped by a signal. What is in metrics.jsonl is not measured again."""
        name = f"evaluation-{SEAT}-{number:04d}{FINAL if final else ''}"
        metrics = self.ranks.same(self.store.metrics.get(name))
        if metrics is None:
            weights = self.kept if final else None
            figures = self.measured(number, final)
            if figures is None:
                return False
            metrics = Metrics(id=name, kind="evaluation", round=number, learner=SEAT, policy_version=self.learner.version,
                              weights_of=weights, figures=figures)  # fmt: skip
            self._tell(metrics)
        value = metrics.figures.get(self.figure)
        counts = number and not final and self.learner.version and self.enough(number, metrics.figures)
        if counts and isinstance(value, int | float) and (not self.best or self.better(value, self.best[1])):
            self.best = [number, value]
        return True

    def better(self, one: float, than: float) -> bool:
        """Whether an evaluation's figure is better than another."""
        return one > than if self.higher else one < than

    def _save(self, number: int) -> None:
        """The checkpoint of a round, from which a later start goes on."""
        best = {SEAT: self.best} if self.best else {}
        state = {"round": number, "versions": {SEAT: self.learner.version}, "best": best, "ended": self.ended, "lowered": self.lowered}
        keep = [*range(number - self.config.keep_rounds + 1, number), *(int(one[0]) for one in best.values())]
        self.store.checkpoint(number, state, self._write, keep)
        self.ranks.barrier()

    def _write(self, place: Path) -> None:
        self.learner.save(place / "adapter")
        self.updater.save(place / "optimizer.pt")

    # -- the end ----------------------------------------------------------------------------------------------------

    @property
    def kept(self) -> int:
        """The round whose weights the run gives: that of its best evaluation, or the last one."""
        return int(self.best[0]) if self.config.evaluation.keep_best and self.best else self.store.last

    def _end(self) -> int:
        """The best (or the last) weights, measured once more and put where they are found. Without any step the run has failed."""
        store = self.store
        if not self.learner.version:
            reason = f"nothing was learnt: {self.nothing()}"
            return self._finish(self._summary() | {"status": "failed", "reason": reason, "best": {}, "adapter": None})
        if self.best and (problem := self.ranks.same(damage(store.folder, int(self.best[0])) if self.ranks.rank == 0 else None)):
            self.warn(f"{problem}: the weights of the best round ({self.best[0]:.0f}) are lost, those of the last one are given")
            self.best = []
        self.learner.load(store.place(self.kept) / "adapter")
        self.learner.version = int(store.state(self.kept)["versions"][SEAT])
        self.hub.send(PhaseStarted(round=store.last, phase="evaluating"))
        if not self.evaluate(store.last, final=True):
            return self._stopped()
        figures = store.metrics[f"evaluation-{SEAT}-{store.last:04d}{FINAL}"].figures
        if said := self.no_better(figures.get(self.figure)):
            self.warn(said)
        place = store.folder / "adapter"
        if self.ranks.rank == 0:
            with store.writing():
                put(store.place(self.kept) / "adapter", place)
                replace(place / "README.md", self.card())
        best = {SEAT: {"round": self.kept, "policy_version": self.learner.version}}
        return self._finish(self._summary() | {"best": best, "adapter": str(place), "evaluation": figures})

    def no_better(self, now: Figure) -> str | None:
        """Why what was learnt may be worth nothing. Rounds are measured by the same rows or dialogues as the base; the end (`now`) by other
        ones where some are kept to choose by."""
        base = self.store.metrics[f"evaluation-{SEAT}-0000"].figures.get(self.figure)
        found, when = (self.best[1], "at best") if self.best else (now, "now")
        if not isinstance(base, int | float) or not isinstance(found, int | float) or self.better(found, base):
            return None
        return f"no round is better than the model was before ({self.figure} {base:.4g}, {when} {found:.4g})"

    def _summary(self) -> dict[str, object]:
        rounds = {m.round: m.figures for m in self.store.metrics.values() if m.kind == "round"}
        steps = sum(int(figures.get("steps") or 0) for figures in rounds.values())
        known: dict[str, object] = {"schema": 1, "rounds": self.store.last, "learner": SEAT, "steps": steps}
        return known | {"seconds": round(seconds_of(self.store.folder), 1), "stopped_by": self.ended} | self.more()

    def _finish(self, summary: dict[str, object]) -> int:
        self.store.tidy()
        code = finished(self.hub, self.store, summary)
        self._tracked(summary)
        return code

