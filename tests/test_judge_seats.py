"""More than two experts, by any name: each is judged by each other or in a ring, and what a judge writes is read with their names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from expertchat.backends.base import ModelInfo
from expertchat.events import AnyEvent, RatingGiven, RewardGiven, WimGiven
from expertchat.experts.registry import make_expert
from expertchat.judging import faults, wim
from expertchat.judging.judge import judge_dialogue, record_counts
from expertchat.judging.pairwise import Duel
from expertchat.judging.rating import judge_prompt, parse_rating
from expertchat.judging.requests import analysis_request
from expertchat.judging.view import Judgement
from expertchat.records import ExpertRef, Transcript, Turn
from expertchat.talk.scheduler import Scheduler
from expertchat.text.wordings import Prompts
from tests import tiny
from tests.judged import TEXTS, answers, judging_config
from tests.scripted import BagOfWords, Double, config_of

NAMES = ("ann", "bob_2", "cy")
TALK = tuple(Turn(speaker=name, text=text) for name, text in zip(NAMES, TEXTS, strict=True))


def judge(names: tuple[str, ...], **values: Any) -> tuple[list[str], Double]:
    """The records' ids in the order in which they are made, and the backend that answered for all."""
    ref = ExpertRef(family="world", model="double")
    turns = [Turn(speaker=name, text=text) for name, text in zip(names, TEXTS, strict=True)]
    talk = Transcript(id="c0003", topic="bees", experts=dict.fromkeys(names, ref), turns=turns, seed=0, stop_reason="turns")
    double, events = Double(answers()), list[AnyEvent]()
    model = config_of().experts["a"]
    experts = {name: make_expert(name, model, ModelInfo("double", 100_000), names) for name in (*names, "third")}
    flow = judge_dialogue(talk, judging_config(**values), experts, events.append)
    Scheduler({**dict.fromkeys(experts, double), "embedder": BagOfWords()}, 64).run([flow])
    found = []
    for event in events:
        if isinstance(event, RatingGiven):
            found.append(event.rating.id)
        elif isinstance(event, WimGiven | RewardGiven):
            found.append(event.wim.id if isinstance(event, WimGiven) else event.reward.id)
    return found, double


def whole(ids: list[str]) -> list[str]:
    return [name.removesuffix("/reward").removeprefix("c0003/") for name in ids if name.endswith("/reward")]


def test_each_of_three_is_judged_by_both_others() -> None:
    ids, double = judge(("a", "b", "c"))
    assert whole(ids) == ["a-by-b", "a-by-c", "b-by-a", "b-by-c", "c-by-a", "c-by-b"]
    # 6 judgements of 2 categories: 12 ratings, 6 WIM responses, 6 rewards.
    assert record_counts(judging_config(), "abc", "abc") == (12, 6, 6) and len(ids) == len(set(ids)) == 24
    assert {request.key.split("/")[1] for request in double.requests} == set(whole(ids))


def test_in_a_ring_each_is_judged_by_the_next() -> None:
    ids, _ = judge(NAMES, partners="ring", per_turn=True)
    assert whole(ids) == ["ann-by-bob_2", "bob_2-by-cy", "cy-by-ann", "t00/ann-by-bob_2", "t01/bob_2-by-cy", "t02/cy-by-ann"]
    assert record_counts(judging_config(partners="ring", per_turn=True), NAMES, NAMES) == (12, 6, 6)
    assert whole(judge(NAMES, judge="third")[0]) == ["ann-by-third", "bob_2-by-third", "cy-by-third"]


def test_a_judge_of_several_is_told_all_names_and_shown_them_in_capitals() -> None:
    prompts = tiny.prompts()
    judgement = Judgement("bees", TALK, "bob_2", None, {"depth": "how deep"}, NAMES)
    shown = judge_prompt(prompts, judgement)
    assert "Several experts, ANN, BOB_2 and CY, discussed bees." in shown and "Judge expert BOB_2 from 1" in shown
    assert "ANN: Bees dance to show where food is. (1)" in shown and "BOB_2: Wax is made by glands. [2]" in shown
    of_two = Judgement("bees", TALK[:1], "ann", None, {}, ("ann", "bob_2"))
    assert judge_prompt(prompts, of_two) == judge_prompt(prompts.model_copy(update={"judge_several": ""}), of_two)


def test_a_judge_without_that_wording_is_asked_as_of_two() -> None:
    model = config_of().experts["a"]
    expert = make_expert("cy", model, ModelInfo("double", 100_000), NAMES)
    request = analysis_request(expert, "k", Judgement("bees", TALK, "ann", None, {"depth": ""}, NAMES))
    assert "expert ANN" in request.messages[-1].content


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("The answers of expert CY do not mention wax, glands or where the hive is kept in winter.", "wrong_expert"),
        ("The answers of expert BOB_2 do not mention wax, glands or where the hive is kept in winter.", None),
        ("Expert ANN lacks what BOB_2 has: wax, glands and where the hive is kept in winter.", None),  # it names the judged one
        ("CY: The hive is warm in winter. ANN: Yes, bees heat it.", None),  # on one line: no transcript
        ("CY: The hive is warm in winter.\nANN: Yes, bees heat it.", "echo"),
        ("The missing content is in the answers of BOB_2 and CY.", "no_content"),
    ],
)
def test_faults_know_the_names(text: str, fault: str | None) -> None:
    found = faults.of_wim(text, subject="bob_2", prompt="", reference=" ".join(TEXTS), categories=("depth",), seats=NAMES)
    assert (found.kind if found else None) == fault


def test_the_empty_form_and_a_rating_know_the_names() -> None:
    prompts = tiny.prompts()
    text = "Nothing is missing in the answers of expert Cy."
    assert wim.is_empty(text, prompts, seats=NAMES) and not wim.is_empty(text, prompts)
    assert parse_rating(" 8 for expert BOB_2", "depth", subject="bob_2", seats=NAMES).value == 8
    assert parse_rating(" 8 for expert CY", "depth", subject="bob_2", seats=NAMES).value is None
    assert parse_rating("I give expert bob_2 an 8", "depth", subject="bob_2", seats=NAMES).value == 8


def test_a_comparison_tells_the_partners_apart() -> None:
    duel = Duel("k", "h", "bees", TALK, "ann", "One queen.", "Partner CY: no.")
    assert duel.render("base").split("\n") == [
        "Expert: Bees dance to show where food is.",
        "Partner BOB_2: Wax is made by glands.",
        "Partner CY: A hive has one queen.",
        "Reply A: One queen.",
        "Reply B: {Partner CY} no.",
    ]


def test_judges_of_both_share_the_transcript_where_nothing_in_front_of_it_names_the_judged() -> None:
    path = Path(__file__).parents[1] / "conf" / "prompts" / "shared.yaml"
    own = {name: text for name, text in yaml.safe_load(path.read_text("utf-8")).items() if name != "defaults"}
    shared = Prompts.model_validate(tiny.prompts().model_dump() | own)
    talk = (Turn(speaker="a", text="Bees dance. Why?"), Turn(speaker="b", text="To show food."))
    both = [judge_prompt(shared, Judgement("bees", talk, seat, None, {"depth": "how deep"})) for seat in "ab"]
    begun, asked = zip(*(text.rsplit("</transcript>", 1) for text in both), strict=True)
    assert begun[0] == begun[1] and "A: Bees dance. [1] Why? [2]\nB: To show food. [3]\n" in begun[0]
    assert "Judge expert A alone" in asked[0] and "Judge expert B alone" in asked[1]
    standard = [judge_prompt(tiny.prompts(), Judgement("bees", talk, seat)).split("\n<transcript>\n")[0] for seat in "ab"]
    assert standard[0] != standard[1]  # which says first who is judged
