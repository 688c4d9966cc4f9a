"""A reward model behind an address: how it is asked, what becomes of its numbers, and a run that it judges."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from expertchat.backends.base import ValueRequest
from expertchat.backends.loading import client_for
from expertchat.backends.served.terms import Terms
from expertchat.backends.served.valuer import ServedRewardModel, _tokens
from expertchat.cli import main
from expertchat.command.check_models import reward_model_problems
from expertchat.config import ConfigError, RewardModelConfig
from expertchat.records import Message
from tests.alike import records
from tests.served import Stub, Traits
from tests.served_runs import QUICK, talk

SAID = (Message("user", "Let us talk about herons."), Message("assistant", "They fish."), Message("user", "Where do they nest?"))


def connected(stub: Stub, **more: object) -> ServedRewardModel:
    config = RewardModelConfig(path="m", backend="server", url=stub.url, model="m", **more)
    return ServedRewardModel.connect(config, client_for(config, Terms(QUICK)))


@pytest.mark.parametrize("way", ["chat", "pair"])
def test_a_number_for_a_reply(way: str) -> None:
    """Four words less a tenth of 5 + 2 + 4: 4 - 1.1 = 2.9; the reward is tanh(2.9 / 2)."""
    with Stub(Traits(values=way)) as stub:
        model = connected(stub)
        one, two, again = model.value([ValueRequest(key, SAID, reply) for key, reply in
                                       (("a", "In trees, mostly high."), ("b", "No."), ("c", "In trees, mostly high."))])  # fmt: skip
        assert one.score == pytest.approx(2.9) and one.reward == pytest.approx(math.tanh(1.45)) and two.score == pytest.approx(-0.1)
        assert again == one and model.client.terms.ledger.spent[0] >= 2
        before = len(stub.asked)
        assert model.value([ValueRequest("d", SAID, "No.")])[0] == two and len(stub.asked) == before  # it is on the ledger
        assert "two texts" in model.notes[0] if way == "pair" else "a chat" in model.notes[0]


def test_what_does_not_fit_loses_its_oldest_messages() -> None:
    """Of 5 + 2 + 4 + 4 words twelve are taken: what is left of the chat begins with a user's message."""
    with Stub(Traits(values="chat", context=12)) as stub:
        (one,) = connected(stub).value([ValueRequest("a", SAID, "In trees, mostly high.")])
        assert one.score == pytest.approx(4 - 0.4)
        (none,) = connected(stub).value([ValueRequest("a", SAID, "word " * 20)])
        assert none.score is None and none.reward is None and "maximum context length" in (none.problem or "")


def test_a_server_that_values_nothing_is_refused() -> None:
    with Stub() as stub, pytest.raises(ConfigError, match="asked by /score") as caught:
        connected(stub)
    assert len(caught.value.problems) == 2
    wanted = RewardModelConfig(path="m", backend="server", url="http://here:1/v1", model="m", label="good")
    assert ["not to be had of a server" in one for one in reward_model_problems("reward_model", wanted)] == [True]


def test_a_chat_ends_with_the_token_that_ends_the_reply() -> None:
    assert _tokens({"tokens": [7, 2, 198], "token_strs": ["Yes", "<|im_end|>", "Ċ"]}) == [7, 2]
    assert _tokens({"tokens": [7, 2], "token_strs": ["Yes", "<|eot_id|>"]}) == [7, 2]


@pytest.mark.slow
def test_a_conversation_is_judged_by_it(tmp_path: Path) -> None:
    with Stub(Traits(values="chat")) as stub:
        words = ["+reward_model=server", f"reward_model.url={stub.url}", "reward_model.model=m", "judging.judge=reward_model"]
        assert talk(stub, tmp_path / "run", *words) == 0
        rewards = records(tmp_path / "run", "rewards")
        assert {line["judge"] for line in rewards} == {"reward_model"} and all(line["score"] is not None for line in rewards)
        summary = json.loads((tmp_path / "run" / "summary.json").read_text("utf-8"))
        scored = [line for line in records(tmp_path / "run", "served") if line.get("score") is not None]
        assert len(scored) == len(rewards) == summary["rewards_read"] and not stub.twice()


@pytest.mark.slow
def test_whatever_asks_a_server_has_the_sums_in_its_summary(tmp_path: Path) -> None:
    """A judge of what exists, and one that picks: as many answers as served.jsonl has lines."""
    table = tmp_path / "rows.csv"
    table.write_text("topic,text,a,b\nherons,They nest in trees.,In trees.,No.\ntides,By the moon.,The moon.,The sun.\n")
    with Stub() as stub:
        at = ["model.url=" + stub.url, "model.model=m"]
        judge = ["+judge@judges.mine=expected", "model@judges.mine.model=server", *(f"judges.mine.{word}" for word in at)]
        runs = {
            "judge": [*judge, "judges.mine.analysis=false", "source.columns.text=text"],
            "pick": ["model=server", *at, "texts=[a,b]"],
        }
        for command, words in runs.items():
            folder = tmp_path / command
            assert main([command, f"source.path=[{table}]", f"run.dir={folder}", "view=none", *words]) in (0, 1)
            summary = json.loads((folder / "summary.json").read_text("utf-8"))
            assert summary["served"]["answers"] == len(records(folder, "served")) > 0
