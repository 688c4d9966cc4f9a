"""Supervised fine-tuning: the loss by hand, the mask, a whole run with resume, what it leaves, and what is refused."""

from __future__ import annotations

import contextlib
import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from expertchat.backends.folders import find_folder
from expertchat.backends.learnt import find_learnt
from expertchat.backends.likelihood import likelihoods
from expertchat.backends.local import LocalBackend
from expertchat.backends.trained import as_trained
from expertchat.cli import main
from expertchat.command.compose import load
from expertchat.config import ConfigError
from expertchat.records import Demonstration, Reward, Transcript, Turn
from expertchat.records.learning import Preference
from expertchat.sources.demonstrations import read_demonstrations
from expertchat.sources.teaching import BestConfig, DataConfig
from expertchat.training import preferred
from expertchat.training.encoded import Encoder, checked
from expertchat.training.learner import one_learner
from expertchat.training.merge_config import MergeConfig
from expertchat.training.method import Rows, Updated
from expertchat.training.rows import Row
from expertchat.training.sft import Sft, by_tokens
from expertchat.training.sft_config import SftConfig
from expertchat.training.sft_run import SftRun
from expertchat.training.sft_shown import pieces
from expertchat.training.sharding import split
from expertchat.training.source import find_source
from tests.alike import records, same
from tests.test_sharding import rank
from tests.workers.forked import run

torch.set_num_threads(1)
LINES = "Accio sun#[1]\nAccio ice#[2, 3]\nAccio rain and snow#[4]\nAccio star#[5, 6, 7]\n# _EVAL_\nAccio moon#[8]\n"
FAST = ("view=none", "train.epochs=2", "train.batch=4", "train.micro_batch=4", "evaluation.samples=1", "evaluation.tokens=4")


def backend() -> LocalBackend:
    return LocalBackend.load(find_folder("embedded:llama"), "embedded:llama", 0, dtype="fp32", device="cpu")


def config(*overrides: str) -> SftConfig:
    found: SftConfig = load("sft", ["data.path=[x]", *overrides])
    return found


def sft(folder: Path, *overrides: str, text: str = LINES) -> int:
    """The exit code of a run on lines."""
    (folder / "rows.txt").write_text(text, "utf-8")
    return main(["sft", str(folder / "rows.txt"), f"run.dir={folder / 'run'}", *FAST, *overrides])


def adapter(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(next((folder / "adapter").glob("*.safetensors")))


# -- the update -----------------------------------------------------------------------------------------------------------


def shown() -> list[Row]:
    """Rows whose completions have 2, 6, 3 and 9 tokens."""
    return [{"prompt_ids": [0, 4, 9 + i], "completion_ids": list(range(20 + i, 22 + i + more))} for i, more in enumerate((0, 4, 1, 7))]


def update(one: LocalBackend, folder: Path, *overrides: str) -> tuple[Updated, dict[str, torch.Tensor]]:
    train = config("train.schedule=constant", "train.warmup_rounds=0", "train.epochs=1", *overrides).train
    learner = one_learner(config().model, one, train, 0, compared=False)
    made = Sft(learner, train, rounds=1, seed=0, folder=folder).update(Rows(shown=shown()), 1)
    return made, {name: weight.detach().clone() for name, weight in learner.parameters().items()}


def test_the_loss_is_the_mean_over_the_trained_tokens_however_they_are_batched(tmp_path: Path) -> None:
    """Of 2 + 6 + 3 + 9 = 20 tokens, each counts 1/20: a mean over batches or rows would give those of the first row more."""
    one = backend()
    found = likelihoods(one, [(tuple(row["prompt_ids"]), [tuple(row["completion_ids"])]) for row in shown()])
    by_hand = -sum(likely[0].logp for likely in found) / 20
    whole, weights = update(one, tmp_path, "train.batch=4", "train.micro_batch=4")
    parts, others = update(backend(), tmp_path, "train.batch=4", "train.micro_batch=1")
    assert whole.figures["loss"] == pytest.approx(by_hand, rel=1e-4) == parts.figures["loss"]
    assert whole.steps == parts.steps == 1 and 0 <= whole.figures["token_accuracy"] <= 1
    assert whole.figures["grad_norm"] == pytest.approx(parts.figures["grad_norm"], rel=1e-4)
    assert weights.keys() == others.keys()
    assert max(float(weight.abs().max()) for name, weight in weights.items() if "lora_B" in name) > 1e-4  # it has learnt


def test_weights_of_batches_by_hand() -> None:
    """Rows of 1, 3, 2, 4 and 5 tokens, 4 a step over two processes, one row at a time; the fifth row is given up.

    A step has 1 + 3 + 2 + 4 = 10 tokens. A process's two batches of t tokens count t x 2 x 2 / 10.
    """
    tokens = [1, 3, 2, 4, 5]
    for number in (0, 1):
        share = split(5, 4, 1, rank(number, 2))
        found = by_tokens(share, tokens, 4, 2)
        assert found.weights == pytest.approx([0.4 * tokens[i] for (i,) in share.batches])
    both = [by_tokens(split(5, 4, 1, rank(i, 2)), tokens, 4, 2).weights for i in (0, 1)]
    assert sum(map(sum, both)) / 4 == pytest.approx(1.0)


# -- the mask -------------------------------------------------------------------------------------------------------------


def encoder(most: int = 64) -> Encoder:
    one = backend()
    return Encoder(one.renderer, one.tokenizer, most)


def row(name: str, prompt: str, answer: str, **more: Any) -> Demonstration:
    messages = [{"role": "user", "content": prompt}]
    return Demonstration(id=name, prompt=messages, completion=[{"role": "assistant", "content": answer}], **more)


def test_prompts_are_read_and_completions_trained_with_their_end() -> None:
    one = encoder()
    chat = one.encode(row("a", "What is ice?", "Water."))
    assert one.tokenizer.decode(chat.prompt) == "<s><|user|> What is ice?</s><|assistant|>"
    assert one.tokenizer.decode(chat.completion) == " Water.</s>" and chat.ended  # the template's space is of the answer
    plain = one.encode(row("b", "?", "Water.", rendered="### Ask:\nIce </s>\n\n### Answer:\n"))
    assert plain.prompt.count(one.tokenizer.eos_token_id) == 0  # text never ends anything
    assert one.tokenizer.decode(plain.completion) == "Water.</s>" and plain.ended
    assert "".join(pieces(one.tokenizer, plain.prompt + plain.completion)) == one.tokenizer.decode(plain.prompt + plain.completion)


def test_rows_that_are_cut_or_too_long_or_say_nothing_are_told() -> None:
    rows = [row("short", "a", "b"), row("long", "a", "one two three four " * 12), row("prompt", "one two three four " * 30, "b")]
    found = checked(rows, encoder(40), cut=True)
    assert [(one.row.id, one.ended, one.tokens) for one in found.rows] == [("short", True, found.rows[0].tokens), ("long", False, 40)]
    assert [text.split(" rows ")[0] for text in found.warnings] == ["1 of 3", "1 of 3"] and "they teach no end" in found.warnings[1]
    assert [one.row.id for one in checked(rows, encoder(40), cut=False).rows] == ["short"]
    with pytest.raises(ConfigError, match="all 2 rows are longer than 16 tokens"):
        checked(rows[1:], encoder(16), cut=False)
    with pytest.raises(ConfigError, match="the mask has not one trained token"):
        checked([row("a", "b", "")], encoder(), cut=True)  # of which the template makes a space and the end
    none = [row("empty", "b", ""), row("space", "b", " \n"), row("plain", "b", "", rendered="b\n")]
    some = checked([row("said", "b", "c"), *none], encoder(), cut=True)
    assert [one.row.id for one in some.rows] == ["said"]
    assert some.warnings == ["3 of 4 rows (empty, space, plain) have no token of their answer after the template, and are left out"]
    endless = encoder()
    endless.end = None
    assert "may not learn to stop" in checked([row("a", "b", "c", rendered="b ")], endless, cut=True).warnings[0]


def test_pairs_of_which_a_reply_says_nothing_are_left_out() -> None:
    asked = [{"role": "user", "content": "b"}]
    rows = [Preference(id=name, prompt=asked, chosen="c", rejected=text) for name, text in (("said", "d"), ("empty", ""), ("same", "c"))]
    found = preferred.checked([*rows, Preference(id="cut", prompt=asked, chosen="c", rejected=" ", cut=["rejected"])], encoder())
    assert [one.row.id for one in found.rows] == ["said"]
    assert found.warnings == [
        "2 of 4 rows (empty, cut) have a reply of which the template leaves nothing: left out",
        "1 of 4 rows (same) have two replies of the same tokens: left out",
    ]


# -- a run ----------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_run_learns_is_broken_off_and_goes_on_as_if_it_was_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "one").mkdir(), (tmp_path / "two").mkdir()
    assert sft(tmp_path / "one") == 0
    one, two = tmp_path / "one/run", tmp_path / "two/run"
    summary = json.loads((one / "summary.json").read_text("utf-8"))
    assert summary["rounds"] == 2 and summary["rows"] == {"train": 4, "evaluation": 1} and len(summary["losses"]) == 2
    assert summary["evaluation"]["perplexity"] < summary["evaluation"]["perplexity_base"]
    assert [sample["wanted"] for sample in summary["samples"]["after"]] == ["[8]", "[8]"]
    assert len(records(one, "steps")) == 2 and (one / "adapter/README.md").read_text("utf-8").count("perplexity a token") == 1

    kept = SftRun._save
    monkeypatch.setattr(SftRun, "_save", lambda self, number: _broken(kept, self, number))
    with contextlib.suppress(_Kill):
        sft(tmp_path / "two")
    assert not (two / "summary.json").exists() and len(records(two, "metrics")) == 5  # the second round is told of and not saved
    monkeypatch.setattr(SftRun, "_save", kept)
    (tmp_path / "two/rows.txt").unlink()  # the run has its rows
    assert main(["sft", str(tmp_path / "two/rows.txt"), f"run.dir={two}", *FAST]) == 0
    for name in ("metrics", "steps", "demonstrations"):
        assert all(map(same, records(one, name), records(two, name))) and len(records(one, name)) == len(records(two, name))
    assert adapter(one).keys() == adapter(two).keys() and all(torch.equal(adapter(one)[name], adapter(two)[name]) for name in adapter(one))

    policy = as_trained(backend(), find_learnt(str(one)))  # what the run says of its weights is true of what it gives
    tokens = encoder().encode(Demonstration.model_validate(records(one, "demonstrations")[-1]))
    logp = likelihoods(policy, [(tuple(tokens.prompt), [tuple(tokens.completion)])])[0][0].logp
    assert math.exp(-logp / len(tokens.completion)) == pytest.approx(summary["evaluation"]["perplexity"], rel=1e-4)
    assert main(["sft", str(tmp_path / "two/rows.txt"), f"run.dir={two}", *FAST]) == 0  # it is done


def test_the_best_round_is_chosen_by_rows_of_its_own(tmp_path: Path) -> None:
    """Of four rows to train on one chooses (.25); the round kept is that with its lowest perplexity, whatever the held-out row says."""
    assert sft(tmp_path, "data.choose=0.25", "evaluation.samples=0") == 0
    summary = json.loads((tmp_path / "run/summary.json").read_text("utf-8"))
    assert summary["rows"] == {"train": 3, "choosing": 1, "evaluation": 1} and summary["chosen_by"] == "choosing_perplexity"
    evaluations = [one for one in records(tmp_path / "run", "metrics") if one["kind"] == "evaluation" and one["weights_of"] is None]
    told = {one["round"]: one["figures"] for one in evaluations}
    assert all(figures["choosing"] == 1 and figures["choosing_perplexity"] != figures["perplexity"] for figures in told.values())
    assert summary["best"]["model"]["round"] == min((1, 2), key=lambda number: told[number]["choosing_perplexity"])
    assert "on the rows to choose by" in (tmp_path / "run/adapter/README.md").read_text("utf-8")


class _Kill(BaseException):
    """What kill -9 is to a test in one process."""


def _broken(kept: Any, run: SftRun, number: int) -> None:
    if number == 2:
        run.store.close()
        raise _Kill
    kept(run, number)


@pytest.mark.parametrize("method", ["full", "last_layer"])
def test_weights_themselves_are_trained_and_found_again(method: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert sft(tmp_path, f"train={method}", "train.epochs=1", "view=plain", "evaluation.samples=0") == 0
    said = capsys.readouterr().out
    assert ("last_layer: those of layer" in said and "self_attn.q_proj, " in said) == (method == "last_layer")
    assert "perplexity" in said and "loss: " in said
    found = find_source(MergeConfig(adapter=str(tmp_path / "run"), out="x", dtype="auto", device="cpu"))
    assert (found.base, found.learnt.adapter) == ("embedded:llama", False)
    one = as_trained(backend(), found.learnt)
    assert any(not torch.equal(p, q) for p, q in zip(one.model.parameters(), backend().model.parameters(), strict=True))


def test_two_processes_make_the_run_of_one(tmp_path: Path) -> None:
    (tmp_path / "rows.txt").write_text(LINES, "utf-8")
    arguments = ["sft", str(tmp_path / "rows.txt"), *FAST, "train.epochs=1", "train.micro_batch=1"]
    assert main([*arguments, f"run.dir={tmp_path / 'one'}"]) == 0
    several = {"arguments": [*arguments, "train.sharding=ddp"], "run_dir": str(tmp_path / "two")}
    assert run(2, "runs.run", tmp_path / "codes", **several) == [0, 0]
    assert all(map(same, records(tmp_path / "one", "metrics"), records(tmp_path / "two", "metrics")))
    mine, theirs = adapter(tmp_path / "one"), adapter(tmp_path / "two")
    apart = torch.cat([(mine[name] - theirs[name]).abs().flatten() for name in mine])
    # Adam divides a gradient by its own size: where that is a rounding error, it makes a whole step (0.001) of it, this way or that.
    assert float((apart > 1e-5).float().mean()) < 1e-3


def test_bad_input_is_one_message_each(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "wrong.csv").write_text("a,b\n1,2\n", "utf-8")
    (tmp_path / "rows.txt").write_text(LINES, "utf-8")
    (tmp_path / "long.txt").write_text("What is there to be said of it?#A good deal, which takes some time.\n" * 2, "utf-8")
    cases = [
        ("wrong.csv", (), "there are no columns of a prompt and its completion"),
        ("lacking.txt", (), "no such file or folder"),
        ("long.txt", ("train.max_tokens=16", "data.cut=drop"), "longer than 16 tokens"),
        ("rows.txt", ("data.template=lacking",), "take chat, none"),
        ("rows.txt", ("train=full", "model.quantization=nf4"), "set model.quantization=none"),
        ("rows.txt", ("train.update=dpo",), "here take sft"),
        ("rows.txt", ("train.targets=[nothing]",), "has no linear layers named nothing"),
        ("rows.txt", ("evaluation.ways=[]",), "evaluation.ways is empty"),
    ]  # fmt: skip
    for name, overrides, why in cases:
        assert main(["sft", str(tmp_path / name), f"run.dir={tmp_path / 'run'}", *FAST, *overrides]) == 2
        said = capsys.readouterr().err
        assert why in said and "Traceback" not in said and not (tmp_path / "run").exists()


def test_a_run_in_which_nothing_was_learnt_has_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Sft, "update", lambda self, rows, round: Updated(skipped=1))
    assert sft(tmp_path, "train.epochs=1") == 1
    assert "nothing was learnt: no step was made" in capsys.readouterr().err and not (tmp_path / "run/adapter").exists()


def test_show_shows_the_mask_and_trains_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "rows.txt").write_text(LINES, "utf-8")
    assert main(["sft", f"data={tmp_path / 'rows.txt'}", "--show", "2", f"run.dir={tmp_path / 'run'}"]) == 0
    said = capsys.readouterr().out
    assert said.count("⟦") == 2 and "</s>·⟧" in said and "held out: never trained" in said
    assert not (tmp_path / "run").exists()
    assert main(["sft", f"data={tmp_path / 'rows.txt'}", "--show=0"]) == 2


# -- a run's best dialogues -----------------------------------------------------------------------------------------------


def test_the_best_of_a_run_is_taught_after_what_its_experts_saw(tmp_path: Path) -> None:
    folder = tmp_path / "talk"
    folder.mkdir()
    (folder / "config.yaml").write_text(json.dumps(load("converse").model_dump(mode="json")), "utf-8")
    ref = {"family": "world", "model": "embedded:llama"}
    turns = [Turn(speaker=seat, text=f"{seat} says {i}") for i, seat in enumerate("aba")]
    ids = ("c0001", "c0002")
    dialogues = [Transcript(id=name, topic="bees", experts={"a": ref, "b": ref}, turns=turns, seed=0, stop_reason="turns") for name in ids]
    values = {("c0001", "a"): 0.9, ("c0001", "b"): 0.1, ("c0002", "a"): -0.5, ("c0002", "b"): None}
    given = [
        Reward(id=f"{name}/{seat}", transcript=name, judge="b", subject=seat, value=value, rating=5.0)
        for (name, seat), value in values.items()
    ]
    for name, kept in (("transcripts", dialogues), ("rewards", given)):
        (folder / f"{name}.jsonl").write_text("".join(f"{one.to_json()}\n" for one in kept), "utf-8")
    said: list[str] = []
    found = read_demonstrations(DataConfig(path=[str(folder)], share=0, best=BestConfig(share=0.34)), 0, said.append)
    replies = [(one.id, one.completion[0]["content"], one.score) for one in found]
    assert replies == [("c0001/a/t00", "a says 0", 0.9), ("c0001/a/t02", "a says 2", 0.9)]
    assert found[1].prompt[-1] == {"role": "user", "content": "b says 1"} and found[0].group == "bees"
    assert "the best 1 of 3 by their reward (from 0.9 up); 1 without one are left out" in said[-1]
    whole = [one.model_copy(update={"turns": [*turns[:2], turns[2].model_copy(update={"cut": True})]}) for one in dialogues]
    (folder / "transcripts.jsonl").write_text("".join(f"{one.to_json()}\n" for one in whole), "utf-8")
    best = DataConfig(path=[str(folder)], share=0, best=BestConfig(share=0.34))
    assert [one.id for one in read_demonstrations(best, 0)] == ["c0001/a/t00"]  # the limit cut the other one: no end is to be learnt there
    least = BestConfig(share=None, least=0.0, subject="b")
    assert [one.id for one in read_demonstrations(DataConfig(path=[str(folder)], share=0, best=least), 0)] == ["c0001/b/t01"]
    with pytest.raises(ConfigError, match=r"data\.best\.least=2: no reward .* the best is 0\.9"):
        read_demonstrations(DataConfig(path=[str(folder)], best=BestConfig(share=None, least=2)), 0)
    shutil.rmtree(folder)
