"""`expertchat best_of_n`: n candidates a prompt, one of which a judge chooses, judged again by others; into one folder that goes on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from expertchat.backends.asking import Ask, Flow
from expertchat.backends.base import Backend, Completion
from expertchat.choosing.choice import best, keys_of, sizes
from expertchat.choosing.config import BASE, CHOOSER, MODEL, BestOfNConfig, weights_of
from expertchat.choosing.judged import Judges, check_chooser, check_truth, texts_of
from expertchat.choosing.prompts import Asked, read_prompts, request_of, ruled
from expertchat.choosing.ruled import LONGEST
from expertchat.choosing.said import Said, apart, faults_of
from expertchat.choosing.store import ChoosingFolder
from expertchat.choosing.summary import close
from expertchat.events import CandidateChosen, JudgeCalled, Sink
from expertchat.experts.base import ExpertChat
from expertchat.experts.registry import make_expert
from expertchat.lab.frame import RunFrame
from expertchat.lab.judge import Bench
from expertchat.lab.kinds import judges_of
from expertchat.lab.run import load_judges
from expertchat.preferences.candidates import altered
from expertchat.records import Candidate, ExpertRef, Message, Selection, Speaker, Turn
from expertchat.talk.journal import Journal
from expertchat.text.likeness import blank
from expertchat.text.measures import length
from expertchat.text.sentences import shown_path


def run_best_of_n(
    config: BestOfNConfig, command_line: list[str], sink: Sink, *, backends: Mapping[str, Backend] | None = None
) -> int:
    """Draw, choose and judge, or go on with it. Returns 0 when it is done, 3 when it was stopped and can go on, 1 when nothing was chosen.

    `sink` is closed at the end. `backends` by the places of the models (model, base, judges.NAME.model) replace those of the config. Raises
    ConfigError for what is wrong with the config or the source.
    """
    return _Choosing(config, command_line, backends).run(sink)


class _Choosing(RunFrame[BestOfNConfig, ChoosingFolder]):
    command, folder = "best_of_n", ChoosingFolder

    def __init__(self, config: BestOfNConfig, command_line: list[str], backends: Mapping[str, Backend] | None) -> None:
        super().__init__(config, command_line, backends)
        self._experts: dict[tuple[str, Speaker, tuple[Speaker, ...]], ExpertChat] = {}

    def read(self) -> None:
        self.prompts = read_prompts(self.config, self.told.append)

    def work(self) -> int:
        store, hub, config = self.store, self.hub, self.config
        world = config.model.family == "world"
        check_truth(config, self.prompts)
        unloaded = judges_of(Bench(config.lab, {}, {}), [])
        check_chooser(next(judge for judge in unloaded if judge.name == CHOOSER), config.chooser)
        self.loaded(lambda: load_judges(config, hub, self.backends))  # of a run of which only the end is lacking too
        judges = judges_of(Bench(config.lab, self.cast.experts, self.cast.tokens), [])
        store.begin(self.prompts, [judge.ref for judge in judges])
        self.judges = Judges(config, {judge.name: judge for judge in judges}, store, world)
        left = store.left()
        total, resumed = len(self.prompts), len(self.prompts) - len(left)
        self.begins(_warnings(config), conversations=total, turns=0, candidates=config.n, resumed=resumed)
        for judge in judges:
            hub.send(JudgeCalled(judge=judge.ref, items=total))
        if not self.asked((self._chosen(one) for one in left), total, resumed):
            return self.stopped()
        return self.finished(close(config, store, self._shown))

    def _expert(self, seat: str, asked: Asked) -> ExpertChat:
        """Who answers a prompt, as the one whose turn it is."""
        key = seat, asked.prompt.subject, asked.seats
        if key not in self._experts:
            model = self.config.experts[seat]
            self._experts[key] = make_expert(asked.prompt.subject, model, self.cast.backends[seat].info, asked.seats)
        return self._experts[key]

    def _led(self, asked: Asked) -> Flow[Asked]:
        """The prompt after the dialogue that the model makes up, speaking for all by turns; one that falls silent ends it."""
        for left in range(asked.prompt.lead, 0, -1):
            speaker = asked.seats[(asked.seats.index(asked.prompt.subject) - left) % len(asked.seats)]
            own = replace(asked, prompt=asked.prompt.model_copy(update={"subject": speaker}))
            request = request_of(own, self._expert(MODEL, own), self.cast.tokens[MODEL])
            if isinstance(request, str):
                return asked
            (answer,) = yield [Ask(MODEL, replace(request, key=f"{asked.id}/t{len(asked.turns):02d}"), MODEL)]
            assert isinstance(answer, Completion)
            text = self._expert(MODEL, own).read_reply(answer.text).text
            if blank(text):
                return asked
            asked = replace(asked, turns=(*asked.turns, Turn(speaker=speaker, text=text, tokens=answer.tokens)))
        return asked

    def _refs(self, asked: Asked) -> dict[Speaker, ExpertRef]:
        """Who spoke: the model for itself, and for all where it made the dialogue up; of others nothing is said here."""
        ref = self._expert(MODEL, asked).ref
        own = asked.seats if asked.prompt.lead else (asked.prompt.subject,)
        return {seat: ref if seat in own else ExpertRef(family="", model="") for seat in asked.seats}

    def _shown(self, asked: Asked) -> Sequence[Message]:
        """What the model was shown of a prompt that it has answered."""
        asked = replace(asked, turns=tuple(self.store.histories[asked.id].turns))
        request = request_of(asked, self._expert(MODEL, asked), self.cast.tokens[MODEL])
        assert not isinstance(request, str)
        return request.messages

    # -- a prompt ---------------------------------------------------------------------------------------------------------

    def _chosen(self, asked: Asked) -> Flow[None]:
        """One prompt, from its first question to its choice on disk."""
        journal = Journal(self.store.answers, self.store.keep_answer, tokens=True)
        selection, text = yield from journal.over(self._selected(asked))
        self.hub.send(CandidateChosen(selection=selection, topic=asked.topic, text=text))
        self.forget(f"{asked.id}/")

    def _selected(self, asked: Asked) -> Flow[tuple[Selection, str | None]]:
        config, at = self.config, sizes(self.config.n)
        asked = yield from self._led(asked)
        self.store.keep_history(asked, self._refs(asked))
        drawn = yield from self._drawn(asked)
        if isinstance(drawn, str):
            nothing: list[float | None] = [None] * config.n
            return Selection(id=asked.id, sizes=at, chosen=[None] * len(at), keys=nothing, scores={}, problem=drawn), None
        candidates, others = drawn
        texts = texts_of(candidates, others, self._expert(MODEL, asked).ref)
        scores = yield from self.judges.rated(CHOOSER, asked, texts)
        own = [scores[said.name] for said in texts.candidates]
        bar: Any = config.choose.threshold
        if bar == "rule_text":
            bar = scores.get(texts.others["rule"].name) if "rule" in texts.others else None
        keys = keys_of(own, config.choose, bar, f"{config.run.seed} {asked.id}", apart(config.chooser))
        chosen = [best(keys[:size]) for size in at]
        found = yield from self.judges.after(asked, texts, scores, chosen)
        problem = None if chosen[-1] is not None else self._why_not(own, bar)
        selection = Selection(id=asked.id, sizes=at, chosen=chosen, keys=keys, problem=problem, **found)
        return selection, None if chosen[-1] is None else candidates[chosen[-1]].text

    def _why_not(self, scores: Sequence[float | None], bar: float | None) -> str:
        """Why none of the candidates was chosen."""
        if all(score is None for score in scores):
            why = faults_of({name: one for name, one in self.store.opinions.items() if one.judge == CHOOSER}).get(CHOOSER)
            return f"the chooser gave no candidate a number ({why or 'they say nothing'})"
        return "the rule's text has no score to be held against" if bar is None else "no candidate passed the threshold"

    def _drawn(self, asked: Asked) -> Flow[tuple[list[Candidate], dict[str, Said]] | str]:
        """All candidates at once, so that they share what is computed of their prompt, and the base's reply; or why there is none."""
        expert, config = self._expert(MODEL, asked), self.config
        request = request_of(asked, expert, self.cast.tokens[MODEL])
        if isinstance(request, str):
            return request
        keys = [f"{asked.id}/k{i}" for i in range(config.n)]
        asks = [Ask(MODEL, replace(request, key=key), MODEL) for key in keys]
        if BASE in self.cast.experts:
            of_base = request_of(asked, self._expert(BASE, asked), self.cast.tokens[BASE])
            if isinstance(of_base, str):
                return f"base: {of_base}"
            asks.append(Ask(BASE, replace(of_base, key=f"{asked.id}/base"), BASE))
        answers = [answer for answer in (yield asks) if isinstance(answer, Completion)]
        found = [self._read(asked, expert, i, key, answer) for i, (key, answer) in enumerate(zip(keys, answers, strict=False))]
        for candidate in found:
            self.store.keep_candidate(candidate)
        others: dict[str, Said] = {}
        if BASE in self.cast.experts:
            base = self._expert(BASE, asked)
            others[BASE] = Said(f"{asked.id}/base", base.read_reply(answers[-1].text).text, base.ref, answers[-1].tokens)
        by_rule = ruled(config.rule_text, asked)
        if config.rule_text == LONGEST:
            by_rule = max((one.text for one in found), key=lambda text: length(text) or 0.0)
        if by_rule is not None and not blank(by_rule):
            others["rule"] = Said(f"{asked.id}/rule", by_rule)
        return found, others

    def _read(self, asked: Asked, expert: ExpertChat, index: int, key: str, answer: Completion) -> Candidate:
        read = expert.read_reply(answer.text)
        thinking = read.thinking if read.thought else None
        turn = Turn(speaker=asked.prompt.subject, text=read.text, thinking=thinking, beyond=read.beyond or None)
        return Candidate(
            id=key, transcript=asked.id, round=0, turn=len(asked.turns), index=index, speaker=asked.prompt.subject, text=read.text,
            tokens=answer.tokens, cut=answer.finish == "length" and not read.beyond, ids=list(answer.ids) or None,
            ended=answer.ended if answer.ids else None, altered=altered(turn, answer), thinking=thinking, beyond=read.beyond or None,
            policy_version=expert.ref.policy_version,
        )  # fmt: skip


def _warnings(config: BestOfNConfig) -> list[str]:
    """Who judges what is its own."""
    found, chooser = list[str](), config.chooser
    for name, judge in config.judges.items():
        if judge.model is None:
            continue
        path = shown_path(judge.model.path)
        if name != CHOOSER and chooser.model is not None and weights_of(judge.model) == weights_of(chooser.model):
            found.append(f"judges.{name}: {path} chose, and judges its own choice in another form: its win rate says little; name another")
        if weights_of(judge.model) == weights_of(config.model):
            found.append(f"judges.{name}: {path} judges what it wrote itself")
    return found

