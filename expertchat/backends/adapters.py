"""LoRA adapters (Hu et al. 2021, arXiv 2106.09685) over peft: several on one base model, one or none of them on at a time.

Two speakers share one set of weights by an adapter each; the base with all adapters off is the reference.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model, set_peft_model_state_dict
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from expertchat.backends.architecture import SENSES
from expertchat.backends.folders import weights_problem
from expertchat.backends.layouts import BLOCK, experts_of
from expertchat.config import ConfigError
from expertchat.folder.embedded import PREFIX, models_id
from expertchat.folder.writing import saving

_PREFIX = "base_model.model."
_ATTENTION = re.compile(r"attn|attention", re.IGNORECASE)  # in the path of a module that attends, with every architecture of transformers
_WEIGHTS, _CONFIG = "adapter_model.safetensors", "adapter_config.json"


class Adapters:
    """The adapters of one model. `base` stays usable as it is: its layers are wrapped in place and follow `use`.

    Adapter weights are fp32 unless said otherwise, also on a half-precision or quantised base: small updates get lost in bf16, and fp16
    gradients overflow.
    """

    def __init__(self, base: Any) -> None:
        self.base = base
        self._of: dict[str, tuple[str | None, str | None]] = {}  # by adapter: name and revision of its base, for saved folders
        self.model: Any = None  # the PeftModel, which TRL wants; None before the first adapter
        self.active: str | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The adapters that are attached, oldest first."""
        return () if self.model is None else tuple(self.model.peft_config)

    def attach(
        self,
        name: str,
        targets: Sequence[str],
        *,
        r: int = 16,
        alpha: int = 32,
        dropout: float = 0.0,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
        path: str | None = None,
        revision: str | None = None,
    ) -> tuple[str, ...]:
        """Add a new adapter, which changes nothing yet, and turn it on; returns the targets that the model has not. Raises ConfigError.

        `targets`: names of linear layers (a family's lora_targets); the same `seed` gives the same weights. `path` and
        `revision`: the base's in saved folders (a hub id, a folder, embedded:NAME; unset: where it was loaded from).
        """
        there = linear_layers(self.base)
        leaves = {path.rpartition(".")[2] for path in there if not re.fullmatch(SENSES, path)}
        found = [target for target in targets if target in leaves]
        if not found:
            choice = f"choose among {', '.join(sorted(leaves))}" if leaves else "it has none at all that an adapter could change"
            raise ConfigError(f"adapter {name}: the model has no linear layers named {', '.join(targets)}; {choice}")
        apart = SENSES if any(re.fullmatch(SENSES, path) for path in there) else None
        config = LoraConfig(
            r=r, lora_alpha=alpha, lora_dropout=dropout, target_modules=found, exclude_modules=apart, task_type="CAUSAL_LM"
        )
        self._add(name, config, seed, dtype)
        self._of[name] = path or getattr(self.base, "name_or_path", None) or None, revision
        return tuple(target for target in targets if target not in leaves)

    def load(self, name: str, folder: Path, dtype: torch.dtype = torch.float32) -> None:
        """Add a saved adapter and turn it on. Raises ConfigError where the folder holds none, or one of another model."""
        problem, config, tensors = self._read(folder)
        if problem or config is None:
            raise ConfigError(f"adapter {name} ({folder}): {problem}")
        self._of[name] = config.base_model_name_or_path, config.revision
        self._add(name, config, 0, dtype)
        set_peft_model_state_dict(self.model, tensors, adapter_name=name)

    def restore(self, name: str, folder: Path) -> None:
        """Give an attached adapter the weights of a saved one of the same shape. Raises ConfigError, which says what is wrong alone: the
        folder was never downloaded, and whoever wrote it knows what else there is."""
        self._known(name)
        problem, _, tensors = self._read(folder)
        shapes = {path.replace(f".{name}.", "."): tuple(p.shape) for path, p in self.parameters(name).items()}
        if not problem and {key.removeprefix(_PREFIX): tuple(t.shape) for key, t in tensors.items()} != shapes:
            problem = "its layers or its rank are others than those of this run"
        if problem:
            raise ConfigError(f"{folder}: {problem.partition(';')[0].removesuffix(': the download was cut short')}")
        set_peft_model_state_dict(self.model, tensors, adapter_name=name)

    def save(self, name: str, folder: Path) -> None:
        """Write a PEFT folder (safetensors); the config, without which a folder holds no adapter, is renamed into place last.

        The experts of a mixture get their published names: PEFT puts them on transformers' own Mixtral, whose experts are fused, and vLLM
        knows no others.
        """
        self._known(name)
        folder.mkdir(parents=True, exist_ok=True)
        with saving(folder), tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-", ignore_cleanup_errors=True) as work:
            self.model.save_pretrained(work, selected_adapters=[name], safe_serialization=True, save_embedding_layers=False)
            written = Path(work) if name == "default" else Path(work) / name
            self._publish(written, *self._of[name])
            for file in (_WEIGHTS, _CONFIG):
                os.replace(written / file, folder / file)

    def _publish(self, folder: Path, path: str | None, revision: str | None) -> None:
        """Rewrite a folder that peft has just saved: which model it is for, the same bytes for the same adapter, published names."""
        values = json.loads((folder / _CONFIG).read_text("utf-8"))
        if isinstance(values["target_modules"], list):
            values["target_modules"].sort()  # it comes from a set, whose order is another one in every process
        revision = models_id() if path is not None and path.startswith(PREFIX) else revision
        values |= {"base_model_name_or_path": path, "revision": revision}  # peft keeps the folder that the model was loaded from
        (folder / _CONFIG).write_text(json.dumps(values, indent=2, sort_keys=True), "utf-8")
        own, published = self._expert_names()
        if own != published:
            tensors = {key.replace(own, published): tensor for key, tensor in load_file(folder / _WEIGHTS).items()}
            save_file(tensors, folder / _WEIGHTS, {"format": "pt"})

    def _expert_names(self) -> tuple[str, str]:
        """What stands in the names of the base's experts: as transformers calls them, and as published."""
        experts = experts_of(self.base.config.model_type)
        return f".{BLOCK}.experts.", f".{experts.block if experts else BLOCK}.experts."

    def use(self, name: str | None) -> None:
        """Turn one adapter on (it alone is trainable then), or all off (None: the base model, exactly)."""
        if name == self.active:
            return
        if name is None:
            self.model.base_model.disable_adapter_layers()
        else:
            self._known(name)
            if self.active is None:
                self.model.base_model.enable_adapter_layers()
            self.model.set_adapter(name)
        self.active = name

    @contextmanager
    def using(self, name: str | None) -> Iterator[None]:
        """`use` for a while; then what was on before."""
        before = self.active
        self.use(name)
        try:
            yield
        finally:
            self.use(before)

    def remove(self, name: str) -> None:
        """Take an adapter away; none is on afterwards."""
        self._known(name)
        self.use(None)
        self.model.delete_adapter(name)
        del self._of[name]

    def parameters(self, name: str) -> dict[str, nn.Parameter]:
        """The adapter's weights by their place in the base model."""
        self._known(name)
        return {path: p for path, p in self.base.named_parameters() if f".{name}." in path and ".lora_" in path}

    def _add(self, name: str, config: LoraConfig, seed: int, dtype: torch.dtype) -> None:
        # peft takes a part of "lora_" for its own prefix, and torch keeps adapters as attributes of a ModuleDict ("train", "half", ...)
        if not re.fullmatch(r"\w+", name) or name in "lora_" or name in self.names or hasattr(nn.ModuleDict(), name):
            raise ConfigError(
                f"adapter {name!r}: choose a name of letters, digits and _ that is not in use ({', '.join(self.names) or 'none is'}), "
                'no part of "lora_", and not the name of a method of torch modules'
            )
        config.base_model_name_or_path = None  # peft puts its own there, and warns where that is another
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "fan_in_fan_out is set to False")  # peft sets it right by itself, for Conv1D
            warnings.simplefilter("ignore", FutureWarning)  # peft reads a property that transformers has renamed
            torch.manual_seed(seed)
            try:
                if self.model is None:
                    self.model = get_peft_model(self.base, config, adapter_name=name)
                else:
                    self.model.add_adapter(name, config)
            except ValueError as error:  # a layer that peft cannot adapt
                raise ConfigError(f"adapter {name}: {str(error).splitlines()[0]}") from None
        for parameter in self.parameters(name).values():
            parameter.data = parameter.data.to(dtype)
        self.model.base_model.enable_adapter_layers()
        self.model.set_adapter(name)
        self.active = name
        self.base.eval()

    def _known(self, name: str) -> None:
        if name not in self.names:
            raise ConfigError(f"there is no adapter {name}; there are {', '.join(self.names) or 'none'}")

    def _read(self, folder: Path) -> tuple[str | None, LoraConfig | None, dict[str, Tensor]]:
        """A problem, or the config and the tensors of a PEFT folder that fits this model."""
        for file in (_CONFIG, _WEIGHTS):
            if not (folder / file).is_file():
                return f"holds no {file}; name a folder that PEFT has saved, with safetensors", None, {}
        try:
            values = json.loads((folder / _CONFIG).read_text("utf-8"))
            if not isinstance(values, dict) or values.get("peft_type") != "LORA":
                return f"{_CONFIG} is not that of a LoRA adapter; only those are loaded", None, {}
            config = LoraConfig.from_pretrained(str(folder))
        except (ValueError, TypeError, OSError) as error:
            return f"{_CONFIG} cannot be read ({str(error).splitlines()[0]}); save the adapter again", None, {}
        problem = weights_problem(folder / _WEIGHTS)
        if problem:
            return problem, None, {}
        try:
            own, published = self._expert_names()
            tensors = {key.replace(published, own): tensor for key, tensor in load_file(folder / _WEIGHTS).items()}
        except (OSError, SafetensorError) as error:
            return f"{_WEIGHTS} cannot be read ({str(error).splitlines()[0]}); save the adapter again", None, {}
        return _misfit(tensors, linear_layers(self.base), config), config, tensors


def linear_layers(model: Any) -> dict[str, tuple[int, int]]:
    """Path, width of the output and width of the input of every linear layer but the output layer; those of adapters do not count.

    GPT-2's and its relatives' are called convolutions (Conv1D), their weights lie the other way round.
    """
    head = model.get_output_embeddings()
    found = {}
    for path, module in model.named_modules():
        if module is head or ".lora_" in path:
            continue
        if isinstance(module, nn.Linear):
            found[path.removesuffix(".base_layer")] = (module.out_features, module.in_features)
        elif isinstance(module, Conv1D):
            found[path.removesuffix(".base_layer")] = (module.nf, module.nx)
    return found


def usual_targets(model: Any, wanted: Sequence[str]) -> tuple[str, ...]:
    """A family's targets as this model calls them: where it lacks some, those it has and the linear layers of its attention.

    A model without attention (state-space layers) is given all of its linear layers but out_proj, which its kernels read past the adapter.
    """
    layers = [path for path in linear_layers(model) if not re.fullmatch(SENSES, path)]
    leaves = {path.rpartition(".")[2] for path in layers}
    if leaves.issuperset(wanted):
        return tuple(wanted)
    inside = {path.rpartition(".")[2] for path in layers if _ATTENTION.search(path.rpartition(".")[0])}
    return tuple(sorted(inside.union(leaves.intersection(wanted)) or leaves - {"out_proj"}))


def _misfit(tensors: dict[str, Tensor], layers: dict[str, tuple[int, int]], config: LoraConfig) -> str | None:
    """Why an adapter's tensors do not belong to a model with these linear layers, or None."""
    for key, tensor in tensors.items():
        path, _, part = key.removeprefix(_PREFIX).partition(".lora_")
        if path not in layers:
            return f"is for a model with a layer {path}, which this one has not; name the adapter of this model"
        out, into = layers[path]
        rank = (config.rank_pattern or {}).get(path.rpartition(".")[2], config.r)
        expected = {"A.weight": (rank, into), "B.weight": (out, rank)}.get(part)
        if tuple(tensor.shape) != expected:
            return f"{key} has the shape {tuple(tensor.shape)}, but this model needs {expected}; name the adapter of this model"
    paths = {key.removeprefix(_PREFIX).partition(".lora_")[0] for key in tensors}
    targets = config.target_modules if isinstance(config.target_modules, set | list) else ()
    apart = config.exclude_modules if isinstance(config.exclude_modules, str) else r"(?!)"
    wanted = {path for path in layers if path.rpartition(".")[2] in targets and not re.fullmatch(apart, path)}
    lacking = sorted(wanted - paths)
    if lacking or len(tensors) != 2 * len(paths):
        return f"lacks the weights of {lacking[0] if lacking else 'a layer'}; save the adapter again"
    return None
