"""A dialogue on the terminal of somebody who takes part in it: what the others say, a line to type on, questions when it is over."""

from __future__ import annotations

import contextlib
import signal
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from typing import Any, TextIO

from rich.text import Text

from expertchat import events
from expertchat.folder.desk import Choice, Draft, Rated, Typed
from expertchat.folder.run import Interrupted, wanted_signals
from expertchat.records import Speaker, Turn
from expertchat.text.in_words import line
from expertchat.text.sentences import clean
from expertchat.views import looks, words
from expertchat.views.console import console_on, prose
from expertchat.views.model import Conversation
from expertchat.views.plain import PlainView
from expertchat.views.sides import called

LEAVE = "/leave"
PASS = "/pass"
NOTHING = "-"  # what is missing
GOES_ON = "\\"  # at the end of a line: the turn goes on with the next one
LOOK = 0.5  # seconds between two looks at the clock, and at what is half written
LEFT = "the person has left the table"
HELP = (
    f"Enter says it; {GOES_ON} at the end of a line goes on with another one; {PASS} says nothing; {LEAVE} (or Ctrl-D) leaves, and the "
    "same command goes on"
)
STEPS = "Enter takes it, (e)dit, draw (a)gain, write your (o)wn, (g)o on, (q)uit"
CHOICES: dict[str, Choice] = {"": "take", "e": "edit", "a": "again", "o": "own", "g": "on"}
YES, NO, UNSURE = ("h", "human", "mensch"), ("a", "ai", "ki"), ("?", "")


class _TimeUp(Exception):
    """Raised within a line that is typed."""


class TableView(PlainView):
    """The view of a run at whose table a person sits, or in which every turn is looked at; and the desk at which that person types.

    Nothing shows which model speaks, and no judgement is shown before the end.
    """

    def __init__(self, stream: TextIO | None = None, show_thinking: bool = False) -> None:
        super().__init__(stream, show_thinking)
        self.console = console_on(self.stream)
        self._looked: tuple[str, int] | None = None  # a turn that is on the screen already
        self._typed_it = False  # the next turn stands on the screen, for it was typed there
        self._edits = _with_readline()
        self._told = False
        self._rated: Rated | None = None

    # -- what is shown ----------------------------------------------------------------------------------------------

    def _on_dialogue(self, event: events.AnyEvent, conversation: Conversation) -> None:
        match event:
            case events.ConversationStarted():
                self._write("", f"A dialogue on {line(event.topic)} ({conversation.name}); {called(event.opener)} opens it.")
            case events.TurnFinished():
                if not self._typed_it and self._looked != (event.conversation, event.index):
                    self._show(event.turn, conversation)
                self._looked, self._typed_it = None, False
            case events.ConversationFinished():
                self._write("", words.stop_in_words(event.stop_reason, event.turns))
            case events.ConversationJudged():
                self.state.release(conversation.id)

    def _show(self, turn: Turn, conversation: Conversation) -> None:
        """A turn with its speaker's name, in the speaker's colour."""
        name, width = called(turn.speaker), max(30, self.console.width)
        lines = [part for text in clean(turn.text).splitlines() or [""] for part in textwrap.wrap(text, width - len(name) - 2) or [""]]
        remarks = [text for text in (words.thought_in_words(turn.thinking), *words.remarks(turn)) if text]
        style = looks.colour(turn.speaker, conversation.seats) if self.console.is_terminal else ""
        shown = Text("\n").append(f"{name}: ", f"bold {style}".strip()).append(f"\n{' ' * (len(name) + 2)}".join(lines))
        prose(self.console, shown.append(f" ({'; '.join(remarks)})", "dim") if remarks else shown)

    def _on_progress(self, event: events.Progress) -> None:
        """Whoever sits at the table sees how far it is."""

    # -- the desk -----------------------------------------------------------------------------------------------------

    def turn(self, seat: Speaker, draft: Draft, seconds: float | None) -> Typed:
        """A turn of the seat. Raises Interrupted where the person leaves."""
        limit = f" You have {seconds:g} seconds." if seconds else ""
        if not self._told or limit:
            said = f"You are {called(seat)}.{limit} {HELP if not self._told else ''}".rstrip()
            self._write("", *textwrap.wrap(said, max(30, self.console.width)))
            self._told = True
        *lines, last = draft.read().split("\n")
        for text in lines:
            self._write(f"{called(seat)}> {text}")
        end = time.monotonic() + seconds if seconds else None
        while True:
            try:
                prompt = f"{called(seat)}> " if not lines else ". "
                found = self._typed(prompt, last, lambda text: draft.write("\n".join([*lines, text])), end)
            except _TimeUp as up:
                self._write("", "The time is up.")
                return Typed("\n".join([*lines, str(up)]).strip(), late=True)
            last = ""
            if found.strip() == LEAVE:
                draft.write("\n".join(lines))
                raise Interrupted(LEFT)
            if found.strip() == PASS and not lines:
                return Typed("")
            if found.endswith(GOES_ON):
                lines.append(found[:-1].rstrip())
                draft.write("\n".join([*lines, ""]))
            elif text := "\n".join([*lines, found]).strip():
                self._typed_it = self._edits
                return Typed(text)

    def guess(self, seat: Speaker, subject: Speaker) -> tuple[bool | None, str]:
        """Whether the person takes the subject for a human, and why. Raises Interrupted."""
        self._write("")
        while True:
            said = self._said(f"{called(seat)}, was {called(subject)} a human or an AI? (h, a, ? does not know) ").strip().lower()
            if said in (*YES, *NO, *UNSURE):
                break
        why = self._said("Why? ").strip()
        return (None if said in UNSURE else said in YES), why

    def rating(self, seat: Speaker, of: Rated, name: str, meaning: str) -> int | None:
        """A number from 1 to 10, or None where nothing is typed. Raises Interrupted."""
        self._rates(of)
        while True:
            said = self._said(f"{line(name)} ({line(meaning)}), 1-10: ").strip()
            if not said:
                return None
            if said.isdecimal() and 1 <= int(said) <= 10:
                return int(said)

    def missing(self, seat: Speaker, of: Rated, draft: Draft) -> str | None:
        """What is missing; "" where nothing is, None where nothing is typed. Raises Interrupted."""
        self._rates(of)
        said = self._typed(f"What is missing in it? ({NOTHING} nothing is) ", draft.read(), draft.write).strip()
        if said == LEAVE:
            draft.write("")
            raise Interrupted(LEFT)
        return "" if said == NOTHING else said or None

    def _rates(self, of: Rated) -> None:
        """Say what is rated, where that has not just been said."""
        if of == self._rated:
            return
        self._rated, who = of, called(of.subject)
        what = f"all that {who} said about {line(of.topic)}" if of.turn is None else f"turn {of.turn}, {who}: {line(of.text)}"
        asked = f"Rate {what}, from 1 (poor) to 10 (excellent); Enter gives no answer."
        self._write("", *textwrap.wrap(asked, max(30, self.console.width)))

    def step(self, index: int, turn: Turn) -> Choice:
        """What is to become of a turn that was just spoken. Raises Interrupted."""
        conversation = next((one for one in self.state.conversations.values() if not one.judged and one.stop_reason is None), None)
        if conversation is not None:
            self._show(turn, conversation)
            self._looked = (conversation.id, index)
        place = f"{line(conversation.id)}/{index}" if conversation is not None else f"turn {index}"
        while True:
            said = self._said(f"[{place}] {STEPS} > ").strip().lower()
            if said == "q":
                raise Interrupted(LEFT)
            if said in CHOICES:
                if CHOICES[said] in ("edit", "own"):
                    self._looked = None
                return CHOICES[said]

    def edit(self, seat: Speaker, text: str) -> str:
        """The text, edited; an empty line leaves it as it was. Raises Interrupted."""
        parts = text.split("\n")
        found = [self._said(f"{called(seat)}> " if not i else ". ", part) for i, part in enumerate(parts)]
        return "\n".join(found) if any(part.strip() for part in found) else text

    def _said(self, prompt: str, begun: str = "") -> str:
        """A line that is no half-written turn. Raises Interrupted, also where it says so."""
        found = self._typed(prompt, begun)
        if found.strip().lower() == LEAVE:
            raise Interrupted(LEFT)
        return found

    # -- typing ---------------------------------------------------------------------------------------------------------

    def _typed(
        self, prompt: str, begun: str = "", save: Callable[[str], None] = lambda text: None, end: float | None = None
    ) -> str:
        """A line, which begins as `begun`; `save` is told now and then what stands there. Raises Interrupted, and _TimeUp after `end`."""
        *above, below = textwrap.wrap(prompt, max(30, self.console.width - 1)) or [""]
        if above:  # a line that is edited may not be longer than the screen
            self._write(*above)
            prompt = f"{below} "
        self.stream.flush()
        try:
            with _leaving(), _looking(begun if self._edits else "", save, end), _begun(begun if self._edits else ""):
                return clean(input(prompt))
        except EOFError:
            raise Interrupted(LEFT) from None


@contextlib.contextmanager
def _leaving() -> Iterator[None]:
    """While it lasts a signal leaves the table: nothing is in flight."""

    def leave(number: int, frame: Any) -> None:
        raise Interrupted(signal.Signals(number).name)

    before = {number: signal.signal(number, leave) for number in wanted_signals()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _looking(begun: str, save: Callable[[str], None], end: float | None) -> Iterator[None]:
    """While it lasts, what stands on the line is saved where it has changed, and the time is looked at."""
    last = begun

    def look(number: int, frame: Any) -> None:
        nonlocal last
        now = _standing()
        if now != last:
            last = now
            save(now)
        if end is not None and time.monotonic() >= end:
            raise _TimeUp(now)

    before = signal.signal(signal.SIGALRM, look)
    signal.setitimer(signal.ITIMER_REAL, LOOK, LOOK)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextlib.contextmanager
def _begun(text: str) -> Iterator[None]:
    """While it lasts a line begins with `text`, which can be edited."""
    if not text:
        yield
        return
    import readline

    readline.set_startup_hook(lambda: readline.insert_text(text))
    try:
        yield
    finally:
        readline.set_startup_hook(None)


def _standing() -> str:
    """What stands on the line now."""
    try:
        import readline
    except ImportError:
        return ""
    return readline.get_line_buffer()


def _with_readline() -> bool:
    """Whether lines are edited here: on a terminal, by readline."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        return False
    from expertchat.views.prompting import _with_readline as with_readline

    return with_readline()
