"""What is drawn and written: widths, heights, sides, and that text by models stays text."""

from __future__ import annotations

import io
import re
import time

import pytest
from rich.cells import cell_len
from rich.console import Console

from expertchat.config import ConfigError
from expertchat.events import AnyEvent, Loading, Note, Progress, RunFinished, TextStreamed
from expertchat.records import Turn
from expertchat.views import render, screen
from expertchat.views.frame import Painter
from expertchat.views.live import LiveView
from expertchat.views.model import RunState
from expertchat.views.open import open_view
from expertchat.views.plain import NullView, PlainView
from tests.viewed import (
    ATTACK,
    SAYS,
    began,
    console,
    conversation,
    drawn,
    frame,
    plain,
    plainly,
    rewarded,
    said,
    start,
    state_of,
    whole_run,
    written,
)

WIDTHS = (20, 40, 60, 120, 200)
ESCAPE = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e]")


def streamed(name: str, turn: int, text: str, speaker: str = "a") -> AnyEvent:
    return TextStreamed(conversation=name, turn=turn, speaker=speaker, text=text)  # type: ignore[arg-type]


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("text", [SAYS[1], "w" * 300, "漢字かな交じり文。" * 20, "🌋 " * 60, "a\n\n\n\nb", "", "x\ty"])
def test_no_line_is_wider_than_the_screen(width: int, text: str) -> None:
    says = (text, text)
    state = state_of(conversation("c1", topic=text or "t", says=says))
    talk = state.conversations["c1"]
    state.finished = RunFinished(status="done", reason=text)
    parts = [*render.whole(talk, width), render.in_one_line(talk), render.run_heading(start()), render.run_end(state, width)]
    parts += [render.other_line(talk, 4, width), render.note_line(Note(text=text or "n")), render.status_line(state, width)]
    for line in drawn(width, *parts).split("\n"):
        assert cell_len(line) <= width, line


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("height", [3, 6, 10, 24, 50])
def test_the_moving_part_fits_the_screen_and_ends_with_the_newest(width: int, height: int) -> None:
    events: list[AnyEvent] = [start(40), *(began(f"c{i}") for i in range(40))]
    for i in range(40):
        events += [said(f"c{i}", 0, SAYS[1] * 5), said(f"c{i}", 1, SAYS[1])]
        events.append(streamed(f"c{i}", 2, "one two three NEWEST"))
    lines = frame(state_of(events), width, height, "c0")
    assert len(lines) < height
    assert all(cell_len(line) <= width for line in lines)
    if height >= 24:
        text = " ".join(line.strip("│ ") for line in lines)
        assert "NEWEST" in text and "0/40 done" in text and "c0" in text


def test_before_anything_happens_the_screen_is_not_empty() -> None:
    assert "starting" in frame(RunState(), 60, 20)[0]
    loading = screen.frame(Painter(console(60)), RunState(), None, {"llama": 3.2}, 0)
    assert "loading llama  3 s" in "".join(segment.text for segment in loading.lines[0])
    state = RunState()
    state.apply(Loading(what="llama", gib=15.04))
    large = screen.frame(Painter(console(60)), state, None, {"llama": 3.2}, 0)
    assert "loading llama  15.0 GiB  3 s" in "".join(segment.text for segment in large.lines[0])


def test_a_stands_left_and_b_right_with_letter_and_model() -> None:
    lines = drawn(60, *render.whole(state_of(conversation("c1")).conversations["c1"], 60)).split("\n")
    a, b = (next(line for line in lines if mark in line) for mark in ("A · llama", "B · Mixtral"))
    assert a.startswith("╭─ A · llama") and len(a) < 60
    assert b.startswith("   ") and b.endswith("─╮") and len(b) == 60


def test_ratings_stand_side_by_side_with_wim_texts_scores_and_rewards() -> None:
    text = drawn(120, *render.whole(state_of(conversation("c1")).conversations["c1"], 120))
    row = next(line for line in text.split("\n") if line.strip().startswith("depth"))
    assert re.search(r"depth +7 ━━━━━━━─── +none", row)
    assert re.search(r"reward +\+0\.41 +none", text)
    assert "A misses in B   WIM score 0.62" in text and "The role of water is missing." in text
    assert "no answer: B on A, depth: no number" in text
    assert "ended after 4 turns: all turns are spoken" in text


def test_cuts_notes_and_turn_rewards_stand_under_their_bubble() -> None:
    state = state_of([began("c1"), rewarded("c1", "b", "a", 0.2, turn=0)])
    talk = state.conversations["c1"]
    turn = Turn(speaker="a", text="hi", cut=True, note="2 oldest turns not shown: context full")
    assert "2 oldest turns not shown: context full · cut at the token limit" in drawn(200, render.turn_bubble(turn, 1, talk, 200))
    assert "rating 7.0, WIM 0.50, reward +0.20" in drawn(120, render.turn_bubble(turn.model_copy(update={"note": None}), 0, talk, 120))


@pytest.mark.parametrize("width", [60, 120])
def test_escapes_and_markup_in_model_text_do_nothing(width: int) -> None:
    """Whatever stands in a topic, a turn, a WIM text, a model's name or a reason, the only escapes are our own colours."""
    events: list[AnyEvent] = [start(), Note(text=ATTACK), *conversation("c1", topic=ATTACK, says=(ATTACK, ATTACK))]
    state = state_of([*events, began("c2", topic=ATTACK), streamed("c2", 0, ATTACK), began("c3"), streamed("c3", 0, ATTACK)])
    state.finished = RunFinished(status="failed", reason=ATTACK, summary={"stop_reasons": {ATTACK: 1}})
    terminal = console(width)
    for part in [*render.whole(state.conversations["c1"], width), render.run_end(state, width), render.note_line(Note(text=ATTACK))]:
        terminal.print(part)
    terminal.print(screen.frame(Painter(terminal), state, state.conversations["c2"], {ATTACK: 1.0}, 0, ""))
    text = written(terminal)
    ours = re.sub(r"\x1b\[[\d;]*m", "", text)
    assert not ESCAPE.search(ours)
    assert "[bold]loud[/bold] [/] [link=http://x]y" in ours
    codes = {code for codes in re.findall(r"\x1b\[([\d;]*)m", text) for code in codes.split(";")}
    assert codes <= {"0", "1", "2", "3", "31", "32", "35", "36", ""}, codes  # no black, white, yellow, blue, no background


def test_other_conversations_are_one_line_each_with_the_tail_of_their_text() -> None:
    state = state_of([start(3), began("c1"), began("c2"), streamed("c2", 0, "one two three " * 20 + "END"), began("c3")])
    lines = frame(state, 80, 30, "c1")
    other = next(line for line in lines if line.strip().startswith("c2"))
    assert other.endswith("END") and "A …" in other
    assert any(line.strip().startswith("c3") for line in lines)


def test_a_narrow_status_line_leaves_out_the_least_and_never_cuts_a_number() -> None:
    progress = Progress(finished=1, total=16, turns=1234, tokens=99999, seconds=100.0, waiting={"a": 3, "judge": 7})
    state = state_of([start(16), progress])
    wide, narrow = render.status_line(state, 120).plain, render.status_line(state, 60).plain
    assert wide.endswith("1,234 turns · 99,999 tokens · 1,000 tokens/s · 1:40 · waiting: A 3, judge 7")
    assert narrow.endswith("1,000 tokens/s · 1:40") and len(narrow) <= 60


# -- the live view ----------------------------------------------------------------------------------------------------


def live(width: int = 80, height: int = 24, **more: bool) -> tuple[LiveView, io.StringIO]:
    terminal = console(width, height)
    assert isinstance(terminal.file, io.StringIO)
    return LiveView(terminal, threaded=False, **more), terminal.file


def test_the_live_view_streams_then_keeps_whole_conversations_and_ends_with_the_summary() -> None:
    view, out = live()
    view.draw()
    assert "starting" in out.getvalue()
    for event in [start(2), Loading(what="llama"), Loading(what="llama", done=True, seconds=1.5), began("c1"), began("c2")]:
        view.send(event)
    view.send(streamed("c1", 0, "A half sent"))
    view.draw()
    assert view.focus is not None and view.focus.id == "c1"
    assert "A half sent" in plainly(out.getvalue()) and "✓ llama  1.5 s" in plainly(out.getvalue())
    out.truncate(0)
    for event in whole_run(("c1", "c2"))[3:]:
        view.send(event)
    view.close()
    view.close()
    text = plainly(out.getvalue())
    assert text.count("I have been on Stromboli.") == 2
    assert text.index("c1") < text.index("c2") < text.index("means over 2 conversations") < text.index("expertchat watch runs/r")
    assert out.getvalue().rindex("\x1b[?25h") > out.getvalue().rfind("\x1b[?25l")  # the cursor is back


def test_focus_goes_to_the_next_conversation_when_one_is_judged() -> None:
    view, _ = live()
    for event in [start(2), began("c2"), began("c1"), *conversation("c2")]:
        view.send(event)
    view.draw()
    assert view.focus is not None and view.focus.id == "c1"
    view.close()


def test_a_large_run_prints_most_conversations_as_one_line() -> None:
    view, out = live(120)
    names = tuple(f"c{i:04}" for i in range(30))
    view.send(start(30))
    for name in names:
        view.send(began(name))
    for name in reversed(names):  # the focus, c0000, ends last
        for event in conversation(name):
            view.send(event)
    view.close()
    text = plainly(out.getvalue())
    assert text.count("I have been on Stromboli.") == 9  # 8 whole ones, and the one in focus
    assert all(name in text for name in names)


def test_everything_prints_all_whole() -> None:
    view, out = live(everything=True)
    for event in whole_run(tuple(f"c{i:04}" for i in range(30))):
        view.send(event)
    view.close()
    assert plainly(out.getvalue()).count("I have been on Stromboli.") == 30


def test_an_unfinished_conversation_stays_on_the_screen_after_close() -> None:
    view, out = live()
    for event in [start(), began("c1"), said("c1", 0, "The first turn."), streamed("c1", 1, "The second is ha", "b")]:
        view.send(event)
    view.draw()
    out.truncate(0)
    view.close()
    text = plainly(out.getvalue())
    assert "The first turn." in text and "The second is ha" in text and "not finished" in text


def test_a_drawing_that_fails_frees_the_terminal_and_the_next_send_says_so() -> None:
    class Broken(io.StringIO):
        armed = False

        def write(self, text: str) -> int:
            if self.armed and "BOOM" in text:
                raise OSError("no space")
            return super().write(text)

    file = Broken()
    view = LiveView(Console(file=file, width=60, height=20, force_terminal=True, _environ={}))
    file.armed = True
    view.send(Note(text="BOOM"))
    deadline = time.monotonic() + 10
    with pytest.raises(RuntimeError, match="no space"):
        while time.monotonic() < deadline:
            view.send(Progress(finished=0, total=1, turns=0, tokens=0, seconds=0.0))
            time.sleep(0.02)
    view.close()


def test_sending_does_not_draw(monkeypatch: pytest.MonkeyPatch) -> None:
    draws: list[int] = []
    monkeypatch.setattr(LiveView, "draw", lambda view: draws.append(1))
    view = LiveView(console(100, 40))
    view.send(start(64))
    for i in range(64):
        view.send(began(f"c{i}"))
    for step in range(100):
        for i in range(64):
            view.send(streamed(f"c{i}", 0, "word " * step))
    view.close()
    assert len(draws) < 6400 / 10  # the thread draws a few times a second, whatever is sent


def test_a_terminal_made_narrower_takes_back_the_rows_that_wrapped() -> None:
    view, _ = live(80, 24)
    for event in [start(), began("c1"), said("c1", 0, SAYS[1])]:
        view.send(event)
    view.draw()
    lines = view._shown.lines
    wide = [sum(segment.cell_length for segment in line) for line in lines]
    expected = sum(max(1, -(-width // 40)) for width in wide)  # each line wraps into ceil(length / 40) rows
    assert expected > len(lines)
    assert view._shown.rows(40) == expected
    view.console.width = 40
    view._after_resize()
    assert view._live._live_render.last_render_height == min(expected, 24)
    view.close()


# -- plain lines --------------------------------------------------------------------------------------------------------


def test_plain_lines_say_everything() -> None:
    lines = plain(whole_run(("c0001",)))
    assert "[c0001 volcanoes] begins: A is llama, B is Mixtral-8x7B-Instruct-v0.1" in lines
    assert "[c0001 volcanoes] A: I have been on Stromboli. It throws sparks every twenty minutes." in lines
    assert "[c0001 volcanoes] ended after 4 turns: all turns are spoken" in lines
    table = [line for line in lines if re.search(r"\] (rating|depth|clarity|WIM score|reward) ", line)]
    assert table == [
        "[c0001 volcanoes] rating 1-10   A on B  B on A",
        "[c0001 volcanoes] depth              7    none",
        "[c0001 volcanoes] clarity      6.8 (8)       5",
        "[c0001 volcanoes] WIM score       0.62    1.00",
        "[c0001 volcanoes] reward         +0.41    none",
    ]
    assert "[c0001 volcanoes] A misses in B (WIM score 0.62): The role of water is missing." in lines
    assert "[c0001 volcanoes] B misses in A (WIM score 1.00): nothing is missing" in lines
    assert "look again: expertchat watch runs/r" in lines


def test_plain_lines_hold_no_escapes_and_one_turn_is_one_line() -> None:
    attack = ATTACK + "\n[c0009 forged] A: I never said this\r\x85end"
    lines = plain(whole_run(("c0001",), says=(attack, attack), topic=attack))
    assert not any(ESCAPE.search(line) or line.startswith("[c0009") for line in lines)


def test_the_silent_view_speaks_only_of_failure() -> None:
    out = io.StringIO()
    view = NullView(out)
    for event in whole_run():
        view.send(event)
    assert out.getvalue() == ""
    view.send(RunFinished(status="failed", reason="disk full"))
    assert out.getvalue() == "failed: disk full\n"


# -- which view -----------------------------------------------------------------------------------------------------


class Terminal(io.StringIO):
    encoding = "utf-8"  # type: ignore[assignment]

    def isatty(self) -> bool:
        return True


def test_live_needs_a_terminal_that_can_be_drawn_on(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TTY_COMPATIBLE", "TTY_INTERACTIVE", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    view = open_view("live", Terminal())
    assert isinstance(view, LiveView)
    view.close()
    assert isinstance(open_view("live", io.StringIO()), PlainView)
    monkeypatch.setenv("FORCE_COLOR", "1")  # colour may be forced into a pipe; moving a cursor there makes no sense
    assert isinstance(open_view("live", io.StringIO()), PlainView)
    monkeypatch.delenv("FORCE_COLOR")
    monkeypatch.setenv("TERM", "dumb")
    assert isinstance(open_view("live", Terminal()), PlainView)
    assert isinstance(open_view("none"), NullView)
    with pytest.raises(ConfigError, match="live, plain, none"):
        open_view("loud")


def test_a_stream_that_is_not_utf8_goes_on_with_question_marks() -> None:
    raw = io.BytesIO()
    view = open_view("plain", io.TextIOWrapper(raw, encoding="ascii", write_through=True))
    view.send(Note(text="naïve"))
    assert raw.getvalue() == b"note: na?ve\n"
