"""Several judges of one candidate: how their rewards are put together, what is kept of each, and what a run of such does."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from expertchat.command.compose import load
from expertchat.config import ConfigError, JudgeName, JudgingConfig, validate
from expertchat.events import CandidatesJudged
from expertchat.folder.run_folder import differences
from expertchat.judging.roles import judges_of, seats_of
from expertchat.preferences.ensemble import combined, of_dialogue
from expertchat.preferences.score import scored
from expertchat.records import Reward, Score
from tests.judged import judging_config
from tests.scripted import BagOfWords, Double, run
from tests.test_rollout import dpo_config, talk


def test_mean_worst_and_majority_of_three_judges() -> None:
    """a ranks 1 > 2 > 3, b ranks 2 > 3 > 1, c ranks 2 > 1 > 3; the rewards of a are far larger, which sways the mean alone.

    mean: (.9 + .0 + .1) / 3, (.3 + .2 + .2) / 3, (.0 + .1 + .0) / 3. Votes: 1 against 2: a for, b and c against: lost; 1 against 3: a and
    c for, b against: won; 2 against 3: all for. So 1: (1 - 1) / 2 = 0, 2: (1 + 1) / 2 = 1, 3: (-1 - 1) / 2 = -1.
    """
    three = [{"a": 0.9, "b": 0.0, "c": 0.1}, {"a": 0.3, "b": 0.2, "c": 0.2}, {"a": 0.0, "b": 0.1, "c": 0.0}]
    assert combined(three, "mean") == pytest.approx([1 / 3, 0.7 / 3, 0.1 / 3])
    assert combined(three, "worst") == [0.0, 0.2, 0.0]
    assert combined(three, "majority") == [0.0, 1.0, -1.0]


def test_who_says_nothing_has_no_vote_and_hides_no_worst() -> None:
    """Between 1 and 2 only b has both rewards and prefers 2; against 3 nobody has anything."""
    three = [{"a": None, "b": 0.1}, {"a": 0.9, "b": 0.2}, {"a": None, "b": None}]
    assert combined(three, "mean") == [0.1, pytest.approx(0.55), None]
    assert combined(three, "worst") == [None, 0.2, None]
    assert combined(three, "majority") == [-1.0, 1.0, None]
    assert combined([{"a": 0.1, "b": 0.1}], "majority") == [None]  # nothing to be held against
    assert of_dialogue({"a": 0.4, "b": 0.2}, "majority") == pytest.approx(0.3) and of_dialogue({"a": 0.4, "b": None}, "worst") is None


@given(
    st.lists(st.fixed_dictionaries({j: st.none() | st.floats(-1, 1) for j in "abc"}), min_size=1, max_size=5),
    st.sampled_from(["mean", "worst", "majority"]),
)
def test_whatever_the_judges_say_it_is_a_reward_or_none(values: list[dict[str, float | None]], how: str) -> None:
    found = combined(values, how)  # type: ignore[arg-type]
    assert all(x is None or -1 <= x <= 1 for x in found)
    if how == "majority" and all(v is not None for one in values for v in one.values()) and len(values) > 1:
        assert sum(x or 0.0 for x in found) == pytest.approx(0)  # who wins, wins against another


def test_one_judge_is_what_it_was() -> None:
    for how in ("mean", "worst", "majority"):
        assert combined([{"b": 0.3}, {"b": None}, {}], how) == [0.3, None, None]  # type: ignore[arg-type]


def test_an_ensemble_is_its_judges_each_once() -> None:
    how: list[JudgeName] = ["partner", "self", "third", "moving", "reward_model"]
    assert [role.judge for role in judges_of(how, "a", ("a", "b", "c"))] == ["b", "c", "a", "third", "reward_model"]


def test_loading_and_evaluations_follow() -> None:
    config = load("online_dpo", ["judging.judge=[partner,third]", "+model@third=embedded_mixtral", "judging.combine=worst"])
    assert config.judge_names == {"partner", "third"} and "third" in seats_of(config)
    old = load("online_dpo").model_dump(mode="json")
    new = ("combine", "principles", "references", "examples", "examples_shown")
    before = {**old, "judging": {key: value for key, value in old["judging"].items() if key not in new}}
    assert differences(before, old) == []
    assert "judging.judge: was 'partner', is ['partner', 'third']" in differences(before, config.model_dump(mode="json"))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"judge": []}, "judge: must be partner, self, third or reward_model, or a list of them, [partner, self], but is []"),
        ({"judge": ["partner", "nobody"]}, "judge: must be partner, "),
        ({"judge": ["self", "self"]}, "judge: has self twice"),
        ({"judge": "moving"}, "judge: must be partner, "),
        ({"combine": "best"}, "'mean', 'worst' or 'majority'"),
    ],
)
def test_wrong_ensembles_are_refused(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        validate(JudgingConfig, judging_config().model_dump(mode="json") | change)
    assert said in str(refused.value)


def test_judges_that_are_not_there_are_named_together() -> None:
    with pytest.raises(ConfigError) as refused:
        load("online_dpo", ["judging.judge=[moving,third,reward_model]", "evaluation=pointwise", "evaluation.by=reward_model"])
    assert len(refused.value.problems) == 3
    for said in ("add +model@third=NAME", "add +reward_model=default reward_model.path=", "evaluation.by=reward_model gives no ratings"):
        assert said in str(refused.value)


def test_records_of_one_judge_look_as_they_did() -> None:
    score = Score(id="k0", transcript="c", turn=1, speaker="a", source="judge", value=0.0, reward=0.0)
    assert "judges" not in score.to_json() and "combined" not in score.to_json() and '"value":0.0' in score.to_json()
    several = score.model_copy(update={"judges": {"a": None, "b": 0.0}, "combined": "mean"})
    assert Score.model_validate_json(several.to_json()) == several and json.loads(several.to_json())["judges"] == {"a": None, "b": 0.0}
    reward = Reward(id="r", transcript="c", judge="b", subject="a", value=0.0)
    assert "score" not in reward.to_json() and '"score":0.0' in reward.model_copy(update={"score": 0.0}).to_json()


def test_a_talk_is_judged_by_each_of_them(tmp_path: Path) -> None:
    words = ("conversation.count=2", "conversation.turns=2", "judging.judge=[partner,self]", "judging.z=0", "judging.wim.enabled=false")
    assert run(tmp_path / "run", *words, double=Double()) == 0
    lines = [json.loads(line) for line in (tmp_path / "run" / "rewards.jsonl").read_text("utf-8").splitlines()]
    assert sorted(line["id"] for line in lines if line["transcript"] == "c0000") == [
        "c0000/a-by-a/reward", "c0000/a-by-b/reward", "c0000/b-by-a/reward", "c0000/b-by-b/reward",
    ]  # fmt: skip
    assert all(math.isfinite(line["value"]) for line in lines)


def test_a_majority_decides_about_candidates_and_the_score_says_who_gave_what() -> None:
    bundle, _, events = talk("judging.judge=[partner,reference]", "judging.combine=majority", "candidates.continue_with=best")
    rules = dpo_config("judging.judge=[partner,reference]", "judging.combine=majority").rules
    found = {score.id: score for score in scored([bundle], rules, BagOfWords())}
    for one in bundle.sampled:
        values = [{reward.judge: reward.value for reward in one.judged(candidate)} for candidate in one.candidates]
        assert all(set(each) == {"b", "base_a"} for each in values)
        mine = [found[candidate.id] for candidate in one.candidates]
        assert [score.judges for score in mine] == values and {score.combined for score in mine} == {"majority"}
        assert [score.reward for score in mine] == combined(values, "majority")
        best = max(range(3), key=lambda i: (mine[i].reward or 0.0, -i))
        assert one.candidates[best].continued
    assert [event.rewards for event in events if isinstance(event, CandidatesJudged)] == [one.values("majority") for one in bundle.sampled]
