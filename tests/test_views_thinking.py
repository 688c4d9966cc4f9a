"""What experts think, in the views: one folded line, or all of it where it was asked for; while it is written, recorded, replayed."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from expertchat.events import AnyEvent, ConversationFinished, ConversationJudged, RunFinished, TextStreamed, TurnFinished
from expertchat.folder.following import LiveFile
from expertchat.records import Turn
from expertchat.views import render
from expertchat.views.live import LiveView
from expertchat.views.model import RunState
from expertchat.views.plain import PlainView
from expertchat.views.replay import timeline
from expertchat.views.watch import watch
from expertchat.views.words import summary_lines, thought_in_words
from tests.test_store import opened
from tests.test_views_watch import run_folder
from tests.viewed import began, console, drawn, frame, start

THOUGHT = "A zebra?\x1b[2J Or " + "a horse? " * 210 + "Well."  # 2 + 1 + 420 + 1 words
EVENTS: list[AnyEvent] = [
    start(1, 2),
    began("c0"),
    TurnFinished(
        conversation="c0", index=0, time=110.0, turn=Turn(speaker="a", text="Bees dance.", tokens=500, seconds=8.0, thinking=THOUGHT)
    ),
    TurnFinished(
        conversation="c0", index=1, time=120.0,
        turn=Turn(speaker="b", text="", thinking="A zebra?", note="all thinking: raise experts.b.decoding.reply.max_new_tokens"),
    ),
]  # fmt: skip
ENDED: list[AnyEvent] = [
    ConversationFinished(conversation="c0", turns=2, stop_reason="turns"),
    ConversationJudged(conversation="c0"),
    RunFinished(status="done", summary={"turns_thought": 2, "words_thought": 426, "turns_all_thinking": 1}),
]


def state(unfold: bool = False, *more: AnyEvent) -> RunState:
    made = RunState(unfold=unfold)
    for event in [*EVENTS, *more]:
        made.apply(event)
    return made


def plain(unfold: bool, events: list[AnyEvent]) -> str:
    stream = io.StringIO()
    view = PlainView(stream, unfold)
    for event in events:
        view.send(event)
    return stream.getvalue()


def test_words_are_counted() -> None:
    assert thought_in_words(THOUGHT) == "thought 424 words" and thought_in_words("Well.", now=True) == "thinking ... 1 word"
    assert thought_in_words(None) == thought_in_words("") == ""


@pytest.mark.parametrize("width", [40, 100])
def test_thoughts_are_one_dim_line_in_the_bubble(width: int) -> None:
    folded = drawn(width, *render.whole(state().conversations["c0"], width))
    assert "thought 424 words" in folded and "Bees dance." in folded and "thought 2 words" in folded and "zebra" not in folded
    assert "all thinking" in folded
    unfolded = drawn(width, *render.whole(state(True).conversations["c0"], width))
    assert "zebra" in unfolded and "Bees dance." in unfolded and "\x1b[2J" not in unfolded
    assert max(map(len, unfolded.split("\n"))) <= width
    assert unfolded.index("zebra") < unfolded.index("Bees dance.")


def test_a_turn_that_is_thought_up_shows_nothing_of_it() -> None:
    def shown(unfold: bool, text: str, thinking: str) -> str:
        writing = TextStreamed(conversation="c0", turn=2, speaker="a", text=text, thinking=thinking)
        return "\n".join(frame(state(unfold, writing), 100, 40, "c0"))

    thoughts = "Maybe a quagga, then."
    before, after = shown(False, "", thoughts), shown(False, "Wasps", thoughts)
    assert "thinking ... 4 words" in before and "quagga" not in before
    assert "thought 4 words" in after and "Wasps▌" in after and "quagga" not in after
    assert "quagga" in shown(True, "", thoughts)
    other = state(False, began("c1"), TextStreamed(conversation="c1", turn=0, speaker="a", text="", thinking="Maybe a quagga."))
    assert "thinking ... 3 words" in drawn(120, render.other_line(other.conversations["c1"], 2, 120))


def test_plain_lines_count_the_words_or_hold_all_of_them() -> None:
    folded = plain(False, [*EVENTS, *ENDED])
    assert "A: Bees dance. (thought 424 words)" in folded and "B:  (thought 2 words; all thinking: raise" in folded
    assert "zebra" not in folded and "thinking: 2 turns thought 426 words; 1 of them said nothing after it" in folded
    unfolded = plain(True, EVENTS)
    assert unfolded.index("A thinks: A zebra?") < unfolded.index("A: Bees dance.") and "\x1b" not in unfolded


def test_the_live_view_unfolds_them() -> None:
    for unfold in (False, True):
        screen = console(100, 40)
        view = LiveView(screen, threaded=False, show_thinking=unfold)
        for event in [*EVENTS, *ENDED]:
            view.send(event)
        view.close()
        assert isinstance(screen.file, io.StringIO)
        assert ("zebra" in screen.file.getvalue()) == unfold


def test_watch_and_replay_show_them_folded_or_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = run_folder(tmp_path / "run", [*EVENTS, *ENDED])
    for thinking in (False, True):
        assert watch(folder, view="plain", thinking=thinking) == 0
        said = capsys.readouterr().out
        assert "thought 424 words" in said and ("zebra" in said) == thinking


def test_a_replayed_turn_is_thought_before_it_is_said() -> None:
    grown = [event for _, event in timeline(EVENTS[:3]) if isinstance(event, TextStreamed)]
    assert len(grown) > 10
    assert all(not event.text or event.thinking.split() == THOUGHT.split() for event in grown)
    assert grown[0].text == "" and 0 < len(grown[0].thinking) < len(THOUGHT)


def test_live_json_keeps_thoughts_apart(tmp_path: Path) -> None:
    store = opened(tmp_path / "run")
    store.send(TextStreamed(conversation="c0000", turn=1, speaker="b", text="Bees", thinking="A zebra?"))
    store._live._write()
    (event,) = LiveFile(tmp_path / "run/live.json").poll()
    assert isinstance(event, TextStreamed) and (event.text, event.thinking) == ("Bees", "A zebra?")
    old = {"conversation": "c0", "turn": 0, "speaker": "a", "text": "Hi"}
    (tmp_path / "old.json").write_text(json.dumps({"turns": [old]}))
    assert [event.thinking for event in LiveFile(tmp_path / "old.json").poll() if isinstance(event, TextStreamed)] == [""]
    store.close()


def test_the_end_of_a_run_of_before_says_nothing_of_it() -> None:
    assert not [label for label, _ in summary_lines(state(False, RunFinished(status="done"))) if label == "thinking"]
