"""GGUF, llama.cpp's file format: what a file says of itself, read from its header, and what is wrong with it. No torch, no package gguf.

Source of the layout and of the block sizes: ggml's docs/gguf.md and ggml-common.h; the test compares them with the package gguf.
"""

from __future__ import annotations

import importlib.util
import re
import struct
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

from expertchat.config import ConfigError

PIN = "0.19.0"  # of the package gguf, with which this was tried
MANY = 50_000_000  # entries of a header beyond which it is taken for garbage
# Type number -> name, numbers in a block, bytes of a block.
TYPES = {
    0: ("F32", 1, 4), 1: ("F16", 1, 2), 2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20), 6: ("Q5_0", 32, 22), 7: ("Q5_1", 32, 24),
    8: ("Q8_0", 32, 34), 9: ("Q8_1", 32, 40), 10: ("Q2_K", 256, 84), 11: ("Q3_K", 256, 110), 12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176), 14: ("Q6_K", 256, 210), 15: ("Q8_K", 256, 292), 16: ("IQ2_XXS", 256, 66), 17: ("IQ2_XS", 256, 74),
    18: ("IQ3_XXS", 256, 98), 19: ("IQ1_S", 256, 50), 20: ("IQ4_NL", 32, 18), 21: ("IQ3_S", 256, 110), 22: ("IQ2_S", 256, 82),
    23: ("IQ4_XS", 256, 136), 24: ("I8", 1, 1), 25: ("I16", 1, 2), 26: ("I32", 1, 4), 27: ("I64", 1, 8), 28: ("F64", 1, 8),
    29: ("IQ1_M", 256, 56), 30: ("BF16", 1, 2), 34: ("TQ1_0", 256, 54), 35: ("TQ2_0", 256, 66), 39: ("MXFP4", 32, 17),
}  # fmt: skip
# What transformers unpacks (5.17 and newer); of these, those that `expertchat plan` knows the shape of are named in `settings`.
ARCHITECTURES = (
    "llama", "mistral", "qwen2", "qwen2_moe", "qwen2moe", "qwen3", "qwen3_moe", "qwen3moe", "falcon", "phi3", "stablelm", "gpt2",
    "starcoder2", "nemotron", "gemma2", "gemma3",
)  # fmt: skip
_SPLIT = re.compile(r"-(\d{5})-of-(\d{5})\.gguf$")
_SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
_STRING, _ARRAY = 8, 9


class BrokenHeader(ValueError):
    """A header that cannot be read to its end."""


@dataclass(frozen=True)
class Header:
    """`values`: the metadata; `tensors`: name -> (shape as torch has it, type number); `end`: bytes that the file must have."""

    values: dict[str, Any]
    tensors: dict[str, tuple[tuple[int, ...], int]]
    end: int

    @property
    def architecture(self) -> str:
        return str(self.values.get("general.architecture", ""))

    @property
    def kind(self) -> str:
        """The type that most numbers are kept in, as its name: Q4_1."""
        sizes: dict[int, int] = {}
        for shape, number in self.tensors.values():
            sizes[number] = sizes.get(number, 0) + prod(shape)
        return TYPES[max(sizes, key=lambda number: sizes[number])][0] if sizes else "nothing"

    @property
    def parameters(self) -> int:
        return sum(prod(shape) for shape, _ in self.tensors.values())

    def of(self, key: str, default: Any = None) -> Any:
        """A value of the architecture's own."""
        return self.values.get(f"{self.architecture}.{key}", default)

    @property
    def end_ids(self) -> tuple[int, ...]:
        """Tokens that end a text, a turn or a message."""
        named = (self.values.get(f"tokenizer.ggml.{name}_token_id") for name in ("eos", "eot", "eom"))
        return tuple(dict.fromkeys(int(number) for number in named if number is not None))


def is_gguf(place: Path | str) -> bool:
    """Whether a place that resolve_path gave is a GGUF file."""
    return isinstance(place, Path) and place.suffix == ".gguf" and place.is_file()


def only_file(folder: Path, said: str) -> Path | None:
    """The GGUF file of a folder that holds no config.json, or None where it holds none. Raises ConfigError where there are several."""
    if (folder / "config.json").is_file():
        return None
    files = sorted(folder.glob("*.gguf"))
    if len(files) > 1 and not all(_SPLIT.search(file.name) for file in files):
        names = ", ".join(file.name for file in files)
        raise ConfigError(f"model path {said}: holds {len(files)} GGUF files ({names}); name one: {said.rstrip('/')}/{files[0].name}")
    return files[0] if files else None


def header(file: Path) -> Header:
    """The header of a file. Raises ConfigError where it cannot be read."""
    state = file.stat()
    try:
        return _header(str(file), state.st_size, state.st_mtime_ns)
    except BrokenHeader as error:
        raise ConfigError(f"{file.name} {error}") from None


@lru_cache(maxsize=16)  # asked by the check, the plan, the loader and the notes
def _header(path: str, size: int, changed: int) -> Header:
    with open(path, "rb") as stream:
        return _Reader(stream, size).header()


def gguf_problem(file: Path) -> str | None:
    """What is wrong with a GGUF file and what to do, or None. Reads its header, not its weights."""
    try:
        found = header(file)
    except ConfigError as error:
        return error.problems[0]
    part, parts = _SPLIT.search(file.name), int(found.values.get("split.count", 0) or 0)
    if part or parts > 1:
        count = int(part[2]) if part else parts
        first = _SPLIT.sub(f"-00001-of-{count:05d}.gguf", file.name)
        return f"{file.name} is one of {count} parts; join them first: llama-gguf-split --merge {first} WHOLE.gguf, and name WHOLE.gguf"
    if not found.architecture:
        return f"{file.name} does not say which architecture it holds (general.architecture); download it again"
    if found.architecture not in ARCHITECTURES or (found.architecture == "llama" and found.of("expert_count")):
        mixture = " with experts" if found.of("expert_count") else ""
        return (
            f"{file.name} holds the architecture {found.architecture}{mixture}, which transformers cannot unpack; take the model's folder "
            f"of safetensors, or one of {', '.join(ARCHITECTURES)}"
        )
    strange = sorted({number for _, number in found.tensors.values()} - set(TYPES))
    if strange:
        return f"{file.name} keeps weights in type {strange[0]}, which is not known; take another quantisation of the model, e.g. Q4_K_M"
    if not found.tensors:
        return f"{file.name} holds no weights (a file of the vocabulary only?); download the model"
    size = file.stat().st_size
    if size < found.end:
        return f"{file.name} has {size} bytes, but its header says {found.end}: it was cut short; download it again"
    if "tokenizer.ggml.tokens" not in found.values:
        return f"{file.name} holds no tokenizer; take another file of the model"
    return None


def lacks_package(name: str = "gguf") -> str | None:
    """What is to be installed before a GGUF file can be unpacked, or None."""
    if importlib.util.find_spec(name) is None:
        return f"GGUF files need the package gguf: pip install gguf=={PIN} (or expertchat[gguf])"
    return None


def shapes(file: Path) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor, as the file names them."""
    return {name: shape for name, (shape, _) in header(file).tensors.items()}


def settings(file: Path) -> dict[str, Any]:
    """What a config.json would say of the model's shape."""
    found = header(file)
    heads = found.of("attention.head_count")
    values = {
        "model_type": "mistral" if found.architecture == "llama" and "mistral" in str(found.values.get("general.name", "")).lower()
        else found.architecture,
        "num_hidden_layers": found.of("block_count"),
        "hidden_size": found.of("embedding_length"),
        "num_attention_heads": heads,
        "num_key_value_heads": found.of("attention.head_count_kv", heads),
        "head_dim": found.of("attention.key_length"),
        "intermediate_size": found.of("feed_forward_length"),
        "vocab_size": found.of("vocab_size") or len(found.values.get("tokenizer.ggml.tokens", ())),
        "max_position_embeddings": found.of("context_length"),
        "tie_word_embeddings": "output.weight" not in found.tensors,
    }  # fmt: skip
    return {key: value for key, value in values.items() if value is not None}


def rounded_twice(file: Path, bits: str) -> str | None:
    """A note where weights that are quantised in the file are quantised once more."""
    kind = header(file).kind
    if bits == "none" or kind in ("F32", "F16", "BF16"):
        return None
    return f"{bits} of weights that were {kind} before: rounded twice; quantization=none keeps them as they are in the file"


class _Reader:
    """Reads a header; whatever does not fit into the file is a BrokenHeader."""

    def __init__(self, stream: BinaryIO, size: int) -> None:
        self.stream, self.size = stream, size

    def header(self) -> Header:
        magic = self.stream.read(4)
        if magic != b"GGUF":
            if (magic + self.stream.read(40)).startswith(b"version https://git-lfs"):
                raise BrokenHeader("is a git-lfs pointer, not the file itself; run `git lfs pull`, or download it again")
            raise BrokenHeader(f"is no GGUF file (it begins with {magic!r}); download it again")
        version = self.number("<I")
        if version not in (2, 3):
            raise BrokenHeader(f"is GGUF of version {version}; known are 2 and 3 of little-endian machines: download a newer file")
        count, entries = self.number("<Q"), self.number("<Q")
        if max(count, entries) > min(MANY, self.size):
            raise BrokenHeader("has a broken header; download it again")
        values = dict(self.entry() for _ in range(entries))
        infos = [self.tensor() for _ in range(count)]
        alignment = values.get("general.alignment", 32)
        if not isinstance(alignment, int) or alignment < 1:
            raise BrokenHeader("has a broken header (general.alignment); download it again")
        start = -(-self.stream.tell() // alignment) * alignment
        ends = [offset + _bytes(shape, kind) for _, shape, kind, offset in infos]
        return Header(values, {name: (shape, kind) for name, shape, kind, _ in infos}, start + max(ends, default=0))

    def take(self, length: int) -> bytes:
        """Exactly so many bytes."""
        found = self.stream.read(length) if 0 <= length <= self.size else b""
        if len(found) != length:
            raise BrokenHeader(f"was cut short inside its header ({self.size} bytes); download it again")
        return found

    def number(self, form: str) -> Any:
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def text(self) -> str:
        return self.take(self.number("<Q")).decode("utf-8", errors="replace")

    def entry(self) -> tuple[str, Any]:
        return self.text(), self.value(self.number("<I"))

    def value(self, kind: int, depth: int = 0) -> Any:
        if kind == _STRING:
            return self.text()
        if kind == _ARRAY and depth < 4:
            inner, length = self.number("<I"), self.number("<Q")
            if inner in _SCALARS:
                form = _SCALARS[inner][1]
                return struct.unpack(f"<{length}{form}", self.take(length * struct.calcsize(form))) if length else ()
            if length > min(MANY, self.size):
                raise BrokenHeader("has a broken header; download it again")
            return tuple(self.value(inner, depth + 1) for _ in range(length))
        if kind not in _SCALARS:
            raise BrokenHeader(f"has a broken header (a value of type {kind}); download it again")
        return self.number(_SCALARS[kind])

    def tensor(self) -> tuple[str, tuple[int, ...], int, int]:
        """(name, shape, type, offset); GGUF writes the fastest dimension first."""
        name, dimensions = self.text(), self.number("<I")
        if dimensions > 4:
            raise BrokenHeader(f"has a broken header (a tensor of {dimensions} dimensions); download it again")
        sizes = [self.number("<Q") for _ in range(dimensions)]
        return name, tuple(reversed(sizes)), self.number("<I"), self.number("<Q")


def _bytes(shape: tuple[int, ...], kind: int) -> int:
    _, block, size = TYPES.get(kind, ("", 1, 0))
    return -(-prod(shape) // block) * size
