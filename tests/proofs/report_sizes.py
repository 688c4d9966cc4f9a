"""How large the report of many dialogues is, how long it takes to write and to open, and to find a word in all of its texts.

    python -m tests.proofs.report_sizes 1000 20000

On a quiet machine; the words are drawn at random from few, so that texts pack better than real ones do. Needs playwright and a Chromium.
"""

from __future__ import annotations

import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from expertchat.report.command import write
from expertchat.report.subject import subject_of
from tests.reported import dialogues
from tests.test_report_browser import CHROMIUM, READY, until

TURNS, OPENED = 8, 3
FOUND = "/^[0-9,]+ of/.test(document.getElementById('count').textContent)"


def main(counts: list[int]) -> None:
    from playwright.sync_api import sync_playwright

    with tempfile.TemporaryDirectory() as home, sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        for count in counts:
            run = dialogues(Path(home) / f"run-{count}", count, turns=TURNS)
            began, worked = time.monotonic(), time.process_time()
            written, _ = write(subject_of([run]), Path(home) / f"{count}.html")
            seconds, work = time.monotonic() - began, time.process_time() - worked
            print(f"{count:,} dialogues: written in {seconds:.1f} s ({work:.1f} s of the processor), "
                  f"{', '.join(f'{size / 1e6:.1f} MB' for size in written.sizes.values())}, "
                  f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB at most")  # fmt: skip
            _open(browser, next(iter(written.sizes)))
        browser.close()


def _open(browser: Any, path: Path) -> None:
    seconds = []
    for _ in range(OPENED):
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        began = time.monotonic()
        page.goto(f"file://{path}")
        until(page, READY)
        seconds.append(time.monotonic() - began)
    heap = page.evaluate("performance.memory.usedJSHeapSize / 1e6")
    began = time.monotonic()
    page.fill("[name=words]", "moon pulls water")
    until(page, FOUND)
    print(f"  opened in {', '.join(f'{one:.2f}' for one in seconds)} s, {heap:.0f} MB of script's memory; words found in "
          f"{time.monotonic() - began:.1f} s: {page.inner_text('#count')}")  # fmt: skip
    page.close()


if __name__ == "__main__":
    main([int(word) for word in sys.argv[1:]] or [1000, 20_000])
