"""Arms whose replies are kept: intervals by topics, held against a control on the same histories, truth against reward."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from expertchat.config import ConfigError
from expertchat.evaluation.manner import Manner
from expertchat.evaluation.statistics import wilson
from expertchat.evaluation.truth import Tally
from expertchat.report.against_reward import as_svg, names_of, truth_against_reward
from expertchat.report.sections.arms import forests
from expertchat.runs.arms import arms
from expertchat.views.arms import caption, markdown, print_arms
from tests.test_arms import BETTER, EVALUATED, EVEN, TOPICS, make, metrics, replies


def three_arms(folder: Path) -> None:
    for seed in (0, 1):
        for arm, outcomes in (("random_judge", EVEN), ("mixed", BETTER), ("wim", [*EVEN[:-1], 0.5])):
            replies(make(folder / f"{arm}-{seed}", arm=arm, seed=seed), outcomes, TOPICS)


def test_replies_that_are_kept_are_drawn_by_topics(tmp_path: Path) -> None:
    three_arms(tmp_path)
    table = arms([tmp_path])
    rows = {row["arm"]: row for row in table.rows}
    mixed, low = rows["mixed"], wilson(74, 80)[0]
    assert (mixed["n"], mixed["topics"], mixed["drawn"], table.notes) == (80, 8, "topics", [])
    assert mixed["win_rate"] == pytest.approx(37 / 40) and mixed["win_rate_low"] < low  # few topics: 2.36 errors and not 1.96
    assert mixed["n_length_matched"] == 80 and mixed["win_rate_length_matched_low"] == mixed["win_rate_low"]
    assert (mixed["win_rate_seeds_low"], mixed["win_rate_min"]) == (None, mixed["win_rate"])  # both seeds are the same
    assert 0 < mixed["win_rate_least"] < 0.5


def test_a_model_that_learns_from_rows_is_held_against_its_base_by_topics_too(tmp_path: Path) -> None:
    """`dpo` keeps its held-out replies under the seat from which the policy speaks, its figures under "model"."""
    folder = make(tmp_path / "dpo", arm=None, learner=None, model={"path": "embedded:llama"})
    replies(folder, BETTER, TOPICS)
    told = metrics("evaluation", 2, {"n": 40, "judge": "truth", "win_rate": 37 / 40}, "model")
    (folder / "metrics.jsonl").write_text(told.to_json() + "\n")
    make(tmp_path / "mixed")
    rows = {row["learner"]: row for row in arms([tmp_path]).rows}
    assert (rows["model"]["drawn"], rows["model"]["topics"], rows["model"]["truth_policy"]) == ("topics", 8, None)
    assert rows["model"]["win_rate_low"] < wilson(37, 40)[0]  # eight topics, not forty answers
    assert "(no arm), the model" in markdown({"arms": list(rows.values()), "notes": []})


def test_histories_of_one_name_and_other_words_are_others(tmp_path: Path) -> None:
    for arm, said, outcomes in (("random_judge", "Herons?", EVEN), ("mixed", "Herons?", BETTER), ("wim", "Tides?", BETTER)):
        replies(make(tmp_path / arm, arm=arm, seed=0), outcomes, TOPICS, said)
    rows = {row["arm"]: row for row in arms([tmp_path]).rows}
    assert rows["mixed"]["minus_control_n"] == 40 and rows["mixed"]["better_than"] == ["random_judge"]
    assert rows["wim"]["minus_control_n"] == 0 and rows["wim"]["better_than"] is None  # of the same length, and not the same


def test_an_arm_that_wins_all_is_better_than_one_that_loses_all(tmp_path: Path) -> None:
    for arm, outcome in (("random_judge", 0.0), ("mixed", 1.0)):
        replies(make(tmp_path / arm, arm=arm, seed=0), [outcome] * 40, TOPICS)
    rows = {row["arm"]: row for row in arms([tmp_path]).rows}
    assert rows["mixed"]["minus_control"] == 1.0 and rows["mixed"]["minus_control_low"] > 0
    assert rows["mixed"]["better_than"] == ["random_judge"]


def test_arms_are_held_against_a_control_on_the_same_histories(tmp_path: Path) -> None:
    three_arms(tmp_path)
    rows = {row["arm"]: row for row in arms([tmp_path]).rows}
    mixed, wim, control = rows["mixed"], rows["wim"], rows["random_judge"]
    assert (mixed["control"], control["control"], mixed["minus_control_n"]) == ("random_judge", None, 80)
    assert mixed["minus_control"] == pytest.approx((37 - 16) / 40) and mixed["minus_control_low"] > 0
    assert mixed["minus_control_holm"] == pytest.approx(2 * mixed["minus_control_p"])  # of two arms the less likely one counts twice
    assert wim["minus_control"] == pytest.approx(0.5 / 40) and wim["minus_control_holm"] > 0.05
    assert (mixed["better_than"], control["better_than"]) == (["random_judge", "wim"], [])
    text = markdown(arms([tmp_path]).values())
    assert "| +52.5 (" in text and "more than random_judge, on the same histories" in text and "8 topics miss a win rate" in text
    other = {row["arm"]: row for row in arms([tmp_path], "wim").rows}
    assert other["mixed"]["control"] == "wim" and other["wim"]["control"] is None
    with pytest.raises(ConfigError, match="--control mxied: is none of the arms; did you mean"):
        arms([tmp_path], "mxied")


def test_judges_that_are_pleased_by_replies_without_more_truth_are_told(tmp_path: Path) -> None:
    """The policy's replies have as many facts as the base's; the judges of training like those of `flatters` better."""
    even = Tally(distinct=2, repeats=0, wrong=0, claims=2)
    asks = Manner(sentences=3, questions=1, agreements=0, again=0)
    flattery = asks.model_copy(update={"questions": 0, "agreements": 1})
    for arm, reward in (("flatters", 0.5), ("plain", 0.1)):
        more = {"policy": even, "base": even, "manner_policy": flattery, "manner_base": asks, "reward_policy": reward, "reward_base": 0.1}
        replies(make(tmp_path / arm, arm=arm), EVEN, TOPICS, **more)
    rows = {row["arm"]: row for row in arms([tmp_path]).rows}
    first, second = rows["flatters"], rows["plain"]
    assert (first["reward_difference"], first["truth_difference"], first["n_reward"]) == (pytest.approx(0.4), 0.0, 40)
    assert (first["questions_difference"], first["agreements_difference"], second["reward_difference"]) == (-1.0, 1.0, 0.0)
    assert first["reward_gain"] == pytest.approx(0.0)  # of the two rounds
    text = markdown(arms([tmp_path]).values())
    assert "| flatters | +0.40 | 0.00 | +0.00 |" in text and "hacked" in text
    out = io.StringIO()
    print_arms(arms([tmp_path]).values(), out)
    assert "A flatters  B plain" in out.getvalue() and "truth, policy less base (up) against reward (across)" in out.getvalue()
    figure = truth_against_reward(list(rows.values()), ["flatters", "plain"])
    assert figure is not None and [line[:2] for line in figure.rows] == [["flatters", pytest.approx(0.4)], ["plain", 0.0]]
    assert truth_against_reward([second], ["plain"]) is None
    with pytest.raises(ConfigError, match="two arms and more"):
        as_svg([second])


def test_other_histories_are_not_held_against_each_other(tmp_path: Path) -> None:
    replies(make(tmp_path / "0", arm="random_judge", seed=0), EVEN, TOPICS)
    replies(make(tmp_path / "1", arm="mixed", seed=1), BETTER, TOPICS)
    table = arms([tmp_path])
    rows = {row["arm"]: row for row in table.rows}
    assert (rows["mixed"]["minus_control"], rows["mixed"]["minus_control_n"], rows["mixed"]["better_than"]) == (None, 0, None)
    assert table.notes == ["no history in common with random_judge (other seeds, or another evaluation): mixed"]


def test_figures_of_other_replies_than_those_kept_are_not_pooled(tmp_path: Path) -> None:
    folder = make(tmp_path / "0")
    replies(folder, BETTER, TOPICS)
    with open(folder / "metrics.jsonl", "a") as file:
        file.write(metrics("evaluation", 2, EVALUATED).to_json() + "\n")
    (row,) = arms([folder]).rows
    assert (row["drawn"], row["n"], row["win_rate_low"]) == ("replies", 100, wilson(70, 100)[0])


def test_replies_whose_topics_are_not_known_are_not_called_topics(tmp_path: Path) -> None:
    """As an earlier version kept them: each would be drawn by itself."""
    folder = make(tmp_path / "0")
    replies(folder, BETTER, [None] * 40)
    (row,) = arms([folder]).rows
    assert (row["drawn"], row["n"], row["topics"], row["win_rate_low"]) == ("replies", 40, None, wilson(37, 40)[0])


def test_a_drawing_says_how_its_lines_were_drawn(tmp_path: Path) -> None:
    replies(make(tmp_path / "0", arm="mixed"), BETTER, TOPICS)
    make(tmp_path / "1", arm="wim", evaluated=None, finished=False)  # has no line yet
    rows = arms([tmp_path]).rows
    assert all(figure.note.startswith("Lines: 95 % interval, whole topics drawn") for figure in forests(rows, names_of(rows)))
    make(tmp_path / "2", arm="numeric")  # keeps no replies
    rows = arms([tmp_path]).rows
    assert forests(rows, names_of(rows))[0].note.startswith("Lines: Wilson's 95 % interval")


def test_the_caption_says_what_so_few_topics_cannot_show() -> None:
    arm = {"arm": "mixed", "judge": "truth", "learner": "a", "win_rate": 0.7, "drawn": "topics", "topics": 4}
    of = [{**arm, "win_rate_least": least} for least in (0.31, 0.62)]  # no win rate lies 62 points from 50
    assert "4 topics miss a win rate that is less than 31.0 points from 50 one time in five or more, and show of no" in caption(of)
    assert "4 topics can show of no win rate that it is not 50." in caption(of[1:])
