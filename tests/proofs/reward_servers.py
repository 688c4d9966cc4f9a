"""Reward models behind vLLM: their scores beside those of the same models here.

    python -m tests.proofs.reward_servers FOLDER PYTHON

FOLDER holds SmolLM2-135M-Instruct (shown a chat) and all-MiniLM-L6-v2 (shown two texts); each gets a score head that is drawn, PYTHON is
that of an environment with vllm. Exit code 0 if no score is further than FAR from the local one.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from expertchat.backends.base import ValueRequest
from expertchat.backends.loading import client_for
from expertchat.backends.reward_model import RewardModel
from expertchat.backends.served.terms import Terms
from expertchat.backends.served.valuer import ServedRewardModel
from expertchat.config import RewardModelConfig
from expertchat.records import Message
from tests.proofs.servers import PORT, REPLIES, started

FAR = 0.001
CHATS = (
    (Message("user", "Let us talk about herons."),),
    (Message("user", "Let us talk about tides."), Message("assistant", "The moon pulls."), Message("user", "And the sun? [SEP] Go on.")),
)


def with_head(model: str, spread: float, place: str) -> None:
    """Save a model with a score head that is drawn."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    torch.manual_seed(0)
    made = AutoModelForSequenceClassification.from_pretrained(model, num_labels=1, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(model)
    made.config.pad_token_id = tokenizer.pad_token_id
    torch.nn.init.normal_((made.classifier if hasattr(made, "classifier") else made.score).weight, std=spread)
    made.save_pretrained(place)
    tokenizer.save_pretrained(place)


def difference(place: str) -> float:
    """The largest one between the scores of a server's model and the same one's here."""
    asked = [ValueRequest(f"{i}/{j}", chat, reply) for i, chat in enumerate(CHATS) for j, reply in enumerate(REPLIES)]
    own = RewardModel.load(RewardModelConfig(path=place, device="cpu", dtype="fp32")).value(asked)
    config = RewardModelConfig(path="m", backend="server", url=f"http://127.0.0.1:{PORT}/v1", model="m")
    served = ServedRewardModel.connect(config, client_for(config, Terms(say=print)))
    print(served.notes)
    pairs = zip(own, served.value(asked), strict=True)
    return max(float("inf") if a.score is None or b.score is None else abs(a.score - b.score) for a, b in pairs)


def main(folder: Path, python: str) -> int:
    worst = 0.0
    for model, spread in (("SmolLM2-135M-Instruct", 0.05), ("all-MiniLM-L6-v2", 0.3)):
        with tempfile.TemporaryDirectory() as scratch:
            with_head(str(folder / model), spread, f"{scratch}/{model}")
            command = [python, "-m", "vllm.entrypoints.openai.api_server", "--model", f"{scratch}/{model}", "--served-model-name", "m",
                       "--host", "127.0.0.1", "--port", str(PORT), "--max-model-len", "512", "--enforce-eager", "--dtype", "float32",
                       "--runner", "pooling"]  # fmt: skip
            with started(command, scratch):
                found = difference(f"{scratch}/{model}")
        print(f"{model}: largest difference of {len(CHATS) * len(REPLIES)} scores {found:.2g}", flush=True)
        worst = max(worst, found)
    return 0 if worst <= FAR else 1


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2]) if len(sys.argv) == 3 else __doc__)
