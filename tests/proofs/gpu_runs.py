"""Whole commands on the GPU, beside the same on the CPU: `converse`, and `online_dpo` in several number types."""

from __future__ import annotations

import json
import math
import shutil
import time
from pathlib import Path
from typing import Any

from expertchat import cli
from tests.proofs.gpu_rows import Proof

SMALL = ("view=none", "run.seed=5")
TRAIN = (
    "+experiment=embedded", "rounds=2", "evaluation.every=0", *SMALL,
)  # fmt: skip


def seats(device: str, **values: str) -> list[str]:
    """Both experts and the embedder on a device."""
    more = [f"experts.{seat}.{key}={value}" for seat in "ab" for key, value in values.items()]
    return [*(f"experts.{seat}.device={device}" for seat in "ab"), f"embedder.device={device}", *more]


def command(proof: Proof, title: str, folder: Path, arguments: list[str]) -> float:
    """Run one; its seconds. A run that fails fails the part."""
    shutil.rmtree(folder, ignore_errors=True)
    began = time.monotonic()
    code = cli.main([*arguments, f"run.dir={folder}"])
    seconds = time.monotonic() - began
    proof.row(f"{title}: exit code", code, "0", code == 0)
    if code:
        raise RuntimeError(f"{title} ended with {code}")
    return seconds


def records(folder: Path, name: str) -> dict[str, Any]:
    path = folder / f"{name}.jsonl"
    found = [json.loads(line) for line in path.read_text("utf-8").splitlines()] if path.exists() else []
    return {record["id"]: record for record in found}


def converse(proof: Proof) -> None:
    """The same dialogues, ratings and WIM scores as on the CPU."""
    count, turns = (2, 2) if proof.tiny else (12, 6)
    shape = [*SMALL, f"conversation.count={count}", f"conversation.turns={turns}"]
    here, there = proof.out / "runs" / "converse_cpu", proof.out / "runs" / "converse_gpu"
    command(proof, "converse on the CPU", here, ["converse", *shape, *seats("cpu")])
    seconds = command(proof, f"converse on {proof.device}", there, ["converse", *shape, *seats(proof.device)])
    texts = [
        {key: [turn["text"] for turn in one["turns"]] for key, one in records(place, "transcripts").items()} for place in (there, here)
    ]
    proof.equal("converse: dialogues as on the CPU", *([texts[i].get(key) for key in sorted(texts[1])] for i in (0, 1)))
    for name, value in (("ratings", "expected"), ("wim", "cosine"), ("rewards", "value")):
        got, wanted = records(there, name), records(here, name)
        apart = [abs(got[key][value] - one[value]) for key, one in wanted.items() if one[value] is not None and key in got]
        proof.at_most(f"converse: {name}, largest difference of {len(apart)}", max(apart, default=math.nan), 0.01)
    proof.row("converse on the GPU / s", round(seconds, 1))


def figures(folder: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text("utf-8").splitlines()]
    return [line["figures"] for line in lines if line["kind"] == "round"]


def online_dpo(proof: Proof) -> None:
    """Two rounds, in fp32 beside the CPU, then in what a GPU is for."""
    count, final = (2, 2) if proof.tiny else (8, 16)
    shape = [*TRAIN, f"conversation.count={count}", f"evaluation.histories={final}", f"evaluation.final={final}"]
    if proof.tiny:
        shape = [*shape, "rounds=1", "conversation.turns=3", "pairs.min_margin=0.0", "candidates.count=2"]
    cases: dict[str, list[str]] = {"fp32": seats(proof.device)}
    if not proof.tiny:
        cases |= {
            "bf16": seats(proof.device, dtype="bf16"),
            "fp16": seats(proof.device, dtype="fp16"),
            "nf4 bf16": seats(proof.device, dtype="bf16", quantization="nf4"),
            "all weights, fp32": [*seats(proof.device), "train=full", "train.learning_rate=1e-4"],
        }
        here = proof.out / "runs" / "dpo_cpu"
        command(proof, "online_dpo on the CPU", here, ["online_dpo", *shape, *seats("cpu")])
    for title, more in cases.items():
        there = proof.out / "runs" / f"dpo_{title.replace(' ', '_').replace(',', '')}"
        try:
            seconds = command(proof, f"online_dpo, {title}", there, ["online_dpo", *shape, *more])
        except RuntimeError:
            continue
        rounds = figures(there)
        loss, norm = (math.fsum(one[key] for one in rounds) / len(rounds) for key in ("loss", "grad_norm"))
        proof.row(f"online_dpo, {title}: loss, mean of the rounds", float(loss), "finite", math.isfinite(loss) and loss < 1.0)
        proof.row(f"online_dpo, {title}: gradient norm", float(norm), "finite, > 0", math.isfinite(norm) and norm > 0)
        proof.row(f"online_dpo, {title} / s", round(seconds, 1))
        if title == "fp32" and not proof.tiny:
            wanted = figures(here)
            for key in ("pairs", "loss", "grad_norm"):
                proof.at_most(f"online_dpo, round 1: {key}, difference from the CPU's", abs(rounds[0][key] - wanted[0][key]), 0.01)
            proof.row("online_dpo, round 1: memory of the GPU / GiB", float(rounds[0].get("memory_gib", math.nan)))
