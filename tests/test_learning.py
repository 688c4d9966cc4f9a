"""Runs that could learn nothing say so, guards across a stop, what the last evaluation was made with, rewards by a program; whole runs."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from expertchat.config import ConfigError
from expertchat.evaluation.statistics import mean_by_cluster
from expertchat.events import AnyEvent, Measured, Note, RoundFinished, RunFinished
from expertchat.runs.arms import arms
from expertchat.runs.listing import runs
from expertchat.runs.merge_runs import merge_runs
from expertchat.training.dpo import Dpo
from expertchat.training.online import Online
from tests.scripted import Collect, Double, run
from tests.test_online_dpo import config_of, records, train

ONE = ("rounds=1", "evaluation.every=0", "evaluation.histories=1", "evaluation.final=2")


# -- nothing learnt -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def nothing(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int, Collect]:
    """A run in which every pair is a tie."""
    folder = tmp_path_factory.mktemp("nothing") / "run"
    code, sink = train(folder, *ONE, "pairs.min_margin=100.0")
    return folder, code, sink


def test_a_run_without_a_pair_has_failed_and_says_why(nothing: tuple[Path, int, Collect]) -> None:
    folder, code, sink = nothing
    summary = json.loads((folder / "summary.json").read_text("utf-8"))
    # two dialogues of three turns, opened by a and by b: one history of a in each, without the opening
    reason = (
        "nothing was learnt, no round made a pair to train on: 2 histories with 4 candidates: 2 ties (margin below pairs.min_margin)"
    )
    assert code == 1 and (summary["status"], summary["reason"]) == ("failed", reason)
    assert (summary["pairs"], summary["adapter"], summary["adapters"]) == (0, None, {})
    assert not list(folder.glob("adapter*"))
    end = sink.events[-1]
    assert isinstance(end, RunFinished) and (end.status, end.reason) == ("failed", reason)
    assert [e.level for e in sink.events if isinstance(e, Note) and "round 1" in e.text] == ["warning"]
    assert not [m for m in records(folder, "metrics") if m["id"].endswith("-final")]  # nothing to evaluate


def test_such_a_run_comes_to_the_same_end_again(nothing: tuple[Path, int, Collect]) -> None:
    folder, _, _ = nothing
    code, sink = train(folder, *ONE, "pairs.min_margin=100.0")
    end = sink.events[-1]
    assert code == 1 and isinstance(end, RunFinished) and end.status == "failed" and "nothing was learnt" in (end.reason or "")


def test_lists_and_tables_show_it_as_failed(nothing: tuple[Path, int, Collect]) -> None:
    folder, _, _ = nothing
    (row,) = runs([folder])["runs"]
    assert row["state"] == "failed" and "nothing was learnt" in row["reason"] and not row["resume"]
    table = arms([folder])
    assert not table.rows[0]["finished"] and any("failed: nothing was learnt" in note for note in table.notes)
    with pytest.raises(ConfigError, match="nothing was learnt"):
        merge_runs([folder, folder], folder.parent / "merged")


# -- who learns must sample ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "seats"),
    [
        (["decoding@experts.a.decoding=contrastive"], "a"),
        (["decoding@experts.a.decoding=greedy"], "a"),
        (["decoding@experts.a.decoding=beam"], "a"),
        (["experts.a.decoding.reply.temperature=0.01"], "a"),
        (["experts.a.decoding.reply.top_k=1"], "a"),
        (["experts.a.decoding.reply.top_p=0.01"], "a"),
        (["experts.a.decoding.reply.min_p=0.99"], "a"),
        (["decoding@experts.b.decoding=greedy", "learner=b"], "b"),
        (["decoding@experts.a.decoding=greedy", "decoding@experts.b.decoding=beam", "learner=both"], "ab"),
        (["decoding@experts.b.decoding=greedy", "learner=one"], "b"),
        (["decoding@experts.b.decoding=greedy"], ""),  # who does not learn may speak as it likes
        (["decoding@experts.a.decoding=greedy", "learner=b"], ""),
        (["decoding@experts.a.decoding=sampling"], ""),
    ],
)
def test_who_learns_must_sample(overrides: list[str], seats: str) -> None:
    if not seats:
        config_of(*overrides)
        return
    with pytest.raises(ConfigError) as caught:
        config_of(*overrides, "judging.judge=third")
    said = "\n".join(caught.value.problems)
    assert all(f"decoding@experts.{seat}.decoding=sampling" in said for seat in seats)
    assert said.count("equal candidates") == len(seats) and "needs a third model" in said  # with whatever else is wrong


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["reward.wim=shuffled", "conversation.count=1"], "a round has 1"),
        (["reward=length", "reward.wim=shuffled"], "no judge is asked"),
        (["reward=length", "reward.dialogue_weight=0.5"], "needs reward.source=judge"),
        (["evaluation=reward"], "needs a program's measure"),
        (["evaluation.measure=length"], "needs evaluation=reward"),
    ],
)
def test_rewards_that_cannot_be_meant(overrides: list[str], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config_of(*overrides)
    assert any(words in problem for problem in caught.value.problems), caught.value.problems


def test_a_rate_of_few_answers_chooses_no_round() -> None:
    """.60 of 40 comparisons, then 1.00 of 1 and of 20 of 40: the second has too few, the third just enough."""
    run, said = Online.__new__(Online), list[Any]()
    run.config = SimpleNamespace(evaluation=SimpleNamespace(histories=40))  # type: ignore[assignment]
    run.hub, run.best = SimpleNamespace(send=said.append), {}  # type: ignore[assignment]
    kept = []
    for number, (rate, n) in enumerate(((0.6, 40), (1.0, 1), (1.0, 20), (0.9, 40)), 1):
        run._choose("a", number, {"win_rate": rate, "n": n})
        kept.append(run.best["a"])
    assert kept == [[1, 0.6], [1, 0.6], [3, 1.0], [3, 1.0]]
    assert [note.text for note in said] == [
        "expert a: 1 of 40 comparisons after round 2 had an outcome, too few to choose that round by"
    ]


# -- guards, and the last evaluation ------------------------------------------------------------------------------------


def test_the_least_share_of_the_rate() -> None:
    updater = Dpo.__new__(Dpo)
    updater.scale = 1.0
    assert [updater.lower(0.2) for _ in range(4)] == [0.5, 0.25, 0.2, None] and updater.scale == 0.2


class StopAfter(Collect):
    """Asks the run to stop when a round is done."""

    def __init__(self, round: int) -> None:
        super().__init__()
        self.round = round

    def send(self, event: AnyEvent) -> None:
        super().send(event)
        if isinstance(event, RoundFinished) and event.round == self.round:
            os.kill(os.getpid(), signal.SIGTERM)


def rates(folder: Path) -> list[float]:
    return [m["figures"]["learning_rate"] for m in records(folder, "metrics") if m["kind"] == "round"]


@pytest.mark.slow
def test_the_rate_is_halved_once_also_across_a_stop_and_the_last_evaluation_is_of_the_best_weights(tmp_path: Path) -> None:
    """Some pair of words is always said twice, so that each round is below the limit."""
    limits = ("rounds=3", "reward=length", "evaluation=reward", "evaluation.every=1", "guards.action=lower", "guards.min_distinct_2=1.0")
    lasting = ("guards.worse=1e9", "train.schedule=constant", "train.warmup_rounds=0.0", "evaluation.histories=4", "evaluation.final=4")
    code, _ = train(tmp_path / "run", *limits, *lasting, sink=StopAfter(2))
    assert code == 3
    code, sink = train(tmp_path / "run", *limits, *lasting)
    assert code == 0
    first, *others = rates(tmp_path / "run")
    assert others == [pytest.approx(first / 2)] * 2  # not a quarter after the second
    metrics = records(tmp_path / "run", "metrics")
    final = next(m for m in metrics if m["id"].endswith("-final"))
    scored = records(tmp_path / "run", "scores")
    assert {s["id"] for s in scored} == {c["id"] for c in records(tmp_path / "run", "candidates")}
    assert {s["source"] for s in scored} == {"length"}
    evaluated = {m["round"]: m["figures"]["win_rate"] for m in metrics if m["kind"] == "evaluation" and m is not final and m["round"]}
    best = max(evaluated, key=lambda n: (evaluated[n], -n))
    assert (final["weights_of"], final["policy_version"]) == (best, best)
    assert final["figures"]["judge"] == "program (more length)" and final["figures"]["measure_topics"] == 4
    assert not records(tmp_path / "run", "ratings") and not records(tmp_path / "run", "wim")
    shown = [e.metrics.weights_of for e in sink.events if isinstance(e, Measured) and e.metrics.id.endswith("-final")]
    assert shown == [best]


def test_an_interval_that_draws_whole_clusters() -> None:
    # Within a topic all values are alike: ten times as many of them say nothing more, where independent values would.
    values, topics = [0.0, 1.0, 2.0, 3.0], ["a", "b", "c", "d"]
    one = mean_by_cluster(values, topics, seed=1)
    assert mean_by_cluster(values * 10, topics * 10, seed=1) == pytest.approx(one)
    # sd 1.291 of four topics: 1.5 -+ 3.182 * 1.291 / 2 (Student's t of three degrees of freedom)
    assert (one.low, one.high) == (pytest.approx(1.5 - 2.054, abs=0.06), pytest.approx(1.5 + 2.054, abs=0.06))
    assert one.low is not None and one.high is not None and one.low < 1.5 < one.high
    assert mean_by_cluster([1.0, 2.0], ["a", "a"], seed=1) == (None, None)
    with pytest.raises(ValueError, match="2 values of 1"):
        mean_by_cluster([1.0, 2.0], ["a"], seed=1)


# -- converse, and evaluations that say nothing -------------------------------------------------------------------------


def test_conversations_without_a_single_rating_have_failed(tmp_path: Path) -> None:
    wordless = Double(lambda request: "I would rather not say." if "-by-" in request.key else f"Bees, {request.key}.")
    settings = ("conversation.count=1", "conversation.turns=2", "judging.form=sampled", "judging.z=0.0", "judging.wim.enabled=false")
    sinks = [Collect(), Collect()]
    assert [run(tmp_path / "run", *settings, double=wordless, sink=sink) for sink in sinks] == [1, 1]  # also when it is run again
    for sink in sinks:
        end = sink.events[-1]
        assert isinstance(end, RunFinished) and end.status == "failed"
        # two experts rate each other in six categories
        assert (end.reason or "").startswith("no rating could be read: all 12 are null (rating: ")
    summary = json.loads((tmp_path / "run" / "summary.json").read_text("utf-8"))
    assert summary["status"] == "failed" and summary["ratings_read"] == 0
    assert runs([tmp_path / "run"])["runs"][0]["state"] == "failed"


def test_one_rating_is_enough_to_be_done(tmp_path: Path) -> None:
    settings = ("conversation.count=1", "conversation.turns=2", "judging.form=sampled", "judging.z=0.0", "judging.wim.enabled=false")
    double = Double(lambda request: " 7" if request.key.endswith("a-by-b/depth") else f"Bees, {request.key}.")
    assert run(tmp_path / "run", *settings, double=double) == 0


def test_an_evaluation_without_an_outcome_chooses_nothing_and_warns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from expertchat.text.measures import PROGRAMS
    from expertchat.text.program import Program

    source = "expertchat.evaluation.comparing.PROGRAMS"
    monkeypatch.setattr(source, {**PROGRAMS, "length": Program(lambda text: None, float, "nothing")})
    settings = (*ONE, "reward=length", "evaluation=reward", "evaluation.every=1", "evaluation.histories=1", "evaluation.final=2")
    code, sink = train(tmp_path / "run", *settings)
    assert code == 0
    rates = [m["figures"]["win_rate"] for m in records(tmp_path / "run", "metrics") if m["kind"] == "evaluation"]
    assert rates == [None] * 3  # of the base, after the round, at the end
    assert len([note for note in sink.of(Note) if "says nothing" in note.text]) == 3
    assert json.loads((tmp_path / "run" / "summary.json").read_text("utf-8"))["best"] == {"a": {"round": 1, "policy_version": 1}}
