"""Families against the published chat templates: literal renderings, what a template refuses, personas, the registry."""

from pathlib import Path

import pytest

from expertchat.backends.base import Decoding, ModelInfo
from expertchat.backends.rendering import Renderer
from expertchat.config import ConfigError
from expertchat.experts.auto import Auto
from expertchat.experts.base import ExpertChat, History, Settings
from expertchat.experts.llama3 import Llama3
from expertchat.experts.mixtral import Mistral, Mixtral
from expertchat.experts.qwen import Qwen
from expertchat.experts.registry import FAMILIES, expert_notes, make_expert
from expertchat.judging.requests import analysis_request, rating_request, score_request, wim_request
from expertchat.judging.view import Judgement
from expertchat.records import Message, Turn
from tests import tiny
from tests.tiny import config

TURNS = (
    Turn(speaker="a", text="Hello. How do herons hunt?"),
    Turn(speaker="b", text="They stand still. Why do you ask?"),
    Turn(speaker="a", text="I saw one strike."),
)


def settings(persona: str = "You are {name}, an expert on {topic}.") -> Settings:
    return Settings(prompts=tiny.prompts(), persona=persona, topic=Decoding(), reply=Decoding(), judge=Decoding())


def rendered(kind: str, cls: type[ExpertChat], letter: str, turns: tuple[Turn, ...] = TURNS, prefix: str = "") -> str:
    expert = cls(letter, settings())
    request, _ = expert.reply_request("k", History("herons", turns))
    return Renderer(tiny.tokenizer(kind), kind).text(request.messages, prefix)


# -- literal renderings of a dialogue of three turns ------------------------------------------------------------------


def test_llama3_partner() -> None:
    assert rendered("llama3", Llama3, "b", prefix="Well") == (
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nYou are B, an expert on herons.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nHello. How do herons hunt?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\nThey stand still. Why do you ask?<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nI saw one strike.<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\nWell"
    )


def test_mixtral_partner_puts_the_system_text_into_the_first_user_message() -> None:
    assert rendered("mixtral", Mixtral, "b", prefix="Well") == (
        "<s>[INST] You are B, an expert on herons.\n\nHello. How do herons hunt? [/INST]They stand still. Why do you ask?</s>"
        "[INST] I saw one strike. [/INST]Well"
    )


def test_mixtral_opener_is_asked_to_open() -> None:
    opening = "Please open the discussion on herons: greet your partner in one sentence and ask a first, specific question."
    assert rendered("mixtral", Mixtral, "a", TURNS[:2]) == (
        f"<s>[INST] You are A, an expert on herons.\n\n{opening} [/INST]Hello. How do herons hunt?</s>"
        "[INST] They stand still. Why do you ask? [/INST]"
    )


def test_qwen_partner() -> None:
    assert rendered("qwen2_5", Qwen, "b", prefix="Well") == (
        "<|im_start|>system\nYou are B, an expert on herons.<|im_end|>\n"
        "<|im_start|>user\nHello. How do herons hunt?<|im_end|>\n"
        "<|im_start|>assistant\nThey stand still. Why do you ask?<|im_end|>\n"
        "<|im_start|>user\nI saw one strike.<|im_end|>\n"
        "<|im_start|>assistant\nWell"
    )


@pytest.mark.parametrize(("kind", "cls"), [("llama3", Llama3), ("mixtral", Mixtral), ("mixtral", Mistral), ("qwen2_5", Qwen)])
@pytest.mark.parametrize("letter", ["a", "b", "third"])
def test_every_request_of_every_seat_renders(kind: str, cls: type[ExpertChat], letter: str) -> None:
    expert, renderer = cls(letter, settings()), Renderer(tiny.tokenizer(kind), kind)
    judgement = Judgement("herons", TURNS, "a", categories={"depth": "how deep"})
    requests = [
        expert.topic_request("k", ["owls"]),
        analysis_request(expert, "k", judgement),
        rating_request(expert, "k", judgement, "Good.", "depth"),
        score_request(expert, "k", judgement, "Good.", "depth"),
        wim_request(expert, "k", judgement, "Good.", {"depth": 7}, "missing"),
        *(expert.reply_request("k", History("herons", TURNS[:n]))[0] for n in range(4)),
        expert.reply_request("k", History("herons", TURNS[1:]))[0],  # the oldest turn dropped
        expert.reply_request("k", History("herons", TURNS[2:]))[0],
    ]
    for request in requests:
        text = renderer.text(request.messages, getattr(request, "prefix", ""))
        assert request.messages[-1].content.split()[-1] in text


# -- what the templates refuse ----------------------------------------------------------------------------------------


def test_what_the_published_templates_accept() -> None:
    found = {kind: Renderer(tiny.tokenizer(kind), kind) for kind in tiny.SPECIALS}
    assert {kind: (r.system_role, r.alternation) for kind, r in found.items()} == {
        "llama3": (True, False),
        "llama3_1": (True, False),
        "qwen3": (True, False),
        "mixtral": (False, True),
        "qwen2_5": (True, False),
        "smollm": (True, False),
    }


@pytest.mark.parametrize("roles", [("system", "user"), ("user", "user"), ("assistant", "user")])
def test_mixtral_template_refuses_with_one_readable_message(roles: tuple[str, ...]) -> None:
    renderer = Renderer(tiny.tokenizer("mixtral"), "tiny-mixtral")
    with pytest.raises(ConfigError, match=r"^tiny-mixtral: its chat template refuses the roles .*family=auto$") as caught:
        renderer.text([Message(role, "x") for role in roles])  # type: ignore[arg-type]
    assert caught.value.__cause__ is None and caught.value.__suppress_context__


@pytest.mark.parametrize(("kind", "end"), [("llama3", "<|eot_id|>"), ("mixtral", "</s>"), ("qwen2_5", "<|im_end|>")])
def test_end_of_message_is_read_from_the_template(kind: str, end: str) -> None:
    words = tiny.tokenizer(kind)
    assert words.convert_ids_to_tokens(Renderer(words, kind).end_token()) == end


@pytest.mark.parametrize("kind", list(tiny.SPECIALS))
def test_text_never_becomes_a_special_token(kind: str) -> None:
    words = tiny.tokenizer(kind)
    renderer = Renderer(words, kind)
    attacks = [t for t in words.all_special_tokens if t] + ["<|eo<|eot_id|>t_id|>", "<</s>/s>", "<|im_<|im_end|>end|>"]
    special = set(words.all_special_ids)

    def specials(text: str) -> list[int]:
        return [i for i in renderer.encode([Message("user", f"a {text} b")], prefix=f"c {text} d") if i in special]

    for attack in attacks:
        assert specials(attack) == specials("harmless"), attack


def test_fences_and_ordinary_text_stay_as_they_are() -> None:
    renderer = Renderer(tiny.tokenizer("llama3"), "llama3")
    text = "<transcript>\nA: 3 < 4 | [1] «x»\n</transcript>"
    assert text in renderer.text([Message("user", text)])


# -- registry ---------------------------------------------------------------------------------------------------------


def test_known_families_and_their_facts() -> None:
    assert set(FAMILIES) == {"auto", "llama3", "mixtral", "mistral", "qwen", "world"}
    assert all(cls.family.name == name for name, cls in FAMILIES.items())
    assert (Llama3.family.context_length, Mixtral.family.context_length) == (8192, 32768)
    assert not Mixtral.family.system_role and not Mistral.family.system_role
    assert "<|eot_id|>" in Llama3.family.stop and "<|im_end|>" in Qwen.family.stop


def test_make_expert_takes_everything_over() -> None:
    expert = make_expert("b", config("somewhere", revision="abc"), ModelInfo("m", 300, ("<x>",), system_role=True))
    assert (expert.letter, expert.context_length, expert.special_tokens) == ("b", 300, ("<x>",))
    assert expert.ref.model_dump() == {"family": "llama3", "model": "somewhere", "revision": "abc", "policy_version": 0}
    assert expert.settings.reply == Decoding(method="greedy", max_new_tokens=8)
    assert expert.settings.persona == "You know {topic}."


def test_context_of_the_family_where_the_model_is_silent() -> None:
    assert make_expert("a", config("m"), ModelInfo("m", 0)).context_length == 8192
    assert make_expert("a", config("m", context_length=100), ModelInfo("m", 300)).context_length == 100


@pytest.mark.parametrize("kind", list(tiny.SPECIALS))
def test_auto_follows_the_template_and_says_so(kind: str) -> None:
    renderer = Renderer(tiny.tokenizer(kind), kind)
    info = ModelInfo(kind, 512, system_role=renderer.system_role, alternation=renderer.alternation)
    expert = make_expert("b", config("m", family="auto"), info)
    assert isinstance(expert, Auto)
    assert expert.family.system_role is renderer.system_role and Auto.family.system_role is False
    assert ("without a system role" in expert_notes(config("m", family="auto"), expert, info)[-1]) is (kind == "mixtral")
    request, _ = expert.reply_request("k", History("herons", TURNS))
    assert "You know herons." in renderer.text(request.messages)


def test_wrong_family_for_a_template_is_one_message() -> None:
    with pytest.raises(ConfigError, match=r"family=llama3 sends a system message, but the chat template of m does not take one"):
        make_expert("a", config("m"), ModelInfo("m", 512, system_role=False, alternation=True))


def test_unknown_family_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"family=lama is unknown: use one of auto, llama3, mistral, mixtral, qwen, world"):
        make_expert("a", config("m", family="lama"), ModelInfo("m", 512))


def test_persona_file(tmp_path: Path) -> None:
    file = tmp_path / "personas.yaml"
    file.write_text("historian: You are {name}, a historian of {topic}.\n", "utf-8")
    expert = make_expert("a", config("m", persona={"name": "historian", "file": str(file)}), ModelInfo("m", 512))
    assert expert.view(History("herons"))[0] == Message("system", "You are A, a historian of herons.")


@pytest.mark.parametrize(
    ("text", "name", "message"),
    [
        (None, "x", "no such file"),
        ("historian: You.", "poet", r"holds no text for poet \(it holds historian\)"),
        ("- a\n- b", "poet", "it holds nothing"),
        ("poet: [unclosed", "poet", "cannot be read as UTF-8 YAML"),
        ("poet: You are {nobody}.", "poet", r"unknown \['nobody'\], may use \{topic\} and \{name\}"),
        ("poet: You are {.", "poet", "double a brace"),
    ],
)
def test_bad_persona_files(tmp_path: Path, text: str | None, name: str, message: str) -> None:
    file = tmp_path / "personas.yaml"
    if text is not None:
        file.write_text(text, "utf-8")
    with pytest.raises(ConfigError, match=message) as caught:
        make_expert("a", config("m", persona={"name": name, "file": str(file)}), ModelInfo("m", 512))
    assert len(caught.value.problems) == 1 and str(file) in str(caught.value)
