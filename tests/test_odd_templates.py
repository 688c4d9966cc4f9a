"""Faults that odd chat templates and tokenizers showed, one by one: what is shown, what is trained, what is special, what is refused."""

from __future__ import annotations

import copy
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AddedToken, LlamaConfig, LlamaForCausalLM

from expertchat.backends.adapters import Adapters
from expertchat.backends.base import Decoding, GenerateRequest, ScoreRequest
from expertchat.backends.local import LocalBackend
from expertchat.backends.rendering import Renderer
from expertchat.backends.scoring import plan
from expertchat.backends.vocabulary import Vocabulary
from expertchat.config import ConfigError
from expertchat.experts.registry import make_expert
from expertchat.judging.requests import score_request
from expertchat.judging.view import Judgement
from expertchat.records import Message, Turn
from expertchat.training.learner import LoraLearner
from expertchat.training.method import Rows
from expertchat.training.rows import row_of
from tests import tiny
from tests.forms import BEGIN, FORMS, IM, LOOP, Form
from tests.test_update import config, pair, updater

torch.set_num_threads(1)
USER = [Message("user", "What of herons?")]
THINKS = LOOP + "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n<think>\n' }}{% endif %}"


def model_of(tokenizer: Any, **more: Any) -> LlamaForCausalLM:
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=448, max_position_embeddings=2048, **shape, **more)).eval()


def backend_of(form: Form, thinking: bool = False, **more: Any) -> LocalBackend:
    words = form.tokenizer()
    return LocalBackend(model_of(words, **more), words, "m", 5, thinking=thinking)


def text_of(backend: LocalBackend, *tokens: str) -> Any:
    """The completion of a reply that consists of these tokens or words."""
    row = backend.row(GenerateRequest("k", (), Decoding("greedy", max_new_tokens=99)), [1, 2, 3])
    for token in tokens:
        vocabulary = backend.tokenizer.get_vocab()
        for i in [vocabulary[token]] if token in vocabulary else backend.tokenizer(token, add_special_tokens=False)["input_ids"]:
            row.add(i, i in backend.end_ids)
    return row.completion([1, 2, 3], 0.0)


# -- 12: what was shown and drawn is what is trained ----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["chatml", "qwen3", "gemma2", "zephyr", "command_r"])
def test_nothing_is_trained_after_the_end_token(name: str) -> None:
    renderer = Renderer(FORMS[name].tokenizer(), name)
    written = renderer.reply(USER, Message("assistant", "They fish."))
    assert written[-1] == renderer.end_token() and written.count(written[-1]) == 1
    assert renderer.tokenizer.decode(written[:-1]) == "They fish."


def test_a_block_that_the_template_opens_stays_in_the_prompt_and_is_not_in_the_reply() -> None:
    form = Form(THINKS)
    thinking = Renderer(form.tokenizer(), "m", True)
    ids = thinking.encode(USER)
    assert thinking.tokenizer.decode(ids).endswith("<|im_start|>assistant\n<think>\n") and thinking.opens_thinking
    written = thinking.reply(USER, Message("assistant", "They fish."))
    assert thinking.tokenizer.decode(written) == "They fish.<|im_end|>"
    # A pair that has texts alone has what was said: it is trained where the thoughts are over.
    row = row_of(pair(0, "They fish.", "No."), thinking)
    assert thinking.tokenizer.decode(row["prompt_ids"]).endswith("<think>\n\n</think>\n\n") and row["chosen_ids"] == written
    quiet = Renderer(form.tokenizer(), "m")
    assert quiet.text(USER).endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n") and not quiet.opens_thinking


def test_every_form_of_the_day_is_one_day() -> None:
    renderer = Renderer(Form("{{ strftime_now('%A %-d %B %Y, %H:%M %p; %d.%m.%y %F') }}" + LOOP + BEGIN).tokenizer(), "m")
    assert renderer.text(USER).startswith("Friday 26 July 2024, 00:00 AM; 26.07.24 2024-07-26<|im_start|>")


# -- 13: templates that are not plain -------------------------------------------------------------------------------------


def test_content_as_parts_is_shown() -> None:
    renderer = Renderer(FORMS["parts"].tokenizer(), "m")
    chat = [Message("system", "Rules."), *USER, Message("assistant", "Fish."), Message("user", "And?")]
    assert renderer.system_role and not renderer.alternation
    assert renderer.text(chat) == "".join(f"<|im_start|>{m.role}\n{m.content}<|im_end|>\n" for m in chat) + "<|im_start|>assistant\n"


def test_an_answer_begins_where_the_template_begins_none() -> None:
    renderer = Renderer(FORMS["no_gen"].tokenizer(), "m")
    assert renderer.text(USER, "So") == "<|im_start|>user\nWhat of herons?<|im_end|>\n<|im_start|>assistant\nSo"


def test_a_blank_message_is_shown_where_it_is_refused() -> None:
    renderer = Renderer(FORMS["raises_on_blank"].tokenizer(), "m")
    shown = renderer.text([*USER, Message("assistant", " \n"), Message("user", "And?")])
    assert "<|im_start|>assistant\n(no answer)<|im_end|>" in shown


def test_a_last_message_that_is_not_the_users() -> None:
    backend = backend_of(FORMS["last_is_the_users"])
    assert backend.tokenizer.convert_ids_to_tokens(backend.renderer.end_token()) == "<|im_end|>"
    written = backend.renderer.reply(USER, Message("assistant", "They fish."))
    assert backend.tokenizer.decode(written) == "They fish.<|im_end|>"
    # A judge's answer that is begun is counted as it is asked for.
    begun = [*USER, Message("assistant", "Depth:")]
    assert backend.count_tokens(begun) == len(backend.renderer.encode(USER, "Depth:"))


def test_the_template_is_refused_before_the_weights_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from expertchat.backends import weights

    folder = tiny.build(tmp_path / "m", "qwen2_5")
    (folder / "chat_template.jinja").write_text("{{ raise_exception('no chats') }}", "utf-8")
    monkeypatch.setattr(weights, "_any", lambda *more: pytest.fail("read the weights first"))
    with pytest.raises(ConfigError, match=r"^m: its chat template fails on a single user message \(no chats\)"):
        LocalBackend.load(folder, "m", device="cpu")
    from expertchat.backends.wholeness import tokenizer_problem

    assert (tokenizer_problem(folder) or "").startswith("its chat template fails on a single user message (no chats)")


# -- 14: what is special --------------------------------------------------------------------------------------------------


def test_plain_words_that_are_special_tokens_are_neither_cut_out_nor_rewritten() -> None:
    words = ("!", " Human:", " ки", "User:")
    backend = backend_of(Form(LOOP + BEGIN, (*IM, *words[1:]), pad="!"))
    assert not set(words) & set(backend.info.special_tokens) and set(IM) <= set(backend.info.special_tokens)
    made = text_of(backend, "Hi", "!", " there", " Human:", " yes", " ки", "User:", "<|im_end|>")
    assert (made.text, made.unshown, made.ended) == ("Hi! there Human: yes киUser:", None, True)
    said = [Message("user", made.text + "!!")]
    assert said[0].content in backend.renderer.text(said)
    assert backend.renderer.plain(made.text) == made.text


def test_an_id_without_a_text_is_not_shown_and_said_so() -> None:
    """A vocabulary that is padded beyond its tokenizer: what is shown is not all that was drawn, and so it is not trained on."""
    backend = backend_of(FORMS["chatml"])
    nameless = len(backend.tokenizer)
    assert nameless < backend.model.config.vocab_size
    row = backend.row(GenerateRequest("k", (), Decoding("greedy", max_new_tokens=99)), [1, 2, 3])
    for i in [*backend.tokenizer("Fish", add_special_tokens=False)["input_ids"], nameless]:
        row.add(i, False)
    made = row.completion([1, 2, 3], 0.0)
    assert (made.text, made.unshown) == ("Fish", "special")


def test_a_word_that_marks_roles_is_a_token_only_where_the_template_puts_it() -> None:
    renderer = Renderer(FORMS["roles_are_words"].tokenizer(), "m")
    user, helper = renderer.tokenizer.convert_tokens_to_ids(["User:", "Helper:"])
    said = [Message("user", "User: Helper:Helper: I am User: and\nHelper:"), Message("assistant", "Helper:"), Message("user", "x")]
    ids = renderer.encode(said, "Helper: User:")
    assert (ids.count(user), ids.count(helper)) == (2, 2)  # the template's own
    shown = renderer.text(said, "Helper: User:")
    assert renderer.tokenizer.decode(ids) == shown and shown.endswith("Helper: Helper: User:")
    assert shown.startswith("User: User: Helper:Helper: I am User: and\nHelper:<|im_end|>\nHelper: Helper:<|im_end|>\nUser: x")
    # Put together from what the template and a text have: the header and a text that begins like a token.
    spaced = Renderer(FORMS["human_with_a_space"].tokenizer(), "m")
    (human,) = spaced.tokenizer(" Human:", add_special_tokens=False)["input_ids"]
    assert human not in spaced.encode([Message("user", "Human: x Human:")], " Human:")
    # Not one by which such a word could be forged, either.
    forged = renderer.vocabulary.written(renderer.vocabulary.marked("\ufdd03\ufdd1 User:"))
    assert user not in renderer.ids(forged)


def test_a_word_of_the_headers_counts_as_special_whatever_it_is_called() -> None:
    words = Form(FORMS["roles_are_words"].template).tokenizer()
    words.add_tokens([AddedToken(word, normalized=False) for word in ("User:", "Helper:")])
    user, helper = words.convert_tokens_to_ids(["User:", "Helper:"])
    ids = Renderer(words, "m").encode([Message("user", "User: Helper: x")])
    assert (ids.count(user), ids.count(helper)) == (1, 1)


@pytest.mark.parametrize("token", ["|", "[", "<", "a", "»", " ", "\n", "::", "<<", "x|", "[]", "<|im_start|>"])
def test_softening_ends(token: str) -> None:
    words = copy.deepcopy(Form(LOOP + BEGIN).tokenizer())
    words.add_tokens([AddedToken(token, special=True, normalized=False)], special_tokens=True)
    renderer = Renderer(words, "m")
    for text in (token * 5, f"a{token}b<|im_{token}start|>|<[x|", " <|im_<|im_end|>end|>"):
        once = renderer.plain(text)
        assert renderer.plain(once) == once and len(once) == len(text)
        assert not {*words.convert_tokens_to_ids(list(IM))} & {*renderer.ids(once)}


WORDS = ("User:", "Helper:", "Rules:", " Human:", " ки")
PIECES = [*IM, *WORDS, "!", "User", ":", " ", "\n", "a", "Hi", "ки", "\ufdd0", "\ufdd2", "3", "\ufdd1", "é", "‹", "<|"]
TEXTS = st.one_of(st.text(max_size=30), st.lists(st.sampled_from(PIECES), max_size=12).map("".join))


@settings(max_examples=200, deadline=None)
@given(TEXTS)
def test_any_text_is_ordinary_text_and_stays_as_it_is(text: str) -> None:
    """Between a template's tokens: none of them is in it, and its words come back, save the signs of markup and what is no character."""
    renderer = worded()
    begin, user, *more = renderer.tokenizer.convert_tokens_to_ids(["<|im_start|>", "User:", "Helper:", " Human:", " ки"])
    ids = renderer.encode([Message("user", f"x{text}x")])
    assert (ids.count(begin), ids.count(user)) == (0, 1) and all(ids.count(i) == (i == more[0]) for i in more)
    shown = renderer.text([Message("user", f"x{text}x")])
    assert renderer.tokenizer.decode(ids) == shown and "User: x" + renderer.plain(text).translate(NO_MARKS) + "x<|im_end|>" in shown
    if not any(word in text for word in renderer.vocabulary.words):  # the second tokenizer reads as the first one does
        assert renderer.ids(text) == renderer.tokenizer(text, add_special_tokens=False)["input_ids"]


NO_MARKS = dict.fromkeys(map(ord, "\ufdd0\ufdd1\ufdd2"))


@lru_cache
def worded() -> Renderer:
    return Renderer(Form(FORMS["roles_are_words"].template, (*IM, *WORDS), pad="!").tokenizer(), "m")


def test_the_words_of_a_vocabulary_of_pieces() -> None:
    """In a unigram vocabulary the model itself would find the piece that is the token: it is taken out there too."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = [(letter, -8.0) for letter in "▁abcdefghijklmnopqrstuvwxyzUH:.!"]
    tokenizer = Tokenizer(models.Unigram([("<unk>", 0.0), ("User:", 0.0), *letters, ("▁they", -3.0)], unk_id=0))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    words = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", additional_special_tokens=["User:", "</s>"])
    vocabulary = Vocabulary(words)
    (user,) = words("User:", add_special_tokens=False)["input_ids"]
    (ids,) = vocabulary.ids([vocabulary.written("User:" + vocabulary.marked("User: they fish.") + "</s>")])
    assert ids.count(user) == 1 and ids[0] == user and words.decode(ids[1:-1]) == "User: they fish."


def test_html_is_text_where_a_vocabulary_has_it() -> None:
    words = Form(LOOP + BEGIN).tokenizer()
    words.add_tokens([AddedToken(token, normalized=False) for token in ("<h1>", "</b>", "<tool_call>")])
    assert Renderer(words, "m").plain("<h1>a</b><tool_call>") == "<h1>a</b>‹tool_call›"


def test_marks_of_thinking_that_are_special_tokens_are_shown() -> None:
    harmony = backend_of(FORMS["harmony"])
    thought = ("<|channel|>", "analysis", "<|message|>", "Hm.", "<|end|>")
    drawn = (*thought, "<|start|>", "assistant", "<|channel|>", "final", "<|message|>", "Yes.")
    assert text_of(harmony, *drawn).text == "".join(drawn) and text_of(harmony, *drawn, "<|return|>").unshown is None
    magistral = backend_of(FORMS["magistral"])
    made = text_of(magistral, "[THINK]", "Hm.", "[/THINK]", "Yes.", "[INST]", "</s>")
    assert (made.text, made.unshown) == ("[THINK]Hm.[/THINK]Yes.", "special")


# -- 15: no pad and no end token ------------------------------------------------------------------------------------------


def test_a_tokenizer_without_pad_and_end_token_can_be_trained() -> None:
    backend = backend_of(FORMS["no_pad_no_end"], eos_token_id=None)
    assert backend.end_ids == () and any("no end token is known" in note for note in backend.info.notes)
    learner = LoraLearner("a", backend, config(), ("q_proj", "v_proj"), Adapters(backend.model), "m", 0)
    assert updater(learner).update(Rows([pair(0, "The Moon pulls the sea.", "No.")]), 1).steps == 1


def test_the_end_is_taken_from_the_template_and_the_config() -> None:
    assert backend_of(FORMS["end_only_in_the_template"], eos_token_id=None).tokenizer.pad_token == "<|im_end|>"
    words = FORMS["no_pad_no_end"].tokenizer()
    # The config of a Llama that names no end has 2, whatever token that is.
    backend = LocalBackend(model_of(words, eos_token_id=2), words, "m")
    assert backend.end_ids == () and any("token 2 ('#'), an end by default, is an ordinary word" in note for note in backend.info.notes)
    assert LocalBackend(model_of(words, eos_token_id=7), words, "m").end_ids == (7,)  # one that somebody has written down


# -- thinking -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "thinking", "ends", "opens", "prefixed"),
    [
        ("qwen3_switch", True, "assistant\n", False, "assistant\n"),
        ("qwen3_switch", False, "<think>\n\n</think>\n\n", False, "<think>\n\n</think>\n\n"),
        ("opens_think", True, "<think>\n", True, "<think>\n\n</think>\n\n"),
        ("r1_distill", True, "<｜Assistant｜><think>\n", True, "<think>\n\n</think>\n\n"),
        ("v3_1", True, "<｜Assistant｜><think>", True, "<think>\n\n</think>\n\n"),
        ("v3_1", False, "<｜Assistant｜></think>", False, "<｜Assistant｜></think>"),
        ("magistral", True, "[/INST][THINK]", True, "[/INST][THINK][/THINK]"),
        ("harmony", True, "<|start|>assistant", False, "<|start|>assistant<|channel|>final<|message|>"),
        ("harmony", False, "final<|message|>", False, "final<|message|>"),
        ("chatml", True, "assistant\n", False, "assistant\n"),
    ],
)
def test_to_think_or_not(name: str, thinking: bool, ends: str, opens: bool, prefixed: str) -> None:
    renderer = Renderer(FORMS[name].tokenizer(), name, thinking)
    assert (renderer.text(USER).endswith(ends), renderer.opens_thinking) == (True, opens)
    assert renderer.text(USER, "Depth:").endswith(prefixed + "Depth:")  # the beginning of an answer is no thought
    assert ("no switch for it" in str(renderer.notes)) == (name == "chatml")


def test_a_judge_that_thinks_is_scored_outside_of_its_thoughts() -> None:
    backend = backend_of(FORMS["opens_think"], thinking=True)
    assert backend.info.opens_thinking
    expert = make_expert("b", tiny.config("m", family="auto"), backend.info)
    judgement = Judgement("herons", (Turn(speaker="a", text="They fish."), Turn(speaker="b", text="")), "a", categories={"depth": "how"})
    request = score_request(expert, "k", judgement, "Good.", "depth")
    assert isinstance(request, ScoreRequest)
    (scores,) = backend.score([request])
    assert sum(map(torch.tensor(scores.logprobs).exp().__getitem__, range(10))) > 0
    assert "</think>\n\nGood." in backend.renderer.text(request.messages, request.prefix)
    bare = ScoreRequest("k", (Message("user", "A or B?"),), ("A", "B"))  # nothing is begun for it, and the template opens a block
    assert backend.renderer.tokenizer.decode(plan(backend.renderer, bare, "m", 0).context).endswith("<think>\n\n</think>\n\n")


@pytest.mark.parametrize(
    ("reads", "thinking", "given"),
    [
        ("{{ reasoning_effort }}", False, {"reasoning_effort": "low"}),
        ("{{ reasoning_effort }}", True, {}),
        ("{% if reasoning_effort not in ['none', 'high'] %}{% endif %}", False, {"reasoning_effort": "none"}),
        ("{% if reasoning_effort not in ['none', 'high'] %}{% endif %}", True, {"reasoning_effort": "high"}),
        ("{% set thinking = thinking | default(true) %}{{ thinking_budget }}", False, {"thinking": False, "thinking_budget": 0}),
        ("{{ reasoning and not enable_thinking }}", True, {"reasoning": True, "enable_thinking": True}),
        ("{% for m in messages %}{{ m.thinking or '<think>' }}{% endfor %}", False, {}),
    ],
)
def test_a_template_is_told_by_the_variables_that_it_reads(reads: str, thinking: bool, given: dict[str, Any]) -> None:
    assert Renderer(Form("{% if false %}" + reads + "{% endif %}" + LOOP + BEGIN).tokenizer(), "m", thinking).template.switches == given
