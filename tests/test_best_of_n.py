"""best_of_n: what is drawn, chosen, judged again and counted; a run that goes on; what others read of its folder."""

from __future__ import annotations

import doctest
import json
import math
import shutil
from collections.abc import Callable, Sequence
from functools import lru_cache
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from expertchat.backends.base import GenerateRequest, ScoreRequest
from expertchat.backends.loading import load_backend
from expertchat.choosing.card import findings
from expertchat.choosing.config import BestOfNConfig
from expertchat.choosing.curve import Curve
from expertchat.choosing.run import run_best_of_n
from expertchat.cli import main
from expertchat.command.compose import load
from expertchat.config import ConfigError
from expertchat.doors import best_of_n as door
from expertchat.events import CandidateChosen, Note
from expertchat.experts.registry import family_class
from expertchat.folder.reader import RunReader
from expertchat.records import Demonstration, Selection
from expertchat.sources.config import SourceConfig
from expertchat.sources.prompted import prompt_rows
from expertchat.sources.read import read_items
from expertchat.sources.rows import Row, Table
from expertchat.sources.words import as_overrides
from expertchat.views.choosing import ChoosingView
from tests import trained_runs
from tests.scripted import Collect, Double

PROMPTS = "prompt,group,lead\nWhat are tides?,sea,The sea rises.\nWhat is honey?,bees,Bees make it.\nWhy sleep?,rest,\n"
WORDS = {
    "p0000": ("one two", "a b c d e", "x", "five other words are here"), "p0001": ("y", "y", "", "z z"),
    "p0002": ("s t", "u v", "w x", "s t"),
}  # fmt: skip
PLAIN = ["chooser=length", "judge=shorter", "n=4", "topics=list", "topics.list=[tides]", "resamples=100"]
Captured = pytest.CaptureFixture[str]


def reply(request: GenerateRequest) -> str:
    prompt, _, rest = request.key.partition("/")
    return WORDS[prompt][int(rest.removeprefix("k"))] if rest.startswith("k") else "said before"


@lru_cache
def config_of(*words: str) -> BestOfNConfig:
    config = load("best_of_n", door.named_parts(as_overrides([*words, "view=none"])))
    assert isinstance(config, BestOfNConfig)
    return config


def run(folder: Path, *words: str, double: Double | None = None, sink: Collect | None = None) -> int:
    config = config_of(*words)
    config = config.model_copy(update={"run": config.run.model_copy(update={"dir": str(folder)})})
    double = double or Double(reply)
    backends: dict[str, Any] = dict.fromkeys(config.experts.root, double)
    return run_best_of_n(config, ["expertchat", "best_of_n"], sink or Collect(), backends=backends)


def selections(folder: Path) -> dict[str, Selection]:
    lines = (folder / "selections.jsonl").read_text("utf-8").splitlines()
    return {one.id: one for one in map(Selection.model_validate_json, lines)}


def lines(folder: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / f"{name}.jsonl").read_text("utf-8").splitlines()]


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.csv"
    path.write_text(PROMPTS)
    return path


# -- what is chosen ---------------------------------------------------------------------------------------------------------


def test_the_longest_is_chosen_and_a_judge_of_another_mind_says_what_it_thinks_of_it(tmp_path: Path, table: Path) -> None:
    sink = Collect()
    assert run(tmp_path / "run", str(table), *PLAIN, "rule_text=column:lead", "write_pairs=true", sink=sink) == 0
    found = selections(tmp_path / "run")
    # p0000: 2, 5, 1, 5 words; p0001: 1, 1, blank, 2; p0002: 2, 2, 2, 2, the last one says what the first does
    assert found["p0000"].scores == {"chooser": [2, 5, 1, 5], "other": [-2, -5, -1, -5]}
    assert (found["p0000"].chosen, found["p0001"].chosen, found["p0002"].chosen) == ([0, 1, 1], [0, 0, 3], [0, 0, 0])
    assert found["p0001"].scores["chooser"] == [1, 1, None, 2] and found["p0001"].same == [0, 0, 2, 3]  # what is blank has no score
    assert found["p0000"].others["chooser"] == {"rule": 3.0} and found["p0002"].others["chooser"] == {}  # its cell is empty
    summary = RunReader(tmp_path / "run").summary
    assert (summary["chosen"], summary["candidates"], summary["blank"], summary["equal"]) == (3, 12, 1, 2)
    one, two, four = summary["curve"]
    assert (one["kl"], one["ties"], two["ties"], four["ties"]) == (0.0, 0, 1, 2)  # p0002 from N = 2 on, p0000 at 4
    # As they were made, against the first, at N = 4. By the chooser 5 > 2, 2 > 1, itself: (1 + 1 + .5) / 3; by the other 0, 0, .5.
    assert four["judges"]["chooser"]["against"]["first"]["first_n"] == pytest.approx(2.5 / 3)
    assert four["judges"]["other"]["against"]["first"]["first_n"] == pytest.approx(0.5 / 3)
    # N = 1: a tie with itself, whoever judges. Against the rule's texts, of 3 words each, all subsets of one: of p0000 (2, 5, 1, 5) 2 of 4
    # win, of p0001 (1, 1, 2) none.
    itself = one["judges"]["other"]["against"]["first"]
    assert (itself["value"], itself["low"], itself["high"]) == (0.5, None, None)  # nothing is estimated
    against = one["judges"]["chooser"]["against"]["rule"]
    low, high = against.pop("low"), against.pop("high")
    assert against == {"value": (0.5 + 0) / 2, "n": 2, "first_n": 0.0, "ties": 0}
    assert 0 <= low < 0.1 and 0.9 < high <= 1  # two groups say nearly nothing of others
    assert summary["parting"]["other"]["best"] == 1  # the shorter the better: more candidates only make it worse
    (event,) = [event for event in sink.of(CandidateChosen) if event.selection.id == "p0001"]
    assert event.text == "z z"


def test_the_choices_are_rows_for_sft_and_pairs(tmp_path: Path, table: Path) -> None:
    assert run(tmp_path / "run", str(table), *PLAIN, "write_pairs=true") == 0
    rows = [Demonstration.model_validate(line) for line in lines(tmp_path / "run", "demonstrations")]
    told = [(row.id, row.group, row.score) for row in rows]
    assert told == [("p0000/k1", "sea", 5.0), ("p0001/k3", "bees", 2.0), ("p0002/k0", "rest", 2.0)]
    assert rows[0].completion == [{"role": "assistant", "content": "a b c d e"}] and rows[0].prompt[-1]["content"] == "What are tides?"
    assert rows[0].provenance["n"] == 4 and rows[0].source == "run:p0000/k1"
    pairs = lines(tmp_path / "run", "pairs")
    assert [(pair["id"], pair["margin"]) for pair in pairs] == [("p0000/k1-k2", 4.0), ("p0001/k3-k1", 1.0)]
    summary = RunReader(tmp_path / "run").summary
    assert (summary["pairs"], summary["pairs_tied"]) == (2, 1)  # all of p0002 are worth the same
    card = (tmp_path / "run" / "README.md").read_text("utf-8")
    assert "# Best of 4" in card and "| 4 | 0.64 |" in card and "1 are blank" in card


def test_replies_that_the_limit_cut_are_taught_to_nobody(tmp_path: Path, table: Path) -> None:
    double = Double(reply)
    double.finish = "length"
    assert run(tmp_path / "run", str(table), *PLAIN, "write_pairs=true", double=double) == 0
    summary = RunReader(tmp_path / "run").summary
    assert (summary["demonstrations"], summary["demonstrations_cut"], summary["cut"], summary["pairs"]) == (0, 3, 12, 0)
    assert run(tmp_path / "kept", str(table), *PLAIN, "cut=keep", double=double) == 0
    assert RunReader(tmp_path / "kept").summary["demonstrations"] == 3


def test_where_nothing_passes_the_threshold_nothing_is_chosen(tmp_path: Path, table: Path) -> None:
    rule = ["choose.rule=threshold", "choose.threshold=3"]
    assert run(tmp_path / "run", str(table), *PLAIN, *rule) == 0
    assert [one.chosen for one in selections(tmp_path / "run").values()] == [[None, 1, 1], [None] * 3, [None] * 3]
    summary = RunReader(tmp_path / "run").summary
    assert summary["problems"] == {"no candidate passed the threshold": 2} and [row["nothing"] for row in summary["curve"]] == [3, 2, 2]
    assert summary["curve"][0]["kl"] is None and len(lines(tmp_path / "run", "demonstrations")) == 1
    assert run(tmp_path / "none", str(table), *PLAIN, "choose.rule=threshold", "choose.threshold=9") == 1
    assert RunReader(tmp_path / "none").failure == "nothing was chosen for any of 3 prompts: no candidate passed the threshold"
    # As good as the rule's text, of three words: 5 of p0000 passes; p0001 has 2 at most; p0002 has no such text.
    assert run(tmp_path / "ruled", str(table), *PLAIN, "choose.rule=threshold", "choose.threshold=rule_text", "rule_text=column:lead") == 0
    assert [one.chosen[-1] for one in selections(tmp_path / "ruled").values()] == [1, None, None]


def rates(request: ScoreRequest) -> list[float]:
    """8 for texts with a "z", no answer (little mass) for those with an "x", else 3."""
    said = request.messages[-1].content + request.prefix
    best = 7 if "z z" in said else 2
    return [math.log((0.91 if i == best else 0.01) * (0.1 if " x" in said else 1)) for i in range(10)]


def test_who_gives_no_answer_is_never_chosen_and_counted(tmp_path: Path, table: Path) -> None:
    words = ["chooser=expected", "judge=length", "model@chooser=embedded:mixtral", *PLAIN[2:], "judging.analysis=false"]
    assert run(tmp_path / "run", str(table), *words, double=Double(reply, rates)) == 0
    found = selections(tmp_path / "run")
    assert found["p0000"].scores["chooser"][2] is None and found["p0000"].keys[2] is None
    assert found["p0001"].chosen[-1] == 3
    summary = RunReader(tmp_path / "run").summary
    nulls = sum(score is None for one in found.values() for score in one.scores["chooser"])
    assert summary["judges"]["chooser"]["null"] == nulls >= 3 and summary["judges"]["chooser"]["faults"]["low_mass"] >= 6  # categories


def test_a_judge_that_compares_sees_each_choice_against_each_text_in_both_orders(tmp_path: Path, table: Path) -> None:
    words = [*PLAIN, "judge=pairwise", "judges.other.model.path=x", "base=embedded:llama", "rule_text=longest"]
    double = Double(reply, lambda request: [math.log(0.7), math.log(0.2)] if len(request.options) == 2 else [])
    assert run(tmp_path / "run", str(table), *words, double=double) == 0
    found = selections(tmp_path / "run")
    # The judge always says A, so both orders disagree: a tie. Nobody is asked about what says the same: k1 is the longest of p0000 itself.
    assert found["p0000"].duels["other"] == {"1-first": 0.5, "0-base": 0.5, "1-base": 0.5, "0-rule": 0.5}
    assert found["p0000"].like["rule"] == [1] and found["p0002"].duels["other"] == {"0-base": 0.5}
    summary = RunReader(tmp_path / "run").summary
    assert summary["against"] == ["first", "base", "rule"] and summary["curve"][-1]["judges"]["other"]["by"] == "first_n"
    assert "score" not in summary["curve"][-1]["judges"]["other"]


def test_only_the_chosen_ones_are_judged_again_where_it_is_to_be_cheap(tmp_path: Path, table: Path) -> None:
    words = [*PLAIN, "judge=expected", "judging.analysis=false", "again=chosen"]
    assert run(tmp_path / "run", str(table), *words, double=Double(reply, rates)) == 0
    assert [score is None for score in selections(tmp_path / "run")["p0000"].scores["other"]] == [False, False, True, True]
    assert RunReader(tmp_path / "run").summary["curve"][1]["judges"]["other"]["by"] == "first_n"


def test_the_model_talks_with_itself_before_it_answers(tmp_path: Path) -> None:
    words = [*PLAIN[:3], "topics=list", "topics.list=[tides,honey]", "count=5", "turns=2", "resamples=100", "rule_text=first_sentence"]
    double = Double(lambda request: f"{request.key} says so.")
    assert run(tmp_path / "run", *words, double=double) == 0
    told = list(RunReader(tmp_path / "run").transcripts())
    # Each topic by turns, in all lengths: tides and honey after one turn, then after two, then tides after one again.
    assert sorted((one.id, one.topic, [turn.speaker for turn in one.turns]) for one in told) == [
        ("p0000", "tides", ["b"]), ("p0001", "honey", ["b"]), ("p0002", "tides", ["a", "b"]), ("p0003", "honey", ["a", "b"]),
        ("p0004", "tides", ["b"]),
    ]  # fmt: skip
    assert {key.partition("/")[2] for key in double.asked()} == {"t00", "t01", "k0", "k1", "k2", "k3"}


def test_a_prompt_that_does_not_fit_is_left_out_and_counted(tmp_path: Path, table: Path) -> None:
    double = Double(reply, context_length=160)
    table.write_text(f"prompt\nWhat are tides?\n{'why ' * 200}\n")
    assert run(tmp_path / "run", str(table), *PLAIN, double=double) == 0
    (problem,) = RunReader(tmp_path / "run").summary["problems"]
    assert "but the context holds 160" in problem and RunReader(tmp_path / "run").summary["chosen"] == 1


def test_it_is_said_where_the_chooser_was_over_optimised() -> None:
    """The chooser's favourite of four is the worst of them to the other judge, or (in every third group) as bad as another one."""
    chooser: list[float | None] = [0.0, 1.0, 2.0, 3.0]
    others: list[list[float | None]] = [[0.0, 1.0, 2.0, -1.0], [0.0, 1.0, 2.0, -1.0], [0.0, 2.0, 1.0, 0.0]]
    about: dict[str, Any] = {"sizes": [1, 2, 4], "chosen": [0, 1, 3], "same": [0, 1, 2, 3], "like": {"first": [0]}, "keys": chooser}
    told = [Selection(id=f"p{i}", scores={"chooser": chooser, "other": others[i % 3]}, **about) for i in range(24)]
    curve = Curve(config_of(*PLAIN), told, [f"g{i % 12}" for i in range(24)])
    # N = 2: of six pairs three hold the favourite, which loses to the other: .5 / 2 + .5 * 0; in three the choice wins: .5 / 2 + .5 * 1.
    # Of the third kind it ties with one, loses to two, and of the other three pairs two are won: (2 * .75 + .25 + .5 + 2 * .25) / 6.
    # N = 4: it ties with itself alone, .5 / 4; of the third kind with two of four.
    rates = [curve.at(size)["judges"]["other"]["against"]["first"]["value"] for size in (1, 2, 4)]
    assert rates == pytest.approx([0.5, (2 * 0.5 + 2.75 / 6) / 3, (2 * 0.125 + 0.25) / 3])
    assert [curve.at(size)["gaps"]["other"]["value"] for size in (2, 4)] == pytest.approx([0.75 - rates[1], 0.875 - rates[2]])
    none = curve.at(1)["gaps"]["other"]  # of one reply nobody chooses: the gap is 0 by construction, and nothing is estimated
    assert (none["value"], none["low"], none["high"]) == (0.0, None, None)
    found = curve.parting("other")
    assert (found["best"], found["over_optimised"], found["enough"]) == (1, True, 1) and found["loss"]["value"] == pytest.approx(1 / 3)
    (said,) = findings({"other": found}, 4)
    assert said.startswith("over-optimised: by other N = 1 is the best one, and N = 4 loses 33.3 (")
    one = Curve(config_of(*PLAIN), told[:1], ["g0"]).parting("other")  # a prompt says nothing of others
    assert findings({"other": one}, 4) == ["by other N = 1 is the best one, on prompts too few or too alike to say how sure that is"]
    alike = Curve(config_of(*PLAIN), told[:2], ["g0", "g1"]).parting("other")  # nor do two that lose the same
    assert alike["loss"]["low"] < 0 < alike["loss"]["high"] and not alike["over_optimised"]
    twelve = [Selection(id=f"p{i}", scores={"chooser": chooser, "other": others[0]}, **about) for i in range(12)]
    same = Curve(config_of(*PLAIN), twelve, [f"g{i}" for i in range(12)]).parting("other")
    assert same["loss"]["low"] > 0 and same["over_optimised"]  # but twelve do


# -- who judges whom --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["chooser=length", "judge=length"], "judges.other: is the chooser itself, which would praise its own choice"),
        (["chooser=expected", "judge=expected"], "judges.other: is the chooser itself"),
        (["chooser=first"], "judges.chooser: rule=first compares two texts"),
        (["judge=recorded"], "judges.other: kind=recorded knows nothing of texts that are still to be written"),
        (["~judge@judges.other"], "judges: nobody judges the choice"),
        (["decoding@model.decoding=greedy"], "model.decoding.reply.method=greedy: the 16 candidates of a prompt would be equal"),
        (["rule_text=nonsense"], "rule_text=nonsense: is no rule; take first_sentence"),
        (["topics=models"], "topics.source=models: nobody proposes topics here"),
    ],
)
def test_what_does_not_go_together_is_said(words: Sequence[str], says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config_of(*words)
    assert says in "\n".join(caught.value.problems)


def test_a_table_without_prompts_is_told_with_the_columns_that_it_has() -> None:
    """posts.csv of `expertchat posts` has one column, Posts."""
    table = Table("posts.csv", ["Posts"], [Row(2, {"Posts": "My cat is missing."})], "row")
    with pytest.raises(ConfigError, match=r"source.columns.topic=NAME \(the columns are 'Posts'\)"):
        list(prompt_rows(table, SourceConfig(path=["posts.csv"]), lambda note: None))
    named = SourceConfig.model_validate({"path": ["posts.csv"], "columns": {"prompt": "Posts"}})
    assert [row.turns[0].text for row in prompt_rows(table, named, lambda note: None)] == ["My cat is missing."]
    twice = Table("posts.csv", ["Posts"], [Row(i, {"Posts": text}) for i, text in enumerate(("Why?", "How?", "Why?"))], "row")
    first, other, again = prompt_rows(twice, named, lambda note: None)
    assert first.group == again.group != other.group  # intervals draw what was asked twice as one


def test_a_chooser_that_judges_its_choice_in_another_form_is_warned_of(tmp_path: Path, table: Path) -> None:
    sink = Collect()
    words = [*PLAIN, "chooser=expected", "judge=principles", "judges.other.model.path=embedded:llama", "judging.analysis=false"]
    run(tmp_path / "run", str(table), *words, double=Double(reply, rates), sink=sink)
    warned = [note.text for note in sink.of(Note) if note.level == "warning"]
    assert any("embedded:llama chose, and judges its own choice in another form" in text for text in warned)
    assert any("judges what it wrote itself" in text for text in warned)


def test_the_truth_judges_only_where_it_is_known(tmp_path: Path, table: Path) -> None:
    with pytest.raises(ConfigError, match=r"other: the truth is that of the embedded world, and of '' and the other topics nothing"):
        run(tmp_path / "run", str(table), "chooser=length", "judge=truth", "n=2")


# -- going on ---------------------------------------------------------------------------------------------------------------

TALKING = ["chooser=expected", "model@chooser=embedded:mixtral", "judge=length", *PLAIN[2:3], "topics=list", "topics.list=[tides,honey]"]
TALKING += ["count=4", "turns=2", "judging.analysis=false", "base=embedded:llama", "rule_text=first_sentence", "resamples=100"]


def talks(request: GenerateRequest) -> str:
    return f"{request.key} says so. " + "word " * (sum(map(ord, request.key)) % 7)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "run"
    assert run(folder, *TALKING, double=Double(talks)) == 0
    return folder


@given(cuts=st.dictionaries(st.sampled_from(["prompts", "transcripts", "candidates", "answers", "opinions", "selections", "events"]),
                            st.floats(0, 1), max_size=7))  # fmt: skip
@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], phases=[Phase.generate])
def test_a_run_that_was_cut_anywhere_goes_on_and_asks_nothing_twice(
    whole: Path, tmp_path_factory: pytest.TempPathFactory, cuts: dict[str, float]
) -> None:
    copy = tmp_path_factory.mktemp("cut") / "run"
    shutil.copytree(whole, copy)
    (copy / "summary.json").unlink()
    for name, share in cuts.items():
        file = copy / f"{name}.jsonl"
        file.write_bytes(file.read_bytes()[: round(share * file.stat().st_size)])
    before = {one.id for one in RunReader(copy).answers()}
    double = Double(talks)
    assert run(copy, *TALKING, double=double) == 0
    for name in ("prompts", "transcripts", "candidates", "opinions"):
        assert sorted(map(str, lines(copy, name))) == sorted(map(str, lines(whole, name)))
    assert selections(copy) == selections(whole)
    assert (copy / "demonstrations.jsonl").read_text() == (whole / "demonstrations.jsonl").read_text()
    assert RunReader(copy).summary["curve"] == RunReader(whole).summary["curve"]
    asked = [f"{one.key}:options" if isinstance(one, ScoreRequest) else one.key for one in double.requests]
    assert len(set(asked)) == len(asked) and not before.intersection(asked)


def test_a_source_that_has_changed_is_refused(tmp_path: Path, table: Path) -> None:
    run(tmp_path / "run", str(table), *PLAIN)
    (tmp_path / "run" / "summary.json").unlink()
    table.write_text(PROMPTS.replace("honey", "wax"))
    with pytest.raises(ConfigError, match="source: has changed since"):
        run(tmp_path / "run", str(table), *PLAIN)


# -- what others read of it ---------------------------------------------------------------------------------------------------


def test_its_candidates_and_pairs_can_be_judged_and_answered_again(tmp_path: Path, table: Path) -> None:
    assert run(tmp_path / "run", str(table), *PLAIN, "write_pairs=true") == 0
    items = read_items(SourceConfig(path=[str(tmp_path / "run")], unit="candidates"))
    assert [item.id for item in items][:3] == ["p0000/k0", "p0000/k1", "p0000/k2"] and len(items) == 11  # one is blank
    assert items[0].turns[0].text == "What are tides?" and items[0].texts[0].candidate == "p0000/k0"
    kept = read_items(SourceConfig(path=[str(tmp_path / "run")], unit="pairs", pairs_of="kept"))
    assert [item.id for item in kept] == ["p0000/k1-k2", "p0001/k1-k3"]
    assert run(tmp_path / "again", str(tmp_path / "run"), *PLAIN, "source.unit=candidates") == 0
    assert len(lines(tmp_path / "again", "prompts")) == 3  # each history once


@pytest.fixture
def said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> Callable[..., tuple[int, str]]:
    monkeypatch.chdir(tmp_path)

    def call(*words: str) -> tuple[int, str]:
        code, heard = main(list(words)), capsys.readouterr()
        return code, heard.out + heard.err

    return call


def test_the_command_in_the_embedded_world(said: Callable[..., tuple[int, str]], tmp_path: Path) -> None:
    words = ["best_of_n", "chooser=length", "judge=truth", "n=2", "count=3", "turns=1", "run.dir=run", "engine.threads=1"]
    code, text = said(*words, "model.decoding.reply.max_new_tokens=24")
    assert code == 0 and "3 prompts with 2 candidates each" in text and "wins against the first of N, %" in text
    assert "demonstrations.jsonl: " in text and text.rstrip().endswith("run folder: run")
    candidates = list(RunReader(tmp_path / "run").candidates())
    assert len(candidates) == 6 and all(one.ids for one in candidates)
    assert "done already" in said(*words, "model.decoding.reply.max_new_tokens=24")[1]
    assert "wins against the first of N, %" in said("watch", "run")[1]
    code, text = said("runs", "run")
    assert code == 0 and "best_of_n" in text and "3" in text
    code, text = said("judge", "run", "judge=truth", "run.dir=judged")
    assert code == 0 and "its candidates are judged" in text
    code, text = said("audit", "run", "resamples=200")
    assert code == 0 and "chooser (recorded)" in text and "judges are held against the truth" in text
    code, text = said("submit", "best_of_n", "cluster=generic", "--dry-run", "run.dir=job")
    assert code == 0 and "best_of_n with no GPU" in text


def test_more_candidates_compute_no_more_of_their_prompts(tmp_path: Path) -> None:
    prefilled = []
    for n in (2, 6):
        words = ("chooser=length", "judge=shorter", f"n={n}", "count=2", "turns=1", "model.decoding.reply.max_new_tokens=8")
        config = config_of(*words)
        backend = load_backend(config.model, 0, family_class("world").family.stop)
        config = config.model_copy(update={"run": config.run.model_copy(update={"dir": str(tmp_path / str(n))})})
        assert run_best_of_n(config, [], Collect(), backends={"model": backend}) == 0
        prefilled.append(backend.engine.counts.prefilled)
    assert prefilled[0] == prefilled[1] > 0


def test_what_a_run_has_trained_is_held_against_what_it_was_before(said: Callable[..., tuple[int, str]], tmp_path: Path) -> None:
    trained_runs.run(tmp_path / "learnt", seed=2)
    short = ["n=2", "count=2", "turns=1", "model.decoding.reply.max_new_tokens=12", "engine.threads=1", "run.dir=run"]
    code, text = said("best_of_n", "model=learnt", "chooser=length", "judge=shorter", *short)
    assert code == 0 and "wins against the base's reply, %" in " ".join(text.split())  # a narrow table breaks its title
    summary = RunReader(tmp_path / "run").summary
    assert summary["against"] == ["first", "base"] and summary["curve"][0]["judges"]["chooser"]["against"]["base"]["n"] == 2
    told = next(RunReader(tmp_path / "run").transcripts())
    assert told.experts["a"].trained == "learnt" and set(told.experts) == {"a", "b"}


def test_a_name_is_no_escape_of_the_terminal(whole: Path) -> None:
    stream, summary = StringIO(), json.loads((whole / "summary.json").read_text())
    view = ChoosingView(stream, moves=False)
    for event in RunReader(whole).events():
        view.send(event)
    view.close()
    text = stream.getvalue()
    assert "\x1b" not in text and "N = 4" in text and f"{summary['prompts']} prompts" in text


def test_the_examples_of_docstrings() -> None:
    tried = doctest.testmod(door)
    assert tried.attempted and not tried.failed
