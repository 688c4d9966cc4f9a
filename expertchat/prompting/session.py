"""The prompt loop: a line is a prompt or an order; the screen shows what comes of it."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

from expertchat.config import ConfigError
from expertchat.prompting import slash
from expertchat.prompting.config import TalkConfig
from expertchat.prompting.kept import saved
from expertchat.prompting.talk import Exchange, Talk, drawn

LEAST_LIKELY = 8  # tokens in the table of /tokens


class Screen(Protocol):
    """What shows a conversation and reads its prompts. Whatever it is given is data, and made harmless by it."""

    def read(self) -> str | None:
        """The next line; None: there is no more. Raises KeyboardInterrupt."""
        ...

    def waiting(self, what: str) -> None:
        """Something takes its time before the next word."""
        ...

    def piece(self, text: str) -> None:
        """A piece of an answer."""
        ...

    def ended(self, remark: str) -> None:
        """The answer is whole."""
        ...

    def note(self, text: str, wrong: bool = False) -> None:
        """Something beside the answers."""
        ...

    def rows(self, rows: Sequence[tuple[str, str]]) -> None:
        """Names, and what there is to say of each."""
        ...

    def tokens(self, values: Mapping[str, Any]) -> None:
        """The tokens of an answer with their probabilities."""
        ...


def run_talk(config: TalkConfig, screen: Screen, talk: Talk | None = None) -> int:
    """Talk until there is no more line. Returns 0. Raises ConfigError where the model cannot be loaded."""
    session = _Session(talk or Talk(config, screen.note), screen)
    session.talk.spoken.start()
    screen.note(f"{session.talk.spoken.name}. Type a prompt, or /help; /quit leaves.")
    interrupted = False
    while True:
        try:
            if interrupted:
                interrupted = False
                screen.note("/quit or Ctrl-D leaves")
            line = screen.read()
            if line is None or not session.take(line.strip()):
                return 0
        except KeyboardInterrupt:
            interrupted = True  # said where another Ctrl-C, right after it, is heard too


class _Session:
    """A conversation and the screen that it is on."""

    def __init__(self, talk: Talk, screen: Screen) -> None:
        self.talk, self.screen = talk, screen

    def take(self, line: str) -> bool:
        """Do what a line says; False: leave. What is wrong with it is told. Raises ConfigError where the model cannot be loaded."""
        try:
            if line.startswith("/"):
                return self.obey(line)
            if line:
                self.say(line)
        except ConfigError as error:
            if self.talk.spoken.failed:
                raise
            for problem in error.problems:
                self.screen.note(problem, wrong=True)
        return True

    def say(self, prompt: str, draw: int = 0, trained: bool | None = None) -> None:
        """A prompt and its answer. Ctrl-C stops the answer."""
        spoken = self.talk.spoken
        if not spoken.ready:
            self.screen.waiting(f"loading {spoken.name}")
        spoken.voice()
        with stopping() as stop:
            for piece in self.talk.ask(prompt, stop, draw, trained):
                self.screen.piece(piece)
        last = self.talk.last
        assert last is not None
        thought = f"; thought {len(last.thinking.split())} words" if last.thinking else ""
        silent = "" if last.text else "said nothing; "
        self.screen.ended(f"{silent}{last.remark}{thought}")

    def obey(self, line: str) -> bool:
        """Do what an order says; False: leave. Raises ConfigError."""
        name, rest = slash.read(line)
        if name == "quit":
            return False
        simple: dict[str, Callable[[], None]] = {
            "help": self._help, "show": self._show, "again": self._again, "undo": self._undo, "reset": self._reset,
            "system": lambda: self._system(rest), "trained": lambda: self._trained(rest), "tokens": lambda: self._tokens(rest),
            "save": lambda: self._save(rest),
        }  # fmt: skip
        if name in simple:
            simple[name]()
        else:
            self.talk.decoding = slash.decoded(name, rest, self.talk.decoding)
            self.screen.note(drawn(self.talk.decoding))
        return True

    def _help(self) -> None:
        self.screen.rows([(order.usage, order.about) for order in slash.ORDERS])

    def _show(self) -> None:
        talk, learnt = self.talk, self.talk.spoken.learnt
        told = [("model", talk.spoken.model.path)]
        if learnt is not None:
            told.append(("trained", f"{'on' if talk.trained else 'off'}: {learnt.folder}"))
        words = {"chat": "the model's own chat template", "none": "prompts as they stand"}
        told += [("drawn by", drawn(talk.decoding)), ("template", words.get(talk.wording, talk.wording))]
        told += [("system", talk.system or "none"), ("said", f"{len(talk.exchanges)} exchanges{self._remembered()}")]
        self.screen.rows(told)

    def _remembered(self) -> str:
        return "" if self.talk.remembers else ", each by itself"

    def _again(self) -> None:
        last = self.talk.undo()
        if last is None:
            raise ConfigError("/again: nothing was asked yet")
        same = last.decoding == self.talk.decoding and last.trained == self.talk.trained
        if same and last.decoding.method != "sampling":
            self.screen.note(f"{drawn(last.decoding).partition(',')[0]} draws the same again; /sample draws others")
        self.say(last.prompt, last.draw + 1)

    def _undo(self) -> None:
        last = self.talk.undo()
        self.screen.note("nothing was asked yet" if last is None else f"taken back: {last.prompt}")

    def _reset(self) -> None:
        self.talk.reset()
        self.screen.note("a new conversation begins")

    def _system(self, rest: str) -> None:
        self.talk.system = rest
        self.screen.note(f"system text: {rest}" if rest else "no system text")

    def _trained(self, rest: str) -> None:
        talk = self.talk
        if talk.spoken.learnt is None:
            raise ConfigError("/trained: no run has trained this model; name one: expertchat talk RUN, or trained=RUN")
        word = slash.one_of("trained", rest, ("on", "off", "both"))
        if word != "both":
            talk.trained = word == "on"
            self.screen.note(f"as {talk.spoken.learnt.shown} has trained it" if talk.trained else "as it was before it was trained")
            return
        last = talk.undo()
        if last is None:
            raise ConfigError("/trained both: answers the last prompt twice, and nothing was asked yet")
        for trained in (False, True):
            self.screen.note("as it is trained:" if trained else "before it was trained:")
            self.say(last.prompt, last.draw, trained)
            if trained != talk.trained:
                talk.undo()  # the conversation goes on with one of them

    def _tokens(self, rest: str) -> None:
        self.screen.tokens(self.talk.tokens(slash.whole("tokens", rest, least=0, missing=LEAST_LIKELY)))

    def _save(self, rest: str) -> None:
        path = slash.parts("save", rest)
        if len(path) != 1:
            raise ConfigError("/save: name one file, as /save talk.md")
        self.screen.note(saved(path[0], self.talk.exchanges, self.talk.system, self.talk.spoken.name))


@contextmanager
def stopping() -> Iterator[Callable[[], bool]]:
    """While it lasts, Ctrl-C is heard: yields what says so. A second one, or one in a long pass (beams), interrupts at once."""
    told = [0]

    def hear(number: int, frame: Any) -> None:
        told[0] += 1
        if told[0] > 1:
            raise KeyboardInterrupt

    try:
        before = signal.signal(signal.SIGINT, hear)
    except ValueError:  # not in the main thread
        yield lambda: False
        return
    try:
        yield lambda: told[0] > 0
    finally:
        signal.signal(signal.SIGINT, before)


__all__ = ["Exchange", "Screen", "run_talk", "stopping"]
