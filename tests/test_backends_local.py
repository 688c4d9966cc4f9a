"""The transformers backend on tiny real models: batching, keys, stops, streaming, option scores."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from expertchat.backends.base import Decoding, GenerateRequest, ScoreRequest
from expertchat.backends.local import LocalBackend
from expertchat.backends.streaming import Pieces, Row, Watch
from expertchat.config import ConfigError
from expertchat.records import Message
from tests import tiny

torch.set_num_threads(1)
OPTIONS = tuple(f" {n}" for n in range(1, 11))
SAMPLING = Decoding(method="sampling", max_new_tokens=24, temperature=0.9, top_p=0.95)
METHODS = [
    SAMPLING,
    Decoding(method="sampling", max_new_tokens=16, temperature=1.3, top_k=20, min_p=0.02),
    Decoding(method="greedy", max_new_tokens=16),
    Decoding(method="beam", max_new_tokens=12, beams=3),
    Decoding(method="contrastive", max_new_tokens=12, penalty_alpha=0.6, top_k=4),
]


def chat(*texts: str) -> tuple[Message, ...]:
    return tuple(Message("assistant" if i % 2 else "user", text) for i, text in enumerate(texts))


CHATS = [
    chat("Hi."),
    chat("What do you know of herons?", "They nest in trees.", "Where do they fish, and how do they strike?"),
    chat("Please open the discussion with one question about owls, and say who you are."),
    chat("Depth?"),
    chat("Is it 10 or 1?", "It is 10.", "Why?"),
]


def requests(decoding: Decoding, **more: Any) -> list[GenerateRequest]:
    return [GenerateRequest(f"c{i}", messages, decoding, **more) for i, messages in enumerate(CHATS)]


@pytest.fixture(scope="module", params=["llama3", "mixtral", "qwen2_5"])
def backend(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LocalBackend:
    digits = "split" if request.param == "mixtral" else "whole"
    folder = tiny.build(tmp_path_factory.mktemp(request.param), request.param, digits)
    return LocalBackend.load(folder, request.param, seed=3, device="cpu")


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> LocalBackend:
    return LocalBackend.load(tiny.build(tmp_path_factory.mktemp("llama"), "llama3"), "llama", seed=3, device="cpu")


# -- batching and keys ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("decoding", METHODS, ids=lambda d: f"{d.method}{d.top_k}")
def test_text_depends_on_key_and_seed_alone(backend: LocalBackend, decoding: Decoding) -> None:
    together = backend.generate(requests(decoding))
    alone = [backend.generate([request])[0] for request in requests(decoding)]
    backwards = backend.generate(requests(decoding)[::-1])[::-1]
    texts = [completion.text for completion in together]
    assert texts == [c.text for c in alone] == [c.text for c in backwards]
    assert [c.tokens for c in together] == [c.tokens for c in alone]
    assert len(set(texts)) > 1


def test_small_batches_and_mixed_decodings_change_nothing(llama: LocalBackend) -> None:
    mixed = [GenerateRequest(f"{m}/{i}", c, d) for m, d in enumerate(METHODS[:3]) for i, c in enumerate(CHATS)]
    expected = [c.text for c in llama.generate(mixed)]
    llama.max_batch = 2
    try:
        assert [c.text for c in llama.generate(mixed)] == expected
    finally:
        llama.max_batch = 64


def test_key_and_seed_change_the_text(llama: LocalBackend) -> None:
    def text(key: str) -> str:
        return llama.generate([GenerateRequest(key, CHATS[0], SAMPLING)])[0].text

    first, other_key = text("a"), text("b")
    llama.seed = 4
    try:
        other_seed = text("a")
    finally:
        llama.seed = 3
    assert len({first, other_key, other_seed}) == 3 and text("a") == first


def test_sampling_equals_a_plain_loop(llama: LocalBackend) -> None:
    """The same draw without cache, batch and generate(): softmax, cumulative sum, the noise of the position."""
    from expertchat.backends.decoding import kept_probabilities, uniforms

    decoding = Decoding(method="sampling", max_new_tokens=8, temperature=1.2, top_p=0.9)
    ids = llama.renderer.encode(CHATS[1])
    start = len(ids)
    for u in uniforms(3, "key", 8):
        with torch.no_grad():
            probs = kept_probabilities(llama.model(torch.tensor([ids])).logits[:, -1], decoding)[0]
        cumulative = torch.cumsum(probs, 0)
        token = next(i for i, c in enumerate(cumulative.tolist()) if c > u * cumulative[-1].item())
        if token in llama.end_ids:
            break
        ids.append(token)
    expected = llama.tokenizer.decode(ids[start:], skip_special_tokens=True)
    assert llama.generate([GenerateRequest("key", CHATS[1], decoding)])[0].text == expected


def test_the_models_own_generation_settings_do_not_mix_in(tmp_path: Path) -> None:
    from transformers import GenerationConfig

    folder = tiny.build(tmp_path, "qwen2_5")
    plain = LocalBackend.load(folder, "m", device="cpu").generate(requests(METHODS[2]))
    GenerationConfig(repetition_penalty=5.0, do_sample=True, top_k=3, temperature=0.2, eos_token_id=[7]).save_pretrained(folder)
    backend = LocalBackend.load(folder, "m", device="cpu")
    assert 7 in backend.end_ids
    backend.end_ids = tuple(i for i in backend.end_ids if i != 7)
    assert [c.text for c in backend.generate(requests(METHODS[2]))] == [c.text for c in plain]


def test_empty_batch(llama: LocalBackend) -> None:
    assert llama.generate([]) == [] and llama.score([]) == []


# -- ends -------------------------------------------------------------------------------------------------------------


def test_tokens_and_finish(llama: LocalBackend) -> None:
    decoding = Decoding(method="sampling", max_new_tokens=60, temperature=1.5)
    results = llama.generate([GenerateRequest(f"k{i}", CHATS[i % 5], decoding) for i in range(30)])
    assert {r.finish for r in results} == {"stop", "length"}  # 3 of 420 tokens end a text: about a third end within 60
    assert all(r.tokens == 60 for r in results if r.finish == "length")
    assert all(1 <= r.tokens <= 60 for r in results)
    assert not any(token in r.text for r in results for token in llama.info.special_tokens)


@pytest.mark.parametrize("decoding", METHODS, ids=lambda d: f"{d.method}{d.top_k}")
def test_stop_strings_end_the_text_before_them(backend: LocalBackend, decoding: Decoding) -> None:
    free = backend.generate(requests(decoding))
    index = max(range(len(free)), key=lambda i: len(free[i].text))
    text = free[index].text
    stop = text[len(text) // 2 : len(text) // 2 + 2]
    stopped = backend.generate(requests(decoding, stop=(stop, "never in it")))[index]
    assert stopped.text == text[: text.index(stop)] and stopped.finish == "stop"
    assert stopped.tokens <= free[index].tokens
    assert backend.generate([GenerateRequest(f"c{index}", CHATS[index], decoding, stop=(stop,))])[0].text == stopped.text


def test_end_ids_of_all_sources(tmp_path: Path) -> None:
    folder = tiny.build(tmp_path, "llama3")
    backend = LocalBackend.load(folder, "m", device="cpu", stop_tokens=("<|start_header_id|>", "<|not there|>"))
    names = set(backend.tokenizer.convert_ids_to_tokens(list(backend.end_ids)))
    assert names == {"<|end_of_text|>", "<|eot_id|>", "<|start_header_id|>"}


def test_prefix_is_continued_and_not_repeated(llama: LocalBackend) -> None:
    with_prefix = GenerateRequest("k", CHATS[0], METHODS[2], prefix="Points:")
    text = llama.generate([with_prefix])[0].text
    assert not text.startswith("Points:")
    ids = llama.renderer.encode(CHATS[0], "Points:")
    out = llama.model.generate(
        torch.tensor([ids]), attention_mask=torch.ones(1, len(ids), dtype=torch.long), max_new_tokens=16, do_sample=False
    )
    assert llama.tokenizer.decode(out[0, len(ids) :], skip_special_tokens=True).startswith(text) and text


def test_reply_ends_where_the_context_does(tmp_path: Path) -> None:
    backend = LocalBackend.load(tiny.build(tmp_path, "llama3", context=40), "small", device="cpu")
    prompt = backend.count_tokens(CHATS[0])
    room = 40 - prompt
    assert 0 < room < 30
    backend.end_ids = ()
    result = backend.generate([GenerateRequest("k", CHATS[0], Decoding(method="greedy", max_new_tokens=30))])[0]
    assert (result.tokens, result.finish) == (room, "length")
    with pytest.raises(ConfigError, match=r"^model small: a prompt takes \d+ tokens, but the context holds 40; shorten"):
        backend.generate([GenerateRequest("k", CHATS[1], SAMPLING)])
    with pytest.raises(ConfigError, match=r"judge's prompt takes \d+ tokens, but the context holds 40"):
        backend.score([ScoreRequest("k", CHATS[1], OPTIONS)])


def test_count_tokens(llama: LocalBackend) -> None:
    shown = "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nHi.<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
    assert llama.count_tokens(CHATS[0]) == len(llama.tokenizer(shown, add_special_tokens=False)["input_ids"])


# -- streaming --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("decoding", METHODS, ids=lambda d: f"{d.method}{d.top_k}")
def test_streamed_texts_grow_into_the_result(llama: LocalBackend, decoding: Decoding) -> None:
    seen: dict[int, list[str]] = {}
    results = llama.generate(requests(decoding), lambda i, text: seen.setdefault(i, []).append(text))
    for i, result in enumerate(results):
        if result.text:
            assert seen[i][-1] == result.text
            assert all(later.startswith(earlier) for earlier, later in zip(seen[i], seen[i][1:], strict=False))


class Bytes:
    """A tokenizer of one byte a token."""

    added_tokens_decoder: ClassVar[dict[int, Any]] = {}

    def decode(self, ids: Sequence[int], **_: object) -> str:
        return bytes(ids).decode("utf-8", "replace")


def test_a_character_waits_for_all_its_bytes() -> None:
    row = Row(Pieces(Bytes()), 0, list(b"abc"), 100)
    seen = []
    for byte in "né €!".encode():
        row.add(byte, False)
        seen.append(row.text())
    assert seen == ["n", "n", "né", "né ", "né ", "né ", "né €", "né €!"]
    row.add("é".encode()[0], False)
    assert row.text() == "né €!" and row.text(last=True) == "né €!\ufffd"


def test_a_reply_that_spoke_of_thinking_is_cut_at_its_stop_string_when_it_is_whole() -> None:
    written = b"I [think] so.\nDepth: 7"
    row = Row(Pieces(Bytes()), 0, list(b"abc"), len(written), ("\nDepth:",))
    for byte in written:
        row.add(byte, False)
    done = row.completion(list(b"abc"), 0.0)
    assert (done.text, done.finish, done.unshown) == ("I [think] so.", "stop", "stop")


def test_announcements_are_throttled(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr("expertchat.backends.streaming.time.monotonic", lambda: clock[0])
    seen: list[str] = []
    watch = Watch([Row(Pieces(Bytes()), 0, [], 1000)], (), lambda _, text: seen.append(text))
    for _ in range(100):  # 100 tokens at 0.01 s each: one second, so at most 8 announcements
        clock[0] += 0.01
        watch(torch.tensor([[97]]), None)
    assert 7 <= len(seen) <= 8 and [len(text) for text in seen] == sorted({len(text) for text in seen})
    watch.announce(last=True)
    assert seen[-1] == "a" * 100


# -- scores -----------------------------------------------------------------------------------------------------------


def plain_scores(backend: LocalBackend, request: ScoreRequest) -> list[float]:
    """Each option by itself: the product of the probabilities of its tokens; " 1" loses that of " 10" where " 10" begins like it."""
    context = backend.renderer.encode(request.messages, request.prefix)
    text = backend.renderer.text(request.messages, request.prefix)
    values, tails = [], []
    for option in request.options:
        ids = backend.renderer.ids(text + option)
        assert ids[: len(context)] == context
        with torch.no_grad():
            probs = torch.softmax(backend.model(torch.tensor([ids])).logits[0].double(), -1)
        values.append(math.prod(probs[p - 1, ids[p]].item() for p in range(len(context), len(ids))))
        tails.append(ids[len(context) :])
    if tails[9][: len(tails[0])] == tails[0]:
        values[0] -= values[9]
    return [math.log(value) for value in values]


def test_scores_equal_options_one_by_one(backend: LocalBackend) -> None:
    prefixes = ["Depth:", "Fine.\nDepth:", "Depth:", "A", "A:"]
    wanted = [ScoreRequest(p, messages, OPTIONS, prefix=p) for messages, p in zip(CHATS, prefixes, strict=True)]
    for request, scores in zip(wanted, backend.score(wanted), strict=True):
        assert scores.logprobs == pytest.approx(plain_scores(backend, request), abs=1e-4)
        assert backend.score([request])[0].logprobs == pytest.approx(scores.logprobs, abs=1e-4)


@pytest.mark.parametrize(("digits", "tokens"), [("whole", 1), ("split", 3)])
def test_ten_in_one_token_or_more(tmp_path: Path, digits: str, tokens: int) -> None:
    backend = LocalBackend.load(tiny.build(tmp_path, "llama3", digits), "m", device="cpu")
    assert len(backend.renderer.ids(" 10")) == tokens
    passes = []
    backend.model.register_forward_hook(lambda *_: passes.append(1))
    scores = backend.score([ScoreRequest("k", CHATS[0], OPTIONS, prefix="Depth:")])[0]
    assert len(passes) == 2  # one over the context, and one over what follows serves all ten options
    total = sum(math.exp(p) for p in scores.logprobs)
    assert 0 < total <= 1 and len(scores.logprobs) == 10


def test_options_of_different_lengths_share_a_batch(backend: LocalBackend) -> None:
    options = [("a", "b"), OPTIONS, (" 10 herons nest in trees", " 10 owls", " 10")]
    wanted = [ScoreRequest(f"k{i}", CHATS[i], opts, prefix="Depth:") for i, opts in enumerate(options)]
    for request, scores in zip(wanted, backend.score(wanted), strict=True):
        assert scores.logprobs == pytest.approx(backend.score([request])[0].logprobs, abs=1e-4)


def test_options_that_fuse_with_the_context(llama: LocalBackend) -> None:
    # "answer" is one token of the tiny vocabulary, so the option "swer" changes the tokens of the context's end.
    scores = llama.score([ScoreRequest("k", CHATS[0], ("swer", "x"), prefix="The an")])[0]
    assert all(math.isfinite(p) and p < 0 for p in scores.logprobs)


# -- info -------------------------------------------------------------------------------------------------------------


def test_info(llama: LocalBackend) -> None:
    assert llama.info.context_length == 512 and llama.info.system_role and llama.info.alternation is False
    assert "<|eot_id|>" in llama.info.special_tokens
    assert any(note.startswith("fp32: ") for note in llama.info.notes)


def test_context_length_of_the_config_wins_and_is_questioned(tmp_path: Path) -> None:
    folder = tiny.build(tmp_path, "llama3", context=64)
    assert LocalBackend.load(folder, "m", device="cpu", context_length=50).info.context_length == 50
    info = LocalBackend.load(folder, "m", device="cpu", context_length=100).info
    assert info.context_length == 100 and any("more than the 64 tokens" in note for note in info.notes)


def test_bf16_loads_and_runs(tmp_path: Path) -> None:
    backend = LocalBackend.load(tiny.build(tmp_path, "mixtral"), "m", device="cpu", dtype="bf16")
    assert backend.model.dtype == torch.bfloat16
    for decoding in METHODS:
        assert len(backend.generate(requests(decoding))) == len(CHATS)
    assert len(backend.score([ScoreRequest("k", CHATS[0], OPTIONS)])[0].logprobs) == 10
