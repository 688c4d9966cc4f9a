"""The bench's part online_dpo: both sides do the same work on the same prompts. No test asserts seconds."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from expertchat.bench import peer
from expertchat.bench.kit import Kit
from expertchat.bench.peer import OURS, PEER, measure_online_dpo, requests, reward
from expertchat.bench.results import Column, Part, Timing
from expertchat.command.compose import load
from expertchat.views.bench import BenchView

SMALL = ['bench.model="random:llama:hidden=32,layers=2,heads=4,kv_heads=2,ffn=48"', "bench.rows=[1,4]", "bench.tokens=4", "bench.turns=3",
         "bench.repeats=2", "bench.threads=1", "bench.dtype=fp32", "bench.device=cpu", "bench.parts=[online_dpo]"]  # fmt: skip


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def kit() -> Kit:
    from expertchat.bench.subject import load_subject

    config = load("bench", SMALL)
    return Kit(config, config.bench, load_subject(config.bench))


@pytest.mark.slow
def test_both_sides_do_the_same_work(kit: Kit) -> None:
    pytest.importorskip("trl.experimental.online_dpo", reason="NOT TESTED: this TRL has no experimental OnlineDPOTrainer")
    before = {name: parameter.clone() for name, parameter in kit.subject.model.named_parameters()}
    measure_online_dpo(kit)
    (part,) = kit.parts
    # 2 x 4 rows at most: 8 histories x 2 candidates x 4 tokens in each of 2 repeats
    assert [(t.way, t.repeat, t.tokens, t.counts["pairs"]) for t in part.timings] == [
        (PEER, 0, 64, 8), (OURS, 0, 64, 8), (PEER, 1, 64, 8), (OURS, 1, 64, 8)
    ]  # fmt: skip
    assert all(0 < t.counts["sampling"] < t.seconds for t in part.timings)
    assert len(part.ratios("N=8", OURS, part.columns[0])) == 2 and part.facts[0][0] == "median of the ratios"
    after = dict(kit.subject.model.named_parameters())  # the model of the other parts is as it was, without an adapter
    assert after.keys() == before.keys() and all((after[name] == before[name]).all() for name in before)
    stream = io.StringIO()
    BenchView(stream).measured(part)
    assert "8 histories x 2 candidates of 4 tokens" in stream.getvalue() and "median of the ratios" in stream.getvalue()
    json.dumps(part.plain())


def test_the_peer_is_shown_the_same_tokens(kit: Kit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    experimental = pytest.importorskip("trl.experimental.online_dpo", reason="NOT TESTED: this TRL has no experimental OnlineDPOTrainer")
    seen: list[list[int]] = []
    generate = experimental.OnlineDPOTrainer._generate

    def watched(self: Any, *args: Any) -> Any:
        found = generate(self, *args)
        for ids, mask in zip(found[0].tolist(), found[1].tolist(), strict=True):
            seen.append([i for i, m in zip(ids, mask, strict=True) if m])
        return found

    monkeypatch.setattr(experimental.OnlineDPOTrainer, "_generate", watched)
    histories = requests(kit, 8)
    peer.peer(kit, histories, tmp_path)(0)
    backend = kit.subject.engine(2)
    mine = [backend.renderer.encode(request.messages) for request in histories]
    assert sorted(seen) == sorted(mine * 2)  # each history twice
    # three turns of each dialogue: eight histories of three lengths, all different
    assert len({len(ids) for ids in mine}) >= 3 and len({tuple(ids) for ids in mine}) == 8


@pytest.mark.slow
def test_a_trl_without_the_trainer_is_said(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "trl.experimental.online_dpo", None)
    measure_online_dpo(kit)
    (part,) = kit.parts
    assert {t.way for t in part.timings} == {OURS} and part.facts == []
    assert any(note.startswith("nothing to compare with: this TRL has no experimental OnlineDPOTrainer") for note in part.notes)


@pytest.mark.parametrize(("seconds", "said"), [((6.0, 7.0, 9.0), "0.70, target 0.7: met"), ((8.0, 6.0, 7.5), "0.75, target 0.7: missed")])
def test_the_verdict_is_the_median_of_the_ratios(seconds: tuple[float, ...], said: str) -> None:
    # against 10 s each time: ratios .6 .7 .9 and .8 .6 .75
    part = Part("online_dpo", "", columns=[Column("x", PEER, "cost", (OURS,))])
    for repeat, mine in enumerate(seconds):
        part.timings += [Timing("N=1", PEER, repeat, 10.0), Timing("N=1", OURS, repeat, mine)]
    peer.tell_verdict(part, "N=1", peer.TARGET)
    assert part.facts == [("median of the ratios", said)]


@given(st.text(), st.text())
def test_the_reward_ties_equal_texts_alone(one: str, two: str) -> None:
    assert 0 <= reward(one.encode("utf-8", "replace").decode()) < 1
    one, two = (text.encode("utf-8", "replace").decode() for text in (one, two))
    assert (reward(one) == reward(two)) == (one == two)  # two texts of one checksum exist, but nobody finds them by chance


@pytest.mark.slow
def test_a_round_of_grpo_is_the_same_work_on_both_sides() -> None:
    from expertchat.bench import peer_grpo
    from expertchat.bench.subject import load_subject

    config = load("bench", [*SMALL, "bench.repeats=1", "bench.parts=[grpo]"])
    kit = Kit(config, config.bench, load_subject(config.bench))
    peer_grpo.measure_grpo(kit)
    (part,) = kit.parts
    # 2 x 4 rows at most: 8 histories x 4 candidates x 4 tokens
    assert [(t.way, t.tokens, t.counts["replies"]) for t in part.timings] == [(peer_grpo.PEER, 128, 32), (OURS, 128, 32)]
    assert len(part.ratios("N=8", OURS, part.columns[0])) == 1 and part.facts[0][0] == "median of the ratios"
