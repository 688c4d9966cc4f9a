"""Reward models that are really trained: each kind on a planted rule, killed and resumed, loaded as a judge, and what is refused."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from expertchat.backends.reward_folders import any_reward_model_problem, facts_of, inside, is_adapter, reward_model_problem
from expertchat.command.compose import load
from expertchat.config import ConfigError
from expertchat.folder.reader import RunReader
from tests.scripted import Collect

torch.set_num_threads(1)
SMALL = ("train.batch=6", "train.micro_batch=6")
GOOD, BAD = ("They hunt fish in the river.", "They nest in tall trees."), ("I do not know.", "No idea at all.")


def rows(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Pairs of which the better text says something of herons, six questions to each of them."""
    draw = random.Random(seed)
    return [
        {"prompt": f"What do herons do, question {i}?", "chosen": f"{draw.choice(GOOD)} {i}", "rejected": f"{draw.choice(BAD)} {i}"}
        for i in range(count)
    ]


def table(path: Path, lines: Sequence[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    return path


def train(folder: Path, source: Path, *overrides: str, sink: Any = None) -> int:
    from expertchat.reward_models.run import run_reward_model

    given = [f"source.path=[{source}]", f"run.dir={folder}", "view=none", "resamples=200", "model.device=cpu", *overrides]
    return run_reward_model(load("reward_model", given), ["expertchat", "reward_model"], sink or Collect())


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return table(tmp_path_factory.mktemp("pairs") / "pairs.jsonl", rows(24))


@pytest.fixture(scope="module")
def rated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    lines = []
    for row in rows(24):
        for name, value in (("chosen", 8), ("rejected", 2)):
            lines.append({"prompt": row["prompt"], "text": row[name], "label": value})
    return table(tmp_path_factory.mktemp("rated") / "rated.jsonl", lines)


def judge_of(folder: Path) -> Any:
    from expertchat.backends.reward_model import RewardModel
    from expertchat.config import RewardModelConfig

    return RewardModel.load(RewardModelConfig(path=str(folder), device="cpu", dtype="fp32"))


def scores(folder: Path, texts: Sequence[str] = (*GOOD, *BAD)) -> list[float]:
    from expertchat.backends.base import ValueRequest
    from expertchat.records import Message

    asked = (Message("user", "Let us talk about what follows.\nWhat do herons do?"),)
    found = [one.score for one in judge_of(folder).value([ValueRequest(text, asked, text) for text in texts])]
    return [score for score in found if score is not None]


# -- each kind ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["pairwise", "regression", pytest.param("classification", marks=pytest.mark.slow), "decoder"])
def test_each_kind_learns_a_planted_rule_and_judges_by_it(tmp_path: Path, pairs: Path, rated: Path, kind: str) -> None:
    sink = Collect()
    source = rated if kind in ("regression", "classification") else pairs
    assert train(tmp_path / "run", source, f"kind={kind}", "epochs=2", *SMALL, "train.schedule=constant", sink=sink) == 0
    summary = RunReader(tmp_path / "run").summary
    assert summary["figures"]["accuracy"] >= 0.9 and summary["figures"]["groups"] == 6  # a quarter of 24 questions
    found = scores(tmp_path / "run")
    assert min(found[:2]) > max(found[2:])
    assert reward_model_problem(tmp_path / "run") is None and reward_model_problem(tmp_path / "run" / "model") is None
    kinds = [event.kind for event in sink.events]
    assert kinds.count("round_finished") == 2 and kinds.count("measured") == 3 and kinds[-1] == "run_finished"
    card = (tmp_path / "run" / "model" / "README.md").read_text("utf-8")
    assert "pairs ordered rightly" in card and "None" not in card
    from expertchat.sources.config import SourceConfig
    from expertchat.sources.read import read_items

    held_out = read_items(SourceConfig(path=[str(tmp_path / "run")]))  # the run is a judge's folder, too
    assert len(held_out) == len({one.item for one in RunReader(tmp_path / "run").opinions()})


def test_a_comparison_reads_two_texts_and_judges_pairs_alone(tmp_path: Path, pairs: Path) -> None:
    assert train(tmp_path / "run", pairs, "kind=comparison", "epochs=1", *SMALL) in (0, 1)  # an epoch of 36 rows need not be enough
    figures = RunReader(tmp_path / "run").summary["figures"]
    assert figures["accuracy"] is not None and figures["first"] is not None and figures["flips"] is not None
    judge = judge_of(tmp_path / "run")
    assert judge.compares and not judge.history and facts_of(tmp_path / "run" / "model")["kind"] == "comparison"
    assert any_reward_model_problem(tmp_path / "run") is None
    assert "compares two texts" in (reward_model_problem(tmp_path / "run") or "")
    from expertchat.lab.run import run_judge

    place = f"judges.both.reward_model.path={tmp_path / 'run'}"
    lab = load("judge", [f"source.path=[{pairs}]", f"run.dir={tmp_path / 'lab'}", "view=none", "source.limit=4",
                         "+judge@judges.both=reward_model", place])  # fmt: skip
    assert run_judge(lab, ["expertchat", "judge"], Collect()) == 0
    said = list(RunReader(tmp_path / "lab").opinions())
    assert [one.order for one in said] == ["first", "second"] * 4 and all(one.choice for one in said)


# -- adapters -------------------------------------------------------------------------------------------------------------


def test_an_adapter_with_its_head_judges_as_the_whole_model_does(tmp_path: Path, pairs: Path) -> None:
    from expertchat.reward_models.merging import merged

    train(tmp_path / "part", pairs, "kind=decoder", "epochs=1", *SMALL, "source.limit=16", "merge=never")
    adapter = tmp_path / "part" / "model"
    assert is_adapter(adapter) and inside(tmp_path / "part") == adapter and facts_of(adapter)["kind"] == "decoder"
    merged(adapter, tmp_path / "whole", load("reward_model", ["kind=decoder"]))
    assert not is_adapter(tmp_path / "whole") and reward_model_problem(tmp_path / "part") is None
    assert scores(tmp_path / "part") == pytest.approx(scores(tmp_path / "whole"), abs=1e-4)
    values = json.loads((adapter / "adapter_config.json").read_text("utf-8"))
    (adapter / "adapter_config.json").write_text(json.dumps(values | {"task_type": "CAUSAL_LM"}), "utf-8")
    assert "score head" in (reward_model_problem(adapter) or "")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_an_adapter_on_a_quantised_base_judges_as_it_was_measured(tmp_path: Path, pairs: Path, kind: str) -> None:
    more = ("kind=decoder", f"model.quantization={kind}", "epochs=2", *SMALL, "train.schedule=constant")
    assert train(tmp_path / "run", pairs, *more) == 0
    adapter = tmp_path / "run" / "model"
    assert is_adapter(adapter) and facts_of(adapter)["quantization"] == kind
    judge = judge_of(tmp_path / "run")
    assert {type(p).__name__ for p in judge.model.parameters()} & {"Params4bit", "Int8Params"}
    last = list(RunReader(tmp_path / "run").metrics())[-1].figures
    if RunReader(tmp_path / "run").summary["best"] == 2:
        assert RunReader(tmp_path / "run").summary["figures"]["loss"] == pytest.approx(last["loss"], abs=1e-4)


# -- broken off -----------------------------------------------------------------------------------------------------------


class Killed(BaseException):
    pass


@pytest.mark.slow  # tests.proofs.kill_reward_model
def test_a_killed_run_goes_on_and_ends_as_an_unbroken_one(tmp_path: Path, pairs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from expertchat.reward_models import run as module

    more = ("epochs=2", *SMALL)
    assert train(tmp_path / "whole", pairs, *more) == 0
    saved = module._Run._saved

    def dies(self: Any, epoch: int) -> None:
        if epoch == 2:
            raise Killed  # measured, and not saved: it is trained and measured again
        saved(self, epoch)

    with monkeypatch.context() as patch:
        patch.setattr(module._Run, "_saved", dies)
        with pytest.raises(Killed):
            train(tmp_path / "broken", pairs, *more)
    assert train(tmp_path / "broken", pairs, *more) == 0
    one, two = (list(RunReader(tmp_path / name).metrics()) for name in ("whole", "broken"))
    assert [m.id for m in two] == [m.id for m in one] and scores(tmp_path / "broken") == scores(tmp_path / "whole")
    assert [(m.id, m.figures["accuracy"]) for m in two] == [(m.id, m.figures["accuracy"]) for m in one]
    events = [event.kind for event in RunReader(tmp_path / "broken").events()]
    assert events.count("measured") == 3 and events.count("round_finished") == 2
    changed = table(tmp_path / "changed.jsonl", rows(25))
    (tmp_path / "broken" / "summary.json").unlink()
    config = (tmp_path / "broken" / "config.yaml").read_text("utf-8")
    (tmp_path / "broken" / "config.yaml").write_text(config.replace(str(pairs), str(changed)), "utf-8")
    with pytest.raises(ConfigError, match="source: has changed since"):
        train(tmp_path / "broken", changed, *more)


@pytest.mark.slow
def test_two_processes_are_one(tmp_path: Path, pairs: Path) -> None:
    """Each step's rows are shared out and the gradients averaged, so the losses are those of one process."""
    more = ("epochs=2", "train.batch=6", "train.micro_batch=3", "train.dropout=0")
    assert train(tmp_path / "one", pairs, *more) == 0
    words = [*more, "train.sharding=ddp", "view=none", "resamples=200", "model.device=cpu", f"run.dir={tmp_path / 'two'}"]
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "expertchat.cli"]
    subprocess.run([*launch, "reward_model", str(pairs), *words], check=True)
    one, two = ([m.figures.get("train_loss") for m in RunReader(tmp_path / name).metrics()] for name in ("one", "two"))
    assert len(two) == 3 and two[1:] == pytest.approx(one[1:], abs=1e-4)
    assert scores(tmp_path / "two") == pytest.approx(scores(tmp_path / "one"), abs=1e-2)


# -- bad input ------------------------------------------------------------------------------------------------------------


BROKEN = [
    (["train.max_tokens=16", "source.path=[{long}]"], "all 18 rows are too long: no text fits into the 16 tokens"),
    (["train.learning_rate=1e30", "train.warmup=0", "train.schedule=constant"], "not finite"),
    (["model.path=embedded:llama"], "cannot be made a reward model .*set kind=decoder"),
    (["kind=decoder", "train.targets=[nope_proj]"], "no linear layers named nope_proj; there are"),
    (["held_out.path=[{source}]"], "held_out.path: .* among what is trained on"),
]  # fmt: skip


@pytest.mark.parametrize(("overrides", "said"), BROKEN, ids=lambda value: str(value)[:30])
def test_what_cannot_be_trained_is_told_in_one_message(tmp_path: Path, pairs: Path, overrides: list[str], said: str) -> None:
    said_more = [{**row, **{name: f"{row[name]} so they say" + " of them" * 6 for name in ("chosen", "rejected")}} for row in rows(24)]
    long = table(tmp_path / "long.jsonl", said_more)  # each text has 3 + 2 x 6 = 15 words more than its 4 to 6: more than 16 tokens
    given = [one.format(source=pairs, long=long) for one in overrides]
    with pytest.raises(ConfigError, match=said):
        train(tmp_path / "run", pairs, "train.batch=4", "train.micro_batch=4", *given)


def test_a_model_that_learns_nothing_is_no_result(tmp_path: Path) -> None:
    """Chosen and rejected are drawn: nothing can be learnt, and where a coin is no worse the exit code is 1."""
    lines = [{"prompt": f"q{i}", "chosen": f"a{i}", "rejected": f"b{i}"} for i in range(8)]
    for line in lines[::2]:
        line["chosen"], line["rejected"] = line["rejected"], line["chosen"]
    code = train(tmp_path / "run", table(tmp_path / "p.jsonl", lines), "epochs=1", "train.learning_rate=1e-12")
    summary = RunReader(tmp_path / "run").summary
    assert (code == 1) == (summary.get("status") == "failed") == (summary["figures"]["accuracy"] <= 0.5)
