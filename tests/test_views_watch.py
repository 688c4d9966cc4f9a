"""Watching a run folder: a growing file, torn lines, replaced files, silence, replay."""

from __future__ import annotations

import io
import json
import os
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from expertchat.config import ConfigError
from expertchat.events import TRANSIENT, AnyEvent, Note, RoundFinished, RoundStarted, RunFinished, StepFinished, TextStreamed
from expertchat.folder.following import EventTail, Heartbeat, LiveFile
from expertchat.folder.reader import RunReader
from expertchat.views import watch as watching
from expertchat.views.plain import PlainView
from expertchat.views.replay import timeline
from expertchat.views.watch import Watcher, watch
from tests.viewed import SAYS, began, said, start, training_run, whole_run


class Recorder:
    def __init__(self) -> None:
        self.events: list[AnyEvent] = []
        self.closed = 0

    def send(self, event: AnyEvent) -> None:
        self.events.append(event)

    def close(self) -> None:
        self.closed += 1


def as_lines(events: list[AnyEvent]) -> bytes:
    return b"".join(event.model_dump_json(by_alias=True).encode() + b"\n" for event in events)


def run_folder(path: Path, events: list[AnyEvent]) -> Path:
    path.mkdir(exist_ok=True)
    (path / "events.jsonl").write_bytes(as_lines(events))
    return path


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    sink = Recorder()
    monkeypatch.setattr(watching, "open_view", lambda view, **more: sink)
    return sink


# -- the tail -----------------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(1, 200), max_size=40))
def test_a_tail_gives_every_event_once_however_the_bytes_arrive(tmp_path_factory: pytest.TempPathFactory, sizes: list[int]) -> None:
    events = whole_run(("c1",))
    content = as_lines(events)
    path = tmp_path_factory.mktemp("tail") / "events.jsonl"
    tail, read = EventTail(path), []
    assert list(tail.poll()) == []  # not there yet
    for size in [*sizes, len(content)]:
        chunk, content = content[:size], content[size:]
        with path.open("ab") as file:
            file.write(chunk)
        read += tail.poll()
    assert read == events and tail.unreadable == 0


def test_a_torn_line_that_the_writer_cuts_off_is_never_seen(tmp_path: Path) -> None:
    events, path = whole_run(("c1",)), tmp_path / "events.jsonl"
    tail = EventTail(path)
    path.write_bytes(as_lines(events[:4]) + b'{"kind":"turn_fini')
    assert list(tail.poll()) == events[:4]
    path.write_bytes(as_lines(events[:5]))  # same inode: cut off and gone on
    assert list(tail.poll()) == events[4:5]


def test_a_replaced_or_emptied_file_gives_only_what_is_new(tmp_path: Path) -> None:
    events, path = whole_run(("c1",)), tmp_path / "events.jsonl"
    tail = EventTail(path)
    path.write_bytes(as_lines(events[:6]))
    assert list(tail.poll()) == events[:6]
    path.write_bytes(as_lines(events[:2]))
    assert list(tail.poll()) == []
    new = tmp_path / "new"
    new.write_bytes(as_lines(events))
    os.replace(new, path)
    assert list(tail.poll()) == events[6:]


def test_lines_that_are_no_events_are_counted_and_left_out(tmp_path: Path) -> None:
    events, path = whole_run(("c1",)), tmp_path / "events.jsonl"
    path.write_bytes(as_lines(events[:1]) + b'{"kind":"never_heard_of"}\n\xff\xfe\n\n[]\n' + as_lines(events[1:]))
    tail = EventTail(path)
    assert list(tail.poll()) == events
    assert tail.unreadable == 3


def test_a_file_of_many_blocks_is_read_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("expertchat.folder.following.CHUNK", 3000)
    events = whole_run(tuple(f"c{i}" for i in range(20)))
    tail = EventTail(run_folder(tmp_path, events) / "events.jsonl")
    assert list(tail.poll()) == events


def test_live_json_gives_changed_texts_and_progress_and_bears_anything(tmp_path: Path) -> None:
    path = tmp_path / "live.json"
    live = LiveFile(path)
    progress = {"finished": 1, "total": 2, "turns": 3, "tokens": 40, "seconds": 5.0, "kind": "progress"}

    def write(*turns: object) -> list[AnyEvent]:
        path.write_text(json.dumps({"turns": turns, "progress": progress, "time": time.time()}))
        return live.poll()

    one = {"conversation": "c1", "turn": 0, "speaker": "a", "text": "Hel", "new_key": 1}
    assert live.poll() == []
    assert [e.kind for e in write(one)] == ["text_streamed", "progress"]
    assert live.poll() == []  # nothing was written since
    assert write(one, {"conversation": 3}, "x", one | {"turn": 1, "speaker": "Q"}) == []
    progress["finished"] = 2
    assert [getattr(e, "text", "") for e in write(one | {"text": "Hello"})] == ["Hello", ""]
    for broken in ('{"turns": [', "[]", "\xff", '{"turns": 3, "progress": 4, "time": "x"}'):
        path.write_text(broken)
        assert live.poll() == []


def test_silence_is_measured_from_the_last_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("expertchat.folder.following.time.monotonic", lambda: now)
    monkeypatch.setattr("expertchat.folder.following.time.time", lambda: 5_000_000.0)
    path = tmp_path / "heartbeat.json"
    path.write_text('{"host": "h", "pid": 7, "time": 4999970.0}')
    heart = Heartbeat(path, tmp_path / "events.jsonl")
    assert heart.silence() == 30.0  # 5,000,000 - 4,999,970
    now = 1010.0
    assert heart.silence() == 40.0
    path.write_text('{"host": "h", "pid": 7, "time": 1.0}')  # another machine's clock may be far off: a change is a change
    assert heart.silence() == 0.0
    path.write_text('{"host": ')
    now = 1013.0
    assert heart.silence() == 3.0
    assert heart.writer == "the writer (process 7 on h)"


# -- following ----------------------------------------------------------------------------------------------------------


def test_a_run_is_followed_while_it_is_written_line_by_line(tmp_path: Path, recorder: Recorder) -> None:
    events = whole_run()
    (tmp_path / "heartbeat.json").write_text("{}")  # the events file is not there yet

    def write() -> None:
        with (tmp_path / "events.jsonl").open("ab", buffering=0) as file:
            for event in events:
                text = as_lines([event])
                file.write(text[:9])  # torn
                time.sleep(0.01)
                file.write(text[9:])
                if event.kind == "conversation_started":
                    turn = {"conversation": event.conversation, "turn": 0, "speaker": "a", "text": "half a sen"}
                    (tmp_path / "live.json").write_text(json.dumps({"turns": [turn], "progress": {}, "time": 1.0}))
                    time.sleep(0.3)

    writer = threading.Thread(target=write)
    writer.start()
    assert watch(tmp_path) == 0
    writer.join()
    kept = [e for e in recorder.events if e.kind != "text_streamed"]
    assert kept == events
    assert [e.text for e in recorder.events if isinstance(e, TextStreamed)] == ["half a sen"] * 2
    assert recorder.closed == 1


def test_a_stopped_run_that_went_on_is_one_run(tmp_path: Path, recorder: Recorder) -> None:
    first, second = whole_run(("c1",)), whole_run(("c2",))
    stopped = RunFinished(status="stopped", time=150.0)
    again = second[0].model_copy(update={"time": 200.0})
    run_folder(tmp_path, [*first[:-1], stopped, again, *second[3:]])
    assert watch(tmp_path) == 0
    assert [e.status for e in recorder.events if isinstance(e, RunFinished)] == ["done"]


def test_a_killed_run_says_that_its_writer_is_silent(tmp_path: Path) -> None:
    folder = run_folder(tmp_path, whole_run()[:8])
    (folder / "heartbeat.json").write_text(json.dumps({"host": "node7", "pid": 4711, "time": time.time() - 100}))
    out = io.StringIO()
    watcher = Watcher(PlainView(out), RunReader(folder))
    waits = []

    def wait(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 5:
            (folder / "heartbeat.json").write_text(json.dumps({"host": "node7", "pid": 4712, "time": time.time()}))
        if len(waits) == 7:
            (folder / "events.jsonl").write_bytes(as_lines(whole_run()))

    watcher._sleep = wait
    watcher.follow()
    assert out.getvalue().count("the writer (process 4711 on node7) has been silent for 1:40") == 1
    assert out.getvalue().count("the writer is back") == 1
    assert out.getvalue().rstrip().endswith("expertchat watch runs/r")


def test_one_look_does_not_wait_and_says_that_nobody_writes(tmp_path: Path, recorder: Recorder) -> None:
    folder = run_folder(tmp_path, whole_run()[:8])
    os.utime(folder / "events.jsonl", (time.time() - 60, time.time() - 60))
    begun = time.monotonic()
    assert watch(folder, follow=False) == 0
    assert time.monotonic() - begun < 20
    assert recorder.events[:8] == whole_run()[:8]
    assert isinstance(recorder.events[-1], Note) and "the writer has been silent for 1:00" in recorder.events[-1].text


def test_ctrl_c_closes_the_view(tmp_path: Path, recorder: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("expertchat.views.watch.time.sleep", interrupt)
    assert watch(run_folder(tmp_path, whole_run()[:8])) == 0
    assert recorder.closed == 1


# -- one conversation, replay ---------------------------------------------------------------------------------------------


def test_one_conversation_is_picked(tmp_path: Path, recorder: Recorder) -> None:
    assert watch(run_folder(tmp_path, whole_run()), conversation="c0002") == 0
    about = {getattr(e, "conversation", None) for e in recorder.events} - {None}
    judged = {e.rating.transcript for e in recorder.events if e.kind == "rating_given"}
    assert about == judged == {"c0002"}
    assert not any(isinstance(e, RunFinished) for e in recorder.events)


def test_a_picked_conversation_ends_the_watch_when_it_is_judged(tmp_path: Path, recorder: Recorder) -> None:
    assert watch(run_folder(tmp_path, whole_run()[:-1]), conversation="c0001") == 0  # the run itself goes on


@pytest.mark.parametrize(
    ("make", "more", "message"),
    [
        (lambda p: p / "nope", {}, "is no folder"),
        (lambda p: p, {}, "is not a run"),
        (lambda p: run_folder(p, whole_run()), {"conversation": "c9"}, "no conversation 'c9'; there are c0001, c0002"),
        (lambda p: run_folder(p, []), {"conversation": "c9"}, "there is none yet"),
        (lambda p: run_folder(p, []), {"speed": 0.0}, "speed is 0.0"),
    ],
)
def test_what_cannot_be_watched_is_said_in_one_message(tmp_path: Path, make, more: dict, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ConfigError) as error:
        watch(make(tmp_path), **more)
    assert message in str(error.value)


def test_a_replay_keeps_the_pace_and_writes_turns_word_by_word() -> None:
    # the turn took 2 s and ended at 104: 2 s x 6 steps/s = 12 texts, the last of which is the turn itself
    events = [start(time=100.0), began("c1").model_copy(update={"time": 101.0}), said("c1", 0, SAYS[1]).model_copy(update={"time": 104.0})]
    timed = list(timeline(events))
    assert [at for at, e in timed if e in events] == [0.0, 1.0, 4.0]
    texts = [(at, e.text) for at, e in timed if isinstance(e, TextStreamed)]
    assert len(texts) == 11
    assert 2.0 < texts[0][0] < texts[-1][0] < 4.0
    assert all(SAYS[1].startswith(text) for _, text in texts)
    assert [len(t) for _, t in texts] == sorted(len(t) for _, t in texts)


def test_a_turn_does_not_begin_before_the_one_before_it_ended() -> None:
    # both turns say that they took 2 s, but the second ended 1 s after the first
    at = [100.0, 103.0, 104.0]
    events = [began("c1"), said("c1", 0, SAYS[1]), said("c1", 1, SAYS[1])]
    timed = list(timeline([event.model_copy(update={"time": time}) for event, time in zip(events, at, strict=True)]))
    assert min(when for when, e in timed if isinstance(e, TextStreamed) and e.turn == 1) >= 3.0


def test_a_night_between_two_events_is_not_waited_for() -> None:
    events = [start(time=100.0), began("c1").model_copy(update={"time": 40_000.0}), start(resumed=1, time=90_000.0)]
    assert [at for at, _ in timeline(events)] == [0.0, 5.0, 5.0]  # gaps are cut to 5 s, those before a new start to nothing


def test_speed_divides_the_waiting(tmp_path: Path, recorder: Recorder) -> None:
    events = whole_run(("c1",))  # 19 events, one second apart
    begun = time.monotonic()
    assert watch(run_folder(tmp_path, events), speed=36.0) == 0
    assert 0.4 < time.monotonic() - begun < 15  # 18 s / 36 = 0.5 s
    assert [e for e in recorder.events if e.kind != "text_streamed"] == events


# -- a training run -------------------------------------------------------------------------------------------------------


def kept(events: Iterable[AnyEvent]) -> list[AnyEvent]:
    """Those that a run writes down."""
    return [event for event in events if event.kind not in TRANSIENT]


def test_a_training_run_is_watched_as_it_was_seen(tmp_path: Path, recorder: Recorder) -> None:
    events = kept(training_run(rounds=4, every=2))
    assert watch(run_folder(tmp_path, events)) == 0
    assert recorder.events == events


def test_one_dialogue_of_a_training_run_is_shown_with_its_candidates(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = run_folder(tmp_path, kept(training_run(rounds=3, every=1)))
    assert watch(folder, view="plain", conversation="r0002/c0003") == 0
    lines = capsys.readouterr().out.split("\n")
    told = [line for line in lines if line.startswith("[r0002/c0003 volcanoes]")]
    assert sum("candidate 1 of 4 by A" in line for line in told) == 3  # A has turns 1, 3 and 5
    assert sum("the dialogue went on with it" in line for line in told) == 3
    assert not any(line.startswith(("round", "evaluation")) or "c0001" in line for line in lines)


def test_the_step_of_the_update_comes_from_live_json(tmp_path: Path) -> None:
    path = tmp_path / "live.json"
    path.write_text(json.dumps({"time": 9.0, "turns": [], "progress": None, "step": {"round": 3, "step": 2, "steps": 8, "loss": 0.5}}))
    live = LiveFile(path)
    assert live.poll() == [StepFinished(time=9.0, round=3, step=2, steps=8, loss=0.5)]
    path.write_text(json.dumps({"time": 10.0, "turns": [], "step": {"round": "x"}, "progress": 7}))
    assert live.poll() == []


def test_a_replay_holds_no_more_than_a_round(tmp_path: Path) -> None:
    """A round of two dialogues is kept in 29 events: begin 1, phases 4, dialogues 2 x (1 + 5 + 3 + 2), figures 1, end 1."""
    read = 0

    def counting() -> Iterator[AnyEvent]:
        nonlocal read
        for event in kept(training_run(rounds=50, conversations=2, every=0)):
            read += 1
            yield event

    ahead, given = 0, 0
    for _, event in timeline(counting()):
        given += not isinstance(event, TextStreamed)
        ahead = max(ahead, read - given)
    assert ahead == 29  # a whole round, and the beginning of the next less the event that was given
    timed = list(timeline(training_run(rounds=5, conversations=2)))
    assert [at for at, _ in timed] == sorted(at for at, _ in timed)
    about = [event.round for _, event in timed if isinstance(event, RoundStarted | RoundFinished)]
    assert about == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5]


def test_what_is_kept_of_a_long_run_is_small(tmp_path: Path) -> None:
    """2,000 conversations: nothing of a dialogue stays in the view, eight bytes a line in the tail."""
    folder = run_folder(tmp_path, kept(training_run(rounds=500, conversations=4, every=0)))
    out = io.StringIO()
    view = PlainView(out)
    watcher = Watcher(view, RunReader(folder))
    assert watcher.show(watcher.tail.poll())
    assert watcher.over and out.getvalue().count("\nround ") == 500
    assert view.state.conversations == {} and len(view.state.judged) <= 4
    assert watcher.tail._given.itemsize == 8 and not watcher.tail._again


@pytest.mark.parametrize(
    ("last", "ended"),
    [([], False), ([RunFinished(status="stopped")], True), ([RunFinished(status="stopped"), start()], False)],
)
def test_whether_a_run_has_ended(tmp_path: Path, last: list[AnyEvent], ended: bool) -> None:
    assert not RunReader(tmp_path / "nothing").ends().end
    path = run_folder(tmp_path, [*whole_run()[:-1], *last, Note(text='"run_finished"')]) / "events.jsonl"
    with path.open("ab") as file:
        file.write(b'{"kind":"run_fini')
    assert bool(RunReader(path.parent).ends().end) is ended
