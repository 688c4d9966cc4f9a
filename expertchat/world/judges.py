"""An embedded expert as a judge, against the truth: its labels, its ratings and what it says is missing."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from expertchat.backends.base import Backend, Embedder, EmbedRequest
from expertchat.config import ConfigError
from expertchat.experts.world import WorldExpert
from expertchat.judging.rating import expected_value
from expertchat.judging.requests import analysis_request, score_request, wim_request
from expertchat.judging.view import Judgement
from expertchat.judging.wim import is_empty
from expertchat.text.sentences import sentences
from expertchat.text.wordings import WimWording
from expertchat.world.facts import Truth
from expertchat.world.rates import likeness, ratio, spearman
from expertchat.world.simulator import CATEGORIES, NAMED_MISSING, Simulator

Cases = Sequence[tuple[Judgement, list[Truth]]]
Labels = Mapping[str, str]  # by the sentence's number
Ratings = Sequence[dict[str, float]]
AGAIN = " again"  # how the label of a repeat ends


def labels(analysis: str) -> dict[str, str]:
    """Number -> label from a judge's first line."""
    parts = re.split(r" [\[(](\d+)[\])] ", analysis.split("\n")[0])[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))


def label_rates(both: Iterable[tuple[Labels, Labels]]) -> dict[str, float]:
    """From the right labels of numbered sentences and those given. `labels`: the share that is right ("again" included); `seen`: of the
    repeats, the share that is called one; `called`: of those called a repeat, the share that are.
    """
    pairs = [(label, given.get(number, "")) for right, given in both for number, label in right.items()]
    repeats = [given for label, given in pairs if label.endswith(AGAIN)]
    called = [label for label, given in pairs if given.endswith(AGAIN)]
    return {
        "labels": ratio(sum(label == given for label, given in pairs), len(pairs)),
        "seen": ratio(sum(given.endswith(AGAIN) for given in repeats), len(repeats)),
        "called": ratio(sum(label.endswith(AGAIN) for label in called), len(called)),
    }


@dataclass(frozen=True)
class JudgeCheck:
    """Measures one judge on judgements whose truth is known."""

    expert: WorldExpert
    backend: Backend
    simulator: Simulator
    embedder: Embedder

    def figures(self, cases: Cases, scores: bool = True) -> dict[str, float]:
        """All figures of the judge; with `scores`, how well its WIM scores follow the facts said, too."""
        cases = [(replace(judgement, categories=dict.fromkeys(CATEGORIES, "")), truths) for judgement, truths in cases]
        requests = [analysis_request(self.expert, f"judge {i}", j) for i, (j, _) in enumerate(cases)]
        analyses = [r.prefix + c.text for r, c in zip(requests, self.backend.generate(requests), strict=True)]
        right = [labels(self.simulator.points(j, truths, self.expert.letter)) for j, truths in cases]
        ratings = self._ratings(cases, analyses)
        texts = self._wim(cases, analyses, ratings, "missing")
        found = label_rates(zip(right, map(labels, analyses), strict=True)) | self._rated(cases, ratings) | self._named(cases, texts)
        if scores:
            covering = self._wim(cases, analyses, ratings, "covers_then_missing")
            found["missing"] = self._scored(cases, texts, "missing")
            found["covers_then_missing"] = self._scored(cases, covering, "covers_then_missing")
        return found

    def _ratings(self, cases: Cases, analyses: Sequence[str]) -> Ratings:
        """The expected rating of each category in each case."""
        both = list(enumerate(zip(cases, analyses, strict=True)))
        scored = [score_request(self.expert, f"judge {i}", j, a, c) for i, ((j, _), a) in both for c in CATEGORIES]
        numbers = [value for s in self.backend.score(scored) if (value := expected_value(s.logprobs)) is not None]
        if lacking := len(scored) - len(numbers):
            raise ConfigError(f"world check: {lacking} of {len(scored)} ratings have no probability; build the models again")
        size = len(CATEGORIES)
        return [dict(zip(CATEGORIES, numbers[i * size : (i + 1) * size], strict=True)) for i in range(len(cases))]

    def _rated(self, cases: Cases, ratings: Ratings) -> dict[str, float]:
        """The rank correlation of each category's ratings with those that are deserved."""
        deserved = [self.simulator.deserved(j, t) for j, t in cases]
        return {c: spearman([given[c] for given in ratings], [float(d[c]) for d in deserved]) for c in CATEGORIES}

    def _wim(self, cases: Cases, analyses: Sequence[str], ratings: Ratings, wording: WimWording) -> list[str]:
        whole = [{c: round(v) for c, v in given.items()} for given in ratings]
        requests = [
            wim_request(self.expert, f"wim {i}", j, a, r, wording)
            for i, ((j, _), a, r) in enumerate(zip(cases, analyses, whole, strict=True))
        ]
        return [c.text.strip() for c in self.backend.generate(requests)]

    def _scored(self, cases: Cases, texts: Sequence[str], wording: WimWording) -> float:
        """The rank correlation of the WIM scores with the number of facts said."""
        said = [float(len({i for n, t in enumerate(truths) if j.judged(n) for i in t.facts})) for j, truths in cases]
        embedded = self.embedder.embed([EmbedRequest("", x) for (j, _), t in zip(cases, texts, strict=True) for x in (j.reply, t)])
        scores = [
            1.0 if is_empty(t, self.simulator.prompts, wording) else likeness(embedded[2 * i].vector, embedded[2 * i + 1].vector)
            for i, t in enumerate(texts)
        ]
        return spearman(scores, said)

    def _named(self, cases: Cases, texts: Sequence[str]) -> dict[str, float]:
        """Precision (named facts that are missing), facts named though present, recall of the known missing ones."""
        world = self.simulator.world
        named = right = present = wanted = found = 0
        for (judgement, truths), text in zip(cases, texts, strict=True):
            said = {x.fact for t in truths for x in t.labels if x.fact is not None}
            stated = [s for s in sentences(text.removeprefix("What is missing:")) if "nothing is missing" not in s.lower()]
            claims = [world.label(s, judgement.topic) for s in stated]
            named += len(claims)
            right += sum(x.fact is not None and x.fact not in said for x in claims)
            present += sum(x.fact is not None and x.fact in said for x in claims)
            missing = set(world.missing(truths, judgement.topic, self.expert.letter)[:NAMED_MISSING])
            wanted += len(missing)
            found += len(missing & {x.fact for x in claims})
        return {"precision": ratio(right, named), "present": ratio(present, named), "recall": ratio(found, wanted)}
