"""The hub of a run, what backends are told and tell, and the loading of models: each once, problems first."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from expertchat.backends.base import Capabilities, Completion, Decoding
from expertchat.backends.folders import find_folder
from expertchat.backends.lanes import BatchLane
from expertchat.backends.loading import Wanted, find_models, load_models
from expertchat.config import ConfigError, EngineConfig
from expertchat.events import Loading, Note
from expertchat.folder.run import Hub
from expertchat.talk.cast import load_cast
from tests import tiny
from tests.scripted import Collect, Double, config_of, run

torch.set_num_threads(1)


def in_thread(work: Any) -> None:
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()


def test_the_hub_passes_events_on_in_its_own_thread_alone() -> None:
    heard: list[tuple[str, int]] = []

    class Sink(Collect):
        def send(self, event: Any) -> None:
            heard.append((event.text, threading.get_ident()))

    hub = Hub(Sink())
    hub.store = Sink()
    in_thread(lambda: hub.send(Note(text="late")))
    assert heard == []
    hub.send(Note(text="next"))
    here = threading.get_ident()
    assert heard == [("late", here), ("late", here), ("next", here), ("next", here)]  # to the store and to the view


def test_an_event_of_another_thread_keeps_its_time() -> None:
    sink = Collect()
    hub = Hub(sink)
    in_thread(lambda: hub.send(Note(text="late")))
    hub.send(Note(text="next"))
    assert 0 < sink.events[0].time <= sink.events[1].time


# -- backends -----------------------------------------------------------------------------------------------------------


class Keeping(Double):
    """A backend that keeps caches, and has something to say at its third batch."""

    capabilities = Capabilities(keeps=True)

    def __init__(self, **more: Any) -> None:
        super().__init__(**more)
        self.forgotten: list[str] = []
        self.say: Any = None

    def forget(self, key: str) -> None:
        self.forgotten.append(key)

    def _seen(self, requests: Any) -> None:
        super()._seen(requests)
        if len(self.batches) == 3:
            self.say("out of memory: max_batch lowered from 64 to 32")


def test_what_is_kept_of_a_conversation_is_forgotten_when_it_has_been_judged(tmp_path: Path) -> None:
    a, b = Keeping(), Keeping()
    sink = Collect()
    assert run(tmp_path / "run", "conversation.count=3", "conversation.turns=2", double=a, b=b, sink=sink) == 0
    # `a` sits in two seats and is told once.
    assert sorted(a.forgotten) == sorted(b.forgotten) == ["c0000/", "c0001/", "c0002/"]
    said = [note for note in sink.of(Note) if note.level == "warning"]
    assert [note.text for note in said] == ["out of memory: max_batch lowered from 64 to 32"] * 2  # one each


def test_no_request_of_a_conversation_comes_after_it_was_forgotten(tmp_path: Path) -> None:
    late: list[str] = []

    class Strict(Keeping):
        def _seen(self, requests: Any) -> None:
            late.extend(r.key for r in requests if any(r.key.startswith(gone) for gone in self.forgotten))
            super()._seen(requests)

    double = Strict()
    assert run(tmp_path / "run", "conversation.count=4", "engine.max_batch=2", double=double) == 0
    assert len(double.forgotten) == 4 and late == []
    assert all(key.startswith(tuple(double.forgotten)) for key in double.asked())  # what was kept is forgotten, all of it


def test_a_batch_lane_runs_what_it_collected_in_the_order_of_its_tickets() -> None:
    def answer(requests: Any, on_text: Any) -> list[Completion]:
        if on_text is not None:
            on_text(len(requests) - 1, "so far")
        return [Completion(request.key, 1, 0.0, "stop") for request in requests]

    lane, told = BatchLane(answer, lambda: 2), list[str]()
    requests = [tiny_request(key) for key in "xyz"]
    tickets = [lane.add(requests[0]), lane.add(requests[1], told.append), lane.add(requests[2])]
    assert lane.load == 3
    first, second = lane.advance(), lane.advance()
    assert [(ticket, done.text) for ticket, done in first + second] == list(zip(tickets, "xyz", strict=True))
    assert (lane.load, lane.advance(), told) == (0, [], ["so far"])


def tiny_request(key: str) -> Any:
    from expertchat.backends.base import GenerateRequest
    from expertchat.records import Message

    return GenerateRequest(key, (Message("user", "x"),), Decoding())


# -- loading ------------------------------------------------------------------------------------------------------------


def test_every_model_that_is_not_there_is_named_before_any_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("expertchat.talk.cast.load_models", lambda *_: pytest.fail("loaded"))
    config = config_of(f"experts.a.path={tmp_path}/one", f"experts.b.path={tmp_path}/two", f"embedder.path={tmp_path}/three")
    with pytest.raises(ConfigError) as caught:
        load_cast(config, Hub(Collect()), None, None)
    assert [name in problem for name, problem in zip(("one", "two", "three"), caught.value.problems, strict=True)] == [True] * 3


def test_loading_tells_name_size_and_time(tmp_path: Path) -> None:
    folder = tiny.build(tmp_path / "model", "llama3")
    wanted, told = {"x": Wanted(tiny.config(folder))}, list[Loading]()
    folders = find_models(wanted)
    loaded = load_models(wanted, folders, 0, EngineConfig(max_batch=3, cache_gib=0.0), told.append)
    gib = (folder / "model.safetensors").stat().st_size / 2**30
    assert [(event.what, event.done, event.gib) for event in told] == [("model", False, gib), ("model", True, gib)]  # by its last part
    assert told[1].seconds > 0 and loaded["x"].max_batch == 3  # type: ignore[attr-defined]


@pytest.mark.parametrize(("change", "copies"), [((), 1), (("experts.b.dtype=bf16",), 2), (("experts.b.context_length=100",), 2)])
def test_seats_share_weights_unless_they_are_loaded_differently(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: tuple[str, ...], copies: int
) -> None:
    asked: list[str] = []

    def load(wanted: Any, *_: Any) -> dict[str, Double]:
        asked.extend(wanted)
        return {key: Double() for key in wanted}

    monkeypatch.setattr("expertchat.talk.cast.load_models", load)
    config = config_of("model@experts.b=embedded_llama", "judging.wim.enabled=false", "judging.z=0", *change)
    cast = load_cast(config, Hub(Collect()), None, None)
    assert len(asked) == copies and (cast.backends["a"] is cast.backends["b"]) is (copies == 1)
    assert "embedder" not in cast.backends


@pytest.mark.parametrize(("threads", "wanted"), [("null", 1), ("3", 3)])
def test_threads(monkeypatch: pytest.MonkeyPatch, threads: str, wanted: int) -> None:
    """The embedded models take one thread, since they are too small for more; engine.threads decides for all."""
    heard: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", heard.append)
    monkeypatch.setattr("expertchat.talk.cast.load_models", lambda models, *_: {key: Double() for key in models})
    load_cast(config_of(f"engine.threads={threads}"), Hub(Collect()), None, None)
    assert heard == [wanted]


def test_other_models_take_the_cores_that_the_job_may_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, heard = tiny.build(tmp_path / "model", "llama3"), list[int]()
    monkeypatch.setattr(torch, "set_num_threads", heard.append)
    monkeypatch.setattr("expertchat.backends.hardware.usable_cores", lambda: 7)
    monkeypatch.setattr("expertchat.talk.cast.load_models", lambda models, *_: {key: Double() for key in models})
    load_cast(config_of(f"experts.a.path={folder}", "judging.wim.enabled=false", "judging.z=0"), Hub(Collect()), None, None)
    assert heard == [7]


def test_an_embedded_model_in_a_folder_of_its_own_has_the_embedded_embedder() -> None:
    """As one that was merged with what it has learnt: the embedder follows the family, not the name."""
    config = config_of(f"experts.a.path={find_folder('embedded:llama', None)}")
    cast = load_cast(config, Hub(Collect()), {"a": Double(), "b": Double()}, None)
    assert cast.backends["embedder"].name == "embedded:embedder"
