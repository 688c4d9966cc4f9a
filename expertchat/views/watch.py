"""`watch`: a run from another terminal or machine. It reads the run folder's files, and asks the queue where they are silent."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path

from expertchat.config import ConfigError
from expertchat.events import (
    AnyEvent,
    ConversationJudged,
    ConversationStarted,
    GuessGiven,
    Measured,
    Note,
    PhaseStarted,
    RatingGiven,
    RewardGiven,
    RoundFinished,
    RoundStarted,
    RunFinished,
    RunStarted,
    Sink,
    StepFinished,
    WimGiven,
)
from expertchat.folder.lock import BEAT_SECONDS
from expertchat.folder.reader import MARKS, RunReader
from expertchat.text.in_words import stopped_by
from expertchat.text.sentences import clean
from expertchat.views.desk import Desk, Queue, tasks_in_words
from expertchat.views.live import LiveView
from expertchat.views.open import open_choosing, open_judging, open_rewards, open_serving, open_view
from expertchat.views.replay import timeline
from expertchat.views.words import clock

POLL = 0.125  # seconds between two looks at the files
SILENT_AFTER = 15.0  # seconds without a sign of life after which the writer is called silent
LISTED = 20
ROUNDS = (RoundStarted, PhaseStarted, StepFinished, Measured, RoundFinished)  # not of a single conversation


def watch(
    folder: Path | str,
    speed: float | None = None,
    conversation: str | None = None,
    view: str = "live",
    follow: bool = True,
    queue: Queue | None = None,
    thinking: bool = False,
) -> int:
    """Show a run: what is recorded at once (or at `speed` times its pace), then, with `follow`, what comes until the run ends.

    A submitted run is waited for, and one that stopped at its time limit while its job goes on; `queue` says what becomes of jobs.
    `conversation` picks one; `thinking` shows what the experts thought. Returns 0, also when the user leaves with Ctrl-C. Raises
    ConfigError for a folder that is no run, an unknown conversation, a speed that is not positive.
    """
    run = RunReader(Path(folder))
    desk = Desk(run.folder, queue)
    _check(run.folder, speed, desk)
    if desk.submission is not None and desk.task is None and desk.submission.tasks is not None:
        _say_tasks(desk)
        return 0
    picked = _pick(run.tail().poll(), conversation, run.folder) if conversation is not None else None
    whole = picked is not None or (speed is None and bool(run.ends().end))
    own = [
        (run.judges_only, open_judging), (run.chooses, open_choosing), (run.makes_judge, open_rewards), (run.serves, open_serving),
    ]  # fmt: skip
    opens = next((opens for is_one, opens in own if is_one), None)
    sink = opens(view) if opens is not None else open_view(view, everything=whole, show_thinking=thinking)
    watcher = Watcher(sink, run, picked, desk)
    try:
        watcher.show(watcher.tail.poll(), speed, follow)
        if follow and not watcher.over:
            watcher.follow()
        elif not watcher.over:
            watcher.look()
            if not watcher.wait_for_begin():
                watcher.say_if_silent()
        watcher.say_unreadable()
    except KeyboardInterrupt:
        pass
    except BrokenPipeError:  # the reader of our output left; keep Python from complaining about it at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    finally:
        sink.close()
    return 0


class Watcher:
    """One look at one run. The last RunFinished is held back until nothing follows it: a stopped run may have gone on."""

    def __init__(self, sink: Sink, run: RunReader, picked: str | None = None, desk: Desk | None = None) -> None:
        self.sink, self.picked = sink, picked
        self.desk = desk or Desk(run.folder)
        self.tail, self.live, self.heartbeat = run.tail(), run.live(), run.heartbeat()
        self.over = False
        self._end: RunFinished | None = None
        self._any = False
        self._said_silent = False
        self._waiting = ""  # what was said last of the job that is waited for
        self._sleep: Callable[[float], None] = time.sleep

    def show(self, events: Iterable[AnyEvent], speed: float | None = None, follow: bool = True) -> bool:
        """Send recorded events, at `speed` times their pace or all at once; whether there were any.

        The run is over with its last RunFinished, unless with `follow` it stopped and its job goes on.
        """
        wanted = self._wanted(events)
        if speed is None:
            for event in wanted:
                self.sink.send(event)
                if isinstance(self.sink, LiveView):
                    self.sink.catch_up()
        else:
            self._replay(wanted, speed)
        if self._end is not None and not (follow and self._goes_on(self._end)):
            self.over = True
            self._wait()
            if self.picked is None:
                self.sink.send(self._end)
            if self._end.status != "done" and self.desk.submitted > self._end.time and self.desk.ended:
                self._give_up(self.desk.failure(), self.desk.log())
        return self._any

    def follow(self) -> None:
        """Send what comes until the run (or the picked conversation) ends."""
        while not self.over:
            signs = self.show(self.tail.poll())
            self.look()
            if self._end is None and not self.wait_for_begin():
                self.say_if_silent(signs)
            if not self.over:
                self._sleep(POLL)

    def wait_for_begin(self) -> bool:
        """Say what a submitted run waits for that has written nothing yet; a job that ended without it ends the watch.

        Whether it is waited for.
        """
        desk = self.desk
        if self.over or desk.submission is None or self.tail.begun:
            return False
        desk.ask()
        if desk.ended and (not self.heartbeat.path.exists() or self.heartbeat.silence() > 2 * BEAT_SECONDS):
            self._wait()
            self._give_up(desk.failure(), desk.log())
        else:
            self._wait(desk.before())
        return True

    def _goes_on(self, end: RunFinished) -> bool:
        """Whether the job of a run that stopped, or that was submitted again, waits or runs: it goes on with the run where it was."""
        if end.status == "done" or (seen := self.desk.ask()) is None or not seen.alive:
            return False
        if end.status == "failed" and self.desk.submitted < end.time:
            return False
        reason = stopped_by(end.reason)
        self._wait(f"{end.status}{f' {reason}' if reason and end.status == 'stopped' else ''}; {self.desk.name} {seen.words}", keep=True)
        return True

    def _wait(self, text: str = "", keep: bool = False) -> None:
        """Show what is waited for, "" for nothing. Views without a moving line are told once, and with `keep` the others too."""
        if isinstance(self.sink, LiveView):
            self.sink.waiting = text
        key = text.partition(", ")[0].partition(" (")[0]  # not each second of it
        if text and key != self._waiting and (keep or not isinstance(self.sink, LiveView)):
            self.sink.send(Note(time=time.time(), text=text))
        self._waiting = key

    def _give_up(self, why: str, lines: Iterable[str] = ()) -> None:
        """The job is over and the run has no end: say why, with the last lines of its log."""
        self.over = True
        self.sink.send(Note(time=time.time(), level="warning", text=why))
        for text in lines:
            self.sink.send(Note(time=time.time(), text=text))

    def look(self) -> None:
        """Send the texts that are being written now."""
        if not self.over:
            for event in self.live.poll():
                if self.picked is None or _conversation_of(event) in (None, self.picked):
                    self.sink.send(event)

    def say_if_silent(self, signs: bool = False) -> None:
        """Say once that the writer is silent, and once that it is back; the live view shows the seconds meanwhile."""
        silence = self.heartbeat.silence()
        silent = not self.over and not signs and silence > SILENT_AFTER
        text = ""
        if silent and (seen := self.desk.ask()) is not None and seen.waiting:
            if isinstance(self.sink, LiveView):
                self.sink.remark = ""
            self._wait(f"{self.desk.name} {seen.words}", keep=True)
            return
        self._wait()
        if silent and self.desk.ended:
            self._give_up(f"the run has no end: {self.desk.how_it_ended()}. The same command goes on with the run.")
            return
        if silent:
            text = f"{self.heartbeat.writer} has been silent for {clock(silence)}; was it killed? The same command goes on with the run."
        if isinstance(self.sink, LiveView):
            self.sink.remark = text
        elif silent and not self._said_silent:
            self.sink.send(Note(time=time.time(), level="warning", text=text))
        elif self._said_silent and not silent and not self.over:
            self.sink.send(Note(time=time.time(), text="the writer is back"))
        self._said_silent = silent

    def say_unreadable(self) -> None:
        if self.tail.unreadable:
            text = f"{self.tail.unreadable} lines of {self.tail.path.name} could not be read and are left out"
            self.sink.send(Note(time=time.time(), level="warning", text=text))

    def _replay(self, events: Iterable[AnyEvent], speed: float) -> None:
        begun = time.monotonic()
        for at, event in timeline(events):
            wait = begun + at / speed - time.monotonic()
            if wait > 0:
                self._sleep(wait)
            self.sink.send(event)

    def _wanted(self, events: Iterable[AnyEvent]) -> Iterator[AnyEvent]:
        """Those that are to be seen. The end of the run is held back; of a picked conversation, its own run has no rounds."""
        self._any = False
        for event in events:
            self._any = True
            if isinstance(event, RunFinished):
                self._end = event
                continue
            if isinstance(event, RunStarted):
                self._end = None
                self.desk.job = event.job or self.desk.job
                self.desk.again()
                self._wait()
            if self.picked is None:
                yield event
            elif _conversation_of(event) in (None, self.picked) and not isinstance(event, ROUNDS):
                yield event.model_copy(update={"rounds": 0}) if isinstance(event, RunStarted) else event
                self.over |= isinstance(event, ConversationJudged)


def _say_tasks(desk: Desk) -> None:
    for text in tasks_in_words(desk):
        sys.stdout.write(clean(text) + "\n")
    sys.stdout.flush()


def _check(folder: Path, speed: float | None, desk: Desk) -> None:
    problems = []
    if desk.submission is not None:
        pass  # it may begin later
    elif not folder.is_dir():
        problems.append(f"{folder} is no folder; name the run folder that `expertchat converse` printed")
    elif not any((folder / mark).exists() for mark in MARKS):
        problems.append(f"{folder} is not a run: it holds none of {', '.join(MARKS)}")
    if speed is not None and not 0 < speed < float("inf"):
        problems.append(f"speed is {speed}; give a positive number, 1 for the recorded pace")
    if problems:
        raise ConfigError(problems)


def _pick(events: Iterable[AnyEvent], wanted: str, folder: Path) -> str:
    there: dict[str, None] = {}
    for event in events:
        if isinstance(event, ConversationStarted):
            if event.conversation == wanted:
                return wanted
            there[event.conversation] = None
    shown = ", ".join(islice(there, LISTED)) + (f" and {len(there) - LISTED} more" if len(there) > LISTED else "")
    raise ConfigError(f"{folder} has no conversation {wanted!r}; there {'are ' + shown if there else 'is none yet'}")


def _conversation_of(event: AnyEvent) -> str | None:
    match event:
        case RatingGiven():
            return event.rating.transcript
        case WimGiven():
            return event.wim.transcript
        case RewardGiven():
            return event.reward.transcript
        case GuessGiven():
            return event.guess.transcript
        case _:
            return getattr(event, "conversation", None)
