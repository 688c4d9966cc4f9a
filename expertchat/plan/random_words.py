"""Random models that speak in words, so that all ways to run one do the same work."""

from __future__ import annotations

from typing import Any

from expertchat.backends.layouts import BLOCK, experts_of

PUSH = 4.0  # how far the direction that stands for "this kind of token comes next" is pushed


def word_ids(tokenizer: Any) -> tuple[list[int], list[int]]:
    """Ids of words that may begin a text, and of words with a space before them: such texts are the same tokens when read again."""
    ids = sorted(tokenizer.get_vocab().values())
    texts = tokenizer.batch_decode([[i] for i in ids])
    known = [(i, text) for i, text in zip(ids, texts, strict=True) if text.lstrip(" ").isascii() and text.lstrip(" ").isalpha()]
    encoded = tokenizer([text for _, text in known], add_special_tokens=False)["input_ids"]
    whole = [(i, text) for (i, text), row in zip(known, encoded, strict=True) if list(row) == [i]]
    return [i for i, text in whole if text[0] != " " and len(text) > 1], [i for i, text in whole if text[0] == " " and len(text) > 2]


def speak_in_words(model: Any, tokenizer: Any) -> None:
    """Let a random model write whole words only, each of which is one token when its text is read again, as a trained model's mostly is.

    Else every reply would come back as other tokens, of another number, and no two ways would do the same work. Two directions of the
    hidden state carry "after a token" and "at the beginning of a reply"; the head turns them against all words but those that may follow.
    """
    import torch

    first, later = word_ids(tokenizer)
    begin = int(tokenizer.convert_tokens_to_ids("<|assistant|>"))
    with torch.no_grad():
        embedding, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
        embedding[:, :2] = torch.tensor([PUSH, 0.0])
        embedding[begin, :2] = torch.tensor([0.0, PUSH])
        head[:, :2] = -PUSH
        head[later, 0] = 0.0
        head[first, 1] = 0.0
        if experts := experts_of(model.config.model_type):
            for name, weight in model.named_parameters():
                if name.endswith(f".{BLOCK}.{experts.router}.weight"):
                    weight[:, :2] = 0.0  # else the two directions would send all tokens to the same experts
