"""Watching a run that was submitted: before it begins, when it is requeued, when its job is over; arrays; a real job."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from rich.console import Console

from expertchat.config import ConfigError
from expertchat.events import Note, RunFinished
from expertchat.views import watch as watching
from expertchat.views.desk import Desk
from expertchat.views.live import LiveView
from expertchat.views.watch import watch
from tests.cluster import Cluster, until
from tests.test_views_watch import Recorder, as_lines, run_folder
from tests.viewed import whole_run


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    sink = Recorder()
    monkeypatch.setattr(watching, "open_view", lambda view, **more: sink)
    return sink


class Seen:
    """What a queue says of a job, as views want it."""

    def __init__(self, words: str, alive: bool = True, waiting: bool = False) -> None:
        self.words, self.alive, self.waiting, self.out_of_memory = words, alive, waiting, "ran out of memory (16G asked for)"


class Jobs(dict[str, Seen]):
    note = ""


PENDING, REQUEUED = Seen("waits for its turn (Priority)", waiting=True), Seen("was requeued and waits", waiting=True)
RUNS, FAILED, OVER = Seen("runs, 0:12 of 1:00"), Seen("failed with exit code 2", alive=False), Seen("ended with exit code 0", alive=False)


def submission(folder: Path, job: str = "123", tasks: int | None = None, log: str = "", ago: float = 120.0) -> Path:
    place = folder / "submission"
    place.mkdir(parents=True, exist_ok=True)
    jobs = [{"job": job, "time": time.time() - ago}]
    (place / "submission.json").write_text(json.dumps({"schema": 1, "command": "converse", "tasks": tasks, "jobs": jobs}))
    if log:
        (place / f"slurm-{job}.out").write_text(log)
    return folder


class Story:
    """A queue that gives one answer after the other, and does what belongs to each before it is given."""

    def __init__(self, *steps: tuple[Seen | None, Callable[[], object] | None]) -> None:
        self.steps, self.asked, self.note = list(steps), [], ""  # type: ignore[var-annotated]
        self.last: Seen | None = None

    def __call__(self, jobs: Sequence[str]) -> Jobs:
        self.asked.append(list(jobs))
        if self.steps:
            self.last, act = self.steps.pop(0)
            if act is not None:
                act()
        answer = Jobs({jobs[0]: self.last} if self.last is not None else {})
        answer.note = self.note
        return answer


@pytest.fixture
def always_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """The queue is asked at every look, and nothing sleeps long."""
    monkeypatch.setattr("expertchat.views.desk.ASK_EVERY", 0.0)
    monkeypatch.setattr(watching, "POLL", 0.001)


def texts(recorder: Recorder) -> list[str]:
    return [event.text for event in recorder.events if isinstance(event, Note)]


@pytest.mark.usefixtures("always_asked")
def test_a_submitted_run_is_waited_for_and_followed(tmp_path: Path, recorder: Recorder) -> None:
    folder, events = submission(tmp_path / "run", log="staging llama3\n"), whole_run()
    story = Story((PENDING, None), (PENDING, None), (RUNS, None), (RUNS, lambda: run_folder(folder, events)))
    assert watch(folder, queue=story) == 0
    assert texts(recorder) == [
        "queued: job 123 waits for its turn (Priority), submitted 2 min ago",  # once, though it was asked twice
        "job 123 runs, 0:12 of 1:00, the run has not begun: staging llama3",
    ]
    assert [event for event in recorder.events if not isinstance(event, Note)] == events
    assert story.asked[0] == ["123"]


@pytest.mark.usefixtures("always_asked")
def test_a_job_that_fails_before_the_run_shows_why(tmp_path: Path, recorder: Recorder) -> None:
    log = "job: 2026-11-21 12:00:00 modules\n\x1b[1mmodule cuda/99 cannot be loaded\n"
    assert watch(submission(tmp_path, log=log), queue=Story((PENDING, None), (FAILED, None))) == 0
    assert texts(recorder)[1:] == [
        "the run did not begin: job 123 failed with exit code 2: [1mmodule cuda/99 cannot be loaded",
        "job: 2026-11-21 12:00:00 modules",
        "[1mmodule cuda/99 cannot be loaded",
    ]
    assert recorder.closed == 1


@pytest.mark.usefixtures("always_asked")
def test_a_job_that_the_queue_has_forgotten_is_over_but_a_silent_queue_is_waited_for(tmp_path: Path, recorder: Recorder) -> None:
    story = Story((None, None), (None, None), (None, lambda: setattr(story, "note", "")))
    story.note = "Slurm is not installed here"
    assert watch(submission(tmp_path), queue=story) == 0
    assert texts(recorder) == [
        "job 123 has not begun, submitted 2 min ago (Slurm is not installed here)",
        "the run did not begin: the queue knows nothing of job 123 any more",
    ]


@pytest.mark.usefixtures("always_asked")
def test_a_run_that_stopped_at_the_time_limit_is_followed_when_it_goes_on(tmp_path: Path, recorder: Recorder) -> None:
    first, second = whole_run(("c1",)), whole_run(("c2",))
    stopped = RunFinished(status="stopped", reason="SIGUSR1", time=time.time())
    folder = run_folder(submission(tmp_path / "run"), [*first[:-1], stopped])
    again = [second[0].model_copy(update={"time": time.time() + 1, "job": "123"}), *second[3:]]

    def go_on() -> None:
        with (folder / "events.jsonl").open("ab") as file:
            file.write(as_lines(again))

    assert watch(folder, queue=Story((RUNS, None), (REQUEUED, None), (REQUEUED, None), (RUNS, go_on))) == 0
    assert texts(recorder) == [
        "stopped at the time limit; job 123 runs, 0:12 of 1:00",
        "stopped at the time limit; job 123 was requeued and waits",
        "stopped at the time limit; job 123 runs, 0:12 of 1:00",
    ]
    assert [event for event in recorder.events if not isinstance(event, Note)] == [*first[:-1], *again]


@pytest.mark.usefixtures("always_asked")
def test_a_stopped_run_whose_job_is_over_has_ended(tmp_path: Path, recorder: Recorder) -> None:
    events = [*whole_run(("c1",))[:-1], RunFinished(status="stopped", reason="SIGTERM", time=time.time())]
    assert watch(run_folder(submission(tmp_path / "run"), events), queue=Story((RUNS, None), (OVER, None))) == 0
    assert recorder.events[-1] == events[-1]
    recorder.events.clear()
    assert watch(tmp_path / "run", follow=False, queue=Story((REQUEUED, None))) == 0  # one look does not wait
    assert recorder.events == events


@pytest.mark.usefixtures("always_asked")
def test_a_run_that_is_submitted_again_is_waited_for(tmp_path: Path, recorder: Recorder) -> None:
    """It failed, and was given to another job since."""
    events = [*whole_run(("c1",))[:-1], RunFinished(status="failed", reason="disk full", time=time.time() - 500)]
    folder = run_folder(submission(tmp_path / "run", "124", log="no such module\n"), events)
    assert watch(folder, queue=Story((PENDING, None), (FAILED, None))) == 0
    assert texts(recorder)[0] == "failed; job 124 waits for its turn (Priority)"
    assert recorder.events[-3] == events[-1]
    assert texts(recorder)[1:] == ["the run did not begin: job 124 failed with exit code 2: no such module", "no such module"]


@pytest.mark.usefixtures("always_asked")
def test_a_killed_run_ends_the_watch_when_its_job_is_over(tmp_path: Path, recorder: Recorder) -> None:
    folder = run_folder(submission(tmp_path / "run", log="slurmstepd: error: Exceeded job memory limit\n"), whole_run()[:8])
    (folder / "heartbeat.json").write_text(json.dumps({"host": "node7", "pid": 4711, "time": time.time() - 100}))
    assert watch(folder, queue=Story((REQUEUED, None), (FAILED, None))) == 0
    assert texts(recorder) == [
        "job 123 was requeued and waits",
        "the run has no end: job 123 ran out of memory (16G asked for). The same command goes on with the run.",
    ]


def test_the_queue_is_not_asked_while_the_run_writes(tmp_path: Path, recorder: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = run_folder(submission(tmp_path / "run"), whole_run()[:8])
    (folder / "heartbeat.json").write_text(json.dumps({"host": "node7", "pid": 4711, "time": time.time()}))
    looks = []

    def wait(_: float) -> None:
        looks.append(1)
        if len(looks) == 5:
            run_folder(folder, whole_run())

    monkeypatch.setattr("expertchat.views.watch.time.sleep", wait)
    story = Story()
    assert watch(folder, queue=story) == 0
    assert story.asked == [] and len(looks) == 5


def test_the_queue_is_asked_every_few_seconds_and_then_less(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("expertchat.views.desk.time.monotonic", lambda: now)
    story = Story((PENDING, None))
    desk = Desk(submission(tmp_path), story)
    for now in range(0, 300):  # noqa: B007
        assert desk.ask() is PENDING
    # every 5 s in the first 120 s: 0, 5, ..., 115 are 24; then after 30 s each: 145, 175, ..., 295 are 6
    assert len(story.asked) == 24 + 6


def test_an_array_lists_its_tasks_and_one_of_them_is_followed(
    tmp_path: Path, recorder: Recorder, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = submission(tmp_path / "my run", tasks=3)
    run_folder(folder / "task-0", whole_run())
    (folder / "task-0" / "summary.json").write_text("{}")
    story = lambda jobs: Jobs({job: PENDING for job in jobs if job != "123_0"})  # noqa: E731
    assert watch(folder, queue=story) == 0
    said = capsys.readouterr().out
    assert "is an array of 3 tasks (job 123)" in said and f"expertchat runs '{folder}'" in said
    assert f"  expertchat watch '{folder}/task-0'  done\n" in said
    assert f"  expertchat watch '{folder}/task-2'  waits for its turn (Priority)\n" in said
    asked = Story((PENDING, lambda: run_folder(folder / "task-2", whole_run())))
    assert watch(folder / "task-2", queue=asked) == 0  # its folder was not there yet
    assert asked.asked == [["123_2"]] and recorder.events[-1].kind == "run_finished"
    with pytest.raises(ConfigError, match="is no folder"):
        watch(folder / "task-3", queue=asked)


def test_without_a_queue_a_submitted_run_is_waited_for_by_its_files(tmp_path: Path, recorder: Recorder) -> None:
    folder = submission(tmp_path / "run")
    writer = threading.Timer(0.3, lambda: run_folder(folder, whole_run()))
    writer.start()
    assert watch(folder) == 0
    writer.join()
    assert texts(recorder) == ["job 123 has not begun, submitted 2 min ago"]
    assert recorder.events[1:] == whole_run()


def test_the_drawn_view_shows_what_is_waited_for_in_its_moving_part() -> None:
    console = Console(file=io.StringIO(), width=80, height=20, force_terminal=True)
    view = LiveView(console, threaded=False)
    view.waiting = "queued: job 123 waits for its turn (Priority), submitted 2 min ago"
    view.draw()
    assert "job 123 waits" in plain(view) and "starting" not in plain(view)
    for event in whole_run()[:6]:
        view.send(event)
    view.draw()
    assert plain(view).splitlines()[-1].endswith(view.waiting)  # below all that is drawn of the run
    view.close()


def plain(view: LiveView) -> str:
    return "\n".join("".join(segment.text for segment in line) for line in view._shown.lines)


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"jobs": 3, "tasks": -1}', b'{"jobs": [{"job": "1", "time": []}]}'])
def test_a_damaged_submission_is_none(tmp_path: Path, damage: bytes) -> None:
    folder = run_folder(submission(tmp_path / "run"), whole_run())
    (folder / "submission" / "submission.json").write_bytes(damage)
    assert watch(folder, view="none", queue=Story((PENDING, None))) == 0


def test_a_real_job_is_watched_from_the_queue_to_its_end(slurm: Cluster, tmp_path: Path) -> None:
    """Held, released, a run of the embedded default in it: the command's lines, from another shell of the login node."""
    folder = tmp_path / "run"
    (folder / "submission").mkdir(parents=True)
    script = tmp_path / "job.sh"
    script.write_text(f"#!/bin/bash\nexpertchat converse run.dir={folder} conversation.count=1 conversation.turns=2 view=plain\n")
    job = slurm.sbatch("--hold", "-c2", "--mem=2G", f"--output={folder}/submission/slurm-%j.out", str(script))
    submission(folder, job)
    out = (tmp_path / "out.txt").open("w+")
    command = slurm.line([sys.executable, "-m", "expertchat.cli", "watch", str(folder)])
    watcher = subprocess.Popen(command, stdout=out, stderr=out, env=slurm.environment)
    try:
        until(lambda: "is held" in (tmp_path / "out.txt").read_text(), 60, "the watcher to see the held job")
        slurm.run(["scontrol", "release", job])
        assert watcher.wait(180) == 0
    finally:
        watcher.kill()
        out.close()
    said = (tmp_path / "out.txt").read_text()
    assert f"queued: job {job} is held: scontrol release lets it go (JobHeldUser), submitted 2 min ago" in said
    assert "ExpertChat converse: 1 conversation of up to 2 turns" in said and "conversations: 1 of 1" in said
