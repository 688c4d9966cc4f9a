"""Pairs out of rated texts: what is chosen, which counterparts are taken, what is kept of the rest, and that nothing is written twice."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from expertchat.backends.base import GenerateRequest, ValueRequest
from expertchat.backends.reward_model import RewardModel
from expertchat.building.card import card
from expertchat.building.choosing import bounds
from expertchat.building.config import MODEL, BuildConfig, ChooseConfig
from expertchat.building.held_out import HeldOut, doubles
from expertchat.building.run import run_build
from expertchat.building.scoring import Scored, score_of
from expertchat.cli import main
from expertchat.command.compose import load
from expertchat.config import ConfigError, RewardModelConfig
from expertchat.doors.build_pairs import in_full
from expertchat.folder.jsonl import read_records
from expertchat.labels.store import LabelFile
from expertchat.records import Item, Label, Message, Opinion, PreferencePair, Text
from expertchat.records.building import Attempt, Outcome
from expertchat.sources.config import SourceConfig
from expertchat.sources.read import read_items
from expertchat.sources.words import as_overrides
from expertchat.views.building import came_to, numbers_table
from tests import tiny
from tests.scripted import Collect, Double
from tests.test_pairs_file import test_the_command_of_trl_trains_on_it as trl_trains

TEN = "one two three four five six seven eight nine ten"
NINE = "herons stand in the water and wait for fish"
Captured = pytest.CaptureFixture[str]


def config_of(*words: str) -> BuildConfig:
    config = load("build_pairs", list(in_full(as_overrides([*words, "view=none"]))))
    assert isinstance(config, BuildConfig)
    return config


def build(folder: Path, *words: str, double: Double | None = None, sink: Collect | None = None) -> int:
    config = config_of(*words)
    config = config.model_copy(update={"run": config.run.model_copy(update={"dir": str(folder)})})
    return run_build(config, ["expertchat", "build_pairs"], sink or Collect(), backends={MODEL: double or Double()})


def outcomes(folder: Path) -> dict[str, Outcome]:
    return {one.id: one for one in read_records(folder / "outcomes.jsonl", Outcome, "")}


def attempts(folder: Path) -> list[Attempt]:
    return sorted(read_records(folder / "attempts.jsonl", Attempt, ""), key=lambda one: one.id)


def pairs(folder: Path) -> dict[str, PreferencePair]:
    return {one.id: one for one in read_records(folder / "pairs.jsonl", PreferencePair, "")}


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    """Four texts that answer a question each; their numbers of words are 10, 9, 2 and none."""
    path = tmp_path / "texts.csv"
    path.write_text(f"prompt,text\nCount?,{TEN}\nHerons?,{NINE}\nWhy?,no idea\nWho?,!!\n")
    return path


def replies(request: GenerateRequest) -> str:
    """To the first text one that is too long, one that is blank, one of two words; to the second always eight words."""
    if request.key.startswith("r0002"):
        return {"r0002/x1": TEN, "r0002/x2": " ... ", "r0002/x3": "two words"}[request.key]
    return "all eight of these words are too many"


BY_LENGTH = ("judge=length", "model=embedded:llama", "choose.high=5", "choose.low=3", "counterpart.attempts=4", "source.incomplete=skip")


# -- counterparts ---------------------------------------------------------------------------------------------------------


def test_a_counterpart_is_taken_where_it_really_scores_low_and_everything_else_is_told(tmp_path: Path, texts: Path) -> None:
    assert build(tmp_path / "run", str(texts), *BY_LENGTH, double=Double(replies)) == 0
    # r0002: the same ten words, nothing, then two words, 2 <= 3. r0003: eight words, 8 > 3, four times. r0004 has 2 < 5 words.
    said = [(one.id, one.score, one.reason) for one in attempts(tmp_path / "run")]
    assert said == [
        ("r0002/x1", None, "equal to the chosen one"), ("r0002/x2", None, "blank"), ("r0002/x3", 2.0, None),
        *((f"r0003/x{n}", 8.0, "scores too high") for n in range(1, 5)),
    ]  # fmt: skip
    found = {name: (one.score, one.reason, one.attempts, one.pair) for name, one in outcomes(tmp_path / "run").items()}
    assert found == {
        "r0002": (10.0, None, 3, "r0002"), "r0003": (9.0, "no low counterpart: scores too high", 4, None),
        "r0004": (2.0, "does not score high", 0, None),
    }  # fmt: skip
    (pair,) = pairs(tmp_path / "run").values()
    assert (pair.score_chosen, pair.score_rejected, pair.margin, pair.round, pair.policy_version) == (10.0, 2.0, 8.0, 0, 0)
    assert pair.prompt == [{"role": "user", "content": "Count?"}]  # of a table the prompt is plain
    assert pair.chosen == [{"role": "assistant", "content": TEN}] and pair.rejected == [{"role": "assistant", "content": "two words"}]
    assert pair.provenance["judge"] == "length" and pair.provenance["attempts"] == 3 and pair.provenance["rejected"] == "r0002/x3"
    told = json.loads((tmp_path / "run" / "card.json").read_text())
    assert told["attempts"]["not_taken"] == {"scores too high": 4, "equal to the chosen one": 1, "blank": 1}
    assert "1 preference pair\n" in (tmp_path / "run" / "card.md").read_text()
    assert next(iter(came_to(told))) == "1 pair of 3 texts" and numbers_table(told).row_count == 6


@pytest.mark.parametrize("after", [1, 5])
def test_a_start_that_goes_on_writes_nothing_twice(tmp_path: Path, texts: Path, after: int) -> None:
    """The model dies after so many replies; the next start asks for the rest alone, and ends as if nothing had been."""

    class Dying(Double):
        def generate(self, requests: Any, on_text: Any = None) -> Any:
            if len(self.asked()) + len(requests) > after:
                raise OSError("killed")
            return super().generate(requests, on_text)

    whole, dying, second = Double(replies), Dying(replies), Double(replies)
    assert build(tmp_path / "whole", str(texts), *BY_LENGTH, double=whole) == 0
    with pytest.raises(OSError, match="killed"):
        build(tmp_path / "run", str(texts), *BY_LENGTH, "engine.max_batch=1", double=dying)
    (tmp_path / "run" / "answers.jsonl").open("a").write('{"id": "torn')
    assert build(tmp_path / "run", str(texts), *BY_LENGTH, double=second) == 0
    assert sorted([*dying.asked(), *second.asked()]) == sorted(whole.asked()) == sorted(f"r000{n + 1}/x{k}" for n, k in ASKED)
    for name in ("pairs", "attempts", "outcomes", "opinions"):
        lines = [sorted((tmp_path / run / f"{name}.jsonl").read_text().splitlines()) for run in ("whole", "run")]
        assert lines[0] == lines[1], name
    third = Double(replies)
    assert build(tmp_path / "run", str(texts), *BY_LENGTH, double=third) == 0 and not third.asked()


ASKED = [(1, 1), (1, 2), (1, 3), (2, 1), (2, 2), (2, 3), (2, 4)]


def test_the_model_is_asked_for_what_is_wanted_besides_and_the_pair_keeps_the_prompt(tmp_path: Path, texts: Path) -> None:
    seen: list[str] = []

    def reply(request: GenerateRequest) -> str:
        seen.append(request.messages[-1].content)
        return "short"

    words = ("counterpart.asks='Say nothing of {topic} and no {type}, unlike: {chosen}'", "source.topic=fish", "choose.by_type=true")
    texts.write_text(f"type,prompt,text\nlist,Count?,{TEN}\nfact,Herons?,{NINE}\n")
    assert build(tmp_path / "run", str(texts), *BY_LENGTH, *words, "source.columns.group=type", double=Double(reply)) == 0
    assert any(one.startswith("Count?\n\nSay nothing of fish and no list, unlike: one two") for one in seen)
    assert {one.prompt[-1]["content"] for one in pairs(tmp_path / "run").values()} == {"Count?", "Herons?"}


def test_so_many_pairs_are_enough_and_nothing_is_made_of_an_evaluation(tmp_path: Path) -> None:
    path = tmp_path / "texts.csv"
    path.write_text("topic,prompt,text\n" + "".join(f"t{i},Question {i}?,{NINE} of number {i * 7919}\n" for i in range(8)))
    (tmp_path / "held.csv").write_text(f"topic,prompt,text\nother,Asked?,{NINE.upper()} of  number 7919\n")
    words = ("choose.high=5", "choose.low=3", "count=3", "held_out.topics=[T0]", f"held_out.path=[{tmp_path / 'held.csv'}]")
    words = (*words, "held_out.near=0.999")
    double = Double(lambda request: "short")
    assert build(tmp_path / "run", str(path), "judge=length", "model=embedded:llama", *words, double=double) == 0
    assert len(pairs(tmp_path / "run")) == 3 == len(double.asked())
    reasons = [one.reason for one in outcomes(tmp_path / "run").values()]
    # t0 is a held-out topic, and the second text is a held-out one in capitals; of the six others three are enough.
    assert sorted(map(str, reasons)) == ["None"] * 3 + ["in the evaluation"] * 2 + ["not needed"] * 3
    told = json.loads((tmp_path / "run" / "card.json").read_text())
    assert told["leakage"] == {"topics": 0, "prompts": 0, "chosen": 0, "rejected": 0}


def test_not_one_pair_is_a_failure_with_its_reason(tmp_path: Path, texts: Path, capsys: Captured) -> None:
    assert build(tmp_path / "run", str(texts), *BY_LENGTH, "choose.high=50") == 1
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["reason"] == "not one pair could be built: of 3 texts 3 does not score high"


# -- texts that are there -------------------------------------------------------------------------------------------------


def test_pairs_of_a_source_go_by_their_scores(tmp_path: Path) -> None:
    path = tmp_path / "pairs.csv"
    path.write_text("prompt,a,b\nQ1,one,one two three\nQ2,one two,three four\nQ3,one two three four,one two\n")
    assert build(tmp_path / "run", str(path), "judge=length", "choose.min_margin=2") == 0
    # 3 - 1 = 2 and 4 - 2 = 2; 2 - 2 = 0 is a tie
    found = {name: (one.score_chosen, one.score_rejected) for name, one in pairs(tmp_path / "run").items()}
    assert found == {"r0002/1": (3.0, 1.0), "r0004/0": (4.0, 2.0)}
    assert outcomes(tmp_path / "run")["r0003/0"].reason == "margin too small"


def test_a_text_of_which_no_pair_came_is_chosen_where_it_comes_again(tmp_path: Path) -> None:
    path = tmp_path / "pairs.csv"
    path.write_text("prompt,a,b\nQ,one two three,one two\nQ,one two three,one\nQ,one two three,two\n")
    assert build(tmp_path / "run", str(path), "judge=length", "choose.min_margin=2") == 0
    assert list(pairs(tmp_path / "run")) == ["r0003/0"]  # 3 - 2 = 1 is too little, 3 - 1 = 2 is not, and then it stands in a pair
    reasons = {name: one.reason for name, one in outcomes(tmp_path / "run").items()}
    assert (reasons["r0002/0"], reasons["r0004/0"]) == ("margin too small", "stands in an earlier pair")


def test_single_texts_with_one_prompt_are_held_against_each_other(tmp_path: Path) -> None:
    path = tmp_path / "texts.csv"
    path.write_text("prompt,text\nQ,one two three\nQ,one\nQ,one two\nAlone?,one two three four\n")
    assert build(tmp_path / "run", str(path), "judge=length", "counterpart.origin=source") == 0
    (pair,) = pairs(tmp_path / "run").values()
    assert (pair.id, pair.provenance["rejected"], pair.margin) == ("r0002", "r0003", 2.0)
    reasons = {name: one.reason for name, one in outcomes(tmp_path / "run").items()}
    assert reasons["r0004"] == "neither the best nor the worst" and reasons["r0005"] == "no other text with its prompt"


def test_what_judges_said_before_and_what_people_say_make_pairs_too(tmp_path: Path) -> None:
    path = tmp_path / "pairs.csv"
    path.write_text("prompt,a,b\nQ1,alpha,beta\nQ2,gamma,delta\n")
    assert main(["judge", str(path), "judge=[length,second]", f"run.dir={tmp_path / 'judged'}", "view=none"]) == 0
    words = (str(tmp_path / "judged"), "judge=recorded", "judges.recorded.by=second")
    assert build(tmp_path / "run", *words) == 1
    # `second` prefers what is shown second: each text once, so each has half of the choices, and no pair has a margin.
    assert {one.reason for one in outcomes(tmp_path / "run").values() if one.place == 0} == {"margin too small"}


def test_people_score_too(tmp_path: Path) -> None:
    path = tmp_path / "pairs.csv"
    path.write_text("prompt,a,b\nQ1,alpha,beta\nQ2,gamma,delta\nQ3,epsilon,zeta\n")
    items = read_items(SourceConfig(path=[str(path)]))
    for annotator, choices in (("ann", ("first", "second", "tie")), ("bob", ("first", "first", "tie"))):
        labels = LabelFile(tmp_path / "labels", annotator, {item.source for item in items})
        for item, choice in zip(items, choices, strict=True):
            about = {"item": item.id, "source": item.source, "annotator": annotator, "form": "pairs", "at": 1.0}
            labels.add(Label.model_validate({"id": "", "choice": choice, "shown": "first", **about}))
        labels.close()
    assert build(tmp_path / "run", str(path), f"labels={tmp_path / 'labels'}") == 0
    # Q1: both say first, 1 against 0; Q2: one each, 1/2 against 1/2; Q3: two ties, the same.
    found = {name: (one.score_chosen, one.score_rejected, one.provenance["judge"]) for name, one in pairs(tmp_path / "run").items()}
    assert found == {"r0002/0": (1.0, 0.0, "people")}


# -- numbers --------------------------------------------------------------------------------------------------------------


def text_of(score: float | None, kind: str = "") -> Scored:
    return Scored(Item(id=f"{kind}{score}", source="", texts=[Text(text="x")], group=kind), 0, kind, score)


def test_bounds_are_what_the_best_and_the_worst_of_a_type_reach() -> None:
    choose = ChooseConfig(high_share=0.25, low_share=0.5, min_margin=0, by_type=True)
    texts = [text_of(float(n)) for n in range(8)] + [text_of(float(n), "why") for n in (1, 9)] + [text_of(None)]
    # Of 0 .. 7 the best quarter are 7 and 6, the worst half 0 to 3; of 1 and 9 the best is 9, the worst 1.
    assert bounds(texts, choose, free=False) == {"": (6.0, 3.0), "why": (9.0, 1.0)}
    assert bounds(texts, choose, free=True)[""] == (-math.inf, math.inf)


def opinion(category: str, value: int | None, judge: str = "j", **more: Any) -> Opinion:
    return Opinion(id=f"{judge}/{category}", item="i", judge=judge, category=category, value=value, **more)


def test_a_score_is_a_weighted_mean_and_nothing_unanswered_becomes_a_number() -> None:
    both = [opinion("depth", 8), opinion("clarity", 2)]
    assert score_of(both, 0, "", {"depth": 2, "clarity": 1}) == (6.0, None)  # (2 * 8 + 2) / 3
    assert score_of(both, 0, "clarity", {"depth": 2, "clarity": 1}) == (2.0, None)  # the category called as the type
    assert score_of(both, 1, "", {"depth": 1}) == (None, "nobody judged it")
    lacking = [opinion("depth", 8), opinion("clarity", None, problem="unreadable")]
    assert score_of(lacking, 0, "", {"depth": 2, "clarity": 1}) == (None, "unreadable")
    assert score_of([*both, opinion("depth", 4, "k")], 0, "", {"depth": 1}) == (6.0, None)  # (8 + 4) / 2
    chosen = [opinion("overall", None, choice="second", order="first"), opinion("overall", None, "k", choice="tie", order="second")]
    assert (score_of(chosen, 0, "", {})[0], score_of(chosen, 1, "", {})[0]) == (0.25, 0.75)  # (0 + 1/2) / 2, (1 + 1/2) / 2


def test_a_classifier_says_how_likely_a_text_is_of_its_type(tmp_path: Path) -> None:
    folder = tiny.build_reward_model(tmp_path / "bert3", "bert", 3)  # its labels are LABEL_0, LABEL_1, LABEL_2
    why, types = (Message("user", "Why?"),), ("LABEL_2", "LABEL_0", None, "x")
    asked = [ValueRequest(f"k{i}", why, NINE, label=label) for i, label in enumerate(types)]
    settings = {"path": str(folder), "device": "cpu", "dtype": "fp32"}
    two, zero, none, unknown = RewardModel.load(RewardModelConfig.model_validate({**settings, "label": "type"})).value(asked)
    model = RewardModel.load(RewardModelConfig.model_validate({**settings, "label": "LABEL_1"}))
    one = model.value(asked)[0]
    likely = model.logits([model.row(asked[0]) or {}]).softmax(1)[0].tolist()
    assert [zero.score, one.score, two.score] == pytest.approx(likely, abs=1e-6) and sum(likely) == pytest.approx(1)
    assert one.reward == pytest.approx(2 * likely[1] - 1) and none.score is None and "no label 'x'" in str(unknown.problem)
    with pytest.raises(ConfigError, match="has no such label; it has LABEL_0, LABEL_1, LABEL_2"):
        RewardModel.load(RewardModelConfig.model_validate({**settings, "label": "nope"}))


def pair(name: str, chosen: str, rejected: str, **provenance: Any) -> PreferencePair:
    sides = {side: [{"role": "assistant", "content": text}] for side, text in (("chosen", chosen), ("rejected", rejected))}
    about = {"prompt": [{"role": "user", "content": "Q"}], "round": 0, "policy_version": 0, "provenance": provenance}
    return PreferencePair(id=name, score_chosen=3.0, score_rejected=1.0, margin=2.0, **sides, **about)  # type: ignore[arg-type]


def test_the_card_counts_lengths_doubles_and_leaks() -> None:
    made = [pair("1", "a b c d", "a b", topic="tides"), pair("2", "a b c d", "e f g", topic="honey"), pair("3", "k", "l m", topic="honey")]
    told = card(made, 0.9, HeldOut(frozenset({"honey"}), prompts=("Q",), texts=("l  M",), near=0.9))
    # words 4 - 2 = 2, 4 - 3 = 1, 1 - 2 = -1: on the mean 2/3; chosen longer in two of three
    size = told["length"]
    assert (size["chosen_longer"], size["rejected_longer"], size["equal"]) == (2, 1, 0) and size["difference"] == pytest.approx(2 / 3)
    assert told["doubles"]["chosen"] == {"exact": 1, "near": 0} and told["doubles"]["prompt"] == {"exact": 2}
    assert told["leakage"] == {"topics": 2, "prompts": 3, "chosen": 0, "rejected": 1} and told["topics"] == {"honey": 2, "tides": 1}
    assert told["margins"]["mean"] == 2.0
    assert doubles(["the tide comes in twice a day", "the tide comes in twice a day!", "bees"], 0.9) == (0, 1)


def test_datasets_loads_the_file(tmp_path: Path, texts: Path) -> None:
    from datasets import load_dataset
    from datasets.utils.logging import disable_progress_bar

    disable_progress_bar()
    assert build(tmp_path / "run", str(texts), *BY_LENGTH, double=Double(lambda request: "short")) == 0
    file = tmp_path / "run" / "pairs.jsonl"
    rows = load_dataset("json", data_files=str(file), split="train", cache_dir=str(tmp_path / "cache"))
    assert list(rows) == [json.loads(line) for line in file.read_text().splitlines()] and len(rows) == 2


# -- bad input ------------------------------------------------------------------------------------------------------------

BAD: list[tuple[list[str], list[str]]] = [
    (["judge=[length,truth]", "prompt=model", "repeats=2", "counterpart.origin=generated"],
     ["judges: one judge scores the texts, but there are length, truth", "no model writes; name it with model=NAME",
      "prompt=model: no model is named", "repeats=2: a text is scored once here"]),
    ([], ["judges: one judge scores the texts, but there is none"]),
    (["judge=pairwise", "judges.pairwise.model.path=x", "counterpart.origin=generated", "labels=there"],
     ["judges.pairwise compares two texts", "labels=there: people judge already"]),
    (["judge=length", "choose.high_share=0.7", "choose.low_share=0.7", "counterpart.asks='no {kind}'"],
     ["together they are at most 1", "asks: may use {type}, {topic} and {chosen}"]),
]  # fmt: skip


@pytest.mark.parametrize(("words", "said"), BAD, ids=[said[0][:40] for _, said in BAD])
def test_what_does_not_go_together_is_told(words: list[str], said: list[str], tmp_path: Path, capsys: Captured) -> None:
    assert main(["build_pairs", str(tmp_path), *words, f"run.dir={tmp_path / 'run'}"]) == 2
    heard = capsys.readouterr().err
    assert all(one in heard for one in said), heard
    assert "Traceback" not in heard and not (tmp_path / "run").exists()


def test_single_texts_without_a_model_are_refused(tmp_path: Path, texts: Path) -> None:
    with pytest.raises(ConfigError, match="the source holds 3 single texts, and no pairs: no model writes"):
        build(tmp_path / "run", str(texts), "judge=length", "source.incomplete=skip")


@pytest.mark.slow
def test_trl_trains_on_the_file(tmp_path: Path, texts: Path) -> None:
    assert build(tmp_path / "run", str(texts), *BY_LENGTH, double=Double(lambda request: "short")) == 0
    trl_trains(tmp_path / "run" / "pairs.jsonl", tmp_path)
