"""Runs of several seeds lie side by side in one folder without a collision: every id gets its seed."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path
from typing import get_args

import pytest
from pydantic import BaseModel

from expertchat.cli import main
from expertchat.command.compose import load
from expertchat.config import ConfigError
from expertchat.evaluation.figures import Comparison
from expertchat.evaluation.histories import Held
from expertchat.folder.store import EVENTS, IDS, KEYED, prefixed
from expertchat.folder.summary import summarise
from expertchat.records import Record
from expertchat.runs import arms as table
from expertchat.runs import merged as files
from expertchat.runs.merge_runs import merge_runs
from expertchat.training.online import run_online
from expertchat.views.outcomes import print_merged_runs
from tests.scripted import Collect, run
from tests.test_merge_runs import SMALL, problems, records
from tests.test_resume import FILES, contents, summary


def test_every_field_is_known_to_be_an_id_or_not() -> None:
    """A new text in a record or an event is an id (then it is prefixed in a merge) or stands here."""
    texts = {
        "topic", "text", "raw", "problem", "judge", "category", "analysis", "policy", "base", "kind", "command", "folder", "host", "job",
        "what", "source", "level", "reason", "note", "family", "model", "revision", "phase", "stop_reason", "status", "speaker", "subject",
        "learner", "opener", "first", "verdict", "figures", "experts", "summary", "waiting", "texts", "prompt", "chosen", "rejected",
        "seconds", "finish", "fault", "altered", "thinking", "beyond", "of", "unshown",
        # of judges' folders and of labels, which nobody merges
        "item", "system", "group", "reference", "label", "form", "wording", "order", "choice", "annotator", "shown", "ratings", "flags",
        "missing", "comment", "principle", "judges", "combined",
        # of demonstrations, which are no run's, and of what answers to them are
        "completion", "rendered", "part", "way", "wanted",
        # of what a run has trained, and of the functions that a score comes from
        "trained", "parts",
        # of what is chosen among candidates, which nobody merges
        "origin", "rule_text", "scores", "others", "duels", "like", "selection",
        # of who was a human, and of turns that a person has changed
        "guesser", "hand", "was",
        # of posts and of what is picked, and of what servers have answered, which nobody merges
        "key", "language", "near", "persona", "row", "said", "server",
        # of preferences, and of pairs that are built
        "type", "pair", "cut",
    }  # fmt: skip
    seen: set[str] = set()

    def walk(model: type[BaseModel]) -> None:
        for name, info in model.model_fields.items():
            parts = [info.annotation]
            while parts:
                part = parts.pop()
                parts += get_args(part)
                if isinstance(part, type) and issubclass(part, BaseModel):
                    walk(part)
                if part is str or isinstance(part, str):  # a text, or a Literal's values
                    seen.add(name)

    def kinds(model: type[Record]) -> list[type[Record]]:
        inner = [kind for below in model.__subclasses__() for kind in kinds(below)]
        return inner or [model]

    records = kinds(Record)
    for model in [*records, *EVENTS.values()]:
        walk(model)
    assert seen - texts == IDS | set(KEYED)
    assert {model.__name__ for model in records} == {m.__name__ for m in [*files.FILES.values(), Held, Comparison]} | {
        "Verdict",  # inside Comparison
        "Standing",  # how a row of dpo stands against the base, in files by evaluation
        "Served",  # what a server has answered, by request: it stays with the run that asked
        "Bundle",  # of a round that is at work
        "Label",  # of people, in a folder of theirs
        "Preference",  # in a run of one model
        "Attempt", "Outcome",  # of pairs that are built
        "Demonstration", "Sample",  # in a file that models are taught by, and what is answered then
        "Prompt",  # of best_of_n
        "Selection",
        "Post",  # of posts
        "PickRow", "Pick",  # of pick
    }


def test_ids_get_their_seed_wherever_they_stand() -> None:
    verdict = {"id": "h0/by-a", "history": "h0", "judge": "a", "first": "base", "verdict": "A"}
    comparison = {"id": "h0/v1", "history": "h0", "learner": "a", "reply": {"speaker": "a", "text": "h0"}, "verdicts": [verdict]}
    assert prefixed(Comparison, comparison, "s1/") == {
        "id": "s1/h0/v1", "history": "s1/h0", "learner": "a", "reply": {"speaker": "a", "text": "h0"},
        "verdicts": [{**verdict, "id": "s1/h0/by-a", "history": "s1/h0"}],
    }  # fmt: skip
    rating = {"kind": "rating_given", "time": 1.0, "rating": {"id": "c0/x", "transcript": "c0", "candidate": None, "judge": "b"}}
    assert prefixed(EVENTS["rating_given"], rating, "s1/")["rating"] == {
        "id": "s1/c0/x", "transcript": "s1/c0", "candidate": None, "judge": "b"
    }  # fmt: skip
    pair = {"id": "p", "provenance": {"transcript": "c0", "turn": 1, "learner": "a", "judge": "b", "chosen": "k0", "rejected": "k1"}}
    assert prefixed(files.FILES["pairs"], pair, "s1/") == {
        "id": "s1/p",
        "provenance": {"transcript": "s1/c0", "turn": 1, "learner": "a", "judge": "b", "chosen": "s1/k0", "rejected": "s1/k1"},
    }


def test_conversations_of_two_seeds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [tmp_path / f"seed {seed}" for seed in (0, 3)]
    for folder, seed in zip(runs, (0, 3), strict=True):
        assert run(folder, *SMALL, f"run.seed={seed}") == 0
    out = tmp_path / "both"
    merged = merge_runs([runs[1], runs[0]], out)
    found = contents(out)  # which fails on a duplicate
    for name in FILES[1:-1]:
        assert len(found[name]) == sum(len(contents(folder)[name]) for folder in runs)
        assert {key.partition("/")[0] for key in found[name]} == {"s0", "s3"}
        assert all(record.get("transcript", "s0/c0000")[3:5] == "c0" for record in found[name].values())
    told = summary(out)
    assert (told["conversations"], told["turns"], told["seeds"]) == (20, 60, [0, 3])
    # Counted again from the merged files: the rewards of two dialogues with one number would have been taken for one.
    assert told["rated_pairs"] == sum(summary(folder)["rated_pairs"] for folder in runs) == 20
    assert {k: v for k, v in summarise(out).items() if k in told and "second" not in k} == {k: told[k] for k in told if k != "seeds"}
    assert main(["watch", str(out), "--view", "plain", "--conversation", "s3/c0004"]) == 0
    assert "[s3/c0004 " in capsys.readouterr().out
    assert main(["watch", str(out), "--view", "plain"]) == 0
    assert "conversations: 20 of 20" in capsys.readouterr().out
    assert run(tmp_path / "third", *SMALL, "run.seed=5") == 0
    assert merge_runs([*runs, tmp_path / "third"], out).summary["seeds"] == [0, 3, 5]  # more seeds of the same
    assert problems(runs[0], runs[0], out=out)[0] == f"{runs[0]}: is named twice; name it once"
    shutil.copytree(runs[0], tmp_path / "copy")
    assert problems(runs[0], tmp_path / "copy", out=out) == [f"{runs[0]} and {tmp_path}/copy both have run.seed=0; leave one of them out"]
    with pytest.raises(ConfigError, match=r"is a run of another config"):  # nobody goes on with it
        run(out, *SMALL)
    assert merged.kind == "seeds"


FAST = (
    "view=none", "rounds=1", "conversation.count=2", "conversation.turns=3", "candidates.count=2", "evaluation.every=0",
    "evaluation.histories=2", "evaluation.final=3", "train.rank=2", "pairs.min_margin=0.0", "judging.analysis=false",
)  # fmt: skip


@pytest.mark.slow
def test_training_runs_of_two_seeds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [tmp_path / "array" / f"task-{seed}" for seed in (0, 1)]
    for seed, folder in enumerate(runs):
        assert run_online(load("online_dpo", [*FAST, f"run.dir={folder}", f"run.seed={seed}"]), ["expertchat"], Collect()) == 0
    merged = merge_runs([tmp_path / "array"], None)
    out = tmp_path / "array" / "merged"
    for name in files.FILES:
        of_runs = [records(folder, name) for folder in runs]
        assert [record["id"] for record in records(out, name)] == [f"s{i}/{one['id']}" for i, found in enumerate(of_runs) for one in found]
        for line, before in zip(records(out, name), [one for found in of_runs for one in found], strict=True):
            assert files.FILES[name].model_validate(line) and line.keys() == before.keys()
    candidates = {one["id"] for one in records(out, "candidates")}
    transcripts = {one["id"] for one in records(out, "transcripts")}
    pairs = records(out, "pairs")
    assert pairs and all(p["provenance"][name] in candidates for p in pairs for name in ("chosen", "rejected"))
    assert all(one["transcript"] in transcripts for name in ("candidates", "ratings", "wim", "rewards") for one in records(out, name))
    assert {one["id"][:3] for one in records(out / "evaluations", "base-a")} == {"s0/", "s1/"}
    # The pooled row of the table of arms: three replies of each seed.
    (row,) = table.arms(runs).rows
    told = json.loads((out / "summary.json").read_text())
    assert told["evaluation"] == json.loads(json.dumps(row)) and told["evaluation"]["n"] == 6
    assert (told["pairs"], told["rounds"], told["seeds"]) == (len(pairs), 1, [0, 1])
    assert main(["watch", str(out), "--view", "plain"]) == 0
    assert f"pairs: {len(pairs)}" in capsys.readouterr().out
    assert [row["seeds"] for row in table.arms([tmp_path / "array"]).rows] == [[0, 1]]  # the merged one is not counted again
    stream = io.StringIO()
    print_merged_runs(merged.values(), stream)
    assert "2 seeds, 1 round each" in stream.getvalue()


def test_merged_pairs_are_one_data_set(tmp_path: Path) -> None:
    from datasets import load_dataset

    message = [{"role": "user", "content": "What of tides?"}]
    pair = {
        "id": "r0001/c0000/t01/k0-k1", "schema": 1, "prompt": message, "chosen": message, "rejected": message, "score_chosen": 0.5,
        "score_rejected": -0.5, "margin": 1.0, "round": 1, "policy_version": 0,
        "provenance": {"transcript": "r0001/c0000", "turn": 1, "learner": "a", "judge": "b", "chosen": "k0", "rejected": "k1"},
    }  # fmt: skip
    origins = []
    for seed in (0, 1):
        (tmp_path / str(seed)).mkdir()
        (tmp_path / str(seed) / "pairs.jsonl").write_text(json.dumps(pair) + "\n")
        origins.append(files.Origin(tmp_path / str(seed), f"s{seed}/"))
    (tmp_path / "pairs.jsonl").write_bytes(b"".join(files.one_after_another("pairs.jsonl", origins)))
    found = load_dataset("json", data_files=str(tmp_path / "pairs.jsonl"), split="train", cache_dir=str(tmp_path / "cache"))
    assert found["id"][:] == ["s0/r0001/c0000/t01/k0-k1", "s1/r0001/c0000/t01/k0-k1"]
    assert found[1]["provenance"]["chosen"] == "s1/k0" and found[1]["prompt"] == message
