"""`expertchat sft --show N`: rows with their tokens and what of them is trained. No weight is read, nothing is trained."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from expertchat.backends.folders import find_folder, settings_of
from expertchat.backends.gguf import is_gguf
from expertchat.backends.layouts import context_of
from expertchat.backends.rendering import Renderer
from expertchat.config import ConfigError
from expertchat.records import Demonstration
from expertchat.sources.demonstrations import read_demonstrations
from expertchat.text.sentences import shown_path
from expertchat.training.encoded import Encoded, Encoder, checked
from expertchat.training.sft_config import SftConfig
from expertchat.training.sft_run import spread, warnings_of

CONTEXT = 4096  # tokens, where a model's config does not say


def shown_rows(config: SftConfig, count: int, say: Callable[[str], None]) -> dict[str, Any]:
    """`count` rows, half of them held out where some are, as (token, whether it is trained); and all warnings. Raises ConfigError."""
    rows = read_demonstrations(config.data, config.run.seed, say)
    encoder = encoder_of(config)
    found = checked(rows, encoder, config.data.cut == "cut")
    train, held = found.part("train"), found.part("evaluation")
    some = spread(held, min(len(held), count // 2))
    chosen = [*spread(train, count - len(some)), *some]
    return {
        "model": shown_path(config.model.path), "template": config.data.template, "most": encoder.most,
        "counts": {"train": len(train), "choosing": len(found.part("choosing")), "evaluation": len(held)},
        "tokens": sum(one.tokens for one in train),
        "trained": sum(len(one.completion) for one in train), "rows": [_shown(one, encoder) for one in chosen],
        "warnings": warnings_of(rows, found),
    }  # fmt: skip


def encoder_of(config: SftConfig) -> Encoder:
    """The model's own tokenizer with its template, without its weights. Raises ConfigError."""
    from transformers import AutoTokenizer

    from expertchat.backends.hardware import DTYPES
    from expertchat.backends.unpacking import unpacked

    model = config.model
    folder = find_folder(model.path, model.revision, models_dir=model.models_dir)
    if is_gguf(folder):
        folder = unpacked(folder, DTYPES["fp32" if model.dtype == "auto" else model.dtype], model.path)[0]
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except (OSError, ValueError) as error:
        raise ConfigError(f"model.path={model.path}: its tokenizer cannot be read ({str(error).splitlines()[0]})") from None
    context = model.context_length or context_of(settings_of(folder)) or CONTEXT
    return Encoder(Renderer(tokenizer, shown_path(model.path), model.thinking), tokenizer, min(config.train.max_tokens or context, context))


def _shown(one: Encoded, encoder: Encoder) -> dict[str, Any]:
    row: Demonstration = one.row
    tokens = [(text, False) for text in pieces(encoder.tokenizer, one.prompt)]
    tokens += [(text, True) for text in pieces(encoder.tokenizer, one.completion)]
    return {"id": row.id, "part": row.part, "source": row.source, "tokens": tokens, "cut": one.cut, "ended": one.ended}


def pieces(tokenizer: Any, ids: list[int]) -> list[str]:
    """The text of each token; those that hold a part of a character alone come together with the next ones."""
    found, waiting = list[str](), list[int]()
    for one in ids:
        waiting.append(one)
        text = tokenizer.decode(waiting, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        if text.endswith("\ufffd") and len(waiting) < 4:
            found.append("")  # it is shown with the one that completes it
            continue
        found.append(text)
        waiting = []
    if waiting:
        found[-1] = tokenizer.decode(waiting, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    return found
