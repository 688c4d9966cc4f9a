"""Placement: whole layers in order, more memory is never worse, remedies that work; and planned against measured, with tensors."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from expertchat import cli
from expertchat.command.compose import load
from expertchat.config import ConfigError
from expertchat.plan.job import Embedder, Gpu, Job, Model, Training, parse_gpus, units
from expertchat.plan.memory import (
    GIB,
    HEAD,
    PREFILL_SEEN,
    PREFILL_TOKENS,
    Lora,
    Shape,
    Step,
    adapter,
    shape_of,
    train_ends,
    train_logits,
    train_pass,
    weights,
)
from expertchat.plan.placement import Load
from expertchat.plan.planner import Plan, check, does_fit, embedder_device, make_plan, placed, plan_of
from expertchat.plan.shapes import PUBLISHED
from expertchat.plan.values import as_dict
from expertchat.views.plan import bar, print_plan

LLAMA = Model("a", "llama", shape_of(PUBLISHED["meta-llama/Meta-Llama-3-8B-Instruct"]), "fp16", "nf4", key="experts.a")
MIXTRAL = Model("b", "mixtral", shape_of(PUBLISHED["mistralai/Mixtral-8x7B-Instruct-v0.1"]), "fp16", "nf4", key="experts.b")
MPNET = Embedder("mpnet", int(0.41 * GIB), GIB)
FOUR, ONE24, ONE80, TWO48 = (parse_gpus(text) for text in ("4x16", "1x24", "1x80", "2x48"))
JOB = Job((LLAMA, MIXTRAL), MPNET, 8, 2048)


def layers(plan: Plan, owner: str) -> list[int]:
    """The layer numbers of a model, GPU by GPU."""
    found = [u.module for load in plan.loads for u in load.units if u.owner == owner]
    return [int(module.rpartition(".")[2]) for module in found if module.startswith("model.layers.")]


def gpus_of(plan: Plan, owner: str) -> list[int]:
    return [i for i, load in enumerate(plan.loads) if any(u.owner == owner for u in load.units)]


# -- where things go ----------------------------------------------------------------------------------------------------


def test_four_small_gpus_hold_llama_on_one_and_mixtral_on_three() -> None:
    plan = make_plan(JOB, FOUR)
    assert plan.fits
    assert (gpus_of(plan, "a"), gpus_of(plan, "b")) == ([0], [1, 2, 3])
    assert layers(plan, "b") == list(range(32))
    assert plan.device_map("a") == {"": 0}
    found = plan.device_map("b")
    assert (found["model.embed_tokens"], found["model.rotary_emb"], found["lm_head"]) == (1, 1, 3)
    assert set(found) == {"model.embed_tokens", "model.rotary_emb", "model.norm", "lm_head", *(f"model.layers.{i}" for i in range(32))}
    # 22.8 GiB on three GPUs, whole layers of 0.7 each
    assert [round(plan.segments(i)["weights b"] / GIB) for i in (1, 2, 3)] == pytest.approx([7.6] * 3, abs=1)


@pytest.mark.parametrize(("gpus", "bits", "fits"), [
    (FOUR, "nf4", True), (FOUR, "none", True), (ONE24, "nf4", False), (ONE24, "none", False),
    (ONE80, "nf4", True), (ONE80, "none", True), (TWO48, "nf4", True), (TWO48, "none", True),
])  # fmt: skip
def test_the_table_of_machines(gpus: list[Gpu], bits: Any, fits: bool) -> None:
    job = replace(JOB, models=(replace(LLAMA, quantization=bits), MIXTRAL))
    plan = make_plan(job, gpus)
    assert plan.fits == fits == does_fit(job, gpus)
    total = sum(plan.segments(i)[f"weights {owner}"] for i in range(len(gpus)) for owner in "ab")
    assert total / GIB == pytest.approx(22.8 + (5.3 if bits == "nf4" else 15.0), rel=0.02)


@pytest.mark.parametrize("training", [
    Training("a", Lora(16), 1, 1024, True, 256), Training("b", Lora(16, "attention"), 1, 1024, True, 256),
])  # fmt: skip
def test_both_training_settings_fit_on_four_small_gpus(training: Training) -> None:
    plan = make_plan(replace(JOB, training=training), FOUR)
    assert plan.fits
    held = sum(plan.segments(i)["LoRA + optimizer"] for i in range(4)) / GIB
    assert held == pytest.approx({"a": 0.62, "b": 0.2}[training.owner], rel=0.02)


def test_a_device_that_was_named_is_kept() -> None:
    plan = make_plan(replace(JOB, models=(replace(LLAMA, gpu=3), MIXTRAL)), FOUR)
    assert gpus_of(plan, "a") == [3] and plan.fits
    away = make_plan(replace(JOB, models=(replace(LLAMA, on_gpu=False), MIXTRAL)), FOUR)
    assert gpus_of(away, "a") == [] and away.device_map("a") == {}
    with pytest.raises(ConfigError, match="cuda:4, but there are 4 GPUs"):
        make_plan(replace(JOB, models=(replace(LLAMA, gpu=4),)), FOUR)


def test_a_tied_head_stands_with_its_embedding() -> None:
    tied = Model("a", "qwen", shape_of(PUBLISHED["Qwen/Qwen3-4B-Instruct-2507"]))
    plan = make_plan(Job((tied,), None, 8, 2048), parse_gpus("3x5"))
    found = plan.device_map("a")
    assert len(set(found.values())) > 1
    assert found["lm_head"] == found["model.embed_tokens"] == 0


gib = st.integers(2, 40)
jobs = st.builds(
    lambda models, embedder, conversations, tokens, training: Job(models, embedder, conversations, tokens, training),
    st.sampled_from([(LLAMA,), (LLAMA, MIXTRAL), (replace(LLAMA, quantization="none"), MIXTRAL)]),
    st.sampled_from([None, MPNET]),
    st.integers(1, 64),
    st.sampled_from([256, 2048, 4096]),
    st.sampled_from([None, Training("a", Lora(16), 2, 1024, True, 256), Training("a", Lora(16), 8, 2048, False, 0)]),
)


@given(jobs, st.lists(gib, min_size=1, max_size=4))
@settings(max_examples=40, deadline=None)
def test_every_part_is_placed_once_and_in_order_and_the_parts_are_the_whole(job: Job, sizes: list[int]) -> None:
    plan = make_plan(job, [Gpu(size * GIB) for size in sizes])
    for model in job.models:
        placed_layers = layers(plan, model.owner)
        assert placed_layers == list(range(model.shape.layers))
        total = sum(plan.segments(i)[f"weights {model.owner}"] for i in range(len(sizes)))
        assert total == weights(model.shape, model.dtype, model.quantization).total
    for i, gpu in enumerate(plan.gpus):
        assert sum(plan.segments(i).values()) == gpu.size
    assert plan.fits == does_fit(job, plan.gpus)


@given(jobs, st.lists(gib, min_size=1, max_size=4), st.integers(0, 3), st.integers(1, 20))
@settings(max_examples=15, deadline=None)
def test_more_memory_never_lowers_the_largest_batch(job: Job, sizes: list[int], which: int, more: int) -> None:
    def largest(now: list[int]) -> int:
        return make_plan(job, [Gpu(size * GIB) for size in now]).largest

    grown = list(sizes)
    grown[which % len(sizes)] += more
    assert largest(sizes) <= largest(grown)
    assert largest(sizes) <= largest([*sizes, more])


@given(jobs)
@settings(max_examples=20, deadline=None)
def test_the_largest_batch_fits_and_one_more_does_not(job: Job) -> None:
    largest = make_plan(job, FOUR).largest
    assert not does_fit(replace(job, conversations=max(5, largest + 1)), FOUR) or largest == 65_536
    assert largest == 0 or does_fit(replace(job, conversations=largest), FOUR)


# -- what to lower ------------------------------------------------------------------------------------------------------


def test_beams_are_rows_of_the_plan() -> None:
    """Four are there for one conversation anyhow; of eight beams each has its keys and values, and their prompts pass at once."""
    one, four, eight = (units(replace(LLAMA, beams=beams), Job((LLAMA,), None, 1, 3072)) for beams in (1, 4, 8))
    assert [sum(unit.cache for unit in found) for found in (four, eight)] == [sum(unit.cache for unit in one) * n for n in (1, 2)]
    assert one[1].talk_moment < four[1].talk_moment < eight[1].talk_moment


def test_the_message_says_what_to_lower_and_the_numbers_hold() -> None:
    job = replace(JOB, models=(replace(LLAMA, quantization="none"), MIXTRAL), conversations=64)
    [problem] = make_plan(job, FOUR).problems()
    largest = make_plan(job, FOUR).largest
    assert f"lower conversations from 64 to {largest}" in problem and 0 < largest < 64
    assert "GiB, has 15.18 (16.00 less a reserve of 0.82)" in problem  # 0.5 for CUDA and 2 % of 16 in pieces
    tokens = int(problem.split("lower tokens from 2048 to ")[1].split(";")[0])
    assert does_fit(replace(job, tokens=tokens), FOUR) and not does_fit(replace(job, tokens=tokens + 64), FOUR)


def test_quantisation_is_named_where_it_is_enough() -> None:
    job = Job((replace(LLAMA, quantization="none"),), None, 4, 1024)
    [problem] = make_plan(job, parse_gpus("1x12")).problems()
    assert "set experts.a.quantization=nf4" in problem
    quantised = replace(job, models=(LLAMA,))
    assert does_fit(quantised, parse_gpus("1x12"))


def test_settings_of_the_training_are_named() -> None:
    training = Training("a", Lora(16), 2, 2048, False, 256)
    [problem] = make_plan(Job((LLAMA,), None, 4, 1024, training), parse_gpus("1x60")).problems()
    for words in ("set train.checkpointing=true", "lower train.pairs from 2 to 1", "lower train.tokens from 2048 to "):
        assert words in problem
    assert "conversations" not in problem  # fewer of them do not help the training


def test_several_changes_together_are_the_last_resort() -> None:
    job = Job((replace(LLAMA, quantization="none"),), None, 64, 4096)
    [problem] = make_plan(job, parse_gpus("1x12")).problems()
    most = int(problem.split("set experts.a.quantization=nf4 and conversations from 64 to ")[1])
    assert does_fit(replace(job, models=(LLAMA,), conversations=most), parse_gpus("1x12"))
    [hopeless] = make_plan(JOB, parse_gpus("1x8")).problems()
    assert "none of the settings is enough" in hopeless


@pytest.mark.parametrize(("text", "sizes"), [("4x16", [16] * 4), ("1x24", [24]), ("1x16+2x48", [16, 48, 48]), ("2x15.5", [15.5] * 2)])
def test_gpus_are_named_by_count_and_size(text: str, sizes: list[float]) -> None:
    assert [gpu.size / GIB for gpu in parse_gpus(text)] == sizes


@pytest.mark.parametrize("text", ["", "16", "0x16", "4x", "x16", "4x0", "4*16", "4x16+"])
def test_gpus_that_cannot_be_read(text: str) -> None:
    with pytest.raises(ConfigError, match="COUNTxGIB"):
        parse_gpus(text)


# -- from configs -------------------------------------------------------------------------------------------------------


def test_the_check_before_a_run() -> None:
    config = load("converse", ["+experiment=llama3_vs_mixtral", "experts.a.quantization=auto"])
    plan = check(config, FOUR)
    assert plan is not None and plan.fits
    model, found = placed(config.experts["a"], "a", plan)
    assert found is not None and set(found.values()) == {0, 1} and model.quantization == "none"  # 15 GiB and two GPUs for Mixtral
    small = check(config, parse_gpus("1x12+1x32"))
    model, found = placed(config.experts["a"], "a", small)
    assert found == {"": 0} and model.quantization == "nf4"  # too small for 15 GiB
    assert embedder_device(plan, "auto") == f"cuda:{gpus_of(plan, 'embedder')[0]}"
    assert embedder_device(plan, "cpu") == "cpu"
    with pytest.raises(ConfigError, match="does not fit: GPU 0 needs"):
        check(config, ONE24)
    with pytest.raises(ConfigError, match=r"lower engine\.max_batch from 16 to"):
        check(load("converse", ["+experiment=llama3_vs_mixtral", "engine.max_batch=200", "conversation.turns=40"]), FOUR)


def test_nothing_is_checked_where_nothing_runs_on_a_gpu(tmp_path: Path) -> None:
    assert check(load("converse"), FOUR) is None  # the embedded models run on the CPU
    assert check(load("converse", ["+experiment=llama3_vs_mixtral"]), []) is None
    unknown = ["model@experts.a=auto", "experts.a.path=some/model"]
    assert check(load("converse", unknown), FOUR) is None  # the loading finds out


def test_automatic_quantisation_quantises_only_where_it_must() -> None:
    overrides = ["model@experts.b=llama3_8b", "experts.a.quantization=auto", "experts.b.quantization=auto", "conversations=4"]
    large, small = (plan_of(load("plan", overrides), gpus) for gpus in (ONE24, parse_gpus("1x12")))
    assert [m.quantization for m in large.job.models] == ["none"]  # both seats share one copy
    assert [m.quantization for m in small.job.models] == ["nf4"] and small.fits


def test_a_folders_own_config_counts(tmp_path: Path) -> None:
    shape = {**PUBLISHED["meta-llama/Meta-Llama-3-8B-Instruct"], "num_hidden_layers": 3}
    (tmp_path / "Meta-Llama-3-8B-Instruct").mkdir()
    (tmp_path / "Meta-Llama-3-8B-Instruct" / "config.json").write_text(json.dumps(shape))
    plan = plan_of(load("plan", [f"models_dir={tmp_path}"]), FOUR)
    assert [model.shape.layers for model in plan.job.models] == [3, 32]


def test_unknown_models_are_all_named() -> None:
    paths = ["model@experts.a=auto", "experts.a.path=some/model", "model@experts.b=auto", "experts.b.path=random:llama:9Q"]
    with pytest.raises(ConfigError) as caught:
        plan_of(load("plan", [*paths, "embedder.path=some/embedder"]), FOUR)
    assert len(caught.value.problems) == 3
    assert all(key in problem for key, problem in zip(("experts.a", "experts.b", "embedder"), caught.value.problems, strict=True))


# -- the command --------------------------------------------------------------------------------------------------------


def test_the_command_draws_and_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "plan.json"
    assert cli.main(["plan", "gpus=4x16", "experts.a.quantization=nf4", f"out={out}"]) == 0
    text = capsys.readouterr().out
    assert "fits: up to" in text and all(f"GPU {i} 16.00" in text for i in range(4))
    values = json.loads(out.read_text())
    assert values["fits"] and values["models"]["a"]["device_map"] == {"": 0}
    assert values["bytes"]["b"]["weights"] / GIB == pytest.approx(22.8, rel=0.02)


def test_what_does_not_fit_ends_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["plan", "gpus=1x24"]) == 2
    shown = capsys.readouterr()
    assert "does not fit" in shown.out and "Remedy:" in shown.err
    if not torch.cuda.is_available():
        assert cli.main(["plan"]) == 2
        assert "gpus=4x16" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["plan", "models"])
def test_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([command, "--help"]) == 0
    assert f"usage: expertchat {command}" in capsys.readouterr().out


def test_bars_have_their_length_whatever_does_not_fit() -> None:
    for plan in (make_plan(JOB, FOUR), make_plan(JOB, parse_gpus("1x8"))):
        for gpu in as_dict(plan)["gpus"]:
            assert len(bar(gpu, 40).plain) == 40
    screen = io.StringIO()
    print_plan(as_dict(make_plan(JOB, FOUR)), screen)
    assert max(len(line) for line in screen.getvalue().splitlines()) <= 100


# -- planned against measured -------------------------------------------------------------------------------------------

SMALL = Shape(2, 64, 4, 2, 16, 176, 4096, context=512)
MIDDLE = Shape(3, 256, 8, 4, 32, 704, 4096, context=512)
MIXTURE = Shape(2, 256, 8, 4, 32, 704, 4096, 4, 2, context=512, layout="mixtral")
TIED = Shape(2, 128, 4, 2, 32, 352, 4096, tied=True, qkv_bias=True, context=512, layout="qwen2")


@pytest.fixture
def one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("shape", [SMALL, MIDDLE, MIXTURE, TIED], ids=["small", "middle", "mixture", "tied"])
@pytest.mark.parametrize(("dtype", "bits"), [("fp32", "none"), ("bf16", "none"), ("bf16", "nf4"), ("bf16", "int8")])
def test_weights_are_planned_to_the_byte(shape: Shape, dtype: Any, bits: Any) -> None:
    from expertchat.backends.measuring import model_bytes
    from expertchat.plan.rehearsal import random_model

    model = random_model(shape, dtype, bits, {"": "cpu"})
    assert model_bytes(model) == weights(shape, dtype, bits).total


@pytest.mark.parametrize("bits", ["nf4", "int8"])
def test_a_random_model_that_stayed_in_full_precision_is_not_measured(bits: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from expertchat.plan import rehearsal

    # As bitsandbytes leaves int8 weights that are on a GPU already.
    monkeypatch.setattr("expertchat.backends.random_model._quantise", lambda *_: None)
    with pytest.raises(ConfigError, match=f"quantization={bits} left 14 weights as they were"):  # 2 layers of 7 matrices
        rehearsal.random_model(SMALL, "bf16", bits, {"": "cpu"})


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("shape", [MIDDLE, MIXTURE, TIED], ids=["middle", "mixture", "tied"])
@pytest.mark.parametrize(("dtype", "lora", "checkpointing", "chunk"), [
    ("bf16", Lora(4), True, 64), ("bf16", Lora(4, "attention"), False, 0), ("fp32", Lora(4, "attention"), True, 64),
    ("fp32", Lora(4), False, 64),
])  # fmt: skip
def test_a_training_step_is_planned_within_a_tenth(shape: Shape, dtype: Any, lora: Lora, checkpointing: bool, chunk: int) -> None:
    from expertchat.plan.rehearsal import random_model, train

    step = Step(2, 192, checkpointing, chunk)
    found = train(random_model(shape, dtype, "none", {"": "cpu"}), shape, lora, step)
    assert (found.weights, found.gradients, found.optimizer) == tuple(adapter(shape, lora))
    kept, moment = train_pass(shape, dtype, "none", lora, step)
    planned = shape.layers * kept + train_ends(shape, step.n) + max(moment, train_logits(shape, dtype, step))
    assert planned == pytest.approx(found.moment, rel=0.1)
    whole = weights(shape, dtype).total + adapter(shape, lora).total
    assert whole + planned == pytest.approx(whole + found.moment, rel=0.05)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("decoding", ["sampling", "contrastive"])
def test_a_reply_and_a_judgement_are_planned(decoding: str) -> None:
    from expertchat.plan.measure import measure

    one = "random:llama:hidden=256,layers=3,heads=8,kv_heads=4,ffn=704,context=512"
    seats = [f"decoding@experts.{seat}.decoding={decoding}" for seat in "ab"]
    paths = [f"model@experts.{seat}=auto" for seat in "ab"] + [f"experts.{seat}.path='{one}'" for seat in "ab"]
    config = load("plan", [*paths, *seats, "embedder=auto", "conversations=4", "tokens=256", "train.tokens=64", "train.rank=4"])
    rows, notes = measure(config)
    found = {row["part"]: row["planned"] / row["measured"] for row in rows}
    assert len(rows) == 9 and any("CPU" in note or "measured on" in note for note in notes)
    assert found["KV cache"] == pytest.approx(1, abs=0.05)
    assert found["reply and judgement"] == pytest.approx(1, abs=0.15)
    assert found["all, while talking"] == pytest.approx(1, abs=0.05)
    assert found["all, while training"] == pytest.approx(1, abs=0.05)


def test_the_plan_and_the_engine_agree_on_the_size_of_a_pass() -> None:
    from expertchat.backends.engine import PASS_TOKENS, SEEN
    from expertchat.backends.head import ROWS
    from expertchat.plan.measure import CPU_PASS

    assert PASS_TOKENS["cuda"] == PREFILL_TOKENS
    assert PASS_TOKENS["cpu"] == CPU_PASS
    assert SEEN["cuda"] == PREFILL_SEEN and HEAD == ROWS


def test_a_load_counts_what_it_adds() -> None:
    load_ = Load()
    for unit in (u for u in make_plan(JOB, ONE80).loads[0].units):
        expected = load_.with_(unit)
        load_.add(unit)
        assert load_.need == expected
