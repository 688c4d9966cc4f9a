"""One DPO update (Rafailov et al. 2023, arXiv 2305.18290) of a learner on a round's pairs, through TRL's DPOTrainer.

TRL is kept to what is ours: the reference that the config names, adapters in their own precision, log probabilities of the replies alone
and in fp32, on whatever GPU the model stands, and a forward that is as it was when the update is over.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # TRL would ask the hub who uses it

import torch
from trl import DPOConfig, DPOTrainer
from trl.trainer import dpo_trainer
from trl.trainer import utils as trl_utils
from trl.trainer.utils import disable_dropout_in_model

from expertchat.backends.decoding import body
from expertchat.training.config import TrainConfig
from expertchat.training.learner import Learner, LoraLearner
from expertchat.training.method import Rows
from expertchat.training.one_prompt import one_prompt
from expertchat.training.rows import Row, arranged, row_of
from expertchat.training.sharding import SharedUpdate
from expertchat.training.update import Updater

# Two switches of TRL's own. Where one is gone, the update is slower, or its log probabilities come in steps of the model's type.
EVERYWHERE = "_use_triton"  # TRL scores the replies alone on GPUs; elsewhere it computes the logits of every prompt token too
IN_FP32 = "cast_lm_head_to_fp32"  # its default is the model's type: logits of bf16 near 20 come in steps of 1/8


class Dpo(Updater):
    """Online DPO: every pair of a round once an epoch.

    The figure `log_ratio` is the mean of log pi(y|x) - log ref(y|x) over the chosen and rejected replies, nats a reply, against the
    reference that the loss has. It is no KL: for how far the policy has gone see expertchat.training.drift.
    """

    config: TrainConfig
    means: ClassVar[Mapping[str, str]] = {
        "loss": "loss",
        "grad_norm": "grad_norm",
        "accuracy": "rewards/accuracies",
        "implicit_margin": "rewards/margins",
        "reward_chosen": "rewards/chosen",
        "reward_rejected": "rewards/rejected",
    }

    def rows(self, given: Rows, round: int) -> list[Row]:
        if given.shown:  # of a file, in their order already
            return [dict(row) for row in given.shown]
        return [row_of(pair, self.learner.backend.renderer) for pair in arranged(given.pairs, self.seed, round)]

    @contextlib.contextmanager
    def trainer(self, model: Any, arguments: Mapping[str, Any], **more: Any) -> Iterator[SharedUpdate]:
        config = self.config
        settings = DPOConfig(
            **arguments,
            loss_type=list(config.loss),
            loss_weights=config.loss_weights,
            beta=config.beta,
            label_smoothing=config.label_smoothing,
            max_length=None,
        )
        with patched(model, self.learner, config.checkpointing):
            yield built(model, self.learner, config.reference, config.dropout, args=settings, **more)

    def figures(self, logs: Sequence[Mapping[str, float]]) -> dict[str, float]:
        means = super().figures(logs)
        last = means.pop("learning_rate")
        ratio = (means.pop("reward_chosen") + means.pop("reward_rejected")) / 2 / self.config.beta
        return {**means, "log_ratio": ratio, "learning_rate": last}


class RoundTrainer(SharedUpdate, DPOTrainer):
    """DPOTrainer on rows that have token ids already."""

    def _prepare_dataset(self, dataset: Any, *args: Any) -> Any:
        return dataset


def built(
    model: Any, learner: Learner, reference: str, dropout: float, kind: type[SharedUpdate] = RoundTrainer, **more: Any
) -> SharedUpdate:
    """The round's trainer, of a `kind` of TRL's that takes its reference as DPOTrainer does. TRL trains a PEFT model against a copy of its
    adapter "default", called "ref", where there is one, else with the adapters off. So the learner's adapter is called "default" while
    TRL builds, and "ref" is filled or taken away."""
    peft = model if isinstance(learner, LoraLearner) else None
    base = model.get_base_model() if peft is not None else model
    weights = learner.parameters()
    exact = {name: p.data for name, p in weights.items()}
    if peft is not None:
        peft.peft_config["default"] = peft.peft_config[learner.name]  # type: ignore[attr-defined]
    try:
        trainer = kind(model=model, ref_model=learner.reference(), processing_class=learner.tokenizer, **more)
    finally:
        if peft is not None:
            del peft.peft_config["default"]
    for name, parameter in weights.items():
        parameter.data = exact[name]  # TRL rounds the adapters of a 4-bit model to bf16
    if peft is not None:
        _reference(peft, learner.name, reference)  # type: ignore[attr-defined]
        drop(base, learner.name, dropout)  # type: ignore[attr-defined]
    place_heads(base, learner)
    return trainer


@contextlib.contextmanager
def patched(model: Any, learner: Learner, checkpointing: bool, trainer: Any = dpo_trainer, replies: int = 2) -> Iterator[None]:
    """TRL may build and train in here; afterwards the model is as it was. `trainer`: the module of the one that is built; `replies`: how
    many replies a row has, which share its prompt."""
    peft = model if isinstance(learner, LoraLearner) else None
    base = model.get_base_model() if peft is not None else model
    models = [one for one in (base, learner.reference()) if one is not None]
    bodies = {one: body(one) for one in models}
    for one, inner in bodies.items():
        if one.base_model is one:  # TRL looks for the body there
            one.base_model_prefix = next(name for name, child in one.named_children() if child is inner)
    try:
        with contextlib.ExitStack() as stack, warnings.catch_warnings(), exact_replies(trainer), _anywhere(base):
            if replies > 1 and learner.backend.engine is not None:  # which has seen that the model computes rows that are shared
                for inner in bodies.values():
                    stack.enter_context(one_prompt(inner, replies))
            warnings.simplefilter("ignore", FutureWarning)  # older versions of transformers have the old names alone
            yield
    finally:
        if peft is not None and "ref" in peft.peft_config:
            peft.delete_adapter("ref")
            peft.set_adapter(learner.name)  # type: ignore[attr-defined]
        for one in models:
            vars(one).pop("forward", None)  # TRL's fused output layer
            vars(one).pop("base_model_prefix", None)
        if checkpointing:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)
                base.gradient_checkpointing_disable()
            base.disable_input_require_grads()


# -- the reference and dropout ------------------------------------------------------------------------------------------


def _reference(peft: Any, name: str, reference: str) -> None:
    """The adapter "ref" as the policy is now, or none: then the base is the reference."""
    if reference == "base":
        peft.delete_adapter("ref")
        peft.set_adapter(name)
        return
    with torch.no_grad():
        for path, parameter in peft.named_parameters():
            if f".{name}." in path:
                peft.get_parameter(path.replace(f".{name}.", ".ref.")).copy_(parameter)


def drop(base: Any, name: str, dropout: float) -> None:
    """Dropout in the learner's adapter alone: the reference is to stay without, and `generate` had none."""
    disable_dropout_in_model(base)
    for module in base.modules():
        for rate in ("attention_dropout", "dropout", "activation_dropout", "hidden_dropout", "layerdrop"):
            if isinstance(getattr(module, rate, None), float):
                setattr(module, rate, 0.0)
        if name in getattr(module, "lora_dropout", ()) and dropout:
            module.lora_dropout[name].p = dropout


# -- TRL's output layer -------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def exact_replies(trainer: Any = dpo_trainer) -> Iterator[None]:
    """Trainers of TRL's module `trainer` that are built and run in here score replies alone, in fp32."""
    with contextlib.ExitStack() as stack:
        if hasattr(trl_utils, EVERYWHERE):
            stack.enter_context(_replaced(trl_utils, EVERYWHERE, lambda device: True))
        fuse = getattr(trainer, "add_fused_lm_head", None)
        if fuse is not None and IN_FP32 in inspect.signature(fuse).parameters:
            stack.enter_context(_replaced(trainer, "add_fused_lm_head", functools.partial(fuse, **{IN_FP32: True})))
        yield


@contextlib.contextmanager
def _replaced(module: object, name: str, value: object) -> Iterator[None]:
    before = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, before)


# -- on whatever GPU the model stands -----------------------------------------------------------------------------------


@contextlib.contextmanager
def _anywhere(base: Any) -> Iterator[None]:
    """accelerate refuses to train a quantised model whose map says that all of it stands on another GPU than the first: hide the map."""
    places = getattr(base, "hf_device_map", None)
    whole = places is not None and len(set(places.values())) == 1
    if whole:
        del base.hf_device_map
    try:
        yield
    finally:
        if whole:
            base.hf_device_map = places


def on_gpu(device: torch.device, forward: Callable[..., Any]) -> Callable[..., Any]:
    """`forward` with `device` as the current GPU: TRL's kernels run on that one, wherever their tensors are."""
    if device.type != "cuda":
        return forward

    @functools.wraps(forward)
    def there(*args: Any, **more: Any) -> Any:
        with torch.cuda.device(device):
            return forward(*args, **more)

    return there


def place_heads(base: Any, learner: Learner) -> None:
    """Let the output layers that TRL has put on a learner's models compute on whatever GPU those stand."""
    for one in (base, learner.reference()):
        if one is not None:
            where_asked(one)


def where_asked(model: Any) -> None:
    """Let TRL's forward of a model run on the GPU of its output layer, and its results lie where its tokens do."""
    head: torch.device = model.get_output_embeddings().weight.device
    model.forward = _results_where_asked(on_gpu(head, model.forward))


def _results_where_asked(forward: Callable[..., Any]) -> Callable[..., Any]:
    """TRL's forward, its results on the device of the tokens: of a model over several GPUs the output layer stands elsewhere."""

    @functools.wraps(forward)
    def moved(*args: Any, **more: Any) -> Any:
        out = forward(*args, **more)
        if more.get("fused_lm_head"):
            for name, value in out.items():
                out[name] = value.to(more["input_ids"].device) if isinstance(value, torch.Tensor) else value
        return out

    return moved
