"""That nothing is missing is said by a whole answer in one of its forms, in many languages; what denies or doubts it is none."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from expertchat.judging import faults, wim
from expertchat.judging.nothing import doubts, says_nothing
from tests.scripted import config_of

PROMPTS = config_of().experts["a"].prompts
SAYS = [
    "There is nothing missing.", "There's nothing missing.", "There is nothing missing in the answers of expert A.",
    "Nothing's missing.", "Nothing is missing", "Nothing is missing here.", "Nothing at all is missing.", "I see nothing missing.",
    "I think nothing is missing.", "I don't see anything missing.", "I do not find anything missing.",
    "I cannot find anything that is missing.", "There isn't anything missing.", "There is no missing content.",
    "No content is missing.", "No specific content is missing.", "Nothing important is missing.", "There is nothing that is missing.",
    "In my opinion, nothing is missing.", "Nothing seems to be missing.", "Answer: Nothing is missing.", "Nothing missing.", "Nothing.",
    "None.", "N/A", "No missing content.", "Nothing is missing!", "\"Nothing is missing.\"", "**Nothing is missing.**",
    "Nothing is missing. ✅", "Nothing is lacking.", "Not missing anything.", "There are no missing details.", "Es fehlt nichts.",
    "Nichts fehlt.", "Es fehlt nichts Wichtiges.", "Mir fehlt nichts.", "Nichts.", "Da fehlt nichts.", "No falta nada.", "Nada falta.",
    "No falta nada importante.", "Nada.", "Il ne manque rien.", "Rien ne manque.", "Rien.", "Non manca nulla.", "Non manca niente.",
    "Não falta nada.", "Nada está faltando.", "Er ontbreekt niets.", "Niets ontbreekt.", "Ничего не упущено.", "Ничего не пропущено.",
    "Ничего.", "没有遗漏。", "没有缺少任何内容。", "什么都不缺。", "何も欠けていません。", "特にありません。",
    "欠けているものはありません。", "빠진 것이 없습니다.", "없습니다.", "لا شيء ينقص.", "لا ينقص شيء.", "कुछ भी नहीं छूटा है।",
    "Nothing significant is missing.", "Nothing further is missing.", "No specific important content is missing.",
    "No key details are missing.", "Expert A is not missing anything.", "There is no missing content in Expert A's answers.",
    "The answers are complete; nothing is missing.", "Nothing is missing in Expert A's answers.", "The answers are complete.",
    "Nothing is missing in the answers provided by Expert A.", "Nothing is missing from the responses of expert B.",
    "**Answer:** Nothing is missing.", "**What is missing**: nothing.", "No, nothing is missing.", "I don't think anything is missing.",
    "I do not think that anything important is missing.", "Expert A's answers are comprehensive; nothing is missing.",
    "The answers of expert A are complete and nothing is missing.", "The answers are clear and complete, so nothing is missing.",
    "Nothing is missing in the answers of Expert A, as they cover all.", "The answers of Expert A do not miss anything.",
    "Expert A's answers don't lack any specific content.", "Nothing is missing because all the points are covered.",
    "Niczego nie brakuje.", "Hiçbir şey eksik değil.", "Eksik bir şey yok.", "Inget saknas.",
]  # fmt: skip
SAYS_NOT = [
    "I cannot say that nothing is missing.", "I can't say nothing is missing.", "It is not true that nothing is missing.",
    "I would not say that nothing is missing.", "I don't think that nothing is missing.", "It isn't the case that nothing is missing.",
    "Not that nothing is missing.", "I doubt that nothing is missing.", "It is wrong that nothing is missing.",
    "Hardly nothing is missing.", "Nobody can claim that nothing is missing.", "Nothing major is missing, but numbers are.",
    "Nothing is missing, except sources.", "Nothing is missing but numbers.", "Almost nothing is missing.",
    "Next to nothing is missing.", "Is nothing missing?", "Nothing is missing?",
    "If nothing is missing, answer exactly: Nothing is missing.", "Nothing is not missing.", "Nothing is missing apart from the date.",
    "The answers are not complete.", "Key details are missing.", "Nothing significant is missing, except sources.",
    "Nothing about ice is said.", "There is nothing missing about bees, though the sun is.", "Nothing is missing from expert B.",
    "I am not sure that nothing is missing.", "Perhaps nothing is missing.", "Maybe nothing.", "Not nothing.", "Nothing is mentioned.",
    "Nothing new is said.", "Not much is missing.", "Es ist nicht so, dass nichts fehlt.", "Ich kann nicht sagen, dass nichts fehlt.",
    "Nothing is missing except the role of wind.", "Nothing is missing, as they cover all but the wind.",
    "Nothing is missing, as they cover all, except the wind.", "Nothing is missing, because the wind is not named.",
    "No, the wind is missing.", "I don't think nothing is missing.", "The answers of expert A miss the wind.",
    "The answers of expert A are complete, but the wind is missing.", "The answers are good.",
    "Nicht viel fehlt.", "Nichts fehlt außer Zahlen.", "No puedo decir que no falta nada.", "No es cierto que no falta nada.",
    "No falta nada, excepto los números.", "Je ne peux pas dire qu'il ne manque rien.", "Il ne manque rien, sauf les chiffres.",
    "Non posso dire che non manca nulla.", "我不能说没有遗漏。", "并非没有遗漏。", "何も欠けていないとは言えません。",
    "빠진 것이 없다고 할 수 없습니다.", "Nichts wird erklärt.", "Nada se dice del sol.", "Rien n'est dit du soleil.", "", "...",
]  # fmt: skip
DENIES = [
    "I cannot say that {}", "It is not true that {}", "I don't think that {}", "Not that {}", "I doubt that {}",
    "Nobody can claim that {}", "It is wrong that {}", "I am not sure that {}", "I would not say {}", "Hardly: {}",
    "Ich kann nicht sagen, dass {}", "Es stimmt nicht, dass {}", "No puedo decir que {}", "Je ne peux pas dire que {}", "我不能说{}",
    "{}とは言えません", "{}라고 할 수 없습니다", "Не могу сказать, что {}",
]  # fmt: skip


@pytest.mark.parametrize("text", SAYS)
def test_the_empty_forms(text: str) -> None:
    assert wim.is_empty(text, PROMPTS) and not doubts(text)


@pytest.mark.parametrize("text", SAYS_NOT)
def test_what_is_no_empty_form(text: str) -> None:
    assert not wim.is_empty(text, PROMPTS)
    assert not wim.is_empty(f"The answers cover wax. {text}", PROMPTS, "covers_then_missing")


@given(st.sampled_from(DENIES), st.sampled_from(SAYS), st.sampled_from(["", ".", "!"]))
def test_an_empty_form_that_is_denied_is_not_empty(denial: str, form: str, end: str) -> None:
    text = denial.format(form.strip(' ."!*。✅').lower()) + end
    assert not wim.is_empty(text, PROMPTS) and not wim.is_empty(f"Wax. {text}", PROMPTS, "covers_then_missing")


@given(st.sampled_from(SAYS), st.sampled_from(["**{}**", '"{}"', " {} ", "{}\n", "*{}*", "{} 👍", "“{}”", "({})"]))
def test_markup_changes_nothing(form: str, wrap: str) -> None:
    assert says_nothing(wrap.format(form))


@given(st.sampled_from(SAYS), st.sampled_from([" But the sun is.", ", except the sun", " The sun is missing.", " but the sun", "?"]))
def test_what_goes_on_is_not_empty(form: str, more: str) -> None:
    assert not says_nothing(form.rstrip('."!*。✅ ') + more)


def test_a_lack_that_is_named_before_takes_it_back() -> None:
    for said in ("The answers do not say how.", "They never name the sun.", "Ice is absent.", "They can't explain it."):
        assert not wim.is_empty(f"{said} Nothing is missing.", PROMPTS, "covers_then_missing")
    assert wim.is_empty("The answers cover wax and honey. Nothing is missing.", PROMPTS, "covers_then_missing")


DOUBTS = ["I cannot say that nothing is missing.", "Perhaps nothing is missing.", "Ich glaube kaum, dass nichts fehlt.",
          "The answers of expert A name the Moon, the Sun and the wind, and explain how each of them moves the sea; nothing is missing.",
          "In short, expert A treats all of it and I do not think that anything is missing."]  # fmt: skip
NAMES = ["Nothing is missing except the role of wind.", "The answers are deep and nothing is missing; the wind could be added.",
         "The answers do not miss anything but the wind.", "Nothing is missing of the Moon, while the wind is absent.",
         "Nothing major is missing, but numbers are.", "Nothing is missing, except sources.",
         "I doubt that nothing is missing: the sun."]  # fmt: skip


@pytest.mark.parametrize("text", DOUBTS)
def test_a_doubt_that_names_nothing_has_no_score(text: str) -> None:
    fault = faults.of_wim(text, subject="a", prompt="", reference="Bees dance.", categories=())
    assert fault is not None and fault.kind == "unclear"


@pytest.mark.parametrize("text", NAMES)
def test_a_doubt_that_names_something_is_an_answer(text: str) -> None:
    assert faults.of_wim(text, subject="a", prompt="", reference="Bees dance.", categories=()) is None
