"""The sentence embedder on a tiny real MPNet: unit length, cache, chunks that lose no word."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from expertchat.backends.base import EmbedRequest
from expertchat.backends.embedding import SentenceEmbedder, chunk, weighted_mean
from expertchat.backends.loading import load_embedder
from expertchat.config import ConfigError, EmbedderConfig
from tests import tiny

torch.set_num_threads(1)
LIMIT = 22  # max_seq_length 24 without <s> and </s>


def build(folder: Path) -> Path:
    """A random MPNet of 24 tokens as a sentence-transformers folder."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
    from tokenizers.processors import TemplateProcessing
    from transformers import MPNetConfig, MPNetModel, PreTrainedTokenizerFast

    inner = tiny.tokenizer("mixtral").backend_tokenizer
    bpe = type(inner).from_str(inner.to_str())
    ids = [(token, bpe.token_to_id(token)) for token in ("<s>", "</s>")]
    bpe.post_processor = TemplateProcessing(single="<s> $A </s>", special_tokens=ids)
    words = PreTrainedTokenizerFast(
        tokenizer_object=bpe, bos_token="<s>", eos_token="</s>", cls_token="<s>", sep_token="</s>", pad_token="<unk>", mask_token="<unk>"
    )
    torch.manual_seed(0)
    size = MPNetConfig(
        vocab_size=len(words), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, max_position_embeddings=64
    )
    inside = folder / "transformer"
    MPNetModel(size).save_pretrained(inside)
    words.save_pretrained(inside)
    transformer = Transformer(str(inside), max_seq_length=24)
    model = SentenceTransformer(modules=[transformer, Pooling(16), Normalize()])
    model.save(str(folder / "model"))
    return folder / "model"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("embedder"))


@pytest.fixture
def embedder(folder: Path) -> SentenceEmbedder:
    loaded = SentenceEmbedder.load(folder, "m", "cpu")
    return loaded


def embed(embedder: SentenceEmbedder, *texts: str) -> list[tuple[float, ...]]:
    return [e.vector for e in embedder.embed([EmbedRequest(str(i), text) for i, text in enumerate(texts)])]


def test_short_texts_equal_the_model(embedder: SentenceEmbedder) -> None:
    texts = ["Herons fish.", "", "Nothing is missing.", "Herons fish."]
    vectors = embed(embedder, *texts)
    assert embedder.limit == LIMIT
    for text, vector in zip(texts, vectors, strict=True):
        assert vector == pytest.approx(embedder._model.encode(text).tolist(), abs=1e-6)
        assert math.hypot(*vector) == pytest.approx(1, abs=1e-6)
    assert vectors[0] == vectors[3] != vectors[2]


def test_long_text_is_the_weighted_mean_of_its_chunks(embedder: SentenceEmbedder) -> None:
    text = "Herons nest in tall trees and fish in shallow water. What do you know about their flight? The answer is 10."
    pieces = chunk(text, LIMIT, embedder._count)
    assert len(pieces) >= 2 and " ".join(pieces) == text
    weights = [embedder._count(piece) for piece in pieces]
    mean = sum(w * torch.tensor(v) for w, v in zip(weights, embed(embedder, *pieces), strict=True))
    expected = (mean / mean.norm()).tolist()
    assert embed(embedder, text)[0] == pytest.approx(expected, abs=1e-6)
    # Cut at the limit, the last sentence would not count.
    assert embed(embedder, text)[0] != pytest.approx(embed(embedder, text.removesuffix(" The answer is 10."))[0], abs=1e-4)


def test_cache(embedder: SentenceEmbedder, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[list[str]] = []
    encode = embedder._model.encode

    def counting(texts: list[str], **more: Any) -> Any:
        calls.append(list(texts))
        return encode(texts, **more)

    monkeypatch.setattr(embedder._model, "encode", counting)
    first = embed(embedder, "a", "b", "a")
    assert calls == [["a", "b"]]
    assert embed(embedder, "b", "a") == [first[1], first[0]] and len(calls) == 1
    embedder.cache_size = 1
    embed(embedder, "c")
    embed(embedder, "a")
    assert calls[1:] == [["c"], ["a"]]
    assert embed(embedder) == [] and len(calls) == 3


def test_batch_does_not_matter(embedder: SentenceEmbedder, folder: Path) -> None:
    texts = [f"Heron number {n}. " * (n + 1) for n in range(9)]
    together = embed(embedder, *texts)
    other = SentenceEmbedder.load(folder, "m", "cpu", batch_size=2)
    for text, vector in zip(texts, together, strict=True):
        assert embed(other, text)[0] == pytest.approx(vector, abs=1e-5)


def test_weighted_mean_by_hand() -> None:
    # 3 * (1, 0) + 4 * (0, 1) = (3, 4), length 5
    assert weighted_mean([[1.0, 0.0], [0.0, 1.0]], [3, 4]) == pytest.approx((0.6, 0.8))
    assert weighted_mean([[1.0], [-1.0]], [1, 1]) == (0.0,)


@given(st.lists(st.text("ab.!? ", max_size=30), max_size=6).map(" ".join), st.integers(1, 12))
@settings(deadline=None)
def test_chunks_fit_and_lose_nothing(text: str, limit: int) -> None:
    pieces = chunk(text, limit, len)
    assert all(len(piece) <= limit for piece in pieces) or pieces == [text]
    assert len(text) <= limit or "".join(pieces).replace(" ", "") == text.replace(" ", "")
    assert len(text) > limit or pieces == [text]


def test_chunks_end_at_sentences() -> None:
    assert chunk("One two. Three four. Five.", 20, len) == ["One two. Three four.", "Five."]
    assert chunk("One two three four.", 9, len) == ["One two", "three", "four."]
    assert chunk("abcdefgh ij", 3, len) == ["ab", "cd", "ef", "gh", "ij"]


def test_broken_embedder_is_one_message(folder: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    for file in folder.rglob("*"):
        if file.is_file():
            target = broken / file.relative_to(folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(file.read_bytes())
    weights = next(broken.rglob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-10])
    with pytest.raises(ConfigError, match="cut short"):
        load_embedder(EmbedderConfig(path=str(broken), device="cpu"), [])
    weights.write_bytes(next(folder.rglob("*.safetensors")).read_bytes())
    (broken / "modules.json").write_text(json.dumps([{"idx": 0, "name": "0", "path": "", "type": "nowhere.Nothing"}]))
    later = load_embedder(EmbedderConfig(path=str(broken), device="cpu"), [])  # only loading it shows what is wrong
    with pytest.raises(ConfigError, match="cannot be loaded"):
        later.embed([EmbedRequest("0", "Herons fish.")])


def test_the_embedder_loads_at_its_first_text_and_once(folder: Path, embedder: SentenceEmbedder) -> None:
    heard: list[bool] = []
    later = load_embedder(EmbedderConfig(path=str(folder), device="cpu"), [], lambda done, seconds: heard.append(done))
    assert heard == []
    for _ in range(2):
        assert later.embed([EmbedRequest("0", "Herons fish.")])[0].vector == pytest.approx(embed(embedder, "Herons fish.")[0], abs=1e-6)
    assert heard == [False, True]
