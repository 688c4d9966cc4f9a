"""The small screens above the item: the annotator's name, words, flags, and what is only read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical, VerticalScroll
from textual.events import Key
from textual.screen import ModalScreen
from textual.widgets import Input, Static, TextArea

from expertchat.text.sentences import clean
from expertchat.views.label import drawing
from expertchat.views.label.wanted import Form

FLAG_KEYS = "1234567890abcde"


class NameScreen(ModalScreen[None]):
    """Asks who labels. `begin` takes the name, and returns what is wrong with it or None."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "app.quit", "leave")]

    def __init__(self, begin: Callable[[str], str | None]) -> None:
        super().__init__()
        self._begin = begin

    def compose(self) -> ComposeResult:
        with Vertical(classes="box"):
            yield Static("Who labels? Your answers are kept under this name, and it finds them again.", markup=False)
            yield Input(placeholder="a name", id="name", max_length=40)
            yield Static("", id="problem", markup=False)

    def on_input_submitted(self, event: Input.Submitted) -> None:
        problem = self._begin(event.value)
        if problem is None:
            self.dismiss(None)
        else:
            self.query_one("#problem", Static).update(Text(clean(problem), "bold red"))


class WordsScreen(ModalScreen[str]):
    """A text of the annotator's own. Esc keeps what is written."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,ctrl+s", "close", "keep", priority=True)]

    def __init__(self, title: str, text: str) -> None:
        super().__init__()
        self._title, self._text = title, text

    def compose(self) -> ComposeResult:
        with Vertical(classes="box tall"):
            yield Static(Text.assemble((self._title, "bold"), ("   Esc keeps it", "dim")))
            yield TextArea(self._text, soft_wrap=True)

    def action_close(self) -> None:
        self.dismiss(clean(self.query_one(TextArea).text).strip())


class FlagsScreen(ModalScreen[list[str]]):
    """Flags, set and unset by their keys."""

    def __init__(self, form: Form, chosen: Sequence[str]) -> None:
        super().__init__()
        self._form, self._chosen = form, list(chosen)

    def compose(self) -> ComposeResult:
        with VerticalScroll(classes="box", can_focus=False):
            yield Static(Text.assemble(("Flags", "bold"), ("   a key sets and unsets, Enter keeps them", "dim")))
            yield Static(self._drawn(), id="flags")

    def _drawn(self) -> Text:
        return drawing.flags(self._form, self._chosen, FLAG_KEYS)

    def on_key(self, event: Key) -> None:
        event.stop()
        if event.key in ("escape", "enter", "f"):
            self.dismiss([name for name in self._form.flags if name in self._chosen])
            return
        place = FLAG_KEYS.find(event.character or " ")
        if 0 <= place < len(self._form.flags):
            name = list(self._form.flags)[place]
            self._chosen = [one for one in self._chosen if one != name] if name in self._chosen else [*self._chosen, name]
            self.query_one("#flags", Static).update(self._drawn())


class ReadScreen(ModalScreen[None]):
    """Something to be read; every key that does not scroll closes it."""

    def __init__(self, title: str, text: Text) -> None:
        super().__init__()
        self._title, self._text = title, text

    def compose(self) -> ComposeResult:
        with VerticalScroll(classes="box"):
            yield Static(Text.assemble((self._title, "bold"), ("   any key goes back", "dim")))
            yield Static(self._text)

    def on_key(self, event: Key) -> None:
        if event.key not in ("up", "down", "pageup", "pagedown", "home", "end"):
            event.stop()
            self.dismiss(None)
