"""GGUF on llama.cpp in this process, through a real server: what it can, and that it computes what the local backend does."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from expertchat.backends.base import Decoding, GenerateRequest, ScoreRequest
from expertchat.backends.loading import connect, load_backend
from expertchat.backends.served.terms import Terms
from expertchat.command.compose import load
from expertchat.config import ConfigError
from expertchat.records import Message
from tests.gguf_files import write_gguf

pytestmark = pytest.mark.slow
pytest.importorskip("xllamacpp")
TALK = (Message("user", "Do herons nest in trees?"), Message("assistant", "Yes, they do."), Message("user", "In which?"))
GREEDY = Decoding("greedy", 8)


def config(file: Path, backend: str) -> Any:
    words = ["model@experts.b=auto", f"experts.b.path={file}", f"experts.b.backend={backend}", "decoding@experts.b.decoding=sampling"]
    return load("converse", [*words, "experts.b.dtype=fp32", "experts.b.device=cpu", "experts.b.context_length=256"]).experts["b"]


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf", quantised=False)


def test_it_says_and_scores_what_the_local_backend_does(file: Path) -> None:
    local, served = load_backend(config(file, "local"), 0), connect(config(file, "llamacpp"), 0, Terms())
    asked = [GenerateRequest(str(i), TALK[: 2 * i + 1], GREEDY) for i in range(2)]
    # Half of a character may stand at the end.
    texts = [[one.text.rstrip("\ufffd") for one in backend.generate(asked)] for backend in (served, local)]
    assert texts[0] == texts[1]
    assert served.capabilities.scores and served.count_tokens(TALK * 4) >= local.count_tokens(TALK * 4) - 1
    likely = ScoreRequest("k", TALK, tuple(f" {n}" for n in range(1, 11)), prefix="Depth:")
    here, there = (backend.score([likely])[0].logprobs for backend in (local, served))
    both = [(p, q) for p, q in zip(here, there, strict=True) if math.isfinite(q)]
    assert both and all(abs(math.exp(p) - math.exp(q)) < 0.005 for p, q in both)
    assert all(p < math.log(0.02) for p, q in zip(here, there, strict=True) if not math.isfinite(q))  # none of its 100 likeliest


def test_a_seed_and_a_key_give_the_same_text(file: Path) -> None:
    served, again = (connect(config(file, "llamacpp"), 3, Terms()) for _ in range(2))
    asked = GenerateRequest("k", TALK, Decoding("sampling", 8))
    assert served.generate([asked])[0].text == again.generate([asked])[0].text


def test_what_is_no_gguf_file_is_refused(tmp_path: Path) -> None:
    from tests import tiny

    folder = tiny.build(tmp_path / "model", "llama3")
    with pytest.raises(ConfigError, match="runs a GGUF file"):
        connect(config(folder, "llamacpp"), 0, Terms())
    (tmp_path / "torn.gguf").write_bytes(b"GGUF" + bytes(60))
    with pytest.raises(ConfigError):
        connect(config(tmp_path / "torn.gguf", "llamacpp"), 0, Terms())


def test_a_server_that_is_killed_in_the_middle_of_a_run_is_waited_for(file: Path) -> None:
    """kill -9, and begun again a second later: nothing is lacking, nothing asked twice."""
    from tests.proofs.restart_server import main

    tries = (main(file, 1, 2, 1024, "judging.min_mass=0.0") for _ in range(5))
    assert next((code for code in tries if code != 2), 2) == 0  # a tiny model is often between two requests
