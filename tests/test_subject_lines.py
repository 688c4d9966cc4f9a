"""Subject lines: the rules by which one is made, how a model is asked for one, what best_of_n leaves; and how a study reads curves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from expertchat.backends.base import GenerateRequest
from expertchat.choosing.config import BestOfNConfig
from expertchat.choosing.ruled import rule_text
from expertchat.choosing.run import run_best_of_n
from expertchat.choosing.subject import CHARACTERS, fits, subject_line
from expertchat.command.compose import load
from expertchat.config import ConfigError
from expertchat.doors import best_of_n as door
from expertchat.sources.words import as_overrides
from expertchat.studies.tables import cell_of, tables_of
from expertchat.studies.written import Step, StudyFile
from expertchat.text.likeness import blank
from tests.scripted import Collect, Double

POSTS = "Posts\nHi all! Our cat Tom is missing since Monday.\nHas anyone a ladder?\n"
ASKED = "instruction='One subject line, please. The post: {text}'"


@pytest.mark.parametrize(
    ("post", "line"),
    [
        ("Hello neighbours, just a short word.", "Just a short word"),
        ("Liebe Nachbarn, unsere Katze Mimi ist weg.", "Unsere Katze Mimi ist weg"),
        ("Hi!", "Hi!"),  # nothing is left but the greeting
        ("Hidden keys were found.", "Hidden keys were found"),  # no greeting, though it begins like one
        ("I have looked all over town for someone who could take care of our hedge. Who can? Thanks!", "Who can?"),
        ("We, who live here since the old mill was shut, go on and on as if it had not been so at all, ever", "Live here since, mill"),
        ("今日は猫がいません。", "今日は猫がいません。"),
        ("...", None),
        ("", None),
    ],
)
def test_the_rules_one_by_one(post: str, line: str | None) -> None:
    found = rule_text("subject_line", post)
    assert found == line or (line is not None and found is not None and found.startswith(line))


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=300), st.none() | st.text(max_size=80))
def test_a_line_fits_whatever_the_post_says(post: str, phrases: str | None) -> None:
    line = subject_line(post, phrases)
    assert line is None or (len(line) <= CHARACTERS + 2 and (fits(line.rstrip("…")) and "\n" not in line))
    assert (line is None) == blank(post) or phrases is not None


def config_of(folder: Path, table: Path, *words: str) -> BestOfNConfig:
    plain = ["chooser=length", "judge=shorter", "n=2", "resamples=100", "view=none", "model=auto", "model.path=folder", f"run.dir={folder}",
             "decoding@model.decoding=sampling", "source.columns.prompt=Posts", "rule_text=subject_line"]  # fmt: skip
    config = load("best_of_n", door.named_parts(as_overrides([str(table), *plain, *words])))
    assert isinstance(config, BestOfNConfig)
    return config


def test_a_model_is_asked_for_a_line_and_the_rule_reads_the_post_alone(tmp_path: Path) -> None:
    table, double = tmp_path / "posts.csv", Double(lambda request: {"0": "Tom", "1": "Tom is gone"}[request.key[-1]])
    table.write_text(POSTS)
    config = config_of(tmp_path / "run", table, ASKED)
    assert run_best_of_n(config, ["expertchat", "best_of_n"], Collect(), backends={"model": double}) == 0
    asked = [request for request in double.requests if isinstance(request, GenerateRequest)]
    assert asked[0].messages[-1].content == "One subject line, please. The post: Hi all! Our cat Tom is missing since Monday."
    rows: list[dict[str, Any]] = [json.loads(line) for line in (tmp_path / "run" / "choices.jsonl").read_text("utf-8").splitlines()]
    assert [(row["rule"], row["base"], row["best"]) for row in rows] == [
        ("Our cat Tom is missing since Monday", "Tom", "Tom is gone"), ("Has anyone a ladder?", "Tom", "Tom is gone"),
    ]  # fmt: skip
    assert rows[0]["prompt"] == [{"role": "user", "content": asked[0].messages[-1].content}]
    with pytest.raises(ConfigError, match=r"instruction: holds no \{text\}"):
        config_of(tmp_path, table, "instruction=Write")


def test_a_study_reads_lists_and_lines_of_logs(tmp_path: Path) -> None:
    lines = [json.dumps({"id": f"e{n}", "round": n, "figures": {"loss": n / 10}}) for n in range(6)]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    (tmp_path / "summary.json").write_text(json.dumps({"curve": [{"n": 1, "won": {"value": 0.5, "low": 0.4, "high": 0.6}}, {"n": 2}]}))
    step = Step("learn", "learn", "metrics", (), tmp_path, (), None, "")
    assert str(cell_of(tmp_path, "curve.0.won")) == "0.50 (0.40 to 0.60)" and cell_of(tmp_path, "curve.-1.n").value == 2
    shares = {"title": "x", "rows": {"it": "learn"}, "figures": {"lost": "1-curve.0.won", "none": "1-curve.7.won"}}
    of_shares = StudyFile.model_validate({"title": "x", "steps": {"learn": {"run": "metrics x"}}, "tables": {"shares": shares}})
    cells = tables_of(of_shares, [step])
    assert list(map(str, cells["shares"].rows["it"])) == ["0.50 (0.40 to 0.60)", "–"]
    assert cell_of(tmp_path, "curve.5.n").value is None and cell_of(tmp_path, "metrics.jsonl:e3.figures.loss").value == 0.3
    table = {"title": "x", "rows": {"it": "learn"}, "list": "metrics.jsonl", "named": "round", "every": 4, "figures": {"l": "figures.loss"}}
    study = StudyFile.model_validate({"title": "x", "steps": {"learn": {"run": "metrics x"}}, "tables": {"curve": table}})
    shown = tables_of(study, [step])["curve"]
    assert {name: cells[0].value for name, cells in shown.rows.items()} == {"0": 0.0, "4": 0.4, "5": 0.5}  # each fourth, and the last
