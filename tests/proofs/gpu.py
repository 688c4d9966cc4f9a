"""Every part of this project that has a path of its own on a GPU, run there: texts, half precision, 4 bits, training, memory, speed.

    python -m tests.proofs.gpu OUT [--tiny] [--parts a,b] [--seconds 500]

Prints a table and writes OUT/gpu.json after every part. A part that fails prints its error, and the rest goes on; parts for which no
time is left are named. `--tiny` rehearses all of it with tiny shapes, on the CPU where there is no GPU. Exit code 0 if nothing failed.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.proofs.gpu_rows import LeftOut, Part, Proof, TimeUp, clean

LONGEST = 170  # seconds that a part may take
NO_TIME = "left out: no time"
LEAST = 20  # seconds that must be left for another one to begin


Run = Callable[[Proof], None]


def parts() -> dict[str, Run]:
    """The parts by name, the most important first."""
    from tests.proofs import gpu_large, gpu_runs, gpu_same

    return {
        "machine": gpu_same.machine,
        "same": gpu_same.same_texts,
        "half": gpu_same.half_precision,
        "converse": gpu_runs.converse,
        "online_dpo": gpu_runs.online_dpo,
        "bits": gpu_same.bits,
        "places": gpu_same.places,
        "memory": gpu_same.memory_runs_out,
        "plan": gpu_large.plan_both,
        "round_mixtral": gpu_large.round_mixtral,
        "attention": gpu_large.attention,
        "bench_bf16": gpu_large.bench_bf16,
        "round_llama": gpu_large.round_llama,
        "judge_memory": gpu_large.judge_memory,
        "bench_nf4": gpu_large.bench_nf4,
        "bench_mixtral": gpu_large.bench_mixtral,
        "plan_nf4": gpu_large.plan_nf4,
        "plan_int8": gpu_large.plan_int8,
        "bench_fp16": gpu_large.bench_fp16,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.proofs.gpu")
    parser.add_argument("out", type=Path)
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--parts", default="")
    parser.add_argument("--seconds", type=float, default=500)
    given = parser.parse_args(arguments)
    os.environ |= {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "TOKENIZERS_PARALLELISM": "false"}
    began = time.monotonic()
    import torch

    known = parts()
    names = given.parts.split(",") if given.parts else list(known)
    if odd := [name for name in names if name not in known]:
        parser.error(f"no parts {', '.join(odd)}: there are {', '.join(known)}")
    cuda = torch.cuda.is_available()
    if not cuda and not given.tiny:
        parser.error("torch finds no GPU here: rehearse with --tiny")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False  # fp32 is to be fp32
    given.out.mkdir(parents=True, exist_ok=True)
    proof = Proof("cuda" if cuda else "cpu", given.tiny, given.out)
    for name in names:
        proof.parts.append(Part(name))
        left = given.seconds - (time.monotonic() - began)
        if left < LEAST:
            proof.parts[-1].status = NO_TIME
        else:
            print(f"{name} (at {time.monotonic() - began:.0f} s)", flush=True)
            one(known[name], proof, min(LONGEST, left))
        proof.write()
    return summary(proof, time.monotonic() - began)


def one(run: Run, proof: Proof, limit: float) -> None:
    """Run a part; whatever happens in it stays in it."""
    part, began = proof.parts[-1], time.monotonic()
    try:
        with at_most_seconds(limit):
            run(proof)
        part.status = "short" if any(row.ok is False for row in part.rows) else "done"
    except LeftOut as reason:
        part.status = f"left out: {reason}"
    except (Exception, SystemExit) as error:
        part.status, part.error = "failed", f"{type(error).__name__}: {str(error)[:600]}"
        print("".join(traceback.format_exception(error)[-6:])[-3000:], flush=True)
        traceback.clear_frames(error.__traceback__)  # they hold models
    part.seconds = round(time.monotonic() - began, 1)
    clean()


@contextmanager
def at_most_seconds(limit: float) -> Iterator[None]:
    def late(*_: Any) -> None:
        raise TimeUp(f"not done after {limit:.0f} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, limit)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def summary(proof: Proof, seconds: float) -> int:
    print(f"\n{proof.about.get('card', proof.device)}; {seconds:.0f} s in all")
    for part in proof.parts:
        short = [row for row in part.rows if row.ok is False]
        print(f"{part.name:<16} {part.seconds:>6.1f} s  {len(part.rows):>3} figures  {part.status}  {part.error[:200]}")
        for row in short:
            print(f"    SHORT {row.what}: {row.value}, wanted {row.wanted}")
    return int(any(part.status in ("failed", "short", NO_TIME) for part in proof.parts))


if __name__ == "__main__":
    sys.exit(main())
