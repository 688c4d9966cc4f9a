"""From samples to tensors: the tokenizer of the tiny experts, and batches with a weight for each token."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from expertchat.records import Message, Speaker
from expertchat.world.simulator import KNOWN_LINE, Simulator

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerFast

ROLES = {"system": "<|system|>", "user": "<|user|>", "assistant": "<|assistant|>"}
SPECIAL = ("<pad>", "<s>", "</s>", *ROLES.values())
MARKERS = 48
TEMPLATE = (
    "{{ '<s>' }}{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] + '</s>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
CONTEXT_WEIGHT, CONTEXT_SHARE = 0.1, 8  # more leaks the partner's facts, none hurts fluency; one token in 8 is enough and costs less
LABEL_WEIGHT = 3.0  # the judge's labels carry everything that follows from them


def build_tokenizer(simulator: Simulator, vocabulary: int = 4096, samples: int = 12_000) -> PreTrainedTokenizerFast:
    """Byte-level BPE trained on the corpus; every sentence marker and role is one token."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    markers = [form.format(n) for n in range(1, MARKERS + 1) for form in (" [{}]", " ({})")]
    rng = random.Random(0)
    texts = (m.content for i in range(samples) for m in simulator.sample(rng, "ab"[i % 2]))  # type: ignore[arg-type]
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary - len(markers),
        special_tokens=list(SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_tokens([AddedToken(m, normalized=False) for m in markers])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>", model_max_length=2048, padding_side="left"
    )
    fast.add_special_tokens({"additional_special_tokens": list(ROLES.values())})
    fast.chat_template = TEMPLATE
    return fast


class Encoder:
    """Messages -> token ids and a loss weight for each token, exactly as the chat template renders them."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, label_prefix: str) -> None:
        self.tokenizer = tokenizer
        self.role = {role: tokenizer.convert_tokens_to_ids(token) for role, token in ROLES.items()}
        self.bos, self.eos = tokenizer.bos_token_id, tokenizer.eos_token_id
        self.label_prefix = label_prefix

    def __call__(self, samples: Sequence[Sequence[Message]]) -> list[tuple[list[int], list[float]]]:
        contents = [m.content for sample in samples for m in sample]
        batch = self.tokenizer(contents, add_special_tokens=False, return_offsets_mapping=True)
        pieces = iter(zip(batch["input_ids"], batch["offset_mapping"], strict=True))
        out = []
        for sample in samples:
            ids, weights = [self.bos], [0.0]
            for message in sample:
                content, offsets = next(pieces)
                ids += [self.role[message.role], *content, self.eos]
                weights += [0.0, *self._weights(message, offsets)]
            out.append((ids, weights))
        return out

    def _weights(self, message: Message, offsets: Sequence[tuple[int, int]]) -> list[float]:
        if message.role != "assistant":
            start = len(offsets) % CONTEXT_SHARE
            return [CONTEXT_WEIGHT * CONTEXT_SHARE * ((i + start) % CONTEXT_SHARE == 0) for i in range(len(offsets) + 1)]
        end = 0
        if message.content.startswith(self.label_prefix):
            known = message.content.find("\n" + KNOWN_LINE)
            end = message.content.find("\n", known + 1)
            end = len(message.content) if end < 0 else end
        return [LABEL_WEIGHT if start < end else 1.0 for start, _ in offsets] + [1.0]


def batches(
    simulator: Simulator, encoder: Encoder, expert: Speaker, rng: random.Random, progress: list[float], samples: int, parts: int
) -> Iterator[list[tuple[torch.Tensor, torch.Tensor]]]:
    """Steps of `samples` samples as `parts` micro-batches of similar length: ids (B, T) and weights (B, T), 0-padded.

    The mixture is drawn for the whole step, so that no step is of a single task. `progress[0]` is read anew for each step.
    """
    import torch

    while True:
        size = samples * (3 if progress[0] < 0.08 else 1)  # the first lesson's samples are short
        encoded = sorted(encoder([simulator.sample(rng, expert, progress[0]) for _ in range(size)]), key=lambda s: len(s[0]))
        share, step = -(-size // parts), []
        for part in (encoded[i : i + share] for i in range(0, size, share)):
            longest = max(len(ids) for ids, _ in part)
            ids_B_T = torch.zeros(len(part), longest, dtype=torch.long)
            weights_B_T = torch.zeros(len(part), longest)
            for i, (ids, weights) in enumerate(part):
                ids_B_T[i, : len(ids)] = torch.tensor(ids)
                weights_B_T[i, : len(ids)] = torch.tensor(weights)
            step.append((ids_B_T, weights_B_T))
        yield step
