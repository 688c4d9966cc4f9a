"""The models that learn to give numbers: an encoder that is trained whole, a decoder with a score head by LoRA or whole.

Both are shown exactly the tokens that expertchat.backends.reward_model shows them when they judge.
"""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from peft import LoraConfig, get_peft_model, set_peft_model_state_dict
from safetensors import SafetensorError
from safetensors.torch import load_file
from sentence_transformers import CrossEncoder
from torch import Tensor, nn

from expertchat.backends.adapters import linear_layers, usual_targets
from expertchat.backends.folders import find_folder, is_hub_id
from expertchat.backends.hardware import choose_device, choose_dtype, parameters_of
from expertchat.backends.local import LocalBackend
from expertchat.backends.reward_folders import ADAPTER, ADAPTER_WEIGHTS, FACTS
from expertchat.backends.reward_model import HEADS, OF_TYPE, RewardModel, Tokens, load_classifier, with_exact_head
from expertchat.config import ConfigError, RewardModelConfig
from expertchat.folder.embedded import PREFIX, models_id
from expertchat.folder.writing import replace, saving
from expertchat.reward_models.config import RewardModelTraining
from expertchat.text.sentences import first_line, shown_path
from expertchat.training.learner import Learner
from expertchat.training.steady import check_finite

NAME = "the reward model"
USUAL = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")  # LoRA's layers, where a model has them
WEIGHTS = "model.safetensors"


class TokenEncoder(CrossEncoder):
    """A cross-encoder of sentence-transformers whose rows are tokens already. A row comes as (anything, its tokens)."""

    as_tensors: Callable[[Sequence[Tokens]], dict[str, Tensor]]

    def preprocess(self, inputs: Any, *args: Any, **more: Any) -> dict[str, Any]:
        return self.as_tensors([tokens for _, tokens in inputs])

    def get_input_embeddings(self) -> nn.Module:
        return self.model.get_input_embeddings()  # type: ignore[union-attr]


class _Place:
    """What an update asks of the backend of whom it trains."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.device = str(model.device)
        self.engine = None


class RewardLearner(Learner):
    """A classifier that learns. `judge`: the same model, as it judges; `trained`: what a Trainer is given; `version` counts its epochs."""

    trained: Any
    judge: RewardModel

    def __init__(self, config: RewardModelTraining, model: Any, tokenizer: Any, facts: Mapping[str, Any]) -> None:
        super().__init__("model", cast(LocalBackend, _Place(model)), cast(Any, config.train))
        types = list(facts.get("types", ()))
        settings = RewardModelConfig(
            path=config.path, batch_size=max(8, config.train.micro_batch), max_tokens=config.train.max_tokens,
            label=OF_TYPE if types else None,
        )  # fmt: skip
        shown = {"compares": config.kind == "comparison", "history": config.shows_history, "alone": bool(types)}
        self.judge = RewardModel(model, tokenizer, shown_path(config.path), settings, len(types) or 1, **shown)
        self.facts = dict(facts)

    @property
    def who(self) -> str:
        return NAME

    @property
    def tokenizer(self) -> Any:
        return self.judge.tokenizer

    def model(self) -> Any:
        return self.trained

    @contextlib.contextmanager
    def training(self) -> Iterator[Any]:
        try:
            yield self.trained
        finally:
            self.trained.eval()

    def refresh(self) -> None:
        """Nothing is kept between passes."""

    def _describe(self, folder: Path) -> None:
        """The tokenizer, and what judges must know of the weights beside it."""
        self.tokenizer.save_pretrained(str(folder))
        replace(folder / FACTS, json.dumps(self.facts, indent=2) + "\n")


class EncoderLearner(RewardLearner):
    """All weights of a BERT-class model with one output."""

    def __init__(self, config: RewardModelTraining, encoder: TokenEncoder, facts: Mapping[str, Any]) -> None:
        super().__init__(config, encoder.model, encoder.tokenizer, facts)
        encoder.as_tensors = self.judge.batch
        self.trained = encoder
        _set_dropout(encoder, config.train.dropout)

    def parameters(self) -> dict[str, nn.Parameter]:
        return dict(self.judge.model.named_parameters())

    def save(self, folder: Path) -> None:
        _save_whole(self, folder)

    def load(self, folder: Path) -> None:
        _load_whole(self, folder)


class DecoderLearner(RewardLearner):
    """A language model whose output layer is a score head: all of its weights, or an adapter and the head."""

    def __init__(self, config: RewardModelTraining, model: Any, tokenizer: Any, facts: Mapping[str, Any]) -> None:
        self.lora = config.method == "lora"
        if self.lora:
            model = _adapted(model, config)
        else:
            _set_dropout(model, config.train.dropout)
        super().__init__(config, model, tokenizer, facts)
        self.trained = model
        own = not is_hub_id(config.path, config.model.models_dir) and Path(config.path).is_dir()
        self.begins_from, self.revision = str(Path(config.path).absolute()) if own else config.path, config.model.revision

    def parameters(self) -> dict[str, nn.Parameter]:
        return {name: p for name, p in self.trained.named_parameters() if p.requires_grad}

    def save(self, folder: Path) -> None:
        if not self.lora:
            return _save_whole(self, folder)
        check_finite(self.parameters(), NAME)
        with saving(folder):
            self.trained.save_pretrained(str(folder), safe_serialization=True, save_embedding_layers=False)
            (folder / "README.md").unlink(missing_ok=True)  # peft's; the run writes its own
            values = json.loads((folder / ADAPTER).read_text("utf-8"))
            if isinstance(values["target_modules"], list):
                values["target_modules"].sort()
            revision = models_id() if self.begins_from.startswith(PREFIX) else self.revision
            values |= {"base_model_name_or_path": self.begins_from, "revision": revision, "task_type": "SEQ_CLS"}
            (folder / ADAPTER).write_text(json.dumps(values, indent=2, sort_keys=True), "utf-8")
            self._describe(folder)

    def load(self, folder: Path) -> None:
        if not self.lora:
            return _load_whole(self, folder)
        try:
            tensors = load_file(folder / ADAPTER_WEIGHTS)
        except (OSError, SafetensorError) as error:
            raise ConfigError(f"{folder / ADAPTER_WEIGHTS} is damaged or missing ({first_line(error)})") from None
        told: Any = set_peft_model_state_dict(self.trained, tensors)
        missing = told.unexpected_keys
        if missing:
            raise ConfigError(f"{folder / ADAPTER_WEIGHTS} is not of this model ({missing[0]}); name another run.dir")


def make_learner(config: RewardModelTraining, facts: Mapping[str, Any]) -> RewardLearner:
    """Load what training begins from, with a new head that the seed draws. Raises ConfigError where it cannot be trained so."""
    folder = find_folder(config.path, config.model.revision, models_dir=config.model.models_dir)
    device, _ = choose_device(config.model.device)
    dtype, _ = choose_dtype(config.model.dtype, device, parameters_of(folder))
    torch.manual_seed(config.run.seed)
    kind = config.model.quantization
    try:
        if config.kind != "decoder":
            return EncoderLearner(config, _encoder(folder, device, dtype, facts.get("types", ())), facts)
        model, tokenizer, _ = load_classifier(folder, device, dtype, kind, labels=1)
    except ConfigError:
        raise
    except Exception as error:  # whatever an architecture without a classifier, or a broken folder, makes the loaders raise
        remedy = "name a language model" if config.kind == "decoder" else "name an encoder such as a BERT, or set kind=decoder"
        raise ConfigError(f"model.path={config.path}: cannot be made a reward model ({first_line(error)}); {remedy}") from None
    return DecoderLearner(config, model, tokenizer, {**facts, "quantization": kind})


def _encoder(folder: Path, device: str, dtype: torch.dtype, types: Sequence[str]) -> TokenEncoder:
    """An encoder with a new head: of one output, or of one for each type."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    settings = {"use_safetensors": True, "dtype": dtype}
    logging.getLogger("sentence_transformers").setLevel(logging.ERROR)  # it tells of every embedder that it makes a classifier of
    encoder = TokenEncoder(
        str(folder), num_labels=len(types) or 1, device=device, model_kwargs=settings, local_files_only=True, trust_remote_code=False
    )
    if encoder.model is None or not type(encoder.model).__name__.endswith("ForSequenceClassification"):
        raise ValueError("it is a language model")
    if types:
        encoder.model.config.id2label = dict(enumerate(types))
        encoder.model.config.label2id = {name: at for at, name in enumerate(types)}
    return encoder


def _adapted(model: Any, config: RewardModelTraining) -> Any:
    """A classifier with an adapter and a head that are trained, both in fp32: small steps get lost in less."""
    train = config.train
    usual = [name for name in usual_targets(model, USUAL) if name not in HEADS]
    targets = train.targets or usual
    leaves = {path.rpartition(".")[2] for path in linear_layers(model)} - set(HEADS)
    if lacking := [name for name in targets if name not in leaves]:
        there = ", ".join(sorted(leaves))
        raise ConfigError(f"train.targets: {config.path} has no linear layers named {', '.join(lacking)}; there are {there}")
    head = next(name for name in HEADS if hasattr(model, name))
    lora = LoraConfig(
        r=train.rank, lora_alpha=train.alpha, lora_dropout=train.dropout or 0.0, target_modules=list(targets), task_type="SEQ_CLS",
        modules_to_save=[head],
    )  # fmt: skip
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    adapted = get_peft_model(model, lora)
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return with_exact_head(adapted)


def _set_dropout(model: nn.Module, share: float | None) -> None:
    """All dropout of a model; None leaves it as it is."""
    for module in model.modules() if share is not None else ():
        if isinstance(module, nn.Dropout):
            module.p = float(share or 0)


def _save_whole(learner: RewardLearner, folder: Path) -> None:
    """A folder that transformers loads by itself."""
    check_finite(learner.parameters(), NAME)
    with saving(folder):
        learner.judge.model.save_pretrained(str(folder), safe_serialization=True)
        learner._describe(folder)


def _load_whole(learner: RewardLearner, folder: Path) -> None:
    try:
        tensors: dict[str, Tensor] = load_file(folder / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise ConfigError(f"{folder / WEIGHTS} is damaged or missing ({first_line(error)})") from None
    mine = learner.judge.model.state_dict()
    if any(name not in mine or mine[name].shape != tensor.shape for name, tensor in tensors.items()):
        raise ConfigError(f"{folder / WEIGHTS} is not of this model; name another run.dir")
    learner.judge.model.load_state_dict(tensors, strict=False)
