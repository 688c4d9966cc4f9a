"""A learner that talks through a server: each change of its weights is published under a name of its own, and nothing else is."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from expertchat.backends.served.backend import ServedBackend
from expertchat.backends.served.level import Turns
from expertchat.config import ConfigError
from expertchat.training.mixing import went_along
from expertchat.training.through import FOLDER, Through
from tests.served import Stub, Traits
from tests.served_runs import asked, connected


class Learns:
    """What a learner is to its voice: weights that change, and can be saved."""

    def __init__(self) -> None:
        self.changes, self.weights = 0, "as they began"

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        save_file({"q.lora_B.weight": torch.full((2, 2), float(len(self.weights)))}, folder / "adapter_model.safetensors")
        (folder / "adapter_config.json").write_text("{}")

    def learn(self, weights: str) -> None:
        self.changes, self.weights = self.changes + 1, weights


def through(stub: Stub) -> tuple[Through, Learns]:
    learner: Any = Learns()
    return Through("a", learner, connected(stub)), learner


def said(voice: ServedBackend) -> str:
    return voice.generate([asked()])[0].text


def test_the_policy_follows_its_weights_and_the_base_does_not(tmp_path: Path) -> None:
    with Stub(Traits(adapters=True)) as stub:
        voices, learner = through(stub)
        voices.publish(tmp_path)
        assert not stub.adapters and said(voices.policy) == said(voices.base)  # nothing is learnt yet
        base, heard = said(voices.base), []
        for weights in ("one", "three", "one"):
            learner.learn(weights)
            voices.publish(tmp_path)
            voices.publish(tmp_path)  # nothing has changed
            heard.append(said(voices.policy))
            assert stub.adapters == {voices.policy.name: ["adapter_config.json", "adapter_model.safetensors"]}
            assert [path.name for path in (tmp_path / FOLDER).iterdir()] == [voices.policy.name]
        assert said(voices.base) == base and heard[0] == heard[2] != heard[1] != base


def test_a_server_that_loads_no_adapters_is_refused(tmp_path: Path) -> None:
    with Stub() as stub, pytest.raises(ConfigError, match="--enable-lora") as caught:
        through(stub)
    assert any("ids of its tokens" in problem for problem in caught.value.problems)


def test_a_server_that_mixes_the_base_up_with_an_adapter_is_asked_by_turns(tmp_path: Path) -> None:
    """As vLLM on a CPU: what it computes at once with an adapter, it computes with it."""
    with Stub(Traits(adapters=True, mixes=True)) as stub:
        told: list[str] = []
        voices, learner = through(stub)
        stub.slow = 0.2  # so long they work at once
        voices.base.client.terms.say = told.append
        alone = [voices.base._digest(asked(str(i))) for i in range(6)]
        learner.learn("one")
        voices.publish(tmp_path)
        assert voices.base.client.turns is not None and "--max-loras 3" in told[0] and len(told) == 1
        assert list(stub.adapters) == [voices.policy.name] and len(list((tmp_path / FOLDER).iterdir())) == 1
        lanes = [voice.lane_apart() for voice in (voices.base, voices.policy)]
        for i in range(6):
            for lane in lanes:
                lane.add(asked(str(i)))
        while any(lane.load for lane in lanes):
            for lane in lanes:
                lane.advance()
        beside = [voices.base.client.terms.ledger.find(name) for name in alone]
        stub.slow = 0.0
        again = connected(stub)
        assert [one and one.text for one in beside] == [again.generate([asked(str(i))])[0].text for i in range(6)]


def test_a_base_that_moves_as_far_as_the_adapter_has_gone_along() -> None:
    inf = float("inf")
    assert went_along(inf, inf) and went_along(2.0, 0.3) and went_along(0.4, 0.4)
    assert not went_along(inf, 0.05) and not went_along(2.0, 0.05) and not went_along(0.4, 0.0)


def test_kinds_go_out_one_at_a_time_and_the_longest_wait_is_next() -> None:
    """a1 a2 are out; b1 a3 b2 wait: b1 and b2 go when both a are back, a3 when both b are."""

    async def work() -> list[str]:
        turns, order = Turns(), list[str]()

        async def one(name: str) -> None:
            await turns.enter(name[0])
            order.append(name)
            await asyncio.sleep(0)
            turns.leave()

        await asyncio.gather(*(one(name) for name in ("a1", "a2", "b1", "a3", "b2")))
        assert turns.out == 0
        return order

    assert asyncio.run(work()) == ["a1", "a2", "b1", "b2", "a3"]
