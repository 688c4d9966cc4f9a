"""Figures as files and in a page: SVG whose text is text, PDF, PNG, and what is drawn as CSV. The same figure gives the same bytes."""

from __future__ import annotations

import contextlib
import csv
import io
import os
import re
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from textwrap import fill
from typing import Any
from xml.etree import ElementTree

from expertchat.config import ConfigError
from expertchat.folder.writing import reason
from expertchat.report.parts import Figure
from expertchat.text.cells import csv_cell
from expertchat.text.in_words import line

INK = "#1c1c1c"
FAINT = "#767676"
# By Okabe & Ito, made as dark as it takes to stand out from white and from black paper; marks and dashes tell series apart without colour.
COLOURS = ("#0072b2", "#d55e00", "#008f68", "#b8609a", "#9a6c00", INK)
MARKS = ("o", "s", "^", "D", "v", "P")
DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1.2, 1.2)), (0, (6, 1.5, 1.2, 1.5)), (0, (3, 1)), (0, (8, 2)))
DPI, LETTERS = 200, 11.0  # letters of a title an inch
FORMATS = ("svg", "pdf", "png", "csv")
SETTINGS: dict[str, Any] = {
    "svg.fonttype": "none", "svg.hashsalt": "expertchat", "pdf.fonttype": 42, "text.parse_math": False, "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 10.0, "axes.titlesize": 10.5, "axes.titlelocation": "left", "axes.titlepad": 8.0, "axes.spines.top": False,
    "axes.spines.right": False, "axes.edgecolor": INK, "axes.labelcolor": INK, "text.color": INK, "xtick.color": INK, "ytick.color": INK,
    "axes.facecolor": "none", "figure.facecolor": "white", "axes.grid": False, "grid.color": FAINT, "grid.alpha": 0.35,
    "grid.linewidth": 0.5, "axes.linewidth": 0.7,
    "lines.linewidth": 1.4, "lines.markersize": 4.5, "legend.frameon": False, "legend.fontsize": 9.0,
    "axes.prop_cycle": f"cycler(color={list(COLOURS)})", "axes.axisbelow": True, "axes.unicode_minus": True, "hatch.linewidth": 0.6,
}  # fmt: skip
UNDATED = {  # and nothing about the program that drew it
    "svg": {"Date": None, "Creator": None}, "pdf": {"CreationDate": None, "Creator": None, "Producer": None}, "png": {"Software": None},
}  # fmt: skip
SVG, XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
OF_THE_PAGE = {INK: "currentColor", FAINT: "var(--faint)", "#ffffff": "none"}
_SPACE = re.compile(r"(?<=>)\s+(?=<)")
_FONT = re.compile(r"(?:(?P<style>italic|oblique) )?(?:(?P<weight>bold|\d{3}) )?(?P<size>[\d.]+(?:px|pt)?) (?P<family>.+)")


def drawn(figure: Figure, form: str = "svg", titled: bool = True) -> bytes:
    """The figure as "svg", "pdf" or "png". Raises ConfigError where matplotlib is not installed."""
    needs_matplotlib()
    import matplotlib
    from matplotlib.figure import Figure as Paper

    with matplotlib.rc_context(SETTINGS), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a letter that the font lacks: the text stays in the SVG, whose reader has other fonts
        paper = Paper(figsize=figure.size, layout="constrained")
        axes = paper.subplots()
        if titled:
            axes.set_title(fill(line(figure.title), max(20, int(LETTERS * figure.size[0]))))
        figure.draw(axes)
        out = io.BytesIO()
        paper.savefig(out, format=form, dpi=DPI, metadata=UNDATED[form])
    return _told(out.getvalue(), figure) if form == "svg" else out.getvalue()


def needs_matplotlib() -> None:
    """Raises ConfigError where figures cannot be drawn."""
    from importlib.util import find_spec

    if find_spec("matplotlib") is None:
        raise ConfigError("figures need matplotlib: pip install 'expertchat[plot]'")


def table(figure: Figure) -> str:
    """What is drawn, as CSV; no figure is an empty cell."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerows([csv_cell(value) for value in row] for row in (figure.columns, *figure.rows))
    return out.getvalue()


def write_figures(figures: Iterable[Figure], folder: Path) -> list[Path]:
    """Every figure as FOLDER/NAME.svg, .pdf, .png and .csv. Raises ConfigError where they cannot be written."""
    written = []
    for figure in figures:
        for form in FORMATS:
            path = folder / f"{figure.name}.{form}"
            found = table(figure).encode() if form == "csv" else drawn(figure, form)
            try:
                folder.mkdir(parents=True, exist_ok=True)
                _replace(path, found)
            except OSError as error:
                raise ConfigError(f"{path}: cannot be written ({reason(error)}); name another folder") from None
            written.append(path)
    return written


def _replace(path: Path, found: bytes) -> None:
    new = path.with_name(f"{path.name}.{os.getpid()}.new")
    try:
        new.write_bytes(found)
        os.replace(new, path)
    finally:
        with contextlib.suppress(OSError):
            new.unlink()


# -- inside a page ------------------------------------------------------------------------------------------------------


def inline_svg(figure: Figure) -> str:
    """The figure as an element of an HTML page: without style attributes (a Content-Security-Policy forbids them), its ids its own, its ink
    the page's. Its title is not drawn: the page has it as a heading or a caption."""
    root = ElementTree.fromstring(drawn(figure, titled=False))
    _plain(root, figure.name)
    for child in [child for child in root if child.tag in ("title", "desc")]:
        root.remove(child)
    root.attrib.pop("version", None)
    root.attrib |= {"role": "img", "class": "figure", "aria-label": line(f"{figure.title}. {figure.alt}")}
    return _SPACE.sub("", ElementTree.tostring(root, encoding="unicode", short_empty_elements=False))


def _told(found: bytes, figure: Figure) -> bytes:
    """An SVG with a title and a description, for those who cannot see it."""
    words = "".join(f"<{tag}>{_escaped(line(text))}</{tag}>" for tag, text in (("title", figure.title), ("desc", figure.alt)))
    at = found.index(b">", found.index(b"<svg")) + 1
    return found[:at] + words.encode() + found[at:]


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _plain(node: ElementTree.Element, name: str) -> None:
    """In a page there are no namespaces, and no styles but the page's own."""
    node.tag = node.tag.removeprefix(f"{{{SVG}}}")
    for child in list(node):
        if child.tag.endswith(("}metadata", "}style")):
            node.remove(child)
        else:
            _plain(child, name)
    for key, value in list(node.attrib.items()):
        if key == "style":
            del node.attrib["style"]
            node.attrib |= dict(_attributes(value))
    for key, value in list(node.attrib.items()):
        del node.attrib[key]
        short = key.removeprefix(f"{{{XLINK}}}")
        value = f"{name}-{value}" if short == "id" else value.replace("#", f"#{name}-", 1) if short == "href" else value
        node.attrib[short] = _own(value, name)
    if node.tag == "svg":
        node.attrib |= {"stroke-linejoin": "round", "stroke-linecap": "butt"}  # what matplotlib's own style sheet says


def _own(value: str, name: str) -> str:
    return value.replace("url(#", f"url(#{name}-") if "url(#" in value else OF_THE_PAGE.get(value, value)


def _attributes(style: str) -> Iterator[tuple[str, str]]:
    """Properties as attributes, which an SVG has for all but the short form of a font."""
    for one in style.split(";"):
        key, _, value = (part.strip() for part in one.partition(":"))
        if key == "font" and (font := _FONT.fullmatch(value)):
            yield "font-size", font["size"]
            yield "font-family", font["family"]
            yield from ((f"font-{part}", font[part]) for part in ("style", "weight") if font[part])
        elif key and key != "font":
            yield key, value
