"""`expertchat talk` on a terminal: what keys do, what is drawn, and what of a model's text never is."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from expertchat.views.prompting import TalkScreen
from tests.workers.forked import environment

ROOT = Path(__file__).parents[1]


class Terminal:
    """`expertchat talk` on a terminal of its own."""

    def __init__(self, *words: str) -> None:
        self.file, inner = pty.openpty()
        # A process of its own: one that is forked here may wait for ever for a lock that a thread held.
        command = [sys.executable, "-m", "expertchat.cli", "talk", *words]
        self.process = subprocess.Popen(
            command, stdin=inner, stdout=inner, stderr=inner, env=environment(TERM="xterm"), cwd=ROOT, preexec_fn=_on_its_terminal
        )
        os.close(inner)
        self.seen = ""

    def until(self, pattern: str, seconds: float = 60) -> str:
        """What is on the screen when the pattern is."""
        end, start = time.monotonic() + seconds, len(self.seen)
        while not re.search(pattern, self.seen[start:]):
            assert time.monotonic() < end, self.seen
            if select.select([self.file], [], [], 0.2)[0]:
                try:
                    self.seen += os.read(self.file, 4096).decode("utf-8", "replace")
                except OSError:  # it has ended
                    pytest.fail(f"ended with {self.process.wait()}: {self.seen!r}")
        return self.seen[start:]

    def type(self, text: str) -> None:
        os.write(self.file, text.encode())

    def press(self, key: str, done: Callable[[], bool]) -> None:
        """Press a key until it is heard: while the line is made ready, a terminal loses some, and Ctrl-C takes away what is on its way."""
        for _ in range(20):
            self.type(key)
            for _ in range(20):
                if select.select([self.file], [], [], 0.1)[0]:
                    try:
                        self.seen += os.read(self.file, 4096).decode("utf-8", "replace")
                    except OSError:  # it is ending
                        time.sleep(0.1)
                if done():
                    return
        pytest.fail(self.seen)

    def code(self) -> int:
        return self.process.wait(30)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.file)


def _on_its_terminal() -> None:
    """Ctrl-C on a terminal reaches whom it belongs to."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # a job in the background has it ignored
    os.setsid()
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    found = Terminal("embedded:llama", "model.decoding.reply.max_new_tokens=600")
    yield found
    found.close()


@pytest.mark.slow  # what a terminal loses between two keys depends on how busy the machine is
def test_a_terminal(terminal: Terminal) -> None:
    """A prompt, the same again by the arrow key, Ctrl-C in an answer and at the prompt, Ctrl-D."""
    terminal.until(r"/quit leaves")
    terminal.type("Tell me about bees.\r")
    assert "token" in terminal.until(r"\d+ tokens?, [^\n]*\n")
    terminal.type("\x1b[A\r")  # arrow up
    again = terminal.until(r"\d+ tokens?, [^\n]*\n")
    assert "Tell me about bees." in again
    terminal.type("/no_repeat 1\r/system \x07\x1b[31mred\r")
    seen = terminal.until("system text")
    terminal.type("/greedy\r")
    terminal.until("greedy search")
    terminal.type("Go on and on.\r")
    time.sleep(0.3)
    # In the answer, or after it.
    terminal.press("\x03", lambda: re.search(r"stopped|leaves", terminal.seen.split("Go on and on.")[-1]) is not None)
    terminal.press("\x04", lambda: terminal.process.poll() is not None)
    assert terminal.code() == 0 and "\x1b[31mred" not in seen.split("system text")[-1]


def test_a_screen_shows_nothing_that_steers_it(capsys: pytest.CaptureFixture[str]) -> None:
    screen = TalkScreen()
    screen.waiting("loading \x1b[2J")
    screen.piece("\x1b]0;title\x07 words\r\nand more words that go on and on")
    screen.ended("done\x1b[31m")
    screen.rows([("\x1b[1m/x", "y\x9b")])
    screen.note("\x1b[5mno", wrong=True)
    out = capsys.readouterr().out
    assert "\x1b" not in out and "\x9b" not in out and "\x07" not in out and "words" in out


def test_words_stay_whole(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A screen of 20 cells; a word that comes in two pieces begins on the line that has room for it."""
    screen = TalkScreen()
    monkeypatch.setattr(type(screen.console), "width", 20)
    for piece in ("one two three ", "four fi", "ve six\nseven"):
        screen.piece(piece)
    screen.ended("9 tokens")
    assert capsys.readouterr().out == "one two three four \nfive six\nseven\n9 tokens\n"
