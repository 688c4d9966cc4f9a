"""Texts that are not what a judge was asked for: each kind by example, and no false alarm on what is an answer."""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from expertchat.judging import faults, rating, wim
from expertchat.judging.view import Judgement
from expertchat.records import Turn
from expertchat.text.wordings import Prompts
from expertchat.world.facts import load as load_world
from expertchat.world.simulator import CATEGORIES, Simulator
from tests.scripted import config_of

TURNS = (
    Turn(speaker="a", text="Bees dance in figures of eight to show their sisters where the food is."),
    Turn(speaker="b", text="And is the angle of the dance the same as the angle to the sun?"),
)
JUDGEMENT = Judgement("bees", TURNS, "a", None, {"depth": "how deep", "clarity": "how clear"})
DIALOGUE = " ".join(turn.text for turn in TURNS)


def standard() -> Prompts:
    return config_of("experts.a.path=x", "model@experts.a=auto").experts["a"].prompts


def kind(text: str, of: str = "wim", dialogue: str = DIALOGUE) -> str | None:
    """The kind that judge.py would give, for expert A."""
    prompts = standard()
    question = wim.question(prompts, "missing", JUDGEMENT)
    prompt = rating.judge_prompt(prompts, JUDGEMENT)
    if of == "wim":
        fault = faults.of_wim(text, subject="a", prompt=f"{prompt}\n{question}", reference=dialogue, categories=("depth", "clarity"))
    else:
        fault = faults.of_analysis(text, subject="a", prompt=prompt, reference=dialogue, reply=JUDGEMENT.reply)
    return fault and fault.kind


COUNTED = " ".join(f"({n}) This is a possible answer to the question." for n in range(1, 15))
GERMAN = "Es fehlt, wie die Bienen den Winkel zur Sonne messen und wie sie die Richtung auch bei Wolken finden, ist nicht gesagt."
FRENCH = "Il manque les explications sur la danse des abeilles et pour le soleil, une mesure que les experts ne donnent pas."


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "empty"),
        ("I'm sorry, but I can't help with that.", "refusal"),
        ("I’m sorry, but I cannot judge this conversation.", "refusal"),
        ("As an AI language model, I do not have personal opinions.", "refusal"),
        ("As a large language model, I don't have personal opinions.", "refusal"),
        ("As an AI assistant I can't rate people.", "refusal"),
        ("I cannot judge this conversation.", "refusal"),
        ("I can't help you with that request, as it is about people.", "refusal"),
        ("I am not able to provide a rating.", "refusal"),
        ("I'm unable to judge the answers of expert A.", "refusal"),
        ("I won't answer that.", "refusal"),
        ("I don't have personal opinions.", "refusal"),
        ("Es tut mir leid, aber das kann ich nicht bewerten.", "refusal"),
        ("Als KI kann ich das nicht bewerten.", "refusal"),
        (GERMAN, "language"),
        (FRENCH, "language"),
        ("缺少关于蜜蜂如何在阴天测量太阳角度的内容以及舞蹈的历史。", "language"),
        ("Не сказано, как пчёлы измеряют угол к солнцу.", "language"),
        ("A: Bees dance in circles. [1]\nB: And the sun? (2)", "echo"),
        ("Now say in one or two sentences which specific content is missing in the answers of expert A.", "echo"),
        ("Two experts, A and B, discussed bees. Everything between the lines is their text.", "echo"),
        (COUNTED, "loop"),
        ("The sun is missing. The sun is missing. The sun is missing. The sun", "loop"),
        ("It says [1], [2], [3], [4], [5], [6], [7], [8], [9], [10], [11], [12], [13]", "loop"),
        ("Expert B's answers lack the angle of the sun.", "wrong_expert"),
        ("Expert B’s first reply gives no number.", "wrong_expert"),
        ("Expert B's explanation of the angle is too short.", "wrong_expert"),
        ("The answers of expert B do not say how bees see polarised light.", "wrong_expert"),
        ("10/10. [17] Depth: 1 Clarity: 1", "rates"),
        ("This is a very detailed answer.\nDepth: 10\nClarity: 4", "rates"),
        ("Depth: 8. How bees measure the angle is missing.", "rates"),
        ("The missing content is [7]. The missing content is [8].", "no_content"),
        ("Nothing is missing. The answers cover the dance and its figures.", "unclear"),
    ],
)
def test_each_kind_of_a_wim_response(text: str, said: str) -> None:
    assert kind(text) == said


@pytest.mark.parametrize(
    "text",
    [
        "How bees measure the angle to the sun when it is cloudy.",
        "What is missing: the waggle's length, which tells the distance.",
        "Expert A does not answer expert B's question about the angle.",
        "An answer to expert B's question about the sun is missing.",
        "Expert B's question about the cost of storage is never answered.",
        "Expert B's objection that tides also depend on the Sun is left without any reply.",
        "Expert B's last claim is not taken up.",
        "Karl von Frisch, Jürgen Tautz, Thomas Seeley.",  # names are no language
        "Der Schwänzeltanz",  # a word, too short to tell
        "The terms der Tanz and die Sonne are not explained, and the answers give no source for them.",
        "I cannot find how the distance is told, and the speed of the dance is not named either.",
        "Sorry to say, but the distance is missing.",
        "As an AI pioneer once said, details matter: the distance is missing.",
        "As AI systems grow, the answer does not say who is liable when they fail.",
        "As an AI researcher would note, the reply does not mention reinforcement learning from human feedback.",
        "As a language model is only as good as its data, the answer should not leave out data quality.",
        "As an AI, I do not find the distance in the answers.",
        "We cannot judge from this answer how the vaccine works: the role of antibodies is missing.",
        "I can't give this claim a source: the study behind the 40 % is missing.",
        "I cannot rate this answer higher without the distance.",
        "I can't help but notice that the distance is missing.",
        "Als KI noch jung war, galt das nicht: the distance is missing.",
        "Sentence [1] names the food but not the distance, and (2) is not answered.",
        "The angle, the distance, the duration, the sound, the smell and the number of dancers are all missing.",
        "It lacks depth: 3 facts at most, and no numbers.",
        "Ice feedbacks are absent. Apart from that, nothing is missing.",
    ],
)
def test_what_names_something_missing_is_an_answer(text: str) -> None:
    assert kind(text) is None


def test_the_kinds_of_an_analysis() -> None:
    assert kind("", "analysis") is None  # the judge rates at once
    assert kind("The answer is specific, but it names no source.\nDepth: 10", "analysis") is None  # it may go on to ratings
    assert kind(f"Expert A says: {TURNS[0].text}", "analysis") == "parrot"  # 14 words of 17
    assert kind(COUNTED, "analysis") == "loop"
    assert kind("Expert B asks well. Her question is short and clear.", "analysis") is None  # asks: no statement of what is judged
    assert kind("Expert B's answers are deep.", "analysis") == "wrong_expert"
    for text in (
        "As AI tools spread, expert A explains the gains well, but does not weigh the risks; sentence [2] is vague.",
        "We cannot judge sentence [2], for it gives no number; the rest is clear and true.",
        "Expert B's question about cost is not taken up, and the sentences [1] to [3] repeat each other.",
    ):
        assert kind(text, "analysis") is None


def test_another_language_needs_both_to_be_sure() -> None:
    assert kind(GERMAN, dialogue="Bienen tanzen.") is None  # three syllables tell nothing of the dialogue
    assert kind(GERMAN, dialogue=f"{GERMAN} {GERMAN}") is None
    assert kind("How the bees find the way when it is cloudy, and that they see the light of the sky.", dialogue=GERMAN) == "language"
    japanese = "蜂はどうやって太陽の角度を測るのか"
    assert faults.language(japanese) == "Kana" and not faults.other_language("太陽角度測定方法欠如説明", japanese)


NAMES = "Jürgen Müller García Lefèvre Tautz Frisch Seeley van der de la"


@given(st.lists(st.sampled_from(NAMES.split(" ")), max_size=11).map(" ".join))
def test_names_are_no_language(text: str) -> None:
    assert faults.language(text) is None


@given(st.lists(st.integers(0, 10**9).map(lambda n: f"w{n}"), min_size=1, max_size=120, unique=True))
def test_words_that_all_differ_are_no_loop(words: list[str]) -> None:
    assert not faults.loops(" ".join(words))


@given(st.lists(st.sampled_from(["bees", "dance", "to", "show", "food", "and", "wax"]), min_size=4, max_size=12), st.integers(12, 30))
def test_one_sentence_over_and_over_is_a_loop(words: list[str], times: int) -> None:
    assert faults.loops(f"{' '.join(words)}. " * times)
    assert faults.loops(" ".join(f"({n}) {' '.join(words)}." for n in range(times)))


@given(st.text(), st.sampled_from("ab"))
def test_any_text_has_one_fault_or_none(text: str, subject: str) -> None:
    fault = faults.of_wim(text, subject=subject, prompt=DIALOGUE, reference=DIALOGUE, categories=("depth",))
    assert fault is None or (fault.kind and fault.problem)
    assert (fault is not None and fault.kind == "empty") == (not text.strip())


def test_the_embedded_experts_answers_have_no_fault() -> None:
    prompts = config_of().experts["a"].prompts
    simulator, rng = Simulator(load_world(), prompts), random.Random(0)
    found = []
    for wording in ("missing", "covers_then_missing"):
        for _ in range(40):
            judgement, truths = simulator.judged(rng)
            text = simulator.wim_text(judgement, truths, "a", wording)
            seen = {"subject": judgement.subject, "reference": " ".join(turn.text for turn in judgement.turns)}
            if not wim.is_empty(text, prompts, wording):
                found.append(faults.of_wim(text, prompt=wim.question(prompts, wording, judgement), categories=CATEGORIES, **seen))
    assert len(found) > 60 and set(found) == {None}


def test_every_kind_is_in_the_docs() -> None:
    root = Path(__file__).parents[1]
    code = "".join((root / "expertchat/judging" / name).read_text() for name in ("judge.py", "answers.py", "faults.py", "reading.py"))
    kinds = set(re.findall(r'Fault\(\s*"(\w+)"', code))
    kinds |= set(re.findall(r'(?:return |Parsed\(None, ).*", "(\w+)"\)?(?: if .*)?$', code, re.M))
    kinds |= set(re.findall(r'^    \(?"?(\w+)", "an? ', code, re.M))
    kinds.add(faults.PARROT)
    docs = (root / "docs/ratings.md").read_text()
    assert {"loop", "cut", "low_mass", "not_finite"} <= kinds
    assert [kind for kind in sorted(kinds) if f"`{kind}`" not in docs and f"null: {kind} " not in docs] == []


# -- scripts without spaces ---------------------------------------------------------------------------------------------

HAN = "蜜蜂用八字形的舞蹈告诉姐妹们食物在哪里，跳舞的角度就是食物与太阳之间的角度。"
KANA = "ミツバチは八の字のダンスで仲間に食べ物の場所を教え、ダンスの角度は太陽との角度を示しています。"
THAI = "ผึ้งเต้นรำเป็นรูปเลขแปดเพื่อบอกเพื่อนว่าอาหารอยู่ที่ไหน และมุมของการเต้นรำคือมุมระหว่างอาหารกับดวงอาทิตย์"


@pytest.mark.parametrize("reply", [HAN, KANA, THAI])
def test_a_parrot_is_seen_without_spaces(reply: str) -> None:
    """The reply with a few characters before it: nine tenths of the text are one run, of more than eight words."""
    assert faults.copies(reply, f"答：{reply}")
    assert not faults.copies(reply, reply[:8])  # naming a thing takes characters too
    other = {HAN: "缺少蜜蜂如何在阴天找到太阳、距离怎样表示、以及是谁最先发现这一切的内容。"}.get(reply)
    if other:
        assert not faults.copies(reply, other) and not faults.loops(other) and not faults.echoes(other, reply)


@pytest.mark.parametrize("text", ["缺少太阳的内容。", "太陽の角度がありません。", "ไม่ได้บอกว่ามุมคืออะไร\n"])
def test_a_loop_is_seen_without_spaces(text: str) -> None:
    assert faults.loops(text * 5) and not faults.loops(text)


@pytest.mark.parametrize("text", [HAN, KANA, THAI])
def test_prose_without_spaces_is_no_loop_and_no_echo_of_others(text: str) -> None:
    assert not faults.loops(text) and not faults.loops(HAN + KANA + THAI)
    assert faults.echoes(text, f"{DIALOGUE} {text} {DIALOGUE}")
    assert not any(faults.echoes(text, other) for other in (HAN, KANA, THAI) if other != text)
