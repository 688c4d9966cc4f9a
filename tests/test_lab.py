"""Judges on what exists: planted ones whose answers are known, models in both forms, and a run that goes on where it was broken off."""

from __future__ import annotations

import doctest
import json
import math
import shutil
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from expertchat.backends.base import ScoreRequest
from expertchat.cli import main
from expertchat.command.compose import load
from expertchat.config import ConfigError
from expertchat.doors import judge as doors_judge
from expertchat.doors.judge import named_judges
from expertchat.events import JudgeCalled, OpinionGiven, RunStarted
from expertchat.folder.reader import RunReader
from expertchat.lab import judge as lab_judge
from expertchat.lab import store
from expertchat.lab.config import LabConfig, seat_of
from expertchat.lab.run import run_judge
from expertchat.lab.store import with_earlier_judges
from expertchat.records import Opinion, Verdict
from expertchat.sources import encoding, runs, words
from expertchat.sources.words import as_overrides
from tests.scripted import Collect, Double
from tests.test_bench import SMALL
from tests.tiny import build_reward_model

EARLIER = Path(__file__).parent / "earlier"
PAIRS = "id,topic,prompt,a,b,model_a,model_b,truth_a,truth_b\n" + "".join(
    f"q{i},{'tides' if i < 3 else 'honey'},Why?,{'one two' if i % 2 else 'one'},{'one' if i % 2 else 'one two three'},m1,m2,{i % 3},1\n"
    for i in range(6)
)
Captured = pytest.CaptureFixture[str]


@lru_cache
def config_of(*words: str) -> LabConfig:
    config = load("judge", list(named_judges(as_overrides([*words, "view=none"]))))
    assert isinstance(config, LabConfig)
    return config


def prefers_a(request: ScoreRequest) -> list[float]:
    """Of two, A with 70 %; of ten, 7 with 91 %."""
    if len(request.options) == 2:
        return [math.log(0.7), math.log(0.2)]
    return [math.log(0.91 if i == 6 else 0.01) for i in range(10)]


def judge(folder: Path, *words: str, double: Double | None = None, sink: Collect | None = None) -> int:
    config = config_of(*words)
    config = config.model_copy(update={"run": config.run.model_copy(update={"dir": str(folder)})})
    double = double or Double(score=prefers_a)
    backends: dict[str, Any] = {seat_of(name): double for name, one in config.judges.items() if one.model is not None}
    return run_judge(config, ["expertchat", "judge"], sink or Collect(), backends=backends)


def opinions(folder: Path) -> list[Opinion]:
    return list(RunReader(folder).opinions())


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    path = tmp_path / "pairs.csv"
    path.write_text(PAIRS)
    return path


# -- planted judges -------------------------------------------------------------------------------------------------------


def test_planted_judges_say_what_they_are_planted_to_say(tmp_path: Path, pairs: Path) -> None:
    rules = "length,shorter,first,second,own,middle,random,truth"
    assert judge(tmp_path / "run", str(pairs), f"judge=[{rules}]", "judges.own.of=m2") == 0
    said = {name: [one for one in opinions(tmp_path / "run") if one.judge == name] for name in rules.split(",")}
    assert {name: len(every) for name, every in said.items()} == dict.fromkeys(said, 12)  # 6 pairs in both orders

    def choices(name: str, order: str) -> list[str | None]:
        return [one.choice for one in said[name] if one.order == order]

    # a is longer in rows 1, 3, 5, b in 0, 2, 4; truth of a is 0 1 2 0 1 2 against 1.
    assert choices("length", "first") == choices("length", "second") == ["second", "first"] * 3
    assert choices("shorter", "first") == ["first", "second"] * 3
    assert choices("first", "first") == ["first"] * 6 and choices("first", "second") == ["second"] * 6
    assert choices("second", "first") == ["second"] * 6 and choices("own", "second") == ["second"] * 6
    assert choices("middle", "first") == ["tie"] * 6 and choices("truth", "first") == ["second", "tie", "first"] * 2
    assert len({*choices("random", "first"), *choices("random", "second")}) == 2
    found = RunReader(tmp_path / "run").summary["judges"]
    assert found["first"]["shown"] == {"first": 12, "second": 0, "tie": 0} and found["first"]["agree"] == 0
    assert found["own"]["wins"] == {"first": {"m1": 0, "m2": 6}, "second": {"m1": 0, "m2": 6}}


def test_rules_on_single_texts(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("text,truth\none two,3\none,\n")
    assert judge(tmp_path / "run", str(tmp_path / "t.csv"), "judge=[length,middle,random,truth]") == 0
    numbers = {name: [one.number for one in opinions(tmp_path / "run") if one.judge == name] for name in ("length", "middle", "truth")}
    assert numbers == {"length": [2.0, 1.0], "middle": [5.0, 5.0], "truth": [3.0]}  # of the second text nobody knows the truth
    with pytest.raises(ConfigError, match=r"can judge nothing of this .the source holds 2 items, 0 of them pairs"):
        judge(tmp_path / "other", str(tmp_path / "t.csv"), "judge=first")


def test_noise_is_a_share_of_the_answers(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("a,b\n" + "long text,short\n" * 400)
    assert judge(tmp_path / "run", str(tmp_path / "t.csv"), "judge=length", "judges.length.noise=0.5") == 0
    wrong = sum(one.choice == "second" for one in opinions(tmp_path / "run"))
    assert 160 < wrong < 240  # of 800 a half is drawn, and of those a half is wrong: 200, standard deviation 12


# -- models ---------------------------------------------------------------------------------------------------------------


def test_a_model_compares_in_both_orders(tmp_path: Path, pairs: Path) -> None:
    double, sink = Double(score=prefers_a), Collect()
    assert judge(tmp_path / "run", str(pairs), "judge@mine=pairwise", "judges.mine.model.path=x", double=double, sink=sink) == 0
    said = opinions(tmp_path / "run")
    assert [(one.id, one.order, one.choice) for one in said[:2]] == [
        ("q0/mine/overall/first-first", "first", "first"), ("q0/mine/overall/second-first", "second", "second")
    ]  # fmt: skip
    assert all(one.mass == pytest.approx(0.9) and one.seconds is not None for one in said)
    # All pairs together, one order after the other: the second finds the history that the first has computed.
    assert [{key.rpartition("/")[2] for key in batch} for batch in double.batches] == [{"base-first"}, {"policy-first"}]
    assert len(double.asked()) == 12
    (started,), (called,) = sink.of(RunStarted), sink.of(JudgeCalled)
    assert (started.judgements, called.items, called.judge.form, len(sink.of(OpinionGiven))) == (6, 6, "pairwise", 12)


def test_a_model_rates_both_texts_of_a_pair_by_themselves(tmp_path: Path, pairs: Path) -> None:
    assert judge(tmp_path / "run", str(pairs), "judge=expected", "source.limit=1", "judging.analysis=false") == 0
    said = opinions(tmp_path / "run")
    assert len(said) == 12 and {one.place for one in said} == {0, 1}  # 6 categories, 2 texts
    # sum of i * P(i): 0.91 * 7 + 0.01 * (55 - 7) = 6.37 + 0.48
    assert {round(one.expected or 0, 6) for one in said} == {6.85} and {one.value for one in said} == {None}


def test_answers_that_say_nothing_are_no_opinions_and_the_run_has_failed(tmp_path: Path, pairs: Path) -> None:
    double = Double(score=lambda request: [math.log(0.1), math.log(0.05)])
    assert judge(tmp_path / "run", str(pairs), "judge=pairwise", "judges.pairwise.model.path=x", double=double) == 1
    assert {(one.choice, one.fault) for one in opinions(tmp_path / "run")} == {(None, "low_mass")}
    failure = RunReader(tmp_path / "run").failure
    assert failure is not None and "no judge answered anything: all 12 opinions are null" in failure


def test_a_model_goes_by_principles_and_is_shown_the_reference(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("topic,a,b,reference\ntides,The Moon.,Wind.,Gravity of the Moon.\n")
    (tmp_path / "mine.yaml").write_text("kind: Be kind.\nhonest: {text: Say the truth., weight: 3}\n")
    words = [str(tmp_path / "t.csv"), "judge@one=principles", "judge@two=pairwise", "model=auto"]
    keys = (f"principles={tmp_path / 'mine.yaml'}", "reference=true", "model.path=x")
    words += [f"judges.{name}.{key}" for name in ("one", "two") for key in keys]
    double = Double(score=lambda request: [math.log(0.6), math.log(0.2)])
    assert judge(tmp_path / "run", *words, double=double) == 0
    said = opinions(tmp_path / "run")
    # By principles, 1 + 9 * .6 / (.6 + .2) = 7.75 for each text and principle; compared, one verdict a principle and order.
    assert {(one.category, one.place): round(one.expected or 0, 6) for one in said if one.judge == "one"} == {
        (name, place): 7.75 for name in ("kind", "honest") for place in (0, 1)
    }  # fmt: skip
    assert sorted((one.category, one.order) for one in said if one.judge == "two") == [
        (name, order) for name in ("honest", "kind") for order in ("first", "second")
    ]  # fmt: skip
    assert all("Gravity of the Moon." in request.messages[-1].content for request in double.requests)
    assert {ref.id: ref.form for ref in RunReader(tmp_path / "run").judges()} == {"one": "principles", "two": "pairwise"}
    assert RunReader(tmp_path / "run").summary["judges"]["two"]["both_orders"] == 2


def test_a_reward_model_gives_each_text_a_number(tmp_path: Path, pairs: Path) -> None:
    folder = build_reward_model(tmp_path / "model", "bert")
    config = config_of(str(pairs), "judge@rm=reward_model", f"judges.rm.reward_model.path={folder}", "source.limit=2", "source.seed=1")
    config = config.model_copy(update={"run": config.run.model_copy(update={"dir": str(tmp_path / "run")})})
    assert run_judge(config, ["expertchat"], Collect()) == 0
    said = opinions(tmp_path / "run")
    assert [(one.place, one.expected, one.order) for one in said] == [(0, None, None), (1, None, None)] * 2
    assert all(one.score is not None for one in said) and RunReader(tmp_path / "run").summary["judges"]["rm"]["form"] == "reward_model"


def test_what_was_rated_is_rated_alike_again(tmp_path: Path) -> None:
    """The embedded models judge greedily: asked the same again, they say the same as in the run itself."""
    talked = [word for word in RunReader(EARLIER / "talked").command_line[1:] if not word.startswith("run.dir=")]
    assert main([*talked, f"run.dir={tmp_path / 'talked'}"]) == 0  # what was said in talked was said by other embedded models
    words = [str(tmp_path / "talked"), "judge=[expected,recorded]", "model=embedded_mixtral", "source.subject=a", "judges.recorded.by=b"]
    assert run_judge(config_of(*words, f"run.dir={tmp_path / 'run'}"), ["expertchat"], Collect()) == 0
    said = {one.id: one for one in opinions(tmp_path / "run")}
    again, then = said["c0000/a/expected/depth"].expected, said["c0000/a/recorded/depth"].expected
    assert again == pytest.approx(then, abs=1e-3)
    refs = {ref.id: ref for ref in RunReader(tmp_path / "run").judges()}
    assert refs["recorded"].model == refs["expected"].model == "embedded:mixtral"
    assert judge(tmp_path / "then", str(EARLIER / "talked"), "judge=recorded", "source.subject=a", "judges.recorded.by=b") == 0
    rated = {one.category: one.expected for one in RunReader(EARLIER / "talked").ratings() if one.subject == "a"}
    assert {one.category: one.expected for one in opinions(tmp_path / "then") if one.category in rated} == rated  # by an earlier version


def test_a_verdict_keeps_its_order_its_principle_and_its_fault_as_an_opinion() -> None:
    verdict = Verdict(id="h/kind/policy-first", history="h", judge="b", first="policy", verdict="A", principle="kind", mass=0.9)
    one = lab_judge.of_verdict(verdict, "q1", "mine", 1)
    assert (one.id, one.category, one.order, one.choice) == ("q1/mine/kind/second-first/r1", "kind", "second", "second")
    none = verdict.model_copy(update={"verdict": None, "principle": None, "problem": "not asked", "fault": "too_long"})
    said = lab_judge.of_verdict(none, "q1", "mine")
    assert (said.category, said.choice, said.problem, said.fault) == ("overall", None, "not asked", "too_long")


def test_opinions_of_an_earlier_judge_are_recorded_ones(tmp_path: Path, pairs: Path) -> None:
    judge(tmp_path / "one", str(pairs), "judge=[length,first]")
    assert judge(tmp_path / "two", str(tmp_path / "one"), "judge@old=recorded", "judges.old.by=length") == 0
    assert [one.choice for one in opinions(tmp_path / "two")] == [one.choice for one in opinions(tmp_path / "one") if one.judge == "length"]
    with pytest.raises(ConfigError, match="first, length each judge q0; take one of them"):
        judge(tmp_path / "three", str(tmp_path / "one"), "judge@old=recorded")


# -- three at once --------------------------------------------------------------------------------------------------------


def test_three_texts_are_counted_as_a_three_way_comparison(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("A,B,C\none two three,one two,one\nx,x y,x y z\n")
    assert judge(tmp_path / "run", str(tmp_path / "t.csv"), "judge=[length,first]") == 0
    wins = {name: found["wins"] for name, found in RunReader(tmp_path / "run").summary["judges"].items()}
    # row 1: A > B > C, so A wins twice and B once; row 2 the other way round. Whoever takes the first: a-b, a-c, b-c give A, A, B.
    assert wins["length"] == {"first": {"A": 2, "B": 2, "C": 2}, "second": {"A": 2, "B": 2, "C": 2}}
    assert wins["first"] == {"first": {"A": 4, "B": 2, "C": 0}, "second": {"A": 0, "B": 2, "C": 4}}


# -- going on -------------------------------------------------------------------------------------------------------------


def rows(folder: Path) -> dict[str, dict[str, Any]]:
    return {one.id: one.model_dump(exclude={"seconds"}) for one in opinions(folder)}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A run with three judges, two of which ask a model, and its words."""
    place = tmp_path_factory.mktemp("whole")
    (place / "pairs.csv").write_text(PAIRS)
    words = [str(place / "pairs.csv"), "judge=[random,pairwise,both]", "judges.pairwise.model.path=x", "repeats=2"]
    assert judge(place / "run", *words) == 0
    return place / "run", words


def test_a_run_asks_each_question_once_with_its_repeats(whole: tuple[Path, list[str]]) -> None:
    folder, _ = whole
    # 6 items, twice: 2 by random, 2 by pairwise, 2 texts x 6 categories by both (written and expected in one opinion)
    assert len(opinions(folder)) == 6 * 2 * (2 + 2 + 12) and RunReader(folder).done
    assert sum(one.repeat for one in opinions(folder)) == len(opinions(folder)) // 2


@given(cuts=st.dictionaries(st.sampled_from(["opinions", "answers", "events", "judges", "items"]), st.floats(0, 1), max_size=5))
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_run_that_was_cut_anywhere_goes_on_and_asks_nothing_twice(
    whole: tuple[Path, list[str]], tmp_path_factory: pytest.TempPathFactory, cuts: dict[str, float]
) -> None:
    folder, words = whole
    copy = tmp_path_factory.mktemp("cut") / "run"
    shutil.copytree(folder, copy)
    (copy / "summary.json").unlink()
    for name, share in cuts.items():
        file = copy / f"{name}.jsonl"
        file.write_bytes(file.read_bytes()[: round(share * file.stat().st_size)])
    before = {one.id for one in RunReader(copy).answers()}
    double = Double(score=prefers_a)
    assert judge(copy, *words, double=double) == 0
    assert rows(copy) == rows(folder) and RunReader(copy).summary["answered"] == RunReader(folder).summary["answered"]
    asked = [f"{one.key}:options" if isinstance(one, ScoreRequest) else one.key for one in double.requests]
    assert len(set(asked)) == len(asked) and not before.intersection(asked)


def test_a_judge_is_added_to_a_run_that_is_done(tmp_path: Path, pairs: Path, capsys: Captured) -> None:
    assert judge(tmp_path / "run", str(pairs), "judge=length") == 0
    assert judge(tmp_path / "run", str(pairs), "judge=first") == 0  # the first one stays
    assert [ref.id for ref in RunReader(tmp_path / "run").judges()] == ["length", "first"]
    assert set(RunReader(tmp_path / "run").summary["judges"]) == {"length", "first"}
    assert len({one.id for one in opinions(tmp_path / "run")}) == len(opinions(tmp_path / "run")) == 24
    with pytest.raises(ConfigError, match=r"length\.noise: was 0\.0, is 0\.5"):
        judge(tmp_path / "run", str(pairs), "judge=length", "judges.length.noise=0.5")


def test_a_kill_while_a_judge_is_added_is_gone_on_from(tmp_path: Path, pairs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever was written before the kill: the same command then asks the new judge."""
    assert judge(tmp_path / "run", str(pairs), "judge=length") == 0

    def killed(path: Path, *_: Any, **__: Any) -> None:
        if path.name == "config.yaml":
            raise SystemError("killed")
        real(path, *_, **__)

    real = store.replace
    monkeypatch.setattr(store, "replace", killed)
    with pytest.raises(SystemError, match="killed"):
        judge(tmp_path / "run", str(pairs), "judge=first")
    monkeypatch.setattr(store, "replace", real)
    assert not (tmp_path / "run" / "summary.json").exists()
    assert judge(tmp_path / "run", str(pairs), "judge=first") == 0
    assert set(RunReader(tmp_path / "run").summary["judges"]) == {"length", "first"}


def test_models_are_looked_for_where_this_machine_has_them(tmp_path: Path, pairs: Path) -> None:
    """Where they lie is no matter of the run: its folder does not say it."""
    words = [str(pairs), "judge=pairwise", "judges.pairwise.model.path=x", f"models_dir={tmp_path}"]
    judge(tmp_path / "run", *words)
    assert "models_dir" not in RunReader(tmp_path / "run").config["judges"]["pairwise"]["model"]
    for more in (words, [str(pairs), "judge=length", f"models_dir={tmp_path}"]):
        config, added = with_earlier_judges(config_of(*more), tmp_path / "run")
        assert config.judges.root["pairwise"].model is not None and config.judges.root["pairwise"].model.models_dir == str(tmp_path)
        assert added == (["length"] if "judge=length" in more else [])


def test_a_source_that_has_changed_is_refused(tmp_path: Path, pairs: Path) -> None:
    judge(tmp_path / "run", str(pairs), "judge=length")
    pairs.write_text(PAIRS.replace("Why?", "How?"))
    with pytest.raises(ConfigError, match="item q0 is another one now"):
        judge(tmp_path / "run", str(pairs), "judge=first")


# -- the command ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> Callable[..., tuple[int, str]]:
    monkeypatch.chdir(tmp_path)

    def call(*words: str) -> tuple[int, str]:
        code, heard = main(list(words)), capsys.readouterr()
        return code, heard.out + heard.err

    return call


def test_the_command_shows_what_was_said_and_where(said: Callable[..., tuple[int, str]], pairs: Path) -> None:
    code, text = said("judge", "pairs.csv", "judge=[length,first]", "run.dir=run")
    assert code == 0 and "ExpertChat judge: 12 judgements" in text and "judged are a against b" in text
    assert "times chosen" in text and "turned round" in text and text.rstrip().endswith("run folder: run")
    assert "done already" in said("judge", "pairs.csv", "judge=[length,first]", "run.dir=run")[1]
    code, text = said("watch", "run")
    assert code == 0 and "times chosen" in text
    code, text = said("runs", "run")
    assert code == 0 and "judge" in text and "done" in text


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["pairs.csv"], "nobody judges; name one"),
        (["judge=length"], "source.path: names nothing"),
        (["nothing.csv", "judge=length"], "no such file"),
        (["pairs.csv", "judge=pairwise", "model=embedded_llama"], "nothing else: take judges.pairwise.form=expected, or another model"),
        (["pairs.csv", "judge=own"], "judges.own.of: has no value"),
        (["pairs.csv", "judge=lenght"], "there is no judge 'lenght'; did you mean length?"),
        (["pairs.csv", "judge=expected", "judges.expected.form=loud"], "form"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_loaded(
    said: Callable[..., tuple[int, str]], pairs: Path, words: Sequence[str], says: str
) -> None:
    code, text = said("judge", *words)
    assert code == 2 and says in text and "Traceback" not in text


def test_the_examples_of_docstrings() -> None:
    for module in (doors_judge, lab_judge, words, encoding, runs):
        tried = doctest.testmod(module)
        assert tried.attempted and not tried.failed


def test_short_words_for_judges_and_models() -> None:
    assert list(named_judges(["+judge@judges.x=written", "model=smollm"])) == ["+judge@judges.x=written", "model@judges.x.model=smollm"]
    assert list(named_judges(["judge=length", "model=smollm"])) == ["+judge@judges.length=length", "model=smollm"]  # which Hydra refuses


def test_the_bench_measures_judgements() -> None:
    from expertchat.bench.kit import Kit
    from expertchat.bench.pairs import measure_judgements
    from expertchat.bench.subject import load_subject

    config = load("bench", [*SMALL, "bench.judgements=3", "bench.repeats=1"])
    kit = Kit(config, config.bench, load_subject(config.bench))
    measure_judgements(kit)
    (part,) = kit.parts
    assert [(timing.way, timing.units) for timing in part.timings] == [("one by one", 3), ("engine", 3)]
    assert part.timings[1].counts["reused"] > 0 and part.ratios("N=3", "engine", part.columns[0])


def test_items_and_config_can_be_read_again(tmp_path: Path, pairs: Path, said: Callable[..., tuple[int, str]]) -> None:
    said("judge", "pairs.csv", "judge=length", "run.dir=run")
    config = json.loads(json.dumps(RunReader(tmp_path / "run").config))
    assert config["judges"]["length"]["rule"] == "length" and config["source"]["path"] == ["pairs.csv"]
    assert said("judge", "--config", "run/config.yaml", "run.dir=again")[0] == 0
    assert rows(tmp_path / "again") == rows(tmp_path / "run")
