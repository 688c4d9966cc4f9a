"""posts: what is written about, what is no post, what is like another; a run that goes on; what others read of its folder."""

from __future__ import annotations

import csv
import doctest
import json
from collections import Counter
from collections.abc import Callable
from functools import lru_cache
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from expertchat.backends.base import GenerateRequest
from expertchat.command.compose import load
from expertchat.command.launch import load_whole
from expertchat.config import ConfigError
from expertchat.doors import posts as door
from expertchat.events import RunFinished
from expertchat.posts import run as module
from expertchat.posts.config import PostsConfig
from expertchat.posts.run import FAULTS, Unlike, check_briefs, run_posts, texts_apart
from expertchat.text import language
from expertchat.views.posts import PostsView
from tests.scripted import BagOfWords, Collect, Double

MINE = ["model=auto", "model.path=folder", "decoding@model.decoding=sampling", "view=none"]


@lru_cache
def config_of(*words: str) -> PostsConfig:
    config = load("posts", door.meant([*MINE, *words]))
    assert isinstance(config, PostsConfig)
    return config


def unlike(request: GenerateRequest) -> str:
    """Each post of words of its own, with the marks of the language that it was asked in."""
    marks = "und der ist" if "Deutsch" in request.messages[-1].content else "and the is"
    return f"{marks} {' '.join(f'w{request.key[:5]}{i}' for i in range(12))}."


def write(folder: Path, *words: str, reply: Callable[[GenerateRequest], str] = unlike, sink: Any = None) -> tuple[int, Double]:
    config, double = config_of(*words), Double(reply)
    config = config.model_copy(update={"run": config.run.model_copy(update={"dir": str(folder)})})
    return run_posts(config, ["expertchat", "posts"], sink or Collect(), backends={"model": double}, embedder=BagOfWords()), double


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_the_examples_in_the_docstrings() -> None:
    for one in (module, language, door):
        assert doctest.testmod(one).failed == 0


def test_languages_by_turns_as_one_column_and_in_parts(tmp_path: Path) -> None:
    assert write(tmp_path, "languages=[en,de]", "count=7", "parts=3")[0] == 0
    with open(tmp_path / "posts.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["Posts"] and len(rows) == 8 and all(len(row) == 1 for row in rows)
    posts = lines(tmp_path / "posts.jsonl")
    assert [post["language"] for post in posts] == ["en", "de"] * 3 + ["en"]
    assert [post["text"] for post in posts] == [row[0] for row in rows[1:]]
    assert [len(lines(tmp_path / f"part-{n}.jsonl")) for n in (1, 2, 3)] == [3, 2, 2]  # 7 shared out by turns
    asked = {one["id"]: one for one in lines(tmp_path / "written.jsonl")}
    assert len({(one["topic"], one["persona"]) for one in asked.values()}) == 7  # nobody writes twice about the same


def test_what_is_no_post_is_written_anew_and_counted(tmp_path: Path) -> None:
    """Of 6 places: 0 says nothing, 1 refuses, 2 is in German, 3 says what 4 says; the second attempts are posts."""
    bad = {"s0000/a0": " ... ", "s0001/a0": "I'm sorry, but I cannot help with that.", "s0002/a0": "Der Hund ist weg und wir suchen ihn.",
           "s0003/a0": "The same words and more of them.", "s0004/a0": "The same words and more of them."}  # fmt: skip
    sink = Collect()
    code, double = write(tmp_path, "languages=[en,de]", "count=6", reply=lambda request: bad.get(request.key, unlike(request)), sink=sink)
    assert code == 0 and len(double.asked()) == 6 + 4
    posts = lines(tmp_path / "posts.jsonl")
    # place 3 is German: its English words are of another language, so it is 4 that stays
    assert [post["id"] for post in posts] == ["s0000/a1", "s0001/a1", "s0002/a1", "s0003/a1", "s0004/a0", "s0005/a0"]
    (end,) = sink.of(RunFinished)
    assert end.summary["faults"] == {FAULTS["blank"]: 1, FAULTS["refusal"]: 1, FAULTS["language"]: 2}
    assert end.summary["languages"] == {"en": {"posts": 3, "written": 5}, "de": {"posts": 3, "written": 5}}


def test_the_later_of_two_that_are_alike_is_written_anew(tmp_path: Path) -> None:
    same = {"s0000/a0": "A cat is missing in Mill Street.", "s0002/a0": "A cat is missing in Mill Street!", "s0001/a0": "Keys were found."}
    assert write(tmp_path, "count=3", reply=lambda request: same.get(request.key, unlike(request)))[0] == 0
    written = {one["id"]: one for one in lines(tmp_path / "written.jsonl")}
    assert written["s0002/a0"]["fault"] == "near" and written["s0002/a0"]["near"] == "s0000/a0"  # the same words but for the dot: cosine 1
    assert written["s0002/a0"]["similarity"] == pytest.approx(1.0) and written["s0002/a1"]["fault"] is None


def test_a_post_that_was_cut_is_written_anew_or_shortened(tmp_path: Path) -> None:
    double = Double(lambda request: "The cat is gone. It is gr" if request.key == "s0000/a0" else "The ke")
    double.finish = "length"
    config = config_of("count=2", "attempts=1", "cut=shorten")
    config = config.model_copy(update={"run": config.run.model_copy(update={"dir": str(tmp_path)})})
    assert run_posts(config, ["expertchat"], Collect(), backends={"model": double}, embedder=BagOfWords()) == 0
    assert [(one["text"], one["fault"]) for one in lines(tmp_path / "written.jsonl")] == [("The cat is gone.", None), ("The ke", "cut")]


def test_posts_may_be_kept_apart_from_others(tmp_path: Path) -> None:
    assert write(tmp_path / "one", "count=2")[0] == 0
    code, _ = write(tmp_path / "two", "count=2", "attempts=1", f"apart=[{tmp_path / 'one'}]")
    assert code == 1 and lines(tmp_path / "two" / "written.jsonl")[0]["near"] == "apart-0"  # the double says the same again
    summary = json.loads((tmp_path / "two" / "summary.json").read_text())
    assert summary["status"] == "failed" and FAULTS["near"] in summary["reason"]
    assert len(texts_apart(config_of(f"apart=[{tmp_path / 'one' / 'posts.csv'}]"))) == 2


def test_a_run_that_was_broken_off_asks_for_nothing_twice(tmp_path: Path) -> None:
    assert write(tmp_path / "whole", "count=6")[0] == 0
    assert write(tmp_path / "half", "count=6")[0] == 0
    (tmp_path / "half" / "summary.json").unlink()
    for name, kept in (("answers", 4), ("written", 2)):
        path = tmp_path / "half" / f"{name}.jsonl"
        path.write_text("".join(path.read_text("utf-8").splitlines(keepends=True)[:kept]) + '{"torn')
    code, double = write(tmp_path / "half", "count=6")
    assert code == 0 and len(double.asked()) == 2
    for name in ("posts.jsonl", "posts.csv", "written.jsonl"):
        assert (tmp_path / "half" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_what_does_not_go_together_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"uses unknown \['street'\]"):
        config_of("languages=[en]", "languages.en.wording='{topic} {street}'")
    with pytest.raises(ConfigError, match=r"has no \{topic\}"):
        config_of("languages=[en]", "languages.en.wording=Write")
    with pytest.raises(ConfigError, match="would be the same one"):
        config_of("languages=[en]", "decoding@model.decoding=greedy")
    assert list(check_briefs(load("posts", []))) == ["languages: names none; name one or several, as languages=[en,de]"]
    with pytest.raises(ConfigError) as caught:  # of the model in whose place none is named nothing is said
        load_whole("posts", door.meant(["model=auto", "model.path=folder", "languages=[en]", "count=90"]))
    assert "take decoding@model.decoding=sampling" in str(caught.value) and "embedded models" not in str(caught.value)
    (said,) = check_briefs(load("posts", door.meant(["languages=[en]"])))
    assert "the embedded models cannot write posts in 'en'" in said
    (tmp_path / "who.yaml").write_text("baker: a baker\n")
    languages = config_of("languages=[en]", f"languages.en.personas={tmp_path / 'who.yaml'}").languages.root
    assert languages["en"].personas == {"baker": "a baker"}
    with pytest.raises(ConfigError, match=r"personas gone\.yaml: no such file"):
        config_of("languages=[en]", "languages.en.personas=gone.yaml")


def test_the_screen_shows_languages_and_what_was_left_out() -> None:
    out = StringIO()
    view = PostsView(out, moves=False)
    view.show_end({"languages": {"en": {"posts": 3, "written": 5}}, "faults": {FAULTS["near"]: 2}, "nearest": 0.81,
                   "examples": {"en": "A \x1b[31mcat [bold]is missing"}})  # fmt: skip
    said = " ".join(out.getvalue().split())
    assert "en 3 5" in said and "2, each of which is like an earlier one" in said and "0.810" in said
    assert "\x1b" not in said and "[bold]" in said


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.floats(-1, 1), st.floats(-1, 1)).filter(lambda v: abs(v[0]) + abs(v[1]) > 0.01), min_size=1, max_size=8))
def test_the_nearest_is_the_one_with_the_highest_cosine(vectors: list[tuple[float, float]]) -> None:
    units = [(x / (x * x + y * y) ** 0.5, y / (x * x + y * y) ** 0.5) for x, y in vectors]
    store = Unlike(len(units))
    assert store.nearest(units[0]) == (None, None)
    for i, vector in enumerate(units):
        store.take(str(i), vector)
    name, cosine = store.nearest(units[0])
    best = max(units[0][0] * x + units[0][1] * y for x, y in units)
    assert cosine == pytest.approx(best, abs=1e-5) and name is not None
    assert Counter(units)[units[int(name)]] and store.nearest((0.0, 0.0)) == (None, None)
