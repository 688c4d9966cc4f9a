"""A learner that talks through a server: each change of its weights is published under a name of its own, and nothing else is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from expertchat.backends.served.backend import ServedBackend
from expertchat.config import ConfigError
from expertchat.training.through import FOLDER, Through
from tests.served import Stub, Traits
from tests.test_served import asked, connected


class Learns:
    """What a learner is to its voice: weights that change, and can be saved."""

    def __init__(self) -> None:
        self.changes, self.weights = 0, "as they began"

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        (folder / "adapter_model.safetensors").write_text(self.weights)
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
        for weights in ("one", "two", "one"):
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
