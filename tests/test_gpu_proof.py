"""The GPU's proof, rehearsed with tiny shapes where there is no GPU: its parts run, and one that fails takes no other along."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.proofs import gpu, gpu_large, gpu_same
from tests.proofs.gpu_rows import LeftOut, Proof

PARTS = "machine,same,round_mixtral,plan_nf4,judge_memory,bench_nf4"


def values(folder: Path) -> dict[str, Any]:
    found = json.loads((folder / "gpu.json").read_text("utf-8"))
    return {part["name"]: part for part in found["parts"]}


@pytest.mark.slow  # run it when the proof changes
def test_the_parts_run_with_tiny_shapes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def slow(*_: Any) -> Any:
        raise RuntimeError("generate_batch takes seconds a token on a CPU")

    monkeypatch.setattr("expertchat.bench.gpu.continuous", lambda kit, prompts: slow)
    assert gpu.main([str(tmp_path), "--tiny", "--parts", PARTS]) == 0
    parts = values(tmp_path)
    assert list(parts) == PARTS.split(",") and {part["status"] for part in parts.values()} == {"done"}
    same = {row["what"]: row for row in parts["same"]["rows"]}
    assert same["embedded:llama, sampling, engine: replies as on the CPU"]["value"] == "4 of 4"  # 2 dialogues of 2 turns
    trained = {row["what"]: row["ok"] for row in parts["round_mixtral"]["rows"]}
    assert trained["mixtral nf4 fp32: pairs trained"] and trained["mixtral nf4 fp32: first loss from ln 2"]
    ways = [row["what"] for row in parts["bench_nf4"]["rows"]]
    assert "bf16 nf4 N=2, engine: tokens/s" in ways and any("generate_batch left out" in way for way in ways)
    assert "SHORT" not in capsys.readouterr().out


@pytest.mark.slow
def test_what_fails_stays_in_its_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def broken(proof: Proof) -> None:
        proof.row("before", 1)
        raise ValueError("a kernel is missing")

    def short(proof: Proof) -> None:
        proof.at_most("error", float("nan"), 0.1)  # not a number never passes

    def left(proof: Proof) -> None:
        raise LeftOut("needs two GPUs")

    def slow(proof: Proof) -> None:
        while True:
            pass

    for name, part in (("places", broken), ("half_precision", short), ("machine", left), ("bits", slow)):
        monkeypatch.setattr(gpu_same, name, part)
    monkeypatch.setattr(gpu, "LONGEST", 0.2)
    monkeypatch.setattr(gpu_large, "attention", lambda proof: proof.equal("all", [1, 2], [1, 2]))
    assert gpu.main([str(tmp_path), "--tiny", "--parts", "places,half,machine,bits,attention"]) == 1
    parts = values(tmp_path)
    assert [part["status"] for part in parts.values()] == ["failed", "short", "left out: needs two GPUs", "failed", "done"]
    assert parts["places"]["error"] == "ValueError: a kernel is missing" and parts["bits"]["error"].startswith("TimeUp")
    shown = capsys.readouterr().out
    assert "SHORT error: nan, wanted <= 0.1" in shown and "a kernel is missing" in shown


def test_no_time_and_no_such_part(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu.main([str(tmp_path), "--tiny", "--parts", "same", "--seconds", "1"]) == 1
    assert values(tmp_path)["same"]["status"] == "left out: no time"
    with pytest.raises(SystemExit):
        gpu.main([str(tmp_path), "--tiny", "--parts", "speed"])
    assert "no parts speed: there are machine, same" in capsys.readouterr().err
