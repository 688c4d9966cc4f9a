"""`expertchat world check`: how good the embedded models are, on unseen dialogues, against the world's ground truth."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, pstdev

from expertchat.backends.base import Backend, Decoding, Embedder, EmbedRequest
from expertchat.experts.base import History
from expertchat.experts.world import WorldExpert
from expertchat.judging.view import Judgement
from expertchat.records import Speaker, Transcript, Turn, finite
from expertchat.text.sentences import sentences
from expertchat.world.config import WorldConfig
from expertchat.world.embedder import held_out
from expertchat.world.facts import Truth, World
from expertchat.world.judges import JudgeCheck
from expertchat.world.rates import auc, likeness, ratio
from expertchat.world.simulator import Simulator, other
from expertchat.world.spoken import cases, dialogues
from expertchat.world.train import SEATS

HOT = Decoding(method="sampling", temperature=1.0, top_p=0.95, max_new_tokens=120)
WARM = replace(HOT, temperature=0.7, top_p=1.0)
JUDGE = Decoding(method="greedy", max_new_tokens=400)
Found = Mapping[str, Mapping[str, float]]  # expert -> figure -> value
SEED = 987_654_321  # far from every seed of the training


@dataclass(frozen=True)
class Row:
    """One line of the table: the value of each expert (or one value; nan: of nothing), and the target as (sense, bound)."""

    name: str
    values: dict[str, float]
    target: tuple[str, float] | None = None

    @property
    def met(self) -> bool | None:
        """Whether each value reaches the target, which nan never does; None where there is no target."""
        if self.target is None:
            return None
        sense, bound = self.target
        return all(v >= bound if sense == ">=" else v <= bound for v in self.values.values())


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
            "accuracy": ratio(true, claims),
            "direct": ratio(direct, questions),
            "distinct": fmean(distinct),
            "spread": pstdev(distinct),
            "repeats": ratio(repeats, claims),
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
        return ratio(sum(t.repeats for talk in truths for t in talk), facts)

    # -- judging ----------------------------------------------------------------------------------------------------

    def judge(self, letter: Speaker) -> dict[str, float]:
        """n judgements of unseen simulated dialogues."""
        rng, found = random.Random(SEED + 2), list[tuple[Judgement, list[Truth]]]()
        while len(found) < self.n:
            judgement, truths = self.simulator.judged(rng)
            if judgement.subject != letter:
                found.append((judgement, truths))
        return self._judges(letter).figures(found)

    def judge_trained(self, letter: Speaker, spoken: Sequence[Transcript]) -> dict[str, float]:
        """Judgements of dialogues that trained policies have held, without the WIM scores."""
        return self._judges(letter).figures(cases(self.world, spoken, letter, random.Random(SEED + 4)), scores=False)

    def _judges(self, letter: Speaker) -> JudgeCheck:
        return JudgeCheck(self.experts(HOT)[letter], self.backends[letter], self.simulator, self.embedder)

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
            true.append(likeness(v, vector(t, i, 0)))
            far += [likeness(v, vector(u, k, 0)) for u, k in rng.sample([f for f in facts if f[0] != t], 20)]
            near += [likeness(v, vector(t, k, 0)) for k in range(len(self.world.topics[t])) if k != i]
        return {"other topic": auc(true, far), "same topic": auc(true, near)}


def measure(checker: Checker, spoken: Sequence[Transcript] = ()) -> list[Row]:
    """All figures as rows, with the targets. `spoken`: dialogues of trained policies, to measure the judges on as well."""
    warm = {n: checker.replies(s, WARM) for n, s in SEATS.items()}
    hot = {n: checker.replies(s, HOT) for n, s in SEATS.items()}
    judge = {n: checker.judge(s) for n, s in SEATS.items()}
    trained = {n: checker.judge_trained(s, spoken) for n, s in SEATS.items()} if spoken else {}
    embedding = checker.embedding()
    return [
        _row("fact accuracy of replies, T=.7", warm, "accuracy", (">=", 0.97)),
        _row("fact accuracy of replies, T=1 top_p .95", hot, "accuracy", (">=", 0.93)),
        _row("known asked aspect answered directly", hot, "direct", (">=", 0.75)),
        _row("distinct facts a reply", hot, "distinct"),
        _row("distinct facts a reply, sd", hot, "spread"),
        Row("repeated facts within a chat", {"both": checker.chats()}, ("<=", 0.15)),
        *_judge_rows(judge),
        _row("WIM score against facts said, rho: missing", judge, "missing"),
        _row("WIM score against facts said, rho: covers_then_missing", judge, "covers_then_missing"),
        *(_judge_rows(trained, ", trained policies") if trained else ()),
        Row("embedder AUC, held-out wording, other topic", {"embedder": embedding["other topic"]}, (">=", 0.9)),
        Row("embedder AUC, held-out wording, same topic", {"embedder": embedding["same topic"]}),
    ]


def _judge_rows(judge: Found, suffix: str = "") -> list[Row]:
    """What the judges are held to, on whatever dialogues."""
    return [
        _row(f"judge: sentences labelled right{suffix}", judge, "labels"),
        _row(f"repeats that the judge sees{suffix}", judge, "seen", (">=", 0.9)),
        _row(f"called a repeat rightly{suffix}", judge, "called", (">=", 0.9)),
        _row(f"rating against truth, rho: depth{suffix}", judge, "depth", (">=", 0.9)),
        _row(f"rating against truth, rho: accuracy{suffix}", judge, "accuracy", (">=", 0.85)),
        _row(f"rating against truth, rho: clarity{suffix}", judge, "clarity", (">=", 0.75)),
        *[_row(f"rating against truth, rho: {c}{suffix}", judge, c) for c in ("relevance", "engagement", "humanness")],
        _row(f"WIM precision{suffix}", judge, "precision", (">=", 0.92)),
        _row(f"WIM named though present{suffix}", judge, "present", ("<=", 0.06)),
        _row(f"WIM recall of the known missing{suffix}", judge, "recall"),
    ]


def _row(name: str, found: Found, key: str, target: tuple[str, float] | None = None) -> Row:
    return Row(name, {expert: figures[key] for expert, figures in found.items()}, target)


def check(config: WorldConfig) -> list[Row]:
    """Measure the models in `config.out`, or those of the package; the rows are kept as check.json beside the former."""
    import torch

    from expertchat.backends.embedding import SentenceEmbedder
    from expertchat.backends.local import LocalBackend
    from expertchat.world.facts import load
    from expertchat.world.recipe import MODELS

    spoken = dialogues(config.runs, config.dialogues)
    torch.set_num_threads(config.threads)
    folder = Path(config.out) if config.out else MODELS
    world = load()
    backends: dict[Speaker, Backend] = {
        letter: LocalBackend.load(folder / name, name, config.seed, dtype="fp32", device="cpu") for name, letter in SEATS.items()
    }
    embedder = SentenceEmbedder.load(folder / "embedder", "embedder", "cpu", 64)
    rows = measure(Checker(world, Simulator(world, config.prompts), backends, embedder, config.dialogues), spoken)
    if config.out:
        table = [{"name": r.name, "values": finite(r.values), "target": r.target, "met": r.met} for r in rows]
        (folder / "check.json").write_text(json.dumps(table, indent=1), encoding="utf-8")
    return rows
