"""The model card, and the adapter folder that it stands in: what transformers, peft and vLLM need of it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from peft import PeftModel
from safetensors import safe_open
from torch import Tensor

from expertchat.backends.adapters import Adapters
from expertchat.backends.folders import find_folder
from expertchat.backends.weights import load_weights
from expertchat.command.compose import compose
from expertchat.config import validate
from expertchat.records import Figure, Metrics, Speaker
from expertchat.training.card import merged_card, model_card
from expertchat.training.config import OnlineDpoConfig
from tests import checkpoints

torch.set_num_threads(1)
IDS = torch.arange(40).view(2, 20) * 7 % 300


@pytest.fixture(scope="module")
def config() -> OnlineDpoConfig:
    return validate(OnlineDpoConfig, compose("online_dpo"))


def metrics(kind: Any, round: int, learner: Speaker = "a", **figures: Figure) -> Metrics:
    return Metrics(id=f"{kind}-{round}-{learner}", kind=kind, round=round, learner=learner, policy_version=round, figures=figures)


def test_the_final_evaluation_is_named(config: OnlineDpoConfig, tmp_path: Path) -> None:
    final = RUN[-1].model_copy(update={"id": "evaluation-a-0002-final"})
    card = model_card(config, written(tmp_path, *RUN, final))
    assert "| 2, final | truth | 400 |" in card and "Final: the weights that the run has kept" in card
    assert "Final:" not in model_card(config, written(tmp_path, *RUN))


def written(folder: Path, *records: Metrics) -> Path:
    (folder / "metrics.jsonl").write_text("".join(record.to_json() + "\n" for record in records))
    return folder


def front_of(card: str) -> dict[str, Any]:
    _, front, _ = card.split("---\n", 2)
    found = yaml.safe_load(front)
    assert isinstance(found, dict)
    return found


RUN = (
    metrics("evaluation", 0, n=400, judge="truth", win_rate=0.5, win_rate_low=0.45, win_rate_high=0.55,
            tokens_policy=20.0, tokens_base=20.0),
    metrics("round", 1, pairs=30, ties=10, steps=2, kl=0.5, length=21.25, reward_mean=None),
    metrics("round", 1, learner="b", pairs=900, ties=0, steps=60, kl=9.0, length=99.0),
    metrics("round", 2, pairs=50, ties=10, steps=3, kl=4.25, length=30.0, reward_mean=None),
    metrics("evaluation", 2, n=400, judge="truth", win_rate=0.731, win_rate_low=0.686, win_rate_high=0.772,
            tokens_policy=31.5, tokens_base=20.0,
            distinct_policy=3.3, distinct_base=2.0, distinct_ratio=1.65, distinct_ratio_low=1.5, distinct_ratio_high=1.8),
)  # fmt: skip


def test_the_figures_are_those_of_the_run(config: OnlineDpoConfig, tmp_path: Path) -> None:
    card = model_card(config, written(tmp_path, *RUN))
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in card.splitlines() if line.startswith("|")]
    evaluated = {row[0]: row for row in rows[:4]}
    titles = evaluated["rounds"]
    assert titles == ["rounds", "judge", "n", "win rate", "tokens a reply", "distinct true facts", "of them, times the base's"]
    assert evaluated["0"] == ["0", "truth", "400", "50.0% [45.0%, 55.0%]", "20.0 (20.0)", "–", "–"]
    assert evaluated["2"] == ["2", "truth", "400", "73.1% [68.6%, 77.2%]", "31.5 (20.0)", "3.30 (2.00)", "1.65 [1.50, 1.80]"]
    # 30 + 50 pairs; ties 20 of 100; the other learner's 900 do not count
    assert "2 rounds, 80 preference pairs, 5 steps; 20.0% of all pairs were ties and left out." in card
    assert ["KL to the base, nats a reply", "0.5", "4.25"] in rows and ["tokens a reply", "21.2", "30.0"] in rows
    assert not any(row[0] in ("rating", "WIM score") for row in rows)  # never measured
    other = model_card(config, tmp_path, learner="b")
    assert "900 preference pairs" in other and "embedded:mixtral, trained" in other and "Not evaluated in this run." in other


def test_every_number_comes_from_the_run_or_its_config(config: OnlineDpoConfig, tmp_path: Path) -> None:
    empty = model_card(config, tmp_path)
    assert "Not evaluated in this run." in empty and "No round was finished." in empty
    result = empty.split("## Against its base")[1].split("## Config")[0]
    assert not re.search(r"\d", result)


def test_the_front_matter(config: OnlineDpoConfig, tmp_path: Path) -> None:
    embedded = front_of(model_card(config, tmp_path))
    assert embedded == {
        "library_name": "peft",
        "pipeline_tag": "text-generation",
        "tags": ["dpo", "expertchat", "lora", "online-dpo", "trl"],
    }
    hub = config.model_copy(update={"experts": config.experts.having(a=named(config, "meta-llama/Meta-Llama-3-8B-Instruct"))})
    assert front_of(model_card(hub, tmp_path))["base_model"] == "meta-llama/Meta-Llama-3-8B-Instruct"
    full = config.model_copy(update={"train": config.train.model_copy(update={"method": "full"})})
    assert front_of(model_card(full, tmp_path))["library_name"] == "transformers"
    from huggingface_hub import ModelCard

    assert ModelCard(model_card(hub, tmp_path)).data.base_model == "meta-llama/Meta-Llama-3-8B-Instruct"


def named(config: OnlineDpoConfig, path: str) -> Any:
    return config.experts["a"].model_copy(update={"path": path, "revision": "abc"})


def test_how_to_use_it(config: OnlineDpoConfig, tmp_path: Path) -> None:
    hub = config.model_copy(update={"experts": config.experts.having(a=named(config, "OWNER/NAME"))})
    card = model_card(hub.model_copy(update={"train": config.train.model_copy(update={"rank": 24})}), tmp_path)
    assert "vllm serve OWNER/NAME --enable-lora --max-lora-rank 32 --lora-modules expert=THIS_FOLDER" in card  # the next that vLLM has
    assert 'from_pretrained(base, revision="abc", dtype="auto"' in card and "expertchat merge adapter=THIS_FOLDER out=MERGED" in card
    assert "vllm serve MERGED" in model_card(config, tmp_path)


def test_the_code_of_the_card_runs(config: OnlineDpoConfig, tmp_path: Path) -> None:
    """The embedded Llama: what the card says gives the logits that the run had."""
    model = load_weights(find_folder("embedded:llama"), "m", dtype="fp32", device="cpu").model
    adapters = moved(model, ("q_proj", "down_proj"), path="embedded:llama")
    adapters.save("x", tmp_path / "adapter")
    code = re.findall(r"```python\n(.*?)```", model_card(config, tmp_path), re.S)[0].replace("THIS_FOLDER", str(tmp_path / "adapter"))
    names: dict[str, Any] = {}
    exec(code, names)
    assert torch.allclose(logits(names["model"]), logits(model), atol=1e-5)
    assert names["tokenizer"].chat_template


def test_the_merged_card_keeps_the_figures(config: OnlineDpoConfig, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(model_card(config, written(tmp_path, *RUN)))
    card = merged_card("OWNER/NAME", tmp_path, "bf16")
    assert front_of(card)["base_model"] == "OWNER/NAME" and "73.1% [68.6%, 77.2%]" in card and "PeftModel" not in card
    assert "73.1%" not in merged_card("OWNER/NAME", tmp_path / "nowhere", "bf16")


# -- the adapter's folder -----------------------------------------------------------------------------------------------


def logits(model: Any) -> Tensor:
    with torch.no_grad():
        found: Tensor = model(IDS).logits
    return found


def moved(model: Any, targets: tuple[str, ...], **more: Any) -> Adapters:
    """An adapter with weights that do something."""
    adapters = Adapters(model)
    adapters.attach("x", targets, r=4, alpha=8, **more)
    generator = torch.Generator().manual_seed(1)
    for parameter in adapters.parameters("x").values():
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.1
    return adapters


@pytest.mark.parametrize(
    ("kind", "targets", "linear"),
    [
        ("llama3", ("q_proj", "v_proj", "down_proj"), None),
        ("mixtral", ("q_proj", "v_proj"), True),
        ("mixtral", ("q_proj", "w1", "w2", "w3"), True),  # on transformers' own Mixtral the experts are fused: peft fuses the adapter too
    ],
)
def test_peft_and_transformers_load_it_on_their_own_model(kind: str, targets: tuple[str, ...], linear: bool | None, tmp_path: Path) -> None:
    folder = checkpoints.write(tmp_path / "model", kind)
    trained = load_weights(folder, "m", dtype="fp32", device="cpu", linear_experts=linear).model
    moved(trained, targets).save("x", tmp_path / "adapter")
    wanted = logits(trained)
    first, second = (load_weights(folder, "m", dtype="fp32", device="cpu").model for _ in range(2))
    plain = logits(second)
    second.load_adapter(str(tmp_path / "adapter"))
    for model in (PeftModel.from_pretrained(first, tmp_path / "adapter"), second):
        assert torch.allclose(logits(model), wanted, atol=1e-5)
    assert (wanted - plain).abs().max() > 0.1


def test_vllm_can_read_the_folder(tmp_path: Path) -> None:
    """What vLLM's PEFTHelper and LoRAModel ask of a folder, without vLLM: fields, features that it refuses, names of tensors."""
    folder = checkpoints.write(tmp_path / "model", "mixtral")
    model = load_weights(folder, "m", dtype="fp32", device="cpu", linear_experts=True).model
    adapters = moved(model, ("v_proj", "q_proj", "w1", "w2", "w3"), path="mistralai/Mixtral-8x7B-Instruct-v0.1", revision="abc")
    adapters.save("x", tmp_path / "adapter")
    values = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert (values["r"], values["lora_alpha"]) == (4, 8) and values["target_modules"] == ["q_proj", "v_proj", "w1", "w2", "w3"]
    assert (values["base_model_name_or_path"], values["revision"]) == ("mistralai/Mixtral-8x7B-Instruct-v0.1", "abc")
    refused = ("modules_to_save", "use_dora", "lora_bias", "alora_invocation_tokens", "layer_replication", "use_bdlora", "use_qalora")
    assert not any(values[name] for name in refused) and values["bias"] == "none" and values["init_lora_weights"] is True
    with safe_open(tmp_path / "adapter" / "adapter_model.safetensors", "pt") as file:
        names = set(file.keys())
    block = r"self_attn\.[qv]_proj|block_sparse_moe\.experts\.\d+\.w[123]"
    assert all(re.fullmatch(rf"base_model\.model\.model\.layers\.\d+\.({block})\.lora_[AB]\.weight", name) for name in names)
    again = Adapters(load_weights(folder, "m", dtype="fp32", device="cpu", linear_experts=True).model)
    again.load("y", tmp_path / "adapter")
    assert torch.equal(logits(again.base), logits(model))
    again.save("y", tmp_path / "again")
    for name in ("adapter_config.json", "adapter_model.safetensors"):  # what it is for is kept, and the same adapter is the same bytes
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "adapter" / name).read_bytes()


def test_an_adapter_without_a_name_for_its_base_says_where_it_was_loaded(tmp_path: Path) -> None:
    folder = checkpoints.write(tmp_path / "model", "llama3")
    moved(load_weights(folder, "m", dtype="fp32", device="cpu").model, ("q_proj",)).save("x", tmp_path / "adapter")
    assert json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())["base_model_name_or_path"] == str(folder)
