"""A training method is one file and one line of METHODS: a toy runs through `expertchat online_dpo`; and how the config names methods."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from expertchat.config import ConfigError
from expertchat.training.method import METHODS, Entry, method_of
from expertchat.training.room import room_for
from tests.test_online_dpo import adapters, config_of, records, train
from tests.test_update import lora, pairs
from tests.toy_method import Chosen

TOY = Entry("tests.toy_method:Chosen", texts=1)
SHORT = ("rounds=2", "evaluation.every=0", "evaluation.histories=1", "evaluation.final=2", "train.update=chosen")


@pytest.fixture
def chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METHODS, "chosen", TOY)  # the line


def test_a_toy_method_learns_through_the_whole_loop(chosen: None, tmp_path: Path) -> None:
    code, _ = train(tmp_path / "run", *SHORT)
    assert code == 0
    rounds = [m["figures"] for m in records(tmp_path / "run", "metrics") if m["kind"] == "round"]
    assert len(rounds) == 2 and all(figures["steps"] >= 1 and figures["loss"] > 0 for figures in rounds)
    assert all("accuracy" not in figures and "log_ratio" not in figures for figures in rounds)  # DPO's own
    assert json.loads((tmp_path / "run/summary.json").read_text("utf-8"))["adapter"]
    assert any(float(weight.abs().max()) > 0 for name, weight in adapters(tmp_path / "run").items() if "lora_B" in name)


def test_it_does_what_it_is_for_and_goes_on_where_it_was(tmp_path: Path) -> None:
    """Three updates in one go, and the third after a restart: the same loss, and the chosen replies become likelier."""
    from expertchat.training.method import Rows

    learner = lora()
    one = Chosen(learner, learner.config, rounds=4, seed=3, folder=tmp_path)
    losses = [one.update(Rows(pairs()), 1).figures["loss"] for _ in range(2)]
    one.save(tmp_path / "state.pt")
    learner.save(tmp_path / "adapter")
    losses.append(one.update(Rows(pairs()), 1).figures["loss"])
    assert losses[2] < losses[1] < losses[0]
    again = lora()
    again.load(tmp_path / "adapter")
    again.version = 2
    two = Chosen(again, again.config, rounds=4, seed=3, folder=tmp_path)
    two.load(tmp_path / "state.pt")
    assert two.update(Rows(pairs()), 1).figures["loss"] == losses[2]


def test_the_memory_plan_counts_the_texts_of_the_method(chosen: None) -> None:
    assert [room_for(config_of(*overrides))[0].texts for overrides in ((), ("train.update=chosen",))] == [2, 1]


def test_a_method_that_is_not_there_is_refused_with_those_that_are() -> None:
    with pytest.raises(ConfigError, match=r"train\.update=ppo is no training method: take dpo"):
        config_of("train.update=ppo")
    assert method_of("dpo").__name__ == "Dpo"
