"""The reader of a run folder: what kind of run it is and what it holds, of folders that a version before has written and of damaged ones.

tests/earlier/talked is a whole run of converse, learned the small files of one of online_dpo with learner=both.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from expertchat.cli import main
from expertchat.config import ConfigError
from expertchat.events import Note, RunFinished
from expertchat.folder import reader
from expertchat.folder.embedded import KEY, models_id
from expertchat.folder.reader import FILES, RunReader
from expertchat.folder.summary import summarise
from expertchat.records import Rating, Record
from tests.viewed import start

EARLIER = Path(__file__).parent / "earlier"
TYPED: dict[str, Callable[[RunReader], Iterator[Record]]] = {
    "topics": RunReader.topics, "transcripts": RunReader.transcripts, "candidates": RunReader.candidates, "answers": RunReader.answers,
    "ratings": RunReader.ratings, "wim": RunReader.wims, "rewards": RunReader.rewards, "scores": RunReader.scores,
    "pairs": RunReader.pairs, "metrics": RunReader.metrics, "items": RunReader.items, "opinions": RunReader.opinions,
    "judges": RunReader.judges, "demonstrations": RunReader.demonstrations, "steps": RunReader.steps, "guesses": RunReader.guesses,
}  # fmt: skip


def copy(name: str, to: Path) -> Path:
    return Path(shutil.copytree(EARLIER / name, to / name))


def made(folder: Path, config: Any = None, provenance: Any = None, events: bytes | None = None) -> RunReader:
    folder.mkdir(parents=True, exist_ok=True)
    if config is not None:
        (folder / "config.yaml").write_text(config if isinstance(config, str) else yaml.safe_dump(config))
    if provenance is not None:
        (folder / "provenance.json").write_text(json.dumps(provenance))
    if events is not None:
        (folder / "events.jsonl").write_bytes(events)
    return RunReader(folder)


# -- folders of a version before ----------------------------------------------------------------------------------------


def test_a_run_of_converse_from_before() -> None:
    run = RunReader(EARLIER / "talked")
    assert (run.kind, run.trains, run.begun, run.done, run.failure) == ("converse", False, True, True, None)
    assert (run.seats, run.learners, run.rounds, run.seed, run.last_round) == (("a", "b"), (), 0, 7, 0)
    assert run.command_line[:2] == ["expertchat", "converse"] and run.summary["conversations"] == 1
    (transcript,) = run.transcripts()
    assert [turn.speaker for turn in transcript.turns] == ["a", "b"] and [topic.text for topic in run.topics()] == [transcript.topic]
    assert {(one.judge, one.subject) for one in run.ratings()} == {("a", "b"), ("b", "a")}
    assert [event.kind for event in run.events()][-1] == "run_finished" and run.ends().first["command"] == "converse"


def test_a_training_run_from_before() -> None:
    run = RunReader(EARLIER / "learned")
    assert (run.kind, run.trains, run.done, run.rounds, run.last_round, run.seed) == ("online_dpo", True, True, 2, 2, 7)
    assert run.learners == ("a", "b")
    assert [(one.round, one.learner) for one in run.metrics() if one.kind == "round"] == [(1, "a"), (2, "b")]
    assert list(run.candidates()) == [] and list(run.events()) == []  # no file is an empty one


def test_what_it_amounts_to_is_counted_as_it_was() -> None:
    counted, then = summarise(EARLIER / "talked"), RunReader(EARLIER / "talked").summary
    assert counted.keys() == then.keys()
    assert {key: value for key, value in counted.items() if "second" not in key} == {key: then[key] for key in then if "second" not in key}


@pytest.mark.parametrize("name", FILES)
def test_every_file_of_records_is_read_as_its_kind(name: str) -> None:
    for folder in (EARLIER / "talked", EARLIER / "learned"):
        run = RunReader(folder)
        records = list(TYPED[name](run))
        assert all(type(one) is FILES[name] for one in records)
        written = [line["id"] for line in run.lines(name)]
        assert [one.id for one in records] == written


def contents(folder: Path) -> dict[str, Any]:
    """All records by their ids, without the seconds that a turn took; of numbers what no batch changes."""
    found = {}
    for name in ("topics", "transcripts", "answers", "ratings", "wim", "rewards"):
        found |= {f"{name}/{line['id']}": _steady(line) for line in RunReader(folder).lines(name)}
    return found


def _steady(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _steady(one) for key, one in value.items() if key != "seconds"}
    return [_steady(one) for one in value] if isinstance(value, list) else round(value, 2) if isinstance(value, float) else value


def as_of(line: bytes, now: dict[str, Any]) -> bytes:
    """A line as an earlier version wrote it, with its keys alone, in the words of now."""
    return json.dumps({key: now[key] for key in json.loads(line)}).encode() + b"\n"


def test_a_run_from_before_that_was_killed_goes_on_and_comes_to_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its embedded models are not those that are here: the old lines get what these say by its config, and the run their id."""
    folder, fresh = copy("talked", tmp_path), tmp_path / "fresh"
    words = ["converse", "--config", str(folder / "config.yaml"), "view=none"]
    assert main([*words, f"run.dir={fresh}", "embedder.dtype=fp32"]) == 0, capsys.readouterr().err  # as a run of before goes on
    whole, then = contents(fresh), contents(folder)
    assert {key: set(line) for key, line in whole.items()} == {key: set(line) for key, line in then.items()}
    (transcript,), provenance = RunReader(fresh).transcripts(), json.loads((folder / "provenance.json").read_text())
    (folder / "provenance.json").write_text(json.dumps(provenance | {KEY: models_id()}))
    (folder / "summary.json").unlink()
    lines = (folder / "events.jsonl").read_bytes().splitlines(keepends=True)
    said = next(i for i, line in enumerate(lines) if b'"turn_finished"' in line)
    event = json.loads(lines[said])
    turn = json.loads(as_of(json.dumps(event["turn"]).encode(), transcript.turns[0].model_dump(mode="json")))
    lines[said] = as_of(lines[said], event | {"turn": turn})
    (folder / "events.jsonl").write_bytes(b"".join(lines[: said + 1]))  # after the first turn
    for name in ("transcripts", "ratings", "wim", "rewards"):
        (folder / f"{name}.jsonl").write_bytes(b"")
    first = (folder / "answers.jsonl").read_bytes().splitlines()[0]
    answers = {line["id"]: line for line in RunReader(fresh).lines("answers")}
    (folder / "answers.jsonl").write_bytes(as_of(first, answers[json.loads(first)["id"]]))
    assert main([*words, f"run.dir={folder}"]) == 0, capsys.readouterr().err
    now = contents(folder)
    raws = [[[float(word) for word in line.pop("raw").split()] for line in found.values() if "raw" in line] for found in (now, whole)]
    assert raws[0] and all(one == pytest.approx(two, abs=2e-4) for one, two in zip(*raws, strict=True))  # the last digit may be rounded
    assert now == whole and len(list(RunReader(folder).lines("answers"))) == len(answers)  # none asked twice
    assert (folder / "events.jsonl").read_bytes().startswith(b"".join(lines[: said + 1]))  # it went on, and did not begin again


# -- what kind of run it is ---------------------------------------------------------------------------------------------


STARTED = b'{"kind":"run_started","command":"online_dpo"}\n'


def test_the_first_event_says_what_kind_of_run_it_is(tmp_path: Path) -> None:
    merged = {"command_line": ["expertchat", "merge_runs", "a", "b"], "merged": {"kind": "seeds"}}
    assert made(tmp_path / "1", "[broken", merged, b'{"kind":"loading"}\n' + STARTED).kind == "online_dpo"  # whatever else there is
    assert made(tmp_path / "2", {"conversation": {}}, merged).kind == "converse"  # merge_runs makes runs of other commands


def test_what_tells_the_kind_where_no_event_does(tmp_path: Path) -> None:
    line = {"command_line": ["expertchat", "converse", "run.dir=x"]}
    assert made(tmp_path / "1", {"rounds": 2, "learner": "a"}, line, b'{"kind":"run_st').kind == "converse"
    for number, odd in enumerate(({}, {"command_line": 7}, {"command_line": ["expertchat"]}, {"command_line": ["x", "run.dir=1"]}, [])):
        assert made(tmp_path / f"odd{number}", {"rounds": 2, "learner": "a", "conversation": {}}, odd).kind == "online_dpo"
    assert made(tmp_path / "2", {"conversation": {"count": 1}, "rounds": 3}).kind == "converse"
    for number, nothing in enumerate((None, "[broken", "- a\n- list\n", "x: 1\n")):
        assert made(tmp_path / f"none{number}", nothing).kind == ""


@pytest.mark.parametrize(
    ("learner", "learners"),
    [("all", ("ann", "ben", "cay")), ("both", ("ann", "ben", "cay")), ("one", ("ann",)), ("ben", ("ben",)), (None, ())],
)
def test_who_learns_is_told_by_the_names_of_the_experts(tmp_path: Path, learner: str | None, learners: tuple[str, ...]) -> None:
    run = made(tmp_path, {"experts": {"ann": {}, "ben": {}, "cay": {}}, **({"learner": learner} if learner else {})})
    assert (run.seats, run.learners) == (("ann", "ben", "cay"), learners)


# -- damaged files ------------------------------------------------------------------------------------------------------


def test_small_files_that_are_damaged_count_as_empty_but_for_the_config(tmp_path: Path) -> None:
    run = made(tmp_path, "[broken", [1, 2])
    (tmp_path / "summary.json").write_text("{")
    assert (run.provenance, run.command_line, run.summary, run.failure, run.done) == ({}, [], {}, None, True)
    with pytest.raises(ConfigError, match=r"config\.yaml: cannot be read .*; leave this run out"):
        run.seats  # noqa: B018
    with pytest.raises(ConfigError, match=r"is not the config of a run; name another one"):
        reader.read_config(made(tmp_path / "list", "- 1\n").folder / "config.yaml", "name another one")


def test_a_damaged_line_is_named_with_what_to_do_and_a_torn_end_left_out(tmp_path: Path) -> None:
    folder = copy("talked", tmp_path)
    path = folder / "ratings.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"id": "torn')
    assert len(list(RunReader(folder).ratings())) == whole.count(b"\n")
    path.write_bytes(b'{"id": "x", "stars": 5}\n' + whole)
    with pytest.raises(ConfigError, match=r"ratings\.jsonl, line 1 is no record of this version \(.*\); ask its author"):
        list(RunReader(folder, "ask its author").ratings())
    assert next(RunReader(folder).lines("ratings")) == {"id": "x", "stars": 5}  # to be counted it need not be one
    path.write_bytes(b"{\n" + whole)
    with pytest.raises(ConfigError, match="line 1 is not a JSON object"):
        list(RunReader(folder).ratings())
    (folder / "events.jsonl").write_bytes(b'{"kind":"unheard_of"}\n')
    with pytest.raises(ConfigError, match="line 1 is no event of this version"):
        list(RunReader(folder).events())
    assert list(RunReader(folder).tail().poll()) == []  # whoever watches goes on


def test_records_are_read_one_by_one(tmp_path: Path) -> None:
    folder = copy("talked", tmp_path)
    with (folder / "ratings.jsonl").open("ab") as file:
        file.write(b'{"id": "broken"}\n' * 2)
    first = next(RunReader(folder).ratings())
    assert isinstance(first, Rating)  # what is wrong comes later


# -- the ends of the events ---------------------------------------------------------------------------------------------


def events(*told: Any) -> bytes:
    return b"".join(event.model_dump_json(by_alias=True).encode() + b"\n" for event in told)


def test_the_ends_of_long_events_are_found_without_the_middle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "END", 600)
    monkeypatch.setattr(reader, "WHOLE", 5000)
    middle = [Note(text=str(i)) for i in range(200)]
    run = made(tmp_path, events=events(start(7), *middle, RunFinished(status="stopped", reason="SIGTERM"), Note(text="last")) + b'{"torn')
    first, last, begun, end = run.ends()
    assert (first["conversations"], last["text"], begun, end["reason"]) == (7, "last", {}, "SIGTERM")
    run = made(tmp_path, events=events(start(7), *middle, start(7, resumed=3), Note(text="x" * 2000)))  # a line longer than an end
    first, last, begun, end = run.ends()
    assert (first["resumed"], last["text"], begun["resumed"], end) == (0, "x" * 2000, 3, {})
    assert made(tmp_path, events=b"x" * 9000).ends() == reader.NOTHING
    assert RunReader(tmp_path / "nowhere").ends() == reader.NOTHING


def test_a_text_that_names_an_end_is_none(tmp_path: Path) -> None:
    quoting = [Note(text="run_finished"), Note(text='"run_started"')]
    run = made(tmp_path, events=events(start(7), RunFinished(status="done"), *quoting))
    assert run.ends().end["status"] == "done" and run.ends().start == {}
