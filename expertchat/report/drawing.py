"""Figures as files: text stays text in an SVG, and the same figure gives the same bytes."""

from __future__ import annotations

import io
import re
from typing import Any

from expertchat.report.parts import Figure

INK, FAINT = "#1f2328", "#8c959f"  # which the page replaces by its own, so that a figure is light or dark as the page is
COLOURS = ("#0969da", "#bc4c00", "#1a7f37", "#8250df", "#bf3989", "#6e7781")  # told apart in grey and by the colour-blind with the marks
FORMATS = ("svg", "pdf", "png")
_FAMILY = "font-family: 'DejaVu Sans', sans-serif"
# Of matplotlib's own: names that nothing refers to and that two figures share, its metadata, and a style for all that stands on the page.
_OWN = re.compile(r' id="[A-Za-z.0-9]+_\d+"|<metadata>.*?</metadata>\s*|<style.*?</style>', re.DOTALL)


def style(figure: Figure) -> dict[str, Any]:
    """matplotlib's settings for a figure."""
    from cycler import cycler

    return {
        "svg.fonttype": "none", "svg.hashsalt": figure.name, "text.parse_math": False, "font.size": 10.0, "axes.titlesize": 10.0,
        "font.family": "sans-serif", "font.sans-serif": ["DejaVu Sans"],
        "axes.prop_cycle": cycler(color=COLOURS), "axes.spines.top": False, "axes.spines.right": False,
        "text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": FAINT, "xtick.color": INK, "ytick.color": INK, "grid.color": FAINT,
        "grid.alpha": 0.3, "grid.linewidth": 0.6, "legend.frameon": False, "figure.facecolor": "none", "axes.facecolor": "none",
        "savefig.facecolor": "none", "pdf.fonttype": 42, "lines.linewidth": 1.6,
    }  # fmt: skip


def drawn(figure: Figure, form: str = "svg") -> bytes:
    """The figure as an svg, pdf or png."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Canvas

    nothing: dict[str, dict[str, None]] = {"svg": {"Date": None}, "pdf": {"CreationDate": None}, "png": {}}
    with rc_context(style(figure)):
        canvas = Canvas(figsize=figure.size, layout="constrained")
        FigureCanvasAgg(canvas)
        figure.draw(canvas.add_subplot())
        out = io.BytesIO()
        canvas.savefig(out, format=form, dpi=200, metadata=nothing[form])
    return out.getvalue()


def inline_svg(figure: Figure) -> str:
    """The figure as an element of a page, in the page's own ink and letters; its title and its `alt` stand beside it."""
    text = drawn(figure).decode()
    text = _OWN.sub("", text[text.index("<svg") :]).replace(_FAMILY, "font-family: inherit")
    return text.replace(INK, "currentColor").replace(FAINT, "var(--faint)")
