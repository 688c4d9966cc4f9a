"""What reaches the terminal: text of models, users and files is text there, whole in its script, and never steers."""

from __future__ import annotations

import io
import re
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from rich.cells import cell_len
from rich.style import Style
from rich.table import Table
from rich.text import Text

from expertchat import cli
from expertchat.config import ConfigError
from expertchat.doors.guard import guarded
from expertchat.events import AnyEvent, Loading, Note, RunFinished
from expertchat.views import render
from expertchat.views.console import CleanConsole
from expertchat.views.live import LiveView
from expertchat.views.models import print_models
from expertchat.views.outcomes import print_submitted
from expertchat.views.plain import NullView, PlainView
from expertchat.views.runs import print_runs
from tests.scripted import Collect, Double, run
from tests.viewed import conversation, start, state_of

VIEWS = Path(cli.__file__).parent / "views"
HOSTILE = (
    "\x1b[2J\x1b]8;;http://evil\x07click\x1b]8;;\x1b\\ \x1b]0;title\x07 \x9b31m\x90q [bold]loud[/bold] [link=http://x]y[/link] [/] :smile: "
    "\u202eright\u2066\u2069\u200e\u061c \u00adsoft \U000e0001\U000e0068\U000e0069\U000e007f tags \ufff9x\ufffa \u2028 line \x85 next\r "
    "Z\u0335\u0301\u0335\u0301\u0335\u0301\u0335\u0301\u0335\u0301\u0335\u0301 \ud800 \x00\x08\x0b"
)
WHOLE = ("می‌خواهم", "👨‍👩‍👧‍👦", "क्‍ष", "🏴󠁧󠁢󠁥󠁮󠁧󠁿", "寿司")


def steers(shown: str) -> list[str]:
    """Characters of a screen that do more than stand there; colours of our own are left out first."""
    plain = re.sub(r"\x1b\[[\d;]*m", "", shown)
    flags = re.sub("\U0001f3f4[\U000e0030-\U000e007a]+\U000e007f", "", plain)
    bad = [c for c in flags if (unicodedata.category(c) in ("Cc", "Cs") and c != "\n") or c in "\u00ad\u061c\u200e\u202e\u2066\u2028"]
    bad += [c for c in flags if 0xE0000 <= ord(c) <= 0xE007F]
    return bad + re.findall("[\u0300-\u036f]{9,}", flags)


def screen(width: int = 80) -> CleanConsole:
    return CleanConsole(
        file=io.StringIO(), width=width, force_terminal=True, color_system="standard", markup=False, emoji=False, highlight=False,
        _environ={},
    )  # fmt: skip


def text_of(console: Any) -> str:
    return str(console.file.getvalue())


def test_a_console_cleans_what_nobody_cleaned_before() -> None:
    console = screen()
    table = Table(title=HOSTILE)
    table.add_column(HOSTILE)
    table.add_row(Text(HOSTILE, "bold red"), style=Style(color="red"))
    console.print(HOSTILE, Text(HOSTILE), table, *WHOLE)
    shown = text_of(console)
    assert not steers(shown) and "[bold]loud[/bold]" in shown and ":smile:" in shown and "\x1b]8" not in shown
    assert all(whole in shown for whole in WHOLE)


def test_no_view_makes_a_console_of_another_kind() -> None:
    for path in VIEWS.glob("*.py"):
        made = re.findall(r"(?<!Clean)\bConsole\(", path.read_text("utf-8"))
        assert not made or path.name == "console.py", path


def hostile_run() -> list[AnyEvent]:
    return [
        start().model_copy(update={"folder": HOSTILE, "command": HOSTILE}),
        Loading(what=HOSTILE),
        Loading(what=HOSTILE, done=True, seconds=1.0),
        Note(text=HOSTILE, level="warning"),
        *conversation("c1", topic=HOSTILE, says=(HOSTILE, " ".join(WHOLE))),
        RunFinished(status="failed", reason=HOSTILE, summary={"stop_reasons": {HOSTILE: 1}, "faults": {"rating": {HOSTILE: 1}}}),
    ]


def test_live_plain_and_none() -> None:
    live, plain, none = screen(), io.StringIO(), io.StringIO()
    views: list[Any] = [LiveView(live, threaded=False), PlainView(plain), NullView(none)]
    for view in views:
        for event in hostile_run():
            view.send(event)
            if isinstance(view, LiveView):
                view.draw()
        view.close()
    drawn = re.sub(r"\x1b\[(?:\?25[lh]|\d*[ABCDGK]|[\d;]*m)|\r", "", text_of(live))  # rich moves its cursor
    for shown in (drawn, plain.getvalue(), none.getvalue()):
        assert not steers(shown), shown
    for shown in (drawn, plain.getvalue()):
        assert all(whole in shown for whole in WHOLE), shown
    assert len(plain.getvalue().encode().splitlines()) == len(plain.getvalue().splitlines())


def test_lists_and_what_submit_says(tmp_path: Path) -> None:
    out = io.StringIO()
    models = {"name": HOSTILE, "state": "broken", "size": 1.0, "folder": HOSTILE, "about": HOSTILE, "path": HOSTILE, "problem": HOSTILE}
    print_models({"models": [{**models, "get": [HOSTILE]}], "others": [HOSTILE], "models_dir": ""}, out)
    row = dict.fromkeys(("name", "reason", "job", "last_event", "command", "resume"), HOSTILE) | {
        "state": "failed", "tasks": [], "done": 1, "total": 2, "unit": "rounds", "restarts": 0, "left": None, "last_time": 1.0,
        "began": 0.0,
    }  # fmt: skip
    print_runs({"runs": [row], "notes": [HOSTILE]}, out)
    print_submitted({"job": HOSTILE, "about": HOSTILE, "run": HOSTILE, "script": HOSTILE, "notes": [HOSTILE]}, out)
    assert not steers(out.getvalue()) and out.getvalue().encode()


@pytest.mark.parametrize("width", [20, 40, 80])
@pytest.mark.parametrize("text", [*(f"{whole} " * 30 for whole in WHOLE), "🏳️‍🌈" * 60, "می‌خواهم" * 40, "e\u0301" * 200, "1️⃣" * 50])
def test_no_bubble_is_wider_than_the_screen(text: str, width: int) -> None:
    console = screen(width)
    console.print(*render.whole(state_of(conversation("c1", topic=text, says=(text, text))).conversations["c1"], width))
    for line in re.sub(r"\x1b\[[\d;]*m", "", text_of(console)).split("\n"):
        assert cell_len(line) <= width, line


def test_errors_and_tracebacks_are_clean_and_not_endless(capsys: pytest.CaptureFixture[str]) -> None:
    def wrong() -> int:
        raise ConfigError([HOSTILE, "x" * 100_000])

    def broken() -> int:
        raise RuntimeError(HOSTILE)

    assert guarded(wrong) == 2 and guarded(broken) == 1
    said = capsys.readouterr().err
    assert not steers(said) and said.encode() and len(said) < 12_000 and "... (100,000 characters)" in said and "RuntimeError" in said


def test_a_run_on_hostile_texts_keeps_them_readable_and_harmless(tmp_path: Path) -> None:
    """From the topic and the reply to the records: what belongs to the script is there, what steers is not, and nothing breaks."""
    sink = Collect()
    topics = tmp_path / "t.txt"
    topics.write_text(f"{HOSTILE.replace(chr(0xD800), '')} {' '.join(WHOLE)}\n", "utf-8")
    double = Double(lambda request: f"{HOSTILE} {' '.join(WHOLE)} {request.key}")
    settings = ("topics=file", f"topics.file={topics}", "conversation.count=1", "conversation.turns=2")
    run(tmp_path / "run", *settings, double=double, sink=sink)
    for name in ("topics", "transcripts", "ratings", "wim", "events", "answers"):
        file = tmp_path / "run" / f"{name}.jsonl"
        assert file.is_file() and file.read_text("utf-8"), name
    kept = (tmp_path / "run" / "transcripts.jsonl").read_text("utf-8")
    assert all(whole in kept for whole in WHOLE) and not steers(kept)
