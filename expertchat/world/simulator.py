"""Simulated dialogues and judgements: the corpus that the tiny experts learn from.

Every prompt is built by the product's own expert (WorldExpert) from conf/prompts/world.yaml, so that what the models see in training is
letter by letter what they see in use. An answer is the list of messages that ends with the assistant's text.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from expertchat.backends.base import Decoding
from expertchat.experts.base import History, Settings
from expertchat.experts.world import WorldExpert
from expertchat.judging import rating
from expertchat.judging.requests import analysis_request, wim_request
from expertchat.judging.view import Judgement
from expertchat.records import Message, Speaker, Turn
from expertchat.text.wordings import Prompts, WimWording
from expertchat.world.facts import LEADS, NOTHING_NEW, OPENING, REMARKS, UNSURE, Label, Truth, World

CATEGORIES = ("depth", "accuracy", "relevance", "clarity", "engagement", "humanness")
QUESTIONS = (
    "What do you know about {a}?",
    "Could you say more about {a}?",
    "How does {a} fit in?",
    "What about {a}?",
    "Can you explain {a}?",
)
FACTS_A_TURN = ((1, 2, 3, 4, 5, 6), (0.52, 0.28, 0.11, 0.05, 0.03, 0.01))
KNOWN_LINE = "Known:"
OPEN_LINE = "Open:"  # the last line of an analysis, which a WIM answer is written from
LONGEST = 36  # sentences of a dialogue to judge; a judge of this family reads up to 48
LONG, LONG_SHARE = 18, 0.25  # so many of the judgements are of at least so many sentences: the reading of those is learnt last
# Experts that have learnt to say more: facts a turn, the share of the judgements, and that of sentences that a wrong or an old one follows.
RICH, RICH_SHARE, SLIP = (0, 1, 1, 2, 3, 4, 5, 6, 8), 0.25, 0.1
MIXTURE = (0.40, 0.37, 0.18, 0.02, 0.03)  # talk, judgements, labels, topics, the unknown: judging is learnt last
MIXTURE_BEFORE = (0.35, 0.40, 0.20, 0.02, 0.03)  # while judgements still grow longer
NAMED_MISSING = 4  # a WIM response names at most so many facts
# fmt: off
ELSEWHERE = (
    "gardening", "knitting", "football", "sailing", "poetry", "opera", "castles", "dragons", "taxes", "trains", "bridges", "ballet",
    "cinema", "fashion", "cooking", "salads", "sushi", "soup", "ramen", "beer", "tea", "sugar", "salt", "pepper", "mountains",
    "deserts", "caves", "lakes", "clouds", "lightning", "rainbows", "comets", "planets", "Mars", "Saturn", "Venus", "robots",
    "compilers", "databases", "Python", "painting", "sculpture", "pottery", "glass", "steel", "paper", "ink", "printing",
    "newspapers", "elections", "parliaments", "law", "contracts", "money", "banks", "inflation", "trade", "ships", "pirates",
    "submarines", "aircraft", "helicopters", "balloons", "bicycles", "tyres", "engines", "roads", "horses", "cats", "dogs", "birds",
    "owls", "eagles", "penguins", "snakes", "frogs", "ants", "butterflies", "dinosaurs", "fossils", "mammoths", "wolves", "bears",
    "foxes", "elephants", "lions", "tennis", "golf", "rugby", "boxing", "swimming", "yoga", "running", "medicine", "surgery",
    "dentists", "bones", "muscles", "eyes", "ears", "skin", "blood", "teeth", "algebra", "geometry", "prime", "numbers",
    "statistics", "logic", "philosophy", "ethics", "religion", "myths", "Vikings", "Egypt", "pyramids", "Greece", "Athens", "Paris",
    "London", "Tokyo", "music", "theory", "guitars", "pianos", "drums", "violins", "radio", "television", "telephones",
    "satellites", "rockets", "magnets", "electricity", "nuclear", "power", "gold", "silver", "diamonds", "plastic", "rubber",
    "cotton", "silk", "wool", "perfume", "soap", "candles", "clocks", "calendars", "maps", "compasses", "lighthouses",
)
# fmt: on


@dataclass(frozen=True)
class Dialogue:
    """A simulated dialogue with its truth, turn by turn."""

    topic: str
    turns: tuple[Turn, ...]
    truths: tuple[Truth, ...]


def other(speaker: Speaker) -> Speaker:
    """The partner: this world has two experts, a and b."""
    return "b" if speaker == "a" else "a"


def capital(clause: str) -> str:
    """The clause with a capital first letter."""
    return clause[0].upper() + clause[1:]


class Simulator:
    """Draws samples from `world` with the wordings of `prompts`; every draw comes from the `rng` that is passed in."""

    def __init__(self, world: World, prompts: Prompts) -> None:
        decoding = Decoding()
        settings = Settings(prompts, persona="", topic=decoding, reply=decoding, judge=decoding)
        self.world = world
        self.prompts = prompts
        self.topics = list(world.topics)
        self.experts: dict[Speaker, WorldExpert] = {"a": WorldExpert("a", settings), "b": WorldExpert("b", settings)}

    # -- sentences --------------------------------------------------------------------------------------------------

    def say(self, rng: random.Random, topic: str, fact: int, wording: int | None = None) -> str:
        """One fact as a sentence, plain half of the time, else with a lead-in."""
        f = self.world.topics[topic][fact]
        clause = f.clauses[rng.randrange(2) if wording is None else wording]
        if rng.random() < 0.5:
            return capital(clause) + "."
        return rng.choice(LEADS).format(c=clause, a=f.aspect)

    def chimera(self, rng: random.Random, topic: str) -> str:
        """A wrong sentence: the head of one fact and the tail of another."""
        elsewhere = topic if rng.random() < 0.7 else rng.choice(self.topics)
        while True:
            head = rng.choice(self.world.topics[topic]).clauses[rng.randrange(2)].split()
            tail = rng.choice(self.world.topics[elsewhere]).clauses[rng.randrange(2)].split()
            clause = " ".join(head[: rng.randint(2, max(2, len(head) - 2))] + tail[-rng.randint(2, max(2, len(tail) - 2)) :])
            if clause.lower() not in self.world.clauses:
                return capital(clause) + "." if rng.random() < 0.5 else rng.choice(LEADS[:5]).format(c=clause)

    def question(self, rng: random.Random, topic: str, last: int, speaker: Speaker) -> tuple[int, str] | None:
        """A question about one of the next three aspects, rather one that the speaker does not know; None at the topic's end."""
        facts = self.world.topics[topic]
        pool = list(range(len(facts)))[last + 1 : last + 4]
        unknown = [i for i in pool if i not in self.world.known(speaker, topic)]
        if not pool:
            return None
        fact = rng.choice(unknown if unknown and rng.random() < 0.5 else pool)
        return fact, rng.choice(QUESTIONS).format(a=facts[fact].aspect)

    # -- turns ------------------------------------------------------------------------------------------------------

    def reply(
        self, rng: random.Random, speaker: Speaker, topic: str, last: int, asked: int | None, first: bool, rich: bool = False
    ) -> tuple[str, int, int | None]:
        """One good turn. The talk walks forward through the topic's list and never back, so nothing is said twice.

        A `rich` one says more and slips now and then, as experts do that have learnt to say more. `last` is how far the talk has come;
        returns the text, how far it comes with it, and the aspect that it asks about.
        """
        parts, new = [], []
        known, facts = self.world.known(speaker, topic), self.world.topics[topic]
        if not first and rng.random() < 0.45:
            parts.append(rng.choice(REMARKS))
        if asked is not None and asked > last:
            last = asked
            if asked in known:
                new.append(asked)
            else:
                parts.append(rng.choice(UNSURE).format(a=facts[asked].aspect))
        number = rng.choice(RICH) if rich else rng.choices(*FACTS_A_TURN)[0]
        while len(new) < number and (ahead := [i for i in sorted(known) if i > last][:3]):
            last = rng.choices(ahead, (0.85, 0.12, 0.03)[: len(ahead)])[0]
            new.append(last)
        for i in new:
            parts.append(self.say(rng, topic, i))
            if rich and rng.random() < SLIP:
                parts.append(self.chimera(rng, topic) if rng.random() < 0.5 else self.say(rng, topic, rng.randint(0, i)))
        if not new:
            parts.append(rng.choice(NOTHING_NEW).format(t=topic))
        asks = self.question(rng, topic, last, speaker) if rng.random() < 0.75 else None
        return " ".join([*parts, asks[1]] if asks else parts), last, asks[0] if asks else None

    def noisy(self, rng: random.Random, topic: str, said: list[int], limit: int) -> str:
        """One turn with anything in it that a judge must tell apart: facts of either expert, repeats, wrong and foreign sentences."""
        number = rng.choice((0, 1, 1, 2, 2, 3, 3, 4, 5, 6, 8)) if limit > 8 else rng.randint(0, limit)
        fresh = [i for i in range(len(self.world.topics[topic])) if i not in said]
        picked = rng.sample(fresh, min(number, len(fresh)))
        parts = [self.say(rng, topic, i) for i in picked]
        if rng.random() < 0.4:
            parts += [self.chimera(rng, topic) for _ in range(rng.choice((1, 1, 2, 3)))]
        if rng.random() < 0.2:
            foreign = rng.choice([t for t in self.topics if t != topic])
            parts += [self.say(rng, foreign, rng.randrange(14)) for _ in range(rng.choice((1, 1, 2)))]
        if (said or picked) and rng.random() < 0.45:
            parts += [self.say(rng, topic, rng.choice([*said, *picked])) for _ in range(rng.choice((1, 1, 2, 3)))]
        rng.shuffle(parts)
        said += picked
        if rng.random() < 0.4:
            parts.insert(0, rng.choice(REMARKS))
        if rng.random() < 0.15:
            parts.insert(0, rng.choice(UNSURE).format(a=rng.choice(self.world.topics[topic]).aspect))
        if not picked and rng.random() < 0.4:
            parts.append(rng.choice(NOTHING_NEW).format(t=topic))
        if rng.random() < 0.6:
            parts.append(rng.choice(QUESTIONS).format(a=rng.choice(self.world.topics[topic]).aspect))
        return " ".join(parts) or rng.choice(REMARKS)

    def opening(self, rng: random.Random, topic: str, speaker: Speaker) -> tuple[str, int]:
        """The first turn: names the topic and asks about one of its first aspects."""
        asked, text = self.question(rng, topic, -1, speaker) or (0, "")
        return f"{OPENING.format(t=topic)} {text}", asked

    def dialogue(
        self,
        rng: random.Random,
        topic: str | None = None,
        turns: int | None = None,
        noise: float = 0.0,
        limit: int = 99,
        rich: bool = False,
    ) -> Dialogue:
        """A dialogue of an opening and `turns` further turns, each noisy with probability `noise`, the others rich if `rich`."""
        topic = topic or rng.choice(self.topics)
        turns = rng.randint(1, 8) if turns is None else turns
        speaker: Speaker = rng.choice(("a", "b"))
        asked: int | None
        text, asked = self.opening(rng, topic, speaker)
        out, said, last = [Turn(speaker=speaker, text=text)], list[int](), -1
        for n in range(turns):
            speaker = other(speaker)
            if rng.random() < noise:
                text, asked = self.noisy(rng, topic, said, limit), None
            else:
                text, last, asked = self.reply(rng, speaker, topic, max([last, *said]), asked, first=n == 0, rich=rich)
            out.append(Turn(speaker=speaker, text=text))
        return Dialogue(topic, tuple(out), tuple(self.world.read([t.text for t in out], topic)))

    # -- samples: messages that end with what the expert should say ---------------------------------------------------

    def talk_sample(self, rng: random.Random, expert: Speaker) -> list[Message]:
        """A dialogue in the expert's own view, ending with its own turn."""
        d = self.dialogue(rng, turns=rng.choice((1, 1, 2, 3, 4, 5, 6, 7, 8)))  # many short ones: an asked aspect is answered at once
        keep = max(i for i, t in enumerate(d.turns[-2:]) if t.speaker == expert) + max(0, len(d.turns) - 2) + 1
        return list(self.experts[expert].view(History(d.topic, d.turns[:keep])))

    def judged(self, rng: random.Random, limit: int = 99, least: int = 0, rich: bool = False) -> tuple[Judgement, list[Truth]]:
        """A dialogue of at most `limit` turns and of `least` sentences to judge, as a whole or one turn of it, and the truth of the
        turns shown. A `rich` one has no noise."""
        while True:
            turns = min(rng.randint(1, 7), limit)
            d = self.dialogue(rng, turns=turns, noise=0.0 if rich else rng.choice((0, 0.6, 1)), limit=limit, rich=rich)
            if least <= sum(len(t.labels) for t in d.truths) <= LONGEST:
                break
        turn = rng.randrange(len(d.turns)) if rng.random() < 0.4 else None
        subject = d.turns[turn].speaker if turn is not None else d.turns[rng.randrange(2)].speaker
        judgement = Judgement(d.topic, d.turns, subject, turn)
        return judgement, list(d.truths[: len(judgement.shown())])

    def points(self, judgement: Judgement, truths: Sequence[Truth], expert: Speaker) -> str:
        """The judge's analysis: a label for every numbered sentence, then for each fact that it knows whether somebody said it, then
        the list of those that nobody has: what is missing stands where the WIM answer begins to be read off.
        """
        parts, n = [self.prompts.analysis_prefix], 0
        for i, truth in enumerate(truths):
            for label in truth.labels:
                n += 1
                parts.append(f"[{n}]" if judgement.judged(i) else f"({n})")
                parts.append(self.name(label, judgement.topic))
        facts, missing = self.world.topics[judgement.topic], self.world.missing(truths, judgement.topic, expert)
        known = [f"{facts[i].aspect} {'open' if i in missing else 'said'}" for i in sorted(self.world.known(expert, judgement.topic))]
        still_open = ", ".join(facts[i].aspect for i in missing) or "nothing"
        return f"{' '.join(parts)}\n{KNOWN_LINE} {', '.join(known)}.\n{OPEN_LINE} {still_open}."

    def name(self, label: Label, topic: str) -> str:
        """A label as the judge writes it."""
        if label.fact is None:
            return label.kind
        return self.world.topics[topic][label.fact].aspect + (" again" if label.again else "")

    def deserved(self, judgement: Judgement, truths: Sequence[Truth]) -> dict[str, int]:
        """The ratings that the judged turns deserve."""
        return Truth([x for i, t in enumerate(truths) if judgement.judged(i) for x in t.labels]).ratings()

    def wim_text(self, judgement: Judgement, truths: Sequence[Truth], expert: Speaker, wording: WimWording) -> str:
        """The WIM response that the expert should give: at most four facts that it knows and nobody has said."""
        facts = self.world.topics[judgement.topic]
        named = self.world.missing(truths, judgement.topic, expert)[:NAMED_MISSING]
        text = "What is missing: " + " ".join(capital(facts[i].clauses[0]) + "." for i in named) if named else self.prompts.wim_empty
        if wording == "missing":
            return text
        covered = list(dict.fromkeys(facts[i].aspect for n, t in enumerate(truths) if judgement.judged(n) for i in t.facts))
        return f"The answers cover {', '.join(covered) if covered else 'nothing I know'}. {text}"

    def judge_sample(self, rng: random.Random, expert: Speaker, limit: int = 99) -> list[Message]:
        """A judgement: analysis, ratings in any order and number, then the WIM question and its answer."""
        whole = limit > 8  # the lessons before it are shorter
        rich = whole and rng.random() < RICH_SHARE
        judgement, truths = self.judged(rng, limit, least=LONG if whole and rng.random() < LONG_SHARE else 0, rich=rich)
        deserved = self.deserved(judgement, truths)
        shown = list(CATEGORIES) if rng.random() < 0.4 else rng.sample(CATEGORIES, rng.randint(1, len(CATEGORIES)))
        analysis = self.points(judgement, truths, expert) if rng.random() > 0.03 else ""
        judge = self.experts[expert]
        answer = rating.answer(self.prompts, analysis, {c: deserved[c] for c in shown})
        wording: WimWording = rng.choice(("missing", "covers_then_missing"))
        asked = wim_request(judge, "", judgement, analysis, {c: deserved[c] for c in shown}, wording).messages
        if rng.random() < 0.25:  # ratings alone
            return [*asked[:-2], Message("assistant", answer)]
        return [*asked, Message("assistant", self.wim_text(judgement, truths, expert, wording))]

    def label_sample(self, rng: random.Random, expert: Speaker, longest: int = 6) -> list[Message]:
        """A few sentences to label, some of them repeated or wrong: the lesson that comes first."""
        topic, said = rng.choice(self.topics), list[int]()
        text = " ".join(self._sentence(rng, topic, said) for _ in range(rng.randint(1, longest)))
        judgement = Judgement(topic, (Turn(speaker=other(expert), text=text),), other(expert))
        truths = self.world.read([text], topic)
        points = self.points(judgement, truths, expert)
        return [*analysis_request(self.experts[expert], "", judgement).messages, Message("assistant", points)]

    def _sentence(self, rng: random.Random, topic: str, said: list[int]) -> str:
        kind = rng.random()
        if kind < 0.2:
            return self.chimera(rng, topic)
        if kind < 0.28:
            return self.say(rng, rng.choice(self.topics), rng.randrange(14))
        said.append(rng.choice(said) if said and kind < 0.48 else rng.randrange(14))
        return self.say(rng, topic, said[-1])

    def topic_sample(self, rng: random.Random, expert: Speaker) -> list[Message]:
        """A topic proposed that is none of those discussed."""
        order = rng.sample(self.topics, len(self.topics))
        avoid = order[: rng.choice((0, 0, 1, 2, 3, 5, 8, 12))]
        return [*self.experts[expert].topic_request("", avoid).messages, Message("assistant", order[-1])]

    def unknown_sample(self, rng: random.Random, expert: Speaker) -> list[Message]:
        """A topic outside the world: the expert says so and offers what it knows."""
        topic = " ".join(rng.sample(ELSEWHERE, rng.choice((1, 1, 2)))) if rng.random() < 0.6 else _nonsense(rng)
        text, aspect = OPENING.format(t=topic), rng.choice(ELSEWHERE)
        known = rng.sample(self.topics, 2)
        turns = (Turn(speaker=other(expert), text=f"{text} {rng.choice(QUESTIONS).format(a=aspect)}"),)
        own = Turn(speaker=expert, text=f"I do not know that topic. I can discuss {known[0]} or {known[1]}.")
        return list(self.experts[expert].view(History(topic, (own,) if rng.random() < 0.4 else (*turns, own))))

    def sample(self, rng: random.Random, expert: Speaker, progress: float = 1.0) -> list[Message]:
        """One sample of the mixture. `progress` 0..1 is how far the training is: first labels alone, then longer and longer judgements."""
        if progress < 0.08:
            return self.label_sample(rng, expert, longest=2)
        limit = 99 if progress > 0.4 else 1 + int((progress - 0.08) * 22)
        kind = rng.choices(range(5), MIXTURE if progress > 0.4 else MIXTURE_BEFORE)[0]
        if kind == 1:
            return self.judge_sample(rng, expert, limit)
        return (self.talk_sample, self.judge_sample, self.label_sample, self.topic_sample, self.unknown_sample)[kind](rng, expert)


def _nonsense(rng: random.Random) -> str:
    syllable = lambda: rng.choice("bcdfghklmnprstvz") + rng.choice("aeiou")  # noqa: E731 - shorter than a function
    return " ".join("".join(syllable() for _ in range(rng.randint(2, 4))) for _ in range(rng.randint(1, 2)))
