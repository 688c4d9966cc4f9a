"""The table of arms, from metrics made by hand: what is pooled, what is named, what is refused, and the files."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from expertchat.config import ConfigError
from expertchat.evaluation.figures import Comparison, figures
from expertchat.evaluation.histories import Held
from expertchat.evaluation.statistics import wilson
from expertchat.evaluation.truth import Tally
from expertchat.records import Figure, Metrics, Turn
from expertchat.report.against_reward import as_svg
from expertchat.runs.arms import NO_ARM, arms, run_arms
from expertchat.views.arms import markdown, print_arms

EVALUATED: dict[str, Figure] = {
    "n": 100, "judge": "truth", "win_rate": 0.7, "win_rate_low": 0.6, "win_rate_high": 0.78, "wins": 60, "ties": 20, "losses": 20,
    "tokens_policy": 40.0, "tokens_base": 30.0, "win_rate_length_matched": 0.6, "n_length_matched": 50,
    "distinct_policy": 2.0, "distinct_base": 1.0, "distinct_ratio": 2.0, "distinct_ratio_low": 1.8, "distinct_ratio_high": 2.2,
    "repeats_policy": 0.1, "repeats_base": 0.2, "accuracy_policy": 0.9, "accuracy_base": 0.8, "wrong_policy": 0.3, "wrong_base": 0.2,
}  # fmt: skip
ROUND: dict[str, Figure] = {
    "reward_mean": 0.2, "pairs": 30, "ties": 10, "candidates": 160, "nulls": 8, "margin_scaled": 1.5, "kl": 3.0, "length": 40.0,
}  # fmt: skip


def metrics(kind: Any, number: int, figures: dict[str, Figure], learner: Any = "a") -> Metrics:
    return Metrics(id=f"{kind}-{learner}-{number:04d}", kind=kind, round=number, learner=learner, policy_version=number, figures=figures)


def make(
    folder: Path,
    arm: str | None = "mixed",
    seed: int = 0,
    evaluated: dict[str, Figure] | None = EVALUATED,
    rounds: Sequence[dict[str, Figure]] = (ROUND, ROUND),
    finished: bool = True,
    **config: Any,
) -> Path:
    """A run folder with two rounds, the base's evaluation, and a last one."""
    folder.mkdir(parents=True)
    values = {"arm": arm, "learner": "a", "rounds": 2, "run": {"seed": seed, "dir": str(folder)}, "train": {"beta": 0.1}, "view": "none"}
    (folder / "config.yaml").write_text(yaml.safe_dump(values | config))
    lines = [metrics("evaluation", 0, {**EVALUATED, "win_rate": 0.5, "wins": 40, "losses": 40})]
    lines += [metrics("round", i, figures) for i, figures in enumerate(rounds)]
    lines += [metrics("evaluation", 2, evaluated)] if evaluated is not None else []
    (folder / "metrics.jsonl").write_text("".join(f"{one.to_json()}\n" for one in lines))
    if finished:
        (folder / "summary.json").write_text("{}")
    return folder


def replies(folder: Path, outcomes: Sequence[float | None], topics: Sequence[str | None], said: str = "", **more: Any) -> None:
    """The last evaluation's file of a run, and the figures that belong to it; `said` in the histories, if these are kept."""
    compared = [
        Comparison(
            id=f"evaluation-a/h{i:04d}/v0002", history=f"evaluation-a/h{i:04d}", learner="a", policy_version=2, base_tokens=10, topic=topic,
            reply=Turn(speaker="a", text="x", tokens=10), outcome=outcome, **more,
        )
        for i, (outcome, topic) in enumerate(zip(outcomes, topics, strict=True))
    ]  # fmt: skip
    (folder / "evaluations").mkdir()
    (folder / "evaluations" / "a-r0002.jsonl").write_text("".join(f"{one.to_json()}\n" for one in compared))
    turn = Turn(speaker="b", text=said, tokens=10)
    held = [Held(id=one.history, topic=one.group, learner="a", turns=[turn], reply=one.reply).to_json() for one in compared if said]
    if held:
        (folder / "evaluations" / "base-a.jsonl").write_text("".join(f"{one}\n" for one in held))
    with open(folder / "metrics.jsonl", "a") as file:
        file.write(metrics("evaluation", 2, figures(compared, "truth", 0)).to_json() + "\n")


TOPICS = [f"topic {i % 8}" for i in range(40)]
EVEN, BETTER = [float(i // 8 % 2) for i in range(40)], [float(i not in (0, 9, 18)) for i in range(40)]


# -- pooling ------------------------------------------------------------------------------------------------------------


def test_seeds_of_an_arm_are_pooled_with_every_reply_counting_alike(tmp_path: Path) -> None:
    more = {**EVALUATED, "n": 300, "win_rate": 0.5, "wins": 120, "ties": 60, "losses": 120, "distinct_policy": 3.0, "distinct_base": 2.0,
            "distinct_ratio": 1.5, "distinct_ratio_low": 1.4, "distinct_ratio_high": 1.6, "win_rate_length_matched": 0.5,
            "n_length_matched": 150, "accuracy_policy": 0.7}  # fmt: skip
    last = {**ROUND, "pairs": 10, "ties": 30, "margin_scaled": 0.5, "kl": 9.0, "nulls": 0}
    make(tmp_path / "0", seed=0)
    make(tmp_path / "1", seed=1, evaluated=more, rounds=(ROUND, last))
    table = arms([tmp_path])
    (row,) = table.rows
    assert (row["arm"], row["seeds"], row["n"], row["rounds"], row["finished"], table.notes) == ("mixed", [0, 1], 400, 2, True, [])
    # wins 60 + 120 = 180, ties 20 + 60 = 80: (180 + 40) / 400 = 0.55; the seeds themselves have .7 and .5
    assert row["win_rate"] == pytest.approx(0.55)
    assert (row["win_rate_low"], row["win_rate_high"]) == wilson(220, 400)
    assert (row["win_rate_min"], row["win_rate_max"]) == (0.5, 0.7)
    assert row["win_rate_length_matched"] == pytest.approx((0.6 * 50 + 0.5 * 150) / 200)
    # (2 * 100 + 3 * 300) / (1 * 100 + 2 * 300) = 1100 / 700
    assert row["distinct_ratio"] == pytest.approx(1100 / 700)
    # shares of the base's facts 1/7 and 6/7, half widths .2 and .1: sqrt((.2 / 7)^2 + (.6 / 7)^2) = .0903508
    assert row["distinct_ratio_high"] - row["distinct_ratio"] == pytest.approx(0.0903508, abs=1e-6)
    assert row["accuracy_policy"] == pytest.approx((0.9 * 100 + 0.7 * 300) / 400)
    # ties 10 + 10 + 10 + 30 = 60 of 60 + 30 + 30 + 30 + 10 = 160; nulls 8 * 3 of 160 * 4; margins (1.5 * 3 + .5) / 4; KL (3 + 9) / 2
    assert row["tie_rate"] == pytest.approx(60 / 160)
    assert row["null_rate"] == pytest.approx(24 / 640)
    assert row["margin_scaled"] == pytest.approx(1.25)
    assert row["kl"] == pytest.approx(6.0)


def test_the_last_evaluation_counts_and_that_of_the_base_never(tmp_path: Path) -> None:
    folder = make(tmp_path / "run", evaluated=None)
    assert arms([folder]).rows[0]["win_rate"] is None  # only the base's own, of round 0
    with open(folder / "metrics.jsonl", "a") as file:
        file.write(metrics("evaluation", 1, {**EVALUATED, "wins": 10}).to_json() + "\n")
        file.write(metrics("evaluation", 2, {**EVALUATED, "win_rate": 0.9, "wins": 90, "ties": 0, "losses": 10}).to_json() + "\n")
        file.write('{"id": "evaluation-a-0003", "torn')
    assert arms([folder]).rows[0]["win_rate"] == pytest.approx(0.9)


def test_experts_that_learn_by_turns_have_a_row_each(tmp_path: Path) -> None:
    folder = make(tmp_path / "run", arm=None, learner="both", rounds=[ROUND])
    with open(folder / "metrics.jsonl", "a") as file:
        of_b = {**EVALUATED, "win_rate": 0.8, "wins": 80, "ties": 0, "losses": 20}
        file.write(metrics("evaluation", 2, of_b, learner="b").to_json() + "\n")
    a, b = arms([folder]).rows
    assert (a["arm"], a["learner"], b["learner"], a["rounds"], b["rounds"]) == (NO_ARM, "a", "b", 1, 0)
    assert (a["win_rate"], b["win_rate"]) == (0.7, 0.8)
    text = markdown(arms([folder]).values())
    assert f"| {NO_ARM}, expert a |" in text and f"| {NO_ARM}, expert b |" in text


def test_any_number_of_experts_learn_by_turns(tmp_path: Path) -> None:
    experts = {name: {"path": name} for name in ("ann", "ben", "cay")}
    folder = make(tmp_path / "run", learner="all", rounds=[], evaluated=None, experts=experts)
    config = yaml.safe_load((folder / "config.yaml").read_text())
    (folder / "config.yaml").write_text(yaml.safe_dump({**config, "rounds": 7}, sort_keys=False))
    lines = [metrics("round", i, ROUND, learner=name) for i, name in enumerate(("ann", "ben", "cay", "ann"), 1)]
    lines.append(metrics("evaluation", 4, {**EVALUATED, "wins": 80, "ties": 0, "losses": 20, "win_rate": 0.8}, learner="ben"))
    (folder / "metrics.jsonl").write_text("".join(f"{one.to_json()}\n" for one in lines))
    rows = arms([folder]).rows
    # 7 rounds by turns: rounds 1, 4, 7 are Ann's, 2 and 5 Ben's, 3 and 6 Cay's
    assert [(row["learner"], row["rounds"], row["rounds_wanted"]) for row in rows] == [("ann", 2, 3), ("ben", 1, 2), ("cay", 1, 2)]
    assert [row["win_rate"] for row in rows] == [None, 0.8, None]
    assert ", expert cay |" in markdown(arms([folder]).values())


def test_a_note_names_the_expert_that_it_is_about_and_tells_of_a_run_once(tmp_path: Path) -> None:
    experts = {name: {"path": name} for name in ("ann", "ben", "cay")}
    first, second = (make(tmp_path / name, learner="all", evaluated=None, finished=False, experts=experts, rounds=[]) for name in "01")
    lines = [metrics("round", i, ROUND, learner=name) for i, name in enumerate(("ann", "ben"), 1)]
    (first / "metrics.jsonl").write_text("".join(f"{one.to_json()}\n" for one in lines))
    # two rounds by turns: Ann's and Ben's
    done = {"ann": "1 of 1", "ben": "1 of 1", "cay": "0 of 0"}
    left_out = f"mixed: {second} has the seed 0 of {first} and is left out"
    unfinished = [f"mixed, expert {name}: {first} is not finished ({said} rounds, not evaluated yet)" for name, said in done.items()]
    assert arms([tmp_path]).notes == [left_out, *unfinished]
    one = make(tmp_path / "one", learner="cay", experts=experts)
    assert [(row["learner"], row["rounds_wanted"]) for row in arms([one]).rows] == [("cay", 2)]


# -- what must not be pooled --------------------------------------------------------------------------------------------


def test_runs_of_one_arm_with_different_settings_are_rows_of_their_own(tmp_path: Path) -> None:
    make(tmp_path / "0")
    make(tmp_path / "1", seed=1, view="live", run={"seed": 1, "dir": "elsewhere"})  # neither the view nor the folder matters
    make(tmp_path / "2", seed=2, train={"beta": 0.5})
    rows = arms([tmp_path]).rows
    assert [(row["arm"], row["seeds"]) for row in rows] == [("mixed (train.beta=0.1)", [0, 1]), ("mixed (train.beta=0.5)", [2])]


def test_runs_of_other_embedded_models_are_no_seeds_of_one_arm(tmp_path: Path) -> None:
    """Their config is the same, and the models that it names are others: pooled, 70 and 90 of 100 would be an arm of .8 that nobody ran."""
    experts = {seat: {"family": "world", "path": "embedded:llama"} for seat in "ab"}
    more: dict[str, Figure] = {**EVALUATED, "win_rate": 0.9, "wins": 90, "ties": 0, "losses": 10}
    for seed, (models, evaluated) in enumerate((("first", EVALUATED), ("second", more))):
        folder = make(tmp_path / str(seed), seed=seed, evaluated=evaluated, experts=experts)
        (folder / "provenance.json").write_text(json.dumps({"embedded_models": models}))
    rows = arms([tmp_path]).rows
    assert [(row["arm"], row["seeds"]) for row in rows] == [("mixed (embedded_models=first)", [0]), ("mixed (embedded_models=second)", [1])]
    assert [row["win_rate"] for row in rows] == [pytest.approx(0.7), pytest.approx(0.9)]
    make(tmp_path / "2", seed=0, experts=experts)
    (tmp_path / "2" / "provenance.json").write_text(json.dumps({"embedded_models": "second"}))
    assert [row["seeds"] for row in arms([tmp_path]).rows] == [[0], [0, 1]]  # seed 0 of others is no second time of it


def test_settings_that_differ_in_several_keys_have_names_of_their_own(tmp_path: Path) -> None:
    """Arms are held against each other by their names."""
    settings = [{"beta": 0.1, "batch": 4, "rank": 8}, {"beta": 0.2, "batch": 8, "rank": 8}, {"beta": 0.2, "batch": 8, "rank": 16}]
    for i, (train, outcomes) in enumerate(zip(settings, (EVEN, BETTER, [*EVEN[:-1], 0.5]), strict=True)):
        replies(make(tmp_path / str(i), train=train), outcomes, TOPICS)
    rows = arms([tmp_path]).rows
    assert [row["arm"] for row in rows] == [
        "mixed (train.batch=4, train.beta=0.1, train.rank=8)", "mixed (train.batch=8, train.beta=0.2, train.rank=8)",
        "mixed (train.batch=8, train.beta=0.2, train.rank=16)",
    ]  # fmt: skip
    assert [row["minus_control"] for row in rows] == [None, pytest.approx((37 - 16) / 40), pytest.approx(0.5 / 40)]


def test_one_seed_counts_once_and_a_finished_run_goes_first(tmp_path: Path) -> None:
    make(tmp_path / "0", finished=False, evaluated={**EVALUATED, "wins": 0, "losses": 80})
    make(tmp_path / "1")
    table = arms([tmp_path, tmp_path / "1"])  # named twice, read once
    assert (table.rows[0]["win_rate"], table.rows[0]["seeds"]) == (0.7, [0])
    assert table.notes == [f"mixed: {tmp_path / '0'} has the seed 0 of {tmp_path / '1'} and is left out"]


def test_an_unfinished_run_is_named(tmp_path: Path) -> None:
    make(tmp_path / "0", finished=False, evaluated=None, rounds=[ROUND])
    make(tmp_path / "1", seed=1)
    table = arms([tmp_path])
    assert table.notes == [f"mixed: {tmp_path / '0'} is not finished (1 of 2 rounds, not evaluated yet)"]
    assert (table.rows[0]["rounds"], table.rows[0]["rounds_max"], table.rows[0]["finished"]) == (1, 2, False)
    assert "1-2 of 2" in markdown(table.values())


def test_what_a_run_came_to_on_the_way_is_not_pooled_with_the_ends_of_others(tmp_path: Path) -> None:
    """Seed 0 has .7 of 100 on the topics that are held out; seed 1 is half done, and has .9 of 100 on those by which weights are chosen.
    Together they would be .8 of 200, "on held-out topics"."""
    done, more = make(tmp_path / "0"), {**EVALUATED, "win_rate": 0.9}
    half = make(tmp_path / "1", seed=1, evaluated=more, rounds=[ROUND], finished=False)
    (done / "metrics.jsonl").write_text((done / "metrics.jsonl").read_text().replace("evaluation-a-0002", "evaluation-a-0002-final"))
    table = arms([tmp_path])
    (row,) = table.rows
    assert (row["seeds"], row["n"], row["win_rate"], row["win_rate_max"]) == ([0, 1], 100, pytest.approx(0.7), 0.7)
    assert row["judged"] == 160 and row["judged_max"] == 320  # its rounds count as they did
    assert table.notes == [f"mixed: {half} is not finished (1 of 2 rounds, evaluated on the way alone, which does not count)"]


def test_arms_that_are_judged_differently_are_not_compared_in_silence(tmp_path: Path) -> None:
    make(tmp_path / "0")
    make(tmp_path / "1", arm="wim", evaluated={**EVALUATED, "judge": "pointwise by third"})
    assert arms([tmp_path]).notes == ["the arms are not judged alike (pointwise by third, truth): their win rates cannot be compared"]


# -- what is refused ----------------------------------------------------------------------------------------------------


def test_folders_that_are_no_runs_are_all_named(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "talk").mkdir()
    (tmp_path / "talk" / "config.yaml").write_text("conversation: {count: 1}\nrun: {seed: 0}\n")
    make(tmp_path / "good")
    with pytest.raises(ConfigError) as error:
        arms([tmp_path / "nowhere", tmp_path / "empty", tmp_path / "talk", tmp_path / "good"])
    said = error.value.problems
    assert len(said) == 3
    assert "no such folder" in said[0] and "holds no training run" in said[1] and "no training run" in said[2]
    table = arms([tmp_path])  # in a folder of runs those of other commands are only counted
    assert len(table.rows) == 1 and table.notes == [f"{tmp_path}: runs of other commands, left out: 1"]
    (tmp_path / "good" / "trackers" / "wandb").mkdir(parents=True)
    (tmp_path / "good" / "trackers" / "wandb" / "config.yaml").write_text("learner: {value: a}\n")
    assert arms([tmp_path]).notes == table.notes  # what lies in a run is none of its own


@pytest.mark.parametrize("line", ['{"id": 1}\n', '{"id": "x"\n{"id": "y"}\n'])
def test_damaged_metrics_are_a_config_error(tmp_path: Path, line: str) -> None:
    folder = make(tmp_path / "run")
    (folder / "metrics.jsonl").write_text(line)
    with pytest.raises(ConfigError, match=r"metrics\.jsonl, line 1"):
        arms([folder])


# -- the command --------------------------------------------------------------------------------------------------------


def test_files_hold_the_same_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make(tmp_path / "runs" / "0")
    make(tmp_path / "runs" / "1", seed=1)
    make(tmp_path / "runs" / "2", arm="wim | [red]", evaluated=None)
    for suffix in ("md", "csv", "json"):
        assert run_arms([str(tmp_path / "runs"), "--out", str(tmp_path / f"table.{suffix}")], print_arms, markdown, as_svg) == 0
    shown = capsys.readouterr().out
    assert "70.0 (63.3-75.9)" in shown and "wim | [red]" in shown  # wilson(140, 200); markup in a name stays text
    values = json.loads((tmp_path / "table.json").read_text())
    lines = list(csv.DictReader(io.StringIO((tmp_path / "table.csv").read_text())))
    assert [float(lines[0]["win_rate"]), lines[1]["win_rate"]] == [values["arms"][0]["win_rate"], ""]
    assert (lines[0]["seeds"], values["arms"][0]["seeds"]) == ("0 1", [0, 1])
    text = (tmp_path / "table.md").read_text()
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert len(table) == 4 and len({line.replace("\\|", "").count("|") for line in table}) == 1
    assert "| 2.00 (1.86-2.14) |" in text  # half width .2 on each of two seeds: .2 / sqrt(2) = .141


def test_a_table_fits_a_narrow_screen(tmp_path: Path) -> None:
    for i, arm in enumerate(("random_judge", "shuffled_wim", "sign_flipped")):
        make(tmp_path / str(i), arm=arm)
        make(tmp_path / f"{i}-1", arm=arm, seed=1)
    out = io.StringIO()
    print_arms(arms([tmp_path]).values(), out)
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= 100
    assert sum("sign_flipped" in line for line in lines) == 3  # one line in each of the three parts: nothing is folded


def test_a_screen_may_be_very_narrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Screen(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("COLUMNS", "24")
    even = Tally(distinct=2, repeats=0, wrong=0, claims=2)
    for arm in ("one", "two"):
        replies(make(tmp_path / arm, arm=arm), EVEN, TOPICS, policy=even, base=even, reward_policy=0.5, reward_base=0.1)
    out = Screen()
    print_arms(arms([tmp_path]).values(), out)
    assert "win rate, %" in " ".join(out.getvalue().split()) and "A one" not in out.getvalue()  # the drawing has no room


def test_wrong_arguments(tmp_path: Path) -> None:
    folder = make(tmp_path / "run")
    with pytest.raises(ConfigError, match=r"must end in \.md, \.csv, \.json"):
        run_arms([str(folder), "--out", "table.txt"], print_arms, markdown, as_svg)
    with pytest.raises(ConfigError, match="cannot be written"):
        run_arms([str(folder), "--out", str(tmp_path / "nowhere" / "table.md")], print_arms, markdown, as_svg)
    with pytest.raises(SystemExit) as code:
        run_arms([], print_arms, markdown, as_svg)
    assert code.value.code == 2
