"""A judge at work, as a flow: analysis, ratings of all categories, What Is Missing, WIM score, reward."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple, TypeVar

from expertchat.backends.asking import Ask, Flow, together
from expertchat.backends.base import Completion, Embedding, EmbedRequest, GenerateRequest, Request, ScoreRequest
from expertchat.config import JudgingConfig
from expertchat.events import Announce, RatingGiven, RewardGiven, WimGiven
from expertchat.experts.base import CountTokens, ExpertChat
from expertchat.judging import answers, by_person, faults, principles, rating, requests, scored, wim
from expertchat.judging.examples import drawn
from expertchat.judging.faults import PARROT, PARROT_COSINE, UNANSWERED, Fault, copies
from expertchat.judging.fits import lacks
from expertchat.judging.guessing import people_of
from expertchat.judging.roles import REWARD_MODEL, judges_of
from expertchat.judging.view import Judgement
from expertchat.records import Guess, Message, Rating, Reward, Speaker, Transcript, Wim
from expertchat.text.likeness import blank

Kept = Rating | Wim | Reward | Guess
R = TypeVar("R", GenerateRequest, ScoreRequest)


class Judged(NamedTuple):
    """What one judgement comes to."""

    ratings: dict[str, Rating]  # by category
    wim: Wim | None  # None where none is asked for
    reward: Reward


# -- a whole dialogue ----------------------------------------------------------------------------------------------------


def judgements(
    config: JudgingConfig, seats: Sequence[Speaker], speakers: Sequence[Speaker], people: Collection[Speaker] = ()
) -> list[Judgement]:
    """The judgements of a dialogue of `seats` whose turns were spoken by `speakers`, without what was said. `people` are not asked."""
    asked: list[tuple[Speaker, int | None]] = [(seat, None) for seat in seats if seat in speakers]
    if config.per_turn:
        asked += [(speaker, turn) for turn, speaker in enumerate(speakers)]
    return [
        Judgement("", (), subject, turn, config.asked, tuple(seats), role)
        for subject, turn in asked
        for role in judges_of(config.judges, subject, seats, config.partners)
        if role.seat not in people
    ]


def record_counts(
    config: JudgingConfig, seats: Sequence[Speaker], speakers: Sequence[Speaker], people: Collection[Speaker] = ()
) -> tuple[int, int, int]:
    """How many ratings, WIM responses and rewards a fully judged dialogue has."""
    made = judgements(config, seats, speakers, people)
    rated = sum(judgement.role != REWARD_MODEL for judgement in made)
    return rated * len(config.asked), rated * config.wim.enabled, len(made)


def judge_dialogue(
    transcript: Transcript,
    config: JudgingConfig,
    experts: Mapping[str, ExpertChat],
    announce: Announce,
    tokens: Mapping[str, CountTokens] | None = None,
    done: Mapping[str, Kept] | None = None,
    sits: by_person.Sits | None = None,
) -> Flow[list[Reward]]:
    """All judgements of a transcript side by side, then those of the person who `sits` at the table; returns their rewards. Without
    `sits` nobody asks a person. `experts` and `tokens` are by seat.

    `done` are records of an earlier start of the run by id; they are announced again but not made again.
    """

    def judged(judgement: Judgement) -> Flow[Reward]:
        place = transcript.id if judgement.turn is None else f"{transcript.id}/t{judgement.turn:02d}"
        whole = replace(judgement, topic=transcript.topic, turns=tuple(transcript.turns), place=place, transcript=transcript.id)
        whole = replace(whole, seed=transcript.seed)
        own = sits if judgement.role.seat in people else None
        return (yield from judged_by(whole, config, experts, tokens, done, announce, own)).reward

    speakers, people = [turn.speaker for turn in transcript.turns], people_of(transcript.experts)
    wanted = judgements(config, tuple(transcript.experts), speakers, people if sits is None else ())
    models, persons = by_person.last(wanted, people)
    found = yield from together([judged(judgement) for judgement in models])
    return found + (yield from together([judged(judgement) for judgement in persons])) if persons else found


# -- one judgement -------------------------------------------------------------------------------------------------------


def judged_by(
    judgement: Judgement,
    config: JudgingConfig,
    experts: Mapping[str, ExpertChat],
    tokens: Mapping[str, CountTokens] | None = None,
    done: Mapping[str, Kept] | None = None,
    announce: Announce = lambda event: None,
    sits: by_person.Sits | None = None,
) -> Flow[Judged]:
    """The judgement of whoever its role names: an expert, of those by seat, the reward model, or the person who `sits` there."""
    if judgement.role != REWARD_MODEL:
        seat = judgement.role.seat
        if sits is not None:
            return (yield from Seated(sits, experts[seat], config, done, announce).flow(judgement))
        return (yield from Judge(experts[seat], config, (tokens or {}).get(seat), done, announce).flow(judgement))
    reward = (done or {}).get(f"{judgement.key}/reward")
    if not isinstance(reward, Reward):
        reward = yield from scored.flow(judgement, judgement.type)
    announce(RewardGiven(reward=reward))
    return Judged({}, None, reward)


class Judge:
    """One judge: what it asks of its model, by `config`. `count` counts the tokens of its prompts; without it nothing is found too long.

    By principles each is asked by itself, and a verdict comes in the place of a rating; of a model whose wordings know categories alone a
    rating, of the principle's category.
    """

    def __init__(
        self,
        expert: ExpertChat,
        config: JudgingConfig,
        count: CountTokens | None = None,
        done: Mapping[str, Kept] | None = None,
        announce: Announce = lambda event: None,
    ) -> None:
        self.expert, self.config, self.count = expert, config, count
        self.done, self.announce = done or {}, announce
        # By principles, where its wordings know such.
        self.by_principles = config.principles is not None and bool(expert.settings.prompts.principle)

    def flow(self, judgement: Judgement) -> Flow[Judged]:
        """Analysis, ratings of all that is asked about, WIM response, reward; each is announced as soon as it is there."""
        judgement = self._whole(judgement)
        kept, response = self._kept_ratings(judgement), self._kept_wim(judgement)
        missing = [c for c in self.config.asked if c not in kept]
        analysis, problem = "", nothing_said(judgement) or self._no_words(judgement)
        if problem is None and (missing or (response is None and self.config.wim.enabled)):
            analysis, problem = yield from self._analyse(judgement)
        made = (yield from self._rate(judgement, missing, analysis, problem)) if missing else {}
        ratings = {c: made[c] if c in made else kept[c] for c in self.config.asked}
        for record in ratings.values():
            self.announce(RatingGiven(rating=record))
        if self.config.wim.enabled and response is None:
            response = yield from self.what_is_missing(judgement, ratings, analysis, problem)
        return self._come_to(judgement, ratings, response)

    def _come_to(self, judgement: Judgement, ratings: dict[str, Rating], response: Wim | None) -> Judged:
        """The end of a judgement whose ratings are announced: the WIM response, where one is asked for, and the reward."""
        response = response if self.config.wim.enabled else None
        if response is not None:
            self.announce(WimGiven(wim=response))
        reward = self.done.get(f"{judgement.key}/reward")
        if not isinstance(reward, Reward):
            reward = answers.reward(judgement, self.config, ratings, response)
        self.announce(RewardGiven(reward=reward))
        return Judged(ratings, response, reward)

    def _whole(self, judgement: Judgement) -> Judgement:
        """With what the config has for it: what is asked about, the reference on its topic, the examples that are drawn for it."""
        config = self.config
        categories = config.asked if self.by_principles else config.categories
        reference = config.reference(judgement.topic) if judgement.reference is None else judgement.reference
        examples = drawn(config.examples, config.examples_shown, config.asked, judgement.draw) if config.examples else judgement.examples
        return replace(judgement, categories=categories, reference=reference, examples=examples)

    def _no_words(self, judgement: Judgement) -> Fault | None:
        """Why this judge cannot be asked so."""
        settings, config = self.expert.settings, self.config
        lacking = lacks(settings.prompts, config.principles, judgement.reference is not None, bool(judgement.examples))
        return Fault("wording", f"the judge's wordings {'; '.join(lacking)}") if lacking else None

    # -- what is there already --------------------------------------------------------------------------------------

    def _kept_ratings(self, judgement: Judgement) -> dict[str, Rating]:
        kept = {c: self.done.get(f"{judgement.key}/{c}") for c in self.config.asked}
        return {c: record for c, record in kept.items() if isinstance(record, Rating)}

    def _kept_wim(self, judgement: Judgement) -> Wim | None:
        kept = self.done.get(f"{judgement.key}/wim")
        return kept if isinstance(kept, Wim) else None

    # -- analysis and ratings ---------------------------------------------------------------------------------------

    def _too_long(self, messages: Sequence[Message], new: int) -> Fault | None:
        """Why a request for `new` tokens after `messages` cannot be made, or None where it fits the judge's context."""
        holds = self.expert.context_length
        if self.count is None or (needed := self.count(messages)) + new <= holds:
            return None
        return Fault("too_long", f"the judge's prompt takes {needed} tokens and the answer up to {new}, but the context holds {holds}")

    def _analyse(self, judgement: Judgement) -> Flow[tuple[str, Fault | None]]:
        """The judge's analysis ("" if the config wants none), and what is wrong with it: nothing is then asked on top of it."""
        if not self.config.analysis or self.by_principles:
            return "", None
        request = requests.analysis_request(self.expert, judgement.key, judgement)
        if problem := self._too_long(request.messages, request.decoding.max_new_tokens):
            return "", problem
        (answer,) = yield [_ask(judgement, request)]
        assert isinstance(answer, Completion)
        if answer.problem:
            return "", Fault(UNANSWERED, answer.problem)
        read = self.expert.read_answer(answer.text, request.prefix)
        text = read.text
        if read.unended:
            return text, Fault("thinking", f"the analysis ended {self.expert.thoughts.endless()}")
        if request.prefix:  # labels in a trained form, not prose
            return text, None
        prompt = "\n".join(m.content for m in request.messages)
        seen = {"subject": judgement.subject, "prompt": prompt, "reference": judgement.dialogue}
        return text, faults.of_analysis(text, reply=judgement.reply, seats=judgement.seats, **seen)

    def _rate(
        self, judgement: Judgement, categories: Sequence[str], analysis: str, problem: Fault | None
    ) -> Flow[dict[str, Rating]]:
        """Ask for all categories at once, in one form or both. With a `problem` nothing is asked and every rating is None."""
        form, key = self.config.form, judgement.key
        asked = [c for c in categories if form != "expected"], [c for c in categories if form != "sampled"]
        texts, scores = dict[str, GenerateRequest](), dict[str, ScoreRequest]()
        if self.by_principles:
            scores = {c: principles.request(self.expert, key, judgement, c) for c in principles.in_order(categories, judgement.draw)}
        else:
            texts = {c: self._named(requests.rating_request, judgement, analysis, c) for c in asked[0]}
            scores = {c: self._named(requests.score_request, judgement, analysis, c) for c in asked[1]}
        both: list[GenerateRequest | ScoreRequest] = [*texts.values(), *scores.values()]
        if problem is None:
            longest = max(both, key=lambda request: len(request.prefix))
            problem = self._too_long([*longest.messages, Message("assistant", longest.prefix)], rating.SAMPLED_TOKENS)
        if problem is not None:
            return {c: answers.no_rating(judgement, c, problem) for c in categories}
        results = yield [_ask(judgement, request) for request in both]
        written, found = dict(zip(texts, results, strict=False)), dict(zip(scores, results[len(texts) :], strict=True))
        prompts, least = self.expert.settings.prompts, self.config.min_mass
        if self.by_principles:
            return {c: answers.read_verdict(judgement, c, found[c], prompts.principle_answers, least) for c in categories}
        opened = rating.opened(prompts)
        return {
            c: answers.read_rating(judgement, c, written.get(c), found.get(c), opened, least, self._title(c)) for c in categories
        }

    def _title(self, name: str) -> str:
        """The category that the judge is asked about for what is asked about."""
        principle = (self.config.principles or {}).get(name)
        return name if principle is None or self.by_principles else principle.category or name

    def _named(self, make: Callable[..., R], judgement: Judgement, analysis: str, name: str) -> R:
        """A request about a category, its key ending with what is asked about."""
        made = make(self.expert, judgement.key, judgement, analysis, self._title(name))
        return replace(made, key=f"{judgement.key}/{name}")

    # -- what is missing --------------------------------------------------------------------------------------------

    def what_is_missing(
        self, judgement: Judgement, ratings: Mapping[str, Rating], analysis: str, problem: Fault | None = None
    ) -> Flow[Wim]:
        """Ask for the WIM response and score it. With a `problem` nothing is asked."""
        rated = {self._title(c): r for c, r in ratings.items()}
        numbers = {c: r.value if r.value is not None else None if r.expected is None else round(r.expected) for c, r in rated.items()}
        wording = self.config.wim.wording
        request = requests.wim_request(self.expert, judgement.key, judgement, analysis, numbers, wording)
        problem = problem or self._too_long(request.messages, request.decoding.max_new_tokens)
        if problem is not None:
            return answers.no_wim(judgement, "", analysis, problem)
        (answer,) = yield [_ask(judgement, request)]
        assert isinstance(answer, Completion)
        if answer.problem:
            return answers.no_wim(judgement, "", analysis, Fault(UNANSWERED, answer.problem))
        read = self.expert.read_answer(answer.text, request.prefix)
        text = read.text
        if read.unended:
            return answers.no_wim(judgement, text, analysis, Fault("thinking", f"ended {self.expert.thoughts.endless()}"))
        if wim.is_empty(text, self.expert.settings.prompts, wording, judgement.seats):
            return answers.scored_wim(judgement, text, analysis, self.config.wim.empty_score, empty=True)
        if problem := self._wim_fault(judgement, text, request.messages[-1].content):
            return answers.no_wim(judgement, text, analysis, problem)
        return (yield from self._held_against(judgement, text, analysis))

    def _held_against(self, judgement: Judgement, text: str, analysis: str) -> Flow[Wim]:
        """A WIM response held against the judged text."""
        reply = judgement.reply
        pair = [EmbedRequest(f"{judgement.key}/reply", reply), EmbedRequest(f"{judgement.key}/wim", text)]
        first, second = yield [Ask("embedder", request, label="embedder") for request in pair]
        assert isinstance(first, Embedding) and isinstance(second, Embedding)
        if unembedded := first.problem or second.problem:
            return answers.no_wim(judgement, text, analysis, Fault(UNANSWERED, unembedded))
        cosine = wim.cosine(first.vector, second.vector)
        if cosine is None:
            return answers.no_wim(judgement, text, analysis, Fault("not_finite", "the cosine is not a number"))
        if cosine > PARROT_COSINE or copies(reply, text):
            return answers.no_wim(judgement, text, analysis, Fault(PARROT, f"parrots the reply (cosine {cosine:.3f})"))
        return answers.scored_wim(judgement, text, analysis, cosine)

    def _wim_fault(self, judgement: Judgement, text: str, question: str) -> Fault | None:
        """What is wrong with a WIM response that is no parrot. It may share words with the transcript: facts have one wording."""
        bare = replace(judgement, turns=(), reference=None, examples=())  # what these say may be said: only the wording may not be copied
        instruction = rating.judge_prompt(self.expert.settings.prompts, bare)
        seen = {"subject": judgement.subject, "prompt": f"{instruction}\n{question}", "reference": judgement.dialogue}
        return faults.of_wim(text, categories=tuple(judgement.categories), seats=judgement.seats, **seen)


class Seated(Judge):
    """A person who sits where a judge does: each number is announced as soon as it is typed, and the model of the seat is not asked."""

    def __init__(
        self, sits: by_person.Sits, expert: ExpertChat, config: JudgingConfig, done: Mapping[str, Kept] | None, announce: Announce
    ) -> None:
        super().__init__(expert, config, None, done, announce)
        self.sits = sits

    def flow(self, judgement: Judgement) -> Flow[Judged]:
        """Ratings, what is missing, reward."""
        judgement = replace(judgement, categories=self.config.asked)
        kept, response, problem = self._kept_ratings(judgement), self._kept_wim(judgement), nothing_said(judgement)
        ratings = dict[str, Rating]()
        for c in self.config.asked:
            ratings[c] = kept[c] if c in kept else self._rating(judgement, c, problem)
            self.announce(RatingGiven(rating=ratings[c]))
        if self.config.wim.enabled and response is None:
            response = yield from self._missed(judgement, problem)
        return self._come_to(judgement, ratings, response)

    def _rating(self, judgement: Judgement, name: str, problem: Fault | None) -> Rating:
        return by_person.rating(self.sits, judgement, name) if problem is None else answers.no_rating(judgement, name, problem)

    def _missed(self, judgement: Judgement, problem: Fault | None) -> Flow[Wim]:
        """Nothing that is typed is at fault but what repeats the reply."""
        text, problem = by_person.missing(self.sits, judgement) if problem is None else ("", problem)
        if problem is not None:
            return answers.no_wim(judgement, "", "", problem)
        if not text:
            return answers.scored_wim(judgement, "", "", self.config.wim.empty_score, empty=True)
        return (yield from self._held_against(judgement, text, ""))


def nothing_said(judgement: Judgement) -> Fault | None:
    """Why there is nothing to judge, or None: nothing is asked about a subject that has said nothing."""
    return Fault("blank", "the judged text is blank") if blank(judgement.reply) else None


def _ask(judgement: Judgement, request: Request) -> Ask:
    return Ask(judgement.role.backend, request, label="judge")
