"""Tables on a screen of 80 columns: no figure is cut, no answer loses its end, no name is markup, and no zero has a sign."""

from __future__ import annotations

import io
from typing import Any

from expertchat.choosing.card import _written as on_a_card
from expertchat.report.parts import Cell, Shown
from expertchat.views.arms import COLUMNS, PLEASED
from expertchat.views.choosing import _written as on_the_screen
from expertchat.views.judging import JudgingView
from expertchat.views.rewards import RewardsView
from expertchat.views.study import StudyView
from expertchat.views.tokens import number

ANSWER = "Tides rise twice a day, for the earth turns under two hills of water; " * 2 + "thus_it_ends_with_a_long_word_" * 3 + "here."


def of_a_judge(opinions: int) -> dict[str, Any]:
    wins = {order: {"north_of_the_river": 1234, "south": 56, "tie": 7} for order in ("first", "second")}
    return {
        "form": "expected", "items": 12_345, "opinions": opinions, "answered": opinions - 12, "faults": {"low_mass": 7, "cut": 5},
        "mean": 6.54, "shown": {"first": 1111, "second": 2222, "tie": 33}, "agree": 1234, "both_orders": 5678,
        "seconds_per_1000": 1973.2, "wins": wins,
    }  # fmt: skip


def test_the_judges_table_cuts_no_figure() -> None:
    out = io.StringIO()
    names = ("a_judge_with_a_long_name_of_its_own", "length")
    view = JudgingView(out, moves=False)
    view.console.width = 80
    view.show_end({"judges": {name: of_a_judge(123_456 + i) for i, name in enumerate(names)}})
    said = out.getvalue()
    assert max(len(line) for line in said.splitlines() if "1st, 2nd:" not in line) <= 80 and "…" not in said  # but of a sentence
    for figure in ("12,345", "123,456", "123,457", "6.54", "1,111", "2,222", "1,234 of 5,678", "1,973.2", "1,234", "length, turned round"):
        assert figure in said
    assert "opinions" in said and "expected" in said and "s/1,000: seconds of the model" in said


def test_an_answer_in_a_study_is_shown_to_its_end() -> None:
    out = io.StringIO()
    answers = Shown("Answers", ["llama", "mixtral"], {"What are tides?": [Cell(ANSWER), Cell(ANSWER)]})
    StudyView("T", out).show({"t": answers}, "", "report.md")
    said = out.getvalue()
    assert "…" not in said and said.count("h") > 2 * ANSWER.count("h")


def test_the_name_of_a_base_is_no_markup() -> None:
    out = io.StringIO()
    RewardsView(out, moves=False).show_end({"kind": "pairs", "base": "models/my[/v2] [bold]x", "best": 1, "figures": {"n": 4, "groups": 2}})
    assert "pairs from models/my[/v2] [bold]x, epoch 1" in out.getvalue()


def test_no_zero_has_a_sign() -> None:
    arm = {"kl": -0.01, "reward_gain": -0.001, "reward_difference": -0.001, "repeat_rate_difference": -0.0001}
    cells = {title: cell(arm) for title, cell in (*COLUMNS, *PLEASED) if title in ("KL", "reward gained", "reward", "of claims, %")}
    assert cells == {"KL": "0.0", "reward gained": "0.00", "reward": "+0.00", "of claims, %": "+0.0"}
    gap = {"value": -0.0001, "low": -0.0002, "high": 0.5}
    assert on_the_screen(gap, 100.0, 1) == on_a_card(gap, 100.0, 1) == "0.0 (0.0 to 50.0)" and number(-0.0004, 3) == "0.000"
