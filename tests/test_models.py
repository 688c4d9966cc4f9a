"""`expertchat models` on nothing, on whole folders, and on every way in which a download goes wrong."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from expertchat import cli
from expertchat.config import ConfigError
from expertchat.plan.config import ModelsConfig
from expertchat.plan.models import Known, known_models, look, run_models
from expertchat.views.models import print_models
from tests import checkpoints

POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'4d7a2146' * 8}\nsize 4976698672\n"


@pytest.fixture(autouse=True)
def no_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty cache, whatever this machine has."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("EXPERTCHAT_MODELS", raising=False)


PACKAGED = {"smollm2_135m", "minilm"}  # are here where their packages are installed


def first_shard(folder: Path) -> Path:
    return sorted(folder.glob("model-*.safetensors"))[0]


def edit(file: Path, change: Callable[[Any], None]) -> None:
    values = json.loads(file.read_text("utf-8"))
    change(values)
    file.write_text(json.dumps(values), "utf-8")


def run(**settings: Any) -> tuple[int, dict[str, Any]]:
    shown: list[dict[str, Any]] = []
    return run_models(ModelsConfig(**settings), shown.append), shown[0]


def test_every_model_of_conf_is_listed_and_what_is_missing_can_be_had() -> None:
    code, values = run()
    assert code == 0
    found = {one["name"]: one for one in values["models"]}
    assert {"llama3_8b", "mixtral_8x7b", "mistral_7b", "qwen2_5_7b", "qwen3_4b", "smollm", "mpnet"} <= set(found)
    assert {name for name, one in found.items() if one["state"] == "complete"} - PACKAGED == {"embedded_llama", "embedded_mixtral"}
    assert (found["server"]["state"], found["server"]["get"]) == ("served", ()) and run(names=["server"], verify=True)[0] == 0
    download, clone = found["llama3_8b"]["get"]
    assert download.startswith("hf download meta-llama/Meta-Llama-3-8B-Instruct --local-dir $EXPERTCHAT_MODELS/Meta-Llama-3-8B-Instruct ")
    assert clone.startswith("git lfs install && git clone https://huggingface.co/meta-llama/Meta-Llama-3-8B-Instruct ")


def test_the_list_is_that_of_conf() -> None:
    names = {known.name for known in known_models()}
    conf = Path(__file__).parents[1] / "conf" / "model"
    assert names == {path.stem for path in conf.glob("*.yaml")} - {"auto"} | {"mpnet", "minilm"}


@pytest.mark.parametrize("kind", checkpoints.CONFIGS)
def test_a_complete_folder_of_each_family(kind: str, tmp_path: Path) -> None:
    folder = checkpoints.write(tmp_path / "model", kind)
    found = look(Known("mine", str(folder)), None, tokenizer=True)
    assert (found.state, found.problem, found.folder) == ("complete", None, str(folder))
    assert found.size == sum(file.stat().st_size for file in folder.glob("*.safetensors"))


def test_a_mixtral_saved_by_transformers_is_complete_too(tmp_path: Path) -> None:
    from tests import tiny

    assert look(Known("mine", str(tiny.build(tmp_path, "mixtral"))), None).state == "complete"


def cut(folder: Path) -> None:
    shard = first_shard(folder)
    shard.write_bytes(shard.read_bytes()[:-10])


def rename(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    for shard in folder.glob("*.safetensors"):
        tensors = load_file(shard)
        if any(".norm." in name for name in tensors):
            save_file({name.replace("model.norm.weight", "model.norm.wait"): t for name, t in tensors.items()}, shard)


def hollow(folder: Path) -> None:
    (folder / "tokenizer_config.json").write_text("{}")


BREAKS: list[tuple[Callable[[Path], object], str]] = [
    (lambda folder: first_shard(folder).unlink(), "lacks model-00001-of-00003.safetensors of 3 weight files"),
    (lambda folder: first_shard(folder).write_text(POINTER), "is a git-lfs pointer, not the file itself; run `git lfs pull`"),
    (lambda folder: (folder / "tokenizer.json").write_text(POINTER), "tokenizer.json is a git-lfs pointer"),
    (cut, "the download was cut short"),
    (rename, r"lacks 1 of 21 tensors \(model.norm.weight\)"),
    (lambda folder: edit(folder / "config.json", lambda c: c.update(num_hidden_layers=3)), "lacks 9 of 30 tensors"),
    (lambda folder: edit(folder / "config.json", lambda c: c.update(num_hidden_layers=1)), "9 tensors that its config.json"),
    (lambda folder: edit(folder / "config.json", lambda c: c.update(intermediate_size=80)), "another size than config.json says"),
    (lambda folder: edit(folder / "config.json", lambda c: c.update(model_type="lama")), "does not know its architecture"),
    (lambda folder: (folder / "config.json").unlink(), "holds no config.json"),
    (hollow, "no chat template"),
]


@pytest.mark.parametrize(("broken", "words"), BREAKS)
def test_what_is_broken_is_said(broken: Callable[[Path], object], words: str, tmp_path: Path) -> None:
    folder = checkpoints.write(tmp_path / "Meta-Llama-3-8B-Instruct", "llama3")
    broken(folder)
    code, values = run(models_dir=str(tmp_path), names=["llama3_8b"], verify=True)
    assert code == 2
    [found] = values["models"]
    assert found["state"] == "broken" and re.search(words, found["problem"]), found["problem"]
    assert any(command.startswith("hf download") for command in found["get"])
    assert any("lfs pull" in command for command in found["get"]) == ("git-lfs" in words)


def test_a_missing_expert_of_mixtral_is_seen(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = checkpoints.write(tmp_path / "m", "mixtral", shards=1)
    tensors = load_file(folder / "model.safetensors")
    tensors.pop("model.layers.1.block_sparse_moe.experts.3.w2.weight")
    save_file(tensors, folder / "model.safetensors")
    found = look(Known("m", str(folder)), None)
    assert found.problem and "model.layers.1.block_sparse_moe.experts.3.w2.weight" in found.problem


def test_listing_ends_with_0_even_where_something_is_broken(tmp_path: Path) -> None:
    first_shard(checkpoints.write(tmp_path / "Qwen2.5-7B-Instruct", "qwen2")).unlink()
    assert run(models_dir=str(tmp_path))[0] == 0
    assert run(models_dir=str(tmp_path), verify=True)[0] == 2
    assert run(verify=True)[0] == 0  # what is not here is not broken
    assert run(names=["qwen2_5_7b"], verify=True)[0] == 2  # but who names it wants it


def test_other_folders_are_shown(tmp_path: Path) -> None:
    folder = checkpoints.write(tmp_path / "my model", "smollm")
    _, values = run(models_dir=str(tmp_path))
    assert values["others"] == [str(folder)]
    screen = io.StringIO()
    print_models(values, screen)
    assert str(folder) in screen.getvalue().replace("\n", "")


def test_names_that_nobody_knows() -> None:
    with pytest.raises(ConfigError, match=r"smolm: is no option of model; did you mean smollm\?"):
        run(names=["smolm"])
    with pytest.raises(ConfigError, match="models_dir=/no/such: no such folder"):
        run(models_dir="/no/such")


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoints.write(tmp_path / "SmolLM2-360M-Instruct", "smollm")
    folder = checkpoints.write(tmp_path / "Meta-Llama-3-8B-Instruct", "llama3")
    first_shard(folder).write_text(POINTER)
    monkeypatch.setenv("EXPERTCHAT_MODELS", str(tmp_path))
    assert cli.main(["models"]) == 0
    text = capsys.readouterr().out
    assert re.search(r"smollm +complete", text) and re.search(r"llama3_8b +broken", text) and re.search(r"mpnet +not here", text)
    assert "git-lfs pointer" in text.replace("\n", " ")
    out = tmp_path / "found.json"
    assert cli.main(["models", "verify", "smollm", str(folder), f"out={out}"]) == 2
    assert [one["state"] for one in json.loads(out.read_text())["models"]] == ["complete", "broken"]
    assert cli.main(["models", "verify", "smollm"]) == 0
    assert cli.main(["models", "verfy"]) == 2
