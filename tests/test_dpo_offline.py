"""`expertchat dpo`: pairs and judged replies that were there before, through to the adapter; what it measures, refuses and goes on with."""

from __future__ import annotations

import doctest
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from expertchat.building import scoring
from expertchat.cli import main
from expertchat.command.compose import load
from expertchat.config import ConfigError
from expertchat.doors import build_pairs as doors_build_pairs
from expertchat.doors import dpo as doors_dpo
from expertchat.doors.dpo import in_full
from expertchat.folder.reader import RunReader
from expertchat.records import Metrics
from expertchat.records.learning import Preference
from expertchat.training import kto, preferred
from expertchat.training.against_base import held_out_topics
from expertchat.training.config import GuardsConfig
from expertchat.training.dpo_config import DpoConfig
from expertchat.training.dpo_run import DpoRun, check_kinds
from expertchat.training.offline import run_offline
from expertchat.training.preferred import Stand, figures_of
from expertchat.training.ranks import Ranks
from expertchat.world.facts import load as world_of
from tests.alike import records, same
from tests.scripted import Collect
from tests.workers.forked import run as forked

torch.set_num_threads(1)
TOPICS = ("tides", "coffee", "chess", "whales", "DNA", "sleep")
SMALL = (
    "evaluation.histories=2", "evaluation.final=2", "evaluation.turns=1", "evaluation.topics=2", "train.epochs=2", "train.batch=4",
    "train.micro_batch=2", "data.share=0.3", "train.learning_rate=2e-3",
)  # fmt: skip
Captured = pytest.CaptureFixture[str]


def row(n: int, **more: Any) -> dict[str, Any]:
    topic = TOPICS[n % len(TOPICS)]
    prompt = [{"role": "system", "content": f"You are a human expert on {topic}."}, {"role": "user", "content": f"What of {topic}, {n}?"}]
    sides = {"chosen": f"I would add that {topic} are known.", "rejected": "Good question."}
    return {"topic": topic, "prompt": prompt, **{side: [{"role": "assistant", "content": text}] for side, text in sides.items()}, **more}


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row(n)) + "\n" for n in range(12)))
    return path


def config_of(*words: str) -> DpoConfig:
    config = load("dpo", in_full([*words, "view=none"]))
    assert isinstance(config, DpoConfig)
    return config


def train(folder: Path, *words: str, sink: Collect | None = None) -> int:
    return run_offline(DpoRun, config_of(*words, f"run.dir={folder}"), ["expertchat", "dpo"], sink or Collect())


def metrics(folder: Path, kind: str) -> list[Metrics]:
    return [one for one in RunReader(folder).metrics() if one.kind == kind]


def steps(folder: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (folder / "steps.jsonl").read_text().splitlines()]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "adapter" / "adapter_model.safetensors")


def test_pairs_train_a_model_that_is_held_against_its_base(tmp_path: Path, pairs: Path) -> None:
    sink = Collect()
    assert train(tmp_path / "run", str(pairs), *SMALL, sink=sink) == 0
    # 6 topics are 6 groups, of which round(.3 * 6) = 2 are held out: 4 pairs; 8 pairs in 2 steps of 4, twice.
    summary = RunReader(tmp_path / "run").summary
    assert summary["rows"] == {"train": 8, "evaluation": 4} and summary["steps"] == 4 == len(steps(tmp_path / "run"))
    assert steps(tmp_path / "run")[0] == pytest.approx(0.6931, abs=1e-4)  # -log sigmoid(0): policy and reference are the same
    before, *after = metrics(tmp_path / "run", "evaluation")
    # The policy is the base: all four are ties, which count a half; it lies 0 nats from itself.
    assert before.figures["accuracy"] == 0.5 and before.figures["heldout_margin"] == 0
    assert before.figures["kl"] == pytest.approx(0, abs=1e-5)
    assert after[-1].figures["accuracy"] == 1.0 and after[-1].figures["heldout_margin"] > 0  # type: ignore[operator]
    assert before.figures["judge"] == "truth" and before.figures["n"] == 2 and after[-1].weights_of is not None
    stood = [json.loads(line) for line in (tmp_path / "run" / "evaluations" / "rows-0002.jsonl").read_text().splitlines()]
    assert len(stood) == 4 and all(one["chosen"] > one["rejected"] and one["policy_version"] == 2 for one in stood)  # accuracy is 1
    card = (tmp_path / "run" / "adapter" / "README.md").read_text()
    assert "trained by dpo (loss sigmoid, beta 0.1)" in card and "8 to train on, 4 held out" in card
    kept = (tmp_path / "run" / "preferences.jsonl").read_text()
    pairs.unlink()  # a run that goes on has its rows
    assert train(tmp_path / "run", str(pairs), *SMALL) == 0 and (tmp_path / "run" / "preferences.jsonl").read_text() == kept


@pytest.mark.slow  # tests.proofs.kill_pairs; the loop is that of test_sft
@pytest.mark.parametrize("where", ["evaluate", *(pytest.param(one, marks=pytest.mark.slow) for one in ("update", "_save"))])
def test_a_run_that_was_broken_off_ends_as_an_unbroken_one(
    tmp_path: Path, pairs: Path, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = (str(pairs), *SMALL, "evaluation.judge=none")
    assert train(tmp_path / "whole", *words) == 0
    with monkeypatch.context() as patch:
        own = getattr(DpoRun, where)

        def dies(self: DpoRun, number: int, *more: Any) -> Any:
            if number == 2:
                raise KeyboardInterrupt
            return own(self, number, *more)

        patch.setattr(DpoRun, where, dies)
        assert train(tmp_path / "run", *words) == 3
    assert train(tmp_path / "run", *words) == 0
    one, two = weights(tmp_path / "whole"), weights(tmp_path / "run")
    assert one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)
    assert steps(tmp_path / "whole") == steps(tmp_path / "run")


@pytest.mark.parametrize(("words", "first"), [
    (["train.loss=[ipo]"], 25.0),  # (0 - 1 / (2 beta))^2 with beta .1
    (["train=kto"], 0.5),  # 1 - sigmoid(0), for good and bad ones alike
    pytest.param(["train.loss=[hinge]"], 1.0, marks=pytest.mark.slow),  # max(0, 1 - 0)
    pytest.param(["train=kto", "train.unpaired=apo_zero_unpaired"], 0.5, marks=pytest.mark.slow),
    pytest.param(["train=full", "model.dtype=fp32"], 0.6931, marks=pytest.mark.slow),
])  # fmt: skip
def test_other_losses_begin_where_their_formulas_do(tmp_path: Path, pairs: Path, words: list[str], first: float) -> None:
    assert train(tmp_path / "run", str(pairs), *SMALL, "evaluation.judge=none", "train.epochs=1", *words) == 0
    found = steps(tmp_path / "run")
    assert found[0] == pytest.approx(first, abs=1e-3)
    # kto trains both replies of 8 pairs: 16 rows in 4 steps
    assert len(found) == (4 if words[0] == "train=kto" else 2)


@pytest.mark.slow
def test_single_replies_with_labels_train_by_kto(tmp_path: Path) -> None:
    path = tmp_path / "labels.jsonl"
    for n in range(12):
        one, good = row(n), bool(n % 2)
        single = {"prompt": one["prompt"], "completion": one["chosen" if good else "rejected"], "label": good}
        path.open("a").write(json.dumps(single) + "\n")
    assert train(tmp_path / "run", str(path), *SMALL, "evaluation.judge=none", "train=kto", "train.epochs=3") == 0
    first, *_, last = (one.figures for one in metrics(tmp_path / "run", "round"))
    assert last["reward_chosen"] > last["reward_rejected"] and first["kl_estimate"] >= 0  # type: ignore[operator]
    assert metrics(tmp_path / "run", "evaluation")[-1].figures["likelier"] is None  # there are no pairs


@pytest.mark.slow
@pytest.mark.parametrize("method", ["dpo_lora", "kto"])
def test_two_processes_make_the_run_of_one(tmp_path: Path, pairs: Path, method: str) -> None:
    own = ["train.unpaired=apo_zero_unpaired"] if method == "kto" else []  # kto's own loss is that of its micro-batches
    arguments = ["dpo", str(pairs), *SMALL, f"train={method}", *own, "view=none"]
    assert main([*arguments, f"run.dir={tmp_path / 'one'}"]) == 0
    several = {"arguments": [*arguments, "train.sharding=ddp"], "run_dir": str(tmp_path / "two")}
    assert forked(2, "runs.run", tmp_path / "codes", **several) == [0, 0]
    mine, theirs = (records(tmp_path / name, "metrics") for name in ("one", "two"))
    for record in [*mine, *theirs]:  # kto's rewards are means of the steps' own, which are those of a process
        for name in ("reward_chosen", "reward_rejected", "kl_estimate") if method == "kto" else ():
            record["figures"].pop(name, None)
    assert all(map(same, mine, theirs)), next((a, b) for a, b in zip(mine, theirs, strict=True) if not same(a, b))
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    apart = torch.cat([(one[name] - two[name]).abs().flatten() for name in one])
    # Adam divides a gradient by its own size: where that is a rounding error, it makes a whole step of it, this way or that.
    assert float((apart > 1e-5).float().mean()) < 1e-3


@pytest.mark.slow
def test_a_guard_ends_the_run(tmp_path: Path, pairs: Path) -> None:
    words = ("guards.action=stop", "guards.max_kl=1e-6", "train.epochs=3", "train.learning_rate=1e-2")
    assert train(tmp_path / "run", str(pairs), *SMALL, *words) == 0
    summary = RunReader(tmp_path / "run").summary
    assert summary["rounds"] < 3 and "KL to the base" in str(summary["stopped_by"])


def test_a_guard_holds_after_a_start_that_found_the_evaluation_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was measured before a kill is not measured again, and held against the guards all the same."""
    told = {"evaluation-model-0001": Metrics(id="evaluation-model-0001", kind="evaluation", round=1, learner="model", policy_version=1,
                                             figures={"kl": 0.5, "length": 30.0, "tokens_base": 10.0})}  # fmt: skip
    run: Any = DpoRun.__new__(DpoRun)
    run.config = SimpleNamespace(guards=GuardsConfig(max_kl=0.1, max_length_ratio=2.0, action="stop"))
    run.store, run.lowered, run.ended, warned = SimpleNamespace(metrics=told), {"max_kl": 0.4}, None, list[str]()
    run.warn = warned.append
    run.after(2, {"loss": 0.5})  # not evaluated: nothing is known, and nothing is forgotten
    assert (run.ended, run.lowered, warned) == (None, {"max_kl": 0.4}, [])
    run.after(1, {"loss": 0.5})
    assert "KL to the base is 0.5" in run.ended and "reply length over the base's is 3" in run.ended and len(warned) == 1


def test_rounds_are_held_against_the_base_by_what_both_were_measured_on() -> None:
    """The end is measured on other topics than those that choose: 50.9 % there says nothing of 52.1 % of the base here."""
    told = Metrics(id="evaluation-model-0000", kind="evaluation", round=0, learner="model", policy_version=0, figures={"win_rate": 0.521})
    run: Any = DpoRun.__new__(DpoRun)
    run.store = SimpleNamespace(metrics={told.id: told})
    run.best = [3, 0.552]
    assert run.no_better(0.509) is None
    run.best = [3, 0.5]
    assert run.no_better(0.6) == "no round is better than the model was before (win_rate 0.521, at best 0.5)"
    run.best = []  # nothing was measured on the way
    assert "now 0.509" in run.no_better(0.509) and run.no_better(0.6) is None and run.no_better(None) is None


def test_a_round_is_chosen_by_enough_answers_about_weights_that_have_learnt() -> None:
    def metrics(number: int, version: int, n: int, rate: float) -> Metrics:
        figures = {"win_rate": rate, "n": n}
        return Metrics(id=f"evaluation-model-{number:04d}", kind="evaluation", round=number, learner="model", policy_version=version,
                       figures=figures)  # fmt: skip

    told = [metrics(1, 0, 8, 0.9), metrics(2, 1, 1, 1.0), metrics(3, 2, 4, 0.6), metrics(4, 3, 8, 0.55)]
    run: Any = DpoRun.__new__(DpoRun)
    run.config = SimpleNamespace(evaluation=SimpleNamespace(histories=8))
    run.store, run.ranks = SimpleNamespace(metrics={one.id: one for one in told}), Ranks.alone()
    run.best, warned = [], list[str]()
    run.warn = warned.append
    for one in told:  # in round 1 no step was made; of round 2 one answer of eight is known
        run.learner = SimpleNamespace(version=one.policy_version)
        assert run.evaluate(one.round)
    assert run.best == [3, 0.6] and warned == ["1 of 8 comparisons after round 2 had an outcome, too few to choose that round by"]


def test_what_is_measured_on_held_out_rows() -> None:
    found = figures_of([Stand(2.0, 1.0, True), Stand(0.0, 1.0, True), Stand(1.0, None, None), Stand(None, 1.0, None)], 0.1)
    # right: 2 > 1, and a good reply above 0; wrong: 0 < 1, and a bad reply above 0. The pairs' differences are 1 and -1.
    assert found["accuracy"] == 0.5 and found["heldout_margin"] == 0 and found["likelier"] == 1.0 and found["rows"] == 4
    assert figures_of([], 0.1)["accuracy"] is None and figures_of([Stand(float("nan"), 1.0, None)], 0.1)["accuracy"] is None


def test_the_examples_in_docstrings_are_true() -> None:
    for module in (preferred, kto, doors_dpo, doors_build_pairs, scoring):
        found = doctest.testmod(module)
        assert found.attempted and not found.failed


def test_the_evaluation_has_topics_that_no_row_is_on() -> None:
    words = ("topics=list", "topics.list=[tides,chess,coffee,jazz]", "topics.shuffle=false", "evaluation.topics=2")
    against = config_of("x", *words).against_base
    assert against is not None
    parts, said = held_out_topics(against, {"JAZZ"})
    assert [topic.text for topic in parts.held_out] == ["chess", "coffee"] and said is None
    parts, said = held_out_topics(against, {"tides", "jazz", "chess"})
    assert [topic.text for topic in parts.held_out] == ["coffee"] and "1 topics have no row" in str(said)
    parts, said = held_out_topics(against, {"tides", "jazz", "chess", "coffee"})
    assert [topic.text for topic in parts.held_out] == ["coffee", "jazz"] and "the model was trained on" in str(said)
    world = config_of("x", "evaluation.topics=100").against_base
    assert world is not None
    parts, said = held_out_topics(world, set(world_of().part("train")))
    assert ({topic.text for topic in parts.held_out}, said) == (set(world_of().part("held_out")), None)  # its own parts, at most so many
    assert {topic.text for topic in parts.choose} == set(world_of().part("choose"))


def test_methods_take_rows_of_their_own_kind() -> None:
    good, bad = (Preference(id=name, prompt=[], **{name: "So."}) for name in ("chosen", "rejected"))
    with pytest.raises(ConfigError, match=r"train.update=dpo: takes pairs, but 2 of 2 rows are single replies .*; take train=kto"):
        check_kinds([good, bad], "dpo")
    check_kinds([good, bad], "kto")
    with pytest.raises(ConfigError, match=r"all labels to train on say that the reply is good"):
        check_kinds([good, good], "kto")


# -- bad input ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("words", "said"), [
    (["train.max_tokens=16"], "data: all 8 rows to train on are longer than 16 tokens"),
    pytest.param(["train.learning_rate=1e30", "train.max_grad_norm=1e30"], "steps in a row whose loss or gradient is not finite",
                 marks=pytest.mark.slow),
])  # fmt: skip
def test_rows_and_numbers_that_cannot_be_trained_are_told(tmp_path: Path, pairs: Path, words: list[str], said: str) -> None:
    with pytest.raises(ConfigError) as error:
        train(tmp_path / "run", str(pairs), *SMALL, "evaluation.judge=none", "train.epochs=8", *words)
    assert said in str(error.value)


@pytest.mark.parametrize(("words", "said"), [
    (["train.update=rpo"], "train.update=rpo is no training method: take dpo or kto"),
    (["train=kto", "train.micro_batch=1"], "train.micro_batch=1: kto holds each reply against another one beside it"),
    (["evaluation.judge=pairwise"], "evaluation.by=third needs a third model"),
    (["evaluation.judge=reward"], "evaluation.judge=reward: needs a program's measure"),
    (["topics=list", "topics.list=[bagpipes]"], "nothing is known of 'bagpipes'"),
])  # fmt: skip
def test_what_does_not_go_together_is_told(words: list[str], said: str, pairs: Path, tmp_path: Path, capsys: Captured) -> None:
    assert main(["dpo", str(pairs), *words, f"run.dir={tmp_path / 'run'}"]) == 2
    heard = capsys.readouterr().err
    assert said in heard and "Traceback" not in heard and not (tmp_path / "run").exists()
