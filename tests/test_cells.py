"""Text of models and people in tables that others read: no markup in Markdown, no formula in CSV."""

from __future__ import annotations

import doctest

import pytest

from expertchat.metrics.files import as_csv
from expertchat.posts.run import _csv
from expertchat.records import Post
from expertchat.report.drawing import table
from expertchat.report.markdown import table as markdown_table
from expertchat.report.parts import Cell, Figure, Shown
from expertchat.text import cells
from expertchat.text.cells import code, markdown

EVIL = "[click](http://evil) ![p](http://evil/p) **b** _c_ <img src=x> &lt; `d` \\ | \x1b[2J \u202e"


def test_the_examples_in_the_docstrings() -> None:
    assert doctest.testmod(cells).failed == 0


def test_no_markup_is_left() -> None:
    assert markdown(EVIL) == (
        r"\[click\](http://evil) !\[p\](http://evil/p) \*\*b\*\* \_c\_ &lt;img src=x> &amp;lt; \`d\` \\ \| \[2J"
    )
    assert markdown("a__b c_d _") == r"a\_\_b c_d \_" and markdown("here 3\n\n  turns: 4\r\nx") == "here 3; turns: 4; x"
    assert code("a `b` | c\nd\x1b") == "a 'b' \\| c d"
    written = markdown_table(Shown(EVIL, [EVIL], {EVIL: [Cell(EVIL)]}))
    assert "](" not in written.replace("\\](", "") and "<img" not in written and "\x1b" not in written and "\u202e" not in written


@pytest.mark.parametrize("begin", ["=", "+", "-", "@", "\t"])
def test_no_cell_of_a_csv_is_a_formula(begin: str) -> None:
    evil = f"{begin}1+1"
    rows = as_csv(["a", "n"], [{"a": evil, "n": -1.5}]).splitlines()
    assert rows[1] == f"'{evil},-1.5"
    figure = Figure("f", "F", "", (evil, "n"), [[evil, -0.5]], lambda axes: None)
    assert table(figure).splitlines() == [f"'{evil},n", f"'{evil},-0.5"]
    post = Post(id="p0", language="en", persona="x", topic="y", text=evil, place=0)
    assert _csv([post]).splitlines() == ["Posts", f"'{evil}"]
