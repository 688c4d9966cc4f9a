"""The dialogues of a round: candidates from one same history, who judges them, what goes on, and what their rewards become."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import pytest

from expertchat.backends.base import ModelInfo
from expertchat.command.compose import load
from expertchat.events import AnyEvent, CandidatesJudged, TurnFinished
from expertchat.experts.registry import make_expert
from expertchat.judging import wim
from expertchat.preferences.candidates import Bundle, Rollout, choices
from expertchat.preferences.pairs import make_pairs
from expertchat.preferences.score import _another, repeats, scored
from expertchat.records import Topic
from expertchat.talk.cast import Cast
from expertchat.talk.conversation import Dialogue
from expertchat.talk.scheduler import Scheduler
from expertchat.training.config import OnlineDpoConfig
from expertchat.training.figures import remarks, round_figures, why_nothing
from expertchat.training.guards import alarms, to_lower
from tests.scripted import BagOfWords, Double, babble


@lru_cache(maxsize=32)
def dpo_config(*overrides: str) -> OnlineDpoConfig:
    config = load("online_dpo", ["view=none", "candidates.count=3", "conversation.turns=4", *overrides])
    assert isinstance(config, OnlineDpoConfig)
    return config


CATEGORIES = ("accuracy", "clarity", "depth", "engagement", "humanness", "relevance")


def talk(
    *overrides: str,
    learners: tuple[Any, ...] = ("a",),
    double: Double | None = None,
    opener: Any = "b",
    name: str = "r0001/c0000",
) -> tuple[Bundle, Any, list[AnyEvent]]:
    """One dialogue by doubles: its bundle, the backend that was asked, the events."""
    config, double, events = dpo_config(*overrides), double or Double(), list[AnyEvent]()
    info = ModelInfo("double", 100_000)
    experts = {"a": make_expert("a", config.experts["a"], info), "b": make_expert("b", config.experts["b"], info)}
    cast = Cast(dict.fromkeys(experts, double), experts, seats=("a", "b"))
    topic = Topic(id=name, text="bees", source="list")
    dialogue = Dialogue(topic, opener, experts, config.conversation, events.append, cast.tokens, 5)
    rollout = Rollout(dialogue, cast, config.rules, 1, learners, {"a": 2, "b": 7})
    found: list[Bundle] = []

    def flow() -> Any:
        found.append((yield from rollout.bundle()))

    names = ("a", "b", "base_a", "base_b", "third")
    assert Scheduler({**dict.fromkeys(names, double), "embedder": BagOfWords()}).run([flow()])
    return found[0], double, events


def scores(bundles: list[Bundle], config: OnlineDpoConfig, embedder: Any) -> dict[str, float | None]:
    return {score.id: score.value for score in scored(bundles, config.rules, embedder)}


def test_only_the_learners_turns_have_candidates_all_from_one_history() -> None:
    bundle, double, _ = talk()
    assert [(one.candidates[0].turn, len(one.candidates)) for one in bundle.sampled] == [(1, 3), (3, 3)]  # b opens
    assert {c.policy_version for one in bundle.sampled for c in one.candidates} == {2}
    for one in bundle.sampled:
        turn = one.candidates[0].turn
        asked = [r for r in double.requests if r.key in {c.id for c in one.candidates}]
        assert len(asked) == 3 and len({r.messages for r in asked}) == 1  # one prompt, three keys
        assert one.prompt == list(asked[0].messages)
        assert bundle.transcript.turns[turn].text in [c.text for c in one.candidates]
        assert sum(c.continued for c in one.candidates) == 1


def test_the_opening_is_trained_only_if_the_config_says_so() -> None:
    assert [one.candidates[0].turn for one in talk(opener="a")[0].sampled] == [2]
    assert [one.candidates[0].turn for one in talk("candidates.opening=true", opener="a")[0].sampled] == [0, 2]


def test_one_policy_that_plays_both_has_candidates_at_every_turn() -> None:
    bundle, _, _ = talk(learners=("a", "b"))
    assert [(one.candidates[0].turn, one.candidates[0].speaker) for one in bundle.sampled] == [(1, "a"), (2, "b"), (3, "a")]
    assert {c.speaker: c.policy_version for one in bundle.sampled for c in one.candidates} == {"a": 2, "b": 7}


def test_every_candidate_is_rated_and_has_a_wim_and_a_reward_of_its_own() -> None:
    bundle, _, events = talk()
    for one in bundle.sampled:
        ids = [c.id for c in one.candidates]
        assert [r.id for r in one.rewards] == [f"{name}/a-by-b/reward" for name in ids]
        assert sorted(r.id for r in one.ratings) == sorted(f"{name}/a-by-b/{c}" for name in ids for c in CATEGORIES)
        assert [w.candidate for w in one.wims] == ids
        for reward in one.rewards:
            assert reward.value == wim.reward(reward.rating, reward.wim, 0.5)
    told = [e for e in events if isinstance(e, CandidatesJudged)]
    assert [e.turn for e in told] == [1, 3]
    assert [e.rewards for e in told] == [[r.value for r in one.rewards] for one in bundle.sampled]


def test_best_goes_on_with_the_highest_reward_and_is_judged_before_the_next_turn() -> None:
    bundle, _, events = talk("candidates.continue_with=best")
    for one in bundle.sampled:
        values = [r.value or 0.0 for r in one.rewards]
        assert one.candidates[values.index(max(values))].continued
    seen = [e for e in events if isinstance(e, CandidatesJudged | TurnFinished)]
    order = [(e.kind, e.turn if isinstance(e, CandidatesJudged) else e.index) for e in seen]
    assert order[1:3] == [("candidates_judged", 1), ("turn_finished", 1)]  # judged, and only then is it the dialogue's turn
    assert talk("candidates.continue_with=first")[0].sampled[0].candidates[0].continued


@pytest.mark.parametrize(
    ("judge", "who"),
    [("partner", "b"), ("partner_reference", "base_b"), ("self", "a"), ("moving", "a"), ("reference", "base_a")],
)
def test_who_judges(judge: str, who: str) -> None:
    bundle, _, _ = talk(f"judging.judge={judge}")
    assert {r.judge for one in bundle.sampled for r in one.rewards} == {who}


def test_a_bundle_comes_back_from_its_line_as_it_was() -> None:
    bundle, _, _ = talk("reward.dialogue_weight=0.5")
    assert Bundle.model_validate_json(bundle.to_json()) == bundle


# -- scores -------------------------------------------------------------------------------------------------------------


def test_scores_are_the_rewards_unless_the_config_says_otherwise() -> None:
    bundle, _, _ = talk()
    config = dpo_config()
    wanted = {r.candidate: r.value for one in bundle.sampled for r in one.rewards}
    assert scores([bundle], config, None) == wanted
    flipped = scores([bundle], dpo_config("reward.sign=-1"), None)
    assert flipped == {name: -value for name, value in wanted.items()}  # type: ignore[operator]


def test_the_length_penalty_is_for_every_hundred_tokens() -> None:
    bundle, _, _ = talk(double=Double(tokens=50))
    plain, less = (scores([bundle], dpo_config(*o), None) for o in ((), ("reward.length_penalty=0.2",)))
    for name, value in plain.items():
        assert less[name] == pytest.approx((value or 0) - 0.1)  # 0.2 * 50 / 100


def test_random_rewards_ask_no_judge_and_are_the_same_again() -> None:
    bundle, double, _ = talk("reward.source=random")
    assert not [key for key in double.asked() if "-by-" in key]
    config = dpo_config("reward.source=random")
    found = scores([bundle], config, None)
    assert found == scores([bundle], config, None)
    assert len(set(found.values())) == 6 and all(-1 <= (v or 0) <= 1 for v in found.values())


def test_shuffled_texts_come_from_another_history() -> None:
    bundle, _, _ = talk("reward.wim=shuffled", "judging.z=1.0")
    config, embedder = dpo_config("reward.wim=shuffled", "judging.z=1.0"), BagOfWords()
    found = scores([bundle], config, embedder)
    first, second = bundle.sampled
    # z = 1: the score is the cosine with a text of the other history, one of three
    for one, other in ((first, second), (second, first)):
        for candidate in one.candidates:
            possible = [_cosine(embedder, candidate.text, w.text) for w in other.wims]
            assert any(found[candidate.id] == pytest.approx(value) for value in possible)
    assert found != {r.candidate: r.value for one in bundle.sampled for r in one.rewards}


def _cosine(embedder: BagOfWords, one: str, two: str) -> float:
    from expertchat.backends.base import EmbedRequest

    first, second = embedder.embed([EmbedRequest("", one), EmbedRequest("", two)])
    return wim.cosine(first.vector, second.vector)


def test_the_whole_dialogue_counts_for_the_replies_that_it_went_on_with() -> None:
    bundles = [talk("reward.dialogue_weight=0.5", name=name)[0] for name in ("r0001/c0000", "r0001/c0001")]
    whole = {b.id: b.whole[0].value or 0.0 for b in bundles}
    assert all(len(b.whole) == 1 and b.whole[0].turn is None for b in bundles)
    assert len(set(whole.values())) == 2
    mean = sum(whole.values()) / 2
    found = scores(bundles, dpo_config("reward.dialogue_weight=0.5"), None)
    candidates = [(b.id, c, r.value or 0.0) for b in bundles for one in b.sampled for c, r in zip(one.candidates, one.rewards, strict=True)]
    assert sum(c.continued for _, c, _ in candidates) == 4  # two turns of two dialogues
    for dialogue, candidate, alone in candidates:
        part = 0.5 * (whole[dialogue] - mean) if candidate.continued else 0.0
        assert found[candidate.id] == pytest.approx(alone + part)


def test_what_is_said_again_costs_a_penalty_whatever_the_words() -> None:
    said = "The queen lays nearly all eggs."
    replies = {
        0: f"{said} Wax is made by the worker bees. Good point.",
        1: "Eggs all lays the queen nearly. Eggs nearly all the queen lays.",
        2: "Good point.",
    }

    def reply(request: Any) -> str:
        if "/k" in request.key and "-by-" not in request.key:
            return replies[int(request.key[-1])]
        if request.key.endswith("/wim"):
            return "How honey is made."
        return said if "-by-" not in request.key else " 5"

    bundle, _, _ = talk("conversation.turns=2", double=Double(reply))
    (one,) = bundle.sampled
    # k0 repeats the partner's sentence; k1 has its words in another order (one bag of words), twice; k2 is too short to count
    assert list(repeats([bundle], BagOfWords(), 0.85).values()) == [1, 2, 0]
    plain = scores([bundle], dpo_config("conversation.turns=2"), BagOfWords())
    less = scores([bundle], dpo_config("conversation.turns=2", "reward.repeat_penalty=0.2"), BagOfWords())
    for candidate, number in zip(one.candidates, (1, 2, 0), strict=True):
        assert less[candidate.id] == pytest.approx((plain[candidate.id] or 0.0) - 0.2 * number)
    flipped = scores([bundle], dpo_config("conversation.turns=2", "reward.repeat_penalty=0.2", "reward.sign=-1"), BagOfWords())
    assert flipped == {name: -(value or 0.0) for name, value in less.items()}


# -- figures ------------------------------------------------------------------------------------------------------------


def test_figures_of_a_round() -> None:
    bundle, _, _ = talk(double=Double(tokens=20))
    config = dpo_config()
    found = scored([bundle], config.rules, None)
    pairing = make_pairs(choices([bundle], {score.id: score.value for score in found}, "partner"), config.pairs, 2)
    figures = round_figures([bundle], found, pairing)
    assert (figures["histories"], figures["candidates"], figures["length"]) == (2, 6, 20)
    assert figures["pairs"] == len(pairing.pairs) == 2 - pairing.ties
    assert figures["nulls"] == 0 and figures["parrot_rate"] == 0
    margins = [p.margin for p in pairing.pairs]
    assert figures["margin"] == pytest.approx(sum(margins) / len(margins))


def test_nulls_of_a_round_are_counted_by_their_kind() -> None:
    def reply(request: Any) -> str:
        if request.key.endswith("/wim") and "-by-" in request.key:
            return "I'm sorry, but I can't judge this." if "/k0/" in request.key else "The missing content is [7]."
        return " 7-8" if "-by-" in request.key and request.key.endswith("/depth") else " 7" if "-by-" in request.key else babble(request)

    bundle, _, _ = talk("judging.form=sampled", double=Double(reply))
    figures = round_figures([bundle], scored([bundle], dpo_config().rules, None), make_pairs([], dpo_config().pairs, 2))
    # Two histories of three candidates: six ratings of depth are ranges; k0's WIM is a refusal, those of k1 and k2 name no content.
    assert {name: n for name, n in figures.items() if name.startswith("fault_")} == {
        "fault_rating_range": 6, "fault_wim_no_content": 4, "fault_wim_refusal": 2,
    }  # fmt: skip
    assert figures["parrot_rate"] == 0


def test_limits_are_named_with_their_numbers() -> None:
    guards = dpo_config("guards.max_kl=10", "guards.max_length_ratio=2", "guards.min_distinct_2=0.3").guards
    # 50 tokens over the base's 20 are a ratio of 2.5
    found = alarms({"kl": 12.5, "length": 50.0, "distinct_2": 0.2, "null_rate": 0.1}, 20.0, guards)
    assert [str(one) for one in found] == [
        "KL to the base is 12.5, above the limit of 10",
        "reply length over the base's is 2.5, above the limit of 2",
        "distinct-2 is 0.2, below the limit of 0.3",
    ]
    assert alarms({"kl": None, "length": 39.0}, 20.0, guards) == []


def test_a_round_says_what_it_did_not_train_and_what_helps() -> None:
    figures = {"cut_rate": 0.25, "altered": 2, "skipped": 1, "steps": 3}
    cut, altered, skipped = remarks(figures, "b")
    assert cut.startswith("25% of the replies were cut at the token limit") and "experts.b.decoding.reply.max_new_tokens" in cut
    assert altered.startswith("2 replies are not trained on") and skipped.startswith("1 of 4 steps were not made")
    assert remarks({"cut_rate": 0.24, "altered": 0, "skipped": 0, "steps": 3}, "b") == remarks({"cut_rate": None}, "b") == []


def test_candidates_say_whether_their_text_was_altered() -> None:
    texts = iter(["Fine.", "Now <|user|> speaks.", "\u200bHidden."] * 9)
    bundle, _, _ = talk(double=Double(reply=lambda request: next(texts) if "/k" in request.key.rpartition("t0")[2] else "7"))
    assert {c.text: c.altered for c in bundle.sampled[0].candidates} == {
        "Fine.": None, "Now ‹¦user¦› speaks.": "markup", "Hidden.": "markup",
    }  # fmt: skip
def tripped(config: Any, *rounds: dict[str, float]) -> list[list[str]]:
    """The guards for which the rate is lowered, round by round."""
    before, found = dict[str, float](), []
    for figures in rounds:
        lowering, before = to_lower(alarms(figures, 20.0, config), before, config.worse)
        found.append([one.guard for one in lowering])
    return found


def test_a_reply_for_both_speakers_is_cut_and_a_blank_one_has_no_score() -> None:
    """Of three candidates one goes on for the partner, one begins with the partner's label, one is whole: no two are left for a pair."""
    texts = iter(["A: Bees dance.\nB: And the sun?", "B: And the sun?", "Bees dance in eights."] * 9)
    for source in ("judge", "random"):
        double = Double(lambda request: next(texts) if request.key[-3:-1] == "/k" else babble(request))
        bundle, _, _ = talk(f"reward.source={source}", "candidates.continue_with=random", double=double)
        one = bundle.sampled[0]
        assert [(c.text, c.beyond, c.altered) for c in one.candidates] == [
            ("Bees dance.", "B: And the sun?", "beyond"), ("", "B: And the sun?", "beyond"), ("Bees dance in eights.", None, None),
        ]  # fmt: skip
        assert not one.candidates[1].continued  # somebody who says something goes on
        values = scores([bundle], dpo_config(f"reward.source={source}"), None)
        assert values[one.candidates[1].id] is None and values[one.candidates[2].id] is not None
        pairing = make_pairs(choices([bundle], values, "b"), dpo_config().pairs, 2)
        # Two histories: a blank one is null in each, one that went on for the partner is left out as altered, and one is not enough.
        assert (len(pairing.pairs), pairing.nulls, pairing.altered) == (0, 2, 2)
        figures = round_figures([bundle], [], pairing)
        assert (figures["beyond"], figures["blank"]) == (4, 2)
        assert any("4 replies went on for the partner" in text for text in remarks(figures, "a"))


def test_a_figure_that_stays_over_its_limit_lowers_the_rate_once() -> None:
    guards = dpo_config("guards.max_kl=10", "guards.action=lower", "guards.worse=1.5").guards
    # 12 trips; 13 to 17.9 are less than 1.5 times 12; 18 is; then 27 would be the next
    kl = [9.0, 12.0, 13.0, 17.9, 18.0, 20.0, 26.9]
    assert tripped(guards, *({"kl": value} for value in kl)) == [[], ["max_kl"], [], [], ["max_kl"], [], []]
    # within the limit in between: it trips anew
    assert tripped(guards, {"kl": 12.0}, {"kl": 9.0}, {"kl": 12.0}) == [["max_kl"], [], ["max_kl"]]


def test_a_share_that_falls_is_worse_when_it_is_smaller() -> None:
    guards = dpo_config("guards.min_distinct_2=0.4", "guards.worse=2.0").guards
    # 0.3 trips; 0.16 is more than the half of it, 0.15 is not; at 0 it stays
    assert tripped(guards, *({"distinct_2": v} for v in (0.3, 0.16, 0.15, 0.0, 0.0))) == [
        ["min_distinct_2"], [], ["min_distinct_2"], ["min_distinct_2"], [],
    ]  # fmt: skip


def test_the_rate_is_not_lowered_for_what_it_has_nothing_to_do_with() -> None:
    guards = dpo_config("guards.max_null_rate=0.1", "guards.max_parrot_rate=0.1").guards
    found = alarms({"null_rate": 0.9, "parrot_rate": 0.9}, 20.0, guards)
    assert len(found) == 2 and to_lower(found, {}, 1.25) == ([], {})


# -- shuffled texts, parts of a score, rewards by a program ------------------------------------------------------------------------------


def test_one_history_alone_has_no_other_whose_wim_could_be_shuffled_in() -> None:
    bundle, _, _ = talk("reward.wim=shuffled", "judging.z=1.0")
    bundle = bundle.model_copy(update={"sampled": bundle.sampled[:1]})
    found = scored([bundle], dpo_config("reward.wim=shuffled", "judging.z=1.0").rules, BagOfWords())
    assert [score.value for score in found] == [None] * 3
    assert all(score.problem and "another history" in score.problem for score in found)


def test_a_shuffled_wim_is_of_another_topic_where_there_is_one() -> None:
    """Four histories: two of one dialogue, one of another on its topic, one of a third topic."""
    bundle, _, _ = talk("reward.wim=shuffled", "judging.z=1.0")
    candidate, response = bundle.sampled[0].candidates[0], bundle.sampled[0].wims[0]
    texts = [(i, candidate.model_copy(update={"transcript": name}), response.model_copy(update={"text": f"{i}"}))
             for i, name in enumerate(("c0", "c0", "c1", "c2"))]  # fmt: skip
    topics = ["tides", "tides", "tides", "bees"]
    found = [[_another(texts, topics, at, step) for step in (1, 2, 3)] for at in range(4)]
    assert [{one.text for one in own if one} for own in found] == [{"3"}, {"3"}, {"3"}, {"0", "1", "2"}]
    alike = [_another(texts[:3], ["tides"] * 3, at, 1) for at in range(3)]
    assert [one.text for one in alike if one] == ["2", "2", "0"]  # of another dialogue
    assert _another(texts[:2], ["tides"] * 2, 0, 1).text == "1" and _another(texts[:1], ["tides"], 0, 1) is None  # type: ignore[union-attr]


def test_every_score_says_what_it_comes_from() -> None:
    bundle, _, _ = talk(double=Double(tokens=50))
    found = scored([bundle], dpo_config("reward.length_penalty=0.2", "reward.sign=-1").rules, None)
    rewards = {r.candidate: r.value for one in bundle.sampled for r in one.rewards}
    for score in found:
        assert (score.source, score.sign, score.length_penalty, score.repeat_penalty) == ("judge", -1, pytest.approx(0.1), 0.0)
        assert score.reward == rewards[score.id] and score.value == pytest.approx(-((score.reward or 0) - 0.1))
    assert [score.id for score in found] == [c.id for one in bundle.sampled for c in one.candidates]


SAID = {0: "Is it so? Why?", 1: "It is so. Or is it?", 2: "It is so."}


def asking(request: Any) -> str:
    return SAID[int(request.key[-1])] if "/k" in request.key else "Tell me more."


@pytest.mark.parametrize(("sign", "best"), [(1, "Is it so? Why?"), (-1, "It is so.")])
def test_a_program_rewards_without_asking_a_judge(sign: int, best: str) -> None:
    changes = ("conversation.turns=2", "reward=questions", f"reward.sign={sign}", "candidates.continue_with=best", "evaluation=reward")
    bundle, double, events = talk(*changes, double=Double(asking))
    assert not [key for key in double.asked() if "-by-" in key]
    found = scored([bundle], dpo_config(*changes).rules, None)
    # 2 of 2, 1 of 2 and 0 of 1 sentences ask: 1, 0 and -1 in the range of a reward
    assert [score.measured for score in found] == [1.0, 0.5, 0.0]
    assert [score.value for score in found] == [sign * value for value in (1.0, 0.0, -1.0)]
    assert {c.text for one in bundle.sampled for c in one.candidates if c.continued} == {best}
    assert [e.rewards for e in events if isinstance(e, CandidatesJudged)] == [[sign * 1.0, 0.0, sign * -1.0]]
    pairing = make_pairs(choices([bundle], {s.id: s.value for s in found}, "questions"), dpo_config(*changes).pairs, 2)
    assert {pair.chosen[0]["content"] for pair in pairing.pairs} == {best}
    figures = round_figures([bundle], found, pairing)
    assert figures["measured"] == pytest.approx(0.5) and figures["reward_mean"] == 0


def test_an_empty_reply_has_no_measure() -> None:
    bundle, _, _ = talk("reward=length", "evaluation=reward", double=Double(lambda request: "..." if "/k" in request.key else "Go on."))
    found = scored([bundle], dpo_config("reward=length", "evaluation=reward").rules, None)
    assert {(score.value, score.measured, score.problem) for score in found} == {(None, None, "the reply has no words")}


def test_what_became_of_candidates_is_said_with_the_commonest_first() -> None:
    rounds = [{"histories": 4, "candidates": 8, "ties": 1, "equal": 2, "nulls": None}, {"histories": 4, "candidates": 8, "equal": 3}]
    assert why_nothing(rounds) == "8 histories with 16 candidates: 5 times the same text, 1 ties (margin below pairs.min_margin)"
    assert why_nothing([]).endswith("no candidates")
