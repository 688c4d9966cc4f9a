"""What is no number never becomes one: in embeddings, probabilities, rewards, figures and in what is written."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from expertchat.backends.base import Embedding
from expertchat.backends.scoring import exclude_extensions
from expertchat.evaluation.figures import outcome
from expertchat.evaluation.statistics import scaled_margin
from expertchat.events import StepFinished, WimGiven
from expertchat.folder.jsonl import read_lines
from expertchat.folder.reader import RunReader
from expertchat.judging import rating, wim
from expertchat.judging.faults import Fault
from expertchat.judging.pairwise import read
from expertchat.preferences.pairs import Choice, make_pairs
from expertchat.preferences.score import repeats, scored
from expertchat.records import Candidate, Message, Metrics, Reward, Score, finite
from tests.scripted import BagOfWords, Collect, Double, config_of
from tests.test_rollout import dpo_config, talk

NAN, INF = math.nan, math.inf
BAD = [NAN, INF, -INF]


# -- embeddings ---------------------------------------------------------------------------------------------------------


def test_a_cosine_is_between_its_bounds_or_none() -> None:
    assert wim.cosine((0.6, 0.8), (1.0, 0.0)) == pytest.approx(0.6)
    assert wim.cosine((1.0 + 1e-9, 0.0), (1.0, 0.0)) == 1.0  # a hair outside
    for bad in ((NAN, 0.0), (INF, 0.0), (0.0, 0.0), ()):
        assert wim.cosine(bad, (1.0, 0.0)[: len(bad)]) is None and wim.cosine((1.0, 0.0)[: len(bad)], bad) is None


class Broken(BagOfWords):
    """Embeds every text as one vector."""

    def __init__(self, *vector: float) -> None:
        super().__init__()
        self.vector = vector

    def embed(self, requests: Any) -> list[Embedding]:
        return [Embedding(self.vector) for _ in requests]


@pytest.mark.parametrize("vector", [(NAN, 0.0), (INF, 0.0), (0.0, 0.0)])
def test_an_embedding_without_a_direction_gives_no_wim_score(tmp_path: Path, vector: tuple[float, float]) -> None:
    from expertchat.talk.converse import run_converse

    double, sink = Double(), Collect()
    config = config_of(f"run.dir={tmp_path / 'r'}", "conversation.count=1", "conversation.turns=2")
    run_converse(config, ["x"], sink, backends=dict.fromkeys(("a", "b", "third"), double), embedder=Broken(*vector))  # type: ignore[arg-type]
    wims = [event.wim for event in sink.of(WimGiven)]
    assert len(wims) == 2 and {(w.cosine, w.fault, w.problem) for w in wims} == {(None, "not_finite", "the cosine is not a number")}
    for name in ("wim", "rewards", "ratings", "events"):
        for line in (tmp_path / "r" / f"{name}.jsonl").read_text().splitlines():
            json.loads(line, parse_constant=pytest.fail)
    summary = RunReader(tmp_path / "r").summary
    assert summary["wim_null"] == 2 and summary["faults"]["wim"] == {"not_finite": 2} and summary["rewards_null"] == 2


def test_a_broken_embedder_makes_neither_shuffled_scores_nor_repeats() -> None:
    one, two = talk(name="r0001/c0000")[0], talk(name="r0001/c0001")[0]
    found = scored([one, two], dpo_config("reward.wim=shuffled").rules, Broken(NAN, 0.0))
    assert found and {score.value for score in found} == {None}
    assert set(repeats([one, two], Broken(NAN, 0.0), 0.9).values()) == {0}
    # No repeat is known, so none is charged; with directions that are all the same every later sentence is one.
    assert sum(repeats([one], Broken(1.0, 0.0), 0.9).values()) > 0


# -- probabilities ------------------------------------------------------------------------------------------------------


def test_an_option_that_is_no_number_gives_no_rating_also_where_it_extends_another() -> None:
    # " 1" is extended by " 10": p(" 1") = p(path) - p(" 10"). A NaN there says nothing of " 1"; it became log 0, and the rest had a mean.
    options = [(1,), (2,), (1, 0)]
    plain = exclude_extensions(options, [math.log(0.5), math.log(0.3), math.log(0.2)])
    assert [round(math.exp(p), 6) for p in plain] == [0.3, 0.3, 0.2]
    assert [math.isnan(p) for p in exclude_extensions(options, [math.log(0.5), math.log(0.3), NAN])] == [True, False, True]
    assert [math.isnan(p) for p in exclude_extensions(options, [NAN, math.log(0.3), math.log(0.2)])] == [True, False, False]
    ten = [(n,) for n in range(1, 10)] + [(1, 0)]
    for place in range(10):
        logprobs = [math.log(0.1)] * 10
        logprobs[place] = NAN
        assert rating.expected_value(exclude_extensions(ten, logprobs)) is None
        assert rating.mass(exclude_extensions(ten, logprobs)) is None


def test_a_verdict_over_what_is_no_number_is_none_with_its_reason() -> None:
    assert read([NAN, -0.1]) == (None, Fault("not_finite", "2 probabilities were wanted")) == read([-0.1, INF])
    assert read([-INF, -0.1])[0] == "B"


# -- rewards and pairs --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", BAD)
def test_a_reward_from_what_is_no_number_is_none(bad: float) -> None:
    assert wim.reward(bad, 0.5, 0.5) is None and wim.reward(5.5, bad, 0.5) is None
    assert wim.reward(bad, 0.5, 1.0) == 0.5  # z = 1: the rating does not count
    assert wim.mean_rating({"depth": 7.0, "clarity": bad}, {"depth": 1.0, "clarity": 1.0}) is None
    assert wim.mean_rating({"depth": 7.0, "clarity": bad}, {"depth": 1.0, "clarity": 0.0}) == 7.0
    assert outcome(bad, 1.0) is None and outcome(1.0, bad) is None and outcome(2.0, 1.0) == 1.0
    assert scaled_margin([1.0, bad], [1.0, 2.0]) is None and scaled_margin([1.0], [1.0, bad]) is None


@pytest.mark.parametrize("bad", BAD)
def test_a_candidate_whose_reward_is_no_number_is_in_no_pair(bad: float) -> None:
    """A pair of 1.0 and not-a-number was made: its margin is neither below min_margin nor equal to 0."""
    candidates = tuple(
        Candidate(id=f"h/k{i}", transcript="h", round=1, turn=1, index=i, speaker="a", text=f"text {i}", policy_version=0) for i in range(2)
    )
    made = make_pairs([Choice((Message("user", "x"),), candidates, (1.0, bad), "b")], dpo_config().pairs, 0)
    assert (len(made.pairs), made.nulls, made.ties) == (0, 1, 0)


# -- what is kept -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", BAD)
def test_no_record_holds_what_is_no_number(bad: float) -> None:
    assert Score(id="x", transcript="t", turn=0, speaker="a", source="judge", value=bad).value is None
    assert Reward(id="x", transcript="t", judge="b", subject="a", value=bad, rating=bad).value is None
    figures = {"loss": bad, "kl": 0.1, "judge": "truth", "n": 3}
    metrics = Metrics(id="m", kind="round", round=1, learner="a", policy_version=1, figures=figures)
    assert metrics.figures == {"loss": None, "kl": 0.1, "judge": "truth", "n": 3}
    assert Metrics.model_validate_json(metrics.to_json()) == metrics
    assert finite({"a": [bad, {"b": bad}], "c": "NaN", "d": True, "e": 2}) == {"a": [None, {"b": None}], "c": "NaN", "d": True, "e": 2}


def test_a_summary_and_the_live_file_are_json(tmp_path: Path) -> None:
    from expertchat.folder.store import Store

    store = Store(tmp_path / "r", {}, ["x"])
    store.begin(lambda speakers: (0, 0, 0))
    store.send(StepFinished(round=1, step=1, steps=2, loss=NAN))
    store.finish({"mean": NAN, "ways": {"a-by-b": {"mean": INF, "n": 2}}})
    store.close()
    text = (tmp_path / "r" / "summary.json").read_text()
    assert json.loads(text, parse_constant=pytest.fail) == {"mean": None, "ways": {"a-by-b": {"mean": None, "n": 2}}}
    for path in (tmp_path / "r").glob("*.json*"):
        assert "NaN" not in path.read_text() and "Infinity" not in path.read_text(), path
    assert list(read_lines(tmp_path / "r" / "nothing.jsonl")) == []
