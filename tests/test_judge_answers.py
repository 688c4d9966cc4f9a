"""Answers of a judge that are none, or are not what was asked for: what becomes of each."""

from __future__ import annotations

import math

import pytest

from expertchat.judging.answers import parrot_rate
from expertchat.judging.faults import copies
from expertchat.judging.judge import record_counts
from expertchat.records import Reward, Wim
from tests.judged import TEXTS, answers, judge, judging_config, transcript

# -- answers that are none ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "problem"),
    [("", "empty answer"), (" high", "no number"), (" 11", "'11' is not in 1..10"), (" 7.5", "'7.5' is not a whole number from 1 to 10")],
)
def test_an_unreadable_rating_is_null_with_its_raw_text(text: str, problem: str) -> None:
    records, double = judge(judging_config(), answers(rating=text))
    rating, reward = records["c0003/a-by-b/depth"], records["c0003/a-by-b/reward"]
    assert (rating.value, rating.expected, rating.raw, rating.problem) == (None, None, text, problem)
    assert reward.rating is None and reward.value is None and reward.problem == "no number for depth, clarity"
    wim = next(r for r in double.requests if r.key == "c0003/a-by-b/wim")
    assert "Depth: none" in wim.messages[-2].content


def test_both_forms_keep_the_one_that_worked() -> None:
    records, _ = judge(judging_config(form="both"), answers(rating=" ?"))
    rating = records["c0003/a-by-b/depth"]
    assert rating.value is None and rating.problem == "no number" and rating.number == rating.expected is not None


def test_no_probability_at_all_is_null() -> None:
    records, _ = judge(judging_config(form="expected"), answers(), lambda request: [-math.inf] * 10)
    rating = records["c0003/a-by-b/depth"]
    assert (rating.expected, rating.fault, rating.problem) == (None, "low_mass", "no option has a probability")
    assert rating.raw.startswith("-inf")


def test_expected_keeps_the_log_probabilities_as_raw() -> None:
    records, _ = judge(judging_config(form="expected"), answers(), lambda request: [math.log(0.1)] * 10)
    rating = records["c0003/a-by-b/depth"]
    assert rating.expected == pytest.approx(5.5) and rating.raw == " ".join(["-2.3026"] * 10)  # ln 0.1 = -2.3026


@pytest.mark.parametrize("text", ["Nothing is missing.", "nothing is missing", "None."])
def test_an_empty_wim_scores_by_config(text: str) -> None:
    records, _ = judge(judging_config(wim={"empty_score": 0.25}), answers(wim=text))
    wim, reward = records["c0003/a-by-b/wim"], records["c0003/a-by-b/reward"]
    assert (wim.cosine, wim.empty, wim.problem) == (0.25, True, None)
    assert reward.value == pytest.approx(0.5 * 1.5 / 4.5 + 0.5 * 0.25)


def test_a_blank_wim_is_no_answer_and_not_an_empty_one() -> None:
    records, _ = judge(judging_config(), answers(wim=" \n\u200b"))
    wim = records["c0003/a-by-b/wim"]
    assert (wim.cosine, wim.empty, wim.problem) == (None, False, "empty answer")
    assert records["c0003/a-by-b/reward"].problem == "no number for WIM score"


def test_a_parroting_wim_is_null_and_shows_its_cosine() -> None:
    records, _ = judge(judging_config(), answers(wim=f"{TEXTS[0]} {TEXTS[2]}"))
    wim = records["c0003/a-by-b/wim"]
    assert wim.cosine is None and wim.problem == "parrots the reply (cosine 1.000)"
    assert records["c0003/b-by-a/wim"].problem is None  # the same text is no copy of what b said


LOOP = "This is a possible answer. " * 8


def test_nothing_is_built_on_an_analysis_at_fault() -> None:
    records, double = judge(judging_config(form="both"), answers(analysis=LOOP), prompts="standard")
    assert [key for key in double.asked() if not key.endswith("/analysis")] == []
    depth, wim = records["c0003/a-by-b/depth"], records["c0003/a-by-b/wim"]
    assert (depth.value, depth.expected, depth.fault, depth.problem) == (None, None, "loop", "the analysis repeats itself")
    assert (wim.cosine, wim.fault, wim.analysis) == (None, "loop", LOOP.strip())
    assert records["c0003/a-by-b/reward"].value is None


def test_labels_in_a_trained_form_are_no_prose() -> None:
    records, _ = judge(judging_config(), answers(analysis=LOOP))  # the embedded experts' wordings begin the analysis with "Points:"
    assert records["c0003/a-by-b/depth"].value == 7


@pytest.mark.parametrize("prompts", ["world", "standard"])
def test_an_analysis_that_never_stops_thinking_is_null(prompts: str) -> None:
    records, _ = judge(judging_config(), answers(analysis="<think>Well, 7 or 8"), prompts=prompts)
    assert {r.fault for r in records.values() if not isinstance(r, Reward)} == {"thinking"}


def test_closed_thoughts_are_left_out_everywhere() -> None:
    reply = answers(rating="<think>9?</think> 7", wim="<think>hm</think>How honey is made.", analysis="<think>hm</think> Clear.")
    records, _ = judge(judging_config(), reply, prompts="standard")
    assert records["c0003/a-by-b/depth"].value == 7
    wim = records["c0003/a-by-b/wim"]
    assert (wim.text, wim.analysis, wim.cosine) == ("How honey is made.", "Clear.", pytest.approx(1 / math.sqrt(48)))


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("10/10. [17] Depth: 1 Clarity: 1", "rates"),
        (LOOP, "loop"),
        ("I'm sorry, but I can't help with that.", "refusal"),
        ("Nothing is missing. The answers cover bees and wax.", "unclear"),
        (f"{TEXTS[0]} {TEXTS[2]}", "parrot"),
        ("<think>hm", "thinking"),
        ("", "empty"),
    ],
)
def test_a_wim_response_at_fault_has_no_score(text: str, fault: str) -> None:
    records, _ = judge(judging_config(), answers(wim=text))
    wim = records["c0003/a-by-b/wim"]
    assert (wim.cosine, wim.empty, wim.fault, bool(wim.problem)) == (None, False, fault, True)


def test_what_ends_with_the_empty_form_is_not_empty() -> None:
    records, _ = judge(judging_config(), answers(wim="Ice feedbacks are absent. Apart from that, nothing is missing."))
    wim = records["c0003/a-by-b/wim"]
    assert wim.cosine is not None and wim.cosine < 0.5 and not wim.empty  # it was 1.0, the highest score


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
@pytest.mark.parametrize("at", [0, 4, 9])
def test_one_probability_that_is_no_number_leaves_no_rating(wrong: float, at: int) -> None:
    logprobs = [math.log(0.1)] * 10
    logprobs[at] = wrong
    records, _ = judge(judging_config(form="expected"), answers(), lambda request: logprobs)
    rating = records["c0003/a-by-b/depth"]
    assert (rating.expected, rating.fault) == (None, "not_finite") and rating.problem == "the probability of an option is not a number"


def test_a_number_at_the_token_limit_may_have_gone_on() -> None:
    records, _ = judge(judging_config(), answers(rating=" 1"), finish="length")
    rating = records["c0003/a-by-b/depth"]
    assert (rating.value, rating.fault) == (None, "cut")


def test_copies() -> None:
    reply = "bees dance in figures of eight to show their sisters where the food is"
    assert copies(reply, "They dance in figures of eight to show their sisters, yes.")  # 9 of 11 words in one run
    assert not copies(reply, "bees dance in figures")  # too short to be a copy: naming a thing takes words too
    assert not copies(reply, "dance in figures of eight to show their " + "and much that was never said before at all " * 2)  # 8 of 27
    assert not copies(reply, "is food the where sisters their show to eight of figures in dance bees")


@pytest.mark.parametrize("nothing", ["", " \n", "...", "😊 👍🏽", "***"])
@pytest.mark.parametrize("form", ["expected", "sampled", "both"])
def test_who_has_said_nothing_is_not_judged_and_nothing_is_asked(nothing: str, form: str) -> None:
    config = judging_config(form=form)
    records, double = judge(config, answers(), talk=transcript(nothing, "Wax is made by glands.", nothing))
    mine = {name: record for name, record in records.items() if "/a-by-b" in name}
    # Two ratings, WIM and reward, as of every judgement: counting and resuming need them all.
    assert sorted(mine) == [f"c0003/a-by-b/{name}" for name in ("clarity", "depth", "reward", "wim")]
    assert len(records) == sum(record_counts(config, "ab", "aba"))
    for name in ("depth", "clarity"):
        rating = mine[f"c0003/a-by-b/{name}"]
        assert (rating.number, rating.fault, rating.problem, rating.mass) == (None, "blank", "the judged text is blank", None)
    assert (mine["c0003/a-by-b/wim"].cosine, mine["c0003/a-by-b/wim"].fault) == (None, "blank")
    assert mine["c0003/a-by-b/reward"].value is None and mine["c0003/a-by-b/reward"].problem.startswith("no number for depth")
    assert double.asked() and not [key for key in double.asked() if "/a-by-b" in key]
    assert records["c0003/b-by-a/reward"].value is not None  # the other one has spoken
    again, double = judge(config, answers(), talk=transcript(nothing, "Wax is made by glands.", nothing), done=records)
    assert again == records and not double.asked()


def test_who_has_said_something_once_is_judged() -> None:
    records, _ = judge(judging_config(), answers(), talk=transcript("", "Wax.", "Bees dance."))
    assert records["c0003/a-by-b/depth"].value == 7
    per_turn, double = judge(judging_config(per_turn=True), answers(), talk=transcript("", "Wax.", "Bees dance."))
    assert per_turn["c0003/t00/a-by-b/depth"].fault == "blank" and per_turn["c0003/t02/a-by-b/depth"].value == 7
    assert not [key for key in double.asked() if "/t00/" in key]


def test_a_prompt_over_the_judges_context_is_null_and_not_asked() -> None:
    long = transcript(" ".join(f"w{i}" for i in range(200)), "Wax.")
    records, double = judge(judging_config(), answers(), talk=long, context=150)
    assert not double.requests
    assert records["c0003/a-by-b/depth"].problem.endswith("and the answer up to 20, but the context holds 150")
    assert records["c0003/a-by-b/wim"].cosine is None and records["c0003/a-by-b/reward"].value is None


# -- judged text is data ------------------------------------------------------------------------------------------------


# -- how much of the probability the options hold ---------------------------------------------------------------------------


def test_an_expected_rating_over_little_probability_is_null() -> None:
    # Each of the ten options has .03: .3 of the probability. The mean over them would be 5.5, and says nothing.
    records, _ = judge(judging_config(form="expected"), answers(), lambda request: [math.log(0.03)] * 10)
    rating, reward = records["c0003/a-by-b/depth"], records["c0003/a-by-b/reward"]
    assert rating.expected is None and rating.number is None and rating.mass == pytest.approx(0.3)
    assert rating.problem == "the ten options hold 30 % of the probability, less than judging.min_mass=0.5"
    assert reward.value is None
    records, _ = judge(judging_config(form="expected", min_mass=0.25), answers(), lambda request: [math.log(0.03)] * 10)
    rating = records["c0003/a-by-b/depth"]
    assert rating.expected == pytest.approx(5.5) and rating.mass == pytest.approx(0.3) and rating.problem is None


def test_parrots_are_counted_by_their_kind() -> None:
    def response(**values: str) -> Wim:
        return Wim(id="k", transcript="c", judge="b", subject="a", text="x", **values)  # type: ignore[arg-type]

    parrot, fine = response(fault="parrot", problem="parrots the reply (cosine 0.991)"), response()
    other = response(fault="loop", problem="parrots, in words of its own: repeats itself")
    assert parrot_rate([parrot, fine, other, fine]) == 0.25
    assert parrot_rate([]) is None
    assert parrot_rate([parrot, response(problem="parrots the reply (cosine 0.991)")]) is None  # of a version that named no kinds
