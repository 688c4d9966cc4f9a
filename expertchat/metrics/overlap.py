"""How much of a reference a text says: ROUGE (Lin 2004), BLEU (Papineni et al. 2002) and chrF (Popović 2015), by the libraries.

F1 is 2PR / (P + R), the harmonic mean of precision and recall; docs/metrics.md says why a root of 2 has no place in it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from importlib.util import find_spec
from typing import Any

from expertchat.config import ConfigError
from expertchat.text.likeness import words

ROUGE = ("rouge1", "rouge2", "rougeL")
PACKAGES = {"rouge": "rouge_score", "bleu": "sacrebleu", "chrf": "sacrebleu"}
INSTALL = 'pip install "expertchat[lab]"'


def lacking(measures: Sequence[str]) -> list[str]:
    """Packages that measures need and that are not installed, each with the remedy."""
    wanted: dict[str, list[str]] = {}
    for name, package in PACKAGES.items():
        if name in measures and find_spec(package) is None:
            wanted.setdefault(package.replace("_", "-"), []).append(name)
    return [
        f"measures: {' and '.join(names)} need{'' if len(names) > 1 else 's'} the package {package}: {INSTALL}, or leave it out"
        for package, names in wanted.items()
    ]


class Words:
    """What rouge-score calls a tokenizer: words of any script, folded in case, width and apostrophe; its own one knows a to z alone.

    `stemmer`: none; english (Porter's, of words of four letters and more, as rouge-score has it); german (Snowball's).
    """

    def __init__(self, stemmer: str = "none") -> None:
        self._stem: Any = None
        if stemmer == "english":
            from nltk.stem.porter import PorterStemmer

            porter = PorterStemmer()
            self._stem = lambda word: porter.stem(word) if len(word) > 3 else word
        elif stemmer == "german":
            from nltk.stem.snowball import GermanStemmer

            self._stem = GermanStemmer().stem

    def tokenize(self, text: str) -> list[str]:
        found = words(text)
        return found if self._stem is None else [self._stem(word) for word in found]


@lru_cache(maxsize=4)
def _rouge_scorer(stemmer: str) -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(list(ROUGE), tokenizer=Words(stemmer))


def rouge(text: str, reference: str, stemmer: str = "none") -> dict[str, float]:
    """rouge1, rouge2 and rougeL, each as _precision, _recall and _f1, 0..1.

    precision: which share of the text's words (pairs of words, of the longest common subsequence) stands in the reference; recall: which
    share of the reference's stands in the text.
    """
    found: dict[str, float] = {}
    for name, score in _rouge_scorer(stemmer).score(reference, text).items():
        found |= {f"{name}_precision": score.precision, f"{name}_recall": score.recall, f"{name}_f1": score.fmeasure}
    return found


class Bleu:
    """BLEU of single texts and of many together, 0..100. `signature` says how it was computed, as sacrebleu wants it quoted.

    A single text is scored over as many orders as it has n-grams (effective order), for most have no four words in a row in common.
    """

    def __init__(self, tokenizer: str = "13a") -> None:
        from sacrebleu.metrics import BLEU

        self._many, self._one = BLEU(tokenize=tokenizer), BLEU(tokenize=tokenizer, effective_order=True)

    def score(self, text: str, reference: str) -> tuple[float, list[float]]:
        """BLEU of a text, and the counts that add up over texts: matches and n-grams of each order, lengths of text and reference."""
        one = self._one.sentence_score(text, [reference])
        return one.score, [*one.counts, *one.totals, one.sys_len, one.ref_len]

    def pooled(self, counts: Sequence[float]) -> float:
        """BLEU of many texts from the sums of their counts; what sacrebleu's corpus_score gives. Counts a little beside whole ones have a
        figure a little beside, for an interval is made by the slopes; of less than a half of one there is none.
        """
        found = [count if count >= 0.5 else 0 for count in counts]
        own, orders = (found[-2], found[-1]), (len(found) - 2) // 2
        whole = round(own[0]), round(own[1])  # sacrebleu takes no other lengths
        score = self._many.compute_bleu(
            found[:orders], found[orders:-2], *whole, smooth_method=self._many.smooth_method, max_ngram_order=orders
        )
        return float(score.score) * _penalty(*own) / _penalty(*whole)

    def signature(self, texts: Sequence[str], references: Sequence[str]) -> str:
        """Of the figure of many texts; known once it was computed."""
        self._many.corpus_score(list(texts), [list(references)])
        return str(self._many.get_signature())


def _penalty(length: float, reference: float) -> float:
    """By which BLEU is less where all texts together are shorter than their references."""
    return math.exp(1 - reference / length) if 0 < length < reference else 1.0


class Chrf:
    """chrF2 of single texts and of many together, 0..100."""

    def __init__(self) -> None:
        from sacrebleu.metrics import CHRF

        self._chrf = CHRF()

    def score(self, text: str, reference: str) -> float:
        return float(self._chrf.sentence_score(text, [reference]).score)

    def pooled(self, texts: Sequence[str], references: Sequence[str]) -> tuple[float, str]:
        """chrF of many texts, and the signature."""
        score = float(self._chrf.corpus_score(list(texts), [list(references)]).score)
        return score, str(self._chrf.get_signature())


def check(measures: Sequence[str]) -> None:
    """Raise ConfigError where a package is missing."""
    if problems := lacking(measures):
        raise ConfigError(problems)
