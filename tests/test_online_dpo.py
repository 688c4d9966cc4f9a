"""Whole training runs on the embedded models: what a run leaves, that it goes on where it was broken off, and what is refused."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from expertchat import cli
from expertchat.command.compose import load
from expertchat.config import ConfigError
from expertchat.events import (
    AnyEvent,
    CandidatesJudged,
    Measured,
    PhaseStarted,
    RoundFinished,
    RoundStarted,
    RunFinished,
    StepFinished,
)
from expertchat.folder.reader import RunReader
from expertchat.metrics.said import find_said, weights_of
from expertchat.training.config import OnlineDpoConfig
from expertchat.training.online import Online, run_online
from tests.scripted import BagOfWords, Collect, Double

SMALL = (
    "view=none", "rounds=2", "conversation.count=2", "conversation.turns=3", "candidates.count=2", "evaluation.every=1",
    "evaluation.histories=2", "evaluation.final=3", "train.rank=2", "pairs.min_margin=0.0", "keep_rounds=1", "judging.analysis=false",
    "experts.a.decoding.judge.max_new_tokens=48", "experts.b.decoding.judge.max_new_tokens=48",
)  # fmt: skip
# What the numbers of two equal runs may differ by. A run that was broken off computes in other batches, and sums are rounded in another
# order. Most of it shows in expected ratings: logits of 16 to 32 have steps of 2e-6 in fp32, which is the relative error of a
# probability, and of a mean over 1..10 it makes up to ten times that (seen: 5.5e-6 between batches of 3 and of 32; embeddings 2e-8).
NOISE = 5e-5
RECORDS = ("transcripts", "candidates", "ratings", "wim", "rewards", "scores", "pairs", "metrics")


def config_of(*overrides: str) -> OnlineDpoConfig:
    config = load("online_dpo", [*SMALL, *overrides])
    assert isinstance(config, OnlineDpoConfig)
    return config


def train(folder: Path, *overrides: str, sink: Any = None) -> tuple[int, Collect]:
    sink = sink or Collect()
    return run_online(config_of(f"run.dir={folder}", *overrides), ["expertchat", "online_dpo"], sink), sink


def records(folder: Path, name: str) -> list[dict[str, Any]]:
    path = folder / f"{name}.jsonl"
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()] if path.exists() else []


def content(folder: Path) -> dict[str, Any]:
    """Every record by file and id, without what depends on the clock. Fails on an id that is there twice."""
    found: dict[str, Any] = {}
    for name in RECORDS:
        for record in records(folder, name):
            key = f"{name}/{record['id']}"
            assert key not in found, f"{key} is there twice"
            for turn in record.get("turns", []):
                turn.pop("seconds")
            figures = record.get("figures", {})
            for timed in [n for n in figures if n.startswith("seconds_") or n in ("tokens_per_second", "memory_gib")]:
                figures.pop(timed)
            found[key] = record
    return found


_RAW = re.compile(r"-?\d+\.\d{4}(?: -?\d+\.\d{4}){9}")


def difference(one: Any, two: Any) -> float:
    """The largest difference between two numbers at the same place; infinite where anything else differs.

    An embedding or a score depends on the batch that it is computed in by a rounding of its last digit, so they need not be equal to the
    bit; the four digits of a raw score then differ by one where that is on an edge.
    """
    if isinstance(one, str) and isinstance(two, str) and one != two and _RAW.fullmatch(one) and _RAW.fullmatch(two):
        apart = [abs(float(a) - float(b)) for a, b in zip(one.split(), two.split(), strict=True)]
        return 0.0 if max(apart) < 1.1e-4 else max(apart)
    if isinstance(one, float) and isinstance(two, float):
        return abs(one - two)
    if isinstance(one, dict) and isinstance(two, dict) and one.keys() == two.keys():
        return max((difference(one[key], two[key]) for key in one), default=0.0)
    if isinstance(one, list) and isinstance(two, list) and len(one) == len(two):
        return max((difference(a, b) for a, b in zip(one, two, strict=True)), default=0.0)
    return 0.0 if one == two else float("inf")


def adapters(folder: Path) -> dict[str, torch.Tensor]:
    return {
        f"{path.parent.name}/{name}": tensor
        for path in sorted(folder.glob("adapter*/adapter_model.safetensors"))
        for name, tensor in load_file(path).items()
    }


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Collect]:
    """An unbroken run."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    code, sink = train(folder)
    assert code == 0
    return folder, sink


# -- what a run leaves --------------------------------------------------------------------------------------------------


def test_the_files_of_a_run(whole: tuple[Path, Collect]) -> None:
    folder, _ = whole
    assert {path.name for path in (folder / "rounds" / "000002").iterdir()} == {"adapter", "optimizer.pt", "state.json", "DONE"}
    assert {path.name for path in folder.iterdir()} >= {
        "config.yaml", "provenance.json", "events.jsonl", "summary.json", "adapter", "evaluations", *(f"{n}.jsonl" for n in RECORDS)
    }  # fmt: skip
    assert (folder / "adapter" / "README.md").read_text("utf-8").startswith("---")
    summary = json.loads((folder / "summary.json").read_text("utf-8"))
    assert (summary["rounds"], summary["stopped_by"]) == (2, None)
    assert summary["pairs"] == len(records(folder, "pairs"))
    assert summary["evaluation"]["n"] == 3


def test_pairs_come_from_candidates_of_one_history_and_of_the_newest_policy(whole: tuple[Path, Collect]) -> None:
    folder, _ = whole
    candidates = {c["id"]: c for c in records(folder, "candidates")}
    pairs = records(folder, "pairs")
    assert pairs
    for pair in pairs:
        chosen, rejected = (candidates[pair["provenance"][name]] for name in ("chosen", "rejected"))
        assert (chosen["transcript"], chosen["turn"]) == (rejected["transcript"], rejected["turn"])
        assert pair["policy_version"] == pair["round"] - 1  # the version counts the updates before
        assert pair["margin"] == pair["score_chosen"] - pair["score_rejected"] > 0
        assert pair["chosen"] == [{"role": "assistant", "content": chosen["text"]}]


def test_transcripts_name_the_version_that_spoke(whole: tuple[Path, Collect]) -> None:
    spoken = {t["id"][:5]: t["experts"] for t in records(whole[0], "transcripts")}
    versions = {name: (experts["a"]["policy_version"], experts["b"]["policy_version"]) for name, experts in spoken.items()}
    assert versions == {"r0001": (0, 0), "r0002": (1, 0)}


def test_held_out_topics_are_never_talked_about(whole: tuple[Path, Collect]) -> None:
    folder, _ = whole
    trained = {t["topic"] for t in records(folder, "transcripts")}
    held = {json.loads(line)["topic"] for line in (folder / "evaluations" / "base-a.jsonl").read_text("utf-8").splitlines()}
    assert held and not trained & held


def test_what_is_announced(whole: tuple[Path, Collect]) -> None:
    _, sink = whole
    phases = [(e.round, e.phase) for e in sink.of(PhaseStarted)]
    of_two = [phase for number, phase in phases if number == 2]
    assert of_two[:6] == ["talking", "pairing", "measuring", "updating", "evaluating", "saving"]
    began = {e.round: e.time for e in sink.of(RoundStarted)}
    for ended in sink.of(RoundFinished):
        assert {"talking", "candidates", "judging", "embedding", "updating", "saving"} <= ended.seconds.keys()
        wall = ended.time - began[ended.round]
        assert wall - 0.2 - 0.05 * wall <= sum(ended.seconds.values()) <= wall + 0.01  # the phases are the whole of it
    assert [e.round for e in sink.of(RoundStarted)] == [e.round for e in sink.of(RoundFinished)] == [1, 2]
    assert [e.metrics.id for e in sink.of(Measured)] == [
        "evaluation-a-0000", "round-0001", "evaluation-a-0001", "round-0002", "evaluation-a-0002", "evaluation-a-0002-final"
    ]  # fmt: skip
    assert len(sink.of(CandidatesJudged)) == len(records(whole[0], "candidates")) // 2
    assert sink.of(StepFinished) and sink.of(RunFinished)[-1].status == "done"


def test_the_adapter_is_a_peft_folder_of_the_policy(whole: tuple[Path, Collect]) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from expertchat.backends.folders import find_folder

    base = AutoModelForCausalLM.from_pretrained(find_folder("embedded:llama", None), dtype=torch.float32)
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        before = base(ids).logits
        after = PeftModel.from_pretrained(base, str(whole[0] / "adapter"))(ids).logits
    assert 0 < float((after - before).abs().max()) < 5


def test_a_run_that_is_done_stays_as_it_is(whole: tuple[Path, Collect]) -> None:
    before = content(whole[0])
    code, sink = train(whole[0])
    assert (code, sink.of(RunFinished)[-1].reason) == (0, "it was done before")
    assert content(whole[0]) == before


# -- broken off ---------------------------------------------------------------------------------------------------------


class Interrupter(Collect):
    """Sends this process a signal at the first event that `when` knows."""

    def __init__(self, when: Callable[[AnyEvent], bool]) -> None:
        super().__init__()
        self.when, self.sent = when, False

    def send(self, event: AnyEvent) -> None:
        super().send(event)
        if not self.sent and self.when(event):
            self.sent = True
            os.kill(os.getpid(), signal.SIGUSR1)


@pytest.mark.slow
def test_a_run_that_was_stopped_ends_as_if_it_had_not_been(whole: tuple[Path, Collect], tmp_path: Path) -> None:
    """With real models in all seats, among the candidates of a policy that has learnt; all other moments: test_stopping.py."""
    sink = Interrupter(lambda e: isinstance(e, CandidatesJudged) and e.conversation == "r0002/c0000")
    code, _ = train(tmp_path / "run", sink=sink)
    assert sink.sent and code == 3
    assert sink.of(RunFinished)[-1].reason == "SIGUSR1"
    assert train(tmp_path / "run")[0] == 0
    assert difference(content(tmp_path / "run"), content(whole[0])) < NOISE
    mine, theirs = adapters(tmp_path / "run"), adapters(whole[0])
    assert mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)


@pytest.mark.slow
def test_records_that_were_being_written_are_not_written_twice(whole: tuple[Path, Collect], tmp_path: Path) -> None:
    """Killed between the records of round 2 and its checkpoint: the folder is that of round 1, with some of round 2's records."""
    import shutil

    folder = tmp_path / "run"
    shutil.copytree(whole[0], folder)
    for path in (folder / "summary.json", folder / "rounds" / "000002" / "DONE"):
        path.unlink()
    shutil.rmtree(folder / "adapter")
    shutil.rmtree(folder / "rounds" / "000002")
    shutil.copytree(_first_round(tmp_path), folder / "rounds" / "000001", dirs_exist_ok=True)
    lines = (folder / "pairs.jsonl").read_text("utf-8").splitlines(keepends=True)
    (folder / "pairs.jsonl").write_text("".join(lines[:-1]) + lines[-1][:20], encoding="utf-8")  # the last line is torn
    assert train(folder)[0] == 0
    assert difference(content(folder), content(whole[0])) < NOISE


@lru_cache
def _first_round(scratch: Path) -> Path:
    """The checkpoint of round 1 of the same run."""
    sink = Interrupter(lambda e: isinstance(e, RoundFinished))
    assert train(scratch / "first", sink=sink)[0] == 3
    return scratch / "first" / "rounds" / "000001"


def test_another_config_is_refused_by_name(whole: tuple[Path, Collect]) -> None:
    with pytest.raises(ConfigError) as caught:
        train(whole[0], "train.beta=0.7")
    assert any("train.beta" in problem for problem in caught.value.problems)


# -- who learns ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_both_learn_by_turns(tmp_path: Path) -> None:
    code, sink = train(tmp_path / "run", "learner=both", "judging.analysis=true")
    assert code == 0
    assert [e.learner for e in sink.of(RoundStarted)] == ["a", "b"]
    assert {c["speaker"] for c in records(tmp_path / "run", "candidates") if c["round"] == 2} == {"b"}
    assert {path.parent.name for path in (tmp_path / "run").glob("adapter_*/adapter_model.safetensors")} == {"adapter_a", "adapter_b"}
    summary = json.loads((tmp_path / "run" / "summary.json").read_text("utf-8"))
    assert set(summary["evaluations"]) == {"a", "b"}


@pytest.mark.slow
def test_one_policy_plays_both(tmp_path: Path) -> None:
    code, _ = train(tmp_path / "run", "learner=one", "model@experts.b=embedded_llama", "judging.judge=reference", "evaluation.every=0")
    assert code == 0
    assert {c["speaker"] for c in records(tmp_path / "run", "candidates")} == {"a", "b"}
    assert {r["judge"] for r in records(tmp_path / "run", "rewards")} == {"base_a", "base_b"}


def test_a_guard_ends_the_run_early(tmp_path: Path) -> None:
    """No two replies share a pair of words only where distinct-2 is 1, which no round of one topic reaches."""
    code, sink = train(tmp_path / "run", "guards.min_distinct_2=1.0", "guards.action=stop", "evaluation.every=0")
    assert code == 0 and len(sink.of(RoundFinished)) == 1
    summary = json.loads((tmp_path / "run" / "summary.json").read_text("utf-8"))
    assert summary["rounds"] == 1 and "below the limit of 1" in summary["stopped_by"]


def test_the_last_round_is_evaluated_where_any_is() -> None:
    """Else the rounds after the last evaluation could never be chosen."""

    def evaluated(rounds: int, every: int) -> list[int]:
        config = SimpleNamespace(rounds=rounds, evaluation=SimpleNamespace(every=every))
        return [n for n in range(1, rounds + 1) if Online.due(SimpleNamespace(config=config), n)]  # type: ignore[arg-type]

    assert (evaluated(11, 6), evaluated(12, 6), evaluated(4, 6), evaluated(3, 0)) == ([6, 11], [6, 12], [], [])


def test_full_training_writes_weights(tmp_path: Path) -> None:
    code, _ = train(tmp_path / "run", "train=last_layer", "rounds=1", "evaluation.every=0")
    assert code == 0
    assert (tmp_path / "run" / "adapter" / "weights.safetensors").exists()


# -- what is refused ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["train.batch=6", "train.micro_batch=4"], "no multiple of train.micro_batch=4"),
        (["train.loss=[exo_pair]"], "label_smoothing"),
        (["train.label_smoothing=0.1"], "train.label_smoothing=0.1 has no effect with train.loss=[sigmoid]"),
        (["judging.judge=third"], "needs a third model"),
        (["evaluation=pointwise", "evaluation.by=self"], "judge itself"),
        (["reward.wim=shuffled", "judging.z=0.0"], "no effect"),
        (["train=full", "train.sharding=ddp"], "pipeline"),
        (["candidates.count=1"], "candidates.count"),
        (["train=full", "train.reference=round_start"], "train.method=lora"),
    ],
)
def test_configs_that_cannot_be_meant(overrides: list[str], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config_of(*overrides)
    assert any(words in problem for problem in caught.value.problems), caught.value.problems


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["learner=one"], "one model in both seats"),
        (["learner=both", "model@experts.b=embedded_llama", "train=full"], "an adapter for each"),
        (["topics=list", "topics.list=[tides,jazz]", "evaluation.topics=2"], "none is left to train on"),
        (["topics=list", "topics.list=[cheese,wine,bread]", "evaluation.topics=1"], "nothing is known of 'bread'"),
        (["train.sharding=ddp"], "torchrun"),
        (["train.targets=[nothing_proj]"], "nothing_proj"),
    ],
)
def test_runs_that_cannot_be_made(tmp_path: Path, overrides: list[str], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        train(tmp_path / "run", *overrides)
    assert any(words in problem for problem in caught.value.problems), caught.value.problems
    assert not (tmp_path / "run").exists()


def test_a_scripted_expert_cannot_learn(tmp_path: Path) -> None:
    doubles = {"a": Double(), "b": Double()}
    with pytest.raises(ConfigError, match="cannot be trained"):
        run_online(config_of(f"run.dir={tmp_path / 'run'}"), [], Collect(), backends=doubles, embedder=BagOfWords())


# -- what was said in a run, token by token -------------------------------------------------------------------------------


@pytest.mark.slow
def test_tokens_of_a_run_have_the_prompt_and_the_weights_of_then(whole: tuple[Path, Collect], tmp_path: Path) -> None:
    """The prompt's tokens are those of the pair that was trained, the reply's those that were drawn; peft alone puts the adapter on."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from expertchat.backends.folders import EMBEDDED

    folder, out = whole[0], tmp_path / "tokens.json"
    pair = next(pair for pair in records(folder, "pairs") if pair["policy_version"] == 0)
    name, reply, prompt = pair["provenance"]["chosen"], pair["ids"]["chosen"], pair["ids"]["prompt"]
    for version in (0, 2):
        assert cli.main(["tokens", str(folder), "--turn", name, f"version={version}", f"out={out}"]) == 0
        found = json.loads(out.read_text("utf-8"))
        assert [row["id"] for row in found["tokens"]] == reply and found["prompt"]["tokens"] == len(prompt)
        assert any("policy version 0 spoke" in note for note in found["notes"]) == bool(version)
        model = AutoModelForCausalLM.from_pretrained(EMBEDDED / "llama")
        model = PeftModel.from_pretrained(model, str(folder / "rounds" / "000002" / "adapter")) if version else model
        with torch.inference_mode():
            probs_T_V = model(torch.tensor([[*prompt, *reply]])).logits[0].double().softmax(-1)
        wanted = [float(probs_T_V[len(prompt) + i - 1, token]) for i, token in enumerate(reply)]
        assert [row["probability"] for row in found["tokens"]] == pytest.approx(wanted, abs=1e-5)


def test_a_turn_is_named_as_the_records_name_it(whole: tuple[Path, Collect]) -> None:
    run = RunReader(whole[0])
    transcript = next(iter(run.transcripts()))
    first, same = (find_said(run, f"{transcript.id}/{place}") for place in ("1", "t01"))
    assert first == same and first.text == transcript.turns[1].text and (first.ids is not None) == (first.candidate is not None)
    with pytest.raises(ConfigError, match=f"has {len(transcript.turns)} turns, 0 to"):
        find_said(run, f"{transcript.id}/99")
    with pytest.raises(ConfigError, match=r"no such dialogue or candidate; did you mean r0001/c0000"):
        find_said(run, "r001/c0000/1")
    with pytest.raises(ConfigError, match=r"policy version 7 of expert a were not kept .*the base \(0\) and .*2: look"):
        weights_of(run, "a", 7)


def test_what_stood_before_round_1_is_never_the_best() -> None:
    """A resumed run asks for its first evaluation again, when its learner has long been another."""
    run: Any = object.__new__(Online)
    run.config = SimpleNamespace(evaluation=SimpleNamespace(final=4, histories=4))
    run.learners = SimpleNamespace(all=[SimpleNamespace(seat="a", version=3)], free=lambda: None)
    rates = {0: 0.9, 1: 0.6, 2: 0.4}
    figures = {n: SimpleNamespace(figures={"win_rate": rate, "n": 4}) for n, rate in rates.items()}
    run.store = SimpleNamespace(metrics={f"evaluation-a-{n:04d}": one for n, one in figures.items()})
    run.best = {}
    for number in rates:
        assert run.evaluate(number)
    assert run.best == {"a": [1, 0.6]}
