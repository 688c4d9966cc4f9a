"""What fits on the GPUs that vLLM gets: its weights, split over them, and how many tokens its caches hold in what it takes besides.

vLLM takes a share of each GPU at its start, whatever it serves, measures what a pass needs, and makes caches of the rest; it refuses to
start where they do not hold one request of the longest length. What it measures is estimated here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from expertchat.plan.job import CONTEXT, Gpu
from expertchat.plan.memory import GIB, WIDTH, Dtype, Lora, Shape, adapter, layer_cache, matrices, weights

Bits = Literal[4, 8, 16]
GROUP = 128  # numbers of AWQ and GPTQ that share a scale (fp16) and a zero (of the bits): Lin et al. 2023, Frantar et al. 2022
PASS = 2048  # tokens of a pass at most, as vLLM's server has it (--max-num-batched-tokens)
BETWEEN = int(0.25 * GIB)  # buffers by which several GPUs talk (NCCL)
# Slots for adapters that `expertchat serve` asks for: the old one, the new one, and one to spare, which vLLM on a CPU (0.32) reads for
# requests without an adapter.
SLOTS = 3
GRAPHS = int(0.5 * GIB)  # CUDA graphs of the sizes of a batch; --enforce-eager makes none


@dataclass(frozen=True)
class Serving:
    """vLLM with a model in `bits` on `gpus`. `tokens`: of the longest request; `requests` at once; `rank`: of adapters.

    `files`: bytes of its weight files, where they are here. All figures are bytes of one GPU; what the caches of all have room for, the
    smallest says.
    """

    name: str
    shape: Shape
    gpus: tuple[Gpu, ...]
    bits: Bits = 16
    dtype: Dtype = "fp16"
    memory: float = 0.9
    tokens: int = 4096
    requests: int = 64
    rank: int = 0
    files: int | None = None

    @property
    def parts(self) -> int:
        return len(self.gpus)

    @property
    def whole(self) -> int:
        """All of its weights."""
        if self.files is not None:
            return self.files
        plain = weights(self.shape, self.dtype)
        if self.bits == 16:
            return plain.total
        numbers = self.shape.layers * sum(m.numbers * m.times for m in matrices(self.shape))
        small = plain.total - WIDTH[self.dtype] * numbers
        return small + numbers * self.bits // 8 + numbers // GROUP * (16 + self.bits) // 8

    @property
    def weights(self) -> int:
        """Its part of the weights; norms and routers, which every GPU has, are little beside them."""
        return -(-self.whole // self.parts)

    @property
    def adapters(self) -> int:
        """SLOTS rooms for an adapter of each linear layer, in the model's own numbers."""
        return SLOTS * adapter(self.shape, Lora(self.rank)).weights // 4 * WIDTH[self.dtype] // self.parts if self.rank else 0

    @property
    def moment(self) -> int:
        """The peak of a pass of PASS tokens: hidden states, one feed-forward block of each expert of a token, logits in fp32, graphs."""
        shape, width = self.shape, WIDTH[self.dtype]
        hidden, feed = PASS * shape.hidden * width, PASS * shape.active * (3 * shape.ffn // self.parts + shape.hidden) * width
        return 3 * hidden + feed + 3 * 4 * self.requests * shape.vocab // self.parts + GRAPHS

    @property
    def reserve(self) -> int:
        return CONTEXT + (BETWEEN if self.parts > 1 else 0)

    @property
    def smallest(self) -> Gpu:
        return min(self.gpus, key=lambda one: int(one.size * self.memory) - one.taken)

    @property
    def cache(self) -> int:
        """What is left for keys and values; below 0 where not even the weights fit."""
        gpu = self.smallest
        return int(gpu.size * self.memory) - gpu.taken - self.weights - self.adapters - self.moment - self.reserve

    @property
    def held(self) -> int:
        """Tokens that the caches hold; heads of keys that are fewer than GPUs are on several."""
        heads = max(1, -(-self.shape.kv_heads // self.parts))
        per_token = layer_cache(self.shape, self.dtype) // self.shape.kv_heads * heads * self.shape.layers
        return max(0, self.cache) // per_token

    @property
    def at_once(self) -> int:
        """Requests of the longest length whose caches fit together."""
        return min(self.requests, self.held // self.tokens)

    @property
    def fits(self) -> bool:
        return self.held >= self.tokens

    def problems(self) -> list[str]:
        """Why it does not fit, and what to lower, one line; nothing where it fits."""
        found = []
        if self.shape.heads % self.parts:
            most = max(n for n in range(1, self.parts + 1) if self.shape.heads % n == 0)
            found.append(f"{self.name}: its {self.shape.heads} heads cannot be split evenly over {self.parts} GPUs; give it {most}")
        if not self.fits:
            room = f"{self.held} of the {self.tokens} tokens of a request" if self.cache > 0 else "none of a request"
            lower = [f"lower the longest request to {self.held // 64 * 64} tokens"] if self.held >= 256 else []
            lower += ["take a folder in 4 bits (AWQ, GPTQ)"] if self.bits > 4 else []
            lower += ["give it more or larger GPUs"]
            found.append(
                f"{self.name} does not fit into vLLM on {self.parts} x {self.smallest.size / GIB:.0f} GiB: {self.weights / GIB:.2f} GiB of "
                f"weights on each, and its caches hold {room}. Remedy: {'; or '.join(lower)}"
            )
        return found

    def segments(self, owner: str, gpu: Gpu) -> dict[str, int]:
        """What stands on one of its GPUs, in the order of the picture."""
        found = {f"weights {owner}": self.weights, "LoRA + optimizer": self.adapters, "KV cache": max(0, self.cache)}
        found |= {"activations": self.moment, "reserve": self.reserve + gpu.taken}
        return found | {"free": gpu.size - sum(found.values())}

    def told(self) -> str:
        """What fits, in a few words."""
        on = f"{self.parts} x {self.smallest.size / GIB:.0f} GiB"
        what = f"{self.weights / GIB:.2f} GiB of weights on each, caches of {self.held:,} tokens"
        return f"{self.name} in {self.bits} bits by vLLM on {on}: {what}, {self.at_once} requests of {self.tokens} at once"


def with_serving(values: Mapping[str, Any], seat: str, serving: Serving) -> dict[str, Any]:
    """A plan's values (expertchat.plan.values.as_dict) with the server's GPUs behind its own."""
    bits = f"{serving.bits} bits, vLLM" if serving.bits < 16 else "vLLM"
    stands = [(gpu, serving.segments(seat, gpu)) for gpu in serving.gpus]
    gpus = [
        {"size": gpu.size, "name": gpu.name, "need": (need := gpu.size - segments["free"]), "capacity": gpu.size, "phase": "serving",
         "talking": need, "training": 0, "holds": {seat: f"1/{serving.parts}"}, "segments": segments}
        for gpu, segments in stands
    ]  # fmt: skip
    model = {"name": serving.name, "dtype": serving.dtype, "quantization": bits, "parameters": weights(serving.shape, "fp32").total // 4,
             "device_map": {}, "unpacking": 0}  # fmt: skip
    name = f"{seat} (vLLM)" if seat in values["models"] else seat
    return {
        **values,
        "fits": values["fits"] and not serving.problems(),
        "problems": [*values["problems"], *serving.problems()],
        "models": {**values["models"], name: model},
        "bytes": {**values["bytes"], name: {"weights": serving.whole}},
        "gpus": [*values["gpus"], *gpus],
        "server": {
            "seat": seat, "gpus": serving.parts, "tokens_held": serving.held, "requests_at_once": serving.at_once, "told": serving.told(),
        },
    }  # fmt: skip


def split_gpus(gpus: Sequence[Gpu], count: int) -> tuple[list[Gpu], list[Gpu]]:
    """The run's GPUs, and the server's: the last ones."""
    return list(gpus[: len(gpus) - count]), list(gpus[len(gpus) - count :])
