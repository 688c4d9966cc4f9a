"""Tasks of an array merged are the run that one would have made. Runs of several seeds: test_merge_seeds.py."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import yaml

from expertchat.cli import main
from expertchat.command.compose import load
from expertchat.config import ConfigError
from expertchat.events import RunStarted
from expertchat.folder.jsonl import read_lines
from expertchat.records import Served
from expertchat.runs.merge_runs import merge_runs
from expertchat.views.outcomes import print_merged_runs
from tests.scripted import Collect, Double, run
from tests.test_resume import FILES, FORK, contents, summary

SMALL = ("conversation.count=10", "conversation.turns=3", "judging.per_turn=true", "engine.max_batch=4")
TASKS = 4


def records(folder: Path, name: str) -> list[dict[str, Any]]:
    return [line for _, line in read_lines(folder / f"{name}.jsonl")]


def index(record: dict[str, Any]) -> int:
    return int(record.get("transcript", record["id"])[1:])


def tasks(folder: Path, which: Iterable[int] = range(TASKS), *overrides: str) -> Path:
    """The runs of an array over the dialogues."""
    for i in which:
        assert run(folder / f"task-{i}", *SMALL, f"conversation.part=[{i},{TASKS}]", *overrides) == 0
    return folder


def problems(*folders: Path, out: Path | None = None, partial: bool = False) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        merge_runs(folders, out, partial)
    return caught.value.problems


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One run over all dialogues."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    assert run(folder, *SMALL) == 0
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tasks(tmp_path_factory.mktemp("array") / "runs")


@pytest.fixture
def parts(made: Path, tmp_path: Path) -> Path:
    """The same run as an array of four, to be changed."""
    shutil.copytree(made, tmp_path / "array")
    return tmp_path / "array"


# -- a part of a run ----------------------------------------------------------------------------------------------------


def test_a_part_makes_its_own_dialogues_alone(parts: Path, whole: Path) -> None:
    # 10 dialogues over 4 tasks: 0 4 8, 1 5 9, 2 6, 3 7.
    assert [[index(t) for t in sorted(records(parts / f"task-{i}", "transcripts"), key=index)] for i in range(TASKS)] == [
        [0, 4, 8], [1, 5, 9], [2, 6], [3, 7]
    ]  # fmt: skip
    every = contents(whole)
    for i in range(TASKS):
        mine = contents(parts / f"task-{i}")
        assert mine["topics"] == every["topics"]  # those of the whole run
        assert all(every[name][key] == record for name in FILES[1:-1] for key, record in mine[name].items())
        assert summary(parts / f"task-{i}")["conversations"] == (3, 3, 2, 2)[i]


def test_a_part_counts_itself_alone_and_goes_on(tmp_path: Path) -> None:
    from expertchat.events import Progress

    part, sink = "conversation.part=[1,4]", Collect()
    assert run(tmp_path / "run", *SMALL, part, sink=sink) == 0
    assert sink.of(RunStarted)[0].conversations == 3
    assert (sink.of(Progress)[-1].finished, sink.of(Progress)[-1].total) == (3, 3)
    before = contents(tmp_path / "run")
    (tmp_path / "run/summary.json").unlink()
    os.truncate(tmp_path / "run/ratings.jsonl", (tmp_path / "run/ratings.jsonl").stat().st_size // 2)
    double, sink = Double(), Collect()
    assert run(tmp_path / "run", *SMALL, part, double=double, sink=sink) == 0
    assert contents(tmp_path / "run") == before and {key[:5] for key in double.asked()} <= {"c0001", "c0005", "c0009"}
    assert sink.of(RunStarted)[0].resumed < 3


def test_another_part_is_another_config(tmp_path: Path) -> None:
    assert run(tmp_path / "run", *SMALL, "conversation.part=[1,4]") == 0
    with pytest.raises(ConfigError, match=r"conversation.part: was \[1, 4\], is \[2, 4\]"):
        run(tmp_path / "run", *SMALL, "conversation.part=[2,4]")


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["conversation.part=[4,4]"], "part=[4, 4] is [i, n], the i-th of n parts counted from 0: take 0 <= i < n"),
        (["conversation.part=[-1,4]"], "take 0 <= i < n"),
        (["conversation.part=[0,0]"], "take 0 <= i < n"),
        (["conversation.part=[0,5]"], "part=[0, 5] has more parts than there are dialogues (count=4): take fewer parts"),
        (["conversation.part=[0]"], "conversation.part: "),
        (["conversation.part=3"], "conversation.part: "),
        (["conversation.part=[0,2]", "topics=models"], "a proposed topic depends on those before it, so the parts would not agree on them"),
    ],
)
def test_parts_that_cannot_be_meant(overrides: list[str], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load("converse", overrides)
    assert len(caught.value.problems) == 1 and words in caught.value.problems[0]


def test_three_experts_are_merged_as_two_are(tmp_path: Path) -> None:
    words = ("+model@experts.dr_jones=embedded_llama", "conversation.count=5", "conversation.turns=3", "conversation.order=random")
    assert run(tmp_path / "whole", *words) == 0
    for i in range(2):
        assert run(tmp_path / "array" / f"task-{i}", *words, f"conversation.part=[{i},2]") == 0
    merge_runs([tmp_path / "array"], None, False)
    merged = tmp_path / "array" / "merged"
    assert contents(merged) == contents(tmp_path / "whole") and summary(merged) == summary(tmp_path / "whole")
    assert all(list(one["experts"]) == ["a", "b", "dr_jones"] for one in records(merged, "transcripts"))
    judged = {(one["subject"], one["judge"]) for one in records(merged, "rewards")}
    seats = ("a", "b", "dr_jones")
    assert judged == {(one, two) for one in seats for two in seats if one != two}


def test_rounds_have_no_parts() -> None:
    for override in ("conversation.part=[0,2]", "+conversation.part=[0,2]"):
        with pytest.raises(ConfigError, match=r"conversation.part: unknown key"):
            load("online_dpo", [override])


# -- parts merged -------------------------------------------------------------------------------------------------------


def test_merged_parts_are_the_run_that_one_would_have_made(parts: Path, whole: Path) -> None:
    assert main(["merge_runs", str(parts)]) == 0
    merged = parts / "merged"
    assert contents(merged) == contents(whole)
    for name in FILES[:-1]:
        assert [index(record) for record in records(merged, name)] == sorted(index(record) for record in records(whole, name))
    assert summary(merged) == summary(whole)
    config, other = (yaml.safe_load((folder / "config.yaml").read_text()) for folder in (merged, whole))
    assert config["run"].pop("dir") == str(merged) and other["run"].pop("dir") and config == other
    kinds = [event["kind"] for event in records(merged, "events")]
    assert kinds.count("run_started") == kinds.count("run_finished") == 1 and (kinds[0], kinds[-1]) == ("run_started", "run_finished")
    times = [event["time"] for event in records(merged, "events") if event["kind"] == "turn_finished"]
    assert times == sorted(times)
    told = json.loads((merged / "provenance.json").read_text())["merged"]
    assert told["kind"] == "parts" and [one["part"] for one in told["sources"]] == [[i, TASKS] for i in range(TASKS)]
    assert all(one["git"] == told["sources"][0]["git"] and "git" in one for one in told["sources"])
    assert not list(parts.glob(".merged*"))


def test_a_merged_run_is_a_run_that_is_done(parts: Path) -> None:
    merge_runs([parts], None)
    before = {path.name: path.read_bytes() for path in (parts / "merged").iterdir()}
    double = Double()
    assert run(parts / "merged", *SMALL, double=double) == 0 and not double.requests
    assert {path.name: path.read_bytes() for path in (parts / "merged").iterdir()} == {**before, ".lock": b""}


def test_merging_again_gives_the_same(parts: Path) -> None:
    def content() -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in (parts / "merged").iterdir() if path.name != "provenance.json"}

    merge_runs([parts], None)
    before = content()
    merge_runs([parts / f"task-{i}" for i in (2, 0, 3, 1)], parts / "merged")  # whatever the order they are named in
    assert content() == before


def test_watch_shows_a_merged_run(parts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    merge_runs([parts], None)
    for arguments in ([], ["--conversation", "c0007"], ["--speed", "1000"]):
        assert main(["watch", str(parts / "merged"), "--view", "plain", *arguments]) == 0
        shown = capsys.readouterr().out
        assert "c0007" in shown and (arguments == ["--conversation", "c0007"] or "conversations: 10 of 10" in shown)


def test_all_problems_are_named_at_once(parts: Path, tmp_path: Path) -> None:
    shutil.rmtree(parts / "task-1")
    (parts / "task-2/summary.json").unlink()
    assert run(tmp_path / "again", *SMALL, "conversation.part=[3,4]") == 0
    assert run(tmp_path / "other", *SMALL, "conversation.part=[1,4]", "conversation.turns=4", "run.seed=8") == 0
    (tmp_path / "empty").mkdir()
    found = problems(parts, tmp_path / "again", tmp_path / "other", tmp_path / "none", tmp_path / "empty")
    lacking = "let it run to its end, or merge what there is with --partial"
    assert found == [
        f"{tmp_path}/none: no such folder; name a run, or the folder of an array",
        f"{tmp_path}/empty: is no run and holds no run of an array (task-0, task-1, ...); name the run folders",
        f"{tmp_path}/other: is a run of another config than {parts}/task-0 (run.seed: was 0, is 8; conversation.turns: was 3, is 4); "
        "leave one of them out",
        f"{parts}/task-3 and {tmp_path}/again both have conversation.part=[3, 4]; leave one of them out",
        "--out FOLDER is lacking: say where the merged run goes",
        f"{parts}/task-2: is not finished (2 of 2 dialogues); {lacking}",
    ]
    assert problems(parts) == [
        f"{parts}/task-2: is not finished (2 of 2 dialogues); {lacking}",
        f"part 1 of 4 (conversation.part=[1,4]) is not among the runs; {lacking}",
    ]
    assert not (parts / "merged").exists()


def test_tasks_that_were_submitted_are_waited_for(parts: Path) -> None:
    shutil.rmtree(parts / "task-3")
    (parts / "task-1/config.yaml").unlink()  # its job waits in the queue
    (parts / "submission").mkdir()
    (parts / "submission/submission.json").write_text(json.dumps({"tasks": 4}))
    assert [text.partition(";")[0] for text in problems(parts)] == [f"{parts}: task {n} has not begun" for n in (1, 3)]


def test_what_servers_were_asked_by_the_parts_is_added_up(parts: Path) -> None:
    """Two parts with an answer each, of 2 and 1 requests; what the second one cost is not known."""
    for i, cost in enumerate((0.25, None)):
        one = Served(id="x", key="k", model="m", server="s", text="so", tries=2 - i, prompt_tokens=10, completion_tokens=3, cost=cost)
        (parts / f"task-{i}" / "served.jsonl").write_text(one.to_json() + "\n")
    merge_runs([parts], None)
    expected = {"answers": 2, "requests": 3, "prompt_tokens": 20, "completion_tokens": 6, "cost": 0.25}
    assert summary(parts / "merged")["served"] == expected


def test_partial_merges_what_there_is_and_says_so(parts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = contents(parts / "task-2")
    shutil.rmtree(parts / "task-3")
    (parts / "task-2/summary.json").unlink()
    path = parts / "task-2/transcripts.jsonl"
    os.truncate(path, path.stat().st_size - 5)  # it is being written
    merged = merge_runs([parts], None, partial=True)
    assert [index(t) for t in records(parts / "merged", "transcripts")] == [0, 1, 2, 4, 5, 8, 9]
    assert len(records(parts / "merged", "ratings")) == sum(len(records(parts / f"task-{i}", "ratings")) for i in range(3))
    lacking = [
        f"{parts}/task-2: is not finished (1 of 2 dialogues)",
        "part 3 of 4 (conversation.part=[3,4]) is not among the runs",
    ]
    assert summary(parts / "merged")["partial"] == merged.lacking == lacking
    stream = io.StringIO()
    print_merged_runs(merged.values(), stream)
    assert "3 parts, 7 dialogues" in stream.getvalue() and all(text in stream.getvalue() for text in lacking)
    # When the rest is there, the merge of all replaces it.
    assert run(parts / "task-2", *SMALL, "conversation.part=[2,4]") == 0
    tasks(parts, [3])
    assert contents(parts / "task-2") == whole
    merge_runs([parts], None)
    assert "partial" not in summary(parts / "merged") and summary(parts / "merged")["conversations"] == 10


def test_what_is_no_earlier_merge_of_the_same_is_not_replaced(parts: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis/thesis.tex").write_text("precious")
    (tmp_path / "file").write_text("precious")
    for out in (tmp_path / "thesis", tmp_path / "file", parts / "task-0"):
        (found,) = problems(parts, out=out)
        assert found == f"{out}: is there already and no earlier merge of these runs; name another folder with --out, or remove it"
    merge_runs([parts], tmp_path / "merged")
    other = tasks(tmp_path / "other", range(TASKS), "conversation.turns=2")
    (found,) = problems(other, out=tmp_path / "merged")
    assert "no earlier merge of these runs (conversation.turns: was 3, is 2)" in found
    (tmp_path / "new").mkdir()  # an empty one may be filled
    merge_runs([parts], tmp_path / "new")
    assert summary(tmp_path / "new") == summary(tmp_path / "merged")


def test_parts_and_whole_runs_are_not_mixed(parts: Path, whole: Path, tmp_path: Path) -> None:
    assert problems(parts / "task-0", whole, out=tmp_path / "out")[0].startswith(f"{whole} is a whole run, {parts}/task-0 a part of one")
    assert run(tmp_path / "third", *SMALL, "conversation.part=[1,3]") == 0
    assert "are not parts of one same run" in problems(parts / "task-0", tmp_path / "third", out=tmp_path / "out")[0]
    assert "one whole run has nothing to be merged with" in problems(whole, out=tmp_path / "out")[0]
    assert f"{parts}/task-0: is named twice; name it once" in problems(parts, parts / "task-0", out=tmp_path / "out")


def test_a_failure_in_the_middle_leaves_what_was_there(parts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    merge_runs([parts], None)
    before = (parts / "merged/ratings.jsonl").read_bytes()
    (parts / "task-1/ratings.jsonl").write_text('{"id": "x", "transcript": "elsewhere"}\n')
    with pytest.raises(ConfigError, match="a record belongs to 'elsewhere', which is no dialogue of a run"):
        merge_runs([parts], None)
    assert (parts / "merged/ratings.jsonl").read_bytes() == before and not list(parts.glob(".merged*"))


def test_a_kill_leaves_no_half_merge(parts: Path) -> None:
    """Killed wherever something is made to last: what is called merged is whole or not there, and the next merge can be made."""
    merge_runs([parts], None)
    wanted, killed = contents(parts / "merged"), 0
    for step in range(1, 100):
        process = FORK.Process(target=_merge_until, args=(parts, step))
        process.start()
        process.join(60)
        if (parts / "merged").exists():
            assert contents(parts / "merged") == wanted and (parts / "merged/summary.json").exists()
        if process.exitcode == 0:
            break
        assert process.exitcode == -signal.SIGKILL
        killed += 1
    # 7 files of records (answers and guesses too) and the events are synced, the summary and its name; the old one is renamed, the new too.
    assert killed == 7 + 1 + 2 + 2 and not list(parts.glob(".merged*"))


def _merge_until(parts: Path, step: int) -> None:
    """Merge, and die before the given one of these calls."""
    done: list[str] = []

    def counted(real: Any) -> Any:
        def call(*arguments: Any) -> None:
            done.append("")
            if len(done) == step:
                os.kill(os.getpid(), signal.SIGKILL)
            real(*arguments)

        return call

    os.fsync, os.rename = counted(os.fsync), counted(os.rename)
    merge_runs([parts], None)
    os._exit(0)
