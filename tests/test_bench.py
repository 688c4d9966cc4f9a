"""The bench: shapes of random models, the arithmetic of ratios, and a whole tiny run. No test asserts seconds."""

from __future__ import annotations

import doctest
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from expertchat import cli
from expertchat.bench import bare, memory
from expertchat.bench.ceilings import SIDE, Ceilings, ceilings, least_of_dialogues, least_seconds, pass_operations, step_bytes
from expertchat.bench.kit import Kit
from expertchat.bench.results import Column, Part, Spread, Timing
from expertchat.bench.subject import load_subject
from expertchat.command.compose import load
from expertchat.command.launch import names_hub
from expertchat.config import ConfigError
from expertchat.plan import random_shapes as shapes
from expertchat.plan.random_shapes import KEYS, NAMED, TOKENIZER_WORDS, Shape, parse_random
from expertchat.views.bench import BenchView
from expertchat.world.recipe import MODELS
from tests import tiny

TINY = "random:llama:hidden=32,layers=2,heads=4,kv_heads=2,ffn=48"
SMALL = [f'bench.model="{TINY}"', "bench.rows=[1,2]", "bench.tokens=4", "bench.turns=3", "bench.repeats=2", "bench.threads=1",
         "bench.conversations=6", "bench.job_rows=2", "bench.job_dialogues=1", "bench.dtype=fp32", "bench.device=cpu"]  # fmt: skip

DECODING = ("candidates", "ratings", "contrastive")  # parts that generate much


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    import torch

    monkeypatch.setitem(SIDE, "cpu", 512)  # the speed of a small product will do: nothing here asserts one

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def kit() -> Kit:
    config = load("bench", SMALL)
    return Kit(config, config.bench, load_subject(config.bench))


# -- shapes -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("module", [shapes, bare, memory])
def test_the_examples_of_docstrings(module: Any) -> None:
    tried = doctest.testmod(module)
    assert tried.attempted and not tried.failed


def test_named_shapes_have_the_sizes_of_their_names() -> None:
    # 28M: 2 x 4921 x 512 (embedding, head) + 512 + 8 x (512 x 512 x 2 (q, o) + 2 x 512 x 256 (k, v) + 3 x 512 x 1408 + 2 x 512)
    assert NAMED["llama"]["28M"].parameters == 5_039_104 + 512 + 8 * (524_288 + 262_144 + 2_162_688 + 1024) == 28_640_768
    assert NAMED["llama"]["8B"].parameters == 8_030_261_248  # as published
    assert NAMED["mixtral"]["8x7B"].parameters == 46_702_792_704  # as published
    assert round(NAMED["llama"]["110M"].parameters, -6) == 110_000_000


@pytest.mark.parametrize("spec", [TINY, "random:mixtral:hidden=32,layers=2,heads=4,kv_heads=2,ffn=48,experts=3"])
def test_a_random_model_has_its_shape_and_type(spec: str) -> None:
    import torch

    from expertchat.bench.subject import random_subject

    shape = parse_random(spec)
    assert shape is not None
    subject = random_subject(spec, shape, seed=0, dtype="bf16", device="cpu")
    assert (subject.parameters, subject.dtype, subject.model.dtype) == (shape.parameters, "bf16", torch.bfloat16)
    assert subject.kv_bytes == 2 * 2 * 2 * 8 * 2  # keys and values, 2 layers, 2 heads of 8 numbers, 2 bytes


@given(st.dictionaries(st.sampled_from(KEYS), st.integers(1, 20_000)))
def test_numbers_come_back_or_are_refused(values: dict[str, int]) -> None:
    spec = "random:llama:" + ",".join(f"{key}={value}" for key, value in values.items())
    try:
        shape = parse_random(spec)
    except ValueError as error:
        assert "\n" not in str(error)
        return
    assert shape is not None and {key: getattr(shape, key) for key in values} == values
    assert shape.hidden % shape.heads == 0 == shape.heads % shape.kv_heads


@given(st.text(max_size=30))
def test_any_text_is_a_shape_a_path_or_an_error(text: str) -> None:
    assert parse_random(text) is None or text.startswith("random:")
    try:
        assert isinstance(parse_random(f"random:{text}"), Shape)
    except ValueError as error:
        assert str(error)


def test_random_text_is_the_same_tokens_when_it_is_read_again(kit: Kit) -> None:
    """So all ways do the same work: a turn of 4 tokens is 4 tokens of the next prompt too."""
    turns = [turn for transcript in kit.transcripts[:3] for turn in transcript.turns]
    assert len(turns) == 9 and len({turn.text for turn in turns}) > 4
    for turn in turns:
        assert len(kit.subject.tokenizer(turn.text, add_special_tokens=False)["input_ids"]) == 4, turn.text


# -- arithmetic ---------------------------------------------------------------------------------------------------------


def part_by_hand() -> Part:
    part = Part("ways", "By hand", columns=[Column("x slow", "slow"), Column("cost", "slow", "cost", ways=("fast",))])
    # slow: 2 units in 8 and 6 s = 4 and 3 s a unit; fast: 10 units in 10 and 5 s = 1 and 0.5 s a unit; a third slow one has no partner
    for repeat, (slow, fast) in enumerate([(8.0, 10.0), (6.0, 5.0)]):
        part.timings.append(Timing("N=10", "slow", repeat, slow, 2, 20))
        part.timings.append(Timing("N=10", "fast", repeat, fast, 10, 100, {"prefilled": 7 + repeat}))
    part.timings.append(Timing("N=10", "slow", 2, 600.0, 2, 20))
    return part


def test_ratios_are_those_of_one_repeat() -> None:
    part = part_by_hand()
    assert part.ratios("N=10", "fast", part.columns[0]) == [4.0, 6.0]  # 4 / 1 and 3 / 0.5; not medians over each other
    assert part.ratios("N=10", "fast", part.columns[1]) == [0.25, 1 / 6]
    assert part.ratios("N=10", "slow", part.columns[0]) == []
    assert part.speeds("N=10", "fast") == [10.0, 20.0]
    part.unit = "dialogues"
    assert part.speeds("N=10", "slow") == [900.0, 1200.0, 12.0]  # 3600 / 4, 3600 / 3, 3600 / 300
    assert Spread.of([4.0, 6.0, 20.0]) == Spread(6.0, 4.0, 20.0)


def test_the_table_shows_median_and_extremes() -> None:
    stream = io.StringIO()
    view = BenchView(stream)
    part = part_by_hand()
    part.counts, part.notes = {"prefilled": "prefilled"}, ["a note [sic] :bee:"]
    view.measured(part)
    lines = stream.getvalue().splitlines()
    assert [line.split() for line in lines if "N=10" in line or "fast" in line] == [
        ["N=10", "slow", "2.5", "(0.0-3.3)"],
        ["fast", "5.00", "(4.00-6.00)", "0.21", "(0.17-0.25)", "15", "(10-20)", "7.5"],
    ]
    assert "a note [sic] :bee:" in stream.getvalue() and max(map(len, lines)) <= 100


def test_random_models_have_a_row_for_every_token_of_the_embedded_tokenizer() -> None:
    for name in ("llama", "mixtral"):
        assert json.loads((MODELS / name / "config.json").read_text())["vocab_size"] == TOKENIZER_WORDS


def test_floor_of_a_step_by_hand(kit: Kit) -> None:

    # All weights but the embedding's 4921 x 32, and 3 rows x 10 tokens of 2 x 2 layers x 2 heads x 8 numbers, 4 bytes each
    weights = (kit.subject.parameters - TOKENIZER_WORDS * 32) * 4
    assert step_bytes(kit.subject, 3, 10.0) == weights + 3 * 10 * 64 * 4


def test_of_a_mixture_a_step_reads_the_experts_that_were_chosen() -> None:

    config = load("bench", [*SMALL, 'bench.model="random:mixtral:hidden=32,layers=2,heads=4,kv_heads=2,ffn=48,experts=8"'])
    subject = load_subject(config.bench)
    experts = 2 * 8 * 3 * 32 * 48  # layers, experts, matrices
    rest = subject.parameters - TOKENIZER_WORDS * 32 - experts  # all but the embedding's 4921 x 32 and the experts
    # One row chooses 2 of 8; of two rows' choices 1 - (6/8)^2 = 7/16 are read on average, 3.5 experts; many rows read them all.
    for rows, share in ((1, 2 / 8), (2, 7 / 16), (400, 1.0)):
        assert step_bytes(subject, rows, 0.0) == pytest.approx((rest + share * experts) * 4)


# -- a whole run --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_whole_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "new" / "bench.json"
    named = [name for name in load("bench").bench.parts if name not in DECODING]
    assert cli.main(["bench", *SMALL, f"bench.out={out}", f"bench.parts=[{','.join(named)}]"]) == 0
    found = json.loads(out.read_text("utf-8"))
    assert found["status"] == "done" and found["model"]["dtype"] == "fp32" and found["machine"]["threads"] == 1
    assert [path.name for path in out.parent.iterdir()] == ["bench.json"]
    parts = {part["name"]: part for part in found["parts"]}
    assert list(parts) == named
    ways = parts["ways"]["timings"]
    one = [(t["case"], t["way"], t["repeat"]) for t in ways if t["case"] == "N=2"]
    # A B C D, A B C D
    assert one == [("N=2", way, repeat) for repeat in (0, 1) for way in ("one by one", "batched", "engine", "bare forward", "limit")]
    assert {t["tokens"] for t in ways if t["case"] == "N=2"} == {2 * 3 * 4}  # conversations x turns x tokens
    assert {t["case"] for t in ways} == {"N=1", "N=2"} and not any(t["way"] == "batched" for t in ways if t["case"] == "N=1")
    assert all(t["seconds"] > 0 for part in found["parts"] for t in part["timings"])
    for part in found["parts"]:
        for ratio in part["ratios"]:
            assert ratio["low"] <= ratio["median"] <= ratio["high"] and len(ratio["values"]) in (1, 2)
    assert {r["ratio"] for r in parts["ways"]["ratios"]} == {"x one by one", "x bare forward", "of the limit"}
    prefilled = {t["way"]: t["counts"] for t in parts["prefill"]["timings"]}
    assert prefilled["nothing kept"]["reused"] == 0 < prefilled["cache kept"]["reused"]
    assert sum(prefilled["nothing kept"].values()) == sum(prefilled["cache kept"].values())
    assert "fp32 here" in parts["precision"]["notes"][0] and "no GPU here" in parts["gpu"]["notes"][0]
    assert [t["units"] for t in parts["job"]["timings"]] == [1, 2]  # one repeat less than the others
    assert len(parts["memory"]["numbers"]["resident_bytes"]) == 6
    shown = capsys.readouterr().out
    for words in ("x one by one", "prefill saved", "x original's way", "growth later", "no GPU here", str(out)):
        assert words in shown


@pytest.mark.slow  # each of its parts is run by hand where it changes
def test_what_many_replies_and_answers_cost(tmp_path: Path) -> None:
    out = tmp_path / "bench.json"
    assert cli.main(["bench", *SMALL, f"bench.out={out}", f"bench.parts=[{','.join(DECODING)}]", "bench.repeats=1"]) == 0
    parts = {part["name"]: part for part in json.loads(out.read_text("utf-8"))["parts"]}
    assert {t["case"] for t in parts["candidates"]["timings"]} == {"k=1", "k=4", "k=8"}
    assert {t["way"] for t in parts["ratings"]["timings"]} == {"one prefill", "scored", "written", "one by one"}
    assert parts["contrastive"]["ratios"]


@pytest.mark.slow
def test_the_seconds_of_a_rated_run_are_told_by_phase(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "b.json"
    assert cli.main(["bench", *SMALL, f"bench.out={out}", "bench.parts=[phases]", "judging.min_mass=0"]) == 0
    (part,) = json.loads(out.read_text("utf-8"))["parts"]
    counts = {t["way"]: t["counts"] for t in part["timings"]}
    assert list(counts) == ["talking", "judging", "a rated run"]
    for timing in part["timings"]:
        phases = [timing["counts"].get(name, 0.0) for name in ("prefill", "decode", "score", "embed", "rest")]
        assert sum(phases) == pytest.approx(timing["seconds"]) and min(phases) >= 0
    assert "score_wait" not in counts["talking"] and counts["talking"]["decoded"] == 2 * 3 * 4  # dialogues x turns x tokens
    assert counts["judging"]["rewards"] > 0 < counts["judging"]["score"]
    assert counts["a rated run"]["decoded"] > counts["judging"]["decoded"]
    assert counts["a rated run"]["score_wait"] > 0 < counts["a rated run"]["embed_wait"]
    assert "longest from asking for embeddings" in capsys.readouterr().out


class Broken(BenchView):
    """A view during which somebody presses Ctrl-C when the second way of a case begins."""

    def doing(self, text: str) -> None:
        if "engine" in text:
            raise KeyboardInterrupt


def test_ctrl_c_keeps_what_was_measured(tmp_path: Path) -> None:
    from expertchat.bench.run import STOPPED, run_bench

    stream, out = io.StringIO(), tmp_path / "b.json"
    config = load("bench", [*SMALL, f"bench.out={out}", "bench.parts=[ways]"])
    assert run_bench(config, [], Broken(stream)) == STOPPED == 3
    found = json.loads(out.read_text("utf-8"))
    assert found["status"] == "stopped"
    assert [(t["case"], t["way"]) for t in found["parts"][0]["timings"]] == [("N=1", "one by one")]
    assert "stopped after" in stream.getvalue() and "one by one" in stream.getvalue()


def test_half_precision_is_measured_against_fp32(kit: Kit) -> None:
    from expertchat.bench.subject import load_subject
    from expertchat.bench.ways import measure_precision

    settings = kit.settings.model_copy(update={"dtype": "bf16", "repeats": 1, "turns": 2})
    half = Kit(kit.config, settings, load_subject(settings))
    measure_precision(half)
    assert [t.way for t in half.parts[0].timings] == ["fp32", "bf16"]


@pytest.mark.parametrize(
    ("share", "ways"),
    [(0.05, ["generate", "generate_batch", "engine"]), pytest.param(0.0, ["generate", "engine"], marks=pytest.mark.slow)],
)
@pytest.mark.slow
def test_the_part_for_gpus_measures_wherever_the_model_is(
    kit: Kit, monkeypatch: pytest.MonkeyPatch, share: float, ways: list[str]
) -> None:
    from expertchat.bench import gpu

    monkeypatch.setattr(gpu, "MEMORY_SHARE", share)
    small = Kit(kit.config, kit.settings.model_copy(update={"rows": [2], "repeats": 1}), kit.subject)
    part = small.part("gpu", "here")
    gpu.measure_rows(small, part)
    assert [(t.way, t.tokens) for t in part.timings] == [(way, 8) for way in ways], part.notes
    assert all(t.counts["limit"] > 0 for t in part.timings)
    assert any("generate_batch left out" in note for note in part.notes) == (share == 0.0)  # no memory: the others go on


def test_the_quick_form_asks_for_less() -> None:
    from expertchat.bench.run import quick_form

    settings = load("bench").bench
    quick = quick_form(settings)
    assert (quick.rows, quick.repeats) == ([1, 16], 2)
    assert quick_form(quick) == quick
    assert quick_form(settings.model_copy(update={"rows": [64, 32]})).rows == [32]


@pytest.mark.parametrize(("override", "words"), [
    ("bench.parts=[ways,jobs]", "bench.parts.1: .*'ways', .* 'job'.* but is 'jobs'"),
    ("bench.model=random:lama:28M", "no random 'lama'; write random:llama:28M"),
    ("bench.model=random:llama:29M", "'29M' is no shape of a random llama: there are 28M, 110M, 8B"),
    ('bench.model="random:llama:hiden=64"', "did you mean hidden"),
    ('bench.model="random:llama:hidden=0"', "hidden must be a whole number above 0, but is '0'"),
    ('bench.model="random:llama:vocab=300"', "vocab=300 is less than .* set vocab=4921"),
    ("bench.rows=[]", "bench.rows: .*at least 1 item"),
    ("bench.model=/no/such/folder", "/no/such/folder"),
    ("bench.out=/proc/none/b.json", "bench.out=/proc/none/b.json: cannot be written"),
])  # fmt: skip
def test_what_is_wrong_is_one_message(override: str, words: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    import re

    code = cli.main(["bench", f"bench.out={tmp_path}/b.json", "bench.device=cpu", override])
    said = capsys.readouterr().err
    assert code == 2 and re.search(words, said), said
    assert "Traceback" not in said and said.count("\n") == 1


def test_only_a_hub_id_asks_for_the_network() -> None:
    assert not names_hub("bench", [load("bench")])
    assert not names_hub("bench", [load("bench", ["bench.model=embedded:llama"])])
    assert names_hub("bench", [load("bench", ["bench.model=mistralai/Mistral-7B-Instruct-v0.2"])])


def test_a_model_is_looked_for_in_the_folder_of_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny.build(tmp_path / "Tiny-Instruct", "llama3")
    monkeypatch.setenv("EXPERTCHAT_MODELS", str(tmp_path))
    config = load("bench", ["bench.model=somebody/Tiny-Instruct", "bench.device=cpu"])
    assert not names_hub("bench", [config]) and load_subject(config.bench).name == "somebody/Tiny-Instruct"


def test_a_model_that_is_not_there_is_named(tmp_path: Path) -> None:
    from expertchat.bench.run import run_bench

    with pytest.raises(ConfigError, match="nowhere"):
        run_bench(load("bench", [f"bench.model={tmp_path}/nowhere", f"bench.out={tmp_path}/b.json"]), [], BenchView(io.StringIO()))


# -- the limit ----------------------------------------------------------------------------------------------------------


def test_the_limit_is_what_weights_caches_and_products_need() -> None:
    shape = "random:llama:hidden=64,layers=2,heads=4,kv_heads=2,ffn=128,vocab=4921"
    subject = load_subject(load("bench", [f'bench.model="{shape}"', "bench.dtype=fp32"]).bench)
    # A layer: q and o 64 x 64, k and v 32 x 64, three of 64 x 128, two norms of 64. The head: 4921 x 64. The last norm: 64.
    layer, head = 2 * 64 * 64 + 2 * 32 * 64 + 3 * 64 * 128 + 2 * 64, 4921 * 64
    weights = 2 * layer + head + 64
    # fp32: 4 bytes. A token's cache: keys and values of 2 layers x 2 heads x 16 numbers.
    assert step_bytes(subject, rows=3, context=10) == 4 * (weights + 3 * 10 * 2 * 2 * 2 * 16)
    # Two operations a weight; the head for the last token of a row alone; scores and sums of 2 layers x 4 heads x 16 numbers.
    assert pass_operations(subject, rows=3, new=5, context=10) == 3 * (5 * (2 * (2 * layer + 64) + 4 * 2 * 4 * 16 * 10) + 2 * head)
    slow_memory, slow_products = Ceilings(1e6, 1e15), Ceilings(1e15, 1e6)
    assert least_seconds(subject, slow_memory, 3, 5, 10) == step_bytes(subject, 3, 10) / 1e6
    assert least_seconds(subject, slow_products, 3, 5, 10) == pass_operations(subject, 3, 5, 10) / 1e6
    # A turn of 4 tokens: one pass over its prompt's 8 new tokens of 8 (which see 4 in the mean), and 3 over one that sees 8 + 2.
    turn = least_seconds(subject, slow_memory, 3, 8, 4) + 3 * least_seconds(subject, slow_memory, 3, 1, 10)
    assert least_of_dialogues(subject, slow_memory, 3, [8], [8], 4) == pytest.approx(turn)


def test_the_machine_is_as_fast_as_it_ever_was() -> None:
    found = ceilings(load_subject(load("bench", ["bench.model=embedded:llama"]).bench))
    assert found.bytes_a_second > 1e8 and found.operations_a_second > 1e8


def test_busy_loops_end_with_what_they_were_for() -> None:
    import psutil

    from expertchat.bench.beside import busy

    with pytest.raises(KeyError), busy(2) as pids:
        assert len(pids) == 2 and all(psutil.pid_exists(pid) for pid in pids)
        raise KeyError
    assert not any(psutil.pid_exists(pid) for pid in pids)


@pytest.mark.slow
def test_the_part_beside_names_its_ratios(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    from expertchat.bench import beside

    monkeypatch.setattr(beside, "SETTLE", 0.0)
    monkeypatch.setattr(beside, "usable_cores", lambda: 2)
    beside.measure_beside(kit)
    part = kit.parts.pop()
    assert [way for _, way in part.rows] == ["quiet", "beside 1", "beside 2"]
    assert [fact for fact, _ in part.facts] == ["beside 1 of 2 cores", "beside 2 of 2 cores"]
    assert all(len(part.ratios(case, way, part.columns[0])) == 2 for case, way in part.rows[1:])


@pytest.mark.slow
def test_a_step_is_taken_apart(kit: Kit) -> None:
    import torch
    from torch.profiler import profile

    from expertchat.bench.step import by_kind, measure_step

    small = Kit(kit.config, kit.settings.model_copy(update={"rows": [2], "repeats": 1}), kit.subject)
    measure_step(small)
    (part,) = small.parts
    ((name, found),) = part.numbers.items()
    assert name == "N=2" and [fact for fact, _ in part.facts] == ["N=2"]
    assert list(found) == ["products", "attention", "choosing words", "other operations", "between them", "least"]
    assert min(found.values()) >= 0 < found["least"]  # differences of two timings: of so small a model any of them may be lost in the noise
    with profile() as profiled:
        torch.ones(300, 300) @ torch.ones(300, 300)
    kinds = by_kind(profiled)
    assert kinds["products"] > 0 == kinds["attention"]
