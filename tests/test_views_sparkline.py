"""Curves of block characters and the figures beside them."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from expertchat.views.figures import shown
from expertchat.views.sparkline import BLOCKS, MIDDLE, sparkline
from expertchat.views.training import number


@pytest.mark.parametrize(
    ("values", "width", "drawn"),
    [
        ([0.0, 1.0], 9, "▁█"),
        ([0, 1, 2, 3, 4, 5, 6, 7], 8, "▁▂▃▄▅▆▇█"),  # eight values in eight equal steps
        ([1.0, 2.0, None, 3.0], 10, "▁▅ █"),  # (2 - 1) / (3 - 1) = 0.5 of 8 blocks: the fifth
        ([-1.0, 0.0, 1.0], 3, "▁▅█"),
        ([5.0, 5.0], 4, MIDDLE * 2),  # all alike
        ([0, 0, 4, 4, 8, 8], 3, "▁▅█"),  # means of pairs: 0, 4, 8
        ([0, None, 4, 4, None, None], 3, "▁█ "),  # means of what there is: 0, 4, nothing
        ([math.nan, 1.0, math.inf, 2.0, -math.inf], 9, " ▁ █ "),
        ([None, None], 5, "  "),
        ([], 5, ""),
        ([1.0, 2.0], 0, ""),
        ([1.0, 2.0], -3, ""),
        ([-1.7e308, 1.7e308], 2, "▁█"),  # their span is no float
        ([5e-324, 0.0], 2, MIDDLE * 2),  # and this one halves to nothing
    ],
)
def test_curves(values: list[float | None], width: int, drawn: str) -> None:
    assert sparkline(values, width) == drawn


@given(st.lists(st.none() | st.floats(allow_nan=True, allow_infinity=True), max_size=300), st.integers(-2, 60))
def test_a_curve_has_one_cell_for_each_value_or_for_each_share_of_them(values: list[float | None], width: int) -> None:
    drawn = sparkline(values, width)
    assert len(drawn) == max(0, min(len(values), width))
    assert set(drawn) <= {*BLOCKS, " "}
    known = [value for value in values if value is not None and math.isfinite(value)]
    if len(values) <= width:
        assert [cell == " " for cell in drawn] == [value is None or not math.isfinite(value) for value in values]
        if known and max(known) / 2 > min(known) / 2:
            finite = [value is not None and math.isfinite(value) for value in values]
            best = max(range(len(values)), key=lambda i: values[i] if finite[i] else -math.inf)  # type: ignore[arg-type,return-value]
            assert drawn[best] == "█" and "▁" in drawn


@pytest.mark.parametrize(
    ("value", "form", "width", "text"),
    [
        (0.4131, "+.2f", 6, "+0.41"),
        (-0.004, "+.2f", 6, "+0.00"),  # no minus before a nought
        (-0.4, ".0%", 6, "-40%"),
        (None, ".2f", 6, "-"),
        (12.345, ".3f", 5, "12.3"),  # 12.345 has six characters
        (123456.789, ".2f", 6, "123457"),
        (1234567.0, ".2f", 6, "1e+06"),  # 1.2e+06 has seven characters
        (-1.5e300, ",.0f", 5, "-2e+300"),  # nothing fits: the shortest
    ],
)
def test_a_figure_keeps_to_its_column(value: float | None, form: str, width: int, text: str) -> None:
    assert shown(value, form, width) == text


def test_what_is_no_number_is_none() -> None:
    assert [number(value) for value in (1, 0.5, None, "7", True, math.nan, math.inf, [1])] == [1.0, 0.5] + [None] * 6
