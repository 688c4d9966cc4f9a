"""No run of tokens twice, and stop strings, with every method: measured by transformers' own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import GenerationConfig, NoRepeatNGramLogitsProcessor

from expertchat.backends.base import Decoding, GenerateRequest
from expertchat.backends.folders import find_folder
from expertchat.backends.local import LocalBackend
from expertchat.backends.ngrams import Ngrams, NoRepeats, without
from expertchat.command.compose import load
from expertchat.experts.registry import decoding
from expertchat.records import Message

MESSAGES = (Message("user", "Let us talk about bees."),)
METHODS = {
    "greedy": Decoding("greedy", 28), "sampling": Decoding("sampling", 28, temperature=0.3), "beam": Decoding("beam", 28, beams=3),
    "contrastive": Decoding("contrastive", 28, penalty_alpha=0.2, top_k=3),
}  # fmt: skip


def backend(**more: Any) -> LocalBackend:
    made = LocalBackend.load(find_folder("embedded:llama"), "m", 3, dtype="fp32", device="cpu", **more)
    made.end_ids = ()
    made.model.generation_config.eos_token_id = None
    return made


@pytest.fixture(scope="module")
def engine() -> LocalBackend:
    return backend()


@pytest.fixture(scope="module")
def plain() -> LocalBackend:
    return backend(engine=False)


def written(backend: LocalBackend, **changes: Any) -> Any:
    from dataclasses import replace

    method = METHODS[changes.pop("method")]
    return backend.generate([GenerateRequest("k", MESSAGES, replace(method, **changes))])[0]


@contextmanager
def preferring(backend: LocalBackend, few: list[int]) -> Iterator[None]:
    """While entered, the model says others than these tokens only where they are ruled out."""

    def raised(head: Any, given: Any, logits: torch.Tensor) -> torch.Tensor:
        more = torch.zeros_like(logits)
        more[..., few] = 100
        return logits + more

    hook = backend.model.get_output_embeddings().register_forward_hook(raised)
    try:
        yield
    finally:
        hook.remove()


def repeats(ids: Any, n: int) -> int:
    runs = [tuple(ids[i : i + n]) for i in range(len(ids) - n + 1)]
    return len(runs) - len(set(runs))


# -- which words ------------------------------------------------------------------------------------------------------------


def test_by_hand() -> None:
    """a b a b: after "a b" came a, so of three tokens "a b a" would be there twice. An end token may come again."""
    a, b, end = 1, 2, 3
    assert Ngrams(3).ruled_out([a, b, a, b]) == {a}
    assert Ngrams(2).ruled_out([a, b, a]) == {b} and Ngrams(1).ruled_out([a, b]) == {a, b}
    assert Ngrams(3).ruled_out([a]) == set() and Ngrams(4).ruled_out([a, b]) == set()
    assert Ngrams(2, [end]).ruled_out([a, end, a]) == set()
    growing, ids = Ngrams(2), [a, b]
    assert growing.ruled_out(ids) == set()
    assert growing.ruled_out([*ids, a]) == {b} and growing.ruled_out([*ids, a, a]) == {a, b}
    one = torch.zeros(2, 2)
    assert torch.equal(without(one, [(), ()]), one)
    assert without(one, [(0, 1), (1,)]).tolist() == [[0.0, 0.0], [0.0, float("-inf")]]  # no word would be left to the first row


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 5), st.lists(st.lists(st.integers(0, 5), min_size=9, max_size=9), min_size=1, max_size=3))
def test_the_same_words_as_transformers_rules_out(n: int, rows: list[list[int]]) -> None:
    ids, scores = torch.tensor(rows), torch.arange(7.0).repeat(len(rows), 1)
    assert torch.equal(NoRepeats(n)(ids, scores), NoRepeatNGramLogitsProcessor(n)(ids, scores))


# -- with every method --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("method", "n"), [("greedy", 2), ("greedy", 1), ("beam", 2)])
def test_the_same_text_as_transformers_writes(method: str, n: int, engine: LocalBackend) -> None:
    found = written(engine, method=method, no_repeat_ngram=n)
    beams = 3 if method == "beam" else 1
    config = GenerationConfig(do_sample=False, num_beams=beams, max_new_tokens=28, no_repeat_ngram_size=n, pad_token_id=0)
    ids = torch.tensor([found.prompt])
    wanted = engine.model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), generation_config=config)[0, len(found.prompt) :]
    assert list(found.ids) == wanted.tolist()


@pytest.mark.parametrize("method", METHODS)
def test_no_run_comes_twice(method: str, engine: LocalBackend, plain: LocalBackend) -> None:
    """Whatever the model says: of 28 tokens that are 4 different ones, 27 runs of two are at most 4 * 4 = 16 different ones."""
    few = list(dict.fromkeys(written(engine, method=method).ids))[:4]
    with preferring(engine, few), preferring(plain, few):
        before = written(engine, method=method)
        found = written(engine, method=method, no_repeat_ngram=2)
        assert before.ids == written(engine, method=method).ids
        assert set(before.ids) <= set(few) and repeats(before.ids, 2) >= 27 - 16
        own = [*found.prompt[-1:], *found.ids]
        assert repeats(own, 2) == 0 and len(found.ids) == 28
        if method in ("contrastive", "sampling"):
            assert written(plain, method=method, no_repeat_ngram=2).ids == found.ids


def test_rows_of_several_wishes_run_together(engine: LocalBackend) -> None:
    """Each as it is alone."""
    from dataclasses import replace

    wishes = [replace(METHODS["greedy"], no_repeat_ngram=n) for n in (0, 2, 3)]
    together = engine.generate([GenerateRequest(f"k{i}", MESSAGES, wish) for i, wish in enumerate(wishes)])
    alone = [engine.generate([GenerateRequest("k", MESSAGES, wish)])[0] for wish in wishes]
    assert [one.ids for one in together] == [one.ids for one in alone] and len({one.ids for one in alone}) > 1


@pytest.mark.parametrize("method", METHODS)
def test_stop_strings_of_the_decoding(method: str, engine: LocalBackend) -> None:
    """A piece in the middle of what is written anyway; of beams the search itself ends there, or goes another way."""
    whole = written(engine, method=method)
    middle = len(whole.text) // 2
    stop = whole.text[middle : middle + 3]
    found = written(engine, method=method, stop=(stop,))
    assert found.ids and stop not in found.text
    if method != "beam":
        assert found.finish == "stop" and found.unshown == "stop"
        assert found.text == whole.text[: whole.text.index(stop)]
        return
    config = GenerationConfig(do_sample=False, num_beams=3, max_new_tokens=28, pad_token_id=0, stop_strings=[stop])
    ids = torch.tensor([found.prompt])
    wanted = engine.model.generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), generation_config=config, tokenizer=engine.tokenizer
    )[0, len(found.prompt) :].tolist()
    assert list(found.ids) == wanted[: len(found.ids)]


def test_both_are_keys_of_the_config() -> None:
    words = ["experts.a.decoding.reply.no_repeat_ngram=3", "experts.a.decoding.reply.stop=['###','A:']"]
    reply = load("converse", words).experts["a"].decoding.reply
    assert decoding(reply).no_repeat_ngram == 3 and decoding(reply).stop == ("###", "A:")
    assert decoding(load("converse", []).experts["a"].decoding.reply).stop == ()
