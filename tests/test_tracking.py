"""Trackers: each record once, across starts; nothing over a network; one that fails is dropped. What is not installed is skipped."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import socket
import sqlite3
import struct
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from expertchat.command.compose import compose
from expertchat.config import ConfigError, validate
from expertchat.events import AnyEvent, Measured, Note, RunFinished, RunStarted
from expertchat.folder.reader import RunReader
from expertchat.records import Figure, Metrics, Speaker
from expertchat.talk.config import ConverseConfig
from expertchat.trackers import tracking
from expertchat.trackers.beside import with_trackers
from expertchat.trackers.texts import Talk, Texts, told_of
from expertchat.trackers.tracking import PACKAGES, check_trackers, open_trackers
from expertchat.training.config import OnlineDpoConfig

NAMES = ("wandb", "trackio", "tensorboard")


@pytest.fixture(scope="module")
def config() -> OnlineDpoConfig:
    return validate(OnlineDpoConfig, compose("online_dpo"))


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith(("WANDB_", "TRACKIO_"))]:
        monkeypatch.delenv(name)

    def refuse(self: socket.socket, address: Any) -> None:
        if isinstance(address, tuple) and not str(address[0]).startswith("127.") and address[0] not in ("::1", "localhost"):
            raise AssertionError(f"a tracker wants to talk to {address}")
        return connect(self, address)

    connect = socket.socket.connect
    monkeypatch.setattr(socket.socket, "connect", refuse)


def metrics(kind: Any, round: int, learner: Speaker = "a", **figures: Figure) -> Metrics:
    return Metrics(id=f"{kind}-{round}-{learner}", kind=kind, round=round, learner=learner, policy_version=round, figures=figures)


class Kept:
    """A tracker that keeps what it is told; `fails` at that step."""

    def __init__(self, folder: Path, title: str, number: str, config: OnlineDpoConfig) -> None:
        self.title, self.number, self.told = title, number, list[tuple[int, dict[str, float]]]()
        self.closed = False
        self.texts = list[str]()
        KEPT.append(self)

    def log(self, step: int, values: dict[str, float]) -> None:
        if step == FAILS[0]:
            raise OSError("the disk is full\nand more")
        self.told.append((step, values))

    def ended(self, step: int, values: dict[str, float]) -> None:
        self.told.append((step, values))

    def talks(self, step: int, told: Sequence[Talk]) -> None:
        self.texts += [f"{one.step} {one.id}: {len(one.turns)}" for one in told]

    def table(self, step: int, texts: Texts) -> None:
        self.texts.append(f"{texts.name} {len(texts.rows)}")

    def close(self) -> None:
        self.closed = True


KEPT: list[Kept] = []
FAILS = [-1]


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Kept]]:
    for name in NAMES:
        monkeypatch.setitem(tracking.OPEN, name, Kept)
        monkeypatch.setitem(PACKAGES, name, ("json",))
    FAILS[0] = -1
    yield KEPT
    KEPT.clear()


def test_figures_that_are_numbers(kept: list[Kept], config: OnlineDpoConfig, tmp_path: Path) -> None:
    found = open_trackers(["wandb"], tmp_path / "run", config, "wim")
    found.log(metrics("evaluation", 3, judge="truth", n=400, win_rate=0.7, ratio=float("inf"), kl=None))
    found.log(metrics("evaluation", 3, win_rate=0.6).model_copy(update={"id": "evaluation-a-0003-final"}))
    found.close()
    assert kept[0].told == [(3, {"evaluation/n": 400.0, "evaluation/win_rate": 0.7}), (3, {"final/win_rate": 0.6})]
    assert kept[0].title == "wim-run" and kept[0].closed


def test_two_learners_are_kept_apart(kept: list[Kept], config: OnlineDpoConfig, tmp_path: Path) -> None:
    found = open_trackers(["wandb"], tmp_path, config.model_copy(update={"learner": "both"}))
    found.log(metrics("round", 1, loss=0.5))
    found.log(metrics("round", 2, "b", loss=0.25))
    assert kept[0].told == [(1, {"round/a/loss": 0.5}), (2, {"round/b/loss": 0.25})]


def test_each_record_once_across_starts(kept: list[Kept], config: OnlineDpoConfig, tmp_path: Path) -> None:
    first, second, third = (metrics("round", i, loss=float(i)) for i in (1, 2, 3))
    before = open_trackers(["wandb"], tmp_path, config)
    before.log(first)
    before.log(first)
    # Killed: the second record is on disk, no tracker heard of it. The next start has one tracker more.
    (tmp_path / "metrics.jsonl").write_text(f"{first.to_json()}\n{second.to_json()}\n")
    after = open_trackers(["wandb", "trackio"], tmp_path, config)
    for record in (second, third):
        after.log(record)
    assert [[step for step, _ in one.told] for one in kept] == [[1], [2, 3], [1, 2, 3]]
    assert kept[0].number == kept[1].number != kept[2].number  # the same run to its tracker


def test_a_tracker_that_fails_is_dropped(kept: list[Kept], config: OnlineDpoConfig, tmp_path: Path) -> None:
    notes: list[Note] = []
    found = open_trackers(["wandb"], tmp_path, config, tell=notes.append)
    FAILS[0] = 2
    for i in (1, 2, 3):
        found.log(metrics("round", i, loss=float(i)))
    found.close()
    assert [step for step, _ in kept[0].told] == [1]
    assert [(note.text, note.level) for note in notes] == [
        ("wandb is left out from here on: the disk is full; metrics.jsonl has everything", "warning")
    ]


def test_one_that_cannot_be_opened_is_dropped(
    kept: list[Kept], config: OnlineDpoConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: Any) -> Any:
        raise RuntimeError

    notes: list[Note] = []
    monkeypatch.setitem(tracking.OPEN, "wandb", broken)
    found = open_trackers(["wandb", "trackio"], tmp_path, config, tell=notes.append)
    found.log(metrics("round", 1, loss=1.0))
    assert len(kept) == 1 and len(kept[0].told) == 1 and "RuntimeError" in notes[0].text


@pytest.mark.usefixtures("kept")
def test_one_whose_own_file_is_damaged_is_dropped(config: OnlineDpoConfig, tmp_path: Path) -> None:
    """It costs neither the run nor the view beside which it stands."""
    notes = list[str]()
    (tmp_path / "trackers").mkdir()
    (tmp_path / "trackers" / "wandb.jsonl").write_text('{"run": "1\n{"logged": "x"}\n')
    (tmp_path / "trackers" / "trackio.jsonl").mkdir()
    open_trackers(NAMES, tmp_path, config, tell=lambda note: notes.append(note.text)).close()
    assert len(notes) == 2 and "wandb is left out from here on: " in notes[0] and "line 1 is not a JSON object" in notes[0]
    assert notes[1].startswith("trackio is left out from here on: cannot read ") and len(KEPT) == 1


def test_what_is_not_installed_is_one_message_for_each(config: OnlineDpoConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "PACKAGES", {name: ("no_such_package",) for name in NAMES})
    with pytest.raises(ConfigError) as caught:
        open_trackers(["wandb", "tensorboard", "wandb"], tmp_path, config)
    assert caught.value.problems == [
        "report_to: wandb is not installed: pip install 'expertchat[wandb]', or leave it out of report_to",
        "report_to: tensorboard is not installed: pip install 'expertchat[tensorboard]', or leave it out of report_to",
    ]
    check_trackers([])
    open_trackers([], tmp_path, config).close()
    assert list(tmp_path.iterdir()) == []


EARLIER = Path(__file__).parent / "earlier"


def said(run: Path, file: str, *lines: dict[str, Any]) -> None:
    """Add lines to a file of a run."""
    run.mkdir(exist_ok=True)
    with (run / f"{file}.jsonl").open("a", encoding="utf-8") as out:
        out.write("".join(json.dumps(line) + "\n" for line in lines))


def talked(name: str, *texts: str) -> dict[str, Any]:
    turns = [{"speaker": "ab"[i % 2], "text": text} for i, text in enumerate(texts)]
    return {"id": name, "topic": "tides", "turns": turns, "experts": {"a": {"model": "m"}}, "stop_reason": "turns"}


def test_texts_are_told_once_across_starts(kept: list[Kept], config: OnlineDpoConfig, tmp_path: Path) -> None:
    run = tmp_path / "run"
    said(run, "transcripts", talked("r0001/c0000", "Hello.", "Yes \x1b[31m?"), talked("r0002/c0000", "Again."))
    said(run, "candidates", *({"id": f"k{i}", "round": 1, "speaker": "a", "text": f"reply {i}", "tokens": 2} for i in range(3)))
    said(run, "scores", {"id": "k0", "value": 0.5})
    said(run, "pairs", {"id": "k0-k1", "provenance": {"chosen": "k0", "rejected": "k1"}})
    before = open_trackers(["wandb"], run, config)
    before.end(RunReader(run), {"rounds": 2, "evaluation": {"n": 8, "win_rate": None, "judge": "truth"}})
    assert kept[0].texts == ["1 r0001/c0000: 2", "2 r0002/c0000: 1", "replies 3"] and kept[0].closed
    assert kept[0].told == [(0, {"summary/rounds": 2.0, "summary/evaluation/n": 8.0})]
    said(run, "transcripts", talked("r0003/c0000", "More."))
    after = open_trackers(["wandb"], run, config)
    after.end(RunReader(run))
    assert kept[1].texts == ["3 r0003/c0000: 1"] and kept[1].number == kept[0].number
    talks, (table,), _ = told_of(RunReader(run), {})
    assert talks[0].messages[1] == {"role": "assistant", "name": "b", "content": "b: Yes [31m?"}  # no escape reaches a terminal
    assert table.rows[:2] == [("k0", 1, "a", "reply 0", 2, 0.5, "chosen"), ("k1", 1, "a", "reply 1", 2, None, "rejected")]
    assert "| k0 | 1 | a | reply 0 | 2 | 0.5 | chosen |" in table.markdown()


def test_picks_and_posts_are_tables(tmp_path: Path) -> None:
    run = tmp_path / "run"
    said(run, "picks", {"id": "r0/0", "row": "r0", "order": ["base", "best"], "choice": "best", "mass": 0.9})
    said(run, "written", {"id": "s0000/a0", "language": "en", "persona": "", "topic": "cats", "text": "Two\nlines.", "fault": "near"})
    _, (picks, posts), known = told_of(RunReader(run), {})
    assert picks.rows == [("r0", "base, best", "best", 0.9, None)]
    assert posts.rows == [("s0000/a0", "en", "", "cats", "Two lines.", "near", None)] and known["picks"] == known["written"] == 1


class Shows:
    """A view that keeps what it is sent."""

    def __init__(self) -> None:
        self.events: list[AnyEvent] = []
        self.closed = False

    def send(self, event: AnyEvent) -> None:
        self.events.append(event)

    def close(self) -> None:
        self.closed = True


def test_trackers_stand_beside_a_view(kept: list[Kept], tmp_path: Path) -> None:
    run, view = tmp_path / "run", Shows()
    shutil.copytree(EARLIER / "talked", run)
    talk = validate(ConverseConfig, compose("converse", ["report_to=[trackio]"]))
    beside = with_trackers(talk, view)
    beside.send(RunStarted(command="converse", folder=str(run), conversations=2, turns=4))
    beside.send(Measured(metrics=metrics("round", 1, loss=0.5)))
    beside.send(RunFinished(status="done", summary={"conversations": 2}))
    beside.close()
    assert [event.kind for event in view.events] == ["run_started", "measured", "run_finished"] and view.closed
    assert kept[0].told == [(1, {"round/loss": 0.5}), (1, {"summary/conversations": 2.0})] and kept[0].closed
    assert len(kept[0].texts) == 1
    plain = validate(ConverseConfig, compose("converse"))
    assert with_trackers(plain, view) is view


# -- the packages themselves --------------------------------------------------------------------------------------------


def needs(name: str) -> None:
    if not any(importlib.util.find_spec(package) for package in PACKAGES[name]):
        pytest.skip(f"NOT TESTED: {name} is not installed (pip install 'expertchat[{name}]')")


def two_starts(name: str, config: OnlineDpoConfig, run: Path) -> None:
    """Three rounds and an evaluation in two starts of a run; nothing is dropped."""
    notes: list[Note] = []
    for rounds in ((0, 1), (2,)):
        found = open_trackers([name], run, config, "wim", notes.append)
        for i in rounds:
            found.log(metrics("round", i, loss=1.0 / (i + 1)))
        found.log(metrics("evaluation", rounds[-1], win_rate=0.5 + rounds[-1] / 10))
        found.end(RunReader(EARLIER / "talked"))
    assert notes == []


def scalars(folder: Path) -> list[tuple[str, int, float]]:
    """(tag, step, value) of the event files: records of length, its checksum, an event, its checksum."""
    package = "tensorboard.compat.proto" if importlib.util.find_spec("tensorboard") else "tensorboardX.proto"
    event, found = import_module(f"{package}.event_pb2").Event, []
    for file in sorted(folder.glob("events.*")):
        rest = file.read_bytes()
        while rest:
            (size,) = struct.unpack("<Q", rest[:8])
            one = event.FromString(rest[12 : 12 + size])
            rest = rest[16 + size :]
            for value in one.summary.value:
                if "config" not in value.tag and "transcripts" not in value.tag:
                    found.append((value.tag, one.step, value.simple_value or value.tensor.float_val[0]))
    return found


def test_tensorboard(config: OnlineDpoConfig, tmp_path: Path) -> None:
    needs("tensorboard")
    two_starts("tensorboard", config, tmp_path)
    found = sorted((tag, step, round(value, 4)) for tag, step, value in scalars(tmp_path / "trackers" / "tensorboard"))
    rates = [("evaluation/win_rate", 1, 0.6), ("evaluation/win_rate", 2, 0.7)]
    assert found == [*rates, ("round/loss", 0, 1.0), ("round/loss", 1, 0.5), ("round/loss", 2, 0.3333)]


def test_tensorboardx_in_its_place(config: OnlineDpoConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not importlib.util.find_spec("tensorboardX"):
        pytest.skip("NOT TESTED: tensorboardX is not installed")
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "tensorboard" else find(name))
    two_starts("tensorboard", config, tmp_path)
    assert len(scalars(tmp_path / "trackers" / "tensorboard")) == 5


def test_trackio(config: OnlineDpoConfig, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    needs("trackio")
    for name in ("one", "two"):  # two runs of one process, as in a sweep
        two_starts("trackio", config, tmp_path / name)
        with sqlite3.connect(tmp_path / name / "trackers" / "trackio" / "expertchat.db") as base:
            rows = base.execute("select run_name, step, metrics from metrics order by step").fetchall()
        assert len({run for run, _, _ in rows}) == 1 and rows[0][0].startswith(f"wim-{name}-")
        values = {(step, key): value for _, step, line in rows for key, value in json.loads(line).items()}
        assert values[1, "round/loss"] == 0.5 and values[2, "evaluation/win_rate"] == 0.7
        with sqlite3.connect(tmp_path / name / "trackers" / "trackio" / "expertchat.db") as base:
            ((kind, messages),) = base.execute("select key, messages from traces").fetchall()
        assert kind == "transcripts" and json.loads(messages)[0]["role"] == "user"
    assert capfd.readouterr().out == ""  # the screen belongs to the view


def test_wandb_is_offline(config: OnlineDpoConfig, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    needs("wandb")
    two_starts("wandb", config, tmp_path)
    starts = sorted(path.name for path in (tmp_path / "trackers" / "wandb").glob("offline-run-*"))
    numbers = [name.split("-")[3] for name in starts]
    assert len(numbers) == 2 and numbers[0] == numbers[1]  # two starts of one run
    assert all((tmp_path / "trackers" / "wandb" / name / f"run-{numbers[0]}.wandb").stat().st_size for name in starts)
    written = b"".join((tmp_path / "trackers" / "wandb" / name / f"run-{numbers[0]}.wandb").read_bytes() for name in starts)
    dialogues = [one.id for one in RunReader(EARLIER / "talked").transcripts()]
    assert b"wb_trace_tree" in written and all(name.encode() in written for name in dialogues)
    assert not {"WANDB_MODE", "WANDB_CACHE_DIR", "WANDB_DATA_DIR"} & set(os.environ)
    assert capfd.readouterr() == ("", "")
