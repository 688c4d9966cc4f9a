"""Judging one finished dialogue, as a flow: analysis, ratings of all categories, What Is Missing, WIM score, reward."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from expertchat.backends.asking import Ask, Flow, together
from expertchat.backends.base import Completion, Embedding, EmbedRequest, GenerateRequest, Request, Result, ScoreRequest, Scores
from expertchat.config import JudgingConfig
from expertchat.events import Announce, RatingGiven, RewardGiven, WimGiven
from expertchat.experts.base import CountTokens, ExpertChat
from expertchat.judging import faults, rating, wim
from expertchat.judging.faults import PARROT_COSINE, Fault, copies
from expertchat.judging.view import Judgement
from expertchat.records import Message, Rating, Reward, Speaker, Transcript, Wim, other
from expertchat.text.likeness import blank

Judged = Rating | Wim | Reward


@dataclass(frozen=True)
class Seat:
    """One judgement to be made: who judges whom, and which turn alone (None: the whole dialogue)."""

    judge: str
    subject: Speaker
    turn: int | None = None

    def key(self, transcript: str) -> str:
        """The id that all records of this judgement begin with: c0003/b-by-a, c0003/t02/b-by-a."""
        place = "" if self.turn is None else f"t{self.turn:02d}/"
        return f"{transcript}/{place}{self.subject}-by-{self.judge}"


def seats(config: JudgingConfig, speakers: Sequence[Speaker]) -> list[Seat]:
    """The judgements of a dialogue whose turns were spoken by `speakers`."""

    def judge_of(subject: Speaker) -> str:
        return {"partner": other(subject), "self": subject, "third": "third"}[config.judge]

    subjects: list[Speaker] = [s for s in ("a", "b") if s in speakers]  # type: ignore[misc]
    found = [Seat(judge_of(s), s) for s in subjects]
    if config.per_turn:
        found += [Seat(judge_of(s), s, turn) for turn, s in enumerate(speakers)]
    return found


def record_counts(config: JudgingConfig, speakers: Sequence[Speaker]) -> tuple[int, int, int]:
    """How many ratings, WIM responses and rewards a fully judged dialogue has."""
    n = len(seats(config, speakers))
    return n * len(config.categories), n * config.wim.enabled, n


@dataclass(frozen=True)
class Case:
    """One judgement to be made. All its records' ids begin with `key`; `who` is the backend that is asked, `judge` what records call it."""

    key: str
    transcript: str
    judgement: Judgement
    judge: str
    who: str
    candidate: str | None = None


@dataclass
class Judging:
    """The flow that judges one transcript. `judges` and `tokens` are by name: "a", "b", "third".

    `done` are records of an earlier start of the run by id; they are announced again but not made again.
    """

    transcript: Transcript
    config: JudgingConfig
    judges: Mapping[str, ExpertChat]
    announce: Announce
    tokens: Mapping[str, CountTokens] = field(default_factory=dict)
    done: Mapping[str, Judged] = field(default_factory=dict)

    def flow(self) -> Flow[list[Reward]]:
        """All judgements side by side; returns their rewards."""
        return together([self._judge(seat) for seat in seats(self.config, [t.speaker for t in self.transcript.turns])])

    def _judge(self, seat: Seat) -> Flow[Reward]:
        transcript = self.transcript
        judgement = Judgement(transcript.topic, tuple(transcript.turns), seat.subject, seat.turn, self.config.categories)
        case = Case(seat.key(transcript.id), transcript.id, judgement, seat.judge, seat.judge)
        count = self.tokens.get(seat.judge)
        work = JudgeWork(case, self.config, self.judges[seat.judge], count, self.done, self.announce)
        _, _, reward = yield from work.flow()
        return reward


class JudgeWork:
    """What one judgement asks and reads. `count` counts the tokens of the judge's prompts; without it nothing is found too long."""

    def __init__(
        self,
        case: Case,
        config: JudgingConfig,
        expert: ExpertChat,
        count: CountTokens | None = None,
        done: Mapping[str, Judged] | None = None,
        announce: Announce = lambda event: None,
    ) -> None:
        self.case, self.config, self.expert, self.count = case, config, expert, count
        self.done, self.announce = done or {}, announce
        self.key, self.judgement = case.key, case.judgement
        self.place: dict[str, Any] = {
            "transcript": case.transcript,
            "turn": case.judgement.turn,
            "candidate": case.candidate,
            "judge": case.judge,
            "subject": case.judgement.subject,
        }

    def flow(self) -> Flow[tuple[dict[str, Rating], Wim | None, Reward]]:
        """Analysis, ratings of all categories, WIM response, reward; each is announced as soon as it is there."""
        kept, response = self.kept_ratings(), self.kept_wim()
        missing = [c for c in self.config.categories if c not in kept]
        analysis, problem = "", self.nothing_said()
        if problem is None and (missing or (response is None and self.config.wim.enabled)):
            analysis, problem = yield from self.analyse()
        made = (yield from self.rate(missing, analysis, problem)) if missing else {}
        ratings = {c: made[c] if c in made else kept[c] for c in self.config.categories}
        for record in ratings.values():
            self.announce(RatingGiven(rating=record))
        if self.config.wim.enabled:
            if response is None:
                response = yield from self.what_is_missing(ratings, analysis, problem)
            self.announce(WimGiven(wim=response))
        reward = self.reward(ratings, response)
        self.announce(RewardGiven(reward=reward))
        return ratings, response, reward

    def nothing_said(self) -> Fault | None:
        """Why there is nothing to judge, or None: nothing is asked about a subject that has said nothing."""
        return Fault("blank", "the judged text is blank") if blank(self.judgement.reply) else None

    # -- what is there already --------------------------------------------------------------------------------------

    def kept_ratings(self) -> dict[str, Rating]:
        kept = {c: self.done.get(f"{self.key}/{c}") for c in self.config.categories}
        return {c: record for c, record in kept.items() if isinstance(record, Rating)}

    def kept_wim(self) -> Wim | None:
        kept = self.done.get(f"{self.key}/wim")
        return kept if isinstance(kept, Wim) else None

    # -- analysis and ratings ---------------------------------------------------------------------------------------

    def ask(self, request: Request) -> Ask:
        return Ask(self.case.who, request, label="judge")

    def too_long(self, messages: Sequence[Message], new: int) -> Fault | None:
        """Why a request for `new` tokens after `messages` cannot be made, or None where it fits the judge's context."""
        holds = self.expert.context_length
        if self.count is None or (needed := self.count(messages)) + new <= holds:
            return None
        return Fault("too_long", f"the judge's prompt takes {needed} tokens and the answer up to {new}, but the context holds {holds}")

    def analyse(self) -> Flow[tuple[str, Fault | None]]:
        """The judge's analysis ("" if the config wants none), and what is wrong with it: nothing is then asked on top of it."""
        if not self.config.analysis:
            return "", None
        request = self.expert.analysis_request(self.key, self.judgement)
        if problem := self.too_long(request.messages, request.decoding.max_new_tokens):
            return "", problem
        (answer,) = yield [self.ask(request)]
        assert isinstance(answer, Completion)
        read = self.expert.read_answer(answer.text, request.prefix)
        text = read.text
        if read.unended:
            return text, Fault("thinking", f"the analysis ended {self.expert.thoughts.endless()}")
        if request.prefix:  # labels in a trained form, not prose
            return text, None
        prompt = "\n".join(m.content for m in request.messages)
        seen = {"subject": self.judgement.subject, "prompt": prompt, "reference": self.dialogue()}
        return text, faults.of_analysis(text, reply=self.judgement.reply, **seen)

    def dialogue(self) -> str:
        """What was said, as far as the judge sees it: its language is the one to answer in."""
        return " ".join(turn.text for turn in self.judgement.shown())

    def rate(self, categories: Sequence[str], analysis: str, problem: Fault | None = None) -> Flow[dict[str, Rating]]:
        """Ask for all categories at once, in one form or both. With a `problem` nothing is asked and every rating is None."""
        form = self.config.form
        texts = {c: self.expert.rating_request(self.key, self.judgement, analysis, c) for c in categories if form != "expected"}
        scores = {c: self.expert.score_request(self.key, self.judgement, analysis, c) for c in categories if form != "sampled"}
        requests: list[GenerateRequest | ScoreRequest] = [*texts.values(), *scores.values()]
        if problem is None:
            longest = max(requests, key=lambda request: len(request.prefix))
            problem = self.too_long([*longest.messages, Message("assistant", longest.prefix)], rating.SAMPLED_TOKENS)
        if problem is not None:
            return {c: self._rating(c, None, None, "", problem) for c in categories}
        results = yield [self.ask(request) for request in requests]
        written, scored = dict(zip(texts, results, strict=False)), dict(zip(scores, results[len(texts) :], strict=True))
        return {c: self.rating(c, written.get(c), scored.get(c)) for c in categories}

    def rating(self, category: str, text: Result | None, scores: Result | None) -> Rating:
        """A Rating from what the judge answered; what cannot be read is None with its problem."""
        value, expected, mass, raw, problems = None, None, None, "", list[Fault]()
        if isinstance(text, Completion):
            opened = rating.opened(self.expert.settings.prompts)  # the judge goes on in brackets that it did not open, and may not close
            written = opened + text.text if "]" in text.text else text.text
            parsed = rating.parse_rating(written, category, text.finish, self.judgement.subject)
            value, raw = parsed.value, text.text
            problems += [Fault(parsed.fault, parsed.problem)] if parsed.fault and parsed.problem else []
        if isinstance(scores, Scores):
            expected, mass = rating.expected_value(scores.logprobs), rating.mass(scores.logprobs)
            raw = raw or " ".join(f"{p:.4f}" for p in scores.logprobs)
            if expected is None or mass is None:
                problems.append(no_mean(scores))
            elif mass < self.config.min_mass:
                expected = None
                problems.append(Fault("low_mass", rating.low_mass(mass, self.config.min_mass)))
        problem = Fault(problems[0].kind, "; ".join(one.problem for one in problems)) if problems else None
        return self._rating(category, value, expected, raw, problem, mass)

    def _rating(
        self, category: str, value: int | None, expected: float | None, raw: str, problem: Fault | None, mass: float | None = None
    ) -> Rating:
        if expected is not None:
            expected = min(10.0, max(1.0, expected))  # a sum of floats may end a hair outside
        return Rating(
            id=f"{self.key}/{category}",
            **self.place,
            category=category,
            value=value,
            expected=expected,
            mass=mass,
            raw=raw,
            problem=problem.problem if problem else None,
            fault=problem.kind if problem else None,
        )

    # -- what is missing --------------------------------------------------------------------------------------------

    def what_is_missing(self, ratings: Mapping[str, Rating], analysis: str, problem: Fault | None = None) -> Flow[Wim]:
        """Ask for the WIM response and score it. With a `problem` nothing is asked."""
        numbers = {c: r.value if r.value is not None else None if r.expected is None else round(r.expected) for c, r in ratings.items()}
        request = self.expert.wim_request(self.key, self.judgement, analysis, numbers, self.config.wim.wording)
        problem = problem or self.too_long(request.messages, request.decoding.max_new_tokens)
        if problem is not None:
            return self.wim("", analysis, problem=problem)
        (answer,) = yield [self.ask(request)]
        assert isinstance(answer, Completion)
        read = self.expert.read_answer(answer.text, request.prefix)
        text, reply = read.text, self.judgement.reply
        if read.unended:
            return self.wim(text, analysis, problem=Fault("thinking", f"ended {self.expert.thoughts.endless()}"))
        if wim.is_empty(text, self.expert.settings.prompts, self.config.wim.wording):
            return self.wim(text, analysis, cosine=self.config.wim.empty_score, empty=True)
        if problem := self.wim_fault(text, request.messages[-1].content):
            return self.wim(text, analysis, problem=problem)
        pair = [EmbedRequest(f"{self.key}/reply", reply), EmbedRequest(f"{self.key}/wim", text)]
        first, second = yield [Ask("embedder", request, label="embedder") for request in pair]
        assert isinstance(first, Embedding) and isinstance(second, Embedding)
        cosine = wim.cosine(first.vector, second.vector)
        if cosine is None:
            return self.wim(text, analysis, problem=Fault("not_finite", "the cosine is not a number"))
        if cosine > PARROT_COSINE or copies(reply, text):
            return self.wim(text, analysis, problem=Fault("parrot", f"parrots the reply (cosine {cosine:.3f})"))
        return self.wim(text, analysis, cosine=cosine)

    def wim_fault(self, text: str, question: str) -> Fault | None:
        """What is wrong with a WIM response that is no parrot. It may share words with the transcript: facts have one wording."""
        prompts, judged = self.expert.settings.prompts, self.judgement
        instruction = rating.judge_prompt(prompts, replace(judged, turns=()))
        seen = {"subject": judged.subject, "prompt": f"{instruction}\n{question}", "reference": self.dialogue()}
        return faults.of_wim(text, categories=tuple(judged.categories), **seen)

    def wim(
        self, text: str, analysis: str = "", cosine: float | None = None, empty: bool = False, problem: Fault | None = None
    ) -> Wim:
        return Wim(
            id=f"{self.key}/wim",
            **self.place,
            text=text,
            analysis=analysis,
            cosine=cosine,
            empty=empty,
            problem=problem.problem if problem else None,
            fault=problem.kind if problem else None,
        )

    def reward(self, ratings: Mapping[str, Rating], response: Wim | None) -> Reward:
        """(1 - z) R + z WIM, or None with what is lacking."""
        kept = self.done.get(f"{self.key}/reward")
        if isinstance(kept, Reward):
            return kept
        mean = wim.mean_rating({c: r.number for c, r in ratings.items()}, self.config.weights)
        score = response.cosine if response is not None else None
        value = wim.reward(mean, score, self.config.z)
        lacking = [c for c, r in ratings.items() if r.number is None and self.config.weights.get(c, 0) > 0] if self.config.z < 1 else []
        lacking += ["WIM score"] if self.config.z > 0 and score is None else []
        return Reward(
            id=f"{self.key}/reward",
            **self.place,
            rating=mean,
            wim=score,
            value=value,
            problem=None if value is not None else f"no number for {', '.join(lacking)}",
        )


def no_mean(scores: Scores) -> Fault:
    """Why the options' probabilities have no mean."""
    if rating.finite(scores.logprobs):
        return Fault("low_mass", "no option has a probability")
    return Fault("not_finite", "the probability of an option is not a number")
