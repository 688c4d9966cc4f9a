"""Lanes of the engine: whose rows share a table, and who is let in when."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from expertchat.backends.base import Completion, Decoding, GenerateRequest
from expertchat.backends.rows import BranchLane
from expertchat.records import Message
from tests import tiny
from tests.test_engine import CONTRASTIVE, GREEDY, LONG, load

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.build(tmp_path_factory.mktemp("llama"), "llama3", context=1024)


def test_speakers_and_judges_write_in_one_table(llama: Path) -> None:
    """Each reply is drawn by its own decoding, whatever the others in its batch are drawn by; equal prompts stand in one line."""
    hot, cold = (Decoding(method="sampling", max_new_tokens=n, temperature=t, top_p=0.9) for n, t in ((24, 1.3), (12, 0.4)))
    prompts = [(Message("user", "Owls fish. " * (1 + i % 4)),) for i in range(12)]
    requests = [GenerateRequest(f"k{i}", prompt, (hot, cold, GREEDY)[i % 3]) for i, prompt in enumerate(prompts)]
    backend = load(llama)
    assert len({backend.alike(request.decoding) for request in requests}) == 1
    lane = backend.lane(hot)
    tickets = {lane.add(request): i for i, request in enumerate(requests)}
    found: dict[int, Completion] = {}
    while lane.load:
        found |= {tickets[ticket]: done for ticket, done in lane.advance()}
    wanted = [load(llama, engine=False).generate([request])[0] for request in requests]
    assert [(found[i].text, found[i].tokens, found[i].finish) for i in range(12)] == [(w.text, w.tokens, w.finish) for w in wanted]
    weighed = replace(CONTRASTIVE, max_new_tokens=3)
    assert backend.alike(CONTRASTIVE) == backend.alike(weighed) != backend.alike(replace(weighed, top_k=5)) != backend.alike(hot)
    assert load(llama, engine=False).alike(hot) == hot


def test_short_replies_are_let_in_first_and_nobody_waits_for_company(llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("expertchat.backends.rows.SECONDS", 0.0)  # an advance is a step
    long, short = (Decoding(method="greedy", max_new_tokens=n) for n in (60, 4))
    backend = load(llama, max_batch=2)
    backend.end_ids = ()
    lane = backend.lane(long)
    order = [lane.add(GenerateRequest(f"k{i}", LONG, one)) for i, one in enumerate([long, long, long, short])]
    done: list[int] = []
    while lane.load:
        done += [ticket for ticket, _ in lane.advance()]
    assert done.index(order[3]) < done.index(order[2])
    # One alone is less than an eighth of nine that run; it joins them after 16 steps all the same, and is done before they are.
    backend.max_batch = 10
    running = [lane.add(GenerateRequest(f"r{i}", LONG, long)) for i in range(9)]
    lane.advance()
    late = lane.add(GenerateRequest("late", LONG, short))
    done = []
    while lane.load:
        done += [ticket for ticket, _ in lane.advance()]
    assert done[0] == late and sorted(done[1:]) == running


def test_candidates_do_not_widen_the_rows_of_others(llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four replies to one prompt stand in one line, four tokens of which are fed in a step; the row of another prompt stays one wide."""
    monkeypatch.setattr("expertchat.backends.rows.SECONDS", 0.0)
    hot = Decoding(method="sampling", max_new_tokens=12, temperature=1.3)
    requests = [*(GenerateRequest(f"k{i}", LONG, hot) for i in range(4)), GenerateRequest("one", (Message("user", "Owls."),), GREEDY)]
    backend = load(llama)
    lane = backend.lane(hot)
    assert isinstance(lane, BranchLane)
    tickets = {lane.add(request): i for i, request in enumerate(requests)}
    found = {tickets[ticket]: done for ticket, done in lane.advance()}
    assert (lane.single.width, lane.wide.width) == (1, 4) and (lane.single.running, lane.wide.running) == (1, 4)
    while lane.load:
        found |= {tickets[ticket]: done for ticket, done in lane.advance()}
    wanted = [load(llama, engine=False).generate([request])[0] for request in requests]
    assert [found[i].text for i in range(5)] == [w.text for w in wanted]
    assert lane.advance() == []
