"""From samples to tensors: the tokenizer of the tiny experts, and batches with a weight for each token."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from expertchat.records import Message, Speaker
from expertchat.world.simulator import OPEN_LINE, Simulator
from expertchat.world.team import Team

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerFast

ROLES = {"system": "<|system|>", "user": "<|user|>", "assistant": "<|assistant|>"}
SPECIAL = ("<pad>", "<s>", "</s>", *ROLES.values())
MARKERS = 48
SHIFTED = 0.5  # of the judgements: their markers begin at any number, so that the high ones, which few dialogues reach, are learnt as well
# A text begins with a space, as the words within it do: its first word is then the token that it is elsewhere.
TEMPLATE = (
    "{{ '<s>' }}{% for m in messages %}{{ '<|' + m['role'] + '|> ' + m['content'] + '</s>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
CONTEXT_WEIGHT, CONTEXT_SHARE = 0.1, 8  # more leaks the partner's facts, none hurts fluency; one token in 8 is enough and costs less
LABEL_WEIGHT = 3.0  # the judge's labels carry everything that follows from them
REPLY_WEIGHT = 3.0  # what is said is much shorter than what is judged
RATING_WEIGHT = 15.0  # a rating is one token that counts all of them; with less, the counting stays rough whatever the labels are


class Encoded(NamedTuple):
    """One sample. `marks`: the places of a sentence's marker in the judge's prompt, and in its answer, where the label follows."""

    ids: list[int]
    weights: list[float]
    marks: list[tuple[int, int]]


class Micro(NamedTuple):
    """A micro-batch, padded with 0 on the right: ids (B, T), weights (B, T), marks (N, 3) as row, place in the prompt, in the answer."""

    ids: torch.Tensor
    weights: torch.Tensor
    marks: torch.Tensor


class Step(NamedTuple):
    """What one process takes of a step, and the sum of the weights and the number of the marks of all of them."""

    micro: list[Micro]
    weight: float
    marks: int


def build_tokenizer(simulator: Simulator, vocabulary: int = 4096, samples: int = 12_000) -> PreTrainedTokenizerFast:
    """Byte-level BPE trained on the corpus; every sentence marker, role and aspect is one token.

    `vocabulary` counts all but the aspects. With an aspect as one token, whether a sentence repeats another is whether a label has stood
    before, and what a question asks about is one thing to look up.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    markers = [form.format(n) for n in range(1, MARKERS + 1) for form in (" [{}]", " ({})")]
    aspects = dict.fromkeys(f" {fact.aspect}" for facts in simulator.world.topics.values() for fact in facts)
    rng = random.Random(0)
    texts = (f" {m.content}" for i in range(samples) for m in simulator.sample(rng, "ab"[i % 2]))  # type: ignore[arg-type]
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary - len(markers),
        special_tokens=list(SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_tokens([AddedToken(m, normalized=False) for m in (*markers, *aspects)])
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
        self.markers = {tokenizer.convert_tokens_to_ids(f" {a}{n}{b}"): n for n in range(1, MARKERS + 1) for a, b in ("[]", "()")}

    def __call__(self, samples: Sequence[Sequence[Message]]) -> list[Encoded]:
        contents = [f" {m.content}" for sample in samples for m in sample]
        batch = self.tokenizer(contents, add_special_tokens=False, return_offsets_mapping=True)
        pieces = iter(zip(batch["input_ids"], batch["offset_mapping"], strict=True))
        out = []
        for sample in samples:
            ids, weights, shown, marks = [self.bos], [0.0], dict[int, int](), list[tuple[int, int]]()
            for message in sample:
                content, offsets = next(pieces)
                labels_end = self._labels_end(message)
                for place, (token, (start, _)) in enumerate(zip(content, offsets, strict=True), len(ids) + 1):
                    if token in self.markers and message.role == "user":
                        shown[token] = place
                    elif token in shown and start < labels_end:
                        marks.append((shown[token], place))
                ids += [self.role[message.role], *content, self.eos]
                weights += [0.0, *self._weights(message, offsets, labels_end)]
            out.append(Encoded(ids, weights, marks))
        return out

    def shifted(self, sample: Encoded, rng: random.Random) -> Encoded:
        """A judgement with its markers counted from any number that leaves room for the last; another sample as it is."""
        numbers = [self.markers[sample.ids[place]] for mark in sample.marks for place in mark]
        more = rng.randint(0, MARKERS - max(numbers)) if numbers else 0
        pair = 2 * more  # [n] and (n) take turns
        return sample._replace(ids=[token + pair if token in self.markers else token for token in sample.ids]) if more else sample

    def _labels_end(self, message: Message) -> int:
        """How far the analysis of a judge's answer goes, counted with the space before the text; 0 for any other message."""
        if message.role != "assistant" or not message.content.startswith(self.label_prefix):
            return 0
        last = message.content.find("\n" + OPEN_LINE)
        end = message.content.find("\n", last + 1)
        return 1 + (len(message.content) if end < 0 else end)

    def _weights(self, message: Message, offsets: Sequence[tuple[int, int]], labels_end: int) -> list[float]:
        if message.role != "assistant":
            start = len(offsets) % CONTEXT_SHARE
            return [CONTEXT_WEIGHT * CONTEXT_SHARE * ((i + start) % CONTEXT_SHARE == 0) for i in range(len(offsets) + 1)]
        if not labels_end:
            return [REPLY_WEIGHT] * (len(offsets) + 1)
        text = f" {message.content}"
        ratings = [RATING_WEIGHT if text[start:end].strip().isdigit() else 1.0 for start, end in offsets]
        return [LABEL_WEIGHT if start < labels_end else after for (start, _), after in zip(offsets, ratings, strict=True)] + [1.0]


class Batches:
    """The steps of a training: of each, what a process of a team takes, as micro-batches of samples of like length, `parts` in all.

    A step is drawn from the seed and its number alone, whole by every process: a build goes on where it was stopped, and the processes
    see together what one would. The mixture is drawn for the whole step, so that no step is of a single task.
    """

    def __init__(
        self,
        simulator: Simulator,
        encoder: Encoder,
        seats: Sequence[Speaker],
        seed: str,
        samples: int,
        parts: int,
        team: Team | None = None,
    ) -> None:
        self.simulator, self.encoder, self.seats, self.seed = simulator, encoder, seats, seed
        self.samples, self.parts, self.team = samples, parts, team or Team()

    def step(self, number: int, progress: float) -> Step:
        """The step of this number; `progress` 0..1 is how far the training has come."""
        rng = random.Random(f"{self.seed} {number}")
        size = self.samples * (3 if progress < 0.08 else 1)  # the first lesson's samples are short
        drawn = [self.simulator.sample(rng, self.seats[i % len(self.seats)], progress) for i in range(size)]
        encoded = [self.encoder.shifted(one, rng) if rng.random() < SHIFTED else one for one in self.encoder(drawn)]
        encoded.sort(key=lambda sample: len(sample.ids))
        mine = encoded[self.team.rank :: self.team.processes]
        parts = -(-self.parts // self.team.processes)
        share = -(-len(mine) // parts)
        micro = [pad(mine[i : i + share]) for i in range(0, len(mine), share)]
        return Step(micro, sum(sum(s.weights[1:]) for s in encoded), sum(len(s.marks) for s in encoded))


def pad(samples: Sequence[Encoded]) -> Micro:
    """Samples as one micro-batch."""
    import torch

    longest = max(len(sample.ids) for sample in samples)
    ids_B_T = torch.zeros(len(samples), longest, dtype=torch.long)
    weights_B_T = torch.zeros(len(samples), longest)
    for i, sample in enumerate(samples):
        ids_B_T[i, : len(sample.ids)] = torch.tensor(sample.ids)
        weights_B_T[i, : len(sample.ids)] = torch.tensor(sample.weights)
    marks = [(i, *mark) for i, sample in enumerate(samples) for mark in sample.marks]
    return Micro(ids_B_T, weights_B_T, torch.tensor(marks, dtype=torch.long).reshape(-1, 3))
