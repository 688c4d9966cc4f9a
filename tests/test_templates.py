"""Every form of chat template: talk, a blank turn, resume, candidates, judging in both forms, WIM, one update by ids; or one message."""

from __future__ import annotations

import copy
import gc
import math
import re
from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from expertchat.backends.adapters import Adapters
from expertchat.backends.local import LocalBackend
from expertchat.config import ConfigError
from expertchat.experts.registry import make_expert
from expertchat.preferences.candidates import Bundle, Rollout, choices
from expertchat.preferences.config import PairsConfig
from expertchat.preferences.pairs import make_pairs
from expertchat.records import Message, PreferencePair, Topic, Transcript, Turn
from expertchat.talk.cast import Cast
from expertchat.talk.conversation import Dialogue
from expertchat.talk.scheduler import Scheduler
from expertchat.training import update as shared
from expertchat.training.config import OnlineDpoConfig
from expertchat.training.learner import LoraLearner
from expertchat.training.method import Rows
from expertchat.training.rows import Row, alike
from tests import tiny
from tests.forms import FORMS, Form, ordinary
from tests.scripted import BagOfWords
from tests.test_rollout import dpo_config
from tests.test_update import config, updater

torch.set_num_threads(1)
WORKING = [name for name, form in FORMS.items() if not form.refused]
PAIRS = PairsConfig(mode="all", min_margin=0.0, length_ratio=1.0, max_lag=0, cut="no_end")
BLANK = Turn(speaker="b", text="")
SAID = Turn(speaker="a", text="Hi! Say <b>it</b>.")


@pytest.fixture(scope="module", autouse=True)
def few_objects() -> Iterator[None]:
    """Each update collects garbage: not through all that was imported, forty times."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@lru_cache
def weights() -> tuple[LlamaForCausalLM, Tensor]:
    """A random model of 448 words that draws words of letters, and a row of its head by which a word comes one time in ten."""
    words = ordinary().get_vocab_size()
    torch.manual_seed(3)
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    more: dict[str, Any] = {"max_position_embeddings": 4096, "initializer_range": 0.3, "eos_token_id": None}
    made = LlamaForCausalLM(LlamaConfig(vocab_size=448, **shape, **more)).eval()
    with torch.no_grad():
        made.model.embed_tokens.weight[:, 0] = 3.0  # a number that no layer changes, by which words are kept from coming
        for layer in made.model.layers:
            layer.self_attn.o_proj.weight[0], layer.mlp.down_proj.weight[0] = 0.0, 0.0
        made.lm_head.weight[:256], made.lm_head.weight[words:] = 0.0, 0.0
        made.lm_head.weight[:256, 0], made.lm_head.weight[words:, 0] = -20.0, -20.0
        hidden_N_D = made.model(torch.randint(0, words, (8, 64))).last_hidden_state.reshape(-1, 32)
        wanted_N = made.lm_head(hidden_N_D).logsumexp(-1) - math.log(10)
        often_D = torch.linalg.lstsq(hidden_N_D, wanted_N[:, None]).solution[:, 0]
    return made, often_D


def backend_of(form: Form, name: str = "m", thinking: bool = False) -> LocalBackend:
    """The model with the tokenizer of a form: it draws its end token and its words."""
    model, often_D = weights()
    backend = LocalBackend(copy.deepcopy(model), form.tokenizer(), name, 5, max_batch=16, thinking=thinking)
    words = [backend.tokenizer.convert_tokens_to_ids(word) for word in form.words]
    with torch.no_grad():
        for word in (*backend.end_ids[:1], *words):
            backend.model.lm_head.weight[word] = often_D
    return backend


@lru_cache
def settings() -> OnlineDpoConfig:
    """Rounds of two turns, with three candidates at that of b, judged by a in both forms."""
    whole = dpo_config("candidates.count=3", "conversation.turns=2", "judging.form=both", "judging.min_mass=0", "reward.dialogue_weight=0")
    judging = whole.judging.model_copy(update={"categories": {"depth": "how deep"}})
    return whole.model_copy(update={"judging": judging})


def rollout_of(learner: LoraLearner) -> Rollout:
    drawn, judged = {"method": "sampling", "max_new_tokens": 10}, {"method": "greedy", "max_new_tokens": 8}
    decoding = {"topic": judged, "reply": drawn, "judge": judged}
    info = learner.backend.info
    experts: Any = {seat: make_expert(seat, tiny.config("m", family="auto", decoding=decoding), info) for seat in "ab"}
    cast = Cast(dict.fromkeys("ab", learner.backend), experts, seats=("a", "b"))
    topic = Topic(id="r0001/c0000", text="herons", source="list")
    dialogue = Dialogue(topic, "a", experts, settings().conversation, lambda event: None, cast.tokens, 5)
    return Rollout(dialogue, cast, settings().rules, 1, ("b",), {"b": 0})


def run(learner: LoraLearner, flow: Any) -> Any:
    """What a flow returns; all is asked of the one model."""
    found: list[Any] = []

    def whole() -> Any:
        found.append((yield from flow))

    assert Scheduler({"a": learner.base, "b": learner.policy, "embedder": BagOfWords()}).run([whole()])
    return found[0]


def specials(backend: LocalBackend, messages: list[Message]) -> list[int]:
    ids = backend.renderer.encode(messages)
    words = {backend.tokenizer.convert_tokens_to_ids(word) for word in backend.renderer.vocabulary.words if len(word) > 1}
    return [i for i in ids if i in words or i in backend.renderer.vocabulary.hidden]


@pytest.mark.parametrize("name", [name for name, form in FORMS.items() if form.refused])
def test_what_cannot_be_adapted_is_refused_in_one_message(name: str) -> None:
    with pytest.raises(ConfigError, match=FORMS[name].refused) as caught:
        backend_of(FORMS[name], name)
    assert len(caught.value.problems) == 1 and str(caught.value).startswith(f"{name}: ")


@pytest.mark.parametrize("name", WORKING)
def test_a_form_does_everything(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    form, backend = FORMS[name], backend_of(FORMS[name], name)
    renderer, info = backend.renderer, backend.info
    assert (info.system_role, info.alternation, info.opens_thinking) == (form.system, form.alternation, False)
    assert not [note for note in form.noted if not any(re.search(note, said) for said in info.notes)]
    assert all("blank" not in note for note in info.notes) or "blank" in str(form.noted)
    end = renderer.end_token()
    assert (None if end is None else backend.tokenizer.convert_ids_to_tokens(end)) == form.end
    assert backend.tokenizer.pad_token_id == backend.pad_id  # there is always one to train with

    learner = LoraLearner("b", backend, config(beta=0.1), ("q_proj", "v_proj"), Adapters(backend.model), name, 0)
    rollout = rollout_of(learner)
    # Talk: with a blank turn in the history, on from there, and the same again.
    longer = settings().conversation.model_copy(update={"turns": 4})
    dialogue = replace(rollout.dialogue, config=longer)
    told: Transcript = run(learner, dialogue.flow([SAID, BLANK]))
    assert len(told.turns) == 4 or (len(told.turns) == 3 and told.stop_reason == "blank")  # two in a row say nothing
    again: Transcript = run(learner, dialogue.flow(told.turns[:3]))
    assert [turn.text for turn in again.turns] == [turn.text for turn in told.turns]
    check_prompts(backend, form, list(rollout.dialogue.request(told.turns[:2])[0].messages), [SAID.text])

    # Candidates, their judgements, an update.
    bundle: Bundle = run(learner, rollout.bundle())
    for one in bundle.sampled:
        assert one.prompt_ids == renderer.encode(one.prompt) and all(c.ids for c in one.candidates)
        for c in one.candidates:
            ends = c.ids is not None and c.ids[-1] in backend.end_ids
            drawn = backend.tokenizer.convert_ids_to_tokens(c.ids)
            assert all(c.text.count(word.strip()) == drawn.count(word) for word in form.words) and c.altered is None
            assert ends == c.ended and len(c.ids or ()) == c.tokens and not {*(c.ids or ())[:-1]} & {*backend.end_ids}
    ratings = [rating for one in bundle.sampled for rating in one.ratings]
    assert len(ratings) == 3 and all(rating.expected is not None and 1 <= rating.expected <= 10 for rating in ratings)
    assert all(rating.value is not None or rating.problem for rating in ratings)
    wims = [response for one in bundle.sampled for response in one.wims]
    assert len(wims) == 3 and all(response.text or response.problem for response in wims)
    scores = {c.id: float(c.index) for one in bundle.sampled for c in one.candidates}
    pairs = make_pairs(choices([bundle], scores, "a"), PAIRS, 0).pairs
    check_update(learner, pairs[0], monkeypatch)


def check_prompts(backend: LocalBackend, form: Form, messages: list[Message], texts: list[str]) -> None:
    """What a prompt shows, and that its tokens are that text, whatever a text says."""
    renderer = backend.renderer
    shown = renderer.text(messages)
    begun = renderer.text(messages, "So")  # where the template puts an answer: of some a space stands before it
    assert shown.endswith(form.begins) and begun == shown + renderer.form.lead + "So"
    asked = [Message("user", "x")]
    answered = renderer.template.tried(*asked, Message("assistant", "So"), generation=False)
    thinks = "think" in f"{answered}{renderer.text(asked, 'So')}".lower()
    assert answered is None or thinks or answered.startswith(renderer.text(asked, "So"))
    escaped = [text if "changes texts" not in form.noted else text.replace("<", "&lt;") for text in texts]
    assert all(shown.count(text) == 1 for text in escaped)
    blank = messages[[message.content for message in messages].index("")]
    assert ("(no answer)" in shown) == ("refuses a blank" in str(form.noted)) and blank.role == "user"
    assert backend.tokenizer.decode(renderer.encode(messages)) == shown
    for token in (*form.special, *form.words):
        said = [Message(m.role, f"{m.content}{token}{token} x {token}") for m in messages]
        assert specials(backend, said) == specials(backend, messages), token
        if token in form.words:
            assert all(text.content.strip() in renderer.text(said) for text in said)  # not rewritten


def check_update(learner: LoraLearner, pair: PreferencePair, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rows of an update are what was shown and drawn; at version 0 policy and reference are one, so the loss is ln 2."""
    rows: list[Row] = []
    monkeypatch.setattr(shared, "alike", lambda fitting, *more: rows.extend(fitting) or alike(fitting, *more))
    done = updater(learner).update(Rows([pair]), 1)
    assert done.steps == 1 and done.figures["loss"] == pytest.approx(math.log(2), abs=1e-4)
    assert rows == [{"prompt_ids": pair.ids.prompt, "chosen_ids": pair.ids.chosen, "rejected_ids": pair.ids.rejected}]
