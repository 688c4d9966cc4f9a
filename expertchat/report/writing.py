"""A report as a page: one file that opens anywhere, with everything in it, and more of them where its transcripts are too many for one."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from itertools import groupby
from pathlib import Path
from typing import Any

from markupsafe import Markup

from expertchat import __version__
from expertchat.folder.writing import write_out
from expertchat.report.drawing import inline_svg
from expertchat.report.packing import Pack, packs
from expertchat.report.parts import MISSING, Cell, Figure, Report, Shown, rounded
from expertchat.report.transcripts import Talk
from expertchat.text.cleaning import clean

PLACE = Path(__file__).parent / "page"
LARGE, LARGEST = 10 << 20, 50 << 20  # bytes from which it is said, and of which no file is much larger
UNSCRIPTED = 200  # lines of the list for whoever has no script


@dataclass(frozen=True)
class Written:
    """The files, the first of which is the report, and how large each is in bytes."""

    sizes: dict[Path, int] = field(default_factory=dict)

    @property
    def large(self) -> bool:
        return max(self.sizes.values(), default=0) > LARGE


@dataclass(frozen=True)
class _Group:
    """Figures that stand side by side, or tables."""

    figures: Sequence[Figure]
    tables: Sequence[Shown]


def write_page(
    report: Report, talks: Iterable[Talk], names: Sequence[str], out: Path, again: int = 0, warnings: Sequence[str] = ()
) -> Written:
    """Write the report. `names`: of its runs; `again`: seconds after which the page looks for a newer one of itself, 0 for never;
    `warnings` is read after `talks` has been. Raises ConfigError where it cannot be written."""
    packed = packs(talks, LARGEST - (4 << 20))
    files = [out, *(out.with_name(f"{out.stem}-{n}{out.suffix}") for n in range(2, len(packed) + 1))]
    template = _template()
    sizes = {}
    for number, (file, one) in enumerate(zip(files, packed, strict=True), 1):
        about = {"runs": [clean(name) for name in names], "files": [path.name for path in files], "again": again}
        told = [*report.warnings, *warnings]
        text = template.render(
            report=report, told=told, number=number, files=[path.name for path in files], count=len(one.lines), about=about,
            first=one.lines[:UNSCRIPTED], packed=_packed(one),
        )  # fmt: skip
        write_out(f"out={file}", file, text)
        sizes[file] = len(text.encode("utf-8", "replace"))
    return Written(sizes)


def _packed(one: Pack) -> Iterator[tuple[str, Markup]]:
    """Base64 needs no escaping, which would take longer than all the rest."""
    return ((name, Markup(text)) for name, text in one.parts()) if one.lines else iter(())


def _template() -> Any:
    """The page, for which every text is text: markup is only what stands in its own files."""
    from jinja2 import Environment, FileSystemLoader

    made = Environment(loader=FileSystemLoader(PLACE), autoescape=True, trim_blocks=True, lstrip_blocks=True, finalize=_cleaned)
    script = "\n".join((PLACE / name).read_text("utf-8") for name in ("talk.js", "page.js"))
    style = (PLACE / "page.css").read_text("utf-8")
    made.globals |= {
        "script": Markup(script), "style": Markup(style), "script_hash": _hash(script), "style_hash": _hash(style),
        "version": __version__, "plain": _plain, "svg": _svg, "grouped": _grouped,
    }  # fmt: skip
    made.tests["textual"] = _textual
    return made.get_template("page.html.j2")


def _hash(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _cleaned(value: object) -> object:
    """What is written of a text has no invisible characters."""
    return clean(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _plain(value: float | int | str | None) -> str:
    """A figure as it is read: with three digits that count, thousands apart; all of them are in the files."""
    if value is None:
        return MISSING
    if isinstance(value, float):
        return rounded(value, 3, 1000.0)
    return value if isinstance(value, str) else f"{value:,.0f}"


def _svg(figure: Figure) -> Markup:
    """The drawing; matplotlib has escaped its texts. Nothing where it is not installed: the figures stand in a table."""
    return Markup(inline_svg(figure)) if find_spec("matplotlib") else Markup()


def _textual(shown: Shown, column: int) -> bool:
    """Whether a column of a table has words in it."""
    cells: list[Cell] = [cells[column] for cells in shown.rows.values() if column < len(cells)]
    return any(isinstance(cell.value, str) for cell in cells)


def _grouped(parts: Sequence[Figure | Shown]) -> list[_Group]:
    """Figures that follow each other stand side by side, and so do tables where there is room."""
    found: list[_Group] = []
    for drawn, run in groupby(parts, key=lambda part: isinstance(part, Figure)):
        several: list[Any] = list(run)
        found.append(_Group(several, []) if drawn else _Group([], several))
    return found
