"""The live view: dialogues as they are written, drawn in a thread of its own, so that the run never waits for the screen."""

from __future__ import annotations

import atexit
import contextlib
import threading
import time
from collections import deque

from rich.console import Console, Group, RenderableType
from rich.live import Live

from expertchat.events import AnyEvent, ConversationJudged, Loading, Note, RunFinished, RunStarted
from expertchat.views import render, rounds, screen
from expertchat.views.console import console_on
from expertchat.views.frame import Frame, Line, Painter
from expertchat.views.model import Conversation, RunState
from expertchat.views.training import Training

INTERVAL = 0.125  # seconds between two frames
MOST_QUEUED = 20_000  # events, for a sender who can wait
DWELL = 16  # frames that a finished dialogue of a training run stays on the screen before another takes its place
WHOLE = 8  # in a larger run, conversations that were never in focus are printed whole up to this many, then as one line


class LiveView:
    """A sink that draws. `send` only queues the event; the thread applies and draws at most eight times a second.

    Finished conversations are printed above the moving part and stay in the scrollback. `everything` prints all of them whole.
    `show_thinking`: what the experts think stands above what they say, else only how many words it has.
    Of a training run only its rounds and evaluations stay, a line each.
    With `threaded=False` nothing is drawn until `draw` is called (tests). A drawing that fails makes the next `send` raise.
    """

    def __init__(
        self, console: Console | None = None, everything: bool = False, threaded: bool = True, show_thinking: bool = False
    ) -> None:
        self.console = console or console_on()
        self.state = RunState(unfold=show_thinking)
        self.focus: Conversation | None = None
        self.remark = ""  # a warning that stands under the moving part
        self.waiting = ""  # what is waited for, under it too
        self._everything = everything
        self._events: deque[AnyEvent] = deque()
        self._failure: Exception | None = None
        self._painter = Painter(self.console)
        self._loading: dict[str, float] = {}  # monotonic time at which a model began to load
        self._printed_whole = 0
        self._above: list[Line] = []  # lines that are to stay above the moving part
        self._rested = 0  # frames since the dialogue in focus ended
        self._focus_of: tuple[int, str] | None = None  # the round and phase in which it was taken
        self._tick = 0
        self._shown: Frame = Frame([])
        self._size = self.console.size
        self._live = Live(console=self.console, auto_refresh=False, transient=True, vertical_overflow="visible")
        self._closing = threading.Event()
        self._closed = False
        self._live.start()
        atexit.register(self.close)
        self._thread = threading.Thread(target=self._loop, name="live view", daemon=True) if threaded else None
        if self._thread is not None:
            self._thread.start()

    # -- the sink ---------------------------------------------------------------------------------------------------

    def send(self, event: AnyEvent) -> None:
        """Queue an event; O(1)."""
        if self._failure is not None:
            raise RuntimeError(f"the live view broke: {self._failure}") from self._failure
        self._events.append(event)

    def catch_up(self) -> None:
        """Wait while very much is queued: for a watcher who sends a whole past; a run never waits."""
        while len(self._events) > MOST_QUEUED and self._thread is not None and self._thread.is_alive():
            time.sleep(INTERVAL / 4)

    def close(self) -> None:
        """Draw what is left, put the terminal back in order. May be called twice."""
        if self._closed:
            return
        self._closed = True
        self._closing.set()
        try:
            if self._thread is not None:
                self._thread.join()
            if self._failure is None:
                self._after_resize()
                self._drain()
                self._leave_focus()
                self._flush()
                self._live.update(Frame([]))
        finally:
            self._live.stop()
            atexit.unregister(self.close)
        if self._failure is None and self.state.finished is not None:
            draw_end = render.run_end if self.state.training is None else rounds.closing
            self._print(draw_end(self.state, self.console.width))
            self._flush()

    # -- the drawing thread -----------------------------------------------------------------------------------------

    def _loop(self) -> None:
        try:
            while True:
                self.draw()
                if self._closing.wait(INTERVAL):
                    return
        except Exception as error:
            self._failure = error
            with contextlib.suppress(Exception):  # the terminal may be gone; what can be put back is put back
                self._live.stop()

    def draw(self) -> None:
        """Apply the queued events, print what is finished, draw the moving part if it changed."""
        self._after_resize()
        self._drain()
        if self.state.training is not None:
            self._follow(self.state.training)
        self._flush()
        self._tick += 1
        now = time.monotonic()
        loading = {what: now - begun for what, begun in self._loading.items()}
        frame = screen.frame(self._painter, self.state, self.focus, loading, self._tick // 2, self.remark, self.waiting)
        if frame.lines != self._shown.lines:
            self._shown = frame
            self._live.update(frame, refresh=True)

    def _after_resize(self) -> None:
        """A terminal made narrower wraps the lines drawn before: tell Live how many rows it has to take back."""
        size = self.console.size
        if size == self._size:
            return
        if size.width < self._size.width:
            rows = self._shown.rows(size.width)
            self._live._live_render._shape = (size.width, max(1, min(rows, size.height)))
        self._size = size
        self._painter.forget()
        self._shown = Frame([])

    def _drain(self) -> None:
        for _ in range(len(self._events)):
            event = self._events.popleft()
            self.state.apply(event)
            for told in self.state.told:
                self._print(rounds.told_line(told, self.state.training or Training(), self.console.width))
            match event:
                case RunStarted():
                    self._print(render.run_heading(event))
                case Loading():
                    self._on_loading(event)
                case Note():
                    self._print(render.note_line(event))
                case ConversationJudged():
                    self._on_judged(event.conversation)
                case RunFinished():
                    self._loading.clear()
            if self.focus is None and self.state.training is None:
                self._next_focus()

    def _on_loading(self, event: Loading) -> None:
        begun = self._loading.pop(event.what, None)
        if not event.done:
            self._loading[event.what] = time.monotonic()
            return
        self._print(render.loaded_line(event.what, event.seconds or (time.monotonic() - begun if begun else 0.0), event.gib))

    def _on_judged(self, name: str) -> None:
        conversation = self.state.conversations.get(name)
        if conversation is None:
            return
        focused = conversation is self.focus
        if focused or self._everything or self._printed_whole < WHOLE:
            self._printed_whole += not focused
            self._print(*render.whole(conversation, self.console.width))
        else:
            self._print(render.in_one_line(conversation))
        self.state.release(name)
        if focused:
            self.focus = None
            self._painter.forget()

    def _next_focus(self) -> None:
        """The conversation that is furthest on among those that still talk, or one that is being judged."""
        waiting = [c for c in self.state.conversations.values() if not c.judged]
        self.focus = max(waiting, key=lambda c: (c.stage == "talking", c.streaming is not None, len(c.by_index)), default=None)

    def _follow(self, training: Training) -> None:
        """Keep to one dialogue of a training run until it ended and was looked at, and to the last one while none goes on."""
        now = (training.current.round if training.current else 0, training.phase.phase if training.phase else "")
        ended = self.focus is None or self.focus.stage != "talking" or self.focus.id not in self.state.conversations
        self._rested = self._rested + 1 if ended else 0
        if self.focus is not None and self._rested < DWELL and (self._focus_of == now or not self._rested):
            return
        talking = [c for c in self.state.conversations.values() if c.stage == "talking"]
        if talking:
            self.focus = max(talking, key=lambda c: (c.streaming is not None, len(c.by_index)))
            self._focus_of, self._rested = now, 0
            self._painter.forget()

    def _leave_focus(self) -> None:
        """What the screen shows of an unfinished conversation stays in the scrollback."""
        if self.state.training is not None:
            return
        unfinished = list(self.state.conversations.values()) if self._everything else [self.focus]
        for conversation in unfinished:
            if conversation is not None and conversation.by_index:
                self._print(*render.whole(conversation, self.console.width))
        self.focus = None

    def _print(self, *parts: RenderableType) -> None:
        """Keep these above the moving part, from the next frame on."""
        self._above += self._painter.lines(Group(*parts), self.console.width)

    def _flush(self) -> None:
        """All lines at once: the moving part is drawn again below each print."""
        if self._above:
            above, self._above = self._above, []
            self.console.print(Frame(above, closed=True))


def can_draw(console: Console) -> bool:
    """Whether the console is a terminal that can move its cursor and show the characters that are drawn."""
    return console.file.isatty() and console.is_terminal and not console.is_dumb_terminal and console.encoding.startswith("utf")
