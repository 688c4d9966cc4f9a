"""The app in which people label: the item above, the answer below, keys for everything."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, ClassVar

from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container, VerticalScroll
from textual.events import Resize
from textual.widgets import Footer, Static

from expertchat.config import ConfigError
from expertchat.folder.writing import WriteError
from expertchat.records.lab import Label
from expertchat.views.label import drawing
from expertchat.views.label.screens import FlagsScreen, NameScreen, ReadScreen, WordsScreen
from expertchat.views.label.wanted import Sitting

Begin = Callable[[str], Sitting]
ORPHAN_SECONDS = 2.0
WIDE = 96  # columns from which the texts of a pair stand side by side
ROOMY = 108  # columns in which all keys find room at the foot
_COMPARES, _RATES = ("choose",), ("rate", "unsure", "mark")


class LabelApp(App[None]):
    """`begin` opens the sitting of an annotator, and raises ConfigError; without an `annotator` the app asks for a name.

    `failed`: why nothing could be written any more, which ended the app.
    """

    ENABLE_COMMAND_PALETTE = False
    CSS = """
    #top { height: 1; padding: 0 1; background: $panel; }
    #talk { height: 1fr; padding: 0 1; }
    #context, .side { height: auto; }
    #sides { height: auto; layout: horizontal; }
    .side { width: 1fr; border: round $primary; border-title-style: bold; padding: 0 1; margin-top: 1; }
    .-narrow #sides { layout: vertical; }
    .-narrow .side { width: 100%; }
    #answer { height: auto; max-height: 60%; padding: 0 1; border-top: solid $primary; }
    ModalScreen { align: center middle; }
    .box { width: 90%; max-width: 100; height: auto; max-height: 80%; border: round $accent; padding: 0 1; background: $surface; }
    .tall { height: 60%; }
    .tall TextArea { height: 1fr; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("1", "rate(1)", "rate", key_display="1-9,0"),
        *[Binding(str(n % 10), f"rate({n})", show=False) for n in range(2, 11)],
        Binding("minus", "unsure", "unsure", key_display="-"),
        Binding("a", "choose('a')", "left"),
        Binding("b", "choose('b')", "right"),
        Binding("t", "choose('tie')", "neither"),
        Binding("f", "flags", "flags"),
        Binding("w", "missing", "missing"),
        Binding("c", "comment", "comment"),
        Binding("enter", "keep", "keep", key_display="Enter"),
        Binding("s", "skip", "skip"),
        Binding("u", "undo", "undo"),
        Binding("v", "verdicts", "judges"),
        Binding("question_mark", "keys", "keys", key_display="?"),
        Binding("q", "quit", "quit"),
        Binding("up", "mark(-1)", show=False),
        Binding("down", "mark(1)", show=False),
        Binding("pagedown,space", "talk('page_down')", show=False),
        Binding("pageup", "talk('page_up')", show=False),
        Binding("j", "talk('down')", show=False),
        Binding("k", "talk('up')", show=False),
        Binding("home", "talk('home')", show=False),
        Binding("end", "talk('end')", show=False),
    ]

    def __init__(self, begin: Begin, annotator: str | None = None) -> None:
        super().__init__()
        self.animation_level = "none"
        self.HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (WIDE, "-wide")]
        self.sitting: Sitting | None = begin(annotator) if annotator else None
        self.failed: WriteError | None = None
        self._begin = begin
        self._draft: Label | None = None
        self._cursor = 0
        self._server = os.getppid()
        self._mounted = False

    def compose(self) -> ComposeResult:
        yield Static(id="top")
        with VerticalScroll(id="talk", can_focus=False):
            yield Static(id="context")
            with Container(id="sides"):
                yield Static(id="left", classes="side")
                yield Static(id="right", classes="side")
        yield Static(id="answer")
        yield Footer(show_command_palette=False)

    def on_mount(self) -> None:
        self._mounted = True
        for name in ("#left", "#right"):
            self.query_one(name, Static).display = False
        if self.is_web:  # a server that was killed leaves its apps behind
            self.set_interval(ORPHAN_SECONDS, self._end_alone)
        if self.sitting is None:
            self.push_screen(NameScreen(self._named))
        else:
            self._show()

    def _end_alone(self) -> None:
        if os.getppid() != self._server:
            self.exit()

    def _named(self, name: str) -> str | None:
        try:
            self.sitting = self._begin(name)
        except ConfigError as error:
            return str(error)
        self._show()
        return None

    # -- drawing ----------------------------------------------------------------------------------------------------

    def _show(self) -> None:
        """The task on the screen, from its beginning."""
        sitting = self.sitting
        if sitting is None:
            return
        task = sitting.task
        self._draft = sitting.draft() if task is not None else None
        self._cursor = 0
        first = self.screen_stack[0]
        sides = drawing.judged(task) if task is not None else []
        context = drawing.context(task) if task is not None else drawing.ended(sitting)
        first.query_one("#context", Static).update(context)
        for place, name in enumerate(("#left", "#right")):
            side = first.query_one(name, Static)
            side.display = place < len(sides)
            if side.display:
                side.border_title = sides[place][0]
                side.update(sides[place][1])
        first.query_one("#talk", VerticalScroll).scroll_home(animate=False)
        self._mark_first()
        self._answered()

    def _answered(self) -> None:
        """The answer so far, and how far the annotator is."""
        sitting, first = self.sitting, self.screen_stack[0]
        if sitting is None:
            return
        width = max(20, self.size.width - 2)
        first.query_one("#top", Static).update(drawing.heading(sitting, width))
        answer = first.query_one("#answer", Static)
        answer.display = sitting.task is not None
        if sitting.task is not None and self._draft is not None:
            answer.update(drawing.answer(sitting.form, sitting.task, self._draft, self._cursor, width))
        first.refresh_bindings()

    def on_resize(self, event: Resize) -> None:
        if self._mounted:
            self.screen_stack[0].query_one(Footer).compact = event.size.width < ROOMY
            self.call_after_refresh(self._answered)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Keys that mean nothing now are not shown."""
        sitting = self.sitting
        if sitting is None:
            return action == "quit"
        if action == "verdicts":
            return sitting.may_see
        if action in ("quit", "undo", "keys", "talk"):
            return True
        task = sitting.task
        if task is None:
            return action not in (*_COMPARES, *_RATES, "keep", "skip", "flags", "missing", "comment")
        compares, form = task.left is not None, sitting.form
        if action in _COMPARES:
            return compares and (parameters != ("tie",) or form.tie)
        if action in _RATES:
            return not compares and bool(form.scales)
        if action == "flags":
            return bool(form.flags)
        return not (action == "missing" and (compares or not form.missing))

    # -- answering --------------------------------------------------------------------------------------------------

    def _change(self, **changes: Any) -> None:
        assert self._draft is not None and self.sitting is not None and self.sitting.task is not None
        self._draft = self._draft.model_copy(update=changes)
        if self.sitting.form.at_once and ("choice" in changes or "ratings" in changes) and not self._lacks():
            self.action_keep()
        else:
            self._answered()

    def _lacks(self) -> list[str]:
        sitting = self.sitting
        assert sitting is not None and sitting.task is not None and self._draft is not None
        return sitting.form.lacks(self._draft, sitting.task.item.pair)

    def _scale(self) -> str | None:
        assert self.sitting is not None
        names = list(self.sitting.form.scales)
        return names[self._cursor] if self._cursor < len(names) else None

    def _mark_first(self) -> None:
        """Mark the first line without an answer."""
        if self.sitting is not None and self._draft is not None:
            open_ = [n for n, name in enumerate(self.sitting.form.scales) if name not in self._draft.ratings]
            self._cursor = open_[0] if open_ else 0

    def _rate(self, value: int | None) -> None:
        assert self._draft is not None and self.sitting is not None
        name = self._scale()
        if name is None:
            return
        self._cursor = min(self._cursor + 1, len(self.sitting.form.scales) - 1)
        self._change(ratings={**self._draft.ratings, name: value})

    def action_rate(self, value: int) -> None:
        self._rate(value)

    def action_unsure(self) -> None:
        self._rate(None)

    def action_mark(self, by: int) -> None:
        assert self.sitting is not None
        self._cursor = (self._cursor + by) % max(1, len(self.sitting.form.scales))
        self._answered()

    def action_choose(self, side: str) -> None:
        assert self._draft is not None
        self._change(choice=drawing.choice_of(side, self._draft))

    def action_flags(self) -> None:
        assert self._draft is not None and self.sitting is not None
        self.push_screen(FlagsScreen(self.sitting.form, self._draft.flags), lambda flags: self._change(flags=flags or []))

    def action_missing(self) -> None:
        assert self._draft is not None
        self.push_screen(WordsScreen("What is missing?", self._draft.missing or ""), lambda text: self._change(missing=text or None))

    def action_comment(self) -> None:
        assert self._draft is not None
        self.push_screen(WordsScreen("A comment", self._draft.comment or ""), lambda text: self._change(comment=text or None))

    # -- going on ---------------------------------------------------------------------------------------------------

    def _tell(self, text: str) -> None:
        self.notify(text, markup=False, timeout=4)

    def _written(self, write: Callable[[], object]) -> bool:
        """Do what writes; where that is not possible, the app ends and says why."""
        try:
            write()
        except WriteError as error:
            self.failed = error
            self.exit()
            return False
        return True

    def action_keep(self) -> None:
        sitting, draft = self.sitting, self._draft
        if sitting is None or draft is None:
            return
        if lacking := self._lacks():
            self._tell(f"Still to be answered: {', '.join(name.replace('_', ' ') for name in lacking)}")
        elif self._written(lambda: sitting.keep(draft)):
            self._show()

    def action_skip(self) -> None:
        if self.sitting is not None and self._written(self.sitting.skip):
            self._show()

    def action_undo(self) -> None:
        sitting = self.sitting
        if sitting is None:
            return
        taken: list[bool] = []
        if not self._written(lambda: taken.append(sitting.undo())):
            return
        if taken[0]:
            self._show()
        else:
            self._tell("There is no answer that can be taken back.")

    def action_verdicts(self) -> None:
        sitting = self.sitting
        if sitting is None:
            return
        seen, before = list[Any](), sitting.task
        if not self._written(lambda: seen.append(sitting.see())):
            return
        if sitting.task is not before:  # what was seen does not come a second time
            self._show()
        if seen[0] is None:
            self._tell("Answer one first: the judges are shown afterwards.")
            return
        self.push_screen(ReadScreen("What the judges say of the one before", drawing.verdicts(*seen[0])))

    def action_keys(self) -> None:
        if self.sitting is not None:
            self.push_screen(ReadScreen("Keys", drawing.keys(self.sitting.form, self.sitting.may_see)))

    def action_talk(self, how: str) -> None:
        getattr(self.screen_stack[0].query_one("#talk", VerticalScroll), f"scroll_{how}")(animate=False)
