"""What an update in several processes needs: equal shares of every batch, averaged gradients, and under fsdp a base that is in parts.

ddp: every process holds the whole model. fsdp: every process holds its part of each frozen weight and gathers a layer when it is computed.
The adapters, which alone are trained, are whole in every process in both: they are small, and so optimizer, clipping, checkpoints and
TRL's own copies of them are what they are in one process, and a run goes on with any number of processes.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any, NamedTuple, cast

import torch
import torch.distributed as dist
from accelerate import PartialState
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor
from torch.utils.data import DataLoader
from transformers import Trainer, TrainingArguments

from expertchat.backends.voice import bare
from expertchat.config import ConfigError
from expertchat.training.ranks import Ranks
from expertchat.training.steady import Steady

# -- the batches ----------------------------------------------------------------------------------------------------------


class Share(NamedTuple):
    """One process's part in the steps of a pass over the pairs.

    `batches`: the pairs of each of its passes through the model; `accumulation` of these make a step (the last step may have fewer).
    `weights`: what each counts for, so that every pair of a step counts the same. `surplus`: pairs that are given up.
    """

    batches: list[list[int]]
    weights: list[float]
    accumulation: int
    surplus: int


def split(count: int, batch: int, micro: int, ranks: Ranks) -> Share:
    """Part `count` pairs in their order: `batch` of them a step over all processes, at most `micro` at a time in one.

    All have equally many in every step; what a last, smaller step has too many for that is given up (its last ones: sort them afterwards).
    They are dealt out one by one, there and back: where a step is sorted by length, all have about equally long ones. Raises ConfigError.
    """
    if batch % ranks.world:
        each = max(1, round(batch / ranks.world))
        fits = f"train.batch={ranks.world * each}" + (f" train.micro_batch={each}" if ranks.world * each % micro else "")
        raise ConfigError(f"train.batch={batch} cannot be parted among {ranks.world} processes: set {fits}")
    batches: list[list[int]] = []
    weights: list[float] = []
    for start in range(0, count, batch):
        size = min(batch, count - start) // ranks.world
        parts = []
        for nth, done in enumerate(range(0, size, micro)):  # a pass of all processes: pairs that stand together, dealt out one by one
            pool = range(start + done * ranks.world, start + min(done + micro, size) * ranks.world)
            parts.append(list(pool[(ranks.world - 1 - ranks.rank) if nth % 2 else ranks.rank :: ranks.world]))
        batches += parts
        weights += [len(part) * len(parts) / size for part in parts]
    return Share(batches, weights, -(-batch // (ranks.world * micro)), count % batch % ranks.world)


# -- the gradients --------------------------------------------------------------------------------------------------------


class SharedUpdate(Trainer):
    """A transformers Trainer, or before one in a class's bases: one step over all processes is the step that one would make.

    `share` is this process's part of `train_dataset`. The library takes itself for alone (see ranks.LAUNCH): what is common is done here.
    """

    ranks: Ranks
    share: Share
    steady: Steady
    _passes = 0
    _finite = True

    def __init__(self, *, model: Any, args: TrainingArguments, ranks: Ranks, share: Share, steady: Steady, **more: Any) -> None:
        if args.device.type == "cuda":
            args._n_gpu = 1  # one process trains one model, however many GPUs it sees: else Trainer makes a copy for each
        self.where: torch.device = model.get_input_embeddings().weight.device  # of the tokens, and so of the losses
        super().__init__(model=model, args=args, **more)
        self.ranks, self.share, self.steady = ranks, share, steady
        backward = self.accelerator.backward
        self.accelerator.backward = lambda loss, **more: backward(steady.raised(loss), **more)
        self.aux_loss_enabled = False  # TRL's: the balance of a frozen router's experts, and a batch's is not the mean of its parts'
        _through_hooks(self.model)

    def _move_model_to_device(self, model: Any, device: Any) -> None:
        """The model stands where the memory plan has put it."""

    def create_accelerator_and_postprocess(self) -> None:
        """accelerate moves nothing either: it would take a model that stands on the second GPU to the first, where TRL puts its numbers."""
        super().create_accelerator_and_postprocess()
        self.accelerator.device_placement = False
        PartialState().device = self.accelerator.state.device = self.where  # the second is read off the first from time to time

    def _prepare_inputs(self, inputs: Any) -> Any:
        prepared: dict[str, Any] = super()._prepare_inputs(inputs)
        return {name: value.to(self.where) if isinstance(value, torch.Tensor) else value for name, value in prepared.items()}

    def get_train_dataloader(self) -> DataLoader[Any]:
        """The share's batches in their order."""
        return DataLoader(cast(Any, self.train_dataset), batch_sampler=self.share.batches, collate_fn=self.data_collator)

    def compute_loss(self, *args: Any, **more: Any) -> Any:
        """The loss of one batch, so weighted that the mean over the step's batches is the mean over its pairs."""
        weight = self.share.weights[self._passes % len(self.share.weights)]
        self._passes += 1
        loss: Any = super().compute_loss(*args, **more)
        return loss * weight

    def training_step(self, *args: Any, **more: Any) -> Tensor:
        """After a step's last batch the gradients are averaged and judged, before they are clipped.

        The loss is given back on the first GPU, where the library sums up what it logs.
        """
        loss: Tensor = super().training_step(*args, **more)
        self._finite = self._finite and bool(loss.isfinite())
        if self.accelerator.sync_gradients:
            weights = [p for group in cast(Any, self.optimizer).param_groups for p in group["params"]]
            self.steady.lowered(weights, self._finite)
            average(weights, self.ranks)
            self.steady.judge(weights)
            self._finite = True
        return loss.to(self.args.device)


def average(parameters: Iterable[nn.Parameter], ranks: Ranks) -> None:
    """Replace gradients by their mean over all processes, in one message.

    Not DistributedDataParallel: that would send the whole frozen model around for every update, and waits for ever for an expert's adapter
    that a process has not used. A weight that no process has used keeps no gradient, as in one process.
    """
    if ranks.world == 1:
        return
    weights = list(parameters)
    used = torch.tensor([float(p.grad is not None) for p in weights], device=weights[0].device)
    parts = [torch.zeros_like(p, dtype=torch.float32) if p.grad is None else p.grad.float() for p in weights]
    flat = torch.cat([used, *(part.flatten() for part in parts)])
    dist.all_reduce(flat)
    sums = flat[len(weights) :].split([p.numel() for p in weights])
    for parameter, total, users in zip(weights, sums, flat[: len(weights)].tolist(), strict=True):
        parameter.grad = (total / ranks.world).view_as(parameter).to(parameter.dtype) if users else None


# -- the weights ----------------------------------------------------------------------------------------------------------


def shard(model: Any, ranks: Ranks) -> None:
    """Keep this process's part of every weight only, on its device (FSDP2's fully_shard; FSDP: Zhao et al. 2023, arXiv 2304.11277).

    `model` is a transformers model of which all processes have the same copy, in main memory or on the device; adapters may be attached
    before or after. From now on a pass through it is made by all processes together. Raises ConfigError for int8 weights.
    """
    kinds = {type(p).__name__ for p in model.parameters()}
    if "Int8Params" in kinds:
        raise ConfigError("quantization=int8 has no parts to give to several processes: set quantization=nf4, or train.sharding=ddp")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    mesh = init_device_mesh(device.type, (ranks.world,))
    adapters = {p for name, p in model.named_parameters() if ".lora_" in name}
    for parameter in adapters:
        parameter.data = parameter.data.to(device)
    four_bit = {module: module.weight for module in model.modules() if type(getattr(module, "weight", None)).__name__ == "Params4bit"}
    for module, weight in four_bit.items():
        module.quant_state = weight.quant_state
        weight.quant_state.to(device)
    try:
        for part in (*model.get_decoder().layers, model):
            fully_shard(part, mesh=mesh, reshard_after_forward=True, ignored_params=adapters)
    except RuntimeError as error:
        if not four_bit or "can require gradients" not in str(error):
            raise
        raise ConfigError(
            f"torch {torch.__version__} has no parts of 4-bit weights to give to several processes, torch 2.13 has: install that, or set "
            "train.sharding=ddp, or quantization=none"
        ) from None
    for module, weight in four_bit.items():
        for fact in ("compress_statistics", "quant_type"):  # peft reads them off the weight when it attaches an adapter
            setattr(module.weight, fact, getattr(weight, fact))
    model.generate = partial(model.generate, synced_gpus=False)  # who keeps in step with whom is Lockstep's affair
    with torch.no_grad():  # makes the room to gather in; made in inference mode it could never be trained through
        model(input_ids=torch.zeros(1, 1, dtype=torch.long, device=device), use_cache=False)


def is_sharded(model: Any) -> bool:
    """Whether passes through `model` are made by all processes together."""
    return isinstance(bare(model), FSDPModule)


def parameter_bytes(model: nn.Module) -> tuple[int, int]:
    """Bytes of a model's parameters that this process holds, and of all of them; without the state of 4-bit weights, whole everywhere."""
    here = sum((p.to_local() if isinstance(p, DTensor) else p).numel() * p.element_size() for p in model.parameters())
    return here, sum(p.numel() * p.element_size() for p in model.parameters())


def _through_hooks(model: Any) -> None:
    """Let a PEFT model call its base and not the base's forward, as peft before 0.21 does: the hooks are what gathers the weights."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    if base is not model and is_sharded(base):
        model.base_model.forward = base.__call__
