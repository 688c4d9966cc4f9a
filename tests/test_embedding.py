"""The sentence embedder on a tiny real MPNet: unit length, cache, chunks that lose no word."""

import json
import math
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from expertchat import cli
from expertchat.backends import hardware
from expertchat.backends.base import EmbedRequest
from expertchat.backends.chunks import chunk, weighted_mean
from expertchat.backends.embedding import SentenceEmbedder
from expertchat.backends.loading import load_embedder
from expertchat.command.compose import load
from expertchat.config import ConfigError, EmbedderConfig
from expertchat.folder.embedded import noted
from expertchat.folder.run_folder import RunFolder, differences
from expertchat.text.sentences import as_yaml
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
    pieces = chunk(text, LIMIT, embedder.count)
    assert len(pieces) >= 2 and " ".join(pieces) == text
    weights = [embedder.count(piece) for piece in pieces]
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


# -- number types and batches ---------------------------------------------------------------------------------------------


def test_on_a_cpu_a_text_that_costs_is_embedded_by_itself(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert SentenceEmbedder.load(folder, "m", "cpu", batch_size=32).batch_size == 32  # small: a pass costs more than what is in it
    monkeypatch.setattr("expertchat.backends.embedding.SMALL", 1000)
    large = SentenceEmbedder.load(folder, "m", "cpu", batch_size=32, dtype="bf16")
    assert large.batch_size == 1
    texts = [f"Heron number {n}. " * (n + 1) for n in range(9)]
    together = embed(large, *texts)
    other = SentenceEmbedder.load(folder, "m", "cpu", dtype="bf16")
    assert [embed(other, text)[0] for text in reversed(texts)] == together[::-1]  # the very same numbers, whatever else is asked


@pytest.mark.parametrize(
    ("wanted", "instructions", "small", "expected"),
    [
        ("auto", "AVX512-BF16", 1000, "bf16"),
        ("auto", None, 1000, "fp32"),
        ("auto", "AVX512-BF16", 10_000_000, "fp32"),
        ("fp32", "AVX512-BF16", 1000, "fp32"),
        ("bf16", None, 10_000_000, "bf16"),
    ],
)
def test_the_number_type_follows_the_hardware(
    folder: Path, monkeypatch: pytest.MonkeyPatch, wanted: str, instructions: str | None, small: int, expected: str
) -> None:
    monkeypatch.setattr(hardware, "cpu_bf16", lambda: instructions)
    monkeypatch.setattr(hardware, "SMALL", small)
    loaded = SentenceEmbedder.load(folder, "m", "cpu", dtype=wanted)
    assert {weight.dtype for weight in loaded._model.parameters()} == {hardware.DTYPES[expected]}
    assert bool(loaded.notes) == (expected == "bf16")  # scores of other digits are told
    assert all("embedder.dtype=fp32" in note for note in loaded.notes)


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_half_precision_is_pooled_in_fp32(folder: Path, embedder: SentenceEmbedder, dtype: str) -> None:
    texts = ["Herons fish.", "Herons nest in tall trees and fish in shallow water. What do you know about their flight?"]
    half = SentenceEmbedder.load(folder, "m", "cpu", dtype=dtype)
    for mine, exact in zip(embed(half, *texts), embed(embedder, *texts), strict=True):
        assert sum(x * y for x, y in zip(mine, exact, strict=True)) == pytest.approx(1, abs=1e-3)
        assert math.hypot(*mine) == pytest.approx(1, abs=1e-9)
    pooled = half._model.encode(texts[0], convert_to_tensor=True)
    assert pooled.dtype == torch.float32 and not torch.equal(pooled, pooled.to(hardware.DTYPES[dtype]).float())


def test_each_text_is_cut_into_tokens_once(embedder: SentenceEmbedder, monkeypatch: pytest.MonkeyPatch) -> None:
    cut: list[str] = []
    tokenizer = embedder._model.tokenizer

    class Counting:
        def __call__(self, text: str, **more: Any) -> Any:
            if isinstance(text, str):
                cut.append(text)
            return tokenizer(text, **more)

        def __getattr__(self, name: str) -> Any:
            return getattr(tokenizer, name)

    monkeypatch.setattr(type(embedder._model), "tokenizer", Counting())
    embed(embedder, "Herons fish.", "Herons fish. " * 30)
    assert sorted(cut) == sorted(set(cut))


def test_a_run_of_before_goes_on_in_fp32(tmp_path: Path) -> None:
    now = load("converse", ["+experiment=chat", "embedder.dtype=auto"])
    assert now.embedder.dtype == "auto"
    plain = now.model_dump(mode="json")
    before = {**plain, "embedder": {key: value for key, value in plain["embedder"].items() if key != "dtype"}}
    (tmp_path / "config.yaml").write_text(as_yaml(before))
    (tmp_path / "provenance.json").write_text(json.dumps(noted(before)))  # with the embedded models that there are, or it would not go on
    assert differences(before, plain) == differences(plain, before) == []
    asked = {**plain, "embedder": {**plain["embedder"], "dtype": "bf16"}}
    assert differences(before, asked) == ["embedder.dtype: was 'fp32', is 'bf16'"]
    begun = RunFolder(tmp_path, plain, [])
    fresh = RunFolder(tmp_path / "new", plain, [])
    try:
        assert begun.as_begun(now).embedder.dtype == "fp32" and begun.as_begun(now).run == now.run
        assert fresh.as_begun(now) is now
    finally:
        begun.close()
        fresh.close()


MPNET = Path(os.environ.get("EXPERTCHAT_MODELS", "")) / "all-mpnet-base-v2"


@pytest.mark.skipif(not (MPNET / "modules.json").is_file(), reason="NOT RUN: EXPERTCHAT_MODELS has no all-mpnet-base-v2")
def test_cosines_of_a_real_embedder_in_half_precision() -> None:
    texts = [part for part in (Path(__file__).parents[1] / "docs" / "judging.md").read_text("utf-8").split("\n\n") if len(part) > 80][:12]
    exact, half = (SentenceEmbedder.load(MPNET, "mpnet", "cpu", dtype=dtype) for dtype in ("fp32", "bf16"))
    one, two = (torch.tensor(embed(model, *texts), dtype=torch.float64) for model in (exact, half))
    change = (one @ one.T - two @ two.T).abs()
    assert float(change.mean()) <= 0.002 and float(change.max()) <= 0.01
    assert embed(SentenceEmbedder.load(MPNET, "mpnet", "cpu", dtype="bf16"), texts[3])[0] == embed(half, texts[3])[0]


@pytest.mark.slow
def test_the_bench_measures_it_beside_sentence_transformers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "bench.json"
    more = ["bench.embedder=embedded:embedder", "bench.model=embedded:llama", "bench.repeats=1", "bench.rows=[1]", "bench.tokens=4"]
    assert cli.main(["bench", "bench.parts=[embedding]", f"bench.out={out}", *more]) == 0
    (part,) = json.loads(out.read_text("utf-8"))["parts"]
    assert [t["way"] for t in part["timings"]] == ["ours", *(f"alone, fp32, batch {n}" for n in (1, 2, 8, 32))]
    assert part["numbers"]["cosine_change"] == {"pairs": 32 * 31 / 2, "max": 0, "mean": 0}  # ours is fp32 too
    assert "of its time" in capsys.readouterr().out
    assert cli.main(["bench", "bench.parts=[embedding]", "bench.embedder=./nowhere"]) == 2
    assert "bench.embedder=./nowhere" in capsys.readouterr().err
