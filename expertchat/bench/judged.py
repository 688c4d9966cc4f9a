"""Ratings scored against ratings written, and the whole job: dialogue, six ratings both ways, What Is Missing both ways."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from expertchat.backends.asking import Flow
from expertchat.backends.base import Completion, EmbedRequest, GenerateRequest, ScoreRequest
from expertchat.bench.bare import bare, new_cache
from expertchat.bench.kit import Kit, Way, Work, counting, fresh
from expertchat.bench.results import Column
from expertchat.config import EmbedderConfig, JudgingConfig
from expertchat.events import Announce
from expertchat.experts.base import ExpertChat
from expertchat.judging.judge import judge_dialogue
from expertchat.judging.requests import analysis_request, rating_request, score_request
from expertchat.judging.view import Judgement
from expertchat.talk.conversation import Dialogue

PREFILL, SCORED, WRITTEN, SINGLE = "one prefill", "scored", "written", "one by one"
ORIGINAL, ENGINE = "original's way", "engine"


def measure_ratings(kit: Kit) -> None:
    """All categories of one dialogue: probabilities of the ten options in one pass, or a number as text for each."""
    categories = kit.config.judging.categories
    part = kit.part(
        "ratings", f"{len(categories)} ratings of a dialogue of {kit.settings.turns} turns",
        columns=[Column("x one prefill", PREFILL, "cost"), Column("x one by one", SINGLE)], counts={"prefilled": "prefilled"},
    )  # fmt: skip
    part.notes += [
        f"{SCORED}: the ten options of every category (judging.form=expected), engine; {WRITTEN}: 12 tokens each (form=sampled), engine",
        f"{PREFILL}: the model alone, one pass over the judge's prompt with its analysis; {SINGLE}: written, batch 1, generate",
    ]
    backend, single = kit.subject.engine(), kit.subject.plain(1)
    scores, texts = rating_requests(kit, backend)
    ways = {
        PREFILL: prefill(kit, backend, scores[0]),
        SCORED: answers(kit, backend, scores),
        WRITTEN: answers(kit, backend, texts),
        SINGLE: answers(kit, single, texts),
    }
    kit.rounds(part, "N=1", ways)


def rating_requests(kit: Kit, backend: Any) -> tuple[list[ScoreRequest], list[GenerateRequest]]:
    """What b is asked about a after its analysis, in both forms."""
    transcript, expert = kit.transcripts[0], kit.experts(backend)["b"]
    categories = kit.config.judging.categories
    judgement = Judgement(transcript.topic, tuple(transcript.turns), "a", None, categories)
    kit.subject.attend(backend)
    (answer,) = backend.generate([analysis_request(expert, "j/a-by-b", judgement)])
    analysis = expert.read_answer(answer.text).text
    return (
        [score_request(expert, "j/a-by-b", judgement, analysis, category) for category in categories],
        [rating_request(expert, "j/a-by-b", judgement, analysis, category) for category in categories],
    )


def answers(kit: Kit, backend: Any, requests: Sequence[Any]) -> Way:
    """All requests of a judgement, handed over together, nothing kept from before."""

    def way(repeat: int) -> Work:
        kit.subject.attend(backend)
        fresh(backend)
        ask = backend.score if isinstance(requests[0], ScoreRequest) else backend.generate
        with kit.clock() as watch, counting(backend) as counts:
            done = ask(requests)
        return Work(watch.seconds, 1, sum(answer.tokens for answer in done if isinstance(answer, Completion)), counts)

    return way


def prefill(kit: Kit, backend: Any, request: ScoreRequest) -> Way:
    """One pass over a request's context and no more."""
    length = len(backend.renderer.encode(request.messages, request.prefix))

    def way(repeat: int) -> Work:
        kit.subject.attend_bare(False)
        with kit.clock() as watch:
            bare(kit.subject, new_cache(kit.subject), 1, length, 1)
        return Work(watch.seconds, 1, 0, {"prefilled": float(length)})

    return way


def measure_job(kit: Kit) -> None:
    """Rated dialogues an hour: the engine with scored ratings, against batch 1 with every rating written."""
    settings, judging = kit.settings, kit.config.judging
    part = kit.part(
        "job", f"The whole job: dialogue, {len(judging.categories)} ratings both ways, what is missing both ways",
        unit="dialogues", columns=[Column("x original's way", ORIGINAL)], counts={"prefilled": "prefilled", "reused": "reused"},
    )  # fmt: skip
    count = min(settings.job_dialogues, settings.job_rows)
    part.notes += [
        f"{ENGINE}: {settings.job_rows} dialogues together, judging.form={judging.form}",
        f"{ORIGINAL}: batch 1, transformers' generate, every prompt from its beginning, ratings written; measured on {count} of them",
    ]
    written = judging.model_copy(update={"form": "sampled"})
    ways = {
        ORIGINAL: jobs(kit, kit.subject.plain(1), count, 1, written),
        ENGINE: jobs(kit, kit.subject.engine(settings.job_rows), settings.job_rows, settings.job_rows, judging),
    }
    kit.rounds(part, f"N={settings.job_rows}", ways, max(1, settings.repeats - 1))


def jobs(kit: Kit, backend: Any, count: int, width: int, judging: JudgingConfig) -> Way:
    """`count` dialogues from their first turn to their last reward, `width` at a time."""
    from expertchat.backends.loading import load_embedder

    embedder = load_embedder(EmbedderConfig(path=kit.settings.embedder, models_dir=kit.settings.models_dir), [kit.settings.model])
    embedder.embed([EmbedRequest("w", "The first text loads it.")])

    def way(repeat: int) -> Work:
        fresh(backend)
        flows = [rated(kit.dialogue(backend, f"r{repeat}", i), judging, backend) for i in range(count)]
        with kit.clock() as watch, counting(backend) as counts:
            kit.run(backend, flows, width, embedder=embedder)
        return Work(watch.seconds, count, 0, counts)

    return way


def rated(dialogue: Dialogue, judging: JudgingConfig, backend: Any, announce: Announce = lambda event: None) -> Flow[None]:
    """One dialogue and its judgement, as `converse` runs it."""
    transcript = yield from dialogue.flow()
    tokens = {"a": backend.count_tokens, "b": backend.count_tokens}
    judges: dict[str, ExpertChat] = {name: expert for name, expert in dialogue.experts.items()}
    yield from judge_dialogue(transcript, judging, judges, announce, tokens)
