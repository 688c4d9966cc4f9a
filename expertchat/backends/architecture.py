"""What transformers knows of a model folder's architecture: its class, and what that class can do. Reads config.json, no weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig, GenerationMixin
from transformers import __version__ as version

from expertchat.backends.folders import settings_of
from expertchat.backends.layouts import LINEAR, has_linear_experts
from expertchat.config import ConfigError
from expertchat.text.sentences import first_line

# Heads that are not a language model's: transformers would load the body and leave the output layer random, or tie it to the embedding.
_OTHER_HEADS = ("SequenceClassification", "TokenClassification", "QuestionAnswering", "MultipleChoice", "MaskedLM", "RewardModel")
_WINDOWS = ("sliding_window", "sliding_window_size", "attention_window_size", "attention_chunk_size", "keep_window_size", "local_attention",
            "local_attention_window_len", "window_size")  # fmt: skip
_LENGTHS = ("max_position_embeddings", "n_positions", "max_seq_len", "max_sequence_length", "seq_length", "context_length", "n_ctx")
# The path of a module with which a language model sees or hears besides (Gemma 3), of which nothing is used here.
SENSES = r"(?i)(?:.*[._])?(?:vision|visual|image|audio|speech).*"


class Architecture(NamedTuple):
    """The config of a folder as transformers reads it, and the class that it will be loaded with."""

    config: Any
    model: type[Any]

    @property
    def name(self) -> str:
        return self.model.__name__

    @property
    def attentions(self) -> tuple[str, ...]:
        """The implementations of attention that the class declares, the fastest first that runs everywhere."""
        can_flash = getattr(self.model, "_supports_flash_attn", getattr(self.model, "_supports_flash_attn_2", False))
        declared = {"sdpa": getattr(self.model, "_supports_sdpa", False), "eager": True, "flash_attention_2": can_flash}
        return tuple(name for name, there in declared.items() if there)

    @property
    def why_no_sdpa(self) -> str:
        """Why it is run without sdpa, as far as its config says."""
        cap = getattr(self.config.get_text_config(), "attn_logit_softcapping", None)
        more = f": it caps its attention scores at {cap:g}, which sdpa cannot" if cap else ""
        return f"{self.name} declares no sdpa{more}"


def architecture(folder: Path, name: str) -> Architecture:
    """The architecture of a checked folder. Raises ConfigError where it is none of a language model that transformers has."""
    found = find_architecture(folder)
    if isinstance(found, str):
        raise ConfigError(f"model {name} ({folder}): {found}")
    return found


def find_architecture(folder: Path) -> Architecture | str:
    """The architecture of a folder with a config.json, or why it is none of a language model that transformers has."""
    settings = settings_of(folder)
    kind = settings.get("model_type")
    if has_linear_experts(kind):
        from expertchat.backends.linear_experts import linear_class

        linear_class(str(kind).removesuffix(LINEAR))  # makes it known to transformers
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except Exception as error:  # whatever a broken config.json makes transformers raise
        return f"cannot be loaded: {_config_problem(settings, error)}"
    problem = _not_a_language_model(config, settings)
    if problem:
        return problem
    found: Any = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    found = found[0] if isinstance(found, Sequence) else found
    if not issubclass(found, GenerationMixin):
        return f"{found.__name__} (model_type {kind}) cannot generate text: name a language model"
    return Architecture(config, found)


def _config_problem(settings: dict[str, Any], error: Exception) -> str:
    """Why a config.json is not understood, and what to do."""
    kind = settings.get("model_type")
    if settings.get("auto_map"):
        return f"its architecture (model_type {kind}) is code in its own folder, and no code of a model is run: name another model"
    if kind is None:
        return "its config.json names no model_type: download it again"
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    if kind not in CONFIG_MAPPING_NAMES:
        return f"transformers {version} does not know its architecture (model_type {kind}): update transformers, or name another model"
    why = f"its config.json does not fit transformers {version} ({first_line(error)})"
    return f"{why}: correct it, update transformers, or download it again"


def _not_a_language_model(config: Any, settings: dict[str, Any]) -> str | None:
    kind = settings.get("model_type")
    heads = [head for head in settings.get("architectures") or () if str(head).endswith(_OTHER_HEADS)]
    if heads:
        return f"its config.json names {heads[0]}, which is no language model: name the instruct model that it was made from"
    if getattr(config, "is_encoder_decoder", False):
        return f"is an encoder-decoder (model_type {kind}), which does not continue a chat: name a decoder-only instruct model"
    if type(config) in MODEL_FOR_CAUSAL_LM_MAPPING:
        return None
    of = "of images or sound and text" if getattr(config, "sub_configs", None) else "of another kind"
    return f"is a model {of} (model_type {kind}), which transformers has no text-only language model for: name one of text alone"


def attention_window(config: Any) -> int | None:
    """The smallest number of last tokens that some layer attends to; None where all layers see everything."""
    text = config.get_text_config()
    kinds = set(getattr(text, "layer_types", None) or getattr(text, "attention_layers", None) or ())
    if kinds and kinds <= {"full_attention", "global"}:
        return None
    if not getattr(text, "use_sliding_window", True):
        return None
    found = [value for name in _WINDOWS if isinstance(value := getattr(text, name, None), int) and value > 0]
    return min(found, default=None)


def counts_places(config: Any) -> bool:
    """Whether attention depends on where keys stand in a row and not on their positions: biases by distance (ALiBi)."""
    text = config.get_text_config()
    inner = getattr(text, "attn_config", None)
    return text.model_type == "bloom" or bool(getattr(text, "alibi", False)) or bool(getattr(inner, "alibi", False))


def holds(config: Any) -> int:
    """The tokens that a model was made for, or 0 where its config does not say."""
    text = config.get_text_config()
    return next((value for name in _LENGTHS if isinstance(value := getattr(text, name, None), int) and value > 0), 0)
