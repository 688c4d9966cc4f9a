"""What a user sees when a model is not there or not whole: one message that names it and says what to do."""

import json
import socket
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from expertchat.backends import folders
from expertchat.backends.folders import find_folder, folder_problem
from expertchat.backends.hardware import choose_attention, choose_device, choose_dtype
from expertchat.backends.loading import load_backend, load_embedder, resolve_path
from expertchat.config import ConfigError, EmbedderConfig
from tests import tiny

torch.set_num_threads(1)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tiny.build(tmp_path / "model", "llama3")


def message(path: object, **more: object) -> str:
    """The one message of loading `path`, checked to hold no chain of tracebacks."""
    with pytest.raises(ConfigError) as caught:
        load_backend(tiny.config(path, **more), seed=0)
    assert len(caught.value.problems) == 1 and "\n" not in str(caught.value)
    assert caught.value.__cause__ is None and (caught.value.__context__ is None or caught.value.__suppress_context__)
    return str(caught.value)


def test_a_whole_folder_loads(folder: Path) -> None:
    backend = load_backend(tiny.config(folder), seed=0, stop_tokens=("<|eot_id|>",))
    assert backend.info.name == folder.name and folder_problem(folder) is None


def test_no_such_folder(tmp_path: Path) -> None:
    text = message(tmp_path / "nothing")
    assert text.count(str(tmp_path / "nothing")) == 1 and "no such folder" in text and "hub id" in text  # a whole path is named once
    assert f"looked in {Path.cwd() / 'nothing'}" in message("./nothing")


def pointer(file: Path) -> None:
    file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 15000000000\n")


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1000])


def replace_header(file: Path) -> None:
    file.write_bytes(struct.pack("<Q", 20) + b"{ this is no json  }" + b"0" * 100)


@pytest.mark.parametrize(
    ("name", "damage", "expected"),
    [
        ("config.json", Path.unlink, "holds no config.json"),
        ("config.json", lambda f: f.write_text("{"), "config.json is no JSON"),
        ("config.json", lambda f: f.write_text("[]"), "config.json is no JSON object"),
        ("config.json", lambda f: f.write_text('{"model_type": "unheard_of"}'), "cannot be loaded"),
        ("config.json", pointer, "git lfs pull"),
        ("model.safetensors", Path.unlink, "holds no model.safetensors"),
        ("model.safetensors", pointer, "model.safetensors is a git-lfs pointer"),
        ("model.safetensors", cut, "the download was cut short"),
        ("model.safetensors", lambda f: f.write_bytes(b""), "was cut short (0 bytes)"),
        ("model.safetensors", lambda f: f.write_bytes(b"\xff" * 500), "is no safetensors file"),
        ("model.safetensors", replace_header, "has a broken header"),
        ("tokenizer.json", Path.unlink, "holds no tokenizer"),
        ("tokenizer.json", pointer, "tokenizer.json is a git-lfs pointer"),
        ("tokenizer.json", lambda f: f.write_text("{}"), "cannot be loaded"),
    ],
)
def test_damaged_folders(folder: Path, name: str, damage: Any, expected: str) -> None:
    damage(folder / name)
    text = message(folder)
    assert expected in text and str(folder) in text


def test_pickles_are_not_loaded(folder: Path) -> None:
    torch.save({}, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    assert "pickle files only, which are not loaded; save the model again as safetensors" in message(folder)


def test_remote_code_is_not_run(folder: Path) -> None:
    settings = json.loads((folder / "config.json").read_text())
    settings |= {"model_type": "own", "auto_map": {"AutoConfig": "own.Own", "AutoModelForCausalLM": "own.Own"}}
    (folder / "config.json").write_text(json.dumps(settings))
    (folder / "own.py").write_text(f"open({str(folder / 'ran')!r}, 'w').close()\n")
    assert "cannot be loaded" in message(folder)
    assert not (folder / "ran").exists()


def test_weights_of_another_model(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    save_file({name: t for name, t in tensors.items() if "layers.1" not in name}, folder / "model.safetensors", {"format": "pt"})
    assert "its weights lack 9 tensors (model.layers.1." in message(folder)  # 4 attention, 3 feed-forward, 2 norms


def test_missing_shard(folder: Path) -> None:
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "lacks model-00002-of-00002.safetensors of 2 weight files" in message(folder)


def test_model_without_chat_template(folder: Path) -> None:
    for file in (folder / "chat_template.jinja", folder / "tokenizer_config.json"):
        if file.is_file() and file.suffix == ".jinja":
            file.unlink()
        elif file.is_file():
            settings = json.loads(file.read_text())
            settings.pop("chat_template", None)
            file.write_text(json.dumps(settings))
    assert "its tokenizer has no chat template" in message(folder) and "instruct" in message(folder)


def test_broken_chat_template(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text("{{ raise_exception('never') }}")
    assert "its chat template fails on a single user message" in message(folder)


# -- the hub ----------------------------------------------------------------------------------------------------------


def cached(cache: Path, model: Path, hub_id: str = "owner/small") -> Path:
    """A Hugging Face cache that holds a copy of `model`."""
    repository = cache / f"models--{hub_id.replace('/', '--')}"
    snapshot = repository / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    for file in model.iterdir():
        (snapshot / file.name).write_bytes(file.read_bytes())
    return snapshot


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub._snapshot_download.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "cache"


def test_hub_id_not_in_the_cache(cache: Path) -> None:
    text = message("owner/small")
    for part in ("model owner/small", "HF_HUB_OFFLINE is set", str(cache), "hf download owner/small", "HF_HOME", "a local folder"):
        assert part in text
    assert "hf download owner/small --revision v2" in message("owner/small", revision="v2")


def test_hub_id_in_the_cache_needs_no_network(cache: Path, folder: Path) -> None:
    snapshot = cached(cache, folder)
    assert find_folder("owner/small") == snapshot
    assert load_backend(tiny.config("owner/small"), seed=0).info.name == "owner/small"
    assert "it is not in the cache" in message("owner/small", revision="other")


def test_half_a_model_in_the_cache(cache: Path, folder: Path) -> None:
    (cached(cache, folder) / "model.safetensors").unlink()
    assert "its copy in the cache is not whole (holds no model.safetensors" in message("owner/small")


def test_no_network_is_noticed_at_once(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError("no route")

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(socket, "create_connection", refuse)
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    assert "cannot be reached" in message("owner/small")


# -- names ------------------------------------------------------------------------------------------------------------


def test_embedded_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folders, "EMBEDDED", tmp_path)
    (tmp_path / "llama").mkdir()
    (tmp_path / "mixtral").mkdir()
    assert resolve_path("embedded:llama") == tmp_path / "llama"
    for name in ("lama", "../llama", ""):
        with pytest.raises(ConfigError, match=r"no such embedded model \(there are llama, mixtral\)"):
            resolve_path(f"embedded:{name}")
    monkeypatch.setattr(folders, "EMBEDDED", tmp_path / "none")
    with pytest.raises(ConfigError, match="expertchat world build"):
        resolve_path("embedded:llama")


@pytest.mark.parametrize("path", ["owner/name", "gpt2", "mistralai/Mixtral-8x7B-Instruct-v0.1"])
def test_hub_ids(path: str) -> None:
    assert resolve_path(path) == path


@pytest.mark.parametrize("path", ["./x", "../x", "/x/y", "~/x", "a/b/c", "a b", "owner/name/"])
def test_paths_that_are_no_hub_ids(path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")  # "../x" must not be there by chance
    with pytest.raises(ConfigError, match="no such folder"):
        resolve_path(path)


def test_a_file_is_no_folder(folder: Path) -> None:
    assert "is a file; name a GGUF file, or the folder" in message(folder / "model.safetensors")


# -- hardware ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def gpu(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    name, capability = request.param
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: name)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: capability)


@pytest.mark.parametrize("gpu", [("V100", (7, 0))], indirect=True)
def test_choices_on_a_v100(gpu: None) -> None:
    assert choose_device("auto") == ("cuda", "device cuda: V100")
    assert choose_dtype("auto", "cuda") == (torch.float16, "fp16: V100 (compute 7.0) has no bf16")
    assert "dtype=fp16 is faster" in str(choose_dtype("bf16", "cuda")[1])
    with pytest.raises(ConfigError, match=r"compute 8\.0"):
        choose_attention("flash_attention_2", "cuda", torch.float16)
    with pytest.raises(ConfigError, match="torch finds 1 GPUs"):
        choose_device("cuda:1")


@pytest.mark.parametrize("gpu", [("H100", (9, 0))], indirect=True)
def test_choices_on_an_h100(gpu: None) -> None:
    assert choose_dtype("auto", "cuda") == (torch.bfloat16, "bf16: H100 (compute 9.0) computes in it")
    assert choose_dtype("fp32", "cuda:0") == (torch.float32, None)
    with pytest.raises(ConfigError, match="dtype is fp32"):
        choose_attention("flash_attention_2", "cuda", torch.float32)


def test_choices_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto")[0] == "cpu" and choose_dtype("auto", "cpu")[0] == torch.float32
    assert choose_attention("auto", "cpu", torch.float32) == ("sdpa", None)
    for wanted, part in [("cuda", "torch finds 0 GPUs"), ("balanced", "at least one GPU"), ("warp", "is no device")]:
        with pytest.raises(ConfigError, match=part):
            choose_device(wanted)


# -- embedder ---------------------------------------------------------------------------------------------------------


def test_embedder_that_is_not_there(cache: Path, tmp_path: Path) -> None:
    for wanted, paths, part in [
        (EmbedderConfig(), ["embedded:llama", "owner/model"], "model sentence-transformers/all-mpnet-base-v2"),
        (EmbedderConfig(path=str(tmp_path / "none")), [], "no such folder"),
        (EmbedderConfig(path=str(tmp_path)), [], "holds neither modules.json nor config.json"),
    ]:
        with pytest.raises(ConfigError, match=part) as caught:
            load_embedder(wanted, paths)
        assert len(caught.value.problems) == 1 and str(caught.value).startswith("embedder: ")


def test_scripted_needs_a_script() -> None:
    assert "model.script is not set" in message("x", backend="scripted")
