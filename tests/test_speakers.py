"""Replies that go on as both speakers are cut where the other one's turn begins; what only looks like it stays whole."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from expertchat.backends.base import GenerateRequest
from expertchat.experts.speakers import Speakers
from expertchat.folder.reader import RunReader
from expertchat.records import Turn
from expertchat.views.model import RunState
from expertchat.views.words import remarks, summary_lines
from expertchat.world.facts import load as load_world
from expertchat.world.simulator import Simulator
from tests.scripted import Collect, Double, babble, config_of, run
from tests.test_conversation import by_turn, dialogue, experts, hold

A = Speakers("A", ["B"])

# (the reply of A, what is A's own, how what was cut begins)
BOTH = [
    ("A: Bees dance.\nB: And the sun?\nA: Yes.", "Bees dance.", "B: And"),
    ("Bees dance in eights.\nB: And what does the angle say?", "Bees dance in eights.", "B: And"),
    ("Bees dance.\n\nB: Really?", "Bees dance.", "B: Really?"),
    ("A: Bees dance. B: And the sun? A: Yes.", "Bees dance.", "B: And"),
    ("Bees dance.\n**B:** And the sun?", "Bees dance.", "**B:** And"),
    ("Bees dance.\n**B**: And the sun?", "Bees dance.", "**B**: And"),
    ("Bees dance.\n[B]: And the sun?", "Bees dance.", "[B]: And"),
    ("Bees dance.\nExpert B: And the sun?", "Bees dance.", "Expert B:"),
    ("Bees dance. Expert B: And the sun?", "Bees dance.", "Expert B:"),
    ("Expert A: Bees dance.\nExpert B: And the sun?", "Bees dance.", "Expert B:"),
    ("**Expert A:** Bees dance.\n\n**Expert B:** And the sun?", "Bees dance.", "**Expert B:**"),
    ("Bees dance.\nEXPERT B: And the sun?", "Bees dance.", "EXPERT B:"),
    ("Bees dance.\nSpeaker B: And the sun?", "Bees dance.", "Speaker B:"),
    ("Bees dance.\nUser: And what does the angle say?", "Bees dance.", "User:"),
    ("Bees dance.\nuser: And what does the angle say?", "Bees dance.", "user:"),
    ("Bees dance.\n\nHuman: And the sun?\n\nAssistant: Yes.", "Bees dance.", "Human:"),
    ("Assistant: Bees dance.\nHuman: And the sun?", "Bees dance.", "Human:"),
    ("### Assistant: Bees dance.\n### Human: And the sun?", "Bees dance.", "### Human:"),
    ("Bees dance.\nAssistant: They do it in eights.", "Bees dance.", "Assistant:"),
    ("Bees dance.\nFriend: That is nice to hear.", "Bees dance.", "Friend:"),
    ("Me: Bees dance.\nYou: And the sun?", "Bees dance.", "You:"),
    ("Bees dance.\nPartner: And the sun?", "Bees dance.", "Partner:"),
    ("蜜蜂跳舞。\n用户：太阳呢？", "蜜蜂跳舞。", "用户："),
    ("蜜蜂跳舞。\nB：太阳呢？", "蜜蜂跳舞。", "B："),
    ("专家A：蜜蜂跳舞。\n专家B：太阳呢？", "蜜蜂跳舞。", "专家B："),
    ("Bienen tanzen.\nExperte B: Und die Sonne?", "Bienen tanzen.", "Experte B:"),
    ("Las abejas bailan.\nUsuario: ¿Y el sol?", "Las abejas bailan.", "Usuario:"),
    ("Jane: Bees dance.\nMatt: And the sun?\nJane: Yes.", "Jane: Bees dance.", "Matt:"),
    ("Bees dance. Human: And the sun? Assistant: Yes.", "Bees dance.", "Human: And"),
    ("Bees dance.\nB (curious): And the sun?", "Bees dance.", "B (curious):"),
    ("Bees dance.\n‹¦im_start¦›user\nAnd the sun?", "Bees dance.", "‹¦im_start¦›user"),
    ("Bees dance.\n{INST} And the sun? {/INST}", "Bees dance.", "{INST} And"),
    # What begins with the partner's label is the partner's: nothing is left.
    ("B: And the sun?", "", "B: And"),
    ("B: And the sun?\nA: Yes, they see it.", "", "B: And"),
    ("Expert B: Thank you. And the sun?", "", "Expert B:"),
    ("User: And what does the angle say?", "", "User:"),
    ("Bees dance.\nB:", "Bees dance.", "B:"),  # and there it ended, or was cut
]

OWN = [
    ("A: Bees dance in eights.", "Bees dance in eights."),
    ("**A:** Bees dance.", "Bees dance."),
    ("Expert A: Bees dance.", "Bees dance."),
    ("Assistant: Bees dance.", "Bees dance."),
    ("AI: Bees dance.", "Bees dance."),
    ("A：蜜蜂跳舞。", "蜜蜂跳舞。"),
]

ALONE = [
    "Bees dance in figures of eight.",
    "There are two kinds: A: apples, B: bananas.",
    "A: apples, B: bananas",
    "A: apples\nB: bananas",
    "Which is right?\nA: wax is made by glands.\nB: wax is gathered.\nC: wax is bought.",
    "Q: What is wax made by?\nA: It is made by glands of the bee.",
    "Question: What is wax?\nAnswer: It is made by glands.\nB: none of the above is right.",
    "Q: What are tides?\nA: The rise and fall of the sea.\nQ: What causes them?\nA: The Moon, and the Sun.",
    "Question: What is wax?\nAnswer: It is made by glands.\nQuestion: And honey?\nAnswer: It is made of nectar.",
    "Myth: Bulls hate red.\nFact: They cannot see it.\nMyth: Bats are blind.\nFact: They see well.",
    "Problem: Panels lose power in the heat.\nSolution: Mount them with air behind.\nProblem: Night.\nSolution: Add a battery.",
    "**Before:** They ploughed twice.\n**After:** They plough once.\n**Before:** They sprayed.\n**After:** They mulch.",
    "Pro: It is cheap.\nCon: It is slow.\nPro: It is quiet.",
    "Cause: The Moon pulls.\nEffect: The sea rises.\nCause: The Earth turns.\nEffect: It falls again.",
    "There are only these ways to heat a house:\nA: A heat pump, which costs more.\nB: A gas boiler, which is cheap to buy.\nI take A.",
    "The ratio A:B is 2:1, and B:A is 1:2.",
    "Step A: mix the flour.\nStep B: let it rise for an hour.",
    "Plan A: go by train. Plan B: stay at home and read.",
    "Vitamin B: it is found in grain. Vitamin C: it is found in fruit.",
    "De: Juan Pérez\nA: María López, que vive en Madrid.\nAsunto: abejas",
    "Human: 46 chromosomes\nDog: 78 chromosomes\nBee: 32 chromosomes.",
    "There are roles.\nAdmin: may write everything.\nUser: may only read what is there.",
    "There are roles. Admin: may write everything. User: may only read what is there.",
    "The token ‹¦user¦› begins a message, and {INST} does so too.",
    "As expert B said: the angle tells the direction.",
    "I asked expert B: does the angle tell the direction?",
    "You: the best of all partners",
    "Note: bees dance. Warning: they sting.",
    "The human: a short history of a species that walks.",
    "b: is the second letter, and it is small.",
    "Hepatitis B: a virus of the liver. It is old.",
    "Pros: it is cheap.\nCons: it is slow, and it smells.",
    "Bees: they dance.\nWasps: they do not dance at all.",
    "At 12: 30 we met. B: what a name for a band!",
    "蜜蜂：会跳舞。\n黄蜂：不会跳舞。",
    "Das Verhältnis A: B ist zwei zu eins.",
    "The blood groups are A, B, AB and O. B is rare.",
    "First, A; second, B. That is all.",
    "Is it A or B? B, I think.",
    "Say 'User: hello' to begin the program.",
    "Write to: B. Smith, who keeps bees.",
]  # fmt: skip


@pytest.mark.parametrize(("text", "own", "beyond"), BOTH)
def test_the_others_turn_is_cut_off(text: str, own: str, beyond: str) -> None:
    said, cut = A.apart(text)
    assert said == own and cut.startswith(beyond)
    assert text.endswith(cut)  # nothing of it is lost


@pytest.mark.parametrize(("text", "own"), OWN)
def test_the_speakers_own_label_is_left_out_and_nothing_cut(text: str, own: str) -> None:
    assert A.apart(text) == (own, "")


@pytest.mark.parametrize("text", ALONE)
def test_what_only_looks_like_it_stays_whole(text: str) -> None:
    for speakers in (A, Speakers("B", ["A"])):
        assert speakers.apart(text) == (text, ""), speakers.own


def test_two_options_of_which_the_speaker_tells_are_no_turns() -> None:
    text = "There are two ways to heat the house.\nA: A heat pump, which costs more.\nB: A gas boiler, which is cheap to buy."
    assert A.apart(text) == (text, "")
    assert A.apart(text.replace("two ways", "ways"))[1].startswith("B: A gas")
    assert A.apart(f"{text[:-1]}?")[1].startswith("B: A gas")
    assert A.apart(f"{text}\nA: And the sun is free.")[1].startswith("B: A gas")
    assert A.apart("Here are both of them:\nA: A heat pump.\nB: What does it cost?")[1].startswith("B: What")


def test_there_are_thirty_of_each() -> None:
    assert len(BOTH) >= 30 and len(ALONE) >= 30


def test_names_are_those_of_the_dialogue() -> None:
    anna = Speakers("Anna", ["Ben", "Cleo"])
    assert anna.apart("Anna: Bees dance.\nBen: And the sun?\nCleo: Yes.") == ("Bees dance.", "Ben: And the sun?\nCleo: Yes.")
    assert anna.apart("Bees dance.\nB: And what does the angle say?") == ("Bees dance.\nB: And what does the angle say?", "")


def test_what_the_embedded_experts_say_is_theirs() -> None:
    simulator, rng = Simulator(load_world(), config_of().experts["a"].prompts), random.Random(0)
    for _ in range(40):
        for turn in simulator.dialogue(rng).turns:
            assert A.apart(turn.text) == (turn.text, "")


@given(st.text(alphabet="AB:： \n*Expert.User?x"))
def test_nothing_is_invented(text: str) -> None:
    own, beyond = A.apart(text)
    assert own in text and beyond in text and len(own) + len(beyond) <= len(text)
    assert A.apart(own)[1] == "" or not own  # what is left is not cut again


# -- in a dialogue ------------------------------------------------------------------------------------------------------


def test_a_dialogue_keeps_what_was_cut_and_shows_it_to_nobody() -> None:
    texts = ("A: Bees dance in eights.\nB: And the sun?", "Wax is made by glands.", "B: Is it?\nA: It is.", "Honey keeps for years.")
    double = by_turn(*texts)
    transcript = hold(dialogue([], double, turns=4), double)
    assert [(t.text, t.beyond) for t in transcript.turns] == [
        ("Bees dance in eights.", "B: And the sun?"),
        ("Wax is made by glands.", None),
        ("", "B: Is it?\nA: It is."),  # all of it was the partner's
        ("Honey keeps for years.", None),
    ]
    shown = "|".join(m.content for request in double.requests for m in request.messages)
    assert "And the sun?" not in shown and "Is it?" not in shown


def test_a_reply_that_the_limit_cut_in_the_partners_turn_is_whole_itself() -> None:
    double = by_turn("Bees dance in eights.\nB: And what does the", "Wax is")
    double.finish = "length"
    assert [t.cut for t in hold(dialogue([], double, turns=2), double).turns] == [False, True]


def test_the_summary_and_the_views_say_how_many(tmp_path: Path) -> None:
    def reply(request: GenerateRequest) -> str:
        more = {"t00": "\nUser: And what more can you say?", "t02": "\nB: And what more can you say?"}.get(request.key[-3:], "")
        return "🙂" if request.key[-3:] in ("t01", "t03") else babble(request) + more

    # Three dialogues of four turns: a goes on for the partner in both of its turns, and b says nothing in both of its own.
    sink = Collect()
    run(tmp_path / "r", "conversation.count=3", "conversation.turns=4", "conversation.opener=a", double=Double(reply), sink=sink)
    summary = RunReader(tmp_path / "r").summary
    assert (summary["turns"], summary["turns_beyond"], summary["turns_blank"]) == (12, 6, 6)
    state = RunState()
    for event in sink.events:
        state.apply(event)
    lines = dict(summary_lines(state))
    assert lines["both speakers"] == "6 replies went on for the partner; cut" and lines["blank"] == "6 turns without a word"
    assert remarks(Turn(speaker="a", text="x", beyond="B: y")) == ["went on for the partner; cut there"]


def test_a_judge_may_speak_of_both_experts() -> None:
    text = "Expert A: Clear, but short.\nExpert B: deep."
    assert experts()["a"].read_answer(text).text == text
