"""A report as a file: what it says first, what stands in it, and that texts, damage and what goes on do it no harm."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
import shutil
import zlib
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from expertchat.config import ConfigError
from expertchat.folder.reader import RunReader
from expertchat.report import command, writing
from expertchat.report.command import run_report
from expertchat.report.facts import facts_of
from expertchat.report.grouped import Grouped
from expertchat.report.making import report_of
from expertchat.report.parts import Report, Verdict
from expertchat.report.sections.conversations import drift, endings, rank_correlation
from expertchat.report.subject import Subject, subject_of
from expertchat.report.told import COSINE, RATING, Told, Values, of_categories, pooled, read
from expertchat.report.transcripts import talks
from expertchat.report.verdict import verdict_of
from expertchat.views.report import print_report, print_written
from tests.reported import HOSTILE, dialogues

EARLIER = Path(__file__).parent / "earlier"


def nothing(*_: object) -> None:
    """Nobody is told."""


def report(*places: Path, out: Path, more: tuple[str, ...] = ()) -> str:
    assert run_report([*map(str, places), "--out", str(out), *more], nothing, nothing) == 0
    return out.read_text("utf-8")


def unpacked(page: str) -> dict[str, Any]:
    """What is packed in a page, by name."""
    found = re.findall(r'<script type="text/plain" id="([a-z0-9-]+)">([A-Za-z0-9+/=]*)</script>', page)
    return {name: json.loads(zlib.decompress(base64.b64decode(text))) for name, text in found}


def listed(page: str) -> list[dict[str, Any]]:
    """The talks of a page with what is unpacked of them."""
    packed = unpacked(page)
    return [{"id": line[1], "flags": line[5], "mean": line[8], "apart": line[9], **packed[f"block-{line[-2]}"][line[-1]]}
            for line in packed.get("index", ())]  # fmt: skip


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Of a run in which everything that means harm was said, in a folder with such a name."""
    home = tmp_path_factory.mktemp("report")
    run = dialogues(home / "<script>alert(1)<", len(HOSTILE), turns=2, said=lambda n, i: HOSTILE[n], candidates=2)
    return report(run, out=home / "page.html")


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures have tests of their own (test_report_figures.py, test_report_sections.py) and take the most of a page's time."""
    monkeypatch.setattr(writing, "inline_svg", lambda figure: "<svg></svg>")


# -- the page ----------------------------------------------------------------------------------------------------------------------


def test_a_page_runs_its_own_script_and_asks_for_nothing(page: str) -> None:
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]+)"', page)
    assert policy is not None and policy[1].startswith("default-src 'none'; script-src 'sha256-")
    for tag, attributes in (("script", ""), ("style", "")):
        own = re.findall(rf"<{tag}{attributes}>(.*?)</{tag}>", page, re.DOTALL)
        assert len(own) == 1
        assert f"'sha256-{base64.b64encode(hashlib.sha256(own[0].encode()).digest()).decode()}'" in policy[1]
    markup = re.sub(r"<script.*?</script>|<style.*?</style>", "", page, flags=re.DOTALL)
    assert not re.search(r'<[a-z][^<>]* (?:src=|(?:xlink:)?href="(?!#|data:,)|on[a-z]+=|style=)', markup)


def test_texts_are_packed_or_escaped(page: str) -> None:
    markup = re.sub(r"<script.*?</script>|<style.*?</style>", "", page, flags=re.DOTALL)
    assert "<script" not in markup and "alert(1)" in markup  # the folder's name, as text
    assert len(page) < 3_000_000  # a letter a million times is packed
    told = {talk["id"]: talk["turns"][0]["text"] for talk in listed(page)}
    assert told["c00000"] == HOSTILE[0] and len(told) == len(HOSTILE)
    assert "\x1b" not in json.dumps(told, ensure_ascii=False) and "\u202e" not in json.dumps(told, ensure_ascii=False)


def test_nothing_unanswered_is_a_number(page: str) -> None:
    """Every seventh rating is null (tests.reported): of dialogue 1 the third category, (1 + 2) % 7 == 3."""
    talk = listed(page)[1]
    null = [one for one in talk["ratings"] if one["number"] is None]
    assert [one["category"] for one in null] == ["clarity", "clarity"] and "null" in talk["flags"]
    assert null[0]["problem"] == "no number in it" and null[0]["raw"] == "it is good"
    known = [one["number"] for one in talk["ratings"] if one["number"] is not None]
    assert len(known) == 4 and talk["mean"] == pytest.approx(sum(known) / 4, abs=0.01)


@pytest.mark.usefixtures("undrawn")
def test_the_same_run_gives_the_same_bytes(tmp_path: Path) -> None:
    run = dialogues(tmp_path / "run", 6)
    assert report(run, out=tmp_path / "page.html") == report(run, out=tmp_path / "page.html")


def test_candidates_stand_at_their_turn(page: str) -> None:
    turn = listed(page)[0]["turns"][-1]
    assert turn["open"] and [one["taken"] for one in turn["candidates"]] == [True, False]
    assert all(0 <= one["score"] <= 1 for one in turn["candidates"])


def test_tokens_are_shaded_where_their_likelihoods_were_written(tmp_path: Path) -> None:
    """Of a turn, and of a candidate that the dialogue went on with; special tokens are not shown."""
    run = dialogues(tmp_path / "run", 2, candidates=2)
    tokens = [{"text": "The", "probability": 0.5, "rank": 1}, {"text": "<s>", "probability": 0.1, "rank": 9, "special": True}]
    for n, candidate in enumerate((None, "c00001/t02/k0")):
        about = {"run": str(run), "dialogue": f"c0000{n}", "turn": 2 * n, "candidate": candidate}
        (tmp_path / f"{n}.json").write_text(json.dumps({"about": about, "tokens": tokens}))
    found = {talk.id: talk.body["turns"] for talk in talks(subject_of([run, tmp_path / "0.json", tmp_path / "1.json"]), [])}
    assert found["c00000"][0]["shades"] == found["c00001"][2]["shades"] == [["The", 0.5, 1]]
    assert "shades" not in found["c00000"][2] and "shades" in found["c00001"][2]["candidates"][0]


def test_tokens_are_those_of_the_run_that_their_file_names(tmp_path: Path) -> None:
    """Runs of a study are called alike, and so are their dialogues: a file of one of them says nothing of the others. Of runs that were
    moved since the name alone is left, which tells nothing where two have it."""
    one, other = (dialogues(tmp_path / arm / "seed-1", 1) for arm in ("wim", "plain"))
    values = {"tokens": [{"text": "The", "probability": 0.5, "rank": 1}]}

    def shaded(named: Path, *runs: Path) -> list[bool]:
        file = tmp_path / "tokens.json"
        file.write_text(json.dumps({"about": {"run": str(named), "dialogue": "c00000", "turn": 0, "candidate": None}, **values}))
        return ["shades" in talk.body["turns"][0] for talk in talks(subject_of([*runs, file]), [])]

    assert shaded(other, one, other) == [False, True] and shaded(tmp_path / "gone" / "seed-1", one, other) == [False, False]
    assert shaded(tmp_path / "gone" / "seed-1", one) == [True]


@pytest.mark.usefixtures("undrawn")
def test_many_are_split_and_none_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = dialogues(tmp_path / "run", 200, turns=6)
    monkeypatch.setattr(writing, "LARGEST", (4 << 20) + 20_000)
    first = report(run, out=tmp_path / "page.html")
    files = sorted(tmp_path.glob("page*.html"))
    ids = [talk["id"] for path in files for talk in listed(path.read_text("utf-8"))]
    assert len(files) >= 3 and sorted(ids) == [f"c{n:05d}" for n in range(200)]
    assert f"They are in {len(files)} files" in first and 'href="page-2.html"' in first


# -- what it says first ------------------------------------------------------------------------------------------------------------------


def test_the_first_sentence_is_worked_out_by_hand(tmp_path: Path) -> None:
    """Of three dialogues a is rated 8, 6 and 7, b 4: means 7.0 and 4.0, apart by 4, 2 and 3, so 3.0, with a standard deviation of 1; of
    three topics the mean has an error of 1 / sqrt(3) = .577, and Student's t reaches 4.303 of them: 2.5."""
    for n, (a, b) in enumerate(((8, 4), (6, 4), (7, 4))):
        turn = {"speaker": "a", "text": "x"}
        line = {"id": f"c{n}", "topic": f"t{n}", "experts": {}, "turns": [turn], "seed": 0, "stop_reason": "turns"}
        ratings = [{"transcript": f"c{n}", "subject": who, "judge": by, "category": "depth", "value": value, "expected": None}
                   for who, by, value in (("a", "b", a), ("b", "a", b))]  # fmt: skip
        _append(tmp_path / "run" / "transcripts.jsonl", line)
        _append(tmp_path / "run" / "ratings.jsonl", *ratings, {**ratings[0], "value": None})
    said = verdict_of(subject_of([tmp_path / "run"]))
    assert said.says == (
        "In 3 dialogues on 3 topics, expert a is rated 7.0 and expert b is rated 4.0 of 10: a is higher by 3.0 (95 % interval 0.5 to 5.5)."
    )
    assert "3 of 9 ratings could not be read and count nowhere." in said.cannot and said.cannot.startswith("Not at its end yet: run.")


def test_experts_are_compared_by_the_categories_that_both_have(tmp_path: Path) -> None:
    """Both are rated 4 in depth and 8 in clarity. Where b's clarity could not be read its mean would be 4, and a's still 6: of four
    dialogues two are like that, and a would be higher by 1."""
    for n in range(4):
        turn = {"speaker": "a", "text": "x"}
        line = {"id": f"c{n}", "topic": f"t{n}", "experts": {}, "turns": [turn], "seed": 0, "stop_reason": "turns"}
        ratings = [{"transcript": f"c{n}", "subject": who, "judge": by, "category": category, "expected": None,
                    "value": None if (who, category) == ("b", "clarity") and n % 2 else value}
                   for who, by in ("ab", "ba") for category, value in (("depth", 4), ("clarity", 8))]  # fmt: skip
        _append(tmp_path / "run" / "transcripts.jsonl", line)
        _append(tmp_path / "run" / "ratings.jsonl", *ratings)
    said = verdict_of(subject_of([tmp_path / "run"])).says  # of n = 0, 2: (4 + 8) / 2 = 6; of 1, 3 in depth alone: 4
    rated = "In 4 dialogues on 4 topics, expert a is rated 5.0 and expert b is rated 5.0"
    assert said == f"{rated}: 0.0 points apart, all alike, which is too little for an interval."


def test_side_by_side_a_category_that_is_read_less_often_counts_as_much() -> None:
    """Depth is rated 4, 3 and 5, clarity 8 and twice null: all numbers together have the mean (4 + 3 + 5 + 8) / 4 = 5, the categories 4
    and 8 have 6. With clarity 8, 8 and 9 the topics have 6, 5.5 and 7: a mean of 6.17 either way, whose error, .764 / sqrt(3) = .441,
    reaches by Student's t, 4.303, to 1.90."""
    topics = ["t0", "t1", "t2"]
    depth, clarity = Values([4.0, 3.0, 5.0], topics, 0, RATING), Values([8.0], topics[:1], 2, RATING)
    assert (pooled([depth, clarity]).cell().value, of_categories([depth, clarity]).value) == (5.0, 6.0)
    whole = [depth, Values([8.0, 8.0, 9.0], topics, 0, RATING)]
    cell = of_categories(whole)
    assert cell.value == pytest.approx(pooled(whole).cell().value) == pytest.approx(37 / 6)
    assert (cell.low, cell.high) == (pytest.approx(37 / 6 - 1.90, abs=0.15), pytest.approx(37 / 6 + 1.90, abs=0.15))
    assert of_categories([Values()]).value is None


def test_experts_of_several_models_are_told(tmp_path: Path) -> None:
    """Two runs: a is one model in the first and another one in the second, and both runs' ratings make the mean of a."""
    for model, value in (("small", 4), ("large", 8)):
        experts = {"a": {"family": "x", "model": model}, "b": {"family": "x", "model": "same"}}
        turn = {"speaker": "a", "text": "x"}
        line = {"id": "c0", "topic": "t", "experts": experts, "turns": [turn], "seed": 0, "stop_reason": "turns"}
        rating = {"transcript": "c0", "subject": "a", "judge": "b", "category": "depth", "value": value, "expected": None}
        _append(tmp_path / model / "transcripts.jsonl", line)
        _append(tmp_path / model / "ratings.jsonl", rating)
    said = verdict_of(subject_of([tmp_path / "small", tmp_path / "large"]))
    assert said.says == "In 2 dialogues on 1 topic, expert a is rated 6.0."
    assert "Not all dialogues have the same models (a is small and large): a rating is that of all who sat there." in said.cannot
    assert "same models" not in verdict_of(subject_of([tmp_path / "small"])).cannot


def _append(path: Path, *lines: dict[str, Any]) -> None:
    path.parent.mkdir(exist_ok=True)
    with path.open("a") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)


def _trained(folder: Path, arm: str, wins: int, n: int) -> Path:
    """A training run of an arm, done, with its last evaluation."""
    shutil.copytree(EARLIER / "learned", folder)
    config = (folder / "config.yaml").read_text("utf-8")
    (folder / "config.yaml").write_text(
        re.sub(r"(?m)^(arm|learner):.*$", lambda found: f"{found[1]}: {arm if found[1] == 'arm' else 'a'}", config), "utf-8"
    )
    figures = {"n": n, "win_rate": wins / n, "wins": wins, "ties": 0, "losses": n - wins, "nulls": 0, "judge": "truth"}
    line = {"id": "evaluation-a-0009", "kind": "evaluation", "round": 9, "learner": "a", "policy_version": 9, "figures": figures}
    _append(folder / "metrics.jsonl", line)
    return folder


def test_arms_are_told_apart_by_their_intervals(tmp_path: Path) -> None:
    """Wilson's intervals of 90 and 50 of 100: 83 to 94 and 40 to 60; of 85: 77 to 91, which overlaps the first."""
    subject = subject_of([_trained(tmp_path / "x", "best", 90, 100), _trained(tmp_path / "y", "next", 85, 100),
                          _trained(tmp_path / "z", "last", 50, 100)])  # fmt: skip
    said = verdict_of(subject)
    assert said.says == (
        "Of 3 arms, best is preferred to its base most often, in 90 % of 100 comparisons (95 % interval 83 to 94); "
        "that is more than last, and not told apart from next."
    )
    assert "the facts of the embedded world" in said.cannot and "One seed" in said.cannot
    assert said.shown is not None and [row[0] for row in said.shown.rows] == ["best", "next", "last"]
    one = verdict_of(Subject(subject.runs[:1]))
    assert "expert a is better than before: preferred in 90 % of 100 comparisons (95 % interval 83 to 94)." in one.says


def test_a_merged_run_says_of_which_seeds_it_is(tmp_path: Path) -> None:
    """As merge_runs writes it: its provenance tells of the runs, its config of their seeds, and it has no seed of its own."""
    (tmp_path / "config.yaml").write_text("run: {seeds: [0, 3, 4]}\n")
    (tmp_path / "provenance.json").write_text(json.dumps({"merged": {"kind": "seeds", "sources": [{"seed": n} for n in (0, 3, 4)]}}))
    assert facts_of(RunReader(tmp_path))["seed"] == "0, 3, 4: merged of 3 runs"
    (tmp_path / "config.yaml").write_text("run: {seed: 3}\n")
    assert facts_of(RunReader(tmp_path))["seed"] == 3


def test_nothing_is_said_of_nothing(tmp_path: Path) -> None:
    (tmp_path / "events.jsonl").touch()
    said = verdict_of(subject_of([tmp_path]))
    assert said.says == "Nothing has come out yet." and "Not at its end yet" in said.cannot


def test_ranks_that_are_equal_share_their_place() -> None:
    """(1, 1), (2, 2), (2, 3), (4, 4): ranks 1, 2.5, 2.5, 4 and 1, 2, 3, 4; covariance 4.5 of spreads sqrt(4.5 * 5): 0.949."""
    assert rank_correlation([(1, 1), (2, 2), (2, 3), (4, 4)]) == pytest.approx(4.5 / (4.5 * 5) ** 0.5)
    assert rank_correlation([(1, 5), (2, 5)]) is None


def test_turns_that_are_rated_show_how_a_dialogue_goes_on(tmp_path: Path) -> None:
    """Turn 0 is rated 4 and 6, turn 2 is rated 9 and null: means 5 and 9, of 2 and of 1; one topic has no interval."""
    run = dialogues(tmp_path / "run", 1)
    at = {"transcript": "c00000", "subject": "a", "judge": "b", "category": "depth", "expected": None}
    lines = [{**at, "turn": turn, "value": value} for turn, value in ((0, 4), (0, 6), (2, 9), (2, None))]
    _append(run / "ratings.jsonl", *lines)
    told = Told()
    read(RunReader(run), told)
    figure = drift(told)
    assert figure is not None
    assert figure.rows == [["a by b", 1, 5.0, None, None, 2], ["a by b", 3, 9.0, None, None, 1]]


def test_endings_are_told_as_everywhere(tmp_path: Path) -> None:
    told = Told(ends=Counter({"nothing_new": 3, "blank": 1, "of_a_later_version": 1}))
    assert list(endings(told).rows) == ["nobody has anything new to add", "nobody says anything any more", "of_a_later_version"]


# -- folders as one finds them ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["talked", "learned"])
def test_runs_of_earlier_versions(name: str, tmp_path: Path) -> None:
    made = report_of(subject_of([EARLIER / name]))
    assert made.warnings == [] and made.verdict.says and made.facts.rows
    assert made.verdict.says.startswith("In 1 dialogue on 1 topic" if name == "talked" else "After")


@pytest.mark.usefixtures("undrawn")
def test_torn_and_damaged_files_are_named_and_the_rest_stands(tmp_path: Path) -> None:
    run = dialogues(tmp_path / "run", 5)
    with (run / "transcripts.jsonl").open("a") as file:
        file.write('{"id": "c00005", "topic"')  # a torn end is no damage
    found: list[str] = []
    assert [talk.id for talk in talks(subject_of([run]), found)] == [f"c{n:05d}" for n in range(5)] and found == []
    lines = (run / "wim.jsonl").read_text("utf-8").splitlines(keepends=True)
    (run / "wim.jsonl").write_text(lines[0] + "[not an object\n" + "".join(lines[1:]))
    told: list[Any] = []
    assert run_report([str(run)], nothing, lambda written, warnings: told.extend(warnings)) == 0
    assert any("wim.jsonl" in line and "left out" in line for line in told)
    assert len(listed((run / "report.html").read_text("utf-8"))) == 5


def test_an_array_is_what_it_was_merged_into_and_a_study_what_it_did_last(tmp_path: Path) -> None:
    for name in ("task-0", "task-1", "merged"):
        dialogues(tmp_path / "array" / name, 1)
    study = tmp_path / "study"
    for name in ("talk", "superseded/talk.1"):
        dialogues(study / name, 1)
    (study / "study.json").write_text('{"study": "x", "size": "smoke"}')
    (study / "logs").mkdir()
    for name, code, began in (("talk", 0, 1.0), ("say", None, 2.0)):
        (study / "logs" / f"{name}.json").write_text(json.dumps({"code": code, "began": began}))
    assert [run.folder.name for run in subject_of([study]).runs] == ["talk"]
    assert verdict_of(subject_of([study])).says == "x. 1 of 2 steps that were begun are done."
    told = {"title": "Why?", "tables": {"t": {}}}
    (study / "report.json").write_text(json.dumps(told))
    assert verdict_of(subject_of([study])).says == "Why? 1 table came of it."
    (study / "report.json").write_text(json.dumps({**told, "says": "So.", "cannot": "Of you it says nothing."}))
    own = verdict_of(subject_of([study]))
    assert own.says == "Why? So." and "no figure of it means anything. Of you it says nothing." in own.cannot and own.shown is None
    assert [run.folder.name for run in subject_of([tmp_path / "array"]).runs] == ["merged"]
    several = subject_of([tmp_path / "array" / "task-0", study])
    assert list(several.names.values()) == ["array/task-0", "study/talk"]
    _trained(study / "arm", "best", 90, 100)
    drawn = verdict_of(subject_of([study]))
    assert drawn.says == own.says and "One seed" not in drawn.cannot and drawn.shown is not None and len(drawn.shown.rows) == 1


def test_intervals_of_ratings_and_cosines_stay_on_their_scale() -> None:
    cell = Values([10.0, 9.9, 10.0, 7.0], list("abcd"), scale=RATING).cell()
    assert cell.high == 10.0 and cell.low is not None and cell.low < 8
    both = pooled([Values([1.0, 0.2], ["a", "b"], scale=COSINE), Values([0.9], ["c"], scale=COSINE)]).cell()
    assert (both.high, both.value) == (1.0, pytest.approx(0.7)) and pooled([]).cell().value is None
    own = Values([0.0, 11.0, 12.0], list("abc"), scale=RATING).cell()  # of a scale of its own
    assert (own.low, own.high) == (0.0, 12.0)


def test_all_that_is_wrong_is_told_at_once(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("no")
    (tmp_path / "y.json").write_text("{}")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError) as told:
        places = [str(tmp_path / name) for name in ("x.json", "y.json", "empty", "none")]
        run_report([*places, "--out", "x.txt", "--follow", "0"], nothing, nothing)
    assert len(told.value.problems) == 6


@pytest.mark.usefixtures("undrawn")
def test_a_run_that_goes_on_is_followed_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three looks: two dialogues, nothing new (not written again), done with three."""
    run, out, looks = dialogues(tmp_path / "run", 2), tmp_path / "page.html", iter([lambda: None, lambda: _end(run)])
    told: list[str] = []
    monkeypatch.setattr(command.time, "sleep", lambda seconds: next(looks)())
    monkeypatch.setattr(command, "report_of", lambda subject: Report("x", Verdict("x", ""), report_of(subject).facts))
    assert run_report([str(run), "--out", str(out), "--follow", "7"], nothing, lambda w, _: told.append(out.read_text("utf-8"))) == 0
    assert [len(listed(page)) for page in told] == [2, 3]
    assert '"again": 7' in told[0] and '"again": 0' in told[1]


def _end(run: Path) -> None:
    dialogues(run, 3)  # the two again, as a line each that says the same, and a third one
    (run / "summary.json").write_text("{}")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("grouped")


@settings(max_examples=40, deadline=None)
@given(lines=st.lists(st.tuples(st.sampled_from("abc"), st.text(max_size=20))), end=st.binary(max_size=12))
def test_lines_are_found_by_what_they_belong_to(home: Path, lines: list[tuple[str, str]], end: bytes) -> None:
    text = b"".join(json.dumps({"of": of, "text": said}).encode() + b"\n" for of, said in lines)
    path = home / "lines.jsonl"
    path.write_bytes(text + end.replace(b"\n", b"").replace(b"{", b""))
    grouped = Grouped(path, "of")
    assert {key: [line["text"] for line in found] for key, found in grouped.each()} == {
        of: [said for other, said in lines if other == of] for of in dict.fromkeys(of for of, _ in lines)
    }
    grouped.close()


# -- in the terminal --------------------------------------------------------------------------------------------------------------------


def test_the_first_page_in_a_terminal(tmp_path: Path) -> None:
    run = dialogues(tmp_path / "\x1b[31mrun", 12)
    shown, told = io.StringIO(), io.StringIO()
    assert run_report([str(run), "--terminal"], lambda one: print_report(one, shown), nothing) == 0
    text = shown.getvalue()
    assert "In 12 dialogues on 5 topics" in text and "Side by side" in text and "\x1b" not in text
    assert re.search("[▁▂▃▄▅▆▇█]{4}", text) and not (run / "report.html").exists()
    print_written(writing.Written({tmp_path / "page.html": 11 << 20}), ["something"], told)
    assert "11.0 MiB" in told.getvalue() and "large for a mail" in told.getvalue() and "! something" in told.getvalue()
