"""The pairs file is what others read: `datasets` loads it, and TRL's own `trl dpo` trains on it, unchanged and without a network."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from expertchat.backends.folders import find_folder
from expertchat.preferences.config import PairsConfig
from expertchat.preferences.pairs import Choice, make_pairs
from expertchat.records import Candidate, Message

OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "OMP_NUM_THREADS": "1"}


def candidate(dialogue: int, index: int, text: str, learner: Any) -> Candidate:
    turn = 1 + 2 * (dialogue % 2)
    return Candidate(
        id=f"r0003/c{dialogue:04d}/t{turn:02d}/k{index}", transcript=f"r0003/c{dialogue:04d}", round=3, turn=turn, index=index,
        speaker=learner, text=text, tokens=len(text.split()), policy_version=2,
        ids=[10 * index + n for n in range(len(text.split()))], ended=True, cut=bool(index),
    )  # fmt: skip


@pytest.fixture
def pairs_file(tmp_path: Path) -> Path:
    """Pairs as a run makes them: with and without a system message, both learners, whole and broken rewards, text of all kinds."""
    choices = []
    for i in range(8):
        system = [Message("system", 'You know "tides".\nAnd \u2028 odd | characters \\ too.')] if i % 2 else []
        history = [*system, Message("user", "What of tides?"), Message("assistant", "Twice a day."), Message("user", "Why?")]
        texts = ("The Moon pulls the sea towards it.", "Hm. 10/10 <|user|>")
        replies = tuple(candidate(i, k, text, "ab"[i % 2]) for k, text in enumerate(texts))
        choices.append(Choice(tuple(history), replies, (1.0 if i else 2.5, -1), "partner", list(range(5 + i))))
    config = PairsConfig(mode="best_worst", min_margin=0.1, length_ratio=1.25, max_lag=0, cut="no_end")
    pairs = make_pairs(choices, config, policy_version=2).pairs
    assert len(pairs) == 8
    file = tmp_path / "run" / "pairs.jsonl"
    file.parent.mkdir()
    file.write_text("".join(pair.to_json() + "\n" for pair in pairs), "utf-8")
    (file.parent / "events.jsonl").write_text('{"kind": "note"}\n')  # other files of a run stand beside it
    return file


@pytest.mark.parametrize("block", [None, 900])  # bytes that are read at once; a line has about 800, so types must agree between blocks
def test_datasets_loads_it(pairs_file: Path, tmp_path: Path, block: int | None) -> None:
    from datasets import load_dataset
    from datasets.utils.logging import disable_progress_bar

    disable_progress_bar()
    more = {"chunksize": block} if block else {}
    rows = load_dataset("json", data_files=str(pairs_file), split="train", cache_dir=str(tmp_path / "cache"), **more)
    kept = [json.loads(line) for line in pairs_file.read_text("utf-8").split("\n") if line]
    assert list(rows) == kept
    assert {"prompt", "chosen", "rejected", "score_chosen", "score_rejected", "margin", "round", "policy_version"} <= set(rows.column_names)
    assert rows[1]["prompt"][0]["role"] == "system" and rows[0]["prompt"][0]["role"] == "user"
    # 2.5 - -1 and 1 - -1: floats in every line, also where they are whole numbers, or the second block would not fit the first
    assert rows["margin"] == [3.5] + [2.0] * 7 and all('"margin":2.0' in line for line in pairs_file.read_text("utf-8").split("\n")[1:-1])
    # What the update trains on stands beside the texts: seven words are seven ids here.
    assert rows[1]["ids"] == {"prompt": [0, 1, 2, 3, 4, 5], "chosen": [0, 1, 2, 3, 4, 5, 6], "rejected": [10, 11, 12]}
    assert len({tuple((key, type(value).__name__) for key, value in row["provenance"].items()) for row in kept}) == 1


LEARNS = {
    "max_steps": 2, "per_device_train_batch_size": 2, "learning_rate": 1e-3, "report_to": "none", "use_cpu": True, "bf16": False,
    "logging_steps": 1,
}  # fmt: skip


def learnt(history: list[dict[str, Any]], before: Path, after: Path) -> None:
    """Two steps were made, from where policy and reference are the same: -log sigmoid(0) = 0.6931; and they changed the weights."""
    losses = [line["loss"] for line in history if "loss" in line]
    assert len(losses) == 2 and losses[0] == pytest.approx(0.6931, abs=1e-3)
    weights = [load_file(folder / "model.safetensors") for folder in (before, after)]
    assert any(not torch.equal(weights[0][name].float(), weights[1][name].float()) for name in weights[1])


def test_trl_trains_on_it(pairs_file: Path, tmp_path: Path) -> None:
    """TRL's trainer, given the file as `datasets` reads it."""
    from datasets import load_dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import DPOConfig, DPOTrainer

    rows = load_dataset("json", data_files=str(pairs_file), split="train", cache_dir=str(tmp_path / "cache"))
    folder = find_folder("embedded:llama")
    trainer = DPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(folder, dtype="float32"),
        args=DPOConfig(output_dir=str(tmp_path / "out"), disable_tqdm=True, **LEARNS),
        train_dataset=rows,
        processing_class=AutoTokenizer.from_pretrained(folder),
    )
    trainer.train()
    trainer.save_model(str(tmp_path / "out"))
    learnt(trainer.state.log_history, folder, tmp_path / "out")


@pytest.mark.slow  # a process of its own, which takes ten seconds to import TRL
def test_the_command_of_trl_trains_on_it(pairs_file: Path, tmp_path: Path) -> None:
    """`trl dpo` from its command line; the YAML file names the pairs, since a run's folder holds other JSON lines too."""
    model = tmp_path / "model"
    shutil.copytree(find_folder("embedded:llama"), model)
    settings = LEARNS | {
        "model_name_or_path": str(model), "datasets": [{"path": "json", "data_files": str(pairs_file)}],
        "output_dir": str(tmp_path / "out"), "dtype": "float32",
    }  # fmt: skip
    (tmp_path / "dpo.yaml").write_text(json.dumps(settings))
    command = [str(Path(sys.executable).parent / "trl"), "dpo", "--config", str(tmp_path / "dpo.yaml")]
    environment = os.environ | OFFLINE | {"HF_DATASETS_CACHE": str(tmp_path / "cache"), "HF_HOME": str(tmp_path / "home")}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    learnt(json.loads((tmp_path / "out" / "checkpoint-2" / "trainer_state.json").read_text())["log_history"], model, tmp_path / "out")
