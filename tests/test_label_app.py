"""The app in which people label, without a terminal, and its pages."""

from __future__ import annotations

import asyncio
import fcntl
import json
import shlex
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from textual.pilot import Pilot
from textual.widgets import Static

from expertchat.config import ConfigError
from expertchat.labels.config import FormConfig
from expertchat.labels.sitting import Sitting
from expertchat.labels.store import LabelFile
from expertchat.labels.tasks import tasks_of
from expertchat.records import Turn
from expertchat.records.lab import Item, Opinion
from expertchat.views.label.app import LabelApp
from tests.labelled import PAIRS, RATINGS, SOURCE, form, pair, single, written

Steps = Callable[[Pilot[None]], Awaitable[None]]
EVIL = "\t[bold red]x[/] [link=http://evil]y[/link] \x1b[2J\x1b]0;owned\x07 \u202eabc"


def app_of(folder: Path, items: list[Item], which: FormConfig = RATINGS, annotator: str | None = "ann", opinions: Any = None) -> LabelApp:
    def begin(name: str) -> Sitting:
        if name == "x":
            raise ConfigError("annotator=x: is [labelling] in another window")
        return Sitting(which, tasks_of(items, which, name, 0, shuffle=False, again=0), LabelFile(folder, name, {SOURCE}), opinions)

    return LabelApp(begin, annotator)


def use(app: LabelApp, steps: Steps, size: tuple[int, int] = (100, 30)) -> None:
    async def run() -> None:
        async with app.run_test(size=size) as pilot:
            await pilot.pause()
            await steps(pilot)
        if isinstance(app.sitting, Sitting):
            app.sitting.close()

    asyncio.run(run())


def screen(pilot: Pilot[None]) -> str:
    """What stands on the screen."""
    return "\n".join(strip.text for strip in pilot.app.screen._compositor.render_strips())


def is_open(path: Path) -> bool:
    """Whether an app holds a file of labels."""
    with open(path) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def kept(folder: Path, annotator: str = "ann") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / annotator / "labels.jsonl").read_text("utf-8").splitlines()]


def test_ratings_by_keys_with_flags_words_undo_and_skip(tmp_path: Path) -> None:
    async def steps(pilot: Pilot[None]) -> None:
        assert "text 1" in screen(pilot) and "model-x" not in screen(pilot) and "0/3 done" in screen(pilot)
        await pilot.press("7", "enter")  # clarity is lacking: nothing is kept
        assert kept(tmp_path) == []
        await pilot.press("0", "f", "2", "enter", "w", "x", "escape", "c", "y", "escape")
        assert "10 ━━━━━━━━━━" in screen(pilot) and "flags  rude" in screen(pilot) and "missing  x" in screen(pilot)
        await pilot.press("enter")
        assert "text 2" in screen(pilot) and "1/3 done" in screen(pilot)
        await pilot.press("1", "minus", "enter", "u", "up", "2", "enter", "s")
        assert "Everything is answered" in screen(pilot) and "1 skipped" in screen(pilot)

    use(app_of(tmp_path, [single(1), single(2), single(3)]), steps)
    lines = kept(tmp_path)
    first = lines[0]
    assert (first["ratings"], first["flags"], first["missing"], first["comment"]) == ({"depth": 7, "clarity": 10}, ["rude"], "x", "y")
    assert [(one["item"], one["ratings"], one["withdrawn"], one["skipped"]) for one in lines[1:]] == [
        ("s02", {"depth": 1, "clarity": None}, False, False),
        ("s02", {"depth": 1, "clarity": None}, True, False),
        ("s02", {"depth": 1, "clarity": 2}, False, False),
        ("s03", {}, False, True),
    ]


def test_pairs_by_keys_are_kept_by_place_whatever_the_side(tmp_path: Path) -> None:
    items = [pair(n) for n in range(5)]

    async def steps(pilot: Pilot[None]) -> None:
        for _ in range(4):
            await pilot.press("a")  # whatever stands on the left, kept at once
        assert "model-" not in screen(pilot) and "Which is better?" in screen(pilot) and "Speaker 1" in screen(pilot)
        await pilot.press("t")

    use(app_of(tmp_path, items, form("pairs")), steps)
    lines = kept(tmp_path)
    assert [one["choice"] for one in lines[:4]] == [one["shown"] for one in lines[:4]]
    assert {one["shown"] for one in lines} == {"first", "second"}
    assert lines[4]["choice"] == "tie"


def test_what_stands_on_the_left_is_what_is_chosen(tmp_path: Path) -> None:
    app = app_of(tmp_path, [pair(1, "UNO", "DUE")], PAIRS)

    async def steps(pilot: Pilot[None]) -> None:
        task = pilot.app.sitting.task  # type: ignore[attr-defined]
        row = next(line for line in screen(pilot).splitlines() if "UNO" in line)
        assert (row.index("UNO") < row.index("DUE")) == (task.left == "first")
        await pilot.press("b", "enter")

    use(app, steps)
    (line,) = kept(tmp_path)
    assert line["choice"] == ("second" if line["shown"] == "first" else "first")


def test_text_of_models_is_text(tmp_path: Path) -> None:
    item = single(1, EVIL, topic=EVIL, turns=[Turn(speaker="llama", text=EVIL), Turn(speaker="a", text="x")])

    async def steps(pilot: Pilot[None]) -> None:
        shown = screen(pilot)
        assert shown.count("[bold red]x[/] [link=http://evil]y[/link]") == 3
        assert not set(shown) & {"\x1b", "\x07", "\u202e"} and "llama" not in shown.lower() and "Speaker 2 goes on" in shown

    use(app_of(tmp_path, [item]), steps)


def test_long_dialogues_scroll_and_a_whole_one_marks_who_is_judged(tmp_path: Path) -> None:
    turns = [Turn(speaker="ab"[n % 2], text=f"sentence {n} " * 12) for n in range(30)]
    item = single(1, "all of it", turns=turns, whole=True)

    async def steps(pilot: Pilot[None]) -> None:
        assert "Judge all that Speaker 1 says" in screen(pilot) and "▌Speaker 1" in screen(pilot) and "sentence 29" not in screen(pilot)
        await pilot.press("end")
        await pilot.pause()
        assert "sentence 29" in screen(pilot) and "all of it" not in screen(pilot)

    use(app_of(tmp_path, [item]), steps, (70, 24))


def test_the_judges_are_shown_afterwards_and_only_where_they_may_be(tmp_path: Path) -> None:
    opinion = Opinion(id="x", item="s01", judge="mixtral[b]", category="depth", expected=6.25)

    async def steps(pilot: Pilot[None]) -> None:
        await pilot.press("v")
        assert "6.2" not in screen(pilot)
        await pilot.press("7", "8", "enter", "v")
        assert "mixtral[b]" in screen(pilot) and "depth: 6.2" in screen(pilot) and "depth 7, clarity 8" in screen(pilot)
        await pilot.press("x", "u")
        assert "1/2 done" in screen(pilot)  # it stands

    use(app_of(tmp_path, [single(1), single(2)], opinions={"s01": [opinion]}), steps)

    async def never(pilot: Pilot[None]) -> None:
        await pilot.press("7", "8", "enter", "v")
        assert "What the judges say" not in screen(pilot)

    use(app_of(tmp_path / "b", [single(1), single(2)]), never)


def test_the_app_asks_for_a_name_and_tells_why_one_is_refused(tmp_path: Path) -> None:
    async def steps(pilot: Pilot[None]) -> None:
        await pilot.press("x", "enter")
        assert "is [labelling] in another window" in screen(pilot)
        await pilot.press("backspace", "c", "enter", "1", "2", "enter")

    use(app_of(tmp_path, [single(1)], annotator=None), steps)
    assert [one["annotator"] for one in kept(tmp_path, "c")] == ["c"]


def test_a_disk_that_is_full_ends_the_app_with_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    app = app_of(tmp_path, [single(1)])

    def full(fd: int, line: object) -> int:
        raise OSError(28, "No space left on device")

    async def steps(pilot: Pilot[None]) -> None:
        with monkeypatch.context() as patch:
            patch.setattr("expertchat.folder.jsonl.os.write", full)
            await pilot.press("1", "2", "enter")

    use(app, steps)
    assert app.failed is not None and "No space left" in str(app.failed)


def test_keys_that_mean_nothing_are_not_offered(tmp_path: Path) -> None:
    async def steps(pilot: Pilot[None]) -> None:
        foot = screen(pilot).splitlines()[-1]
        assert "neither" in foot and "missing" not in foot and "judges" not in foot and "rate" not in foot
        await pilot.press("question_mark")
        assert "keep the answer and go on" in screen(pilot)
        await pilot.press("escape")
        assert pilot.app.screen.query_one("#left", Static).display

    use(app_of(tmp_path, [pair(1)], PAIRS), steps)


# -- pages ----------------------------------------------------------------------------------------------------------------


def test_where_the_page_is_is_told_as_a_browser_takes_it() -> None:
    from expertchat.views.label.pages import Pages

    found = [Pages("label", host, 8000, "label", print).address for host in ("localhost", "::1")]
    assert found == ["http://localhost:8000", "http://[::1]:8000"]


def test_a_page_of_its_own_is_served_and_no_other_site_may_ask(tmp_path: Path) -> None:
    from aiohttp import ClientSession, WSMsgType, WSServerHandshakeError
    from aiohttp.test_utils import TestServer

    from expertchat.views.label.pages import Pages

    source = written(tmp_path / "items.jsonl", [single(1), single(2)])
    keys = ["annotator=web", f"labels={tmp_path}/labels", "form=open_assistant"]
    words = [sys.executable, "-m", "expertchat.cli", "label", str(source), *keys]

    async def visit() -> None:
        pages = Pages(shlex.join(words), "localhost", 8000, "label", lambda text: None)
        async with TestServer(await pages._make_app()) as server, ClientSession() as client:
            url = f"http://localhost:{server.port}"
            async with client.get(f"{url}/") as found:
                text = await found.text()
                assert found.status == 200 and f"ws://localhost:{server.port}/ws" in text and "googleapis" not in text
                assert "static/css/xterm.css" in text
            async with client.get(f"{url}/", headers={"Host": "evil.example"}) as found:
                assert found.status == 403
            with pytest.raises(WSServerHandshakeError, match="403"):
                await client.ws_connect(f"{url}/ws", headers={"Origin": "http://evil.example"})
            async with client.ws_connect(f"{url}/ws?width=100&height=30", headers={"Origin": url}) as socket:
                seen = b""
                while b"quality" not in seen:
                    message = await socket.receive(timeout=30)
                    assert message.type is WSMsgType.BINARY, message
                    seen += message.data
                for key in "345678\r":
                    await socket.send_json(["stdin", key])
                for _ in range(200):
                    await asyncio.sleep(0.05)
                    if (path := tmp_path / "labels" / "web" / "labels.jsonl").is_file() and path.stat().st_size:
                        break
                await socket.send_json(["stdin", "q"])
                while (await socket.receive(timeout=30)).type is WSMsgType.BINARY:
                    pass
            while is_open(tmp_path / "labels" / "web" / "labels.jsonl"):
                await asyncio.sleep(0.1)
            await asyncio.sleep(0.1)  # for the loop to hear that the app has ended

    asyncio.run(visit())
    (line,) = kept(tmp_path / "labels", "web")
    assert line["ratings"] == {"quality": 3, "helpful": 4, "creative": 5, "humorous": 6, "polite": 7, "harmless": 8}
