"""A job of a command that is no dialogue: its models are what its config names, wherever they stand in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from expertchat.command.compose import load
from expertchat.command.frozen import load_frozen
from expertchat.config import EmbedderConfig, Group, ModelConfig
from expertchat.doors.judge import meant
from expertchat.slurm import checks
from expertchat.slurm.loads import devices_of, models_of, named_by, pace_of, reward_models_of
from tests.scripted import config_of
from tests.test_submit import own_folder, problems, submit  # noqa: F401 (a fixture)
from tests.tiny import build_reward_model

TABLE = "prompt,reply\nWhat is a tide?,The Moon pulls.\nWhat is a bee?,An insect.\n"


class Learns(Group):
    """As the config of a command that trains one model."""

    model: ModelConfig
    embedder: EmbedderConfig


def of_model(path: str) -> Learns:
    model = load("tokens", ["model=auto", f"model.path={path}", "text=x"]).model
    return Learns(model=model, embedder=EmbedderConfig())


def test_models_are_found_wherever_they_stand() -> None:
    assert list(models_of(of_model("owner/name"))) == ["model"]
    assert list(models_of(config_of("+model@third=embedded_llama"))) == ["experts.a", "experts.b"]  # nobody asks the third
    paths = ["judges.one.model.path=o/m", "judges.two.model.path=o/m"]
    lab = load("judge", meant(["x.csv", "judge@one=expected", "judge@two=written", "model=auto", *paths]))
    assert list(models_of(lab)) == ["judges.one.model", "judges.two.model"]
    assert [(one.key, one.kind) for one in named_by(lab)] == [("judges.one.model.path", "model")]  # once, and nothing is embedded
    learns = of_model("owner/name")
    assert [one.kind for one in named_by(learns)] == ["model", "embedder"]
    assert devices_of(learns) == {"model.device": "auto", "embedder.device": "auto"}
    assert not any(named_by(of_model("embedded:llama")))


def test_reward_models_count(tmp_path: Path) -> None:
    folder = build_reward_model(tmp_path / "valuer", "bert")
    (tmp_path / "t.csv").write_text(TABLE)
    words = ["t.csv", "judge=reward_model", f"judges.reward_model.reward_model.path={folder}"]
    lab = load("judge", meant(words))
    assert list(reward_models_of(lab)) == ["judges.reward_model.reward_model"] and not models_of(lab)
    size = (folder / "model.safetensors").stat().st_size
    assert list(checks.weights_of(lab)) == [size]
    found = problems("judge", *words, "cluster=generic", "cluster.memory=100M", "run.dir=one")
    assert any("judge needs about" in one for one in found)
    lost = problems("judge", *words[:2], "judges.reward_model.reward_model.path=./none", "run.dir=two")
    assert any(one.startswith("judges.reward_model.reward_model.path=./none: ") for one in lost)


def test_a_reward_model_begins_from_a_model_that_is_there_and_fits(tmp_path: Path) -> None:
    words = ["reward_model", "rows.jsonl", "cluster=generic", "cluster.gpus=1", "cluster.gpu_gib=16", "run.dir=one"]
    (tmp_path / "rows.jsonl").write_text('{"prompt": "p", "chosen": "c", "rejected": "r"}\n', "utf-8")
    lost = problems(*words, "model=./none")
    assert any(one.startswith("model.path=./none: ") for one in lost)
    folder = build_reward_model(tmp_path / "base", "bert")
    assert [(one.key, one.kind) for one in named_by(load("reward_model", [f"model.path={folder}", "source.path=[x]"]))] == [
        ("model.path", "model")
    ]  # fmt: skip
    told: Any = submit(*words, f"model={folder}", "--dry-run")
    assert any(note.startswith("memory plan on one GPU of 16 GiB: rows of up to ") for note in told["notes"])


def test_a_judge_is_submitted_by_its_words(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(TABLE)
    words = ["t.csv", "judge=length", "judge@mine=expected", "model=embedded:llama", "run.dir=one"]
    told: Any = submit("judge", *words, "cluster=laptop", "--dry-run")
    assert told["about"].startswith("judge with no GPU") and told["merge"] is None
    frozen = tmp_path / "one" / "submission" / "config.yaml"
    config = load_frozen("judge", frozen, ["models_dir=/models"])
    assert list(config.judges.root) == ["length", "mine"] and config.view == "plain" and config.source.path == ["t.csv"]
    assert config.judges.root["mine"].model.path == "embedded:llama"
    assert 'supervise expertchat judge --config "$RUN/submission/config.yaml"' in (tmp_path / "one/submission/job.sh").read_text()
    more = ["run.dir=two", "judges.mine.model.device=cuda:1", "cluster=beluga", "cluster.gpus=1"]
    gpu = [word for word in problems("judge", *words[:-1], *more) if "device" in word]
    assert gpu and gpu[0].startswith("judges.mine.model.device=cuda:1: a node of the job has 1 GPUs")


def test_how_long_it_takes_is_told_by_earlier_ones() -> None:
    from expertchat.doors.judge import WORK

    Path("t.csv").write_text(TABLE)
    config = load("judge", meant(["t.csv", "judge=[length,random]"]))
    assert WORK.wanted(config) == 4  # two judges, two texts
    plain = yaml.safe_load(yaml.safe_dump(of_model("o/m").model_dump(mode="json")))
    assert pace_of(plain) == [["o/m", "auto", "auto"]] and pace_of(config.model_dump(mode="json")) == []


def test_weights_that_no_gpu_of_the_node_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "weights_of", lambda config: iter([20 * 2**30]))
    monkeypatch.setattr(checks, "named_by", lambda config: iter([1]))
    cluster = load("submit", ["cluster=beluga", "cluster.gpus=1", "cluster.gpu_gib=16"]).cluster
    checked = checks.Checked()
    checks._gpu_memory(of_model("o/m"), cluster, 1, checked)
    assert checked.doubts == ["cluster.gpus=1: the weights take 20.0 GiB, the GPUs of a node have 16; ask for more or larger ones"]
