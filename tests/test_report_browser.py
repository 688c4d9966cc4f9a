"""A report in a real browser: opened, searched, driven by keys, read by a screen reader's rules, and fed with texts that mean harm.

Runs where playwright and a Chromium are installed: `python -m pytest -m slow tests/test_report_browser.py`.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from expertchat.records import Demonstration
from expertchat.report.command import write
from expertchat.report.subject import subject_of
from tests.reported import HOSTILE, dialogues, written

sync_api = pytest.importorskip("playwright.sync_api")
CHROMIUM = next((path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None)
pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")]
READY = "document.body.classList.contains('ready')"
WIDTHS = {"phone": 390, "laptop": 1280, "wide": 1920}
Open = Callable[..., Any]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as play:
        found = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture
def opened(browser: Any) -> Iterator[Open]:
    """Opens a file as a page; whatever the console says, or the page asks for, is kept in `page.told` and `page.asked`."""
    contexts = []

    def open_(path: Path, width: int = 1280, scheme: str = "light", at: str = "", script: bool = True) -> Any:
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, java_script_enabled=script)
        contexts.append(context)
        page = context.new_page()
        page.told, page.asked = [], []
        page.on("console", lambda message: page.told.append(message.text))
        page.on("pageerror", lambda error: page.told.append(str(error)))
        page.on("request", lambda request: page.asked.append(request.url))
        page.goto(f"file://{path}{at}")
        if script:
            until(page, READY)
        return page

    yield open_
    for context in contexts:
        context.close()


def until(page: Any, holds: str) -> None:
    """Wait for it; playwright's own way of waiting is forbidden by the page's Content-Security-Policy."""
    end = time.monotonic() + 30
    while not _holds(page, holds):
        assert time.monotonic() < end, holds
        time.sleep(0.05)


def _holds(page: Any, what: str) -> bool:
    """Whether it holds; of a page that loads itself again just then nothing does."""
    try:
        return bool(page.evaluate(what))
    except sync_api.Error as error:
        if "Execution context was destroyed" not in str(error):
            raise
        return False


def page_of(*places: Path) -> Path:
    out = places[0].parent / f"{places[0].name}.html"
    write(subject_of(places), out)
    return out


@pytest.fixture(scope="module")
def hundred(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs on the same topics, 100 and 20 dialogues."""
    home = tmp_path_factory.mktemp("report")
    return page_of(dialogues(home / "one", 100, candidates=4), dialogues(home / "two", 20, seed=7))


# -- it can be read ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS)
def test_nothing_stands_beyond_the_edge_and_nothing_is_barred(opened: Open, hundred: Path, width: int, scheme: str) -> None:
    page = opened(hundred, width, scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.told == [] and page.asked == [f"file://{hundred}"]
    _axe(page)
    page.goto(f"file://{hundred}#read/0/c00003")
    page.get_by_text("4 candidates for this turn").click()
    page.get_by_text("what the judges answered").first.click()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    _axe(page)


def _axe(page: Any) -> None:
    """axe-core finds nothing serious."""
    source = pytest.importorskip("axe_playwright_python")
    page.evaluate((Path(source.__file__).parent / "axe.min.js").read_text("utf-8"))
    found = page.evaluate("axe.run(document)")["violations"]
    told = [(one["id"], one["impact"], one["nodes"][0]["html"][:200], one["nodes"][0]["failureSummary"]) for one in found]
    assert [one for one in told if one[1] in ("serious", "critical")] == []


def test_it_is_readable_without_script(opened: Open, hundred: Path) -> None:
    page = opened(hundred, script=False)
    assert page.locator("h1").inner_text().startswith("In 120 dialogues on 5 topics")
    assert page.locator("noscript").count() and "glaciers" in page.locator("main").inner_text()


def test_a_branch_leads_to_what_it_goes_on_from(opened: Open, tmp_path: Path) -> None:
    parent, child = dialogues(tmp_path / "parent", 3), dialogues(tmp_path / "runs" / "child", 1, seed=7)
    with (child / "config.yaml").open("a") as config:
        config.write(f"\nbranch:\n  run: {parent}\n  dialogue: c00002\n  turns: 2\n  edited: null\n")
    write(subject_of([parent, child]), tmp_path / "tree.html")
    page = opened(tmp_path / "tree.html", 390, at="#read/1/c00000")
    page.get_by_text("from here on otherwise than parent").wait_for()
    assert page.locator("article ol.turns > li").nth(2).get_attribute("class") == "from-here"
    page.get_by_role("link", name="parent, c00002").click()
    page.get_by_role("link", name="beside runs/child").click()
    until(page, "document.querySelectorAll('#reader article').length === 2")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390 and page.told == []
    _axe(page)


def test_rows_that_nobody_rated_have_no_column_for_it(opened: Open, tmp_path: Path) -> None:
    run = dialogues(tmp_path / "run", 0)
    asked = [{"role": "user", "content": "Accio ice"}]
    row = Demonstration(id="l1", prompt=asked, completion=[{"role": "assistant", "content": "['ice']"}], part="evaluation")
    written(run / "demonstrations.jsonl", [row])
    page = opened(page_of(run), at="#read/0/l1")
    page.get_by_role("heading", name="What it is to say").wait_for()
    assert not page.locator(".listed thead th").nth(1).is_visible() and not page.get_by_label("rated from").is_visible()
    assert page.locator(".listed thead th").nth(3).is_visible() and page.told == []


def test_it_prints_as_pages(opened: Open, hundred: Path, tmp_path: Path) -> None:
    page = opened(hundred, at="#read/0/c00003")
    page.locator("article.talk").wait_for()
    page.pdf(path=tmp_path / "report.pdf", format="A4")
    assert (tmp_path / "report.pdf").read_bytes().startswith(b"%PDF")
    page.emulate_media(media="print")
    assert not page.locator("form").is_visible() and page.locator("article.talk").is_visible()


# -- finding ----------------------------------------------------------------------------------------------------------------------


def test_search_filter_order(opened: Open, hundred: Path) -> None:
    page = opened(hundred)
    count, form = page.locator("#count"), page.locator("#find")
    assert count.inner_text() == "120 to read."
    form.locator("[name=run]").select_option(label="two")
    assert count.inner_text() == "20 of 120 to read."
    form.locator("[name=topic]").select_option("jazz")
    assert count.inner_text() == "4 of 120 to read."
    page.get_by_role("button", name="all of them").click()
    until(page, "document.getElementById('count').textContent === '120 to read.'")
    form.locator("[name=flag]").select_option("loop")  # 5, 16, ..., 93 of the first run: 9; 5 and 16 of the second
    assert count.inner_text() == "11 of 120 to read."
    form.locator("[name=flag]").select_option("")
    first = page.locator("#list tr").first
    words = page.locator("article.talk .said").first.inner_text()[:40]
    form.locator("[name=words]").fill(words.upper())
    until(page, "/^1 of/.test(document.getElementById('count').textContent)")
    first.locator("a").click()
    assert words.lower() in page.locator("article.talk mark").first.inner_text().lower()
    form.locator("[name=words]").fill("no such words anywhere")
    until(page, "/^0 of/.test(document.getElementById('count').textContent)")
    form.locator("[name=words]").fill("")
    until(page, "document.getElementById('count').textContent === '120 to read.'")
    form.locator("[name=order]").select_option("worst")
    rated = [float(text) for text in page.locator("#list tr td:nth-child(2)").all_inner_texts() if text != "–"]
    assert rated == sorted(rated) and len(rated) == 50
    page.locator("#more").click()
    assert page.locator("#list tr").count() == 100


def test_a_link_of_its_own_compare_and_back(opened: Open, hundred: Path) -> None:
    page = opened(hundred, at="#read/1/c00004")
    assert page.locator("article.talk h3").inner_text() == "glaciers"
    assert "two" in page.locator("article.talk .facts").first.inner_text()
    page.get_by_role("link", name="beside one").click()  # the same dialogue's number in the other run
    until(page, "document.querySelectorAll('article.talk').length === 2")
    assert page.url.endswith("#read/1/c00004/with/0/c00004")
    page.go_back()
    until(page, "document.querySelectorAll('article.talk').length === 1")
    page.get_by_role("button", name="compare with").click()
    page.locator("#list tr").nth(2).locator("a").click()
    until(page, "document.querySelectorAll('article.talk').length === 2")
    page.goto(f"file://{hundred}#read/0/nothing")
    assert "Nothing here is called" in page.get_by_role("alert").inner_text()


def test_on_a_phone_the_way_back_leads_to_the_list(opened: Open, hundred: Path) -> None:
    """There the list gives way to what is read; the browser's own way back is the page as it was opened, whose address has no place."""
    page = opened(hundred, WIDTHS["phone"])
    page.locator("#list tr a").first.click()
    until(page, "document.querySelector('article.talk') && !document.querySelector('.listed').checkVisibility()")
    page.go_back()
    until(page, "document.querySelector('.listed').checkVisibility()")


def test_of_a_run_that_goes_on_the_page_looks_for_more_until_somebody_reads(opened: Open, tmp_path: Path) -> None:
    """On a wide screen it shows a dialogue by itself, candidates and all, which nobody has chosen."""
    run = dialogues(tmp_path / "run", 2, candidates=2)
    write(subject_of([run]), tmp_path / "page.html", again=1)
    page = opened(tmp_path / "page.html")
    page.evaluate("window.before = true")
    until(page, f"window.before === undefined && {READY}")
    page.locator("#list tr a").first.click()
    until(page, "document.body.classList.contains('reading')")
    page.evaluate("document.activeElement.blur(); window.before = true")
    time.sleep(2)
    assert page.evaluate("window.before") is True


def test_it_is_driven_by_keys(opened: Open, hundred: Path) -> None:
    page = opened(hundred)
    page.keyboard.press("/")
    page.keyboard.type("coffee")
    until(page, "/^24 of/.test(document.getElementById('count').textContent)")
    page.keyboard.press("Escape")
    page.keyboard.press("j")
    until(page, "location.hash === '#read/0/c00003'")
    page.keyboard.press("j")
    until(page, "location.hash === '#read/0/c00008'")
    until(page, "document.activeElement.tagName === 'H3'")
    page.keyboard.press("k")
    until(page, "location.hash === '#read/0/c00003'")
    page.keyboard.press("Tab")  # on from the heading to what can be unfolded
    assert page.evaluate("document.activeElement.tagName") in ("SUMMARY", "DIV", "A", "BUTTON")


# -- harm ---------------------------------------------------------------------------------------------------------------------------


def test_texts_that_mean_harm_are_texts(opened: Open, tmp_path: Path) -> None:
    """Each in a turn, its topic, a candidate and a judge's reply: none runs, none asks for anything, none is lost."""
    run = dialogues(tmp_path / "<b onload=alert(1)>", len(HOSTILE), turns=2, said=lambda n, i: HOSTILE[n])
    page = opened(page_of(run))
    for n in range(len(HOSTILE)):
        page.evaluate(f"location.hash = '#read/0/c{n:05d}'")
        until(page, f"document.querySelector('article.talk .facts')?.textContent.includes('c{n:05d}')")
        page.evaluate("document.querySelectorAll('.said button, summary').forEach((one) => one.click())")
    assert page.evaluate("window.harmed") is None
    assert page.told == [] and len(page.asked) == 1
    assert page.locator("article.talk").count() == 1 and page.locator("h2").count() >= 3
    first = opened(page_of(run), at="#read/0/c00000")
    assert first.locator("article.talk .said").first.inner_text() == HOSTILE[0]


# -- many -----------------------------------------------------------------------------------------------------------------------------


def test_a_thousand_open_at_once(opened: Open, tmp_path: Path) -> None:
    out = page_of(dialogues(tmp_path / "many", 1000, turns=8, candidates=4))
    opened(out)  # the browser has begun
    began = time.monotonic()
    page = opened(out)
    seconds = time.monotonic() - began
    assert page.locator("#count").inner_text() == "1,000 to read." and out.stat().st_size < 10 << 20
    assert seconds < 10  # on a machine that does other things too; alone it is a fraction of a second
