"""The pictures of the README, made from a run: `python -m tests.proofs.pictures RUN [TRAINED]`.

live.svg is what `expertchat watch RUN` draws of its first dialogue, by rich; report.png the first screen of the report of TRAINED in
headless Chromium (playwright). Both are written into docs/pictures/.
"""

from __future__ import annotations

import io
import shutil
import sys
import tempfile
from pathlib import Path

from expertchat.report.command import write
from expertchat.report.subject import subject_of
from expertchat.views.console import CleanConsole
from expertchat.views.live import LiveView
from expertchat.views.watch import watch

HERE = Path(__file__).parents[2] / "docs" / "pictures"
WIDTH = 100  # cells of the terminal
WINDOW = {"width": 1280, "height": 1560}
# rich's own frame, without the fonts that it would fetch from a network.
SVG = """<svg class="rich-terminal" viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg"><style>
.{unique_id}-matrix {{ font-family: Menlo, Consolas, "DejaVu Sans Mono", monospace; font-size: {char_height}px;
 line-height: {line_height}px; }}
.{unique_id}-title {{ font-size: 18px; font-family: sans-serif; }}
{styles}
</style><defs><clipPath id="{unique_id}-clip-terminal"><rect x="0" y="0" width="{terminal_width}" height="{terminal_height}" /></clipPath>
{lines}</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}
<g class="{unique_id}-matrix">
{matrix}
</g></g></svg>
"""


def live(run: Path) -> str:
    """The first dialogue of a run as the terminal shows it."""
    console = CleanConsole(
        file=io.StringIO(), width=WIDTH, height=80, record=True, force_terminal=True, color_system="truecolor", markup=False, emoji=False,
        highlight=False, legacy_windows=False,
    )  # fmt: skip
    view = LiveView(console, everything=True, threaded=False)
    watched(view, run)
    return console.export_svg(title="expertchat watch RUN --conversation c0001", code_format=SVG, unique_id="live")


def watched(view: LiveView, run: Path) -> None:
    from unittest.mock import patch

    with patch("expertchat.views.watch.open_view", lambda *args, **kwargs: view):
        watch(run, conversation="c0001", follow=False)


def report(run: Path, out: Path) -> None:
    """The first screen of a run's report."""
    from playwright.sync_api import sync_playwright

    with tempfile.TemporaryDirectory() as place, sync_playwright() as play:
        page_file = Path(place) / "report.html"
        write(subject_of([run]), page_file)
        browser = play.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport=WINDOW, color_scheme="light")  # type: ignore[arg-type]
        page.goto(page_file.as_uri())
        page.wait_for_timeout(1500)
        shot = page.screenshot()
        browser.close()
    from PIL import Image

    Image.open(io.BytesIO(shot)).quantize(64).save(out, optimize=True)  # flat colours: a fifth of the size


if __name__ == "__main__":
    HERE.mkdir(exist_ok=True)
    if len(sys.argv) > 1:
        (HERE / "live.svg").write_text(live(Path(sys.argv[1])), "utf-8")
    if len(sys.argv) > 2:
        report(Path(sys.argv[2]), HERE / "report.png")
