"""The model that is measured: a random one of a given shape, or any that converse takes; and the ways to run it.

End tokens are off, so that every reply has exactly the tokens that were asked for and all ways do the same work.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from expertchat.backends.layouts import LAYOUTS
from expertchat.bench.config import BenchSettings
from expertchat.config import ConfigError
from expertchat.plan.random_shapes import Shape, parse_random
from expertchat.plan.random_words import speak_in_words
from expertchat.text.sentences import shown_path

EMBEDDED = "embedded:llama"


@dataclass
class Subject:
    """A model under test. `notes` are the automatic choices with their reasons."""

    name: str
    model: Any
    tokenizer: Any
    seed: int
    context_length: int
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self._attention: dict[int | None, str] = {None: self.model.config._attn_implementation}
        self._of_engine = self.model.config._attn_implementation
        self.masked = False  # whether the bare passes give masks
        self.faster: dict[int, bool] = {}  # by rows, whether they are the faster for it

    @property
    def dtype(self) -> str:
        return {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}[str(self.model.dtype).removeprefix("torch.")]

    @property
    def parameters(self) -> int:
        return sum(p.numel() for p in self.model.parameters())

    @property
    def kv_bytes(self) -> int:
        """Bytes that the cache of one token takes."""
        config = self.model.config.get_text_config()
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        return int(2 * config.num_hidden_layers * heads * dim * self.model.dtype.itemsize)

    def engine(self, rows: int | None = None, **more: Any) -> Any:
        """The product's own backend. `more`: e.g. cache_gib=0, which keeps nothing between requests."""
        backend = self._backend(max_batch=rows, **more)
        self._of_engine = self.model.config._attn_implementation
        return backend

    def plain(self, rows: int) -> Any:
        """Today's usual way: transformers' `generate` on left-padded batches of `rows`, every prompt computed from its beginning."""
        self.attend(None)
        return self._backend(max_batch=rows, engine=False)

    def attend(self, backend: Any) -> None:
        """Give the model the attention that `backend` was built with (an engine brings its own); None: the one it was loaded with."""
        self._set(self._attention[None if backend is None else id(backend)])

    def attend_bare(self, masked: bool) -> None:
        """For bare passes: the attention the model was loaded with, or that of the last engine, which wants masks."""
        self.masked = masked and self._of_engine != self._attention[None]
        self._set(self._of_engine if self.masked else self._attention[None])

    def _set(self, wanted: str) -> None:
        if self.model.config._attn_implementation != wanted:
            self.model.set_attn_implementation(wanted)

    def _backend(self, **wanted: Any) -> Any:
        from expertchat.backends.local import LocalBackend

        backend = LocalBackend(self.model, self.tokenizer, self.name, self.seed, context_length=self.context_length, **wanted)
        backend.end_ids = ()
        self.model.generation_config.eos_token_id = None  # `generate` would fall back on it
        self._attention[id(backend)] = self.model.config._attn_implementation
        return backend

    def device_type(self) -> str:
        return str(self.model.device.type)

    def sync(self) -> None:
        """Wait until the device has done what it was given, so that a clock tells the truth."""
        import torch

        if self.device_type() == "cuda":
            torch.cuda.synchronize()


def load_subject(settings: BenchSettings, dtype: str | None = None) -> Subject:
    """The model of `bench.model`, in `dtype` or that of the config. Raises ConfigError."""
    dtype = dtype or settings.dtype
    shape = parse_random(settings.model)
    if shape is not None:
        return random_subject(settings.model, shape, settings.seed, dtype, settings.device)
    from expertchat.backends.folders import find_folder
    from expertchat.backends.local import LocalBackend

    folder = find_folder(settings.model, models_dir=settings.models_dir)
    loaded = LocalBackend.load(folder, shown_path(settings.model), settings.seed, dtype=dtype, device=settings.device)
    if settings.trained is not None:
        from expertchat.backends.learnt import find_learnt
        from expertchat.backends.trained import merged

        loaded = merged(loaded, find_learnt(settings.trained))
    notes = tuple(loaded.info.notes)
    return Subject(loaded.info.name, loaded.model, loaded.tokenizer, settings.seed, loaded.info.context_length, notes)


def random_subject(name: str, shape: Shape, seed: int, dtype: str = "auto", device: str = "auto") -> Subject:
    """A random model, built in its number type on its device; nothing is saved. Raises ConfigError where the memory does not do."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    from expertchat.backends.folders import find_folder
    from expertchat.backends.hardware import choose_device, choose_dtype

    where, device_note = choose_device(device)
    number, dtype_note = choose_dtype(dtype, where, shape.parameters)
    tokenizer = AutoTokenizer.from_pretrained(find_folder(EMBEDDED), trust_remote_code=False, local_files_only=True)
    common: dict[str, Any] = {
        "hidden_size": shape.hidden, "num_hidden_layers": shape.layers, "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads, "intermediate_size": shape.ffn, "vocab_size": shape.vocab,
        "max_position_embeddings": shape.context, "tie_word_embeddings": False, "pad_token_id": tokenizer.pad_token_id,
    }  # fmt: skip
    layout = LAYOUTS[shape.kind]
    if experts := layout.experts:
        common |= {experts.count: shape.experts, experts.chosen: shape.experts_per_token, experts.width: shape.ffn}
    config = AutoConfig.for_model(shape.kind, **common, **layout.more)
    torch.manual_seed(seed)
    try:
        with torch.device(where):
            model = AutoModelForCausalLM.from_config(config, dtype=number, attn_implementation="sdpa").eval()
    except (torch.cuda.OutOfMemoryError, MemoryError):
        raise ConfigError(f"bench.model={name}: does not fit into the memory of {where}; name a smaller shape") from None
    speak_in_words(model, tokenizer)
    return Subject(name, model, tokenizer, seed, shape.context, tuple(note for note in (device_note, dtype_note) if note))
