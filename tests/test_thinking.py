"""Thinking blocks: every published form, what only looks like one, and texts that are still being written."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from expertchat.text.thinking import first_stop, so_far, split

FORMS = [
    ("<think>", "</think>"),
    ("<think>\n", "\n</think>\n\n"),
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),
    ("<thoughts>", "</thoughts>"),
    ("<reasoning>", "</reasoning>"),
    ("<seed:think>", "</seed:think>"),
    ("<THINK>", "</THINK>"),
    ('<think foo="bar" n=3>', "</think >"),
    ("[THINK]", "[/THINK]"),
    ("[think]", "[/think]"),
    ("{THINK}", "{/THINK}"),
    ("‹think›", "‹/think›"),
    ("◁think▷", "◁/think▷"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("‹¦begin_of_thought¦›", "‹¦end_of_thought¦›"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<|THINK_START|>", "<|THINK_END|>"),
    ("<|inner_prefix|>", "<|inner_suffix|>"),
    ("<|channel>thought\n", "<channel|>"),
    ("<|open|>think<|sep|>", "<|close|>think<|sep|>"),
    ("<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final<|message|>"),
    ("analysis", "assistantfinal"),
    ("Here is my thought process: ", "\nHere is my response: "),
]
ANYWHERE = FORMS[:-2]  # the last two are nothing but words, which count at the beginning of a text alone
THOUGHT = "We need to greet. Depth: maybe 3? Bees < wasps, <b>bold</b>."
SAID = "Hello! Bees dance <i>and</i> sing: a[1] is {1}."


@pytest.mark.parametrize(("begin", "end"), FORMS)
def test_every_published_form(begin: str, end: str) -> None:
    found = split(f"{begin}{THOUGHT}{end}{SAID}")
    assert (found.thinking, found.said.strip(), found.open, found.found) == (THOUGHT, SAID, False, True)
    if begin != "[think]":  # unless it is closed, that may be a play's
        cut = split(f"{begin}{THOUGHT}", announces=begin.startswith("Here"))
        assert (cut.thinking, cut.said, cut.open) == (THOUGHT, "", True)


@pytest.mark.parametrize(("begin", "end"), [form for form in ANYWHERE if form[0] != "[think]"])
def test_a_template_may_have_opened_the_block(begin: str, end: str) -> None:
    for opened in (False, True):
        found = split(f"{THOUGHT}{end}{SAID}", opened)
        assert (found.thinking, found.said.strip(), found.open) == (THOUGHT, SAID, False)
    assert split(THOUGHT, opened=True).open and split(THOUGHT, opened=True).said == "" and not split(THOUGHT).found
    assert split("</think>\n\nHi.", opened=True).found  # nothing was thought, but a mark stands there


@pytest.mark.parametrize(("begin", "end"), ANYWHERE)
def test_several_and_nested_blocks(begin: str, end: str) -> None:
    several = split(f"{begin}One.{end}Two. {begin}Three.{end}Four.")
    assert (several.thinking, several.said.split(), several.open) == ("One.\n\nThree.", ["Two.", "Four."], False)
    nested = split(f"{begin}One. {begin}Two.{end} Three.{end}Four.")
    assert (nested.said.strip(), nested.open) == ("Four.", False) and "Three." in nested.thinking
    if begin != "[think]":
        assert split(f"Before. {begin}One.{end}After. {begin}Two").said.split() == ["Before.", "After."]


def test_what_stands_round_an_answer_is_no_part_of_it() -> None:
    solution = "<|begin_of_thought|>Hm.<|end_of_thought|>\n\n<|begin_of_solution|>\nBees.\n<|end_of_solution|>"
    assert split(solution).said.strip() == "Bees."
    assert split("<think>Hm.</think>\n<answer>Bees.</answer>").said.strip() == "Bees."
    assert split("<|START_THINKING|>Hm.<|END_THINKING|><|START_RESPONSE|>Bees.<|END_RESPONSE|>").said == "Bees."
    harmony = "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>Bees.<|return|>"
    assert (split(harmony).said, split(harmony).thinking) == ("Bees.", "Hm.")
    assert split("<answer>Bees.</answer>").said == "<answer>Bees.</answer>"  # nobody thought: it is text


@pytest.mark.parametrize(
    "text",
    [
        "I think <b> is bold.",
        "Thinking about bees is thinking.",
        "The tag `<think>` opens a block and `</think>` ends it.",
        "A model that writes `so <think> it` thinks.",
        'It writes "<think>" before it speaks, and "</think>" after.',
        "Use <think> and </think> tags to mark what is thought.",
        "In XML:\n```xml\n<think>\nhm\n</think>\n```\nThat is all.",
        "[thinking] Let me see. Bees dance.",
        "[Thinks] Bees dance.",
        "<thinking about bees> They dance.",
        "analysis of bees shows that they dance",
        "analysis: bees dance",
        "analysis/discussion of bees",
        "commentary*",
        "Analysis: bees dance",
        "final: bees dance",
        "Here is my response: bees dance.",
        "Here is my thought process: tides come from the Moon, and the Sun adds to them. So spring tides are the highest.",
        "1 < 2, <think",
        "a thought, a reasoning",
    ],
)
def test_text_about_thinking_is_text(text: str) -> None:
    assert split(text).said == text and not split(text).found and not split(text).open


def test_a_mark_that_thoughts_speak_of_ends_nothing() -> None:
    for text in ("<think>I end with `</think>` then. Ok</think> Hi", "<think>I should use <think> tags. Ok</think> Hi"):
        assert split(text).said == " Hi" and not split(text).open
    assert split("<think>I end with `</think>` then. So").said == ""


PIECES = st.lists(
    st.sampled_from([mark for form in FORMS for mark in form])
    | st.sampled_from(["a", " ", "\n", "`", "```", '"', "<", ">", "</", "<|", "think", "[/", "Depth:", ".", "<b>", "<th", "ink>"]),
    max_size=14,
).map("".join)
PLAIN = st.text(st.characters(blacklist_characters="<>[]{}‹›¦|◁▷`\"'“”‘’„«»", blacklist_categories=("Cs",)))


@given(PIECES | st.text(), st.booleans())
def test_whatever_comes_is_taken_apart(text: str, opened: bool) -> None:
    found = split(text, opened)
    assert found.found or (found.said, found.thinking, found.open) == (text, "", False)
    assert len(found.said) + len(found.thinking.replace("\n\n", "")) <= len(text)
    assert not split(found.said).found or not found.found  # what was said has no block any more
    growing = so_far(text, opened)
    assert len(growing.said) <= len(text)


@given(st.sampled_from([form for form in FORMS if form[0] != "[think]"]), PLAIN, PLAIN, st.data())
def test_nothing_that_is_thought_shows_while_it_is_written(form: tuple[str, str], thought: str, said: str, data: st.DataObject) -> None:
    assume(not any(word in (thought + said).lower() for word in ("assistantfinal", "thought process", "response:")))
    begin, end = form[0], form[1]
    thought, said = f"T{thought}.", f"S{said}."  # nothing glued to the marks of harmony without its special tokens
    text = f"{begin}{thought}{end}{said}"
    growing = so_far(text[: data.draw(st.integers(0, len(text)))])
    assert said.startswith(growing.said.strip()) and (f"{thought}{end}").startswith(growing.thinking)
    assert so_far(text).said.strip() == said.strip()


@given(st.sampled_from(ANYWHERE), PLAIN, PLAIN)
def test_stop_strings_count_outside_of_thinking_alone(form: tuple[str, str], thought: str, said: str) -> None:
    assume("§" not in thought + said and form[0] != "[think]")
    begin, end = form
    assert first_stop(f"{begin}{thought}§.", ["§"]) is None
    text = f"{begin}{thought}§.{end}{said}§"
    assert first_stop(text, ["§"]) == len(text) - 1
    assert first_stop(f"{said}§", ["§", ""]) in (len(said), 0)


def test_a_stop_string_in_a_block_that_the_template_opened() -> None:
    text = "Depth: maybe 3?</think>Clear.\nDepth: 7"
    assert first_stop("Depth: maybe 3?", ["\nDepth:", "Depth:"], opened=True) is None
    assert first_stop(text, ["\nDepth:"], opened=True) == text.index("\nDepth: 7")
    assert first_stop("Clear.\nDepth: 7", ["\nDepth:"]) == 6


@pytest.mark.parametrize("said", ["I [think] that is so.", "Use the <think> tag, as in Qwen.", "The <thought> of it."])
def test_a_text_that_spoke_of_a_mark_ends_at_its_stop_string(said: str) -> None:
    text = f"{said}\nDepth: 7"
    assert not split(text).found
    assert first_stop(text, ["\nDepth:"]) is None  # as it grows, the mark may yet begin a block
    assert first_stop(text, ["\nDepth:"], whole=True) == len(said)
