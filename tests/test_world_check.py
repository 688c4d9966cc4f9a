"""`expertchat world check`: rates by hand, dialogues of trained policies out of run folders, and what is said of wrong ones."""

from __future__ import annotations

import hashlib
import math
import random
from pathlib import Path

import pytest

from expertchat import cli
from expertchat.backends.base import Completion, Embedding, EmbedRequest, GenerateRequest, ScoreRequest, Scores
from expertchat.judging.view import Judgement
from expertchat.records import ExpertRef, Transcript, Turn
from expertchat.views.outcomes import print_check
from expertchat.world.check import SEED, Row
from expertchat.world.facts import Truth, load
from expertchat.world.judges import JudgeCheck, label_rates, labels
from expertchat.world.rates import ratio, spearman
from expertchat.world.simulator import CATEGORIES, Simulator
from expertchat.world.spoken import LONGEST, cases, dialogues, held, run_problems
from tests import reported
from tests.test_world import PROMPTS

TOPIC = load().part("train")[0]
FACTS = [fact.clauses[0].capitalize() + "." for fact in load().topics[TOPIC]]


def transcript(
    name: str, *turns: str, topic: str = TOPIC, version: int = 1, trained: str | None = None, family: str = "world"
) -> Transcript:
    """A dialogue that a opens; a has learnt `version` times."""
    experts = {
        "a": ExpertRef(family=family, model="embedded:llama", policy_version=version, trained=trained),
        "b": ExpertRef(family=family, model="embedded:mixtral"),
    }
    spoken = [Turn(speaker="ab"[i % 2], text=text) for i, text in enumerate(turns)]
    return Transcript(id=name, topic=topic, experts=experts, turns=spoken, seed=0, stop_reason="turns")


def run(folder: Path, *told: Transcript) -> str:
    folder.mkdir(parents=True)
    reported.written(folder / "transcripts.jsonl", told)
    return str(folder)


# -- rates ---------------------------------------------------------------------------------------------------------------------


def test_rates_of_repeats_by_hand():
    right = {"1": "leaf", "2": "leaf again", "3": "water", "4": "water again", "5": "wrong", "6": "leaf again"}
    given = {"1": "leaf", "2": "leaf again", "3": "water again", "4": "leaf again", "5": "wrong", "6": "leaf"}
    assert label_rates([(right, given)]) == {
        "labels": 3 / 6,  # 1, 2 and 5
        "seen": 2 / 3,  # of 2, 4 and 6 all but the last; that 4 repeats another fact does not matter
        "called": 2 / 3,  # of 2, 3 and 4 all but 3
    }
    # two judgements count by their sentences: 3 + 1 of 6 + 2 labels, 2 + 0 of 3 + 1 repeats (an unlabelled sentence is not seen)
    assert label_rates([(right, given), ({"1": "leaf", "2": "leaf again"}, {"1": "leaf"})]) == {
        "labels": 4 / 8,
        "seen": 2 / 4,
        "called": 2 / 3,
    }


def test_a_rate_of_nothing_is_no_number_and_meets_no_target(capsys: pytest.CaptureFixture[str]):
    found = label_rates([({"1": "leaf"}, {"1": "leaf"})])
    assert found["labels"] == 1 and math.isnan(found["seen"]) and math.isnan(found["called"])
    assert math.isnan(ratio(0, 0)) and ratio(1, 4) == 0.25
    high, low = (Row("rate", {"llama": found["seen"], "mixtral": 1.0 if sense == ">=" else 0.0}, (sense, 0.5)) for sense in (">=", "<="))
    assert high.met is False and low.met is False
    assert Row("rate", {"llama": 0.9, "mixtral": 0.95}, (">=", 0.9)).met is True
    assert Row("rate", {"llama": found["seen"]}).met is None
    print_check([high])
    shown = capsys.readouterr().out
    assert "short" in shown and "nan" not in shown


def test_labels_are_read_off_the_first_line():
    assert labels("Notes: (1) question [2] leaf again\nKnown: [3] water said.") == {"1": "question", "2": "leaf again"}


class Faultless:
    """Says of a judgement what the simulator would, and rates all alike; one that `forgets` calls no sentence a repeat."""

    def __init__(self, simulator: Simulator, judgement: Judgement, truths: list[Truth], forgets: bool) -> None:
        self.wim = simulator.wim_text(judgement, truths, "b", "missing")
        points = simulator.points(judgement, truths, "b")
        self.points = points.replace(" again", "") if forgets else points

    def generate(self, requests: list[GenerateRequest]) -> list[Completion]:
        said = [self.wim if r.key.endswith("/wim") else self.points.removeprefix(r.prefix) for r in requests]
        return [Completion(text, 1, 0.0, "stop") for text in said]

    def score(self, requests: list[ScoreRequest]) -> list[Scores]:
        return [Scores((math.log(0.1),) * 10) for _ in requests]


class NoEmbedder:
    def embed(self, requests: list[EmbedRequest]) -> list[Embedding]:
        raise AssertionError("WIM scores were not asked for")


@pytest.mark.parametrize("forgets", [False, True])
def test_a_judge_on_a_dialogue_of_a_trained_policy(forgets: bool):
    simulator = Simulator(load(), PROMPTS)
    texts = [f"{FACTS[0]} {FACTS[0]} {FACTS[1]}", FACTS[2], FACTS[2]]  # five sentences, two of them repeats
    judgement, truths = Judgement(TOPIC, tuple(transcript("c0", *texts).turns), "a"), load().read(texts, TOPIC)
    backend = Faultless(simulator, judgement, truths, forgets)
    judge = JudgeCheck(simulator.experts["b"], backend, simulator, NoEmbedder())  # type: ignore[arg-type]
    found = judge.figures([(judgement, truths)], scores=False)
    assert found["labels"] == (3 / 5 if forgets else 1) and found["seen"] == (0 if forgets else 1)
    assert math.isnan(found["called"]) if forgets else found["called"] == 1
    assert found["precision"] == found["recall"] == 1 and found["present"] == 0
    assert set(found) == {"labels", "seen", "called", *CATEGORIES, "precision", "present", "recall"}
    assert math.isnan(found["depth"])  # one case correlates with nothing
    assert math.isnan(spearman([1, 1], [1, 2]))


# -- dialogues of trained policies -----------------------------------------------------------------------------------------------


def test_the_newest_policies_first_and_the_runs_by_turns(tmp_path: Path):
    two = [transcript(f"r{v + 1:04d}/c{i}", FACTS[0], FACTS[1], version=v) for v in (0, 1, 2) for i in (0, 1)]
    one, other = run(tmp_path / "one", *two), run(tmp_path / "other", transcript("c0", FACTS[0], FACTS[1], version=0, trained="one"))
    assert [t.id for t in held(one)] == ["r0003/c0", "r0003/c1", "r0002/c0", "r0002/c1"]  # in the first round nobody had learnt
    assert [t.id for t in dialogues([one, other], 3)] == ["r0003/c0", "c0", "r0003/c1"]
    assert run_problems([one, other]) == []


def test_each_judge_is_asked_of_its_partner():
    told = [transcript(f"c{i}", FACTS[0], " ", f"{FACTS[1]} {FACTS[0]}", FACTS[2]) for i in range(30)]
    for judge, subject, said in (("a", "b", {None, 3}), ("b", "a", {None, 0, 2})):  # b's first turn says nothing
        found = cases(load(), told, judge, random.Random(1))
        assert {j.subject for j, _ in found} == {subject} and {j.turn for j, _ in found} == said
        assert all(len(truths) == len(j.shown()) for j, truths in found)
    whole = next(truths for j, truths in found if j.turn is None)
    assert [[(x.fact, x.again) for x in t.labels] for t in whole] == [[(0, False)], [], [(1, False), (0, True)], [(2, False)]]


def test_what_a_judge_does_not_read_whole_is_cut_off(tmp_path: Path):
    long = " ".join(["I agree."] * (LONGEST - 1))
    (read,) = held(run(tmp_path / "run", transcript("c0", "I agree.", long, "I agree.")))  # 1 + 47 sentences fit, and not one more
    assert len(read.turns) == 2
    (problem,) = run_problems([run(tmp_path / "long", transcript("c0", "I agree. I agree.", long))])
    assert f"in the {LONGEST} sentences" in problem


@pytest.mark.parametrize(("told", "words"), [
    ([], ["holds no dialogue of the embedded experts", "online_dpo"]),
    ([transcript("c0", "Hello.", "Hello.", family="qwen2_5")], ["holds no dialogue of the embedded experts", "online_dpo"]),
    ([transcript("c0", FACTS[0], FACTS[1], version=0)], ["nobody had learnt", "more rounds"]),
    ([transcript("c0", "Hello.", "Hello.", topic=name) for name in (TOPIC, "jazz hands", "x")],
     ["'jazz hands'", "and 1 more", "topics=embedded"]),
])  # fmt: skip
def test_runs_without_such_dialogues(told: list[Transcript], words: list[str], tmp_path: Path):
    (problem,) = run_problems([run(tmp_path / "run", *told)])
    assert problem.startswith(f"runs={tmp_path / 'run'}: ") and all(word in problem for word in words), problem


def test_wrong_runs_are_named_all_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    empty, file, torn = tmp_path / "empty", tmp_path / "file", tmp_path / "torn"
    empty.mkdir()
    file.write_text("")
    torn.mkdir()
    (torn / "transcripts.jsonl").write_text('{"id": "c0"}\n')
    talked = reported.EARLIER / "talked"  # with untrained experts
    assert cli.main(["world", "check", f"runs=[{empty},{file},{torn},{talked},{talked},{tmp_path}/nowhere,~nobody_here/run]"]) == 2
    err = capsys.readouterr().err
    assert "runs=~nobody_here/run: this machine knows no home folder ~nobody_here" in err  # by itself: its path means nothing
    assert cli.main(["world", "check", f"runs=[{empty},{file},{torn},{talked},{talked},{tmp_path}/nowhere]"]) == 2
    err = " ".join(capsys.readouterr().err.split())
    assert "6 problems" in err and "Traceback" not in err
    for said in ("empty: holds no transcripts.jsonl", "file: is a file", "line 1 is no record", "talked: nobody had learnt",
                 "talked: is named twice", "nowhere: no such folder"):  # fmt: skip
        assert said in err, err


def test_the_dialogues_of_the_check_stay_those_of_its_published_figures() -> None:
    rng, simulator = random.Random(SEED + 2), Simulator(load(), PROMPTS)
    texts = [turn.text for _ in range(20) for turn in simulator.judged(rng)[0].turns]
    assert hashlib.sha256("\n".join(texts).encode()).hexdigest()[:16] == "7eff987b8ed51d45"


def test_rich_dialogues_say_more_and_slip_now_and_then() -> None:
    simulator, rng = Simulator(load(), PROMPTS), random.Random(1)
    rich, plain = ([t for _ in range(150) for t in simulator.dialogue(rng, turns=4, rich=more).truths] for more in (True, False))
    assert max(len(t.facts) for t in rich) > 6 and not any(t.count("wrong") or t.repeats for t in plain)
    assert 0.01 < sum(t.count("wrong") for t in rich) / sum(t.claims for t in rich) < 0.1  # a twentieth of the sentences, about
