"""The dialogues of a round: at a learner's turns the actor samples candidates from the same history, and each judge judges each of them."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean
from typing import Literal

from pydantic import BaseModel, Field

from expertchat.backends.asking import Ask, Flow, Place, together
from expertchat.backends.base import Completion
from expertchat.config import Combine
from expertchat.events import CandidatesJudged, ConversationFinished, ConversationJudged
from expertchat.judging.judge import Judged, judged_by
from expertchat.judging.roles import judges_of
from expertchat.judging.view import Judgement
from expertchat.preferences.config import TYPE, Rules
from expertchat.preferences.ensemble import combined
from expertchat.preferences.functions import About, worths
from expertchat.preferences.pairs import Choice
from expertchat.records import Candidate, Message, Rating, Record, Reward, Speaker, Transcript, Turn, Wim
from expertchat.talk.cast import Cast
from expertchat.talk.conversation import Dialogue
from expertchat.text.likeness import blank
from expertchat.text.measures import PROGRAMS


class Sampled(BaseModel):
    """One history of a round: what the policy was shown, and its candidates with what they were judged to be."""

    prompt: list[Message]
    prompt_ids: list[int] | None = None  # its tokens; None where they are not known
    candidates: list[Candidate]
    ratings: list[Rating] = Field(default_factory=list)
    wims: list[Wim] = Field(default_factory=list)
    rewards: list[Reward] = Field(default_factory=list)

    def judged(self, candidate: Candidate) -> list[Reward]:
        """Its judges' rewards."""
        return [reward for reward in self.rewards if reward.candidate == candidate.id]

    def values(self, how: Combine) -> list[float | None]:
        """The candidates' rewards; those of several judges put together."""
        return combined([{reward.judge: reward.value for reward in self.judged(one)} for one in self.candidates], how)


def mean(values: Iterable[float | None]) -> float | None:
    """Of what several judges say, the mean over those that gave a number; None where none did."""
    numbers = [value for value in values if value is not None]
    return fmean(numbers) if numbers else None


class Bundle(Record):
    """One finished dialogue of a round: one line, so that it is on disk whole or not at all."""

    transcript: Transcript
    sampled: list[Sampled]
    whole: list[Reward] = Field(default_factory=list)  # rewards of the whole dialogue, of the learners
    ratings: list[Rating] = Field(default_factory=list)  # and what they come from
    wims: list[Wim] = Field(default_factory=list)


def altered(reply: Turn, answer: Completion) -> Literal["markup", "special", "stop", "thinking", "beyond"] | None:
    """What the drawn tokens hold that the reply does not show as it is."""
    if reply.thinking is not None:
        return "thinking"
    if reply.beyond is not None:
        return "beyond"
    return answer.unshown or ("markup" if reply.text != answer.text.strip() else None)


@dataclass
class Rollout:
    """One dialogue of round `round`, in which the turns of `learners` are sampled `rules.candidates.count` times; it runs once.

    `cast` has those who judge, `versions` the policy version of each learner. `sampled` grows as the dialogue goes on. Candidates are
    judged as they come where the dialogue goes on with the best of them, else all together at its end.
    """

    dialogue: Dialogue
    cast: Cast
    rules: Rules
    round: int
    learners: tuple[Speaker, ...]
    versions: Mapping[Speaker, int]
    sampled: list[Sampled] = field(default_factory=list, init=False)

    @property
    def id(self) -> str:
        return self.dialogue.id

    def bundle(self) -> Flow[Bundle]:
        """The whole dialogue with all its judgements."""
        rules, announce = self.rules, self.dialogue.announce
        transcript = yield from self.dialogue.flow(next_turn=self.next_turn)
        announce(ConversationFinished(conversation=self.id, turns=len(transcript.turns), stop_reason=transcript.stop_reason))
        turns = tuple(transcript.turns)
        if rules.candidates.continue_with != "best":
            yield from together([self._judge(one, turns[: one.candidates[0].turn]) for one in self.sampled])
            for one in self.sampled:
                self._announce(one)
        made = Bundle(id=self.id, transcript=transcript, sampled=list(self.sampled))
        if rules.reward.dialogue_weight and rules.reward.judged(rules.judging):
            spoken = [learner for learner in self.learners if any(turn.speaker == learner for turn in turns)]
            flows = [flow for speaker in spoken for flow in self._judgements(speaker, turns)]
            for ratings, wim, reward in (yield from together(flows)):
                made.ratings.extend(ratings.values())
                made.wims.extend([wim] if wim is not None else [])
                made.whole.append(reward)
        announce(ConversationJudged(conversation=self.id))
        return made

    def next_turn(self, turns: Sequence[Turn]) -> Flow[Turn]:
        """A learner's turn is one of its candidates."""
        speaker, index, config = self.dialogue.speaker(turns), len(turns), self.rules.candidates
        if speaker not in self.learners or (index == 0 and not config.opening):
            return (yield from self.dialogue.next_turn(turns))
        request, note = self.dialogue.request(turns)
        keys = [f"{request.key}/k{i}" for i in range(config.count)]
        place = Place(self.id, index, speaker)
        answers = yield [Ask(speaker, replace(request, key=key), speaker, None if i else place) for i, key in enumerate(keys)]
        completions = [answer for answer in answers if isinstance(answer, Completion)]
        replies = [self.dialogue.read(speaker, answer, note) for answer in completions]
        candidates = [
            Candidate(
                id=key,
                transcript=self.id,
                round=self.round,
                turn=index,
                index=i,
                speaker=speaker,
                text=reply.text,
                tokens=reply.tokens,
                cut=reply.cut,
                ids=list(answer.ids) or None,
                ended=answer.ended if answer.ids else None,
                altered=altered(reply, answer),
                thinking=reply.thinking,
                beyond=reply.beyond,
                policy_version=self.versions[speaker],
            )
            for i, (key, reply, answer) in enumerate(zip(keys, replies, completions, strict=True))
        ]
        one = Sampled(prompt=list(request.messages), prompt_ids=list(completions[0].prompt) or None, candidates=candidates)
        self.sampled.append(one)
        if config.continue_with == "best":
            yield from self._judge(one, tuple(turns))
        chosen = self._goes_on_with(one)
        one.candidates[chosen] = candidates[chosen].model_copy(update={"continued": True})
        if config.continue_with == "best":
            self._announce(one)
        return replies[chosen]

    def _goes_on_with(self, one: Sampled) -> int:
        how, number = self.rules.candidates.continue_with, len(one.candidates)
        if how == "first":
            return 0
        values = self._values(one)
        if how == "best" and any(value is not None for value in values):
            return max(range(number), key=lambda i: (values[i] is not None, values[i] or 0.0, -i))
        spoken = [i for i, c in enumerate(one.candidates) if not blank(c.text)] or range(number)
        return random.Random(f"{self.dialogue.seed} {one.candidates[0].id}").choice(spoken)

    def _values(self, one: Sampled) -> list[float | None]:
        """What the candidates are worth before controls and penalties: by the judge, or by a program or functions in the direction of the
        sign."""
        settings = self.rules.reward
        if settings.functions:
            found = worths([shown_as(one, self.dialogue.topic.text, self.rules)], self.rules)
            return [None if (value := found[c.id].value) is None else settings.sign * value for c in one.candidates]
        if (program := PROGRAMS.get(settings.source)) is None:
            return one.values(self.rules.judging.combine)
        numbers = [program.measure(candidate.text) for candidate in one.candidates]
        return [None if number is None else settings.sign * program.reward(number) for number in numbers]

    def _judge(self, one: Sampled, history: tuple[Turn, ...]) -> Flow[None]:
        """Let every judge judge every candidate as the last turn of its dialogue."""
        if self.rules.reward.judged(self.rules.judging):
            said = [(c, (*history, Turn(speaker=c.speaker, text=c.text))) for c in one.candidates]
            flows = [flow for c, turns in said for flow in self._judgements(c.speaker, turns, c)]
            for ratings, wim, reward in (yield from together(flows)):
                one.ratings.extend(ratings.values())
                one.wims.extend([wim] if wim is not None else [])
                one.rewards.append(reward)

    def _announce(self, one: Sampled) -> None:
        first, judged = one.candidates[0], [one.judged(c) for c in one.candidates]
        self.dialogue.announce(
            CandidatesJudged(
                conversation=self.id,
                turn=first.turn,
                speaker=first.speaker,
                texts=[c.text for c in one.candidates],
                rewards=self._values(one),
                ratings=[mean(r.rating for r in rewards) for rewards in judged],
                wims=[mean(r.wim for r in rewards) for rewards in judged],
                continued=next(c.index for c in one.candidates if c.continued),
            )
        )

    def _judgements(self, subject: Speaker, turns: tuple[Turn, ...], candidate: Candidate | None = None) -> list[Flow[Judged]]:
        """The judgements, one of each judge, of a candidate, the last of `turns`, or of the whole dialogue."""
        config, cast, seats = self.rules.judging, self.cast, self.dialogue.seats
        turn, name = (None, None) if candidate is None else (len(turns) - 1, candidate.id)
        whole = Judgement(self.dialogue.topic.text, turns, subject, turn, config.asked, seats)
        kind = self.rules.columns.get(whole.topic, {}).get(TYPE)
        whole = replace(whole, place=name or self.id, transcript=self.id, candidate=name, seed=self.dialogue.seed, type=kind)
        return [
            judged_by(replace(whole, role=role), config, cast.experts, cast.tokens)
            for role in judges_of(config.judges, subject, seats, config.partners)
        ]


def shown_as(one: Sampled, topic: str, rules: Rules) -> About:
    """A history as reward functions are told of it."""
    return About(one, {"topic": topic, **rules.columns.get(topic, {})})


def choices(bundles: Sequence[Bundle], scores: Mapping[str, float | None], judge: str) -> list[Choice]:
    """Every history of a round with the scores of its candidates by id."""
    return [
        Choice(tuple(one.prompt), tuple(one.candidates), tuple(scores[c.id] for c in one.candidates), judge, one.prompt_ids)
        for bundle in bundles
        for one in bundle.sampled
    ]
