"""What a disk, a user or another machine does to a run's folder: told in one message, nothing of others touched, and the run can go on."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from expertchat.backends.asking import Ask, Flow
from expertchat.backends.base import Completion, EmbedRequest, GenerateRequest, ScoreRequest, Scores
from expertchat.config import ConfigError
from expertchat.events import AnyEvent, ConversationFinished, TurnFinished
from expertchat.folder.jsonl import Log, read_lines
from expertchat.folder.lock import HEARTBEAT, LOCK, FolderLock, read_heartbeat
from expertchat.folder.writing import WriteError, replace, saving
from expertchat.preferences.candidates import Bundle
from expertchat.records import Answer, ExpertRef, Topic, Transcript, Turn
from expertchat.talk.journal import Journal
from expertchat.talk.scheduler import Scheduler
from expertchat.training.checkpoints import DONE, checkpoints, damage, write_checkpoint
from expertchat.training.folder import TrainingFolder
from tests.scripted import BagOfWords, Collect, Double, run
from tests.test_resume import PROPOSED, SMALL, contents
from tests.test_store import opened

# -- nothing that was generated is generated again ----------------------------------------------------------------------


class Stop(Collect):
    """Sends this process a SIGTERM at the n-th event of a kind."""

    def __init__(self, kind: type[Any], n: int) -> None:
        super().__init__()
        self.kind, self.n = kind, n

    def send(self, event: AnyEvent) -> None:
        super().send(event)
        if isinstance(event, self.kind) and len(self.of(self.kind)) == self.n:
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize("after", [1, 9, 40, 90])
def test_a_stop_at_any_answer_makes_no_answer_twice(tmp_path: Path, after: int) -> None:
    """Texts of both experts, ratings in both forms, and proposed topics: each is asked for once, whatever it was broken off in."""
    asked: Counter[str] = Counter()

    class Stopping(Double):
        def _seen(self, requests: Any) -> None:
            super()._seen(requests)
            asked.update(f"{type(one).__name__} {one.key}" for one in requests)
            if asked.total() - len(requests) < after <= asked.total():
                os.kill(os.getpid(), signal.SIGTERM)

    assert run(tmp_path / "run", *PROPOSED, double=Stopping()) == 3
    assert run(tmp_path / "run", *PROPOSED, double=Stopping()) == 0
    assert max(asked.values()) == 1 and run(tmp_path / "whole", *PROPOSED) == 0
    assert contents(tmp_path / "run") == contents(tmp_path / "whole")


def test_a_flow_goes_on_with_what_was_answered(tmp_path: Path) -> None:
    """A text, its options under the same key, and an embedding: of the last nothing is kept. Another policy is asked anew."""
    messages = ()

    def flow() -> Flow[Any]:
        text, scores = yield [Ask("a", GenerateRequest("k", messages, None), "a"), Ask("a", ScoreRequest("k", messages, (" A", " B")))]  # type: ignore[arg-type]
        (vector,) = yield [Ask("embedder", EmbedRequest("k", text.text))]
        found.append((text, scores, vector))

    def made(kept: list[Answer], version: str = "") -> tuple[Double, list[Answer]]:
        double, new = Double(lambda request: "Bees dance.", lambda request: (-0.5, -1.5)), list[Answer]()
        journal = Journal({one.id: one for one in kept}, new.append, version, tokens=True)
        Scheduler({"a": double, "embedder": BagOfWords()}).run([journal.over(flow())])
        return double, new

    found: list[Any] = []
    _, kept = made([])
    assert [one.id for one in kept] == ["k", "k:options"] and kept[1].logprobs == [-0.5, -1.5]
    assert all(Answer.model_validate_json(one.to_json()) == one for one in kept)
    again, new = made(kept)
    assert not again.requests and not new and found[0] == found[1]
    assert isinstance(found[0][0], Completion) and isinstance(found[0][1], Scores)
    other, new = made(kept, "another policy")
    assert len(other.requests) == 2 and {one.id.partition("@")[0] for one in new} == {"k", "k:options"} and "@" in new[0].id
    assert not made([*kept, *new], "another policy")[1]


# -- what is not ours ---------------------------------------------------------------------------------------------------


def test_files_that_are_not_the_runs_are_left_alone(tmp_path: Path) -> None:
    folder, far = tmp_path / "run", tmp_path / "thesis.txt"
    opened(folder).close()
    far.write_text("far away\n")
    (folder / "notes.jsonl").write_text("my notes\n")
    (folder / "extra.jsonl").symlink_to(far)
    opened(folder).close()
    assert (folder / "notes.jsonl").read_text() == "my notes\n" and far.read_text() == "far away\n"


@pytest.mark.parametrize("name", ["events.jsonl", "ratings.jsonl", "config.yaml", "summary.json", "live.json", ".lock", HEARTBEAT])
def test_a_link_in_the_place_of_a_runs_file_is_refused(tmp_path: Path, name: str) -> None:
    folder, far = tmp_path / "run", tmp_path / "far"
    opened(folder).close()
    (folder / name).unlink(missing_ok=True)
    far.write_text("far away\n")
    (folder / name).symlink_to(far)
    with pytest.raises(ConfigError, match=rf"holds links where the run's own files belong \({name} -> .*far\)"):
        opened(folder)
    assert far.read_text() == "far away\n" and (folder / name).is_symlink()


def test_a_run_folder_may_be_a_link_itself(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "run").symlink_to(tmp_path / "disk")
    assert run(tmp_path / "run", "conversation.count=1", "conversation.turns=1") == 0
    assert (tmp_path / "disk/summary.json").exists()


def test_no_file_of_a_run_is_opened_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").symlink_to(tmp_path / "far")
    with pytest.raises(OSError, match="symbolic links"):
        Log(tmp_path / "x.jsonl")
    assert not (tmp_path / "far").exists()


# -- a folder that goes away, a clock that is wrong ---------------------------------------------------------------------


def test_a_folder_that_was_removed_is_not_written_on(tmp_path: Path) -> None:
    class Remove(Stop):
        def send(self, event: AnyEvent) -> None:
            Collect.send(self, event)
            if isinstance(event, self.kind) and len(self.of(self.kind)) == self.n:
                shutil.rmtree(tmp_path / "run")

    sink, double = Remove(TurnFinished, 3), Double()
    assert run(tmp_path / "run", *SMALL, sink=sink, double=double) == 1
    assert "was removed while the run was writing it" in sink.events[-1].reason and len(sink.of(TurnFinished)) < 8  # type: ignore[union-attr]


def test_a_folder_that_was_moved_is_lost_at_the_next_beat(tmp_path: Path) -> None:
    held = FolderLock(_made(tmp_path / "run"), beat_seconds=0.01)
    (tmp_path / "run").rename(tmp_path / "elsewhere")
    end = time.monotonic() + 10
    while held.lost is None and time.monotonic() < end:
        time.sleep(0.01)
    assert held.lost is not None and "was removed or moved" in held.lost
    held.release()


def test_a_lock_file_that_was_tidied_away_is_made_again(tmp_path: Path) -> None:
    held = FolderLock(tmp_path, beat_seconds=0.01)
    (tmp_path / LOCK).unlink()
    end = time.monotonic() + 10
    while not (tmp_path / LOCK).exists() and time.monotonic() < end:
        time.sleep(0.01)
    time.sleep(0.05)
    with pytest.raises(ConfigError, match="is being written by another process"):  # else two would write
        FolderLock(tmp_path)
    held.release()


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def _ahead(folder: Path, **values: object) -> None:
    beat = {"host": "node7", "pid": 7, "time": time.time() + 90_000, "token": "theirs", "job": None, "restarts": None, **values}
    replace(folder / HEARTBEAT, json.dumps(beat))


def test_a_heartbeat_in_the_future_holds_a_folder_as_long_as_it_beats_alone(tmp_path: Path) -> None:
    _ahead(tmp_path)
    said: list[str] = []
    taken = FolderLock(tmp_path, 0.3, 0.02, say=said.append)
    assert "node7, whose clock is 90000 s ahead of this one" in said[0].replace("89999", "90000")
    assert taken.note is not None and "is gone" in taken.note and (read_heartbeat(tmp_path) or {})["token"] == taken.token
    taken.release()
    _ahead(tmp_path)
    with pytest.raises(ConfigError, match=r"is being written by another process \(process 7 on node7, whose clock is"):
        FolderLock(tmp_path, 300.0, 0.02, say=lambda text: _ahead(tmp_path, time=time.time() + 90_001))


# -- a full disk, and files that are damaged ----------------------------------------------------------------------------


def test_what_libraries_say_of_a_full_disk_is_one_message() -> None:
    torch = pytest.importorskip("torch")
    from safetensors import SafetensorError

    def safetensors() -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    def copied() -> None:
        raise shutil.Error([("a", "b", "[Errno 28] No space left on device")])

    full: list[tuple[Callable[[], object], str]] = [
        (lambda: torch.save({"a": torch.zeros(100_000)}, "/dev/full"), "cannot write adapter: "),
        (lambda: Path("/dev/full").write_text("x"), "cannot write adapter: No space left on device; what was written"),
        (safetensors, "cannot write adapter: Error while serializing: I/O error: No space left on device"),
        (copied, "cannot write adapter: .*No space left on device"),
    ]
    for write, words in full:
        with pytest.raises(WriteError, match=words), saving("adapter"):
            write()
    with pytest.raises(RuntimeError, match="of something else"), saving("adapter"):
        raise RuntimeError("of something else")


def _checkpoint(run: Path, number: int) -> Path:
    def write(folder: Path) -> None:
        (folder / "adapter").mkdir(exist_ok=True)
        (folder / "adapter" / "weights").write_bytes(bytes(range(100)))

    write_checkpoint(run, number, {"versions": {"a": number}, "best": {}, "ended": None}, write, [number - 1])
    return run / "rounds" / f"{number:06d}"


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(["adapter/weights", "state.json", DONE]), st.floats(0, 0.99), st.binary(min_size=1, max_size=4), st.booleans())
def test_a_damaged_checkpoint_is_known(tmp_path_factory: pytest.TempPathFactory, name: str, at: float, junk: bytes, torn: bool) -> None:
    run = tmp_path_factory.mktemp("damage")
    path = _checkpoint(run, 1) / name
    whole = path.read_bytes()
    assert damage(run, 1) is None and checkpoints(run) == [1]
    place = int(at * len(whole))
    path.write_bytes(whole[:place] if torn else whole[:place] + junk + whole[place + len(junk) :])
    if path.read_bytes() != whole and name != DONE:
        assert (damage(run, 1) or "").startswith(str(path))
    elif torn and name == DONE and path.read_bytes().strip() != whole.strip():
        assert str(path) in (damage(run, 1) or "")
    path.unlink()
    assert damage(run, 1) is not None
    shutil.rmtree(run)


def test_a_checkpoint_keeps_the_one_before_and_its_dialogues_alone(tmp_path: Path) -> None:
    for number in (1, 2, 3):
        folder = tmp_path / "rounds" / f"{number:06d}"
        folder.mkdir(parents=True)
        for name in ("answers-0.jsonl", "bundles-0.jsonl", "bundles-1.jsonl"):
            (folder / name).write_text("{}\n")
        _checkpoint(tmp_path, number)
    found = {path.relative_to(tmp_path / "rounds").as_posix() for path in (tmp_path / "rounds").rglob("*") if path.is_file()}
    kept = {"DONE", "state.json", "adapter/weights"}
    assert found == {f"000002/{n}" for n in kept} | {f"000003/{n}" for n in {*kept, "bundles-0.jsonl", "bundles-1.jsonl"}}


@pytest.mark.parametrize("left", [0, 1, None])
def test_records_of_a_round_that_is_done_are_missed(tmp_path: Path, left: int | None) -> None:
    """Nobody would write them again: a resumed run would end as done without them."""
    folder, path = tmp_path / "run", tmp_path / "run/topics.jsonl"
    book = TrainingFolder(folder, {"a": 1}, [])
    book.open()
    for n in range(3):
        book.keep(Topic(id=f"c000{n}", text="tides", source="list"))
    book.checkpoint(1, {"versions": {"a": 1}, "best": {}, "ended": None}, lambda place: None, [])
    book.close()
    again = TrainingFolder(folder, {"a": 1}, [])
    again.open()
    again.close()
    size, lines = path.stat().st_size, path.read_text("utf-8").splitlines(keepends=True)
    if left is None:
        path.unlink()
    else:
        path.write_text("".join(lines[:left]))
    with pytest.raises(ConfigError, match=rf"topics.jsonl has \d+ bytes, but {size} were written by the end of round 1: .*restore"):
        TrainingFolder(folder, {"a": 1}, []).open()


def test_records_of_two_rounds_whose_checkpoints_are_lost_are_not_written_twice(tmp_path: Path) -> None:
    def rounds(numbers: range) -> None:
        book = TrainingFolder(tmp_path / "run", {"a": 1}, [])
        book.open()
        for number in numbers:
            ref, name = ExpertRef(family="f", model="m"), f"r000{number}/c0000"
            turns = [Turn(speaker="a", text="Hi.")]
            talk = Transcript(id=name, topic="t", experts={"a": ref, "b": ref}, turns=turns, seed=0, stop_reason="turns")
            book.send(ConversationFinished(conversation=name, turns=1, stop_reason="turns"))
            book.keep_round([Bundle(id=name, transcript=talk, sampled=[])], [], [])
            book.checkpoint(number, {"versions": {"a": number}, "best": {}, "ended": None}, lambda place: None, [])
        book.close()

    rounds(range(1, 4))
    shutil.rmtree(tmp_path / "run/rounds")
    rounds(range(1, 5))
    for name, key in (("transcripts", "id"), ("events", "conversation")):
        assert [line[key] for _, line in read_lines(tmp_path / f"run/{name}.jsonl")] == [f"r000{n}/c0000" for n in range(1, 5)]


def test_a_folder_or_a_closed_file_in_the_place_of_records_is_one_message(tmp_path: Path) -> None:
    opened(tmp_path / "run").close()
    (tmp_path / "run/ratings.jsonl").unlink()
    (tmp_path / "run/ratings.jsonl").mkdir()
    with pytest.raises(ConfigError, match=r"cannot read .*ratings.jsonl: Is a directory; restore it"):
        opened(tmp_path / "run")
    path = tmp_path / "deep.jsonl"
    path.write_text("[" * 100_000 + "\n" + '{"a": 1}\n')
    with pytest.raises(ConfigError, match="line 1 is not a JSON object"):
        list(read_lines(path))
