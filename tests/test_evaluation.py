"""Evaluation inside the loop: the policy's replies beside the base's, and what truth and judges make of them."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from expertchat.backends.base import GenerateRequest, ScoreRequest
from expertchat.config import ConfigError, conf_dir
from expertchat.evaluation.comparing import ratings_alone
from expertchat.evaluation.evaluator import check
from expertchat.evaluation.figures import RATINGS_APART, Comparison, figures, like_length, outcome, win_figures
from expertchat.evaluation.truth import Tally
from expertchat.events import Note
from expertchat.experts.registry import make_expert
from expertchat.records import Metrics, Topic, Turn, Verdict
from expertchat.world.facts import load
from tests.scripted import Double
from tests.staged import SMALL, Stage, Thread, config_of, says, topic_of

torch.set_num_threads(1)

# -- by the truth -------------------------------------------------------------------------------------------------------


def test_truth_by_hand(tmp_path: Path) -> None:
    """The dialogues say nothing. The base states fact 0; the policy facts 0 and 1 on tides, fact 0 on jazz, and nonsense on coffee."""

    def base(request: GenerateRequest) -> str:
        return says(topic_of(request), 0) if request.key.endswith("/base") else "Thank you for that. " + str(len(request.messages)) + "?"

    def policy(request: GenerateRequest) -> str:
        topic = topic_of(request)
        return {"tides": says(topic, 0, 1), "jazz": says(topic, 0), "coffee": "Coffee is a mineral. " + says("tides", 2)}[topic]

    stage = Stage(tmp_path, config_of("conversation.loop_similarity=1.0"), base=Double(base, tokens=10), policy=Double(policy, tokens=13))
    assert stage.prepare()
    metrics = stage.evaluate()
    assert (metrics.id, metrics.kind, metrics.round, metrics.learner, metrics.policy_version) == (
        "evaluation-a-0006",
        "evaluation",
        6,
        "a",
        6,
    )
    manners = {f"{name}_{of}": 0.0 for name in ("questions", "agreements", "again") for of in ("policy", "base", "difference")}
    expected = manners | {
        "n": 6, "topics": 3, "judge": "truth", "wins": 2, "ties": 2, "losses": 2, "nulls": 0, "win_rate": 0.5,
        "tokens_policy": 13, "tokens_base": 10, "tokens_ratio": 1.3,
        "n_length_matched": 0, "win_rate_length_matched": None,  # 13 > 1.25 * 10
        "distinct_policy": (2 + 1 + 0) / 3, "distinct_base": 1.0, "distinct_ratio": 1.0,
        "repeats_policy": 0.0, "repeats_base": 0.0, "wrong_policy": 2 / 3, "wrong_base": 0.0,
        "repeats_difference": 0.0, "wrong_difference": 2 / 3,
        "truth_policy": (2 + 1 - 2) / 3, "truth_base": 1.0, "truth_difference": 1 / 3 - 1,
        "accuracy_policy": 3 / 5,  # 2 + 1 of 2 + 1 + 2 claims
        "accuracy_base": 1.0, "accuracy_difference": -0.4,
        "repeat_rate_policy": 0.0, "repeat_rate_base": 0.0, "repeat_rate_difference": 0.0, "ties_length_matched": 0,
    }  # fmt: skip
    bounds = {key: value for key, value in metrics.figures.items() if key.endswith(("_low", "_high", "_least"))}
    assert metrics.figures == pytest.approx(expected | bounds)
    assert {key.rpartition("_")[0] for key in bounds} <= {*expected}
    # three topics with the outcomes 1, .5, 0, whose mean is as unsure as this: 4.303 (t) * .5 / sqrt(3) to each side, and so nearly all
    assert 0 <= bounds["win_rate_low"] < 0.1 and 0.9 < bounds["win_rate_high"] <= 1  # type: ignore[operator]
    assert 0 <= bounds["distinct_ratio_low"] < 1 < bounds["distinct_ratio_high"]  # type: ignore[operator]
    assert stage.policy.asked() == [f"evaluation-a/h{i:04d}/v0006" for i in range(6)]
    kept = [Comparison.model_validate_json(line) for line in (tmp_path / "evaluations" / "a-r0006.jsonl").read_text().splitlines()]
    assert [one.outcome for one in kept] == [1.0, 0.5, 0.0] * 2
    assert Metrics.model_validate_json(metrics.to_json()) == metrics


def test_the_last_evaluation_uses_histories_of_its_own(tmp_path: Path) -> None:
    stage = Stage(tmp_path, config_of())
    assert stage.prepare()
    stage.evaluate()
    last = stage.evaluate(8, final=True)
    assert last.id == "evaluation-a-0006-final"
    keys = stage.policy.asked()
    assert keys[6:] == [f"evaluation-a/h{i:04d}/v0006" for i in range(6, 14)] and len(set(keys)) == 14
    assert (tmp_path / "evaluations" / "a-r0006-final.jsonl").exists()


def test_the_other_expert_can_be_the_learner(tmp_path: Path) -> None:
    stage = Stage(tmp_path, config_of("learner=b"), learner="b")
    assert stage.prepare()
    assert stage.evaluate().learner == "b" and stage.policy.asked()[0] == "evaluation-b/h0000/v0006"
    assert all(held.turns[-1].speaker == "a" for held in stage.evaluator.held)
    assert (tmp_path / "evaluations" / "base-b.jsonl").exists()


def test_an_evaluation_on_disk_is_not_made_again(tmp_path: Path) -> None:
    stage = Stage(tmp_path, config_of())
    assert stage.prepare()
    first = stage.evaluate()
    asked = len(stage.policy.asked())
    assert stage.evaluate() == first and len(stage.policy.asked()) == asked
    path = tmp_path / "evaluations" / "a-r0006.jsonl"
    path.write_text(path.read_text()[:-20])  # torn: as if it had not been
    assert stage.evaluate() == first and len(stage.policy.asked()) == 2 * asked
    stage.evaluate(4)
    assert len(stage.policy.asked()) == 2 * asked + 4  # of fewer replies: another one
    stage.stop = True
    assert stage.evaluator.evaluate(stage.run, 12, 12, 6) is None and not (tmp_path / "evaluations" / "a-r0012.jsonl").exists()


def test_checkpoints_are_chosen_on_topics_of_their_own(tmp_path: Path) -> None:
    coffee = Topic(id="topic 9", text="coffee", source="list")
    stage = Stage(tmp_path, config_of(), topics=("tides", "jazz"), choose=[coffee])
    assert stage.prepare()
    assert [held.topic for held in stage.evaluator.held] == ["coffee"] * 6 + ["tides", "jazz"] * 4  # 6 on the way, 8 at the end
    stage.evaluate()
    assert stage.evaluate(8, final=True).figures["topics"] == 2 and stage.evaluate().figures["topics"] == 1
    assert len({held.id for held in stage.evaluator.held}) == 14


def test_the_judges_of_training_judge_some_of_the_final_replies(tmp_path: Path) -> None:
    """What they make of the policy's replies beside the truth: the reward may go up and the truth not."""
    judge = Double(lambda request: "8" if "/v0006/reward" in request.key else "5")
    asked = ("judging.form=sampled", "judging.z=0.0", "judging.wim.enabled=false", "evaluation.rewarded=3", "judging.judge=partner")
    stage = Stage(tmp_path, config_of(*asked), judge=judge)
    assert stage.prepare() and "n_reward" not in stage.evaluate().figures
    last = stage.evaluate(8, final=True).figures
    assert last["n_reward"] == 3 and last["reward_policy"] > last["reward_base"]  # type: ignore[operator]
    assert last["reward_difference"] == pytest.approx((8 - 5) / 4.5)  # (r - 5.5) / 4.5 of each
    kept = [Comparison.model_validate_json(line) for line in (tmp_path / "evaluations" / "a-r0006-final.jsonl").read_text().splitlines()]
    assert [one.reward_base is not None for one in kept] == [True] * 3 + [False] * 5


def test_who_is_asked_about_final_replies_is_loaded_though_the_rewards_are_drawn() -> None:
    drawn, asked = (config_of("+control=random_judge", "reward.repeat_penalty=0", f"evaluation.rewarded={n}") for n in (0, 2))
    assert (drawn.judge_names, drawn.embeds) == (set(), False) and (asked.judge_names, asked.embeds) == ({"partner"}, True)


# -- figures ------------------------------------------------------------------------------------------------------------


def compared(
    outcome: float | None, tokens: int = 10, base: int = 10, verdicts: Sequence[Verdict] = (), history: str = "h"
) -> Comparison:
    turn = Turn(speaker="a", text="x", tokens=tokens)
    return Comparison(
        id="x", history=history, learner="a", policy_version=1, reply=turn, base_tokens=base, outcome=outcome, verdicts=list(verdicts)
    )


def test_what_nobody_judged_does_not_count_as_anything() -> None:
    found = win_figures([compared(won) for won in (1.0, 1.0, 0.5, None, 0.0, None)], 0)
    assert (found["n"], found["wins"], found["ties"], found["losses"], found["nulls"]) == (4, 2, 1, 1, 2)
    assert found["win_rate"] == 2.5 / 4 and found["topics"] == 1
    nothing = win_figures([compared(None)], 0)
    assert (nothing["n"], nothing["win_rate"], nothing["win_rate_low"], nothing["nulls"]) == (0, None, None, 1)


def test_ratings_that_differ_in_their_last_digits_are_a_tie() -> None:
    assert [outcome(5.0, base, RATINGS_APART) for base in (5.00001, 4.99999, 5.01, 4.99)] == [0.5, 0.5, 0.0, 1.0]
    assert [outcome(2, 3), outcome(3, 3), outcome(-1, -4)] == [0.0, 0.5, 1.0]


def test_replies_of_like_length() -> None:
    assert like_length(10, 12) and like_length(10, 8) and like_length(0, 0)  # 12.5 is the most beside 10, 8 the least
    assert not like_length(10, 13) and not like_length(10, 7) and not like_length(1, 0)
    found = figures([compared(1.0, 10), compared(0.0, 12), compared(1.0, 13), compared(None, 10)], "truth", 0)
    assert (found["n_length_matched"], found["win_rate_length_matched"], found["win_rate"]) == (2, 0.5, 2 / 3)
    assert "distinct_ratio" not in found and "flips" not in found  # no truth and no verdicts here


def test_longer_replies_repeat_more_though_no_more_of_what_they_claim() -> None:
    """2 repeats of 8 claims beside 1 of 4 is one repeat a reply more, and as large a share; 2 of 4 would be a larger one."""

    def told(repeats: int, claims: int) -> dict[str, Any]:
        policy = Tally(distinct=claims - repeats, repeats=repeats, wrong=0, claims=claims)
        one = compared(1.0).model_copy(update={"policy": policy, "base": Tally(distinct=3, repeats=1, wrong=0, claims=4)})
        return figures([one, one], "truth", 0)

    longer, worse = told(2, 8), told(2, 4)
    assert longer["repeats_difference"] == worse["repeats_difference"] == 1.0  # a reply
    assert (longer["repeat_rate_policy"], longer["repeat_rate_difference"], worse["repeat_rate_difference"]) == (0.25, 0.0, 0.25)


def test_position_bias_is_counted() -> None:
    def verdicts(first: Any, second: Any) -> list[Verdict]:
        pairs = (("base", first), ("policy", second))
        return [Verdict(id=f"v/{order}", history="h", judge="third", first=order, verdict=said) for order, said in pairs]  # type: ignore[arg-type]

    # A then B is the base both times; A, A flips; tie then A flips; one without an answer is no flip
    said = [(0.0, "A", "B"), (0.5, "A", "A"), (0.5, "tie", "A"), (None, None, "B")]
    found = figures([compared(result, verdicts=verdicts(one, two)) for result, one, two in said], "pairwise by third", 0)
    assert (found["flips"], found["first_share"]) == (2, 4 / 6)  # A: 1 + 2 + 1 of 2 + 2 + 1 + 1 verdicts
    # Two principles that disagree, each the same in both orders, are no flip.
    kind = [one.model_copy(update={"principle": "kind"}) for one in verdicts("A", "B")]
    true = [one.model_copy(update={"principle": "true"}) for one in verdicts("B", "A")]
    assert figures([compared(0.5, verdicts=[*kind, *true])], "pairwise by third", 0)["flips"] == 0


# -- by a judge ---------------------------------------------------------------------------------------------------------


def test_pointwise_compares_mean_ratings_and_drops_what_has_none(tmp_path: Path) -> None:
    config = config_of("evaluation=pointwise", *SMALL, "judging.form=sampled", "judging.z=1.0")

    def rate(request: GenerateRequest) -> str:
        policy, history = "/v0006/" in request.key, request.key.split("/")[1]
        if request.key.endswith("/depth") and policy:
            return {"h0000": " 9", "h0001": " 5", "h0002": " 1", "h0003": " none"}.get(history, " 5")
        return " 5"

    judge = Double(rate)
    stage = Stage(tmp_path, config, judge=judge)
    assert stage.prepare()
    note = stage.events[-1]  # partner_reference is the partner, whose ratings are trained on
    assert isinstance(note, Note) and "its win rate will be too good" in note.text
    found = stage.evaluate().figures
    assert (found["judge"], found["wins"], found["ties"], found["losses"], found["nulls"]) == ("pointwise by partner_reference", 1, 3, 1, 1)
    # means over six categories: (9 + 25) / 6, 5, (1 + 25) / 6, 5, 5
    assert found["rating_policy"] == pytest.approx((34 / 6 + 26 / 6 + 15) / 5) and found["rating_base"] == 5.0
    assert not [key for key in judge.asked() if key.endswith("/wim")]  # the ratings alone, whatever judging.z is
    assert "distinct_policy" in found  # the truth is told beside it
    line = json.loads((tmp_path / "evaluations" / "a-r0006.jsonl").read_text().splitlines()[3])
    assert line["outcome"] is None and line["rating_base"] == 5.0 and "depth" in line["problem"]
    before = [key for key in judge.asked() if "/base/" in key]
    stage.evaluate(rounds=12)
    assert [key for key in judge.asked() if "/base/" in key] == before  # the judge has not changed: the base is not rated again


def test_ratings_alone_have_weights() -> None:
    config = config_of("judging.z=1.0", *(f"judging.weights.{c}=0" for c in config_of().judging.categories)).judging
    alone = ratings_alone(config)
    assert (alone.z, alone.wim.enabled, set(alone.weights.values())) == (0.0, False, {1.0})
    assert ratings_alone(config_of().judging).weights == config_of().judging.weights


THIRD = ("+model@third=auto", "third.path=x", "evaluation=pairwise", *SMALL, "evaluation.by=third")


def test_pairwise_asks_in_both_orders(tmp_path: Path) -> None:
    def score(request: ScoreRequest) -> Sequence[float]:
        history, first = request.key.split("/")[1], request.key.rsplit("/", 1)[1]
        said = {"h0000": "BA", "h0001": "AB", "h0002": "AA", "h0003": "BA"}.get(history, "??")[first != "base-first"]
        return [-math.inf if said == "?" else math.log(0.8 if option.strip() == said else 0.1) for option in request.options]

    stage = Stage(tmp_path, config_of(*THIRD), judge=Double(score=score))
    assert stage.prepare() and not stage.events  # a third model: nothing to warn of
    found = stage.evaluate().figures
    assert (found["wins"], found["ties"], found["losses"], found["nulls"]) == (2, 1, 1, 2)
    assert (found["flips"], found["first_share"], found["judge"]) == (1, 5 / 8, "pairwise by third")  # A: 1 + 1 + 2 + 1
    keys = [f"evaluation-a/h{i:04d}/v0006/by-third/{order}-first" for i in range(6) for order in ("base", "policy")]
    assert sorted(stage.judge.asked()) == sorted(keys)
    line = json.loads((tmp_path / "evaluations" / "a-r0006.jsonl").read_text().splitlines()[4])
    assert line["problem"] == "no option has a probability" and [v["verdict"] for v in line["verdicts"]] == [None, None]


# -- several processes --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("world", [2, 3])
def test_several_processes_come_to_the_same(tmp_path: Path, world: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("expertchat.evaluation.evaluator.WAVE", 2)
    alone = Stage(tmp_path / "alone", config_of())
    assert alone.prepare()
    expected = alone.evaluate()
    table, barrier, found = [None] * world, threading.Barrier(world), dict[int, Metrics]()
    stages = [Stage(tmp_path / "many", config_of(), ranks=Thread(rank, world, table, barrier)) for rank in range(world)]

    def work(rank: int) -> None:
        assert stages[rank].prepare()
        found[rank] = stages[rank].evaluate()

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(world)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert found == dict.fromkeys(range(world), expected)
    for name in ("base-a.jsonl", "a-r0006.jsonl"):
        assert (tmp_path / "many" / "evaluations" / name).read_bytes() == (tmp_path / "alone" / "evaluations" / name).read_bytes()
    assert sum(len(stage.policy.asked()) for stage in stages) == 6  # nothing is made twice
    asked = [{key.split("/")[1] for key in stage.base.asked()} for stage in stages]
    assert not asked[0] & asked[1] and sum(map(len, asked)) == 14


def test_one_process_that_is_stopped_stops_all(tmp_path: Path) -> None:
    table, barrier, found = [None, None], threading.Barrier(2), dict[int, bool]()
    stages = [Stage(tmp_path, config_of(), ranks=Thread(rank, 2, table, barrier)) for rank in range(2)]
    stages[1].stop = True
    threads = [threading.Thread(target=lambda r=rank: found.update({r: stages[r].prepare()})) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert found == {0: False, 1: False}


# -- wrong configs ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (
            ("evaluation=pairwise",),
            "evaluation.by=partner_reference (family world) have no `compare`; the embedded models were not trained",
        ),
        (
            ("model@experts.a=qwen2_5_7b", "decoding@experts.a.decoding=sampling"),
            "evaluation.judge=truth knows the embedded world alone, but expert a is of the family qwen",
        ),
        (("model@experts.b=qwen2_5_7b", "decoding@experts.b.decoding=sampling", "learner=both"), "but expert b is of the family qwen"),
        (("evaluation=pointwise", "evaluation.by=partner", "learner=both"), "evaluation.by=partner learns too (learner=both)"),
    ],
)
def test_what_cannot_be_evaluated_is_said_before_anything_runs(overrides: tuple[str, ...], said: str) -> None:
    with pytest.raises(ConfigError) as error:
        check(config_of(*overrides))
    assert len(error.value.problems) == 1 and said in error.value.problems[0]


def test_a_real_model_may_judge_pairwise_whoever_learns() -> None:
    check(config_of(*THIRD))
    check(config_of("model@experts.b=qwen2_5_7b", "evaluation=pairwise", *SMALL))
    check(config_of("model@experts.b=qwen2_5_7b"))  # a learns, and is of the world


@pytest.mark.parametrize("name", sorted(path.stem for path in (conf_dir() / "control").glob("*.yaml")))
def test_a_control_is_one_word_and_names_its_arm(name: str) -> None:
    one, plain = config_of(f"+control={name}"), config_of()
    check(one)
    assert one.arm == name
    assert one.model_copy(update={"arm": None}) != plain or name == "mixed"  # mixed is the default by another name
    assert (one.evaluation, one.train, one.topics, one.rounds) == (plain.evaluation, plain.train, plain.topics, plain.rounds)


def test_topics_are_checked(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nothing is known of 'herons'"):
        Stage(tmp_path, config_of(), topics=("tides", "herons"))
    with pytest.raises(ConfigError, match=r"evaluation\.topics=20: no topic is held out"):
        Stage(tmp_path, config_of(), topics=())
    other = Stage(tmp_path, config_of("evaluation=pointwise", *SMALL), topics=("tides", "herons"))
    assert other.prepare() and "distinct_policy" not in other.evaluate().figures  # without its truth a topic is only judged


# -- the embedded models ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def embedded() -> dict[str, Any]:
    from expertchat.backends.local import LocalBackend
    from expertchat.world.recipe import MODELS

    names = {"a": "llama", "b": "mixtral"}
    return {s: LocalBackend.load(MODELS / name, name, 0, dtype="fp32", device="cpu") for s, name in names.items()}


def embedded_stage(folder: Path, models: dict[str, Any], rows: int, *overrides: str) -> Stage:
    stage = Stage(folder, config_of(*overrides))
    experts = {s: make_expert(s, stage.evaluator.config.experts[s], models[s].info) for s in ("a", "b")}
    comparer, tokens = stage.evaluator.comparer, {s: models[s].count_tokens for s in models}
    stage.evaluator.experts, stage.evaluator.tokens = comparer.experts, comparer.tokens = experts, tokens
    stage.backends = {**models, "base_a": models["a"], "base_b": models["b"]}
    stage.rows = rows
    return stage


@pytest.mark.slow
@pytest.mark.parametrize("judge", ["truth", "pointwise"])
def test_no_batch_size_changes_a_figure(tmp_path: Path, embedded: dict[str, Any], judge: str) -> None:
    found, overrides = [], (f"evaluation={judge}", *SMALL, "evaluation.turns=3")
    for rows in (5, 64):  # one row at a time takes seconds, and judged in words a minute
        stage = embedded_stage(tmp_path / str(rows), embedded, rows, *overrides)
        assert stage.prepare()
        metrics = stage.evaluate()
        names = ("base-a.jsonl", "a-r0006.jsonl")
        texts = [(tmp_path / str(rows) / "evaluations" / name).read_bytes() for name in names]
        found.append((metrics, texts[0], texts[1] if judge == "truth" else b""))  # ratings differ in their last digits
    if judge == "truth":
        assert found[0] == found[1]
    else:
        for metrics, base, _ in found[1:]:
            assert base == found[0][1]
            assert metrics.figures == pytest.approx(found[0][0].figures, abs=1e-4)


def test_the_embedded_base_is_beaten_by_one_who_knows_more(tmp_path: Path, embedded: dict[str, Any]) -> None:
    stage = embedded_stage(tmp_path, embedded, 64)
    assert stage.prepare()

    def knows(request: GenerateRequest) -> str:
        topic = topic_of(request)
        said = {x for m in request.messages for t in load().read([m.content], topic) for x in t.facts}
        return says(topic, *[i for i in range(14) if i not in said][:8])

    stage.backends = stage.backends | {"a": Double(knows)}
    found = stage.evaluate(8, final=True).figures
    assert (found["win_rate"], found["wins"], found["distinct_policy"]) == (1.0, 8, 8.0)
    assert found["accuracy_policy"] == 1.0 and found["repeats_policy"] == 0.0
    assert found["distinct_ratio"] == pytest.approx(8 / found["distinct_base"])  # type: ignore[operator]
    assert found["tokens_policy"] > found["tokens_base"] > 0  # type: ignore[operator]
