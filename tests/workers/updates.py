"""Updates of tiny models by several processes, or by one: the same rows, the same steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from expertchat.backends.adapters import Adapters
from expertchat.backends.local import LocalBackend
from expertchat.backends.weights import load_weights
from expertchat.config import ConfigError
from expertchat.preferences.pairs import Choice
from expertchat.records import Candidate, Message, PreferencePair
from expertchat.training.config import PolicyGradientTrain, TrainConfig, UpdateConfig
from expertchat.training.learner import LoraLearner
from expertchat.training.method import METHODS, Rows, method_of
from expertchat.training.ranks import Ranks
from expertchat.training.sharding import parameter_bytes, shard

torch.set_num_threads(1)
WORDS = ["herons", "nest", "in", "tall", "trees", "fish", "shallow", "water", "slow", "steps", "rain", "comes"]
TRAIN: dict[str, Any] = {
    "method": "lora", "targets": ["q_proj", "v_proj"], "rank": 4, "alpha": 8, "dropout": 0.0, "loss": ["sigmoid"], "beta": 0.5,
    "label_smoothing": 0.0, "reference": "base", "batch": 8, "micro_batch": 8, "epochs": 1, "learning_rate": 0.02, "schedule": "linear",
    "warmup_rounds": 0, "weight_decay": 0.1, "max_grad_norm": 0.05, "checkpointing": False, "sharding": "pipeline",
}  # fmt: skip


OF_GROUPS: dict[str, Any] = {
    **{name: value for name, value in TRAIN.items() if name not in ("loss", "label_smoothing", "reference")},
    "baseline": "group", "scale": "group", "epsilon": 0.2, "beta": 0.04, "normalise": "reply", "cut": "no_end",
}  # fmt: skip


def text(seed: int, length: int) -> str:
    return " ".join(WORDS[(seed * 7 + i * (seed % 5 + 1)) % len(WORDS)] for i in range(length))


def groups(count: int, round: int) -> list[Choice]:
    """Histories of two to four candidates of different lengths; of every fifth one candidate has no score."""

    def candidate(i: int, k: int) -> Candidate:
        place = {"id": f"{round}/{i}/k{k}", "transcript": f"{round}/{i}", "round": round, "turn": 1, "index": k, "speaker": "a"}
        return Candidate.model_validate(place | {"text": text(i + 3 * k, 2 + (i + 2 * k) % 7), "tokens": 4, "policy_version": 0})

    found = []
    for i in range(count):
        many = tuple(candidate(i, k) for k in range(2 + i % 3))
        scores = tuple(None if i % 5 == 0 and k == 2 else float((i * k + k) % 4) for k in range(len(many)))
        found.append(Choice((Message("user", text(i + round, 3 + i % 4)),), many, scores, "partner"))
    return found


def pairs(count: int, round: int) -> list[PreferencePair]:
    """Pairs of replies of different lengths."""
    return [
        PreferencePair(
            id=f"{round}/{i}",
            prompt=[{"role": "user", "content": text(i + round, 3 + i % 4)}],
            chosen=[{"role": "assistant", "content": text(i + 1, 2 + i % 7)}],
            rejected=[{"role": "assistant", "content": text(i + 2, 8 - i % 6)}],
            score_chosen=1.0,
            score_rejected=0.0,
            margin=1.0,
            round=round,
            policy_version=0,
            provenance={},
        )
        for i in range(count)
    ]


def update(
    model: str,
    sharding: str,
    out: str,
    count: int = 24,
    rounds: int = 1,
    quantization: str = "none",
    attach_first: bool = False,
    resume: str | None = None,
    old_peft: bool = False,
    method: str = "dpo",
    **train: Any,
) -> dict[str, Any]:
    """Some rounds of updates on `count` pairs each, from a checkpoint `resume` on; what came of them, the weights in `out`.

    `attach_first`: the adapter is there before the model is sharded. `old_peft`: peft as it was before 0.21.
    """
    if old_peft:
        from peft.tuners.tuners_utils import BaseTuner

        BaseTuner.forward = lambda self, *args, **more: self.model.forward(*args, **more)
    of_groups = METHODS[method].takes == "groups"
    plain, kind = (OF_GROUPS, PolicyGradientTrain) if of_groups else (TRAIN, TrainConfig)
    config: UpdateConfig = kind.model_validate(plain | {"sharding": sharding, "update": method} | train)
    ranks = Ranks.start(config.sharding, wait_seconds=60)
    loaded = load_weights(Path(model), "tiny", dtype="fp32", device="cpu", quantization=quantization)
    whole = sum(p.numel() * p.element_size() for p in loaded.model.parameters())
    backend = LocalBackend(loaded.model, loaded.tokenizer, "tiny", cache_gib=0)
    if sharding == "fsdp" and not attach_first:
        shard(loaded.model, ranks)
        backend.moved()
    learner = LoraLearner("a", backend, config, config.targets, Adapters(loaded.model), "tiny", seed=3)
    if sharding == "fsdp" and attach_first:
        shard(loaded.model, ranks)
    steps: list[float] = []
    updater: Any = method_of(method)(
        learner, config, rounds=4, seed=5, folder=Path(out), ranks=ranks, on_step=lambda round, step, of, loss: steps.append(loss)
    )
    first = 1
    if resume is not None:
        learner.load(Path(resume) / "adapter")
        updater.load(Path(resume) / "optimizer.pt")
        learner.version, first = 1, 2

    def rows(round: int) -> Rows:
        return Rows([], groups(count, round)) if of_groups else Rows(pairs(count, round))

    done = [updater.update(rows(round), round) for round in range(first, first + rounds)]
    here, now = parameter_bytes(loaded.model)
    adapters = sum(p.numel() * p.element_size() for p in learner.parameters().values())
    if ranks.rank == 0:
        Path(out).mkdir(parents=True, exist_ok=True)
        learner.save(Path(out) / "adapter")
        updater.save(Path(out) / "optimizer.pt")
    same = ranks.same({name: p.detach().clone() for name, p in learner.parameters().items()})
    found = {
        "losses": steps,
        "figures": [one.all_figures() for one in done],
        "base_bytes": [here - adapters, whole],
        "all_bytes": [here, now],
        "equal": all(torch.equal(p, same[name]) for name, p in learner.parameters().items()),
        "engine": backend.engine is not None,
    }
    ranks.close()
    return found


def many(cases: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Several updates, one after the other; a config that is refused gives its message."""
    found = []
    for case in cases:
        try:
            found.append(update(**case))
        except ConfigError as error:
            found.append({"refused": str(error)})
    return found
