"""`expertchat world check`: how good the embedded models are, on unseen dialogues, against the world's ground truth."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, pstdev

from expertchat.backends.base import Backend, Decoding, Embedder, EmbedRequest
from expertchat.config import ConfigError
from expertchat.experts.base import History
from expertchat.experts.world import WorldExpert
from expertchat.judging.rating import expected_value
from expertchat.judging.requests import analysis_request, score_request, wim_request
from expertchat.judging.view import Judgement
from expertchat.judging.wim import cosine, is_empty
from expertchat.records import Speaker, Turn
from expertchat.text.sentences import sentences
from expertchat.world.config import WorldConfig
from expertchat.world.embedder import held_out
from expertchat.world.facts import Truth, World
from expertchat.world.simulator import CATEGORIES, Simulator, other
from expertchat.world.train import SEATS

HOT = Decoding(method="sampling", temperature=1.0, top_p=0.95, max_new_tokens=120)
WARM = replace(HOT, temperature=0.7, top_p=1.0)
JUDGE = Decoding(method="greedy", max_new_tokens=400)
Cases = Sequence[tuple[Judgement, list[Truth]]]
SEED = 987_654_321  # far from every seed of the training


@dataclass(frozen=True)
class Row:
    """One line of the table: the value of each expert (or one value), and the target as (sense, bound)."""

    name: str
    values: dict[str, float]
    target: tuple[str, float] | None = None

    @property
    def met(self) -> bool | None:
        if self.target is None:
            return None
        sense, bound = self.target
        return all(v >= bound if sense == ">=" else v <= bound for v in self.values.values())


def spearman(x: Sequence[float], y: Sequence[float]) -> float:
    """Rank correlation with mean ranks for ties; nan where one side does not vary."""
    ranks = [_ranks(x), _ranks(y)]
    means, spreads = [fmean(r) for r in ranks], [pstdev(r) for r in ranks]
    if not all(spreads):
        return float("nan")
    return fmean((a - means[0]) * (b - means[1]) for a, b in zip(*ranks, strict=True)) / (spreads[0] * spreads[1])


def _ranks(values: Sequence[float]) -> list[float]:
    order = sorted(range(len(values)), key=lambda i: values[i])
    out, i = [0.0] * len(values), 0
    while i < len(order):
        j = i
        while j < len(order) and values[order[j]] == values[order[i]]:
            j += 1
        for k in order[i:j]:
            out[k] = (i + j - 1) / 2
        i = j
    return out


def auc(positive: Sequence[float], negative: Sequence[float]) -> float:
    """The share of (positive, negative) pairs in the right order, ties half (Mann-Whitney)."""
    ranks = _ranks([*positive, *negative])[: len(positive)]
    n = len(positive)
    return (sum(ranks) + n - n * (n + 1) / 2) / (n * len(negative))


def _labels(analysis: str) -> dict[str, str]:
    """Number -> label from a judge's first line."""
    parts = re.split(r" [\[(](\d+)[\])] ", analysis.split("\n")[0])[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))


class Checker:
    """Measures one pair of experts and the embedder; `n` unseen dialogues for each figure."""

    def __init__(self, world: World, simulator: Simulator, backends: dict[Speaker, Backend], embedder: Embedder, n: int) -> None:
        self.world, self.simulator, self.backends, self.embedder, self.n = world, simulator, backends, embedder, n

    def experts(self, decoding: Decoding) -> dict[Speaker, WorldExpert]:
        """Experts that reply by `decoding` and judge greedily."""
        out: dict[Speaker, WorldExpert] = {}
        for letter, expert in self.simulator.experts.items():
            settings = replace(expert.settings, reply=decoding, judge=JUDGE)
            out[letter] = WorldExpert(letter, settings, special_tokens=self.backends[letter].info.special_tokens)
        return out

    # -- talking ----------------------------------------------------------------------------------------------------

    def replies(self, letter: Speaker, decoding: Decoding) -> dict[str, float]:
        """One reply to each of n simulated histories: accuracy, asked aspects answered, distinct facts."""
        rng, expert = random.Random(SEED), self.experts(decoding)[letter]
        histories, asked = list[History](), list[int | None]()
        while len(histories) < self.n:
            d = self.simulator.dialogue(rng, turns=rng.randint(0, 5))
            if d.turns[-1].speaker != letter:
                histories.append(History(d.topic, d.turns))
                asked.append(self._asked(d.topic, d.turns))
        requests = [expert.reply_request(f"check {i}", h)[0] for i, h in enumerate(histories)]
        done = self.backends[letter].generate(requests)
        true = claims = questions = direct = repeats = 0
        distinct = []
        for history, fact, reply in zip(histories, asked, done, strict=True):
            truths = self.world.read([*(t.text for t in history.turns), reply.text], history.topic)
            said, own = {i for t in truths[:-1] for i in t.facts}, truths[-1]
            true += own.count("fact")
            claims += own.claims
            repeats += own.repeats
            distinct.append(float(len(own.facts)))
            if fact is not None and fact in self.world.known(letter, history.topic) and fact not in said:
                questions += 1
                direct += next((x.fact for x in own.labels if x.kind in ("fact", "wrong", "off topic")), None) == fact
        return {
            "accuracy": true / max(1, claims),
            "direct": direct / max(1, questions),
            "distinct": fmean(distinct),
            "spread": pstdev(distinct),
            "repeats": repeats / max(1, claims),
        }

    def _asked(self, topic: str, turns: Sequence[Turn]) -> int | None:
        """The fact that the last turn asks about."""
        last = sentences(turns[-1].text)[-1].lower()
        if not last.endswith("?"):
            return None
        return next((i for i, f in enumerate(self.world.topics[topic]) if f" {f.aspect.lower()}" in last), None)

    def chats(self, turns: int = 6) -> float:
        """Share of repeated facts among the true facts of n dialogues of the two experts."""
        experts, rng = self.experts(HOT), random.Random(SEED + 1)
        topics = [self.simulator.topics[i % len(self.simulator.topics)] for i in range(self.n)]
        openers: list[Speaker] = [rng.choice(("a", "b")) for _ in topics]
        talks: list[tuple[Turn, ...]] = [() for _ in topics]
        for step in range(turns):
            for letter in experts:
                mine = [i for i, opener in enumerate(openers) if (opener if step % 2 == 0 else other(opener)) == letter]
                requests = [experts[letter].reply_request(f"chat {i} {step}", History(topics[i], talks[i]))[0] for i in mine]
                for i, reply in zip(mine, self.backends[letter].generate(requests) if requests else [], strict=True):
                    talks[i] = (*talks[i], Turn(speaker=letter, text=reply.text))
        truths = [self.world.read([t.text for t in talk], topic) for talk, topic in zip(talks, topics, strict=True)]
        facts = sum(t.count("fact") for talk in truths for t in talk)
        return sum(t.repeats for talk in truths for t in talk) / max(1, facts)

    # -- judging ----------------------------------------------------------------------------------------------------

    def judge(self, letter: Speaker) -> dict[str, float]:
        """n judgements of unseen dialogues: ratings against what they deserve, WIM against what is missing."""
        rng, expert, backend = random.Random(SEED + 2), self.experts(HOT)[letter], self.backends[letter]
        cases: list[tuple[Judgement, list[Truth]]] = []
        while len(cases) < self.n:
            judgement, truths = self.simulator.judged(rng)
            if judgement.subject != letter:
                cases.append((replace(judgement, categories=dict.fromkeys(CATEGORIES, "")), truths))
        requests = [analysis_request(expert, f"judge {i}", j) for i, (j, _) in enumerate(cases)]
        analyses = [r.prefix + c.text for r, c in zip(requests, backend.generate(requests), strict=True)]
        out = {"labels": self._label_accuracy(letter, cases, analyses)}
        both = list(enumerate(zip(cases, analyses, strict=True)))
        scored = [score_request(expert, f"judge {i}", j, a, c) for i, ((j, _), a) in both for c in CATEGORIES]
        numbers = [value for s in backend.score(scored) if (value := expected_value(s.logprobs)) is not None]
        if lacking := len(scored) - len(numbers):
            raise ConfigError(f"world check: {lacking} of {len(scored)} ratings have no probability; build the models again")
        deserved = [self.simulator.deserved(j, t) for j, t in cases]
        given = [dict(zip(CATEGORIES, numbers[i * 6 : i * 6 + 6], strict=True)) for i in range(len(cases))]
        for category in CATEGORIES:
            out[category] = spearman([g[category] for g in given], [float(d[category]) for d in deserved])
        whole = [{c: round(v) for c, v in g.items()} for g in given]
        return out | self._wim(expert, backend, cases, analyses, whole)

    def _label_accuracy(self, letter: Speaker, cases: Cases, analyses: Sequence[str]) -> float:
        """Share of the numbered sentences with the right label ("again" included)."""
        right = total = 0
        for (judgement, truths), analysis in zip(cases, analyses, strict=True):
            wanted, got = _labels(self.simulator.points(judgement, truths, letter)), _labels(analysis)
            total += len(wanted)
            right += sum(got.get(n) == label for n, label in wanted.items())
        return right / max(1, total)

    def _wim(
        self, expert: WorldExpert, backend: Backend, cases: Cases, analyses: Sequence[str], ratings: Sequence[dict[str, int]]
    ) -> dict[str, float]:
        out: dict[str, float] = {}
        facts_said = [float(len({i for n, t in enumerate(truths) if j.judged(n) for i in t.facts})) for j, truths in cases]
        for wording in ("missing", "covers_then_missing"):
            requests = [
                wim_request(expert, f"wim {i}", j, a, dict(r), wording)  # type: ignore[arg-type]
                for i, ((j, _), a, r) in enumerate(zip(cases, analyses, ratings, strict=True))
            ]
            texts = [c.text for c in backend.generate(requests)]
            if wording == "missing":
                out |= self._named(expert.letter, cases, texts)  # type: ignore[arg-type]
            embedded = self.embedder.embed([EmbedRequest("", x) for (j, _), t in zip(cases, texts, strict=True) for x in (j.reply, t)])
            scores = [
                1.0 if is_empty(t, self.simulator.prompts, wording) else _cosine(embedded[2 * i].vector, embedded[2 * i + 1].vector)
                for i, t in enumerate(texts)
            ]
            out[wording] = spearman(scores, facts_said)
        return out

    def _named(self, letter: Speaker, cases: Cases, texts: Sequence[str]) -> dict[str, float]:
        """Precision (named facts that are missing), facts named though present, recall of the known missing ones."""
        named = right = present = wanted = found = 0
        for (judgement, truths), text in zip(cases, texts, strict=True):
            said = {x.fact for t in truths for x in t.labels if x.fact is not None}
            stated = [s for s in sentences(text.removeprefix("What is missing:")) if "nothing is missing" not in s.lower()]
            claims = [self.world.label(s, judgement.topic) for s in stated]
            named += len(claims)
            right += sum(x.fact is not None and x.fact not in said for x in claims)
            present += sum(x.fact is not None and x.fact in said for x in claims)
            missing = set(self.world.missing(truths, judgement.topic, letter)[:4])
            wanted += len(missing)
            found += len(missing & {x.fact for x in claims})
        return {"precision": right / max(1, named), "present": present / max(1, named), "recall": found / max(1, wanted)}

    # -- embedding --------------------------------------------------------------------------------------------------

    def embedding(self) -> dict[str, float]:
        """AUC of a held-out wording against the fact's own first wording: versus facts of other topics, and of the same one."""
        rng, facts = random.Random(SEED + 3), [(t, i) for t, f in self.world.topics.items() for i in range(len(f))]
        held = [(t, i) for t, i in facts if held_out(i, 2)]

        def vector(t: str, i: int, wording: int) -> tuple[float, ...]:
            return self.embedder.embed([EmbedRequest("", self.world.topics[t][i].clauses[wording] + ".")])[0].vector

        true, far, near = [], [], []
        for t, i in held:
            v = vector(t, i, 2)
            true.append(_cosine(v, vector(t, i, 0)))
            far += [_cosine(v, vector(u, k, 0)) for u, k in rng.sample([f for f in facts if f[0] != t], 20)]
            near += [_cosine(v, vector(t, k, 0)) for k in range(len(self.world.topics[t])) if k != i]
        return {"other topic": auc(true, far), "same topic": auc(true, near)}


def _cosine(first: Sequence[float], second: Sequence[float]) -> float:
    found = cosine(first, second)
    assert found is not None  # the embedded embedder gives a direction to every text
    return found


def measure(checker: Checker) -> list[Row]:
    """All figures as rows, with the targets."""
    seats = SEATS
    warm = {n: checker.replies(s, WARM) for n, s in seats.items()}
    hot = {n: checker.replies(s, HOT) for n, s in seats.items()}
    judge = {n: checker.judge(s) for n, s in seats.items()}
    embedding = checker.embedding()

    def row(name: str, source: dict[str, dict[str, float]], key: str, target: tuple[str, float] | None = None) -> Row:
        return Row(name, {n: source[n][key] for n in seats}, target)

    return [
        row("fact accuracy of replies, T=.7", warm, "accuracy", (">=", 0.97)),
        row("fact accuracy of replies, T=1 top_p .95", hot, "accuracy", (">=", 0.93)),
        row("known asked aspect answered directly", hot, "direct", (">=", 0.75)),
        row("distinct facts a reply", hot, "distinct"),
        row("distinct facts a reply, sd", hot, "spread"),
        Row("repeated facts within a chat", {"both": checker.chats()}, ("<=", 0.15)),
        row("judge: sentences labelled right", judge, "labels"),
        row("rating against truth, rho: depth", judge, "depth", (">=", 0.9)),
        row("rating against truth, rho: accuracy", judge, "accuracy", (">=", 0.8)),
        row("rating against truth, rho: clarity", judge, "clarity", (">=", 0.6)),
        *[row(f"rating against truth, rho: {c}", judge, c) for c in ("relevance", "engagement", "humanness")],
        row("WIM precision", judge, "precision", (">=", 0.92)),
        row("WIM named though present", judge, "present", ("<=", 0.06)),
        row("WIM recall of the known missing", judge, "recall"),
        row("WIM score against facts said, rho: missing", judge, "missing"),
        row("WIM score against facts said, rho: covers_then_missing", judge, "covers_then_missing"),
        Row("embedder AUC, held-out wording, other topic", {"embedder": embedding["other topic"]}, (">=", 0.9)),
        Row("embedder AUC, held-out wording, same topic", {"embedder": embedding["same topic"]}),
    ]


def check(config: WorldConfig) -> list[Row]:
    """Measure the models in `config.out`, or those of the package; the rows are kept as check.json beside the former."""
    import torch

    from expertchat.backends.embedding import SentenceEmbedder
    from expertchat.backends.local import LocalBackend
    from expertchat.world.facts import load
    from expertchat.world.recipe import MODELS

    torch.set_num_threads(config.threads)
    folder = Path(config.out) if config.out else MODELS
    world = load()
    backends: dict[Speaker, Backend] = {
        letter: LocalBackend.load(folder / name, name, config.seed, dtype="fp32", device="cpu") for name, letter in SEATS.items()
    }
    embedder = SentenceEmbedder.load(folder / "embedder", "embedder", "cpu", 64)
    rows = measure(Checker(world, Simulator(world, config.prompts), backends, embedder, config.dialogues))
    if config.out:
        table = [{"name": r.name, "values": r.values, "target": r.target, "met": r.met} for r in rows]
        (folder / "check.json").write_text(json.dumps(table, indent=1), encoding="utf-8")
    return rows
