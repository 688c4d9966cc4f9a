"""Training of the tiny MPNet sentence embedder: texts are as alike as the facts that they carry.

The third wording of every fourth fact is never seen in training; `world check` measures the embedder on those.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from expertchat.world.facts import World
from expertchat.world.simulator import ELSEWHERE, QUESTIONS, Simulator, capital

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerFast

HIDDEN, LAYERS, HEADS, FFN, VOCABULARY, MAX_TOKENS = 96, 3, 4, 256, 2560, 384
TOPICS_A_STEP, TEXTS_A_TOPIC, SALADS, RATE = 6, 8, 4, 2e-3
Carried = dict[int, float]  # fact -> how much of it a text carries


def held_out(fact: int, wording: int) -> bool:
    """Whether the embedder never sees this wording in training."""
    return wording == 2 and fact % 4 == 3


def build_tokenizer(simulator: Simulator, samples: int = 6000) -> PreTrainedTokenizerFast:
    """WordPiece, lower case, as MPNet's."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    rng = random.Random(0)
    texts = [m.content for i in range(samples) for m in simulator.sample(rng, "ab"[i % 2])]  # type: ignore[arg-type]
    special = ["<s>", "<pad>", "</s>", "[UNK]", "<mask>"]
    tokenizer.train_from_iterator(texts, trainers.WordPieceTrainer(vocab_size=VOCABULARY, special_tokens=special, show_progress=False))
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="[UNK]",
        mask_token="<mask>",
        cls_token="<s>",
        sep_token="</s>",
        model_max_length=MAX_TOKENS,
    )


class Texts:
    """Draws texts of one topic with what they carry, and word salads for the rest of the language."""

    def __init__(self, world: World, simulator: Simulator, rng: random.Random) -> None:
        self.world, self.simulator, self.rng = world, simulator, rng
        self.topics = list(world.topics)
        self.words = sorted({w for clause in world.clauses for w in clause.split()} | set(ELSEWHERE))

    def fact(self, topic: str, fact: int) -> str:
        """One fact in any wording that is not held out."""
        wording = self.rng.choice([w for w in range(3) if not held_out(fact, w)])
        return self.simulator.say(self.rng, topic, fact, wording)

    def draw(self, topic: str) -> tuple[str, Carried]:
        """Facts in sentences; a list of aspects as a judge writes it; both; or a question."""
        rng, facts = self.rng, self.world.topics[topic]
        kind = rng.random()
        said = rng.sample(range(len(facts)), rng.choice((1, 1, 1, 2, 2, 3, 4, 5, 6, 8)))
        sentences = [self.fact(topic, i) for i in said]
        carried: Carried = dict.fromkeys(said, 1.0)
        if kind < 0.08:
            return rng.choice(QUESTIONS).format(a=facts[said[0]].aspect), {said[0]: 0.6}
        if kind < 0.35:
            named = rng.sample(range(len(facts)), rng.choice((1, 2, 3, 5, 7)))
            text = f"The answers cover {', '.join(facts[i].aspect for i in named)}."
            carried = dict.fromkeys(named, 0.6)
            if kind > 0.15:
                text = f"{text} What is missing: {' '.join(capital(facts[i].clauses[0]) + '.' for i in said[:4])}"
                carried |= dict.fromkeys(said[:4], 1.0)
            return text, carried
        if kind < 0.5:
            return "What is missing: " + " ".join(sentences), carried
        if kind < 0.7:
            sentences.append(rng.choice(QUESTIONS).format(a=facts[rng.randrange(len(facts))].aspect))
        words = " ".join(sentences).split()
        kept = [w for w in words if rng.random() > 0.12] if kind > 0.85 else words  # no single word may decide
        return " ".join(kept or words), carried

    def salads(self) -> list[list[str]]:
        """Random words in threes that share most of them: likeness of words where no fact is known."""
        out = []
        for _ in range(SALADS):
            base = [self.rng.choice(self.words) for _ in range(self.rng.randint(4, 12))]
            for _ in range(3):
                mixed = [w if self.rng.random() < 0.7 else self.rng.choice(self.words) for w in base]
                self.rng.shuffle(mixed)
                out.append(mixed)
        return out


def target(world: World, topics: list[str], drawn: list[Carried]) -> torch.Tensor:
    """(B, B) wanted cosines: facts in common, plus a share for the topic alone."""
    import torch

    order = {t: k for k, t in enumerate(world.topics)}
    offset = {t: sum(len(world.topics[u]) for u in list(world.topics)[:k]) for t, k in order.items()}
    facts = sum(len(f) for f in world.topics.values())
    features = torch.zeros(len(drawn), facts + len(order))
    for row, (topic, carried) in enumerate(zip(topics, drawn, strict=True)):
        for i, weight in carried.items():
            features[row, offset[topic] + i] = weight
        features[row, facts + order[topic]] = (0.5 * sum(w * w for w in carried.values())) ** 0.5
    features = torch.nn.functional.normalize(features, dim=-1)
    return features @ features.T


def train_embedder(
    world: World, simulator: Simulator, out: Path, steps: int = 1800, seed: int = 0, report: Callable[[str], None] = lambda line: None
) -> None:
    """Train on `steps` batches of 48 texts and 12 salads; saves a sentence-transformers folder in fp16."""
    import torch
    import torch.nn.functional as F
    from transformers import MPNetConfig, MPNetModel

    torch.manual_seed(seed)
    rng = random.Random(seed)
    tokenizer = build_tokenizer(simulator)
    config = MPNetConfig(
        vocab_size=len(tokenizer),
        hidden_size=HIDDEN,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        intermediate_size=FFN,
        max_position_embeddings=514,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    model = MPNetModel(config)  # the pooler is not used, but a folder without it loads with a warning
    texts = Texts(world, simulator, rng)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, betas=(0.9, 0.98), weight_decay=0.01)
    losses: list[float] = []

    def embed(batch: list[str]) -> torch.Tensor:
        encoded = tokenizer(batch, padding=True, return_tensors="pt", truncation=True, max_length=MAX_TOKENS)
        hidden = model(input_ids=encoded["input_ids"], attention_mask=encoded["attention_mask"]).last_hidden_state
        mask = encoded["attention_mask"][..., None].float()
        return F.normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1)

    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = RATE * min(1, (step + 1) / 50) * max(0.02, min(1, (1 - step / steps) / 0.7))
        topics = [t for t in rng.sample(texts.topics, TOPICS_A_STEP) for _ in range(TEXTS_A_TOPIC)]
        drawn = [texts.draw(t) for t in topics]
        salads = texts.salads()
        wanted = target(world, topics, [c for _, c in drawn])
        shared = torch.tensor([[len({*p} & {*q}) / (len({*p}) * len({*q})) ** 0.5 for q in salads] for p in salads])
        vectors, n = embed([t for t, _ in drawn] + [" ".join(s) for s in salads]), len(drawn)
        cosines = vectors @ vectors.T
        error = (cosines[:n, :n] - wanted) ** 2
        same = (wanted > 0.01) & ~torch.eye(n, dtype=torch.bool)
        loss = error[same].mean() + error[wanted <= 0.01].mean() + 0.5 * ((cosines[n:, n:] - shared) ** 2).mean()
        loss = loss + 0.2 * (cosines[:n, n:].clamp(min=0.15) - 0.15).pow(2).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
        if (step + 1) % 100 == 0:
            report(f"embedder: step {step + 1} of {steps}, loss {sum(losses[-100:]) / 100:.4f}")
    _save(model, tokenizer, out)


def _save(model: torch.nn.Module, tokenizer: PreTrainedTokenizerFast, out: Path) -> None:
    import tempfile

    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer

    with tempfile.TemporaryDirectory() as folder:
        model.half().save_pretrained(folder)  # type: ignore[operator]
        tokenizer.save_pretrained(folder)
        module = Transformer(folder, max_seq_length=MAX_TOKENS)
        SentenceTransformer(modules=[module, Pooling(HIDDEN, "mean"), Normalize()]).half().save(str(out), create_model_card=False)
