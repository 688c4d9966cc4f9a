"""Training that is stopped, or whose folder a later start takes over, in any phase: nothing is lost, or made again."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from expertchat.backends.base import Embedding
from expertchat.config import ConfigError
from expertchat.events import (
    AnyEvent,
    ConversationJudged,
    ConversationStarted,
    Loading,
    Measured,
    Note,
    PhaseStarted,
    RoundFinished,
    RunFinished,
    StepFinished,
    TurnFinished,
)
from expertchat.folder import run_folder as run_folder
from expertchat.folder.lock import CLAIM, HEARTBEAT
from expertchat.folder.run import Hub
from expertchat.talk.cast import load_cast
from expertchat.talk.scheduler import Scheduler
from expertchat.training.online import run_online
from expertchat.training.update import Updater
from tests.scripted import BagOfWords, Collect, Double
from tests.test_online_dpo import Interrupter, adapters, config_of, content, difference
from tests.test_online_dpo import train as train_real

# One request at a time, so that the first dialogue of a round is done when the second one begins.
ONE = (
    "engine.max_batch=1", "train.batch=2", "train.micro_batch=1", "judging.analysis=false", "experts.a.decoding.reply.max_new_tokens=8",
)  # fmt: skip
When = Callable[[AnyEvent], bool]


def train(folder: Path, *overrides: str, sink: Any = None) -> tuple[int, Collect]:
    """A run whose learner is a real model, in a few words; its partner and the embedder are doubles (both real: test_online_dpo.py)."""
    sink = sink or Collect()
    config = config_of(f"run.dir={folder}", *overrides)
    learner = load_cast(config_of("model@experts.b=embedded_llama"), Hub(Collect()), None, BagOfWords()).backends["a"]
    backends = {"a": learner, "b": Double()}
    return run_online(config, ["expertchat", "online_dpo"], sink, backends=backends, embedder=BagOfWords()), sink


def phase(number: int, name: str) -> When:
    return lambda event: isinstance(event, PhaseStarted) and (event.round, event.phase) == (number, name)


PHASES: dict[str, When] = {
    "preparing": phase(0, "evaluating"),
    "talking": lambda event: isinstance(event, ConversationJudged) and event.conversation.startswith("r0002/"),
    "pairing": phase(2, "pairing"),
    "updating": lambda event: isinstance(event, StepFinished) and event.round == 2,
    "evaluating": phase(2, "evaluating"),
    "saving": phase(2, "saving"),
}
ALIKE = ("preparing", "pairing", "evaluating", "saving")  # stopped as talking and updating are


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unbroken") / "run"
    assert train(folder, *ONE)[0] == 0
    return folder


def same(folder: Path, unbroken: Path) -> None:
    """The run that was broken off is the one that was not: every record once, and the weights to the bit."""
    assert difference(content(folder), content(unbroken)) < 1e-6
    mine, theirs = adapters(folder), adapters(unbroken)
    assert mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)


# -- a signal -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", [pytest.param(name, marks=pytest.mark.slow) if name in ALIKE else name for name in PHASES])
def test_a_stop_loses_what_was_in_flight_alone(where: str, unbroken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, first, second = tmp_path / "run", Interrupter(PHASES[where]), Collect()
    answered = count_answers(monkeypatch)
    assert train(folder, *ONE, sink=first)[0] == 3
    histories = _lines(folder / "evaluations" / "base-a.jsonl")
    assert first.of(RunFinished)[-1].reason == "SIGUSR1" and not (folder / HEARTBEAT).exists()
    assert train(folder, *ONE, sink=second)[0] == 0
    same(folder, unbroken)
    done = {event.conversation for event in first.of(ConversationJudged)}
    again = {event.conversation for event in second.of(ConversationStarted)}
    assert not done & again
    every = {"r0001/c0000", "r0001/c0001", "r0002/c0000", "r0002/c0001"}
    assert again == every - done and {"preparing": 0, "talking": 3}.get(where, 4) == len(done)
    assert _lines(folder / "evaluations" / "base-a.jsonl")[: len(histories)] == histories  # no base's reply is made twice
    assert len({event.metrics.id for event in second.of(Measured)}) == 6  # two rounds, and evaluations of base, both and the end
    assert max(answered.values()) == 1, answered.most_common(3)  # no model is asked for anything twice
    told = events(folder)
    assert max(told.values()) == 1 and told == events(unbroken), told.most_common(3)
    assert not list(folder.glob("rounds/*/answers-*")) and not list(folder.glob("rounds/*/bundles-*"))


def count_answers(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each text and each score of options was given, by who was asked."""
    answered: Counter[str] = Counter()
    real = Scheduler._count

    def count(self: Scheduler, ask: Any, result: Any) -> None:
        if not isinstance(result, Embedding):
            answered[f"{ask.who} {type(result).__name__} {ask.request.key}"] += 1
        real(self, ask, result)

    monkeypatch.setattr(Scheduler, "_count", count)
    return answered


def events(folder: Path) -> Counter[str]:
    """What events.jsonl tells of dialogues, rounds and evaluations."""
    kinds = {"conversation_started", "turn_finished", "candidates_judged", "conversation_finished", "conversation_judged", "measured"}
    lines = [json.loads(line) for line in _lines(folder / "events.jsonl")]
    return Counter(
        f"{e['kind']} {e.get('conversation', e.get('metrics', {}).get('id'))} {e.get('index', e.get('turn', {}))}"
        for e in lines
        if e["kind"] in kinds
    )


@pytest.mark.slow
def test_within_a_dialogue_nothing_is_made_twice(unbroken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken off after a turn, among the judgements of its candidates."""
    answered = count_answers(monkeypatch)
    stop = Interrupter(lambda event: isinstance(event, TurnFinished) and event.conversation == "r0002/c0001" and event.index == 1)
    assert train(tmp_path / "run", *ONE, sink=stop)[0] == 3 and stop.sent
    assert train(tmp_path / "run", *ONE)[0] == 0
    assert max(answered.values()) == 1, answered.most_common(3)
    same(tmp_path / "run", unbroken)
    assert events(tmp_path / "run") == events(unbroken)


def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(
    unbroken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, answered = tmp_path / "run", count_answers(monkeypatch)
    stop = Interrupter(lambda event: isinstance(event, RoundFinished) and event.round == 2)
    assert train(folder, *ONE, "keep_rounds=2", sink=stop)[0] == 3
    broken = folder / "rounds" / "000002" / "optimizer.pt"
    broken.write_bytes(broken.read_bytes()[:1000])
    code, sink = train(folder, *ONE, "keep_rounds=2")
    notes = [event.text for event in sink.of(Note) if event.level == "warning"]
    assert code == 0 and any(note.startswith(f"{broken} has 1000 bytes, not the ") and "goes on from round 1" in note for note in notes)
    assert max(answered.values()) == 1, answered.most_common(3)  # round 2 is trained again, with what was said
    same(folder, unbroken)
    (folder / "summary.json").unlink()
    for place in (folder / "rounds").iterdir():
        (place / "DONE").write_text("1\n")  # as older versions wrote it: what is damaged shows when it is loaded
        (place / "optimizer.pt").write_bytes(b"")
        weights = place / "adapter" / "adapter_model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-7])
    with pytest.raises(ConfigError) as caught:
        train(folder, *ONE, "keep_rounds=2")
    (message,) = caught.value.problems
    assert "download" not in message and f"no checkpoint is whole; remove {folder / 'rounds'} and the run begins again" in message


def _lines(path: Path) -> list[str]:
    return path.read_text("utf-8").splitlines()


def test_a_stop_while_models_are_loaded_is_at_once(tmp_path: Path) -> None:
    sink = Interrupter(lambda event: isinstance(event, Loading))
    assert train_real(tmp_path / "run", sink=sink)[0] == 3
    assert len(sink.of(Loading)) == 1 and sink.of(RunFinished)[-1].reason == "SIGUSR1"
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_step_of_many_pairs_is_stopped_within(unbroken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step may be minutes of small batches: the stop is heard after each of these."""
    asked: list[int] = []
    real = Updater.__init__

    def init(self: Updater, *arguments: Any, **more: Any) -> None:
        stop = more["stop"]

        def counted() -> bool:
            asked.append(1)
            return bool(stop())

        real(self, *arguments, **{**more, "stop": counted})

    monkeypatch.setattr(Updater, "__init__", init)
    pairs = "pairs.mode=all"
    assert train(tmp_path / "run", "rounds=1", pairs, "train.batch=4", "train.micro_batch=1", "candidates.count=4")[0] == 0
    steps = json.loads((tmp_path / "run/metrics.jsonl").read_text("utf-8").splitlines()[1])["figures"]["steps"]
    assert steps >= 1 and len(asked) >= 4 * (steps - 1) + 1  # a whole step has four


# -- a later start of the same job --------------------------------------------------------------------------------------


class TakenOver(Collect):
    """A later start of the job claims the folder at an event; the run is not told before it has let go."""

    def __init__(self, folder: Path, when: When) -> None:
        super().__init__()
        self.folder, self.when, self.claimed = folder, when, False
        self.written: dict[str, bytes] = {}

    def send(self, event: AnyEvent) -> None:
        super().send(event)
        if self.claimed or not self.when(event):
            return
        self.claimed = True
        claim = {"host": "node7", "pid": 1, "time": time.time(), "token": "theirs", "job": "123", "restarts": 1}
        (self.folder / CLAIM).write_text(json.dumps(claim))
        end = time.monotonic() + 60
        while (self.folder / HEARTBEAT).exists():
            assert time.monotonic() < end, "it does not let go"
            time.sleep(0.005)
        self.written = _written(self.folder)


def _written(folder: Path) -> dict[str, bytes]:
    """The records and checkpoints."""
    kept = [path for path in folder.rglob("*") if path.is_file() and "evaluations" not in path.parts and not path.name.startswith(".")]
    return {str(path.relative_to(folder)): path.read_bytes() for path in kept}


@pytest.mark.slow
@pytest.mark.parametrize("where", ["talking", "updating", "saving"])
def test_an_orphan_writes_nothing_more_and_its_successor_goes_on(
    where: str, unbroken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    monkeypatch.setattr(run_folder, "BEAT_SECONDS", 0.01)
    monkeypatch.setenv("SLURM_JOB_ID", "123")
    orphan = TakenOver(folder, PHASES[where])
    assert train(folder, *ONE, sink=orphan)[0] == 1
    assert orphan.claimed
    assert orphan.of(RunFinished)[-1].reason.startswith(f"another start of job 123 has taken {folder} over (process 1 on node7 (job 123)")
    assert _written(folder) == orphan.written
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert train(folder, *ONE)[0] == 0
    same(folder, unbroken)
