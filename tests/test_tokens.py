"""The tokens that are trained are those that were sampled, after those that the policy was shown: by ids, on every family."""

from __future__ import annotations

import datetime
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers.utils import chat_template_utils

from expertchat.backends import drawing
from expertchat.backends.adapters import Adapters
from expertchat.backends.base import Completion, Decoding, GenerateRequest
from expertchat.backends.folders import find_folder
from expertchat.backends.likelihood import likelihoods
from expertchat.backends.local import LocalBackend
from expertchat.backends.rendering import Renderer
from expertchat.experts.auto import Auto
from expertchat.experts.base import ExpertChat, History, Settings
from expertchat.experts.llama3 import Llama3
from expertchat.experts.mixtral import Mixtral
from expertchat.experts.qwen import Qwen
from expertchat.preferences.config import PairsConfig
from expertchat.preferences.pairs import Choice, make_pairs
from expertchat.records import Candidate, Message, PreferencePair, Turn
from expertchat.training import dpo
from expertchat.training.learner import LoraLearner
from expertchat.training.method import Rows
from expertchat.training.rows import row_of
from tests import tiny
from tests.test_update import config, updater

torch.set_num_threads(1)
SAMPLING = Decoding("sampling", max_new_tokens=14, temperature=1.0)
FAMILIES: dict[str, type[ExpertChat]] = {
    "llama3": Llama3, "llama3_1": Llama3, "mixtral": Mixtral, "qwen2_5": Qwen, "qwen3": Qwen, "smollm": Auto,
}  # fmt: skip
TURNS = (
    Turn(speaker="a", text="Hello. How do herons hunt?"),
    Turn(speaker="b", text="<think>\nFish.\n</think>\n\nThey stand still. Why do you ask?  "),
    Turn(speaker="a", text="I saw one strike."),
)
PAIRS = PairsConfig(mode="best_worst", min_margin=0.0, length_ratio=1.0, max_lag=0, cut="no_end")


def request(kind: str, key: str = "r0001/c0000/t03", decoding: Decoding = SAMPLING) -> GenerateRequest:
    """What the seat b of a family asks its model for the fourth turn."""
    words = Renderer(tiny.tokenizer(kind), kind)
    settings = Settings(tiny.prompts(), "You are {name}, an expert on {topic}.", decoding, decoding, decoding)
    expert = FAMILIES[kind]("b", settings, special_tokens=words.special_tokens)
    return GenerateRequest(key, expert.reply_request(key, History("herons", TURNS))[0].messages, decoding)


def candidate(answer: Completion, index: int, **more: Any) -> Candidate:
    values = {"text": f"{index} {answer.text.strip()}", "tokens": answer.tokens, "cut": answer.finish == "length"}
    values |= {"ids": list(answer.ids) or None, "ended": answer.ended, **more}
    return Candidate(id=f"h/k{index}", transcript="h", round=1, turn=3, index=index, speaker="b", policy_version=0, **values)


def pair_of(asked: GenerateRequest, answers: Sequence[Completion], settings: PairsConfig = PAIRS) -> PreferencePair:
    """The first answer is chosen, the second rejected."""
    candidates = tuple(candidate(answer, i) for i, answer in enumerate(answers))
    (pair,) = make_pairs([Choice(asked.messages, candidates, (1.0, 0.0), "b", list(answers[0].prompt))], settings, 0).pairs
    return PreferencePair.model_validate_json(pair.to_json())


# -- the same probabilities -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["llama3", "mixtral", "embedded:llama", "embedded:mixtral"])
def test_sampling_scoring_and_update_see_the_same_probabilities(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    embedded = kind.startswith("embedded:")
    folder = find_folder(kind, None) if embedded else tiny.build(tmp_path, kind)
    backend = LocalBackend.load(folder, kind, 5, dtype="fp32", device="cpu")
    learner = LoraLearner("b", backend, config(beta=0.1), ("q_proj", "v_proj"), Adapters(backend.model), kind, 0)
    asked = GenerateRequest("k0", (Message("user", "What of herons?"),), SAMPLING) if embedded else request(kind)
    drawn: list[float] = []

    def choose(logits_B_V: Any, *more: Any) -> Any:
        words = real(logits_B_V, *more)
        drawn.append(float(logits_B_V[0].double().log_softmax(-1)[words[0]]))
        return words

    real = drawing.choose
    monkeypatch.setattr(drawing, "choose", choose)
    answers, sampled = [], []
    for key in ("k0", "k1"):
        drawn.clear()
        answers += learner.policy.generate([GenerateRequest(key, asked.messages, SAMPLING)])
        sampled.append(sum(drawn))  # one call of choose for each token, the end token included
        assert len(drawn) == answers[-1].tokens == len(answers[-1].ids)
    assert answers[0].ids != answers[1].ids and answers[0].prompt == answers[1].prompt
    # Scoring
    for voice in (learner.policy, learner.base):
        ((one, two),) = likelihoods(voice, [(answers[0].prompt, [answer.ids for answer in answers])])
        assert (one.logp, two.logp) == pytest.approx(sampled, abs=2e-3)
    # The update: at version 0 policy and reference are one, so the loss is ln 2, and TRL's own sums are those of sampling.
    monkeypatch.setitem(dpo.Dpo.means, "logp_chosen", "logps/chosen")
    monkeypatch.setitem(dpo.Dpo.means, "logp_rejected", "logps/rejected")
    done = updater(learner).update(Rows([pair_of(asked, answers)]), 1)
    assert done.figures["loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert [done.figures["logp_chosen"], done.figures["logp_rejected"]] == pytest.approx(sampled, abs=2e-3)


def test_an_update_in_half_precision_has_no_steps_in_its_probabilities(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Scoring and TRL compute the output layer in fp32: in bf16 logits near 10 come in steps of 1/16, for every token."""
    backend = LocalBackend.load(tiny.build(tmp_path, "llama3"), "m", 5, dtype="bf16", device="cpu")
    # Layers that add nothing: a pass of another shape rounds them otherwise, differently on every machine, and hides what the head does.
    with torch.no_grad():
        for layer in backend.model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        backend.model.lm_head.weight *= 4
    learner = LoraLearner("b", backend, config(beta=0.1), ("q_proj", "v_proj"), Adapters(backend.model), "llama3", 0)
    asked = request("llama3")
    answers = [learner.policy.generate([GenerateRequest(key, asked.messages, SAMPLING)])[0] for key in ("k0", "k1")]
    ((one, two),) = likelihoods(learner.policy, [(answers[0].prompt, [answer.ids for answer in answers])])
    monkeypatch.setitem(dpo.Dpo.means, "logp_chosen", "logps/chosen")
    monkeypatch.setitem(dpo.Dpo.means, "logp_rejected", "logps/rejected")
    done = updater(learner).update(Rows([pair_of(asked, answers)]), 1)
    found = [done.figures["logp_chosen"], done.figures["logp_rejected"]]
    assert found == pytest.approx([one.logp, two.logp], abs=2e-3)  # of some 20 nats; with a head in bf16 they differ by tenths


# -- the same tokens ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", FAMILIES)
def test_the_prompt_is_the_one_that_was_shown(kind: str, tmp_path: Path) -> None:
    backend = LocalBackend.load(tiny.build(tmp_path, kind), kind, 5, dtype="fp32", device="cpu")
    keys = [f"r0001/c0000/t03/k{i}" for i in range(2)]
    asked = request(kind)
    answers = backend.generate([GenerateRequest(key, asked.messages, SAMPLING) for key in keys])
    pair = pair_of(asked, answers)
    row = row_of(pair, backend.renderer)
    assert row == {"prompt_ids": list(answers[0].prompt), "chosen_ids": list(answers[0].ids), "rejected_ids": list(answers[1].ids)}
    # A folder of before has texts alone: the same prompt, then the reply's own text, and the template's end.
    reply = "They wait, then strike. <think>"
    old = pair.model_copy(update={"ids": None, "provenance": {}, "chosen": [{"role": "assistant", "content": reply}]})
    row = row_of(old, backend.renderer)
    assert row["prompt_ids"] == list(answers[0].prompt)
    end = row["chosen_ids"].index(backend.renderer.end_token())
    assert backend.tokenizer.decode(row["chosen_ids"][:end]).strip() == reply


@pytest.mark.parametrize("kind", FAMILIES)
def test_a_reply_that_was_cut_has_no_end(kind: str, tmp_path: Path) -> None:
    backend = LocalBackend.load(tiny.build(tmp_path, kind), kind, 5, dtype="fp32", device="cpu")
    short = Decoding("sampling", max_new_tokens=3)
    asked = request(kind, decoding=short)
    answers = backend.generate([GenerateRequest(f"k{i}", asked.messages, short) for i in range(12)])
    cut, whole = ([one for one in answers if one.finish == finish] for finish in ("length", "stop"))
    assert cut and all(len(one.ids) == 3 and not one.ended and not {*one.ids} & {*backend.end_ids} for one in cut)
    assert all(one.ended and one.ids[-1] in backend.end_ids for one in whole)
    pair = pair_of(asked, cut[:2])
    assert (pair.provenance["cut_chosen"], pair.provenance["cut_rejected"]) == (1, 1)
    for one in (pair, pair.model_copy(update={"ids": None})):  # by ids, and from the texts of an older folder
        row = row_of(one, backend.renderer)
        assert not {*row["chosen_ids"], *row["rejected_ids"]} & {*backend.end_ids}


class Clock:
    """A datetime whose `now` is set."""

    day = datetime.datetime(2026, 2, 28, 23, 59)

    @classmethod
    def now(cls) -> datetime.datetime:
        return cls.day


def test_midnight_changes_no_prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat_template_utils, "datetime", Clock)
    messages = [Message("user", "What of herons?")]
    before = Renderer(tiny.tokenizer("llama3_1"), "llama3_1").encode(messages)
    monkeypatch.setattr(Clock, "day", datetime.datetime(2026, 3, 1, 0, 1))
    again = Renderer(tiny.tokenizer("llama3_1"), "llama3_1")
    assert again.encode(messages) == before and "Today Date: 26 Jul 2024\n" in again.text(messages)
    assert again.reply(messages, Message("assistant", "They fish."))[-1] == again.end_token()


# -- what is shown and what was written -----------------------------------------------------------------------------------


def test_a_reply_says_what_its_text_does_not_show(tmp_path: Path) -> None:
    backend = LocalBackend.load(tiny.build(tmp_path, "llama3"), "llama3", 5, dtype="fp32", device="cpu")
    end, header = backend.tokenizer.convert_tokens_to_ids(["<|eot_id|>", "<|start_header_id|>"])
    words = backend.tokenizer("Good. Next", add_special_tokens=False)["input_ids"]
    plain_, special, stopped = (
        backend.row(GenerateRequest("k", (), Decoding(max_new_tokens=99), stop=("Next",) if last else ()), [1, 2, 3]) for last in (0, 0, 1)
    )
    for row, ids in ((plain_, [*words, end]), (special, [header, *words, end]), (stopped, words)):
        for token in ids:
            row.add(token, token == end)
    made = [row.completion([1, 2, 3], 0.0) for row in (plain_, special, stopped)]
    assert [(one.text, one.unshown, one.ended) for one in made] == [
        ("Good. Next", None, True), ("Good. Next", "special", True), ("Good. ", "stop", False),
    ]  # fmt: skip
    assert made[0].ids == (*words, end) and made[0].tokens == len(words) + 1 and made[0].prompt == (1, 2, 3)


def test_altered_and_cut_replies_are_left_out_of_pairs_and_counted() -> None:
    answers = [Completion("x", 1, 0.0, finish, (1,), (7,)) for finish in ("stop", "stop", "length", "stop")]  # type: ignore[arg-type]
    found = [candidate(answer, i, altered="markup" if i == 0 else None) for i, answer in enumerate(answers)]
    choice = Choice((Message("user", "?"),), tuple(found), (0.9, 0.1, 0.8, 0.4), "b", [1])
    kept = make_pairs([choice], PAIRS, 0)
    # The best, k0, is altered: k2 (0.8), which was cut, against k1 (0.1).
    assert [pair.id for pair in kept.pairs] == ["h/k2-k1"] and (kept.altered, kept.cut, kept.nulls) == (1, 0, 0)
    dropped = make_pairs([choice], PAIRS.model_copy(update={"cut": "drop"}), 0)
    assert [pair.id for pair in dropped.pairs] == ["h/k3-k1"] and (dropped.altered, dropped.cut) == (1, 1)


def test_an_older_record_is_read_and_falls_back_on_its_text() -> None:
    old = Candidate.model_validate_json(
        '{"id":"h/k0","schema":1,"transcript":"h","round":1,"turn":1,"index":0,"speaker":"a","text":"x","policy_version":0}'
    )
    assert (old.ids, old.ended, old.altered) == (None, None, None)
    two = old.model_copy(update={"id": "h/k1", "index": 1, "text": "y"})
    (pair,) = make_pairs([Choice((Message("user", "?"),), (old, two), (1.0, 0.0), "b", [1])], PAIRS, 0).pairs
    assert pair.ids is None
