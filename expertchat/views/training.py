"""What a training run looks like so far: its rounds with their figures, their evaluations, and what the running round is at."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from expertchat.events import AnyEvent, Measured, PhaseStarted, Progress, RoundFinished, RoundStarted, RunFinished, RunStarted, StepFinished
from expertchat.records import Figure, Metrics, Speaker
from expertchat.views.sides import TWO, Seats, seat_number

PHASES = ("talking", "candidates", "judging", "embedding", "pairing", "measuring", "updating", "evaluating", "saving")
"""What the seconds of a round are told of, in this order."""
KEPT = (
    "pairs", "ties", "equal", "nulls", "stale", "reward_mean", "margin", "kl", "length", "loss", "cut_rate", "rows", "token_accuracy",
    "accuracy", "implicit_margin", "groups", "flat", "lone", "spread",
)  # fmt: skip
"""Figures of a round that are shown. The others stay in metrics.jsonl, so that a view of a long run stays small."""
FAULT = "fault_"  # how the figures begin that count nulls by their kind: fault_wim_loop
LATELY = 5  # rounds from which the time that is left is guessed


def number(value: object) -> float | None:
    """A finite number, or None for everything else that a figure may hold."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return float(value) if math.isfinite(value) else None


def is_training(event: AnyEvent) -> bool:
    """Whether an event shows that its run goes in rounds."""
    match event:
        case RunStarted():
            return event.rounds > 0
        case RunFinished():
            return "rounds" in event.summary
    return isinstance(event, RoundStarted)


def is_final(metrics: Metrics) -> bool:
    """Whether an evaluation is that of the run's result, which need not be the policy of the last round."""
    return metrics.id.endswith("-final")


@dataclass
class Round:
    """One round, by its number; 0 stands for the base, before all rounds. `evaluations` are of the policies after it."""

    number: int
    learner: Speaker | None = None
    figures: dict[str, float] = field(default_factory=dict)
    evaluations: dict[Speaker, dict[str, Figure]] = field(default_factory=dict)
    seconds: float | None = None  # of the whole round
    phases: dict[str, float] = field(default_factory=dict)  # and of its phases
    done: bool = False

    def evaluated(self, name: str, learner: Speaker | None) -> float | None:
        """A figure of the evaluation of `learner` after this round, or None."""
        return number(self.evaluations.get(learner, {}).get(name)) if learner else None


Told = Round | Metrics


@dataclass
class Training:
    """The rounds of a run. `apply` takes one event; one that comes twice changes nothing."""

    total: int = 0
    conversations: int = 0  # of a round
    offline: bool = False  # one model learns from rows, and nobody talks
    seats: Seats = TWO
    rounds: dict[int, Round] = field(default_factory=dict)
    final: dict[Speaker, dict[str, Figure]] = field(default_factory=dict)  # evaluations of what the run gives in the end, by learner
    current: RoundStarted | None = None  # the running round, or the last one
    running: bool = False
    phase: PhaseStarted | None = None
    step: StepFinished | None = None
    progress: Progress | None = None  # of this phase
    version: int = 0  # changes with every figure
    _untold: list[Metrics] = field(default_factory=list)

    def apply(self, event: AnyEvent) -> list[Told]:
        """Take one event in; returns what can be told now: a finished round, then the evaluations after it."""
        match event:
            case RunStarted():
                self.total, self.conversations = max(self.total, event.rounds), event.conversations
                self.offline = event.rounds > 0 and not event.conversations
                self.running, self.phase, self.step, self.progress = False, None, None, None
            case RoundStarted():
                self.total = max(self.total, event.rounds)
                self._begin(event)
            case PhaseStarted():
                self.phase, self.step, self.progress = event, None, None
            case StepFinished() if self._is_of_now(event):
                self.step = event
            case Progress():
                self.progress = event
            case Measured():
                return self._measured(event.metrics)
            case RoundFinished():
                return self._finish(event)
            case RunFinished():
                self.running, self.phase, self.step = False, None, None
                return self._held()
        return []

    # -- what is shown ----------------------------------------------------------------------------------------------

    @property
    def finished(self) -> int:
        """The number of the last finished round."""
        return max((r.number for r in self.rounds.values() if r.done), default=0)

    def phase_done(self, judged: int) -> tuple[int, int, str]:
        """(how many, of how many, what) of the phase are done, `judged` dialogues among them; of 0 where that cannot be known."""
        match self.phase.phase if self.phase is not None else None:
            case "talking":
                told = self.progress.finished if self.progress is not None else 0  # with those of an earlier start, which nobody sees again
                return min(max(judged, told), self.conversations), self.conversations, "dialogues"
            case "updating" if self.step is not None:
                return self.step.step, self.step.steps, "steps"
            case "evaluating" if self.progress is not None:
                return self.progress.finished, self.progress.total, ""
        return 0, 0, ""

    def shown(self) -> list[Round]:
        """The rounds that have something to show, in order."""
        return sorted((r for r in self.rounds.values() if r.figures or r.evaluations or r.done), key=lambda r: r.number)

    def learners(self) -> list[Speaker]:
        """Who learns, as far as it was seen, in the order of the seats: more than one where the experts learn by turns."""
        seen: set[Speaker] = {r.learner for r in self.rounds.values() if r.learner is not None}
        return sorted(seen.union(*(r.evaluations for r in self.rounds.values())), key=lambda who: (seat_number(who, self.seats), who))

    def curve(self, name: str, learner: Speaker, evaluated: bool = False) -> list[float | None]:
        """A figure over the rounds of `learner`, or over those after which it was evaluated."""
        if evaluated:
            return [value for r in self.shown() if (value := r.evaluated(name, learner)) is not None]
        return [r.figures.get(name) for r in self.shown() if r.learner == learner and (r.figures or r.done)]

    def has(self, name: str) -> bool:
        """Whether any evaluation gave this figure."""
        return any(r.evaluated(name, learner) is not None for r in self.rounds.values() for learner in r.evaluations)

    def last_evaluation(self, learner: Speaker) -> dict[str, Figure] | None:
        """The evaluation at the end of the run, or the newest of a policy; the base's own is left out."""
        if learner in self.final:
            return self.final[learner]
        return next((r.evaluations[learner] for r in reversed(self.shown()) if r.number and learner in r.evaluations), None)

    def left(self) -> float | None:
        """Seconds that the rest of the run will take if its rounds take as long as the last ones; None while nobody can know."""
        lately = [r.seconds for r in self.shown() if r.seconds][-LATELY:]
        if not lately or not self.total:
            return None
        return sum(lately) / len(lately) * max(0, self.total - self.finished)

    # -- events -----------------------------------------------------------------------------------------------------

    def _round(self, at: int) -> Round:
        return self.rounds.setdefault(at, Round(at))

    def _begin(self, event: RoundStarted) -> None:
        self.current, self.running = event, True
        self.phase, self.step, self.progress = None, None, None
        before = self.rounds.get(event.round)  # one that was broken off begins anew, but is not evaluated twice
        self.rounds[event.round] = Round(event.round, event.learner, evaluations=before.evaluations if before is not None else {})
        self.version += 1

    def _is_of_now(self, event: StepFinished) -> bool:
        """Whether a step is one of the running update: a watcher may hear of it late."""
        updating = self.phase is not None and self.phase.phase == "updating"
        return updating and (self.current is None or event.round == self.current.round)

    def _measured(self, metrics: Metrics) -> list[Told]:
        self.version += 1
        about = self._round(metrics.round)
        if metrics.kind == "round":
            about.learner = metrics.learner
            names = (*KEPT, *(name for name in metrics.figures if name.startswith(FAULT)))
            about.figures = {name: value for name in names if (value := number(metrics.figures.get(name))) is not None}
            return []
        kept = self.final if is_final(metrics) else about.evaluations
        if kept.get(metrics.learner) == metrics.figures:
            return []
        kept[metrics.learner] = metrics.figures
        if self.running:  # its round is told first
            self._untold.append(metrics)
            return []
        return [metrics] if is_final(metrics) or metrics.round == 0 else []  # the others are of an earlier start and were told then

    def _finish(self, event: RoundFinished) -> list[Told]:
        self.version += 1
        ended = self._round(event.round)
        if ended.done:
            return []
        known = {name: value for name, value in event.seconds.items() if math.isfinite(value) and value >= 0}
        begun = self.current.time if self.current is not None and self.current.round == event.round else 0.0
        ended.phases, ended.done, self.running, self.phase = known, True, False, None
        ended.seconds = sum(known.values()) or (event.time - begun if 0 < begun <= event.time else None)
        return [ended, *self._held()]

    def _held(self) -> list[Told]:
        held, self._untold = self._untold, []
        return list(held)
