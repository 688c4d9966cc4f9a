"""A plan as plain values: what is written to a file, and what is drawn."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from expertchat.plan.memory import adapter, cache, hidden_states, parameters, weights
from expertchat.plan.placement import Load
from expertchat.plan.planner import Plan


def totals(plan: Plan) -> dict[str, dict[str, int]]:
    """Bytes of each model by part, and of the embedder."""
    job, found = plan.job, dict[str, dict[str, int]]()
    for model in job.models:
        parts = weights(model.shape, model.dtype, model.quantization)
        tokens = min(job.tokens, model.shape.context or job.tokens)
        values = {name: getattr(parts, name) for name in ("embedding", "attention", "feed_forward", "router", "norms", "head")}
        values |= {"weights": parts.total, "KV cache": cache(model.shape, model.dtype, job.conversations, tokens)}
        if model.candidates > 1:
            values["hidden states"] = hidden_states(model.shape, job.conversations, tokens)
        for training in job.trainings:
            if training.owner == model.owner and training.method == "lora":
                lora = adapter(model.shape, training.lora)
                for name, size in (("LoRA", lora.weights), ("gradients", lora.gradients), ("optimizer", lora.optimizer)):
                    values[name] = values.get(name, 0) + size
        found[model.owner] = values
    if job.embedder is not None:
        found["embedder"] = {"weights": job.embedder.weights}
    return found


def as_dict(plan: Plan) -> dict[str, Any]:
    """The plan as JSON has it."""
    job = plan.job
    return {
        "schema": 1,
        "fits": plan.fits,
        "problems": plan.problems(),
        "largest_conversations": plan.largest,
        "conversations": job.conversations,
        "tokens": job.tokens,
        "training": asdict(job.training) if job.training else None,
        "models": {
            m.owner: {
                "name": m.name, "dtype": m.dtype, "quantization": m.quantization, "parameters": parameters(m.shape),
                "device_map": plan.device_map(m.owner), "unpacking": m.unpacking,
            }
            for m in job.models
        },
        "bytes": totals(plan),
        "gpus": [
            {"size": gpu.size, "name": gpu.name, "need": load.need, "capacity": gpu.capacity, "phase": plan.phase(i),
             "talking": load.talking, "training": load.training, "holds": _holds(load), "segments": plan.segments(i)}
            for i, (gpu, load) in enumerate(zip(plan.gpus, plan.loads, strict=True))
        ],
    }  # fmt: skip


def _holds(load: Load) -> dict[str, str]:
    """Which layers of which model stand on a GPU: "0-9", "all"; the embedder as "all"."""
    found: dict[str, str] = {}
    for owner in dict.fromkeys(unit.owner for unit in load.units):
        layers = [int(u.module.rpartition(".")[2]) for u in load.units if u.owner == owner and u.module.startswith("model.layers.")]
        ends = {u.module for u in load.units if u.owner == owner} & {"model.embed_tokens", "model.norm"}
        whole = len(ends) == 2 or owner == "embedder"
        found[owner] = "all" if whole else f"{min(layers)}-{max(layers)}" if layers else "ends"
    return found
