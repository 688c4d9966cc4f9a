"""Random models by their shape: what `random:llama:28M` means. Knows numbers only, so that a config can be checked with it."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass, fields, replace

from expertchat.backends.layouts import experts_of

TOKENIZER_WORDS = 4921  # the vocabulary of the embedded tokenizer, which speaks for every random model


@dataclass(frozen=True)
class Shape:
    """The shape of a random model; `kind` is its model_type, `experts` counts for a mixture alone. Embedding and head are two matrices."""

    kind: str
    hidden: int = 512
    layers: int = 8
    heads: int = 8
    kv_heads: int = 4
    ffn: int = 1408
    vocab: int = TOKENIZER_WORDS
    context: int = 8192
    experts: int = 8
    experts_per_token: int = 2

    @property
    def mixture(self) -> bool:
        return experts_of(self.kind) is not None

    @property
    def parameters(self) -> int:
        """How many weights the model has."""
        attention = 2 * self.hidden * self.hidden * (self.heads + self.kv_heads) // self.heads
        gates, copies = (self.experts * self.hidden, self.experts) if self.mixture else (0, 1)
        layer = attention + gates + copies * 3 * self.hidden * self.ffn + 2 * self.hidden
        return 2 * self.vocab * self.hidden + self.layers * layer + self.hidden


NAMED: dict[str, dict[str, Shape]] = {
    "llama": {
        "28M": Shape("llama"),
        "110M": Shape("llama", 768, 12, 12, 12, 2048, 16_000),
        "8B": Shape("llama", 4096, 32, 32, 8, 14_336, 128_256),  # Llama 3 8B
    },
    "mixtral": {
        "80M": Shape("mixtral", experts=4),
        "8x7B": Shape("mixtral", 4096, 32, 32, 8, 14_336, 32_000),  # Mixtral 8x7B
    },
}
KEYS = tuple(field.name for field in fields(Shape) if field.name != "kind")
EXAMPLE = "random:llama:hidden=512,layers=8,heads=8,kv_heads=4,ffn=1408,vocab=4921"


def parse_random(spec: str) -> Shape | None:
    """The shape of `random:KIND:NAME` or `random:KIND:KEY=VALUE,...` (keys left out are those of 28M); None for any other path.

    Raises ValueError with what is wrong and the remedy.

    >>> parse_random("random:llama:hidden=64,layers=2").hidden
    64
    """
    if not spec.startswith("random:"):
        return None
    kind, _, rest = spec.removeprefix("random:").partition(":")
    if kind not in NAMED:
        raise ValueError(f"there is no random '{kind}'; write random:llama:28M, or random:mixtral:80M")
    if rest in NAMED[kind]:
        return NAMED[kind][rest]
    named = ", ".join(NAMED[kind])
    if "=" not in rest:
        raise ValueError(f"'{rest}' is no shape of a random {kind}: there are {named}, or give the numbers: {EXAMPLE}")
    values: dict[str, int] = {}
    for part in re.split(r"[,:]", rest):
        key, _, text = part.strip().partition("=")
        if key not in KEYS:
            close = difflib.get_close_matches(key, KEYS, n=1)
            meant = f"; did you mean {close[0]}?" if close else ":"
            raise ValueError(f"'{part}' sets no part of a shape{meant} there are {', '.join(KEYS)}")
        if not text.isascii() or not text.isdigit() or int(text) < 1:
            raise ValueError(f"{key} must be a whole number above 0, but is '{text}'")
        values[key] = int(text)
    return _checked(replace(Shape(kind), **values))  # type: ignore[arg-type]


def _checked(shape: Shape) -> Shape:
    if shape.hidden % (2 * shape.heads):
        raise ValueError(f"hidden={shape.hidden} must be a multiple of 2 x heads ({2 * shape.heads})")
    if shape.heads % shape.kv_heads:
        raise ValueError(f"heads={shape.heads} must be a multiple of kv_heads ({shape.kv_heads})")
    if shape.vocab < TOKENIZER_WORDS:
        raise ValueError(f"vocab={shape.vocab} is less than the {TOKENIZER_WORDS} of the embedded tokenizer: set vocab={TOKENIZER_WORDS}")
    if shape.mixture and shape.experts_per_token > shape.experts:
        raise ValueError(f"experts_per_token={shape.experts_per_token} is more than experts={shape.experts}")
    return shape
