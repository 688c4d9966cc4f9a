"""The run folder: one config, records and events once; what is damaged or foreign is refused."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest

from expertchat import cli
from expertchat.command.compose import load
from expertchat.config import ConfigError
from expertchat.events import ConversationStarted, Note, Progress, RatingGiven, TextStreamed, TurnFinished
from expertchat.folder import embedded
from expertchat.folder.embedded import KEY, models_id, others, uses_embedded
from expertchat.folder.following import EventTail, LiveFile
from expertchat.folder.run_folder import RunFolder, differences
from expertchat.folder.store import Store
from expertchat.folder.writing import WriteError
from expertchat.records import ExpertRef, Rating, Topic, Transcript, Turn
from expertchat.text.sentences import as_yaml

CONFIG = {"run": {"dir": "x", "seed": 0}, "view": "live", "engine": {"max_batch": 4}, "conversation": {"count": 2, "turns": 2}}
REF = ExpertRef(family="world", model="double")
TURN = Turn(speaker="a", text="Bees dance.", tokens=2)
RATING = Rating(id="c0000/a-by-b/depth", transcript="c0000", judge="b", subject="a", category="depth", value=7)


def opened(folder: Path, config: dict[str, object] | None = None) -> Store:
    store = Store(folder, config or CONFIG, ["expertchat", "converse"])
    store.begin(lambda speakers: (1, 0, 0))
    return store


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_records_and_events_are_written_once(tmp_path: Path) -> None:
    store = opened(tmp_path / "run")
    started = ConversationStarted(conversation="c0000", topic="bees", opener="a", experts={"a": REF, "b": REF})
    for _ in range(2):
        store.keep(Topic(id="c0000", text="bees", source="list"))
        store.send(started)
        store.send(TurnFinished(conversation="c0000", index=0, turn=TURN))
        store.send(RatingGiven(rating=RATING))
        store.send(Note(text="twice is fine"))
    store.close()
    assert [e["kind"] for e in lines(tmp_path / "run/events.jsonl")] == [
        "conversation_started",
        "turn_finished",
        "rating_given",
        "note",
        "note",
    ]
    assert lines(tmp_path / "run/ratings.jsonl") == [json.loads(RATING.to_json())]
    assert len(lines(tmp_path / "run/topics.jsonl")) == 1
    again = opened(tmp_path / "run")
    again.send(RatingGiven(rating=RATING))
    again.close()
    assert len(lines(tmp_path / "run/ratings.jsonl")) == 1
    assert again.saved("c0000").done_turns() == [TURN] and set(again.saved("c0000").records) == {RATING.id}
    assert again.topics() == [Topic(id="c0000", text="bees", source="list")]


def test_a_complete_conversation_is_done_and_an_incomplete_one_is_not(tmp_path: Path) -> None:
    from expertchat.events import ConversationFinished, ConversationJudged

    store = opened(tmp_path / "run")
    for name in ("c0000", "c0001"):
        store.send(ConversationStarted(conversation=name, topic="bees", opener="a", experts={"a": REF, "b": REF}))
        store.send(TurnFinished(conversation=name, index=0, turn=TURN))
        store.keep(Transcript(id=name, topic="bees", experts={"a": REF, "b": REF}, turns=[TURN], seed=0, stop_reason="turns"))
        store.send(ConversationFinished(conversation=name, turns=1, stop_reason="turns"))
        store.send(RatingGiven(rating=RATING.model_copy(update={"id": f"{name}/a-by-b/depth", "transcript": name})))
    store.send(ConversationJudged(conversation="c0000"))
    store.close()
    again = opened(tmp_path / "run")
    assert again.done == {"c0000"}
    assert again.saved("c0001").transcript is not None
    again.close()


def test_turns_count_only_without_a_gap(tmp_path: Path) -> None:
    store = opened(tmp_path / "run")
    for index in (0, 1, 3):
        store.send(TurnFinished(conversation="c0000", index=index, turn=TURN))
    store.close()
    again = opened(tmp_path / "run")
    assert len(again.saved("c0000").done_turns()) == 2
    again.close()


def test_running_texts_stand_in_live_json_for_watch(tmp_path: Path) -> None:
    store = opened(tmp_path / "run")
    store.send(TextStreamed(conversation="c0000", turn=1, speaker="b", text="Bees da"))
    store._live._written = 0.0
    store.send(Progress(finished=0, total=2, turns=1, tokens=5, seconds=1.0, waiting={"a": 1}))
    events = LiveFile(tmp_path / "run/live.json").poll()
    assert [(e.conversation, e.turn, e.speaker, e.text) for e in events if isinstance(e, TextStreamed)] == [("c0000", 1, "b", "Bees da")]
    assert [e.waiting for e in events if isinstance(e, Progress)] == [{"a": 1}]
    store.send(TurnFinished(conversation="c0000", index=1, turn=TURN))
    store.close()
    assert json.loads((tmp_path / "run/live.json").read_text())["turns"] == []
    assert [e.kind for e in EventTail(tmp_path / "run/events.jsonl").poll()] == ["turn_finished"]


def test_live_json_is_replaced_a_few_times_a_second_at_most(tmp_path: Path) -> None:
    store = opened(tmp_path / "run")
    stamps = set()
    for i in range(300):
        store.send(TextStreamed(conversation="c0000", turn=0, speaker="a", text=str(i)))
        stamps.add((tmp_path / "run/live.json").stat().st_ino)
    store.close()
    assert len(stamps) <= 3  # 300 quick events take far less than half a second


def test_provenance_and_config_are_readable(tmp_path: Path) -> None:
    opened(tmp_path / "run").close()
    told = json.loads((tmp_path / "run/provenance.json").read_text())
    assert told["command_line"] == ["expertchat", "converse"] and told["packages"]["torch"] and told["host"] == socket.gethostname()
    assert "max_batch: 4" in (tmp_path / "run/config.yaml").read_text()


@pytest.mark.parametrize("odd", ["\x85", "\u2028", "\ufeff", "é 🦆", "\\n: #"])
def test_a_config_with_odd_characters_is_the_same_when_read_back(tmp_path: Path, odd: str) -> None:
    config = {**CONFIG, "topics": {"list": [f"a{odd}b"]}}
    opened(tmp_path / "run", config).close()
    store = opened(tmp_path / "run", config)
    store.close()
    assert store.resumed


def test_changed_packages_are_noted(tmp_path: Path) -> None:
    opened(tmp_path / "run").close()
    path = tmp_path / "run/provenance.json"
    told = json.loads(path.read_text())
    told["packages"]["torch"] = "1.0"
    path.write_text(json.dumps(told))
    store = opened(tmp_path / "run")
    assert "torch 1.0 ->" in store.notes[0]
    store.close()


def test_another_config_is_refused_with_the_keys_that_differ(tmp_path: Path) -> None:
    opened(tmp_path / "run").close()
    before = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    other = {**CONFIG, "run": {"dir": "y", "seed": 1}, "view": "none", "engine": {"max_batch": 9}, "conversation": {"count": 2, "turns": 3}}
    with pytest.raises(ConfigError) as error:
        Store(tmp_path / "run", other, [])
    assert error.value.problems[1:] == ["run.seed: was 0, is 1", "conversation.turns: was 2, is 3"]
    assert {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()} == before
    opened(tmp_path / "run", {**CONFIG, "view": "none", "engine": {"max_batch": 9}}).close()  # these do not change what is written


def test_differences_name_new_and_lost_keys() -> None:
    assert differences({"a": {"b": 1, "c": 2}}, {"a": {"b": 1}, "d": []}) == ["a.c: was 2, is None", "d: was None, is []"]
    assert differences({"judges": {}}, {"judges": {"x": {"kind": "rule"}}}) == ["judges.x.kind: was None, is 'rule'"]  # judges are not None


def test_a_folder_that_is_no_run_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(ConfigError, match=r"is not a run folder \(it holds thesis.tex\); name a new or empty folder"):
        Store(tmp_path, CONFIG, [])
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_folder_that_a_submission_has_made_may_become_a_run(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    for place in ("submission", "task-0", "task-11"):
        (folder / place).mkdir(parents=True)
        (folder / place / "config.yaml").write_text("of: another\n")
    (folder / "slurm-123_4.out").write_text("a job's log")
    store = Store(folder, CONFIG, [])
    assert not store.resumed
    store.close()  # nothing has begun
    assert {path.name for path in folder.iterdir()} == {"submission", "task-0", "task-11", "slurm-123_4.out"}
    opened(folder).close()
    again = opened(folder)
    assert again.resumed and (folder / "submission/config.yaml").read_text() == "of: another\n"
    again.close()
    (tmp_path / "other/task-x").mkdir(parents=True)
    with pytest.raises(ConfigError, match=r"it holds task-x"):
        Store(tmp_path / "other", CONFIG, [])


def test_a_writer_that_has_lost_the_folder_writes_no_summary_and_no_view(tmp_path: Path) -> None:
    store = opened(tmp_path / "run")
    store.send(TextStreamed(conversation="c0000", turn=0, speaker="a", text="Bees"))
    before = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    assert store._lock is not None and not store.lost
    store._lock.lost = "somebody has taken it over"
    assert store.lost
    for write in (lambda: store.finish({}), lambda: store.send(Note(text="x"))):
        with pytest.raises(WriteError, match="somebody has taken it over"):
            write()
    store._live._written = 0.0
    store.send(Progress(finished=0, total=2, turns=1, tokens=5, seconds=1.0))
    assert {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()} == before
    store.close()
    assert not (tmp_path / "run/summary.json").exists()


def test_the_other_processes_of_a_run_notice_that_its_writer_has_changed(tmp_path: Path) -> None:
    first = opened(tmp_path / "run")
    other = RunFolder(tmp_path / "run", CONFIG, [], writes=False)  # another rank: it writes what it has finished into files of its own
    other.open()
    with other.writing():
        pass
    first.close()
    second = opened(tmp_path / "run")
    with pytest.raises(WriteError, match="another start has taken"), other.writing():
        pass
    second.close()
    other.close()


def test_a_path_that_cannot_be_a_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for bad in (tmp_path / "file", tmp_path / "file/under"):
        with pytest.raises(ConfigError, match=r"run\.dir: cannot write"):
            Store(bad, CONFIG, [])


def test_a_broken_config_file_is_refused(tmp_path: Path) -> None:
    opened(tmp_path / "run").close()
    (tmp_path / "run/config.yaml").write_text("- just\n- a list\n")
    with pytest.raises(ConfigError, match="is not the config of a run"):
        Store(tmp_path / "run", CONFIG, [])


@pytest.mark.parametrize("line", ['{"transcript": "c0000", "stars": 5}', '{"stars": 5}'])
def test_a_record_of_another_version_is_refused(tmp_path: Path, line: str) -> None:
    opened(tmp_path / "run").close()
    (tmp_path / "run/ratings.jsonl").write_text(f"{line}\n")
    store = Store(tmp_path / "run", CONFIG, [])
    with pytest.raises(ConfigError, match=r"ratings.jsonl, line 1 is no record of this version"):
        store.begin(lambda speakers: (1, 0, 0))
    store.close()


@pytest.mark.parametrize(("name", "line"), [("transcripts", '{"id":"c0000"}'), ("ratings", '{"transcript":["c0000"]}'),
                                            ("events", '{"kind":"rating_given","rating":{"value":7}}')])  # fmt: skip
def test_a_line_that_is_no_record_is_named_where_records_are_counted(tmp_path: Path, name: str, line: str) -> None:
    opened(tmp_path / "run").close()
    (tmp_path / "run" / f"{name}.jsonl").write_text(f"{line}\n{line}\n")
    with pytest.raises(ConfigError, match=f"{name}.jsonl, line 1 is no record of this version"):
        opened(tmp_path / "run")


def test_a_store_that_never_began_leaves_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path / "run", CONFIG, [])
    store.send(Note(text="loading"))
    store.close()
    assert not (tmp_path / "run").exists()


def test_events_before_the_beginning_are_kept(tmp_path: Path) -> None:
    store = Store(tmp_path / "run", CONFIG, [])
    store.send(Note(text="early"))
    store.begin(lambda speakers: (0, 0, 0))
    store.close()
    assert [e["text"] for e in lines(tmp_path / "run/events.jsonl")] == ["early"]


# -- whose embedded models ----------------------------------------------------------------------------------------------

SPOKEN = {**CONFIG, "experts": {"a": {"family": "world", "path": "embedded:llama"}, "b": {"family": "auto", "path": "owner/name"}}}


def world(place: Path, weights: bytes) -> Path:
    """The embedded models of a world, as far as their id goes."""
    (place / "llama").mkdir(parents=True)
    (place / "llama" / "model.safetensors").write_bytes(weights)
    return place


def test_a_run_goes_on_with_the_embedded_models_it_was_begun_with_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = world(tmp_path / "first", b"one"), world(tmp_path / "second", b"two")
    monkeypatch.setattr(embedded, "MODELS", first)
    opened(tmp_path / "run", SPOKEN).close()
    opened(tmp_path / "hub", CONFIG).close()
    told = json.loads((tmp_path / "run/provenance.json").read_text())
    assert told[KEY] == models_id(first) != models_id(second)
    assert KEY not in json.loads((tmp_path / "hub/provenance.json").read_text())
    opened(tmp_path / "run", SPOKEN).close()  # the same ones: it goes on
    monkeypatch.setattr(embedded, "MODELS", second)
    opened(tmp_path / "hub", CONFIG).close()  # no matter to a run that has none
    with pytest.raises(ConfigError) as caught:
        opened(tmp_path / "run", SPOKEN)
    (said,) = caught.value.problems
    both = f"the embedded models {models_id(first)}, and the package holds {models_id(second)} now"
    assert said.startswith(f"run.dir: {tmp_path / 'run'} was begun with {both}: ")
    assert "name a new run.dir, or go on with the version of the package that it was begun with (expertchat " in said
    (tmp_path / "run/summary.json").write_text('{"turns": 2}')
    done = Store(tmp_path / "run", SPOKEN, [])  # of one that is done it is shown that it is
    done.close()
    assert done.summary == {"turns": 2}


def test_a_run_without_an_id_was_begun_with_the_first_embedded_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = world(tmp_path / "first", b"one"), world(tmp_path / "second", b"two")
    monkeypatch.setattr(embedded, "MODELS", first)
    monkeypatch.setattr(embedded, "FIRST", models_id(first))
    opened(tmp_path / "run", SPOKEN).close()
    file = tmp_path / "run/provenance.json"
    file.write_text(json.dumps({key: value for key, value in json.loads(file.read_text()).items() if key != KEY}))
    opened(tmp_path / "run", SPOKEN).close()
    monkeypatch.setattr(embedded, "MODELS", second)
    with pytest.raises(ConfigError, match=f"the embedded models {models_id(first)}, the first there were, and"):
        opened(tmp_path / "run", SPOKEN)
    file.unlink()
    assert others(tmp_path / "run") is not None and others(tmp_path / "none") is None


def test_the_command_says_so_before_anything_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = load("converse", ["conversation.count=1"]).model_dump(mode="json")
    (tmp_path / "config.yaml").write_text(as_yaml({**config, "topics": {"source": "list", "list": ["of before"]}}))
    monkeypatch.setattr(embedded, "FIRST", "0" * 16)
    assert cli.main(["converse", "conversation.count=1", f"run.dir={tmp_path}", "view=none"]) == 2
    said = capsys.readouterr().err.strip().splitlines()  # not that its topics differ, which they do for the same reason
    assert len(said) == 1 and f"run.dir: {tmp_path} was begun with the embedded models 0000000000000000" in said[0]


def test_the_id_is_that_of_the_weights(tmp_path: Path) -> None:
    one, same, other = (world(tmp_path / name, weights) for name, weights in (("1", b"one"), ("2", b"one"), ("3", b"two")))
    assert models_id(one) == models_id(same) != models_id(other) and models_id(tmp_path) is None
    (same / "llama.first").mkdir()  # what a build has not finished
    (same / "llama.first" / "model.safetensors").write_bytes(b"x")
    assert models_id(one) == models_id(same)
    (same / "llama").rename(same / "mixtral")
    assert models_id(one) != models_id(same)


HUB, WORLD, SCRIPTED = ({"family": "auto", "path": path} for path in ("owner/name", "embedded:llama", "scripted"))


@pytest.mark.parametrize(
    ("config", "uses"),
    [
        ({"experts": {"a": HUB, "b": HUB}, "embedder": {"path": "auto"}}, False),
        ({"experts": {"a": HUB, "b": WORLD}}, True),
        ({"experts": {"a": HUB, "b": {**WORLD, "backend": "server"}}}, False),
        ({"experts": {"a": HUB}, "embedder": {"path": "embedded:embedder"}}, True),
        ({"experts": {"a": SCRIPTED}, "embedder": {"path": "auto", "backend": "local"}}, True),  # auto: the embedded one then
        ({"experts": {"a": {**HUB, "family": "world"}}, "embedder": {"path": "auto"}}, True),  # merged weights of one
        ({"experts": {"a": SCRIPTED}, "embedder": {"path": "auto", "backend": "server"}}, False),
        ({"judges": {"x": {"model": WORLD, "of": "x"}, "y": {"model": None}}}, True),
        ({"judges": {"x": {"model": None, "of": "embedded:llama"}}}, False),  # a name in a source, that nobody loads
        ({"kind": "decoder", "model": {"path": "auto", "dtype": "fp32"}}, True),  # of a reward model
    ],
)
def test_which_runs_use_embedded_models(config: dict[str, object], uses: bool) -> None:
    assert uses_embedded(config) == uses
