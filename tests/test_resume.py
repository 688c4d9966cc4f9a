"""A run that is broken off anywhere and started again is the run that was never broken off."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import re
import resource
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from expertchat.backends.base import Embedding, GenerateRequest
from expertchat.config import ConfigError
from expertchat.events import AnyEvent, ConversationJudged, Note, RunFinished, RunStarted, TextStreamed
from expertchat.folder.run import Interrupted, Interrupts
from expertchat.views.table import _leaving
from tests.scripted import BagOfWords, Collect, Double, babble, config_of, run

SMALL = ("conversation.count=5", "conversation.turns=4", "judging.per_turn=true", "judging.form=both", "engine.max_batch=4")
PROPOSED = ("topics.source=models", "topics.max_similarity=0.7", *SMALL)
FILES = ("topics", "transcripts", "ratings", "wim", "rewards", "events")
FORK = multiprocessing.get_context("fork")


def contents(folder: Path) -> dict[str, dict[str, Any]]:
    """All records by file and id; fails on a duplicate. Events count by what happened, once each."""
    found: dict[str, dict[str, Any]] = {}
    for name in FILES[:-1]:
        records = [json.loads(line) for line in (folder / f"{name}.jsonl").read_text().splitlines()]
        found[name] = {record["id"]: record for record in records}
        assert len(found[name]) == len(records), f"duplicates in {name}.jsonl"
    for record in found["transcripts"].values():
        for turn in record["turns"]:
            turn["seconds"] = None
    happened = []
    for line in (folder / "events.jsonl").read_text().splitlines():
        event = json.loads(line)
        inner = next((event[key]["id"] for key in ("rating", "wim", "reward", "guess") if key in event), event.get("index"))
        if event["kind"] not in ("run_started", "run_finished", "note", "loading"):
            happened.append((event["kind"], event.get("conversation"), inner))
    assert len(set(happened)) == len(happened), "duplicates in events.jsonl"
    found["events"] = {repr(key): None for key in happened}
    return found


def whole(tmp_path_factory: pytest.TempPathFactory, name: str, overrides: tuple[str, ...]) -> Path:
    folder = tmp_path_factory.mktemp("whole") / name
    assert run(folder, *overrides) == 0
    return folder


@pytest.fixture(scope="module")
def listed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return whole(tmp_path_factory, "listed", SMALL)


@pytest.fixture(scope="module")
def proposed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return whole(tmp_path_factory, "proposed", PROPOSED)


def in_child(work: Callable[[], int]) -> Any:
    """A forked process that exits with what `work` returns."""

    def child() -> None:
        os._exit(work())

    process = FORK.Process(target=child)
    process.start()
    return process


def summary(folder: Path) -> dict[str, Any]:
    told = json.loads((folder / "summary.json").read_text())
    return {k: v for k, v in told.items() if not k.startswith("seconds") and not k.endswith("per_second")}


# -- a whole run --------------------------------------------------------------------------------------------------------


def test_a_run_has_everything(listed: Path) -> None:
    found = contents(listed)
    # 5 dialogues of 4 turns; each 2 + 4 judgements of 6 categories.
    assert [len(found[name]) for name in FILES[:-1]] == [3, 5, 5 * 6 * 6, 5 * 6, 5 * 6]
    # started, 4 turns, finished, 36 ratings, 6 WIM, 6 rewards, judged: 55 events each.
    assert len(found["events"]) == 5 * 55
    told = summary(listed)
    assert (told["conversations"], told["turns"], told["rating_count"], told["rated_pairs"]) == (5, 20, 180, 5)
    assert told["tokens"] == 20 * 11 and told["stop_reasons"] == {"turns": 5}  # babble: eleven words a turn
    topics = [record["topic"] for record in found["transcripts"].values()]
    assert sorted(topics) == ["bees", "bees", "tides", "tides", "volcanoes"]  # three topics for five dialogues
    openers = [record["turns"][0]["speaker"] for _, record in sorted(found["transcripts"].items())]
    assert openers == ["a", "b", "a", "b", "a"]


def test_the_summary_counts_by_hand(tmp_path: Path) -> None:
    def reply(request: GenerateRequest) -> str:
        if request.key.endswith("/wim"):
            return "Nothing is missing." if "c0000" in request.key else ""
        if "-by-" in request.key and not request.key.endswith("/analysis"):
            return " 7" if "c0000" in request.key else " 8" if "a-by-b" in request.key else " many"
        return babble(request)

    assert run(tmp_path / "r", "conversation.count=2", "conversation.turns=2", "judging.form=sampled", double=Double(reply)) == 0
    told = summary(tmp_path / "r")
    # c0000: both 7 in six categories, a tie, WIM empty. c0001: a gets 8, b is unreadable (6 failures), no WIM answer (2 nulls).
    assert (told["parse_failures"], told["ties"], told["rated_pairs"]) == (6, 1, 1)
    assert (told["wim_empty"], told["wim_null"], told["rewards_null"]) == (2, 2, 2)
    assert told["ratings"]["depth"] == {"a-by-b": {"mean": 7.5, "n": 2, "null": 0}, "b-by-a": {"mean": 7.0, "n": 1, "null": 1}}
    assert told["problems"] == {"rating: no number": 6, "WIM: empty answer": 2}
    assert told["faults"] == {"rating": {"no_number": 6}, "wim": {"empty": 2}}
    # Reward of c0000: 0.5 * (7 - 5.5) / 4.5 + 0.5 * 1.0 = 0.6667.
    assert told["rewards"]["a-by-b"] == {"mean": 0.6667, "n": 1, "null": 1}


@pytest.mark.parametrize("batch", [1, 3, 64])
def test_the_batch_size_changes_nothing(tmp_path: Path, proposed: Path, batch: int) -> None:
    assert run(tmp_path / "run", *PROPOSED, f"engine.max_batch={batch}") == 0
    assert contents(tmp_path / "run") == contents(proposed)
    assert summary(tmp_path / "run") == summary(proposed)


def test_the_seed_is_recorded_and_shuffles(tmp_path: Path) -> None:
    assert run(tmp_path / "run", "run.seed=3", "conversation.count=3", "conversation.turns=1", "topics.shuffle=true") == 0
    found = contents(tmp_path / "run")["transcripts"]
    assert all(record["seed"] == 3 for record in found.values())
    assert sorted(record["topic"] for record in found.values()) == ["bees", "tides", "volcanoes"]


def test_a_finished_run_is_not_touched(listed: Path) -> None:
    before = {path.name: path.read_bytes() for path in listed.iterdir()}
    double, sink = Double(), Collect()
    assert run(listed, *SMALL, double=double, sink=sink) == 0
    assert not double.requests and sink.closed == 1
    assert [type(event) for event in sink.events] == [Note, RunFinished]
    assert "is done already" in sink.of(Note)[0].text and sink.of(RunFinished)[0].summary["conversations"] == 5
    assert {path.name: path.read_bytes() for path in listed.iterdir()} == before


def test_third_judges_alone(tmp_path: Path) -> None:
    assert run(tmp_path / "r", "conversation.count=1", "+model@third=embedded_llama", "judging.judge=third") == 0
    assert {record["judge"] for record in contents(tmp_path / "r")["ratings"].values()} == {"third"}


# -- broken off ---------------------------------------------------------------------------------------------------------


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cuts=st.dictionaries(st.sampled_from(FILES), st.floats(0, 1), max_size=6), batch=st.sampled_from([1, 4, 64]))
def test_files_cut_at_any_byte_are_completed(
    cuts: dict[str, float], batch: int, proposed: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("cut") / "run"
    shutil.copytree(proposed, folder)
    (folder / "summary.json").unlink()
    for name, share in cuts.items():
        path = folder / f"{name}.jsonl"
        os.truncate(path, int(share * path.stat().st_size))
    assert run(folder, *PROPOSED, f"engine.max_batch={batch}") == 0
    assert contents(folder) == contents(proposed)
    assert summary(folder) == summary(proposed)
    shutil.rmtree(folder)


def test_nothing_finished_is_asked_again(tmp_path: Path, proposed: Path) -> None:
    shutil.copytree(proposed, tmp_path / "run")
    (tmp_path / "run/summary.json").unlink()
    double, sink = Double(), Collect()
    assert run(tmp_path / "run", *PROPOSED, double=double, sink=sink) == 0
    assert not double.requests and sink.of(RunStarted)[0].resumed == 5
    assert summary(tmp_path / "run") == summary(proposed)


def test_no_text_of_a_judge_is_generated_again(tmp_path: Path, listed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Broken off before the first WIM response was embedded: what the judges wrote by then is there, and is not asked for again."""
    first, second = Double(), Double()

    def broken(self: BagOfWords, requests: object) -> list[Embedding]:
        raise RuntimeError("broken off")

    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="broken off"):
        patch.setattr(BagOfWords, "embed", broken)
        run(tmp_path / "run", *SMALL, double=first)
    written = [request.key for request in first.requests if isinstance(request, GenerateRequest)]
    assert any(key.endswith("/wim") for key in written)
    assert run(tmp_path / "run", *SMALL, double=second) == 0
    again = {request.key for request in second.requests if isinstance(request, GenerateRequest)}
    assert not again & set(written) and contents(tmp_path / "run") == contents(listed)


@pytest.mark.parametrize("overrides", [pytest.param(SMALL, id="list", marks=pytest.mark.slow), pytest.param(PROPOSED, id="models")])
def test_kill_9_at_random_moments(tmp_path: Path, overrides: tuple[str, ...], listed: Path, proposed: Path) -> None:
    folder, rng, kills = tmp_path / "run", random.Random(len(overrides)), 0
    config_of(f"run.dir={folder}", *overrides)  # composed once, here, so that the children get to work at once
    for n in range(20):
        process = in_child(lambda: run(folder, *overrides, double=Double(seconds=0.004)))
        process.join(rng.uniform(0.0, 0.1 + 0.03 * n))
        if process.exitcode is not None:
            break
        process.kill()
        process.join()
        kills += 1
    assert kills >= 3 and process.exitcode in (0, -signal.SIGKILL)
    assert run(folder, *overrides) == 0
    assert contents(folder) == contents(listed if overrides == SMALL else proposed)
    assert summary(folder) == summary(listed if overrides == SMALL else proposed)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP])
def test_signals_stop_in_order_and_the_run_goes_on(tmp_path: Path, listed: Path, number: signal.Signals) -> None:
    folder = tmp_path / "run"
    process = in_child(lambda: run(folder, *SMALL, double=Double(seconds=0.02)))
    deadline = time.monotonic() + 20
    while not (folder / "events.jsonl").exists() and time.monotonic() < deadline:
        time.sleep(0.005)
    os.kill(process.pid, number)
    process.join(20)
    assert process.exitcode == 3
    events = (folder / "events.jsonl").read_text().splitlines()
    end = json.loads(events[-1])
    assert (end["kind"], end["status"], end["reason"]) == ("run_finished", "stopped", number.name)
    assert not (folder / "summary.json").exists() and not (folder / "heartbeat.json").exists()
    assert run(folder, *SMALL) == 0
    assert contents(folder) == contents(listed)


def test_a_terminal_that_closes_stops_a_run_but_not_one_behind_nohup() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Interrupts() as interrupts:
            os.kill(os.getpid(), signal.SIGHUP)
            assert interrupts.reason is None
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        with Interrupts() as interrupts:
            os.kill(os.getpid(), signal.SIGHUP)
            assert interrupts.reason == "SIGHUP"
            with pytest.raises(Interrupted, match="SIGHUP"), _leaving():  # at the table, while a line is typed
                os.kill(os.getpid(), signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_signal_while_topics_are_proposed(tmp_path: Path, proposed: Path) -> None:
    def reply(request: GenerateRequest) -> str:
        os.kill(os.getpid(), signal.SIGTERM)
        return babble(request)

    folder = tmp_path / "run"
    assert run(folder, *PROPOSED, double=Double(reply)) == 3
    assert run(folder, *PROPOSED) == 0
    assert contents(folder) == contents(proposed)


def test_a_second_ctrl_c_stops_at_once(tmp_path: Path) -> None:
    def reply(request: GenerateRequest) -> str:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("not reached")

    before = signal.getsignal(signal.SIGINT)
    assert run(tmp_path / "run", *SMALL, double=Double(reply)) == 3
    assert signal.getsignal(signal.SIGINT) is before


def test_a_second_writer_is_refused_and_the_first_goes_on(tmp_path: Path, listed: Path) -> None:
    folder = tmp_path / "run"
    process = in_child(lambda: run(folder, *SMALL, double=Double(seconds=0.01)))
    deadline = time.monotonic() + 20
    while not (folder / "events.jsonl").exists() and time.monotonic() < deadline:
        time.sleep(0.005)
    with pytest.raises(ConfigError, match=rf"is being written by another process \(process {process.pid} "):
        run(folder, *SMALL)
    process.join(30)
    assert process.exitcode == 0 and contents(folder) == contents(listed)


# -- failures -----------------------------------------------------------------------------------------------------------


def test_a_full_disk_ends_with_a_clear_message_and_the_run_goes_on_later(tmp_path: Path, listed: Path) -> None:
    folder, told = tmp_path / "run", tmp_path / "told"

    class Tell(Collect):
        def send(self, event: AnyEvent) -> None:
            if isinstance(event, RunFinished):
                told.write_text(f"{event.status}: {event.reason}")

    def limited() -> int:
        resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000))  # no file may grow beyond this
        return run(folder, *SMALL, sink=Tell())

    process = in_child(limited)
    process.join(30)
    assert process.exitcode == 1
    said = re.fullmatch(
        rf"failed: cannot write {folder}/(\w+.jsonl): File too large; what was written before stays readable", told.read_text()
    )
    assert said and 29_000 < (folder / said[1]).stat().st_size <= 30_000
    contents(folder)  # every line is whole
    assert run(folder, *SMALL) == 0
    assert contents(folder) == contents(listed)


def test_a_failing_view_is_dropped_and_the_run_goes_on(tmp_path: Path, listed: Path) -> None:
    class Broken(Collect):
        def send(self, event: AnyEvent) -> None:
            super().send(event)
            if isinstance(event, TextStreamed):
                raise OSError("terminal gone")

    sink = Broken()
    assert run(tmp_path / "run", *SMALL, sink=sink) == 0
    assert sink.closed == 1 and not sink.of(ConversationJudged)
    assert contents(tmp_path / "run") == contents(listed)
    assert "the view failed and was dropped (OSError: terminal gone)" in (tmp_path / "run/events.jsonl").read_text()


def test_an_error_of_a_backend_is_recorded_and_raised(tmp_path: Path, listed: Path) -> None:
    def reply(request: GenerateRequest) -> str:
        if request.key == "c0003/t02":
            raise ValueError("out of memory")
        return babble(request)

    sink = Collect()
    with pytest.raises(ValueError, match="out of memory"):
        run(tmp_path / "run", *SMALL, double=Double(reply), sink=sink)
    assert sink.closed == 1 and sink.of(RunFinished)[0].reason == "ValueError: out of memory"
    assert '"status":"failed"' in (tmp_path / "run/events.jsonl").read_text()
    assert run(tmp_path / "run", *SMALL) == 0
    assert contents(tmp_path / "run") == contents(listed)


def test_a_wrong_input_leaves_no_folder(tmp_path: Path) -> None:
    sink = Collect()
    with pytest.raises(ConfigError, match="holds 100"):
        run(tmp_path / "run", "experts.a.decoding.reply.max_new_tokens=99", double=Double(context_length=100), sink=sink)
    with pytest.raises(ConfigError, match="family=alpaca is unknown"):
        run(tmp_path / "run", "experts.b.family=alpaca")
    with pytest.raises(ConfigError, match=r"none\.txt: no such file"):
        run(tmp_path / "run", "topics.source=file", f"topics.file={tmp_path}/none.txt")
    with pytest.raises(ConfigError, match="'wim' cannot be a category's name"):
        run(tmp_path / "run", "+judging.categories.wim=x")
    assert not (tmp_path / "run").exists() and sink.closed == 1 and not sink.of(RunFinished)


def test_a_new_run_gets_its_own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        assert run("null", "conversation.count=1", "conversation.turns=1") == 0
    folders = sorted(path.name for path in (tmp_path / "runs").iterdir())
    assert len(folders) == 2 and all("-converse" in name for name in folders)


def test_a_text_is_on_disk_before_its_score(tmp_path: Path) -> None:
    """Broken off between a WIM response and its embedding, a run asks for no text again."""
    from expertchat.talk.converse import run_converse

    small = ("conversation.count=2", "conversation.turns=3", "judging.form=both")
    folder = tmp_path / "run"

    class Breaks(BagOfWords):
        def embed(self, requests: Any) -> list[Embedding]:
            kept = {json.loads(line)["id"] for line in (folder / "answers.jsonl").read_text().splitlines()}
            assert {request.key for request in requests if request.key.endswith("/wim")} <= kept
            raise KeyboardInterrupt

    def once(double: Double, embedder: BagOfWords) -> int:
        config = config_of(f"run.dir={folder}", *small)
        return run_converse(config, ["expertchat", "converse"], Collect(), backends=dict.fromkeys("ab", double), embedder=embedder)

    first, second = Double(), Double()
    assert (once(first, Breaks()), once(second, BagOfWords())) == (3, 0)
    assert any(key.endswith("/wim") for key in first.asked()) and not set(first.asked()) & set(second.asked())
    assert run(tmp_path / "whole", *small) == 0
    assert contents(folder) == contents(tmp_path / "whole")
