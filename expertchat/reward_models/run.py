"""`expertchat reward_model`: pass by pass over the rows, measured after each; the best one is the result."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from expertchat.backends.reward_folders import MODEL
from expertchat.config import ConfigError, RewardModelConfig
from expertchat.events import Loading, Measured, PhaseStarted, RoundFinished, RoundStarted, Sink, StepFinished
from expertchat.folder.run import Hub, Interrupts, finished, in_folder, run_folder, started, stopped, was_done
from expertchat.folder.writing import replace, saving
from expertchat.records import Figure, Metrics, Opinion
from expertchat.reward_models.card import card_of
from expertchat.reward_models.config import TYPES, RewardModelTraining
from expertchat.reward_models.folder import RewardFolder
from expertchat.reward_models.material import Material, read_material
from expertchat.reward_models.measuring import Measure, better, judge_ref, opinions_of
from expertchat.reward_models.summary import summarise
from expertchat.reward_models.typed import TypedMeasure
from expertchat.text.sentences import shown_path
from expertchat.training.folder import put
from expertchat.training.method import Rows, Stopped
from expertchat.training.offline_config import SEAT
from expertchat.training.ranks import Ranks

OPTIMIZER = "optimizer.pt"
WHOLE_BELOW = 2**28  # weights of a result that is written whole with merge=auto: 1 GiB in fp32


def run_reward_model(config: RewardModelTraining, command_line: list[str], sink: Sink) -> int:
    """Train, or go on with it. Returns 0 when it is done, 3 when it was stopped and can go on, 1 when nothing was learnt.

    `sink` is closed at the end. Raises ConfigError for what is wrong with the config, the source or the model.
    """
    with Hub(sink) as hub, Interrupts() as interrupts, Ranks.start(config.train.sharding, command_line) as ranks:
        told: list[str] = []
        place = Path(ranks.same(str(run_folder(config.run.dir, "reward_model"))))
        material = read_material(config, told.append)
        parts = {"schema": 1, "digest": material.digest, "target": material.target, **material.counts}
        return in_folder(
            hub,
            interrupts,
            lambda say: RewardFolder(place, config.model_dump(mode="json"), command_line, parts, say, ranks.rank == 0),
            lambda store: _Run(config, store, hub, interrupts, ranks, material, told).run(),
        )


@dataclass
class _Run:
    config: RewardModelTraining
    store: RewardFolder
    hub: Hub
    interrupts: Interrupts
    ranks: Ranks
    material: Material
    told: Sequence[str]  # what is to be said of the source
    best: tuple[int, dict[str, Figure]] | None = None  # the best epoch and its figures
    seconds: dict[str, float] = field(default_factory=dict)  # of the running epoch, by phase

    def run(self) -> int:
        if (summary := self.ranks.same(self.store.summary)) is not None:
            self.store.summary = summary
            return was_done(self.hub, self.store)
        store, hub, config = self.store, self.hub, self.config
        self._load()
        store.begin()
        self.ranks.barrier()
        hub.send(started("reward_model", store, conversations=0, turns=0, rounds=config.epochs, resumed=store.last))
        hub.notes(store.notes, "warning")
        hub.notes([*self.told, *self.material.notes, *self.learner.notes])
        self._go_on()
        if not store.last:
            self._measured(0, {})
        for epoch in range(store.last + 1, config.epochs + 1):
            hub.send(RoundStarted(round=epoch, rounds=config.epochs, learner=SEAT, policy_version=self.learner.version))
            try:
                trained = self._updated(epoch)
            except Stopped:
                return stopped(hub, self.interrupts, store)
            self._measured(epoch, trained)
            self._saved(epoch)
            if self._stop():
                return stopped(hub, self.interrupts, store)
        return finished(hub, store, self.ranks.same(self._result() if self.ranks.rank == 0 else {}))

    def _stop(self) -> bool:
        """Whether a signal came to any process; asked by all of them at the same places."""
        return self.ranks.agree(self.interrupts.stop())

    # -- the model and its rows -------------------------------------------------------------------------------------------

    def _load(self) -> None:
        """The model, its rows as tokens, and what measures it. Raises ConfigError where no row fits into the model."""
        import torch

        from expertchat.backends import threads
        from expertchat.backends.hardware import usable_cores
        from expertchat.reward_models.learners import make_learner
        from expertchat.reward_models.update import RewardUpdate, row_of

        config, material = self.config, self.material
        torch.set_num_threads(1 if config.path.startswith("embedded:") else usable_cores())
        began, what = time.monotonic(), f"{shown_path(config.path)}, to learn"
        self.hub.send(Loading(what=what))
        with self.interrupts.at_once() if self.ranks.world == 1 else nullcontext():  # several processes stop together
            self.learner = make_learner(config, material.facts(config))
            judge = self.learner.judge
            rows = [([judge.row(request) for request in one.requests], one.value) for one in material.examples]
        threads.follow_for([judge.model])
        self.hub.send(Loading(what=what, done=True, seconds=time.monotonic() - began))
        fitting = [row_of(tokens, value) for tokens, value in rows if all(tokens)]  # type: ignore[arg-type]
        if not fitting:
            raise ConfigError(
                f"all {len(rows)} rows are too long: no text fits into the {judge.limit} tokens that the model takes; shorten the texts, "
                "raise train.max_tokens, or name another model"
            )
        if lost := len(rows) - len(fitting):
            self.learner.notes.append(f"{lost} of {len(rows)} rows are too long for the {judge.limit} tokens of the model: left out")
        self.updater = RewardUpdate(
            self.learner, config, fitting, folder=self.store.folder / "rounds", on_step=self._step, stop=self._stop,
            ranks=self.ranks,
        )  # fmt: skip
        self.measure: Measure | TypedMeasure = (
            TypedMeasure(config, material.held_out) if config.kind == TYPES
            else Measure(config, material.held_out, material.truth, material.people, material.scale)
        )  # fmt: skip

    def _step(self, round: int, step: int, steps: int, loss: float) -> None:
        self.hub.send(StepFinished(round=round, step=step, steps=steps, loss=loss))

    def _go_on(self) -> None:
        """Take over the last whole checkpoint."""
        if not (last := self.store.last):
            return
        state, place = self.store.state(last), self.store.place(last)
        self.learner.load(place / MODEL)
        self.updater.load(place / OPTIMIZER)
        self.learner.version = state["versions"][SEAT]
        self.best = (int(state["best"]["round"]), dict(state["best"]["figures"]))

    # -- an epoch -----------------------------------------------------------------------------------------------------------

    def _phase(self, epoch: int, phase: Any) -> None:
        self.hub.send(PhaseStarted(round=epoch, phase=phase))
        self._began = time.monotonic()

    def _ended(self, phase: str) -> None:
        self.seconds[phase] = time.monotonic() - self._began

    def _updated(self, epoch: int) -> dict[str, Figure]:
        """A pass over the rows. Raises ConfigError where no step could be made."""
        self.seconds = {}
        self._phase(epoch, "updating")
        updated = self.updater.update(Rows(()), epoch)
        self._ended("updating")
        if not updated.steps:
            raise ConfigError(
                f"epoch {epoch}: the loss or the gradient of all {updated.skipped} steps is not finite, and none was made; lower "
                "train.learning_rate, or set model.dtype=fp32, in a new run"
            )
        return {f"train_{name}": value for name, value in updated.all_figures().items() if name not in ("too_long", "surplus")}

    def _measured(self, epoch: int, trained: dict[str, Figure]) -> None:
        """The figures on what is held out; those of epoch 0 are of the head as it was drawn."""
        self._phase(epoch, "evaluating")
        figures = self.measure.figures(self._said(self.learner.judge)) | trained
        self._ended("evaluating")
        metrics = Metrics(
            id=f"epoch-{epoch:04d}", kind="evaluation", round=epoch, learner=SEAT, policy_version=self.learner.version, figures=figures
        )
        self.store.keep(metrics)
        self.hub.send(Measured(metrics=metrics))
        if epoch and better(figures, self.best[1] if self.best else None):
            self.best = (epoch, figures)

    def _said(self, judge: Any) -> list[Opinion]:
        return opinions_of(judge, self.measure.items)

    def _saved(self, epoch: int) -> None:
        assert self.best is not None

        def write(folder: Path) -> None:
            (folder / MODEL).mkdir(exist_ok=True)
            self.learner.save(folder / MODEL)
            self.updater.save(folder / OPTIMIZER)

        self._phase(epoch, "saving")
        best = {"round": self.best[0], "figures": self.best[1]}
        state = {"versions": {SEAT: self.learner.version}, "best": best, "ended": None}
        keep = [self.best[0], *range(epoch - self.config.keep_rounds + 1, epoch + 1)]
        self.store.checkpoint(epoch, state, write, keep)
        self.ranks.barrier()
        self._ended("saving")
        self.hub.send(RoundFinished(round=epoch, seconds=dict(self.seconds)))

    # -- the result ---------------------------------------------------------------------------------------------------------

    def _result(self) -> dict[str, object]:
        """Write the best epoch's model, load it as any judge is loaded, and keep what it says of what is held out."""
        from expertchat.backends.reward_model import OF_TYPE, RewardModel

        assert self.best is not None
        store, config = self.store, self.config
        drawn = store.metrics["epoch-0000"].figures
        if not better(self.best[1], drawn):
            what = "names more types" if config.kind == TYPES else "orders more pairs"
            self.hub.notes([f"no epoch {what} rightly than the head did as it was drawn: take more rows or epochs"], "warning")
        with store.writing():
            _write_result(store.place(self.best[0]) / MODEL, store.folder / MODEL, config)
        settings = RewardModelConfig(
            path=str(store.folder), models_dir=config.model.models_dir, device=config.model.device,
            dtype=config.model.dtype, batch_size=max(8, config.train.micro_batch), label=OF_TYPE if config.kind == TYPES else None,
        )  # fmt: skip
        opinions = self._said(RewardModel.load(settings))
        store.keep_said(self.measure.items, judge_ref(config, shown_path(str(store.folder))), opinions)
        summary = summarise(store.folder, config, self.best[0], self.measure.figures(opinions), self.material.counts, self.material.target)
        with store.writing():
            replace(store.folder / MODEL / "README.md", card_of(config, summary, list(store.metrics.values())))
        return summary


def _write_result(source: Path, target: Path, config: RewardModelTraining) -> None:
    """The best epoch's folder as the run's model: as it is, or an adapter worked into its base."""
    from expertchat.backends.reward_folders import is_adapter, numbers_of

    plain = config.model.quantization == "none"
    small = plain and is_adapter(source) and numbers_of(source, config.model.models_dir) < WHOLE_BELOW
    if not is_adapter(source) or config.merge == "never" or (config.merge == "auto" and not small):
        put(source, target)
        return
    from expertchat.reward_models.merging import merged

    work = target.with_name(f".{target.name}.merged")
    shutil.rmtree(work, ignore_errors=True)
    with saving(work):
        merged(source, work, config)
    put(work, target)
    shutil.rmtree(work, ignore_errors=True)
